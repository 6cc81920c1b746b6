//! One scenario's place in the lab's table and JSON.

use serde::Serialize;

use super::note;
use crate::{
    lab::{Difference, Error, Plan, Run, Scenario, Theory, Truth},
    ledger::Counters,
    probes::Evidence,
};

/// What `lab --json` writes.
#[derive(Debug, Serialize)]
pub struct Document<'a> {
    /// The running kernel's release.
    pub kernel: &'a str,
    /// `measured` or `derived`.
    pub evidence: &'a str,
    pub payload_bytes: u64,
    pub chunk_bytes: u64,
    pub rows: &'a [Row],
    /// Rows that this machine has no hardware for, and why.
    pub left_out: &'a [String],
}

#[derive(Debug, Serialize)]
pub struct Row {
    pub method: &'static str,
    pub target: &'static str,
    /// Per chunk.
    pub theory: Theory,
    /// In total.
    pub measured: Counters,
    pub ok: bool,
    #[serde(rename = "note", serialize_with = "joined")]
    pub notes: Vec<String>,
}

impl Row {
    pub fn new(scenario: &Scenario, plan: &Plan, run: Run, evidence: Evidence) -> Self {
        let differences = |truth: &Truth| -> Vec<Difference> {
            let mut found = truth.differences(
                plan.payload(),
                run.report.resent,
                &run.report.calls,
                &run.measured,
            );
            match evidence {
                // Nothing but these is known.
                Evidence::Derived => {
                    found.retain(|found| ["calls", "payload_bytes"].contains(&found.field));
                }
                Evidence::Measured => found.extend(run.fault_differences()),
            }
            found
        };
        let nearest = scenario
            .truths
            .iter()
            .min_by_key(|truth| differences(truth).len());
        let mut notes = Vec::new();
        let mut ok = false;
        if let Some(truth) = nearest {
            let found = differences(truth);
            ok = found.is_empty();
            notes.extend(found.iter().map(|difference| format!("FAIL: {difference}")));
            notes.extend(note::notes(
                scenario.theory,
                truth,
                plan.payload(),
                plan.chunks(),
                &run,
                evidence,
            ));
        }
        Self {
            method: scenario.method,
            target: scenario.target.name(),
            theory: scenario.theory,
            measured: run.measured,
            ok,
            notes,
        }
    }

    /// The row of a scenario that did not come to its end.
    pub fn failed(scenario: &Scenario, error: &Error) -> Self {
        Self {
            method: scenario.method,
            target: scenario.target.name(),
            theory: scenario.theory,
            measured: Counters::default(),
            ok: false,
            notes: vec![format!("FAIL: {error}")],
        }
    }
}

fn joined<S: serde::Serializer>(notes: &[String], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&notes.join("; "))
}

#[cfg(test)]
mod tests {
    use super::super::tables;
    use super::*;
    use crate::{
        lab::{Hardware, Report, Scenario, Share, Target, Truth, scenarios},
        ledger::{Copies, Fallback, Method, MethodTotals},
    };

    const PAYLOAD: u64 = 1 << 20;
    const CHUNK: usize = 65536;

    fn scenario(method: &str, target: Target) -> &'static Scenario {
        let found = |scenario: &&Scenario| scenario.method == method && scenario.target == target;
        scenarios().find(found).unwrap()
    }

    /// A run in which everything is as that truth has it.
    fn perfect(truth: &Truth, chunks: u64) -> Run {
        let mut run = Run {
            measured: Counters::default(),
            report: Report::default(),
        };
        if let Some(moved) = truth.moved {
            run.measured.pio_bytes.into = moved.pio_in * PAYLOAD;
            run.measured.dma_bytes.block.into = moved.dma_in * PAYLOAD;
            run.measured.dma_bytes.block.out = moved.dma_out * PAYLOAD;
            run.measured.dma_bytes.net.out = moved.sent * PAYLOAD;
            if moved.lost > 0 {
                let lost = &mut run.measured.zero_copy_fallback_bytes;
                lost.insert(Fallback::SgOff, moved.lost * PAYLOAD);
            }
        }
        for share in truth.shares {
            let calls = share.calls_each_chunk * chunks + share.calls_once;
            run.report.calls.add(share.method, calls);
            let copies = |times: u64| Copies {
                copies: times * chunks,
                bytes: times * PAYLOAD,
            };
            run.measured.mode_switches.syscall += 2 * calls;
            run.measured.methods.insert(
                share.method,
                MethodTotals {
                    calls,
                    payload_bytes: share.payload * PAYLOAD,
                    zero_copy_bytes: share.zero_copy * PAYLOAD,
                    to_user: copies(share.to_user),
                    from_user: copies(share.from_user),
                    in_kernel: copies(share.in_kernel),
                },
            );
        }
        run
    }

    fn row(scenario: &Scenario, truth: &Truth, change: fn(&mut Run)) -> Row {
        let dir = tempfile::tempdir().unwrap();
        let plan = Plan::new(dir.path(), PAYLOAD, CHUNK, Hardware::default()).unwrap();
        let mut run = perfect(truth, plan.chunks());
        change(&mut run);
        Row::new(scenario, &plan, run, Evidence::Measured)
    }

    fn of(method: &str, target: Target, change: fn(&mut Run)) -> Row {
        let scenario = scenario(method, target);
        row(scenario, &scenario.truths[0], change)
    }

    #[test]
    fn every_truth_passes() {
        for scenario in scenarios() {
            for truth in scenario.truths {
                let row = row(scenario, truth, |_| {});
                assert!(row.ok, "{row:?}");
                assert!(row.notes.iter().all(|note| !note.starts_with("FAIL")));
            }
        }
    }

    #[test]
    fn one_byte_fails() {
        let row = of("sendfile", Target::Tcp, |run| {
            run.measured
                .methods
                .get_mut(&Method::Sendfile)
                .unwrap()
                .zero_copy_bytes -= 1;
        });
        assert!(!row.ok);
        assert_eq!(
            row.notes[0],
            "FAIL: sendfile.zero_copy_bytes: expected 1048576, got 1048575"
        );
    }

    #[test]
    fn where_theory_holds_nothing_is_said() {
        for (method, target) in [
            ("read+write", Target::Tcp),
            ("read+write", Target::File),
            ("sendfile", Target::Tcp),
        ] {
            let row = of(method, target, |_| {});
            assert!(row.notes.is_empty(), "{row:?}");
        }
    }

    #[test]
    fn where_theory_and_measurement_part_the_note_has_the_numbers() {
        let mapped = of("mmap+write", Target::Tcp, |run| {
            run.measured.page_faults.minor = 17;
            run.report.usage.minor = 17;
        });
        assert!(mapped.notes[0].contains("2.12 mode switches"), "{mapped:?}");
        assert!(mapped.notes[1].starts_with("17 page faults"), "{mapped:?}");
        let short = of("sendfile", Target::Tcp, |run| {
            run.report.calls.add(Method::Sendfile, 4);
            run.measured
                .methods
                .get_mut(&Method::Sendfile)
                .unwrap()
                .calls += 4;
        });
        assert!(short.ok);
        assert!(short.notes[0].starts_with("20 calls where 16"), "{short:?}");
        let copied = of("sendfile", Target::File, |_| {});
        assert!(copied.notes[0].contains("inside the kernel"), "{copied:?}");
        let ranges = scenario("copy_file_range", Target::File);
        let shared = row(ranges, &ranges.truths[1], |_| {});
        assert!(shared.notes[0].contains("reflink"), "{shared:?}");
        let odd = of("sendfile", Target::Tcp, |run| {
            run.measured.page_faults.major = 1;
        });
        assert!(!odd.ok, "{odd:?}");
        assert_eq!(odd.notes[0], "FAIL: page_faults.major: expected 0, got 1");
        let switched = of("sendfile", Target::Tcp, |run| {
            run.measured.context_switches.voluntary = 1;
        });
        assert!(switched.ok, "{switched:?}");
        assert!(switched.notes[0].contains("getrusage"), "{switched:?}");
    }

    #[test]
    fn truths_of_one_scenario_can_be_told_apart() {
        for scenario in scenarios() {
            let shares: Vec<&[Share]> = scenario.truths.iter().map(|truth| truth.shares).collect();
            for (index, one) in shares.iter().enumerate() {
                assert!(!shares[..index].contains(one), "{}", scenario.method);
            }
        }
    }

    fn document(rows: &[Row]) -> Document<'_> {
        Document {
            kernel: "6.1.0",
            evidence: "measured",
            payload_bytes: PAYLOAD,
            chunk_bytes: CHUNK as u64,
            rows,
            left_out: &[],
        }
    }

    #[test]
    fn the_table_shows_theory_beside_measurement() {
        let rows: Vec<_> = scenarios()
            .map(|scenario| row(scenario, &scenario.truths[0], |_| {}))
            .chain([Row::failed(
                scenario("sendfile", Target::Tcp),
                &Error::Interrupted(2),
            )])
            .collect();
        let text = tables::report(&document(&rows));
        assert!(
            text.contains("kernel 6.1.0, payload 1 MiB, chunk 64 KiB: 16 chunks; copies measured")
        );
        assert!(
            text.lines().all(|line| line.chars().count() <= 140),
            "{text}"
        );
        let line = |method: &str, target: &str| -> Vec<&str> {
            let mut lines = text
                .lines()
                .map(|line| line.split_whitespace().collect::<Vec<_>>());
            let found = lines.find(|words| words.starts_with(&[method, target]));
            found.unwrap().split_off(2)
        };
        assert_eq!(
            line("mmap+write", "tcp"),
            "4 2.12 0.00 1 1.00 0.00 1.00 0.00 0.00 0.00 2 0.00 0.00 0.00 OK"
                .split(' ')
                .collect::<Vec<_>>()
        );
        assert_eq!(
            line("splice", "tcp"),
            "4 4.00 0.00 0 0.00 0.00 0.00 0.00 0.00 2.00 2 0.00 0.00 0.00 OK"
                .split(' ')
                .collect::<Vec<_>>()
        );
        assert!(text.contains("FAIL: interrupted by signal 2"), "{text}");
    }

    #[test]
    fn json_has_the_documented_shape() {
        let rows = [of("splice", Target::File, |_| {})];
        let json = serde_json::to_value(document(&rows)).unwrap();
        assert_eq!(json["payload_bytes"], PAYLOAD);
        let row = &json["rows"][0];
        assert_eq!(
            row["theory"],
            serde_json::json!({"mode_switches": 4, "cpu_copies": 0, "dma_copies": 2})
        );
        assert_eq!(
            (&row["method"], &row["target"]),
            (&"splice".into(), &"file".into())
        );
        assert_eq!(
            row["measured"]["methods"]["splice"]["in_kernel"]["bytes"],
            PAYLOAD
        );
        assert_eq!(row["measured"]["mode_switches"]["syscall"], 64);
        assert_eq!(row["ok"], true);
        assert!(row["note"].as_str().unwrap().contains("; "));
    }
}
