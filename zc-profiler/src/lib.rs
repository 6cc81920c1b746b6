//! Counts how many bytes the Linux kernel really copies for each process.
//!
//! Data goes one way: programs in the kernel fill maps, [`ledger`] turns those into plain values, and
//! everything after it is ordinary code. Only [`probes`] and [`ledger`] know of aya.

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
compile_error!("zc-profiler counts on Linux on x86-64 only");

mod accounts;
pub mod calibration;
pub mod cli;
pub mod export;
#[doc(hidden)]
pub mod fuzz;
pub mod identity;
pub mod kernel;
pub mod ledger;
pub mod probes;
mod profiler;
pub mod workload;

pub use accounts::Accounts;
pub use probes::{Options, Scope};
pub use profiler::{Error, Profiler};
