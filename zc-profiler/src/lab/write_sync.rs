//! write to a file, and fsync: what is written to disk is copied no second time.

use super::{
    Error, pattern,
    read_write::{buffer, write_all},
    transfer::{Calls, Flow, Transfer},
};

struct WriteSync {
    buffer: Vec<u8>,
}

pub(super) fn prepare(chunk: usize) -> Result<Box<dyn Transfer>, Error> {
    let buffer = buffer(pattern::room(chunk))?;
    Ok(Box::new(WriteSync { buffer }))
}

impl Transfer for WriteSync {
    fn transfer(&mut self, flow: &Flow) -> Result<Calls, Error> {
        let mut sink = flow.sink;
        let mut calls = Calls::default();
        let mut position = 0;
        flow.each_chunk(|want| {
            let bytes = pattern::bytes(position, want, &mut self.buffer);
            write_all(&mut sink, bytes, &mut calls)?;
            position += want as u64;
            Ok(want)
        })?;
        sink.sync_all().map_err(Error::call("fsync"))?;
        Ok(calls)
    }
}
