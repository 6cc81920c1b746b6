//! What a process has done belongs to it before it leaves its CPU too.

use std::{fs::File, mem, os::unix::fs::FileExt, sync::atomic::Ordering};

use zc_profiler::ledger::Method;

use crate::harness::support::{Child, shared, snapshot, stop};

const READS: u64 = 100;
const CHUNK: usize = 37;

const WORKS: u64 = 0;
const SPINS: u64 = 1;
const ENDS: u64 = 2;

/// Binds the calling thread to one CPU, or to all.
fn bind(to: impl Fn(usize) -> bool) {
    // SAFETY: plain old data, for which zeros are valid, and numbers within it.
    unsafe {
        let mut set: libc::cpu_set_t = mem::zeroed();
        for cpu in (0..64).filter(|cpu| to(*cpu)) {
            libc::CPU_SET(cpu, &mut set);
        }
        let result = libc::sched_setaffinity(0, size_of_val(&set), &raw const set);
        assert_eq!(result, 0, "sched_setaffinity");
    }
}

/// With one CPU whoever asks has driven the other off it.
#[test]
#[ignore = "it takes two CPUs: `cargo xtask test` runs it in a machine of its own"]
fn what_a_process_has_done_is_seen_while_it_runs_on() {
    // SAFETY: takes no pointer.
    let cpus = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    let last = usize::try_from(cpus).expect("a number of CPUs") - 1;
    assert!(last > 0, "two CPUs");
    let path = "/tmp/pending-source";
    std::fs::write(path, [7; CHUNK]).expect("write");
    let stage = shared();
    // By the first CPU, so that the other's process has its own.
    bind(|cpu| cpu == 0);
    snapshot();
    let child = Child::working(|| {
        bind(|cpu| cpu == last);
        // Nothing else is to drive it off.
        let priority = libc::sched_param { sched_priority: 1 };
        // SAFETY: valid for the call.
        let set = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const priority) };
        assert_eq!(set, 0, "sched_setscheduler");
        let file = File::open(path).expect("open");
        let mut buffer = [0; CHUNK];
        for _ in 0..READS {
            file.read_exact_at(&mut buffer, 0).expect("read");
        }
        stage.store(SPINS, Ordering::SeqCst);
        while stage.load(Ordering::SeqCst) != ENDS {
            std::hint::spin_loop();
        }
    });
    while stage.load(Ordering::SeqCst) == WORKS {
        std::thread::yield_now();
    }
    for _ in 0..2 {
        let read = child.counters().method(Method::Read);
        assert_eq!(read.calls, READS);
        assert_eq!(read.payload_bytes, READS * CHUNK as u64);
        assert_eq!(read.to_user.copies, READS);
        assert_eq!(read.to_user.bytes, READS * CHUNK as u64);
    }
    stage.store(ENDS, Ordering::SeqCst);
    child.wait_exited();
    bind(|_| true);
}

/// Whoever waits for a process to stop is told so before that has left its CPU.
#[test]
#[ignore = "it takes two CPUs: `cargo xtask test` runs it in a machine of its own"]
fn what_a_process_did_before_it_stopped_is_seen_at_once() {
    const ROUNDS: u64 = 300;
    let path = "/tmp/pending-rounds";
    std::fs::write(path, [7; CHUNK]).expect("write");
    bind(|cpu| cpu == 0);
    snapshot();
    let child = Child::working(|| {
        bind(|cpu| cpu > 0);
        let file = File::open(path).expect("open");
        let mut buffer = [0; CHUNK];
        for _ in 0..ROUNDS {
            file.read_exact_at(&mut buffer, 0).expect("read");
            stop();
        }
    });
    for round in 1..=ROUNDS {
        child.wait_stopped();
        let read = child.counters().method(Method::Read);
        assert_eq!(
            (read.calls, read.to_user.bytes),
            (round, round * CHUNK as u64)
        );
        child.go_on();
    }
    child.wait_exited();
    bind(|_| true);
}
