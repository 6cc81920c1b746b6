//! End-to-end tests: they run as root inside a lab kernel (`cargo xtask test`), against real
//! workloads whose payload they know, and compare to the byte.

mod command_line;
mod copies;
mod dma;
mod expect;
mod hardware;
mod network;
mod processes;
mod serve;
mod support;
mod switches;
