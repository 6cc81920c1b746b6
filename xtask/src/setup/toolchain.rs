//! What compiles the eBPF programs: a compiler with the source of `core`, and a linker that reads
//! the LLVM bitcode this compiler writes. The result is a file that the profiler's build reads.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::host::cache::{self, Cache};
use crate::host::{apt, command};

const LINKER_VERSION: &str = "0.10.3";
/// The LLVM versions that this bpf-linker can be built for.
const LINKER_LLVMS: [u32; 3] = [20, 21, 22];
/// Debian's compiler and its source; both are under /usr, which rustup takes for a toolchain.
const DEBIAN_PACKAGES: [&str; 2] = ["rustc-web", "rust-web-src"];
const DEBIAN_TOOLCHAIN: &str = "/usr";
const CORE_SOURCE: &str = "lib/rustlib/src/rust/library/core/Cargo.toml";

/// A compiler that `rustup run NAME` starts.
#[derive(Debug)]
pub struct Toolchain {
    /// A name known to rustup, or an absolute path.
    pub name: String,
    pub sysroot: PathBuf,
    llvm: u32,
    /// The version as rustc prints it.
    release: String,
}

impl Toolchain {
    fn inspect(name: &str) -> Result<Self> {
        let rustc = |arguments: &[&str]| {
            command::text(
                Command::new("rustup")
                    .args(["run", name, "rustc"])
                    .args(arguments),
            )
        };
        let version = rustc(&["-vV"])?;
        let field = |key: &str| {
            version
                .lines()
                .find_map(|line| line.strip_prefix(key))
                .map(str::trim)
                .with_context(|| format!("`rustup run {name} rustc -vV` prints no {key}"))
        };
        Ok(Self {
            name: name.to_owned(),
            sysroot: PathBuf::from(rustc(&["--print", "sysroot"])?.trim()),
            llvm: major(field("LLVM version:")?).context("rustc names no LLVM version")?,
            release: field("release:")?.to_owned(),
        })
    }

    fn has_core_source(&self) -> bool {
        self.sysroot.join(CORE_SOURCE).exists()
    }

    /// Whether bpf-linker can borrow this compiler's LLVM.
    fn has_llvm_library(&self) -> bool {
        fs::read_dir(self.sysroot.join("lib")).is_ok_and(|entries| {
            entries
                .filter_map(Result::ok)
                .any(|entry| entry.file_name().to_string_lossy().starts_with("libLLVM"))
        })
    }

    pub fn has_clippy(&self) -> bool {
        ["cargo", "cargo-clippy", "clippy-driver"]
            .iter()
            .all(|program| self.sysroot.join("bin").join(program).exists())
    }
}

/// "22" of "22.1.2".
fn major(version: &str) -> Option<u32> {
    version.split('.').next()?.parse().ok()
}

/// Brings in what is missing, and writes down what the profiler's build is to use.
pub fn prepare(cache: &Cache) -> Result<Toolchain> {
    let names = installed()?;
    let compiler = compiler(&names)?.with_context(advice)?;
    let library = llvm_owner(&compiler, &names)?;
    let root = cache.path("bpf-linker");
    let built_for = linker_llvm(&root);
    if built_for != Some(compiler.llvm) {
        build_linker(&root, &library)?;
    }
    let environment = environment(&compiler, &root.join("bin"), &library.sysroot.join("lib"));
    cache::write_if_changed(&cache.path("ebpf-build.env"), environment.as_bytes())?;
    Ok(compiler)
}

/// The lines that the profiler's build script reads.
fn environment(compiler: &Toolchain, linker: &Path, library: &Path) -> String {
    let mut lines = format!(
        "toolchain={}\npath={}\nld_library_path={}\n",
        compiler.name,
        linker.display(),
        library.display()
    );
    // Building core is an unstable feature, which only a nightly compiler allows unasked.
    if !compiler.release.contains("nightly") {
        lines += "bootstrap=1\n";
    }
    lines
}

/// The toolchains that rustup has, the active one first.
fn installed() -> Result<Vec<String>> {
    if command::find("rustup").is_none() {
        bail!(
            "rustup is missing, which starts the compilers here: install it from https://rustup.rs"
        );
    }
    let list = command::text(Command::new("rustup").args(["toolchain", "list"]))?;
    Ok(parse_toolchains(&list))
}

fn parse_toolchains(list: &str) -> Vec<String> {
    let mut lines: Vec<&str> = list.lines().filter(|line| line.contains('-')).collect();
    lines.sort_by_key(|line| !line.contains("active") && !line.contains("default"));
    lines
        .iter()
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

/// The packages that must be installed to compile for eBPF: none if a compiler that can is there.
pub fn missing_packages() -> Result<Vec<&'static str>> {
    Ok(match compiler(&installed()?)? {
        Some(_) => Vec::new(),
        None => DEBIAN_PACKAGES.to_vec(),
    })
}

/// A nightly with the source of core, else Debian's compiler, if one of them is there.
fn compiler(names: &[String]) -> Result<Option<Toolchain>> {
    for name in names.iter().filter(|name| name.starts_with("nightly")) {
        let toolchain = Toolchain::inspect(name)?;
        if toolchain.has_core_source() && LINKER_LLVMS.contains(&toolchain.llvm) {
            return Ok(Some(toolchain));
        }
    }
    if !Path::new(DEBIAN_TOOLCHAIN).join("bin/rustc").exists() {
        return Ok(None);
    }
    let toolchain = Toolchain::inspect(DEBIAN_TOOLCHAIN).ok();
    Ok(toolchain
        .filter(|toolchain| toolchain.has_core_source() && LINKER_LLVMS.contains(&toolchain.llvm)))
}

/// What to do where no package brings a compiler.
pub fn advice() -> String {
    format!(
        "no compiler here has the source of core for the bpf target: run `rustup toolchain install nightly \
         --component rust-src`, or on Debian `{}`",
        apt::by_hand(&DEBIAN_PACKAGES)
    )
}

/// The toolchain of rustup whose LLVM the linker loads: it must read what the compiler writes.
fn llvm_owner(compiler: &Toolchain, names: &[String]) -> Result<Toolchain> {
    let mut seen = Vec::new();
    for name in std::iter::once(&compiler.name)
        .chain(names)
        .filter(|name| !name.starts_with('/'))
    {
        let toolchain = Toolchain::inspect(name)?;
        if toolchain.llvm == compiler.llvm && toolchain.has_llvm_library() {
            return Ok(toolchain);
        }
        seen.push(format!("{name} has {}", toolchain.llvm));
    }
    bail!(
        "the eBPF compiler {} ({}) writes LLVM {} and no toolchain of rustup reads it ({}): run `rustup toolchain \
         install {}`",
        compiler.name,
        compiler.release,
        compiler.llvm,
        seen.join(", "),
        compiler.release
    );
}

/// The LLVM version that the installed bpf-linker was built for.
fn linker_llvm(root: &Path) -> Option<u32> {
    root.join("bin/bpf-linker").exists().then_some(())?;
    let record: Value = serde_json::from_slice(&fs::read(root.join(".crates2.json")).ok()?).ok()?;
    parse_linker_llvm(&record)
}

fn parse_linker_llvm(record: &Value) -> Option<u32> {
    let (_, install) = record["installs"]
        .as_object()?
        .iter()
        .find(|(name, _)| name.starts_with(&format!("bpf-linker {LINKER_VERSION} ")))?;
    install["rustc"]
        .as_str()?
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version:"))
        .and_then(|version| major(version.trim()))
}

fn build_linker(root: &Path, toolchain: &Toolchain) -> Result<()> {
    eprintln!("setup: building bpf-linker {LINKER_VERSION} (a minute or two)…");
    let llvm = toolchain.llvm;
    let mut cargo = Command::new("rustup");
    cargo
        .args([
            "run",
            &toolchain.name,
            "cargo",
            "install",
            "--quiet",
            "--locked",
            "--force",
        ])
        .arg(format!("bpf-linker@{LINKER_VERSION}"))
        .args(["--no-default-features", "--features"])
        .arg(format!("llvm-{llvm},rust-llvm-{llvm}"))
        .arg("--root")
        .arg(root)
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("RUSTFLAGS");
    let by_hand = format!("build it by hand: `{}`", command::shown(&cargo));
    command::output(&mut cargo).with_context(|| format!("cannot build bpf-linker; {by_hand}"))?;
    if linker_llvm(root) != Some(llvm) {
        bail!("the bpf-linker just built is not for LLVM {llvm}; {by_hand}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn toolchain(name: &str, release: &str) -> Toolchain {
        Toolchain {
            name: name.into(),
            sysroot: "/sysroot".into(),
            llvm: 22,
            release: release.into(),
        }
    }

    #[test]
    fn only_a_stable_compiler_is_bootstrapped() {
        let lines = |toolchain: &Toolchain| {
            environment(toolchain, Path::new("/c/bin"), Path::new("/t/lib"))
        };
        assert_eq!(
            lines(&toolchain("/usr", "1.96.0")),
            "toolchain=/usr\npath=/c/bin\nld_library_path=/t/lib\nbootstrap=1\n"
        );
        assert!(!lines(&toolchain("nightly", "1.97.0-nightly")).contains("bootstrap"));
    }

    #[test]
    fn the_active_toolchain_comes_first() {
        let list =
            "nightly-x86_64-unknown-linux-gnu\nstable-x86_64-unknown-linux-gnu (active, default)\n";
        assert_eq!(
            parse_toolchains(list),
            [
                "stable-x86_64-unknown-linux-gnu",
                "nightly-x86_64-unknown-linux-gnu"
            ]
        );
        assert!(parse_toolchains("no installed toolchains\n").is_empty());
    }

    #[test]
    fn the_linker_s_llvm_is_that_of_its_compiler() {
        let record = |name: &str| serde_json::json!({"installs": {name: {"rustc": "rustc 1.95.0\nLLVM version: 22.1.2\n"}}});
        assert_eq!(
            parse_linker_llvm(&record("bpf-linker 0.10.3 (registry)")),
            Some(22)
        );
        assert_eq!(
            parse_linker_llvm(&record("bpf-linker 0.9.1 (registry)")),
            None
        );
        assert_eq!(parse_linker_llvm(&Value::Null), None);
    }

    #[test]
    fn versions_are_split() {
        assert_eq!(major("22.1.2"), Some(22));
        assert_eq!(major("unknown"), None);
    }
}
