//! What is made from a snapshot: metrics, HTTP, JSON, tables.

pub mod http;
pub mod json;
pub mod prometheus;
pub mod report;
pub mod table;
