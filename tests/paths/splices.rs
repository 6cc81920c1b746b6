//! What splice and its kin pass from one descriptor to another, in every direction, and who pays
//! for the copy in the end.

use std::{
    fs::{File, OpenOptions},
    net::UdpSocket,
    os::{
        fd::{AsRawFd, RawFd},
        unix::net::{UnixDatagram, UnixStream},
    },
    ptr,
};

use zc_profiler::{
    kernel::btf::Btf,
    ledger::{
        Direction::{InKernel, ToUser},
        Fallback, Method,
    },
};

use crate::{
    harness::{
        expect::{Expect, check},
        support::{Measured, kernel_is, measure, ok, path},
    },
    paths::copies::{close, source, tcp},
};

/// A pipe with room for it in pieces of any size.
fn pipe() -> [RawFd; 2] {
    let ends = crate::paths::copies::pipe();
    // SAFETY: no memory is passed.
    let size = unsafe { libc::fcntl(ends[0], libc::F_SETPIPE_SZ, 1 << 20) };
    assert_eq!(size, 1 << 20, "F_SETPIPE_SZ");
    ends
}

const PAYLOAD: usize = 65_536;
const BYTES: u64 = PAYLOAD as u64;

/// Since 6.5 sendfile passes pages to a pipe; before, pipes of 5.10 had them written.
pub fn sendfile_copies_to_a_pipe() -> bool {
    kernel_is("5.")
}

fn splice(from: RawFd, to: RawFd, bytes: usize) -> usize {
    let null = ptr::null_mut();
    // SAFETY: no offsets are passed.
    ok("splice", unsafe {
        libc::splice(from, null, to, null, bytes, 0)
    })
}

/// Calls until everything is through.
fn splice_all(from: RawFd, to: RawFd, bytes: usize) {
    let mut left = bytes;
    while left > 0 {
        let moved = splice(from, to, left);
        assert!(moved > 0, "the end, {left} bytes early");
        left -= moved;
    }
}

fn sendfile(from: RawFd, to: RawFd, bytes: usize) {
    let mut left = bytes;
    while left > 0 {
        // SAFETY: no offset is passed.
        let sent = unsafe { libc::sendfile(to, from, ptr::null_mut(), left) };
        left -= ok("sendfile", sent);
    }
}

/// Reads everything in one call where the kind of descriptor allows it.
fn read_all(from: RawFd, bytes: usize) {
    let mut buffer = vec![0u8; bytes];
    let mut read = 0;
    while read < bytes {
        let rest = &mut buffer[read..];
        // SAFETY: the slice is valid.
        let got = unsafe { libc::read(from, rest.as_mut_ptr().cast(), rest.len()) };
        read += ok("read", got);
    }
    let pattern = (0..251u8).cycle().take(bytes);
    assert!(buffer.into_iter().eq(pattern), "content");
}

/// Nothing but zero-copy bytes of one method.
fn passed(case: &str, measured: &Measured, method: Method, times: u64) {
    let expected = Expect::of(method, times * BYTES).zero_copy(times * BYTES);
    check(case, &measured.counters, &[expected]);
    assert!(
        measured.counters.zero_copy_fallback_bytes.is_empty(),
        "{case}"
    );
}

/// The one who takes the bytes out in the end copies them.
fn taken_out(case: &str, from: RawFd) {
    let measured = measure(|| read_all(from, PAYLOAD));
    let expected = Expect::of(Method::Read, BYTES).copied(ToUser);
    check(case, &measured.counters, &[expected]);
}

fn files() -> [(&'static str, File); 2] {
    [("ext4", "/lab"), ("tmpfs", "/dev/shm")].map(|(name, dir)| (name, source(dir, PAYLOAD)))
}

#[test]
fn splices_between_files_pipes_and_sockets_pass_pages() {
    for (file_system, file) in files() {
        let (first, second, last) = (pipe(), pipe(), pipe());
        let (near, far) = UnixStream::pair().expect("socketpair");
        let measured = measure(|| splice_all(file.as_raw_fd(), first[1], PAYLOAD));
        passed("file to pipe", &measured, Method::Splice, 1);
        let measured = measure(|| splice_all(first[0], second[1], PAYLOAD));
        passed("pipe to pipe", &measured, Method::Splice, 1);
        let measured = measure(|| splice_all(second[0], near.as_raw_fd(), PAYLOAD));
        passed("pipe to UNIX", &measured, Method::Splice, 1);
        let measured = measure(|| splice_all(far.as_raw_fd(), last[1], PAYLOAD));
        passed("UNIX to pipe", &measured, Method::Splice, 1);
        taken_out("the last pipe", last[0]);
        close(&[first, second, last].concat());
        path(&format!("splice {file_system} to pipe"));
    }
    path("splice pipe to pipe");
    path("splice pipe to UNIX");
    path("splice UNIX to pipe, of pages");
    path("read of spliced pages from pipe");
}

#[test]
fn splices_between_tcp_and_pipes_pass_pages() {
    let (_, file) = &files()[0];
    let (first, last) = (pipe(), pipe());
    let (near, far) = tcp();
    let measured = measure(|| {
        splice_all(file.as_raw_fd(), first[1], PAYLOAD);
        splice_all(first[0], near.as_raw_fd(), PAYLOAD);
    });
    passed("file to TCP", &measured, Method::Splice, 2);
    let measured = measure(|| splice_all(far.as_raw_fd(), last[1], PAYLOAD));
    passed("TCP to pipe", &measured, Method::Splice, 1);
    taken_out("a pipe from TCP", last[0]);
    close(&[first, last].concat());
    path("splice pipe to TCP");
    path("splice TCP to pipe");
}

#[test]
fn what_was_written_to_tcp_is_spliced_to_a_pipe_by_page() {
    let (near, far) = tcp();
    let last = pipe();
    let data: Vec<u8> = (0..251).cycle().take(PAYLOAD).collect();
    // SAFETY: the vector is valid.
    let written = unsafe { libc::write(near.as_raw_fd(), data.as_ptr().cast(), PAYLOAD) };
    assert_eq!(ok("write", written), PAYLOAD);
    let measured = measure(|| splice_all(far.as_raw_fd(), last[1], PAYLOAD));
    passed("TCP to pipe", &measured, Method::Splice, 1);
    taken_out("a pipe from TCP", last[0]);
    close(&last);
    path("splice TCP to pipe, of written bytes");
}

/// How much of a message of that size a UNIX socket keeps outside of whole pages: the head of each of
/// its buffers, which fits a page together with the kernel's notes.
fn heads(message: usize) -> usize {
    const PAGE: usize = 4_096;
    const PAGED: usize = 32_768;
    let notes = Btf::of_kernel()
        .expect("BTF")
        .size("skb_shared_info")
        .expect("skb_shared_info");
    let room = PAGE - (notes as usize).next_multiple_of(64);
    let (mut left, mut heads) = (message, 0);
    while left > 0 {
        let size = left.min(room + PAGED);
        let paged = size.saturating_sub(room).next_multiple_of(PAGE).min(size);
        heads += size - paged;
        left -= size;
    }
    heads
}

#[test]
fn what_was_written_to_unix_is_spliced_to_a_pipe_by_page_but_for_heads() {
    for size in [1, 3_000, 10_007, PAYLOAD] {
        let (near, far) = UnixStream::pair().expect("socketpair");
        let last = pipe();
        let data: Vec<u8> = (0..251).cycle().take(size).collect();
        // SAFETY: the vector is valid.
        let written = unsafe { libc::write(near.as_raw_fd(), data.as_ptr().cast(), size) };
        assert_eq!(ok("write", written), size);
        let measured = measure(|| splice_all(far.as_raw_fd(), last[1], size));
        let (bytes, copied) = (size as u64, heads(size) as u64);
        assert!(copied > 0, "{size}");
        let expected = Expect {
            in_kernel: copied,
            ..Expect::of(Method::Splice, bytes).zero_copy(bytes - copied)
        };
        check(
            &format!("UNIX to pipe, {size}"),
            &measured.counters,
            &[expected],
        );
        let in_vain = &measured.counters.zero_copy_fallback_bytes;
        assert_eq!(
            in_vain.get(&Fallback::SpliceCopied),
            Some(&copied),
            "{size}"
        );
        let measured = measure(|| read_all(last[0], size));
        let expected = Expect::of(Method::Read, bytes).copied(ToUser);
        check("a pipe from UNIX", &measured.counters, &[expected]);
        close(&last);
    }
    path("splice UNIX to pipe, of written bytes");
}

#[test]
fn what_has_no_pages_is_spliced_to_a_pipe_by_copy() {
    const SIZE: usize = 1_000;
    let data: Vec<u8> = (0..251).cycle().take(SIZE).collect();
    let random = File::open("/dev/urandom").expect("open");
    let (unix, unix_far) = UnixDatagram::pair().expect("socketpair");
    unix.send(&data).expect("send");
    let udp = UdpSocket::bind("127.0.0.1:0").expect("bind");
    udp.send_to(&data, udp.local_addr().expect("address"))
        .expect("send");
    for (case, from) in [
        ("UNIX datagram", unix_far.as_raw_fd()),
        ("UDP", udp.as_raw_fd()),
        ("/dev/urandom", random.as_raw_fd()),
    ] {
        let last = pipe();
        let measured = measure(|| assert_eq!(splice(from, last[1], SIZE), SIZE));
        let expected = Expect::of(Method::Splice, SIZE as u64)
            .copied(InKernel)
            .calls(1);
        check(case, &measured.counters, &[expected]);
        close(&last);
        path(&format!("splice {case} to pipe"));
    }
}

#[test]
fn sendfile_to_a_unix_socket_passes_pages() {
    for (file_system, file) in files() {
        let (near, far) = UnixStream::pair().expect("socketpair");
        let measured = measure(|| sendfile(file.as_raw_fd(), near.as_raw_fd(), PAYLOAD));
        passed("sendfile to UNIX", &measured, Method::Sendfile, 1);
        taken_out("UNIX", far.as_raw_fd());
        path(&format!("sendfile to UNIX from {file_system}"));
    }
    path("read of passed pages from UNIX");
}

#[test]
fn sendfile_to_a_pipe_passes_pages_or_copies_them() {
    for (file_system, file) in files() {
        let ends = pipe();
        let measured = measure(|| sendfile(file.as_raw_fd(), ends[1], PAYLOAD));
        if sendfile_copies_to_a_pipe() {
            let copied = Expect::of(Method::Sendfile, BYTES).copied(InKernel);
            check("sendfile to pipe", &measured.counters, &[copied]);
            let lost = &measured.counters.zero_copy_fallback_bytes;
            assert_eq!(lost.get(&Fallback::SpliceCopied), Some(&BYTES));
        } else {
            passed("sendfile to pipe", &measured, Method::Sendfile, 1);
        }
        taken_out("pipe", ends[0]);
        close(&ends);
        path(&format!("sendfile to pipe from {file_system}"));
    }
}

#[test]
fn dev_null_takes_pages_without_a_copy() {
    let null = OpenOptions::new()
        .write(true)
        .open("/dev/null")
        .expect("open");
    let (_, file) = &files()[0];
    let measured = measure(|| sendfile(file.as_raw_fd(), null.as_raw_fd(), PAYLOAD));
    passed("/dev/null", &measured, Method::Sendfile, 1);
    path("sendfile to /dev/null");
}

#[test]
fn a_gift_of_user_pages_travels_uncopied_until_it_is_read() {
    let mut data = crate::paths::memory::Mapping::anonymous(PAYLOAD);
    data.fill_with_pattern();
    let ends = pipe();
    let (near, far) = tcp();
    let measured = measure(|| {
        let vector = libc::iovec {
            iov_base: data.start(),
            iov_len: PAYLOAD,
        };
        let gift = libc::SPLICE_F_GIFT;
        // SAFETY: the vector describes the mapping, which is never written again.
        let given = unsafe { libc::vmsplice(ends[1], &raw const vector, 1, gift) };
        assert_eq!(ok("vmsplice", given), PAYLOAD);
        splice_all(ends[0], near.as_raw_fd(), PAYLOAD);
    });
    let all = |method| Expect::of(method, BYTES).zero_copy(BYTES);
    check(
        "vmsplice to TCP",
        &measured.counters,
        &[all(Method::Vmsplice).calls(1), all(Method::Splice)],
    );
    taken_out("TCP", far.as_raw_fd());
    close(&ends);
    path("vmsplice and splice to TCP");
}
