//! PIO of libata: the CPU moves a disk's bytes word by word, in interrupts on top of any task.

use aya_ebpf::{
    macros::{kprobe, map},
    maps::PerCpuArray,
    programs::ProbeContext,
};
use zc_profiler_ebpf::{Flow, ProcessKey};

use crate::ledger::entry;

/// The buffer that the 32-bit transfer was last given.
#[map]
static WIDE: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// `unsigned int ata_sff_data_xfer32(struct ata_queued_cmd *qc, unsigned char *buf, unsigned int
/// buflen, int rw)`, on all kernels; a function of the module libata, so by kprobe.
///
/// Counts what the CPU moves to and from ATA disks, for the kernel. Without it, PIO is not counted.
#[kprobe]
pub fn ata_sff_data_xfer32(ctx: ProbeContext) -> u32 {
    if let (Some(buffer), Some(slot)) = (ctx.arg::<u64>(1), WIDE.get_ptr_mut(0)) {
        // SAFETY: this CPU's value.
        unsafe { slot.write_volatile(buffer) };
        transferred(&ctx);
    }
    0
}

/// `ata_sff_data_xfer`, of the same form, in words of 16 bits.
///
/// Counts ports that only know those; the 32-bit transfer calls it there, and has counted already.
#[kprobe]
pub fn ata_sff_data_xfer(ctx: ProbeContext) -> u32 {
    if let (Some(buffer), Some(slot)) = (ctx.arg::<u64>(1), WIDE.get_ptr_mut(0)) {
        // SAFETY: this CPU's value.
        let inside = unsafe { slot.read_volatile() } == buffer;
        // SAFETY: as above.
        unsafe { slot.write_volatile(0) };
        if !inside {
            transferred(&ctx);
        }
    }
    0
}

#[inline(always)]
fn transferred(ctx: &ProbeContext) {
    let (Some(bytes), Some(write)) = (ctx.arg::<u32>(2), ctx.arg::<i32>(3)) else {
        return;
    };
    // Under a filter too: nobody else can be charged, and the lab asks what its disk cost.
    if entry::enabled()
        && let Some(entry) = entry::at(&ProcessKey::KERNEL)
    {
        let flow = if write & 1 != 0 { Flow::Out } else { Flow::In };
        entry.add_pio(flow, bytes.into());
    }
}
