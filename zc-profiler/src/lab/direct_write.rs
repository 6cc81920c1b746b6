//! write to a file by `O_DIRECT`: the disk reads from the buffer itself.

use std::{
    fs::OpenOptions,
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

struct DirectWrite {
    buffer: Vec<u8>,
    chunk: usize,
}

pub(super) fn prepare(chunk: usize) -> Result<Box<dyn Transfer>, Error> {
    let chunk = chunk
        .checked_next_multiple_of(BLOCK)
        .ok_or(Error::TooLarge(chunk as u64))?;
    Ok(Box::new(DirectWrite {
        buffer: buffer(pattern::room(chunk + BLOCK))?,
        chunk,
    }))
}

impl Transfer for DirectWrite {
    fn transfer(&mut self, flow: &Flow) -> Result<Calls, Error> {
        let place = format!("/proc/self/fd/{}", flow.sink.as_raw_fd());
        let file = OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_DIRECT)
            .open(&place)
            .map_err(Error::file(place))?;
        let start = self.buffer.as_ptr().align_offset(BLOCK);
        let buffer = &mut self.buffer[start..];
        let mut calls = Calls::default();
        // Whole blocks, whatever the chunk and the payload.
        let whole = Flow {
            payload: flow.payload.next_multiple_of(BLOCK as u64),
            chunk: self.chunk,
            ..*flow
        };
        let mut position = 0;
        whole.each_chunk(|want| {
            let written = file.write_at(pattern::bytes(position, want, buffer), position);
            calls.add(Method::Write, 1);
            let written = written.map_err(Error::call("pwrite"))?;
            let written = moved("pwrite", want, written.cast_signed())?;
            position += written as u64;
            Ok(written)
        })?;
        Ok(calls)
    }
}
