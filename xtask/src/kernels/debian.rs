//! The kernels that Debian builds, and how the lab downloads them.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::host::apt::{self, Archive, Suite};
use crate::host::cache::Cache;

pub struct Release {
    pub name: &'static str,
    /// The suites to try, in this order. This machine's apt may have no mirror of some archives.
    suites: &'static [(Archive, &'static str)],
}

pub const RELEASES: [Release; 4] = [
    Release {
        name: "5.10",
        suites: &[(Archive::Security, "bullseye-security")],
    },
    Release {
        name: "6.1",
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

const META_PACKAGE: &str = "linux-image-amd64";
/// The prefixes of the packages that together hold one kernel.
const PARTS: [&str; 4] = [
    "linux-image-",
    "linux-binary-",
    "linux-modules-",
    "linux-base-",
];

pub fn fetch(cache: &Cache, release: &Release, target: &Path) -> Result<()> {
    let own = "use your own kernel: --kernel PATH --modules DIR, or --kernel host";
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
            "cannot download Debian's kernel {}, because the apt sources of this machine name no Debian mirror: add one, or {own}",
            release.name
        ),
    }
}

/// Downloads a kernel from one suite. False if this machine's apt has no mirror of the archive.
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

/// The packages of the newest kernel: those of [`PARTS`] that the meta package depends on.
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

/// Whether the package belongs to one version of the kernel.
fn is_part(package: &str) -> bool {
    PARTS
        .iter()
        .filter_map(|prefix| package.strip_prefix(prefix))
        .any(|version| version.starts_with(|c: char| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

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
