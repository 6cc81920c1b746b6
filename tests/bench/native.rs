//! On this machine's own kernel, where tracepoints are all that can be relied on.

use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::json;
use zc_profiler::{Options, Profiler, Scope, probes::AttachClass};

use crate::{guest::say, variants, work::WORKLOADS};

/// Rounds of every state, by turns: separate runs differ by more than what is measured.
const ROUNDS: usize = 7;
/// What is long enough for the clock.
const REPETITIONS: usize = 5;

enum State {
    Nothing,
    Empty,
    Profiler,
}

pub fn run() -> Result<()> {
    for round in 0..ROUNDS {
        eprintln!("bench: natively, round {} of {ROUNDS}", round + 1);
        visit("nothing", &State::Nothing)?;
        visit("empty programs", &State::Empty)?;
        visit("zc-profiler", &State::Profiler)?;
    }
    Ok(())
}

fn visit(variant: &str, state: &State) -> Result<()> {
    let options = Options {
        best: AttachClass::Tracepoint,
        ..Options::default()
    };
    let _empty = match state {
        State::Empty => Some(variants::empty_programs(AttachClass::Tracepoint)?),
        _ => None,
    };
    let _profiler = match state {
        State::Profiler => Some(Profiler::attach(Scope::System, options)?),
        _ => None,
    };
    for workload in &WORKLOADS {
        let mut job = (workload.prepare)().with_context(|| workload.name)?;
        job(workload.operations).with_context(|| workload.name)?;
        let mut values = Vec::with_capacity(REPETITIONS);
        for _ in 0..REPETITIONS {
            let start = Instant::now();
            job(workload.operations).with_context(|| workload.name)?;
            let operations = u32::try_from(workload.operations)?;
            values.push(start.elapsed().as_secs_f64() * 1e9 / f64::from(operations));
        }
        // The best that a round shows: what is slower was disturbed.
        let best = values.into_iter().fold(f64::INFINITY, f64::min);
        say(&json!({"variant": variant, "workload": workload.name, "values": [best]}))?;
    }
    Ok(())
}
