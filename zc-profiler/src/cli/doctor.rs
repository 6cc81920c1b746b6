//! `zc-profiler doctor`.

mod deep;
mod report;

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use crate::{
    Options, Profiler, Scope,
    export::json,
    kernel::Environment,
    selftest::{self, Plan},
};
use report::{Document, Report};

/// Arguments of `doctor`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A process of its own moves known bytes along each path, and the ledger is compared with \
    them to the byte. Where copies are derived from what system calls returned, calls and payload are compared. \
    The exit code is 0 only if everything that is attached counts exactly."
)]
pub struct Args {
    /// Hold the probes against hardware breakpoints on the kernel's copy primitives, too
    #[arg(long)]
    deep: bool,
    /// Write the findings as JSON too; - for standard output, the tables then go to standard error
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where a file is made for a moment [default: /var/tmp]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Arguments of the hidden subcommand that does the moving.
#[derive(Debug, clap::Args)]
pub struct WorkerArgs {
    parent: u32,
    dir: PathBuf,
    paths: Vec<String>,
}

/// Carries out `doctor`; to be called by the main thread.
///
/// # Errors
///
/// If nothing can be attached here; what is attached and counts wrong is none.
pub fn run(args: &Args, options: Options) -> anyhow::Result<ExitCode> {
    let environment = Environment::read()?;
    let mut out: Box<dyn Write> = if args.json.as_deref() == Some(Path::new("-")) {
        Box::new(io::stderr())
    } else {
        Box::new(io::stdout())
    };
    // First, so that it is there even where the next step fails.
    report::environment(&mut out, &environment)?;
    let mut profiler = Profiler::attach(Scope::Tree, options)?;
    let plan = Plan {
        brief: false,
        dir: args.dir.clone().unwrap_or_else(selftest::default_dir),
    };
    let begun = Instant::now();
    profiler.calibrate(&plan)?;
    let proof = begun.elapsed();
    let testimonies = args
        .deep
        .then(|| deep::ask(&profiler, &plan).map_err(|error| format!("{error:#}")));
    let report = Report {
        statuses: profiler.statuses(),
        evidence: profiler.evidence(),
        outcomes: profiler.calibration(),
        cross_check: testimonies
            .as_ref()
            .map(|asked| asked.as_deref().map_err(String::as_str)),
        proof,
    };
    write!(out, "\n{report}")?;
    if let Some(path) = &args.json {
        json::write(&Document::new(&environment, &report), path)?;
    }
    Ok(if report.exact() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Carries out what `doctor` or `serve` gave this process to do.
///
/// # Errors
///
/// If this process is no child of theirs.
pub fn worker(args: &WorkerArgs) -> anyhow::Result<ExitCode> {
    selftest::carry_out(args.parent, &args.dir, &args.paths)?;
    Ok(ExitCode::SUCCESS)
}
