//! mmap the whole file, send it from the mapping by `MSG_ZEROCOPY`.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd, RawFd},
    ptr,
};

use super::{
    Error,
    mmap_write::Mapping,
    transfer::{Calls, Flow, Transfer, moved},
};
use crate::ledger::Method;

/// Keeps the mapping until after the measurement: munmap is no call of the method.
#[derive(Default)]
pub(super) struct ZerocopySend {
    mapping: Option<Mapping>,
}

impl Transfer for ZerocopySend {
    fn transfer(&mut self, flow: &Flow) -> Result<Calls, Error> {
        let mut calls = Calls::default();
        let sink = flow.sink.as_raw_fd();
        allow(sink)?;
        let mapping = self.mapping.insert(Mapping::new(flow)?);
        calls.add(Method::Mmap, 1);
        let mut rest = mapping.bytes();
        flow.each_chunk(|want| {
            // SAFETY: the chunk is mapped, and only read, until the sink has it.
            let sent = unsafe { libc::send(sink, rest.as_ptr().cast(), want, libc::MSG_ZEROCOPY) };
            calls.add(Method::Send, 1);
            // The kernel keeps account of what it still refers to, up to a limit.
            if sent < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::ENOBUFS) {
                take_notifications(sink, &mut calls)?;
                return Ok(0);
            }
            let sent = moved("send", want, sent)?;
            rest = &rest[sent..];
            Ok(sent)
        })?;
        hang_up(sink, &mut calls)?;
        Ok(calls)
    }
}

/// What is copied for the receiver is copied when it arrives, so this waits until it has everything
/// and hangs up too. poll would not do: what the kernel has let go of wakes it as an error does.
fn hang_up(socket: RawFd, calls: &mut Calls) -> Result<(), Error> {
    // SAFETY: no memory is passed.
    if unsafe { libc::shutdown(socket, libc::SHUT_WR) } != 0 {
        return Err(Error::last("shutdown"));
    }
    let mut byte = 0u8;
    // SAFETY: room for one byte.
    let end = unsafe { libc::recv(socket, (&raw mut byte).cast(), 1, 0) };
    calls.add(Method::Recv, 1);
    match end {
        0 => Ok(()),
        _ => Err(Error::last("recv")),
    }
}

fn allow(socket: RawFd) -> Result<(), Error> {
    let on: libc::c_int = 1;
    #[allow(clippy::cast_possible_truncation, reason = "four bytes")]
    let length = size_of_val(&on) as libc::socklen_t;
    let (level, option) = (libc::SOL_SOCKET, libc::SO_ZEROCOPY);
    // SAFETY: the option's value is valid for the call.
    let result = unsafe { libc::setsockopt(socket, level, option, (&raw const on).cast(), length) };
    match result {
        0 => Ok(()),
        _ => Err(Error::last("SO_ZEROCOPY")),
    }
}

/// Waits until the kernel has let go of something, and takes all its notes of that.
fn take_notifications(socket: RawFd, calls: &mut Calls) -> Result<(), Error> {
    let mut poll = libc::pollfd {
        fd: socket,
        events: 0,
        revents: 0,
    };
    // SAFETY: one valid pollfd.
    if unsafe { libc::poll(&raw mut poll, 1, -1) } != 1 {
        return Err(Error::last("poll"));
    }
    loop {
        // SAFETY: all zero is a message without anything.
        let mut message = unsafe { MaybeUninit::<libc::msghdr>::zeroed().assume_init() };
        message.msg_control = ptr::null_mut();
        // SAFETY: the message refers to no memory.
        let taken = unsafe { libc::recvmsg(socket, &raw mut message, libc::MSG_ERRQUEUE) };
        calls.add(Method::Recv, 1);
        if taken < 0 {
            return match io::Error::last_os_error().kind() {
                io::ErrorKind::WouldBlock => Ok(()),
                _ => Err(Error::last("recvmsg")),
            };
        }
    }
}
