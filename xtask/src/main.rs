//! Sets up zc-profiler's lab and runs commands in it. `cargo xtask --help` lists the subcommands.

mod bench;
mod cmd;
mod gate;
mod host;
mod kernels;
mod matrix;
mod output;
mod setup;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use host::consent;

/// The lab of zc-profiler
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Command {
    /// Installs what is missing without asking, as CI=true does
    #[arg(long, global = true)]
    yes: bool,
    #[command(subcommand)]
    task: Task,
}

#[derive(clap::Subcommand)]
enum Task {
    /// Installs and builds what the lab needs and this machine lacks
    Setup(setup::KernelChoices),
    Bench(cmd::bench::Arguments),
    Run(cmd::run::Arguments),
    Test(cmd::test::Arguments),
    Vm(cmd::vm::Arguments),
    Dist(cmd::dist::Arguments),
    /// The first process of the lab machine
    #[command(hide = true)]
    Guest,
}

fn main() -> ExitCode {
    let command = Command::parse();
    consent::set(command.yes);
    match perform(command.task) {
        // An exit code has eight bits.
        Ok(code) => ExitCode::from(u8::try_from(code & 0xff).unwrap_or(1)),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(task: Task) -> Result<i32> {
    match task {
        Task::Setup(kernel) => cmd::setup::run(&kernel),
        Task::Bench(arguments) => cmd::bench::run(&arguments),
        Task::Run(arguments) => cmd::run::run(&arguments),
        Task::Test(arguments) => cmd::test::run(&arguments),
        Task::Vm(arguments) => cmd::vm::run(arguments),
        Task::Dist(arguments) => cmd::dist::run(&arguments),
        Task::Guest => vm::guest::main(),
    }
}
