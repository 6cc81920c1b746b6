//! Builds the eBPF object with the toolchain that `cargo xtask setup` found, for `probes` to embed.

use std::{
    collections::HashMap,
    env, fs,
    path::{Path, PathBuf},
    process::exit,
};

use anyhow::Context;
use aya_build::{Package, Toolchain};
use object::build::elf::{Builder, SectionData};
use object::elf::SHT_STRTAB;

const EBPF: &str = "zc-profiler-ebpf";
const EBPF_ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../zc-profiler-ebpf");

fn main() {
    if let Err(error) = build() {
        eprintln!("the eBPF object could not be built: {error:#}");
        exit(1);
    }
}

fn build() -> anyhow::Result<()> {
    let settings = cache_dir()?.join("ebpf-build.env");
    println!("cargo:rerun-if-changed={}", settings.display());
    println!("cargo:rerun-if-env-changed=XDG_CACHE_HOME");
    let Ok(text) = fs::read_to_string(&settings) else {
        anyhow::bail!("no eBPF toolchain is set up; run: cargo xtask setup");
    };
    let settings: HashMap<&str, &str> = text
        .lines()
        .filter_map(|line| line.split_once('='))
        .collect();
    let named = settings.get("toolchain").copied().unwrap_or("nightly");
    // A directory (Debian's compiler lies in /usr) has no cargo of its own: this toolchain's builds
    // with that compiler.
    let own = env::var("RUSTUP_TOOLCHAIN");
    let toolchain = match &own {
        Ok(own) if named.starts_with('/') => {
            set("CARGO_BUILD_RUSTC", format!("{named}/bin/rustc"));
            own
        }
        _ => named,
    };
    // aya-build turns every line into a warning; only warnings should be.
    set("CARGO_TERM_QUIET", "true");
    prepend("PATH", settings.get("path").copied());
    prepend("LD_LIBRARY_PATH", settings.get("ld_library_path").copied());
    if settings.get("bootstrap") == Some(&"1") {
        set("RUSTC_BOOTSTRAP", "1");
    }
    let package = Package {
        name: EBPF,
        root_dir: EBPF_ROOT,
        no_default_features: false,
        features: &[],
    };
    aya_build::build_ebpf([package], Toolchain::Custom(toolchain))
        .context("if the toolchain has changed, run: cargo xtask setup")?;
    let out_dir = env::var_os("OUT_DIR").context("cargo sets OUT_DIR")?;
    let object = PathBuf::from(out_dir).join(EBPF);
    strip(&object).with_context(|| format!("cannot strip {}", object.display()))
}

/// Takes out the debug information, most of the file: the linker made the BTF from it, and nobody
/// reads it after that. LLVM cannot leave it out.
fn strip(object: &Path) -> anyhow::Result<()> {
    let whole = fs::read(object)?;
    let mut builder = Builder::read(&*whole)?;
    for section in &mut builder.sections {
        section.delete = [".debug_", ".rel.debug_"]
            .iter()
            .any(|prefix| section.name.starts_with(prefix.as_bytes()));
    }
    // LLVM has one table for the names of sections and symbols, this writer has two.
    let names = builder.sections.add();
    names.name = ".shstrtab".into();
    names.sh_type = SHT_STRTAB;
    names.data = SectionData::SectionString;
    let mut stripped = Vec::new();
    builder.write(&mut stripped)?;
    fs::write(object, stripped)?;
    Ok(())
}

fn cache_dir() -> anyhow::Result<PathBuf> {
    if let Some(dir) = env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()) {
        return Ok(PathBuf::from(dir).join("zc-profiler"));
    }
    let home = env::var_os("HOME")
        .ok_or_else(|| anyhow::anyhow!("neither XDG_CACHE_HOME nor HOME is set"))?;
    Ok(PathBuf::from(home).join(".cache/zc-profiler"))
}

fn prepend(variable: &str, dir: Option<&str>) {
    let Some(dir) = dir.filter(|dir| !dir.is_empty()) else {
        return;
    };
    let old = env::var_os(variable).unwrap_or_default();
    let mut dirs = vec![PathBuf::from(dir)];
    dirs.extend(env::split_paths(&old));
    let joined =
        env::join_paths(dirs).expect("a directory of the toolchain has no colon in its name");
    set(variable, &joined);
}

fn set(variable: &str, value: impl AsRef<std::ffi::OsStr>) {
    // SAFETY: the build script has no other thread yet.
    unsafe { env::set_var(variable, value) };
}
