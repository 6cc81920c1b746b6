//! What the running task is known to have used last on this CPU: most tasks use the same few things again
//! and again, and then nothing need be looked up.
//!
//! It holds until the task leaves its CPU, and until anybody becomes the user of a thing who was not: the
//! programs count those changes.

use zc_profiler_ebpf::{LastOwner, Running, Use};

use crate::ledger::entry::add;

/// How often the user of any socket has changed, and of any file.
#[unsafe(link_section = ".data")]
#[unsafe(no_mangle)]
static mut CHANGES: [u64; 2] = [0; 2];

#[inline(always)]
fn changes(of: Use) -> *mut u64 {
    let index = match of {
        Use::Send | Use::Receive => 0,
        Use::Write => 1,
    };
    // SAFETY: in bounds.
    unsafe { (&raw mut CHANGES).cast::<u64>().add(index) }
}

/// Says that somebody has become the user of a thing, or that it is gone. To be called after the change.
#[inline(always)]
pub fn changed(of: Use) {
    add(changes(of), 1);
}

/// What is to be kept if the task is the thing's user, or is made so; to be called before that is seen to.
#[inline(always)]
pub fn now(of: Use, thing: u64, marks: [u64; 2]) -> LastOwner {
    LastOwner {
        thing,
        marks,
        // SAFETY: an aligned word.
        changes: unsafe { changes(of).read_volatile() },
    }
}

/// Whether the running task is known to be the thing's user.
#[inline(always)]
pub fn is_known(running: *mut Running, of: Use, now: &LastOwner) -> bool {
    // SAFETY: this CPU's value.
    let last_owners = unsafe { &(*running).last_owners[of as usize] };
    last_owners.thing == now.thing
        && last_owners.changes == now.changes
        && last_owners.marks[0] == now.marks[0]
        && last_owners.marks[1] == now.marks[1]
}

/// Keeps that it is.
#[inline(always)]
pub fn keep(running: *mut Running, of: Use, now: LastOwner) {
    // SAFETY: this CPU's value.
    unsafe { (*running).last_owners[of as usize] = now }
}

/// Another task runs.
#[inline(always)]
pub fn forget(running: *mut Running) {
    // SAFETY: this CPU's value.
    let last_owners = unsafe { &mut (*running).last_owners };
    (
        last_owners[0].thing,
        last_owners[1].thing,
        last_owners[2].thing,
    ) = (0, 0, 0);
}
