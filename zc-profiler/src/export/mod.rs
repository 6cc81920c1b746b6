//! What is made from a snapshot: metrics, HTTP, JSON, tables.

#[cfg(test)]
mod dashboards;
pub mod http;
pub mod json;
pub mod prometheus;
pub mod report;
pub mod table;
