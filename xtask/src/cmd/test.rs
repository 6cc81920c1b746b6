//! `cargo xtask test`: formatting, lints and unit tests here, and end-to-end tests in the lab machine
//! on every kernel.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::cmd::dist;
use crate::cmd::vm::Guest;
use crate::host::command;
use crate::kernels::{self, BootFiles};
use crate::matrix::{self, Column, Matrix};
use crate::output::Output;
use crate::setup::{self, KernelChoices, Lab, artifacts, packaging, services};
use crate::vm::machine::{Ending, Input};

/// Runs every test, those of the lab machine on all kernels unless --kernel names one
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    kernels: KernelChoices,
    /// How many lab machines run at the same time [default: 2, or 1 if there is but one CPU]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    machines: Option<u16>,
    /// Have the README's picture drawn anew; goes with `--kernel 6.12 -- a_real_prometheus`
    #[arg(long, value_name = "FILE")]
    picture: Option<PathBuf>,
    /// Arguments for the end-to-end tests' runner, such as a part of a test's name
    #[arg(last = true, value_name = "TEST ARGS")]
    tests: Vec<String>,
}

/// Shows the table of all kernels.
const PATHS: &str = "zc-profiler/PATHS.md";

/// What a test draws, beside what it proves.
const DRAWN: &str = "picture.svg";

const TIMEOUT: Duration = Duration::from_mins(45);

/// Steps that are cargo commands: all at one profile, so that they share what they build.
const CARGO_STEPS: [&[&str]; 3] = [
    &["fmt", "--all", "--check"],
    &[
        "clippy",
        "--workspace",
        "--all-targets",
        "--release",
        "--",
        "-D",
        "warnings",
    ],
    &[
        "test",
        "--release",
        "--workspace",
        "--exclude",
        "zc-profiler-tests",
    ],
];

/// What is shipped for Prometheus, and what promtool has to say of it.
const PROMETHEUS: &str = "zc-profiler/deploy/prometheus";
const PROMTOOL_CHECKS: [&[&str]; 3] = [
    &["check", "config", "prometheus.yml"],
    &[
        "check",
        "rules",
        "--lint=all",
        "--lint-fatal",
        "recording.yml",
        "alerts.yml",
    ],
    &["test", "rules", "tests.yml"],
];

pub fn run(arguments: &Arguments) -> Result<i32> {
    let start = Instant::now();
    let lab = setup::prepare(&arguments.kernels.or(kernels::ALL)?)?;
    let services = services::prepare(&lab.cache)?;
    for words in CARGO_STEPS {
        let mut cargo = artifacts::cargo();
        step(&format!("cargo {}", words.join(" ")), || {
            command::run(cargo.args(words))
        })?;
    }
    if lab.compiler.has_clippy() {
        step("cargo clippy of the eBPF programs", || {
            command::run(&mut ebpf_clippy(&lab))
        })?;
    }
    step("Prometheus' own checks of its rules", || {
        PROMTOOL_CHECKS.iter().try_for_each(|words| {
            let directory = artifacts::root().join(PROMETHEUS);
            let mut promtool = Command::new(&lab.promtool);
            command::run(promtool.args(*words).current_dir(directory))
        })
    })?;
    let (profiler, tests) = step("build of the end-to-end tests", || {
        Ok((artifacts::profiler()?, artifacts::end_to_end_tests()?))
    })?;
    let installation = if Installation::is_wanted(&arguments.tests) {
        Some(step("build of the package", || {
            Installation::prepare(&lab)
        })?)
    } else {
        None
    };
    let suite = Suite {
        lab: &lab,
        installation,
        services,
        profiler,
        tests,
        filters: &arguments.tests,
        picture: arguments.picture.as_deref(),
        machines: machines(arguments.machines).min(lab.kernels.len()),
    };
    let (columns, failed) = suite.on_every_kernel();
    let matrix = Matrix(columns);
    if !matrix.is_empty() {
        println!("\n{matrix}");
    }
    if !failed.is_empty() {
        bail!("the end-to-end tests failed on {}", failed.join(", "));
    }
    // A choice of tests proves a choice of paths.
    if arguments.tests.is_empty() {
        compare(&matrix)?;
    }
    println!("xtask test: ok in {} s", start.elapsed().as_secs());
    Ok(0)
}

/// Fails if the document that users read says anything else.
fn compare(matrix: &Matrix) -> Result<()> {
    let file = artifacts::root().join(PATHS);
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {PATHS}"))?;
    let documented = Matrix::documented(&text).with_context(|| PATHS.to_owned())?;
    let differences = matrix.differences(&documented);
    if differences.is_empty() {
        return Ok(());
    }
    bail!(
        "the tests have proven other paths than {PATHS} shows:\n  {}",
        differences.join("\n  ")
    );
}

fn step<T>(title: &str, action: impl FnOnce() -> Result<T>) -> Result<T> {
    println!("== {title}");
    let start = Instant::now();
    let result = action();
    let word = if result.is_ok() { "ok" } else { "failed" };
    println!(
        "== {title}: {word} in {:.1} s",
        start.elapsed().as_secs_f32()
    );
    result
}

fn ebpf_clippy(lab: &Lab) -> Command {
    let mut command = Command::new("rustup");
    command
        .current_dir(artifacts::root())
        .args(["run", &lab.compiler.name, "cargo", "clippy", "--release"])
        .args([
            "-p",
            "zc-profiler-ebpf",
            "--bins",
            "--target",
            "bpfel-unknown-none",
        ])
        .args(["-Z", "build-std=core", "--", "-D", "warnings"])
        .env_remove("RUSTC")
        .env("RUSTC_BOOTSTRAP", "1");
    command
}

/// What the tests of the Debian package and of the image take, those that are ignored elsewhere.
struct Installation {
    package: PathBuf,
    tools: PathBuf,
}

impl Installation {
    /// Installing has little to do with the kernel, and emulation takes its time for it: one will do, and
    /// it is Debian's stable one.
    const KERNEL: &'static str = "6.12";

    fn is_wanted(filters: &[String]) -> bool {
        let names = |filter: &String| {
            ["package", "container"]
                .iter()
                .any(|name| filter.contains(name))
        };
        filters.is_empty() || filters.iter().any(names)
    }

    fn prepare(lab: &Lab) -> Result<Self> {
        setup::prepare_systemd()?;
        Ok(Self {
            package: dist::build(&lab.cache)?.package,
            tools: packaging::tools(&lab.cache)?,
        })
    }
}

/// The end-to-end tests, which every kernel runs in a machine of its own.
struct Suite<'a> {
    lab: &'a Lab,
    installation: Option<Installation>,
    services: PathBuf,
    profiler: PathBuf,
    tests: Vec<PathBuf>,
    filters: &'a [String],
    picture: Option<&'a Path>,
    /// How many run at the same time.
    machines: usize,
}

impl Suite<'_> {
    /// What each kernel has proven, and the names of those where a test failed.
    fn on_every_kernel(&self) -> (Vec<(String, Column)>, Vec<String>) {
        let kernels = &self.lab.kernels;
        // The newest first: its programs are twice as many, so it takes the longest.
        let queue = Mutex::new(kernels.iter().enumerate().rev().collect::<VecDeque<_>>());
        let finished = Mutex::new(Vec::new());
        let work = || {
            let next = || lock(&queue).pop_front();
            while let Some((index, kernel)) = next() {
                let title = format!("end-to-end tests on {}", kernel.title);
                let mut column = Column::new();
                let result = step(&title, || self.on_one(kernel, &mut column));
                lock(&finished).push((index, column, result));
            }
        };
        // The thread that starts a machine must outlive it.
        std::thread::scope(|scope| {
            for _ in 0..self.machines {
                scope.spawn(work);
            }
        });
        let mut finished = finished
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        finished.sort_by_key(|(index, ..)| *index);
        let (mut columns, mut failed) = (Vec::new(), Vec::new());
        for (index, column, result) in finished {
            let name = &kernels[index].name;
            if let Err(error) = result {
                eprintln!("error: {name}: {error:#}");
                failed.push(name.clone());
            }
            columns.push((name.clone(), column));
        }
        (columns, failed)
    }

    /// What this kernel has proven goes into `column`, also if a test fails.
    fn on_one(&self, kernel: &BootFiles, column: &mut Column) -> Result<()> {
        let exchange = tempfile::Builder::new()
            .prefix("zc-lab-paths-")
            .tempdir()
            .context("cannot create a temporary directory: set TMPDIR to a writable one")?;
        let paths = exchange.path().join("paths");
        let mut codes = Vec::new();
        let installation = self
            .installation
            .as_ref()
            .filter(|_| kernel.name == Installation::KERNEL || self.lab.kernels.len() == 1);
        // In a machine of its own, since its first process is another.
        for installation in [None].into_iter().chain(installation.map(Some)) {
            for test in &self.tests {
                match self.run(kernel, test, &paths, installation)? {
                    Ending::Interrupted(signal) => bail!("interrupted by signal {signal}"),
                    ending => codes.push(ending.exit_code()),
                }
            }
        }
        *column = matrix::read(&paths)?;
        let drawn = paths.with_file_name(DRAWN);
        if let Some(picture) = self.picture.filter(|_| drawn.exists()) {
            std::fs::copy(&drawn, picture)
                .with_context(|| format!("cannot write {}", picture.display()))?;
        }
        match codes.iter().find(|code| **code != 0) {
            Some(code) => bail!("exit code {code}"),
            None => Ok(()),
        }
    }

    fn run(
        &self,
        kernel: &BootFiles,
        program: &Path,
        paths: &Path,
        installation: Option<&Installation>,
    ) -> Result<Ending> {
        let package = artifacts::root().join("tests");
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let mut command = vec![text(program), "--test-threads=1".to_owned()];
        command.extend(self.filters.iter().cloned());
        let mut environment = vec![
            ("ZC_PROMTOOL".into(), text(&self.lab.promtool)),
            ("CARGO_MANIFEST_DIR".into(), text(&package)),
            (matrix::VARIABLE.into(), text(paths)),
            (services::VARIABLE.into(), text(&self.services)),
        ];
        if let Some(installation) = installation {
            command.push("--ignored".into());
            environment.push(("ZC_PACKAGE".into(), text(&installation.package)));
            environment.push((packaging::VARIABLE.into(), text(&installation.tools)));
        }
        if self.picture.is_some() {
            environment.push(("ZC_PICTURE".into(), text(&paths.with_file_name(DRAWN))));
        }
        let guest = Guest {
            command,
            environment,
            directory: package,
            profiler: &self.profiler,
            input: Input::Nothing,
            output: if self.machines > 1 {
                Output::named(&kernel.name)
            } else {
                Output::ours()
            },
            terminal: None,
            systemd: installation.is_some(),
            cpus: installation.map(|_| 2),
            share: paths.parent(),
            forward: None,
            limit: Some(TIMEOUT),
        };
        guest.run(self.lab, kernel)
    }
}

/// An emulated machine keeps one CPU busy; more of them would only be in each other's way.
fn machines(wanted: Option<u16>) -> usize {
    match wanted {
        Some(wanted) => wanted.into(),
        None => std::thread::available_parallelism().map_or(1, |cpus| cpus.get().min(2)),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
