//! Real services that the tests measure: Debian's packages, unpacked into the cache, since installed
//! ones would start.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::apt;
use crate::cache::Cache;

/// Tells the tests where the packages lie.
pub const VARIABLE: &str = "ZC_SERVICES";

/// What the tests start, with the libraries that no other package of a small machine brings.
const PACKAGES: [&str; 6] = [
    "nginx",
    "openssl",
    "redis-server",
    "redis-tools",
    "liblzf1",
    "libjemalloc2",
];

const PROGRAMS: [&str; 3] = ["usr/sbin/nginx", "usr/bin/openssl", "usr/bin/redis-server"];

/// The directory that stands for `/` in the packages.
pub fn prepare(cache: &Cache) -> Result<PathBuf> {
    let directory = cache.path("services");
    // Unlike `exists`, this sees links that lead to nothing.
    let has = |place: &&str| directory.join(place).symlink_metadata().is_ok();
    if PROGRAMS.iter().all(has) {
        return Ok(directory);
    }
    let _lock = cache.lock()?;
    eprintln!("setup: downloading {}…", PACKAGES.join(", "));
    let scratch = cache.scratch()?;
    let root = scratch.path().join("root");
    std::fs::create_dir(&root).context("cannot create a directory in the cache")?;
    apt::unpack(&PACKAGES, &root)?;
    Cache::publish(&root, &directory)?;
    for place in PROGRAMS {
        apt::placed(&directory, &[place])?;
    }
    Ok(directory)
}
