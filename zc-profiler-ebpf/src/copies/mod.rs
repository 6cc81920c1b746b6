//! The copy functions: kernel functions that tell the bytes of one copy exactly.
//!
//! Each has an exit program per prototype; the hook table of user space picks the one whose number
//! of arguments the running kernel's BTF shows, since the return value follows the last argument.

pub mod copy_on_write;
pub mod datagrams;
pub mod direct_io;
pub mod io_uring;

use zc_profiler_ebpf::{Direction, Dropped, Method, Running};

use crate::{
    devices::writeback,
    kernel::{
        Charge, Side, Task,
        fields::{at, field, layout},
    },
    ledger::{
        buffer,
        call::{self, program},
        entry,
    },
};

program! {
    /// `ssize_t filemap_read(struct kiocb *iocb, struct iov_iter *iter, ssize_t already_read)`,
    /// from 5.12 on; before, `generic_file_buffered_read` of the same form.
    ///
    /// Counts page cache to user. Without it, reads of files on most file systems are not counted.
    filemap_read, "filemap_read",
    |ctx| moved(ctx.arg::<i64>(3) - ctx.arg::<i64>(2).max(0), ctx.arg(1), Direction::ToUser)
}

program! {
    /// `ssize_t shmem_file_read_iter(struct kiocb *iocb, struct iov_iter *to)`, on all kernels.
    ///
    /// Counts tmpfs, memfd and shared memory to user. Without it, reads of those are not counted.
    shmem_file_read_iter, "shmem_file_read_iter",
    |ctx| moved(ctx.arg(2), ctx.arg(1), Direction::ToUser)
}

program! {
    /// `ssize_t generic_perform_write(struct kiocb *iocb, struct iov_iter *i)`, from 5.19 on.
    ///
    /// Counts user to page cache, and page to page where a file is written from a pipe (splice,
    /// sendfile, `copy_file_range`). Without it, writes on ext4, tmpfs and most others are not
    /// counted.
    generic_perform_write, "generic_perform_write",
    |ctx| wrote(ctx.arg(2), ctx.arg(1), field(ctx.arg(0), at!(kiocb_file)))
}

program! {
    /// `ssize_t generic_perform_write(struct file *file, struct iov_iter *i, loff_t pos)`, before
    /// 5.19.
    generic_perform_write_at, "generic_perform_write",
    |ctx| wrote(ctx.arg(3), ctx.arg(1), ctx.arg(0))
}

program! {
    /// `ssize_t iomap_file_buffered_write(struct kiocb *iocb, struct iov_iter *i, const struct
    /// iomap_ops *ops)`, to 6.11.
    ///
    /// Counts as `generic_perform_write` does, for xfs and others. Without it, their writes are not
    /// counted.
    iomap_file_buffered_write, "iomap_file_buffered_write",
    |ctx| wrote(ctx.arg(3), ctx.arg(1), field(ctx.arg(0), at!(kiocb_file)))
}

program! {
    /// The same with `void *private`, from 6.12 on.
    iomap_file_buffered_write_4, "iomap_file_buffered_write",
    |ctx| wrote(ctx.arg(4), ctx.arg(1), field(ctx.arg(0), at!(kiocb_file)))
}

program! {
    /// The same with `const struct iomap_write_ops *write_ops` before it, from 6.17 on.
    iomap_file_buffered_write_5, "iomap_file_buffered_write",
    |ctx| wrote(ctx.arg(5), ctx.arg(1), field(ctx.arg(0), at!(kiocb_file)))
}

program! {
    /// `ssize_t pipe_read(struct kiocb *iocb, struct iov_iter *to)`; 7.x: `anon_pipe_read`.
    ///
    /// Counts pipe to user. Without it, reads of pipes are not counted.
    pipe_read, "pipe_read",
    |ctx| moved(ctx.arg(2), ctx.arg(1), Direction::ToUser)
}

program! {
    /// `ssize_t pipe_write(struct kiocb *iocb, struct iov_iter *from)`; 7.x: `anon_pipe_write`.
    ///
    /// Counts user to pipe. Without it, writes to pipes are not counted.
    pipe_write, "pipe_write",
    |ctx| moved(ctx.arg(2), ctx.arg(1), Direction::FromUser)
}

program! {
    /// `int pipe_to_user(struct pipe_inode_info *pipe, struct pipe_buffer *buf, struct splice_desc
    /// *sd)`, on all kernels.
    ///
    /// Counts pipe to user for vmsplice. Without it, those copies are not counted.
    pipe_to_user, "pipe_to_user",
    |ctx| copied(Direction::ToUser, i64::from(ctx.arg::<i32>(3)))
}

program! {
    /// `int skb_copy_datagram_iter(const struct sk_buff *skb, int offset, struct iov_iter *to, int
    /// len)`, on all kernels.
    ///
    /// Counts socket to user: TCP, UNIX, fragmented UDP. Without it, none of them is counted.
    skb_copy_datagram_iter, "skb_copy_datagram_iter",
    |ctx| if ctx.arg::<i32>(4) == 0 && !call::in_datagram() {
        moved_by_value(i64::from(ctx.arg::<i32>(3)), ctx.arg(2), Direction::ToUser);
    }
}

program! {
    /// `int skb_copy_datagram_from_iter(struct sk_buff *skb, int offset, struct iov_iter *from, int
    /// len)`, on all kernels.
    ///
    /// Counts user to UNIX sockets. Without it, those sends are not counted.
    skb_copy_datagram_from_iter, "skb_copy_datagram_from_iter",
    |ctx| if ctx.arg::<i32>(4) == 0 {
        moved(i64::from(ctx.arg::<i32>(3)), ctx.arg(2), Direction::FromUser);
    }
}

program! {
    /// `ssize_t seq_read_iter(struct kiocb *iocb, struct iov_iter *iter)`, from 5.10 on.
    ///
    /// Counts /proc and similar files to user. Without it, their reads are not counted.
    seq_read_iter, "seq_read_iter",
    |ctx| moved_by_value(ctx.arg(2), ctx.arg(1), Direction::ToUser)
}

program! {
    /// `ssize_t get_random_bytes_user(struct iov_iter *iter)`, from 5.19 on and in the stable
    /// releases before.
    ///
    /// Counts /dev/random, /dev/urandom and getrandom to user. Without it, those are not counted.
    get_random_bytes_user, "get_random_bytes_user",
    |ctx| moved_by_value(ctx.arg(1), ctx.arg(0), Direction::ToUser)
}

program! {
    /// `int tcp_sendmsg_locked(struct sock *sk, struct msghdr *msg, size_t size)`, on all kernels.
    ///
    /// Counts user to TCP, less what went by reference inside it. Without it, TCP sends are not
    /// counted.
    tcp_sendmsg_locked, "tcp_sendmsg_locked",
    |ctx| {
        let returned = i64::from(ctx.arg::<i32>(3)).max(0);
        let by_reference = call::current()
            .map_or(0, |call| core::mem::take(&mut call.unreturned)) as i64;
        let message: *const u8 = ctx.arg(1);
        let iter = message.wrapping_add(layout!(msghdr_msg_iter) as usize);
        moved(returned - by_reference, iter, Direction::FromUser);
    }
}

program! {
    /// `int skb_zerocopy_iter_stream(struct sock *sk, struct sk_buff *skb, struct msghdr *msg, int
    /// len, struct ubuf_info *uarg)`, on all kernels.
    ///
    /// Counts what `MSG_ZEROCOPY` sends by reference, so that `tcp_sendmsg_locked` leaves it out.
    /// Without it, such sends are counted as copied.
    skb_zerocopy_iter_stream, "skb_zerocopy_iter_stream",
    |ctx| passed_by_reference(i64::from(ctx.arg::<i32>(5)))
}

program! {
    /// The same with `struct net_devmem_dmabuf_binding *binding`, from 6.16 on.
    skb_zerocopy_iter_stream_6, "skb_zerocopy_iter_stream",
    |ctx| passed_by_reference(i64::from(ctx.arg::<i32>(6)))
}

program! {
    /// `ssize_t skb_splice_from_iter(struct sk_buff *skb, struct iov_iter *iter, ssize_t maxsize,
    /// gfp_t gfp)`, from 6.5 on.
    ///
    /// Counts what sendfile and splice hand to a socket by reference, so that `tcp_sendmsg_locked`
    /// leaves it out. Without it, they are counted as copied.
    skb_splice_from_iter, "skb_splice_from_iter",
    |ctx| passed_by_reference(ctx.arg(4))
}

program! {
    /// The same without `gfp_t gfp`, from 6.17 on.
    skb_splice_from_iter_3, "skb_splice_from_iter",
    |ctx| passed_by_reference(ctx.arg(3))
}

/// A copy function of writes to the page cache: `bytes` of `iter` to `file`.
#[inline(always)]
fn wrote(bytes: i64, iter: *const u8, file: *const u8) {
    if bytes > 0 {
        writeback::wrote(file);
        moved(bytes, iter, Direction::FromUser);
    }
}

/// A copy function moved `bytes` through `iter`, which says whether and between what it copied.
#[inline(always)]
pub fn moved(bytes: i64, iter: *const u8, user: Direction) {
    if bytes > 0 {
        moved_to(Side::of(iter), bytes, user);
    }
}

/// The same if the iterator's side is known.
#[inline(always)]
pub fn moved_to(side: Side, bytes: i64, user: Direction) {
    if side == Side::User {
        copied(user, bytes);
    } else {
        moved_otherwise(side, bytes, user);
    }
}

/// The same if it is not user memory. A function of its own, so that the common copy has one direction.
#[cold]
#[inline(never)]
fn moved_otherwise(side: Side, bytes: i64, user: Direction) {
    let direction = match side {
        Side::Kernel if !io_uring::has_fixed_buffers() => Direction::InKernel,
        Side::Kernel | Side::User => user,
        Side::None => return,
        Side::Unknown => return unknown(bytes),
    };
    copied(direction, bytes);
}

/// Bytes went through an iterator of a type that this program does not know.
#[inline(always)]
fn unknown(bytes: i64) {
    if !entry::enabled() {
        return;
    }
    entry::dropped(Dropped::UnknownIter, 1);
    entry::dropped(Dropped::UnknownIterBytes, bytes.max(0) as u64);
    if !call::in_request() && Task::current().is_collected() {
        call::moved_unknown();
    }
}

/// The same for a copy function that has no pages to pass: a pipe's iterator gets a copy.
#[inline(always)]
pub fn moved_by_value(bytes: i64, iter: *const u8, user: Direction) {
    if Side::takes_pages(iter) {
        copied(Direction::InKernel, bytes);
    } else {
        moved(bytes, iter, user);
    }
}

/// The running task copied `bytes`.
#[inline(always)]
pub fn copied(direction: Direction, bytes: i64) {
    if bytes <= 0 {
        return;
    }
    let charge = Task::charge();
    let Some(running) = buffer::running() else {
        return;
    };
    // SAFETY: this CPU's value.
    let request = unsafe { (*running).call.request };
    // Before the system call, which is any that the task happened to return from: a request can run
    // on the way back to user mode.
    let charge = if request == 0 {
        charge
    } else {
        Charge(Method::IoUring as u64)
    };
    if !buffer::add_copy(running, charge.0, direction, bytes as u64) {
        copied_otherwise(running, charge, direction, bytes);
    }
}

/// The same if it is charged to no method. A function of its own, so that the common copy keeps no
/// registers for it.
#[cold]
#[inline(never)]
fn copied_otherwise(running: *mut Running, charge: Charge, direction: Direction, bytes: i64) {
    if charge == Charge::KERNEL {
        copied_by_kernel(direction, bytes);
    } else if charge.is_call() {
        call::copied(running, direction, bytes as u64);
    }
}

#[inline(always)]
pub fn copied_by_kernel(direction: Direction, bytes: i64) {
    if bytes > 0
        && let Some(entry) = entry::kernel()
    {
        entry.add_copy(Method::Other as u8, direction, bytes as u64);
    }
}

#[inline(always)]
pub fn passed_by_reference(bytes: i64) {
    if bytes > 0 {
        call::passed_by_reference(bytes as u64);
    }
}
