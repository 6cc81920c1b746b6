//! Into a pipe, on to another one or not, and out again, by every call that does such a thing.

use std::{
    io::{PipeReader, PipeWriter},
    os::fd::AsRawFd,
    ptr,
};

use super::{
    Error, pattern,
    read_write::buffer,
    splice::{pipe_for, splice},
    transfer::{Calls, Flow, Transfer, moved, vector},
};
use crate::ledger::Method;

/// What a pipe holds that nobody has made larger.
const ROOM: usize = 65_536;

/// How the bytes come into the first pipe.
#[derive(Clone, Copy)]
enum Fill {
    Write,
    Vmsplice,
    Splice,
    Sendfile,
}

/// How they come from the first pipe to the second.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    Not,
    Splice,
    Tee,
}

/// How they come out.
#[derive(Clone, Copy)]
enum Drain {
    Read,
    Vmsplice,
}

type Pipe = (PipeReader, PipeWriter);

struct Pipes {
    route: (Fill, Pass, Drain),
    first: Pipe,
    second: Pipe,
    piece: usize,
    sent: Vec<u8>,
    received: Vec<u8>,
    expected: Vec<u8>,
}

type Prepared = Result<Box<dyn Transfer>, Error>;

fn prepare(route: (Fill, Pass, Drain), chunk: usize) -> Prepared {
    let piece = chunk.min(ROOM);
    Ok(Box::new(Pipes {
        route,
        first: pipe_for(piece)?,
        second: pipe_for(piece)?,
        piece,
        sent: buffer(pattern::room(piece))?,
        received: buffer(piece)?,
        expected: buffer(pattern::room(piece))?,
    }))
}

pub(super) fn splice_then_read(chunk: usize) -> Prepared {
    prepare((Fill::Splice, Pass::Not, Drain::Read), chunk)
}

pub(super) fn sendfile_then_read(chunk: usize) -> Prepared {
    prepare((Fill::Sendfile, Pass::Not, Drain::Read), chunk)
}

pub(super) fn splice_between(chunk: usize) -> Prepared {
    prepare((Fill::Write, Pass::Splice, Drain::Read), chunk)
}

pub(super) fn tee(chunk: usize) -> Prepared {
    prepare((Fill::Write, Pass::Tee, Drain::Read), chunk)
}

pub(super) fn vmsplice_then_read(chunk: usize) -> Prepared {
    prepare((Fill::Vmsplice, Pass::Not, Drain::Read), chunk)
}

pub(super) fn write_then_vmsplice(chunk: usize) -> Prepared {
    prepare((Fill::Write, Pass::Not, Drain::Vmsplice), chunk)
}

impl Transfer for Pipes {
    fn transfer(&mut self, flow: &Flow) -> Result<Calls, Error> {
        let mut calls = Calls::default();
        let mut position = 0;
        let pass = self.route.1;
        flow.each_chunk(|want| {
            let filled = self.fill(flow, position, want.min(self.piece), &mut calls)?;
            self.pass(filled, &mut calls)?;
            if pass != Pass::Splice {
                self.drain(Which::First, position, filled, &mut calls)?;
            }
            if pass != Pass::Not {
                self.drain(Which::Second, position, filled, &mut calls)?;
            }
            position += filled as u64;
            Ok(filled)
        })?;
        Ok(calls)
    }
}

#[derive(Clone, Copy)]
enum Which {
    First,
    Second,
}

impl Pipes {
    fn fill(
        &mut self,
        flow: &Flow,
        position: u64,
        want: usize,
        calls: &mut Calls,
    ) -> Result<usize, Error> {
        let (pipe, source) = (self.first.1.as_raw_fd(), flow.source.as_raw_fd());
        // What is passed from here by reference stays as it is until it has been taken out.
        let bytes = pattern::bytes(position, want, &mut self.sent);
        let (name, method, result) = match self.route.0 {
            Fill::Write => {
                // SAFETY: the bytes are readable.
                let written = unsafe { libc::write(pipe, bytes.as_ptr().cast(), want) };
                ("write", Method::Write, written)
            }
            Fill::Vmsplice => {
                let bytes = vector(bytes);
                // SAFETY: the vector describes the bytes, which live as long as the pipe.
                let passed = unsafe { libc::vmsplice(pipe, &raw const bytes, 1, 0) };
                ("vmsplice", Method::Vmsplice, passed)
            }
            Fill::Sendfile => {
                // SAFETY: both are open; no memory is passed.
                let sent = unsafe { libc::sendfile(pipe, source, ptr::null_mut(), want) };
                ("sendfile", Method::Sendfile, sent)
            }
            Fill::Splice => {
                let spliced = splice(source, pipe, want, 0)?;
                ("splice", Method::Splice, spliced.cast_signed())
            }
        };
        calls.add(method, 1);
        moved(name, want, result)
    }

    /// Has what the first pipe holds in the second, too or instead.
    fn pass(&self, filled: usize, calls: &mut Calls) -> Result<(), Error> {
        let (from, to) = (self.first.0.as_raw_fd(), self.second.1.as_raw_fd());
        match self.route.1 {
            Pass::Not => Ok(()),
            Pass::Splice => {
                let mut left = filled;
                while left > 0 {
                    left -= splice(from, to, left, 0)?;
                    calls.add(Method::Splice, 1);
                }
                Ok(())
            }
            Pass::Tee => {
                // SAFETY: both are open; no memory is passed.
                let result = unsafe { libc::tee(from, to, filled, 0) };
                calls.add(Method::Tee, 1);
                // It takes nothing out, so that another call would begin anew.
                match moved("tee", filled, result)? {
                    got if got == filled => Ok(()),
                    got => Err(Error::Length {
                        expected: filled as u64,
                        got: got as u64,
                    }),
                }
            }
        }
    }

    fn drain(
        &mut self,
        which: Which,
        position: u64,
        filled: usize,
        calls: &mut Calls,
    ) -> Result<(), Error> {
        let pipe = match which {
            Which::First => self.first.0.as_raw_fd(),
            Which::Second => self.second.0.as_raw_fd(),
        };
        let mut taken = 0;
        while taken < filled {
            let room = &mut self.received[taken..filled];
            let want = room.len();
            let (name, method, result) = match self.route.2 {
                Drain::Read => {
                    // SAFETY: there is that much room.
                    let read = unsafe { libc::read(pipe, room.as_mut_ptr().cast(), want) };
                    ("read", Method::Read, read)
                }
                Drain::Vmsplice => {
                    let room = vector(room);
                    // SAFETY: the vector describes the room.
                    let copied = unsafe { libc::vmsplice(pipe, &raw const room, 1, 0) };
                    ("vmsplice", Method::Vmsplice, copied)
                }
            };
            calls.add(method, 1);
            taken += moved(name, want, result)?;
        }
        match pattern::damage(position, &self.received[..filled], &mut self.expected) {
            Some(at) => Err(Error::Changed(at)),
            None => Ok(()),
        }
    }
}
