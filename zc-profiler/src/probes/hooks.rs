//! The hook table: one row for each thing that is counted. The attach plan, the status that `doctor`
//! and the metrics show, and the documentation all come from here.
//!
//! # Ways down
//!
//! Where nothing can be attached to functions by fentry and fexit, no system call's exit collects what
//! was copied inside, and one tracepoint, [`DERIVED`], stands in for all of them: calls and payload
//! stay exact, and what goes to and from user memory is *derived* from what a call returned. What
//! kprobes, at a function's entry, count beside it must therefore be exact there whatever the function
//! returns, and must be nothing that is derived already: copies inside the kernel, whose socket it is,
//! and PIO. No byte comes from two sources, for none of a method and direction does.
//!
//! | copy function | kprobe | why |
//! |---|---|---|
//! | `skb_copy_ubufs`, `skb_copy_and_csum_bits` | yes | counted at entry by fentry too; all or nothing |
//! | `finish_fault` | yes | the page was copied before it is entered |
//! | `copy_user_huge_page` (to 6.4) | yes | returns nothing |
//! | `copy_user_large_folio`, `wp_page_copy`, `copy_mc_to_kernel` | no | may fail, or copy in part |
//! | `skb_copy_bits` | no | refuses ranges, and memory of devices, that it cannot read |
//! | `iomap_dio_complete`, `skb_zerocopy_iter_stream` and others | no | zero-copy bytes need the call's exit to be set against its payload |
//! | `handle_mm_fault` | no | the result tells a fault from one that is tried again |
//! | `filemap_read`, `generic_perform_write`, `pipe_read`, ... | no | the bytes are the result |
//! | `skb_copy_datagram_iter`, `ip_generic_getfrag` | no | may fail; and derived already, as are the tracepoint `skb_copy_datagram_iovec` and those of file systems' writes |
//!
//! The kernel skips a kprobe that interrupts another on the same CPU, which the trampolines of fentry do
//! not suffer from each other: one more reason to use them only where there is nothing better.

use zc_profiler_ebpf::Method;

use super::{AttachClass, Evidence};
use crate::kernel::Requirement;

/// One thing that is counted, and the ways to count it.
#[derive(Debug)]
pub struct Hook {
    /// The value of the label `probe`.
    pub name: &'static str,
    /// What it counts.
    pub counts: &'static str,
    /// What is lost where it cannot be attached.
    pub lost: &'static str,
    /// What its programs need to know of the kernel.
    pub needs: &'static [Requirement],
    /// Whether no number can be trusted without it.
    pub vital: bool,
    /// Tried in order.
    pub variants: &'static [Variant],
    /// For a system call's exit: which call it is.
    pub syscall: Option<Syscall>,
}

impl Hook {
    /// Whether this row counts what the row of that name is for.
    #[must_use]
    pub fn serves(&self, name: &str) -> bool {
        let named = |row: &Self| row.name == name;
        self.name == name
            || DERIVED.iter().any(|row| row.name == self.name) && SYSCALLS.iter().any(named)
    }
}

/// A program, and the kernel function or tracepoint that it is written for.
#[derive(Debug)]
pub struct Variant {
    /// How it attaches.
    pub attach: AttachMode,
    /// The function's or tracepoint's name.
    pub target: &'static str,
    /// With how many arguments; another number is another prototype.
    pub arguments: usize,
    /// The program in the eBPF object.
    pub program: &'static str,
}

/// How a program attaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachMode {
    /// At a function's entry.
    Fentry,
    /// At a function's exit.
    Fexit,
    /// At a tracepoint, with typed arguments.
    Tracepoint,
    /// At a function's entry by breakpoint: for modules whose types the kernel does not show.
    Kprobe,
}

impl AttachMode {
    /// Whether a program attached so sees each copy where it is made.
    #[must_use]
    pub fn measures(self) -> bool {
        self.class() == AttachClass::Fentry
    }

    /// The way that it belongs to.
    #[must_use]
    pub const fn class(self) -> AttachClass {
        match self {
            Self::Fentry | Self::Fexit => AttachClass::Fentry,
            Self::Kprobe => AttachClass::Kprobe,
            Self::Tracepoint => AttachClass::Tracepoint,
        }
    }

    /// The value of the label `attach`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fentry => "fentry",
            Self::Fexit => "fexit",
            Self::Tracepoint => "tracepoint",
            Self::Kprobe => "kprobe",
        }
    }
}

/// A system call of a method.
#[derive(Clone, Copy, Debug)]
pub struct Syscall {
    /// Its number on x86-64.
    pub number: i64,
    /// The method it belongs to.
    pub method: Method,
    /// Whether what it returns is a number of bytes.
    pub returns_bytes: bool,
    /// Whether its payload, or the part of it that was not copied, follows from what this one call copied.
    pub compares: bool,
}

const fn fexit(target: &'static str, arguments: usize, program: &'static str) -> Variant {
    Variant {
        attach: AttachMode::Fexit,
        target,
        arguments,
        program,
    }
}

const fn fentry(target: &'static str, arguments: usize, program: &'static str) -> Variant {
    Variant {
        attach: AttachMode::Fentry,
        target,
        arguments,
        program,
    }
}

const fn tracepoint(target: &'static str, arguments: usize, program: &'static str) -> Variant {
    Variant {
        attach: AttachMode::Tracepoint,
        target,
        arguments,
        program,
    }
}

const fn kprobe(target: &'static str, arguments: usize, program: &'static str) -> Variant {
    Variant {
        attach: AttachMode::Kprobe,
        target,
        arguments,
        program,
    }
}

const MESSAGE: &[Requirement] = &[Requirement::Task, Requirement::Iter, Requirement::Message];
const DEVICE: &[Requirement] = &[Requirement::Skb, Requirement::NetDevice];
const SOCKET: &[Requirement] = &[
    Requirement::Task,
    Requirement::Skb,
    Requirement::PreemptCount,
];

const COPY: &[Requirement] = &[Requirement::Task, Requirement::Iter];

macro_rules! hooks {
    ($($name:literal: $counts:literal, else $lost:literal, needs $needs:expr, vital $vital:literal,
        [$($variant:expr),*];)*) => {
        &[$(Hook {
            name: $name,
            counts: $counts,
            lost: $lost,
            needs: $needs,
            vital: $vital,
            variants: &[$($variant),*],
            syscall: None,
        }),*]
    };
}

/// Everything but the system calls.
pub const HOOKS: &[Hook] = hooks! {
    "sched_switch": "context switches; carries open calls across them",
        else "everything: a call that sleeps would be charged to another task",
        needs &[Requirement::Task, Requirement::State], vital true,
        [tracepoint("sched_switch", 4, "sched_switch"),
         tracepoint("sched_switch", 3, "sched_switch_without_state")];
    "process_fork": "children of followed processes",
        else "descendants in `stat`",
        needs &[Requirement::Task], vital false,
        [tracepoint("sched_process_fork", 2, "sched_process_fork")];
    "process_rename": "command names after exec and prctl",
        else "new names of processes already seen",
        needs &[Requirement::Task], vital false,
        [tracepoint("task_rename", 2, "task_rename")];
    "page_fault": "page faults, minor and major, and their mode switches",
        else "page faults",
        needs &[Requirement::Task], vital false,
        [fexit("handle_mm_fault", 4, "handle_mm_fault")];
    "file_read": "page cache to user",
        else "reads of files on disk",
        needs COPY, vital false,
        [fexit("filemap_read", 3, "filemap_read"),
         fexit("generic_file_buffered_read", 3, "filemap_read")];
    "shmem_read": "tmpfs and shared memory to user",
        else "reads of tmpfs files",
        needs COPY, vital false,
        [fexit("shmem_file_read_iter", 2, "shmem_file_read_iter")];
    "file_write": "user, or a pipe's pages, to page cache",
        else "writes to files on ext4, tmpfs and most others",
        needs COPY, vital false,
        [fexit("generic_perform_write", 2, "generic_perform_write"),
         fexit("generic_perform_write", 3, "generic_perform_write_at")];
    "iomap_write": "user, or a pipe's pages, to page cache, through iomap",
        else "writes to files on xfs",
        needs COPY, vital false,
        [fexit("iomap_file_buffered_write", 3, "iomap_file_buffered_write"),
         fexit("iomap_file_buffered_write", 4, "iomap_file_buffered_write_4"),
         fexit("iomap_file_buffered_write", 5, "iomap_file_buffered_write_5")];
    "pipe_read": "pipe to user",
        else "reads of pipes",
        needs COPY, vital false,
        [fexit("pipe_read", 2, "pipe_read"), fexit("anon_pipe_read", 2, "pipe_read")];
    "pipe_write": "user to pipe",
        else "writes to pipes",
        needs COPY, vital false,
        [fexit("pipe_write", 2, "pipe_write"), fexit("anon_pipe_write", 2, "pipe_write")];
    "pipe_to_user": "pipe to user by vmsplice",
        else "vmsplice out of a pipe",
        needs &[Requirement::Task], vital false,
        [fexit("pipe_to_user", 3, "pipe_to_user")];
    "seq_read": "/proc and similar files to user",
        else "reads of /proc",
        needs COPY, vital false,
        [fexit("seq_read_iter", 2, "seq_read_iter")];
    "socket_recv": "socket to user: TCP, UNIX, fragmented UDP",
        else "everything received from sockets",
        needs COPY, vital false,
        [fexit("skb_copy_datagram_iter", 4, "skb_copy_datagram_iter")];
    "unix_send": "user to UNIX socket",
        else "what UNIX sockets are sent",
        needs COPY, vital false,
        [fexit("skb_copy_datagram_from_iter", 4, "skb_copy_datagram_from_iter")];
    "tcp_send": "user to TCP socket",
        else "what TCP sockets are sent",
        needs &[Requirement::Task, Requirement::Iter, Requirement::Message], vital false,
        [fexit("tcp_sendmsg_locked", 3, "tcp_sendmsg_locked")];
    "tcp_zerocopy": "bytes that MSG_ZEROCOPY sends by reference",
        else "the difference between MSG_ZEROCOPY and copied sends",
        needs &[], vital false,
        [fexit("skb_zerocopy_iter_stream", 5, "skb_zerocopy_iter_stream"),
         fexit("skb_zerocopy_iter_stream", 6, "skb_zerocopy_iter_stream_6")];
    "socket_splice": "bytes that sendfile and splice hand to a socket by reference",
        else "before 6.5 nothing; since then their difference from copied sends",
        needs &[], vital false,
        [fexit("skb_splice_from_iter", 4, "skb_splice_from_iter"),
         fexit("skb_splice_from_iter", 3, "skb_splice_from_iter_3")];
    "skb_copy": "socket buffer to socket buffer: segmentation, coalescing",
        else "copies inside the network stack",
        needs SOCKET, vital false,
        [fexit("skb_copy_bits", 4, "skb_copy_bits")];
    "zerocopy_copied": "MSG_ZEROCOPY data that had to be copied after all",
        else "copies of MSG_ZEROCOPY data on local delivery",
        needs SOCKET, vital false,
        [fentry("skb_copy_ubufs", 2, "skb_copy_ubufs"),
         kprobe("skb_copy_ubufs", 2, "skb_copy_ubufs_kprobe")];
    "random_read": "random bytes to user",
        else "reads of /dev/urandom, getrandom",
        needs COPY, vital false,
        [fexit("get_random_bytes_user", 1, "get_random_bytes_user")];
    "copy_on_write": "pages copied at the first write after fork and the like",
        else "copy-on-write of pages that were mapped already",
        needs &[Requirement::Task, Requirement::Fault], vital false,
        [fexit("wp_page_copy", 1, "wp_page_copy"),
         fexit("copy_mc_to_kernel", 3, "copy_mc_to_kernel")];
    "copy_on_write_leave": "the end of a write fault",
        else "copy-on-write of pages that were mapped already, where the kernel has no wp_page_copy",
        needs &[Requirement::Task], vital false,
        [fexit("do_wp_page", 1, "do_wp_page_exit")];
    "copy_on_write_enter": "the begin of a write fault",
        else "copy-on-write of pages that were mapped already, where the kernel has no wp_page_copy",
        needs &[Requirement::Task], vital false,
        [fentry("do_wp_page", 1, "do_wp_page_entry")];
    "private_write": "pages of files copied at the first write to a private mapping",
        else "copy-on-write of file pages that were not mapped yet",
        needs &[Requirement::Task, Requirement::Fault], vital false,
        [fentry("finish_fault", 1, "finish_fault"), kprobe("finish_fault", 1, "finish_fault_kprobe")];
    "huge_copy_on_write": "huge pages of hugetlbfs copied at a write (transparent ones are copied by \
                           small page)",
        else "copy-on-write of hugetlbfs pages",
        needs &[Requirement::Task, Requirement::Folio], vital false,
        [fexit("copy_user_huge_page", 5, "copy_user_huge_page"),
         fexit("copy_user_large_folio", 4, "copy_user_large_folio"),
         kprobe("copy_user_huge_page", 5, "copy_user_huge_page_kprobe")];
    "direct_io": "bytes that O_DIRECT moves without a copy",
        else "the payload of O_DIRECT on ext4, xfs and the like as zero-copy",
        needs &[Requirement::Task, Requirement::DirectIo, Requirement::PreemptCount], vital false,
        [fentry("iomap_dio_complete", 1, "iomap_dio_complete")];
    "io_uring_leave": "the end of a request of an io_uring",
        else "the right process and method of what an io_uring copies",
        needs &[Requirement::Task], vital false,
        [fexit("io_issue_sqe", 2, "io_issue_sqe_exit")];
    "io_uring_enter": "the begin of a request of an io_uring",
        else "the right process and method of what an io_uring copies",
        needs &[Requirement::Task, Requirement::Request], vital false,
        [fentry("io_issue_sqe", 2, "io_issue_sqe_entry")];
    "io_uring_payload": "bytes that completions of io_uring requests report, but for multishot ones",
        else "payload and zero-copy bytes of io_uring",
        needs &[Requirement::Task, Requirement::Request], vital false,
        [tracepoint("io_uring_complete", 7, "io_uring_complete"),
         tracepoint("io_uring_complete", 3, "io_uring_complete_cqe")];
    "skb_copy_csum": "socket buffer to socket buffer, with a checksum: segmentation for plain devices",
        else "that segmentation's copies",
        needs SOCKET, vital false,
        [fentry("skb_copy_and_csum_bits", 4, "skb_copy_and_csum_bits"),
         fentry("skb_copy_and_csum_bits", 5, "skb_copy_and_csum_bits"),
         kprobe("skb_copy_and_csum_bits", 4, "skb_copy_and_csum_bits_kprobe"),
         kprobe("skb_copy_and_csum_bits", 5, "skb_copy_and_csum_bits_kprobe")];
    "skb_coalesce": "whose receive queue a copy inside it belongs to",
        else "the process of those copies: they are charged to the kernel",
        needs &[Requirement::Skb], vital false,
        [fentry("skb_try_coalesce", 4, "skb_try_coalesce")];
    "owner_tcp_send": "whose a TCP socket is, by its sends",
        else "the process of copies and DMA in interrupts: they are charged to the kernel",
        needs &[Requirement::Task], vital false,
        [fentry("tcp_sendmsg_locked", 3, "owner_tcp_send"),
         kprobe("tcp_sendmsg_locked", 3, "owner_tcp_send_kprobe")];
    "owner_tcp_sendpages": "whose a TCP socket is, by sendfile and splice",
        else "before 6.5 the process of copies and DMA in interrupts; since then nothing",
        needs &[Requirement::Task], vital false,
        [fentry("do_tcp_sendpages", 5, "owner_tcp_sendpages"),
         kprobe("do_tcp_sendpages", 5, "owner_tcp_sendpages_kprobe")];
    "owner_tcp_recv": "whose a TCP socket is, by its receives",
        else "the receiver of copies in interrupts: they are charged to the kernel",
        needs &[Requirement::Task], vital false,
        [fentry("tcp_recvmsg", 4, "owner_tcp_recv"),
         fentry("tcp_recvmsg", 5, "owner_tcp_recv"),
         fentry("tcp_recvmsg", 6, "owner_tcp_recv"),
         kprobe("tcp_recvmsg", 4, "owner_tcp_recv_kprobe"),
         kprobe("tcp_recvmsg", 5, "owner_tcp_recv_kprobe"),
         kprobe("tcp_recvmsg", 6, "owner_tcp_recv_kprobe")];
    "owner_udp_send": "whose a UDP socket is",
        else "the process of its DMA: it is charged to the kernel",
        needs &[Requirement::Task], vital false,
        [fentry("udp_sendmsg", 3, "owner_udp_send"),
         kprobe("udp_sendmsg", 3, "owner_udp_send_kprobe")];
    "owner_udpv6_send": "whose a UDP socket is, IPv6",
        else "the process of its DMA: it is charged to the kernel",
        needs &[Requirement::Task], vital false,
        [fentry("udpv6_sendmsg", 3, "owner_udpv6_send"),
         kprobe("udpv6_sendmsg", 3, "owner_udpv6_send_kprobe")];
    "owner_gone": "sockets that are gone",
        else "room for the owners of new sockets",
        needs &[], vital false,
        [fentry("inet_sock_destruct", 1, "owner_gone"),
         kprobe("inet_sock_destruct", 1, "owner_gone_kprobe")];
    "udp_send": "user to UDP and raw sockets",
        else "what UDP sockets are sent",
        needs MESSAGE, vital false,
        [fexit("ip_generic_getfrag", 6, "ip_generic_getfrag")];
    "udp_zerocopy": "bytes that MSG_ZEROCOPY passes to UDP by reference",
        else "UDP's zero-copy bytes",
        needs &[Requirement::Skb], vital false,
        [fexit("skb_zerocopy_iter_dgram", 3, "skb_zerocopy_iter_dgram"),
         fexit("__zerocopy_sg_from_iter", 5, "zerocopy_sg_from_iter"),
         fexit("__zerocopy_sg_from_iter", 6, "zerocopy_sg_from_iter_6")];
    "udp_recv": "UDP to user",
        else "what UDP sockets receive",
        needs MESSAGE, vital false,
        [fexit("udp_recvmsg", 4, "udp_recvmsg_4"), fexit("udp_recvmsg", 5, "udp_recvmsg_5"),
         fexit("udp_recvmsg", 6, "udp_recvmsg_6")];
    "udp_recv_begin": "that a UDP datagram is counted once",
        else "the difference between fragmented datagrams and twice as many",
        needs &[], vital false,
        [fentry("udp_recvmsg", 4, "udp_recvmsg_begin"), fentry("udp_recvmsg", 5, "udp_recvmsg_begin"),
         fentry("udp_recvmsg", 6, "udp_recvmsg_begin")];
    "udpv6_recv": "UDP to user, IPv6",
        else "what UDP sockets receive over IPv6",
        needs MESSAGE, vital false,
        [fexit("udpv6_recvmsg", 4, "udpv6_recvmsg_4"), fexit("udpv6_recvmsg", 5, "udpv6_recvmsg_5"),
         fexit("udpv6_recvmsg", 6, "udpv6_recvmsg_6")];
    "udpv6_recv_begin": "that a UDP datagram is counted once, IPv6",
        else "the difference between fragmented datagrams and twice as many",
        needs &[], vital false,
        [fentry("udpv6_recvmsg", 4, "udpv6_recvmsg_begin"),
         fentry("udpv6_recvmsg", 5, "udpv6_recvmsg_begin"),
         fentry("udpv6_recvmsg", 6, "udpv6_recvmsg_begin")];
    "block_dma": "what disks are asked to move by DMA",
        else "DMA of disks",
        needs &[Requirement::Task, Requirement::PreemptCount, Requirement::Bio], vital false,
        [tracepoint("block_bio_queue", 1, "block_bio_queue"),
         tracepoint("block_bio_queue", 2, "block_bio_queue_of")];
    "net_dma_out": "what network interfaces are given to send",
        else "DMA of sends",
        needs DEVICE, vital false,
        [tracepoint("net_dev_start_xmit", 2, "net_dev_start_xmit")];
    "net_dma_in": "what network interfaces received, by way of NAPI",
        else "DMA of receives",
        needs DEVICE, vital false,
        [tracepoint("napi_gro_receive_entry", 1, "napi_gro_receive_entry")];
    "net_dma_in_frags": "the same, of drivers that hand over pages",
        else "their DMA of receives",
        needs DEVICE, vital false,
        [tracepoint("napi_gro_frags_entry", 1, "napi_gro_frags_entry")];
    "net_dma_in_plain": "the same, of drivers that do not merge packets",
        else "their DMA of receives",
        needs DEVICE, vital false,
        [tracepoint("netif_receive_skb_entry", 1, "netif_receive_skb_entry")];
    "net_dma_in_list": "the same, of drivers that hand over lists",
        else "their DMA of receives",
        needs DEVICE, vital false,
        [tracepoint("netif_receive_skb_list_entry", 1, "netif_receive_skb_list_entry")];
    "net_dma_in_rx": "the same, of drivers without NAPI",
        else "their DMA of receives",
        needs DEVICE, vital false,
        [tracepoint("netif_rx_entry", 1, "netif_rx_entry")];
    "pio": "what the CPU moves to and from ATA disks",
        else "PIO",
        needs &[], vital false,
        [kprobe("ata_sff_data_xfer32", 4, "ata_sff_data_xfer32")];
    "pio_narrow": "the same, in words of 16 bits",
        else "PIO of old ports",
        needs &[], vital false,
        [kprobe("ata_sff_data_xfer", 4, "ata_sff_data_xfer")];
    "cgroups": "which cgroup, and so which service, a process was moved to",
        else "the service of processes that change it after their first event",
        needs &[Requirement::Task, Requirement::Cgroup], vital false,
        [tracepoint("cgroup_attach_task", 4, "cgroup_attach_task")];
    "new_cgroups": "under a filter, cgroups of its units and inside its cgroups",
        else "processes of units that start later, and of new cgroups, under a filter",
        needs &[Requirement::Task, Requirement::Cgroup, Requirement::CgroupTree], vital false,
        [tracepoint("cgroup_mkdir", 2, "cgroup_mkdir")];
    "old_cgroups": "under a filter, cgroups that are gone",
        else "room for new cgroups under a filter",
        needs &[Requirement::Task, Requirement::Cgroup, Requirement::CgroupTree], vital false,
        [tracepoint("cgroup_rmdir", 2, "cgroup_rmdir")];
    "socket_head": "socket to pipe: heads of socket buffers, which splice copies",
        else "their copies, which splice's zero-copy bytes then include",
        needs &[Requirement::Task, Requirement::Skb, Requirement::SkbHead], vital false,
        [fexit("skb_splice_bits", 6, "skb_splice_bits")];
};

macro_rules! syscalls {
    ($($program:literal $target:literal $number:ident $method:ident;)*) => {
        &[$(Hook {
            name: $program,
            counts: concat!("calls and payload of ", $program),
            lost: concat!("calls and payload of ", $program),
            needs: &[Requirement::Task],
            vital: false,
            variants: &[fexit($target, 1, $program)],
            syscall: Some(Syscall {
                number: libc::$number,
                method: Method::$method,
                returns_bytes: !matches!(
                    libc::$number,
                    libc::SYS_mmap
                        | libc::SYS_sendmmsg
                        | libc::SYS_recvmmsg
                        | libc::SYS_io_uring_enter
                ),
                compares: matches!(
                    libc::$number,
                    libc::SYS_sendfile
                        | libc::SYS_splice
                        | libc::SYS_tee
                        | libc::SYS_vmsplice
                        | libc::SYS_copy_file_range
                        | libc::SYS_sendmmsg
                        | libc::SYS_recvmmsg
                ),
            }),
        }),*]
    };
}

/// The system calls that have a method.
pub const SYSCALLS: &[Hook] = syscalls! {
    "sys_read" "__x64_sys_read" SYS_read Read;
    "sys_pread64" "__x64_sys_pread64" SYS_pread64 Read;
    "sys_readv" "__x64_sys_readv" SYS_readv Read;
    "sys_preadv" "__x64_sys_preadv" SYS_preadv Read;
    "sys_preadv2" "__x64_sys_preadv2" SYS_preadv2 Read;
    "sys_write" "__x64_sys_write" SYS_write Write;
    "sys_pwrite64" "__x64_sys_pwrite64" SYS_pwrite64 Write;
    "sys_writev" "__x64_sys_writev" SYS_writev Write;
    "sys_pwritev" "__x64_sys_pwritev" SYS_pwritev Write;
    "sys_pwritev2" "__x64_sys_pwritev2" SYS_pwritev2 Write;
    "sys_mmap" "__x64_sys_mmap" SYS_mmap Mmap;
    "sys_sendfile" "__x64_sys_sendfile64" SYS_sendfile Sendfile;
    "sys_splice" "__x64_sys_splice" SYS_splice Splice;
    "sys_tee" "__x64_sys_tee" SYS_tee Tee;
    "sys_vmsplice" "__x64_sys_vmsplice" SYS_vmsplice Vmsplice;
    "sys_copy_file_range" "__x64_sys_copy_file_range" SYS_copy_file_range CopyFileRange;
    "sys_sendto" "__x64_sys_sendto" SYS_sendto Send;
    "sys_sendmsg" "__x64_sys_sendmsg" SYS_sendmsg Send;
    "sys_sendmmsg" "__x64_sys_sendmmsg" SYS_sendmmsg Send;
    "sys_recvfrom" "__x64_sys_recvfrom" SYS_recvfrom Recv;
    "sys_recvmsg" "__x64_sys_recvmsg" SYS_recvmsg Recv;
    "sys_recvmmsg" "__x64_sys_recvmmsg" SYS_recvmmsg Recv;
    "sys_process_vm_readv" "__x64_sys_process_vm_readv" SYS_process_vm_readv ProcessVm;
    "sys_process_vm_writev" "__x64_sys_process_vm_writev" SYS_process_vm_writev ProcessVm;
    "sys_io_uring_enter" "__x64_sys_io_uring_enter" SYS_io_uring_enter IoUring;
};

/// What stands in for the system calls and the copy functions where nothing can be attached to functions.
pub const DERIVED: &[Hook] = hooks! {
    "sys_exit": "calls and payload of all methods; what they copied, derived from what they returned",
        else "calls, payload and copies",
        needs &[Requirement::Task], vital true,
        [tracepoint("sys_exit", 2, "sys_exit")];
};

/// Every row that is tried for this kind of evidence.
pub fn all(evidence: Evidence) -> impl Iterator<Item = &'static Hook> {
    let calls = match evidence {
        Evidence::Measured => SYSCALLS,
        Evidence::Derived => DERIVED,
    };
    HOOKS.iter().chain(calls)
}

/// What programs of any row are attached to, in these ways.
pub fn targets(by: impl Fn(AttachMode) -> bool) -> impl Iterator<Item = &'static str> {
    let rows = [HOOKS, SYSCALLS, DERIVED].into_iter().flatten();
    let variants = rows.flat_map(|hook| hook.variants);
    variants
        .filter(move |variant| by(variant.attach))
        .map(|variant| variant.target)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique_and_every_row_has_a_form() {
        let mut names = HashSet::new();
        for hook in all(Evidence::Measured).chain(DERIVED) {
            assert!(names.insert(hook.name), "{} twice", hook.name);
            assert!(!hook.variants.is_empty(), "{} has no form", hook.name);
        }
    }
}
