//! A process that forks, executes another program or ends while one of its copies is half done: the
//! ledger has what the peer got, to the byte.

use std::{
    ffi::CString,
    fs::File,
    io::Read,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use zc_profiler::ledger::{Direction, Method, Process};

use crate::{
    harness::{
        expect::{Expect, check},
        support::{Child, ok, profiler, shared, wait, without_copy_on_write},
    },
    paths::copies::tcp,
};

/// More than a pipe takes while nobody reads.
const WHOLE: usize = 1 << 20;
/// What a pipe holds.
const FULL: usize = 65_536;
/// What a child or a new program writes.
const MORE: usize = 777;

/// Both ends close when a program is executed.
pub fn pipe() -> (File, File) {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    let result = unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) };
    assert_eq!(result, 0, "pipe2");
    // SAFETY: the kernel has just made them.
    let [out, into] = ends.map(|fd| File::from(unsafe { OwnedFd::from_raw_fd(fd) }));
    (out, into)
}

fn write(fd: RawFd, bytes: usize) -> isize {
    let buffer = vec![1u8; bytes];
    // SAFETY: the buffer holds that much.
    unsafe { libc::write(fd, buffer.as_ptr().cast(), bytes) }
}

/// What a pipe or socket has got and nobody has read.
fn unread(fd: RawFd) -> usize {
    queued(fd, libc::FIONREAD)
}

/// What a socket has sent and the other has not got.
fn under_way(fd: RawFd) -> usize {
    queued(fd, libc::TIOCOUTQ)
}

fn queued(fd: RawFd, which: libc::Ioctl) -> usize {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the number is writable.
    let result = unsafe { libc::ioctl(fd, which, &raw mut bytes) };
    assert_eq!(result, 0, "ioctl {which:#x}");
    usize::try_from(bytes).expect("a number of bytes")
}

fn wait_until(what: &str, child: &Child, done: impl Fn() -> bool) {
    while !done() {
        let mut status = 0;
        // SAFETY: `status` is writable.
        let ended = unsafe { libc::waitpid(child.pid, &raw mut status, libc::WNOHANG) };
        assert_eq!(ended, 0, "ended with {status:#x} before {what}");
        thread::yield_now();
    }
}

/// Spins, so that the wait itself copies nothing.
fn wait_for(flag: &AtomicU64) {
    while flag.load(Ordering::SeqCst) == 0 {
        thread::yield_now();
    }
}

fn drained(mut from: impl Read) -> usize {
    let mut buffer = vec![0; 1 << 20];
    let mut total = 0;
    loop {
        match from.read(&mut buffer).expect("read") {
            0 => return total,
            bytes => total += bytes,
        }
    }
}

fn wait_for_end(child: &Child) {
    let status = wait(child.pid, 0);
    let failed = libc::WIFEXITED(status) && libc::WEXITSTATUS(status) != 0;
    assert!(!failed, "child failed: {status:#x}");
}

fn process(child: &Child) -> Process {
    child.process().expect("in the ledger")
}

/// These bytes went from user memory by `write`, and into the kernel only.
fn wrote(case: &str, process: &Process, bytes: usize) {
    let write = process.counters.method(Method::Write);
    let found = (write.payload_bytes, write.from_user.bytes);
    assert_eq!(found, (bytes as u64, bytes as u64), "{case}: {write:?}");
    let others = (write.to_user.bytes, write.in_kernel.bytes);
    assert_eq!(others, (0, 0), "{case}: {write:?}");
}

/// What the process does, from a thread of its own or its first one, while the other writes to a full
/// pipe.
struct Meanwhile<'a> {
    writer: RawFd,
    go: &'a AtomicU64,
    /// Who writes: the first thread, or another.
    first_writes: bool,
}

impl Meanwhile<'_> {
    fn run(&self, act: impl FnOnce() + Send) {
        let write = || write(self.writer, WHOLE);
        let act = || {
            wait_for(self.go);
            act();
        };
        thread::scope(|scope| {
            if self.first_writes {
                scope.spawn(act);
                write();
            } else {
                scope.spawn(write);
                act();
            }
        });
    }
}

/// Executes a program that writes [`MORE`] bytes to `output`.
fn execute(output: RawFd) {
    let words = ["/usr/bin/head", "-c", &MORE.to_string(), "/dev/zero"];
    let words = words.map(|word| CString::new(word).expect("no zero"));
    let [program, one, two, three] = &words;
    // SAFETY: the duplicate outlives the program; the words end in zeros, the list in a null.
    unsafe {
        assert_eq!(libc::dup2(output, 1), 1, "dup2");
        let end = std::ptr::null::<libc::c_char>();
        libc::execl(
            program.as_ptr(),
            program.as_ptr(),
            one.as_ptr(),
            two.as_ptr(),
            three.as_ptr(),
            end,
        );
        panic!("execl: {}", std::io::Error::last_os_error());
    }
}

#[test]
fn a_fork_in_the_middle_of_a_copy_gives_it_to_nobody_else() {
    profiler();
    let (from_parent, to_parent) = pipe();
    let (from_child, to_child) = pipe();
    let (go, pid) = (shared(), shared());
    let child = Child::working(|| {
        let meanwhile = Meanwhile {
            writer: to_parent.as_raw_fd(),
            go,
            first_writes: false,
        };
        meanwhile.run(|| {
            let child = Child::working(|| {
                assert_eq!(ok("write", write(to_child.as_raw_fd(), MORE)), MORE);
            });
            pid.store(u64::from(child.pid.cast_unsigned()), Ordering::SeqCst);
            child.wait_exited();
        });
    });
    wait_until("the pipe was full", &child, || {
        unread(from_parent.as_raw_fd()) == FULL
    });
    go.store(1, Ordering::SeqCst);
    drop((to_parent, to_child));
    assert_eq!(drained(from_parent), WHOLE);
    assert_eq!(drained(from_child), MORE);
    wait_for_end(&child);
    wrote("parent", &process(&child), WHOLE);
    let pid = i32::try_from(pid.load(Ordering::SeqCst)).expect("a pid");
    let of_child = process(&Child { pid });
    let expected = Expect::of(Method::Write, MORE as u64)
        .copied(Direction::FromUser)
        .calls(1);
    check(
        "child",
        &without_copy_on_write(of_child.counters),
        &[expected],
    );
}

/// The other thread's write ends in its middle, whichever thread executes: the one that does takes the
/// first one's place, and its number.
#[test]
fn an_exec_in_the_middle_of_a_copy_loses_none_and_takes_the_new_name() {
    profiler();
    for first_writes in [false, true] {
        let (from_old, to_old) = pipe();
        let (from_new, to_new) = pipe();
        let go = shared();
        let child = Child::working(|| {
            let meanwhile = Meanwhile {
                writer: to_old.as_raw_fd(),
                go,
                first_writes,
            };
            meanwhile.run(|| execute(to_new.as_raw_fd()));
        });
        wait_until("the pipe was full", &child, || {
            unread(from_old.as_raw_fd()) == FULL
        });
        assert_ne!(process(&child).comm, "head");
        go.store(1, Ordering::SeqCst);
        drop((to_old, to_new));
        assert_eq!(drained(from_new), MORE);
        assert_eq!(drained(from_old), FULL);
        wait_for_end(&child);
        let process = process(&child);
        assert_eq!(process.comm, "head", "first writes: {first_writes}");
        let case = format!("first writes: {first_writes}");
        wrote(&case, &process, FULL + MORE);
    }
}

#[test]
fn an_exit_in_the_middle_of_a_copy_loses_none() {
    profiler();
    for first_writes in [false, true] {
        let (out, into) = pipe();
        let go = shared();
        let child = Child::working(|| {
            let meanwhile = Meanwhile {
                writer: into.as_raw_fd(),
                go,
                first_writes,
            };
            // SAFETY: ends the process with all its threads.
            meanwhile.run(|| unsafe { libc::_exit(0) });
        });
        wait_until("the pipe was full", &child, || {
            unread(out.as_raw_fd()) == FULL
        });
        go.store(1, Ordering::SeqCst);
        drop(into);
        // Nobody reads before: the writer would go on.
        wait_for_end(&child);
        assert_eq!(drained(out), FULL);
        wrote("exit", &process(&child), FULL);
    }
}

/// Killed while it receives with `MSG_WAITALL`, of which it has got a part.
#[test]
fn a_receiver_killed_in_the_middle_of_a_copy_has_got_what_was_sent() {
    profiler();
    let (sender, receiver) = tcp();
    let fd = receiver.as_raw_fd();
    let child = Child::working(|| {
        let mut buffer = [0u8; 2 * MORE];
        let flags = libc::MSG_WAITALL;
        // SAFETY: the buffer has that length.
        unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), flags) };
    });
    assert_eq!(ok("write", write(sender.as_raw_fd(), MORE)), MORE);
    wait_until("all was received", &child, || {
        under_way(sender.as_raw_fd()) == 0 && unread(fd) == 0
    });
    // SAFETY: our own child.
    assert_eq!(unsafe { libc::kill(child.pid, libc::SIGKILL) }, 0);
    wait_for_end(&child);
    let expected = Expect::of(Method::Recv, MORE as u64)
        .copied(Direction::ToUser)
        .calls(1);
    let counters = without_copy_on_write(process(&child).counters);
    check("killed", &counters, &[expected]);
}

/// Killed wherever it happens to be, while the peer takes the bytes as they come.
#[test]
fn a_writer_killed_anywhere_has_written_what_the_peer_got() {
    const TIMES: usize = 8;
    profiler();
    let connected = [
        ("pipe", || {
            let (out, into) = pipe();
            (OwnedFd::from(out), OwnedFd::from(into))
        }),
        ("UNIX socket", || {
            let (out, into) = UnixStream::pair().expect("socketpair");
            (out.into(), into.into())
        }),
        ("TCP socket", || {
            let (into, out) = tcp();
            (out.into(), into.into())
        }),
    ] as [(&str, fn() -> (OwnedFd, OwnedFd)); 3];
    for (name, connect) in connected {
        for time in 1..=TIMES {
            let (out, into) = connect();
            let fd = into.as_raw_fd();
            let child = Child::working(|| {
                loop {
                    write(fd, WHOLE);
                }
            });
            drop(into);
            let mut out = File::from(out);
            let mut first = vec![0; time * 50_021];
            out.read_exact(&mut first).expect("receive");
            // SAFETY: our own child.
            assert_eq!(unsafe { libc::kill(child.pid, libc::SIGKILL) }, 0);
            let received = first.len() + drained(out);
            wait_for_end(&child);
            wrote(name, &process(&child), received);
        }
    }
}
