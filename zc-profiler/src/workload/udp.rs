//! send and recv of UDP datagrams over loopback.

use std::net::{Ipv4Addr, UdpSocket};

use super::{
    Error,
    exchange::{End, Exchange},
    transfer::Transfer,
};

/// A datagram holds less than 64 KiB.
const ROOM: usize = 32_768;

pub(super) fn prepare(chunk: usize) -> Result<Box<dyn Transfer>, Error> {
    let socket = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map_err(Error::call("bind"));
    let (near, far) = (socket()?, socket()?);
    far.local_addr()
        .and_then(|address| near.connect(address))
        .map_err(Error::call("connect"))?;
    Exchange::prepare(End::send(near), End::recv(far), chunk, ROOM)
}
