//! Letting processes in: which filter bits there are, which are live, and who has them.

use std::{
    collections::HashMap as StdHashMap,
    fs,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap, MapData, MapError},
};
use zc_profiler_ebpf::{ALL_PROCESSES, COMM_LEN, FILTER_BITS, FOLLOWED, ProcessKey, UNIT_LEN};

use super::{Error, Scope, take};
use crate::{
    kernel::Service,
    ledger::{self, Ledger},
};

/// Whom to count, with their descendants. Nothing named is everybody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Processes.
    pub pids: Vec<u32>,
    /// Command names.
    pub comms: Vec<String>,
    /// Systemd units, running or not.
    pub units: Vec<String>,
    /// Cgroups, as paths below where cgroup v2 is mounted, with those inside.
    pub cgroups: Vec<PathBuf>,
}

impl Filter {
    /// Whether everybody is meant.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// One thing that a filter names. Its filter bit is the bit of its place among all that were ever named:
/// processes keep theirs, so no bit is given to another.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Criterion {
    Process(ProcessKey),
    Comm([u8; COMM_LEN]),
    Unit(String),
    /// By its directory.
    Cgroup(PathBuf),
}

/// What the programs look at.
pub(super) struct Wanted {
    live: Array<MapData, u64>,
    passes: HashMap<MapData, ProcessKey, u64>,
    comms: HashMap<MapData, [u8; COMM_LEN], u64>,
    cgroups: HashMap<MapData, u64, u64>,
    units: HashMap<MapData, [u8; UNIT_LEN], u64>,
    criteria: Vec<Criterion>,
    /// What `live` holds.
    filter_bits: u64,
}

impl Wanted {
    /// Nobody yet.
    pub fn take(ebpf: &mut Ebpf) -> Result<Self, Error> {
        Ok(Self {
            live: take(ebpf, ".bss")?,
            passes: take(ebpf, "EXTRA_FILTER_BITS")?,
            comms: take(ebpf, "WANTED_COMMS")?,
            cgroups: take(ebpf, "WANTED_CGROUPS")?,
            units: take(ebpf, "WANTED_UNITS")?,
            criteria: Vec::new(),
            filter_bits: 0,
        })
    }

    /// Opens the gate: all programs are attached.
    pub fn open(&mut self, scope: Scope) -> Result<(), Error> {
        self.set_live(match scope {
            Scope::System => ALL_PROCESSES,
            Scope::Tree => FOLLOWED,
        })
    }

    fn set_live(&mut self, filter_bits: u64) -> Result<(), Error> {
        self.live
            .set(0, filter_bits, 0)
            .map_err(|source| map_error(".bss", source))?;
        self.filter_bits = filter_bits;
        Ok(())
    }

    /// Has no program count anything any more.
    pub fn disable(&mut self) {
        if let Err(error) = self.set_live(0) {
            log::debug!("closing the gate: {error}");
        }
    }

    /// See [`super::Probes::filter`]. While processes are looked for, both the old filter and the new
    /// one hold, so that no child of theirs is missed.
    pub fn change(&mut self, filter: &Filter, ledger: &Ledger) -> Result<(), Error> {
        let wanted = self.criteria_of(filter)?;
        let old = self.filter_bits;
        let known = self.criteria.len();
        for criterion in &wanted {
            if !self.criteria.contains(criterion) {
                self.criteria.push(criterion.clone());
            }
        }
        if self.criteria.len() > FILTER_BITS {
            self.criteria.truncate(known);
            return Err(Error::Filter(format!(
                "filters have named more than {FILTER_BITS} things since the start"
            )));
        }
        let mut new = 0;
        for (place, criterion) in self.criteria.iter().enumerate() {
            if wanted.contains(criterion) {
                new |= 1 << place;
            }
        }
        self.set_live(old | new)?;
        let result = self.let_in(new, ledger);
        let stays = match &result {
            Ok(()) if filter.is_empty() => ALL_PROCESSES,
            Ok(()) => new,
            Err(_) => old,
        };
        self.set_live(stays)?;
        if stays != ALL_PROCESSES {
            ledger.hide_followed();
        }
        self.forget_all_but(stays);
        result
    }

    /// What is wrong with a filter shows here, before anything is changed. What was there when it was
    /// named first may have gone.
    fn criteria_of(&self, filter: &Filter) -> Result<Vec<Criterion>, Error> {
        let mut criteria = Vec::new();
        for pid in &filter.pids {
            let named = |criterion: &&Criterion| matches!(criterion, Criterion::Process(key) if key.pid == *pid);
            let criterion = match ledger::key_of(*pid) {
                Some(key) => Criterion::Process(key),
                None => (self.criteria.iter().rev().find(named).cloned())
                    .ok_or_else(|| Error::Filter(format!("pid {pid}: no such process")))?,
            };
            criteria.push(criterion);
        }
        for comm in &filter.comms {
            criteria.push(Criterion::Comm(padded(cut(comm.as_bytes()))));
        }
        for unit in &filter.units {
            if unit.len() >= UNIT_LEN {
                let most = UNIT_LEN - 1;
                return Err(Error::Filter(format!(
                    "unit {unit}: longer than {most} letters"
                )));
            }
            criteria.push(Criterion::Unit(unit.clone()));
        }
        if filter.units.is_empty() && filter.cgroups.is_empty() {
            return Ok(criteria);
        }
        let root = crate::kernel::default_hierarchy().ok_or_else(|| {
            Error::Filter("cgroup v2 is not mounted, by which units are told".into())
        })?;
        for cgroup in &filter.cgroups {
            let inside = (cgroup.strip_prefix(&root)).or_else(|_| cgroup.strip_prefix("/"));
            let path = root.join(inside.unwrap_or(cgroup));
            let criterion = Criterion::Cgroup(path.clone());
            if !path.is_dir() && !self.criteria.contains(&criterion) {
                let cgroup = cgroup.display();
                return Err(Error::Filter(format!("cgroup {cgroup}: no such cgroup")));
            }
            criteria.push(criterion);
        }
        Ok(criteria)
    }

    /// Lets in whom these filter bits name: those who come, by the programs; those who are there, now.
    fn let_in(&mut self, filter_bits: u64, ledger: &Ledger) -> Result<(), Error> {
        let criteria: Vec<_> = (self.criteria.iter().cloned().enumerate())
            .map(|(place, criterion)| (1u64 << place, criterion))
            .filter(|(filter_bit, _)| filter_bit & filter_bits != 0)
            .collect();
        for (filter_bit, criterion) in &criteria {
            match criterion {
                Criterion::Process(_) => {}
                Criterion::Comm(comm) => put(&mut self.comms, "WANTED_COMMS", *comm, *filter_bit)?,
                Criterion::Unit(unit) => {
                    let name = padded(unit.as_bytes());
                    put(&mut self.units, "WANTED_UNITS", name, *filter_bit)?;
                }
                Criterion::Cgroup(path) => self.want_tree(path, &|_| *filter_bit)?,
            }
        }
        let units: StdHashMap<_, _> = (criteria.iter())
            .filter_map(|(filter_bit, criterion)| match criterion {
                Criterion::Unit(unit) => Some((unit.clone(), *filter_bit)),
                _ => None,
            })
            .collect();
        if let Some(root) = crate::kernel::default_hierarchy().filter(|_| !units.is_empty()) {
            let filter_bit = |path: &Path| {
                let inside = path.strip_prefix(&root).unwrap_or(path);
                let unit = Service::of_path(inside.as_os_str().as_bytes()).unit;
                unit.and_then(|unit| units.get(&unit).copied()).unwrap_or(0)
            };
            self.want_tree(&root, &filter_bit)?;
        }
        self.admit_running(&criteria, ledger)
    }

    /// Gives the cgroups of a tree their filter bits. Each has its own before those in it are looked for:
    /// what is made meanwhile, the programs see to.
    fn want_tree(&mut self, root: &Path, filter_bit: &dyn Fn(&Path) -> u64) -> Result<(), Error> {
        let mut directories = vec![root.to_owned()];
        while let Some(directory) = directories.pop() {
            let filter_bit = filter_bit(&directory);
            if filter_bit != 0
                && let Ok(metadata) = fs::metadata(&directory)
            {
                put(
                    &mut self.cgroups,
                    "WANTED_CGROUPS",
                    metadata.ino(),
                    filter_bit,
                )?;
            }
            // One that cannot be read has just been removed.
            for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    directories.push(entry.path());
                }
            }
        }
        Ok(())
    }

    /// Goes through the running processes until no more are found: a child may be made by a process
    /// that is not in yet.
    fn admit_running(
        &mut self,
        criteria: &[(u64, Criterion)],
        ledger: &Ledger,
    ) -> Result<(), Error> {
        if criteria.is_empty() {
            return Ok(());
        }
        let mut admitted: StdHashMap<u32, u64> = StdHashMap::new();
        loop {
            let mut found = false;
            for process in running() {
                let of = |pid| admitted.get(&pid).copied().unwrap_or(0);
                let of_cgroup = (process.cgroup)
                    .and_then(|id| self.cgroups.get(&id, 0).ok())
                    .unwrap_or(0);
                let mut filter_bits = of(process.parent) | of_cgroup;
                for (filter_bit, criterion) in criteria {
                    let named = match criterion {
                        Criterion::Process(key) => *key == process.key,
                        Criterion::Comm(comm) => *comm == padded(cut(&process.comm)),
                        Criterion::Unit(_) | Criterion::Cgroup(_) => false,
                    };
                    if named {
                        filter_bits |= filter_bit;
                    }
                }
                if filter_bits & !of(process.key.pid) == 0 {
                    continue;
                }
                found = true;
                admitted.insert(process.key.pid, filter_bits | of(process.key.pid));
                let new = (ledger.admit(process.key, filter_bits))
                    .map_err(|source| map_error("PROCESSES", source))?;
                if !new {
                    put(
                        &mut self.passes,
                        "EXTRA_FILTER_BITS",
                        process.key,
                        filter_bits,
                    )?;
                }
            }
            if !found {
                return Ok(());
            }
        }
    }

    /// Makes room; what stays behind lets nobody in.
    fn forget_all_but(&mut self, filter_bits: u64) {
        for (place, criterion) in self.criteria.iter().enumerate() {
            if filter_bits & (1 << place) != 0 {
                continue;
            }
            match criterion {
                Criterion::Comm(comm) => _ = self.comms.remove(comm),
                Criterion::Unit(unit) => _ = self.units.remove(&padded(unit.as_bytes())),
                Criterion::Process(_) | Criterion::Cgroup(_) => {}
            }
        }
        let gone: Vec<_> = (self.cgroups.iter().flatten())
            .filter(|(_, of_cgroup)| of_cgroup & filter_bits == 0)
            .map(|(id, _)| id)
            .collect();
        for id in gone {
            _ = self.cgroups.remove(&id);
        }
    }

    /// Processes that will not be seen again.
    pub fn forget(&mut self, processes: &[ProcessKey]) {
        for key in processes {
            _ = self.passes.remove(key);
        }
    }
}

/// Longer names are cut, as the kernel does.
fn cut(comm: &[u8]) -> &[u8] {
    &comm[..comm.len().min(COMM_LEN - 1)]
}

struct Running {
    key: ProcessKey,
    comm: Vec<u8>,
    parent: u32,
    cgroup: Option<u64>,
}

fn running() -> Vec<Running> {
    let root = crate::kernel::default_hierarchy();
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| {
        let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
        let (open, close) = (
            stat.iter().position(|byte| *byte == b'(')?,
            stat.iter().rposition(|byte| *byte == b')')?,
        );
        let fields = str::from_utf8(stat.get(close + 1..)?).ok()?;
        let content = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let path = content.lines().find_map(|line| line.strip_prefix("0::/"));
        let directory = root.as_ref().zip(path).map(|(root, path)| root.join(path));
        Some(Running {
            key: ledger::key_of_stat(pid, fields)?,
            comm: stat.get(open + 1..close)?.to_vec(),
            parent: fields.split_ascii_whitespace().nth(1)?.parse().ok()?,
            cgroup: directory
                .and_then(|path| fs::metadata(path).ok())
                .map(|it| it.ino()),
        })
    })
    .collect()
}

fn padded<const N: usize>(text: &[u8]) -> [u8; N] {
    let mut name = [0; N];
    for (target, byte) in name.iter_mut().zip(text) {
        *target = *byte;
    }
    name
}

/// Adds filter bits to a key's. Beside this one, only the programs make entries, each once.
fn put<K: Pod>(
    map: &mut HashMap<MapData, K, u64>,
    name: &'static str,
    key: K,
    filter_bits: u64,
) -> Result<(), Error> {
    let result = match map.insert(key, filter_bits, ledger::BPF_NOEXIST) {
        Err(_) if map.get(&key, 0).is_ok() => {
            let held = map.get(&key, 0).unwrap_or_default();
            map.insert(key, held | filter_bits, 0)
        }
        result => result,
    };
    result.map_err(|source| map_error(name, source))
}

fn map_error(name: &'static str, source: MapError) -> Error {
    match source {
        MapError::SyscallError(error) if error.io_error.raw_os_error() == Some(libc::E2BIG) => {
            Error::Filter(format!("there is no room for so many ({name})"))
        }
        source => Error::Map { name, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_found_running() {
        let running = running();
        let own = running.iter().find(|one| one.key.pid == std::process::id());
        let own = own.expect("this process");
        assert_eq!(Some(own.key), ledger::key_of(std::process::id()));
        let parent = std::os::unix::process::parent_id();
        assert_eq!(own.parent, parent);
        let comm = fs::read("/proc/self/comm").expect("comm");
        assert_eq!(own.comm, comm.trim_ascii_end());
    }

    #[test]
    fn names_are_cut_and_padded_as_the_kernel_does() {
        assert_eq!(cut(b"a-very-long-command"), b"a-very-long-com");
        assert_eq!(padded::<4>(b"ab"), *b"ab\0\0");
    }
}
