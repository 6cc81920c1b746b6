//! `cargo xtask test`: formatting, lints and unit tests here, and end-to-end tests in the lab machine
//! on every kernel.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::cmd::dist;
use crate::cmd::vm::Guest;
use crate::gate::{self, complexity, shares, step};
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
    /// Leaves out all kernels but 6.12, and the tests of the package and the image
    #[arg(long, conflicts_with_all = ["kernel", "modules"])]
    quick: bool,
    /// Records how many instructions the verifier processes for each program; with `-- complexity`, after no other test
    #[arg(long)]
    record_complexity: bool,
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

/// The files that tests write into the directory that their machine shares.
const PATHS_FILE: &str = "paths";
const COMPLEXITY_FILE: &str = "complexity";
const DRAWN: &str = "picture.svg";

/// The kernel of `--quick`.
const QUICK: &str = Installation::KERNEL;

const TIMEOUT: Duration = Duration::from_mins(45);

pub fn run(arguments: &Arguments) -> Result<i32> {
    let start = Instant::now();
    let installs = !arguments.quick && Installation::is_wanted(&arguments.tests);
    let also: &[_] = if installs {
        &[setup::CPP_COMPILER, setup::SYSTEMD_PACKAGE]
    } else {
        &[setup::CPP_COMPILER]
    };
    let kernels = if arguments.quick { QUICK } else { kernels::ALL };
    let lab = setup::prepare(&arguments.kernels.or(kernels)?, also)?;
    let services = services::prepare(&lab.cache)?;
    gate::run(&lab)?;
    let (profiler, tests) = step("build of the end-to-end tests", || {
        Ok((artifacts::profiler()?, artifacts::end_to_end_tests()?))
    })?;
    let installation = if installs {
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
        machines: machines(arguments.machines),
    };
    conclude(arguments, suite.run()?)?;
    println!("xtask test: ok in {} s", start.elapsed().as_secs());
    Ok(0)
}

/// Holds what the tests have found against the committed documents.
fn conclude(arguments: &Arguments, findings: Vec<(String, Findings)>) -> Result<()> {
    let (mut columns, mut failed) = (Vec::new(), Vec::new());
    let mut programs = complexity::Kernels::new();
    for (kernel, found) in findings {
        if found.failed {
            failed.push(kernel.clone());
        }
        columns.push((kernel.clone(), found.paths));
        programs.insert(kernel, found.programs);
    }
    let matrix = Matrix(columns);
    if !matrix.is_empty() {
        println!("\n{matrix}");
    }
    if !failed.is_empty() {
        bail!("the end-to-end tests failed on {}", failed.join(", "));
    }
    if arguments.record_complexity {
        complexity::record(artifacts::root(), &programs)?;
    }
    if arguments.tests.is_empty() {
        compare(&matrix)?;
    } else {
        // A choice of tests proves a choice of paths, and may leave out the test that tells of programs.
        programs.retain(|_, programs| !programs.is_empty());
    }
    complexity::compare(artifacts::root(), &programs)
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

/// The work of one lab machine.
struct Job<'a> {
    kernel: &'a BootFiles,
    /// Names the machine to people.
    title: String,
    program: &'a Path,
    /// Chooses tests.
    filters: Vec<String>,
    installation: Option<&'a Installation>,
}

/// What the tests of one kernel have found, also if one failed.
#[derive(Default)]
struct Findings {
    paths: Column,
    programs: complexity::Programs,
    failed: bool,
}

impl Suite<'_> {
    /// Runs every job, and returns what each kernel's have found.
    fn run(&self) -> Result<Vec<(String, Findings)>> {
        let jobs = self.jobs()?;
        let machines = self.machines.min(jobs.len());
        let queue = Mutex::new(jobs);
        let findings: Vec<_> = self
            .lab
            .kernels
            .iter()
            .map(|_| Findings::default())
            .collect();
        let findings = Mutex::new(findings);
        let work = || {
            let next = || lock(&queue).pop_front();
            while let Some((index, job)) = next() {
                let mut found = Findings::default();
                let title = format!("end-to-end tests on {}", job.title);
                let output = if machines > 1 {
                    Output::named(&job.title)
                } else {
                    Output::ours()
                };
                if let Err(error) = step(&title, || self.perform(&job, output, &mut found)) {
                    eprintln!("error: {}: {error:#}", job.title);
                    found.failed = true;
                }
                lock(&findings)[index].merge(found);
            }
        };
        // The thread that starts a machine must outlive it.
        std::thread::scope(|scope| {
            for _ in 0..machines {
                scope.spawn(work);
            }
        });
        let names = self.lab.kernels.iter().map(|kernel| kernel.name.clone());
        let findings = findings
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        Ok(names.zip(findings).collect())
    }

    /// Jobs with the index of their kernel, in the order in which machines take them.
    fn jobs(&self) -> Result<VecDeque<(usize, Job<'_>)>> {
        let kernels = &self.lab.kernels;
        let mut jobs = VecDeque::new();
        // The newest first: its programs are twice as many, so it takes the longest.
        for (index, kernel) in kernels.iter().enumerate().rev() {
            let job = |program, filters, installation, title: String| {
                let job = Job {
                    kernel,
                    title,
                    program,
                    filters,
                    installation,
                };
                (index, job)
            };
            for program in &self.tests {
                let shares = if self.filters.is_empty() && kernels.len() < self.machines {
                    shares::of(program, self.machines)?
                } else {
                    vec![self.filters.to_vec()]
                };
                let count = shares.len();
                for (number, filters) in (1..).zip(shares) {
                    let title = match count {
                        1 => kernel.name.clone(),
                        _ => format!("{} {number}/{count}", kernel.name),
                    };
                    jobs.push_back(job(program, filters, None, title));
                }
                let installation = self.installation.as_ref();
                if let Some(installation) = installation
                    .filter(|_| kernel.name == Installation::KERNEL || kernels.len() == 1)
                {
                    let title = format!("{} package", kernel.name);
                    let filters = self.filters.to_vec();
                    // In a machine of its own, since its first process is another.
                    jobs.push_back(job(program, filters, Some(installation), title));
                }
            }
        }
        Ok(jobs)
    }

    /// What the job has found goes into `found`, also if a test fails.
    fn perform(&self, job: &Job<'_>, output: Output, found: &mut Findings) -> Result<()> {
        let exchange = tempfile::Builder::new()
            .prefix("zc-lab-paths-")
            .tempdir()
            .context("cannot create a temporary directory: set TMPDIR to a writable one")?;
        let ending = self.boot(job, output, exchange.path())?;
        found.paths = matrix::read(&exchange.path().join(PATHS_FILE))?;
        found.programs = complexity::read(&exchange.path().join(COMPLEXITY_FILE))?;
        let drawn = exchange.path().join(DRAWN);
        if let Some(picture) = self.picture.filter(|_| drawn.exists()) {
            std::fs::copy(&drawn, picture)
                .with_context(|| format!("cannot write {}", picture.display()))?;
        }
        match ending {
            Ending::Interrupted(signal) => bail!("interrupted by signal {signal}"),
            ending => match ending.exit_code() {
                0 => Ok(()),
                code => bail!("exit code {code}"),
            },
        }
    }

    fn boot(&self, job: &Job<'_>, output: Output, exchange: &Path) -> Result<Ending> {
        let package = artifacts::root().join("tests");
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let mut command = vec![text(job.program), "--test-threads=1".to_owned()];
        command.extend(job.filters.iter().cloned());
        let mut environment = vec![
            ("ZC_PROMTOOL".into(), text(&self.lab.promtool)),
            ("CARGO_MANIFEST_DIR".into(), text(&package)),
            (matrix::VARIABLE.into(), text(&exchange.join(PATHS_FILE))),
            (
                complexity::VARIABLE.into(),
                text(&exchange.join(COMPLEXITY_FILE)),
            ),
            (services::VARIABLE.into(), text(&self.services)),
        ];
        if let Some(installation) = job.installation {
            command.push("--ignored".into());
            environment.push(("ZC_PACKAGE".into(), text(&installation.package)));
            environment.push((packaging::VARIABLE.into(), text(&installation.tools)));
        }
        if self.picture.is_some() {
            environment.push(("ZC_PICTURE".into(), text(&exchange.join(DRAWN))));
        }
        let guest = Guest {
            command,
            environment,
            directory: package,
            profiler: &self.profiler,
            input: Input::Nothing,
            output,
            terminal: None,
            systemd: job.installation.is_some(),
            cpus: job.installation.map(|_| 2),
            share: Some(exchange),
            forward: None,
            limit: Some(TIMEOUT),
        };
        guest.run(self.lab, job.kernel)
    }
}

impl Findings {
    fn merge(&mut self, other: Self) {
        matrix::merge(&mut self.paths, other.paths);
        self.programs.extend(other.programs);
        self.failed |= other.failed;
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
