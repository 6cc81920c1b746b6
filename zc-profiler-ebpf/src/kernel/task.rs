//! Reading the running kernel's structures: the task, its context, an `iov_iter`.

use core::hint::cold_path;

use aya_ebpf::{
    Global,
    helpers::{
        bpf_get_current_task, bpf_get_current_task_btf, bpf_get_smp_processor_id, bpf_task_pt_regs,
    },
};
use zc_profiler_ebpf::{
    ABSENT, COLLECTED, COMPARED, IterSides, Method, NO_PAYLOAD, ProcessKey, SIDE_KERNEL, SIDE_NONE,
    SIDE_PAGES, SIDE_USER, SYSCALLS, SyscallMethods, TICK_NANOSECONDS,
};

use super::fields::{
    At, Load, Structure, Typed, Untyped, address, at, field, layout, probe, value,
};

#[unsafe(no_mangle)]
static ITER_SIDES: Global<IterSides> = Global::new([0; 256]);

#[unsafe(no_mangle)]
static SYSCALL_METHODS: Global<SyscallMethods> = Global::new([Method::Other as u8; SYSCALLS]);

const PF_IO_WORKER: u32 = 0x10;
const PF_KTHREAD: u32 = 0x0020_0000;
/// In `thread_info.status`: the task is in a 32-bit system call, whose numbers mean other things.
const TS_COMPAT: u32 = 0x2;
/// The part of an entry of [`SYSCALL_METHODS`] that is a method.
const METHOD: u8 = !(COLLECTED | COMPARED | NO_PAYLOAD);
/// Bits of the preemption count that are set while an NMI, a hard or a soft interrupt is served. A
/// task that merely disabled bottom halves adds twice the softirq bit, and leaves it clear.
const SERVING_INTERRUPT: u32 = 0x00ff_0100;

/// A `task_struct`: BTF-typed from 5.11 on, so that its fields are plain loads.
#[derive(Clone, Copy)]
pub struct Task(*const u8);

impl Task {
    #[inline(always)]
    pub fn current() -> Self {
        if layout!(has_task_btf) != 0 {
            // SAFETY: the helper takes no argument and cannot fail.
            Self(unsafe { bpf_get_current_task_btf() }.cast())
        } else {
            // SAFETY: as above.
            Self(unsafe { bpf_get_current_task() } as *const u8)
        }
    }

    /// `task` is an argument that the kernel declares as `struct task_struct *`.
    #[inline(always)]
    pub const fn from_argument(task: *const u8) -> Self {
        Self(task)
    }

    #[inline(always)]
    fn read<const PLACE: u16, T: Load + Default>(self, at: At<PLACE>) -> T {
        if layout!(has_task_btf) != 0 {
            field(self.0, at)
        } else {
            probe(self.0 as u64 + u64::from(value(at)))
        }
    }

    #[inline(always)]
    pub fn thread_id(self) -> u32 {
        self.read(at!(task_pid))
    }

    #[inline(always)]
    pub fn is_kernel_thread(self) -> bool {
        self.flags() & PF_KTHREAD != 0
    }

    /// `task_struct.state`, on kernels whose tracepoint does not pass it (before 5.18).
    #[inline(always)]
    pub fn state(self) -> u32 {
        self.read(at!(task_state))
    }

    /// Whether the last thread of the group has begun to exit.
    #[inline(always)]
    pub fn group_is_dead(self) -> bool {
        let signal: u64 = self.read(at!(task_signal));
        let live: i32 = Self(signal as *const u8).read(at!(signal_live));
        live == 0
    }

    #[inline(always)]
    pub fn leader(self) -> Self {
        let leader: u64 = self.read(at!(task_group_leader));
        Self(leader as *const u8)
    }

    #[inline(always)]
    pub fn is(self, other: Self) -> bool {
        self.thread_id() == other.thread_id()
    }

    /// The id of its cgroup in the default hierarchy, 0 if the kernel does not show it.
    #[inline(always)]
    pub fn cgroup(self) -> u64 {
        if layout!(task_cgroups) == ABSENT
            || layout!(css_set_dfl_cgrp) == ABSENT
            || layout!(cgroup_kn) == ABSENT
            || layout!(kernfs_node_id) == ABSENT
        {
            return 0;
        }
        let set: u64 = self.read(at!(task_cgroups));
        let cgroup: u64 = Self(set as *const u8).read(at!(css_set_dfl_cgrp));
        let node: u64 = Self(cgroup as *const u8).read(at!(cgroup_kn));
        Self(node as *const u8).read(at!(kernfs_node_id))
    }

    /// The address of `task_struct.comm`, for probe reads.
    #[inline(always)]
    pub fn comm_address(self) -> *const u8 {
        self.0.wrapping_add(layout!(task_comm) as usize)
    }

    #[inline(always)]
    pub fn process(self) -> ProcessKey {
        let start: u64 = self.leader().read(at!(task_start_boottime));
        ProcessKey {
            pid: self.read(at!(task_tgid)),
            start: (start / TICK_NANOSECONDS) as u32,
        }
    }

    #[inline(always)]
    fn flags(self) -> u32 {
        self.read(at!(task_flags))
    }

    /// `orig_ax` of the saved user registers: the system call's number, -1 in an exception.
    #[inline(always)]
    fn syscall_number(self) -> i64 {
        if layout!(has_task_pt_regs) != 0 {
            self.syscall_number_by_regs()
        } else {
            self.syscall_number_by_stack()
        }
    }

    #[inline(always)]
    fn syscall_number_by_regs(self) -> i64 {
        // SAFETY: `self` is BTF-typed wherever this helper exists.
        let regs = unsafe { bpf_task_pt_regs(self.0.cast_mut().cast()) } as *const u8;
        field(regs, at!(regs_orig_ax))
    }

    #[inline(always)]
    fn syscall_number_by_stack(self) -> i64 {
        let stack: u64 = self.read(at!(task_stack));
        probe(stack + u64::from(layout!(stack_regs)) + u64::from(layout!(regs_orig_ax)))
    }

    /// What the task is doing, if it is no kernel thread.
    #[inline(always)]
    pub fn method(self) -> Option<u8> {
        let flags = self.flags();
        if flags & PF_KTHREAD != 0 {
            return None;
        }
        if flags & PF_IO_WORKER != 0 {
            return Some(Method::IoUring as u8);
        }
        let number = self.syscall_number();
        Some(self.syscall_method(number) & METHOD)
    }

    /// What a copy made by the running task, outside interrupts, is charged to.
    #[inline(always)]
    pub fn charge() -> Charge {
        if layout!(has_task_pt_regs) == 0 {
            return charge_by_helpers();
        }
        // SAFETY: the helper takes no argument and cannot fail, and is older than the other.
        let task = Self(unsafe { bpf_get_current_task_btf() }.cast());
        charge(Typed(task.0), task.syscall_number_by_regs())
    }

    /// Whether the task is in a system call whose exit program will collect its call.
    #[inline(always)]
    pub fn is_collected(self) -> bool {
        let number = self.syscall_number();
        self.flags() & (PF_KTHREAD | PF_IO_WORKER) == 0
            && number >= 0
            && self.syscall_method(number) & COLLECTED != 0
    }

    /// What [`SYSCALL_METHODS`] has for a system call of this task.
    #[inline(always)]
    pub fn syscall_method(self, number: i64) -> u8 {
        if self.is_compat() {
            return Method::Other as u8;
        }
        method_of(number).unwrap_or(Method::Other as u8)
    }

    #[inline(always)]
    fn is_compat(self) -> bool {
        let status: u32 = self.read(at!(thread_info_status));
        status & TS_COMPAT != 0
    }
}

/// What [`SYSCALL_METHODS`] has for the number of a 64-bit system call; `None` if that is none.
#[inline(always)]
fn method_of(number: i64) -> Option<u8> {
    if number as u64 >= SYSCALLS as u64 {
        return None;
    }
    let methods = (&raw const SYSCALL_METHODS).cast::<u8>();
    // SAFETY: `number` is in bounds; `Global` is a transparent wrapper around the array.
    Some(unsafe { methods.add(number as usize).read_volatile() })
}

/// A `struct cgroup`.
#[derive(Clone, Copy)]
pub struct Cgroup(Task);

impl Cgroup {
    /// `cgroup` is an argument that the kernel declares as `struct cgroup *`.
    #[inline(always)]
    pub const fn from_argument(cgroup: *const u8) -> Self {
        Self(Task(cgroup))
    }

    /// Cgroups of other hierarchies have the same ids.
    #[inline(always)]
    pub fn in_default_hierarchy(self) -> bool {
        let root: u64 = self.0.read(at!(cgroup_root));
        let hierarchy: u32 = Task(root as *const u8).read(at!(cgroup_root_hierarchy_id));
        hierarchy == 0
    }

    #[inline(always)]
    fn node(self) -> Task {
        let node: u64 = self.0.read(at!(cgroup_kn));
        Task(node as *const u8)
    }

    #[inline(always)]
    pub fn id(self) -> u64 {
        self.node().read(at!(kernfs_node_id))
    }

    /// The address of the last part of its path.
    #[inline(always)]
    pub fn name(self) -> *const u8 {
        let name: u64 = self.node().read(at!(kernfs_node_name));
        name as *const u8
    }

    #[inline(always)]
    pub fn parent(self) -> Self {
        let state: u64 = self.0.read(at!(cgroup_parent));
        let cgroup: u64 = Task(state as *const u8).read(at!(css_cgroup));
        Self(Task(cgroup as *const u8))
    }
}

/// The process of a `task_struct` at an address that the verifier knows nothing of.
#[inline(always)]
pub fn process_of(task: u64) -> ProcessKey {
    let leader: u64 = probe(task + u64::from(layout!(task_group_leader)));
    let start: u64 = probe(leader + u64::from(layout!(task_start_boottime)));
    ProcessKey {
        pid: probe(task + u64::from(layout!(task_tgid))),
        start: (start / TICK_NANOSECONDS) as u32,
    }
}

/// What a copy is charged to: a method of the task's process, unless it is one of these. One number, so
/// that a method's bound is all that is checked as a rule.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Charge(pub u64);

impl Charge {
    /// The pseudo-process `kernel`.
    pub const KERNEL: Self = Self(u64::MAX);

    /// Whether it is a system call, whose exit program must know it.
    #[inline(always)]
    pub const fn is_call(self) -> bool {
        self.0 & COMPARED as u64 != 0
    }
}

#[inline(always)]
fn charge(task: impl Structure, number: i64) -> Charge {
    let flags = || task.read::<_, u32>(at!(task_flags));
    if flags() & (PF_KTHREAD | PF_IO_WORKER) != 0 {
        cold_path();
        return if flags() & PF_KTHREAD != 0 {
            Charge::KERNEL
        } else {
            Charge(Method::IoUring as u64)
        };
    }
    let status: u32 = task.read(at!(thread_info_status));
    match method_of(number) {
        Some(method) if status & TS_COMPAT == 0 => Charge((method & (METHOD | COMPARED)).into()),
        _ => {
            cold_path();
            Charge(if number < 0 {
                Method::Mmap as u64
            } else {
                Method::Other as u64
            })
        }
    }
}

/// A function of its own, so that no registers are kept for it where it is not needed.
#[cold]
#[inline(never)]
fn charge_by_helpers() -> Charge {
    let task = Task::current();
    charge(Untyped(task.0 as u64), task.syscall_number_by_stack())
}

/// Whether this program interrupted `current` rather than being called by it.
#[inline(always)]
pub fn in_interrupt() -> bool {
    let offsets = address!(per_cpu_offset);
    // SAFETY: the helper takes no argument and cannot fail.
    let cpu = u64::from(unsafe { bpf_get_smp_processor_id() });
    let this_cpu: u64 = if offsets == 0 {
        0
    } else {
        probe(offsets + cpu * 8)
    };
    let count: u32 = probe(this_cpu.wrapping_add(address!(preempt_count)));
    count & SERVING_INTERRUPT != 0
}

#[inline(always)]
fn side(iter_type: u8) -> u8 {
    let sides = (&raw const ITER_SIDES).cast::<u8>();
    // SAFETY: `Global` is a transparent wrapper around the array, which has all indices.
    unsafe { sides.add(usize::from(iter_type)).read_volatile() }
}

/// What the type of an `iov_iter` says about a copy.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Side {
    User,
    Kernel,
    None,
    Unknown,
}

impl Side {
    /// `iter` is BTF-typed: an argument declared as `struct iov_iter *`, or inside one.
    #[inline(always)]
    pub fn of(iter: *const u8) -> Self {
        Self::of_type(field(iter, at!(iter_type)))
    }

    #[inline(always)]
    pub fn of_type(iter_type: u8) -> Self {
        match side(iter_type) & !SIDE_PAGES {
            SIDE_USER => Self::User,
            SIDE_KERNEL => Self::Kernel,
            SIDE_NONE => Self::None,
            _ => Self::Unknown,
        }
    }

    /// Whether `iter`, as above, takes pages as they are, and copies of what is in none.
    #[inline(always)]
    pub fn takes_pages(iter: *const u8) -> bool {
        side(field(iter, at!(iter_type))) & SIDE_PAGES != 0
    }
}
