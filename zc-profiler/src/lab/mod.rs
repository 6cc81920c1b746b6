//! The workload generator: every classic way to move a file, with a payload that is known, so that
//! the ledger can be checked against the truth. It knows nothing of probes.

mod cold_read;
mod copy_file_range;
mod devices;
mod direct_read;
mod direct_write;
mod error;
mod exchange;
mod ficlone;
mod hardware;
mod io_uring_read;
mod io_uring_recv;
mod io_uring_splice;
mod io_uring_write;
mod job;
mod mappings;
mod memfd;
mod mmap_write;
mod netns;
mod passage;
mod pattern;
mod pipe;
mod pipes;
mod place;
mod proc_read;
mod process_vm;
mod read_write;
mod ring;
mod run;
mod scenarios;
mod sendfile;
mod signals;
mod splice;
mod target;
mod tcp;
#[cfg(test)]
mod tests;
mod transfer;
mod truth;
mod udp;
mod unix;
mod vmsplice;
mod worker;
mod write_sync;
mod zerocopy_send;

pub use error::Error;
pub use hardware::{Hardware, Nic, Source, Wire};
pub use job::{Report, STOP_SWITCHES, Usage, work};
pub use run::{Meter, MeterError, Plan, Run};
pub use scenarios::{TABLES, Table, scenarios};
pub use signals::Signals;
pub use target::{Target, Veth};
pub use transfer::Calls;
pub use truth::{Difference, Moved, Share, Truth};
pub use worker::COMMAND;

use transfer::Transfer;

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
