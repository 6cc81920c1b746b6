//! `cargo xtask dist`: what is handed out. A program that needs no library of the machine it runs on, the
//! Debian package with what belongs to it, and their checksums.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::host::cache::Cache;
use crate::host::command;
use crate::kernels::elf;
use crate::setup::{self, artifacts, cargo_tools, packaging};

/// Builds the program, linked statically, and the Debian package into target/dist
#[derive(clap::Args)]
pub struct Arguments {}

const CHECKSUMS: &str = "SHA256SUMS";

/// What was built.
pub struct Distribution {
    pub directory: PathBuf,
    pub package: PathBuf,
}

pub fn run(_: &Arguments) -> Result<i32> {
    setup::prepare_compiler()?;
    let built = build(&Cache::open()?)?;
    for entry in fs::read_dir(&built.directory)? {
        let entry = entry?;
        println!(
            "{:>12} bytes  {}",
            entry.metadata()?.len(),
            entry.path().display()
        );
    }
    Ok(0)
}

/// Builds all of it anew into a directory of its own.
pub fn build(cache: &Cache) -> Result<Distribution> {
    let cargo_deb = cargo_tools::prepare(cache, &packaging::CARGO_DEB)?;
    let artifacts::Distributed {
        profiler,
        documents,
    } = artifacts::distributed()?;
    if elf::section(&fs::read(&profiler)?, ".interp").is_some() {
        bail!("{} is not linked statically", profiler.display());
    }
    // Where the profiler's Cargo.toml has them from.
    write_documents(&documents, &artifacts::root().join("target/documents"))?;
    let directory = artifacts::root().join("target/dist");
    if directory.exists() {
        fs::remove_dir_all(&directory)
            .with_context(|| format!("cannot remove {}", directory.display()))?;
    }
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    fs::copy(&profiler, directory.join("zc-profiler")).context("cannot copy the program")?;
    let package = command::text(
        Command::new(cargo_deb)
            .current_dir(artifacts::root())
            .args(["--no-build", "--no-strip", "--package", "zc-profiler"])
            .args(["--profile", artifacts::DIST_PROFILE])
            .args(["--target", artifacts::DIST_TARGET])
            .arg("--output")
            .arg(&directory),
    )?;
    let package = PathBuf::from(package.trim());
    sum(&directory)?;
    Ok(Distribution { directory, package })
}

fn write_documents(program: &Path, directory: &Path) -> Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory)
            .with_context(|| format!("cannot remove {}", directory.display()))?;
    }
    command::output(Command::new(program).arg(directory)).map(drop)
}

fn sum(directory: &Path) -> Result<()> {
    let names: Vec<_> = fs::read_dir(directory)?
        .map(|entry| Ok(entry?.file_name()))
        .collect::<Result<_>>()?;
    let sums = command::output(
        command::tool("sha256sum")
            .current_dir(directory)
            .args(names),
    )?;
    fs::write(directory.join(CHECKSUMS), sums).context("cannot write the checksums")
}
