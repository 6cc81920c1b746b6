//! The lab's kernels: where each comes from, and how it is made ready to boot.

pub mod elf;
pub mod initrd;
pub mod modules;
pub mod vmlinux;

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::host::apt::{self, Archive, Suite};
use crate::host::cache::{self, Cache};
use crate::kernels::initrd::Cpio;

/// A kernel that Debian builds.
struct Release {
    name: &'static str,
    /// Tried in order: the machine's configuration may not know every archive.
    suites: &'static [(Archive, &'static str)],
}

const RELEASES: [Release; 4] = [
    Release {
        name: "5.10",
        suites: &[(Archive::Security, "bullseye-security")],
    },
    Release {
        name: DEFAULT,
        suites: &[
            (Archive::Security, "bookworm-security"),
            (Archive::Main, "bookworm"),
        ],
    },
    Release {
        name: "6.12",
        suites: &[
            (Archive::Security, "trixie-security"),
            (Archive::Main, "trixie"),
        ],
    },
    Release {
        name: "7",
        suites: &[(Archive::Main, "trixie-backports")],
    },
];

pub const DEFAULT: &str = "6.1";
/// Names every kernel of the table.
pub const ALL: &str = "all";
/// Names the running kernel of this machine.
const HOST: &str = "host";
const META_PACKAGE: &str = "linux-image-amd64";
/// The first parts of the names of the packages that a kernel is split into.
const PARTS: [&str; 4] = [
    "linux-image-",
    "linux-binary-",
    "linux-modules-",
    "linux-base-",
];

/// What QEMU needs to boot a kernel.
pub struct BootFiles {
    /// As the user names it: "6.1".
    pub name: String,
    /// For people: "Linux 6.1.0-1-amd64".
    pub title: String,
    pub image: PathBuf,
    /// The initial RAM disk, but for what each boot adds.
    pub archive: PathBuf,
    /// A directory of the modules that the guest loads later, and their order.
    pub drivers: PathBuf,
    /// Shown as /lib/modules/VERSION inside.
    pub modules: Option<PathBuf>,
}

/// A kernel before it is made ready.
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

/// Makes the kernel that the user named ready; quick if it is.
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
                fetch(cache, release, &directory)?;
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
            bail!("--modules goes with --kernel PATH; {name} brings its own");
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

fn fetch(cache: &Cache, release: &Release, target: &Path) -> Result<()> {
    let own = "use a kernel of your own: --kernel PATH --modules DIR, or --kernel host";
    if !apt::is_available() {
        bail!(
            "Debian's kernel {} needs apt-get and dpkg-deb: {own}",
            release.name
        );
    }
    eprintln!("setup: downloading Debian's kernel {}…", release.name);
    let mut last_error = None;
    for (archive, name) in release.suites {
        match fetch_from(cache, *archive, name, target) {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) => last_error = Some(error),
        }
    }
    match last_error {
        Some(error) => bail!(
            "cannot download Debian's kernel {}: {error:#}; try again, or {own}",
            release.name
        ),
        None => bail!(
            "Debian's kernel {} is out of reach, for apt's sources here name no Debian mirror: add one, or {own}",
            release.name
        ),
    }
}

/// False if this machine's apt configuration has no mirror of the archive.
fn fetch_from(cache: &Cache, archive: Archive, name: &str, target: &Path) -> Result<bool> {
    let Some(suite) = Suite::open(archive, name)? else {
        return Ok(false);
    };
    let scratch = cache.scratch()?;
    let packages = parts(&suite)?;
    let packages: Vec<&str> = packages.iter().map(String::as_str).collect();
    suite.unpack(&packages, scratch.path())?;

    let all_modules = apt::placed(scratch.path(), &["lib/modules", "usr/lib/modules"])?;
    let version = fs::read_dir(&all_modules)?
        .next()
        .context("the package holds no modules")??
        .file_name();

    let version = version.to_string_lossy().into_owned();
    let image = apt::placed(
        scratch.path(),
        &[
            &format!("boot/vmlinuz-{version}"),
            &format!("usr/lib/modules/{version}/vmlinuz"),
        ],
    )?;
    let finished = scratch.path().join("finished");
    fs::create_dir(&finished)?;
    fs::rename(image, finished.join("vmlinuz"))?;
    fs::rename(all_modules.join(&version), finished.join("modules"))?;
    fs::write(finished.join("version"), &version)?;
    Cache::publish(&finished, target)?;
    Ok(true)
}

/// The packages behind the meta package; some kernels are one, others are split.
fn parts(suite: &Suite) -> Result<Vec<String>> {
    let mut found: Vec<String> = suite.dependencies(META_PACKAGE)?;
    found.retain(|name| is_part(name));
    if found.is_empty() {
        bail!("{META_PACKAGE} names no kernel");
    }
    for package in found.clone() {
        found.extend(
            suite
                .dependencies(&package)?
                .into_iter()
                .filter(|name| is_part(name)),
        );
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// Whether the name is that of a part of one version of the kernel.
fn is_part(package: &str) -> bool {
    PARTS
        .iter()
        .filter_map(|prefix| package.strip_prefix(prefix))
        .any(|version| version.starts_with(|c: char| c.is_ascii_digit()))
}

/// Writes the image that QEMU starts and the RAM disk into `directory`, unless they are there.
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
            Err(error) => eprintln!("setup: booting {} as it is: {error:#}", image.display()),
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

/// Writes the drivers into a directory of their own, which the guest sees as it sees all files here.
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

/// Writes each module as NAME.ko; the names in order, a line each.
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

/// Changes when anything that goes into a prepared kernel does.
fn recipe_of(fingerprint: String, inputs: &[&Path]) -> Result<String> {
    let mut recipe = vec![fingerprint];
    for path in inputs {
        let data = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
        let modified = data.modified().context("no time stamp")?;
        recipe.push(format!("{} {} {modified:?}", path.display(), data.len()));
    }
    Ok(recipe.join("\n"))
}

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
    fn the_table_is_well_formed() {
        for (index, release) in RELEASES.iter().enumerate() {
            assert!(!release.suites.is_empty());
            assert!(
                RELEASES[..index]
                    .iter()
                    .all(|other| other.name != release.name)
            );
        }
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

    #[test]
    fn parts_of_a_kernel_are_told_from_meta_packages() {
        for part in [
            "linux-image-6.1.0-1-amd64",
            "linux-binary-7.3.4+deb13-amd64",
            "linux-base-7.3.4+deb13-amd64",
        ] {
            assert!(is_part(part), "{part}");
        }
        for other in [
            "linux-base",
            "linux-base-amd64",
            "linux-image-amd64",
            "initramfs-tools",
        ] {
            assert!(!is_part(other), "{other}");
        }
    }
}
