//! The evaluation of the measurements of `cargo xtask bench`.

pub mod chart;
pub mod compare;
pub mod promises;
pub mod results;
pub mod table;
pub mod tools;
