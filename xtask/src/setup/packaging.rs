//! cargo-deb, which makes the Debian package, and what the tests try the package and the image with. All in
//! the cache, for few machines have them.

use std::path::PathBuf;

use anyhow::Result;

use crate::host::apt;
use crate::host::cache::Cache;
use crate::setup::cargo_tools::CargoTool;

/// Makes the Debian package.
pub const CARGO_DEB: CargoTool = CargoTool {
    package: "cargo-deb",
    program: "cargo-deb",
    version: "3.8.0",
    // It compresses the package.
    optimised: true,
};

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
