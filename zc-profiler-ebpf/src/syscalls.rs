//! The exits of the system calls that have a method: `long __x64_sys_NAME(const struct pt_regs
//! *regs)`, on all kernels.
//!
//! Each counts the call and its payload, and gives the copies made inside to the process. Without
//! one, copies inside that call are still counted, but neither calls nor payload are.

use zc_profiler_ebpf::{Call, Direction, Fallback, Method, MethodCounters, NO_PAYLOAD, Running};

use crate::{
    kernel::{
        Task,
        fields::{at, field},
    },
    ledger::{
        buffer,
        call::{self, program, tracepoint_program},
        entry::{add, add_copy, add_to},
    },
};

const PROCESS_VM_READV: i64 = 310;
const PROCESS_VM_WRITEV: i64 = 311;

/// What a call's return value says of its payload, and what of that was not copied.
#[derive(Clone, Copy)]
enum Payload {
    /// Bytes to or from user memory: by reference is what a socket took so.
    User,
    /// Bytes that never see user memory unless copied: by reference is what was not copied.
    Internal,
    /// The return value is no number of bytes; the payload is what was copied or referenced.
    Messages,
    /// Bytes that the call itself copies once to user memory, and no copy function sees.
    CopiedToUser,
    /// The same from user memory.
    CopiedFromUser,
    /// None.
    Nothing,
}

macro_rules! exits {
    ($($name:ident $function:literal $method:ident $payload:ident;)*) => {$(
        program! {
            #[doc = concat!("Exit of `", $function, "`.")]
            $name, $function, |ctx| {
                exit(Method::$method, Payload::$payload, ctx.arg(1));
            }
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
    sys_process_vm_readv "__x64_sys_process_vm_readv" ProcessVm CopiedToUser;
    sys_process_vm_writev "__x64_sys_process_vm_writev" ProcessVm CopiedFromUser;
    sys_io_uring_enter "__x64_sys_io_uring_enter" IoUring Nothing;
}

tracepoint_program! {
    /// Tracepoint `raw_syscalls:sys_exit(struct pt_regs *regs, long ret)`, on all kernels.
    ///
    /// Stands in where no function can be hooked: counts calls and payload of all methods, and derives
    /// what they copied from what they returned. It makes every system call of every task slower, so it
    /// is used only there. Without it nothing is left.
    sys_exit, "sys_exit", |ctx| derive(field(ctx.arg(0), at!(regs_orig_ax)), ctx.arg(1))
}

#[inline(always)]
fn derive(number: i64, returned: i64) {
    let task = Task::current();
    let found = task.syscall_method(number);
    let method = found & !NO_PAYLOAD;
    if method >= Method::Other as u8 {
        return;
    }
    let Some(running) = buffer::running() else {
        return;
    };
    let Some(counters) = buffer::any_method(running, method.into()) else {
        return;
    };
    add_to!(counters, MethodCounters.calls, 1);
    if returned <= 0 || found & NO_PAYLOAD != 0 {
        return;
    }
    add_to!(counters, MethodCounters.payload_bytes, returned as u64);
    // What goes to or from user memory is copied as a rule; of the other methods nothing is known.
    let direction = if number == PROCESS_VM_READV
        || method == Method::Read as u8
        || method == Method::Recv as u8
    {
        Direction::ToUser
    } else if number == PROCESS_VM_WRITEV
        || method == Method::Write as u8
        || method == Method::Send as u8
    {
        Direction::FromUser
    } else {
        return;
    };
    buffer::add_copy(running, method.into(), direction, returned as u64);
}

#[inline(always)]
fn exit(method: Method, rule: Payload, returned: i64) {
    let Some(running) = buffer::running() else {
        return;
    };
    let counters = buffer::method(running, method);
    add_to!(counters, MethodCounters.calls, 1);
    let direction = match rule {
        Payload::CopiedToUser => Some(Direction::ToUser),
        Payload::CopiedFromUser => Some(Direction::FromUser),
        _ => None,
    };
    if let Some(direction) = direction
        && returned > 0
    {
        add_copy(counters, direction, returned as u64);
    }
    // SAFETY: this CPU's value.
    if unsafe { (*running).call.dirty } != 0 {
        collect(running, method as u64, rule, returned);
    } else if returned > 0 {
        if !matches!(rule, Payload::Messages | Payload::Nothing) {
            add_to!(counters, MethodCounters.payload_bytes, returned as u64);
        }
        if matches!(rule, Payload::Internal) {
            add_to!(counters, MethodCounters.zero_copy_bytes, returned as u64);
        }
    }
}

/// The end of a call of which something must be known. A function of its own, so that the common exit
/// keeps no registers for it.
#[cold]
#[inline(never)]
fn collect(running: *mut Running, method: u64, rule: Payload, returned: i64) {
    let returned = returned.max(0) as u64;
    let Some(counters) = buffer::any_method(running, method) else {
        return;
    };
    // SAFETY: this CPU's value.
    let made = call::take(unsafe { &mut (*running).call });
    let [to_user, from_user, in_kernel] = made.copied_bytes;
    let copied = to_user + from_user + in_kernel;
    let (payload, zero_copy) = match rule {
        Payload::User => (returned, made.by_reference.min(returned)),
        Payload::Internal if made.dirty & Call::UNKNOWN != 0 => (returned, 0),
        Payload::Internal => (returned, returned.saturating_sub(copied)),
        Payload::Messages => (copied + made.by_reference, made.by_reference),
        Payload::CopiedToUser | Payload::CopiedFromUser => (returned, 0),
        Payload::Nothing => (0, 0),
    };
    if in_kernel != 0 {
        let fallback = in_kernel.min(returned);
        if method == Method::Sendfile as u64 || method == Method::Splice as u64 {
            buffer::add_fallback(running, Fallback::SpliceCopied, fallback);
        } else if method == Method::CopyFileRange as u64 {
            buffer::add_fallback(running, Fallback::CopyFileRangeCopied, fallback);
        }
    }
    // SAFETY: this CPU's value. Written out: a loop would have its bounds checked.
    unsafe {
        add_if(&raw mut (*counters).payload_bytes, payload);
        add_if(&raw mut (*counters).zero_copy_bytes, zero_copy);
        add_if(&raw mut (*counters).copies[0], made.copies[0]);
        add_if(&raw mut (*counters).copies[1], made.copies[1]);
        add_if(&raw mut (*counters).copies[2], made.copies[2]);
        add_if(&raw mut (*counters).copied_bytes[0], to_user);
        add_if(&raw mut (*counters).copied_bytes[1], from_user);
        add_if(&raw mut (*counters).copied_bytes[2], in_kernel);
    }
}

#[inline(always)]
fn add_if(counter: *mut u64, count: u64) {
    if count != 0 {
        add(counter, count);
    }
}
