//! Reading the running kernel's structures.

pub mod fields;
mod task;

pub use task::*;
