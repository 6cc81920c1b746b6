//! Bytes belong to the process that moved them, and none is lost when it ends.

use std::{
    fs,
    os::fd::AsRawFd,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use zc_profiler::{
    Options, Profiler, Scope,
    kernel::Environment,
    ledger::{
        Direction::{FromUser, ToUser},
        Method,
    },
    probes::{AttachClass, Evidence},
};

use crate::harness::{
    expect::{Expect, check},
    support::{
        Child, assert_reported, measure, ok, profiler, shared, snapshot, wait,
        without_copy_on_write,
    },
};

fn read_chunks(path: &str, chunk: usize, times: usize) {
    let name = std::ffi::CString::new(path).expect("no zero in the path");
    let mut buffer = [0u8; 4_096];
    // SAFETY: a valid path, and room for a chunk of at most a page.
    unsafe {
        let fd = libc::open(name.as_ptr(), libc::O_RDONLY);
        assert!(fd >= 0, "open {path}");
        for _ in 0..times {
            assert_eq!(
                ok(
                    "pread",
                    libc::pread(fd, buffer.as_mut_ptr().cast(), chunk, 0)
                ),
                chunk
            );
        }
        libc::close(fd);
    }
}

#[test]
fn two_processes_at_once_are_not_mixed_up() {
    profiler();
    let path = "/lab/shared-source";
    fs::write(path, [1u8; 4_096]).expect("write");
    // Different chunks, so that a byte in the wrong place shows; alternating, since each yields.
    let children: Vec<_> = [1_000usize, 17]
        .into_iter()
        .map(|chunk| {
            let work = move || {
                for _ in 0..100 {
                    read_chunks(path, chunk, 10);
                    std::thread::yield_now();
                }
            };
            (chunk, Child::stopped_before(work))
        })
        .collect();
    for (_, child) in &children {
        child.wait_stopped();
    }
    let before: Vec<_> = children.iter().map(|(_, child)| child.process()).collect();
    for (_, child) in &children {
        child.go_on();
    }
    for ((chunk, child), before) in children.iter().zip(before) {
        child.wait_stopped();
        let after = child.process().expect("in the ledger").counters;
        let counters = &after - &before.map(|process| process.counters).unwrap_or_default();
        let expected = Expect::of(Method::Read, *chunk as u64 * 1_000)
            .copied(ToUser)
            .calls(1_000);
        check(&format!("chunks of {chunk}"), &counters, &[expected]);
        child.go_on();
        child.wait_exited();
    }
    fs::remove_file(path).expect("unlink");
}

#[test]
fn preemption_at_any_instruction_loses_nothing_in_silence() {
    preempt(profiler());
}

#[test]
fn preemption_inside_a_tracepoint_loses_nothing_in_silence() {
    let options = Options {
        best: AttachClass::Tracepoint,
        ..Options::default()
    };
    preempt(&Profiler::attach(Scope::System, options).expect("attach"));
}

fn preempt(profiler: &Profiler) {
    const READS: usize = 3_000;
    const WAKES: usize = 1_500;
    let snapshot = || profiler.snapshot().expect("snapshot");
    let before = snapshot().skipped;
    let path = "/lab/preempted-source";
    fs::write(path, [1u8; 4_096]).expect("write");
    // One task preempts the others wherever they are, the programs included, and uses the same
    // functions and programs while they cannot go on.
    let preempter = Child::working(|| {
        let priority = libc::sched_param { sched_priority: 1 };
        // SAFETY: valid for the call.
        let set = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const priority) };
        assert_eq!(set, 0, "sched_setscheduler");
        for _ in 0..WAKES {
            std::thread::sleep(Duration::from_micros(150));
            read_chunks(path, 7, 2);
        }
    });
    let others: Vec<_> = [1usize, 100, 4_096]
        .into_iter()
        .map(|chunk| {
            let work = move || {
                for _ in 0..READS / 10 {
                    read_chunks(path, chunk, 10);
                }
            };
            (chunk, READS, Child::working(work))
        })
        .chain([(7, 2 * WAKES, preempter)])
        .collect();
    for (_, _, child) in &others {
        child.wait_exited();
    }
    let after = snapshot();
    let mut missing = 0;
    for (chunk, reads, child) in &others {
        let process = after.process(child.pid.cast_unsigned());
        let counters = &process.expect("in the ledger").counters;
        let read = counters.method(Method::Read);
        let (reads, bytes) = (*reads as u64, (chunk * reads) as u64);
        let found = (read.calls, read.payload_bytes, read.to_user.bytes);
        assert!(
            found.0 <= reads && found.1 <= bytes && found.2 <= bytes,
            "{reads} reads of {chunk}: counted twice: {found:?}"
        );
        missing += (reads - found.0) + (reads - read.to_user.copies);
    }
    // A call derived is one event for two numbers.
    let events = match profiler.evidence() {
        Evidence::Measured => missing,
        Evidence::Derived => missing.div_ceil(2),
    };
    assert_reported(events, after.skipped - before);
    fs::remove_file(path).expect("unlink");
}

#[test]
fn processes_that_exit_at_once_lose_nothing() {
    const PROCESSES: usize = 100;
    profiler();
    let path = "/lab/exit-source";
    fs::write(path, [1u8; 4_096]).expect("write");
    let children: Vec<_> = (1..=PROCESSES)
        .map(|bytes| (bytes, Child::working(move || read_chunks(path, bytes, 1))))
        .collect();
    for (_, child) in &children {
        child.wait_exited();
    }
    // A child can be waited for a moment before it makes its last context switch.
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        let gone = children
            .iter()
            .filter(|(_, child)| child.process().is_some_and(|it| it.exited));
        let gone = gone.count();
        if gone == PROCESSES {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "only {gone} of {PROCESSES} are known to have exited"
        );
    }
    for (bytes, child) in &children {
        let process = child.process().expect("in the ledger");
        let expected = Expect::of(Method::Read, *bytes as u64)
            .copied(ToUser)
            .calls(1);
        check(
            &format!("process that read {bytes}"),
            &without_copy_on_write(process.counters),
            &[expected],
        );
    }
    fs::remove_file(path).expect("unlink");
}

#[test]
fn a_process_killed_in_the_middle_of_a_call_keeps_what_it_copied() {
    profiler();
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
    let buffer = vec![1u8; 1 << 20];
    // Nobody reads: the write fills the pipe and sleeps.
    let child = Child::working(|| {
        // SAFETY: the buffer holds that much.
        unsafe { libc::write(ends[1], buffer.as_ptr().cast(), buffer.len()) };
    });
    let asleep = |pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
        stat.rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with('S'))
    };
    let deadline = Instant::now() + Duration::from_mins(1);
    while !asleep(child.pid) {
        assert!(Instant::now() < deadline, "the child never slept");
    }
    // SAFETY: our own child.
    assert_eq!(unsafe { libc::kill(child.pid, libc::SIGKILL) }, 0);
    wait(child.pid, 0);
    let process = child.process().expect("in the ledger");
    let expected = Expect::of(Method::Write, 65_536).copied(FromUser).calls(1);
    let counters = without_copy_on_write(process.counters);
    check("killed", &counters, &[expected]);
}

#[test]
fn threads_count_to_their_process() {
    const THREADS: usize = 4;
    let path = "/lab/thread-source";
    fs::write(path, [1u8; 4_096]).expect("write");
    let measured = measure(|| {
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| read_chunks(path, 100, 50));
            }
        });
    });
    // Thread stacks are mapped too, and glibc reads files of its own on the first thread.
    let read = measured.counters.method(Method::Read);
    let bytes = (THREADS * 50 * 100) as u64;
    assert_eq!(
        (read.payload_bytes, read.to_user.bytes),
        (bytes, bytes),
        "{read:?}"
    );
    fs::remove_file(path).expect("unlink");
}

#[test]
fn a_new_name_is_seen() {
    profiler();
    let child = Child::stopped_before(|| {
        // SAFETY: a literal that ends in a zero.
        unsafe { libc::prctl(libc::PR_SET_NAME, c"renamed".as_ptr()) };
    });
    child.wait_stopped();
    child.go_on();
    child.wait_stopped();
    assert_eq!(child.process().expect("in the ledger").comm, "renamed");
    child.go_on();
    child.wait_exited();
}

#[test]
fn processes_sum_to_the_total_and_nothing_is_dropped() {
    let file = fs::File::open("/etc/passwd").expect("open");
    let read = shared();
    let fd = file.as_raw_fd();
    measure(|| {
        let mut byte = 0u8;
        // SAFETY: room for one byte.
        let n = unsafe { libc::read(fd, (&raw mut byte).cast(), 1) };
        read.store(ok("read", n) as u64, Ordering::SeqCst);
    });
    let snapshot = snapshot();
    let sum: u64 = snapshot
        .processes
        .iter()
        .map(|process| process.counters.all_methods().copied_bytes())
        .sum();
    let gone = snapshot.retired.all_methods().copied_bytes();
    let total = snapshot.total().all_methods().copied_bytes();
    assert_eq!(sum + gone, total);
    assert!(total >= read.load(Ordering::SeqCst));
    for (reason, count) in snapshot.dropped {
        assert_eq!(count, 0, "dropped: {}", reason.name());
    }
    if !Environment::read().expect("environment").preemptible {
        assert_eq!(snapshot.skipped, 0, "skipped");
    }
}
