//! What the lab's IDE disks hold: bytes that tell their own position.

use std::fs;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::host::cache::Cache;

/// How much of the disk holds the pattern; the rest is a hole.
const PATTERN: u64 = 32 << 20;
const SIZE: u64 = 64 << 20;
const WORD: u64 = 8;

/// The image in the cache, made if it is missing.
pub fn prepare(cache: &Cache) -> Result<PathBuf> {
    let path = cache.path("lab-disk");
    if fs::metadata(&path).is_ok_and(|data| data.len() == SIZE) {
        return Ok(path);
    }
    let scratch = cache.scratch()?;
    let image = scratch.path().join("image");
    write(&image)
        .and_then(|()| fs::rename(&image, &path))
        .with_context(|| format!("cannot make the lab's disk {}", path.display()))?;
    Ok(path)
}

fn write(image: &std::path::Path) -> std::io::Result<()> {
    let mut file = BufWriter::new(fs::File::create(image)?);
    for index in 0..PATTERN / WORD {
        file.write_all(&word(index))?;
    }
    file.into_inner()?.set_len(SIZE)
}

/// The same as the profiler's lab expects (its `workload/pattern.rs`), whose crate is not built yet
/// when this is.
fn word(index: u64) -> [u8; 8] {
    (index + 1)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .rotate_left(23)
        .to_le_bytes()
}
