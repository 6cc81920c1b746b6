//! Debian packages: installed where they must be, unpacked into the cache where that is enough.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;

use anyhow::{Context, Result, anyhow, bail};
use tempfile::TempDir;

use crate::host::cache::Cache;
use crate::host::{command, consent};

/// Which of Debian's archives holds a suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Archive {
    Main,
    Security,
}

impl Archive {
    /// What the archive calls itself in its Release files.
    fn label(self) -> &'static str {
        match self {
            Self::Main => "Debian",
            Self::Security => "Debian-Security",
        }
    }
}

pub fn is_available() -> bool {
    command::find("apt-get").is_some() && command::find("dpkg-deb").is_some()
}

/// What a person would type to get `packages`.
pub fn by_hand(packages: &[&str]) -> String {
    format!(
        "sudo apt-get update && sudo apt-get install -y {}",
        packages.join(" ")
    )
}

/// Installs as root; an error holds the command line for someone who is.
pub fn install(packages: &[&str]) -> Result<()> {
    let names = packages.join(", ");
    if !is_available() {
        bail!(
            "missing, by Debian's names: {names}; there is no apt-get here, so install the same \
             with this system's package manager"
        );
    }
    consent::obtain(&format!(
        "apt-get, as root, refreshes its package lists and installs {names}"
    ))?;
    let refreshed = update();
    eprintln!("setup: installing {names} (apt-get)…");
    as_root()
        .and_then(|mut command| {
            command.args(["apt-get", "install", "-y", "-q", "--no-install-recommends"]);
            command::output(command.args(packages)).map(drop)
        })
        // Lists that cannot be refreshed may still do; if they do not, that is the cause.
        .map_err(|error| advise(&refreshed.err().unwrap_or(error), packages))
}

/// Downloads packages with this machine's own apt configuration and unpacks them into `target`.
fn unpack(packages: &[&str], target: &Path) -> Result<()> {
    let refreshed = update();
    download(command::tool("apt-get"), packages, target)
        .map_err(|error| advise(&refreshed.err().unwrap_or(error), packages))
}

/// Packages in the cache, since installed ones would start or are of no use to anybody else; downloaded if
/// one of these programs is not there. The directory stands for `/` in them.
pub fn cached(cache: &Cache, name: &str, packages: &[&str], programs: &[&str]) -> Result<PathBuf> {
    let directory = cache.path(name);
    // Unlike `exists`, this sees links that lead to nothing.
    let has = |place: &&str| directory.join(place).symlink_metadata().is_ok();
    if programs.iter().all(has) {
        return Ok(directory);
    }
    let _lock = cache.lock()?;
    let places: Vec<_> = programs.iter().map(std::slice::from_ref).collect();
    cache_anew(cache, &directory, packages, &places)?;
    Ok(directory)
}

/// Downloads packages into a directory of the cache, once a program is at one of each of these places.
pub fn cache_anew(
    cache: &Cache,
    directory: &Path,
    packages: &[&str],
    places: &[&[&str]],
) -> Result<()> {
    eprintln!("setup: downloading {}…", packages.join(", "));
    let scratch = cache.scratch()?;
    let root = scratch.path().join("root");
    fs::create_dir(&root).context("cannot create a directory in the cache")?;
    unpack(packages, &root)?;
    for places in places {
        placed(&root, places)?;
    }
    Cache::publish(&root, directory)
}

fn advise(error: &anyhow::Error, packages: &[&str]) -> anyhow::Error {
    anyhow!(
        "cannot get {}: {error:#}; by hand: `{}`",
        packages.join(", "),
        by_hand(packages)
    )
}

/// Refreshes this machine's package lists, once a run and before anything is taken by them: lists as old as
/// the machine's image lead to packages that are gone, or to versions that are too old.
fn update() -> Result<()> {
    static ONCE: Once = Once::new();
    let mut result = Ok(());
    ONCE.call_once(|| {
        result = consent::obtain("apt-get, as root, refreshes this machine's package lists")
            .and_then(|()| as_root())
            .and_then(|mut command| {
                command::output(command.args(["apt-get", "update", "-q"])).map(drop)
            });
    });
    result
}

fn as_root() -> Result<Command> {
    // SAFETY: takes nothing and cannot fail.
    if unsafe { libc::geteuid() } == 0 {
        let mut command = Command::new("env");
        command.arg("DEBIAN_FRONTEND=noninteractive");
        return Ok(command);
    }
    if !command::succeeds(Command::new("sudo").args(["-n", "true"])) {
        bail!("this needs root, and `sudo -n` does not give it");
    }
    let mut command = Command::new("sudo");
    command.args(["-n", "env", "DEBIAN_FRONTEND=noninteractive"]);
    Ok(command)
}

fn download(mut apt_get: Command, packages: &[&str], target: &Path) -> Result<()> {
    let directory = TempDir::new_in(target).context("cannot create a directory to download to")?;
    apt_get
        // The user _apt cannot write to a private directory, and apt warns about it.
        .args(["-q", "-o", "APT::Sandbox::User=root", "download"])
        .args(packages)
        .current_dir(directory.path());
    command::output(&mut apt_get)?;
    for entry in fs::read_dir(directory.path())? {
        let package = entry?.path();
        if package
            .extension()
            .is_some_and(|extension| extension == "deb")
        {
            command::output(
                command::tool("dpkg-deb")
                    .arg("-x")
                    .arg(&package)
                    .arg(target),
            )?;
        }
    }
    Ok(())
}

/// The name of the file that holds a suite's configuration.
const CONFIGURATION: &str = "apt.conf";

fn configuration(directory: &Path) -> String {
    let path = |part: &str| directory.join(part).display().to_string();
    [
        ("Dir::Etc::SourceList", path("sources.list")),
        ("Dir::Etc::SourceParts", "-".into()),
        ("Dir::Etc::Preferences", "-".into()),
        ("Dir::Etc::PreferencesParts", "-".into()),
        ("Dir::State::Lists", path("lists")),
        ("Dir::Cache", path("cache")),
        // The user _apt cannot read a private directory.
        ("APT::Sandbox::User", "root".into()),
        ("APT::Architecture", "amd64".into()),
        ("APT::Update::Error-Mode", "any".into()),
        ("Acquire::Languages", "none".into()),
        (
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled",
            "false".into(),
        ),
        // A suite that is no longer cared for stays as good a lab as it was.
        ("Acquire::Check-Valid-Until", "false".into()),
    ]
    .map(|(name, value)| format!("{name} \"{value}\";\n"))
    .concat()
}

/// An apt configuration of its own for one suite, which leaves the machine's own as it is.
pub struct Suite {
    directory: TempDir,
}

impl Suite {
    /// The suite as the mirror that this machine uses has it; `None` if it uses none.
    pub fn open(archive: Archive, name: &str) -> Result<Option<Self>> {
        let Some(mirror) = mirror(archive)? else {
            return Ok(None);
        };
        let directory = TempDir::new().context("cannot create a temporary directory")?;
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(directory.path().join(part))?;
        }
        let keyring = Path::new("/usr/share/keyrings/debian-archive-keyring.gpg");
        let signed = if keyring.exists() {
            format!(" signed-by={}", keyring.display())
        } else {
            String::new()
        };
        fs::write(
            directory.path().join("sources.list"),
            format!("deb [arch=amd64{signed}] {mirror} {name} main\n"),
        )?;
        fs::write(
            directory.path().join(CONFIGURATION),
            configuration(directory.path()),
        )?;
        let suite = Self { directory };

        command::output(suite.apt("apt-get").args(["-q", "update"]))
            .with_context(|| format!("cannot read the suite {name} of {mirror}"))?;
        Ok(Some(suite))
    }

    /// apt-get or apt-cache, with the configuration of this suite after the machine's own.
    fn apt(&self, program: &str) -> Command {
        let mut command = command::tool(program);
        command
            .arg("-c")
            .arg(self.directory.path().join(CONFIGURATION));
        command
    }

    /// The names of what `package` depends on.
    pub fn dependencies(&self, package: &str) -> Result<Vec<String>> {
        let text = command::text(self.apt("apt-cache").args(["depends", package]))?;
        Ok(parse_dependencies(&text))
    }

    /// Downloads packages and unpacks them into `target`.
    pub fn unpack(&self, packages: &[&str], target: &Path) -> Result<()> {
        download(self.apt("apt-get"), packages, target)
    }
}

fn parse_dependencies(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| {
            line.trim()
                .trim_start_matches(['|', ' '])
                .split_once("epends: ")
        })
        .map(|(_, name)| name.to_owned())
        .collect()
}

fn mirror(archive: Archive) -> Result<Option<String>> {
    let targets = || {
        let mut command = command::tool("apt-get");
        command.args([
            "indextargets",
            "--format",
            "$(LABEL)|$(REPO_URI)",
            "Created-By: Packages",
        ]);
        command::text(&mut command)
    };
    let mut found = targets()?;
    // Labels are known once the package lists are there.
    if !knows_labels(&found) {
        update()?;
        found = targets()?;
        if !knows_labels(&found) {
            bail!("apt has no package lists and cannot fetch any: is there a network?");
        }
    }
    Ok(parse_mirror(&found, archive.label()))
}

/// What apt does not know of a source, it leaves out or leaves as it stands in the format.
fn knows_labels(targets: &str) -> bool {
    targets
        .lines()
        .any(|line| !line.starts_with('|') && !line.starts_with('$'))
}

fn parse_mirror(text: &str, label: &str) -> Option<String> {
    text.lines()
        .filter_map(|line| line.split_once('|'))
        .find(|(found, uri)| *found == label && !uri.starts_with("cdrom:"))
        .map(|(_, uri)| uri.to_owned())
}

/// The first file under `root` that is at one of `places`: packages have moved from / to /usr.
pub fn placed(root: &Path, places: &[&str]) -> Result<PathBuf> {
    places
        .iter()
        .map(|place| root.join(place))
        .find(|path| path.exists())
        .with_context(|| format!("the package does not hold {}", places.join(" or ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_chosen_by_its_label() {
        let text = "Other|http://a/\nDebian|cdrom://b/\nDebian|http://c/debian/\nDebian-Security|http://c/s/\n";
        assert_eq!(
            parse_mirror(text, Archive::Main.label()).as_deref(),
            Some("http://c/debian/")
        );
        assert_eq!(
            parse_mirror(text, Archive::Security.label()).as_deref(),
            Some("http://c/s/")
        );
        assert!(knows_labels(text));
        assert!(!knows_labels("|http://a/\n$(LABEL)|http://b/\n"));
        assert_eq!(
            parse_mirror("Ubuntu|http://u/\n", Archive::Main.label()),
            None
        );
    }

    #[test]
    fn dependencies_are_read_from_apt_cache() {
        let text = "linux-image-amd64\n  Depends: linux-image-6.1.0-1-amd64\n |PreDepends: x\n  Suggests: y\n";
        assert_eq!(parse_dependencies(text), ["linux-image-6.1.0-1-amd64", "x"]);
    }

    #[test]
    fn advice_can_be_pasted() {
        assert_eq!(
            by_hand(&["a", "b"]),
            "sudo apt-get update && sudo apt-get install -y a b"
        );
    }
}
