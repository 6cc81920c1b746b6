//! Copy-on-write: pages that a write fault copies. They belong to the method `mmap` of the task that
//! faults, whatever system call it is in: read() into a page shared with a child copies that page,
//! which is no part of what it reads.
//!
//! A transparent huge page is split first (from 5.8 on) and then copied by small page, so the hooks
//! of small pages see it. What fork itself copies (pages pinned for I/O) is not covered, nor are
//! private mappings of memory without a `struct page`.

use aya_ebpf::{macros::kprobe, programs::ProbeContext};
use zc_profiler_ebpf::{Direction, Method};

use crate::{
    copies,
    faults::VM_FAULT_ERROR,
    kernel::{
        Task,
        fields::{Structure, Typed, Untyped, at, field},
    },
    ledger::{
        buffer,
        call::{self, entry_program, program},
    },
};

const PAGE_SIZE: u64 = 4096;

program! {
    /// `vm_fault_t wp_page_copy(struct vm_fault *vmf)`, to 6.2; inlined later.
    ///
    /// Counts one page, unless its source is the zero page (`vmf->page` is null), which is no copy.
    /// Without it, copy-on-write after fork is not counted.
    wp_page_copy, "wp_page_copy", |ctx| {
        let page: u64 = field(ctx.arg(0), at!(vm_fault_page));
        if page != 0 && ctx.arg::<u32>(1) & VM_FAULT_ERROR == 0 {
            copied(PAGE_SIZE);
        }
    }
}

program! {
    /// `unsigned long copy_mc_to_kernel(void *dst, const void *src, unsigned len)`, from 5.10 on; write
    /// faults call it from 6.2 on, but not for the zero page. Returns what it did not copy.
    ///
    /// Counts copies inside `do_wp_page` only: migration, core dumps and persistent memory come here as
    /// well. Without it, copy-on-write after fork is not counted.
    copy_mc_to_kernel, "copy_mc_to_kernel", |ctx| {
        if call::current().is_some_and(|call| call.on_write != 0) {
            let length: u32 = ctx.arg(2);
            copied(u64::from(length).saturating_sub(ctx.arg(3)));
        }
    }
}

entry_program! {
    /// `vm_fault_t do_wp_page(struct vm_fault *vmf)`, on all kernels.
    ///
    /// Marks a fault on a mapped page that is not writable. Without it, `copy_mc_to_kernel` counts
    /// nothing.
    do_wp_page_entry, "do_wp_page", |_ctx| {
        set_on_write(1);
    }
}

program! {
    /// The exit of `do_wp_page`. Without it, other copies of the task would count as copy-on-write.
    do_wp_page_exit, "do_wp_page", |_ctx| {
        set_on_write(0);
    }
}

entry_program! {
    /// `vm_fault_t finish_fault(struct vm_fault *vmf)`, on all kernels.
    ///
    /// Counts the page of a file, `vmf->cow_page`, that was copied just before for a private mapping.
    /// Without it, first writes to private mappings of files are not counted.
    finish_fault, "finish_fault", |ctx| finishes(Typed(ctx.arg(0)))
}

/// The same by kprobe.
#[kprobe]
pub fn finish_fault_kprobe(ctx: ProbeContext) -> u32 {
    if let Some(fault) = ctx.arg(0) {
        finishes(Untyped(fault));
    }
    0
}

#[inline(always)]
fn finishes(fault: impl Structure) {
    let page: u64 = fault.read(at!(vm_fault_cow_page));
    if page != 0 {
        copied(PAGE_SIZE);
    }
}

program! {
    /// `void copy_user_huge_page(struct page *dst, struct page *src, unsigned long addr_hint, struct
    /// vm_area_struct *vma, unsigned int pages_per_huge_page)`, to 6.4.
    ///
    /// Counts copy-on-write of hugetlbfs pages. Without it, that is not counted.
    copy_user_huge_page, "copy_user_huge_page", |ctx| {
        copied(u64::from(ctx.arg::<u32>(4)) * PAGE_SIZE);
    }
}

/// The same by kprobe, at entry: it returns nothing, so it cannot fail.
#[kprobe]
pub fn copy_user_huge_page_kprobe(ctx: ProbeContext) -> u32 {
    if let Some(pages) = ctx.arg::<u32>(4) {
        copied(u64::from(pages) * PAGE_SIZE);
    }
    0
}

program! {
    /// `int copy_user_large_folio(struct folio *dst, struct folio *src, unsigned long addr_hint, struct
    /// vm_area_struct *vma)`, from 6.5 on; the same.
    copy_user_large_folio, "copy_user_large_folio", |ctx| {
        let pages: u32 = field(ctx.arg(0), at!(folio_pages));
        if ctx.arg::<i32>(4) == 0 {
            copied(u64::from(pages) * PAGE_SIZE);
        }
    }
}

#[inline(always)]
fn set_on_write(value: u64) {
    if let Some(call) = call::current() {
        call.on_write = value;
    }
}

#[inline(always)]
fn copied(bytes: u64) {
    if bytes == 0 {
        return;
    }
    if Task::current().is_kernel_thread() {
        copies::copied_by_kernel(Direction::InKernel, bytes as i64);
    } else if let Some(running) = buffer::running() {
        buffer::add_copy(running, Method::Mmap as u64, Direction::InKernel, bytes);
    }
}
