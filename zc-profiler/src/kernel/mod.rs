//! What this kernel offers.

pub mod btf;
mod cgroup;
mod disks;
mod environment;
mod layout;
mod privileges;
mod symbols;

pub use self::disks::pio_disks;
pub(crate) use cgroup::mounted;
pub use cgroup::{Service, default_hierarchy};
pub use environment::{Environment, LOCKED_DOWN};
pub use layout::{Requirement, SYMBOLS, resolve};
pub use privileges::give_up;
pub use symbols::Symbols;
