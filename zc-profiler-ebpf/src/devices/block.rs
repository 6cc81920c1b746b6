//! DMA of disks.

use aya_ebpf::{
    macros::{btf_tracepoint, map},
    maps::HashMap,
    programs::BtfTracePointContext,
};
use zc_profiler_ebpf::{ABSENT, Device, Flow};

use crate::{
    devices::writeback,
    kernel::{
        Task,
        fields::{at, field, layout},
        in_interrupt,
    },
    ledger::{call::program_anywhere, entry},
};

const REQ_OP_MASK: u32 = 0xff;
const REQ_OP_READ: u32 = 0;
const REQ_OP_WRITE: u32 = 1;

/// Disks whose bytes the CPU moves, by major << 20 | minor.
#[map]
static PIO_DISKS: HashMap<u32, u8> = HashMap::with_max_entries(64, 0);

program_anywhere! { btf_tracepoint BtfTracePointContext,
    /// Tracepoint `block:block_bio_queue(struct bio *bio)`, from 5.11 on.
    ///
    /// Counts what is asked of disks that have a device behind them, which loop, dm, md, zram and ram
    /// have not, and charges the task that asks; of pages of a file, whoever wrote to it last. Without
    /// it, DMA of disks is not counted.
    block_bio_queue, "block_bio_queue", |ctx| queued(ctx.arg(0))
}

/// The same with `struct request_queue *q` first, before 5.11.
#[btf_tracepoint(function = "block_bio_queue")]
pub fn block_bio_queue_of(ctx: BtfTracePointContext) -> i32 {
    queued(ctx.arg(1));
    0
}

#[inline(always)]
fn queued(bio: *const u8) {
    if !entry::enabled() {
        return;
    }
    let flags: u32 = field(bio, at!(bio_opf));
    let bytes: u32 = field(bio, at!(bio_size));
    let flow = match flags & REQ_OP_MASK {
        REQ_OP_READ => Flow::In,
        REQ_OP_WRITE => Flow::Out,
        _ => return,
    };
    if bytes == 0 || !moves_by_dma(bio) {
        return;
    }
    if flow as u32 == Flow::Out as u32
        && let Some(writer) = writeback::writer(bio)
    {
        // Gone, or under a filter not ours.
        if let Some(entry) = entry::at(&writer).or_else(entry::kernel) {
            entry.add_dma(Device::Block, Flow::Out, bytes.into());
        }
        return;
    }
    let task = Task::current();
    let entry = if task.is_kernel_thread() || in_interrupt() {
        entry::kernel()
    } else {
        entry::of(task)
    };
    if let Some(entry) = entry {
        entry.add_dma(Device::Block, flow, bytes.into());
    }
}

#[inline(always)]
fn moves_by_dma(bio: *const u8) -> bool {
    let holder: *const u8 = if layout!(bio_bdev) == ABSENT {
        bio
    } else {
        field(bio, at!(bio_bdev))
    };
    let disk: *const u8 = field(holder, at!(bdev_disk));
    let part: *const u8 = if layout!(gendisk_part0) == ABSENT {
        disk
    } else {
        field(disk, at!(gendisk_part0))
    };
    let parent: u64 = field(part, at!(part0_parent));
    if parent == 0 {
        return false;
    }
    if layout!(pio_disks) == 0 {
        return true;
    }
    let major: u32 = field(disk, at!(gendisk_major));
    let minor: u32 = field(disk, at!(gendisk_first_minor));
    PIO_DISKS.get_ptr(&(major << 20 | minor)).is_none()
}
