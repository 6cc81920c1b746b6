//! Many processes: short-lived ones, and more than there is room for.

use std::{
    fs::{self, File},
    os::fd::AsRawFd,
    thread,
    time::Duration,
};

use tempfile::TempDir;
use zc_profiler::{
    Options, Profiler, Scope,
    ledger::{Dropped, Method, ProcessKey},
};

use crate::{
    serve::Server,
    support::{Child, ok},
};

const LENGTH: usize = 1_009;
const BYTES: u64 = LENGTH as u64;

/// Reads [`BYTES`] of a file, with system calls only.
fn read_once(fd: i32) {
    let mut buffer = [0u8; LENGTH];
    // SAFETY: the buffer has that length.
    let read = unsafe { libc::pread(fd, buffer.as_mut_ptr().cast(), buffer.len(), 0) };
    assert_eq!(ok("pread", read), buffer.len());
}

fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB"));
    number
        .and_then(|number| number.parse().ok())
        .expect("VmRSS")
}

/// Lets processes come and go, so many at once, each of which reads once.
fn churn(fd: i32, processes: u64, at_once: u64) {
    let mut alive = 0;
    let reap = || {
        let mut status = 0;
        // SAFETY: `status` is writable.
        let pid = unsafe { libc::wait(&raw mut status) };
        assert!(pid > 0 && status == 0, "status {status}");
    };
    for _ in 0..processes {
        if alive == at_once {
            reap();
            alive -= 1;
        }
        // SAFETY: the child makes system calls only.
        match unsafe { libc::fork() } {
            -1 => panic!("fork: {}", std::io::Error::last_os_error()),
            0 => {
                read_once(fd);
                // SAFETY: ends this process, as nothing else may.
                unsafe { libc::_exit(0) }
            }
            _ => alive += 1,
        }
    }
    for _ in 0..alive {
        reap();
    }
}

#[test]
#[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
fn twenty_thousand_short_lived_processes_are_counted_to_the_byte() {
    const AT_ONCE: u64 = 64;
    // Three minutes of software emulation, so once; a part of it on the other kernels.
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("osrelease");
    let processes = if release.starts_with("6.1.") {
        20_000
    } else {
        3_000
    };
    let server = Server::start_with(&["--group-by", "comm"]);
    let dir = TempDir::new_in("/lab").expect("directory");
    let path = dir.path().join("source");
    fs::write(&path, [7; LENGTH]).expect("write");
    let file = File::open(&path).expect("open");
    let begun = server.samples();
    let mut lives = 0;
    let mut live = |more| {
        let mut child = Child::working(|| {
            // SAFETY: the name ends in a zero.
            unsafe { libc::prctl(libc::PR_SET_NAME, c"churner".as_ptr()) };
            churn(file.as_raw_fd(), more, AT_ONCE);
        });
        // As Prometheus would, so that there is room for those who come.
        while !child.has_exited() {
            server.samples();
            thread::sleep(Duration::from_millis(200));
        }
        lives += more;
        let samples = server.samples();
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
        samples
    };
    live(processes / 4);
    let resident = resident_kib(server.pid());
    let ended = live(processes - processes / 4);
    // A leak of a hundred bytes a process would be more than that.
    let grown = resident_kib(server.pid()).saturating_sub(resident);
    assert!(grown < 1_024, "{grown} KiB more for {processes} processes");
    let groups = ended["zc_groups"] - begun["zc_groups"];
    assert!((0.0..4.0).contains(&groups), "{groups} more groups");
    let full = ended[r#"zc_dropped_total{reason="process_map_full"}"#];
    assert!(full < 1.0, "{full}");
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
    // By a method that nobody else uses here.
    for _ in 0..PROCESSES {
        let child = Child::working(|| {
            let (mut at, mut into) = (0, 0);
            let (from, to) = (from.as_raw_fd(), to.as_raw_fd());
            // SAFETY: both offsets are writable.
            let copied =
                unsafe { libc::copy_file_range(from, &raw mut at, to, &raw mut into, LENGTH, 0) };
            assert_eq!(ok("copy_file_range", copied), LENGTH);
        });
        child.wait_exited();
    }
    let snapshot = profiler.snapshot().expect("snapshot");
    let method = Method::CopyFileRange;
    let all = snapshot.total().method(method);
    assert_eq!(all.calls, PROCESSES);
    assert_eq!(all.payload_bytes, PROCESSES * BYTES);
    assert_eq!(all.in_kernel.bytes, PROCESSES * BYTES);
    let other = snapshot.process(ProcessKey::OVERFLOW.pid).expect("other");
    let other = other.counters.method(method);
    let least = PROCESSES - u64::from(ROOM);
    assert!(other.payload_bytes >= least * BYTES, "{other:?}");
    let drops = snapshot.dropped.get(&Dropped::ProcessMapFull);
    assert!(drops >= Some(&least), "{drops:?}");
}
