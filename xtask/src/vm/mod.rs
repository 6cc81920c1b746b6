//! The lab machine: QEMU on this side, and the program `guest` inside the machine.

pub mod accel;
pub mod guest;
pub mod hardware;
pub mod machine;
pub mod qemu;
pub mod request;
