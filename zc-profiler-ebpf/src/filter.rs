//! Whom a filter lets in: processes by their name, and whoever is in a cgroup. User space fills these
//! maps once; who is in, and the children of those who are, have an entry in the ledger.

use aya_ebpf::{helpers::bpf_probe_read_kernel_str_bytes, macros::map, maps::HashMap};
use zc_profiler_ebpf::{COMM_LEN, Dropped, UNIT_LEN};

use crate::{
    call::tracepoint_program,
    kernel::{Cgroup, Task, layout},
    process::dropped,
};

/// Command names, filled up with zeros.
#[map]
static WANTED_COMMS: HashMap<[u8; COMM_LEN], u8> = HashMap::with_max_entries(64, 0);

/// The ids of cgroups and of those below them.
#[map]
static WANTED_CGROUPS: HashMap<u64, u8> = HashMap::with_max_entries(8192, 0);

/// Names of units, whose cgroups are wanted whenever they are made.
#[map]
static WANTED_UNITS: HashMap<[u8; UNIT_LEN], u8> = HashMap::with_max_entries(64, 0);

/// Whether a task comes in by its cgroup.
#[inline(always)]
pub fn wants_cgroup_of(task: Task) -> bool {
    WANTED_CGROUPS.get_ptr(&task.cgroup()).is_some()
}

/// Whether a process comes in by its command name, which lies in kernel memory.
#[inline(always)]
pub fn wants_comm(comm: *const u8) -> bool {
    let mut name = [0u8; COMM_LEN];
    // SAFETY: the helper checks the source.
    let _ = unsafe { bpf_probe_read_kernel_str_bytes(comm, &mut name) };
    WANTED_COMMS.get_ptr(&name).is_some()
}

tracepoint_program! {
    /// Tracepoint `cgroup:cgroup_mkdir(struct cgroup *cgrp, const char *path)`, on all kernels.
    ///
    /// Under a filter, wants the cgroups of wanted units when they are started, and those made inside
    /// wanted ones. Without it, a filter knows the cgroups of its beginning only.
    cgroup_mkdir, "cgroup_mkdir", |ctx| {
        let cgroup = Cgroup::from_argument(ctx.arg(0));
        if layout!(filtered) != 0 && cgroup.in_default_hierarchy() && wants(cgroup)
            && WANTED_CGROUPS.insert(&cgroup.id(), &1, 0).is_err()
        {
            dropped(Dropped::FilterMapFull, 1);
        }
    }
}

#[inline(always)]
fn wants(cgroup: Cgroup) -> bool {
    let mut name = [0u8; UNIT_LEN];
    // SAFETY: the helper checks the source.
    let _ = unsafe { bpf_probe_read_kernel_str_bytes(cgroup.name(), &mut name) };
    WANTED_UNITS.get_ptr(&name).is_some() || WANTED_CGROUPS.get_ptr(&cgroup.parent().id()).is_some()
}

tracepoint_program! {
    /// Tracepoint `cgroup:cgroup_rmdir(struct cgroup *cgrp, const char *path)`, on all kernels.
    ///
    /// Makes room for new cgroups. Without it, a filter is full after some thousand of them.
    cgroup_rmdir, "cgroup_rmdir", |ctx| {
        let cgroup = Cgroup::from_argument(ctx.arg(0));
        if layout!(filtered) != 0 && cgroup.in_default_hierarchy() {
            let _ = WANTED_CGROUPS.remove(&cgroup.id());
        }
    }
}
