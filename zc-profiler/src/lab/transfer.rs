//! What every method has in common: from where to where, and how many calls it took.

use std::fs::File;

use serde::{Deserialize, Serialize};

use super::Error;
use crate::ledger::Method;

/// A payload on its way.
pub(super) struct Flow<'a> {
    pub source: &'a File,
    /// A file or a socket; either takes write(2).
    pub sink: &'a File,
    pub payload: u64,
    pub chunk: usize,
}

/// One way to move a file's bytes. Between the barriers of the worker it makes no call but the
/// method's own: so buffers, pipes and the like come before, and unmapping comes with `Drop`.
pub(super) trait Transfer {
    /// Makes ready what depends on the payload, before the worker's first barrier.
    fn make_ready(&mut self, _flow: &Flow) -> Result<(), Error> {
        Ok(())
    }

    /// Moves the payload and counts the calls.
    fn transfer(&mut self, flow: &Flow) -> Result<Calls, Error>;
}

/// System calls made, by method.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Calls([u64; Method::ALL.len()]);

impl Calls {
    /// How many calls of that method were made.
    #[must_use]
    pub const fn of(&self, method: Method) -> u64 {
        self.0[method as usize]
    }

    /// How many calls were made.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Counts calls of a method.
    pub const fn add(&mut self, method: Method, count: u64) {
        self.0[method as usize] += count;
    }
}

impl Flow<'_> {
    /// Calls `step` with the size of the next chunk until the payload is moved; it returns how much
    /// of the chunk it did move.
    pub fn each_chunk(
        &self,
        mut step: impl FnMut(usize) -> Result<usize, Error>,
    ) -> Result<(), Error> {
        let mut left = self.payload;
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(self.chunk);
            left -= step(want)? as u64;
        }
        Ok(())
    }
}

/// What a call that was to move `want` bytes returned, as bytes moved.
pub(super) fn moved(call: &'static str, want: usize, returned: isize) -> Result<usize, Error> {
    match usize::try_from(returned) {
        Err(_) => Err(Error::last(call)),
        Ok(0) => Err(Error::Stuck { call, left: want }),
        Ok(bytes) => Ok(bytes),
    }
}

/// What a call with vectors is given for these bytes.
pub(super) fn vector(bytes: &mut [u8]) -> libc::iovec {
    libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    }
}
