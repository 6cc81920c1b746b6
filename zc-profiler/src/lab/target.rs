//! Where the payload goes: another process behind a TCP socket, or a file.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    process::{self, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use serde::{Deserialize, Serialize};

use super::{
    Error, Hardware, Nic, Signals, hardware,
    job::Job,
    netns::{Cable, Offloads},
    pattern,
    worker::Worker,
};

/// What kind of thing receives the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A TCP socket on loopback, read by another process.
    Tcp,
    /// A file in the same directory as the source.
    File,
    /// A file on disk whose blocks are there already.
    Disk,
    /// A file on tmpfs.
    Tmpfs,
    /// A file on xfs.
    Xfs,
    /// The sender's own buffer.
    Memory,
    /// A TCP socket behind a NIC, read by another process.
    Nic {
        /// Whether the NIC gathers a packet from several places in memory (scatter-gather).
        gather: bool,
    },
    /// A TCP socket in another network namespace, at the other end of a pair of virtual NICs (veth)
    /// that the lab makes, read by another process.
    Veth(Veth),
}

/// What the sender's NIC of such a pair can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Veth {
    /// Everything.
    Whole,
    /// All but scatter-gather.
    NoGather,
    /// All but checksums.
    NoChecksum,
}

impl Veth {
    pub(super) const fn offloads(self) -> Offloads {
        Offloads {
            gather: !matches!(self, Self::NoGather),
            checksum: !matches!(self, Self::NoChecksum),
        }
    }
}

impl Target {
    /// The name that tables and JSON use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::File => "file",
            Self::Disk => "disk",
            Self::Tmpfs => "tmpfs",
            Self::Xfs => "xfs",
            Self::Memory => "memory",
            Self::Nic { gather: false } => "nic-sg",
            Self::Nic { gather: true } => "nic+sg",
            Self::Veth(Veth::Whole) => "veth",
            Self::Veth(Veth::NoGather) => "veth-sg",
            Self::Veth(Veth::NoChecksum) => "veth-tx",
        }
    }
}

/// What a file system has at least.
const BLOCK: u64 = 4096;

/// How a sender reaches its target.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Address {
    Tcp(SocketAddr),
    /// Inherited; an open file, since it has no name.
    File(RawFd),
    Memory,
    Nic {
        nic: Nic,
        gather: bool,
        peer: SocketAddr,
    },
    /// Inherited and connected, since its network namespace has no name.
    Veth(RawFd),
}

/// Opens a target in the sender's process; to be called once.
pub(super) fn open(address: &Address) -> Result<File, Error> {
    match address {
        Address::Tcp(address) => connect(*address),
        // Opened, never written to.
        Address::Memory => File::open("/dev/null").map_err(Error::file("/dev/null")),
        Address::Nic { nic, gather, peer } => {
            hardware::enter(&nic.netns)?;
            hardware::set_gather(&nic.name, *gather)?;
            connect(*peer)
        }
        // SAFETY: the parent left this descriptor open for this process, which takes it here and
        // nowhere else.
        Address::File(fd) | Address::Veth(fd) => Ok(unsafe { File::from_raw_fd(*fd) }),
    }
}

fn connect(address: SocketAddr) -> Result<File, Error> {
    TcpStream::connect(address)
        .map(|stream| OwnedFd::from(stream).into())
        .map_err(Error::call("connect"))
}

/// Waits for what the kernel still has to do for a sender that has made its last call.
pub(super) fn settle(address: &Address, sink: &File) -> Result<(), Error> {
    match address {
        Address::Nic { .. } | Address::Veth(_) => hardware::drain(sink.as_fd()),
        Address::Tcp(_) | Address::File(_) | Address::Memory => Ok(()),
    }
}

/// What of the payload TCP has sent again.
pub(super) fn resent(address: &Address, sink: &File) -> Result<u64, Error> {
    /// Of `tcpi_bytes_retrans` in `struct tcp_info`, since 4.19.
    const OFFSET: usize = 208;
    if matches!(address, Address::File(_) | Address::Memory) {
        return Ok(0);
    }
    let mut info = [0u64; 32];
    #[allow(clippy::cast_possible_truncation, reason = "256 bytes")]
    let mut length = size_of_val(&info) as libc::socklen_t;
    let (level, option) = (libc::IPPROTO_TCP, libc::TCP_INFO);
    let start = info.as_mut_ptr().cast();
    // SAFETY: the buffer has that length.
    match unsafe { libc::getsockopt(sink.as_raw_fd(), level, option, start, &raw mut length) } {
        0 => Ok(info[OFFSET / size_of::<u64>()]),
        _ => Err(Error::last("TCP_INFO")),
    }
}

/// The receiving side of one scenario.
pub(super) enum Sink {
    Tcp {
        receiver: Worker,
        address: SocketAddr,
    },
    File(File),
    /// Whole blocks of it are written.
    Disk(File),
    Memory,
    Nic {
        receiver: Worker,
        nic: Nic,
        gather: bool,
        peer: SocketAddr,
    },
    Veth {
        receiver: Worker,
        stream: TcpStream,
    },
}

impl Sink {
    pub fn new(
        target: Target,
        dir: &Path,
        payload: u64,
        hardware: &Hardware,
    ) -> Result<Self, Error> {
        match target {
            Target::Memory => Ok(Self::Memory),
            Target::Nic { gather } => {
                let wire = hardware.wire.as_ref().ok_or(Error::NoWire)?;
                let (receiver, peer) =
                    hardware::inside(&wire.peer_netns, || listen(wire.peer_address, payload))?;
                let nic = wire.nic.clone();
                Ok(Self::Nic {
                    receiver,
                    nic,
                    gather,
                    peer,
                })
            }
            Target::File => inherited(dir).map(Self::File),
            Target::Tmpfs => inherited(hardware.tmpfs.as_deref().unwrap_or(dir)).map(Self::File),
            Target::Xfs => inherited(hardware.xfs.as_deref().unwrap_or(dir)).map(Self::File),
            Target::Disk => {
                let file = inherited(dir)?;
                allocate(&file, payload)?;
                Ok(Self::Disk(file))
            }
            Target::Veth(veth) => {
                let (listener, stream) = Cable::new(veth.offloads())?.connect()?;
                let receiver = receiver(listener, payload)?;
                leave_open(stream.as_fd())?;
                Ok(Self::Veth { receiver, stream })
            }
            Target::Tcp => {
                let (receiver, address) = listen(Ipv4Addr::LOCALHOST.into(), payload)?;
                Ok(Self::Tcp { receiver, address })
            }
        }
    }

    pub fn address(&self) -> Address {
        match self {
            Self::Tcp { address, .. } => Address::Tcp(*address),
            Self::File(file) | Self::Disk(file) => Address::File(file.as_raw_fd()),
            Self::Veth { stream, .. } => Address::Veth(stream.as_raw_fd()),
            Self::Memory => Address::Memory,
            Self::Nic {
                nic, gather, peer, ..
            } => Address::Nic {
                nic: nic.clone(),
                gather: *gather,
                peer: *peer,
            },
        }
    }

    /// Checks, once the sender is gone, that the payload arrived intact.
    pub fn finish(self, payload: u64, signals: &Signals) -> Result<(), Error> {
        match self {
            Self::Tcp { receiver, .. }
            | Self::Nic { receiver, .. }
            | Self::Veth { receiver, .. } => receiver.finish(signals),
            // The sender checks what it has read.
            Self::Memory => Ok(()),
            Self::File(mut file) => {
                file.rewind().map_err(Error::call("lseek"))?;
                pattern::check(&mut file, payload)
            }
            Self::Disk(mut file) => {
                file.rewind().map_err(Error::call("lseek"))?;
                pattern::check(&mut file.take(payload), payload)
            }
        }
    }
}

/// An empty file that children of this process inherit.
fn inherited(dir: &Path) -> Result<File, Error> {
    let file = temporary(dir)?;
    // SAFETY: the descriptor is open; no memory is passed.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFD, 0) } {
        0 => Ok(file),
        _ => Err(Error::last("fcntl")),
    }
}

/// Gives a file whole blocks, so that none is looked for when it is written. They are not written
/// to: their pages would belong to this process.
fn allocate(file: &File, payload: u64) -> Result<(), Error> {
    let too_large = |_| Error::TooLarge(payload);
    let length = libc::off_t::try_from(payload.next_multiple_of(BLOCK)).map_err(too_large)?;
    // SAFETY: the file is open; no memory is passed.
    match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, length) } {
        0 => file.sync_all().map_err(Error::call("fsync")),
        error => Err(Error::call("fallocate")(io::Error::from_raw_os_error(
            error,
        ))),
    }
}

/// A receiver of one connection, and its address.
fn listen(address: IpAddr, payload: u64) -> Result<(Worker, SocketAddr), Error> {
    let listener = TcpListener::bind((address, 0)).map_err(Error::call("bind"))?;
    let address = listener.local_addr().map_err(Error::call("getsockname"))?;
    Ok((receiver(listener, payload)?, address))
}

fn receiver(listener: TcpListener, payload: u64) -> Result<Worker, Error> {
    let stdin = Stdio::from(OwnedFd::from(listener));
    Worker::start("receiver", &Job::Receive { payload }, stdin)
}

/// Has the processes that are started from now on inherit a descriptor.
fn leave_open(fd: BorrowedFd) -> Result<(), Error> {
    // SAFETY: the descriptor is open; no memory is passed.
    match unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, 0) } {
        0 => Ok(()),
        _ => Err(Error::last("fcntl")),
    }
}

/// The receiver's work: one connection of the listener that standard input is, read to its end.
pub(super) fn receive(payload: u64) -> Result<(), Error> {
    let listener = io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map(TcpListener::from)
        .map_err(Error::call("dup"))?;
    let (mut stream, _) = listener.accept().map_err(Error::call("accept"))?;
    pattern::check(&mut stream, payload)
}

/// The file that all scenarios read: on disk, in the page cache, and clean, so that no writeback
/// runs under measurement.
pub(super) fn source(dir: &Path, payload: u64) -> Result<File, Error> {
    let mut file = temporary(dir)?;
    pattern::write(&mut file, payload)
        .and_then(|()| file.sync_all())
        .and_then(|()| file.rewind())
        .map_err(Error::file(dir))?;
    pattern::check(&mut file, payload)?;
    Ok(file)
}

/// An empty file without a name, so that it goes however this process ends.
fn temporary(dir: &Path) -> Result<File, Error> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = dir.join(format!("zc-profiler-lab-{}-{number}", process::id()));
    // Not O_TMPFILE: overlayfs learnt it only in 6.3.
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .and_then(|file| fs::remove_file(&path).map(|()| file))
        .map_err(Error::file(path))
}
