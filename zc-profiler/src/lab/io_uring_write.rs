//! From memory to a file or socket by requests of an `io_uring`, one at a time.

use std::os::fd::AsRawFd;

use super::{
    Error, pattern,
    read_write::buffer,
    ring::{self, Kind, Ring},
    transfer::{Calls, Flow, Transfer},
};

struct RingWrite {
    ring: Ring,
    kind: Kind,
    buffer: Vec<u8>,
}

pub(super) fn prepare(chunk: usize) -> Result<Box<dyn Transfer>, Error> {
    writing(Ring::new(0)?, ring::WRITE, chunk)
}

/// From a buffer that the kernel keeps hold of.
pub(super) fn prepare_fixed(chunk: usize) -> Result<Box<dyn Transfer>, Error> {
    writing(Ring::new(0)?, ring::WRITE_FIXED, chunk)
}

pub(super) fn prepare_send(chunk: usize) -> Result<Box<dyn Transfer>, Error> {
    writing(Ring::new(0)?, ring::SEND, chunk)
}

/// By a thread of the kernel that looks for requests itself.
pub(super) fn prepare_send_polled(chunk: usize) -> Result<Box<dyn Transfer>, Error> {
    writing(Ring::new(ring::POLLED)?, ring::SEND, chunk)
}

pub(super) fn prepare_send_zerocopy(chunk: usize) -> Result<Box<dyn Transfer>, Error> {
    writing(Ring::new(0)?, ring::SEND_ZC, chunk)
}

fn writing(ring: Ring, kind: Kind, chunk: usize) -> Result<Box<dyn Transfer>, Error> {
    let mut buffer = buffer(pattern::room(chunk))?;
    if kind == ring::WRITE_FIXED {
        ring.register(&mut buffer)?;
    }
    Ok(Box::new(RingWrite { ring, kind, buffer }))
}

impl Transfer for RingWrite {
    fn transfer(&mut self, flow: &Flow) -> Result<Calls, Error> {
        let sink = flow.sink.as_raw_fd();
        let in_file = matches!(self.kind, ring::WRITE | ring::WRITE_FIXED);
        let mut position = 0;
        flow.each_chunk(|want| {
            let bytes = pattern::bytes(position, want, &mut self.buffer);
            let place = if in_file { position } else { 0 };
            let sent = self.ring.transfer(self.kind, sink, bytes, place)?;
            position += sent as u64;
            Ok(sent)
        })?;
        Ok(self.ring.calls())
    }
}
