//! The exits of the system calls that have a method: `long __x64_sys_NAME(const struct pt_regs
//! *regs)`, on all kernels.
//!
//! Each counts the call and its payload, and gives the copies made inside to the process. Without
//! one, copies inside that call are still counted, but neither calls nor payload are.

use aya_ebpf::{macros::fexit, programs::FExitContext};
use zc_profiler_ebpf::{Lost, Method};

use crate::{
    call,
    process::{self, add},
};

/// What a call's return value says of its payload, and what of that was not copied.
#[derive(Clone, Copy)]
enum Payload {
    /// Bytes to or from user memory: by reference is what a socket took so.
    User,
    /// Bytes that never see user memory unless copied: by reference is what was not copied.
    Internal,
    /// The return value is no number of bytes; the payload is what was copied or referenced.
    Messages,
    /// None.
    Nothing,
}

macro_rules! exits {
    ($($name:ident $function:literal $method:ident $payload:ident;)*) => {$(
        #[doc = concat!("Exit of `", $function, "`.")]
        #[fexit(function = $function)]
        pub fn $name(ctx: FExitContext) -> i32 {
            exit(Method::$method, Payload::$payload, ctx.arg(1));
            0
        }
    )*};
}

exits! {
    sys_read "__x64_sys_read" Read User;
    sys_pread64 "__x64_sys_pread64" Read User;
    sys_readv "__x64_sys_readv" Read User;
    sys_preadv "__x64_sys_preadv" Read User;
    sys_preadv2 "__x64_sys_preadv2" Read User;
    sys_write "__x64_sys_write" Write User;
    sys_pwrite64 "__x64_sys_pwrite64" Write User;
    sys_writev "__x64_sys_writev" Write User;
    sys_pwritev "__x64_sys_pwritev" Write User;
    sys_pwritev2 "__x64_sys_pwritev2" Write User;
    sys_mmap "__x64_sys_mmap" Mmap Nothing;
    sys_sendfile "__x64_sys_sendfile64" Sendfile Internal;
    sys_splice "__x64_sys_splice" Splice Internal;
    sys_tee "__x64_sys_tee" Tee Internal;
    sys_vmsplice "__x64_sys_vmsplice" Vmsplice Internal;
    sys_copy_file_range "__x64_sys_copy_file_range" CopyFileRange Internal;
    sys_sendto "__x64_sys_sendto" Send User;
    sys_sendmsg "__x64_sys_sendmsg" Send User;
    sys_sendmmsg "__x64_sys_sendmmsg" Send Messages;
    sys_recvfrom "__x64_sys_recvfrom" Recv User;
    sys_recvmsg "__x64_sys_recvmsg" Recv User;
    sys_recvmmsg "__x64_sys_recvmmsg" Recv Messages;
}

#[inline(always)]
fn exit(method: Method, payload: Payload, returned: i64) {
    if !process::enabled() {
        return;
    }
    let made = call::take();
    let Some(entry) = process::current() else {
        return;
    };
    // SAFETY: `entry` is a live map value; the index is a constant in bounds.
    let counters = unsafe { &raw mut (*entry.counters()).methods[method as usize] };
    let [to_user, from_user, in_kernel] = made.copied_bytes;
    let copied = to_user + from_user + in_kernel;
    let returned = if returned > 0 { returned as u64 } else { 0 };
    let (payload, zero_copy) = match payload {
        Payload::User => (returned, made.by_reference.min(returned)),
        Payload::Internal => (returned, returned.saturating_sub(copied)),
        Payload::Messages => (copied + made.by_reference, made.by_reference),
        Payload::Nothing => (0, 0),
    };
    let lost = match method {
        Method::Sendfile | Method::Splice => Some(Lost::SpliceCopied),
        Method::CopyFileRange => Some(Lost::CopyFileRangeCopied),
        _ => None,
    };
    if let Some(reason) = lost
        && in_kernel != 0
    {
        entry.add_lost(reason, in_kernel.min(returned));
    }
    // SAFETY: `counters` points into a live map value.
    unsafe {
        add(&raw mut (*counters).calls, 1);
        add_if(&raw mut (*counters).payload_bytes, payload);
        add_if(&raw mut (*counters).zero_copy_bytes, zero_copy);
        if made.dirty != 0 {
            // Written out: a loop would have its bounds checked.
            add_if(&raw mut (*counters).copies[0], made.copies[0]);
            add_if(&raw mut (*counters).copies[1], made.copies[1]);
            add_if(&raw mut (*counters).copies[2], made.copies[2]);
            add_if(&raw mut (*counters).copied_bytes[0], to_user);
            add_if(&raw mut (*counters).copied_bytes[1], from_user);
            add_if(&raw mut (*counters).copied_bytes[2], in_kernel);
        }
    }
}

#[inline(always)]
fn add_if(counter: *mut u64, count: u64) {
    if count != 0 {
        add(counter, count);
    }
}
