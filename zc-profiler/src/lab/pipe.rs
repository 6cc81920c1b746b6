//! write into a pipe, read out of it.

use super::{
    Error,
    exchange::{End, Exchange},
    transfer::Transfer,
};

/// What a pipe holds that nobody has made larger.
const ROOM: usize = 65_536;

pub(super) fn prepare(chunk: usize) -> Result<Box<dyn Transfer>, Error> {
    let (reader, writer) = std::io::pipe().map_err(Error::call("pipe2"))?;
    Exchange::prepare(End::write(writer), End::read(reader), chunk, ROOM)
}
