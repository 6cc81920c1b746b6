//! The command line: one file a subcommand.

pub(crate) mod config;
mod doctor;
mod lab;
mod serve;
mod signals;
mod stat;

use std::{
    fmt,
    io::{self, Write},
    process::ExitCode,
};

use clap::{
    Parser, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
};

use crate::{
    probes::{AttachClass, Options},
    selftest,
};

/// Counts how many bytes the Linux kernel really copies for each process: user to kernel, kernel to
/// user and inside the kernel, by I/O method, with the payload that moved without a copy, and the mode
/// and context switches it cost.
#[derive(Debug, Parser)]
#[command(name = "zc-profiler", version)]
pub struct Cli {
    /// Say what is done, and what the eBPF programs log
    #[arg(short, long, global = true)]
    verbose: bool,
    /// The strongest way to attach that may be used: what is stronger is treated as refused by the
    /// kernel. By tracepoints alone, copies are derived from what system calls returned
    #[arg(long, global = true, value_name = "WAY", default_value = AttachClass::default().name(), value_parser = attach_class())]
    attach: AttachClass,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Count for the whole machine and export to Prometheus, until told to stop
    Serve(serve::Args),
    /// Check the configuration of `serve`
    Config(config::Args),
    /// Run a command, or watch a process, and print its ledger when it ends
    Stat(stat::Args),
    /// Drive each I/O method with a known payload; theory, truth and measurement side by side
    Lab(Box<lab::LabArgs>),
    /// Show what this kernel allows, which probes hold, and whether known bytes are counted exactly
    Doctor(doctor::Args),
    /// The process with which `doctor` and `serve` move known bytes
    #[command(name = selftest::COMMAND, hide = true)]
    CalibrationWorker(doctor::WorkerArgs),
    /// A process that `lab` starts
    #[command(name = lab::WORKER, hide = true)]
    LabWorker(lab::WorkerArgs),
}

/// Says something on standard error. Whoever read it may have gone, which is no reason to stop counting.
fn tell(text: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "zc-profiler: {text}");
}

impl Cli {
    /// Carries out the subcommand.
    ///
    /// # Errors
    ///
    /// One line each, for standard error.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let level = if self.verbose {
            log::LevelFilter::Debug
        } else {
            log::LevelFilter::Warn
        };
        env_logger::Builder::new()
            .filter_level(level)
            // What it warns of is told in our own words, where it matters.
            .filter_module(
                "aya",
                if self.verbose {
                    level
                } else {
                    log::LevelFilter::Error
                },
            )
            .format_timestamp(None)
            .init();
        let options = Options {
            best: self.attach,
            verbose: self.verbose,
            ..Options::default()
        };
        match self.command {
            Command::Serve(args) => serve::run(args, options),
            Command::Config(args) => config::run(&args),
            Command::Stat(args) => stat::run(args, options),
            Command::Lab(args) => lab::run(&args, options),
            Command::LabWorker(args) => lab::worker(&args),
            Command::Doctor(args) => doctor::run(&args, options),
            Command::CalibrationWorker(args) => doctor::worker(&args),
        }
    }
}

fn attach_class() -> impl TypedValueParser<Value = AttachClass> {
    PossibleValuesParser::new(AttachClass::ALL.map(AttachClass::name)).map(|name| {
        let named = |class: &AttachClass| class.name() == name;
        AttachClass::ALL.into_iter().find(named).unwrap_or_default()
    })
}
