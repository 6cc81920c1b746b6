//! Letting processes in under [`super::Scope::Tree`].

use std::{
    collections::HashMap as StdHashMap,
    fs,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, Pod,
    maps::{HashMap, MapData, MapError},
};
use zc_profiler_ebpf::{COMM_LEN, UNIT_LEN};

use super::{Error, take};
use crate::{identity::Service, ledger::Ledger};

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

/// What the programs look at.
pub(super) struct Wanted {
    comms: HashMap<MapData, [u8; COMM_LEN], u8>,
    cgroups: HashMap<MapData, u64, u8>,
    units: HashMap<MapData, [u8; UNIT_LEN], u8>,
}

impl Wanted {
    pub fn open(ebpf: &mut Ebpf) -> Result<Self, Error> {
        Ok(Self {
            comms: take(ebpf, "WANTED_COMMS")?,
            cgroups: take(ebpf, "WANTED_CGROUPS")?,
            units: take(ebpf, "WANTED_UNITS")?,
        })
    }

    /// Lets in whom the filter names: those who come, by the programs; those who are there, now.
    pub fn admit(&mut self, filter: &Filter, ledger: &Ledger) -> Result<(), Error> {
        for comm in &filter.comms {
            put(&mut self.comms, "WANTED_COMMS", padded(cut(comm)))?;
        }
        for unit in &filter.units {
            if unit.len() >= UNIT_LEN {
                return Err(Error::Filter(format!(
                    "--unit {unit}: longer than {} letters",
                    UNIT_LEN - 1
                )));
            }
            put(&mut self.units, "WANTED_UNITS", padded(unit.as_bytes()))?;
        }
        self.want_cgroups(filter)?;
        self.admit_running(filter, ledger)
    }

    fn want_cgroups(&mut self, filter: &Filter) -> Result<(), Error> {
        if filter.units.is_empty() && filter.cgroups.is_empty() {
            return Ok(());
        }
        let root = crate::identity::default_hierarchy().ok_or_else(|| {
            Error::Filter("cgroup v2 is not mounted, by which units are told".into())
        })?;
        for cgroup in &filter.cgroups {
            let path = root.join(
                cgroup
                    .strip_prefix(&root)
                    .or_else(|_| cgroup.strip_prefix("/"))
                    .unwrap_or(cgroup),
            );
            if !path.is_dir() {
                return Err(Error::Filter(format!(
                    "--cgroup {}: no such cgroup",
                    cgroup.display()
                )));
            }
            self.want_tree(&path, &mut |_| true)?;
        }
        if !filter.units.is_empty() {
            let wanted = |path: &Path| {
                let inside = path.strip_prefix(&root).unwrap_or(path);
                let unit = Service::of_path(inside.as_os_str().as_bytes()).unit;
                unit.is_some_and(|unit| filter.units.contains(&unit))
            };
            self.want_tree(&root, &mut { wanted })?;
        }
        Ok(())
    }

    /// Wants the cgroups of a tree for which that is so.
    fn want_tree(
        &mut self,
        root: &Path,
        wanted: &mut dyn FnMut(&Path) -> bool,
    ) -> Result<(), Error> {
        let mut directories = vec![root.to_owned()];
        while let Some(directory) = directories.pop() {
            if wanted(&directory)
                && let Ok(metadata) = fs::metadata(&directory)
            {
                put(&mut self.cgroups, "WANTED_CGROUPS", metadata.ino())?;
            }
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
    fn admit_running(&self, filter: &Filter, ledger: &Ledger) -> Result<(), Error> {
        for pid in &filter.pids {
            if !ledger.admit(*pid)? {
                return Err(Error::Filter(format!("--pid {pid}: no such process")));
            }
        }
        let mut admitted: Vec<u32> = filter.pids.clone();
        loop {
            let before = admitted.len();
            for (pid, process) in running() {
                let comes_in = !admitted.contains(&pid)
                    && (admitted.contains(&process.parent)
                        || filter.comms.iter().any(|comm| cut(comm) == process.comm)
                        || process
                            .cgroup
                            .is_some_and(|id| self.cgroups.get(&id, 0).is_ok()));
                if comes_in && ledger.admit(pid)? {
                    admitted.push(pid);
                }
            }
            if admitted.len() == before {
                return Ok(());
            }
        }
    }
}

/// Longer names are cut, as the kernel does.
fn cut(comm: &str) -> &[u8] {
    &comm.as_bytes()[..comm.len().min(COMM_LEN - 1)]
}

struct Running {
    comm: Vec<u8>,
    parent: u32,
    cgroup: Option<u64>,
}

fn running() -> StdHashMap<u32, Running> {
    let root = crate::identity::default_hierarchy();
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
        let process = Running {
            comm: stat.get(open + 1..close)?.to_vec(),
            parent: fields.split_ascii_whitespace().nth(1)?.parse().ok()?,
            cgroup: directory
                .and_then(|path| fs::metadata(path).ok())
                .map(|it| it.ino()),
        };
        Some((pid, process))
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

fn put<K: Pod>(map: &mut HashMap<MapData, K, u8>, name: &'static str, key: K) -> Result<(), Error> {
    map.insert(key, 1, 0).map_err(|source| match source {
        MapError::SyscallError(error) if error.io_error.raw_os_error() == Some(libc::E2BIG) => {
            Error::Filter(format!("the filter is full ({name})"))
        }
        source => Error::Map { name, source },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_found_running() {
        let running = running();
        let own = running.get(&std::process::id()).expect("this process");
        let parent = std::os::unix::process::parent_id();
        assert_eq!(own.parent, parent);
        let comm = fs::read("/proc/self/comm").expect("comm");
        assert_eq!(own.comm, comm.trim_ascii_end());
    }

    #[test]
    fn names_are_cut_and_padded_as_the_kernel_does() {
        assert_eq!(cut("a-very-long-command"), b"a-very-long-com");
        assert_eq!(padded::<4>(b"ab"), *b"ab\0\0");
    }
}
