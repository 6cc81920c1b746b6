//! What truths are made of: one share for each method that a scenario may use.

use super::super::{Moved, Share, Theory, Truth};
use crate::ledger::Method;

pub const fn theory(mode_switches: u64, cpu_copies: u64, dma_copies: u64) -> Theory {
    Theory {
        mode_switches,
        cpu_copies,
        dma_copies,
    }
}

pub const READ: Share = Share {
    method: Method::Read,
    calls_each_chunk: 1,
    payload: 1,
    to_user: 1,
    ..Share::NOTHING
};
pub const WRITE: Share = Share {
    method: Method::Write,
    calls_each_chunk: 1,
    payload: 1,
    from_user: 1,
    ..Share::NOTHING
};
pub const MMAP: Share = Share {
    method: Method::Mmap,
    calls_once: 1,
    ..Share::NOTHING
};
pub const SENDFILE: Share = Share {
    method: Method::Sendfile,
    calls_each_chunk: 1,
    payload: 1,
    ..Share::NOTHING
};
/// Into the pipe and out of it: the payload passes two calls.
pub const SPLICE: Share = Share {
    method: Method::Splice,
    calls_each_chunk: 2,
    payload: 2,
    ..Share::NOTHING
};
/// By reference, once.
pub const PASSED: Share = Share {
    calls_each_chunk: 1,
    payload: 1,
    zero_copy: 1,
    ..Share::NOTHING
};
pub const SEND: Share = Share {
    method: Method::Send,
    ..WRITE
};
pub const RECV: Share = Share {
    method: Method::Recv,
    ..READ
};
pub const IO_URING_READ: Share = Share {
    method: Method::IoUring,
    ..READ
};
pub const COPY_FILE_RANGE: Share = Share {
    method: Method::CopyFileRange,
    calls_each_chunk: 1,
    payload: 1,
    ..Share::NOTHING
};

pub const fn always(shares: &'static [Share]) -> Truth {
    Truth {
        because: None,
        shares,
        moved: None,
    }
}

pub const fn moving(moved: Moved, shares: &'static [Share]) -> Truth {
    Truth {
        moved: Some(moved),
        ..always(shares)
    }
}

/// Copied after all, for a device that cannot gather or for a receiver of this machine.
pub const ZEROCOPY_SEND: &[Share] = &[
    MMAP,
    Share {
        zero_copy: 1,
        from_user: 0,
        in_kernel: 1,
        ..SEND
    },
    // The receiver's end.
    Share {
        method: Method::Recv,
        calls_once: 1,
        ..Share::NOTHING
    },
];

pub const BY_PIO: Moved = Moved {
    pio_in: 1,
    dma_in: 0,
    dma_out: 0,
    sent: 0,
    lost: 0,
};
pub const BY_DMA: Moved = Moved {
    pio_in: 0,
    dma_in: 1,
    dma_out: 0,
    sent: 0,
    lost: 0,
};
pub const BY_DMA_IN_AND_OUT: Moved = Moved { sent: 1, ..BY_DMA };
pub const COPIED_ON_DELIVERY: Moved = Moved {
    pio_in: 0,
    dma_in: 0,
    dma_out: 0,
    sent: 0,
    lost: 1,
};
pub const BY_DMA_AND_LOST: Moved = Moved {
    lost: 1,
    ..BY_DMA_IN_AND_OUT
};
/// One enter of the ring for each chunk.
pub const IO_URING: Share = Share {
    method: Method::IoUring,
    calls_each_chunk: 1,
    payload: 1,
    ..Share::NOTHING
};
/// Why a ring's payload may be missing.
pub const UNTOLD: Option<&str> =
    Some("this kernel does not tell what requests completed: no payload");
pub const IO_URING_WRITE: Share = Share {
    from_user: 1,
    ..IO_URING
};
pub const BY_DMA_OUT: Moved = Moved {
    dma_in: 0,
    dma_out: 1,
    ..BY_DMA
};
/// Nothing, and no zero-copy was lost.
pub const BY_NO_DEVICE: Moved = Moved {
    dma_in: 0,
    ..BY_DMA
};
pub const SPLICE_ONCE: Share = Share {
    method: Method::Splice,
    ..PASSED
};
/// Whole pages, at the first write to each.
pub const PAGES_COPIED: Share = Share {
    in_kernel: 1,
    whole_pages: true,
    ..MMAP
};
