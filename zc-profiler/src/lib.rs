//! Counts how many bytes the Linux kernel really copies for each process.
//!
//! Data goes one way: programs in the kernel fill maps, [`ledger`] turns those into plain values, and
//! everything after it is ordinary code. Only [`probes`] and [`ledger`] know of aya.

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
compile_error!("zc-profiler counts on Linux on x86-64 only");

pub mod agent;
pub mod cli;
pub mod export;
#[doc(hidden)]
pub mod fuzz;
pub mod kernel;
pub mod lab;
pub mod ledger;
pub mod probes;
pub mod selftest;

pub use agent::{Agent, Error, Profiler};
pub use probes::{Options, Scope};
