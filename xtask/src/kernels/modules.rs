//! Which kernel modules the lab loads, and in which order. The order comes from the modules themselves, so that
//! the lab needs neither depmod nor its index.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::host::command;
use crate::kernels::elf;

/// A module that the lab loads, together with the modules that it depends on.
struct Wanted {
    name: &'static str,
    /// Whether the lab machine cannot work without this module.
    required: bool,
}

const fn required(name: &'static str) -> Wanted {
    Wanted {
        name,
        required: true,
    }
}

const fn optional(name: &'static str) -> Wanted {
    Wanted {
        name,
        required: false,
    }
}

/// Drivers of hardware and file systems that the boot does not wait for. `zc-hardware` loads them.
const DRIVERS: [Wanted; 5] = [
    optional("ata_piix"),
    optional("sd_mod"),
    optional("e1000"),
    optional("loop"),
    optional("xfs"),
];

/// The modules that the boot loads.
const WANTED: [Wanted; 10] = [
    required("virtio_pci"),
    required("virtio_console"),
    required("9pnet_virtio"),
    required("9p"),
    required("overlay"),
    required("virtio_blk"),
    // A soft dependency of ext4. Later kernels have it built in.
    optional("crc32c_generic"),
    required("ext4"),
    optional("virtio_net"),
    optional("veth"),
];

/// The names of the modules of the boot. A cache that was made for other modules is out of date.
pub fn fingerprint() -> String {
    WANTED.map(|wanted| wanted.name).join(" ")
}

/// The names of the drivers. A cache that was made for other drivers is out of date.
pub fn drivers_fingerprint() -> String {
    DRIVERS.map(|wanted| wanted.name).join(" ")
}

pub struct Module {
    pub name: String,
    /// Uncompressed.
    pub content: Vec<u8>,
}

/// The modules of the boot from `directory`, each after the modules that it depends on.
pub fn load_order(directory: &Path) -> Result<Vec<Module>> {
    collect(directory, &WANTED)
}

/// The drivers from `directory`, and the modules that they need but the boot does not load. Each comes after the
/// modules that it depends on.
pub fn drivers(directory: &Path) -> Result<Vec<Module>> {
    let at_boot = load_order(directory)?;
    let mut drivers = collect(directory, &DRIVERS)?;
    drivers.retain(|driver| at_boot.iter().all(|module| module.name != driver.name));
    Ok(drivers)
}

fn collect(directory: &Path, wanted: &[Wanted]) -> Result<Vec<Module>> {
    let mut files = BTreeMap::new();
    let mut builtin = BTreeSet::new();
    scan(directory, &mut files, &mut builtin)?;
    if files.is_empty() && builtin.is_empty() {
        bail!("{} holds no kernel modules", directory.display());
    }
    let mut collector = Collector {
        files,
        loaded: BTreeSet::new(),
        order: Vec::new(),
    };
    for wanted in wanted {
        let found = collector.visit(wanted.name)?;
        // Without a list of built-in modules, the module may be built in.
        if !found && wanted.required && !builtin.is_empty() && !builtin.contains(wanted.name) {
            bail!(
                "this kernel has no module {} under {}: the lab needs it as a module or built in",
                wanted.name,
                directory.display()
            );
        }
    }
    Ok(collector.order)
}

struct Collector {
    files: BTreeMap<String, PathBuf>,
    loaded: BTreeSet<String>,
    order: Vec<Module>,
}

impl Collector {
    /// Adds the module and its dependencies. False if there is no file of this name.
    fn visit(&mut self, name: &str) -> Result<bool> {
        let Some(path) = self.files.get(name) else {
            return Ok(false);
        };
        if self.loaded.insert(name.to_owned()) {
            let content = read(path)?;
            for dependency in dependencies(&content) {
                self.visit(&dependency)?;
            }
            self.order.push(Module {
                name: name.to_owned(),
                content,
            });
        }
        Ok(true)
    }
}

fn scan(
    directory: &Path,
    files: &mut BTreeMap<String, PathBuf>,
    builtin: &mut BTreeSet<String>,
) -> Result<()> {
    let entries = fs::read_dir(directory)
        .with_context(|| format!("cannot read the directory {}", directory.display()))?;
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            scan(&path, files, builtin)?;
        } else if entry.file_name() == "modules.builtin" {
            let list = fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            builtin.extend(list.lines().filter_map(|line| module_name(Path::new(line))));
        } else if let Some(name) = module_name(&path) {
            files.insert(name, path);
        }
    }
    Ok(())
}

/// The name of the module in a file: `b_c` for `a/b-c.ko.xz`.
fn module_name(path: &Path) -> Option<String> {
    let (stem, rest) = path.file_name()?.to_str()?.split_once('.')?;
    matches!(rest, "ko" | "ko.xz" | "ko.zst" | "ko.gz").then(|| stem.replace('-', "_"))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let program = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return fs::read(path).with_context(|| format!("cannot read {}", path.display())),
    };
    command::output(command::tool(program).arg("-dcq").arg(path))
}

/// The names in the entry `depends=a,b` of the section `.modinfo`.
fn dependencies(module: &[u8]) -> Vec<String> {
    elf::section(module, ".modinfo")
        .unwrap_or_default()
        .split(|byte| *byte == 0)
        .filter_map(|entry| entry.strip_prefix(b"depends="))
        .flat_map(|list| list.split(|byte| *byte == b','))
        .filter(|name| !name.is_empty())
        .map(|name| String::from_utf8_lossy(name).replace('-', "_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use object::write::Object;
    use object::{Architecture, BinaryFormat, Endianness, SectionKind};

    use super::*;

    /// An ELF file whose only content is a `.modinfo`.
    fn module(info: &str) -> Vec<u8> {
        let mut object = Object::new(BinaryFormat::Elf, Architecture::X86_64, Endianness::Little);
        let section = object.add_section(vec![], b".modinfo".to_vec(), SectionKind::ReadOnlyData);
        object.append_section_data(section, info.as_bytes(), 1);
        object.write().unwrap()
    }

    fn tree(modules: &[(&str, &str)], builtin: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let kernel = dir.path().join("kernel/fs");
        fs::create_dir_all(&kernel).unwrap();
        for (file, info) in modules {
            fs::write(kernel.join(file), module(info)).unwrap();
        }
        fs::write(dir.path().join("modules.builtin"), builtin).unwrap();
        dir
    }

    const BUILTIN: &str = "kernel/virtio_pci.ko\nkernel/virtio_console.ko\nkernel/9pnet_virtio.ko\n\
                           kernel/overlay.ko\nkernel/virtio-blk.ko\n";

    #[test]
    fn a_module_comes_after_its_dependencies() {
        let dir = tree(
            &[
                ("9p.ko", "license=GPL\0depends=9pnet,net-fs\0"),
                ("9pnet.ko", "depends=net-fs\0"),
                ("net-fs.ko", "depends=\0"),
                ("ext4.ko", "depends=\0"),
            ],
            BUILTIN,
        );
        let order = load_order(dir.path()).unwrap();
        let names: Vec<_> = order.iter().map(|module| module.name.as_str()).collect();
        assert_eq!(names, ["net_fs", "9pnet", "9p", "ext4"]);
    }

    #[test]
    fn a_kernel_that_cannot_work_is_refused() {
        let dir = tree(&[("9p.ko", "depends=\0")], BUILTIN);
        let error = load_order(dir.path()).err().unwrap().to_string();
        assert!(error.contains("no module ext4"), "{error}");
    }

    #[test]
    fn drivers_leave_out_what_the_boot_has_loaded() {
        let dir = tree(
            &[
                ("9p.ko", "depends=\0"),
                ("ext4.ko", "depends=crc16\0"),
                ("crc16.ko", "depends=\0"),
                ("sd_mod.ko", "depends=scsi_mod,crc16\0"),
                ("scsi_mod.ko", "depends=\0"),
            ],
            BUILTIN,
        );
        let drivers = drivers(dir.path()).unwrap();
        let names: Vec<_> = drivers.iter().map(|module| module.name.as_str()).collect();
        assert_eq!(names, ["scsi_mod", "sd_mod"]);
    }

    #[test]
    fn names_are_normalised() {
        assert_eq!(
            module_name(Path::new("x/t10-pi.ko.xz")).as_deref(),
            Some("t10_pi")
        );
        assert_eq!(module_name(Path::new("x/modules.order")), None);
    }
}
