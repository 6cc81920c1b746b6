//! read of a file in /proc, whose text the kernel makes when it is read.

use std::{
    fs::File,
    io::{Read, Seek},
};

use super::{
    Error,
    read_write::buffer,
    transfer::{Calls, Flow, Transfer, moved},
};
use crate::ledger::Method;

/// Long, and begins with what no module or program that is loaded changes.
const PLACE: &str = "/proc/kallsyms";
const BEGINNING: u64 = 1 << 20;

struct ProcRead {
    file: File,
    expected: Vec<u8>,
    buffer: Vec<u8>,
}

pub(super) fn prepare(chunk: usize) -> Result<Box<dyn Transfer>, Error> {
    let mut file = File::open(PLACE).map_err(Error::file(PLACE))?;
    let mut expected = Vec::new();
    (&file)
        .take(BEGINNING)
        .read_to_end(&mut expected)
        .and_then(|_| file.rewind())
        .map_err(Error::file(PLACE))?;
    Ok(Box::new(ProcRead {
        buffer: buffer(chunk.min(expected.len()))?,
        file,
        expected,
    }))
}

impl Transfer for ProcRead {
    /// Its beginning, over and over.
    fn transfer(&mut self, flow: &Flow) -> Result<Calls, Error> {
        let mut calls = Calls::default();
        let (mut position, mut total) = (0, 0);
        flow.each_chunk(|want| {
            if position == self.expected.len() {
                // No method's call.
                self.file.rewind().map_err(Error::call("lseek"))?;
                position = 0;
            }
            let rest = &self.expected[position..];
            let want = want.min(rest.len());
            let read = self.file.read(&mut self.buffer[..want]);
            calls.add(Method::Read, 1);
            let got = read.map_err(Error::call("read"))?;
            let got = moved("read", want, got.cast_signed())?;
            if self.buffer[..got] != rest[..got] {
                return Err(Error::Changed(total));
            }
            position += got;
            total += got as u64;
            Ok(got)
        })?;
        Ok(calls)
    }
}
