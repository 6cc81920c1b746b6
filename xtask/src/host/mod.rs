//! This machine: its programs, packages and terminal, and the cache for what is fetched or built.

pub mod apt;
pub mod cache;
pub mod command;
pub mod consent;
pub mod terminal;
