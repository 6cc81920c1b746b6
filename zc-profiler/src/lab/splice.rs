//! splice from the file into a pipe, and from the pipe into the sink.

use std::{
    io::{PipeReader, PipeWriter, pipe},
    os::fd::{AsRawFd, RawFd},
    ptr,
};

use super::{
    Error,
    transfer::{Calls, Flow, Transfer, moved},
};
use crate::ledger::Method;

const PAGE: usize = 4096;

struct Splice {
    reader: PipeReader,
    writer: PipeWriter,
}

pub(super) fn prepare(chunk: usize) -> Result<Box<dyn Transfer>, Error> {
    let (reader, writer) = pipe_for(chunk)?;
    Ok(Box::new(Splice { reader, writer }))
}

/// A pipe with room for a chunk.
pub(super) fn pipe_for(chunk: usize) -> Result<(PipeReader, PipeWriter), Error> {
    let (reader, writer) = pipe().map_err(Error::call("pipe2"))?;
    // One page more: a chunk that does not begin at a page's edge touches one more. If the kernel
    // says no (above pipe-max-size), a chunk takes more calls.
    if let Ok(size) = libc::c_int::try_from(chunk.saturating_add(PAGE)) {
        // SAFETY: the pipe is open; no memory is passed.
        unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETPIPE_SZ, size) };
    }
    Ok((reader, writer))
}

impl Transfer for Splice {
    fn transfer(&mut self, flow: &Flow) -> Result<Calls, Error> {
        let mut calls = Calls::default();
        let mut left = flow.payload;
        flow.each_chunk(|want| {
            let (source, sink) = (flow.source.as_raw_fd(), flow.sink.as_raw_fd());
            let filled = splice(source, self.writer.as_raw_fd(), want, 0)?;
            calls.add(Method::Splice, 1);
            left -= filled as u64;
            // After the last chunk nothing may wait for more.
            let more = if left > 0 { libc::SPLICE_F_MORE } else { 0 };
            let mut in_pipe = filled;
            while in_pipe > 0 {
                in_pipe -= splice(self.reader.as_raw_fd(), sink, in_pipe, more)?;
                calls.add(Method::Splice, 1);
            }
            Ok(filled)
        })?;
        Ok(calls)
    }
}

pub(super) fn splice(
    from: RawFd,
    to: RawFd,
    want: usize,
    more: libc::c_uint,
) -> Result<usize, Error> {
    let flags = libc::SPLICE_F_MOVE | more;
    // SAFETY: both are open; no memory is passed.
    let moved_bytes =
        unsafe { libc::splice(from, ptr::null_mut(), to, ptr::null_mut(), want, flags) };
    moved("splice", want, moved_bytes)
}
