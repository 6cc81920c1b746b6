//! Inside the lab machine, whose clock counts instructions.

use std::{arch::x86_64::_rdtsc, env, io::Write, process::Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::{
    variants::{Active, Kind, VARIANTS, Variant},
    work::WORKLOADS,
};

/// How often each kind of work is repeated while a variant is in force.
const REPETITIONS: usize = 9;
/// The same where each system call takes as long as a hundred.
const SLOW_REPETITIONS: usize = 3;
/// These are measured twice, at both ends of the run: every goal rests on them.
const TWICE: [&str; 2] = ["empty programs", "zc-profiler"];

/// Measures with nothing attached before and after each variant.
pub fn run(names: &[&str]) -> Result<()> {
    // SAFETY: reads a counter.
    let clock = || unsafe { _rdtsc() };
    ensure!(clock() < clock(), "the clock does not count");
    let chosen: Vec<&Variant> = if names.is_empty() {
        VARIANTS.iter().collect()
    } else {
        names
            .iter()
            .map(|name| Variant::named(name))
            .collect::<Result<_>>()?
    };
    let nothing = &VARIANTS[0];
    let others = chosen
        .iter()
        .filter(|variant| !matches!(variant.kind, Kind::None));
    let again = others.clone().filter(|v| TWICE.contains(&v.name));
    measure(nothing)?;
    for variant in others.clone().chain(again) {
        if let Err(error) = measure(variant) {
            eprintln!("bench: {}: {error:#}", variant.name);
            say(&json!({"variant": variant.name, "failed": format!("{error:#}")}))?;
        }
        measure(nothing)?;
    }
    Ok(())
}

fn measure(variant: &Variant) -> Result<()> {
    eprintln!("bench: {}…", variant.name);
    let active = variant.begin()?;
    let lines = observe(&active);
    active.end()?;
    for mut line in lines? {
        line["variant"] = variant.name.into();
        say(&line)?;
    }
    Ok(())
}

/// Once in some hundred times the scheduler treats two processes otherwise for as long as they live, so
/// the work is done by two sets of them, and of each kind of work the cheaper one counts.
fn observe(active: &Active) -> Result<Vec<Value>> {
    if matches!(active, Active::Around(_)) {
        return observe_once(active, SLOW_REPETITIONS);
    }
    let first = observe_once(active, REPETITIONS)?;
    let second = observe_once(active, REPETITIONS)?;
    let pairs = first.into_iter().zip(second);
    Ok(pairs
        .map(|(first, second)| {
            if median(&first) <= median(&second) {
                first
            } else {
                second
            }
        })
        .collect())
}

fn median(line: &Value) -> f64 {
    let values = line["values"].as_array().into_iter().flatten();
    let mut values: Vec<f64> = values.filter_map(Value::as_f64).collect();
    values.sort_by(f64::total_cmp);
    values
        .get(values.len() / 2)
        .copied()
        .unwrap_or(f64::INFINITY)
}

fn observe_once(active: &Active, repetitions: usize) -> Result<Vec<Value>> {
    let output = active
        .command(env::current_exe()?)
        .args(["work", &repetitions.to_string()])
        .stderr(Stdio::inherit())
        .output()
        .context("starting the work")?;
    ensure!(
        output.status.success(),
        "the work failed: {}",
        output.status
    );
    String::from_utf8(output.stdout)?
        .lines()
        .map(|line| Ok(serde_json::from_str(line)?))
        .collect()
}

/// Does all the work, and tells what each operation cost, by repetition.
pub fn work(repetitions: usize) -> Result<()> {
    // SAFETY: reads a counter.
    let clock = || unsafe { _rdtsc() };
    for workload in &WORKLOADS {
        let mut job = (workload.prepare)().with_context(|| workload.name)?;
        // The first fills caches.
        job(workload.operations).with_context(|| workload.name)?;
        let mut values = Vec::with_capacity(repetitions);
        for _ in 0..repetitions {
            let start = clock();
            job(workload.operations).with_context(|| workload.name)?;
            let cost = clock() - start;
            #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
            values.push(cost as f64 / workload.operations as f64);
        }
        say(&json!({"workload": workload.name, "values": values}))?;
    }
    Ok(())
}

pub fn say(line: &Value) -> Result<()> {
    writeln!(std::io::stdout(), "{line}").context("standard output")
}
