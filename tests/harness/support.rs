//! A child process of which everything that it does between two stops is measured.

use std::{
    env, fmt, fs,
    io::{self, Write},
    os::unix::fs::FileExt,
    process,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use zc_profiler::{
    Options, Profiler, Scope,
    ledger::{Counters, Method, MethodTotals, Process, Snapshot},
    probes::Evidence,
};

static PROFILER: OnceLock<Profiler> = OnceLock::new();

/// One profiler for all tests of this process, counting the whole machine.
pub fn profiler() -> &'static Profiler {
    PROFILER.get_or_init(|| {
        crate::paths::hardware::bring_up();
        Profiler::attach(Scope::System, Options::default())
            .unwrap_or_else(|error| panic!("attaching in the lab kernel: {error}"))
    })
}

/// Takes the crowd of a test out of the ledger of all tests, where nobody else makes room.
pub fn make_room() {
    if let Some(profiler) = PROFILER.get() {
        profiler
            .retire(|_| {}, drop)
            .unwrap_or_else(|error| panic!("making room in the ledger: {error}"));
    }
}

pub fn snapshot() -> Snapshot {
    profiler()
        .snapshot()
        .unwrap_or_else(|error| panic!("reading the ledger: {error}"))
}

/// Kernels that preempt inside programs may skip some of their runs, but each missing event must be among the
/// skipped runs that the profiler reports. Where none is reported, none may be missing.
pub fn assert_reported(missing: u64, skipped: u64) {
    assert!(
        missing <= skipped,
        "{missing} events are missing, {skipped} skipped runs are reported"
    );
}

/// Says, at the end of a test that has compared it to the byte, that this path of the bytes is
/// counted on this kernel: `cargo xtask test` makes its matrix from these.
pub fn path(name: &str) {
    let Some(file) = env::var_os("ZC_PATHS") else {
        return;
    };
    let word = match profiler().evidence() {
        Evidence::Measured => "exact",
        Evidence::Derived => "derived",
    };
    let line = format!("{name} {word}\n");
    fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(&file)
        .and_then(|mut file| file.write_all(line.as_bytes()))
        .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
}

/// The running kernel's release.
pub fn release() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("release");
    release.trim().to_owned()
}

/// Whether the running kernel's release begins so.
pub fn kernel_is(begin: &str) -> bool {
    release().starts_with(begin)
}

/// What the ledger and the kernel's own accounts say of the same stretch of one process.
pub struct Measured {
    pub counters: Counters,
    pub accounts: KernelCounts,
}

/// The kernel's own counts of a single-threaded process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelCounts {
    pub voluntary: u64,
    pub involuntary: u64,
    pub minor: u64,
    pub major: u64,
}

impl KernelCounts {
    fn of(pid: i32) -> Self {
        let status = proc_file(pid, "status");
        let line = |name: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .and_then(|value| value.trim().parse().ok())
                .unwrap_or_else(|| panic!("no {name} in {status}"))
        };
        let stat = proc_file(pid, "stat");
        let (_, fields) = stat
            .rsplit_once(')')
            .unwrap_or_else(|| panic!("no name in {stat}"));
        let field = |number: usize| {
            fields
                .split_ascii_whitespace()
                .nth(number - 3)
                .and_then(|value| value.parse().ok())
                .unwrap_or_else(|| panic!("no field {number} in {stat}"))
        };
        Self {
            voluntary: line("voluntary_ctxt_switches:"),
            involuntary: line("nonvoluntary_ctxt_switches:"),
            minor: field(10),
            major: field(12),
        }
    }

    fn since(self, earlier: Self) -> Self {
        Self {
            voluntary: self.voluntary - earlier.voluntary,
            involuntary: self.involuntary - earlier.involuntary,
            minor: self.minor - earlier.minor,
            major: self.major - earlier.major,
        }
    }
}

fn proc_file(pid: impl fmt::Display, name: &str) -> String {
    let path = format!("/proc/{pid}/{name}");
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A forked child that stands before, or behind, its work.
pub struct Child {
    pub pid: i32,
}

impl Child {
    /// Forks; the child gets rid of copy-on-write, stops itself, works, stops itself again and exits.
    pub fn stopped_before(work: impl FnOnce()) -> Self {
        Self::fork(|| {
            unshare_memory();
            stop();
            work();
            stop();
        })
    }

    /// Forks; the child works and exits without further ado.
    pub fn working(work: impl FnOnce()) -> Self {
        Self::fork(work)
    }

    fn fork(work: impl FnOnce()) -> Self {
        // SAFETY: the child uses only what this thread owns; glibc keeps its heap usable after fork.
        match unsafe { libc::fork() } {
            -1 => panic!("fork: {}", io::Error::last_os_error()),
            0 => {
                // A panic must not unwind into the harness's copy.
                let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
                // SAFETY: ends the child at once, as it must end.
                unsafe { libc::_exit(if result.is_ok() { 0 } else { 101 }) }
            }
            pid => Self { pid },
        }
    }

    /// Waits until the child stops itself.
    pub fn wait_stopped(&self) {
        let status = wait(self.pid, libc::WUNTRACED);
        assert!(
            libc::WIFSTOPPED(status),
            "child {} ended instead of stopping: {status:#x}",
            self.pid
        );
    }

    pub fn go_on(&self) {
        // SAFETY: our own child, not waited for yet.
        let result = unsafe { libc::kill(self.pid, libc::SIGCONT) };
        assert_eq!(result, 0, "SIGCONT to {}", self.pid);
    }

    /// Waits until the child has exited, with success.
    pub fn wait_exited(&self) {
        let status = wait(self.pid, 0);
        assert!(
            libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0,
            "child {} failed: {status:#x}",
            self.pid
        );
    }

    pub fn process(&self) -> Option<Process> {
        snapshot().process(self.pid.cast_unsigned()).cloned()
    }

    pub fn counters(&self) -> Counters {
        self.process()
            .map(|process| process.counters)
            .unwrap_or_default()
    }

    /// Its counters, and what the kernel's own accounts say at the same time. Who has stopped may be preempted
    /// on its last steps, and take them between two looks.
    fn both(&self) -> (Counters, KernelCounts) {
        loop {
            let accounts = KernelCounts::of(self.pid);
            let counters = self.counters();
            if KernelCounts::of(self.pid) == accounts {
                return (counters, accounts);
            }
        }
    }

    /// Lets a child that stands before its work do it, and says what was counted meanwhile.
    pub fn measure(self) -> Measured {
        self.wait_stopped();
        let before = self.both();
        self.go_on();
        self.wait_stopped();
        let after = self.both();
        self.go_on();
        self.wait_exited();
        Measured {
            counters: &after.0 - &before.0,
            accounts: after.1.since(before.1),
        }
    }
}

/// Measures a piece of work in a child of its own.
pub fn measure(work: impl FnOnce()) -> Measured {
    profiler();
    Child::stopped_before(work).measure()
}

/// Waits for a child; its status.
pub fn wait(pid: i32, options: i32) -> i32 {
    let mut status = 0;
    // SAFETY: `status` is valid for the call.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, options) };
    assert_eq!(
        waited,
        pid,
        "waitpid({pid}): {}",
        io::Error::last_os_error()
    );
    status
}

/// Has every page that this forked process shares with its parent, and may write, copied now: the
/// copies would be a part of what is measured, if it happened to write there.
fn unshare_memory() {
    const PAGE: usize = 4_096;
    const PRESENT: u64 = 1 << 63;
    let maps = proc_file("self", "maps");
    let pagemap = fs::File::open("/proc/self/pagemap").expect("pagemap");
    for line in maps.lines().filter(|line| line.contains(" rw-p ")) {
        let mut words = line.split_ascii_whitespace();
        let (start, end) = words
            .next()
            .and_then(|range| range.split_once('-'))
            .unwrap_or_else(|| panic!("no range in {line}"));
        let [start, end] = [start, end].map(|hex| usize::from_str_radix(hex, 16).expect("hex"));
        // Pages of files count even if they are not there yet.
        let of_file = words.nth(3).is_some_and(|inode| inode != "0");
        let mut entries = vec![0u8; (end - start) / PAGE * 8];
        pagemap
            .read_exact_at(&mut entries, (start / PAGE * 8) as u64)
            .expect("pagemap");
        for (index, entry) in entries.chunks_exact(8).enumerate() {
            let entry = u64::from_ne_bytes(entry.try_into().expect("eight bytes"));
            if of_file || entry & PRESENT != 0 {
                let page = (start + index * PAGE) as *mut u8;
                // SAFETY: the mapping is writable, and nobody else is there to change the byte
                // between the two accesses.
                unsafe { page.write_volatile(page.read_volatile()) };
            }
        }
    }
}

/// The counters of a child that was not measured, but counted from its birth on: without the pages
/// shared with its parent that it happened to write.
pub fn without_copy_on_write(mut counters: Counters) -> Counters {
    let mmap = counters.methods.remove(&Method::Mmap).unwrap_or_default();
    let expected = MethodTotals {
        in_kernel: mmap.in_kernel,
        ..MethodTotals::default()
    };
    assert_eq!(mmap, expected, "nothing but copy-on-write");
    counters
}

pub fn stop() {
    // SAFETY: raises a signal in the calling thread.
    unsafe { libc::raise(libc::SIGSTOP) };
}

/// A number that a child can set and its parent can read.
pub fn shared() -> &'static AtomicU64 {
    // SAFETY: a fresh anonymous mapping, never unmapped, zeroed, aligned and shared with children.
    unsafe {
        let page = libc::mmap(
            std::ptr::null_mut(),
            size_of::<AtomicU64>(),
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        assert_ne!(
            page,
            libc::MAP_FAILED,
            "mmap: {}",
            io::Error::last_os_error()
        );
        let number = &*page.cast::<AtomicU64>();
        number.store(0, Ordering::SeqCst);
        number
    }
}

/// The result of a call that may not fail, as a number of bytes.
pub fn ok(name: &str, result: impl TryInto<usize>) -> usize {
    result.try_into().unwrap_or_else(|_| {
        eprintln!("{name}: {}", io::Error::last_os_error());
        process::abort()
    })
}
