//! Builds the workspace's programs with cargo, and finds the results.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::host::command;

/// The workspace's root directory.
pub fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// A cargo command for this workspace.
pub fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root());
    // `cargo run` sets these variables for xtask. In another build, a changed variable causes a rebuild.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(&name);
        }
    }
    cargo
}

/// The profiler, built in release mode.
pub fn profiler() -> Result<PathBuf> {
    eprintln!("build: cargo build --release -p zc-profiler");
    let built = build(cargo().args(["build", "--release", "-p", "zc-profiler"]))?;
    named(&built, "zc-profiler")
}

fn named(built: &[PathBuf], name: &str) -> Result<PathBuf> {
    let is_it = |program: &&PathBuf| program.file_name().is_some_and(|file| file == name);
    let program = built.iter().find(is_it).cloned();
    program.with_context(|| format!("cargo built no program {name}"))
}

/// The end-to-end tests, built in release mode.
pub fn end_to_end_tests() -> Result<Vec<PathBuf>> {
    let built = build(cargo().args(["test", "--release", "-p", "zc-profiler-tests", "--no-run"]))?;
    if built.is_empty() {
        bail!("cargo built no test program of zc-profiler-tests");
    }
    Ok(built)
}

/// The cargo profile of `cargo xtask dist`.
pub const DIST_PROFILE: &str = "dist";
/// The explicit target keeps its flags away from build scripts and macros, which cannot be linked statically.
pub const DIST_TARGET: &str = "x86_64-unknown-linux-gnu";

/// The programs that [`distributed`] builds.
pub struct Distributed {
    pub profiler: PathBuf,
    /// The program that writes the manual pages and completions.
    pub documents: PathBuf,
}

/// The profiler as `cargo xtask dist` packages it: linked statically.
pub fn distributed() -> Result<Distributed> {
    eprintln!("build: cargo build --profile {DIST_PROFILE} -p zc-profiler");
    let mut cargo = cargo();
    cargo
        .args(["build", "-p", "zc-profiler", "--profile", DIST_PROFILE])
        .args(["--target", DIST_TARGET])
        .args(["--bin", "zc-profiler", "--example", "documents"])
        // RUSTFLAGS takes precedence over the variable below.
        .env_remove("RUSTFLAGS")
        .env(
            "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS",
            "-C target-feature=+crt-static",
        );
    let built = build(&mut cargo)?;
    Ok(Distributed {
        profiler: named(&built, "zc-profiler")?,
        documents: named(&built, "documents")?,
    })
}

/// The measuring program of `cargo xtask bench`, built in release mode.
pub fn bench() -> Result<PathBuf> {
    let words = ["bench", "-p", "zc-profiler-tests", "--bench", "zc-bench"];
    let built = build(cargo().args(words).arg("--no-run"))?;
    let last = built.into_iter().next_back();
    last.context("cargo built no program zc-bench")
}

/// Runs a cargo command that builds, and returns the programs that it built.
pub fn build(command: &mut Command) -> Result<Vec<PathBuf>> {
    command
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit());
    let output = command
        .output()
        .with_context(|| format!("cannot start `{}`", command::shown(command)))?;
    if !output.status.success() {
        bail!("`{}` failed ({})", command::shown(command), output.status);
    }
    Ok(executables(&String::from_utf8_lossy(&output.stdout)))
}

fn executables(messages: &str) -> Vec<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["reason"] == "compiler-artifact")
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_among_cargo_s_messages() {
        let messages = r#"{"reason":"compiler-artifact","executable":null}
{"reason":"compiler-artifact","executable":"/t/release/zc-profiler"}
{"reason":"build-finished","success":true}
not json"#;
        assert_eq!(
            executables(messages),
            [PathBuf::from("/t/release/zc-profiler")]
        );
    }

    #[test]
    fn the_root_holds_this_crate() {
        assert!(root().join("xtask/Cargo.toml").exists());
    }
}
