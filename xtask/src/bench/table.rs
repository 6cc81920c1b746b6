//! Shows measurements as text.

use std::fmt::Write;

use super::results::{EMPTY, Measured, NOTHING, PROFILER, Run};

/// The goal for the cost of a copied event, as a multiple of the cost of empty programs on the same functions.
const NEAR_THE_FLOOR: f64 = 1.3;
/// The workload that the profiler does not attach to.
const OUTSIDE: &str = "getppid";
/// The tool that the profiler must cost less than.
const RIVAL: &str = "syscount";

/// A table of the cost that each variant adds to one operation: one row for each variant, one column for each
/// workload.
pub fn costs(measured: &Measured) -> String {
    let mut text = format!(
        "{} per operation: first with nothing attached, then what each adds (± spread)\n{}\n\n",
        measured.unit, measured.kernel
    );
    let cells = |variant: &str| -> Vec<String> {
        let of = |workload: &String| {
            let figure = if variant == NOTHING {
                measured.figure(workload, variant)
            } else {
                measured.cost(workload, variant)
            };
            figure.map_or_else(
                || "-".into(),
                |figure| {
                    let sign = if variant == NOTHING { "" } else { "+" };
                    let value = format!("{:.0}", figure.median);
                    let value = if value.starts_with('-') {
                        value
                    } else {
                        format!("{sign}{value}")
                    };
                    format!("{value} ±{:.0}", figure.spread)
                },
            )
        };
        measured.workloads.iter().map(of).collect()
    };
    let mut rows = vec![(String::new(), measured.workloads.clone())];
    rows.extend(
        measured
            .variants
            .iter()
            .map(|variant| (variant.clone(), cells(variant))),
    );
    let first = width(rows.iter().map(|(name, _)| name));
    for (name, cells) in &rows {
        let _ = write!(text, "{name:first$}");
        for (column, cell) in cells.iter().enumerate() {
            let width = width(rows.iter().map(|(_, cells)| &cells[column]));
            let _ = write!(text, "  {cell:>width$}");
        }
        text.push('\n');
    }
    for (variant, reason) in &measured.failed {
        let _ = writeln!(text, "{variant}: not measured: {reason}");
    }
    text
}

fn width<'a>(cells: impl Iterator<Item = &'a String>) -> usize {
    cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
}

/// A line for each goal that says whether the goal is met.
pub fn goals(measured: &Measured) -> String {
    let mut text = String::new();
    for workload in &measured.workloads {
        let Some(own) = measured.cost(workload, PROFILER) else {
            continue;
        };
        if workload == OUTSIDE {
            let met = word(own.median <= own.spread);
            let _ = writeln!(
                text,
                "{workload}: +{:.1} ±{:.1}, goal 0: {met}",
                own.median, own.spread
            );
        } else if let Some(floor) = measured.cost(workload, EMPTY) {
            let ratio = own.median / floor.median;
            let _ = writeln!(
                text,
                "{workload}: {ratio:.2} times the empty programs, goal {NEAR_THE_FLOOR}: {}",
                word(ratio <= NEAR_THE_FLOOR)
            );
        }
        if let Some(rival) = measured.cost(workload, RIVAL) {
            let _ = writeln!(
                text,
                "{workload}: {:.2} times {RIVAL}, goal less than 1: {}",
                own.median / rival.median,
                word(own.median < rival.median)
            );
        }
    }
    text
}

fn word(met: bool) -> &'static str {
    if met { "met" } else { "missed" }
}

/// All results of a run.
pub fn whole(run: &Run) -> String {
    let mut text = costs(&run.guest);
    text.push('\n');
    text.push_str(&goals(&run.guest));
    if !run.candidates.is_empty() {
        text.push_str(
            "\nparts of programs, in instructions per event on top of an empty program:\n",
        );
        for (name, cost) in &run.candidates {
            let _ = writeln!(text, "  {name}: {cost:.0}");
        }
    }
    if !run.idle.is_empty() {
        text.push_str(
            "\nthe agent itself in an idle lab machine, CPU milliseconds (million instructions); \
             a scrape on top of the hour:\n",
        );
        for (name, value) in &run.idle {
            let _ = writeln!(text, "  {name}: {value:.2}");
        }
    }
    if let Some(native) = &run.native {
        text.push('\n');
        text.push_str(&costs(native));
    }
    if !run.agent.is_empty() {
        text.push_str("\nthe agent itself, natively, CPU time:\n");
        for (name, value) in &run.agent {
            let _ = writeln!(text, "  {name}: {value:.2}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::results::tests::LINES;

    #[test]
    fn costs_are_over_nothing() {
        let measured = Measured::parse("Linux", "instructions", LINES).unwrap();
        let text = costs(&measured);
        assert!(text.contains("+21 ±"), "{text}");
        assert!(text.contains("y: not measured: no such program"), "{text}");
    }

    #[test]
    fn goals_are_met_or_missed() {
        let text = r#"{"variant":"nothing","workload":"getppid","values":[100]}
{"variant":"zc-profiler","workload":"getppid","values":[100]}
{"variant":"nothing","workload":"read","values":[1000]}
{"variant":"empty programs","workload":"read","values":[1400]}
{"variant":"zc-profiler","workload":"read","values":[1800]}
{"variant":"syscount","workload":"read","values":[2000]}"#;
        let text = goals(&Measured::parse("Linux", "instructions", text).unwrap());
        assert_eq!(
            text,
            "getppid: +0.0 ±0.0, goal 0: met\n\
             read: 2.00 times the empty programs, goal 1.3: missed\n\
             read: 0.80 times syscount, goal less than 1: met\n"
        );
    }
}
