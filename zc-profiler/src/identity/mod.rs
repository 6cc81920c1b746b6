//! Which service a process belongs to, from the path of its cgroup.

mod cgroup;

pub use cgroup::Service;
