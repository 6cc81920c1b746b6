//! The copy functions of UDP.

use aya_ebpf::programs::FExitContext;
use zc_profiler_ebpf::Direction;

use crate::{
    copies,
    kernel::{
        Side,
        fields::{at, field, layout, probe},
    },
    ledger::call::{self, entry_program, program},
};

entry_program! {
    /// `int udp_recvmsg(struct sock *sk, struct msghdr *msg, size_t len, ...)` and `udpv6_recvmsg`, on
    /// all kernels.
    ///
    /// Lets the exit count the whole datagram: a linear one is copied without
    /// `skb_copy_datagram_iter`, a fragmented one with it. Without it, the latter are counted twice.
    udp_recvmsg_begin, "udp_recvmsg", |_ctx| call::begin_datagram()
}

entry_program! {
    /// The same for IPv6.
    udpv6_recvmsg_begin, "udpv6_recvmsg", |_ctx| call::begin_datagram()
}

macro_rules! receives {
    ($($(#[$doc:meta])* $name:ident $function:literal $returned:literal;)*) => {$(
        program! {
            $(#[$doc])*
            $name, $function, |ctx| received(&ctx, ctx.arg($returned))
        }
    )*};
}

receives! {
    /// `int udp_recvmsg(struct sock *sk, struct msghdr *msg, size_t len, int flags)`, from 7.0 on.
    ///
    /// Counts UDP to user. Without it, what UDP sockets receive is not counted.
    udp_recvmsg_4 "udp_recvmsg" 4;
    /// The same with `int *addr_len`, from 5.19 on.
    udp_recvmsg_5 "udp_recvmsg" 5;
    /// The same with `int noblock` before the flags, before 5.19.
    udp_recvmsg_6 "udp_recvmsg" 6;
    /// The same for IPv6, from 7.0 on.
    udpv6_recvmsg_4 "udpv6_recvmsg" 4;
    /// The same for IPv6, from 5.19 on.
    udpv6_recvmsg_5 "udpv6_recvmsg" 5;
    /// The same for IPv6, before 5.19.
    udpv6_recvmsg_6 "udpv6_recvmsg" 6;
}

#[inline(always)]
fn received(ctx: &FExitContext, returned: i32) {
    call::end_datagram();
    let message: *const u8 = ctx.arg(1);
    let room: u64 = ctx.arg(2);
    // With MSG_TRUNC the return value is the datagram's length, of which only this much was copied.
    let bytes = i64::from(returned).min(room.min(i64::MAX as u64) as i64);
    copies::moved_by_value(
        bytes,
        message.wrapping_add(layout!(msghdr_msg_iter) as usize),
        Direction::ToUser,
    );
}

program! {
    /// `int ip_generic_getfrag(void *from, char *to, int offset, int len, int odd, struct sk_buff
    /// *skb)`, on all kernels; `from` is a `struct msghdr *`.
    ///
    /// Counts user to UDP and raw sockets, IPv4 and IPv6. Without it, what they are sent is not
    /// counted.
    ip_generic_getfrag, "ip_generic_getfrag",
    |ctx| if ctx.arg::<i32>(6) == 0 {
        sent(ctx.arg(0), ctx.arg::<i32>(3).into());
    }
}

#[inline(always)]
fn sent(message: u64, bytes: i64) {
    // The kernel declares it as void, so it is no typed pointer.
    let iter = message + u64::from(layout!(msghdr_msg_iter));
    let side = Side::of_type(probe(iter + u64::from(layout!(iter_type))));
    copies::moved_to(side, bytes, Direction::FromUser);
}

program! {
    /// `int __zerocopy_sg_from_iter(struct msghdr *msg, struct sock *sk, struct sk_buff *skb, struct
    /// iov_iter *from, size_t length)`, from 6.0 on.
    ///
    /// Counts what `MSG_ZEROCOPY` passes to datagram sockets by reference. Without it, it is payload
    /// that is neither copied nor zero-copy.
    zerocopy_sg_from_iter, "__zerocopy_sg_from_iter",
    |ctx| referenced(ctx.arg(1), ctx.arg::<i64>(4), ctx.arg(5))
}

program! {
    /// The same with `struct net_devmem_dmabuf_binding *binding`, from 6.16 on.
    zerocopy_sg_from_iter_6, "__zerocopy_sg_from_iter",
    |ctx| referenced(ctx.arg(1), ctx.arg::<i64>(4), ctx.arg(6))
}

program! {
    /// `int skb_zerocopy_iter_dgram(struct sk_buff *skb, struct msghdr *msg, int len)`, before 6.0.
    ///
    /// Counts the same.
    skb_zerocopy_iter_dgram, "skb_zerocopy_iter_dgram",
    |ctx| if ctx.arg::<i32>(3) == 0 {
        copies::passed_by_reference(i64::from(ctx.arg::<i32>(2)));
    }
}

const SOCK_DGRAM: u16 = 2;

#[inline(always)]
fn referenced(socket: *const u8, bytes: i64, result: i32) {
    // Streams are counted by their own copy function, which calls this one.
    if result == 0 && field::<_, u16>(socket, at!(sock_type)) == SOCK_DGRAM {
        copies::passed_by_reference(bytes);
    }
}
