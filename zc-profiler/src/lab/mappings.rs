//! Memory that a program reads or writes without a call, so that page faults do what is to be done.

use std::os::fd::AsRawFd;

use super::{
    Error,
    mmap_write::Mapping,
    pattern,
    read_write::buffer,
    transfer::{Calls, Flow, Transfer},
};
use crate::ledger::Method;

const PAGE: usize = 4096;
const WRITABLE: i32 = libc::PROT_READ | libc::PROT_WRITE;
const NO_FILE: i32 = -1;

/// What is mapped, and what is done to it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The source, to be read.
    Read,
    /// The source, to be written without changing it: each page is copied.
    Private,
    /// Memory that a child has too: each page is copied.
    Fork,
    /// New memory, to be written.
    Anonymous,
    /// The sink, to be written.
    Shared,
    /// The same, and on to disk.
    Synced,
}

struct Mapped {
    kind: Kind,
    room: Vec<u8>,
    /// Until after the measurement: munmap is no call of the method.
    mapping: Option<Mapping>,
    child: Option<Child>,
}

type Prepared = Result<Box<dyn Transfer>, Error>;

fn prepare(kind: Kind, chunk: usize) -> Prepared {
    Ok(Box::new(Mapped {
        kind,
        room: buffer(pattern::room(chunk.max(PAGE)))?,
        mapping: None,
        child: None,
    }))
}

pub(super) fn read(chunk: usize) -> Prepared {
    prepare(Kind::Read, chunk)
}

pub(super) fn private_write(chunk: usize) -> Prepared {
    prepare(Kind::Private, chunk)
}

pub(super) fn fork(chunk: usize) -> Prepared {
    prepare(Kind::Fork, chunk)
}

pub(super) fn anonymous(chunk: usize) -> Prepared {
    prepare(Kind::Anonymous, chunk)
}

pub(super) fn shared_write(chunk: usize) -> Prepared {
    prepare(Kind::Shared, chunk)
}

pub(super) fn synced_write(chunk: usize) -> Prepared {
    prepare(Kind::Synced, chunk)
}

impl Transfer for Mapped {
    fn make_ready(&mut self, flow: &Flow) -> Result<(), Error> {
        match self.kind {
            Kind::Shared => flow
                .sink
                .set_len(flow.payload)
                .map_err(Error::call("ftruncate")),
            Kind::Fork => self.share_with_a_child(flow),
            _ => Ok(()),
        }
    }

    fn transfer(&mut self, flow: &Flow) -> Result<Calls, Error> {
        let mut calls = Calls::default();
        if let Some(shared) = &self.mapping {
            make_writable(shared)?;
        } else {
            self.mapping = Some(self.map(flow)?);
            calls.add(Method::Mmap, 1);
        }
        match self.kind {
            Kind::Read => self.check(flow)?,
            Kind::Private | Kind::Fork => {
                self.write_pages();
                self.check(flow)?;
            }
            Kind::Anonymous => {
                self.write(flow)?;
                self.check(flow)?;
            }
            // Whoever made the sink checks it.
            Kind::Shared => self.write(flow)?,
            Kind::Synced => {
                self.write(flow)?;
                self.sync()?;
            }
        }
        Ok(calls)
    }
}

impl Mapped {
    fn map(&self, flow: &Flow) -> Result<Mapping, Error> {
        let (source, sink) = (flow.source.as_raw_fd(), flow.sink.as_raw_fd());
        let (access, flags, fd) = match self.kind {
            Kind::Read => (libc::PROT_READ, libc::MAP_SHARED, source),
            Kind::Private => (WRITABLE, libc::MAP_PRIVATE, source),
            Kind::Shared | Kind::Synced => (WRITABLE, libc::MAP_SHARED, sink),
            Kind::Anonymous | Kind::Fork => {
                (WRITABLE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, NO_FILE)
            }
        };
        Mapping::of(flow.payload, access, flags, fd)
    }

    fn mapped(&self) -> (*mut u8, usize) {
        self.mapping
            .as_ref()
            .map_or((std::ptr::null_mut(), 0), |mapping| {
                (mapping.start(), mapping.bytes().len())
            })
    }

    /// Fills the memory by chunks.
    fn write(&mut self, flow: &Flow) -> Result<(), Error> {
        let (start, _) = self.mapped();
        let mut position = 0;
        flow.each_chunk(|want| {
            let bytes = pattern::bytes(position as u64, want, &mut self.room);
            // SAFETY: the chunk is mapped and writable, and nothing refers to it.
            unsafe {
                start
                    .add(position)
                    .copy_from_nonoverlapping(bytes.as_ptr(), want);
            };
            position += want;
            Ok(want)
        })
    }

    /// One byte of each page, and the same byte as before, so that the page's others show whether it
    /// was copied well.
    fn write_pages(&mut self) {
        let (start, length) = self.mapped();
        for offset in (0..length).step_by(PAGE) {
            let byte = pattern::bytes(offset as u64, 1, &mut self.room)[0];
            // SAFETY: in bounds of a writable mapping that nothing refers to.
            unsafe { start.add(offset).write_volatile(byte) };
        }
    }

    fn check(&mut self, flow: &Flow) -> Result<(), Error> {
        let Some(mapping) = &self.mapping else {
            return Ok(());
        };
        let mut position = 0;
        flow.each_chunk(|want| {
            let bytes = &mapping.bytes()[position..position + want];
            if let Some(at) = pattern::damage(position as u64, bytes, &mut self.room) {
                return Err(Error::Changed(at));
            }
            position += want;
            Ok(want)
        })
    }

    fn sync(&self) -> Result<(), Error> {
        let (start, length) = self.mapped();
        // SAFETY: mapped, and nobody writes.
        match unsafe { libc::msync(start.cast(), length, libc::MS_SYNC) } {
            0 => Ok(()),
            _ => Err(Error::last("msync")),
        }
    }

    /// Only this memory is to be copied under measurement. What else the child shares is copied
    /// before, when the worker locks its pages; but what it may not write is left alone then.
    fn share_with_a_child(&mut self, flow: &Flow) -> Result<(), Error> {
        let mapping = self.map(flow)?;
        advise_small_pages(&mapping)?;
        self.mapping = Some(mapping);
        self.write(flow)?;
        if let Some(mapping) = &self.mapping {
            protect(mapping, libc::PROT_READ)?;
        }
        self.child = Some(Child::new()?);
        Ok(())
    }
}

fn advise_small_pages(mapping: &Mapping) -> Result<(), Error> {
    let (start, length) = (mapping.start().cast(), mapping.bytes().len());
    // SAFETY: mapped; its contents stay. A kernel without huge pages does not know the advice.
    match unsafe { libc::madvise(start, length, libc::MADV_NOHUGEPAGE) } {
        0 => Ok(()),
        _ if std::io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL) => Ok(()),
        _ => Err(Error::last("madvise")),
    }
}

fn protect(mapping: &Mapping, access: i32) -> Result<(), Error> {
    let (start, length) = (mapping.start().cast(), mapping.bytes().len());
    // SAFETY: mapped, and accessed by raw pointers or not at all from here on.
    match unsafe { libc::mprotect(start, length, access) } {
        0 => Ok(()),
        _ => Err(Error::last("mprotect")),
    }
}

/// Of locked memory the kernel would copy all pages at once, without a fault.
fn make_writable(mapping: &Mapping) -> Result<(), Error> {
    let (start, length) = (mapping.start().cast(), mapping.bytes().len());
    // SAFETY: mapped.
    match unsafe { libc::munlock(start, length) } {
        0 => protect(mapping, WRITABLE),
        _ => Err(Error::last("munlock")),
    }
}

/// Has this process's memory, and does nothing with it.
struct Child(libc::pid_t);

impl Child {
    fn new() -> Result<Self, Error> {
        // SAFETY: the child makes nothing but system calls.
        match unsafe { libc::fork() } {
            -1 => Err(Error::last("fork")),
            0 => {
                // SAFETY: no memory is passed, and the child never returns.
                unsafe {
                    libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                    loop {
                        libc::pause();
                    }
                }
            }
            pid => Ok(Self(pid)),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // SAFETY: our own child, not waited for yet; no memory is passed.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            libc::waitpid(self.0, std::ptr::null_mut(), 0);
        }
    }
}
