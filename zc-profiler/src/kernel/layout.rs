//! What the eBPF programs must know of the running kernel's structures.

use zc_profiler_ebpf::{ABSENT, KernelLayout, SIDE_KERNEL, SIDE_NONE, SIDE_PAGES, SIDE_USER};

use super::{btf::Btf, symbols::Symbols};

/// Something of the kernel's that programs need, and that some kernels may not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// The running task: its process, flags, system call.
    Task,
    /// Types and direction of an `iov_iter`.
    Iter,
    /// The `iov_iter` of a `msghdr`.
    Message,
    /// A socket buffer: its lengths, memory and socket.
    Skb,
    /// Whether a socket buffer's head can be passed on.
    SkbHead,
    /// Whether a network device has hardware behind it.
    NetDevice,
    /// A block request and its disk.
    Bio,
    /// Who wrote to the file whose pages go to disk.
    Writer,
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
    /// The cgroup of a task in the default hierarchy.
    Cgroup,
    /// Name, parent and hierarchy of a cgroup.
    CgroupTree,
}

/// Symbols that [`resolve`] wants to be looked up.
pub const SYMBOLS: [&str; 9] = [
    "__per_cpu_offset",
    "__preempt_count",
    "pcpu_hot",
    ZEROCOPY_CALLBACKS[0],
    ZEROCOPY_CALLBACKS[1],
    ZEROCOPY_CALLBACKS[2],
    IO_URING_CALLBACKS[0],
    IO_URING_CALLBACKS[1],
    IO_URING_CALLBACKS[2],
];

/// What marks a notification as `MSG_ZEROCOPY`'s: from 6.10 on, from 5.12 on, before.
const ZEROCOPY_CALLBACKS: [&str; 3] = [
    "msg_zerocopy_ubuf_ops",
    "msg_zerocopy_callback",
    "sock_zerocopy_callback",
];

/// The same for requests of an `io_uring`: from 6.10 on, from 6.2 on, before.
const IO_URING_CALLBACKS: [&str; 3] = [
    "io_ubuf_ops",
    "io_tx_ubuf_callback",
    "io_uring_tx_zerocopy_callback",
];

/// The bit of `skb_shared_info.flags`, and before 5.12 of `tx_flags`, that marks pages passed by
/// reference.
const SHARED_FRAG: u32 = 1 << 1;
const SHARED_FRAG_TX: u32 = 1 << 5;

/// `THREAD_SIZE` on x86-64; where it matters (before 5.15) no padding lies above the registers.
const THREAD_SIZE: u32 = 16384;

/// The types of an `iov_iter` and what their other side is.
const SIDES: [(&str, u8); 8] = [
    ("ITER_IOVEC", SIDE_USER),
    ("ITER_UBUF", SIDE_USER),
    ("ITER_KVEC", SIDE_KERNEL),
    ("ITER_BVEC", SIDE_KERNEL),
    ("ITER_FOLIOQ", SIDE_KERNEL),
    ("ITER_PIPE", SIDE_NONE | SIDE_PAGES),
    ("ITER_XARRAY", SIDE_NONE | SIDE_PAGES),
    ("ITER_DISCARD", SIDE_NONE),
];

/// The layout, and what of it is missing, each with the name of the missing member or symbol.
#[must_use]
pub fn resolve(btf: &Btf, symbols: &Symbols) -> (KernelLayout, Vec<(Requirement, String)>) {
    let mut missing = Vec::new();
    let devices = devices(btf, &mut missing);
    let mut member = |need, structure, path| member(btf, &mut missing, need, structure, path);
    // Before 5.14 each type was one bit of `type`, above the direction in bit 0.
    let bitwise = btf.member("iov_iter", "iter_type").is_none();
    let mut layout = KernelLayout {
        task_flags: member(Requirement::Task, "task_struct", "flags"),
        task_pid: member(Requirement::Task, "task_struct", "pid"),
        task_tgid: member(Requirement::Task, "task_struct", "tgid"),
        task_group_leader: member(Requirement::Task, "task_struct", "group_leader"),
        task_start_boottime: member(Requirement::Task, "task_struct", "start_boottime"),
        task_comm: member(Requirement::Task, "task_struct", "comm"),
        task_signal: member(Requirement::Task, "task_struct", "signal"),
        task_stack: member(Requirement::Task, "task_struct", "stack"),
        // Renamed in 5.14.
        task_state: btf
            .member("task_struct", "__state")
            .unwrap_or_else(|| member(Requirement::State, "task_struct", "state")),
        thread_info_status: member(Requirement::Task, "task_struct", "thread_info.status"),
        signal_live: member(Requirement::Task, "signal_struct", "live.counter"),
        regs_orig_ax: member(Requirement::Task, "pt_regs", "orig_ax"),
        iter_type: member(
            Requirement::Iter,
            "iov_iter",
            if bitwise { "type" } else { "iter_type" },
        ),
        msghdr_msg_iter: member(Requirement::Message, "msghdr", "msg_iter"),
        skb_data_len: member(Requirement::Skb, "sk_buff", "data_len"),
        vm_fault_page: member(Requirement::Fault, "vm_fault", "page"),
        vm_fault_cow_page: member(Requirement::Fault, "vm_fault", "cow_page"),
        iomap_dio_size: member(Requirement::DirectIo, "iomap_dio", "size"),
        iomap_dio_wait: member(Requirement::DirectIo, "iomap_dio", "wait_for_completion"),
        io_kiocb_opcode: member(Requirement::Request, "io_kiocb", "opcode"),
        io_uring_cqe_res: member(Requirement::Request, "io_uring_cqe", "res"),
        io_notif_data_uarg: btf.member("io_notif_data", "uarg").unwrap_or(ABSENT),
        io_kiocb_task: btf
            .member("io_kiocb", "tctx")
            .or_else(|| btf.member("io_kiocb", "task"))
            .unwrap_or(ABSENT),
        io_uring_task_task: btf
            .member("io_kiocb", "tctx")
            .and_then(|_| btf.member("io_uring_task", "task"))
            .unwrap_or(ABSENT),
        task_cgroups: member(Requirement::Cgroup, "task_struct", "cgroups"),
        css_set_dfl_cgrp: member(Requirement::Cgroup, "css_set", "dfl_cgrp"),
        cgroup_kn: member(Requirement::Cgroup, "cgroup", "kn"),
        kernfs_node_id: member(Requirement::Cgroup, "kernfs_node", "id"),
        kernfs_node_name: member(Requirement::CgroupTree, "kernfs_node", "name"),
        cgroup_parent: member(Requirement::CgroupTree, "cgroup", "self.parent"),
        css_cgroup: member(Requirement::CgroupTree, "cgroup_subsys_state", "cgroup"),
        cgroup_root: member(Requirement::CgroupTree, "cgroup", "root"),
        cgroup_root_hierarchy_id: member(Requirement::CgroupTree, "cgroup_root", "hierarchy_id"),
        has_completed_request: (btf.tracepoint_arguments("io_uring_complete") != Some(4)).into(),
        has_task_btf: btf.has_function("bpf_get_current_task_btf").into(),
        has_task_pt_regs: btf.has_function("bpf_task_pt_regs").into(),
        ..devices
    };
    if btf.has_function("copy_user_large_folio") {
        // Renamed in 6.14.
        layout.folio_pages = btf
            .member("folio", "_nr_pages")
            .or_else(|| btf.member("folio", "_folio_nr_pages"))
            .unwrap_or(ABSENT);
        if layout.folio_pages == ABSENT {
            missing.push((Requirement::Folio, "folio._nr_pages".into()));
        }
    }
    layout.stack_regs = THREAD_SIZE - btf.size("pt_regs").unwrap_or_default();
    for (name, side) in SIDES {
        let Some(value) = btf.enumerator("iter_type", name) else {
            continue;
        };
        // The two lowest bits of bitwise types tell the direction and a detail.
        for (field, sides) in (0u32..).zip(&mut layout.iter_sides) {
            let same = if bitwise { field & !3 } else { field } == value;
            if same {
                *sides = side;
            }
        }
    }
    if !layout.iter_sides.contains(&SIDE_USER) {
        missing.push((Requirement::Iter, "enum iter_type".into()));
    }
    let first = |names: &[&str]| names.iter().find_map(|name| symbols.address(name));
    layout.zerocopy_callback = first(&ZEROCOPY_CALLBACKS).unwrap_or_default();
    layout.io_uring_callback = first(&IO_URING_CALLBACKS).unwrap_or_default();
    let pcpu_hot = symbols
        .address("pcpu_hot")
        .zip(btf.member("pcpu_hot", "preempt_count"));
    let preempt_count = symbols
        .address("__preempt_count")
        .or(pcpu_hot.map(|(address, offset)| address + u64::from(offset)));
    match (symbols.address("__per_cpu_offset"), preempt_count) {
        (Some(offsets), Some(count)) => {
            layout.per_cpu_offset = offsets;
            layout.preempt_count = count;
        }
        _ => missing.push((
            Requirement::PreemptCount,
            "__preempt_count in /proc/kallsyms".into(),
        )),
    }
    (layout, missing)
}

/// The part that concerns sockets, network devices and disks.
fn devices(btf: &Btf, missing: &mut Vec<(Requirement, String)>) -> KernelLayout {
    let mut member = |need, structure, path| member(btf, missing, need, structure, path);
    // Before 5.12 the flags of a socket buffer's pages were among those of its transmission.
    let separate = btf.member("skb_shared_info", "flags").is_some();
    let mut layout = KernelLayout {
        sock_type: member(Requirement::Skb, "sock", "sk_type"),
        skb_sk: member(Requirement::Skb, "sk_buff", "sk"),
        skb_len: member(Requirement::Skb, "sk_buff", "len"),
        skb_cb: member(Requirement::Skb, "sk_buff", "cb"),
        skb_head: member(Requirement::Skb, "sk_buff", "head"),
        skb_data: member(Requirement::Skb, "sk_buff", "data"),
        skb_tail: member(Requirement::Skb, "sk_buff", "tail"),
        skb_end: member(Requirement::Skb, "sk_buff", "end"),
        skb_dev: member(Requirement::Skb, "sk_buff", "dev"),
        skb_mac_header: member(Requirement::Skb, "sk_buff", "mac_header"),
        shinfo_flags: member(
            Requirement::Skb,
            "skb_shared_info",
            if separate { "flags" } else { "tx_flags" },
        ),
        shinfo_shared: if separate {
            SHARED_FRAG
        } else {
            SHARED_FRAG_TX
        },
        shinfo_destructor_arg: member(Requirement::Skb, "skb_shared_info", "destructor_arg"),
        // Renamed in 6.10.
        ubuf_callback: btf
            .member("ubuf_info", "ops")
            .unwrap_or_else(|| member(Requirement::Skb, "ubuf_info", "callback")),
        net_device_parent: member(Requirement::NetDevice, "net_device", "dev.parent"),
        bio_opf: member(Requirement::Bio, "bio", "bi_opf"),
        bio_size: member(Requirement::Bio, "bio", "bi_iter.bi_size"),
        bio_bdev: btf.member("bio", "bi_bdev").unwrap_or(ABSENT),
        bio_io_vec: member(Requirement::Writer, "bio", "bi_io_vec"),
        bio_vec_page: member(Requirement::Writer, "bio_vec", "bv_page"),
        page_mapping: member(Requirement::Writer, "page", "mapping"),
        // Renamed in 7.1.
        page_head: btf
            .member("page", "compound_info")
            .unwrap_or_else(|| member(Requirement::Writer, "page", "compound_head")),
        mapping_host: member(Requirement::Writer, "address_space", "host"),
        inode_number: member(Requirement::Writer, "inode", "i_ino"),
        inode_generation: member(Requirement::Writer, "inode", "i_generation"),
        file_mapping: member(Requirement::Writer, "file", "f_mapping"),
        kiocb_file: member(Requirement::Writer, "kiocb", "ki_filp"),
        // Before 5.12 the bio points to the disk itself, whose first partition is part of it.
        bdev_disk: btf
            .member("bio", "bi_disk")
            .unwrap_or_else(|| member(Requirement::Bio, "block_device", "bd_disk")),
        gendisk_part0: if btf.member("bio", "bi_bdev").is_some() {
            member(Requirement::Bio, "gendisk", "part0")
        } else {
            ABSENT
        },
        part0_parent: btf
            .member("gendisk", "part0.__dev.parent")
            .unwrap_or_else(|| member(Requirement::Bio, "block_device", "bd_device.parent")),
        gendisk_major: member(Requirement::Bio, "gendisk", "major"),
        gendisk_first_minor: member(Requirement::Bio, "gendisk", "first_minor"),
        ..KernelLayout::UNKNOWN
    };
    layout.shinfo_dataref = member(Requirement::SkbHead, "skb_shared_info", "dataref");
    let mut bit = |name| {
        btf.bit("sk_buff", name).unwrap_or_else(|| {
            missing.push((Requirement::SkbHead, format!("sk_buff.{name}")));
            (ABSENT, 0)
        })
    };
    (layout.skb_cloned, layout.skb_cloned_bit) = bit("cloned");
    (layout.skb_head_frag, layout.skb_head_frag_bit) = bit("head_frag");
    if missing.iter().any(|(need, _)| *need == Requirement::Writer) {
        layout.page_mapping = ABSENT;
    }
    layout
}

/// The offset of a member, noted as missing if the kernel does not have it.
fn member(
    btf: &Btf,
    missing: &mut Vec<(Requirement, String)>,
    need: Requirement,
    structure: &str,
    path: &str,
) -> u32 {
    btf.member(structure, path).unwrap_or_else(|| {
        missing.push((need, format!("{structure}.{path}")));
        ABSENT
    })
}
