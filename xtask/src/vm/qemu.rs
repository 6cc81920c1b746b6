//! One QEMU process: its command line, and that it never outlives this one.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::host::command;
use crate::kernels::BootFiles;
use crate::kernels::initrd::Cpio;
use crate::vm::accel::Accel;
use crate::vm::request::Request;

/// The port on which the guest serves, where one is forwarded.
pub struct Forward {
    pub host: u16,
    pub guest: u16,
}

/// What the machine is made of.
pub struct Hardware<'a> {
    pub kernel: &'a BootFiles,
    pub accel: Accel,
    /// How many CPUs, if it matters.
    pub cpus: Option<u16>,
    /// What the lab's two IDE disks hold; nothing that is written to them is kept.
    pub disk: Option<&'a Path>,
    /// A directory of this machine that the guest may write to, at the same path.
    pub share: Option<&'a Path>,
    pub forward: Option<Forward>,
}

/// The emulated CPU where instructions are counted. Copies by `rep movsb` would count an instruction a
/// byte; without these two features the kernel copies by words.
pub const COUNTED_CPU: &str = "max,-erms,-fsrm";

/// The streams that lead into the guest, by the names that its agent knows.
const PORTS: [&str; 4] = ["control", "stdin", "stdout", "stderr"];
/// Three agents at once are the most that a test has running.
const MEMORY_MIB: u32 = 1536;
const SCRATCH_DISK: &str = "1G";
const INIT: &str = include_str!("guest/init.sh");
const HARDWARE: &str = include_str!("guest/hardware.sh");
/// By which the guest's init knows the NIC that leads to the host.
const HOST_NIC: &str = "52:54:00:00:00:01";
/// The lab's own NICs and the addresses by which `zc-hardware` knows them; a wire joins the two.
const WIRED_NICS: [(&str, &str); 2] = [
    ("e1000", "52:54:00:00:01:01"),
    ("virtio-net-pci", "52:54:00:00:01:02"),
];

/// A running machine; dropping it ends it.
pub struct Qemu {
    pub process: Child,
    /// In the order of [`PORTS`].
    pub ports: [UnixStream; 4],
    /// What QEMU reads at its start; later, only the open files matter.
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
        let mut qemu = command::tool(crate::setup::QEMU);
        qemu.args(arguments(hardware, &initrd, &disk, &theirs))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C is for the command in the guest, and is sent there.
            .process_group(0);
        let inherited: Vec<RawFd> = theirs.iter().map(AsRawFd::as_raw_fd).collect();
        let parent = std::process::id();
        // SAFETY: the closure only makes async-signal-safe calls.
        unsafe { qemu.pre_exec(move || prepare_child(&inherited, parent)) };
        let process = qemu
            .spawn()
            .with_context(|| format!("cannot start {}", crate::setup::QEMU))?;
        Ok(Self {
            process,
            ports: ours.try_into().expect("a stream for each port"),
            files: Some(files),
        })
    }

    /// Once the guest runs: nothing is left behind then, however this process ends.
    pub fn discard_files(&mut self) {
        self.files = None;
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // Both fail harmlessly if it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The streams stay open across exec, and the kernel ends QEMU if this program dies.
fn prepare_child(inherited: &[RawFd], parent: u32) -> io::Result<()> {
    for descriptor in inherited {
        // SAFETY: a plain system call on a descriptor that we own.
        if unsafe { libc::fcntl(*descriptor, libc::F_SETFD, 0) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: plain system calls without pointers.
    let (result, now) = unsafe {
        (
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL),
            libc::getppid(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    if u32::try_from(now) != Ok(parent) {
        return Err(io::Error::other("the parent process has gone"));
    }
    Ok(())
}

fn arguments(
    hardware: &Hardware<'_>,
    initrd: &Path,
    disk: &Path,
    streams: &[UnixStream],
) -> Vec<String> {
    let (cpu, cpus) = match hardware.accel {
        Accel::Kvm => ("host", 2),
        // They take turns: where each runs by itself, attaching a probe to what another is running at that
        // moment panics kernels.
        Accel::Emulation => ("max", 1),
        Accel::Counting => (COUNTED_CPU, 1),
    };
    let escaped = |path: &Path| path.to_string_lossy().replace(',', ",,");
    let mut words: Vec<String> = vec![
        "-nodefaults".into(),
        "-no-user-config".into(),
        "-no-reboot".into(),
        "-display".into(),
        "none".into(),
        "-serial".into(),
        "stdio".into(),
        "-machine".into(),
        "pc".into(),
        "-accel".into(),
        hardware.accel.qemu_name().into(),
        "-cpu".into(),
        cpu.into(),
        "-smp".into(),
        hardware.cpus.unwrap_or(cpus).to_string(),
        "-m".into(),
        MEMORY_MIB.to_string(),
        "-kernel".into(),
        hardware.kernel.image.to_string_lossy().into_owned(),
        "-initrd".into(),
        initrd.to_string_lossy().into_owned(),
        "-append".into(),
        // An oops would leave a guest whose measurements mean nothing.
        "console=ttyS0 quiet panic=-1 oops=panic".into(),
    ];
    let mut add = |option: &str, value: String| words.extend([option.to_owned(), value]);
    if hardware.accel == Accel::Counting {
        add("-icount", "shift=0,sleep=off".into());
    }
    add(
        "-fsdev",
        "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap".into(),
    );
    add("-device", "virtio-9p-pci,fsdev=root,mount_tag=root".into());
    if let Some(share) = hardware.share {
        let path = escaped(share);
        add(
            "-fsdev",
            format!("local,id=share,path={path},security_model=none,multidevs=remap"),
        );
        add(
            "-device",
            "virtio-9p-pci,fsdev=share,mount_tag=share".into(),
        );
    }
    // The disk's content is thrown away with the machine: nothing need reach this one's disk.
    let disk = escaped(disk);
    add(
        "-drive",
        format!("file={disk},format=raw,if=none,id=scratch,cache=unsafe"),
    );
    add("-device", "virtio-blk-pci,drive=scratch".into());
    add("-device", "virtio-serial-pci".into());
    for (name, stream) in PORTS.iter().zip(streams) {
        add(
            "-chardev",
            format!("socket,id={name},fd={}", stream.as_raw_fd()),
        );
        add(
            "-device",
            format!("virtserialport,chardev={name},name={name}"),
        );
    }
    if let Some(Forward { host, guest }) = hardware.forward {
        add(
            "-netdev",
            format!("user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{host}-:{guest}"),
        );
        add(
            "-device",
            format!("virtio-net-pci,netdev=net,mac={HOST_NIC},romfile="),
        );
    }
    if let Some(disk) = hardware.disk {
        let disk = escaped(disk);
        for port in 0..2 {
            add(
                "-drive",
                format!("file={disk},format=raw,if=none,id=ide{port},snapshot=on"),
            );
            add("-device", format!("ide-hd,drive=ide{port},bus=ide.{port}"));
        }
    }
    for (number, (model, mac)) in WIRED_NICS.iter().enumerate() {
        add("-netdev", format!("hubport,id=wire{number},hubid=0"));
        add(
            "-device",
            format!("{model},netdev=wire{number},mac={mac},romfile="),
        );
    }
    words
}

/// The kernel's own archive, and after it what only this boot needs.
fn write_initrd(directory: &Path, hardware: &Hardware<'_>, request: &Request) -> Result<PathBuf> {
    let agent = std::env::current_exe().context("cannot find this program's own file")?;
    let text = |path: Option<&Path>| {
        path.map(|path| path.to_string_lossy().into_owned())
            .unwrap_or_default()
    };
    let mut cpio = Cpio::default();
    cpio.directory("request");
    cpio.file("request/agent", text(Some(&agent)).as_bytes());
    cpio.file("request/share", text(hardware.share).as_bytes());
    cpio.file(
        "request/modules",
        text(hardware.kernel.modules.as_deref()).as_bytes(),
    );
    cpio.file(
        "request/drivers",
        text(Some(&hardware.kernel.drivers)).as_bytes(),
    );
    cpio.file("request/zc-hardware", HARDWARE.as_bytes());
    cpio.file("request/json", request.to_json().as_bytes());
    cpio.file("init", INIT.as_bytes());

    let base = &hardware.kernel.archive;
    let path = directory.join("initrd");
    std::fs::copy(base, &path)
        .with_context(|| format!("cannot copy {} to {}", base.display(), path.display()))?;
    let append = || -> io::Result<()> {
        use std::io::Write;
        File::options()
            .append(true)
            .open(&path)?
            .write_all(&cpio.finish())
    };
    append().with_context(|| format!("cannot write {}", path.display()))?;
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

/// The version, as in "7.2.19".
pub fn version() -> Result<String> {
    let text = command::text(command::tool(crate::setup::QEMU).arg("--version"))?;
    match text
        .split_whitespace()
        .skip_while(|word| *word != "version")
        .nth(1)
    {
        Some(version) => Ok(version.to_owned()),
        None => bail!("`{} --version` printed no version", crate::setup::QEMU),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
