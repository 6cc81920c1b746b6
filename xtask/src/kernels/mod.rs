//! The lab's kernels: their sources, and their preparation for the boot.

mod debian;
pub mod elf;
pub mod initrd;
mod modules;
mod vmlinux;

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::host::cache::{self, Cache};
use debian::{RELEASES, Release};
use initrd::Cpio;

pub const DEFAULT: &str = "6.1";
/// Stands for all kernels of [`RELEASES`].
pub const ALL: &str = "all";
/// Stands for the running kernel of this machine.
const HOST: &str = "host";

/// What QEMU needs to boot a kernel.
pub struct BootFiles {
    /// The name on the command line, such as "6.1".
    pub name: String,
    /// The title in messages, such as "Linux 6.1.0-1-amd64".
    pub title: String,
    pub image: PathBuf,
    /// The initial RAM disk, without the files that each boot adds.
    pub archive: PathBuf,
    /// The directory of the drivers that the guest loads after the boot, with their order.
    pub drivers: PathBuf,
    /// The directory that the guest sees as /lib/modules/VERSION.
    pub modules: Option<PathBuf>,
}

/// A kernel before its preparation.
enum Source {
    Debian(&'static Release),
    Own { image: PathBuf, modules: PathBuf },
}

/// The kernels that a name of the command line stands for.
pub fn named(name: &str) -> Vec<String> {
    if name == ALL {
        RELEASES
            .iter()
            .map(|release| release.name.to_owned())
            .collect()
    } else {
        vec![name.to_owned()]
    }
}

/// Prepares the kernel that the user named, unless it is prepared already.
pub fn prepare(
    cache: &Cache,
    busybox: &Path,
    name: &str,
    modules: Option<&Path>,
) -> Result<BootFiles> {
    match find(name, modules)? {
        Source::Debian(release) => {
            let directory = cache.path("kernels").join(release.name);
            if !directory.exists() {
                debian::fetch(cache, release, &directory)?;
            }
            let version = fs::read_to_string(directory.join("version"))
                .with_context(|| format!("{} is damaged: remove it", directory.display()))?;
            let title = format!("Linux {}", version.trim());
            assemble(
                &directory,
                busybox,
                (name.to_owned(), title),
                &directory.join("vmlinuz"),
                &directory.join("modules"),
            )
        }
        Source::Own { image, modules } => {
            let mut hasher = DefaultHasher::new();
            (&image, &modules).hash(&mut hasher);
            let directory = cache
                .path("kernels")
                .join(format!("own-{:016x}", hasher.finish()));
            fs::create_dir_all(&directory)
                .with_context(|| format!("cannot create {}", directory.display()))?;
            assemble(
                &directory,
                busybox,
                (name.to_owned(), image.display().to_string()),
                &image,
                &modules,
            )
        }
    }
}

fn find(name: &str, modules: Option<&Path>) -> Result<Source> {
    let existing = |path: &Path, what: &str| {
        path.canonicalize()
            .with_context(|| format!("there is no {what} at {}", path.display()))
    };
    if let Some(release) = RELEASES.iter().find(|release| release.name == name) {
        if modules.is_some() {
            bail!("--modules is only for --kernel PATH; {name} has its own modules");
        }
        return Ok(Source::Debian(release));
    }
    if name == HOST {
        let version = fs::read_to_string("/proc/sys/kernel/osrelease")
            .context("cannot read the kernel's version")?;
        let version = version.trim();
        let default = PathBuf::from(format!("/lib/modules/{version}"));
        return Ok(Source::Own {
            image: existing(
                Path::new(&format!("/boot/vmlinuz-{version}")),
                "kernel image",
            )?,
            modules: existing(modules.unwrap_or(&default), "modules directory")?,
        });
    }
    if !Path::new(name).exists() {
        bail!(
            "there is no kernel {name}: --kernel takes {}, {HOST}, or the path of a kernel image",
            RELEASES.map(|release| release.name).join(", ")
        );
    }
    let modules = modules.context(
        "--kernel PATH also needs --modules DIR, the directory of that kernel's modules (lib/modules/VERSION)",
    )?;
    Ok(Source::Own {
        image: existing(Path::new(name), "kernel image")?,
        modules: existing(modules, "modules directory")?,
    })
}

/// Writes the image that QEMU starts and the RAM disk into `directory`, unless up-to-date ones are there.
fn assemble(
    directory: &Path,
    busybox: &Path,
    (name, title): (String, String),
    image: &Path,
    modules: &Path,
) -> Result<BootFiles> {
    let vmlinux = directory.join("vmlinux");
    let archive = directory.join("initrd");
    let recipe = directory.join("recipe");
    let wanted = recipe_of(modules::fingerprint(), &[busybox, image, modules])?;
    if fs::read_to_string(&recipe).ok().as_deref() != Some(&wanted) {
        eprintln!("setup: preparing {title} for the lab…");
        let _ = fs::remove_file(&vmlinux);
        let bytes = fs::read(image).with_context(|| format!("cannot read {}", image.display()))?;
        match vmlinux::extract(&bytes) {
            Ok(kernel) => cache::write_if_changed(&vmlinux, &kernel)?,
            Err(_) if !vmlinux::is_kernel(&bytes) => {
                bail!("{} is not a kernel image", image.display())
            }
            Err(error) => eprintln!(
                "setup: cannot unpack {}, so the lab boots the image itself: {error:#}",
                image.display()
            ),
        }
        cache::write_if_changed(&archive, &base_archive(busybox, modules)?)?;
        cache::write_if_changed(&recipe, wanted.as_bytes())?;
    }
    let drivers = prepare_drivers(directory, modules)?;
    Ok(BootFiles {
        name,
        title,
        image: if vmlinux.exists() {
            vmlinux
        } else {
            image.to_owned()
        },
        archive,
        drivers,
        modules: Some(modules.to_owned()),
    })
}

/// Writes the drivers into a directory, which the guest sees as a part of this machine's file system.
fn prepare_drivers(directory: &Path, modules: &Path) -> Result<PathBuf> {
    let drivers = directory.join("drivers");
    let recipe = drivers.join("recipe");
    let wanted = recipe_of(modules::drivers_fingerprint(), &[modules])?;
    if fs::read_to_string(&recipe).ok().as_deref() != Some(&wanted) {
        fs::create_dir_all(&drivers)
            .with_context(|| format!("cannot create {}", drivers.display()))?;
        let order = write_modules(&modules::drivers(modules)?, |name, content| {
            cache::write_if_changed(&drivers.join(name), content)
        })?;
        cache::write_if_changed(&drivers.join("order"), order.as_bytes())?;
        cache::write_if_changed(&recipe, wanted.as_bytes())?;
    }
    Ok(drivers)
}

/// Writes each module as NAME.ko, and returns the names, one line each, in the order of loading.
fn write_modules(
    modules: &[modules::Module],
    mut write: impl FnMut(&str, &[u8]) -> Result<()>,
) -> Result<String> {
    let mut order = String::new();
    for module in modules {
        order.push_str(&module.name);
        order.push('\n');
        write(&format!("{}.ko", module.name), &module.content)?;
    }
    Ok(order)
}

/// A text that changes when an input of a prepared kernel changes.
fn recipe_of(fingerprint: String, inputs: &[&Path]) -> Result<String> {
    let mut recipe = vec![fingerprint];
    for path in inputs {
        let data = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
        let modified = data.modified().context("no time stamp")?;
        recipe.push(format!("{} {} {modified:?}", path.display(), data.len()));
    }
    Ok(recipe.join("\n"))
}

/// The RAM disk of all boots: busybox and the modules.
fn base_archive(busybox: &Path, modules: &Path) -> Result<Vec<u8>> {
    let mut cpio = Cpio::default();
    for directory in [
        "bin", "dev", "proc", "sys", "host", "layers", "root", "modules",
    ] {
        cpio.directory(directory);
    }
    let busybox =
        fs::read(busybox).with_context(|| format!("cannot read {}", busybox.display()))?;
    cpio.file("bin/busybox", &busybox);
    let order = write_modules(&modules::load_order(modules)?, |name, content| {
        cpio.file(&format!("modules/{name}"), content);
        Ok(())
    })?;
    cpio.file("modules/order", order.as_bytes());
    Ok(cpio.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_in_the_table() {
        assert!(
            matches!(find(DEFAULT, None), Ok(Source::Debian(release)) if release.name == "6.1")
        );
    }

    #[test]
    fn all_are_those_of_the_table() {
        assert_eq!(named(ALL), ["5.10", "6.1", "6.12", "7"]);
        assert_eq!(named("host"), ["host"]);
    }

    #[test]
    fn an_unknown_kernel_names_the_known_ones() {
        let error = find("2.4", None).err().unwrap().to_string();
        assert!(error.contains("5.10, 6.1, 6.12, 7, host"), "{error}");
    }

    #[test]
    fn a_kernel_of_one_s_own_needs_modules() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = find(file.path().to_str().unwrap(), None).err().unwrap();
        assert!(error.to_string().contains("--modules DIR"));
        assert!(find("6.1", Some(Path::new("/"))).is_err());
    }
}
