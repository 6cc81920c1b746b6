//! Programs of the package registry, built by cargo into the cache.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::host::cache::Cache;
use crate::host::command;
use crate::setup::artifacts;

/// A program of a registry's package, at one version.
pub struct CargoTool {
    pub package: &'static str,
    pub program: &'static str,
    pub version: &'static str,
    /// Whether a longer build pays: the others are built without optimisation.
    pub optimised: bool,
}

/// The program, built if this version is not in the cache.
pub fn prepare(cache: &Cache, tool: &CargoTool) -> Result<PathBuf> {
    let root = cache.path(tool.program);
    let program = root.join("bin").join(tool.program);
    let _lock = cache.lock()?;
    let version = command::text(Command::new(&program).arg("--version"));
    if version.is_ok_and(|text| text.trim().ends_with(tool.version)) {
        return Ok(program);
    }
    let name = format!("{}@{}", tool.package, tool.version);
    eprintln!("setup: building {name} (a minute or two)…");
    let mut cargo = artifacts::cargo();
    cargo
        .args(["install", "--quiet", "--locked", "--force", &name, "--root"])
        .arg(&root)
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("RUSTFLAGS");
    if !tool.optimised {
        cargo.arg("--debug").env("CARGO_PROFILE_DEV_DEBUG", "0");
    }
    let by_hand = format!("build it by hand: `{}`", command::shown(&cargo));
    command::output(&mut cargo).with_context(|| format!("cannot build {name}; {by_hand}"))?;
    Ok(program)
}
