//! The tools that the bench compares the profiler with: Debian's packages, unpacked into the cache.

use std::path::PathBuf;

use anyhow::Result;

use crate::host::apt;
use crate::host::cache::Cache;

/// The tools, with the libraries that a minimal Debian lacks.
const PACKAGES: &str = "\
    bpftrace libbpfcc libbpf1 libclang1-14 libllvm14 libbpf-tools linux-perf strace \
    libbabeltrace1 libbsd0 libdw1 libedit2 libelf1 libffi8 libglib2.0-0 libicu72 libmd0 \
    libnuma1 libopencsd1 libpcre2-8-0 libperl5.36 libpython3.11 libslang2 libstdc++6 \
    libunwind8 libuuid1 libxml2 libz3-4";

/// The directories of the tools' programs, below the root of the unpacked packages.
const PROGRAMS: [&str; 2] = ["usr/bin", "usr/sbin"];
/// The directories of the tools' libraries, below the root of the unpacked packages.
const LIBRARIES: [&str; 3] = [
    "usr/lib/x86_64-linux-gnu",
    "lib/x86_64-linux-gnu",
    "usr/lib/llvm-14/lib",
];

/// The directories to add to PATH, and to the search path of libraries.
pub struct Tools {
    pub programs: Vec<PathBuf>,
    pub libraries: Vec<PathBuf>,
}

pub fn prepare(cache: &Cache) -> Result<Tools> {
    let packages: Vec<_> = PACKAGES.split_whitespace().collect();
    let directory = apt::cached(cache, "bench-tools", &packages, &["usr/bin/bpftrace"])?;
    Ok(Tools {
        programs: PROGRAMS.map(|place| directory.join(place)).to_vec(),
        libraries: LIBRARIES.map(|place| directory.join(place)).to_vec(),
    })
}
