//! Files on xfs, which writes through iomap and shares blocks between files.

use std::{
    fs::{self, File, OpenOptions},
    os::{
        fd::{AsRawFd, RawFd},
        unix::fs::OpenOptionsExt,
    },
    path::Path,
    process::Command,
    ptr,
    sync::OnceLock,
};

use zc_profiler::ledger::{
    Direction::{InKernel, ToUser},
    Fallback, Method,
};

use crate::{
    harness::{
        expect::{Expect, check},
        support::{measure, ok, path},
    },
    paths::{
        copies::{assert_intact, pattern, read_all, repeat, source, target},
        memory::Mapping,
    },
};

/// Where the lab's xfs is mounted.
pub fn dir() -> &'static str {
    static DIR: OnceLock<String> = OnceLock::new();
    DIR.get_or_init(|| {
        let output = Command::new("zc-hardware")
            .arg("xfs")
            .output()
            .unwrap_or_else(|error| panic!("zc-hardware: {error}"));
        let text = String::from_utf8_lossy(&output.stdout);
        text.trim()
            .strip_prefix("XFS=")
            .unwrap_or_else(|| panic!("no XFS of zc-hardware: {output:?}"))
            .to_owned()
    })
}

const CHUNK: usize = 65_536;
const PAYLOAD: usize = 16 * CHUNK;
const BYTES: u64 = PAYLOAD as u64;

/// Of known content, on disk, with nothing of it in the page cache.
fn cold(flags: i32) -> File {
    let path = Path::new(dir()).join("cold");
    let bytes: Vec<u8> = pattern().take(PAYLOAD).collect();
    fs::write(&path, bytes).expect("write");
    let mut options = OpenOptions::new();
    let file = options
        .read(true)
        .write(true)
        .custom_flags(flags)
        .open(&path)
        .expect("open");
    fs::remove_file(&path).expect("unlink");
    file.sync_all().expect("fsync");
    for advice in [libc::POSIX_FADV_RANDOM, libc::POSIX_FADV_DONTNEED] {
        // SAFETY: an open descriptor.
        let result = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, advice) };
        assert_eq!(result, 0, "posix_fadvise");
    }
    file
}

/// What the block device below has been read, in bytes.
fn read_from_disk() -> u64 {
    let stat = fs::read_to_string("/sys/block/loop0/stat").expect("statistics of loop0");
    let sectors = stat.split_ascii_whitespace().nth(2).map(str::parse::<u64>);
    512 * sectors.expect("a field").expect("a number")
}

#[test]
fn a_cold_read_copies_once_as_a_warm_one_does() {
    let file = cold(0);
    let mut buffer = vec![1u8; CHUNK];
    for from_disk in [BYTES, 0] {
        let before = read_from_disk();
        let measured = measure(|| {
            // SAFETY: no memory is passed.
            unsafe { libc::lseek(file.as_raw_fd(), 0, libc::SEEK_SET) };
            read_all(file.as_raw_fd(), PAYLOAD, CHUNK, &mut buffer);
        });
        assert_eq!(read_from_disk() - before, from_disk);
        let expected = Expect::of(Method::Read, BYTES).copied(ToUser).calls(16);
        check("xfs, cold", &measured.counters, &[expected]);
    }
    path("cold read xfs");
}

#[test]
fn direct_io_is_zero_copy() {
    let file = cold(libc::O_DIRECT);
    let fd = file.as_raw_fd();
    let buffer = Mapping::anonymous(CHUNK);
    let measured = measure(|| {
        let mut offset = 0;
        repeat("pread", PAYLOAD, CHUNK, |n| {
            // SAFETY: the buffer holds a chunk.
            let read = unsafe { libc::pread(fd, buffer.start(), n, offset) };
            offset += 65_536;
            read
        });
        offset = 0;
        repeat("pwrite", PAYLOAD, CHUNK, |n| {
            // SAFETY: as above.
            let written = unsafe { libc::pwrite(fd, buffer.start(), n, offset) };
            offset += 65_536;
            written
        });
    });
    check(
        "xfs, O_DIRECT",
        &measured.counters,
        &[
            Expect::of(Method::Read, BYTES).zero_copy(BYTES).calls(16),
            Expect::of(Method::Write, BYTES).zero_copy(BYTES).calls(16),
        ],
    );
    path("read O_DIRECT xfs");
    path("write O_DIRECT xfs");
}

fn copy_range(from: RawFd, to: RawFd, bytes: usize) -> isize {
    let null = ptr::null_mut();
    // SAFETY: no offsets are passed.
    unsafe { libc::copy_file_range(from, null, to, null, bytes, 0) }
}

#[test]
fn copy_file_range_shares_whole_blocks() {
    let (file, out) = (source(dir(), PAYLOAD), target(dir()));
    let (from, to) = (file.as_raw_fd(), out.as_raw_fd());
    let measured = measure(|| repeat("share", PAYLOAD, CHUNK, |n| copy_range(from, to, n)));
    let shared = Expect::of(Method::CopyFileRange, BYTES).zero_copy(BYTES);
    check("reflink", &measured.counters, &[shared.calls(16)]);
    assert_eq!(measured.counters.zero_copy_fallback_bytes.len(), 0);
    assert_intact(&out, PAYLOAD);
    path("copy_file_range xfs, reflink");
}

#[test]
fn copy_file_range_copies_what_is_no_whole_block() {
    const PART: usize = 1_000;
    let (file, out) = (source(dir(), PART * 4), target(dir()));
    let (from, to) = (file.as_raw_fd(), out.as_raw_fd());
    let measured = measure(|| repeat("copy", PART * 3, PART, |n| copy_range(from, to, n)));
    let bytes = 3 * PART as u64;
    let copied = Expect::of(Method::CopyFileRange, bytes).copied(InKernel);
    check("parts of blocks", &measured.counters, &[copied.calls(3)]);
    let lost = &measured.counters.zero_copy_fallback_bytes;
    assert_eq!(lost.get(&Fallback::CopyFileRangeCopied), Some(&bytes));
    assert_intact(&out, PART * 3);
    path("copy_file_range xfs, parts of blocks");
}

#[test]
fn a_clone_copies_nothing() {
    let (file, out) = (source(dir(), PAYLOAD), target(dir()));
    let measured = measure(|| {
        // SAFETY: takes two open descriptors.
        let result = unsafe { libc::ioctl(out.as_raw_fd(), libc::FICLONE, file.as_raw_fd()) };
        ok("FICLONE", result);
    });
    check("FICLONE", &measured.counters, &[]);
    assert_intact(&out, PAYLOAD);
    path("FICLONE xfs");
}
