//! The workload generator: every classic way to move a file, with a payload that is known, so that
//! the ledger can be checked against the truth. It knows nothing of probes.

mod cold_read;
mod copy_file_range;
mod direct_read;
mod error;
mod exchange;
mod hardware;
mod io_uring_read;
mod job;
mod mmap_write;
mod pattern;
mod pipe;
mod read_write;
mod run;
mod sendfile;
mod signals;
mod splice;
mod target;
#[cfg(test)]
mod tests;
mod transfer;
mod truth;
mod udp;
mod unix;
mod vmsplice;
mod worker;
mod zerocopy_send;

pub use error::Error;
pub use hardware::{Hardware, Nic, Source, Wire};
pub use job::{Report, STOP_SWITCHES, Usage, work};
pub use run::{Meter, MeterError, Plan, Run};
pub use signals::Signals;
pub use target::Target;
pub use transfer::Calls;
pub use truth::{Difference, Moved, Share, Truth};
pub use worker::COMMAND;

use crate::ledger::Method;
use copy_file_range::CopyFileRange;
use mmap_write::MmapWrite;
use sendfile::Sendfile;
use transfer::Transfer;
use zerocopy_send::ZerocopySend;

/// The classic account of a method, per chunk: what textbooks say, not what a kernel does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Theory {
    /// User mode to kernel mode and back.
    pub mode_switches: u64,
    /// By the CPU.
    pub cpu_copies: u64,
    /// By a device.
    pub dma_copies: u64,
}

/// A way to move a file's bytes, what theory says of it, and what is true of it.
#[derive(Debug)]
pub struct Scenario {
    /// How.
    pub method: &'static str,
    /// Wherefrom.
    pub source: Source,
    /// Whereto.
    pub target: Target,
    /// Per chunk.
    pub theory: Theory,
    /// Of which one must hold exactly; the first is the common one.
    pub truths: &'static [Truth],
    prepare: fn(usize) -> Result<Box<dyn Transfer>, Error>,
}

/// Prepares a method that needs nothing ready.
#[allow(
    clippy::unnecessary_wraps,
    reason = "other methods' preparations can fail"
)]
fn plain<T: Transfer + Default + 'static>(_chunk: usize) -> Result<Box<dyn Transfer>, Error> {
    Ok(Box::new(T::default()))
}

const fn theory(mode_switches: u64, cpu_copies: u64, dma_copies: u64) -> Theory {
    Theory {
        mode_switches,
        cpu_copies,
        dma_copies,
    }
}

const READ: Share = Share {
    method: Method::Read,
    calls_each_chunk: 1,
    payload: 1,
    to_user: 1,
    ..Share::NOTHING
};
const WRITE: Share = Share {
    method: Method::Write,
    calls_each_chunk: 1,
    payload: 1,
    from_user: 1,
    ..Share::NOTHING
};
const MMAP: Share = Share {
    method: Method::Mmap,
    calls_once: 1,
    ..Share::NOTHING
};
const SENDFILE: Share = Share {
    method: Method::Sendfile,
    calls_each_chunk: 1,
    payload: 1,
    ..Share::NOTHING
};
/// Into the pipe and out of it: the payload passes two calls.
const SPLICE: Share = Share {
    method: Method::Splice,
    calls_each_chunk: 2,
    payload: 2,
    ..Share::NOTHING
};
/// By reference, once.
const PASSED: Share = Share {
    calls_each_chunk: 1,
    payload: 1,
    zero_copy: 1,
    ..Share::NOTHING
};
const SEND: Share = Share {
    method: Method::Send,
    ..WRITE
};
const RECV: Share = Share {
    method: Method::Recv,
    ..READ
};
const IO_URING_READ: Share = Share {
    method: Method::IoUring,
    ..READ
};
const COPY_FILE_RANGE: Share = Share {
    method: Method::CopyFileRange,
    calls_each_chunk: 1,
    payload: 1,
    ..Share::NOTHING
};

const fn always(shares: &'static [Share]) -> Truth {
    Truth {
        because: None,
        shares,
        moved: None,
    }
}

const fn moving(moved: Moved, shares: &'static [Share]) -> Truth {
    Truth {
        moved: Some(moved),
        ..always(shares)
    }
}

const BY_PIO: Moved = Moved {
    pio_in: 1,
    dma_in: 0,
    sent: 0,
    lost: 0,
};
const BY_DMA: Moved = Moved {
    pio_in: 0,
    dma_in: 1,
    sent: 0,
    lost: 0,
};
const BY_DMA_IN_AND_OUT: Moved = Moved { sent: 1, ..BY_DMA };
const COPIED_ON_DELIVERY: Moved = Moved {
    pio_in: 0,
    dma_in: 0,
    sent: 0,
    lost: 1,
};
const BY_DMA_AND_LOST: Moved = Moved {
    lost: 1,
    ..BY_DMA_IN_AND_OUT
};

/// The one that needs leave to use it.
const IO_URING: &str = "io_uring-read";

/// Every scenario, in the order of the lab's table.
pub static SCENARIOS: [Scenario; 19] = [
    Scenario {
        method: "pio-read",
        source: Source::PioDisk,
        target: Target::Memory,
        theory: theory(2, 2, 0),
        truths: &[moving(BY_PIO, &[READ])],
        prepare: cold_read::prepare,
    },
    Scenario {
        method: "dma-read",
        source: Source::DmaDisk,
        target: Target::Memory,
        theory: theory(2, 1, 1),
        truths: &[moving(BY_DMA, &[READ])],
        prepare: cold_read::prepare,
    },
    Scenario {
        method: "read+write",
        source: Source::Cached,
        target: Target::Tcp,
        theory: theory(4, 2, 2),
        truths: &[always(&[READ, WRITE])],
        prepare: read_write::prepare,
    },
    Scenario {
        method: "mmap+write",
        source: Source::Cached,
        target: Target::Tcp,
        theory: theory(4, 1, 2),
        truths: &[always(&[MMAP, WRITE])],
        prepare: plain::<MmapWrite>,
    },
    Scenario {
        method: "sendfile",
        source: Source::Cached,
        target: Target::Tcp,
        theory: theory(2, 0, 2),
        truths: &[always(&[Share {
            zero_copy: 1,
            ..SENDFILE
        }])],
        prepare: plain::<Sendfile>,
    },
    Scenario {
        method: "splice",
        source: Source::Cached,
        target: Target::Tcp,
        theory: theory(4, 0, 2),
        truths: &[always(&[Share {
            zero_copy: 2,
            ..SPLICE
        }])],
        prepare: splice::prepare,
    },
    Scenario {
        method: "read+write",
        source: Source::Cached,
        target: Target::File,
        theory: theory(4, 2, 2),
        truths: &[always(&[READ, WRITE])],
        prepare: read_write::prepare,
    },
    Scenario {
        method: "sendfile",
        source: Source::Cached,
        target: Target::File,
        theory: theory(2, 0, 2),
        truths: &[always(&[Share {
            in_kernel: 1,
            ..SENDFILE
        }])],
        prepare: plain::<Sendfile>,
    },
    Scenario {
        method: "splice",
        source: Source::Cached,
        target: Target::File,
        theory: theory(4, 0, 2),
        truths: &[always(&[Share {
            zero_copy: 1,
            in_kernel: 1,
            ..SPLICE
        }])],
        prepare: splice::prepare,
    },
    Scenario {
        method: "copy_file_range",
        source: Source::Cached,
        target: Target::File,
        theory: theory(2, 1, 2),
        truths: &[
            Truth {
                because: Some("this file system copied the pages inside the kernel"),
                shares: &[Share {
                    in_kernel: 1,
                    ..COPY_FILE_RANGE
                }],
                moved: None,
            },
            Truth {
                because: Some("this file system shared the blocks (reflink) and copied nothing"),
                shares: &[Share {
                    zero_copy: 1,
                    ..COPY_FILE_RANGE
                }],
                moved: None,
            },
        ],
        prepare: plain::<CopyFileRange>,
    },
    Scenario {
        method: "sendfile",
        source: Source::DmaDisk,
        target: Target::Nic { gather: false },
        theory: theory(2, 1, 2),
        truths: &[moving(
            BY_DMA_AND_LOST,
            &[Share {
                zero_copy: 1,
                in_kernel: 1,
                ..SENDFILE
            }],
        )],
        prepare: plain::<Sendfile>,
    },
    Scenario {
        method: "sendfile",
        source: Source::DmaDisk,
        target: Target::Nic { gather: true },
        theory: theory(2, 0, 2),
        truths: &[moving(
            BY_DMA_IN_AND_OUT,
            &[Share {
                zero_copy: 1,
                ..SENDFILE
            }],
        )],
        prepare: plain::<Sendfile>,
    },
    Scenario {
        method: "pipe",
        source: Source::Cached,
        target: Target::Memory,
        theory: theory(4, 2, 0),
        truths: &[always(&[WRITE, READ])],
        prepare: pipe::prepare,
    },
    Scenario {
        method: "unix",
        source: Source::Cached,
        target: Target::Memory,
        theory: theory(4, 2, 0),
        truths: &[always(&[WRITE, READ])],
        prepare: unix::prepare,
    },
    Scenario {
        method: "udp",
        source: Source::Cached,
        target: Target::Memory,
        theory: theory(4, 2, 0),
        truths: &[always(&[SEND, RECV])],
        prepare: udp::prepare,
    },
    Scenario {
        method: "direct-read",
        source: Source::Direct,
        target: Target::Memory,
        theory: theory(2, 0, 1),
        truths: &[always(&[Share {
            zero_copy: 1,
            to_user: 0,
            ..READ
        }])],
        prepare: direct_read::prepare,
    },
    Scenario {
        method: IO_URING,
        source: Source::Cached,
        target: Target::Memory,
        theory: theory(2, 1, 1),
        truths: &[
            always(&[IO_URING_READ]),
            Truth {
                because: Some("this kernel does not tell what requests completed: no payload"),
                ..always(&[Share {
                    payload: 0,
                    ..IO_URING_READ
                }])
            },
        ],
        prepare: io_uring_read::prepare,
    },
    Scenario {
        method: "zerocopy-send",
        source: Source::Cached,
        target: Target::Tcp,
        theory: theory(4, 0, 2),
        truths: &[Truth {
            because: Some(
                "the receiver is on this machine, so the kernel copied for it what was passed by reference",
            ),
            ..moving(
                COPIED_ON_DELIVERY,
                &[
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
                ],
            )
        }],
        prepare: plain::<ZerocopySend>,
    },
    Scenario {
        method: "vmsplice",
        source: Source::Cached,
        target: Target::Tcp,
        theory: theory(6, 0, 2),
        truths: &[always(&[
            MMAP,
            Share {
                method: Method::Vmsplice,
                ..PASSED
            },
            Share {
                method: Method::Splice,
                ..PASSED
            },
        ])],
        prepare: vmsplice::prepare,
    },
];
