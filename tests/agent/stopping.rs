//! From SIGTERM on nothing is counted, while the kernel still takes the probes down.

use std::{
    collections::BTreeMap,
    fs,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    process::{Command, Stdio},
};

use crate::agent::{
    privileges::{objects, wait_for_nothing_but},
    serve::Server,
};

const LOOK_UP: i64 = 1;
const NEXT_KEY: i64 = 4;
const BY_NUMBER: i64 = 14;
const DESCRIBE: i64 = 15;

/// `MEMBARRIER_CMD_GLOBAL`: returns after a grace period of RCU.
const EVERY_PROCESSOR: i32 = 1;

/// An eBPF map of another process.
struct Map {
    fd: OwnedFd,
    key_size: usize,
    value_size: usize,
}

fn bpf(command: i64, attributes: &mut [u64; 4]) -> i64 {
    // SAFETY: whatever the attributes point to, the callers keep.
    unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            attributes.as_mut_ptr(),
            size_of_val(attributes),
        )
    }
}

impl Map {
    /// The one of that name among these numbers.
    fn named(name: &str, numbers: impl Iterator<Item = u32>) -> Self {
        let mut maps = numbers.filter_map(|number| {
            let fd = bpf(BY_NUMBER, &mut [number.into(), 0, 0, 0]);
            let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0)?;
            // SAFETY: the kernel has just made it.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            // type, id, key_size, value_size, max_entries, map_flags, name
            let mut info = [0u32; 10];
            let length = size_of_val(&info) as u64;
            let target = fd.as_raw_fd().cast_unsigned();
            let mut attributes = [
                u64::from(target) | length << 32,
                info.as_mut_ptr() as u64,
                0,
                0,
            ];
            assert_eq!(bpf(DESCRIBE, &mut attributes), 0);
            let letters: Vec<u8> = info[6..]
                .iter()
                .flat_map(|word| word.to_ne_bytes())
                .collect();
            let found = String::from_utf8_lossy(&letters);
            (found.trim_end_matches('\0') == name).then(|| Self {
                fd,
                key_size: info[2] as usize,
                value_size: info[3] as usize,
            })
        });
        maps.next().unwrap_or_else(|| panic!("no map {name}"))
    }

    fn element(&self, command: i64, key: *const u8, other: *mut u8) -> bool {
        let fd = u64::from(self.fd.as_raw_fd().cast_unsigned());
        bpf(command, &mut [fd, key as u64, other as u64, 0]) == 0
    }

    fn read(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut entries = BTreeMap::new();
        let mut key = Vec::new();
        loop {
            let mut next = vec![0; self.key_size];
            let before = if key.is_empty() {
                std::ptr::null()
            } else {
                key.as_ptr()
            };
            if !self.element(NEXT_KEY, before, next.as_mut_ptr()) {
                return entries;
            }
            let mut value = vec![0; self.value_size];
            assert!(self.element(LOOK_UP, next.as_ptr(), value.as_mut_ptr()));
            entries.insert(next.clone(), value);
            key = next;
        }
    }
}

fn work() {
    let path = "/lab/stopping";
    fs::write(path, [1; 10_000]).expect("write");
    let status = Command::new("cat").arg(path).stdout(Stdio::null()).status();
    assert!(status.expect("cat").success());
    fs::remove_file(path).expect("unlink");
}

#[test]
fn nothing_is_counted_from_sigterm_on() {
    let before = objects();
    let mut server = Server::start();
    let of_agent = || {
        objects()[1]
            .difference(&before[1])
            .copied()
            .collect::<Vec<_>>()
    };
    let ledger = Map::named("PROCESSES", of_agent().into_iter());
    let counted = ledger.read();
    work();
    assert_ne!(ledger.read(), counted, "it counts");

    assert!(server.signal(libc::SIGTERM).contains("no longer counting"));
    // Programs that were under way then have ended: they run in RCU's read sections.
    // SAFETY: takes no pointer.
    let waited = unsafe { libc::syscall(libc::SYS_membarrier, EVERY_PROCESSOR, 0, 0) };
    assert_eq!(waited, 0);
    let counted = ledger.read();
    work();
    assert_eq!(ledger.read(), counted);
    let status = server.end(0);
    assert!(status.success(), "{status}");
    drop(ledger);
    wait_for_nothing_but(&before);
}
