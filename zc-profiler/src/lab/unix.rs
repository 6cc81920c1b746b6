//! write to a UNIX socket, read from its peer.

use std::os::unix::net::{UnixDatagram, UnixStream};

use super::{
    Error,
    exchange::{End, Exchange},
    transfer::Transfer,
};

/// Well below what a socket buffer holds by default.
const ROOM: usize = 65_536;

pub(super) fn prepare(chunk: usize) -> Result<Box<dyn Transfer>, Error> {
    let (near, far) = UnixStream::pair().map_err(Error::call("socketpair"))?;
    Exchange::prepare(End::write(near), End::read(far), chunk, ROOM)
}

pub(super) fn prepare_datagrams(chunk: usize) -> Result<Box<dyn Transfer>, Error> {
    let (near, far) = UnixDatagram::pair().map_err(Error::call("socketpair"))?;
    Exchange::prepare(End::send(near), End::recv(far), chunk, ROOM)
}
