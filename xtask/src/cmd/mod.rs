//! The subcommands of `cargo xtask`, one file each.

pub mod bench;
pub mod dist;
pub mod run;
pub mod setup;
pub mod test;
pub mod vm;
