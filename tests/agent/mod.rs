//! The program as its users run it: command line, endpoint, privileges, packages.

pub mod attach_modes;
pub mod command_line;
pub mod complexity;
pub mod container;
pub mod doctor;
pub mod monitoring;
pub mod package;
pub mod picture;
pub mod privileges;
pub mod refusals;
pub mod serve;
pub mod stopping;
