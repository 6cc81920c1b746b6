//! This machine: its programs, packages and terminal, and the cache of downloads and builds.

pub mod apt;
pub mod cache;
pub mod command;
pub mod consent;
pub mod terminal;
