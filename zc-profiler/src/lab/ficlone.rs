//! `FICLONE`: one file's blocks become another's too.

use std::os::fd::AsRawFd;

use super::{
    Error,
    transfer::{Calls, Flow, Transfer},
};

#[derive(Default)]
pub(super) struct Ficlone;

impl Transfer for Ficlone {
    /// An ioctl, which is no method's call.
    fn transfer(&mut self, flow: &Flow) -> Result<Calls, Error> {
        let (source, sink) = (flow.source.as_raw_fd(), flow.sink.as_raw_fd());
        // SAFETY: takes two open descriptors.
        match unsafe { libc::ioctl(sink, libc::FICLONE, source) } {
            0 => Ok(Calls::default()),
            _ => Err(Error::last("FICLONE")),
        }
    }
}
