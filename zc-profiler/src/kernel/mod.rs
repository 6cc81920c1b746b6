//! What this kernel offers.

pub mod btf;
mod environment;
mod layout;
mod symbols;

pub use environment::Environment;
pub use layout::{Need, SYMBOLS, resolve};
pub use symbols::addresses;
