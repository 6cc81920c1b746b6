//! What the programs need to know of the running kernel.

use core::mem::{offset_of, size_of};

/// In [`IterSides`]: user memory.
pub const SIDE_USER: u8 = 1;
/// Kernel memory.
pub const SIDE_KERNEL: u8 = 2;
/// Nothing is copied.
pub const SIDE_NONE: u8 = 4;
/// Beside that: it takes pages, and copies of what is in none.
pub const SIDE_PAGES: u8 = 8;

/// An offset or address that the running kernel does not have.
pub const ABSENT: u32 = u32::MAX;

/// For each value that `iter_type` can have what its other side is, [`SIDE_USER`] and so on; 0 if unknown.
pub type IterSides = [u8; 256];

/// What the programs need to know of the running kernel, read from its BTF and symbols by user
/// space, which puts it into their instructions before it loads them ([`operand`]). So it costs no
/// loads, and the verifier prunes on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
#[allow(
    missing_docs,
    reason = "each field is the kernel's own `struct.member`"
)]
pub struct KernelLayout {
    pub task_flags: u32,
    pub task_pid: u32,
    pub task_tgid: u32,
    pub task_group_leader: u32,
    pub task_start_boottime: u32,
    pub task_comm: u32,
    pub task_signal: u32,
    pub task_stack: u32,
    pub task_state: u32,
    pub thread_info_status: u32,
    pub signal_live: u32,
    pub regs_orig_ax: u32,
    /// From `task_struct.stack` to the saved user registers.
    pub stack_regs: u32,
    pub iter_type: u32,
    pub msghdr_msg_iter: u32,
    pub skb_data_len: u32,
    pub vm_fault_page: u32,
    pub vm_fault_cow_page: u32,
    pub folio_pages: u32,
    pub iomap_dio_size: u32,
    pub iomap_dio_wait: u32,
    pub io_kiocb_opcode: u32,
    pub io_uring_cqe_res: u32,
    /// Where a request without a copy keeps its `ubuf_info`; [`ABSENT`] before 6.0.
    pub io_notif_data_uarg: u32,
    /// `io_kiocb.tctx`; before 6.13 `task`, and then no `io_uring_task.task`.
    pub io_kiocb_task: u32,
    pub io_uring_task_task: u32,
    /// Whether completions of an `io_uring` name their request.
    pub has_completed_request: u32,
    pub skb_sk: u32,
    pub skb_len: u32,
    pub skb_cb: u32,
    pub skb_head: u32,
    pub skb_data: u32,
    pub skb_tail: u32,
    pub skb_end: u32,
    pub skb_dev: u32,
    pub skb_mac_header: u32,
    pub shinfo_flags: u32,
    /// The bit of `shinfo_flags` that marks pages passed by reference.
    pub shinfo_shared: u32,
    pub shinfo_destructor_arg: u32,
    pub shinfo_dataref: u32,
    /// The byte, and the bit in it, that marks a socket buffer whose head others may share.
    pub skb_cloned: u32,
    pub skb_cloned_bit: u32,
    /// The same for a head that is part of a page.
    pub skb_head_frag: u32,
    pub skb_head_frag_bit: u32,
    /// Is a global, for it is indexed; all else are operands.
    pub iter_sides: IterSides,
    /// `ubuf_info.ops`; before 6.10 `callback`.
    pub ubuf_callback: u32,
    pub net_device_parent: u32,
    pub bio_opf: u32,
    pub bio_size: u32,
    /// `bio.bi_bdev`, [`ABSENT`] where the bio points to the disk itself (before 5.12).
    pub bio_bdev: u32,
    /// `bio.bi_io_vec`.
    pub bio_io_vec: u32,
    /// `bio_vec.bv_page`.
    pub bio_vec_page: u32,
    /// `page.mapping`; [`ABSENT`] if whose a page is cannot be told.
    pub page_mapping: u32,
    /// `page.compound_head`.
    pub page_head: u32,
    /// `address_space.host`.
    pub mapping_host: u32,
    /// `inode.i_ino`.
    pub inode_number: u32,
    /// `inode.i_generation`.
    pub inode_generation: u32,
    /// `file.f_mapping`.
    pub file_mapping: u32,
    /// `kiocb.ki_filp`.
    pub kiocb_file: u32,
    /// `bio.bi_disk` or `block_device.bd_disk`.
    pub bdev_disk: u32,
    pub gendisk_part0: u32,
    /// The disk's parent device, within what `gendisk_part0` leads to.
    pub part0_parent: u32,
    pub gendisk_major: u32,
    pub gendisk_first_minor: u32,
    /// How many disks move their bytes by PIO.
    pub pio_disks: u32,
    pub sock_type: u32,
    pub task_cgroups: u32,
    pub css_set_dfl_cgrp: u32,
    pub cgroup_kn: u32,
    pub kernfs_node_id: u32,
    pub kernfs_node_name: u32,
    /// `cgroup.self.parent`.
    pub cgroup_parent: u32,
    pub css_cgroup: u32,
    pub cgroup_root: u32,
    pub cgroup_root_hierarchy_id: u32,
    /// Whether the helper `bpf_get_current_task_btf` is there (5.11).
    pub has_task_btf: u32,
    /// Whether the helper `bpf_task_pt_regs` is there (5.15).
    pub has_task_pt_regs: u32,
    /// Whether a task can be preempted inside a program, so that each has a double.
    pub preemptible: u32,
    pub reserved: u32,
    /// What `ubuf_callback` holds for `MSG_ZEROCOPY`, 0 if unknown.
    pub zerocopy_callback: u64,
    /// The same for requests of an `io_uring`.
    pub io_uring_callback: u64,
    /// Address of `__per_cpu_offset`, 0 if unknown.
    pub per_cpu_offset: u64,
    /// Per-CPU address of the preemption count, 0 if unknown.
    pub preempt_count: u64,
}

impl KernelLayout {
    /// As many words of 32 bits as it has.
    pub const WORDS: usize = size_of::<Self>() / 4;

    /// All of it, by place.
    #[must_use]
    pub const fn words(&self) -> &[u32; Self::WORDS] {
        // SAFETY: it is plain numbers without gaps, and more aligned than its words.
        unsafe { &*(&raw const *self).cast() }
    }

    /// A layout of which nothing is known.
    pub const UNKNOWN: Self = Self {
        task_flags: ABSENT,
        task_pid: ABSENT,
        task_tgid: ABSENT,
        task_group_leader: ABSENT,
        task_start_boottime: ABSENT,
        task_comm: ABSENT,
        task_signal: ABSENT,
        task_stack: ABSENT,
        task_state: ABSENT,
        thread_info_status: ABSENT,
        signal_live: ABSENT,
        regs_orig_ax: ABSENT,
        stack_regs: ABSENT,
        iter_type: ABSENT,
        msghdr_msg_iter: ABSENT,
        skb_data_len: ABSENT,
        vm_fault_page: ABSENT,
        vm_fault_cow_page: ABSENT,
        folio_pages: ABSENT,
        iomap_dio_size: ABSENT,
        iomap_dio_wait: ABSENT,
        io_kiocb_opcode: ABSENT,
        io_uring_cqe_res: ABSENT,
        io_notif_data_uarg: ABSENT,
        io_kiocb_task: ABSENT,
        io_uring_task_task: ABSENT,
        has_completed_request: 0,
        skb_sk: ABSENT,
        skb_len: ABSENT,
        skb_cb: ABSENT,
        skb_head: ABSENT,
        skb_data: ABSENT,
        skb_tail: ABSENT,
        skb_end: ABSENT,
        skb_dev: ABSENT,
        skb_mac_header: ABSENT,
        shinfo_flags: ABSENT,
        shinfo_shared: 0,
        shinfo_destructor_arg: ABSENT,
        shinfo_dataref: ABSENT,
        skb_cloned: ABSENT,
        skb_cloned_bit: 0,
        skb_head_frag: ABSENT,
        skb_head_frag_bit: 0,
        iter_sides: [0; 256],
        ubuf_callback: ABSENT,
        net_device_parent: ABSENT,
        bio_opf: ABSENT,
        bio_size: ABSENT,
        bio_bdev: ABSENT,
        bio_io_vec: ABSENT,
        bio_vec_page: ABSENT,
        page_mapping: ABSENT,
        page_head: ABSENT,
        mapping_host: ABSENT,
        inode_number: ABSENT,
        inode_generation: ABSENT,
        file_mapping: ABSENT,
        kiocb_file: ABSENT,
        bdev_disk: ABSENT,
        gendisk_part0: ABSENT,
        part0_parent: ABSENT,
        gendisk_major: ABSENT,
        gendisk_first_minor: ABSENT,
        pio_disks: 0,
        sock_type: ABSENT,
        task_cgroups: ABSENT,
        css_set_dfl_cgrp: ABSENT,
        cgroup_kn: ABSENT,
        kernfs_node_id: ABSENT,
        kernfs_node_name: ABSENT,
        cgroup_parent: ABSENT,
        css_cgroup: ABSENT,
        cgroup_root: ABSENT,
        cgroup_root_hierarchy_id: ABSENT,
        has_task_btf: 0,
        has_task_pt_regs: 0,
        preemptible: 0,
        reserved: 0,
        zerocopy_callback: 0,
        io_uring_callback: 0,
        per_cpu_offset: 0,
        preempt_count: 0,
    };
}

const _: () = {
    assert!(size_of::<KernelLayout>().is_multiple_of(8));
    // An odd number of fields before would leave a gap: then one that is reserved belongs there.
    assert!(offset_of!(KernelLayout, reserved) + 4 == offset_of!(KernelLayout, zerocopy_callback));
};

/// Where a field of [`KernelLayout`] lies, in words of 32 bits.
#[macro_export]
macro_rules! place {
    ($field:ident) => {
        (::core::mem::offset_of!($crate::KernelLayout, $field) / 4) as u16
    };
}

/// What stands in the programs' instructions for a field of [`KernelLayout`] until user space puts its
/// value there: numbers that no instruction has otherwise.
pub mod operand {
    /// In the upper half of an instruction's operand; the lower half is the field's place.
    pub const IMMEDIATE: i32 = 0x7a43_0000;
    /// Added to the field's place in the offset of a load.
    pub const OFFSET: i16 = 0x7000;

    /// The operand of an instruction that sets a register to the field at a place.
    #[must_use]
    pub const fn immediate(place: u16) -> i32 {
        IMMEDIATE | place as i32
    }

    /// The offset of an instruction that loads from where that field says.
    #[must_use]
    pub const fn offset(place: u16) -> i16 {
        OFFSET + place.cast_signed()
    }
}
