//! Where the payload goes: another process behind a TCP socket, or a file.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Seek},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    process::{self, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use serde::{Deserialize, Serialize};

use super::{Error, Signals, job::Job, pattern, worker::Worker};

/// What kind of thing receives the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A TCP socket on loopback, read by another process.
    Tcp,
    /// A file in the same directory as the source.
    File,
}

impl Target {
    /// The name that tables and JSON use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::File => "file",
        }
    }
}

/// How a sender reaches its target.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Address {
    Tcp(SocketAddr),
    /// Inherited; an open file, since it has no name.
    File(RawFd),
}

/// Opens a target in the sender's process; to be called once.
pub(super) fn open(address: &Address) -> Result<File, Error> {
    match *address {
        Address::Tcp(address) => TcpStream::connect(address)
            .map(|stream| OwnedFd::from(stream).into())
            .map_err(Error::call("connect")),
        // SAFETY: the parent left this descriptor open for this process, which takes it here and
        // nowhere else.
        Address::File(fd) => Ok(unsafe { File::from_raw_fd(fd) }),
    }
}

/// The receiving side of one scenario.
pub(super) enum Sink {
    Tcp {
        receiver: Worker,
        address: SocketAddr,
    },
    File(File),
}

impl Sink {
    pub fn new(target: Target, dir: &Path, payload: u64) -> Result<Self, Error> {
        match target {
            Target::File => {
                let file = temporary(dir)?;
                // SAFETY: the descriptor is open; no memory is passed.
                if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFD, 0) } != 0 {
                    return Err(Error::last("fcntl"));
                }
                Ok(Self::File(file))
            }
            Target::Tcp => {
                let listener =
                    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(Error::call("bind"))?;
                let address = listener.local_addr().map_err(Error::call("getsockname"))?;
                let stdin = Stdio::from(OwnedFd::from(listener));
                let receiver = Worker::start("receiver", &Job::Receive { payload }, stdin)?;
                Ok(Self::Tcp { receiver, address })
            }
        }
    }

    pub fn address(&self) -> Address {
        match self {
            Self::Tcp { address, .. } => Address::Tcp(*address),
            Self::File(file) => Address::File(file.as_raw_fd()),
        }
    }

    /// Checks, once the sender is gone, that the payload arrived intact.
    pub fn finish(self, payload: u64, signals: &Signals) -> Result<(), Error> {
        match self {
            Self::Tcp { receiver, .. } => receiver.finish(signals),
            Self::File(mut file) => {
                file.rewind().map_err(Error::call("lseek"))?;
                pattern::check(&mut file, payload)
            }
        }
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
