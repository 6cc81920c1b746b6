//! The program `zc-profiler`.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;

fn main() -> ExitCode {
    match zc_profiler::cli::Cli::parse().run() {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // It may be closed, which is no reason to say anything but this by the exit code.
            let _ = writeln!(io::stderr(), "zc-profiler: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whoever reads the output has had enough: no error.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}
