//! `process_vm_readv`: from memory to memory, which may be another process's.

use super::{
    Error, pattern,
    read_write::buffer,
    transfer::{Calls, Flow, Transfer, moved, vector},
};
use crate::ledger::Method;

struct ProcessVm {
    sent: Vec<u8>,
    received: Vec<u8>,
}

pub(super) fn prepare(chunk: usize) -> Result<Box<dyn Transfer>, Error> {
    Ok(Box::new(ProcessVm {
        sent: buffer(pattern::room(chunk))?,
        received: buffer(chunk)?,
    }))
}

impl Transfer for ProcessVm {
    fn transfer(&mut self, flow: &Flow) -> Result<Calls, Error> {
        let mut calls = Calls::default();
        let mut position = 0;
        flow.each_chunk(|want| {
            let remote = vector(pattern::bytes(position, want, &mut self.sent));
            let local = vector(&mut self.received[..want]);
            // SAFETY: both vectors are buffers of this process, which is the other one too.
            let read = unsafe {
                let own = libc::getpid();
                libc::process_vm_readv(own, &raw const local, 1, &raw const remote, 1, 0)
            };
            calls.add(Method::ProcessVm, 1);
            let read = moved("process_vm_readv", want, read)?;
            if let Some(at) = pattern::damage(position, &self.received[..read], &mut self.sent) {
                return Err(Error::Changed(at));
            }
            position += read as u64;
            Ok(read)
        })?;
        Ok(calls)
    }
}
