//! Into a socket whose other end this process holds too, and out of it again, by way of a pipe or not.

use std::{
    fs::File,
    io::{PipeReader, PipeWriter, Read, Write, pipe},
    net::Ipv4Addr,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use super::{
    Error, pattern,
    read_write::buffer,
    sendfile::sendfile,
    splice::splice,
    tcp,
    transfer::{Calls, Flow, Transfer, moved},
};
use crate::ledger::Method;

/// A UNIX socket keeps a message of up to about a page, less its own header, in memory that it cannot
/// pass on.
const SMALL: usize = 3_000;
/// As many pages as such a piece has, and those that its edges touch.
const PIPE: libc::c_int = 1 << 18;

/// How the payload comes into the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Put {
    Write,
    Sendfile,
    /// From the file into a pipe, and from there.
    Splice,
}

/// How it comes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Take {
    Read,
    /// Into a pipe, which is then read.
    Splice,
}

/// Each piece is taken out at once, so that no call waits for the other end.
struct Passage {
    near: File,
    far: File,
    put: Put,
    take: Take,
    reader: PipeReader,
    writer: PipeWriter,
    piece: usize,
    sent: Vec<u8>,
    received: Vec<u8>,
}

/// By a TCP connection.
pub(super) fn by_tcp(put: Put, take: Take, chunk: usize) -> Result<Box<dyn Transfer>, Error> {
    let (near, far) = tcp::pair(Ipv4Addr::LOCALHOST.into())?;
    prepare(near, far, put, take, tcp::ROOM.min(chunk))
}

/// By a pair of UNIX sockets.
pub(super) fn by_unix(put: Put, take: Take, chunk: usize) -> Result<Box<dyn Transfer>, Error> {
    let (near, far) = UnixStream::pair().map_err(Error::call("socketpair"))?;
    let room = match (put, take) {
        (Put::Write, Take::Splice) => SMALL,
        _ => tcp::ROOM,
    };
    prepare(near, far, put, take, room.min(chunk))
}

fn prepare(
    near: impl Into<OwnedFd>,
    far: impl Into<OwnedFd>,
    put: Put,
    take: Take,
    piece: usize,
) -> Result<Box<dyn Transfer>, Error> {
    let (reader, writer) = pipe().map_err(Error::call("pipe2"))?;
    // If the kernel says no, a piece takes more calls.
    // SAFETY: the pipe is open; no memory is passed.
    unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETPIPE_SZ, PIPE) };
    Ok(Box::new(Passage {
        near: near.into().into(),
        far: far.into().into(),
        put,
        take,
        reader,
        writer,
        piece,
        sent: buffer(pattern::room(piece))?,
        received: buffer(piece)?,
    }))
}

impl Passage {
    /// Brings in the payload's bytes from `position` on, at most so many.
    fn bring_in(
        &mut self,
        flow: &Flow,
        position: u64,
        want: usize,
        calls: &mut Calls,
    ) -> Result<usize, Error> {
        let (source, near) = (flow.source.as_raw_fd(), self.near.as_raw_fd());
        match self.put {
            Put::Write => {
                let bytes = pattern::bytes(position, want, &mut self.sent);
                let written = self.near.write(bytes).map_err(Error::call("write"))?;
                calls.add(Method::Write, 1);
                moved("write", want, written.cast_signed())
            }
            Put::Sendfile => {
                calls.add(Method::Sendfile, 1);
                sendfile(source, near, want)
            }
            Put::Splice => {
                let filled = splice(source, self.writer.as_raw_fd(), want, 0)?;
                calls.add(Method::Splice, 1);
                let mut left = filled;
                while left > 0 {
                    left -= splice(self.reader.as_raw_fd(), near, left, 0)?;
                    calls.add(Method::Splice, 1);
                }
                Ok(filled)
            }
        }
    }

    /// Takes some of the bytes out to `start..end` of the buffer.
    fn take_out(&mut self, start: usize, end: usize, calls: &mut Calls) -> Result<usize, Error> {
        let room = &mut self.received[start..end];
        match self.take {
            Take::Read => read(&mut self.far, room, calls),
            Take::Splice => {
                let (far, writer) = (self.far.as_raw_fd(), self.writer.as_raw_fd());
                let filled = splice(far, writer, room.len(), 0)?;
                calls.add(Method::Splice, 1);
                let mut taken = 0;
                while taken < filled {
                    taken += read(&mut self.reader, &mut room[taken..filled], calls)?;
                }
                Ok(filled)
            }
        }
    }
}

fn read(from: &mut impl Read, to: &mut [u8], calls: &mut Calls) -> Result<usize, Error> {
    let got = from.read(to).map_err(Error::call("read"))?;
    calls.add(Method::Read, 1);
    moved("read", to.len(), got.cast_signed())
}

impl Transfer for Passage {
    fn transfer(&mut self, flow: &Flow) -> Result<Calls, Error> {
        let mut calls = Calls::default();
        let mut position = 0;
        flow.each_chunk(|want| {
            let put = self.bring_in(flow, position, want.min(self.piece), &mut calls)?;
            let mut taken = 0;
            while taken < put {
                taken += self.take_out(taken, put, &mut calls)?;
            }
            if let Some(at) = pattern::damage(position, &self.received[..put], &mut self.sent) {
                return Err(Error::Changed(at));
            }
            position += put as u64;
            Ok(put)
        })?;
        Ok(calls)
    }
}
