//! End-to-end tests: they run as root inside a lab kernel (`cargo xtask test`), against real
//! workloads whose payload they know, and compare to the byte.

mod command_line;
mod conservation;
mod copies;
mod crowds;
mod dma;
mod doctor;
mod expect;
mod filters;
mod hardware;
mod io_uring;
mod iterators;
mod lab_tables;
mod memory;
mod mid_copy;
mod network;
mod nginx;
mod postgres;
mod privileges;
mod processes;
mod proof;
mod redis;
mod refusals;
mod ring;
mod serve;
mod services;
mod splices;
mod stopping;
mod support;
mod switches;
mod veth;
mod ways;
mod wrk;
mod xfs;
