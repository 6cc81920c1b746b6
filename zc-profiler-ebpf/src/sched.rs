//! The scheduler and the life of processes.

use aya_ebpf::{EbpfContext, macros::btf_tracepoint, programs::BtfTracePointContext};
use aya_log_ebpf::debug;

use crate::{
    call::{self, tracepoint_program},
    filter,
    kernel::{Task, layout},
    process::{self, add},
};

/// `task_struct.state` of a task that switches away for the last time.
const TASK_DEAD: u32 = 0x80;

/// Tracepoint `sched:sched_switch(bool preempt, struct task_struct *prev, struct task_struct *next,
/// unsigned int prev_state)`, from 5.18 on.
///
/// Counts voluntary and involuntary context switches as `nvcsw` and `nivcsw` do, marks a process
/// whose last thread is gone, and carries each task's open call across the switch. Without it,
/// context switches are not counted and copies of calls that sleep go to whoever runs next; so
/// it must attach.
#[btf_tracepoint(function = "sched_switch")]
pub fn sched_switch(ctx: BtfTracePointContext) -> i32 {
    switch(&ctx, ctx.arg(3));
    0
}

/// The same before 5.18, where the tracepoint does not pass the state.
#[btf_tracepoint(function = "sched_switch")]
pub fn sched_switch_without_state(ctx: BtfTracePointContext) -> i32 {
    let previous: *const u8 = ctx.arg(1);
    switch(&ctx, Task::from_argument(previous).state());
    0
}

#[inline(always)]
fn switch(ctx: &BtfTracePointContext, state: u32) {
    let preempted = ctx.arg::<u64>(0) & 0xff != 0;
    let previous = Task::from_argument(ctx.arg(1));
    let next = Task::from_argument(ctx.arg(2));
    call::switch(previous.thread_id(), next.thread_id());
    if previous.is_kernel_thread() || !process::enabled() {
        return;
    }
    let Some(entry) = process::of(previous) else {
        return;
    };
    let counters = entry.counters();
    // SAFETY: `counters` points to a live map value.
    unsafe {
        if preempted || state == 0 {
            add(&raw mut (*counters).involuntary_switches, 1);
        } else {
            add(&raw mut (*counters).voluntary_switches, 1);
        }
    }
    if state & TASK_DEAD != 0 && previous.group_is_dead() {
        entry.set_exited();
    }
}

tracepoint_program! {
    /// Tracepoint `sched:sched_process_fork(struct task_struct *parent, struct task_struct *child)`,
    /// on all kernels.
    ///
    /// Under a filter, a child of a counted process is counted from its first instruction on. Without
    /// it, `stat` would see the command itself only.
    sched_process_fork, "sched_process_fork", |ctx| {
        let parent = Task::from_argument(ctx.arg(0));
        let child = Task::from_argument(ctx.arg(1));
        if layout!(filtered) != 0
            && (process::existing(parent).is_some() || filter::wants_cgroup_of(child))
        {
            let key = child.process();
            process::create(&key, child);
            debug!(&ctx, "following {} from {}", key.pid, ctx.tgid());
        }
    }
}

tracepoint_program! {
    /// Tracepoint `task:task_rename(struct task_struct *task, const char *comm)`, on all kernels.
    ///
    /// Keeps a process's command name: exec and prctl both come here; a filter by name lets it in.
    /// Without it a process keeps the name it had at its first event.
    task_rename, "task_rename", |ctx| {
        let task = Task::from_argument(ctx.arg(0));
        if task.is(task.leader()) {
            let comm: *const u8 = ctx.arg(1);
            let mut entry = process::existing(task);
            if entry.is_none() && layout!(filtered) != 0 && filter::wants_comm(comm) {
                entry = process::create(&task.process(), task);
            }
            if let Some(entry) = entry {
                entry.set_comm(comm);
            }
        }
    }
}

tracepoint_program! {
    /// Tracepoint `cgroup:cgroup_attach_task(struct cgroup *dst_cgrp, const char *path, struct
    /// task_struct *task, bool threadgroup)`, on all kernels.
    ///
    /// Keeps a process's cgroup: managers and runtimes move a child into its own after they have made
    /// it; a filter by cgroup lets it in. Without it, a process keeps the cgroup that it had at its
    /// first event.
    cgroup_attach_task, "cgroup_attach_task", |ctx| {
        // By now it is there, in whatever hierarchy this is.
        let task = Task::from_argument(ctx.arg(2));
        if let Some(entry) = process::existing(task) {
            entry.set_cgroup(task.leader());
        } else if layout!(filtered) != 0 && filter::wants_cgroup_of(task) {
            process::create(&task.process(), task);
        }
    }
}
