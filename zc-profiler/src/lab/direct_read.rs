//! read of a file by `O_DIRECT`: the disk writes to the buffer itself.

use std::{
    fs::{File, OpenOptions},
    os::{
        fd::AsRawFd,
        unix::fs::{FileExt, OpenOptionsExt},
    },
};

use super::{
    Error, pattern,
    read_write::buffer,
    transfer::{Calls, Flow, Transfer, moved},
};
use crate::ledger::Method;

/// A multiple of every disk's blocks.
const BLOCK: usize = 4096;

struct DirectRead {
    buffer: Vec<u8>,
    expected: Vec<u8>,
    chunk: usize,
}

pub(super) fn prepare(chunk: usize) -> Result<Box<dyn Transfer>, Error> {
    let chunk = chunk
        .checked_next_multiple_of(BLOCK)
        .ok_or(Error::TooLarge(chunk as u64))?;
    Ok(Box::new(DirectRead {
        buffer: buffer(chunk + BLOCK)?,
        expected: buffer(pattern::room(chunk))?,
        chunk,
    }))
}

impl Transfer for DirectRead {
    fn transfer(&mut self, flow: &Flow) -> Result<Calls, Error> {
        let place = format!("/proc/self/fd/{}", flow.source.as_raw_fd());
        let file: File = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECT)
            .open(&place)
            .map_err(Error::file(place))?;
        let start = self.buffer.as_ptr().align_offset(BLOCK);
        let buffer = &mut self.buffer[start..start + self.chunk];
        let mut calls = Calls::default();
        let mut position = 0;
        // Whole blocks, whatever the chunk.
        while position < flow.payload {
            let read = file.read_at(buffer, position);
            calls.add(Method::Read, 1);
            let read = read.map_err(Error::call("pread"))?;
            let got = moved("pread", buffer.len(), read.cast_signed())?;
            if let Some(at) = pattern::damage(position, &buffer[..got], &mut self.expected) {
                return Err(Error::Changed(at));
            }
            position += got as u64;
        }
        Ok(calls)
    }
}
