//! send and recv of UDP datagrams over loopback.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use super::{
    Error,
    exchange::{End, Exchange},
    netns::Namespace,
    transfer::Transfer,
};

/// A datagram holds less than 64 KiB.
const ROOM: usize = 32_768;
/// As on most wires. Loopback's own packets are larger than any datagram.
const PACKET: libc::c_int = 1500;

pub(super) fn prepare(chunk: usize) -> Result<Box<dyn Transfer>, Error> {
    exchange(pair(Ipv4Addr::LOCALHOST.into())?, chunk)
}

pub(super) fn prepare_ipv6(chunk: usize) -> Result<Box<dyn Transfer>, Error> {
    exchange(pair(Ipv6Addr::LOCALHOST.into())?, chunk)
}

/// Datagrams that do not fit a packet.
pub(super) fn prepare_fragments(chunk: usize) -> Result<Box<dyn Transfer>, Error> {
    let sockets = small_packets()?.inside(|| pair(Ipv4Addr::LOCALHOST.into()))?;
    exchange(sockets, chunk)
}

pub(super) fn prepare_fragments_ipv6(chunk: usize) -> Result<Box<dyn Transfer>, Error> {
    let sockets = small_packets()?.inside(|| pair(Ipv6Addr::LOCALHOST.into()))?;
    exchange(sockets, chunk)
}

fn small_packets() -> Result<Namespace, Error> {
    Namespace::with_loopback(PACKET)
}

/// Both ends, the sender's first.
fn pair(address: IpAddr) -> Result<(UdpSocket, UdpSocket), Error> {
    let socket = || UdpSocket::bind((address, 0)).map_err(Error::call("bind"));
    let (near, far) = (socket()?, socket()?);
    far.local_addr()
        .and_then(|address| near.connect(address))
        .map_err(Error::call("connect"))?;
    Ok((near, far))
}

fn exchange((near, far): (UdpSocket, UdpSocket), chunk: usize) -> Result<Box<dyn Transfer>, Error> {
    Exchange::prepare(End::send(near), End::recv(far), chunk, ROOM)
}
