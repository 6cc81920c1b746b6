//! Real services, counted under their units.

pub mod nginx;
pub mod postgres;
pub mod redis;
pub mod units;
pub mod wrk;
