//! What a lab machine is made of.

use std::path::Path;

use crate::kernels::BootFiles;

/// What executes the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accel {
    Kvm,
    Emulation,
    /// Emulation whose clock advances one nanosecond with each instruction.
    Counting,
}

/// A port of this machine's loopback address that leads to a port of the guest.
pub struct Forward {
    pub host: u16,
    pub guest: u16,
}

pub struct Hardware<'a> {
    pub kernel: &'a BootFiles,
    pub accel: Accel,
    /// The number of CPUs, if it differs from the default of `accel`.
    pub cpus: Option<u16>,
    /// The image of the two IDE disks. Writes go to a temporary copy.
    pub disk: Option<&'a Path>,
    /// A directory of this machine that the guest can write to, at the same path.
    pub share: Option<&'a Path>,
    pub forward: Option<Forward>,
}
