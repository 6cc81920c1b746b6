//! More processes than there is room for.

use std::{
    fs::{self, File},
    os::fd::AsRawFd,
};

use tempfile::TempDir;
use zc_profiler::{
    Options, Profiler, Scope,
    ledger::{Dropped, Method, ProcessKey},
};

use crate::support::{Child, ok};

const LENGTH: usize = 1_009;
const BYTES: u64 = LENGTH as u64;

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
