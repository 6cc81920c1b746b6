//! The tools that the profiler is compared with: Debian's packages, unpacked into the cache.

use std::path::PathBuf;

use anyhow::Result;

use crate::host::apt;
use crate::host::cache::Cache;

/// With the libraries that no other package of a small machine brings.
const PACKAGES: [&str; 28] = [
    "bpftrace",
    "libbpfcc",
    "libbpf1",
    "libclang1-14",
    "libllvm14",
    "libbpf-tools",
    "linux-perf",
    "strace",
    "libbabeltrace1",
    "libbsd0",
    "libdw1",
    "libedit2",
    "libelf1",
    "libffi8",
    "libglib2.0-0",
    "libicu72",
    "libmd0",
    "libnuma1",
    "libopencsd1",
    "libpcre2-8-0",
    "libperl5.36",
    "libpython3.11",
    "libslang2",
    "libstdc++6",
    "libunwind8",
    "libuuid1",
    "libxml2",
    "libz3-4",
];

/// Where their programs and libraries are, below what stands for `/`.
const PROGRAMS: [&str; 2] = ["usr/bin", "usr/sbin"];
const LIBRARIES: [&str; 3] = [
    "usr/lib/x86_64-linux-gnu",
    "lib/x86_64-linux-gnu",
    "usr/lib/llvm-14/lib",
];

/// What to add to PATH, and to the search path of libraries.
pub struct Tools {
    pub programs: Vec<PathBuf>,
    pub libraries: Vec<PathBuf>,
}

pub fn prepare(cache: &Cache) -> Result<Tools> {
    // A directory of its own: what the tests of the package use is in another.
    let directory = apt::cached(cache, "bench-tools", &PACKAGES, &["usr/bin/bpftrace"])?;
    Ok(Tools {
        programs: PROGRAMS.map(|place| directory.join(place)).to_vec(),
        libraries: LIBRARIES.map(|place| directory.join(place)).to_vec(),
    })
}
