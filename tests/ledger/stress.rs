//! Tries to lose an addition: many tasks on all CPUs share their process's counters, and the scheduler
//! is between every two of their steps.

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::unix::fs::FileExt,
    thread,
};

use tempfile::TempDir;
use zc_profiler::ledger::{Copies, Method, MethodTotals};

use crate::{
    harness::support::{Child, assert_reported, profiler, snapshot},
    ledger::mid_copy::pipe,
};

const PROCESSES: usize = 3;
const PAIRS: usize = 8;
const ROUNDS: usize = 400;

/// No two pairs move the same number of bytes, so that what is missing tells whose it is.
const fn step(pair: usize) -> usize {
    1 + 37 * pair
}

fn receive(from: &mut File, bytes: usize) {
    let mut buffer = [0; step(PAIRS)];
    let received = from.read(&mut buffer).expect("read");
    assert_eq!(received, bytes, "less than a page is written whole");
}

fn send(into: &mut File, bytes: usize) {
    let sent = into.write(&[7; step(PAIRS)][..bytes]).expect("write");
    assert_eq!(sent, bytes);
}

/// Each pair of threads passes its bytes to and fro.
fn pass() {
    // For as many arenas as there are processors glibc would read their number from a file.
    // SAFETY: takes no pointer.
    assert_eq!(unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) }, 1);
    thread::scope(|scope| {
        for pair in 0..PAIRS {
            let bytes = step(pair);
            let (mut there, mut go) = pipe();
            let (mut back, mut come) = pipe();
            scope.spawn(move || {
                for _ in 0..ROUNDS {
                    send(&mut go, bytes);
                    receive(&mut back, bytes);
                }
            });
            scope.spawn(move || {
                for _ in 0..ROUNDS {
                    receive(&mut there, bytes);
                    send(&mut come, bytes);
                }
            });
        }
    });
}

#[test]
fn no_addition_of_many_tasks_is_lost() {
    lose_nothing();
}

#[test]
#[ignore = "it takes two CPUs: `cargo xtask test` runs it in a machine of its own"]
fn no_addition_of_many_tasks_on_two_processors_is_lost() {
    lose_nothing();
}

/// The scheduler's own timer for time slices, until this goes; it must be on.
struct WithoutSliceTimer;

const FEATURES: &str = "/sys/kernel/debug/sched/features";

impl WithoutSliceTimer {
    fn set() -> Self {
        fs::write(FEATURES, "NO_HRTICK").expect("scheduler features");
        Self
    }
}

impl Drop for WithoutSliceTimer {
    fn drop(&mut self) {
        fs::write(FEATURES, "HRTICK").expect("scheduler features");
    }
}

/// Kernels that end time slices in the middle of programs skip runs by the thousand. There, the test does what
/// the profiler advises.
#[test]
fn busy_tasks_are_counted_to_the_byte() {
    const TASKS: u64 = 20;
    const READS: u64 = 5_000;
    let advised = profiler().environment().skips();
    let _without = advised.map(|reason| {
        assert!(reason.contains(&format!("echo NO_HRTICK > {FEATURES}")));
        WithoutSliceTimer::set()
    });
    let dir = TempDir::new_in("/lab").expect("directory");
    let path = dir.path().join("source");
    fs::write(&path, [7]).expect("write");
    let file = File::open(&path).expect("open");
    let before = snapshot().skipped;
    let read = || {
        for _ in 0..READS {
            assert_eq!(file.read_at(&mut [0], 0).expect("read"), 1);
        }
    };
    let children: Vec<_> = (0..TASKS).map(|_| Child::working(read)).collect();
    for child in &children {
        child.wait_exited();
    }
    let after = snapshot();
    let mut missing = 0;
    for child in &children {
        let process = after.process(child.pid.cast_unsigned());
        let read = process
            .expect("in the ledger")
            .counters
            .method(Method::Read);
        missing += missing_events(&read, &read.to_user, READS, READS);
    }
    let skipped = after.skipped - before;
    assert_reported(missing, skipped);
    if !profiler().environment().preemptible {
        assert_eq!(skipped, 0, "this kernel cannot preempt a program");
    }
}

/// How many calls and copies of a method are missing from the ledger, where `calls` calls copied `bytes`
/// bytes and each call copied once. Panics if anything was counted twice, or by a wrong number of bytes.
fn missing_events(method: &MethodTotals, copied: &Copies, calls: u64, bytes: u64) -> u64 {
    assert!(
        method.calls <= calls
            && copied.copies <= calls
            && method.payload_bytes <= bytes
            && copied.bytes <= bytes,
        "{calls} calls, {bytes} bytes: counted twice: {method:?}"
    );
    let missing = (calls - method.calls) + (calls - copied.copies);
    // A missing event lacks at least one byte.
    assert!(
        (bytes - method.payload_bytes) + (bytes - copied.bytes) >= missing,
        "{method:?}"
    );
    if missing == 0 {
        assert_eq!((method.payload_bytes, copied.bytes), (bytes, bytes));
    }
    missing
}

fn lose_nothing() {
    let before = snapshot().skipped;
    let children: Vec<_> = (0..PROCESSES).map(|_| Child::working(pass)).collect();
    for child in &children {
        child.wait_exited();
    }
    let after = snapshot();
    let calls = (2 * PAIRS * ROUNDS) as u64;
    let bytes = (0..PAIRS).map(step).sum::<usize>() as u64 * 2 * ROUNDS as u64;
    let mut missing = 0;
    for child in &children {
        let process = after.process(child.pid.cast_unsigned());
        let counters = &process.expect("in the ledger").counters;
        let (read, write) = (
            counters.method(Method::Read),
            counters.method(Method::Write),
        );
        missing += missing_events(&read, &read.to_user, calls, bytes);
        missing += missing_events(&write, &write.from_user, calls, bytes);
    }
    assert_reported(missing, after.skipped - before);
}
