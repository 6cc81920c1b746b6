//! A cable whose ends can gather: what goes by reference stays so until the other end must own it.

use std::{
    fs::{self, File},
    net::{Ipv6Addr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    sync::atomic::Ordering,
};

use zc_profiler::ledger::{
    Direction::{FromUser, ToUser},
    DmaBytes, Fallback, Method,
};

use crate::{
    harness::{
        expect::{Expect, check},
        support::{Measured, measure, ok, path, shared},
    },
    paths::network::{
        BYTES, Bystander, CHUNK, CHUNKS, Cable, NAMESPACES, allow_zerocopy, drained, hang_up,
        inside, lost, send_chunks, sent_standby, switch_off,
    },
};

/// Has a child send everything by a connection whose other end takes it in; what was measured, and
/// what was sent more than once.
fn sent((near, far): (TcpStream, TcpStream), send: impl FnOnce(&TcpStream)) -> (Measured, u64) {
    let sink = drained(far);
    let again = shared();
    let measured = measure(|| {
        send(&near);
        hang_up(&near);
        again.store(sent_standby(&near), Ordering::SeqCst);
    });
    assert_eq!(sink.join().expect("sink") as u64, BYTES);
    assert_eq!(measured.counters.dma_bytes, DmaBytes::default(), "no NIC");
    (measured, again.load(Ordering::SeqCst))
}

fn write_chunks(stream: &TcpStream, data: &[u8]) {
    for _ in 0..CHUNKS {
        // SAFETY: the slice is valid.
        let written = unsafe { libc::write(stream.as_raw_fd(), data.as_ptr().cast(), data.len()) };
        assert_eq!(ok("write", written), data.len());
    }
}

fn send_file(stream: &TcpStream, file: &File) {
    for _ in 0..CHUNKS {
        let mut offset = 0;
        // SAFETY: the offset is valid.
        let sent =
            unsafe { libc::sendfile(stream.as_raw_fd(), file.as_raw_fd(), &raw mut offset, CHUNK) };
        assert_eq!(ok("sendfile", sent), CHUNK);
    }
}

fn checked(case: &str, measured: &Measured, expected: Expect) {
    // The other end hangs up: one recv of nothing.
    let end = Expect::of(Method::Recv, 0).calls(1);
    check(case, &measured.counters, &[expected, end]);
}

#[test]
fn a_write_is_copied_once() {
    let _cable = Cable::new();
    let data = vec![8u8; CHUNK];
    let (measured, _) = sent(Cable::tcp(), |stream| write_chunks(stream, &data));
    let written = Expect::of(Method::Write, BYTES).copied(FromUser);
    checked("write", &measured, written);
    assert!(lost(&measured).is_empty());
    path("TCP write over veth");
}

#[test]
fn sendfile_passes_pages() {
    let _cable = Cable::new();
    for (name, dir) in [("ext4", "/lab"), ("tmpfs", "/dev/shm")] {
        let place = format!("{dir}/cable");
        fs::write(&place, vec![8u8; CHUNK]).expect("write");
        let file = File::open(&place).expect("open");
        fs::remove_file(&place).expect("unlink");
        let (measured, _) = sent(Cable::tcp(), |stream| send_file(stream, &file));
        let passed = Expect::of(Method::Sendfile, BYTES).zero_copy(BYTES);
        checked(name, &measured, passed);
        assert!(lost(&measured).is_empty());
        path(&format!("sendfile over veth from {name}"));
    }
}

#[test]
fn zerocopy_is_copied_for_the_other_end_and_for_no_bystander() {
    let bystander = Bystander::new();
    let _cable = Cable::new();
    let (near, far) = Cable::tcp();
    allow_zerocopy(&near);
    let data = vec![7u8; CHUNK];
    let (measured, again) = sent((near, far), |stream| {
        send_chunks(stream, &data, libc::MSG_ZEROCOPY);
    });
    let copied = BYTES + again;
    let expected = Expect {
        in_kernel: copied,
        ..Expect::of(Method::Send, BYTES).zero_copy(BYTES)
    };
    checked("MSG_ZEROCOPY", &measured, expected);
    assert_eq!(lost(&measured), [(Fallback::ZerocopyCopied, copied)]);
    bystander.saw_nothing();
    path("TCP send MSG_ZEROCOPY over veth");
}

#[test]
fn a_checksum_by_the_cpu_is_no_copy() {
    const ETHTOOL_STXCSUM: u32 = 0x17;
    let _cable = Cable::new();
    inside(NAMESPACES[0], || switch_off("near", ETHTOOL_STXCSUM));
    let data = vec![8u8; CHUNK];
    let (measured, _) = sent(Cable::tcp(), |stream| write_chunks(stream, &data));
    let written = Expect::of(Method::Write, BYTES).copied(FromUser);
    checked("no checksum offload", &measured, written);
    path("TCP write over veth, checksum offload off");
}

#[test]
fn tcp_over_ipv6_copies_once_in_and_once_out() {
    let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).expect("bind");
    let near = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
    let (far, _) = listener.accept().expect("accept");
    let mut data = vec![5u8; CHUNK];
    let measured = measure(|| {
        for _ in 0..CHUNKS {
            let (start, flags) = (data.as_mut_ptr().cast(), libc::MSG_WAITALL);
            // SAFETY: the buffer holds a chunk.
            unsafe {
                assert_eq!(
                    ok("send", libc::send(near.as_raw_fd(), start, CHUNK, 0)),
                    CHUNK
                );
                assert_eq!(
                    ok("recv", libc::recv(far.as_raw_fd(), start, CHUNK, flags)),
                    CHUNK
                );
            }
        }
    });
    check(
        "IPv6",
        &measured.counters,
        &[
            Expect::of(Method::Send, BYTES)
                .copied(FromUser)
                .calls(CHUNKS as u64),
            Expect::of(Method::Recv, BYTES)
                .copied(ToUser)
                .calls(CHUNKS as u64),
        ],
    );
    path("TCP send IPv6");
    path("TCP recv IPv6");
}
