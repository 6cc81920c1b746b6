//! What the eBPF programs must know of the running kernel's structures.

use std::{collections::HashMap, hash::BuildHasher};

use zc_profiler_ebpf::{ABSENT, KernelLayout};

use super::btf::Btf;

/// Something of the kernel's that programs need, and that some kernels may not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// The running task: its process, flags, system call.
    Task,
    /// Types and direction of an `iov_iter`.
    Iter,
    /// The `iov_iter` of a `msghdr`.
    Message,
    /// `sk_buff.data_len`.
    Skb,
    /// The preemption count, to tell interrupts from the task they interrupt.
    PreemptCount,
    /// The state of a task that switches away, before 5.18.
    State,
    /// The pages of a `vm_fault`.
    Fault,
    /// How many pages a folio has; before 5.16 there are none, and it is not needed.
    Folio,
    /// Size and kind of an `O_DIRECT` transfer through iomap.
    DirectIo,
    /// The opcode of an `io_uring` request.
    Request,
}

/// Symbols that [`resolve`] wants to be looked up.
pub const SYMBOLS: [&str; 3] = ["__per_cpu_offset", "__preempt_count", "pcpu_hot"];

/// `THREAD_SIZE` on x86-64; where it matters (before 5.15) no padding lies above the registers.
const THREAD_SIZE: u32 = 16384;

/// The types of an `iov_iter` that copy from or to user memory, kernel memory, or nothing.
const USER: [&str; 2] = ["ITER_IOVEC", "ITER_UBUF"];
const KERNEL: [&str; 3] = ["ITER_KVEC", "ITER_BVEC", "ITER_FOLIOQ"];
const NONE: [&str; 3] = ["ITER_PIPE", "ITER_XARRAY", "ITER_DISCARD"];

/// The layout, and what of it is missing, each with the name of the missing member or symbol.
#[must_use]
pub fn resolve(
    btf: &Btf,
    symbols: &HashMap<String, u64, impl BuildHasher>,
) -> (KernelLayout, Vec<(Need, String)>) {
    let mut missing = Vec::new();
    let mut member = |need: Need, structure: &str, path: &str| {
        btf.member(structure, path).unwrap_or_else(|| {
            missing.push((need, format!("{structure}.{path}")));
            ABSENT
        })
    };
    // Before 5.14 each type was one bit of `type`, above the direction in bit 0.
    let bitwise = btf.member("iov_iter", "iter_type").is_none();
    let mut layout = KernelLayout {
        task_flags: member(Need::Task, "task_struct", "flags"),
        task_pid: member(Need::Task, "task_struct", "pid"),
        task_tgid: member(Need::Task, "task_struct", "tgid"),
        task_group_leader: member(Need::Task, "task_struct", "group_leader"),
        task_start_boottime: member(Need::Task, "task_struct", "start_boottime"),
        task_comm: member(Need::Task, "task_struct", "comm"),
        task_signal: member(Need::Task, "task_struct", "signal"),
        task_stack: member(Need::Task, "task_struct", "stack"),
        // Renamed in 5.14.
        task_state: btf
            .member("task_struct", "__state")
            .unwrap_or_else(|| member(Need::State, "task_struct", "state")),
        thread_info_status: member(Need::Task, "task_struct", "thread_info.status"),
        signal_live: member(Need::Task, "signal_struct", "live.counter"),
        regs_orig_ax: member(Need::Task, "pt_regs", "orig_ax"),
        iter_type: member(
            Need::Iter,
            "iov_iter",
            if bitwise { "type" } else { "iter_type" },
        ),
        iter_type_shift: if bitwise { 2 } else { 0 },
        msghdr_msg_iter: member(Need::Message, "msghdr", "msg_iter"),
        skb_data_len: member(Need::Skb, "sk_buff", "data_len"),
        vm_fault_page: member(Need::Fault, "vm_fault", "page"),
        vm_fault_cow_page: member(Need::Fault, "vm_fault", "cow_page"),
        iomap_dio_size: member(Need::DirectIo, "iomap_dio", "size"),
        iomap_dio_wait: member(Need::DirectIo, "iomap_dio", "wait_for_completion"),
        io_kiocb_opcode: member(Need::Request, "io_kiocb", "opcode"),
        io_uring_cqe_res: member(Need::Request, "io_uring_cqe", "res"),
        has_completed_request: (btf.tracepoint_arguments("io_uring_complete") != Some(4)).into(),
        has_task_btf: btf.has_function("bpf_get_current_task_btf").into(),
        has_task_pt_regs: btf.has_function("bpf_task_pt_regs").into(),
        ..KernelLayout::UNKNOWN
    };
    if btf.has_function("copy_user_large_folio") {
        // Renamed in 6.14.
        layout.folio_pages = btf
            .member("folio", "_nr_pages")
            .or_else(|| btf.member("folio", "_folio_nr_pages"))
            .unwrap_or(ABSENT);
        if layout.folio_pages == ABSENT {
            missing.push((Need::Folio, "folio._nr_pages".into()));
        }
    }
    layout.stack_regs = THREAD_SIZE - btf.size("pt_regs").unwrap_or_default();
    let types = |names: &[&str]| {
        names
            .iter()
            .filter_map(|name| btf.enumerator("iter_type", name))
            .fold(0, |bits, value| {
                bits | 1 << ((value >> layout.iter_type_shift) & 31)
            })
    };
    (layout.iter_user, layout.iter_kernel, layout.iter_none) =
        (types(&USER), types(&KERNEL), types(&NONE));
    if layout.iter_user == 0 {
        missing.push((Need::Iter, "enum iter_type".into()));
    }
    let pcpu_hot = symbols
        .get("pcpu_hot")
        .zip(btf.member("pcpu_hot", "preempt_count"));
    let preempt_count = symbols
        .get("__preempt_count")
        .copied()
        .or(pcpu_hot.map(|(address, offset)| address + u64::from(offset)));
    match (symbols.get("__per_cpu_offset"), preempt_count) {
        (Some(offsets), Some(count)) => {
            layout.per_cpu_offset = *offsets;
            layout.preempt_count = count;
        }
        _ => missing.push((
            Need::PreemptCount,
            "__preempt_count in /proc/kallsyms".into(),
        )),
    }
    (layout, missing)
}
