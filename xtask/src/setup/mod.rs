//! Brings in what the lab needs and this machine lacks. Does nothing, quickly, when all is there.

pub mod artifacts;
pub mod cargo_tools;
pub mod disk;
pub mod packaging;
pub mod services;
pub mod toolchain;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::host::cache::Cache;
use crate::host::{apt, command};
use crate::kernels::{self, BootFiles, elf};
use toolchain::Toolchain;

pub const QEMU: &str = "qemu-system-x86_64";

/// A program that must be installed, and the package that holds it.
pub type Installed = (&'static str, &'static str);

/// What the lab needs.
const INSTALLED: [Installed; 6] = [
    (QEMU, "qemu-system-x86"),
    ("mke2fs", "e2fsprogs"),
    ("mkfs.xfs", "xfsprogs"),
    ("xz", "xz-utils"),
    ("zstd", "zstd"),
    ("gzip", "gzip"),
];

/// A program that is used from the cache: installing its package would change this machine more
/// than the lab needs (Prometheus would start a daemon).
struct Unpacked {
    program: &'static str,
    package: &'static str,
    places: &'static [&'static str],
    /// Whether a copy on the PATH will do.
    fits: fn(&Path) -> bool,
}

const BUSYBOX: Unpacked = Unpacked {
    program: "busybox",
    package: "busybox-static",
    places: &["bin/busybox", "usr/bin/busybox"],
    fits: is_static,
};

const PROMTOOL: Unpacked = Unpacked {
    program: "promtool",
    package: "prometheus",
    places: &["usr/bin/promtool"],
    // The tests run the server, too.
    fits: |promtool| promtool.with_file_name("prometheus").exists(),
};

/// The first process of a machine that is to try units.
pub const SYSTEMD: &str = "/usr/lib/systemd/systemd";
pub const SYSTEMD_PACKAGE: Installed = (SYSTEMD, "systemd");

/// What builds the fuzzer.
pub const CPP_COMPILER: Installed = ("c++", "g++");

/// Everything that the lab consists of.
pub struct Lab {
    pub cache: Cache,
    pub compiler: Toolchain,
    pub promtool: PathBuf,
    /// What the lab's IDE disks hold.
    pub disk: PathBuf,
    /// In the order of the choices.
    pub kernels: Vec<BootFiles>,
}

/// The kernel that the user chose.
#[derive(clap::Args, Clone, Debug)]
pub struct KernelChoice {
    /// 5.10, 6.1, 6.12 or 7 (Debian's), `host` (this machine's), or the path of a kernel image
    #[arg(long, value_name = "KERNEL", default_value = kernels::DEFAULT)]
    kernel: String,
    /// The directory of the modules that belong to --kernel PATH
    #[arg(long, value_name = "DIR")]
    modules: Option<PathBuf>,
}

/// The kernels that the user chose.
#[derive(clap::Args, Clone, Debug)]
pub struct KernelChoices {
    /// 5.10, 6.1, 6.12 or 7 (Debian's), `all` of them, `host` (this machine's), or the path of a kernel image
    #[arg(long, value_name = "KERNEL")]
    kernel: Option<String>,
    /// The directory of the modules that belong to --kernel PATH
    #[arg(long, value_name = "DIR")]
    modules: Option<PathBuf>,
}

impl KernelChoices {
    /// What was chosen, or the kernel or kernels of this name.
    pub fn or(&self, default: &str) -> Result<Vec<KernelChoice>> {
        let name = self.kernel.as_deref().unwrap_or(default);
        if self.modules.is_some() && self.kernel.is_none() {
            bail!("--modules goes with --kernel PATH");
        }
        Ok(kernels::named(name)
            .into_iter()
            .map(|kernel| KernelChoice {
                kernel,
                modules: self.modules.clone(),
            })
            .collect())
    }
}

/// Brings in the lab with these kernels, and the programs that the caller needs `also`.
pub fn prepare(choices: &[KernelChoice], also: &[Installed]) -> Result<Lab> {
    let cache = Cache::open()?;
    let _lock = cache.lock()?;
    install_programs(INSTALLED.iter().chain(also))?;
    let busybox = unpack_program(&cache, &BUSYBOX)?;
    let promtool = unpack_program(&cache, &PROMTOOL)?;
    let kernels = choices
        .iter()
        .map(|choice| kernels::prepare(&cache, &busybox, &choice.kernel, choice.modules.as_deref()))
        .collect::<Result<_>>()?;
    let compiler = toolchain::prepare(&cache)?;
    let disk = disk::prepare(&cache)?;
    Ok(Lab {
        cache,
        compiler,
        promtool,
        disk,
        kernels,
    })
}

/// As much as building takes, for what runs on this machine's own kernel.
pub fn prepare_compiler() -> Result<Toolchain> {
    let cache = Cache::open()?;
    let _lock = cache.lock()?;
    install_programs([].iter())?;
    toolchain::prepare(&cache)
}

/// Installs what is missing of these programs and of the eBPF compiler: all at once, so that a person is asked once.
fn install_programs<'a>(programs: impl Iterator<Item = &'a Installed>) -> Result<()> {
    let missing = programs.filter(|(program, _)| command::find(program).is_none());
    let mut packages: Vec<&str> = missing.map(|(_, package)| *package).collect();
    let compiler = toolchain::missing_packages()?;
    packages.extend(&compiler);
    if packages.is_empty() {
        return Ok(());
    }
    let installed = apt::install(&packages);
    if compiler.is_empty() {
        installed
    } else {
        installed.with_context(toolchain::advice)
    }
}

fn unpack_program(cache: &Cache, wanted: &Unpacked) -> Result<PathBuf> {
    let directory = cache.path(wanted.program);
    if let Ok(program) = apt::placed(&directory, wanted.places) {
        return Ok(program);
    }
    if let Some(program) = command::find(wanted.program).filter(|program| (wanted.fits)(program)) {
        return Ok(program);
    }
    if !apt::is_available() {
        bail!(
            "{} is missing, and there is no apt-get here: put it on the PATH (Debian has it in {})",
            wanted.program,
            wanted.package
        );
    }
    apt::cache_anew(cache, &directory, &[wanted.package], &[wanted.places])?;
    apt::placed(&directory, wanted.places)
}

fn is_static(program: &Path) -> bool {
    std::fs::read(program)
        .is_ok_and(|image| elf::is_elf(&image) && elf::section(&image, ".interp").is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_program_is_not_taken_for_a_static_one() {
        assert!(!is_static(&std::env::current_exe().unwrap()));
        assert!(!is_static(Path::new("/etc/passwd")));
    }
}
