//! What the programs write: the entries of processes, and what each CPU has not yet added to them.

pub mod buffer;
pub mod call;
pub mod entry;
pub mod filter;
pub mod last_owner;
