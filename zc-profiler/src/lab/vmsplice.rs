//! mmap the whole file, vmsplice its pages into a pipe, splice them from there to the sink.

use std::{
    io::{PipeReader, PipeWriter},
    os::fd::AsRawFd,
};

use super::{
    Error,
    mmap_write::Mapping,
    splice::{pipe_for, splice},
    transfer::{Calls, Flow, Transfer, moved},
};
use crate::ledger::Method;

struct Vmsplice {
    reader: PipeReader,
    writer: PipeWriter,
    /// Until after the measurement: munmap is no call of the method.
    mapping: Option<Mapping>,
}

pub(super) fn prepare(chunk: usize) -> Result<Box<dyn Transfer>, Error> {
    let (reader, writer) = pipe_for(chunk)?;
    Ok(Box::new(Vmsplice {
        reader,
        writer,
        mapping: None,
    }))
}

impl Transfer for Vmsplice {
    fn transfer(&mut self, flow: &Flow) -> Result<Calls, Error> {
        let mut calls = Calls::default();
        let mapping = self.mapping.insert(Mapping::new(flow)?);
        calls.add(Method::Mmap, 1);
        let mut rest = mapping.bytes();
        flow.each_chunk(|want| {
            let vector = libc::iovec {
                iov_base: rest.as_ptr().cast_mut().cast(),
                iov_len: want,
            };
            // SAFETY: the vector describes memory that is mapped, and only read, until the sink has it.
            let filled =
                unsafe { libc::vmsplice(self.writer.as_raw_fd(), &raw const vector, 1, 0) };
            calls.add(Method::Vmsplice, 1);
            let filled = moved("vmsplice", want, filled)?;
            rest = &rest[filled..];
            let more = if rest.is_empty() {
                0
            } else {
                libc::SPLICE_F_MORE
            };
            let mut in_pipe = filled;
            while in_pipe > 0 {
                let sink = flow.sink.as_raw_fd();
                in_pipe -= splice(self.reader.as_raw_fd(), sink, in_pipe, more)?;
                calls.add(Method::Splice, 1);
            }
            Ok(filled)
        })?;
        Ok(calls)
    }
}
