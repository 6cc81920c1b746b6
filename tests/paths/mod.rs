//! Each path of bytes through the kernel, to the byte.

pub mod copies;
pub mod dma;
pub mod hardware;
pub mod io_uring;
pub mod iterators;
pub mod lab_tables;
pub mod memory;
pub mod network;
pub mod splices;
pub mod veth;
pub mod xfs;
