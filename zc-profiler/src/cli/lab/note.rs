//! Where theory and measurement part, and why: computed from what was measured.

use crate::{
    export::report::grouped,
    lab::{Run, Theory, Truth},
    ledger::{Counters, Fallback},
    probes::Evidence,
};

struct Case<'a> {
    theory: Theory,
    truth: &'a Truth,
    payload: u64,
    chunks: u64,
    run: &'a Run,
}

type Rule = fn(&Case) -> Option<String>;

/// In the order of the table's columns.
const RULES: [Rule; 8] = [
    once_for_all_chunks,
    short_calls,
    page_faults,
    copies,
    whole_pages,
    passed_twice,
    copied_later,
    kernel_disagrees,
];

/// Those that need no more than calls and payload.
const DERIVED: &[Rule] = &[once_for_all_chunks, short_calls];

/// One sentence for each thing that the classic theory does not tell.
pub fn notes(
    theory: Theory,
    truth: &Truth,
    payload: u64,
    chunks: u64,
    run: &Run,
    evidence: Evidence,
) -> Vec<String> {
    let case = Case {
        theory,
        truth,
        payload,
        chunks,
        run,
    };
    let rules = match evidence {
        Evidence::Measured => &RULES[..],
        Evidence::Derived => DERIVED,
    };
    rules.iter().filter_map(|rule| rule(&case)).collect()
}

#[allow(clippy::cast_precision_loss, reason = "shown to two decimals")]
pub fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

/// What the CPU moved: copies, and PIO.
pub fn cpu_bytes(measured: &Counters) -> u64 {
    let pio = measured.pio_bytes;
    measured.all_methods().copied_bytes() + pio.into + pio.out
}

fn once_for_all_chunks(case: &Case) -> Option<String> {
    let once = case
        .truth
        .shares
        .iter()
        .find(|share| share.calls_once > 0)?;
    let switches = case.run.measured.mode_switches.syscall;
    (case.chunks > 1).then(|| {
        format!(
            "theory calls {} for every chunk; one call serves all, so {:.2} mode switches a chunk by system calls",
            once.method.name(),
            ratio(switches, case.chunks)
        )
    })
}

fn short_calls(case: &Case) -> Option<String> {
    let (calls, whole) = (case.run.report.calls.total(), case.truth.calls(case.chunks));
    (calls > whole).then(|| {
        format!(
            "{} calls where {} would do if each moved all it was asked to: a socket buffer, pipe, datagram or page of /proc was full, or a ring's request took more than one",
            grouped(calls),
            grouped(whole)
        )
    })
}

fn page_faults(case: &Case) -> Option<String> {
    let measured = &case.run.measured;
    let faults = measured.page_faults.minor + measured.page_faults.major;
    let user = measured.mode_switches.fault / 2;
    let inside = faults.saturating_sub(user);
    let share = match (user, inside) {
        (0, _) => "all inside system calls, where they are no mode switch".into(),
        (_, 0) => "each two mode switches".into(),
        _ => format!(
            "{} in user mode, each two mode switches, and {} inside system calls, no mode switch",
            grouped(user),
            grouped(inside)
        ),
    };
    (faults > 0).then(|| {
        format!(
            "{} page faults, unknown to theory, {share}",
            grouped(faults)
        )
    })
}

fn copies(case: &Case) -> Option<String> {
    if let Some(because) = case.truth.because {
        return Some(because.into());
    }
    let all = case.run.measured.all_methods();
    let moved = cpu_bytes(&case.run.measured);
    let shares = case.truth.shares.iter();
    let unit = shares.map(|share| share.unit(case.payload)).max();
    if moved == case.theory.cpu_copies * unit.unwrap_or(case.payload) {
        None
    } else if all.in_kernel.bytes == case.payload && case.theory.cpu_copies == 0 {
        Some(
            "called zero-copy, but a file takes the pages by copying them inside the kernel".into(),
        )
    } else {
        Some(format!(
            "{:.2} CPU copies where theory has {}",
            ratio(moved, case.payload),
            case.theory.cpu_copies
        ))
    }
}

fn whole_pages(case: &Case) -> Option<String> {
    let share = case.truth.shares.iter().find(|share| share.whole_pages)?;
    let pages = share.unit(case.payload);
    (pages != case.payload).then(|| {
        format!(
            "{} moves whole pages: {} bytes for a payload of {}",
            share.method.name(),
            grouped(pages),
            grouped(case.payload)
        )
    })
}

fn passed_twice(case: &Case) -> Option<String> {
    let shares = &mut case.truth.shares.iter();
    let share = shares.find(|share| share.payload > 1 && share.zero_copy > 0)?;
    Some(format!(
        "{} reports the payload {} times, into the pipe and out of it, {} of them by reference",
        share.method.name(),
        share.payload,
        share.zero_copy
    ))
}

fn copied_later(case: &Case) -> Option<String> {
    let lost = case
        .run
        .measured
        .zero_copy_fallback_bytes
        .get(&Fallback::SgOff)?;
    Some(format!(
        "{} bytes passed by reference were copied all the same, after the call: the NIC cannot gather",
        grouped(*lost)
    ))
}

/// No failure, unlike page faults: how often a task sleeps around its barriers is not its doing.
fn kernel_disagrees(case: &Case) -> Option<String> {
    let (measured, usage) = (&case.run.measured, case.run.report.usage);
    let (ours, theirs) = (measured.context_switches.voluntary, usage.voluntary);
    (ours != theirs)
        .then(|| format!("{ours} voluntary context switches where getrusage says {theirs}"))
}
