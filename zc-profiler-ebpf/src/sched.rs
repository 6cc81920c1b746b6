//! The scheduler and the life of processes.

use aya_ebpf::{EbpfContext, macros::btf_tracepoint, programs::BtfTracePointContext};
use aya_log_ebpf::debug;
use zc_profiler_ebpf::{ALL_PROCESSES, Running, Touched};

use crate::{
    kernel::{Task, fields::layout},
    ledger::{
        buffer,
        call::{self, take_number, tracepoint_program},
        entry::{self, add},
        filter, last_owner,
    },
};

/// `task_struct.state` of a task that switches away for the last time.
const TASK_DEAD: u32 = 0x80;

/// Tracepoint `sched:sched_switch(bool preempt, struct task_struct *prev, struct task_struct *next,
/// unsigned int prev_state)`, from 5.18 on.
///
/// Counts voluntary and involuntary context switches as `nvcsw` and `nivcsw` do, delivers what the task
/// has done to its process, marks one whose last thread is gone, and carries each task's open call
/// across the switch. Without it, context switches are not counted and what a task does goes to whoever
/// runs next; so it must attach.
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
    let Some(running) = buffer::running() else {
        return;
    };
    let preempted = ctx.arg::<u64>(0) & 0xff != 0;
    let previous = Task::from_argument(ctx.arg(1));
    let next = Task::from_argument(ctx.arg(2));
    last_owner::forget(running);
    // SAFETY: this CPU's value, and interrupts are off.
    let Running { call, buffer, .. } = unsafe { &mut *running };
    let touched = buffer.touched;
    let is_touched = touched != Touched::default();
    let is_process = !previous.is_kernel_thread();
    if is_touched || is_process {
        let entry = entry::of(previous);
        if is_touched {
            if preempted && layout!(preemptible) != 0 {
                call.touched = touched;
            }
            buffer::flush(running, touched, entry);
        }
        if let Some(entry) = entry.filter(|_| is_process) {
            let counters = entry.counters();
            // SAFETY: `counters` points to a live map value.
            unsafe {
                if preempted || state == 0 {
                    add(&raw mut (*counters).involuntary_switches, 1);
                } else {
                    add(&raw mut (*counters).voluntary_switches, 1);
                }
            }
        }
    }
    call::switch(call, previous.thread_id(), next.thread_id());
    // Not before all is delivered: user space takes nothing touched for nothing pending.
    let [first, second] = &mut call.touched;
    let touched = [take_number(first), take_number(second)];
    // SAFETY: a reference is valid; volatile keeps it behind what is above.
    unsafe { (&raw mut buffer.touched).write_volatile(touched) }
    if !is_process || !entry::enabled() {
        return;
    }
    // Whom a filter does not count any more goes too.
    if state & TASK_DEAD != 0 && previous.group_is_dead() {
        match entry::existing(previous) {
            Some(entry) => entry.set_exited(),
            // Switches of its other threads, on their last steps, are nobody's then.
            None => entry::forget_overflow(previous),
        }
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
        if entry::live() != ALL_PROCESSES {
            let inherited = entry::filter_bits(parent);
            let of_cgroup = filter::filter_bits_of_cgroup(child);
            let filter_bits = inherited | of_cgroup;
            if filter_bits & entry::live() != 0 {
                let key = child.process();
                if let Some(entry) = entry::create_wanted(&key, child, filter_bits) {
                    entry.add_filter_bits(inherited);
                    entry.add_cgroup_filter_bits(of_cgroup);
                }
                debug!(&ctx, "following {} from {}", key.pid, ctx.tgid());
            }
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
            let filter_bits = filter::filter_bits_of_comm(comm);
            if filter_bits != 0 {
                buffer::begin_to_count();
            }
            if let Some(entry) = entry::existing_or_wanted(task, filter_bits) {
                entry.add_filter_bits(filter_bits);
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
        let filter_bits = filter::filter_bits_of_cgroup(task);
        // Of one that runs on another CPU, what it has done since it came there is counted.
        if filter_bits != 0 && task.is(Task::current()) {
            buffer::begin_to_count();
        }
        if let Some(entry) = entry::existing_or_wanted(task, filter_bits) {
            entry.add_cgroup_filter_bits(filter_bits);
            entry.set_cgroup(task.leader());
        }
    }
}
