//! What an `io_uring` copies belongs to the process that owns it and to no other method, whoever
//! carries the request out.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    path::Path,
    thread,
};

use zc_profiler::ledger::{
    Counters,
    Direction::{FromUser, ToUser},
    Fallback, Method,
};

use crate::{
    harness::{
        expect::{Expect, check},
        ring::{self, Request, Ring},
        support::{kernel_is, measure, ok, path, profiler, shared},
    },
    paths::network::{Cable, drained, sent_standby},
};

const CHUNK: usize = 10_007;
const TIMES: usize = 8;
const BYTES: u64 = (CHUNK * TIMES) as u64;

/// ext4 on a disk, and tmpfs.
const DIRS: [&str; 2] = ["/lab", "/dev/shm"];

/// Who carries a request out: the task that submits it, a worker, a thread that polls.
const WAYS: [(&str, u32, u8); 3] = [
    ("inline", 0, 0),
    ("worker", 0, ring::ASYNC),
    ("polled", ring::SETUP_SQPOLL, 0),
];

/// Whether completions name their request, so that payload is counted (not on 5.10).
fn counts_payload() -> bool {
    profiler()
        .statuses()
        .iter()
        .find(|status| status.hook.name == "io_uring_payload")
        .is_some_and(|status| status.variant().is_some())
}

fn payload(bytes: u64) -> Expect {
    Expect::of(Method::IoUring, if counts_payload() { bytes } else { 0 })
}

fn mapped() -> Expect {
    Expect::of(Method::Mmap, 0).calls(ring::MMAPS)
}

/// A file without a name, of `BYTES` bytes.
fn file(dir: &str, flags: i32) -> File {
    let path = Path::new(dir).join("io_uring");
    fs::write(&path, vec![9u8; CHUNK * TIMES]).expect("write");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags)
        .open(&path);
    fs::remove_file(&path).expect("unlink");
    file.expect("open")
}

fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let sender = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
    let (receiver, _) = listener.accept().expect("accept");
    (sender, receiver)
}

/// Carries out `TIMES` requests in a child with a ring of its own; what was counted, and how often
/// it entered the kernel for it.
fn run(
    setup: u32,
    buffer: &mut [u8],
    fixed: bool,
    request: impl Fn(&[u8], usize) -> Request,
) -> (Counters, u64) {
    let enters = shared();
    let measured = measure(|| {
        let mut ring = Ring::new(setup);
        if fixed {
            ring.register(buffer);
        }
        for time in 0..TIMES {
            let result = ring.run(request(buffer, time));
            assert_eq!(usize::try_from(result), Ok(buffer.len()), "request {time}");
        }
        enters.store(ring.enters, std::sync::atomic::Ordering::SeqCst);
    });
    let enters = enters.load(std::sync::atomic::Ordering::SeqCst);
    (measured.counters, enters)
}

#[test]
fn files_copy_once_whoever_carries_it_out() {
    for dir in DIRS {
        for (way, setup, flags) in WAYS {
            for (opcode, direction) in [
                (ring::READ, ToUser),
                (ring::WRITE, FromUser),
                (ring::READ_FIXED, ToUser),
                (ring::WRITE_FIXED, FromUser),
            ] {
                let file = file(dir, 0);
                let fixed = matches!(opcode, ring::READ_FIXED | ring::WRITE_FIXED);
                let mut buffer = vec![1u8; CHUNK];
                let (counters, enters) = run(setup, &mut buffer, fixed, |buffer, time| {
                    Request::new(opcode, file.as_raw_fd(), buffer)
                        .at((time * CHUNK) as u64)
                        .with(flags)
                });
                let mut expected = payload(BYTES).calls(enters);
                match direction {
                    ToUser => expected.to_user = BYTES,
                    _ => expected.from_user = BYTES,
                }
                let case = format!("{dir} {way} {opcode}");
                check(&case, &counters, &[expected, mapped()]);
            }
            let file_system = if dir == "/lab" { "ext4" } else { "tmpfs" };
            for what in ["READ", "WRITE", "READ_FIXED", "WRITE_FIXED"] {
                path(&format!("io_uring {what}, {way} {file_system}"));
            }
        }
    }
}

#[repr(C, align(4096))]
struct Pages([u8; 8_192]);

#[test]
fn direct_io_copies_nothing() {
    for (way, setup, flags) in WAYS {
        for opcode in [ring::READ, ring::READ_FIXED, ring::WRITE, ring::WRITE_FIXED] {
            let file = file("/lab", libc::O_DIRECT);
            let fixed = matches!(opcode, ring::READ_FIXED | ring::WRITE_FIXED);
            let mut pages = Box::new(Pages([1; 8_192]));
            let (counters, enters) = run(setup, &mut pages.0, fixed, |buffer, time| {
                Request::new(opcode, file.as_raw_fd(), buffer)
                    .at((time * buffer.len()) as u64)
                    .with(flags)
            });
            // What completes elsewhere is seen by no cross-check of direct I/O: payload without copies.
            let expected = payload(8_192 * TIMES as u64).calls(enters);
            check(&format!("{way} {opcode}"), &counters, &[expected, mapped()]);
        }
        path(&format!("io_uring O_DIRECT, {way}"));
        path(&format!("io_uring O_DIRECT, fixed buffers, {way}"));
    }
}

#[test]
fn sockets_copy_in_and_out() {
    for (way, setup, flags) in WAYS {
        let (mut peer, socket) = tcp();
        let mut buffer = vec![1u8; CHUNK];
        let sink = thread::spawn(move || {
            let mut received = vec![0; CHUNK * TIMES];
            peer.read_exact(&mut received).expect("receive");
            peer.write_all(&received).expect("send back");
            peer
        });
        let fd = socket.as_raw_fd();
        let (counters, enters) = run(setup, &mut buffer, false, |buffer, _| {
            Request::new(ring::SEND, fd, buffer).with(flags)
        });
        let expected = Expect {
            from_user: BYTES,
            ..payload(BYTES).calls(enters)
        };
        check(&format!("send {way}"), &counters, &[expected, mapped()]);
        let peer = sink.join().expect("sink");
        let (counters, enters) = run(setup, &mut buffer, false, |buffer, _| Request {
            operation_flags: libc::MSG_WAITALL.cast_unsigned(),
            ..Request::new(ring::RECV, fd, buffer).with(flags)
        });
        let expected = Expect {
            to_user: BYTES,
            ..payload(BYTES).calls(enters)
        };
        check(&format!("recv {way}"), &counters, &[expected, mapped()]);
        drop(peer);
        path(&format!("io_uring SEND, {way}"));
        path(&format!("io_uring RECV, {way}"));
    }
}

#[test]
fn a_request_that_runs_on_the_way_back_from_a_write_is_none_of_its_own() {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0, "pipe");
    let mut buffer = vec![1u8; CHUNK];
    let data = vec![2u8; CHUNK];
    let measured = measure(|| {
        let mut ring = Ring::new(0);
        for _ in 0..TIMES {
            // The pipe is empty: the request waits, and the write below sets it off.
            ring.submit(Request::new(ring::READ, ends[0], &buffer));
            // SAFETY: the buffer holds that much.
            let written = unsafe { libc::write(ends[1], data.as_ptr().cast(), CHUNK) };
            assert_eq!(ok("write", written), CHUNK);
            assert_eq!(usize::try_from(ring.wait()), Ok(CHUNK), "read");
        }
    });
    assert!(buffer.iter().all(|byte| *byte == 1), "the child's own");
    buffer.clear();
    let enters = measured.counters.method(Method::IoUring).calls;
    assert!(enters >= TIMES as u64);
    let read = Expect {
        to_user: BYTES,
        ..payload(BYTES).calls(enters)
    };
    let write = Expect::of(Method::Write, BYTES)
        .copied(FromUser)
        .calls(TIMES as u64);
    check("pipe", &measured.counters, &[read, write, mapped()]);
    for end in ends {
        // SAFETY: made above and closed once.
        unsafe { libc::close(end) };
    }
}

#[test]
fn a_splice_moves_pages_and_copies_them_to_a_file_in_the_kernel() {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0, "pipe");
    let (from, to) = (file("/lab", 0), file("/lab", 0));
    let enters = shared();
    let measured = measure(|| {
        let mut ring = Ring::new(0);
        let splice = |splice_from, offset_in: u64, fd, offset| {
            Request {
                opcode: ring::SPLICE,
                fd,
                splice_from,
                address: offset_in,
                length: 4_096,
                ..Request::default()
            }
            .at(offset)
        };
        for request in [
            splice(from.as_raw_fd(), 0, ends[1], u64::MAX),
            splice(ends[0], u64::MAX, to.as_raw_fd(), 0),
        ] {
            assert_eq!(ring.run(request), 4_096, "splice");
        }
        enters.store(ring.enters, std::sync::atomic::Ordering::SeqCst);
    });
    let expected = Expect {
        in_kernel: 4_096,
        ..payload(2 * 4_096).calls(enters.load(std::sync::atomic::Ordering::SeqCst))
    };
    check("splice", &measured.counters, &[expected, mapped()]);
    for end in ends {
        // SAFETY: made above and closed once.
        unsafe { libc::close(end) };
    }
    path("io_uring SPLICE");
}

#[test]
fn a_zero_copy_send_is_copied_on_local_delivery_only() {
    let (mut peer, socket) = tcp();
    let mut buffer = vec![1u8; CHUNK];
    let fd = socket.as_raw_fd();
    if !has_send_zc() {
        let result = shared();
        measure(|| {
            let refused = Ring::new(0).run(Request::new(ring::SEND_ZC, fd, &buffer));
            result.store(
                refused.unsigned_abs().into(),
                std::sync::atomic::Ordering::SeqCst,
            );
        });
        let result = result.load(std::sync::atomic::Ordering::SeqCst);
        assert_eq!(result, u64::from(libc::EINVAL.unsigned_abs()));
        return;
    }
    let sink = thread::spawn(move || {
        let mut received = vec![0; CHUNK * TIMES];
        peer.read_exact(&mut received).expect("receive");
    });
    let (counters, enters) = run(0, &mut buffer, false, |buffer, _| {
        Request::new(ring::SEND_ZC, fd, buffer)
    });
    sink.join().expect("sink");
    // What a slow receiver has TCP send again is delivered, and so copied, again.
    let delivered = BYTES + sent_standby(&socket);
    copied_on_delivery("SEND_ZC", &counters, enters, delivered);
    path("io_uring SEND_ZC over loopback");
}

/// Nothing but that the kernel copied for the receiver what the requests had passed by reference.
fn copied_on_delivery(case: &str, counters: &Counters, enters: u64, delivered: u64) {
    let expected = Expect {
        in_kernel: delivered,
        ..payload(BYTES).zero_copy(BYTES).calls(enters)
    };
    check(case, counters, &[expected, mapped()]);
    let lost = &counters.zero_copy_fallback_bytes;
    assert_eq!(
        lost.get(&Fallback::ZerocopyCopied),
        Some(&delivered),
        "{case}"
    );
    assert_eq!(lost.len(), 1, "{case}");
}

#[test]
fn a_zero_copy_send_is_copied_at_the_end_of_a_cable_too() {
    if !has_send_zc() {
        return;
    }
    let _cable = Cable::new();
    let (near, far) = Cable::tcp();
    let sink = drained(far);
    let (mut buffer, fd) = (vec![1u8; CHUNK], near.as_raw_fd());
    let (counters, enters) = run(0, &mut buffer, false, |buffer, _| {
        Request::new(ring::SEND_ZC, fd, buffer)
    });
    near.shutdown(std::net::Shutdown::Write).expect("shutdown");
    assert_eq!(sink.join().expect("sink") as u64, BYTES);
    let delivered = BYTES + sent_standby(&near);
    copied_on_delivery("SEND_ZC over veth", &counters, enters, delivered);
    path("io_uring SEND_ZC over veth");
}

/// Whether this kernel sends without a copy: since 6.0.
pub fn has_send_zc() -> bool {
    !kernel_is("5.")
}
