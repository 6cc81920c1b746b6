//! Which service a process belongs to, from the path of its cgroup.

mod cgroup;
mod names;
#[cfg(test)]
mod recorded;
mod services;

pub(crate) use self::services::mounted;
pub use self::{
    cgroup::Service,
    services::{Services, default_hierarchy},
};
