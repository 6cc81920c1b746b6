//! What page faults copy and what they do not, and other ways from memory to memory.

use std::{
    fs::{self, File, OpenOptions},
    os::{
        fd::{AsRawFd, RawFd},
        unix::fs::OpenOptionsExt,
    },
    path::Path,
    ptr,
};

use zc_profiler::ledger::{Counters, Direction::ToUser, Method};

use crate::harness::{
    expect::{Expect, check},
    support::{Measured, measure, ok, path},
};

const PAGE: usize = 4_096;
const PAGES: usize = 64;
const BYTES: usize = PAGES * PAGE;
const HUGE_PAGE: usize = 2 << 20;

const READ: i32 = libc::PROT_READ;
const WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;
const ANONYMOUS: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;

/// ext4 on a disk, and tmpfs.
const DIRS: [&str; 2] = ["/lab", "/dev/shm"];

/// Memory of its own, without huge pages unless asked for.
pub struct Mapping {
    start: *mut u8,
    length: usize,
}

impl Mapping {
    fn new(length: usize, access: i32, flags: i32, fd: RawFd) -> Self {
        // SAFETY: a new mapping.
        let start = unsafe { libc::mmap(ptr::null_mut(), length, access, flags, fd, 0) };
        assert_ne!(
            start,
            libc::MAP_FAILED,
            "mmap: {}",
            std::io::Error::last_os_error()
        );
        let mapping = Self {
            start: start.cast(),
            length,
        };
        if flags & libc::MAP_HUGETLB == 0 {
            mapping.advise(libc::MADV_NOHUGEPAGE);
        }
        mapping
    }

    /// Aligned to pages and written to.
    pub fn anonymous(length: usize) -> Self {
        let mapping = Self::new(length, WRITE, ANONYMOUS, -1);
        mapping.write_pages();
        mapping
    }

    /// Each byte the next number, as the other tests' files.
    pub fn fill_with_pattern(&mut self) {
        // SAFETY: our own mapping, readable and writable, of that length.
        let bytes = unsafe { std::slice::from_raw_parts_mut(self.start, self.length) };
        for (byte, value) in bytes.iter_mut().zip(crate::paths::copies::pattern()) {
            *byte = value;
        }
    }

    pub const fn start(&self) -> *mut libc::c_void {
        self.start.cast()
    }

    fn advise(&self, advice: i32) {
        // SAFETY: our own mapping; no advice used here discards what is referred to.
        let result = unsafe { libc::madvise(self.start.cast(), self.length, advice) };
        assert_eq!(result, 0, "madvise {advice}");
    }

    /// A child that writes memory which it may not even write at its birth shares it with its
    /// parent for certain.
    fn protect(&self, access: i32) {
        // SAFETY: our own mapping, accessed by raw pointers only.
        let result = unsafe { libc::mprotect(self.start.cast(), self.length, access) };
        assert_eq!(result, 0, "mprotect");
    }

    fn write_pages(&self) {
        for offset in (0..self.length).step_by(PAGE) {
            // SAFETY: in bounds of a writable mapping.
            unsafe { self.start.add(offset).write_volatile(7) };
        }
    }

    fn read_pages(&self) {
        for offset in (0..self.length).step_by(PAGE) {
            // SAFETY: in bounds of a readable mapping.
            unsafe { self.start.add(offset).read_volatile() };
        }
    }

    /// Written by this process, and shared with its children until they write.
    fn shared_with_children(length: usize, flags: i32) -> Self {
        let mapping = Self::new(length, WRITE, ANONYMOUS | flags, -1);
        mapping.write_pages();
        mapping.protect(READ);
        mapping
    }

    /// `AnonHugePages` of /proc/self/smaps.
    fn in_huge_pages(&self) -> usize {
        let smaps = fs::read_to_string("/proc/self/smaps").expect("smaps");
        let first = format!("{:x}-", self.start as usize);
        smaps
            .lines()
            .skip_while(|line| !line.starts_with(&first))
            .find_map(|line| line.strip_prefix("AnonHugePages:"))
            .and_then(|size| size.trim().strip_suffix(" kB"))
            .and_then(|size| size.parse::<usize>().ok())
            .unwrap_or_else(|| panic!("no AnonHugePages in {smaps}"))
            << 10
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: our own mapping, which nobody refers to any more.
        unsafe { libc::munmap(self.start.cast(), self.length) };
    }
}

/// A file without a name, of that many bytes, on disk and in the page cache.
fn file(dir: &str, length: usize, flags: i32) -> File {
    let path = Path::new(dir).join(format!("memory-{length}"));
    fs::write(&path, vec![9u8; length]).expect("write");
    let mut options = OpenOptions::new();
    let file = options
        .read(true)
        .write(true)
        .custom_flags(flags)
        .open(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    file.sync_all().expect("sync");
    fs::remove_file(&path).expect("unlink");
    file
}

/// `mmap` was called so often and its faults copied so much.
fn mapped(calls: u64, copied: usize) -> Expect {
    Expect {
        in_kernel: copied as u64,
        ..Expect::of(Method::Mmap, 0).calls(calls)
    }
}

fn copied_pages(counters: &Counters) -> u64 {
    counters.method(Method::Mmap).in_kernel.copies
}

fn assert_faults_agree(measured: &Measured) {
    let (faults, accounts) = (measured.counters.page_faults, measured.accounts);
    assert_eq!(
        (faults.minor, faults.major),
        (accounts.minor, accounts.major)
    );
}

#[test]
fn reading_a_mapped_file_copies_nothing() {
    for dir in DIRS {
        let file = file(dir, BYTES, 0);
        let measured = measure(|| {
            Mapping::new(BYTES, READ, libc::MAP_SHARED, file.as_raw_fd()).read_pages();
        });
        check(dir, &measured.counters, &[mapped(1, 0)]);
        assert_faults_agree(&measured);
        assert!(measured.counters.page_faults.minor > 0, "touched");
    }
    path("mmap, minor faults ext4");
    path("mmap, minor faults tmpfs");
}

#[test]
fn major_faults_copy_nothing() {
    let file = file("/lab", BYTES, 0);
    // SAFETY: an open file.
    let dropped = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    assert_eq!(dropped, 0);
    let measured = measure(|| {
        Mapping::new(BYTES, READ, libc::MAP_SHARED, file.as_raw_fd()).read_pages();
    });
    check("cold", &measured.counters, &[mapped(1, 0)]);
    assert_faults_agree(&measured);
    assert!(measured.counters.page_faults.major > 0, "cold");
    path("mmap, major faults");
}

#[test]
fn the_first_write_to_a_private_mapping_copies_each_page() {
    for dir in DIRS {
        for read_first in [false, true] {
            let file = file(dir, BYTES, 0);
            let measured = measure(|| {
                let mapping = Mapping::new(BYTES, WRITE, libc::MAP_PRIVATE, file.as_raw_fd());
                if read_first {
                    mapping.read_pages();
                }
                mapping.write_pages();
                mapping.write_pages();
            });
            let case = format!("{dir}, read first: {read_first}");
            check(&case, &measured.counters, &[mapped(1, BYTES)]);
            assert_eq!(copied_pages(&measured.counters), PAGES as u64, "{case}");
            assert_faults_agree(&measured);
        }
    }
    path("mmap, MAP_PRIVATE write fault ext4");
    path("mmap, MAP_PRIVATE write fault tmpfs");
}

#[test]
fn writes_to_a_shared_mapping_copy_nothing() {
    for dir in DIRS {
        let file = file(dir, BYTES, 0);
        let measured = measure(|| {
            let mapping = Mapping::new(BYTES, WRITE, libc::MAP_SHARED, file.as_raw_fd());
            mapping.read_pages();
            mapping.write_pages();
        });
        check(dir, &measured.counters, &[mapped(1, 0)]);
        assert_faults_agree(&measured);
    }
    path("mmap, MAP_SHARED write ext4");
    path("mmap, MAP_SHARED write tmpfs");
}

#[test]
fn new_memory_is_zeroed_and_not_copied() {
    for read_first in [false, true] {
        let measured = measure(|| {
            let mapping = Mapping::new(BYTES, WRITE, ANONYMOUS, -1);
            if read_first {
                // Each page is the zero page until it is written.
                mapping.read_pages();
            }
            mapping.write_pages();
        });
        let case = format!("read first: {read_first}");
        check(&case, &measured.counters, &[mapped(1, 0)]);
        assert!(measured.counters.page_faults.minor >= PAGES as u64);
    }
    path("anonymous memory, first touch");
}

#[test]
fn memory_shared_by_fork_is_copied_at_the_first_write() {
    let mapping = Mapping::shared_with_children(BYTES, 0);
    let measured = measure(|| {
        mapping.protect(WRITE);
        mapping.write_pages();
        mapping.write_pages();
    });
    check("fork", &measured.counters, &[mapped(0, BYTES)]);
    assert_eq!(copied_pages(&measured.counters), PAGES as u64);
    assert_faults_agree(&measured);
    path("fork, copy-on-write");
}

#[test]
fn a_transparent_huge_page_is_copied_by_small_page() {
    let mapping = Mapping::new(2 * HUGE_PAGE, WRITE, ANONYMOUS, -1);
    mapping.advise(libc::MADV_HUGEPAGE);
    mapping.write_pages();
    let huge = mapping.in_huge_pages();
    assert!(huge >= HUGE_PAGE, "no huge page in {huge} bytes");
    mapping.protect(READ);
    let measured = measure(|| {
        mapping.protect(WRITE);
        mapping.write_pages();
    });
    check("huge", &measured.counters, &[mapped(0, 2 * HUGE_PAGE)]);
    let pages = (2 * HUGE_PAGE / PAGE) as u64;
    assert_eq!(copied_pages(&measured.counters), pages);
    path("fork, copy-on-write, transparent huge page");
}

#[test]
fn a_hugetlb_page_is_copied_whole() {
    let reserve = "/proc/sys/vm/nr_hugepages";
    fs::write(reserve, "4").expect("reserve huge pages");
    let mapping = Mapping::shared_with_children(HUGE_PAGE, libc::MAP_HUGETLB);
    let measured = measure(|| {
        mapping.protect(WRITE);
        mapping.write_pages();
    });
    check("hugetlb", &measured.counters, &[mapped(0, HUGE_PAGE)]);
    assert_eq!(copied_pages(&measured.counters), 1);
    drop(mapping);
    fs::write(reserve, "0").expect("give them back");
    path("fork, copy-on-write, hugetlb page");
}

#[test]
fn faults_inside_a_read_are_not_its_own() {
    let source = file("/lab", BYTES, 0);
    let mapping = Mapping::shared_with_children(BYTES, 0);
    let measured = measure(|| {
        mapping.protect(WRITE);
        // SAFETY: the mapping holds that much.
        let read = unsafe { libc::pread(source.as_raw_fd(), mapping.start.cast(), BYTES, 0) };
        assert_eq!(ok("pread", read), BYTES);
    });
    let read = Expect::of(Method::Read, BYTES as u64).copied(ToUser);
    check(
        "read into shared memory",
        &measured.counters,
        &[read.calls(1), mapped(0, BYTES)],
    );
    assert_eq!(copied_pages(&measured.counters), PAGES as u64);
}

#[test]
fn process_vm_calls_copy_each_byte_once() {
    let payload = 3 * PAGE + 5;
    let (mut here, mut there) = (vec![1u8; payload], vec![2u8; payload]);
    let measured = measure(|| {
        let [local, remote] = [&mut here, &mut there].map(|buffer| libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: payload,
        });
        // SAFETY: both vectors are buffers of this process, which is also the other one.
        unsafe {
            let own = libc::getpid();
            let read = libc::process_vm_readv(own, &raw const local, 1, &raw const remote, 1, 0);
            assert_eq!(ok("process_vm_readv", read), payload);
            for _ in 0..2 {
                let written =
                    libc::process_vm_writev(own, &raw const local, 1, &raw const remote, 1, 0);
                assert_eq!(ok("process_vm_writev", written), payload);
            }
        }
    });
    let expected = Expect {
        to_user: payload as u64,
        from_user: 2 * payload as u64,
        ..Expect::of(Method::ProcessVm, 3 * payload as u64).calls(3)
    };
    check("process_vm", &measured.counters, &[expected]);
    path("process_vm_readv");
    path("process_vm_writev");
}

#[test]
fn random_bytes_are_copied_to_user() {
    const RANDOM: usize = 100_003;
    let random = File::open("/dev/urandom").expect("open");
    let mut buffer = vec![1u8; RANDOM];
    let measured = measure(|| {
        let start = buffer.as_mut_ptr().cast();
        // SAFETY: the buffer holds that much.
        unsafe {
            assert_eq!(
                ok("read", libc::read(random.as_raw_fd(), start, RANDOM)),
                RANDOM
            );
            let got = libc::syscall(libc::SYS_getrandom, start, RANDOM, 0);
            assert_eq!(ok("getrandom", got), RANDOM);
        }
    });
    let getrandom = Expect {
        to_user: RANDOM as u64,
        ..Expect::of(Method::Other, 0).calls(0)
    };
    let read = Expect::of(Method::Read, RANDOM as u64).copied(ToUser);
    check("random", &measured.counters, &[read.calls(1), getrandom]);
    path("read /dev/urandom");
    path("getrandom");
}

#[test]
fn dev_zero_and_dev_null_copy_nothing() {
    let zero = File::open("/dev/zero").expect("open");
    let null = OpenOptions::new()
        .write(true)
        .open("/dev/null")
        .expect("open");
    let mut buffer = vec![1u8; BYTES];
    let measured = measure(|| {
        let start = buffer.as_mut_ptr().cast();
        // SAFETY: the buffer holds that much.
        unsafe {
            assert_eq!(
                ok("read", libc::read(zero.as_raw_fd(), start, BYTES)),
                BYTES
            );
            assert_eq!(
                ok("write", libc::write(null.as_raw_fd(), start, BYTES)),
                BYTES
            );
        }
    });
    let bytes = BYTES as u64;
    check(
        "devices",
        &measured.counters,
        &[
            Expect::of(Method::Read, bytes).calls(1),
            Expect::of(Method::Write, bytes).calls(1),
        ],
    );
    path("read /dev/zero");
    path("write /dev/null");
}

#[test]
fn direct_io_is_zero_copy() {
    const CHUNK: usize = 65_536;
    let target = file("/lab", PAGE, libc::O_DIRECT);
    let fd = target.as_raw_fd();
    let buffer = Mapping::new(CHUNK, WRITE, ANONYMOUS, -1);
    buffer.write_pages();
    let measured = measure(|| {
        let start = buffer.start.cast();
        for offset in (0..4).map(|index| index * 65_536) {
            // SAFETY: the buffer holds a chunk.
            let written = unsafe { libc::pwrite(fd, start, CHUNK, offset) };
            assert_eq!(ok("pwrite", written), CHUNK);
        }
        for offset in (0..4).map(|index| index * 65_536) {
            // SAFETY: as above.
            let read = unsafe { libc::pread(fd, start, CHUNK, offset) };
            assert_eq!(ok("pread", read), CHUNK);
        }
    });
    let bytes = 4 * CHUNK as u64;
    check(
        "O_DIRECT",
        &measured.counters,
        &[
            Expect::of(Method::Write, bytes).zero_copy(bytes).calls(4),
            Expect::of(Method::Read, bytes).zero_copy(bytes).calls(4),
        ],
    );
    path("read O_DIRECT ext4");
    path("write O_DIRECT ext4");
}

#[test]
fn direct_io_past_the_end_of_a_file_counts_what_it_read() {
    let odd = file("/lab", 10_007, libc::O_DIRECT);
    let fd = odd.as_raw_fd();
    let buffer = Mapping::new(BYTES, WRITE, ANONYMOUS, -1);
    buffer.write_pages();
    let measured = measure(|| {
        // SAFETY: the buffer holds that much.
        let read = unsafe { libc::pread(fd, buffer.start.cast(), BYTES, 0) };
        assert_eq!(ok("pread", read), 10_007);
    });
    let expected = Expect::of(Method::Read, 10_007).zero_copy(10_007);
    check("the end", &measured.counters, &[expected.calls(1)]);
}
