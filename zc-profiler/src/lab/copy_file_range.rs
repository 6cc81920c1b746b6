//! `copy_file_range` from file to file.

use std::{os::fd::AsRawFd, ptr};

use super::{
    Error,
    transfer::{Calls, Flow, Transfer, moved},
};
use crate::ledger::Method;

#[derive(Default)]
pub(super) struct CopyFileRange;

impl Transfer for CopyFileRange {
    fn transfer(&mut self, flow: &Flow) -> Result<Calls, Error> {
        let (source, sink) = (flow.source.as_raw_fd(), flow.sink.as_raw_fd());
        let mut calls = Calls::default();
        flow.each_chunk(|want| {
            // SAFETY: both are open; no memory is passed.
            let copied = unsafe {
                libc::copy_file_range(source, ptr::null_mut(), sink, ptr::null_mut(), want, 0)
            };
            calls.add(Method::CopyFileRange, 1);
            moved("copy_file_range", want, copied)
        })?;
        Ok(calls)
    }
}

/// What file systems share.
const BLOCK: usize = 4096;

/// The same by whole blocks, whatever the chunk: no others can be shared.
#[derive(Default)]
pub(super) struct Reflink;

impl Transfer for Reflink {
    fn transfer(&mut self, flow: &Flow) -> Result<Calls, Error> {
        let chunk = flow.chunk.next_multiple_of(BLOCK);
        CopyFileRange.transfer(&Flow { chunk, ..*flow })
    }
}
