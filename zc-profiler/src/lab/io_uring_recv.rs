//! send by a TCP connection whose other end an `io_uring` receives.

use std::{
    io::Write,
    net::{Ipv4Addr, TcpStream},
    os::fd::AsRawFd,
};

use super::{
    Error, pattern,
    read_write::buffer,
    ring::{self, Ring},
    tcp,
    transfer::{Calls, Flow, Transfer, moved},
};
use crate::ledger::Method;

struct RingRecv {
    ring: Ring,
    near: TcpStream,
    far: TcpStream,
    piece: usize,
    sent: Vec<u8>,
    received: Vec<u8>,
}

pub(super) fn prepare(chunk: usize) -> Result<Box<dyn Transfer>, Error> {
    let (near, far) = tcp::pair(Ipv4Addr::LOCALHOST.into())?;
    let piece = tcp::ROOM.min(chunk);
    Ok(Box::new(RingRecv {
        ring: Ring::new(0)?,
        near,
        far,
        piece,
        sent: buffer(pattern::room(piece))?,
        received: buffer(piece)?,
    }))
}

impl Transfer for RingRecv {
    fn transfer(&mut self, flow: &Flow) -> Result<Calls, Error> {
        let (mut position, mut sends, far) = (0, 0, self.far.as_raw_fd());
        flow.each_chunk(|want| {
            let want = want.min(self.piece);
            let bytes = pattern::bytes(position, want, &mut self.sent);
            // The standard library's write to a connection is send(2).
            let sent = self.near.write(bytes).map_err(Error::call("send"))?;
            sends += 1;
            let put = moved("send", want, sent.cast_signed())?;
            let mut taken = 0;
            while taken < put {
                let room = &mut self.received[taken..put];
                taken += self.ring.transfer(ring::RECV, far, room, 0)?;
            }
            if let Some(at) = pattern::damage(position, &self.received[..put], &mut self.sent) {
                return Err(Error::Changed(at));
            }
            position += put as u64;
            Ok(put)
        })?;
        let mut calls = self.ring.calls();
        calls.add(Method::Send, sends);
        Ok(calls)
    }
}
