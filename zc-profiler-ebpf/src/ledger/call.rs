//! What the system call that a task is in has done so far, as far as its exit must know.
//!
//! Each CPU has one [`Call`], and it always belongs to the running task: the scheduler's program
//! saves and restores it like a register. So a copy function adds to it without looking anything up, and
//! plain additions are exact: whoever runs in between puts back what it found. Interrupts never
//! touch it.
//!
//! The kernel skips a trampoline's program (from 5.12 on) and a tracepoint's while another run of the
//! same program is under way on the same CPU. Where tasks can be preempted inside programs, one that
//! is preempted there makes the kernel skip everybody else's runs on that CPU until it goes on, for a
//! whole time slice. So on such kernels each program that runs in tasks is attached twice, under two
//! names: [`program!`]'s double runs behind it and takes the event over if the first one was skipped.
//! Only if two tasks at once are preempted, in the program and in its double, is an event lost; the
//! kernel counts the skipped runs, and user space exports them.

use aya_ebpf::{
    macros::map,
    maps::{HashMap, PerCpuArray},
};
use zc_profiler_ebpf::{Call, Direction, Dropped, Running};

use crate::{
    kernel::{fields::layout, in_interrupt},
    ledger::{
        buffer,
        entry::{add, dropped},
    },
};

/// The calls of tasks that are off their CPU in the middle of one, by thread id.
#[map]
static SUSPENDED: HashMap<u32, Call> = HashMap::with_max_entries(16384, 0);

/// How many [`SUSPENDED`] holds, so that the common switch needs no look-up.
#[unsafe(link_section = ".data")]
#[unsafe(no_mangle)]
static mut SUSPENDED_COUNT: Apart = Apart { count: 0 };

/// In cache lines of its own.
#[repr(align(128))]
struct Apart {
    count: u64,
}

/// The running task's call.
#[inline(always)]
pub fn current() -> Option<&'static mut Call> {
    // SAFETY: the value of this CPU, and nobody else runs on it until this program is preempted,
    // after which the scheduler's program has restored it.
    buffer::running().map(|running| unsafe { &mut (*running).call })
}

/// Says that a call has something to keep, before it has: what has no mark the scheduler's program leaves where
/// it is, for whoever runs next.
#[inline(always)]
fn mark(call: &mut Call, mark: u64) {
    let dirty = &raw mut call.dirty;
    // SAFETY: a reference is valid; volatile keeps it before the additions.
    unsafe { dirty.write_volatile(dirty.read() | mark) };
}

/// The reverse, once nothing is left.
#[inline(always)]
pub fn unmark(call: &mut Call, mark: u64) {
    let dirty = &raw mut call.dirty;
    // SAFETY: as above; behind the last number taken.
    unsafe { dirty.write_volatile(dirty.read() & !mark) };
}

#[inline(always)]
pub fn copied(running: *mut Running, direction: Direction, bytes: u64) {
    // SAFETY: as for `current`.
    let call = unsafe { &mut (*running).call };
    mark(call, Call::DIRTY);
    add(&raw mut call.copies[direction as usize], 1);
    add(&raw mut call.copied_bytes[direction as usize], bytes);
}

/// Ends the call: what it did, and nothing of it stays.
#[inline(always)]
pub fn take(call: &mut Call) -> Call {
    // Written out, since a loop would have bounds checked and a plain copy would call memcpy.
    Call {
        copies: [
            take_number(&mut call.copies[0]),
            take_number(&mut call.copies[1]),
            take_number(&mut call.copies[2]),
        ],
        copied_bytes: [
            take_number(&mut call.copied_bytes[0]),
            take_number(&mut call.copied_bytes[1]),
            take_number(&mut call.copied_bytes[2]),
        ],
        by_reference: take_number(&mut call.by_reference),
        unreturned: take_number(&mut call.unreturned),
        dirty: take_number(&mut call.dirty),
        served: 0,
        request: 0,
        on_write: 0,
        touched: [0; 2],
    }
}

#[inline(always)]
pub fn take_number(number: &mut u64) -> u64 {
    // SAFETY: a reference is valid to read and write; volatile keeps the accesses apart.
    unsafe {
        let taken = (&raw const *number).read_volatile();
        (&raw mut *number).write_volatile(0);
        taken
    }
}

/// Notes bytes that a socket took by reference, inside a call that will return them.
#[inline(always)]
pub fn passed_by_reference(bytes: u64) {
    if let Some(call) = current() {
        mark(call, Call::DIRTY);
        add(&raw mut call.by_reference, bytes);
        add(&raw mut call.unreturned, bytes);
    }
}

/// Notes that this call moved bytes of which nobody knows whether they were copied.
#[inline(always)]
pub fn moved_unknown() {
    if let Some(call) = current() {
        mark(call, Call::UNKNOWN);
    }
}

/// Tells the double of the program that is about to end that this event is done.
#[inline(always)]
pub fn served(program: u64) {
    if layout!(preemptible) != 0
        && let Some(call) = current()
    {
        call.served = program;
    }
}

/// Whether the program before this double has run, which ends what it said.
#[inline(always)]
pub fn was_served(program: u64) -> bool {
    // Another number is what a program left whose double was skipped.
    current().is_some_and(|call| take_number(&mut call.served) == program)
}

/// What [`served`] is to programs that also run in interrupts, for those.
#[map]
static SERVED_IN_INTERRUPT: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// The same for a program that may run in an interrupt, which must leave the task's word alone.
#[inline(always)]
pub fn served_anywhere(program: u64) {
    if layout!(preemptible) == 0 {
        return;
    }
    if !in_interrupt() {
        served(program);
    } else if let Some(served) = SERVED_IN_INTERRUPT.get_ptr_mut(0) {
        // SAFETY: this CPU's value.
        unsafe { served.write_volatile(program) }
    }
}

/// The same for a program that may run in an interrupt.
#[inline(always)]
pub fn was_served_anywhere(program: u64) -> bool {
    if !in_interrupt() {
        return was_served(program);
    }
    // SAFETY: this CPU's value, and such interrupts do not interrupt each other.
    SERVED_IN_INTERRUPT
        .get_ptr_mut(0)
        .is_some_and(|served| take_number(unsafe { &mut *served }) == program)
}

/// A number of a program's own, not 0 (FNV-1a).
pub const fn number_of(program: &str) -> u64 {
    let bytes = program.as_bytes();
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let mut index = 0;
    while index < bytes.len() {
        hash = (hash ^ bytes[index] as u64).wrapping_mul(0x0100_0000_01b3);
        index += 1;
    }
    hash
}

/// Notes bytes of this call that a device moved to or from user memory.
#[inline(always)]
pub fn moved_by_device(bytes: u64) {
    if let Some(call) = current() {
        mark(call, Call::DIRTY);
        add(&raw mut call.by_reference, bytes);
    }
}

/// Whether the running task carries out a request of an `io_uring`.
#[inline(always)]
pub fn in_request() -> bool {
    current().is_some_and(|call| call.request != 0)
}

/// Leaves the copies of a datagram that is being received to [`end_datagram`]'s caller.
#[inline(always)]
pub fn begin_datagram() {
    if let Some(call) = current() {
        mark(call, Call::DATAGRAM);
    }
}

#[inline(always)]
pub fn end_datagram() {
    if let Some(call) = current() {
        unmark(call, Call::DATAGRAM);
    }
}

#[inline(always)]
pub fn in_datagram() -> bool {
    current().is_some_and(|call| call.dirty & Call::DATAGRAM != 0)
}

/// Saves the call of `previous` and restores that of `next`, both thread ids.
#[inline(always)]
pub fn switch(call: &mut Call, previous: u32, next: u32) {
    // SAFETY: a live map value.
    let count = unsafe { &raw mut SUSPENDED_COUNT.count };
    let [first, second] = call.touched;
    if call.dirty | call.served | call.request | call.on_write | first | second != 0 {
        if SUSPENDED.insert(&previous, &*call, 0).is_ok() {
            add(count, 1);
        } else {
            dropped(Dropped::CallMapFull, 1);
        }
        *call = Call::default();
    }
    // SAFETY: a live map value.
    if unsafe { count.read_volatile() } == 0 {
        return;
    }
    // SAFETY: only the CPU that switches to `next` reads or removes its entry.
    if let Some(suspended) = unsafe { SUSPENDED.get(&next) } {
        *call = *suspended;
        let _ = SUSPENDED.remove(&next);
        add(count, u64::MAX);
    }
}

/// An exit program, and its double for kernels that preempt inside programs; the double must be
/// attached first, for the kernel runs the newest first.
macro_rules! program {
    ($($program:tt)*) => {
        $crate::ledger::call::with_standby! { fexit FExitContext served was_served $($program)* }
    };
}
pub(crate) use program;

/// The same at a function's entry.
macro_rules! entry_program {
    ($($program:tt)*) => {
        $crate::ledger::call::with_standby! { fentry FEntryContext served was_served $($program)* }
    };
}
pub(crate) use entry_program;

/// The same at a tracepoint; its double must be attached last, for here the kernel runs the oldest
/// first.
macro_rules! tracepoint_program {
    ($($program:tt)*) => {
        $crate::ledger::call::with_standby! { btf_tracepoint BtfTracePointContext served was_served $($program)* }
    };
}
pub(crate) use tracepoint_program;

/// The same for what also runs in interrupts.
macro_rules! program_anywhere {
    ($kind:ident $context:ident, $($program:tt)*) => {
        $crate::ledger::call::with_standby! { $kind $context served_anywhere was_served_anywhere $($program)* }
    };
}
pub(crate) use program_anywhere;

macro_rules! with_standby {
    (
        $kind:ident $context:ident $served:ident $was_served:ident
        $(#[$doc:meta])* $name:ident, $function:literal, |$ctx:ident| $body:expr
    ) => {
        $(#[$doc])*
        #[aya_ebpf::macros::$kind(function = $function)]
        pub fn $name($ctx: aya_ebpf::programs::$context) -> i32 {
            $body;
            $crate::ledger::call::$served(const { $crate::ledger::call::number_of(stringify!($name)) });
            0
        }

        #[doc = concat!("The double of [`", stringify!($name), "`].")]
        #[aya_ebpf::macros::$kind(function = $function)]
        pub fn ${concat($name, _standby)}($ctx: aya_ebpf::programs::$context) -> i32 {
            if !$crate::ledger::call::$was_served(const { $crate::ledger::call::number_of(stringify!($name)) }) {
                $body;
            }
            0
        }
    };
}
pub(crate) use with_standby;
