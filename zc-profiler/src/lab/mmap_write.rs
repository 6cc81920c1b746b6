//! mmap the whole file, write from the mapping.

use std::{
    fs::File,
    os::fd::{AsRawFd, RawFd},
    ptr, slice,
};

use super::{
    Error,
    read_write::write_all,
    transfer::{Calls, Flow, Transfer},
};
use crate::ledger::Method;

/// Keeps the mapping until after the measurement: munmap is no call of the method.
#[derive(Default)]
pub(super) struct MmapWrite {
    mapping: Option<Mapping>,
}

impl Transfer for MmapWrite {
    fn transfer(&mut self, flow: &Flow) -> Result<Calls, Error> {
        let mut calls = Calls::default();
        let mapping = self.mapping.insert(Mapping::new(flow)?);
        calls.add(Method::Mmap, 1);
        let mut rest = mapping.bytes();
        flow.each_chunk(|want| {
            let (chunk, after) = rest.split_at(want);
            rest = after;
            write_all(&mut &*flow.sink, chunk, &mut calls)?;
            Ok(want)
        })?;
        Ok(calls)
    }
}

pub(super) struct Mapping {
    start: *mut libc::c_void,
    len: usize,
}

impl Mapping {
    pub fn new(flow: &Flow) -> Result<Self, Error> {
        let fd = File::as_raw_fd(flow.source);
        Self::of(flow.payload, libc::PROT_READ, libc::MAP_SHARED, fd)
    }

    /// Readable at least.
    pub fn of(payload: u64, access: i32, flags: i32, fd: RawFd) -> Result<Self, Error> {
        let len = usize::try_from(payload).map_err(|_| Error::TooLarge(payload))?;
        // SAFETY: a new mapping at an address of the kernel's choice; `fd` is open or of no account.
        let start = unsafe { libc::mmap(ptr::null_mut(), len, access, flags, fd, 0) };
        if start == libc::MAP_FAILED {
            return Err(Error::last("mmap"));
        }
        Ok(Self { start, len })
    }

    pub const fn start(&self) -> *mut u8 {
        self.start.cast()
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `len` readable bytes, mapped until `self` goes; nobody changes the source file.
        unsafe { slice::from_raw_parts(self.start.cast(), self.len) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly what mmap returned, and no reference outlives `self`.
        unsafe { libc::munmap(self.start, self.len) };
    }
}
