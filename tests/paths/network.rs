//! Datagrams, and copies that the network stack makes on behalf of a socket.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::{
        fd::{AsRawFd, RawFd},
        unix::net::UnixDatagram,
    },
    process::Command,
    ptr,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use zc_profiler::ledger::{
    Counters,
    Direction::{FromUser, ToUser},
    DmaBytes, Fallback, Method,
};

use crate::harness::{
    expect::{Expect, check},
    support::{Child, Measured, measure, ok, path, shared},
};

/// The last two do not fit a packet of 1500 bytes.
const DATAGRAMS: [usize; 4] = [1, 1_000, 9_000, 60_001];
const LOOPBACK: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];

fn run(program: &str, arguments: &str) {
    let output = Command::new(program)
        .args(arguments.split_whitespace())
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(
        output.status.success(),
        "{program} {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Does the work in a thread of its own, in a fresh network namespace whose loopback takes packets
/// of 1500 bytes.
fn with_small_packets(work: impl FnOnce() + Send) {
    thread::scope(|scope| {
        scope.spawn(|| {
            // SAFETY: concerns this thread alone.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "unshare");
            run("ip", "link set lo mtu 1500 up");
            work();
        });
    });
}

fn udp(address: IpAddr) -> (UdpSocket, UdpSocket) {
    let receiver = UdpSocket::bind((address, 0)).expect("bind");
    let sender = UdpSocket::bind((address, 0)).expect("bind");
    sender
        .connect(receiver.local_addr().expect("address"))
        .expect("connect");
    (sender, receiver)
}

fn send(fd: RawFd, data: &[u8], flags: i32) {
    // SAFETY: the slice is valid.
    let sent = unsafe { libc::send(fd, data.as_ptr().cast(), data.len(), flags) };
    assert_eq!(ok("send", sent), data.len());
}

fn recv(fd: RawFd, buffer: &mut [u8], flags: i32) -> usize {
    // SAFETY: the slice is valid.
    let received = unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), flags) };
    ok("recv", received)
}

fn exchanged(name: &str, from: RawFd, to: RawFd, size: usize) {
    let data = vec![3u8; size];
    let mut buffer = vec![0u8; size];
    let measured = measure(|| {
        send(from, &data, 0);
        assert_eq!(recv(to, &mut buffer, 0), size);
    });
    let bytes = size as u64;
    check(
        name,
        &measured.counters,
        &[
            Expect::of(Method::Send, bytes).copied(FromUser).calls(1),
            Expect::of(Method::Recv, bytes).copied(ToUser).calls(1),
        ],
    );
    assert_eq!(measured.counters.dma_bytes, DmaBytes::default(), "{name}");
}

#[test]
fn datagrams_are_copied_once_in_and_once_out() {
    for size in DATAGRAMS {
        for address in LOOPBACK {
            let (sender, receiver) = udp(address);
            let name = format!("udp {address} {size}");
            exchanged(&name, sender.as_raw_fd(), receiver.as_raw_fd(), size);
        }
        let (sender, receiver) = UnixDatagram::pair().expect("socketpair");
        let name = format!("unix datagram {size}");
        exchanged(&name, sender.as_raw_fd(), receiver.as_raw_fd(), size);
    }
    for what in ["UDP send", "UDP recv"] {
        path(&format!("{what} IPv4"));
        path(&format!("{what} IPv6"));
    }
    path("UNIX datagram send");
    path("UNIX datagram recv");
}

#[test]
fn fragmented_datagrams_are_copied_once_too() {
    with_small_packets(|| {
        for size in DATAGRAMS {
            for address in LOOPBACK {
                let (sender, receiver) = udp(address);
                let name = format!("fragmented udp {address} {size}");
                exchanged(&name, sender.as_raw_fd(), receiver.as_raw_fd(), size);
            }
        }
    });
    for what in ["UDP send", "UDP recv"] {
        path(&format!("{what} IPv4, fragmented"));
        path(&format!("{what} IPv6, fragmented"));
    }
}

#[test]
fn a_truncated_datagram_copies_what_the_buffer_holds() {
    for size in [1_000, 60_001] {
        for address in LOOPBACK {
            let (sender, receiver) = udp(address);
            let data = vec![4u8; size];
            send(sender.as_raw_fd(), &data, 0);
            let fd = receiver.as_raw_fd();
            let mut buffer = [0u8; 100];
            let measured = measure(|| {
                assert_eq!(recv(fd, &mut buffer, libc::MSG_PEEK), 100);
                assert_eq!(recv(fd, &mut buffer, libc::MSG_TRUNC), size);
            });
            let expected = Expect {
                to_user: 200,
                ..Expect::of(Method::Recv, 100 + size as u64).calls(2)
            };
            check("truncated", &measured.counters, &[expected]);
        }
    }
    path("UDP recv, MSG_PEEK and MSG_TRUNC");
}

#[test]
fn many_messages_in_a_call_are_all_counted() {
    const SIZES: [usize; 3] = [100, 2_000, 8_000];
    for address in LOOPBACK {
        let (sender, receiver) = udp(address);
        let (from, to) = (sender.as_raw_fd(), receiver.as_raw_fd());
        let mut buffer = vec![5u8; 10_000];
        let total: usize = SIZES.iter().sum();
        let measured = measure(|| {
            let mut vectors = SIZES.map(|size| libc::iovec {
                iov_base: buffer.as_mut_ptr().cast(),
                iov_len: size,
            });
            // SAFETY: zeros are a message without anything.
            let mut messages: [libc::mmsghdr; 3] = unsafe { std::mem::zeroed() };
            for (message, vector) in messages.iter_mut().zip(&mut vectors) {
                message.msg_hdr.msg_iov = vector;
                message.msg_hdr.msg_iovlen = 1;
            }
            // SAFETY: messages, vectors and buffer are valid.
            unsafe {
                assert_eq!(libc::sendmmsg(from, messages.as_mut_ptr(), 3, 0), 3);
                let taken = libc::recvmmsg(to, messages.as_mut_ptr(), 3, 0, ptr::null_mut());
                assert_eq!(taken, 3);
            }
        });
        let bytes = total as u64;
        check(
            "messages",
            &measured.counters,
            &[
                Expect::of(Method::Send, bytes).copied(FromUser).calls(1),
                Expect::of(Method::Recv, bytes).copied(ToUser).calls(1),
            ],
        );
    }
    path("UDP sendmmsg, recvmmsg");
}

/// Receives everything, then hangs up.
pub fn drained(mut receiver: TcpStream) -> thread::JoinHandle<usize> {
    thread::spawn(move || {
        let mut buffer = vec![0; 1 << 20];
        let mut total = 0;
        loop {
            match receiver.read(&mut buffer).expect("receive") {
                0 => break,
                bytes => total += bytes,
            }
        }
        // Closing would not do: forked children hold the socket too.
        receiver
            .shutdown(std::net::Shutdown::Write)
            .expect("hang up");
        total
    })
}

pub fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let sender = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
    let (receiver, _) = listener.accept().expect("accept");
    (sender, receiver)
}

/// Waits until the peer, having received everything, hangs up: one recv of nothing.
pub fn hang_up(stream: &TcpStream) {
    stream
        .shutdown(std::net::Shutdown::Write)
        .expect("shutdown");
    let mut byte = [0];
    let mut stream = stream;
    assert_eq!(stream.read(&mut byte).expect("read the end"), 0);
}

fn socklen<T>(value: &T) -> libc::socklen_t {
    libc::socklen_t::try_from(size_of_val(value)).expect("a small value")
}

pub fn allow_zerocopy(stream: &TcpStream) {
    let on = 1i32;
    // SAFETY: the option's value is valid for the call.
    let result = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ZEROCOPY,
            (&raw const on).cast(),
            socklen(&on),
        )
    };
    assert_eq!(result, 0, "SO_ZEROCOPY: {}", io::Error::last_os_error());
}

pub const CHUNK: usize = 65_536;
pub const CHUNKS: usize = 16;
pub const BYTES: u64 = (CHUNK * CHUNKS) as u64;

pub fn send_chunks(stream: &TcpStream, data: &[u8], flags: i32) {
    for _ in 0..CHUNKS {
        let mut left = data;
        while !left.is_empty() {
            // SAFETY: the slice is valid.
            let sent =
                unsafe { libc::send(stream.as_raw_fd(), left.as_ptr().cast(), left.len(), flags) };
            left = &left[ok("send", sent)..];
        }
    }
}

pub fn lost(measured: &Measured) -> Vec<(Fallback, u64)> {
    let reasons: &BTreeMap<_, _> = &measured.counters.zero_copy_fallback_bytes;
    reasons
        .iter()
        .map(|(reason, bytes)| (*reason, *bytes))
        .collect()
}

/// A process on the same CPU that is always ready to run, so that interrupts come on top of it.
pub struct Bystander {
    child: Child,
    before: Counters,
    done: &'static AtomicU64,
}

impl Bystander {
    pub fn new() -> Self {
        let done = shared();
        crate::harness::support::profiler();
        let child = Child::stopped_before(|| while done.load(Ordering::Relaxed) == 0 {});
        child.wait_stopped();
        let before = child.counters();
        child.go_on();
        Self {
            child,
            before,
            done,
        }
    }

    /// Ends it; nothing may have been charged to it meanwhile.
    pub fn saw_nothing(self) {
        self.done.store(1, Ordering::Relaxed);
        self.child.wait_stopped();
        let counters = &self.child.counters() - &self.before;
        self.child.go_on();
        self.child.wait_exited();
        check("the bystander", &counters, &[]);
        assert!(counters.zero_copy_fallback_bytes.is_empty());
        assert!(
            counters.context_switches.involuntary > 0,
            "the bystander ran in between"
        );
    }
}

#[test]
fn zerocopy_over_loopback_is_copied_for_the_sender_and_for_no_bystander() {
    let bystander = Bystander::new();
    let (sender, receiver) = tcp();
    allow_zerocopy(&sender);
    let sink = drained(receiver);
    let data = vec![7u8; CHUNK];
    let again = shared();
    let measured = measure(|| {
        send_chunks(&sender, &data, libc::MSG_ZEROCOPY);
        hang_up(&sender);
        again.store(sent_standby(&sender), Ordering::SeqCst);
    });
    assert_eq!(sink.join().expect("sink") as u64, BYTES);
    let copied = BYTES + again.load(Ordering::SeqCst);
    check(
        "MSG_ZEROCOPY",
        &measured.counters,
        &[
            Expect {
                in_kernel: copied,
                ..Expect::of(Method::Send, BYTES).zero_copy(BYTES)
            },
            Expect::of(Method::Recv, 0).calls(1),
        ],
    );
    assert_eq!(
        lost(&measured),
        [(Fallback::ZerocopyCopied, copied)],
        "sent again: {}",
        copied - BYTES
    );

    bystander.saw_nothing();
    path("TCP send MSG_ZEROCOPY over loopback");
    path("interrupts on top of a bystander");
}

#[test]
fn splices_and_copies_of_files_that_copy_are_zero_copy_fallbacks() {
    let path = "/dev/shm/lost-source";
    fs::write(path, vec![1u8; CHUNK]).expect("write");
    let source = File::open(path).expect("open");
    let target = File::create("/dev/shm/lost-target").expect("create");
    let (from, to) = (source.as_raw_fd(), target.as_raw_fd());
    let null = ptr::null_mut::<libc::loff_t>();
    let mut offset = 0;
    let measured = measure(|| {
        // SAFETY: the offset is valid where one is passed.
        unsafe {
            let sent = libc::sendfile(to, from, &raw mut offset, CHUNK);
            assert_eq!(ok("sendfile", sent), CHUNK);
            let copied = libc::copy_file_range(from, null, to, null, CHUNK, 0);
            assert_eq!(ok("copy_file_range", copied), CHUNK);
        }
    });
    for path in [path, "/dev/shm/lost-target"] {
        fs::remove_file(path).expect("unlink");
    }
    let bytes = CHUNK as u64;
    assert_eq!(
        lost(&measured),
        [
            (Fallback::SpliceCopied, bytes),
            (Fallback::CopyFileRangeCopied, bytes)
        ]
    );
    crate::harness::support::path("lost zero-copy, sendfile and copy_file_range to file");
}

/// Two network namespaces joined by a cable, taken away on drop.
pub struct Cable;

pub const NAMESPACES: [&str; 2] = ["zc-near", "zc-far"];

impl Cable {
    pub fn new() -> Self {
        for namespace in NAMESPACES {
            run("ip", &format!("netns add {namespace}"));
        }
        run(
            "ip",
            "link add near netns zc-near type veth peer name far netns zc-far",
        );
        for (namespace, device, address) in [
            ("zc-near", "near", "10.9.9.1"),
            ("zc-far", "far", "10.9.9.2"),
        ] {
            run(
                "ip",
                &format!("-n {namespace} addr add {address}/24 dev {device}"),
            );
            run("ip", &format!("-n {namespace} link set {device} up"));
        }
        Self
    }

    /// A connection across it, the near end first.
    pub fn tcp() -> (TcpStream, TcpStream) {
        let address: SocketAddr = "10.9.9.2:7".parse().expect("address");
        let listener = inside(NAMESPACES[1], || TcpListener::bind(address).expect("bind"));
        let sender = inside(NAMESPACES[0], || {
            TcpStream::connect(address).expect("connect")
        });
        (sender, listener.accept().expect("accept").0)
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for namespace in NAMESPACES {
            let _ = Command::new("ip")
                .args(["netns", "del", namespace])
                .status();
        }
    }
}

/// What is done in a network namespace, by a thread of its own.
pub fn inside<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let path = format!("/run/netns/{namespace}");
            let file = File::open(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
            // SAFETY: concerns this thread alone.
            let result = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
            assert_eq!(result, 0, "setns: {}", io::Error::last_os_error());
            work()
        });
        thread.join().expect("work in a network namespace")
    })
}

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    value: u32,
}

/// `ethtool -K DEVICE sg off`.
fn scatter_gather_off(device: &str) {
    const ETHTOOL_SSG: u32 = 0x19;
    switch_off(device, ETHTOOL_SSG);
}

/// Sets one of a device's features, by the old commands, to 0.
pub fn switch_off(device: &str, feature: u32) {
    const SIOCETHTOOL: libc::c_ulong = 0x8946;
    let socket = UdpSocket::bind("0.0.0.0:0").expect("socket");
    let mut value = EthtoolValue {
        command: feature,
        value: 0,
    };
    // SAFETY: zeros are an empty request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (target, byte) in request.ifr_name.iter_mut().zip(device.bytes()) {
        *target = byte.cast_signed();
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: the request and what it points to are valid for the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    assert_eq!(result, 0, "ethtool: {}", io::Error::last_os_error());
}

/// What the socket sent again: each byte of it was copied again.
pub fn sent_standby(stream: &TcpStream) -> u64 {
    /// Of `tcpi_bytes_retrans` in `struct tcp_info`.
    const OFFSET: usize = 208;
    let mut info = [0u64; 32];
    let mut length = socklen(&info);
    // SAFETY: the buffer has that length.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    assert_eq!(result, 0, "TCP_INFO");
    assert!(length as usize >= OFFSET + 8, "tcpi_bytes_retrans");
    info[OFFSET / 8]
}

#[test]
fn without_scatter_gather_the_sender_pays_for_segmentation() {
    let _cable = Cable::new();
    inside(NAMESPACES[0], || scatter_gather_off("near"));
    let data = vec![8u8; CHUNK];
    let path = "/dev/shm/segmented";
    fs::write(path, &data).expect("write");
    let file = File::open(path).expect("open");
    fs::remove_file(path).expect("unlink");
    for method in [Method::Write, Method::Sendfile, Method::Send] {
        let (sender, receiver) = Cable::tcp();
        if method == Method::Send {
            allow_zerocopy(&sender);
        }
        let sink = drained(receiver);
        let again = shared();
        let measured = measure(|| {
            match method {
                Method::Send => send_chunks(&sender, &data, libc::MSG_ZEROCOPY),
                Method::Write => {
                    for _ in 0..CHUNKS {
                        // SAFETY: the slice is valid.
                        let written =
                            unsafe { libc::write(sender.as_raw_fd(), data.as_ptr().cast(), CHUNK) };
                        assert_eq!(ok("write", written), CHUNK);
                    }
                }
                _ => {
                    for _ in 0..CHUNKS {
                        let mut offset = 0;
                        // SAFETY: the offset is valid.
                        let sent = unsafe {
                            libc::sendfile(
                                sender.as_raw_fd(),
                                file.as_raw_fd(),
                                &raw mut offset,
                                CHUNK,
                            )
                        };
                        assert_eq!(ok("sendfile", sent), CHUNK);
                    }
                }
            }
            hang_up(&sender);
            again.store(sent_standby(&sender), Ordering::SeqCst);
        });
        assert_eq!(sink.join().expect("sink") as u64, BYTES);
        let copied = BYTES + again.load(Ordering::SeqCst);
        let mut expected = Expect {
            in_kernel: copied,
            ..Expect::of(method, BYTES)
        };
        let wanted = if method == Method::Write {
            expected.from_user = BYTES;
            vec![]
        } else {
            expected.zero_copy = BYTES;
            vec![(Fallback::SgOff, copied)]
        };
        check(
            &format!("sg off, {}", method.name()),
            &measured.counters,
            &[expected, Expect::of(Method::Recv, 0).calls(1)],
        );
        assert_eq!(lost(&measured), wanted, "{}", method.name());
        assert_eq!(measured.counters.dma_bytes, DmaBytes::default(), "veth");
    }
    crate::harness::support::path("TCP write over veth, SG off");
    crate::harness::support::path("sendfile over veth, SG off");
    crate::harness::support::path("TCP send MSG_ZEROCOPY over veth, SG off");
}
