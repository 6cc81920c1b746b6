//! The ABI between the eBPF programs and user space: keys, counters, method and copy kinds.
//!
//! Every type here is plain old data with a layout that the compiler asserts, on both sides.

#![no_std]

mod layout;

use core::mem::size_of;

pub use self::layout::{
    ABSENT, IterSides, KernelLayout, SIDE_KERNEL, SIDE_NONE, SIDE_PAGES, SIDE_USER, operand,
};

/// How a program asked the kernel to move bytes: one value for a family of system calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Method {
    /// read, pread64, readv, preadv, preadv2; on a file, a pipe or a socket.
    Read,
    /// write, pwrite64, writev, pwritev, pwritev2.
    Write,
    /// mmap itself, and what a mapping causes later: the copies made in its page faults.
    Mmap,
    /// sendfile.
    Sendfile,
    /// splice.
    Splice,
    /// tee.
    Tee,
    /// vmsplice.
    Vmsplice,
    /// `copy_file_range`.
    CopyFileRange,
    /// sendto, sendmsg, sendmmsg.
    Send,
    /// recvfrom, recvmsg, recvmmsg.
    Recv,
    /// Whatever an `io_uring` carries out.
    IoUring,
    /// `process_vm_readv`, `process_vm_writev`.
    ProcessVm,
    /// Any other system call that reached a copy function, and the kernel's own work.
    Other,
}

impl Method {
    /// Every method, in the order of their discriminants.
    pub const ALL: [Self; 13] = [
        Self::Read,
        Self::Write,
        Self::Mmap,
        Self::Sendfile,
        Self::Splice,
        Self::Tee,
        Self::Vmsplice,
        Self::CopyFileRange,
        Self::Send,
        Self::Recv,
        Self::IoUring,
        Self::ProcessVm,
        Self::Other,
    ];

    /// The name that labels, tables and JSON use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Mmap => "mmap",
            Self::Sendfile => "sendfile",
            Self::Splice => "splice",
            Self::Tee => "tee",
            Self::Vmsplice => "vmsplice",
            Self::CopyFileRange => "copy_file_range",
            Self::Send => "send",
            Self::Recv => "recv",
            Self::IoUring => "io_uring",
            Self::ProcessVm => "process_vm",
            Self::Other => "other",
        }
    }
}

/// Between which memories the CPU copied. As wide as a register, so that programs need not widen it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u64)]
pub enum Direction {
    /// Kernel to user.
    ToUser,
    /// User to kernel.
    FromUser,
    /// Kernel to kernel.
    InKernel,
}

impl Direction {
    /// Every direction, in the order of their discriminants.
    pub const ALL: [Self; 3] = [Self::ToUser, Self::FromUser, Self::InKernel];

    /// The name that labels, tables and JSON use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ToUser => "to_user",
            Self::FromUser => "from_user",
            Self::InKernel => "in_kernel",
        }
    }
}

/// What could not be counted where it belongs. Each has a counter of its own, so nothing is lost in
/// silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Dropped {
    /// Times that what a process had done was charged to [`ProcessKey::OVERFLOW`] because the process map
    /// was full.
    ProcessMapFull,
    /// Calls whose copies so far could not be kept across a context switch.
    CallMapFull,
    /// Copies through an `iov_iter` type this program does not know.
    UnknownIter,
    /// The bytes of those copies.
    UnknownIterBytes,
    /// Times a socket's owner could not be remembered, so that work done for it in interrupts is
    /// charged to the kernel.
    SocketMapFull,
    /// Cgroups inside a wanted one that the filter had no room for.
    FilterMapFull,
}

impl Dropped {
    /// Every reason, in the order of their discriminants.
    pub const ALL: [Self; 6] = [
        Self::ProcessMapFull,
        Self::CallMapFull,
        Self::UnknownIter,
        Self::UnknownIterBytes,
        Self::SocketMapFull,
        Self::FilterMapFull,
    ];

    /// The value of the label `reason`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ProcessMapFull => "process_map_full",
            Self::CallMapFull => "call_map_full",
            Self::UnknownIter => "unknown_iter",
            Self::UnknownIterBytes => "unknown_iter_bytes",
            Self::SocketMapFull => "socket_map_full",
            Self::FilterMapFull => "filter_map_full",
        }
    }
}

/// What kind of device moved bytes by DMA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Device {
    /// A physical or virtual-machine disk.
    Block,
    /// A physical or virtual-machine network interface.
    Net,
}

impl Device {
    /// Every kind, in the order of their discriminants.
    pub const ALL: [Self; 2] = [Self::Block, Self::Net];

    /// The value of the label `device`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::Net => "net",
        }
    }
}

/// Whether a device's bytes came into memory or left it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Flow {
    /// From the device.
    In,
    /// To the device.
    Out,
}

impl Flow {
    /// Both, in the order of their discriminants.
    pub const ALL: [Self; 2] = [Self::In, Self::Out];

    /// The value of the label `direction`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
        }
    }
}

/// Why bytes that a program asked to be passed by reference were copied all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Fallback {
    /// `MSG_ZEROCOPY` data that was delivered on this machine.
    ZerocopyCopied,
    /// Socket buffers with spliced or `MSG_ZEROCOPY` pages, for a device that cannot gather.
    SgOff,
    /// splice or sendfile to a file, or to a pipe before 5.18.
    SpliceCopied,
    /// `copy_file_range` between files that share no blocks.
    CopyFileRangeCopied,
}

impl Fallback {
    /// Every reason, in the order of their discriminants.
    pub const ALL: [Self; 4] = [
        Self::ZerocopyCopied,
        Self::SgOff,
        Self::SpliceCopied,
        Self::CopyFileRangeCopied,
    ];

    /// The value of the label `reason`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ZerocopyCopied => "zerocopy_copied",
            Self::SgOff => "sg_off",
            Self::SpliceCopied => "splice_copied",
            Self::CopyFileRangeCopied => "copy_file_range_copied",
        }
    }
}

/// Identifies a process for good: a reused pid is another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct ProcessKey {
    /// The thread group id, 0 for the pseudo-process `kernel`.
    pub pid: u32,
    /// When the thread group's leader started, in ticks of [`TICK_NANOSECONDS`] since boot, as field
    /// 22 of /proc/PID/stat has it (its low 32 bits).
    pub start: u32,
}

impl ProcessKey {
    /// Work of the kernel that belongs to no process: kernel threads, interrupts.
    pub const KERNEL: Self = Self { pid: 0, start: 0 };
    /// Takes the counts of processes that the full map has no place for.
    pub const OVERFLOW: Self = Self {
        pid: u32::MAX,
        start: 0,
    };

    /// Whether it is one of these, and no process.
    #[must_use]
    pub const fn is_pseudo(self) -> bool {
        self.start == 0 && (self.pid == Self::KERNEL.pid || self.pid == Self::OVERFLOW.pid)
    }
}

/// The kernel shows process start times to user space in units of `1/USER_HZ` s; `USER_HZ` is 100.
pub const TICK_NANOSECONDS: u64 = 10_000_000;

/// Length of a task's command name, the terminating zero included (`TASK_COMM_LEN`).
pub const COMM_LEN: usize = 16;

/// The filter bit of every process.
pub const ALL_PROCESSES: u64 = 1 << 63;

/// The filter bit of processes that user space names one by one, and of their descendants.
pub const FOLLOWED: u64 = 1 << 62;

/// How many filter bits are left for what filters name: the lowest bits.
pub const FILTER_BITS: usize = 62;

/// Length of a unit's name in a filter, the terminating zero included.
pub const UNIT_LEN: usize = 64;

/// The counters of one process and method.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct MethodCounters {
    /// System calls that returned.
    pub calls: u64,
    /// Bytes that they reported as moved.
    pub payload_bytes: u64,
    /// The part of the payload that no copy carried.
    pub zero_copy_bytes: u64,
    /// Runs of a copy function, by [`Direction`].
    pub copies: [u64; Direction::ALL.len()],
    /// Bytes that they copied, by [`Direction`].
    pub copied_bytes: [u64; Direction::ALL.len()],
}

/// The counters of one process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ProcessCounters {
    /// By [`Method`].
    pub methods: [MethodCounters; Method::ALL.len()],
    /// Page faults taken in user mode: two mode switches each.
    pub user_faults: u64,
    /// Page faults served without I/O, as `ru_minflt` counts them.
    pub minor_faults: u64,
    /// Page faults that waited for I/O, as `ru_majflt` counts them.
    pub major_faults: u64,
    /// Context switches of a task that went to sleep or exited.
    pub voluntary_switches: u64,
    /// Context switches of a task that could have gone on.
    pub involuntary_switches: u64,
    /// The thread group leader's command name.
    pub comm: [u8; COMM_LEN],
    /// Not 0 once the last thread has left its CPU for good.
    pub exited: u64,
    /// Bytes moved by DMA, by [`Device`] and [`Flow`].
    pub dma_bytes: [[u64; Flow::ALL.len()]; Device::ALL.len()],
    /// Bytes the CPU moved to or from a device word by word, by [`Flow`].
    pub pio_bytes: [u64; Flow::ALL.len()],
    /// Bytes copied although a program asked to pass them by reference, by [`Fallback`].
    pub fallback_bytes: [u64; Fallback::ALL.len()],
    /// The id of its cgroup in the default (v2) hierarchy, which is the inode number of the cgroup's
    /// directory; 0 if the kernel does not show it.
    pub cgroup: u64,
    /// What lets it in while that is live: by birth or name, and by cgroup. Each has one writer at a
    /// time.
    pub filter_bits: [u64; 2],
}

/// Whose socket it is: the process that used it last, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Owner {
    /// [`ProcessKey::pid`].
    pub pid: u32,
    /// [`ProcessKey::start`].
    pub start: u32,
    /// The [`Method`] of its last send.
    pub sent: u32,
    /// The [`Method`] of its last receive.
    pub received: u32,
}

/// What a process has done since its running thread came onto a CPU; joins its [`ProcessCounters`] when
/// that thread leaves it, or when user space asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Buffer {
    /// [`ProcessCounters::methods`].
    pub methods: [MethodCounters; Method::ALL.len()],
    /// [`ProcessCounters::user_faults`].
    pub user_faults: u64,
    /// [`ProcessCounters::minor_faults`].
    pub minor_faults: u64,
    /// [`ProcessCounters::major_faults`].
    pub major_faults: u64,
    /// [`ProcessCounters::fallback_bytes`].
    pub fallback_bytes: [u64; Fallback::ALL.len()],
    /// Where there may be anything.
    pub touched: Touched,
}

/// Which numbers of [`Buffer`] have been added to: a byte for each [`Method`], and one for all others,
/// not 0 if it may be so. Bytes, since to set one takes one instruction.
pub type Touched = [u64; 2];

/// The byte of [`Touched`] for faults and lost bytes.
pub const TOUCHED_OTHERS: usize = Method::ALL.len();

const _: () = assert!(TOUCHED_OTHERS < size_of::<Touched>());

/// What belongs to the task that runs on a CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Running {
    /// Its process. First, so that its counters need no offset.
    pub buffer: Buffer,
    /// Its system call.
    pub call: Call,
    /// What that used last, by [`Use`].
    pub last_owners: [LastOwner; Use::COUNT],
}

/// How a process can be noted as a thing's user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Sends through a socket.
    Send,
    /// Receives from a socket.
    Receive,
    /// Writes to a file.
    Write,
}

impl Use {
    /// How many there are.
    pub const COUNT: usize = 3;
}

/// A thing whose user the running task is known to be, so that it need not be noted again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct LastOwner {
    /// Its address; 0 for nothing.
    pub thing: u64,
    /// What tells it from another at the same address, and how it was used.
    pub marks: [u64; 2],
    /// How many changes of users of such things there had been.
    pub changes: u64,
}

/// What the system call that a task is in has done so far, as far as its exit must know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Call {
    /// Runs of a copy function, by [`Direction`].
    pub copies: [u64; Direction::ALL.len()],
    /// Bytes that they copied, by [`Direction`].
    pub copied_bytes: [u64; Direction::ALL.len()],
    /// Bytes handed to a socket by reference.
    pub by_reference: u64,
    /// The part of `by_reference` that the innermost `tcp_sendmsg_locked` has yet to return.
    pub unreturned: u64,
    /// Not 0 if any other field is not: [`Self::DIRTY`], [`Self::DATAGRAM`], [`Self::UNKNOWN`].
    pub dirty: u64,
    /// Between a program that has run and its double, which then has nothing to do: its number.
    pub served: u64,
    /// In a request of an `io_uring`: its opcode and 1; else 0.
    pub request: u64,
    /// Not 0 while a write fault may copy a page.
    pub on_write: u64,
    /// [`Buffer::touched`] when the task was preempted, perhaps inside a program that goes on to add there.
    pub touched: Touched,
}

impl Call {
    /// Something was copied or referenced.
    pub const DIRTY: u64 = 1;
    /// A datagram is being received, which one copy function counts as a whole.
    pub const DATAGRAM: u64 = 2;
    /// Bytes went through an iterator of an unknown type, so nobody knows what was not copied.
    pub const UNKNOWN: u64 = 4;
}

/// System call numbers that [`SyscallMethods`] covers; all of x86-64's are below.
pub const SYSCALLS: usize = 512;

/// For each system call number its [`Method`], with [`COLLECTED`], [`COMPARED`] and [`NO_PAYLOAD`].
pub type SyscallMethods = [u8; SYSCALLS];

/// Set in [`SyscallMethods`] where a program at the call's exit collects the [`Call`].
pub const COLLECTED: u8 = 0x80;

/// Set beside it where that program must know what this one call copied.
pub const COMPARED: u8 = 0x20;

/// Set in [`SyscallMethods`] where the call's return value is no number of bytes.
pub const NO_PAYLOAD: u8 = 0x40;

/// A function that copies, as the cross-check finds it at the function's first instruction: where its
/// arguments are. [`ABSENT`] where it has none such.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Primitive {
    /// Which argument is the number of bytes; without one it copies a page.
    pub bytes: u32,
    /// Which argument is the `iov_iter`; without one both sides are kernel memory.
    pub iter: u32,
    /// `iov_iter.count`, which limits what is copied.
    pub iter_count: u32,
    /// The [`Direction`] of a copy whose other side is user memory.
    pub user: u32,
    /// Not 0 if it leaves iterators over kernel memory to another primitive.
    pub user_only: u32,
}

const _: () = {
    assert!(size_of::<Primitive>() == 5 * 4);
    assert!(size_of::<ProcessKey>() == 8);
    assert!(size_of::<MethodCounters>() == 72);
    assert!(size_of::<ProcessCounters>() == 13 * 72 + 5 * 8 + 16 + 8 + 10 * 8 + 8 + 16);
    assert!(size_of::<Owner>() == 16);
    assert!(size_of::<Call>() == 112);
    assert!(size_of::<Buffer>() == 13 * 72 + 3 * 8 + 4 * 8 + 2 * 8);
    assert!(size_of::<Running>() == size_of::<Call>() + size_of::<Buffer>() + 3 * 32);
    assert!(Method::ALL[Method::Other as usize] as u8 == Method::Other as u8);
    assert!((Method::Other as u8) < COMPARED);
};

#[cfg(feature = "user")]
mod user {
    // SAFETY: plain old data, `repr(C)`, without padding (see the assertions above).
    unsafe impl aya::Pod for super::ProcessKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::ProcessCounters {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Running {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::KernelLayout {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Primitive {}
}
