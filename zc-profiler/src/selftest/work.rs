//! What the worker does on each path. The work itself allocates nothing and makes no call but those
//! that its row names, or that have no method.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    net::{TcpListener, TcpStream},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::{fs::OpenOptionsExt, net::UnixStream},
    },
    path::Path,
    process, ptr,
};

use super::paths::{CALLS, CHUNK, PROC_CHUNK, Work};

const PAGE: usize = 4096;
/// Far fewer than a huge page has.
const PAGES: usize = 16;

/// Repeats what a path does once.
#[expect(
    clippy::unnecessary_wraps,
    reason = "most preparations can fail, and end with this"
)]
fn repeat(mut once: impl FnMut() -> io::Result<()> + 'static) -> io::Result<Work> {
    Ok(Box::new(move || (0..CALLS).try_for_each(|_| once())))
}

/// The whole of a chunk, or an error that names the call.
fn whole(call: &str, wanted: usize, moved: isize) -> io::Result<()> {
    if moved == wanted.cast_signed() {
        return Ok(());
    }
    let cause = if moved < 0 {
        io::Error::last_os_error().to_string()
    } else {
        format!("{moved} bytes moved of {wanted}")
    };
    Err(io::Error::other(format!("{call}: {cause}")))
}

fn memfd() -> io::Result<OwnedFd> {
    // SAFETY: the name ends in zero.
    let fd = unsafe { libc::memfd_create(c"zc-calibration".as_ptr(), libc::MFD_CLOEXEC) };
    owned(fd)
}

fn owned(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given it to us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A file in memory that holds a chunk.
fn source() -> io::Result<OwnedFd> {
    let fd = memfd()?;
    let mut file = File::from(fd);
    file.write_all(&vec![7; CHUNK])?;
    Ok(file.into())
}

fn pipe_ends() -> io::Result<[OwnedFd; 2]> {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok([owned(ends[0])?, owned(ends[1])?])
}

/// A connection over loopback.
fn tcp_pair() -> io::Result<[TcpStream; 2]> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let (far, _) = listener.accept()?;
    near.set_nodelay(true)?;
    Ok([near, far])
}

fn pread(fd: RawFd, buffer: &mut [u8]) -> io::Result<()> {
    // SAFETY: the buffer has that much room.
    let moved = unsafe { libc::pread(fd, buffer.as_mut_ptr().cast(), buffer.len(), 0) };
    whole("pread", buffer.len(), moved)
}

fn pwrite(fd: RawFd, buffer: &[u8]) -> io::Result<()> {
    // SAFETY: the buffer holds that much.
    let moved = unsafe { libc::pwrite(fd, buffer.as_ptr().cast(), buffer.len(), 0) };
    whole("pwrite", buffer.len(), moved)
}

fn write(fd: RawFd, buffer: &[u8]) -> io::Result<()> {
    // SAFETY: the buffer holds that much.
    let moved = unsafe { libc::write(fd, buffer.as_ptr().cast(), buffer.len()) };
    whole("write", buffer.len(), moved)
}

fn send(fd: RawFd, buffer: &[u8]) -> io::Result<()> {
    // SAFETY: the buffer holds that much.
    let moved = unsafe { libc::send(fd, buffer.as_ptr().cast(), buffer.len(), 0) };
    whole("send", buffer.len(), moved)
}

fn receive(fd: RawFd, buffer: &mut [u8]) -> io::Result<()> {
    let data = buffer.as_mut_ptr().cast();
    // SAFETY: the buffer has that much room.
    let moved = unsafe { libc::recv(fd, data, buffer.len(), libc::MSG_WAITALL) };
    whole("recv", buffer.len(), moved)
}

fn reading(file: impl AsRawFd + 'static, size: usize) -> io::Result<Work> {
    let mut buffer = vec![0; size];
    repeat(move || pread(file.as_raw_fd(), &mut buffer))
}

fn writing(file: impl AsRawFd + 'static) -> io::Result<Work> {
    let buffer = vec![7; CHUNK];
    repeat(move || pwrite(file.as_raw_fd(), &buffer))
}

/// Of the one file that is certainly there: this program.
pub(super) fn page_cache_read(_: &Path) -> io::Result<Work> {
    reading(File::open("/proc/self/exe")?, CHUNK)
}

pub(super) fn page_cache_write(dir: &Path) -> io::Result<Work> {
    let path = dir.join(format!(".zc-calibration-{}", process::id()));
    let named = |error: io::Error| io::Error::other(format!("{}: {error}", path.display()));
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .map_err(named)?;
    std::fs::remove_file(&path).map_err(named)?;
    writing(file)
}

pub(super) fn tmpfs_read(_: &Path) -> io::Result<Work> {
    reading(source()?, CHUNK)
}

pub(super) fn tmpfs_write(_: &Path) -> io::Result<Work> {
    writing(memfd()?)
}

pub(super) fn proc_read(_: &Path) -> io::Result<Work> {
    reading(File::open("/proc/version")?, PROC_CHUNK)
}

fn pipe_through(
    mut out: impl FnMut(RawFd, &mut [u8]) -> io::Result<()> + 'static,
) -> io::Result<Work> {
    let ends = pipe_ends()?;
    let mut buffer = vec![7; CHUNK];
    repeat(move || {
        write(ends[1].as_raw_fd(), &buffer)?;
        out(ends[0].as_raw_fd(), &mut buffer)
    })
}

pub(super) fn pipe(_: &Path) -> io::Result<Work> {
    pipe_through(|fd, buffer| {
        // SAFETY: the buffer has that much room.
        let moved = unsafe { libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len()) };
        whole("read", buffer.len(), moved)
    })
}

pub(super) fn vmsplice_out(_: &Path) -> io::Result<Work> {
    pipe_through(|fd, buffer| {
        let vector = libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: buffer.len(),
        };
        // SAFETY: the vector names the buffer, which has that much room.
        let moved = unsafe { libc::vmsplice(fd, &raw const vector, 1, 0) };
        whole("vmsplice", buffer.len(), moved)
    })
}

fn exchange(ends: [impl AsRawFd + 'static; 2]) -> io::Result<Work> {
    let mut buffer = vec![7; CHUNK];
    repeat(move || {
        send(ends[0].as_raw_fd(), &buffer)?;
        receive(ends[1].as_raw_fd(), &mut buffer)
    })
}

pub(super) fn tcp(_: &Path) -> io::Result<Work> {
    exchange(tcp_pair()?)
}

pub(super) fn unix_stream(_: &Path) -> io::Result<Work> {
    let (near, far) = UnixStream::pair()?;
    exchange([near, far])
}

pub(super) fn sendfile_to_tcp(_: &Path) -> io::Result<Work> {
    let (from, [near, far]) = (source()?, tcp_pair()?);
    let mut buffer = vec![0; CHUNK];
    repeat(move || {
        sendfile(near.as_raw_fd(), from.as_raw_fd())?;
        receive(far.as_raw_fd(), &mut buffer)
    })
}

fn sendfile(to: RawFd, from: RawFd) -> io::Result<()> {
    let mut start = 0;
    // SAFETY: `start` is valid for the call.
    let moved = unsafe { libc::sendfile(to, from, &raw mut start, CHUNK) };
    whole("sendfile", CHUNK, moved)
}

pub(super) fn splice_to_tcp(_: &Path) -> io::Result<Work> {
    let (from, ends, [near, far]) = (source()?, pipe_ends()?, tcp_pair()?);
    let mut buffer = vec![0; CHUNK];
    repeat(move || {
        let (into, out) = (ends[1].as_raw_fd(), ends[0].as_raw_fd());
        let (mut start, none) = (0, ptr::null_mut());
        // SAFETY: `start` is valid for the calls.
        let (first, second) = unsafe {
            (
                libc::splice(from.as_raw_fd(), &raw mut start, into, none, CHUNK, 0),
                libc::splice(out, none, near.as_raw_fd(), none, CHUNK, 0),
            )
        };
        whole("splice into a pipe", CHUNK, first)?;
        whole("splice out of a pipe", CHUNK, second)?;
        receive(far.as_raw_fd(), &mut buffer)
    })
}

pub(super) fn sendfile_to_file(_: &Path) -> io::Result<Work> {
    let (from, to) = (source()?, memfd()?);
    repeat(move || {
        // SAFETY: no memory is passed. This call has no method.
        unsafe { libc::lseek(to.as_raw_fd(), 0, libc::SEEK_SET) };
        sendfile(to.as_raw_fd(), from.as_raw_fd())
    })
}

pub(super) fn copy_file_range(_: &Path) -> io::Result<Work> {
    let (from, to) = (source()?, memfd()?);
    repeat(move || {
        let (mut start, mut end) = (0, 0);
        // SAFETY: both offsets are valid for the call.
        let moved = unsafe {
            let (from, to) = (from.as_raw_fd(), to.as_raw_fd());
            libc::copy_file_range(from, &raw mut start, to, &raw mut end, CHUNK, 0)
        };
        whole("copy_file_range", CHUNK, moved)
    })
}

/// Maps, reads each page, and unmaps.
pub(super) fn mmap(_: &Path) -> io::Result<Work> {
    let from = source()?;
    repeat(move || {
        let mapping = Mapping::new(CHUNK, libc::MAP_SHARED, from.as_raw_fd())?;
        mapping.read();
        Ok(())
    })
}

/// Writes to pages of a file that are not mapped yet.
pub(super) fn private_mapping(_: &Path) -> io::Result<Work> {
    let from = source()?;
    repeat(move || {
        let mapping = Mapping::new(CHUNK, libc::MAP_PRIVATE, from.as_raw_fd())?;
        mapping.write();
        Ok(())
    })
}

/// Writes to pages that are mapped already, and not this process's alone.
pub(super) fn copy_on_write(_: &Path) -> io::Result<Work> {
    let from = source()?;
    repeat(move || {
        let mapping = Mapping::new(CHUNK, libc::MAP_PRIVATE, from.as_raw_fd())?;
        mapping.read();
        mapping.write();
        Ok(())
    })
}

pub(super) fn page_faults(_: &Path) -> io::Result<Work> {
    repeat(move || {
        let mapping = Mapping::new(PAGES * PAGE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)?;
        mapping.write();
        Ok(())
    })
}

/// Unmapped when dropped.
struct Mapping {
    start: *mut u8,
    size: usize,
}

impl Mapping {
    fn new(size: usize, flags: i32, fd: RawFd) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at a place of the kernel's choice.
        let start = unsafe { libc::mmap(ptr::null_mut(), size, protection, flags, fd, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            start: start.cast(),
            size,
        })
    }

    fn pages(&self) -> impl Iterator<Item = *mut u8> {
        // SAFETY: the offsets are inside the mapping.
        (0..self.size)
            .step_by(PAGE)
            .map(|offset| unsafe { self.start.add(offset) })
    }

    fn read(&self) {
        for page in self.pages() {
            // SAFETY: mapped, and readable.
            unsafe { page.read_volatile() };
        }
    }

    fn write(&self) {
        for page in self.pages() {
            // SAFETY: mapped, writable, and nobody else's.
            unsafe { page.write_volatile(1) };
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and nobody uses it any more.
        unsafe { libc::munmap(self.start.cast(), self.size) };
    }
}

pub(super) fn context_switches(_: &Path) -> io::Result<Work> {
    repeat(|| {
        std::thread::sleep(std::time::Duration::from_millis(1));
        Ok(())
    })
}
