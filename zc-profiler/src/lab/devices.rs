//! Devices without a medium, and random bytes.

use std::{
    fs::{File, OpenOptions},
    os::fd::AsRawFd,
    ptr,
};

use super::{
    Error, pattern,
    read_write::buffer,
    transfer::{Calls, Flow, Transfer, moved},
};
use crate::ledger::Method;

#[derive(Clone, Copy, PartialEq, Eq)]
enum AttachClass {
    ReadZero,
    Read,
    GetRandom,
    Write,
    Sendfile,
}

struct Device {
    way: AttachClass,
    file: File,
    buffer: Vec<u8>,
}

fn device(way: AttachClass, path: &str, chunk: usize) -> Result<Box<dyn Transfer>, Error> {
    let file = OpenOptions::new()
        .read(true)
        .write(path == NULL)
        .open(path)
        .map_err(Error::file(path))?;
    let buffer = buffer(pattern::room(chunk))?;
    Ok(Box::new(Device { way, file, buffer }))
}

const NULL: &str = "/dev/null";
const RANDOM: &str = "/dev/urandom";

pub(super) fn zero_read(chunk: usize) -> Result<Box<dyn Transfer>, Error> {
    device(AttachClass::ReadZero, "/dev/zero", chunk)
}

pub(super) fn random_read(chunk: usize) -> Result<Box<dyn Transfer>, Error> {
    device(AttachClass::Read, RANDOM, chunk)
}

/// By the system call, which needs no file.
pub(super) fn getrandom(chunk: usize) -> Result<Box<dyn Transfer>, Error> {
    device(AttachClass::GetRandom, RANDOM, chunk)
}

pub(super) fn null_write(chunk: usize) -> Result<Box<dyn Transfer>, Error> {
    device(AttachClass::Write, NULL, chunk)
}

pub(super) fn null_sendfile(chunk: usize) -> Result<Box<dyn Transfer>, Error> {
    device(AttachClass::Sendfile, NULL, chunk)
}

impl Transfer for Device {
    fn transfer(&mut self, flow: &Flow) -> Result<Calls, Error> {
        let (file, source) = (self.file.as_raw_fd(), flow.source.as_raw_fd());
        let mut calls = Calls::default();
        let mut position = 0;
        flow.each_chunk(|want| {
            let data = self.buffer.as_mut_ptr();
            // SAFETY: the buffer holds a chunk, and both files are open.
            let (name, method, result) = unsafe {
                match self.way {
                    AttachClass::ReadZero | AttachClass::Read => {
                        let read = libc::read(file, data.cast(), want);
                        ("read", Some(Method::Read), read)
                    }
                    // No method's call.
                    AttachClass::GetRandom => {
                        ("getrandom", None, libc::getrandom(data.cast(), want, 0))
                    }
                    AttachClass::Write => {
                        let written = libc::write(file, data.cast(), want);
                        ("write", Some(Method::Write), written)
                    }
                    AttachClass::Sendfile => {
                        let sent = libc::sendfile(file, source, ptr::null_mut(), want);
                        ("sendfile", Some(Method::Sendfile), sent)
                    }
                }
            };
            if let Some(method) = method {
                calls.add(method, 1);
            }
            let got = moved(name, want, result)?;
            if self.way == AttachClass::ReadZero
                && let Some(at) = self.buffer[..got].iter().position(|byte| *byte != 0)
            {
                return Err(Error::Changed(position + at as u64));
            }
            position += got as u64;
            Ok(got)
        })?;
        Ok(calls)
    }
}
