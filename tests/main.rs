//! End-to-end tests: they run as root inside a lab kernel (`cargo xtask test`), against real
//! workloads whose payload they know, and compare to the byte.

mod agent;
mod harness;
mod ledger;
mod paths;
mod services;
