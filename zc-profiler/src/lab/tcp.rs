//! send and recv of a TCP connection over loopback.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream},
    os::fd::AsRawFd,
};

use super::{
    Error,
    exchange::{End, Exchange},
    transfer::Transfer,
};

/// Well below what a socket holds, so that no call waits for the other end.
pub(super) const ROOM: usize = 32_768;
/// What a sender is allowed to hold where the machine allows as much.
const SEND_BUFFER: libc::c_int = 1 << 20;

pub(super) fn prepare_ipv4(chunk: usize) -> Result<Box<dyn Transfer>, Error> {
    exchange(Ipv4Addr::LOCALHOST.into(), chunk)
}

pub(super) fn prepare_ipv6(chunk: usize) -> Result<Box<dyn Transfer>, Error> {
    exchange(Ipv6Addr::LOCALHOST.into(), chunk)
}

fn exchange(address: IpAddr, chunk: usize) -> Result<Box<dyn Transfer>, Error> {
    let (near, far) = pair(address)?;
    Exchange::prepare(End::send(near), End::recv(far), chunk, ROOM)
}

/// Both ends of a connection, the sender's first.
pub(super) fn pair(address: IpAddr) -> Result<(TcpStream, TcpStream), Error> {
    let listener = TcpListener::bind((address, 0)).map_err(Error::call("bind"))?;
    let near = listener
        .local_addr()
        .and_then(TcpStream::connect)
        .map_err(Error::call("connect"))?;
    let (far, _) = listener.accept().map_err(Error::call("accept"))?;
    // Each piece travels at once, and finds room.
    near.set_nodelay(true).map_err(Error::call("TCP_NODELAY"))?;
    let (level, option, size) = (libc::SOL_SOCKET, libc::SO_SNDBUF, SEND_BUFFER);
    #[allow(clippy::cast_possible_truncation, reason = "four bytes")]
    let length = size_of_val(&size) as libc::socklen_t;
    let value = (&raw const size).cast();
    // SAFETY: the option's value is valid for the call.
    match unsafe { libc::setsockopt(near.as_raw_fd(), level, option, value, length) } {
        0 => Ok((near, far)),
        _ => Err(Error::last("SO_SNDBUF")),
    }
}
