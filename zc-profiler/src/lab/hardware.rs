//! The devices that some scenarios need: disks of which nothing is cached, and a NIC with a wire to
//! another one of this machine.

use std::{
    fs::File,
    io::{self, Read, Seek},
    mem,
    net::{IpAddr, TcpStream},
    os::fd::{AsRawFd, BorrowedFd},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{Error, Scenario, Target, netns::Cable, pattern, place, ring};

/// Where a scenario's payload lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// In a file, in the page cache.
    Cached,
    /// In a file on disk of which nothing is cached.
    Cold,
    /// In a file on tmpfs.
    Tmpfs,
    /// In a file on xfs.
    Xfs,
    /// In a file that is read past the page cache.
    Direct,
    /// On a disk that the CPU reads word by word.
    PioDisk,
    /// On a disk that writes to memory itself.
    DmaDisk,
}

/// What there is on this machine.
#[derive(Clone, Debug, Default)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is there or not, whatever the others"
)]
pub struct Hardware {
    /// A disk, or a file on one, that begins with the lab's pattern and is read by PIO.
    pub pio_disk: Option<PathBuf>,
    /// The same by DMA.
    pub dma_disk: Option<PathBuf>,
    /// A way out of this machine and back.
    pub wire: Option<Wire>,
    /// Whether the lab's directory has `O_DIRECT` on a disk.
    pub direct_io: bool,
    /// Whether a process may have an `io_uring`.
    pub io_uring: bool,
    /// Whether one sends without a copy.
    pub send_zerocopy: bool,
    /// Whether this process may make network namespaces, and cables between them.
    pub namespaces: bool,
    /// Whether the lab's directory is an ext4 of 4 KiB blocks on a disk with DMA.
    pub disk: bool,
    /// A directory on tmpfs.
    pub tmpfs: Option<PathBuf>,
    /// A directory on xfs.
    pub xfs: Option<PathBuf>,
}

/// What the names of methods by an `io_uring` have in common.
const BY_RING: &str = "ring-";
/// The one of them that came late.
const SEND_ZEROCOPY: &str = "ring-send-zc";
/// What methods that make a network namespace are called, to end with.
const IN_NAMESPACE: &str = "-fragments";

/// Two NICs with a wire between them, in a network namespace each, so that the kernel does not take
/// the short way.
#[derive(Clone, Debug)]
pub struct Wire {
    /// The sender's NIC, of which scatter-gather is switched.
    pub nic: Nic,
    /// The receiver's network namespace, as a file.
    pub peer_netns: PathBuf,
    /// The receiver's address.
    pub peer_address: IpAddr,
}

/// A NIC in a network namespace.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Nic {
    /// Its name there.
    pub name: String,
    /// The namespace, as a file.
    pub netns: PathBuf,
}

impl Hardware {
    /// Looks for what needs no argument, with the lab's files in this directory.
    #[must_use]
    pub fn with_features(self, dir: &Path) -> Self {
        Self {
            direct_io: place::has_direct_io(dir),
            io_uring: ring::is_available(),
            send_zerocopy: ring::knows(ring::SEND_ZC),
            disk: place::is_on_disk(dir),
            tmpfs: place::tmpfs(dir),
            xfs: self.xfs.or_else(|| place::xfs(dir)),
            ..self
        }
    }

    /// Looks for what only some scenarios need, and what leaves traces: modules may be loaded for it.
    #[must_use]
    pub fn with_namespaces_for<'a>(
        self,
        scenarios: impl IntoIterator<Item = &'a Scenario>,
    ) -> Self {
        let namespaces = scenarios.into_iter().any(needs_namespaces) && Cable::is_available();
        Self { namespaces, ..self }
    }

    /// What a scenario needs and this machine was not said to have.
    #[must_use]
    pub fn lacks(&self, scenario: &Scenario) -> Option<&'static str> {
        let disk = match scenario.source {
            Source::PioDisk if self.pio_disk.is_none() => Some("no --pio-disk to read from"),
            Source::DmaDisk if self.dma_disk.is_none() => Some("no --dma-disk to read from"),
            Source::Direct if !self.direct_io => Some("no ext4 or xfs in --dir to read from"),
            _ => None,
        };
        let place = match (scenario.source, scenario.target) {
            (Source::Tmpfs, _) | (_, Target::Tmpfs) if self.tmpfs.is_none() => {
                Some("no tmpfs at /dev/shm or in --dir")
            }
            (Source::Xfs, _) | (_, Target::Xfs) if self.xfs.is_none() => {
                Some("no xfs in --xfs-dir or --dir")
            }
            (Source::Cold, _) | (_, Target::Disk) if !self.disk => {
                Some("no ext4 on a disk with DMA in --dir")
            }
            _ => None,
        };
        let nic = match scenario.target {
            Target::Nic { .. } if self.wire.is_none() => Some("no --nic to send by"),
            _ => None,
        };
        let ring = match scenario.method {
            method if method.contains(BY_RING) && !self.io_uring => {
                Some("no io_uring for this process")
            }
            SEND_ZEROCOPY if !self.send_zerocopy => {
                Some("this kernel's io_uring has no SEND_ZC (6.0 and later have)")
            }
            _ => None,
        };
        let namespace = (needs_namespaces(scenario) && !self.namespaces)
            .then_some("this process may not make network namespaces and veth devices");
        disk.or(place).or(nic).or(ring).or(namespace)
    }

    pub(super) fn disk(&self, source: Source) -> Option<&Path> {
        match source {
            Source::Cached | Source::Direct | Source::Cold | Source::Tmpfs | Source::Xfs => None,
            Source::PioDisk => self.pio_disk.as_deref(),
            Source::DmaDisk => self.dma_disk.as_deref(),
        }
    }
}

fn needs_namespaces(scenario: &Scenario) -> bool {
    matches!(scenario.target, Target::Veth(_)) || scenario.method.ends_with(IN_NAMESPACE)
}

/// A disk that holds the payload, at its start, with nothing of it in the page cache.
pub(super) fn cold(path: &Path, payload: u64) -> Result<File, Error> {
    let mut disk = File::open(path).map_err(Error::file(path))?;
    // No read-ahead: it is no payload, and that of the check would still come in under measurement.
    advise(&disk, libc::POSIX_FADV_RANDOM)?;
    pattern::check(&mut (&disk).take(payload), payload).map_err(|cause| Error::Pattern {
        path: path.into(),
        cause: Box::new(cause),
    })?;
    disk.rewind().map_err(Error::file(path))?;
    advise(&disk, libc::POSIX_FADV_DONTNEED)?;
    Ok(disk)
}

pub(super) fn advise(file: &File, advice: libc::c_int) -> Result<(), Error> {
    // SAFETY: the file is open; no memory is passed.
    match unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, advice) } {
        0 => Ok(()),
        error => Err(Error::call("posix_fadvise")(io::Error::from_raw_os_error(
            error,
        ))),
    }
}

/// Moves this thread to a network namespace.
pub(super) fn enter(netns: &Path) -> Result<(), Error> {
    let namespace = File::open(netns).map_err(Error::file(netns))?;
    // SAFETY: the file is open; no memory is passed.
    match unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(Error::last("setns")),
    }
}

/// Does something in a network namespace, and returns to the one before.
pub(super) fn inside<T>(
    netns: &Path,
    action: impl FnOnce() -> Result<T, Error>,
) -> Result<T, Error> {
    const HOME: &str = "/proc/thread-self/ns/net";
    let home = File::open(HOME).map_err(Error::file(HOME))?;
    enter(netns)?;
    let result = action();
    // SAFETY: as in `enter`.
    match unsafe { libc::setns(home.as_raw_fd(), libc::CLONE_NEWNET) } {
        0 => result,
        _ => Err(Error::last("setns")),
    }
}

/// `struct ethtool_value` of linux/ethtool.h.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// `ETHTOOL_SSG` of the same.
const SET_GATHER: u32 = 0x19;
/// `SIOCETHTOOL` of linux/sockios.h.
const SIOCETHTOOL: libc::Ioctl = 0x8946;

/// Switches scatter-gather of a NIC of this network namespace.
pub(super) fn set_gather(nic: &str, on: bool) -> Result<(), Error> {
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))
        .map_err(Error::call("socket"))?;
    let mut value = EthtoolValue {
        command: SET_GATHER,
        data: u32::from(on),
    };
    // SAFETY: all zero is a value of it.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name[..libc::IFNAMSIZ - 1]
        .iter_mut()
        .zip(nic.bytes())
    {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: `request` names `value`, and both outlive the call.
    match unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) } {
        0 => Ok(()),
        _ => Err(Error::last("SIOCETHTOOL")),
    }
}

/// Waits until the other end has read all that was sent and closed the connection: what the kernel
/// copies for a NIC it may copy after the call that sent it.
pub(super) fn drain(connection: BorrowedFd) -> Result<(), Error> {
    let stream = connection
        .try_clone_to_owned()
        .map(TcpStream::from)
        .map_err(Error::call("dup"))?;
    match stream.shutdown(std::net::Shutdown::Write) {
        // Both ends have closed it already.
        Err(error) if error.kind() == io::ErrorKind::NotConnected => return Ok(()),
        result => result.map_err(Error::call("shutdown"))?,
    }
    let mut poll = libc::pollfd {
        fd: stream.as_raw_fd(),
        events: libc::POLLRDHUP,
        revents: 0,
    };
    // SAFETY: one valid pollfd.
    match unsafe { libc::poll(&raw mut poll, 1, -1) } {
        1 => Ok(()),
        _ => Err(Error::last("poll")),
    }
}
