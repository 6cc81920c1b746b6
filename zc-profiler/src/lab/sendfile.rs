//! sendfile from the file to the sink.

use std::{
    os::fd::{AsRawFd, RawFd},
    ptr,
};

use super::{
    Error,
    transfer::{Calls, Flow, Transfer, moved},
};
use crate::ledger::Method;

#[derive(Default)]
pub(super) struct Sendfile;

impl Transfer for Sendfile {
    fn transfer(&mut self, flow: &Flow) -> Result<Calls, Error> {
        let (source, sink) = (flow.source.as_raw_fd(), flow.sink.as_raw_fd());
        let mut calls = Calls::default();
        flow.each_chunk(|want| {
            calls.add(Method::Sendfile, 1);
            sendfile(source, sink, want)
        })?;
        Ok(calls)
    }
}

pub(super) fn sendfile(from: RawFd, to: RawFd, want: usize) -> Result<usize, Error> {
    // SAFETY: both are open; no memory is passed.
    let sent = unsafe { libc::sendfile(to, from, ptr::null_mut(), want) };
    moved("sendfile", want, sent)
}
