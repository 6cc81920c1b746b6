//! An `io_uring` by raw system calls.

use std::{
    io,
    os::fd::RawFd,
    ptr,
    sync::atomic::{AtomicU32, Ordering},
};

use crate::harness::support::ok;

pub const READ_FIXED: u8 = 4;
pub const WRITE_FIXED: u8 = 5;
pub const READ: u8 = 22;
pub const WRITE: u8 = 23;
pub const SEND: u8 = 26;
pub const RECV: u8 = 27;
pub const SPLICE: u8 = 30;
pub const SEND_ZC: u8 = 47;

/// Lets a thread of the kernel poll for submissions.
pub const SETUP_SQPOLL: u32 = 2;
/// Has a worker of the kernel carry the request out.
pub const ASYNC: u8 = 1 << 4;

const ENTER_GETEVENTS: u32 = 1;
const ENTER_SQ_WAKEUP: u32 = 2;
const REGISTER_BUFFERS: u32 = 0;
const OFF_RINGS: i64 = 0;
const OFF_SQES: i64 = 0x1000_0000;
const ENTRIES: u32 = 8;
/// More completions follow for this request.
const MORE: u32 = 2;

#[repr(C)]
#[derive(Default)]
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

/// A request.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Request {
    pub opcode: u8,
    pub flags: u8,
    pub priority: u16,
    pub fd: RawFd,
    /// Of a splice: where to in the output file.
    pub offset: u64,
    /// Of a splice: where from in the input file.
    pub address: u64,
    pub length: u32,
    pub operation_flags: u32,
    pub user_data: u64,
    pub buffer_index: u16,
    pub personality: u16,
    pub splice_from: RawFd,
    pub reserved: [u64; 2],
}

impl Request {
    /// To move a buffer through a file's or socket's position.
    pub fn new(opcode: u8, fd: RawFd, buffer: &[u8]) -> Self {
        Self {
            opcode,
            fd,
            address: buffer.as_ptr() as u64,
            length: u32::try_from(buffer.len()).expect("small"),
            ..Self::default()
        }
    }

    pub const fn at(self, offset: u64) -> Self {
        Self { offset, ..self }
    }

    pub const fn with(self, flags: u8) -> Self {
        Self { flags, ..self }
    }
}

#[repr(C)]
struct Completion {
    user_data: u64,
    result: i32,
    flags: u32,
}

/// One request at a time.
pub struct Ring {
    fd: RawFd,
    rings: *mut libc::c_void,
    requests: *mut Request,
    parameters: Parameters,
    /// How often `io_uring_enter` was called.
    pub enters: u64,
}

/// How many times [`Ring::new`] calls mmap.
pub const MMAPS: u64 = 2;

impl Ring {
    pub fn new(flags: u32) -> Self {
        let mut parameters = Parameters {
            flags,
            sq_thread_idle: 1_000,
            ..Parameters::default()
        };
        // SAFETY: the parameters are valid for the call.
        let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, ENTRIES, &raw mut parameters) };
        let fd = i32::try_from(ok("io_uring_setup", fd)).expect("a descriptor");
        let map = |offset| {
            let (access, shared) = (
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
            );
            // SAFETY: a new mapping; both rings together fit a page.
            let start = unsafe { libc::mmap(ptr::null_mut(), 4_096, access, shared, fd, offset) };
            assert_ne!(
                start,
                libc::MAP_FAILED,
                "mmap: {}",
                io::Error::last_os_error()
            );
            start
        };
        Self {
            fd,
            rings: map(OFF_RINGS),
            requests: map(OFF_SQES).cast(),
            parameters,
            enters: 0,
        }
    }

    /// Registers one buffer, as number 0.
    pub fn register(&self, buffer: &mut [u8]) {
        let vector = libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: buffer.len(),
        };
        let (operation, vectors) = (REGISTER_BUFFERS, &raw const vector);
        // SAFETY: one vector, of memory that outlives the ring's use.
        let result =
            unsafe { libc::syscall(libc::SYS_io_uring_register, self.fd, operation, vectors, 1) };
        ok("io_uring_register", result);
    }

    fn word(&self, offset: u32) -> &AtomicU32 {
        // SAFETY: the kernel's offsets lie in the mapping, which lives as long as the process.
        unsafe { &*self.rings.byte_add(offset as usize).cast() }
    }

    /// Submits a request without waiting for its end.
    pub fn submit(&mut self, request: Request) {
        let sq = &self.parameters.sq;
        let tail = self.word(sq.tail).load(Ordering::Relaxed);
        let slot = tail & self.word(sq.ring_mask).load(Ordering::Relaxed);
        // SAFETY: the slot is in bounds, and free since only one request is under way.
        unsafe { self.requests.add(slot as usize).write(request) };
        let array = sq.others[2] + 4 * slot;
        self.word(array).store(slot, Ordering::Relaxed);
        self.word(sq.tail).store(tail + 1, Ordering::Release);
        if self.parameters.flags & SETUP_SQPOLL == 0 {
            self.enter(1, 0, 0);
        } else {
            self.enter(0, 0, ENTER_SQ_WAKEUP);
        }
    }

    fn enter(&mut self, submit: u32, wait: u32, flags: u32) {
        self.enters += 1;
        let (call, none) = (libc::SYS_io_uring_enter, ptr::null::<u8>());
        // SAFETY: no signal mask is passed.
        let result = unsafe { libc::syscall(call, self.fd, submit, wait, flags, none, 0) };
        ok("io_uring_enter", result);
    }

    /// The next completion's result and flags, if there is one.
    fn completion(&self) -> Option<(i32, u32)> {
        let cq = &self.parameters.cq;
        let head = self.word(cq.head).load(Ordering::Relaxed);
        if head == self.word(cq.tail).load(Ordering::Acquire) {
            return None;
        }
        let slot = head & self.word(cq.ring_mask).load(Ordering::Relaxed);
        let start = cq.others[1] as usize + slot as usize * size_of::<Completion>();
        // SAFETY: the slot is in bounds and the kernel has filled it.
        let Completion { result, flags, .. } =
            unsafe { self.rings.byte_add(start).cast::<Completion>().read() };
        self.word(cq.head).store(head + 1, Ordering::Release);
        Some((result, flags))
    }

    /// The result of the request under way, once it and what it announces has completed.
    pub fn wait(&mut self) -> i32 {
        let mut first = None;
        loop {
            match self.completion() {
                Some((result, flags)) => {
                    let result = *first.get_or_insert(result);
                    if flags & MORE == 0 {
                        return result;
                    }
                }
                None => self.enter(0, 1, ENTER_GETEVENTS),
            }
        }
    }

    /// Carries out a request.
    pub fn run(&mut self, request: Request) -> i32 {
        self.submit(request);
        self.wait()
    }
}
