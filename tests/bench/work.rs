//! The work whose cost is measured: pieces that can be repeated exactly.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    os::{
        fd::{AsRawFd, RawFd},
        unix::{ffi::OsStrExt, fs::FileExt},
    },
    path::Path,
};

use anyhow::{Context, Result, ensure};

/// One kind of work.
pub struct Workload {
    pub name: &'static str,
    /// How many operations make one repetition: enough to drown the clock, few enough to fit between
    /// two ticks of the timer, where that is possible.
    pub operations: usize,
    pub prepare: fn() -> Result<Job>,
}

/// Carries out so many operations.
pub type Job = Box<dyn FnMut(usize) -> Result<()>>;

const KIB: usize = 1024;

pub const WORKLOADS: [Workload; 10] = [
    Workload {
        name: "getppid",
        operations: 2000,
        prepare: || Ok(getppid()),
    },
    Workload {
        name: "read 1 B",
        operations: 1000,
        prepare: || read(1),
    },
    Workload {
        name: "read 64 KiB",
        operations: 100,
        prepare: || read(64 * KIB),
    },
    Workload {
        name: "write 4 KiB",
        operations: 400,
        prepare: write,
    },
    Workload {
        name: "pipe ping-pong",
        operations: 150,
        prepare: ping_pong,
    },
    Workload {
        name: "TCP 16 KiB",
        operations: 50,
        prepare: tcp,
    },
    Workload {
        name: "sendfile 64 KiB",
        operations: 20,
        prepare: sendfile,
    },
    Workload {
        name: "page fault",
        operations: 512,
        prepare: || Ok(faults()),
    },
    Workload {
        name: "8 processes",
        operations: 800,
        prepare: crowd,
    },
    Workload {
        name: "fork+exec+exit",
        operations: 8,
        prepare: spawn,
    },
];

/// What a system call returned, or why it failed.
fn check(name: &str, result: impl TryInto<usize>) -> Result<usize> {
    result
        .try_into()
        .map_err(|_| io::Error::last_os_error())
        .with_context(|| name.to_owned())
}

fn getppid() -> Job {
    Box::new(|count| {
        for _ in 0..count {
            // SAFETY: takes nothing.
            unsafe { libc::syscall(libc::SYS_getppid) };
        }
        Ok(())
    })
}

/// A file without a name in memory.
fn tmpfs_file() -> Result<File> {
    let file = tempfile::tempfile_in("/dev/shm").context("a file in /dev/shm")?;
    file.write_all_at(&vec![7; 64 * KIB], 0)?;
    Ok(file)
}

fn read(size: usize) -> Result<Job> {
    let file = tmpfs_file()?;
    let mut buffer = vec![0; size];
    Ok(Box::new(move |count| {
        for _ in 0..count {
            file.read_exact_at(&mut buffer, 0)?;
        }
        Ok(())
    }))
}

fn write() -> Result<Job> {
    let file = tmpfs_file()?;
    let buffer = vec![7; 4 * KIB];
    Ok(Box::new(move |count| {
        for _ in 0..count {
            file.write_all_at(&buffer, 0)?;
        }
        Ok(())
    }))
}

/// A forked process, which ends with the one that made it.
struct Child(i32);

impl Child {
    fn running(work: impl FnOnce() -> Result<()>) -> Result<Self> {
        // SAFETY: this process has one thread.
        let pid = unsafe { libc::fork() };
        ensure!(pid >= 0, "fork: {}", io::Error::last_os_error());
        if pid == 0 {
            // SAFETY: takes no pointer.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            let code = i32::from(work().is_err());
            // SAFETY: ends this process at once, as it must end.
            unsafe { libc::_exit(code) }
        }
        Ok(Self(pid))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // SAFETY: our own child, which nobody has waited for.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            libc::waitpid(self.0, std::ptr::null_mut(), 0);
        }
    }
}

/// One byte there and one back: two reads, two writes and two context switches.
fn ping_pong() -> Result<Job> {
    let (mut child_reads, mut we_write) = io::pipe()?;
    let (mut we_read, mut child_writes) = io::pipe()?;
    let child = Child::running(move || {
        let mut byte = [0];
        loop {
            child_reads.read_exact(&mut byte)?;
            child_writes.write_all(&byte)?;
        }
    })?;
    Ok(Box::new(move |count| {
        let _ = &child;
        let mut byte = [0];
        for _ in 0..count {
            we_write.write_all(&byte)?;
            we_read.read_exact(&mut byte)?;
        }
        Ok(())
    }))
}

fn connection() -> Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let to = TcpStream::connect(listener.local_addr()?)?;
    let (from, _) = listener.accept()?;
    to.set_nodelay(true)?;
    Ok((to, from))
}

fn receive_all(from: RawFd, buffer: &mut [u8]) -> Result<()> {
    // SAFETY: the buffer is writable for the call.
    let result = unsafe {
        libc::recv(
            from,
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            libc::MSG_WAITALL,
        )
    };
    let received = check("recv", result)?;
    ensure!(received == buffer.len(), "recv of {received} bytes");
    Ok(())
}

/// One send and one receive.
fn tcp() -> Result<Job> {
    let (to, from) = connection()?;
    let sent = vec![7u8; 16 * KIB];
    let mut received = vec![0u8; 16 * KIB];
    Ok(Box::new(move |count| {
        for _ in 0..count {
            // SAFETY: the buffer is readable for the call.
            let result = unsafe { libc::send(to.as_raw_fd(), sent.as_ptr().cast(), sent.len(), 0) };
            let bytes = check("send", result)?;
            ensure!(bytes == sent.len(), "send of {bytes} bytes");
            receive_all(from.as_raw_fd(), &mut received)?;
        }
        Ok(())
    }))
}

/// One sendfile, and one receive of what it sent.
fn sendfile() -> Result<Job> {
    let (to, from) = connection()?;
    let file = tmpfs_file()?;
    let mut received = vec![0u8; 64 * KIB];
    Ok(Box::new(move |count| {
        for _ in 0..count {
            let mut at = 0;
            // SAFETY: the offset is writable for the call.
            let result = unsafe {
                libc::sendfile(
                    to.as_raw_fd(),
                    file.as_raw_fd(),
                    &raw mut at,
                    received.len(),
                )
            };
            let bytes = check("sendfile", result)?;
            ensure!(bytes == received.len(), "sendfile of {bytes} bytes");
            receive_all(from.as_raw_fd(), &mut received)?;
        }
        Ok(())
    }))
}

/// Each operation is the first access to a page of fresh memory; mapping and unmapping them all is
/// shared among them.
fn faults() -> Job {
    const PAGE: usize = 4 * KIB;
    Box::new(|count| {
        let length = count * PAGE;
        // SAFETY: a fresh mapping of our own, accessed within its bounds, and unmapped at the end.
        unsafe {
            let memory = libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            ensure!(
                memory != libc::MAP_FAILED,
                "mmap: {}",
                io::Error::last_os_error()
            );
            check(
                "madvise",
                libc::madvise(memory, length, libc::MADV_NOHUGEPAGE),
            )?;
            for page in 0..count {
                memory.cast::<u8>().add(page * PAGE).write_volatile(1);
            }
            check("munmap", libc::munmap(memory, length))?;
        }
        Ok(())
    })
}

/// Eight processes share one CPU; each operation is a read of one byte by one of them, who then lets
/// the others run.
fn crowd() -> Result<Job> {
    const PROCESSES: usize = 8;
    let mut members = Vec::new();
    for _ in 0..PROCESSES {
        let (mut orders, give) = io::pipe()?;
        let (done, mut tell) = io::pipe()?;
        let file = tmpfs_file()?;
        let child = Child::running(move || {
            let mut share = [0; 8];
            let mut byte = [0];
            loop {
                orders.read_exact(&mut share)?;
                for _ in 0..usize::from_ne_bytes(share) {
                    file.read_exact_at(&mut byte, 0)?;
                    // SAFETY: takes nothing.
                    unsafe { libc::sched_yield() };
                }
                tell.write_all(&byte)?;
            }
        })?;
        members.push((child, give, done));
    }
    Ok(Box::new(move |count| {
        for (_, give, _) in &mut members {
            give.write_all(&(count / PROCESSES).to_ne_bytes())?;
        }
        for (_, _, done) in &mut members {
            done.read_exact(&mut [0])?;
        }
        Ok(())
    }))
}

/// The lab's own static program: no file of another machine is read for it.
const STATIC_PROGRAM: &str = "/run/zc-lab/bin/busybox";

fn spawn() -> Result<Job> {
    let program = if Path::new(STATIC_PROGRAM).exists() {
        fs::canonicalize(STATIC_PROGRAM)?
    } else {
        fs::canonicalize("/bin/true")?
    };
    let program = std::ffi::CString::new(program.as_os_str().as_bytes())?;
    let arguments = [c"true".as_ptr(), std::ptr::null()];
    let environment = [std::ptr::null()];
    Ok(Box::new(move |count| {
        for _ in 0..count {
            let mut status = 0;
            // SAFETY: the child calls nothing but exec; all arrays end with a null pointer.
            let pid = unsafe {
                let pid = libc::fork();
                if pid == 0 {
                    libc::execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr());
                    libc::_exit(127);
                }
                libc::waitpid(pid, &raw mut status, 0)
            };
            check("fork", pid)?;
            ensure!(status == 0, "{program:?} ended with {status:#x}");
        }
        Ok(())
    }))
}
