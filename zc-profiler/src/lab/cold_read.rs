//! read of a disk of which nothing is cached.

use std::io::Read;

use super::{
    Error, pattern,
    read_write::buffer,
    transfer::{Calls, Flow, Transfer, moved},
};
use crate::ledger::Method;

struct ColdRead {
    buffer: Vec<u8>,
    expected: Vec<u8>,
}

pub(super) fn prepare(chunk: usize) -> Result<Box<dyn Transfer>, Error> {
    Ok(Box::new(ColdRead {
        buffer: buffer(chunk)?,
        expected: buffer(pattern::room(chunk))?,
    }))
}

impl Transfer for ColdRead {
    /// The payload stays here, so that it is checked here.
    fn transfer(&mut self, flow: &Flow) -> Result<Calls, Error> {
        let mut source = flow.source;
        let mut calls = Calls::default();
        let mut position = 0;
        flow.each_chunk(|want| {
            let read = source.read(&mut self.buffer[..want]);
            calls.add(Method::Read, 1);
            let got = read.map_err(Error::call("read"))?;
            let got = moved("read", want, got.cast_signed())?;
            if let Some(at) = pattern::damage(position, &self.buffer[..got], &mut self.expected) {
                return Err(Error::Changed(at));
            }
            position += got as u64;
            Ok(got)
        })?;
        Ok(calls)
    }
}
