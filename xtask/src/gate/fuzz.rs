//! The fuzz targets of `zc-profiler/fuzz`: built with the flags that cargo-fuzz passes to a stable compiler, and
//! run for a bounded number of inputs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::host::command;
use crate::setup::artifacts;

const PACKAGE: &str = "zc-profiler/fuzz";
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Inputs for each target: some seconds. The seed makes each run the same.
const BOUNDS: [&str; 5] = [
    "-seed=1",
    "-runs=20000",
    "-max_total_time=20",
    "-timeout=10",
    "-rss_limit_mb=1024",
];

/// What makes a program tell the fuzzer which branches an input takes.
const FLAGS: [&str; 6] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cllvm-args=-simplifycfg-branch-fold-threshold=0",
];

/// How much of a failed run's report is shown.
const REPORT_LINES: usize = 40;

pub fn run() -> Result<()> {
    let package = artifacts::root().join(PACKAGE);
    let mut programs = build(&package)?;
    programs.sort();
    if programs.is_empty() {
        bail!("cargo built no fuzz target of {PACKAGE}");
    }
    programs
        .iter()
        .try_for_each(|program| run_one(&package, program))
}

fn build(package: &Path) -> Result<Vec<PathBuf>> {
    let mut cargo = artifacts::cargo();
    cargo
        .args(["build", "--quiet", "--release", "--bins", "--manifest-path"])
        .arg(package.join("Cargo.toml"))
        // With a target named, build scripts get none of the flags; one of them builds the eBPF programs.
        .args(["--target", TARGET, "--target-dir"])
        .arg(target_directory())
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env(
            "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS",
            FLAGS.join(" "),
        );
    artifacts::build(&mut cargo)
}

/// Apart from the other builds, whose flags differ.
fn target_directory() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    target
        .unwrap_or_else(|| artifacts::root().join("target"))
        .join("fuzz")
}

fn run_one(package: &Path, program: &Path) -> Result<()> {
    let name = program.file_name().unwrap_or_default();
    // The fuzzer keeps inputs that reach more of the code in the first directory.
    let found = tempfile::tempdir().context("cannot create a temporary directory")?;
    let failures = package.join("artifacts").join(name);
    fs::create_dir_all(&failures)
        .with_context(|| format!("cannot create {}", failures.display()))?;
    let mut fuzzer = Command::new(program);
    fuzzer
        .args(BOUNDS)
        .arg(format!("-artifact_prefix={}/", failures.display()))
        .arg(found.path())
        .arg(package.join("seeds").join(name));
    let output = fuzzer
        .output()
        .with_context(|| format!("cannot start `{}`", command::shown(&fuzzer)))?;
    let report = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = report.lines().collect();
    if !output.status.success() {
        eprintln!(
            "{}",
            lines[lines.len().saturating_sub(REPORT_LINES)..].join("\n")
        );
        bail!("`{}` failed ({})", command::shown(&fuzzer), output.status);
    }
    println!("{}: {}", name.display(), lines.last().unwrap_or(&""));
    Ok(())
}
