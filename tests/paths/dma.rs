//! What devices move is charged to the process that asks, to the byte.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    os::{
        fd::AsRawFd,
        unix::{fs::OpenOptionsExt, net::UnixStream},
    },
    ptr,
};

use zc_profiler::ledger::{
    Counters,
    Direction::{FromUser, ToUser},
    DmaBytes, Flows, Method,
};

use crate::harness::{
    expect::{Expect, check},
    support::{Child, measure, ok},
};

pub const PAYLOAD: usize = 1 << 20;

/// A file on the lab's disk whose every block is there, and nothing of it waits to be written.
pub fn on_disk(name: &str) -> String {
    let path = format!("/lab/{name}");
    let mut file = File::create(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    file.write_all(&vec![5u8; PAYLOAD]).expect("fill the file");
    file.sync_all().expect("fsync");
    // SAFETY: an open descriptor.
    let result = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    assert_eq!(result, 0, "drop the page cache");
    path
}

/// Memory that a disk can reach, never freed.
fn pages() -> *mut libc::c_void {
    // SAFETY: a fresh anonymous mapping.
    let start = unsafe {
        libc::mmap(
            ptr::null_mut(),
            PAYLOAD,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE,
            -1,
            0,
        )
    };
    assert_ne!(start, libc::MAP_FAILED, "mmap");
    start
}

fn block(into: u64, out: u64) -> DmaBytes {
    DmaBytes {
        block: Flows { into, out },
        net: Flows::default(),
    }
}

fn assert_no_pio(counters: &Counters) {
    assert_eq!(counters.pio_bytes, Flows::default());
}

#[test]
fn direct_io_is_dma_and_no_copy() {
    let path = on_disk("direct");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(&path)
        .expect("open with O_DIRECT");
    let (fd, memory, bytes) = (file.as_raw_fd(), pages(), PAYLOAD as u64);
    let measured = measure(|| {
        // SAFETY: the mapping has the length of the payload.
        let read = unsafe { libc::pread(fd, memory, PAYLOAD, 0) };
        assert_eq!(ok("pread", read), PAYLOAD);
    });
    check(
        "O_DIRECT read",
        &measured.counters,
        &[Expect::of(Method::Read, bytes).zero_copy(bytes).calls(1)],
    );
    assert_eq!(measured.counters.dma_bytes, block(bytes, 0));
    assert_no_pio(&measured.counters);

    let measured = measure(|| {
        // SAFETY: as above.
        let written = unsafe { libc::pwrite(fd, memory, PAYLOAD, 0) };
        assert_eq!(ok("pwrite", written), PAYLOAD);
    });
    fs::remove_file(&path).expect("unlink");
    check(
        "O_DIRECT write",
        &measured.counters,
        &[Expect::of(Method::Write, bytes).zero_copy(bytes).calls(1)],
    );
    assert_eq!(measured.counters.dma_bytes, block(0, bytes));
    crate::harness::support::path("DMA of O_DIRECT");
}

#[test]
fn a_cold_read_is_dma_and_a_copy_and_a_warm_one_a_copy() {
    let path = on_disk("cold");
    let file = File::open(&path).expect("open");
    let fd = file.as_raw_fd();
    let (memory, bytes) = (pages(), PAYLOAD as u64);
    for dma in [bytes, 0] {
        let measured = measure(|| {
            // SAFETY: the mapping has the length of the payload.
            let read = unsafe { libc::pread(fd, memory, PAYLOAD, 0) };
            assert_eq!(ok("pread", read), PAYLOAD);
        });
        let expected = Expect::of(Method::Read, bytes).copied(ToUser).calls(1);
        check("read", &measured.counters, &[expected]);
        assert_eq!(measured.counters.dma_bytes, block(dma, 0));
    }
    fs::remove_file(&path).expect("unlink");
    crate::harness::support::path("cold read ext4");
}

#[test]
fn written_pages_are_dma_of_whoever_wrote_and_syncs_them() {
    let path = on_disk("synced");
    let mut file = OpenOptions::new().write(true).open(&path).expect("open");
    let bytes = PAYLOAD as u64;
    let data = vec![6u8; PAYLOAD];
    let measured = measure(|| {
        file.write_all(&data).expect("write");
        file.sync_data().expect("fdatasync");
    });
    fs::remove_file(&path).expect("unlink");
    let expected = Expect::of(Method::Write, bytes).copied(FromUser);
    check("write, fdatasync", &measured.counters, &[expected.calls(1)]);
    assert_eq!(measured.counters.dma_bytes, block(0, bytes));
    crate::harness::support::path("fdatasync");
}

#[test]
fn pages_that_somebody_else_syncs_are_dma_of_whoever_wrote_them() {
    // The second has it done by a thread of the kernel's.
    for (sync, metadata) in [
        (libc::fdatasync as unsafe extern "C" fn(i32) -> i32, false),
        (libc::syncfs, true),
    ] {
        let path = on_disk("left-to-others");
        let mut file = OpenOptions::new().write(true).open(&path).expect("open");
        let (fd, bytes) = (file.as_raw_fd(), PAYLOAD as u64);
        let data = vec![7u8; PAYLOAD];
        let writer = Child::stopped_before(|| file.write_all(&data).expect("write"));
        writer.wait_stopped();
        writer.go_on();
        writer.wait_stopped();
        // SAFETY: an open descriptor.
        let measured = measure(|| assert_eq!(unsafe { sync(fd) }, 0, "sync"));
        // The file system's own blocks belong to nobody's file, so to whoever asks.
        if !metadata {
            assert_eq!(measured.counters.dma_bytes, DmaBytes::default());
        }
        assert_eq!(writer.counters().dma_bytes, block(0, bytes));
        writer.go_on();
        writer.wait_exited();
        fs::remove_file(&path).expect("unlink");
    }
    crate::harness::support::path("writeback");
}

#[test]
fn memory_and_sockets_of_this_machine_are_no_dma() {
    let path = "/dev/shm/no-dma";
    fs::write(path, vec![1u8; PAYLOAD]).expect("write to tmpfs");
    let mut file = File::open(path).expect("open");
    let (mut sender, mut receiver) = UnixStream::pair().expect("socketpair");
    let measured = measure(|| {
        let mut bytes = vec![0u8; 4_096];
        file.read_exact(&mut bytes).expect("read");
        sender.write_all(&bytes).expect("send");
        receiver.read_exact(&mut bytes).expect("receive");
    });
    fs::remove_file(path).expect("unlink");
    assert_eq!(measured.counters.dma_bytes, DmaBytes::default());
    assert_no_pio(&measured.counters);
}

/// Writes to every page of a file through a mapping, and has it written to disk.
fn write_by_mapping(file: &File) {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let (flags, fd) = (libc::MAP_SHARED, file.as_raw_fd());
    // SAFETY: a new mapping, written in bounds and unmapped by nobody else.
    unsafe {
        let start = libc::mmap(ptr::null_mut(), PAYLOAD, access, flags, fd, 0);
        assert_ne!(start, libc::MAP_FAILED, "mmap");
        for offset in (0..PAYLOAD).step_by(4096) {
            start.cast::<u8>().add(offset).write_volatile(7);
        }
        ok("msync", libc::msync(start, PAYLOAD, libc::MS_SYNC));
        ok("munmap", libc::munmap(start, PAYLOAD));
    }
}

#[test]
fn a_new_file_has_no_writer_of_one_that_is_gone() {
    // Its inode has the number of the old one, and often lies in the same place.
    for _ in 0..8 {
        let old = "/lab/old";
        Child::working(|| fs::write(old, vec![1u8; PAYLOAD]).expect("write")).wait_exited();
        fs::remove_file(old).expect("remove");
        let new = "/lab/new";
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).open(new);
        let file = file.expect("create");
        fs::remove_file(new).expect("remove");
        // SAFETY: an open file.
        let result = unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, 1 << 20) };
        assert_eq!(result, 0, "fallocate");
        file.sync_all().expect("fsync");
        let measured = measure(|| write_by_mapping(&file));
        assert_eq!(measured.counters.dma_bytes, block(0, PAYLOAD as u64));
    }
}
