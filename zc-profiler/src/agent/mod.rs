//! A profiler that is kept running: what it counts is summed in groups, which the exporters show.

mod grouped;
mod groups;
mod names;
mod profiler;
mod services;

pub use self::{
    grouped::Agent,
    groups::{GroupBy, Grouping, Groups, Name},
    profiler::{Error, Profiler},
    services::Services,
};
