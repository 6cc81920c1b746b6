//! What `cargo xtask test` checks before a lab machine boots, the cheap steps first.

pub mod complexity;
mod fuzz;
mod links;
pub mod shares;

use std::process::Command;
use std::time::Instant;

use anyhow::Result;

use crate::host::command;
use crate::setup::cargo_tools::{self, CargoTool};
use crate::setup::{Lab, artifacts};

/// Finds words that are misspelled.
const TYPOS: CargoTool = CargoTool {
    package: "typos-cli",
    program: "typos",
    version: "1.52.0",
    optimised: false,
};

/// Holds the dependencies against the rules of `xtask/gate/deny.toml`.
const CARGO_DENY: CargoTool = CargoTool {
    package: "cargo-deny",
    program: "cargo-deny",
    version: "0.20.2",
    optimised: false,
};

/// The workspaces whose files are formatted.
const FORMATTED: [&str; 2] = ["Cargo.toml", "zc-profiler/fuzz/Cargo.toml"];

/// Steps that are cargo commands: all at one profile, so that they share what they build.
const CARGO_STEPS: [&[&str]; 3] = [
    &[
        "clippy",
        "--workspace",
        "--all-targets",
        "--release",
        "--",
        "-D",
        "warnings",
    ],
    &["doc", "--workspace", "--no-deps", "--release"],
    &[
        "test",
        "--release",
        "--workspace",
        "--exclude",
        "zc-profiler-tests",
    ],
];

/// The files for Prometheus, and what promtool must say of them.
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

pub fn run(lab: &Lab) -> Result<()> {
    step("cargo fmt", || {
        FORMATTED.iter().try_for_each(|manifest| {
            let mut cargo = artifacts::cargo();
            cargo.args(["fmt", "--all", "--check", "--manifest-path", manifest]);
            command::run(&mut cargo)
        })
    })?;
    step("links in the documents", || links::check(artifacts::root()))?;
    step("Prometheus' own checks of its rules", || promtool(lab))?;
    let typos = cargo_tools::prepare(&lab.cache, &TYPOS)?;
    step("typos", || {
        let mut typos = Command::new(typos);
        typos
            .current_dir(artifacts::root())
            .args(["--config", "xtask/gate/typos.toml"]);
        command::run(&mut typos)
    })?;
    let deny = cargo_tools::prepare(&lab.cache, &CARGO_DENY)?;
    step("cargo-deny", || dependencies(&|| Command::new(&deny)))?;
    for words in CARGO_STEPS {
        step(&format!("cargo {}", words.join(" ")), || {
            let mut cargo = artifacts::cargo();
            command::run(cargo.args(words).env("RUSTDOCFLAGS", "-D warnings"))
        })?;
    }
    if lab.compiler.has_clippy() {
        step("cargo clippy of the eBPF programs", || {
            command::run(&mut ebpf_clippy(lab))
        })?;
    }
    step("fuzz targets", fuzz::run)
}

/// Runs a part of the tests, and says how long it took.
pub fn step<T>(title: &str, action: impl FnOnce() -> Result<T>) -> Result<T> {
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

fn promtool(lab: &Lab) -> Result<()> {
    PROMTOOL_CHECKS.iter().try_for_each(|words| {
        let directory = artifacts::root().join(PROMETHEUS);
        let mut promtool = Command::new(&lab.promtool);
        command::run(promtool.args(*words).current_dir(directory))
    })
}

/// Checks licences, versions and sources, and the advisories where their database can be had.
fn dependencies(deny: &dyn Fn() -> Command) -> Result<()> {
    let call = |words: &[&str]| {
        let mut command = deny();
        command
            .current_dir(artifacts::root())
            .args(["--locked", "--config", "xtask/gate/deny.toml"])
            .args(words);
        command
    };
    let mut check = call(&[
        "check",
        "--hide-inclusion-graph",
        "licenses",
        "bans",
        "sources",
    ]);
    match command::output(&mut call(&["fetch", "db"])) {
        Ok(_) => _ = check.arg("advisories"),
        Err(error) => {
            println!("advisories are not checked, their database cannot be fetched: {error:#}");
        }
    }
    command::run(&mut check)
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
