//! cargo-deb, which makes the Debian package, and what the tests try the package and the image with. All in
//! the cache, for few machines have them.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::host::cache::Cache;
use crate::host::{apt, command};
use crate::setup::artifacts;

const VERSION: &str = "3.8.0";

/// The program, built if this version is not there.
pub fn prepare(cache: &Cache) -> Result<PathBuf> {
    let root = cache.path("cargo-deb");
    let program = root.join("bin/cargo-deb");
    let _lock = cache.lock()?;
    let there = command::text(Command::new(&program).arg("--version"));
    if there.is_ok_and(|version| version.trim().ends_with(VERSION)) {
        return Ok(program);
    }
    eprintln!("setup: building cargo-deb {VERSION} (a minute or two)…");
    let mut cargo = artifacts::cargo();
    cargo
        .args(["install", "--quiet", "--locked", "--force"])
        .arg(format!("cargo-deb@{VERSION}"))
        .arg("--root")
        .arg(&root)
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("RUSTFLAGS");
    let by_hand = format!("build it by hand: `{}`", command::shown(&cargo));
    command::output(&mut cargo).with_context(|| format!("cannot build cargo-deb; {by_hand}"))?;
    Ok(program)
}

/// Tells the tests where the programs lie.
pub const VARIABLE: &str = "ZC_TOOLS";

/// What reads completions and manual pages, and runs containers, with the libraries that a small machine
/// has not.
const TOOLS: [&str; 20] = [
    "zsh",
    "zsh-common",
    "fish",
    "fish-common",
    "libpcre2-32-0",
    "man-db",
    "groff-base",
    "libpipeline1",
    "libuchardet0",
    "libgdbm6",
    "podman",
    "conmon",
    "crun",
    "golang-github-containers-common",
    "golang-github-containers-image",
    "libdevmapper1.02.1",
    "libgpgme11",
    "libassuan0",
    "libsubid4",
    "libyajl2",
];

const PROGRAMS: [&str; 5] = [
    "bin/zsh",
    "usr/bin/fish",
    "usr/bin/man",
    "usr/bin/groff",
    "usr/bin/podman",
];

/// The directory that stands for `/` in the packages of what the tests use.
pub fn tools(cache: &Cache) -> Result<PathBuf> {
    apt::cached(cache, "tools", &TOOLS, &PROGRAMS)
}
