//! read into a buffer, write from it.

use std::io::{Read, Write};

use super::{
    Error,
    transfer::{Calls, Flow, Transfer, moved},
};
use crate::ledger::Method;

struct ReadWrite {
    buffer: Vec<u8>,
}

pub(super) fn prepare(chunk: usize) -> Result<Box<dyn Transfer>, Error> {
    Ok(Box::new(ReadWrite {
        buffer: buffer(chunk)?,
    }))
}

/// Room for so many bytes.
pub(super) fn buffer(len: usize) -> Result<Vec<u8>, Error> {
    let mut buffer = Vec::new();
    buffer
        .try_reserve_exact(len)
        .map_err(|_| Error::TooLarge(len as u64))?;
    // Not zero, so that every page is touched here and none faults under measurement.
    buffer.resize(len, 1);
    Ok(buffer)
}

impl Transfer for ReadWrite {
    fn transfer(&mut self, flow: &Flow) -> Result<Calls, Error> {
        let (mut source, mut sink) = (flow.source, flow.sink);
        let mut calls = Calls::default();
        flow.each_chunk(|want| {
            let got = source
                .read(&mut self.buffer[..want])
                .map_err(Error::call("read"))?;
            calls.add(Method::Read, 1);
            if got == 0 {
                return Err(Error::Stuck {
                    call: "read",
                    left: want,
                });
            }
            write_all(&mut sink, &self.buffer[..got], &mut calls)?;
            Ok(got)
        })?;
        Ok(calls)
    }
}

/// As `Write::write_all`, counting the calls.
pub(super) fn write_all(
    sink: &mut impl Write,
    mut bytes: &[u8],
    calls: &mut Calls,
) -> Result<(), Error> {
    while !bytes.is_empty() {
        let sent = sink.write(bytes).map_err(Error::call("write"))?;
        calls.add(Method::Write, 1);
        bytes = &bytes[moved("write", bytes.len(), sent.cast_signed())?..];
    }
    Ok(())
}
