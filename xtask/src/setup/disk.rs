//! The image of the lab's IDE disks. Each word of the image encodes its own position.

use std::fs;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::host::cache::Cache;

/// The size of the pattern at the start of the disk. The rest of the disk is a hole.
const PATTERN: u64 = 32 << 20;
const SIZE: u64 = 64 << 20;
const WORD: u64 = 8;

/// The image in the cache. It is created if it is missing.
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

/// The pattern that the profiler's lab expects on these disks. Written here again because xtask builds before the
/// profiler's crate can.
fn word(index: u64) -> [u8; 8] {
    (index + 1)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .rotate_left(23)
        .to_le_bytes()
}
