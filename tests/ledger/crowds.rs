//! Many processes: short-lived ones, and more than there is room for.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::fd::AsRawFd,
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use tempfile::TempDir;
use zc_profiler::{
    Options, Profiler, Scope,
    ledger::{Counters, Dropped, Method, ProcessKey},
    probes::Filter,
};

use crate::{
    agent::serve::Server,
    harness::support::{Child, kernel_is, make_room, ok},
};

const LENGTH: usize = 1_009;
const BYTES: u64 = LENGTH as u64;

/// How many short-lived processes there are at the same time.
const AT_ONCE: usize = 64;
const STACK: usize = 16 << 10;

/// What the processes of a churn share with who makes them: its memory.
struct Life {
    fd: i32,
    /// The round that they belong to, and the last one that may end.
    begun: AtomicU32,
    over: AtomicU32,
}

/// Reads once, and ends with all others: by system calls only, since the memory is its maker's.
extern "C" fn live(life: *mut libc::c_void) -> i32 {
    // SAFETY: `churn` keeps it until all have ended.
    let life = unsafe { &*life.cast::<Life>() };
    let round = life.begun.load(Ordering::SeqCst);
    let mut buffer = [0u8; LENGTH];
    // SAFETY: the buffer has that length; nobody else uses the word for anything else.
    unsafe {
        let read = libc::pread(life.fd, buffer.as_mut_ptr().cast(), LENGTH, 0);
        let (word, wait) = (life.over.as_ptr(), libc::FUTEX_WAIT);
        while life.over.load(Ordering::SeqCst) != round {
            libc::syscall(libc::SYS_futex, word, wait, round - 1, 0, 0, 0);
        }
        i32::from(usize::try_from(read) != Ok(LENGTH))
    }
}

/// Lets so many times [`AT_ONCE`] processes come, be there together, and go. They are made without
/// copying any memory, which makes them cheap, and have a pid and a ledger of their own.
fn churn(fd: i32, times: usize) {
    let life = Life {
        fd,
        begun: AtomicU32::new(0),
        over: AtomicU32::new(0),
    };
    let mut stacks = vec![0u8; AT_ONCE * STACK];
    for _ in 0..times {
        let round = life.begun.fetch_add(1, Ordering::SeqCst) + 1;
        for stack in stacks.chunks_exact_mut(STACK) {
            let argument = (&raw const life).cast_mut().cast();
            let flags = libc::CLONE_VM | libc::SIGCHLD;
            // SAFETY: the stack is this one's alone until it has been waited for.
            let pid = unsafe {
                let top = stack.as_mut_ptr_range().end;
                libc::clone(live, top.cast(), flags, argument)
            };
            ok("clone", pid);
        }
        life.over.store(round, Ordering::SeqCst);
        // SAFETY: the word is valid.
        unsafe {
            let (word, wake) = (life.over.as_ptr(), libc::FUTEX_WAKE);
            libc::syscall(libc::SYS_futex, word, wake, AT_ONCE, 0, 0, 0);
        }
        for _ in 0..AT_ONCE {
            let mut status = 0;
            // SAFETY: `status` is writable.
            let pid = unsafe { libc::wait(&raw mut status) };
            assert!(pid > 0 && status == 0, "status {status:#x}");
        }
    }
}

/// Anonymous memory: neither programs and libraries nor maps that the kernel shares.
fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB"));
    number
        .and_then(|number| number.parse().ok())
        .expect("RssAnon")
}

/// On one kernel: tens of thousands of processes take their time in software emulation.
#[test]
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "far below 2^53"
)]
fn twenty_thousand_short_lived_processes_are_counted_to_the_byte_in_flat_memory() {
    const PARTS: u64 = 20;
    /// By then memory holds as many processes as are known at once, in each of the agent's heaps.
    const WARM: u64 = 10;
    const PART: u64 = 1_024;
    /// The agent takes some 2 KiB for a process as long as it knows it. A heap that has served that many
    /// now and then takes a little more, for want of one free place of the right size; if an entry of one
    /// process in eight stayed behind, it would be as much as this for each.
    const SLACK: u64 = 256;
    if !kernel_is("6.12.") {
        return;
    }
    let server = Server::start_with(&["--group-by", "comm"]);
    let dir = TempDir::new_in("/lab").expect("directory");
    let path = dir.path().join("source");
    fs::write(&path, [7; LENGTH]).expect("write");
    let file = File::open(&path).expect("open");
    let known = |samples: &BTreeMap<String, f64>| samples["zc_processes"] as u64;
    let begun = server.samples();
    // The most that were known at once while it warmed up, two parts at least, and the memory after that.
    let (mut most, mut warm) = (2 * PART, 0);
    for part in 1..=PARTS {
        // Never more at once than then.
        while part > WARM && known(&server.samples()) + PART > most {
            thread::yield_now();
        }
        let child = Child::working(|| {
            // SAFETY: the name ends in a zero.
            unsafe { libc::prctl(libc::PR_SET_NAME, c"churner".as_ptr()) };
            churn(file.as_raw_fd(), PART as usize / AT_ONCE);
        });
        child.wait_exited();
        make_room();
        let samples = server.samples();
        let lives = part * PART;
        // Kernels that preempt inside programs may skip some, but never in silence.
        let skipped = r#"zc_dropped_total{reason="skipped_runs"}"#;
        let skipped = samples[skipped] - begun[skipped];
        for series in [
            r#"zc_payload_bytes_total{comm="churner",method="read"}"#,
            r#"zc_copied_bytes_total{comm="churner",direction="to_user",method="read"}"#,
        ] {
            let missing = lives as f64 - samples[series] / BYTES as f64;
            assert!(
                (0.0..=skipped).contains(&missing) && missing.fract() == 0.0,
                "{series}: {missing} of {lives} missing, {skipped} skipped"
            );
        }
        let groups = samples["zc_groups"] - begun["zc_groups"];
        assert!((0.0..4.0).contains(&groups), "{groups} more groups");
        let full = samples[r#"zc_dropped_total{reason="process_map_full"}"#];
        assert!(full < 1.0, "{full}");
        if part <= WARM {
            most = most.max(known(&samples));
            warm = resident_kib(server.pid());
        }
    }
    let grown = resident_kib(server.pid()).saturating_sub(warm);
    println!("{grown} KiB more than {warm}, with {most} known at most");
    let allowed = (PARTS - WARM) * PART * SLACK / 1_024;
    assert!(grown < allowed, "{grown} KiB, more than {allowed}");
}

#[test]
fn what_there_is_no_room_for_is_counted_as_other() {
    const ROOM: u32 = 16;
    const PROCESSES: u64 = 100;
    let options = Options {
        processes: Some(ROOM),
        ..Options::default()
    };
    let profiler = Profiler::attach(Scope::System, options).expect("attach");
    let dir = TempDir::new_in("/lab").expect("directory");
    let [from, to] = ["from", "to"].map(|name| dir.path().join(name));
    fs::write(&from, [7; LENGTH]).expect("write");
    let from = File::open(&from).expect("open");
    let to = File::create(&to).expect("create");
    let work = || {
        for _ in 0..PROCESSES {
            // By a method that nobody else uses here.
            let child = Child::working(|| {
                let (mut at, mut into) = (0, 0);
                let (from, to) = (from.as_raw_fd(), to.as_raw_fd());
                // SAFETY: both offsets are writable.
                let copied = unsafe {
                    libc::copy_file_range(from, &raw mut at, to, &raw mut into, LENGTH, 0)
                };
                assert_eq!(ok("copy_file_range", copied), LENGTH);
            });
            child.wait_exited();
        }
    };
    let counted = || {
        let snapshot = profiler.snapshot().expect("snapshot");
        let other = snapshot.process(ProcessKey::OVERFLOW.pid).expect("other");
        let dropped = snapshot.dropped[&Dropped::ProcessMapFull];
        (snapshot.total(), other.counters.clone(), dropped)
    };
    let least = PROCESSES - u64::from(ROOM);
    // Everybody is counted; then a filter's process and its children.
    let filtered = Child::stopped_before(work);
    filtered.wait_stopped();
    for by_filter in [false, true] {
        let before = counted();
        if by_filter {
            // What has ended goes in two rounds.
            for _ in 0..2 {
                profiler.retire(|_| {}, drop).expect("retire");
            }
            let filter = Filter {
                pids: vec![filtered.pid.cast_unsigned()],
                ..Filter::default()
            };
            profiler.filter(&filter).expect("filter");
            filtered.go_on();
            // Nobody else's are counted.
            work();
            filtered.wait_stopped();
        } else {
            work();
        }
        let after = counted();
        let between = |after: &Counters, before| (after - before).method(Method::CopyFileRange);
        let (all, other) = (between(&after.0, &before.0), between(&after.1, &before.1));
        assert_eq!(all.calls, PROCESSES, "by filter: {by_filter}");
        assert_eq!(all.payload_bytes, PROCESSES * BYTES);
        assert_eq!(all.in_kernel.bytes, PROCESSES * BYTES);
        assert!(other.payload_bytes >= least * BYTES, "{other:?}");
        assert!(after.2 - before.2 >= least, "{before:?} {after:?}");
    }
    filtered.go_on();
    filtered.wait_exited();
}
