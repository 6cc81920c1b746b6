//! read of a file by requests of an `io_uring`, one at a time.

use std::{
    fs::{File, OpenOptions},
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
};

use super::{
    Error, pattern,
    read_write::buffer,
    ring::{self, Kind, Ring},
    transfer::{Calls, Flow, Transfer},
};

/// A multiple of every disk's blocks, at which `O_DIRECT` must begin and end.
const BLOCK: usize = 4096;

struct RingRead {
    ring: Ring,
    kind: Kind,
    /// By `O_DIRECT`, in whole blocks.
    direct: bool,
    chunk: usize,
    buffer: Vec<u8>,
    expected: Vec<u8>,
}

pub(super) fn prepare(chunk: usize) -> Result<Box<dyn Transfer>, Error> {
    reading(Ring::new(0)?, ring::READ, false, chunk)
}

/// By a thread of the kernel that looks for requests itself.
pub(super) fn prepare_polled(chunk: usize) -> Result<Box<dyn Transfer>, Error> {
    reading(Ring::new(ring::POLLED)?, ring::READ, false, chunk)
}

/// To a buffer that the kernel keeps hold of.
pub(super) fn prepare_fixed(chunk: usize) -> Result<Box<dyn Transfer>, Error> {
    reading(Ring::new(0)?, ring::READ_FIXED, false, chunk)
}

/// To such a buffer by the disk itself.
pub(super) fn prepare_direct(chunk: usize) -> Result<Box<dyn Transfer>, Error> {
    let chunk = chunk
        .checked_next_multiple_of(BLOCK)
        .ok_or(Error::TooLarge(chunk as u64))?;
    reading(Ring::new(0)?, ring::READ_FIXED, true, chunk)
}

fn reading(ring: Ring, kind: Kind, direct: bool, chunk: usize) -> Result<Box<dyn Transfer>, Error> {
    let mut read = RingRead {
        ring,
        kind,
        direct,
        chunk,
        buffer: buffer(chunk + BLOCK)?,
        expected: buffer(pattern::room(chunk))?,
    };
    if kind == ring::READ_FIXED {
        read.ring.register(&mut read.buffer)?;
    }
    Ok(Box::new(read))
}

impl Transfer for RingRead {
    fn transfer(&mut self, flow: &Flow) -> Result<Calls, Error> {
        let place = format!("/proc/self/fd/{}", flow.source.as_raw_fd());
        let flags = if self.direct { libc::O_DIRECT } else { 0 };
        let source: File = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(&place)
            .map_err(Error::file(place))?;
        let start = self.buffer.as_ptr().align_offset(BLOCK);
        let mut position = 0;
        while position < flow.payload {
            let left = usize::try_from(flow.payload - position).unwrap_or(usize::MAX);
            let want = if self.direct {
                self.chunk
            } else {
                self.chunk.min(left)
            };
            let buffer = &mut self.buffer[start..start + want];
            let source = source.as_raw_fd();
            let got = self.ring.transfer(self.kind, source, buffer, position)?;
            let found = &self.buffer[start..start + got];
            if let Some(at) = pattern::damage(position, found, &mut self.expected) {
                return Err(Error::Changed(at));
            }
            position += got as u64;
        }
        Ok(self.ring.calls())
    }
}
