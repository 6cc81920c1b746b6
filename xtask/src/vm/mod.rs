//! The virtual machine of the lab, from the outside and (`guest`) from the inside.

pub mod accel;
pub mod guest;
pub mod machine;
pub mod qemu;
pub mod request;
