//! Builds zc-profiler's lab and runs things in it: `cargo xtask --help` tells what.

mod accel;
mod apt;
mod artifacts;
mod bench;
mod cache;
mod cmd_bench;
mod cmd_dist;
mod cmd_run;
mod cmd_test;
mod cmd_vm;
mod command;
mod disk;
mod elf;
mod guest;
mod initrd;
mod kernels;
mod machine;
mod matrix;
mod modules;
mod output;
mod packaging;
mod qemu;
mod request;
mod services;
mod setup;
mod terminal;
mod toolchain;
mod vmlinux;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

/// The lab of zc-profiler
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Task {
    /// Brings in what building and testing need and this machine lacks
    Setup(setup::KernelChoices),
    Bench(cmd_bench::Arguments),
    Run(cmd_run::Arguments),
    Test(cmd_test::Arguments),
    Vm(cmd_vm::Arguments),
    Dist(cmd_dist::Arguments),
    /// Inside the lab machine: its first process
    #[command(hide = true)]
    Guest,
}

fn main() -> ExitCode {
    let result = perform(Task::parse());
    match result {
        // What a process can report of its end.
        Ok(code) => ExitCode::from(u8::try_from(code & 0xff).unwrap_or(1)),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(task: Task) -> Result<i32> {
    match task {
        Task::Setup(kernel) => {
            let lab = setup::prepare(&kernel.or(kernels::DEFAULT)?)?;
            let titles: Vec<&str> = lab.kernels.iter().map(|kernel| &*kernel.title).collect();
            eprintln!(
                "setup: ready ({}; eBPF compiler: {})",
                titles.join(", "),
                lab.compiler.name
            );
            Ok(0)
        }
        Task::Bench(arguments) => cmd_bench::run(&arguments),
        Task::Run(arguments) => cmd_run::run(&arguments),
        Task::Test(arguments) => cmd_test::run(&arguments),
        Task::Vm(arguments) => cmd_vm::run(arguments),
        Task::Dist(arguments) => cmd_dist::run(&arguments),
        Task::Guest => guest::main(),
    }
}
