//! splice from the file into a pipe, and from the pipe into the sink, by requests of an `io_uring`.

use std::{
    io::{PipeReader, PipeWriter},
    os::fd::AsRawFd,
};

use super::{
    Error,
    ring::{CURRENT, Ring},
    splice::pipe_for,
    transfer::{Calls, Flow, Transfer},
};

struct RingSplice {
    ring: Ring,
    reader: PipeReader,
    writer: PipeWriter,
}

pub(super) fn prepare(chunk: usize) -> Result<Box<dyn Transfer>, Error> {
    let (reader, writer) = pipe_for(chunk)?;
    let ring = Ring::new(0)?;
    Ok(Box::new(RingSplice {
        ring,
        reader,
        writer,
    }))
}

impl Transfer for RingSplice {
    fn transfer(&mut self, flow: &Flow) -> Result<Calls, Error> {
        let (source, sink) = (flow.source.as_raw_fd(), flow.sink.as_raw_fd());
        let (reader, writer) = (self.reader.as_raw_fd(), self.writer.as_raw_fd());
        let mut position = 0;
        flow.each_chunk(|want| {
            let filled = self
                .ring
                .splice((source, position), (writer, CURRENT), want)?;
            let mut moved = 0;
            while moved < filled {
                let to = (sink, position + moved as u64);
                moved += self.ring.splice((reader, CURRENT), to, filled - moved)?;
            }
            position += filled as u64;
            Ok(filled)
        })?;
        Ok(self.ring.calls())
    }
}
