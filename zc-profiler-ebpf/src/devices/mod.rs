//! Bytes that devices move by DMA, or the CPU for them.

pub mod block;
pub mod net;
pub mod pio;
pub mod writeback;
