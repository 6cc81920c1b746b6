//! `cargo xtask test`: formatting, lints, unit tests here, and end-to-end tests in the lab machine.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::cmd_vm::Guest;
use crate::machine::Input;
use crate::setup::{self, KernelChoice, Lab};
use crate::{artifacts, command};

/// Runs every test
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    kernel: KernelChoice,
    /// Arguments for the end-to-end tests' runner, such as a part of a test's name
    #[arg(last = true, value_name = "TEST ARGS")]
    tests: Vec<String>,
}

const TIMEOUT: Duration = Duration::from_hours(1);

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

pub fn run(arguments: &Arguments) -> Result<i32> {
    let start = Instant::now();
    let lab = setup::prepare(&arguments.kernel)?;
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
    let (profiler, tests) = step("build of the end-to-end tests", || {
        Ok((artifacts::profiler()?, artifacts::end_to_end_tests()?))
    })?;
    step(&format!("end-to-end tests on {}", lab.kernel.title), || {
        for test in &tests {
            match end_to_end(&lab, &profiler, test, &arguments.tests)? {
                0 => {}
                code => bail!("{} failed with exit code {code}", test.display()),
            }
        }
        Ok(())
    })?;
    println!("xtask test: ok in {} s", start.elapsed().as_secs());
    Ok(0)
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

fn end_to_end(lab: &Lab, profiler: &Path, program: &Path, filters: &[String]) -> Result<i32> {
    let package = artifacts::root().join("tests");
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let mut command = vec![text(program), "--test-threads=1".to_owned()];
    command.extend(filters.iter().cloned());
    let guest = Guest {
        command,
        environment: vec![
            ("ZC_PROMTOOL".into(), text(&lab.promtool)),
            ("CARGO_MANIFEST_DIR".into(), text(&package)),
        ],
        directory: package,
        profiler,
        input: Input::Nothing,
        terminal: None,
        share: None,
        forward: None,
        limit: Some(TIMEOUT),
    };
    Ok(guest.run(lab)?.exit_code())
}
