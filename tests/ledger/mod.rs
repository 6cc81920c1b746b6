//! The ledger of all processes: sums, switches, filters, crowds.

pub mod conservation;
pub mod crowds;
pub mod filters;
pub mod mid_copy;
pub mod per_cpu_buffer;
pub mod processes;
pub mod stress;
pub mod switches;
