//! `zc-profiler doctor`.

use std::{io::Write, process::ExitCode};

use crate::{
    Profiler, Scope,
    kernel::Environment,
    probes::{State, Status},
};

pub fn run(verbose: bool) -> anyhow::Result<ExitCode> {
    let environment = Environment::read()?;
    let mut out = std::io::stdout().lock();
    let capabilities = match environment.capabilities.as_slice() {
        [] => "none of interest".to_owned(),
        held => held.join(" "),
    };
    writeln!(out, "kernel      {}", environment.release)?;
    writeln!(
        out,
        "BTF         {}",
        if environment.btf { "yes" } else { "no" }
    )?;
    writeln!(out, "lockdown    {}", environment.lockdown)?;
    writeln!(out, "privileges  {capabilities}")?;
    let profiler = Profiler::attach(Scope::Tree, verbose)?;
    let statuses = profiler.statuses();
    writeln!(out)?;
    for status in statuses {
        writeln!(out, "{}", line(status))?;
    }
    let attached = statuses
        .iter()
        .filter(|status| status.form().is_some())
        .count();
    writeln!(out, "\n{attached} of {} hooks count", statuses.len())?;
    Ok(ExitCode::SUCCESS)
}

fn line(status: &Status) -> String {
    let hook = status.hook;
    let rest = match &status.state {
        State::Attached(form) => {
            format!(
                "{:<10}  {}: {}",
                form.attach.name(),
                form.target,
                hook.counts
            )
        }
        State::Absent(reason) => format!("absent      {reason}; lost: {}", hook.lost),
        State::Failed(reason) => format!("failed      {reason}; lost: {}", hook.lost),
    };
    format!("{:<20}  {rest}", hook.name)
}
