//! No byte is lost and none is counted twice: payload is copied payload and zero-copy payload, and
//! the processes' bytes are the system's.

use std::{
    fs::File,
    net::UdpSocket,
    os::{
        fd::{AsRawFd, RawFd},
        unix::net::{UnixDatagram, UnixStream},
    },
    ptr,
};

use zc_profiler::ledger::{Counters, Method, MethodTotals, Snapshot};

use crate::{
    harness::support::{Child, measure, ok, path, profiler, snapshot},
    paths::{
        copies::{pipe, source, target, tcp},
        memory::Mapping,
        xfs,
    },
};

const BYTES: usize = 10_007;
const N: u64 = BYTES as u64;
/// `O_DIRECT` moves whole blocks.
const BLOCKS: usize = 8_192;

/// A path of the bytes that one process walks alone, and what it must show of all methods together.
struct Walk {
    name: &'static str,
    payload: u64,
    zero_copy: u64,
    to_user: u64,
    from_user: u64,
    in_kernel: u64,
    /// Payload that is neither copied nor passed: what a device makes up or a buffer is too short for.
    neither: u64,
    work: Box<dyn Fn()>,
}

impl Walk {
    fn new(name: &'static str, payload: u64, work: impl Fn() + 'static) -> Self {
        Self {
            name,
            payload,
            zero_copy: 0,
            to_user: 0,
            from_user: 0,
            in_kernel: 0,
            neither: 0,
            work: Box::new(work),
        }
    }

    fn copying_to_user(self, to_user: u64) -> Self {
        Self { to_user, ..self }
    }

    fn copying_from_user(self, from_user: u64) -> Self {
        Self { from_user, ..self }
    }

    fn in_kernel(self, in_kernel: u64) -> Self {
        Self { in_kernel, ..self }
    }

    fn zero_copy(self, zero_copy: u64) -> Self {
        Self { zero_copy, ..self }
    }

    fn neither(self, neither: u64) -> Self {
        Self { neither, ..self }
    }
}

fn whole(name: &str, bytes: usize, result: isize) {
    assert_eq!(ok(name, result), bytes, "{name}");
}

fn write(fd: RawFd, bytes: usize) {
    let buffer = vec![3u8; bytes];
    // SAFETY: the buffer holds that much.
    whole("write", bytes, unsafe {
        libc::write(fd, buffer.as_ptr().cast(), bytes)
    });
}

fn read(fd: RawFd, bytes: usize) {
    let mut buffer = vec![0u8; bytes];
    // SAFETY: the buffer holds that much.
    whole("read", bytes, unsafe {
        libc::read(fd, buffer.as_mut_ptr().cast(), bytes)
    });
}

/// Through something that one end is written and the other end read.
fn through(name: &'static str, into: RawFd, out: RawFd) -> Walk {
    Walk::new(name, 2 * N, move || {
        write(into, BYTES);
        read(out, BYTES);
    })
    .copying_from_user(N)
    .copying_to_user(N)
}

/// Keeps what a walk's descriptors belong to open for as long as the process lives.
fn kept<T: AsRawFd>(owner: T) -> RawFd {
    let fd = owner.as_raw_fd();
    std::mem::forget(owner);
    fd
}

fn files(walks: &mut Vec<Walk>, names: [&'static str; 3], dir: &str) {
    let [reading, writing, sending] = names;
    let (from, to) = (kept(source(dir, 2 * BYTES)), kept(target(dir)));
    walks.push(Walk::new(reading, N, move || read(from, BYTES)).copying_to_user(N));
    walks.push(Walk::new(writing, N, move || write(to, BYTES)).copying_from_user(N));
    let send = move || {
        let mut offset = 0;
        // SAFETY: the offset is valid.
        let sent = unsafe { libc::sendfile(to, from, &raw mut offset, BYTES) };
        whole("sendfile", BYTES, sent);
    };
    walks.push(Walk::new(sending, N, send).in_kernel(N));
}

fn copied_range(name: &'static str, dir: &str, bytes: usize) -> Walk {
    let (from, to) = (kept(source(dir, bytes)), kept(target(dir)));
    Walk::new(name, bytes as u64, move || {
        let (mut at, mut put) = (0, 0);
        // SAFETY: the offsets are valid.
        let copied =
            unsafe { libc::copy_file_range(from, &raw mut at, to, &raw mut put, bytes, 0) };
        whole("copy_file_range", bytes, copied);
    })
}

fn direct(dir: &str) -> Walk {
    use std::os::unix::fs::OpenOptionsExt;
    let place = format!("{dir}/direct");
    std::fs::write(&place, vec![1u8; BLOCKS]).expect("write");
    let mut options = File::options();
    let file = options
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(&place)
        .expect("open");
    file.sync_all().expect("fsync");
    std::fs::remove_file(&place).expect("unlink");
    let (fd, bytes) = (kept(file), BLOCKS as u64);
    let buffer = Mapping::anonymous(BLOCKS);
    Walk::new("O_DIRECT", bytes, move || {
        // SAFETY: the mapping holds that much.
        let read = unsafe { libc::pread(fd, buffer.start(), BLOCKS, 0) };
        whole("pread", BLOCKS, read);
    })
    .zero_copy(bytes)
}

fn pipes(walks: &mut Vec<Walk>) {
    let ends = pipe();
    walks.push(through("pipe", ends[1], ends[0]));
    let null = ptr::null_mut();
    let (from, to) = (
        kept(source("/lab", BLOCKS)),
        kept(File::create("/dev/null").expect("open")),
    );
    let moved = BLOCKS as u64;
    let splice = move || {
        let mut offset = 0;
        // SAFETY: the offset is valid.
        unsafe {
            let filled = libc::splice(from, &raw mut offset, ends[1], null, BLOCKS, 0);
            whole("splice", BLOCKS, filled);
            whole(
                "splice",
                BLOCKS,
                libc::splice(ends[0], null, to, null, BLOCKS, 0),
            );
        }
    };
    walks.push(Walk::new("splice", 2 * moved, splice).zero_copy(2 * moved));
    let (first, second) = (pipe(), pipe());
    let tee = move || {
        write(first[1], BYTES);
        // SAFETY: no memory is passed.
        whole("tee", BYTES, unsafe {
            libc::tee(first[0], second[1], BYTES, 0)
        });
        read(first[0], BYTES);
        read(second[0], BYTES);
    };
    let tee = Walk::new("tee", 4 * N, tee)
        .copying_from_user(N)
        .copying_to_user(2 * N);
    walks.push(tee.zero_copy(N));
    let vmsplice = move || {
        let mut buffer = vec![1u8; BYTES];
        let vector = libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: BYTES,
        };
        // SAFETY: the vector describes the buffer.
        unsafe {
            whole(
                "in",
                BYTES,
                libc::vmsplice(ends[1], &raw const vector, 1, 0),
            );
            whole(
                "out",
                BYTES,
                libc::vmsplice(ends[0], &raw const vector, 1, 0),
            );
        }
    };
    let vmsplice = Walk::new("vmsplice", 2 * N, vmsplice).zero_copy(N);
    walks.push(vmsplice.copying_to_user(N));
}

fn sockets(walks: &mut Vec<Walk>) {
    let (near, far) = tcp();
    walks.push(through("TCP", kept(near), kept(far)));
    let (near, far) = UnixStream::pair().expect("socketpair");
    walks.push(through("UNIX stream", kept(near), kept(far)));
    let (near, far) = UnixDatagram::pair().expect("socketpair");
    walks.push(through("UNIX datagram", kept(near), kept(far)));
    let far = UdpSocket::bind("127.0.0.1:0").expect("bind");
    let near = UdpSocket::bind("127.0.0.1:0").expect("bind");
    let address = far.local_addr().expect("address");
    near.connect(address).expect("connect");
    let (near, far) = (kept(near), kept(far));
    walks.push(through("UDP", near, far));
    let truncated = move || {
        write(near, BYTES);
        let mut buffer = [0u8; 100];
        // SAFETY: the buffer holds that much.
        let got = unsafe { libc::recv(far, buffer.as_mut_ptr().cast(), 100, libc::MSG_TRUNC) };
        whole("recv", BYTES, got);
    };
    let truncated = Walk::new("UDP, MSG_TRUNC", 2 * N, truncated).copying_from_user(N);
    walks.push(truncated.copying_to_user(100).neither(N - 100));
    let (near, far) = tcp();
    let (near, far, file) = (kept(near), kept(far), kept(source("/lab", BYTES)));
    let sent = move || {
        let mut offset = 0;
        // SAFETY: the offset is valid.
        let sent = unsafe { libc::sendfile(near, file, &raw mut offset, BYTES) };
        whole("sendfile", BYTES, sent);
        let mut buffer = vec![0u8; BYTES];
        let (start, flags) = (buffer.as_mut_ptr().cast(), libc::MSG_WAITALL);
        // SAFETY: the buffer holds that much.
        whole("recv", BYTES, unsafe {
            libc::recv(far, start, BYTES, flags)
        });
    };
    walks.push(
        Walk::new("sendfile to TCP", 2 * N, sent)
            .zero_copy(N)
            .copying_to_user(N),
    );
}

fn walks() -> Vec<Walk> {
    let mut walks = Vec::new();
    files(
        &mut walks,
        ["read ext4", "write ext4", "sendfile ext4"],
        "/lab",
    );
    files(
        &mut walks,
        ["read tmpfs", "write tmpfs", "sendfile tmpfs"],
        "/dev/shm",
    );
    files(
        &mut walks,
        ["read xfs", "write xfs", "sendfile xfs"],
        xfs::dir(),
    );
    walks.push(copied_range("copy_file_range", "/lab", BYTES).in_kernel(N));
    let blocks = BLOCKS as u64;
    walks.push(copied_range("reflink", xfs::dir(), BLOCKS).zero_copy(blocks));
    walks.push(direct("/lab"));
    pipes(&mut walks);
    sockets(&mut walks);
    let random = kept(File::open("/dev/urandom").expect("open"));
    walks.push(Walk::new("/dev/urandom", N, move || read(random, BYTES)).copying_to_user(N));
    let zero = kept(File::open("/dev/zero").expect("open"));
    walks.push(Walk::new("/dev/zero", N, move || read(zero, BYTES)).neither(N));
    let null = kept(File::create("/dev/null").expect("open"));
    walks.push(Walk::new("/dev/null", N, move || write(null, BYTES)).neither(N));
    let itself = || {
        let (mut here, mut there) = (vec![1u8; BYTES], vec![2u8; BYTES]);
        let [local, remote] = [&mut here, &mut there].map(|buffer| libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: BYTES,
        });
        // SAFETY: both vectors are buffers of this process, which is also the other one.
        let read = unsafe {
            let own = libc::getpid();
            libc::process_vm_readv(own, &raw const local, 1, &raw const remote, 1, 0)
        };
        whole("process_vm_readv", BYTES, read);
    };
    walks.push(Walk::new("process_vm_readv", N, itself).copying_to_user(N));
    walks
}

/// Without the pages that a child shared with its parent.
fn all_methods(counters: &Counters) -> MethodTotals {
    let mut counters = counters.clone();
    counters.methods.remove(&Method::Mmap);
    counters.all_methods()
}

#[test]
fn payload_is_what_was_copied_and_what_was_passed() {
    for walk in walks() {
        let measured = measure(&walk.work);
        let all = all_methods(&measured.counters);
        let name = walk.name;
        assert_eq!(
            all.payload_bytes,
            all.copied_bytes() + all.zero_copy_bytes + walk.neither,
            "{name}: {all:?}"
        );
        assert_eq!(numbers(&all), expected(&[walk]), "{name}");
    }
    path("conservation, payload");
}

/// Payload, zero-copy, to user, from user, in kernel.
fn numbers(totals: &MethodTotals) -> [u64; 5] {
    [
        totals.payload_bytes,
        totals.zero_copy_bytes,
        totals.to_user.bytes,
        totals.from_user.bytes,
        totals.in_kernel.bytes,
    ]
}

fn expected(walks: &[Walk]) -> [u64; 5] {
    let sum = |field: fn(&Walk) -> u64| walks.iter().map(field).sum();
    [
        sum(|walk| walk.payload),
        sum(|walk| walk.zero_copy),
        sum(|walk| walk.to_user),
        sum(|walk| walk.from_user),
        sum(|walk| walk.in_kernel),
    ]
}

/// The system's sum without this process, which looks on.
fn others(snapshot: &Snapshot) -> MethodTotals {
    let total = snapshot.total();
    let own = snapshot.process(std::process::id());
    all_methods(&own.map_or(total.clone(), |own| &total - &own.counters))
}

#[test]
fn the_processes_bytes_are_the_system_s() {
    let walks = walks();
    profiler();
    let before = snapshot();
    let mut pids = Vec::new();
    for walk in &walks {
        let child = Child::working(&walk.work);
        child.wait_exited();
        pids.push(child.pid.cast_unsigned());
    }
    let after = snapshot();
    let [earlier, later] = [&before, &after].map(|snapshot| numbers(&others(snapshot)));
    let mut system = [0; 5];
    for (index, number) in system.iter_mut().enumerate() {
        *number = later[index] - earlier[index];
    }
    let mut processes = [0; 5];
    for pid in pids {
        let process = after.process(pid).expect("the child was seen");
        for (sum, number) in processes
            .iter_mut()
            .zip(numbers(&all_methods(&process.counters)))
        {
            *sum += number;
        }
    }
    assert_eq!(system, expected(&walks), "the system");
    assert_eq!(processes, expected(&walks), "the processes");
    path("conservation, processes and system");
}
