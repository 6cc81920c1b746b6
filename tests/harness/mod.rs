//! What the tests share: running work in a child process, reading its ledger, comparing it.

pub mod expect;
pub mod proof;
pub mod ring;
pub mod support;
