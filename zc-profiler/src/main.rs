//! The program `zc-profiler`.

use std::{io, process::ExitCode};

use clap::Parser;

fn main() -> ExitCode {
    match zc_profiler::cli::Cli::parse().run() {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("zc-profiler: {error:#}");
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
