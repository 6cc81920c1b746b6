//! The ledger as text, for people.

use std::fmt::Write;

use crate::{
    ledger::{Counters, Process},
    probes::Evidence,
};

const HEADER: [&str; 9] = [
    "PID",
    "COMM",
    "METHOD",
    "CALLS",
    "PAYLOAD",
    "ZERO-COPY",
    "TO USER",
    "FROM USER",
    "IN KERNEL",
];
/// The columns that can be derived from what calls return.
const DERIVABLE: [&str; 2] = ["TO USER", "FROM USER"];
/// Columns of text are aligned to the left.
const TEXT: [usize; 2] = [1, 2];

/// One line a process and method, then each process's switches and faults.
#[must_use]
pub fn ledger(
    kernel: &str,
    evidence: Evidence,
    seconds: f64,
    processes: &[Process],
    total: &Counters,
) -> String {
    let head = |name: &&str| match evidence {
        Evidence::Derived if DERIVABLE.contains(name) => format!("{name} (derived)"),
        _ => (*name).to_owned(),
    };
    let mut rows = vec![HEADER.each_ref().map(head)];
    for process in processes {
        rows.extend(lines(
            &process.pid.to_string(),
            &process.comm,
            &process.counters,
            evidence,
        ));
    }
    rows.extend(lines("", "total", total, evidence));
    let how = match evidence {
        Evidence::Measured => "copies by the CPU are measured where they are made",
        Evidence::Derived => {
            "copies to and from user memory are derived from what system calls returned"
        }
    };
    let mut text = format!("\nkernel {kernel}, {seconds:.3} s; {how}\n\n");
    text += &columns(&rows);
    text.push('\n');
    for process in processes {
        let _ = writeln!(
            text,
            "{:>9} {:<15}  {}",
            process.pid,
            process.comm,
            switches(&process.counters, evidence)
        );
    }
    let _ = writeln!(
        text,
        "{:>9} {:<15}  {}",
        "",
        "total",
        switches(total, evidence)
    );
    text
}

fn lines(pid: &str, comm: &str, counters: &Counters, evidence: Evidence) -> Vec<[String; 9]> {
    // Nothing that a call returns tells these: they were counted where they were made, or not at all.
    let known = |bytes| match (evidence, bytes) {
        (Evidence::Derived, 0) => "-".to_owned(),
        _ => grouped(bytes),
    };
    let line = |(index, (method, totals)): (
        usize,
        (&crate::ledger::Method, &crate::ledger::MethodTotals),
    )| {
        let first = |text: &str| {
            if index == 0 {
                text.to_owned()
            } else {
                String::new()
            }
        };
        [
            first(pid),
            first(comm),
            method.name().to_owned(),
            grouped(totals.calls),
            grouped(totals.payload_bytes),
            known(totals.zero_copy_bytes),
            grouped(totals.to_user.bytes),
            grouped(totals.from_user.bytes),
            known(totals.in_kernel.bytes),
        ]
    };
    counters.methods.iter().enumerate().map(line).collect()
}

fn switches(counters: &Counters, evidence: Evidence) -> String {
    let faults = match evidence {
        Evidence::Measured => format!(
            "{} (faults); page faults {} minor + {} major",
            grouped(counters.mode_switches.fault),
            grouped(counters.page_faults.minor),
            grouped(counters.page_faults.major),
        ),
        Evidence::Derived => "unknown (faults)".to_owned(),
    };
    format!(
        "context switches {} voluntary + {} involuntary; mode switches {} (system calls) + {faults}",
        grouped(counters.context_switches.voluntary),
        grouped(counters.context_switches.involuntary),
        grouped(counters.mode_switches.syscall),
    )
}

fn columns(rows: &[[String; 9]]) -> String {
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<_> = (0..HEADER.len()).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(column, (cell, width))| {
                if TEXT.contains(&column) {
                    format!("{cell:<width$}")
                } else {
                    format!("{cell:>width$}")
                }
            });
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

/// 1234567 as 1,234,567: every digit counts here.
#[must_use]
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_grouped_by_three() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (12_345_678, "12,345,678"),
        ] {
            assert_eq!(grouped(number), text);
        }
    }
}
