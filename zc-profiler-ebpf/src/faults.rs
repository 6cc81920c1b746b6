//! Page faults.

use crate::ledger::{buffer, call::program};

const FAULT_FLAG_TRIED: u32 = 0x20;
const FAULT_FLAG_USER: u32 = 0x40;
const VM_FAULT_MAJOR: u32 = 0x4;
const VM_FAULT_RETRY: u32 = 0x400;
/// OOM, SIGBUS, HWPOISON, `HWPOISON_LARGE`, SIGSEGV, FALLBACK.
pub const VM_FAULT_ERROR: u32 = 0x873;

program! {
    /// `vm_fault_t handle_mm_fault(struct vm_area_struct *vma, unsigned long address, unsigned int
    /// flags, struct pt_regs *regs)`, from 5.9 on.
    ///
    /// Counts minor and major faults by the rule of the kernel's own `mm_account_fault` (so they
    /// equal getrusage's), and those taken in user mode, which are mode switches. Without it both are
    /// absent.
    handle_mm_fault, "handle_mm_fault", |ctx| fault(ctx.arg(2), ctx.arg(4))
}

#[inline(always)]
fn fault(flags: u32, result: u32) {
    if result & (VM_FAULT_ERROR | VM_FAULT_RETRY) == 0 {
        let major = result & VM_FAULT_MAJOR != 0 || flags & FAULT_FLAG_TRIED != 0;
        buffer::add_fault(major, flags & FAULT_FLAG_USER != 0);
    }
}
