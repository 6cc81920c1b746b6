//! Where theory and measurement part, and why: computed from what was measured.

use crate::{
    export::report::grouped,
    ledger::{Counters, Lost},
    probes::Evidence,
    workload::{Run, Theory, Truth},
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
const RULES: [Rule; 7] = [
    once_for_all_chunks,
    short_calls,
    page_faults,
    copies,
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
            "{} calls where {} would do if each moved all it was asked to: a socket buffer, pipe or datagram was full, or a ring's request took more than one",
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
    if moved == case.theory.cpu_copies * case.payload {
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

fn passed_twice(case: &Case) -> Option<String> {
    let share = case.truth.shares.iter().find(|share| share.payload > 1)?;
    Some(format!(
        "{} reports the payload {} times, into the pipe and out of it, {} of them by reference",
        share.method.name(),
        share.payload,
        share.zero_copy
    ))
}

fn copied_later(case: &Case) -> Option<String> {
    let lost = case.run.measured.lost_zero_copy_bytes.get(&Lost::SgOff)?;
    Some(format!(
        "{} bytes passed by reference were copied all the same, after the call: the NIC cannot gather",
        grouped(*lost)
    ))
}

fn kernel_disagrees(case: &Case) -> Option<String> {
    let (measured, usage) = (&case.run.measured, case.run.report.usage);
    let pairs = [
        (
            "voluntary context switches",
            measured.context_switches.voluntary,
            usage.voluntary,
        ),
        ("minor page faults", measured.page_faults.minor, usage.minor),
        ("major page faults", measured.page_faults.major, usage.major),
    ];
    let wrong: Vec<_> = pairs
        .iter()
        .filter(|(_, ours, theirs)| ours != theirs)
        .map(|(what, ours, theirs)| format!("{ours} {what} where getrusage says {theirs}"))
        .collect();
    (!wrong.is_empty()).then(|| wrong.join(", "))
}
