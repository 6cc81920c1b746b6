//! Building the workspace's programs with cargo, and finding what it built.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::host::command;

/// The workspace's root.
pub fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// Cargo, to be run on this workspace.
pub fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root());
    // What `cargo run` told this program about itself would be news to the builds it starts.
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
    built
        .into_iter()
        .find(|program| {
            program
                .file_name()
                .is_some_and(|name| name == "zc-profiler")
        })
        .context("cargo built no program zc-profiler")
}

/// The end-to-end tests, built in release mode.
pub fn end_to_end_tests() -> Result<Vec<PathBuf>> {
    let built = build(cargo().args(["test", "--release", "-p", "zc-profiler-tests", "--no-run"]))?;
    if built.is_empty() {
        bail!("cargo built no test program of zc-profiler-tests");
    }
    Ok(built)
}

/// The profile of what is handed out.
pub const DIST_PROFILE: &str = "dist";
/// Named, so that flags for it are not those of build scripts and macros, which cannot be static.
pub const DIST_TARGET: &str = "x86_64-unknown-linux-gnu";

/// What [`distributed`] builds.
pub struct Distributed {
    pub profiler: PathBuf,
    /// Writes what goes with the profiler.
    pub documents: PathBuf,
}

/// The profiler as it is handed out: linked statically.
pub fn distributed() -> Result<Distributed> {
    eprintln!("build: cargo build --profile {DIST_PROFILE} -p zc-profiler");
    let mut cargo = cargo();
    cargo
        .args(["build", "-p", "zc-profiler", "--profile", DIST_PROFILE])
        .args(["--target", DIST_TARGET])
        .args(["--bin", "zc-profiler", "--example", "documents"])
        // It would come before the one below.
        .env_remove("RUSTFLAGS")
        .env(
            "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS",
            "-C target-feature=+crt-static",
        );
    let built = build(&mut cargo)?;
    let named = |name: &str| {
        let is_it = |program: &&PathBuf| program.file_name().is_some_and(|file| file == name);
        let program = built.iter().find(is_it).cloned();
        program.with_context(|| format!("cargo built no program {name}"))
    };
    Ok(Distributed {
        profiler: named("zc-profiler")?,
        documents: named("documents")?,
    })
}

/// The program that `cargo xtask bench` measures with, built in release mode.
pub fn bench() -> Result<PathBuf> {
    let words = ["bench", "-p", "zc-profiler-tests", "--bench", "zc-bench"];
    let built = build(cargo().args(words).arg("--no-run"))?;
    let last = built.into_iter().next_back();
    last.context("cargo built no program zc-bench")
}

/// Builds, and returns the programs that came of it.
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
