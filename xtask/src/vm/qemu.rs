//! One QEMU process: its command line, its files and its end.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use anyhow::{Context, Result};
use rustix::io::FdFlags;
use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use crate::host::command;
use crate::kernels::initrd::Cpio;
use crate::setup::QEMU;
use crate::vm::hardware::{Accel, Forward, Hardware};
use crate::vm::request::Request;

/// The emulated CPU of a machine whose clock counts instructions. `rep movsb` counts as one instruction for each
/// byte. Without these two CPU features, the kernel copies whole words instead.
pub const COUNTED_CPU: &str = "max,-erms,-fsrm";

/// The single thread is explicit because QEMU's default depends on its version.
const EMULATION: &str = "tcg,thread=single";

/// The virtio-serial ports, by the names that the program in the guest opens.
const PORTS: [&str; 4] = ["control", "stdin", "stdout", "stderr"];
/// Enough for the test that runs three agents at once.
const MEMORY_MIB: u32 = 1536;
const SCRATCH_DISK: &str = "1G";
const INIT: &str = include_str!("guest/init.sh");
const HARDWARE: &str = include_str!("guest/hardware.sh");
/// The guest's `init.sh` recognises the NIC that leads to the host by this address.
const HOST_NIC: &str = "52:54:00:00:00:01";
/// The two NICs of the lab, which are connected to each other. `zc-hardware` recognises them by these addresses.
const WIRED_NICS: [(&str, &str); 2] = [
    ("e1000", "52:54:00:00:01:01"),
    ("virtio-net-pci", "52:54:00:00:01:02"),
];

/// A running machine. Dropping this value ends the machine.
pub struct Qemu {
    pub process: Child,
    /// In the order of [`PORTS`].
    pub ports: [UnixStream; 4],
    /// The files that QEMU opens at its start.
    files: Option<TempDir>,
}

impl Qemu {
    pub fn start(hardware: &Hardware<'_>, request: &Request) -> Result<Self> {
        let files = tempfile::Builder::new()
            .prefix("zc-lab-")
            .tempdir()
            .context("cannot create a temporary directory: set TMPDIR to a writable one")?;
        let initrd = write_initrd(files.path(), hardware, request)?;
        let disk = make_disk(files.path())?;

        let mut ours = Vec::new();
        let mut theirs = Vec::new();
        for _ in PORTS {
            let (here, there) = UnixStream::pair().context("cannot create a socket pair")?;
            ours.push(here);
            theirs.push(there);
        }
        let mut qemu = command::tool(QEMU);
        qemu.args(arguments(hardware, &initrd, &disk, &theirs))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C must reach only the command in the guest. `machine` sends it there.
            .process_group(0);
        let parent = rustix::process::getpid();
        // SAFETY: the closure makes async-signal-safe calls only.
        unsafe { qemu.pre_exec(move || prepare_child(&theirs, parent)) };
        let process = qemu
            .spawn()
            .with_context(|| format!("cannot start {QEMU}"))?;
        Ok(Self {
            process,
            ports: ours.try_into().expect("a stream for each port"),
            files: Some(files),
        })
    }

    /// Removes QEMU's files, which QEMU has open once the guest runs. Then no file is left even if this process is
    /// killed.
    pub fn discard_files(&mut self) {
        self.files = None;
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // Both calls fail without harm if QEMU has ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Runs in the child between fork and exec: keeps the streams open for QEMU, and makes the kernel end QEMU when
/// this process dies.
fn prepare_child(streams: &[UnixStream], parent: Pid) -> io::Result<()> {
    for stream in streams {
        rustix::io::fcntl_setfd(stream, FdFlags::empty())?;
    }
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    if rustix::process::getppid() != Some(parent) {
        return Err(io::Error::other("the parent process has ended"));
    }
    Ok(())
}

fn arguments(
    hardware: &Hardware<'_>,
    initrd: &Path,
    disk: &Path,
    streams: &[UnixStream],
) -> Vec<String> {
    let (accel, cpu, cpus) = match hardware.accel {
        Accel::Kvm => ("kvm", "host", 2),
        // One CPU: if QEMU runs each CPU in a thread, kernels panic when a probe is attached to a function that
        // another CPU executes at that moment.
        Accel::Emulation => (EMULATION, "max", 1),
        Accel::Counting => (EMULATION, COUNTED_CPU, 1),
    };
    // A comma separates QEMU's options; two stand for one in a path.
    let escaped = |path: &Path| path.to_string_lossy().replace(',', ",,");
    let mut options: Vec<(&str, String)> = vec![
        ("-display", "none".into()),
        ("-serial", "stdio".into()),
        ("-machine", "pc".into()),
        ("-accel", accel.into()),
        ("-cpu", cpu.into()),
        ("-smp", hardware.cpus.unwrap_or(cpus).to_string()),
        ("-m", MEMORY_MIB.to_string()),
        ("-kernel", hardware.kernel.image.display().to_string()),
        ("-initrd", initrd.display().to_string()),
        // After an oops, the guest's measurements would mean nothing.
        ("-append", "console=ttyS0 quiet panic=-1 oops=panic".into()),
        (
            "-fsdev",
            "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap".into(),
        ),
        ("-device", "virtio-9p-pci,fsdev=root,mount_tag=root".into()),
        // The disk is removed with the machine, so writes need not reach this machine's disk.
        (
            "-drive",
            format!(
                "file={},format=raw,if=none,id=scratch,cache=unsafe",
                escaped(disk)
            ),
        ),
        ("-device", "virtio-blk-pci,drive=scratch".into()),
        ("-device", "virtio-serial-pci".into()),
    ];
    if hardware.accel == Accel::Counting {
        options.push(("-icount", "shift=0,sleep=off".into()));
    }
    if let Some(share) = hardware.share {
        let path = escaped(share);
        let fsdev = format!("local,id=share,path={path},security_model=none,multidevs=remap");
        let device = "virtio-9p-pci,fsdev=share,mount_tag=share";
        options.extend([("-fsdev", fsdev), ("-device", device.into())]);
    }
    for (name, stream) in PORTS.iter().zip(streams) {
        let chardev = format!("socket,id={name},fd={}", stream.as_raw_fd());
        let device = format!("virtserialport,chardev={name},name={name}");
        options.extend([("-chardev", chardev), ("-device", device)]);
    }
    if let Some(Forward { host, guest }) = hardware.forward {
        let netdev = format!("user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{host}-:{guest}");
        let device = format!("virtio-net-pci,netdev=net,mac={HOST_NIC},romfile=");
        options.extend([("-netdev", netdev), ("-device", device)]);
    }
    for (port, file) in (0..2).zip(hardware.disk.into_iter().cycle().map(escaped)) {
        let drive = format!("file={file},format=raw,if=none,id=ide{port},snapshot=on");
        let device = format!("ide-hd,drive=ide{port},bus=ide.{port}");
        options.extend([("-drive", drive), ("-device", device)]);
    }
    for (number, (model, mac)) in WIRED_NICS.iter().enumerate() {
        let netdev = format!("hubport,id=wire{number},hubid=0");
        let device = format!("{model},netdev=wire{number},mac={mac},romfile=");
        options.extend([("-netdev", netdev), ("-device", device)]);
    }
    ["-nodefaults", "-no-user-config", "-no-reboot"]
        .map(str::to_owned)
        .into_iter()
        .chain(
            options
                .into_iter()
                .flat_map(|(option, value)| [option.to_owned(), value]),
        )
        .collect()
}

/// Copies the kernel's archive and appends a second archive with the files of this boot.
fn write_initrd(directory: &Path, hardware: &Hardware<'_>, request: &Request) -> Result<PathBuf> {
    let agent = std::env::current_exe().context("cannot find this program's own file")?;
    let text = |path: Option<&Path>| path.unwrap_or(Path::new("")).display().to_string();
    let kernel = hardware.kernel;
    let mut cpio = Cpio::default();
    cpio.directory("request");
    for (name, content) in [
        ("request/agent", &*text(Some(&agent))),
        ("request/share", &text(hardware.share)),
        ("request/modules", &text(kernel.modules.as_deref())),
        ("request/drivers", &text(Some(&kernel.drivers))),
        ("request/zc-hardware", HARDWARE),
        ("request/json", &request.to_json()),
        ("init", INIT),
    ] {
        cpio.file(name, content.as_bytes());
    }
    let path = directory.join("initrd");
    std::fs::copy(&kernel.archive, &path)
        .and_then(|_| File::options().append(true).open(&path))
        .and_then(|mut file| file.write_all(&cpio.finish()))
        .with_context(|| {
            format!(
                "cannot copy {} to {}",
                kernel.archive.display(),
                path.display()
            )
        })?;
    Ok(path)
}

fn make_disk(directory: &Path) -> Result<PathBuf> {
    let path = directory.join("scratch");
    let mut mke2fs = command::tool("mke2fs");
    mke2fs
        .args(["-q", "-F", "-t", "ext4", "-m", "0"])
        .arg(&path)
        .arg(SCRATCH_DISK);
    command::output(&mut mke2fs).context("cannot make the scratch disk")?;
    Ok(path)
}

/// QEMU's version, such as "7.2.19".
pub fn version() -> Result<String> {
    let text = command::text(command::tool(QEMU).arg("--version"))?;
    let mut words = text.split_whitespace();
    words.find(|word| *word == "version");
    let version = words.next();
    let version = version.with_context(|| format!("`{QEMU} --version` printed no version"))?;
    Ok(version.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::BootFiles;

    fn words(accel: Accel, share: Option<&Path>, forward: Option<Forward>) -> String {
        let kernel = BootFiles {
            name: "6.1".into(),
            title: "Linux".into(),
            image: "/k/vmlinux".into(),
            archive: "/k/boot.cpio".into(),
            drivers: "/k/drivers".into(),
            modules: None,
        };
        let hardware = Hardware {
            kernel: &kernel,
            accel,
            cpus: None,
            disk: Some(Path::new("/p")),
            share,
            forward,
        };
        let (stream, _other) = UnixStream::pair().unwrap();
        arguments(&hardware, Path::new("/i"), Path::new("/d"), &[stream]).join(" ")
    }

    #[test]
    fn emulation_has_one_cpu_and_kvm_two() {
        assert!(words(Accel::Emulation, None, None).contains("-cpu max -smp 1 "));
        assert!(words(Accel::Kvm, None, None).contains("-accel kvm -cpu host -smp 2 "));
    }

    #[test]
    fn instructions_are_counted_only_where_that_is_asked_for() {
        assert!(words(Accel::Counting, None, None).contains("-icount shift=0,sleep=off"));
        assert!(!words(Accel::Emulation, None, None).contains("-icount"));
    }

    #[test]
    fn the_scripts_know_every_nic_by_its_address() {
        assert!(INIT.contains(HOST_NIC));
        for (_, mac) in WIRED_NICS {
            assert!(HARDWARE.contains(mac), "{mac}");
        }
    }

    #[test]
    fn there_is_a_way_to_the_host_only_for_a_forwarded_port() {
        assert!(!words(Accel::Kvm, None, None).contains("hostfwd"));
        let forward = Some(Forward { host: 1, guest: 2 });
        assert!(
            words(Accel::Kvm, None, forward).contains("restrict=on,hostfwd=tcp:127.0.0.1:1-:2")
        );
    }

    #[test]
    fn commas_of_a_shared_path_do_not_end_it() {
        assert!(words(Accel::Kvm, Some(Path::new("/a,b")), None).contains("path=/a,,b,"));
    }
}
