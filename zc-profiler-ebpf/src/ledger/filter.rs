//! Whom a filter lets in: processes by their name, and whoever is in a cgroup. Each thing that a filter
//! names is a filter bit, one bit; user space fills these maps with them and says which are live. Processes
//! keep their filter bits and give them to their children.

use aya_ebpf::{helpers::bpf_probe_read_kernel_str_bytes, macros::map, maps::HashMap};
use zc_profiler_ebpf::{ALL_PROCESSES, COMM_LEN, Dropped, UNIT_LEN};

use crate::{
    kernel::{Cgroup, Task},
    ledger::{
        call::tracepoint_program,
        entry::{dropped, live},
    },
};

/// Command names, filled up with zeros.
#[map]
static WANTED_COMMS: HashMap<[u8; COMM_LEN], u64> = HashMap::with_max_entries(64, 0);

/// The ids of cgroups and of those below them.
#[map]
static WANTED_CGROUPS: HashMap<u64, u64> = HashMap::with_max_entries(8192, 0);

/// Names of units, whose cgroups are wanted whenever they are made.
#[map]
static WANTED_UNITS: HashMap<[u8; UNIT_LEN], u64> = HashMap::with_max_entries(64, 0);

/// What a task's cgroup lets in by.
#[inline(always)]
pub fn filter_bits_of_cgroup(task: Task) -> u64 {
    if live() == ALL_PROCESSES {
        return 0;
    }
    of_cgroup(task.cgroup())
}

/// What a command name, which lies in kernel memory, lets in by.
#[inline(always)]
pub fn filter_bits_of_comm(comm: *const u8) -> u64 {
    if live() == ALL_PROCESSES {
        return 0;
    }
    let mut name = [0u8; COMM_LEN];
    // SAFETY: the helper checks the source.
    let _ = unsafe { bpf_probe_read_kernel_str_bytes(comm, &mut name) };
    // SAFETY: only user space writes here, whole words.
    unsafe { WANTED_COMMS.get(&name) }.copied().unwrap_or(0)
}

#[inline(always)]
fn of_cgroup(id: u64) -> u64 {
    // SAFETY: whole words are written.
    unsafe { WANTED_CGROUPS.get(&id) }.copied().unwrap_or(0)
}

#[inline(always)]
fn of_unit(cgroup: Cgroup) -> u64 {
    let mut name = [0u8; UNIT_LEN];
    // SAFETY: the helper checks the source.
    let _ = unsafe { bpf_probe_read_kernel_str_bytes(cgroup.name(), &mut name) };
    // SAFETY: only user space writes here, whole words.
    unsafe { WANTED_UNITS.get(&name) }.copied().unwrap_or(0)
}

tracepoint_program! {
    /// Tracepoint `cgroup:cgroup_mkdir(struct cgroup *cgrp, const char *path)`, on all kernels.
    ///
    /// Under a filter, wants the cgroups of wanted units when they are started, and those made inside
    /// wanted ones. Without it, a filter knows the cgroups of its beginning only.
    cgroup_mkdir, "cgroup_mkdir", |ctx| {
        let cgroup = Cgroup::from_argument(ctx.arg(0));
        if live() != ALL_PROCESSES && cgroup.in_default_hierarchy() {
            let filter_bits = of_unit(cgroup) | of_cgroup(cgroup.parent().id());
            if filter_bits & live() != 0 && WANTED_CGROUPS.insert(&cgroup.id(), &filter_bits, 0).is_err() {
                dropped(Dropped::FilterMapFull, 1);
            }
        }
    }
}

tracepoint_program! {
    /// Tracepoint `cgroup:cgroup_rmdir(struct cgroup *cgrp, const char *path)`, on all kernels.
    ///
    /// Makes room for new cgroups. Without it, a filter is full after some thousand of them.
    cgroup_rmdir, "cgroup_rmdir", |ctx| {
        let cgroup = Cgroup::from_argument(ctx.arg(0));
        if live() != ALL_PROCESSES && cgroup.in_default_hierarchy() {
            let _ = WANTED_CGROUPS.remove(&cgroup.id());
        }
    }
}
