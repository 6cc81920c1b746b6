//! The ledger as text, for people.

use std::fmt::Write;

use crate::ledger::{Counters, Process};

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
/// Columns of text are aligned to the left.
const TEXT: [usize; 2] = [1, 2];

/// One line a process and method, then each process's switches and faults.
#[must_use]
pub fn ledger(kernel: &str, seconds: f64, processes: &[Process], total: &Counters) -> String {
    let mut rows = vec![HEADER.map(String::from)];
    for process in processes {
        rows.extend(lines(
            &process.pid.to_string(),
            &process.comm,
            &process.counters,
        ));
    }
    rows.extend(lines("", "total", total));
    let mut text = format!(
        "\nkernel {kernel}, {seconds:.3} s; bytes, copied by the CPU where not said otherwise\n\n"
    );
    text += &columns(&rows);
    text.push('\n');
    for process in processes {
        let _ = writeln!(
            text,
            "{:>9} {:<15}  {}",
            process.pid,
            process.comm,
            switches(&process.counters)
        );
    }
    let _ = writeln!(text, "{:>9} {:<15}  {}", "", "total", switches(total));
    text
}

fn lines(pid: &str, comm: &str, counters: &Counters) -> Vec<[String; 9]> {
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
            grouped(totals.zero_copy_bytes),
            grouped(totals.to_user.bytes),
            grouped(totals.from_user.bytes),
            grouped(totals.in_kernel.bytes),
        ]
    };
    counters.methods.iter().enumerate().map(line).collect()
}

fn switches(counters: &Counters) -> String {
    format!(
        "mode switches {} (system calls) + {} (faults); context switches {} voluntary + {} involuntary; \
         page faults {} minor + {} major",
        grouped(counters.mode_switches.syscall),
        grouped(counters.mode_switches.fault),
        grouped(counters.context_switches.voluntary),
        grouped(counters.context_switches.involuntary),
        grouped(counters.page_faults.minor),
        grouped(counters.page_faults.major),
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
