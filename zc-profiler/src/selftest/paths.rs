//! The paths: one row each.

use std::io;

use super::{Numbers, Presence, work};

/// Bytes that one call moves: no multiple of a page, and less than a pipe or a socket holds.
pub const CHUNK: usize = 49_157;
/// How often.
pub const CALLS: u64 = 4;
/// Altogether.
pub const PAYLOAD: u64 = CHUNK as u64 * CALLS;
/// What one call reads of a file in /proc, which is as long as that on every kernel.
pub const PROC_CHUNK: usize = 16;

/// Work that is ready to be done, any number of times.
pub(super) type Work = Box<dyn FnMut() -> io::Result<()>>;

/// One way through the kernel, what must be attached to count it, and what it must count.
#[derive(Debug)]
pub struct Path {
    /// The value of the label `path`.
    pub name: &'static str,
    /// Whether `serve` takes it too at its start.
    pub brief: bool,
    /// Hooks without which it cannot be counted.
    pub needs: &'static [&'static str],
    /// Hooks that matter on kernels that have what they attach to.
    pub uses: &'static [&'static str],
    /// What every run of the work adds to the ledger; all else must be zero.
    expected: &'static [Part],
    /// Numbers that the kernel keeps account of, the first of which the work must move.
    pub(super) accounts: &'static [&'static str],
    /// Makes what the work needs, in the worker.
    pub(super) prepare: fn(&std::path::Path) -> io::Result<Work>,
}

/// Some of what a path adds.
type Part = &'static [(&'static str, u64)];

impl Path {
    /// The first of its hooks without which it would not be counted, and which is not there.
    pub(super) fn missing(&self, presence: &dyn Fn(&str) -> Presence) -> Option<&'static str> {
        let needed = self
            .needs
            .iter()
            .find(|hook| presence(hook) != Presence::Attached);
        let used = self
            .uses
            .iter()
            .find(|hook| presence(hook) == Presence::Failed);
        needed.or(used).copied()
    }

    /// Whether something that system calls return tells of it.
    pub(super) fn is_derivable(&self) -> bool {
        let payload = |(name, _): &(&str, u64)| name.ends_with(".payload_bytes");
        self.accounts.is_empty() && self.expected.iter().copied().flatten().any(payload)
    }

    /// Every hook that it proves where it is exact.
    pub fn hooks(&self) -> impl Iterator<Item = &'static str> {
        self.needs.iter().chain(self.uses).copied()
    }

    pub(super) fn expected(&self) -> Numbers {
        self.expected
            .iter()
            .copied()
            .flatten()
            .map(|(name, count)| ((*name).to_owned(), *count))
            .collect()
    }
}

macro_rules! part {
    ($name:ident $method:literal: $($direction:literal),*) => {
        const $name: Part = &[
            (concat!($method, ".calls"), CALLS),
            (concat!($method, ".payload_bytes"), PAYLOAD),
            $((concat!($method, ".", $direction), PAYLOAD)),*
        ];
    };
}

part!(READ "read": "to_user_bytes");
part!(WRITE "write": "from_user_bytes");
part!(SEND "send": "from_user_bytes");
part!(RECV "recv": "to_user_bytes");
part!(SENDFILE_BY_REFERENCE "sendfile": "zero_copy_bytes");
part!(SENDFILE_COPIED "sendfile": "in_kernel_bytes");
part!(COPY_FILE_RANGE "copy_file_range": "in_kernel_bytes");
part!(VMSPLICE "vmsplice": "to_user_bytes");
/// Into the pipe and out of it.
const SPLICE: Part = &[
    ("splice.calls", 2 * CALLS),
    ("splice.payload_bytes", 2 * PAYLOAD),
    ("splice.zero_copy_bytes", 2 * PAYLOAD),
];
const MMAP: Part = &[("mmap.calls", CALLS)];
/// Each page of a chunk, the last one whole.
const PAGES_COPIED: Part = &[(
    "mmap.in_kernel_bytes",
    CALLS * CHUNK.next_multiple_of(4096) as u64,
)];
const PROC: Part = &[
    ("read.calls", CALLS),
    ("read.payload_bytes", CALLS * PROC_CHUNK as u64),
    ("read.to_user_bytes", CALLS * PROC_CHUNK as u64),
];

macro_rules! paths {
    ($($name:literal $brief:ident: [$($needs:literal),*] $([$($uses:literal),*])?,
        [$($part:ident),*], [$($account:literal),*], $prepare:path;)*) => {
        &[$(Path {
            name: $name,
            brief: paths!(@ $brief),
            needs: &[$($needs),*],
            uses: &[$($($uses),*)?],
            expected: &[$($part),*],
            accounts: &[$($account),*],
            prepare: $prepare,
        }),*]
    };
    (@ brief) => { true };
    (@ full) => { false };
}

/// Every path, in the order of `doctor`'s table: its name, whether `serve` takes it, the hooks that
/// it needs and uses, what it adds to the ledger, the accounts to compare with, and its work.
pub const PATHS: &[Path] = paths! {
    "page cache read" brief: ["file_read", "sys_pread64"],
        [READ], [], work::page_cache_read;
    "page cache write" full: ["file_write", "sys_pwrite64"],
        [WRITE], [], work::page_cache_write;
    "tmpfs read" brief: ["shmem_read", "sys_pread64"],
        [READ], [], work::tmpfs_read;
    "tmpfs write" brief: ["file_write", "sys_pwrite64"],
        [WRITE], [], work::tmpfs_write;
    "pipe" brief: ["pipe_read", "pipe_write", "sys_read", "sys_write"],
        [READ, WRITE], [], work::pipe;
    "TCP" brief: ["tcp_send", "socket_recv", "sys_sendto", "sys_recvfrom"],
        [SEND, RECV], [], work::tcp;
    "UNIX stream" brief: ["unix_send", "socket_recv", "sys_sendto", "sys_recvfrom"],
        [SEND, RECV], [], work::unix_stream;
    "sendfile to TCP" brief: ["tcp_send", "socket_recv", "sys_sendfile", "sys_recvfrom"]
        ["socket_splice"],
        [SENDFILE_BY_REFERENCE, RECV], [], work::sendfile_to_tcp;
    "splice to TCP" full: ["tcp_send", "socket_recv", "sys_splice", "sys_recvfrom"]
        ["socket_splice"],
        [SPLICE, RECV], [], work::splice_to_tcp;
    "sendfile to file" full: ["file_write", "sys_sendfile"],
        [SENDFILE_COPIED], [], work::sendfile_to_file;
    "copy_file_range" full: ["file_write", "sys_copy_file_range"],
        [COPY_FILE_RANGE], [], work::copy_file_range;
    "vmsplice out" full: ["pipe_to_user", "pipe_write", "sys_vmsplice", "sys_write"],
        [WRITE, VMSPLICE], [], work::vmsplice_out;
    "mmap" full: ["sys_mmap"],
        [MMAP], [], work::mmap;
    "private mapping" full: ["private_write", "sys_mmap"],
        [MMAP, PAGES_COPIED], [], work::private_mapping;
    "copy-on-write" full: ["copy_on_write", "sys_mmap"]
        ["copy_on_write_enter", "copy_on_write_leave"],
        [MMAP, PAGES_COPIED], [], work::copy_on_write;
    "/proc" full: ["seq_read", "sys_pread64"],
        [PROC], [], work::proc_read;
    "page faults" full: ["page_fault", "sys_mmap"],
        [MMAP], ["page_faults.minor", "page_faults.major"], work::page_faults;
    "context switches" full: ["sched_switch"],
        [], ["context_switches.voluntary", "context_switches.involuntary"],
        work::context_switches;
};
