//! Requests of an `io_uring`. One may run inside `io_uring_enter`, in a worker, in the thread that
//! polls the submission queue, or on the way back to user mode from anything: so the request itself
//! is marked, and what it copies goes to its task's process at once, never into an open call.

use zc_profiler_ebpf::{Call, Method};

use crate::{
    kernel::fields::{at, field, layout, probe},
    ledger::{
        buffer,
        call::{self, entry_program, program, tracepoint_program},
    },
};

// Numbers of the kernel's user interface.
const READV: u64 = 1;
const WRITEV: u64 = 2;
const READ_FIXED: u64 = 4;
const WRITE_FIXED: u64 = 5;
const SENDMSG: u64 = 9;
const RECVMSG: u64 = 10;
const READ: u64 = 22;
const WRITE: u64 = 23;
const SEND: u64 = 26;
const RECV: u64 = 27;
const SPLICE: u64 = 30;
const TEE: u64 = 33;
const SEND_ZC: u64 = 47;
const SENDMSG_ZC: u64 = 48;
const READV_FIXED: u64 = 60;
const WRITEV_FIXED: u64 = 61;

/// Opcodes whose result is a number of bytes moved, one bit each.
const MOVING: u64 = 1 << READV
    | 1 << WRITEV
    | 1 << READ_FIXED
    | 1 << WRITE_FIXED
    | 1 << SENDMSG
    | 1 << RECVMSG
    | 1 << READ
    | 1 << WRITE
    | 1 << SEND
    | 1 << RECV
    | 1 << SPLICE
    | 1 << TEE
    | 1 << SEND_ZC
    | 1 << SENDMSG_ZC
    | 1 << READV_FIXED
    | 1 << WRITEV_FIXED;

/// Whether kernel memory that a copy function is handed now is a registered buffer, which is the user's:
/// only splice, which moves a pipe's pages, hands over the kernel's own.
#[inline(always)]
pub fn has_fixed_buffers() -> bool {
    call::current().is_some_and(|call| call.request != 0 && call.request != SPLICE + 1)
}

entry_program! {
    /// `int io_issue_sqe(struct io_kiocb *req, unsigned int issue_flags)`, from 5.12 on and in 5.10's
    /// stable releases.
    ///
    /// Marks the task that carries out a request. Without it, copies go to the method of the system
    /// call that the task was in last, and those of registered buffers count as in the kernel.
    io_issue_sqe_entry, "io_issue_sqe", |ctx| {
        let opcode: u8 = field(ctx.arg(0), at!(io_kiocb_opcode));
        if let Some(call) = call::current() {
            call.request = u64::from(opcode) + 1;
        }
    }
}

program! {
    /// The exit of `io_issue_sqe`.
    ///
    /// Ends the mark, and counts what the request handed to a socket by reference. Without it, the task
    /// would stay marked.
    io_issue_sqe_exit, "io_issue_sqe", |_ctx| end_request()
}

#[inline(always)]
fn end_request() {
    let Some(call) = call::current() else {
        return;
    };
    if call.request == 0 {
        return;
    }
    call.request = 0;
    if call.by_reference == 0 {
        return;
    }
    let by_reference = call::take_number(&mut call.by_reference);
    call::take_number(&mut call.unreturned);
    if call.copies[0] | call.copies[1] | call.copies[2] == 0 {
        call::unmark(call, Call::DIRTY);
    }
    if layout!(has_completed_request) != 0 {
        buffer::add_zero_copy(Method::IoUring, by_reference);
    }
}

tracepoint_program! {
    /// Tracepoint `io_uring:io_uring_complete(void *ctx, void *req, u64 user_data, int res, unsigned
    /// cflags, u64 extra1, u64 extra2)`, 5.19 to 6.14; before, it does not name the request.
    ///
    /// Counts the bytes that completions report. Completions after a request's first (multishot) name
    /// no request and are left out. Without it, `io_uring` shows no payload.
    io_uring_complete, "io_uring_complete", |ctx| completed(ctx.arg(1), ctx.arg(3))
}

tracepoint_program! {
    /// Tracepoint `io_uring:io_uring_complete(struct io_ring_ctx *ctx, void *req, struct io_uring_cqe
    /// *cqe)`, from 6.15 on.
    io_uring_complete_cqe, "io_uring_complete", |ctx| {
        completed(ctx.arg(1), field(ctx.arg(2), at!(io_uring_cqe_res)));
    }
}

#[inline(always)]
fn completed(request: u64, result: i32) {
    if result <= 0 || request == 0 {
        return;
    }
    let opcode: u8 = probe(request + u64::from(layout!(io_kiocb_opcode)));
    if opcode < 64 && MOVING >> opcode & 1 != 0 {
        buffer::add_payload(Method::IoUring, result as u64);
    }
}
