//! Copies between socket buffers, and whose they are.
//!
//! They happen in interrupts, on top of whatever task runs, and in queues that one process drains for
//! another. So they belong to the socket: to the process that used it last, else to the kernel.

use aya_ebpf::{
    macros::{kprobe, map},
    maps::{HashMap, PerCpuArray},
    programs::ProbeContext,
};
use zc_profiler_ebpf::{ABSENT, Direction, Dropped, Fallback, Method, Owner, ProcessKey, Use};

use crate::{
    copies,
    kernel::{
        self, Task,
        fields::{Structure, Typed, Untyped, address, at, field, layout, probe},
        in_interrupt,
    },
    ledger::{
        buffer,
        call::{entry_program, program, program_anywhere},
        entry::{self, Entry},
        last_owner,
    },
};

/// By the address of the `struct sock`, which is only ever compared.
#[map]
static SOCKETS: HashMap<u64, Owner> = HashMap::with_max_entries(32_768, 0);

/// A copy that is about to happen between two buffers of a receive queue.
#[repr(C)]
struct Coalescing {
    from: u64,
    /// Where it will go, so that another copy is not mistaken for it.
    to: u64,
    socket: u64,
}

#[map]
static COALESCING: PerCpuArray<Coalescing> = PerCpuArray::with_max_entries(1, 0);

/// Notes that the running task uses a socket.
#[inline(always)]
fn remember(socket: u64, used: Use) {
    let task = Task::current();
    let Some(method) = task.method() else {
        return;
    };
    let Some(running) = buffer::running() else {
        return;
    };
    let now = last_owner::now(used, socket, [method.into(), 0]);
    if last_owner::is_known(running, used, &now) || !entry::enabled() {
        return;
    }
    let method = u32::from(method);
    let key = task.process();
    if let Some(owner) = SOCKETS.get_ptr_mut(&socket) {
        // SAFETY: a live map value, aligned to 8; each store is whole, and written only if it changes.
        unsafe {
            let process = owner.cast::<u64>();
            let this = u64::from(key.pid) | u64::from(key.start) << 32;
            if process.read_volatile() != this {
                // What interrupts do for it may come before its own first delivery.
                let _ = entry::of(task);
                process.write_volatile(this);
                last_owner::changed(used);
            }
            let last = match used {
                Use::Send => &raw mut (*owner).sent,
                Use::Receive | Use::Write => &raw mut (*owner).received,
            };
            if last.read_volatile() != method {
                last.write_volatile(method);
                last_owner::changed(used);
            }
        }
        last_owner::keep(running, used, now);
        return;
    }
    // What interrupts do for it may come before its own first delivery. Under a filter the sockets of
    // other processes would only take room.
    if entry::of(task).is_none() {
        return;
    }
    let other = Method::Other as u32;
    let owner = Owner {
        pid: key.pid,
        start: key.start,
        sent: if matches!(used, Use::Send) {
            method
        } else {
            other
        },
        received: if matches!(used, Use::Send) {
            other
        } else {
            method
        },
    };
    if SOCKETS.insert(&socket, &owner, 0).is_err() {
        entry::dropped(Dropped::SocketMapFull, 1);
    }
    last_owner::changed(used);
}

macro_rules! uses {
    ($($name:ident $function:literal $used:ident;)*) => {$(
        entry_program! {
            #[doc = concat!("Entry of `", $function, "(struct sock *sk, ...)`.")]
            ///
            /// Notes whose socket it is. Without it, work for it in interrupts is charged to the kernel.
            $name, $function, |ctx| remember(ctx.arg(0), Use::$used)
        }

        #[doc = concat!("The same by kprobe, for [`", stringify!($name), "`].")]
        #[kprobe]
        pub fn ${concat($name, _kprobe)}(ctx: ProbeContext) -> u32 {
            if let Some(socket) = ctx.arg(0) {
                remember(socket, Use::$used);
            }
            0
        }
    )*};
}

uses! {
    owner_tcp_send "tcp_sendmsg_locked" Send;
    owner_tcp_sendpages "do_tcp_sendpages" Send;
    owner_tcp_recv "tcp_recvmsg" Receive;
    owner_udp_send "udp_sendmsg" Send;
    owner_udpv6_send "udpv6_sendmsg" Send;
}

program_anywhere! { fentry FEntryContext,
    /// `void inet_sock_destruct(struct sock *sk)`, on all kernels.
    ///
    /// Forgets whose socket it was. Without it, the map fills up and a new socket at the same address is
    /// charged to the old one's process until it is used.
    owner_gone, "inet_sock_destruct", |ctx| {
        let _ = SOCKETS.remove(ctx.arg::<u64>(0));
        last_owner::changed(Use::Send);
    }
}

/// The same by kprobe.
#[kprobe]
pub fn owner_gone_kprobe(ctx: ProbeContext) -> u32 {
    if let Some(socket) = ctx.arg::<u64>(0) {
        let _ = SOCKETS.remove(socket);
        last_owner::changed(Use::Send);
    }
    0
}

/// The process of a socket, and its last method of sending and of receiving.
#[inline(always)]
fn owner(socket: u64) -> Option<(Entry, Owner)> {
    if socket == 0 {
        return None;
    }
    let owner = SOCKETS.get_ptr(&socket)?;
    // SAFETY: a live map value.
    let owner = unsafe { owner.read_volatile() };
    let entry = entry::at(&ProcessKey {
        pid: owner.pid,
        start: owner.start,
    })?;
    Some((entry, owner))
}

/// The entry that work done for a socket is charged to.
#[inline(always)]
pub fn charged(socket: u64) -> Option<Entry> {
    owner(socket).map_or_else(entry::kernel, |(entry, _)| Some(entry))
}

#[inline(always)]
fn copied(socket: u64, used: Use, bytes: i64, fallback: Option<Fallback>) {
    if bytes <= 0 || !entry::enabled() {
        return;
    }
    if let Some((entry, owner)) = owner(socket) {
        let method = match used {
            Use::Send => owner.sent,
            Use::Receive | Use::Write => owner.received,
        };
        entry.add_copy(method as u8, Direction::InKernel, bytes as u64);
        if let Some(reason) = fallback {
            entry.add_fallback(reason, bytes as u64);
        }
    } else if socket != 0 || in_interrupt() {
        copies::copied_by_kernel(Direction::InKernel, bytes);
        if let Some(reason) = fallback
            && let Some(entry) = entry::kernel()
        {
            entry.add_fallback(reason, bytes as u64);
        }
    } else {
        copies::copied(Direction::InKernel, bytes);
    }
}

/// A request of an `io_uring` passed these bytes by reference in vain.
#[inline(always)]
fn copied_for_request(request: u64, bytes: u64) {
    if bytes == 0 || !entry::enabled() {
        return;
    }
    let mut task: u64 = probe(request + u64::from(layout!(io_kiocb_task)));
    if layout!(io_uring_task_task) != ABSENT {
        task = probe(task + u64::from(layout!(io_uring_task_task)));
    }
    let entry = entry::at(&kernel::process_of(task)).or_else(entry::kernel);
    if let Some(entry) = entry {
        entry.add_copy(Method::IoUring as u8, Direction::InKernel, bytes);
        entry.add_fallback(Fallback::ZerocopyCopied, bytes);
    }
}

program_anywhere! { fentry FEntryContext,
    /// `bool skb_try_coalesce(struct sk_buff *to, struct sk_buff *from, bool *fragstolen, int
    /// *delta_truesize)`, on all kernels.
    ///
    /// Notes to which receiver's queue the copy inside belongs. Without it, such copies are charged to
    /// the kernel.
    skb_try_coalesce, "skb_try_coalesce", |ctx| {
        let (to, from): (*const u8, *const u8) = (ctx.arg(0), ctx.arg(1));
        let length: u32 = field(from, at!(skb_len));
        let tail: u32 = field(to, at!(skb_tail));
        let end: u32 = field(to, at!(skb_end));
        let paged: u32 = field(to, at!(skb_data_len));
        // Otherwise pages change hands, and nothing is copied.
        if paged == 0
            && u64::from(tail) + u64::from(length) <= u64::from(end)
            && let Some(slot) = COALESCING.get_ptr_mut(0)
        {
            let head: u64 = field(to, at!(skb_head));
            let socket: u64 = field(to, at!(skb_sk));
            // SAFETY: this CPU's value; the copy follows at once, with bottom halves off.
            unsafe {
                (*slot).from = ctx.arg(1);
                (*slot).to = head + u64::from(tail);
                (*slot).socket = socket;
            }
        }
    }
}

program_anywhere! { fexit FExitContext,
    /// `int skb_copy_bits(const struct sk_buff *skb, int offset, void *to, int len)`, on all kernels.
    ///
    /// Counts copies between socket buffers: segmentation in software, coalescing, header pulls.
    /// Without it, those are not counted.
    skb_copy_bits, "skb_copy_bits", |ctx| {
        if ctx.arg::<i32>(4) == 0 {
            coalesced_or_split(ctx.arg(0), ctx.arg(2), i64::from(ctx.arg::<i32>(3)));
        }
    }
}

#[inline(always)]
fn coalesced_or_split(from: *const u8, to: u64, bytes: i64) {
    if let Some(slot) = COALESCING.get_ptr_mut(0) {
        // SAFETY: this CPU's value.
        let socket = unsafe {
            if (*slot).from == from as u64 && (*slot).to == to {
                (*slot).from = 0;
                (*slot).socket
            } else {
                0
            }
        };
        if socket != 0 {
            copied(socket, Use::Receive, bytes, None);
            return;
        }
    }
    between_buffers(Typed(from), bytes);
}

program_anywhere! { fentry FEntryContext,
    /// `__wsum skb_copy_and_csum_bits(const struct sk_buff *skb, int offset, u8 *to, int len)`, on all
    /// kernels, before 5.11 with `__wsum csum`; it cannot fail.
    ///
    /// Counts what `skb_copy_bits` does for devices that cannot checksum either. Without it, their
    /// segmentation is not counted.
    skb_copy_and_csum_bits, "skb_copy_and_csum_bits", |ctx| {
        between_buffers(Typed(ctx.arg(0)), i64::from(ctx.arg::<i32>(3)));
    }
}

/// The same by kprobe.
#[kprobe]
pub fn skb_copy_and_csum_bits_kprobe(ctx: ProbeContext) -> u32 {
    if let (Some(skb), Some(bytes)) = (ctx.arg(0), ctx.arg::<i32>(3)) {
        between_buffers(Untyped(skb), i64::from(bytes));
    }
    0
}

#[inline(always)]
fn between_buffers(skb: impl Structure, bytes: i64) {
    let socket: u64 = skb.read(at!(skb_sk));
    let fallback = if socket != 0 && by_reference(skb) {
        Some(Fallback::SgOff)
    } else {
        None
    };
    copied(socket, Use::Send, bytes, fallback);
}

/// Whether a buffer holds pages that user space still sees.
#[inline(always)]
fn by_reference(skb: impl Structure) -> bool {
    let flags: u8 = probe(shared_info(skb) + u64::from(layout!(shinfo_flags)));
    u32::from(flags) & layout!(shinfo_shared) != 0
}

/// The address of its `skb_shared_info`.
#[inline(always)]
fn shared_info(skb: impl Structure) -> u64 {
    let head: u64 = skb.read(at!(skb_head));
    let end: u32 = skb.read(at!(skb_end));
    head + u64::from(end)
}

program_anywhere! { fentry FEntryContext,
    /// `int skb_copy_ubufs(struct sk_buff *skb, gfp_t gfp_mask)`, on all kernels; at entry, since the
    /// function replaces what it copies.
    ///
    /// Counts the copy that `MSG_ZEROCOPY` data suffers when it is delivered locally. Without it, such
    /// sends look cheaper than they are.
    skb_copy_ubufs, "skb_copy_ubufs", |ctx| {
        made_private(Typed(ctx.arg(0)));
    }
}

/// The same by kprobe.
#[kprobe]
pub fn skb_copy_ubufs_kprobe(ctx: ProbeContext) -> u32 {
    if let Some(skb) = ctx.arg(0) {
        made_private(Untyped(skb));
    }
    0
}

#[inline(always)]
fn made_private(skb: impl Structure) {
    let length: u32 = skb.read(at!(skb_data_len));
    // On delivery the buffer has left its socket. But MSG_ZEROCOPY's notification lies in the control
    // block of another, which has not.
    let notification: u64 = probe(shared_info(skb) + u64::from(layout!(shinfo_destructor_arg)));
    let callback: u64 = probe(notification + u64::from(layout!(ubuf_callback)));
    if callback != 0 && callback == address!(zerocopy_callback) {
        let holder = notification.wrapping_sub(u64::from(layout!(skb_cb)));
        let socket: u64 = probe(holder + u64::from(layout!(skb_sk)));
        copied(
            socket,
            Use::Send,
            length.into(),
            Some(Fallback::ZerocopyCopied),
        );
    } else if callback != 0
        && callback == address!(io_uring_callback)
        && layout!(io_notif_data_uarg) != ABSENT
    {
        // The request begins with the notification's own data.
        let request = notification.wrapping_sub(u64::from(layout!(io_notif_data_uarg)));
        copied_for_request(request, length.into());
    } else {
        let socket: u64 = skb.read(at!(skb_sk));
        copied(socket, Use::Send, length.into(), None);
    }
}

/// Of `skb_shared_info.dataref`: how many buffers share the head.
const HEAD_SHARERS: u32 = 0xffff;

program! {
    /// `int skb_splice_bits(struct sk_buff *skb, struct sock *sk, unsigned int offset, struct
    /// pipe_inode_info *pipe, unsigned int tlen, unsigned int flags)`, on all kernels; nothing is
    /// copied if it returns 0.
    ///
    /// Counts what splice copies from a socket to a pipe: the heads of buffers, which are no pages of
    /// their own, as UNIX sockets have them. Those of buffers in a list, as some NICs merge them, are
    /// left out. Without it, such splices look like zero-copy.
    skb_splice_bits, "skb_splice_bits",
    |ctx| if ctx.arg::<i32>(6) != 0 {
        let skb = Typed(ctx.arg(0));
        let (offset, wanted): (u32, u32) = (ctx.arg(2), ctx.arg(4));
        let length: u32 = skb.read(at!(skb_len));
        let paged: u32 = skb.read(at!(skb_data_len));
        let head = i64::from(length) - i64::from(paged) - i64::from(offset);
        if head > 0 && !owns_page(skb) {
            copies::copied(Direction::InKernel, head.min(i64::from(wanted)));
        }
    }
}

/// Whether a buffer's head is part of a page, and the buffer the only one that uses it.
#[inline(always)]
fn owns_page(skb: Typed) -> bool {
    let part: u8 = skb.read(at!(skb_head_frag));
    let cloned: u8 = skb.read(at!(skb_cloned));
    if u32::from(part) & layout!(skb_head_frag_bit) == 0 {
        return false;
    }
    u32::from(cloned) & layout!(skb_cloned_bit) == 0
        || probe::<u32>(shared_info(skb) + u64::from(layout!(shinfo_dataref))) & HEAD_SHARERS == 1
}
