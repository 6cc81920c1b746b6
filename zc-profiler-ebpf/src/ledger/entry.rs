//! The ledger's entries: finding or making the one of a process, and adding to it.

use core::{
    arch::asm,
    mem::offset_of,
    ptr::{NonNull, null_mut},
};

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::bpf_probe_read_kernel_buf,
    macros::map,
    maps::{Array, HashMap},
};
use zc_profiler_ebpf::{
    ALL_PROCESSES, COMM_LEN, Device, Direction, Dropped, Fallback, Flow, Method, MethodCounters,
    ProcessCounters, ProcessKey,
};

use crate::kernel::Task;

/// The ledger. User space sizes it, and makes the entries of [`ProcessKey::KERNEL`] and
/// [`ProcessKey::OVERFLOW`] before any program is attached.
#[map]
static PROCESSES: HashMap<ProcessKey, ProcessCounters> = HashMap::with_max_entries(1, 0);

/// How many entries were made in it.
#[map]
static CREATED: Array<u64> = Array::with_max_entries(1, 0);

/// One entry of zeros: a new process's counters do not fit a program's stack.
#[map]
static ZEROS: Array<ProcessCounters> = Array::with_max_entries(1, 0);

#[map]
static DROPPED: Array<u64> = Array::with_max_entries(Dropped::ALL.len() as u32, 0);

/// Filter bits of user space's for processes that had an entry without them, and under a filter those of
/// processes that there is no room for, which are counted as [`ProcessKey::OVERFLOW`].
#[map]
static EXTRA_FILTER_BITS: HashMap<ProcessKey, u64> = HashMap::with_max_entries(1, 0);

/// Which filter bits let in at present: [`ALL_PROCESSES`]'s, or those of a filter. 0 until every program is
/// attached, so that no event is counted in part: the copies of a call whose exit nobody sees yet, or a
/// call without its copies.
#[unsafe(no_mangle)]
static mut LIVE: u64 = 0;

#[inline(always)]
pub fn live() -> u64 {
    // SAFETY: an aligned word that user space writes.
    unsafe { (&raw const LIVE).read_volatile() }
}

#[inline(always)]
pub fn enabled() -> bool {
    live() != 0
}

/// Whether only those are counted whom a filter lets in.
#[inline(always)]
pub fn filtered() -> bool {
    live() & ALL_PROCESSES == 0
}

/// The counters of one process, shared by all CPUs. Never null, so that none is one register with a zero
/// in it: 5.10 refuses to load from the stack what was only stored there if there is one.
#[derive(Clone, Copy)]
pub struct Entry(NonNull<ProcessCounters>);

/// The entry at a key, whoever counts it.
#[inline(always)]
fn find(key: &ProcessKey) -> Option<Entry> {
    NonNull::new(PROCESSES.get_ptr_mut(key).unwrap_or(null_mut())).map(Entry)
}

/// The entry of a task's process; `None` if a filter leaves it out, or nothing is counted.
#[inline(always)]
pub fn of(task: Task) -> Option<Entry> {
    if !enabled() {
        return None;
    }
    let key = task.process();
    match find(&key) {
        Some(entry) => let_in(&key, entry),
        None if filtered() => {
            let entry = overflow_of(&key)?;
            dropped(Dropped::ProcessMapFull, 1);
            Some(entry)
        }
        None => create(&key, task),
    }
}

#[inline(always)]
fn let_in(key: &ProcessKey, entry: Entry) -> Option<Entry> {
    let live = live();
    let counted = live & ALL_PROCESSES != 0
        || entry.own_filter_bits() & live != 0
        || extra_filter_bits(key) & live != 0;
    counted.then_some(entry)
}

#[inline(always)]
fn extra_filter_bits(key: &ProcessKey) -> u64 {
    // SAFETY: an aligned word that user space writes.
    EXTRA_FILTER_BITS
        .get_ptr(key)
        .map_or(0, |filter_bits| unsafe { filter_bits.read_volatile() })
}

/// What counts a process of a filter's that has no entry: nothing, or [`ProcessKey::OVERFLOW`] if there
/// was no room for it. As long as there was for all, that costs no look-up in a hash.
#[inline(always)]
fn overflow_of(key: &ProcessKey) -> Option<Entry> {
    if overflow_filter_bits(key) & live() == 0 {
        return None;
    }
    overflow()
}

#[inline(always)]
fn overflow_filter_bits(key: &ProcessKey) -> u64 {
    // SAFETY: an aligned word of a live map value.
    let full = DROPPED
        .get_ptr(Dropped::ProcessMapFull as u32)
        .is_some_and(|count| unsafe { count.read_volatile() } != 0);
    if full { extra_filter_bits(key) } else { 0 }
}

#[inline(always)]
fn overflow() -> Option<Entry> {
    find(&ProcessKey::OVERFLOW)
}

/// The entry of a task's process, if there is one, whether it is counted or not.
#[inline(always)]
pub fn existing(task: Task) -> Option<Entry> {
    find(&task.process())
}

/// The same; a new one if these filter bits are live.
#[inline(always)]
pub fn existing_or_wanted(task: Task, filter_bits: u64) -> Option<Entry> {
    let key = task.process();
    match find(&key) {
        Some(entry) => Some(entry),
        None if filter_bits & live() != 0 => create_wanted(&key, task, filter_bits),
        None => None,
    }
}

/// Makes a process known that these filter bits let in; if there is no room, what it does is counted as
/// [`ProcessKey::OVERFLOW`]'s until it ends.
#[inline(always)]
pub fn create_wanted(key: &ProcessKey, task: Task, filter_bits: u64) -> Option<Entry> {
    let entry = insert(key, task);
    if entry.is_none() {
        dropped(Dropped::ProcessMapFull, 1);
        let _ = EXTRA_FILTER_BITS.insert(key, &filter_bits, 0);
    }
    entry
}

/// Forgets a process that ends, if there was no room for it; user space sees to all others.
#[inline(always)]
pub fn forget_overflow(task: Task) {
    let key = task.process();
    if overflow_filter_bits(&key) != 0 {
        let _ = EXTRA_FILTER_BITS.remove(&key);
    }
}

/// Everything that lets a task's process in, or did once.
#[inline(always)]
pub fn filter_bits(task: Task) -> u64 {
    let key = task.process();
    match find(&key) {
        Some(entry) => entry.own_filter_bits() | extra_filter_bits(&key),
        None => overflow_filter_bits(&key),
    }
}

/// The entry of a process by its key, if there is one; `None` if a filter leaves it out.
#[inline(always)]
pub fn at(key: &ProcessKey) -> Option<Entry> {
    match find(key) {
        Some(entry) => let_in(key, entry),
        None => overflow_of(key),
    }
}

/// The entry of the pseudo-process `kernel`; `None` under a filter.
#[inline(always)]
pub fn kernel() -> Option<Entry> {
    if filtered() {
        return None;
    }
    find(&ProcessKey::KERNEL)
}

/// Makes a task's process known, or falls back to the overflow entry if the map is full.
#[inline(always)]
fn create(key: &ProcessKey, task: Task) -> Option<Entry> {
    let entry = insert(key, task);
    if entry.is_some() {
        return entry;
    }
    dropped(Dropped::ProcessMapFull, 1);
    overflow()
}

/// Makes a task's process known, unless the map is full.
#[inline(always)]
fn insert(key: &ProcessKey, task: Task) -> Option<Entry> {
    // Another CPU may make it first, which is as good: the look-up below decides.
    if let Some(zeros) = ZEROS.get(0)
        && PROCESSES.insert(key, zeros, BPF_NOEXIST.into()).is_ok()
        && let Some(created) = CREATED.get_ptr_mut(0)
    {
        add(created, 1);
    }
    let entry = find(key)?;
    entry.set_comm(task.leader().comm_address());
    entry.set_cgroup(task.leader());
    Some(entry)
}

#[inline(always)]
pub fn dropped(reason: Dropped, count: u64) {
    if let Some(counter) = DROPPED.get_ptr_mut(reason as u32) {
        add(counter, count);
    }
}

impl Entry {
    #[inline(always)]
    pub fn counters(self) -> *mut ProcessCounters {
        self.0.as_ptr()
    }

    /// Adds a copy that is not the running task's own, or that is the kernel's.
    #[inline(always)]
    pub fn add_copy(self, method: u8, direction: Direction, bytes: u64) {
        if let Some(index) = index_of(method.into()) {
            // SAFETY: a live map value, and the index is in bounds.
            add_copy(
                unsafe { &raw mut (*self.counters()).methods[index] },
                direction,
                bytes,
            );
        }
    }

    #[inline(always)]
    pub fn add_dma(self, device: Device, flow: Flow, bytes: u64) {
        // SAFETY: a live map value; the indices are in bounds.
        unsafe {
            add(
                &raw mut (*self.counters()).dma_bytes[device as usize][flow as usize],
                bytes,
            );
        }
    }

    #[inline(always)]
    pub fn add_pio(self, flow: Flow, bytes: u64) {
        // SAFETY: a live map value; the index is in bounds.
        unsafe { add(&raw mut (*self.counters()).pio_bytes[flow as usize], bytes) }
    }

    #[inline(always)]
    pub fn add_fallback(self, reason: Fallback, bytes: u64) {
        // SAFETY: a live map value; the index is in bounds.
        unsafe {
            add(
                &raw mut (*self.counters()).fallback_bytes[reason as usize],
                bytes,
            )
        }
    }

    /// Copies a command name from kernel memory.
    #[inline(always)]
    pub fn set_comm(self, comm: *const u8) {
        // SAFETY: a live map value; the helper checks the source.
        unsafe {
            let target: &mut [u8; COMM_LEN] = &mut (*self.counters()).comm;
            let _ = bpf_probe_read_kernel_buf(comm, target);
        }
    }

    /// Notes in which cgroup a task is, if the kernel shows it.
    #[inline(always)]
    pub fn set_cgroup(self, task: Task) {
        let cgroup = task.cgroup();
        // SAFETY: a live map value.
        unsafe { (&raw mut (*self.counters()).cgroup).write_volatile(cgroup) }
    }

    #[inline(always)]
    fn own_filter_bits(self) -> u64 {
        // SAFETY: a live map value.
        unsafe {
            let filter_bits = &raw const (*self.counters()).filter_bits;
            (*filter_bits)[0] | (*filter_bits)[1]
        }
    }

    /// Lets the process in by its birth or name.
    #[inline(always)]
    pub fn add_filter_bits(self, filter_bits: u64) {
        // SAFETY: a live map value. Atomics that set bits do not exist before 5.12.
        unsafe { (*self.counters()).filter_bits[0] |= filter_bits }
    }

    /// The same by its cgroup.
    #[inline(always)]
    pub fn add_cgroup_filter_bits(self, filter_bits: u64) {
        // SAFETY: as above.
        unsafe { (*self.counters()).filter_bits[1] |= filter_bits }
    }

    #[inline(always)]
    pub fn set_exited(self) {
        // SAFETY: a live map value.
        unsafe { (&raw mut (*self.counters()).exited).write_volatile(1) }
    }
}

/// The index of a method; `None` if there is no such method.
#[inline(always)]
pub fn index_of(method: u64) -> Option<usize> {
    let mut index = method as usize;
    // The verifier must see the bound on the very register that becomes the offset: without this
    // the compiler may check one copy of the value and use another.
    // SAFETY: it copies a register to itself.
    unsafe { asm!("{0} = {0}", inout(reg) index, options(nomem, nostack)) };
    (index < Method::ALL.len()).then_some(index)
}

/// Adds to a counter in one instruction, which nothing on this CPU or another can part.
#[inline(always)]
pub fn add(counter: *mut u64, count: u64) {
    add_at::<0>(counter, count);
}

/// The same for a counter that lies this many bytes behind an address.
#[inline(always)]
pub fn add_at<const OFFSET: usize>(address: *mut u64, count: u64) {
    // Written out because the compiler may pick the fetching form, which 5.10 does not know.
    // SAFETY: the counter lies in a live map value and is aligned.
    unsafe {
        asm!(
            "lock *(u64 *)({address} + {offset}) += {count}",
            address = in(reg) address,
            offset = const OFFSET,
            count = in(reg) count,
            options(nostack),
        );
    }
}

/// Adds to a field of what a pointer points to.
macro_rules! add_to {
    ($pointer:expr, $structure:ident.$field:ident, $count:expr) => {{
        let pointer: *mut $structure = $pointer;
        $crate::ledger::entry::add_at::<{ core::mem::offset_of!($structure, $field) }>(
            pointer.cast(),
            $count,
        )
    }};
}
pub(crate) use add_to;

/// Adds a copy to the counters of a method.
#[inline(always)]
pub fn add_copy(counters: *mut MethodCounters, direction: Direction, bytes: u64) {
    let directed = counters.cast::<u64>().wrapping_add(direction as usize);
    add_at::<{ offset_of!(MethodCounters, copies) }>(directed, 1);
    add_at::<{ offset_of!(MethodCounters, copied_bytes) }>(directed, bytes);
}
