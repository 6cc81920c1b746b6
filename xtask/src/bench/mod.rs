//! What `cargo xtask bench` makes of its measurements.

pub mod chart;
pub mod compare;
pub mod promises;
pub mod results;
pub mod table;
pub mod tools;
