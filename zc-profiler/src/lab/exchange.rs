//! write and read, or send and recv, through something whose two ends this process holds.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use super::{
    Error, pattern,
    read_write::buffer,
    transfer::{Calls, Flow, Transfer, moved},
};
use crate::ledger::Method;

type Call = fn(RawFd, *mut libc::c_void, usize) -> isize;

/// A call, what it is counted as, and its name.
pub(super) struct End {
    fd: OwnedFd,
    call: Call,
    method: Method,
    name: &'static str,
}

/// What is put in at one end is taken out at the other at once, so that neither call ever waits.
pub(super) struct Exchange {
    into: End,
    out: End,
    piece: usize,
    sent: Vec<u8>,
    received: Vec<u8>,
}

impl End {
    pub fn write(fd: impl Into<OwnedFd>) -> Self {
        // SAFETY: `Exchange` passes memory of that length.
        let call: Call = |fd, data, length| unsafe { libc::write(fd, data, length) };
        Self::new(fd.into(), call, Method::Write, "write")
    }

    pub fn read(fd: impl Into<OwnedFd>) -> Self {
        // SAFETY: as above.
        let call: Call = |fd, data, length| unsafe { libc::read(fd, data, length) };
        Self::new(fd.into(), call, Method::Read, "read")
    }

    pub fn send(fd: impl Into<OwnedFd>) -> Self {
        // SAFETY: as above.
        let call: Call = |fd, data, length| unsafe { libc::send(fd, data, length, 0) };
        Self::new(fd.into(), call, Method::Send, "send")
    }

    pub fn recv(fd: impl Into<OwnedFd>) -> Self {
        // SAFETY: as above.
        let call: Call = |fd, data, length| unsafe { libc::recv(fd, data, length, 0) };
        Self::new(fd.into(), call, Method::Recv, "recv")
    }

    const fn new(fd: OwnedFd, call: Call, method: Method, name: &'static str) -> Self {
        Self {
            fd,
            call,
            method,
            name,
        }
    }

    fn call(&self, bytes: &mut [u8], calls: &mut Calls) -> Result<usize, Error> {
        let result = (self.call)(self.fd.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len());
        calls.add(self.method, 1);
        moved(self.name, bytes.len(), result)
    }
}

impl Exchange {
    /// Takes at most `piece` bytes at once, which must fit between the ends.
    pub fn prepare(
        into: End,
        out: End,
        chunk: usize,
        piece: usize,
    ) -> Result<Box<dyn Transfer>, Error> {
        let piece = piece.min(chunk);
        Ok(Box::new(Self {
            into,
            out,
            piece,
            sent: buffer(pattern::room(piece))?,
            received: buffer(piece)?,
        }))
    }
}

impl Transfer for Exchange {
    fn transfer(&mut self, flow: &Flow) -> Result<Calls, Error> {
        let mut calls = Calls::default();
        let mut position = 0;
        flow.each_chunk(|want| {
            let bytes = pattern::bytes(position, want.min(self.piece), &mut self.sent);
            let put = self.into.call(bytes, &mut calls)?;
            let mut taken = 0;
            while taken < put {
                taken += self.out.call(&mut self.received[taken..put], &mut calls)?;
            }
            if let Some(at) = pattern::damage(position, &self.received[..put], &mut self.sent) {
                return Err(Error::Changed(at));
            }
            position += put as u64;
            Ok(put)
        })?;
        Ok(calls)
    }
}
