//! write to memory that is a file, and read from it.

use std::{
    fs::File,
    os::{
        fd::{FromRawFd, OwnedFd},
        unix::fs::FileExt,
    },
};

use super::{
    Error, pattern,
    read_write::buffer,
    transfer::{Calls, Flow, Transfer, moved},
};
use crate::ledger::Method;

struct Memfd {
    file: File,
    sent: Vec<u8>,
    received: Vec<u8>,
}

pub(super) fn prepare(chunk: usize) -> Result<Box<dyn Transfer>, Error> {
    // SAFETY: the name ends in zero.
    let fd = unsafe { libc::memfd_create(c"zc-profiler-lab".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(Error::last("memfd_create"));
    }
    // SAFETY: a new descriptor, which nobody else has.
    let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    Ok(Box::new(Memfd {
        file,
        sent: buffer(pattern::room(chunk))?,
        received: buffer(chunk)?,
    }))
}

impl Transfer for Memfd {
    fn transfer(&mut self, flow: &Flow) -> Result<Calls, Error> {
        let mut calls = Calls::default();
        let mut position = 0;
        flow.each_chunk(|want| {
            let bytes = pattern::bytes(position, want, &mut self.sent);
            let written = self.file.write_at(bytes, position);
            calls.add(Method::Write, 1);
            let written = written.map_err(Error::call("pwrite"))?.cast_signed();
            let written = moved("pwrite", want, written)?;
            let mut taken = 0;
            while taken < written {
                let room = &mut self.received[taken..written];
                let left = room.len();
                let read = self.file.read_at(room, position + taken as u64);
                calls.add(Method::Read, 1);
                let read = read.map_err(Error::call("pread"))?.cast_signed();
                taken += moved("pread", left, read)?;
            }
            if let Some(at) = pattern::damage(position, &self.received[..written], &mut self.sent) {
                return Err(Error::Changed(at));
            }
            position += written as u64;
            Ok(written)
        })?;
        Ok(calls)
    }
}
