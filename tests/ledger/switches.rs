//! Context switches and page faults equal the kernel's own accounts; mode switches follow from the
//! calls.

use std::{ptr, sync::atomic::Ordering, thread, time::Duration};

use crate::harness::support::{Child, Measured, measure, ok, path, shared};

fn assert_accounts_agree(measured: &Measured) {
    let (counters, accounts) = (&measured.counters, measured.accounts);
    let switches = counters.context_switches;
    assert_eq!(
        switches.voluntary, accounts.voluntary,
        "voluntary, as /proc/PID/status"
    );
    assert_eq!(
        switches.involuntary, accounts.involuntary,
        "involuntary, as /proc/PID/status"
    );
    assert_eq!(
        counters.page_faults.minor, accounts.minor,
        "minor, as getrusage"
    );
    assert_eq!(
        counters.page_faults.major, accounts.major,
        "major, as getrusage"
    );
}

#[test]
fn sleeping_is_a_voluntary_switch() {
    let measured = measure(|| {
        for _ in 0..25 {
            thread::sleep(Duration::from_millis(2));
        }
    });
    assert!(measured.counters.context_switches.voluntary >= 25);
    assert_accounts_agree(&measured);
    path("voluntary context switches");
}

#[test]
fn being_preempted_is_an_involuntary_switch() {
    let done = shared();
    let cpus = thread::available_parallelism().expect("a number of CPUs");
    let rivals: Vec<_> = (0..2 * cpus.get())
        .map(|_| {
            Child::working(|| {
                while done.load(Ordering::SeqCst) == 0 {
                    std::hint::spin_loop();
                }
            })
        })
        .collect();
    let measured = measure(|| spin(Duration::from_millis(300)));
    done.store(1, Ordering::SeqCst);
    for rival in rivals {
        rival.wait_exited();
    }
    assert!(
        measured.counters.context_switches.involuntary > 0,
        "more spinners than CPUs"
    );
    assert_accounts_agree(&measured);
    path("involuntary context switches");
}

fn spin(time: Duration) {
    let begun = std::time::Instant::now();
    while begun.elapsed() < time {
        std::hint::spin_loop();
    }
}

#[test]
fn a_ping_pong_over_pipes_switches_each_time() {
    const ROUNDS: usize = 200;
    let (mut there, mut back) = ([0; 2], [0; 2]);
    // SAFETY: room for two descriptors each.
    unsafe {
        assert_eq!(libc::pipe(there.as_mut_ptr()), 0);
        assert_eq!(libc::pipe(back.as_mut_ptr()), 0);
    }
    let exchange = |from: i32, to: i32, first: bool| {
        let mut byte = 0u8;
        let data = (&raw mut byte).cast();
        for round in 0..ROUNDS {
            // SAFETY: one byte of room.
            unsafe {
                if first || round > 0 {
                    assert_eq!(ok("write", libc::write(to, data, 1)), 1);
                }
                assert_eq!(ok("read", libc::read(from, data, 1)), 1);
            }
        }
    };
    let partner = Child::working(|| {
        let mut byte = 0u8;
        for _ in 0..ROUNDS {
            // SAFETY: one byte of room.
            unsafe {
                assert_eq!(
                    ok("read", libc::read(there[0], (&raw mut byte).cast(), 1)),
                    1
                );
                assert_eq!(
                    ok("write", libc::write(back[1], (&raw const byte).cast(), 1)),
                    1
                );
            }
        }
    });
    let measured = measure(|| exchange(back[0], there[1], true));
    partner.wait_exited();
    assert_accounts_agree(&measured);
    assert_eq!(
        measured.counters.mode_switches.syscall,
        4 * ROUNDS as u64,
        "two calls a round"
    );
    path("mode switches by system calls");
}

#[test]
fn first_touches_are_minor_faults_and_mode_switches() {
    const PAGES: usize = 64;
    let measured = measure(|| {
        // SAFETY: a new anonymous mapping, written inside its bounds.
        unsafe {
            let start = libc::mmap(
                ptr::null_mut(),
                PAGES * 4_096,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            assert_ne!(start, libc::MAP_FAILED);
            assert_eq!(
                libc::madvise(start, PAGES * 4_096, libc::MADV_NOHUGEPAGE),
                0
            );
            for page in 0..PAGES {
                start.cast::<u8>().add(page * 4_096).write_volatile(1);
            }
        }
    });
    assert!(measured.counters.page_faults.minor >= PAGES as u64);
    assert_accounts_agree(&measured);
    // No fault was taken inside the kernel: each is a mode switch there and back.
    assert_eq!(
        measured.counters.mode_switches.fault,
        2 * measured.counters.page_faults.minor
    );
    assert_eq!(measured.counters.mode_switches.syscall, 2, "one mmap");
    path("mode switches by page faults");
    path("minor page faults");
}

#[test]
fn faults_inside_a_read_are_no_mode_switches() {
    const BYTES: usize = 64 * 4_096;
    let zeros = std::fs::File::open("/dev/zero").expect("open");
    let fd = std::os::fd::AsRawFd::as_raw_fd(&zeros);
    // SAFETY: a new anonymous mapping.
    let start = unsafe {
        let (rw, private) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        );
        libc::mmap(ptr::null_mut(), BYTES, rw, private, -1, 0)
    };
    assert_ne!(start, libc::MAP_FAILED);
    // SAFETY: the mapping holds that much.
    let measured =
        measure(|| unsafe { assert_eq!(ok("read", libc::read(fd, start, BYTES)), BYTES) });
    assert_accounts_agree(&measured);
    let faults = measured.counters.page_faults.minor;
    assert!(
        faults > 0 && measured.counters.mode_switches.fault < 2 * faults,
        "{faults} faults"
    );
}
