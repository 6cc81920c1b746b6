//! What processes do, on its way into the ledger.
//!
//! Each CPU has one [`Running`], and it always belongs to the running task: whatever that does is added
//! here, without looking anything up and without a cache line that another CPU writes to. The scheduler's
//! program delivers it to the process's entry when the task leaves the CPU; user space has it delivered
//! before it reads the ledger.
//!
//! Each addition is one instruction, so it is exact although user space's request interrupts programs, and
//! although, on kernels that preempt inside programs, a task may be taken off the CPU in the middle of one:
//! it goes on with what is its own again. [`Buffer::touched`] only tells where to look. It is set before the
//! addition, so it may name too much, but never too little: a request leaves it as it is, and a task that was
//! preempted gets back what it had touched.
//!
//! Interrupts themselves never add anything here.

use aya_ebpf::{
    helpers::bpf_map_lookup_elem,
    macros::{map, raw_tracepoint},
    maps::PerCpuArray,
    programs::RawTracePointContext,
};
use zc_profiler_ebpf::{
    Buffer, Direction, Fallback, Method, MethodCounters, Running, TOUCHED_OTHERS, Touched,
};

use crate::{
    kernel::Task,
    ledger::entry::{self, Entry, add, add_to},
};

#[map]
static RUNNING: PerCpuArray<Running> = PerCpuArray::with_max_entries(1, 0);

/// A key of the map that need not be put on the stack.
static FIRST: u32 = 0;

/// This CPU's, of the running task.
#[inline(always)]
pub fn running() -> Option<*mut Running> {
    // SAFETY: a map and a key of its size.
    let running = unsafe {
        bpf_map_lookup_elem(
            (&raw const RUNNING).cast_mut().cast(),
            (&raw const FIRST).cast(),
        )
    };
    (!running.is_null()).then_some(running.cast())
}

#[inline(always)]
fn touch(running: *mut Running, byte: usize) {
    // SAFETY: this CPU's value, and it has the byte; volatile keeps it before the addition.
    unsafe {
        let touched = (&raw mut (*running).buffer.touched).cast::<u8>();
        touched.add(byte).write_volatile(1);
    }
}

/// The counters of a method, which are about to change.
#[inline(always)]
pub fn method(running: *mut Running, method: Method) -> *mut MethodCounters {
    touch(running, method as usize);
    // SAFETY: this CPU's value; the index is a constant in bounds.
    unsafe { &raw mut (*running).buffer.methods[method as usize] }
}

/// The same for a method that only the kernel knows; `None` if there is no such method.
#[inline(always)]
pub fn any_method(running: *mut Running, method: u64) -> Option<*mut MethodCounters> {
    let index = entry::index_of(method)?;
    touch(running, index);
    // SAFETY: this CPU's value; the index is in bounds.
    Some(unsafe { &raw mut (*running).buffer.methods[index] })
}

/// Adds a copy that the running task made; false if there is no such method.
#[inline(always)]
pub fn add_copy(running: *mut Running, method: u64, direction: Direction, bytes: u64) -> bool {
    let Some(counters) = any_method(running, method) else {
        return false;
    };
    entry::add_copy(counters, direction, bytes);
    true
}

#[inline(always)]
pub fn add_fault(major: bool, user: bool) {
    let Some(running) = running() else {
        return;
    };
    touch(running, TOUCHED_OTHERS);
    // SAFETY: this CPU's value.
    let buffer = unsafe { &raw mut (*running).buffer };
    if major {
        add_to!(buffer, Buffer.major_faults, 1);
    } else {
        add_to!(buffer, Buffer.minor_faults, 1);
    }
    if user {
        add_to!(buffer, Buffer.user_faults, 1);
    }
}

#[inline(always)]
pub fn add_fallback(running: *mut Running, reason: Fallback, bytes: u64) {
    touch(running, TOUCHED_OTHERS);
    // SAFETY: this CPU's value; the index is in bounds.
    unsafe {
        add(
            &raw mut (*running).buffer.fallback_bytes[reason as usize],
            bytes,
        )
    }
}

/// Adds payload of the running task, unless that is a kernel thread.
#[inline(always)]
pub fn add_payload(of: Method, bytes: u64) {
    if let Some(running) = running_process() {
        add_to!(method(running, of), MethodCounters.payload_bytes, bytes);
    }
}

/// The same for payload that no copy carried.
#[inline(always)]
pub fn add_zero_copy(of: Method, bytes: u64) {
    if let Some(running) = running_process() {
        add_to!(method(running, of), MethodCounters.zero_copy_bytes, bytes);
    }
}

#[inline(always)]
fn running_process() -> Option<*mut Running> {
    if Task::current().is_kernel_thread() {
        return None;
    }
    running()
}

/// `SEC("raw_tp")`, attached to nothing: user space has it run on a CPU (`BPF_PROG_TEST_RUN` with
/// `BPF_F_TEST_RUN_ON_CPU`, from 5.10 on), in an interrupt of whatever runs there, and on one CPU at a time.
///
/// Delivers what the task that runs there has done. Without it, what a process does would show when it
/// leaves its CPU only.
#[raw_tracepoint]
pub fn flush_now(_ctx: RawTracePointContext) -> i32 {
    if let Some(running) = running() {
        // SAFETY: this CPU's value.
        let touched = unsafe { (&raw const (*running).buffer.touched).read_volatile() };
        if touched != Touched::default() {
            flush(running, touched, entry::of(Task::current()));
        }
    }
    0
}

/// The running task's process is about to be let in: if nobody has wanted it so far, what it has done is
/// nobody's.
#[inline(always)]
pub fn begin_to_count() {
    if entry::of(Task::current()).is_none()
        && let Some(running) = running()
    {
        // Whoever delivers meanwhile discards as well.
        discard(running, [u64::MAX; 2]);
    }
}

/// Does something with each number of [`Buffer`] that may not be 0.
macro_rules! for_each {
    ($touched:expr, $number:ident) => {
        let [first, second] = $touched;
        if second & OTHERS != 0 {
            $number!(user_faults);
            $number!(minor_faults);
            $number!(major_faults);
            $number!(fallback_bytes[0]);
            $number!(fallback_bytes[1]);
            $number!(fallback_bytes[2]);
            $number!(fallback_bytes[3]);
        }
        for_each!(first, 0, WORD, $number);
        for_each!(second & !OTHERS, WORD, Method::ALL.len(), $number);
    };
    ($touched:expr, $first:expr, $end:expr, $number:ident) => {
        let mut left = $touched;
        let mut index = $first;
        while index < $end && left != 0 {
            if left & 1 != 0 {
                $number!(methods[index].calls);
                $number!(methods[index].payload_bytes);
                $number!(methods[index].zero_copy_bytes);
                $number!(methods[index].copies[0]);
                $number!(methods[index].copied_bytes[0]);
                $number!(methods[index].copies[1]);
                $number!(methods[index].copied_bytes[1]);
                $number!(methods[index].copies[2]);
                $number!(methods[index].copied_bytes[2]);
            }
            left >>= 8;
            index += 1;
        }
    };
}

/// Bytes of a word of [`Touched`], and the byte for all but methods in the second.
const WORD: usize = 8;
const OTHERS: u64 = 1 << (8 * (TOUCHED_OTHERS - WORD));

/// Empties what is pending into an entry; if there is none, nobody wants it.
///
/// Nobody else does so meanwhile, nor is anything added: interrupts are off, or it is [`flush_now`].
#[inline(always)]
pub fn flush(running: *mut Running, touched: Touched, entry: Option<Entry>) {
    let Some(entry) = entry else {
        discard(running, touched);
        return;
    };
    let counters = entry.counters();
    macro_rules! flush {
        ($($field:tt)+) => {
            // SAFETY: this CPU's value and a live map value; indices are in bounds. Volatile keeps the
            // accesses whole and apart.
            unsafe {
                let number = &raw mut (*running).buffer.$($field)+;
                let taken = number.read_volatile();
                if taken != 0 {
                    number.write_volatile(0);
                    add(&raw mut (*counters).$($field)+, taken);
                }
            }
        };
    }
    for_each!(touched, flush);
}

#[inline(always)]
fn discard(running: *mut Running, touched: Touched) {
    macro_rules! clear {
        ($($field:tt)+) => {
            // SAFETY: this CPU's value; indices are in bounds. Volatile, or it would be one call of memset.
            unsafe { (&raw mut (*running).buffer.$($field)+).write_volatile(0) }
        };
    }
    for_each!(touched, clear);
}
