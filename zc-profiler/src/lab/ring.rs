//! An `io_uring` by raw system calls, for one request at a time.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    ptr,
    sync::atomic::{AtomicU32, Ordering},
};

use super::{Error, transfer::Calls};
use crate::ledger::Method;

/// Lets a thread of the kernel look for requests.
pub(super) const POLLED: u32 = 1 << 1;
/// How long it looks before it sleeps, in milliseconds.
const POLLING: u32 = 100;

const ENTER_GETEVENTS: u32 = 1;
const ENTER_SQ_WAKEUP: u32 = 2;
const REGISTER_BUFFERS: u32 = 0;
const REGISTER_PROBE: u32 = 8;
/// In a completion: more follow for this request.
const MORE: u32 = 1 << 1;
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

/// What a request is for: its opcode, and its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind(u8, &'static str);

pub(super) const READ_FIXED: Kind = Kind(4, "IORING_OP_READ_FIXED");
pub(super) const WRITE_FIXED: Kind = Kind(5, "IORING_OP_WRITE_FIXED");
pub(super) const READ: Kind = Kind(22, "IORING_OP_READ");
pub(super) const WRITE: Kind = Kind(23, "IORING_OP_WRITE");
pub(super) const SEND: Kind = Kind(26, "IORING_OP_SEND");
pub(super) const RECV: Kind = Kind(27, "IORING_OP_RECV");
pub(super) const SPLICE: Kind = Kind(30, "IORING_OP_SPLICE");
pub(super) const SEND_ZC: Kind = Kind(47, "IORING_OP_SEND_ZC");

/// `struct io_uring_sqe`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Entry {
    opcode: u8,
    flags: u8,
    priority: u16,
    fd: RawFd,
    offset: u64,
    address: u64,
    length: u32,
    operation_flags: u32,
    user_data: u64,
    buffer_index: u16,
    personality: u16,
    splice_from: RawFd,
    reserved: [u64; 2],
}

/// `struct io_uring_cqe`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Completion {
    user_data: u64,
    result: i32,
    flags: u32,
}

const _: () = assert!(size_of::<Entry>() == 64 && size_of::<Parameters>() == 120);

/// No position of its own: that of the open file, or a pipe.
pub(super) const CURRENT: u64 = u64::MAX;

/// Lives as long as the process, as its mappings do.
pub(super) struct Ring {
    fd: OwnedFd,
    rings: *mut u8,
    requests: *mut Entry,
    parameters: Parameters,
    /// How often it was entered.
    enters: u64,
}

/// Whether this process may have one.
pub(super) fn is_available() -> bool {
    set_up(&mut Parameters::default()).is_ok()
}

/// Whether this process may have one that knows this kind of requests.
pub(super) fn knows(kind: Kind) -> bool {
    /// `struct io_uring_probe`, and behind it `struct io_uring_probe_op` for each kind.
    const HEAD: usize = 16;
    const EACH: usize = 8;
    const KINDS: usize = 256;
    /// Where the latter's flags begin, and the one of them that there is.
    const FLAGS: usize = 2;
    const SUPPORTED: u8 = 1;
    let mut answer = [0u8; HEAD + EACH * KINDS];
    set_up(&mut Parameters::default())
        .and_then(|ring| register(&ring, REGISTER_PROBE, answer.as_mut_ptr(), KINDS))
        .is_ok_and(|()| answer[HEAD + EACH * usize::from(kind.0) + FLAGS] & SUPPORTED != 0)
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

fn register(ring: &OwnedFd, what: u32, start: *mut u8, count: usize) -> Result<(), Error> {
    let (call, ring) = (libc::SYS_io_uring_register, ring.as_raw_fd());
    // SAFETY: the caller passes what `what` asks for.
    match unsafe { libc::syscall(call, ring, what, start, count) } {
        0 => Ok(()),
        _ => Err(Error::last("io_uring_register")),
    }
}

impl Ring {
    pub fn new(flags: u32) -> Result<Self, Error> {
        let mut parameters = Parameters {
            flags,
            sq_thread_idle: POLLING,
            ..Parameters::default()
        };
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
            parameters,
            enters: 0,
        })
    }

    /// Has the kernel keep hold of a buffer, for the kinds of requests that are named after that. It
    /// must outlive the ring.
    pub fn register(&self, buffer: &mut [u8]) -> Result<(), Error> {
        let mut vector = libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: buffer.len(),
        };
        register(&self.fd, REGISTER_BUFFERS, (&raw mut vector).cast(), 1)
    }

    /// The system calls made since it was made.
    pub fn calls(&self) -> Calls {
        let mut calls = Calls::default();
        calls.add(Method::IoUring, self.enters);
        calls
    }

    fn word(&self, offset: u32) -> &AtomicU32 {
        // SAFETY: the kernel's offsets lie in the mapping and are aligned for what is there.
        unsafe { AtomicU32::from_ptr(self.rings.add(offset as usize).cast()) }
    }

    /// Moves bytes between a buffer and a file, at a position, or a socket. The buffer must stay as
    /// it is.
    pub fn transfer(
        &mut self,
        kind: Kind,
        fd: RawFd,
        buffer: &mut [u8],
        position: u64,
    ) -> Result<usize, Error> {
        let entry = Entry {
            fd,
            offset: position,
            address: buffer.as_mut_ptr() as u64,
            ..Entry::default()
        };
        self.run(kind, buffer.len(), entry)
    }

    /// As splice(2) does, from a position and to one.
    pub fn splice(
        &mut self,
        (from, from_position): (RawFd, u64),
        (to, to_position): (RawFd, u64),
        want: usize,
    ) -> Result<usize, Error> {
        let entry = Entry {
            fd: to,
            offset: to_position,
            address: from_position,
            splice_from: from,
            ..Entry::default()
        };
        self.run(SPLICE, want, entry)
    }

    /// Carries one request out, by one call if that will do, to its end.
    fn run(&mut self, Kind(opcode, name): Kind, want: usize, entry: Entry) -> Result<usize, Error> {
        let sq = self.parameters.sq;
        let tail = self.word(sq.tail).load(Ordering::Relaxed);
        let slot = tail & self.word(sq.ring_mask).load(Ordering::Relaxed);
        let entry = Entry {
            opcode,
            length: u32::try_from(want).unwrap_or(u32::MAX),
            ..entry
        };
        // SAFETY: the slot is in bounds, and free since no other request is under way.
        unsafe { self.requests.add(slot as usize).write(entry) };
        self.word(sq.others[2] + 4 * slot)
            .store(slot, Ordering::Relaxed);
        self.word(sq.tail)
            .store(tail.wrapping_add(1), Ordering::Release);
        self.enter(1)?;
        let mut first = None;
        let result = loop {
            match self.completion() {
                Some(Completion { result, flags, .. }) => {
                    let result = *first.get_or_insert(result);
                    if flags & MORE == 0 {
                        break result;
                    }
                }
                None => self.enter(0)?,
            }
        };
        match usize::try_from(result) {
            Err(_) => Err(Error::call(name)(io::Error::from_raw_os_error(-result))),
            Ok(0) => Err(Error::Stuck {
                call: name,
                left: want,
            }),
            Ok(bytes) => Ok(bytes),
        }
    }

    /// Submits so many requests, and waits for a completion.
    fn enter(&mut self, submit: u32) -> Result<(), Error> {
        let flags = if self.parameters.flags & POLLED == 0 {
            ENTER_GETEVENTS
        } else {
            ENTER_GETEVENTS | ENTER_SQ_WAKEUP
        };
        let (call, ring, none) = (
            libc::SYS_io_uring_enter,
            self.fd.as_raw_fd(),
            ptr::null::<u8>(),
        );
        self.enters += 1;
        // SAFETY: no signal mask is passed.
        match unsafe { libc::syscall(call, ring, submit, 1, flags, none, 0) } {
            -1 => Err(Error::last("io_uring_enter")),
            _ => Ok(()),
        }
    }

    /// The next completion, if there is one.
    fn completion(&self) -> Option<Completion> {
        let cq = self.parameters.cq;
        let head = self.word(cq.head).load(Ordering::Relaxed);
        if head == self.word(cq.tail).load(Ordering::Acquire) {
            return None;
        }
        let slot = head & self.word(cq.ring_mask).load(Ordering::Relaxed);
        let start = cq.others[1] as usize + slot as usize * size_of::<Completion>();
        // SAFETY: the slot is in bounds and the kernel has filled it.
        let completion = unsafe { self.rings.add(start).cast::<Completion>().read_unaligned() };
        self.word(cq.head)
            .store(head.wrapping_add(1), Ordering::Release);
        Some(completion)
    }
}
