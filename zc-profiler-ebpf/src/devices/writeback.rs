//! Whose the pages are that are written to disk later, by whoever happens to.

use aya_ebpf::{macros::map, maps::LruHashMap};
use zc_profiler_ebpf::{ABSENT, ProcessKey, Use};

use crate::{
    kernel::{
        Task,
        fields::{at, field, layout, probe},
    },
    ledger::{buffer, entry, last_owner},
};

/// The process that wrote last to a file.
#[repr(C)]
#[derive(Clone, Copy)]
struct Writer {
    pid: u32,
    start: u32,
    /// Another number or generation is another file, whose inode lies where the old one's did. File
    /// systems give a new file the number of one that is gone, but a generation of its own.
    number: u64,
    generation: u64,
}

/// By the address of the `struct inode`, which is only ever compared. What has no place any more is
/// charged like a file that nobody wrote to.
#[map]
static WRITERS: LruHashMap<u64, Writer> = LruHashMap::with_max_entries(16_384, 0);

/// The lowest bits of `page.mapping` tell memory without a file.
const NO_FILE: u64 = 3;
/// The lowest bit of `page.compound_head` tells a part of a larger page.
const PART: u64 = 1;

/// Notes that the running task wrote to the page cache of an open file.
#[inline(always)]
pub fn wrote(file: *const u8) {
    if layout!(page_mapping) == ABSENT {
        return;
    }
    let mapping: *const u8 = field(file, at!(file_mapping));
    let inode: *const u8 = field(mapping, at!(mapping_host));
    let number: u64 = field(inode, at!(inode_number));
    let generation: u32 = field(inode, at!(inode_generation));
    let generation = u64::from(generation);
    let address = inode as u64;
    let now = last_owner::now(Use::Write, address, [number, generation]);
    let Some(running) = buffer::running() else {
        return;
    };
    if last_owner::is_known(running, Use::Write, &now) {
        return;
    }
    let task = Task::current();
    if !entry::enabled() || task.is_kernel_thread() {
        return;
    }
    let key = task.process();
    let known = WRITERS.get_ptr(&address).is_some_and(|known| {
        // SAFETY: a live map value.
        let known = unsafe { known.read_volatile() };
        known.pid == key.pid
            && known.start == key.start
            && known.number == number
            && known.generation == generation
    });
    if !known {
        // Its pages may be written before its own first delivery.
        let _ = entry::of(task);
        let writer = Writer {
            pid: key.pid,
            start: key.start,
            number,
            generation,
        };
        let _ = WRITERS.insert(&address, &writer, 0);
        last_owner::changed(Use::Write);
    }
    last_owner::keep(running, Use::Write, now);
}

/// Who wrote to the file whose pages a bio writes to disk; `None` for journals, metadata, direct I/O
/// and what was written through a mapping only.
#[inline(always)]
pub fn writer(bio: *const u8) -> Option<ProcessKey> {
    if layout!(page_mapping) == ABSENT {
        return None;
    }
    let vector: u64 = field(bio, at!(bio_io_vec));
    let mut page: u64 = probe(vector + u64::from(layout!(bio_vec_page)));
    let head: u64 = probe(page + u64::from(layout!(page_head)));
    if head & PART != 0 {
        page = head - PART;
    }
    let mapping: u64 = probe(page + u64::from(layout!(page_mapping)));
    if mapping == 0 || mapping & NO_FILE != 0 {
        return None;
    }
    let inode: u64 = probe(mapping + u64::from(layout!(mapping_host)));
    let known = WRITERS.get_ptr(&inode)?;
    // SAFETY: a live map value.
    let known = unsafe { known.read_volatile() };
    let number: u64 = probe(inode + u64::from(layout!(inode_number)));
    let generation: u32 = probe(inode + u64::from(layout!(inode_generation)));
    let same = known.number == number && known.generation == u64::from(generation);
    same.then_some(ProcessKey {
        pid: known.pid,
        start: known.start,
    })
}
