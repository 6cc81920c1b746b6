//! read of a file by requests of an `io_uring`, one at a time.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    ptr,
    sync::atomic::{AtomicU32, Ordering},
};

use super::{
    Error, pattern,
    read_write::buffer,
    transfer::{Calls, Flow, Transfer, moved},
};
use crate::ledger::Method;

const READ: u8 = 22;
const ENTER_GETEVENTS: u32 = 1;
const OFF_RINGS: i64 = 0;
const OFF_REQUESTS: i64 = 0x1000_0000;
/// Both rings of so few entries, and the requests, fit a page each.
const ENTRIES: u32 = 8;
const PAGE: usize = 4096;

/// `struct io_sqring_offsets` and, but for the last names, `struct io_cqring_offsets`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Offsets {
    head: u32,
    tail: u32,
    ring_mask: u32,
    ring_entries: u32,
    /// Of the submission ring: flags, dropped, array. Of the completion ring: overflow, cqes, flags.
    others: [u32; 3],
    reserved: u32,
    user_address: u64,
}

/// `struct io_uring_params`.
#[repr(C)]
#[derive(Default)]
struct Parameters {
    sq_entries: u32,
    cq_entries: u32,
    flags: u32,
    sq_thread_cpu: u32,
    sq_thread_idle: u32,
    features: u32,
    wq_fd: u32,
    reserved: [u32; 3],
    sq: Offsets,
    cq: Offsets,
}

/// `struct io_uring_sqe`.
#[repr(C)]
struct Request {
    opcode: u8,
    flags: u8,
    priority: u16,
    fd: i32,
    offset: u64,
    address: u64,
    length: u32,
    others: [u32; 9],
}

/// `struct io_uring_cqe`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Completion {
    user_data: u64,
    result: i32,
    flags: u32,
}

const _: () = assert!(size_of::<Request>() == 64 && size_of::<Parameters>() == 120);

/// Lives as long as the process, as its mappings do.
struct Ring {
    fd: OwnedFd,
    rings: *mut u8,
    requests: *mut Request,
    sq: Offsets,
    cq: Offsets,
}

struct RingRead {
    ring: Ring,
    buffer: Vec<u8>,
    expected: Vec<u8>,
}

pub(super) fn prepare(chunk: usize) -> Result<Box<dyn Transfer>, Error> {
    Ok(Box::new(RingRead {
        ring: Ring::new()?,
        buffer: buffer(chunk)?,
        expected: buffer(pattern::room(chunk))?,
    }))
}

/// Whether this process may have one.
pub(super) fn is_available() -> bool {
    set_up(&mut Parameters::default()).is_ok()
}

fn set_up(parameters: &mut Parameters) -> Result<OwnedFd, Error> {
    // SAFETY: the parameters are valid for the call.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, ENTRIES, &raw mut *parameters) };
    match i32::try_from(fd) {
        // SAFETY: a new descriptor, which nobody else has.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(Error::last("io_uring_setup")),
    }
}

impl Ring {
    fn new() -> Result<Self, Error> {
        let mut parameters = Parameters::default();
        let fd = set_up(&mut parameters)?;
        let map = |offset| {
            let (access, flags) = (
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
            );
            // SAFETY: a new mapping at an address of the kernel's choice.
            let start =
                unsafe { libc::mmap(ptr::null_mut(), PAGE, access, flags, fd.as_raw_fd(), offset) };
            if start == libc::MAP_FAILED {
                Err(Error::last("mmap"))
            } else {
                Ok(start)
            }
        };
        let (rings, requests) = (map(OFF_RINGS)?, map(OFF_REQUESTS)?);
        Ok(Self {
            fd,
            rings: rings.cast(),
            requests: requests.cast(),
            sq: parameters.sq,
            cq: parameters.cq,
        })
    }

    fn word(&self, offset: u32) -> &AtomicU32 {
        // SAFETY: the kernel's offsets lie in the mapping and are aligned for what is there.
        unsafe { AtomicU32::from_ptr(self.rings.add(offset as usize).cast()) }
    }

    /// Carries one request out, by one call.
    fn run(&self, request: Request) -> Result<isize, Error> {
        let tail = self.word(self.sq.tail).load(Ordering::Relaxed);
        let slot = tail & self.word(self.sq.ring_mask).load(Ordering::Relaxed);
        // SAFETY: the slot is in bounds, and free since no other request is under way.
        unsafe { self.requests.add(slot as usize).write(request) };
        self.word(self.sq.others[2] + 4 * slot)
            .store(slot, Ordering::Relaxed);
        self.word(self.sq.tail)
            .store(tail.wrapping_add(1), Ordering::Release);
        let (ring, none) = (self.fd.as_raw_fd(), ptr::null::<u8>());
        // SAFETY: no signal mask is passed.
        let entered = unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                ring,
                1,
                1,
                ENTER_GETEVENTS,
                none,
                0,
            )
        };
        if entered != 1 {
            return Err(Error::last("io_uring_enter"));
        }
        let head = self.word(self.cq.head).load(Ordering::Relaxed);
        let slot = head & self.word(self.cq.ring_mask).load(Ordering::Relaxed);
        let start = self.cq.others[1] as usize + slot as usize * size_of::<Completion>();
        // The kernel has filled it before it let the call return.
        self.word(self.cq.tail).load(Ordering::Acquire);
        // SAFETY: the slot is in bounds and filled.
        let completion = unsafe { self.rings.add(start).cast::<Completion>().read_unaligned() };
        self.word(self.cq.head)
            .store(head.wrapping_add(1), Ordering::Release);
        if completion.result < 0 {
            let error = io::Error::from_raw_os_error(-completion.result);
            return Err(Error::call("IORING_OP_READ")(error));
        }
        Ok(completion.result as isize)
    }
}

impl Transfer for RingRead {
    fn transfer(&mut self, flow: &Flow) -> Result<Calls, Error> {
        let mut calls = Calls::default();
        let mut position = 0;
        flow.each_chunk(|want| {
            let read = self.ring.run(Request {
                opcode: READ,
                flags: 0,
                priority: 0,
                fd: flow.source.as_raw_fd(),
                offset: position,
                address: self.buffer.as_mut_ptr() as u64,
                length: u32::try_from(want).unwrap_or(u32::MAX),
                others: [0; 9],
            })?;
            calls.add(Method::IoUring, 1);
            let got = moved("IORING_OP_READ", want, read)?;
            if let Some(at) = pattern::damage(position, &self.buffer[..got], &mut self.expected) {
                return Err(Error::Changed(at));
            }
            position += got as u64;
            Ok(got)
        })?;
        Ok(calls)
    }
}
