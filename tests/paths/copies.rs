//! Every method's bytes equal its payload, for chunks of several sizes.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek},
    net::{TcpListener, TcpStream},
    os::{
        fd::{AsRawFd, RawFd},
        unix::net::UnixStream,
    },
    path::Path,
    ptr,
    thread::{self, JoinHandle},
};

use zc_profiler::ledger::{
    Direction::{FromUser, InKernel, ToUser},
    Method,
};

use crate::{
    harness::{
        expect::{Expect, check},
        support::{measure, ok, path},
    },
    paths::xfs,
};

/// Chunk and payload; the third chunk is no multiple of a page and the payload none of the chunk.
pub const SIZES: [(usize, usize); 4] = [
    (1, 3_000),
    (4_096, 1 << 20),
    (10_007, 1_000_003),
    (65_536, 4 << 20),
];

/// ext4 on a disk, tmpfs, and xfs.
pub fn dirs() -> [&'static str; 3] {
    ["/lab", "/dev/shm", xfs::dir()]
}

/// For the matrix: the same path on each of [`dirs`].
fn path_on_each(what: &str) {
    for file_system in ["ext4", "tmpfs", "xfs"] {
        path(&format!("{what} {file_system}"));
    }
}

pub fn calls(payload: usize, chunk: usize) -> u64 {
    payload.div_ceil(chunk) as u64
}

/// Its period is prime, so that no page or chunk looks like another.
pub fn pattern() -> impl Iterator<Item = u8> {
    (0..251).cycle()
}

/// A file of known content, in the page cache, at its start.
pub fn source(dir: &str, payload: usize) -> File {
    let path = Path::new(dir).join(format!("source-{payload}"));
    let bytes: Vec<u8> = pattern().take(payload).collect();
    fs::write(&path, &bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut file = File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut read = Vec::new();
    file.read_to_end(&mut read).expect("warm the page cache");
    assert_eq!(read, bytes, "the source file is intact");
    file.rewind().expect("rewind");
    fs::remove_file(&path).expect("unlink");
    file
}

pub fn target(dir: &str) -> File {
    let path = Path::new(dir).join("target");
    let file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .read(true)
        .write(true)
        .open(&path);
    let file = file.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    fs::remove_file(&path).expect("unlink");
    file
}

/// Whether a target file holds what the source does.
pub fn assert_intact(mut file: &File, payload: usize) {
    file.rewind().expect("rewind");
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).expect("read back");
    assert_eq!(bytes.len(), payload);
    assert!(bytes.into_iter().eq(pattern().take(payload)), "content");
}

/// Repeats a call that moves up to a chunk until the payload is through.
pub fn repeat(name: &str, payload: usize, chunk: usize, mut call: impl FnMut(usize) -> isize) {
    let mut left = payload;
    while left > 0 {
        let moved = ok(name, call(left.min(chunk)));
        assert!(moved > 0, "{name} ended {left} bytes early");
        left -= moved;
    }
}

pub fn read_all(fd: RawFd, payload: usize, chunk: usize, buffer: &mut [u8]) {
    // SAFETY: the buffer holds a chunk.
    repeat("read", payload, chunk, |n| unsafe {
        libc::read(fd, buffer.as_mut_ptr().cast(), n)
    });
}

pub fn write_all(fd: RawFd, payload: usize, chunk: usize, buffer: &[u8]) {
    // SAFETY: the buffer holds a chunk.
    repeat("write", payload, chunk, |n| unsafe {
        libc::write(fd, buffer.as_ptr().cast(), n)
    });
}

/// A connection whose other end counts what it receives.
pub fn drained(mut receiver: impl Read + Send + 'static) -> JoinHandle<usize> {
    thread::spawn(move || {
        let mut buffer = vec![0; 1 << 20];
        let mut total = 0;
        loop {
            match receiver.read(&mut buffer).expect("receive") {
                0 => return total,
                bytes => total += bytes,
            }
        }
    })
}

/// A TCP connection over loopback, its own end first.
pub fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let sender = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
    let (receiver, _) = listener.accept().expect("accept");
    (sender, receiver)
}

pub fn pipe() -> [RawFd; 2] {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0, "pipe");
    ends
}

pub fn close(fds: &[RawFd]) {
    for fd in fds {
        // SAFETY: made by `pipe` above and closed once.
        unsafe { libc::close(*fd) };
    }
}

#[test]
fn reads_of_files_copy_each_byte_once_to_user() {
    for dir in dirs() {
        for (chunk, payload) in SIZES {
            let file = source(dir, payload);
            let mut buffer = vec![1u8; chunk];
            let measured = measure(|| read_all(file.as_raw_fd(), payload, chunk, &mut buffer));
            let expected = Expect::of(Method::Read, payload as u64).copied(ToUser);
            let calls = calls(payload, chunk);
            check(
                &format!("read {dir} {chunk}"),
                &measured.counters,
                &[expected.calls(calls)],
            );
            let read = measured.counters.method(Method::Read);
            assert_eq!(read.to_user.copies, calls, "one copy a call");
        }
    }
    path_on_each("read");
}

#[test]
fn writes_of_files_copy_each_byte_once_from_user() {
    for dir in dirs() {
        for (chunk, payload) in SIZES {
            let file = target(dir);
            let buffer = vec![1u8; chunk];
            let measured = measure(|| write_all(file.as_raw_fd(), payload, chunk, &buffer));
            let expected = Expect::of(Method::Write, payload as u64).copied(FromUser);
            let calls = calls(payload, chunk);
            check(
                &format!("write {dir} {chunk}"),
                &measured.counters,
                &[expected.calls(calls)],
            );
        }
    }
    path_on_each("write");
}

#[test]
fn every_call_of_a_family_counts_as_its_method() {
    let (payload, half) = (8_192usize, 4_096usize);
    let file = source("/lab", payload);
    let out = target("/lab");
    let (from, to) = (file.as_raw_fd(), out.as_raw_fd());
    let mut buffer = vec![0u8; payload];
    let measured = measure(|| {
        let start = buffer.as_mut_ptr();
        let vectors = [0, half].map(|offset| libc::iovec {
            // SAFETY: both halves lie in the buffer.
            iov_base: unsafe { start.add(offset) }.cast(),
            iov_len: half,
        });
        let (vectors, count) = (vectors.as_ptr(), 2);
        // SAFETY: the vectors and the buffer are valid for all of these.
        unsafe {
            assert_eq!(
                ok("pread64", libc::pread(from, start.cast(), payload, 0)),
                payload
            );
            assert_eq!(ok("readv", libc::readv(from, vectors, count)), payload);
            assert_eq!(ok("preadv", libc::preadv(from, vectors, count, 0)), payload);
            assert_eq!(
                ok("preadv2", libc::preadv2(from, vectors, count, 0, 0)),
                payload
            );
            assert_eq!(
                ok("pwrite64", libc::pwrite(to, start.cast(), payload, 0)),
                payload
            );
            assert_eq!(ok("writev", libc::writev(to, vectors, count)), payload);
            assert_eq!(ok("pwritev", libc::pwritev(to, vectors, count, 0)), payload);
            assert_eq!(
                ok("pwritev2", libc::pwritev2(to, vectors, count, 0, 0)),
                payload
            );
        }
    });
    let bytes = 4 * payload as u64;
    check(
        "families",
        &measured.counters,
        &[
            Expect::of(Method::Read, bytes).copied(ToUser).calls(4),
            Expect::of(Method::Write, bytes).copied(FromUser).calls(4),
        ],
    );
    path("pread, readv, preadv, preadv2");
    path("pwrite, writev, pwritev, pwritev2");
}

#[test]
fn a_failed_call_moves_nothing() {
    let file = source("/lab", 4_096);
    let measured = measure(|| {
        // SAFETY: no memory is touched: the first descriptor is bad, and so is the second's address.
        unsafe {
            assert_eq!(libc::read(-1, ptr::null_mut(), 1), -1);
            assert_eq!(
                libc::read(file.as_raw_fd(), ptr::without_provenance_mut(8), 4_096),
                -1
            );
        }
    });
    check(
        "failed",
        &measured.counters,
        &[Expect::of(Method::Read, 0).calls(2)],
    );
}

#[test]
fn pipes_copy_in_and_out() {
    for (chunk, payload) in SIZES {
        let ends = pipe();
        let mut buffer = vec![1u8; chunk];
        let measured = measure(|| {
            repeat("pipe", payload, chunk.min(65_536), |n| {
                write_all(ends[1], n, n, &buffer);
                read_all(ends[0], n, n, &mut buffer);
                n.cast_signed()
            });
        });
        close(&ends);
        let calls = calls(payload, chunk);
        check(
            &format!("pipe {chunk}"),
            &measured.counters,
            &[
                Expect::of(Method::Read, payload as u64)
                    .copied(ToUser)
                    .calls(calls),
                Expect::of(Method::Write, payload as u64)
                    .copied(FromUser)
                    .calls(calls),
            ],
        );
    }
    path("pipe read");
    path("pipe write");
}

#[test]
fn tcp_and_unix_streams_copy_in_and_out() {
    for (chunk, payload) in SIZES {
        for unix in [false, true] {
            let name = format!("{} {chunk}", if unix { "unix" } else { "tcp" });
            let buffer = vec![1u8; chunk];
            let sent = payload as u64;
            let expected = Expect::of(Method::Write, sent)
                .copied(FromUser)
                .calls(calls(payload, chunk));
            let (measured, sink) = if unix {
                let (sender, receiver) = UnixStream::pair().expect("socketpair");
                let sink = drained(receiver);
                (
                    measure(|| write_all(sender.as_raw_fd(), payload, chunk, &buffer)),
                    sink,
                )
            } else {
                let (sender, receiver) = tcp();
                let sink = drained(receiver);
                (
                    measure(|| write_all(sender.as_raw_fd(), payload, chunk, &buffer)),
                    sink,
                )
            };
            check(&name, &measured.counters, &[expected]);
            assert_eq!(sink.join().expect("sink"), payload);
        }
    }
    path("TCP write");
    path("UNIX stream write");
}

#[test]
fn send_and_recv_have_methods_of_their_own() {
    for (chunk, payload) in SIZES {
        let (sender, receiver) = tcp();
        let (from, to) = (sender.as_raw_fd(), receiver.as_raw_fd());
        let mut buffer = vec![1u8; chunk];
        let measured = measure(|| {
            repeat("exchange", payload, chunk, |n| {
                let (data, flags) = (buffer.as_mut_ptr().cast(), libc::MSG_WAITALL);
                // SAFETY: the buffer holds a chunk.
                unsafe {
                    assert_eq!(ok("send", libc::send(from, data, n, 0)), n);
                    assert_eq!(ok("recv", libc::recv(to, data, n, flags)), n);
                }
                n.cast_signed()
            });
        });
        let calls = calls(payload, chunk);
        check(
            &format!("send, recv {chunk}"),
            &measured.counters,
            &[
                Expect::of(Method::Send, payload as u64)
                    .copied(FromUser)
                    .calls(calls),
                Expect::of(Method::Recv, payload as u64)
                    .copied(ToUser)
                    .calls(calls),
            ],
        );
    }
    path("TCP send");
    path("TCP recv");
}

#[test]
fn writing_a_mapping_copies_once_and_faults() {
    for (chunk, payload) in SIZES {
        let file = source("/lab", payload);
        let (sender, receiver) = tcp();
        let sink = drained(receiver);
        let fd = file.as_raw_fd();
        let measured = measure(|| {
            // SAFETY: a new mapping of an open file; the pointer stays inside it.
            unsafe {
                let (read, private) = (libc::PROT_READ, libc::MAP_PRIVATE);
                let start = libc::mmap(ptr::null_mut(), payload, read, private, fd, 0);
                assert_ne!(start, libc::MAP_FAILED, "mmap");
                let mut at = start.cast::<u8>();
                repeat("write", payload, chunk, |n| {
                    let written = libc::write(sender.as_raw_fd(), at.cast(), n);
                    at = at.add(ok("write", written));
                    written
                });
            }
        });
        drop(sender);
        check(
            &format!("mmap, write {chunk}"),
            &measured.counters,
            &[
                Expect::of(Method::Mmap, 0).calls(1),
                Expect::of(Method::Write, payload as u64)
                    .copied(FromUser)
                    .calls(calls(payload, chunk)),
            ],
        );
        assert!(
            measured.counters.page_faults.minor > 0,
            "the mapping was touched"
        );
        assert_eq!(sink.join().expect("sink"), payload);
    }
    path("mmap, TCP write");
}

#[test]
fn sendfile_to_a_socket_copies_nothing() {
    for dir in dirs() {
        for (chunk, payload) in SIZES {
            let file = source(dir, payload);
            let (sender, receiver) = tcp();
            let sink = drained(receiver);
            let (from, to) = (file.as_raw_fd(), sender.as_raw_fd());
            // SAFETY: no offset is passed.
            let send = |n| unsafe { libc::sendfile(to, from, ptr::null_mut(), n) };
            let measured = measure(|| repeat("sendfile", payload, chunk, send));
            drop(sender);
            let bytes = payload as u64;
            check(
                &format!("sendfile {dir} {chunk}"),
                &measured.counters,
                &[Expect::of(Method::Sendfile, bytes).zero_copy(bytes)],
            );
            assert_eq!(sink.join().expect("sink"), payload);
        }
    }
    path_on_each("sendfile to TCP from");
}

#[test]
fn sendfile_and_copy_file_range_to_a_file_copy_in_the_kernel() {
    for dir in dirs() {
        for (chunk, payload) in SIZES {
            for method in [Method::Sendfile, Method::CopyFileRange] {
                // There it shares blocks.
                if method == Method::CopyFileRange && dir == xfs::dir() {
                    continue;
                }
                let (file, out) = (source(dir, payload), target(dir));
                let (from, to) = (file.as_raw_fd(), out.as_raw_fd());
                let null = ptr::null_mut();
                // SAFETY: no offsets are passed.
                let call = |n| unsafe {
                    if method == Method::Sendfile {
                        libc::sendfile(to, from, null, n)
                    } else {
                        libc::copy_file_range(from, null.cast(), to, null.cast(), n, 0)
                    }
                };
                let measured = measure(|| repeat(method.name(), payload, chunk, call));
                let expected = Expect::of(method, payload as u64).copied(InKernel);
                check(
                    &format!("{} {dir} {chunk}", method.name()),
                    &measured.counters,
                    &[expected],
                );
                assert_intact(&out, payload);
            }
        }
    }
    path_on_each("sendfile to file");
    path("copy_file_range ext4");
    path("copy_file_range tmpfs");
}

/// Moves a file through a pipe to a descriptor by splice alone.
fn splice_through(from: RawFd, ends: [RawFd; 2], to: RawFd, payload: usize, chunk: usize) {
    let null = ptr::null_mut();
    repeat("splice in", payload, chunk, |n| {
        // SAFETY: no offsets are passed.
        let moved = ok("splice", unsafe {
            libc::splice(from, null, ends[1], null, n, 0)
        });
        // SAFETY: as above.
        repeat("splice out", moved, moved, |n| unsafe {
            libc::splice(ends[0], null, to, null, n, 0)
        });
        moved.cast_signed()
    });
}

#[test]
fn splice_passes_pages_to_a_socket_and_copies_them_to_a_file() {
    for dir in dirs() {
        for (chunk, payload) in SIZES {
            let bytes = payload as u64;
            let ends = pipe();
            let file = source(dir, payload);
            let (sender, receiver) = tcp();
            let sink = drained(receiver);
            let (from, to) = (file.as_raw_fd(), sender.as_raw_fd());
            let measured = measure(|| splice_through(from, ends, to, payload, chunk));
            drop(sender);
            check(
                &format!("splice to tcp {dir} {chunk}"),
                &measured.counters,
                &[Expect::of(Method::Splice, 2 * bytes).zero_copy(2 * bytes)],
            );
            assert_eq!(sink.join().expect("sink"), payload);

            let (file, out) = (source(dir, payload), target(dir));
            let (from, to) = (file.as_raw_fd(), out.as_raw_fd());
            let measured = measure(|| splice_through(from, ends, to, payload, chunk));
            close(&ends);
            check(
                &format!("splice to file {dir} {chunk}"),
                &measured.counters,
                &[Expect {
                    in_kernel: bytes,
                    ..Expect::of(Method::Splice, 2 * bytes).zero_copy(bytes)
                }],
            );
            assert_intact(&out, payload);
        }
    }
    path_on_each("splice through a pipe to TCP from");
    path_on_each("splice through a pipe to file");
}

#[test]
fn tee_and_vmsplice_into_a_pipe_copy_nothing_and_vmsplice_out_of_it_copies() {
    let payload = 16_384;
    let (first, second) = (pipe(), pipe());
    let mut buffer = vec![7u8; payload];
    let measured = measure(|| {
        let vector = libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: payload,
        };
        // SAFETY: the vector describes the buffer.
        unsafe {
            assert_eq!(
                ok(
                    "vmsplice",
                    libc::vmsplice(first[1], &raw const vector, 1, 0)
                ),
                payload
            );
            assert_eq!(
                ok("tee", libc::tee(first[0], second[1], payload, 0)),
                payload
            );
            assert_eq!(
                ok(
                    "vmsplice",
                    libc::vmsplice(second[0], &raw const vector, 1, 0)
                ),
                payload
            );
        }
    });
    close(&[first, second].concat());
    let bytes = payload as u64;
    let out = Expect::of(Method::Vmsplice, bytes).copied(ToUser);
    check(
        "tee, vmsplice",
        &measured.counters,
        &[
            Expect::of(Method::Tee, bytes).zero_copy(bytes).calls(1),
            Expect {
                payload: 2 * bytes,
                zero_copy: bytes,
                ..out.calls(2)
            },
        ],
    );
    path("tee");
    path("vmsplice to a pipe");
    path("vmsplice from a pipe");
}

#[test]
fn a_call_that_sleeps_in_the_middle_keeps_its_copies() {
    // Larger than a pipe: the writer sleeps with part of the copy made, and the reader, whose calls
    // end meanwhile on the same CPU, must not be given it.
    let payload = 1 << 20;
    let ends = pipe();
    let mut reader = File::from(
        // SAFETY: duplicates an open descriptor, and owns the duplicate.
        unsafe {
            <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(libc::dup(ends[0]))
        },
    );
    let buffer = vec![1u8; payload];
    let sink = thread::spawn(move || {
        let mut bytes = vec![0; payload];
        reader.read_exact(&mut bytes).expect("read the pipe");
    });
    let measured = measure(|| write_all(ends[1], payload, payload, &buffer));
    sink.join().expect("reader");
    close(&ends);
    let expected = Expect::of(Method::Write, payload as u64)
        .copied(FromUser)
        .calls(1);
    check("sleeping write", &measured.counters, &[expected]);
    // It slept, or was driven off by whom it woke.
    let switches = measured.counters.context_switches;
    assert!(switches.voluntary + switches.involuntary > 2);
    assert_eq!(switches.voluntary, measured.accounts.voluntary);
    assert_eq!(switches.involuntary, measured.accounts.involuntary);
}

#[test]
fn proc_files_are_counted() {
    let mut file = File::open("/proc/self/status").expect("open");
    let mut buffer = vec![0u8; 65_536];
    let read = crate::harness::support::shared();
    let measured = measure(|| {
        let n = file.read(&mut buffer).expect("read");
        read.store(n as u64, std::sync::atomic::Ordering::SeqCst);
    });
    let bytes = read.load(std::sync::atomic::Ordering::SeqCst);
    assert!(bytes > 0);
    check(
        "proc",
        &measured.counters,
        &[Expect::of(Method::Read, bytes).copied(ToUser).calls(1)],
    );
    path("read /proc");
}
