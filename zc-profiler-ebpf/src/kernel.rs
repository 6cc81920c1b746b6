//! Reading the running kernel's structures: the task, its context, an `iov_iter`.

use aya_ebpf::{
    Global,
    helpers::{
        bpf_get_current_task, bpf_get_current_task_btf, bpf_get_smp_processor_id,
        bpf_probe_read_kernel, bpf_task_pt_regs,
    },
};
use zc_profiler_ebpf::{
    ABSENT, COLLECTED, COMPARED, Direction, KernelLayout, Method, NO_PAYLOAD, ProcessKey,
    SIDE_KERNEL, SIDE_NONE, SIDE_PAGES, SIDE_USER, SYSCALLS, SyscallMethods, TICK_NANOSECONDS,
};

#[unsafe(no_mangle)]
pub static LAYOUT: Global<KernelLayout> = Global::new(KernelLayout::UNKNOWN);

#[unsafe(no_mangle)]
static SYSCALL_METHODS: Global<SyscallMethods> = Global::new([Method::Other as u8; SYSCALLS]);

/// Loads one field of [`LAYOUT`], never the whole of it.
macro_rules! layout {
    ($field:ident) => {{
        let layout = (&raw const $crate::kernel::LAYOUT).cast::<zc_profiler_ebpf::KernelLayout>();
        // SAFETY: `Global` is a transparent wrapper around the initialised value.
        unsafe { core::ptr::read_volatile(&raw const (*layout).$field) }
    }};
}
pub(crate) use layout;

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
    fn read<T: Copy + Default>(self, offset: u32) -> T {
        if layout!(has_task_btf) != 0 {
            field(self.0, offset)
        } else {
            probe(self.0 as u64 + u64::from(offset))
        }
    }

    #[inline(always)]
    pub fn thread_id(self) -> u32 {
        self.read(layout!(task_pid))
    }

    #[inline(always)]
    pub fn is_kernel_thread(self) -> bool {
        self.flags() & PF_KTHREAD != 0
    }

    /// `task_struct.state`, on kernels whose tracepoint does not pass it (before 5.18).
    #[inline(always)]
    pub fn state(self) -> u32 {
        self.read(layout!(task_state))
    }

    /// Whether the last thread of the group has begun to exit.
    #[inline(always)]
    pub fn group_is_dead(self) -> bool {
        let signal: u64 = self.read(layout!(task_signal));
        let live: i32 = Self(signal as *const u8).read(layout!(signal_live));
        live == 0
    }

    #[inline(always)]
    pub fn leader(self) -> Self {
        let leader: u64 = self.read(layout!(task_group_leader));
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
        let set: u64 = self.read(layout!(task_cgroups));
        let cgroup: u64 = Self(set as *const u8).read(layout!(css_set_dfl_cgrp));
        let node: u64 = Self(cgroup as *const u8).read(layout!(cgroup_kn));
        Self(node as *const u8).read(layout!(kernfs_node_id))
    }

    /// The address of `task_struct.comm`, for probe reads.
    #[inline(always)]
    pub fn comm_address(self) -> *const u8 {
        self.0.wrapping_add(layout!(task_comm) as usize)
    }

    #[inline(always)]
    pub fn process(self) -> ProcessKey {
        let start: u64 = self.leader().read(layout!(task_start_boottime));
        ProcessKey {
            pid: self.read(layout!(task_tgid)),
            start: (start / TICK_NANOSECONDS) as u32,
        }
    }

    #[inline(always)]
    fn flags(self) -> u32 {
        self.read(layout!(task_flags))
    }

    /// `orig_ax` of the saved user registers: the system call's number, -1 in an exception.
    #[inline(always)]
    fn syscall_number(self) -> i64 {
        if layout!(has_task_pt_regs) != 0 {
            // SAFETY: `self` is BTF-typed wherever this helper exists.
            let regs = unsafe { bpf_task_pt_regs(self.0.cast_mut().cast()) } as *const u8;
            field(regs, layout!(regs_orig_ax))
        } else {
            let stack: u64 = self.read(layout!(task_stack));
            probe(stack + u64::from(layout!(stack_regs)) + u64::from(layout!(regs_orig_ax)))
        }
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
        let status: u32 = self.read(layout!(thread_info_status));
        if number < 0 || status & TS_COMPAT != 0 || number >= SYSCALLS as i64 {
            return Some(Method::Other as u8);
        }
        let methods = (&raw const SYSCALL_METHODS).cast::<u8>();
        // SAFETY: `number` is in bounds; `Global` is a transparent wrapper around the array.
        let method = unsafe { methods.add(number as usize).read_volatile() };
        Some(method & METHOD)
    }

    /// To whom and to what a copy made by this task, outside interrupts, belongs.
    #[inline(always)]
    pub fn context(self) -> Context {
        let flags = self.flags();
        if flags & (PF_KTHREAD | PF_IO_WORKER) != 0 {
            return if flags & PF_KTHREAD != 0 {
                Context::Kernel
            } else {
                Context::Process(Method::IoUring as u8)
            };
        }
        let number = self.syscall_number();
        if number < 0 {
            return Context::Process(Method::Mmap as u8);
        }
        let method = self.syscall_method(number);
        if method & COMPARED != 0 {
            Context::Call
        } else {
            Context::Process(method & METHOD)
        }
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
        let status: u32 = self.read(layout!(thread_info_status));
        if status & TS_COMPAT != 0 || number as u64 >= SYSCALLS as u64 {
            return Method::Other as u8;
        }
        let methods = (&raw const SYSCALL_METHODS).cast::<u8>();
        // SAFETY: `number` is in bounds; `Global` is a transparent wrapper around the array.
        unsafe { methods.add(number as usize).read_volatile() }
    }
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
        let root: u64 = self.0.read(layout!(cgroup_root));
        let hierarchy: u32 = Task(root as *const u8).read(layout!(cgroup_root_hierarchy_id));
        hierarchy == 0
    }

    #[inline(always)]
    fn node(self) -> Task {
        let node: u64 = self.0.read(layout!(cgroup_kn));
        Task(node as *const u8)
    }

    #[inline(always)]
    pub fn id(self) -> u64 {
        self.node().read(layout!(kernfs_node_id))
    }

    /// The address of the last part of its path.
    #[inline(always)]
    pub fn name(self) -> *const u8 {
        let name: u64 = self.node().read(layout!(kernfs_node_name));
        name as *const u8
    }

    #[inline(always)]
    pub fn parent(self) -> Self {
        let state: u64 = self.0.read(layout!(cgroup_parent));
        let cgroup: u64 = Task(state as *const u8).read(layout!(css_cgroup));
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

/// Where a copy is charged.
pub enum Context {
    /// To a system call, whose exit program must know it.
    Call,
    /// To the task's process and this method.
    Process(u8),
    /// At once, to the pseudo-process `kernel`.
    Kernel,
}

/// Whether this program interrupted `current` rather than being called by it.
#[inline(always)]
pub fn in_interrupt() -> bool {
    let offsets = layout!(per_cpu_offset);
    // SAFETY: the helper takes no argument and cannot fail.
    let cpu = u64::from(unsafe { bpf_get_smp_processor_id() });
    let this_cpu: u64 = if offsets == 0 {
        0
    } else {
        probe(offsets + cpu * 8)
    };
    let count: u32 = probe(this_cpu.wrapping_add(layout!(preempt_count)));
    count & SERVING_INTERRUPT != 0
}

#[inline(always)]
fn side(iter_type: u8) -> u8 {
    let layout = (&raw const LAYOUT).cast::<KernelLayout>();
    // SAFETY: `Global` is a transparent wrapper around the value, and the array has all indices.
    unsafe {
        let sides = (&raw const (*layout).iter_sides).cast::<u8>();
        sides.add(usize::from(iter_type)).read_volatile()
    }
}

/// What the type of an `iov_iter` says about a copy.
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
        Self::of_type(field(iter, layout!(iter_type)))
    }

    #[inline(always)]
    pub fn of_type(iter_type: u8) -> Self {
        let side = side(iter_type);
        if side & SIDE_USER != 0 {
            Self::User
        } else if side & SIDE_KERNEL != 0 {
            Self::Kernel
        } else if side & SIDE_NONE != 0 {
            Self::None
        } else {
            Self::Unknown
        }
    }

    /// Whether `iter`, as above, takes pages as they are, and copies of what is in none.
    #[inline(always)]
    pub fn takes_pages(iter: *const u8) -> bool {
        side(field(iter, layout!(iter_type))) & SIDE_PAGES != 0
    }

    /// The direction of a copy whose user side, if it has one, is `user`.
    #[inline(always)]
    pub fn direction(self, user: Direction) -> Result<Option<Direction>, ()> {
        match self {
            Self::User => Ok(Some(user)),
            Self::Kernel => Ok(Some(Direction::InKernel)),
            Self::None => Ok(None),
            Self::Unknown => Err(()),
        }
    }
}

/// A kernel structure that a program is handed, so that one body serves all ways of attaching.
pub trait Structure: Copy {
    fn read<T: Copy + Default>(self, offset: u32) -> T;
}

/// What trampolines and tracepoints hand over: a BTF-typed pointer.
#[derive(Clone, Copy)]
pub struct Typed(pub *const u8);

/// What a kprobe hands over: an address.
#[derive(Clone, Copy)]
pub struct Untyped(pub u64);

impl Structure for Typed {
    #[inline(always)]
    fn read<T: Copy + Default>(self, offset: u32) -> T {
        field(self.0, offset)
    }
}

impl Structure for Untyped {
    #[inline(always)]
    fn read<T: Copy + Default>(self, offset: u32) -> T {
        probe(self.0 + u64::from(offset))
    }
}

/// Loads from a BTF-typed pointer; the verifier checks the type and catches faults.
#[inline(always)]
pub fn field<T: Copy>(base: *const u8, offset: u32) -> T {
    // SAFETY: the verifier refuses the program unless the load is inside the typed object, and the
    // kernel turns a fault into a zero.
    unsafe { base.add(offset as usize).cast::<T>().read_volatile() }
}

/// Reads kernel memory at an address the verifier knows nothing of; 0 if it cannot be read.
#[inline(always)]
pub fn probe<T: Copy + Default>(address: u64) -> T {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_kernel(address as *const T) }.unwrap_or_default()
}
