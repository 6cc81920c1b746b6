//! From the maps in the kernel to plain values.

mod batch;
mod model;

use std::{
    collections::HashSet,
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use aya::maps::{Array, HashMap, MapData, MapError};
use thiserror::Error;
use zc_profiler_ebpf::{COMM_LEN, FOLLOWED, ProcessCounters};

pub use self::model::{
    ContextSwitches, Copies, Counters, DmaBytes, Flows, MethodTotals, ModeSwitches, PageFaults,
    Process, Raw, Snapshot,
};
pub use zc_profiler_ebpf::{Direction, Dropped, Fallback, Method, ProcessKey};

/// Why the ledger could not be read or written.
#[derive(Debug, Error)]
pub enum Error {
    /// The kernel refused.
    #[error("{call}: {source}")]
    Map {
        /// What was tried.
        call: &'static str,
        /// What failed.
        source: MapError,
    },
    /// The kernel refused to read them all.
    #[error("bpf_map_lookup_batch(PROCESSES): {0}")]
    Batch(#[source] io::Error),
    /// There is no such process.
    #[error("no process {0}")]
    NoProcess(u32),
}

/// `BPF_NOEXIST`: no entry is replaced.
pub(crate) const BPF_NOEXIST: u64 = 1;

/// The kernel's counters, and those of processes that are gone and were taken out.
pub struct Ledger {
    processes: Mutex<HashMap<MapData, ProcessKey, ProcessCounters>>,
    /// The same map.
    descriptor: OwnedFd,
    dropped: Array<MapData, u64>,
    created: Array<MapData, u64>,
    /// For how many processes there is room.
    room: u32,
    retired: Mutex<Retired>,
    /// Whether processes that were only followed are left out.
    hides_followed: AtomicBool,
}

#[derive(Default)]
struct Retired {
    counters: Counters,
    /// Processes that were seen to have exited; the next time they go.
    exited: HashSet<ProcessKey>,
    /// How many processes the programs had made known by the last time.
    created: u64,
}

impl Ledger {
    /// `descriptor` is of the map of processes.
    pub(crate) fn new(
        processes: HashMap<MapData, ProcessKey, ProcessCounters>,
        descriptor: OwnedFd,
        dropped: Array<MapData, u64>,
        created: Array<MapData, u64>,
        room: u32,
    ) -> Self {
        Self {
            processes: Mutex::new(processes),
            descriptor,
            dropped,
            created,
            room,
            retired: Mutex::default(),
            hides_followed: AtomicBool::new(false),
        }
    }

    /// Counts a running process and its descendants from now on, under [`crate::Scope::Tree`]; if it was
    /// counted already, begins anew.
    ///
    /// # Errors
    ///
    /// If there is no such process, or the map is full.
    pub fn follow(&self, pid: u32) -> Result<(), Error> {
        let key = key_of(pid).ok_or(Error::NoProcess(pid))?;
        self.insert(key, FOLLOWED, 0).map_err(|source| Error::Map {
            call: "bpf_map_update_elem(PROCESSES)",
            source,
        })
    }

    /// Lets a process in by these filter bits; says whether it was new, and could be.
    pub(crate) fn admit(&self, key: ProcessKey, filter_bits: u64) -> Result<bool, MapError> {
        match self.insert(key, filter_bits, BPF_NOEXIST) {
            Err(MapError::SyscallError(error))
                if error.io_error.raw_os_error() == Some(libc::EEXIST) =>
            {
                Ok(false)
            }
            result => result.map(|()| true),
        }
    }

    fn insert(&self, key: ProcessKey, filter_bits: u64, flags: u64) -> Result<(), MapError> {
        let mut counters = ProcessCounters {
            filter_bits: [filter_bits, 0],
            ..ProcessCounters::default()
        };
        let comm = std::fs::read(format!("/proc/{}/comm", key.pid)).unwrap_or_default();
        for (target, byte) in counters.comm.iter_mut().zip(comm).take(COMM_LEN - 1) {
            *target = if byte == b'\n' { 0 } else { byte };
        }
        lock(&self.processes).insert(key, counters, flags)
    }

    /// Leaves processes out from now on that were followed, and let in by nothing else: those of
    /// calibrations, under a filter.
    pub(crate) fn hide_followed(&self) {
        self.hides_followed.store(true, Ordering::Relaxed);
    }

    /// All counters now.
    ///
    /// # Errors
    ///
    /// If the kernel refuses to read its maps.
    pub fn snapshot(&self) -> Result<Snapshot, Error> {
        let mut snapshot = self.everything()?;
        if self.hides_followed.load(Ordering::Relaxed) {
            snapshot.processes.retain(|process| !process.followed);
        }
        Ok(snapshot)
    }

    /// Shows each process of [`Self::snapshot`] as it is in the kernel's map, in no order. What is left of
    /// the snapshot has none, but there is their number.
    ///
    /// # Errors
    ///
    /// If the kernel refuses to read its maps.
    pub fn visit(&self, mut each: impl FnMut(Raw<'_>)) -> Result<(Snapshot, usize), Error> {
        let hides_followed = self.hides_followed.load(Ordering::Relaxed);
        let mut count = 0;
        let snapshot = self.read(|raw| {
            if !(hides_followed && raw.followed()) {
                count += 1;
                each(raw);
            }
        })?;
        Ok((snapshot, count))
    }

    fn everything(&self) -> Result<Snapshot, Error> {
        let mut processes = Vec::new();
        let mut snapshot = self.read(|raw| processes.push(raw.process()))?;
        processes.sort_unstable_by_key(|process: &Process| process.key);
        snapshot.processes = processes;
        Ok(snapshot)
    }

    fn read(&self, mut each: impl FnMut(Raw<'_>)) -> Result<Snapshot, Error> {
        // Nobody takes a process out meanwhile.
        let _processes = lock(&self.processes);
        let mut snapshot = Snapshot::default();
        let show = |key, counters: &ProcessCounters| each(Raw { key, counters });
        // SAFETY: this is that map.
        unsafe { batch::for_each(self.descriptor.as_fd(), show) }.map_err(Error::Batch)?;
        for reason in Dropped::ALL {
            let count = self
                .dropped
                .get(&(reason as u32), 0)
                .map_err(|source| Error::Map {
                    call: "bpf_map_lookup_elem(DROPPED)",
                    source,
                })?;
            snapshot.dropped.insert(reason, count);
        }
        snapshot.retired = lock(&self.retired).counters.clone();
        Ok(snapshot)
    }

    /// Whether so many processes have come since the last [`Self::retire`] that the next is due, or, at
    /// routine times, any at all.
    ///
    /// # Errors
    ///
    /// If the kernel refuses to read its maps.
    pub fn is_filling(&self, routine: bool) -> Result<bool, Error> {
        // So that a crowd is noticed while there is room for the next few of its size.
        const SHARE: u32 = 16;
        let new = self.created()? - lock(&self.retired).created;
        Ok(new >= u64::from(self.room / SHARE) || routine && new > 0)
    }

    fn created(&self) -> Result<u64, Error> {
        self.created.get(&0, 0).map_err(|source| Error::Map {
            call: "bpf_map_lookup_elem(CREATED)",
            source,
        })
    }

    /// Makes room: shows each process as [`Self::visit`] does, takes those that have exited out of the
    /// kernel's map, keeps their sum, and passes each on with its last counters.
    ///
    /// # Errors
    ///
    /// If the kernel refuses to read or change its maps.
    pub fn retire(
        &self,
        mut each: impl FnMut(Raw<'_>),
        mut last: impl FnMut(Process),
    ) -> Result<(), Error> {
        let created = self.created()?;
        let mut gone = Vec::new();
        let hides_followed = self.hides_followed.load(Ordering::Relaxed);
        self.read(|raw| {
            if raw.exited() {
                gone.push(raw.key);
            }
            if !(hides_followed && raw.followed()) {
                each(raw);
            }
        })?;
        let mut processes = lock(&self.processes);
        let mut retired = lock(&self.retired);
        retired.created = created;
        // The group's other threads may still be on their last steps when the first says that all are
        // exiting; by the next time they are gone.
        let before = std::mem::take(&mut retired.exited);
        for key in gone {
            if !before.contains(&key) {
                retired.exited.insert(key);
                continue;
            }
            // Read again: what came since the snapshot belongs to it too.
            let Ok(counters) = processes.get(&key, 0) else {
                continue;
            };
            processes.remove(&key).map_err(|source| Error::Map {
                call: "bpf_map_delete_elem(PROCESSES)",
                source,
            })?;
            let process = Process::new(key, &counters);
            if process.followed && hides_followed {
                continue;
            }
            retired.counters += &process.counters;
            last(process);
        }
        Ok(())
    }
}

/// The key the kernel's programs use for a running process.
pub(crate) fn key_of(pid: u32) -> Option<ProcessKey> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    key_of_stat(pid, str::from_utf8(stat.get(name_end + 1..)?).ok()?)
}

/// The same, by what comes behind the name in /proc/PID/stat.
pub(crate) fn key_of_stat(pid: u32, fields: &str) -> Option<ProcessKey> {
    Some(ProcessKey {
        pid,
        start: start_ticks(fields)?,
    })
}

/// Field 22 of /proc/PID/stat; the second is the name.
fn start_ticks(fields: &str) -> Option<u32> {
    let ticks: u64 = fields.split_ascii_whitespace().nth(19)?.parse().ok()?;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the kernel's programs keep the low half too"
    )]
    Some(ticks as u32)
}

/// A panic while holding one of these leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_time_is_found_behind_the_name() {
        let fields = " S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 1000 10";
        assert_eq!(start_ticks(fields), Some(4711));
        assert_eq!(start_ticks(" S 1"), None);
        assert_eq!(start_ticks(""), None);
    }

    #[test]
    fn a_running_process_has_a_key() {
        let key = key_of(std::process::id()).expect("own key");
        assert_eq!(key.pid, std::process::id());
        assert_eq!(key_of(u32::MAX), None);
    }
}
