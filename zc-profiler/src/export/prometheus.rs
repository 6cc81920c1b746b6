//! The ledger in the Prometheus text format.

use std::{collections::BTreeMap, time::Instant};

use prometheus::{Encoder, Gauge, GaugeVec, IntCounterVec, Opts, Registry, TextEncoder};

use crate::{
    Profiler,
    calibration::{Outcome, Verdict},
    ledger::{Counters, Direction, Lost, Method, MethodTotals, Snapshot},
    probes::{Evidence, State, Status},
};

/// What `Content-Type` the text has.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// The values of a family's own labels, and the count.
type Sample = (Vec<&'static str>, u64);

/// A counter of each group of processes: its name, help and own labels, and its samples.
struct Family {
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    /// Whether it tells of copies, so that it must say if they are derived.
    of_copies: bool,
    samples: fn(&Counters) -> Vec<Sample>,
}

const FAMILIES: &[Family] = &[
    Family {
        name: "zc_calls_total",
        help: "System calls that returned.",
        labels: &["method"],
        of_copies: false,
        samples: |counters| by_method(counters, |totals| totals.calls),
    },
    Family {
        name: "zc_payload_bytes_total",
        help: "Bytes that system calls reported as moved.",
        labels: &["method"],
        of_copies: false,
        samples: |counters| by_method(counters, |totals| totals.payload_bytes),
    },
    Family {
        name: "zc_zero_copy_bytes_total",
        help: "Payload that no copy carried.",
        labels: &["method"],
        of_copies: true,
        samples: |counters| by_method(counters, |totals| totals.zero_copy_bytes),
    },
    Family {
        name: "zc_copies_total",
        help: "Copies by the CPU on the data paths; small structures of other system calls are not covered.",
        labels: &["method", "direction"],
        of_copies: true,
        samples: |counters| {
            by_direction(counters, |totals, direction| {
                totals.direction(direction).copies
            })
        },
    },
    Family {
        name: "zc_copied_bytes_total",
        help: "Bytes copied by the CPU on the data paths; small structures of other system calls are not \
               covered.",
        labels: &["method", "direction"],
        of_copies: true,
        samples: |counters| {
            by_direction(counters, |totals, direction| {
                totals.direction(direction).bytes
            })
        },
    },
    Family {
        name: "zc_mode_switches_total",
        help: "Switches between user and kernel mode: two for each system call of a method and each page \
               fault in user mode.",
        labels: &["cause"],
        of_copies: false,
        samples: |counters| {
            vec![
                (vec!["syscall"], counters.mode_switches.syscall),
                (vec!["fault"], counters.mode_switches.fault),
            ]
        },
    },
    Family {
        name: "zc_context_switches_total",
        help: "Times the scheduler replaced a task of these processes.",
        labels: &["kind"],
        of_copies: false,
        samples: |counters| {
            vec![
                (vec!["voluntary"], counters.context_switches.voluntary),
                (vec!["involuntary"], counters.context_switches.involuntary),
            ]
        },
    },
    Family {
        name: "zc_page_faults_total",
        help: "Page faults served, without (minor) or with (major) I/O.",
        labels: &["kind"],
        of_copies: false,
        samples: |counters| {
            vec![
                (vec!["minor"], counters.page_faults.minor),
                (vec!["major"], counters.page_faults.major),
            ]
        },
    },
    Family {
        name: "zc_dma_bytes_total",
        help: "Bytes that disks and network interfaces were asked to move by DMA, or delivered.",
        labels: &["device", "direction"],
        of_copies: false,
        samples: |counters| {
            let dma = counters.dma_bytes;
            vec![
                (vec!["block", "in"], dma.block.into),
                (vec!["block", "out"], dma.block.out),
                (vec!["net", "in"], dma.net.into),
                (vec!["net", "out"], dma.net.out),
            ]
        },
    },
    Family {
        name: "zc_pio_bytes_total",
        help: "Bytes that the CPU moved to and from ATA disks word by word.",
        labels: &["direction"],
        of_copies: false,
        samples: |counters| {
            vec![
                (vec!["in"], counters.pio_bytes.into),
                (vec!["out"], counters.pio_bytes.out),
            ]
        },
    },
    Family {
        name: "zc_lost_zero_copy_bytes_total",
        help: "Bytes copied although a program asked to pass them by reference.",
        labels: &["reason"],
        of_copies: true,
        samples: |counters| {
            let sample = |(reason, bytes): (&Lost, &u64)| (vec![reason.name()], *bytes);
            counters.lost_zero_copy_bytes.iter().map(sample).collect()
        },
    },
];

fn by_method(counters: &Counters, value: fn(&MethodTotals) -> u64) -> Vec<Sample> {
    let sample = |(method, totals): (&Method, &MethodTotals)| (vec![method.name()], value(totals));
    counters.methods.iter().map(sample).collect()
}

fn by_direction(counters: &Counters, value: fn(&MethodTotals, Direction) -> u64) -> Vec<Sample> {
    let samples = |(method, totals): (&Method, &MethodTotals)| {
        Direction::ALL.map(|direction| {
            (
                vec![method.name(), direction.name()],
                value(totals, direction),
            )
        })
    };
    counters.methods.iter().flat_map(samples).collect()
}

/// Reads the ledger and renders it, with the exporter's own metrics.
///
/// # Errors
///
/// If the ledger cannot be read.
pub fn scrape(profiler: &Profiler) -> anyhow::Result<String> {
    let begun = Instant::now();
    let snapshot = profiler.snapshot()?;
    let registry = Registry::new();
    let series = processes(&registry, &snapshot, profiler.evidence())?;
    probes(&registry, profiler.statuses())?;
    calibration(&registry, profiler.calibration())?;
    let dropped = counters(
        &registry,
        "zc_dropped_total",
        "What could not be counted where it belongs.",
        &["reason"],
    )?;
    for (reason, count) in snapshot.losses() {
        dropped.with_label_values(&[reason]).inc_by(count);
    }
    let info = GaugeVec::new(
        Opts::new(
            "zc_build_info",
            "The program's version, the kernel, and how numbers are obtained.",
        ),
        &["version", "kernel", "evidence"],
    )?;
    registry.register(Box::new(info.clone()))?;
    info.with_label_values(&[
        env!("CARGO_PKG_VERSION"),
        profiler.kernel(),
        profiler.evidence().name(),
    ])
    .set(1.0);
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let (series, processes) = (series as f64, snapshot.processes.len() as f64);
    gauge(
        &registry,
        "zc_exported_series",
        "Series of process counters in this exposition.",
        series,
    )?;
    gauge(
        &registry,
        "zc_processes",
        "Processes in the kernel's map, the pseudo-processes included.",
        processes,
    )?;
    let seconds = begun.elapsed().as_secs_f64();
    gauge(
        &registry,
        "zc_scrape_seconds",
        "Time that reading the ledger for this exposition took.",
        seconds,
    )?;
    let mut text = Vec::new();
    TextEncoder::new().encode(&registry.gather(), &mut text)?;
    Ok(String::from_utf8(text)?)
}

/// Sums by command name: pids would grow the number of series without bound.
fn groups(snapshot: &Snapshot) -> BTreeMap<&str, Counters> {
    let live = snapshot
        .processes
        .iter()
        .map(|process| (process.comm.as_str(), &process.counters));
    let retired = snapshot
        .retired
        .iter()
        .map(|(comm, counters)| (comm.as_str(), counters));
    let mut groups: BTreeMap<&str, Counters> = BTreeMap::new();
    for (comm, counters) in live.chain(retired) {
        *groups.entry(comm).or_default() += counters;
    }
    groups
}

fn processes(
    registry: &Registry,
    snapshot: &Snapshot,
    evidence: Evidence,
) -> prometheus::Result<usize> {
    let groups = groups(snapshot);
    let mut series = 0;
    for family in FAMILIES {
        let says_how = family.of_copies && evidence == Evidence::Derived;
        let mut labels = [&["comm"], family.labels].concat();
        if says_how {
            labels.push("evidence");
        }
        let metric = IntCounterVec::new(Opts::new(family.name, family.help), &labels)?;
        registry.register(Box::new(metric.clone()))?;
        for (comm, counters) in &groups {
            for (own, count) in (family.samples)(counters) {
                // Where copies are derived, a zero may be a number that nothing tells.
                if count == 0 && (family.of_copies || evidence == Evidence::Derived) {
                    continue;
                }
                let mut values = [&[*comm], own.as_slice()].concat();
                if says_how {
                    values.push(evidence_of(family, &own).name());
                }
                metric.get_metric_with_label_values(&values)?.inc_by(count);
                series += 1;
            }
        }
    }
    Ok(series)
}

/// Where copies are derived: what no call returns was counted where it was made, or not at all.
fn evidence_of(family: &Family, labels: &[&str]) -> Evidence {
    if labels.contains(&Direction::InKernel.name()) || family.labels == ["reason"] {
        Evidence::Measured
    } else {
        Evidence::Derived
    }
}

fn probes(registry: &Registry, statuses: &[Status]) -> prometheus::Result<()> {
    let metric = GaugeVec::new(
        Opts::new(
            "zc_probe_attached",
            "Whether a probe counts (1) or what it counts is lost (0).",
        ),
        &["probe", "attach"],
    )?;
    registry.register(Box::new(metric.clone()))?;
    for status in statuses {
        let (attach, value) = match &status.state {
            State::Attached(form) => (form.attach.name(), 1.0),
            State::Absent(_) => ("absent", 0.0),
            State::Failed(_) => ("failed", 0.0),
        };
        metric
            .with_label_values(&[status.hook.name, attach])
            .set(value);
    }
    Ok(())
}

/// Paths that were not taken, or whose copies are derived, have no sample: that they are not counted,
/// `zc_probe_attached` says.
fn calibration(registry: &Registry, outcomes: &[Outcome]) -> prometheus::Result<()> {
    let metric = GaugeVec::new(
        Opts::new(
            "zc_calibration_ok",
            "Whether known bytes, moved at start-up, were counted exactly (1) or not (0).",
        ),
        &["path"],
    )?;
    registry.register(Box::new(metric.clone()))?;
    for outcome in outcomes {
        let value = match outcome.verdict {
            Verdict::Exact => 1.0,
            Verdict::Wrong => 0.0,
            Verdict::Derived | Verdict::Absent => continue,
        };
        metric.with_label_values(&[outcome.path.name]).set(value);
    }
    Ok(())
}

fn counters(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> prometheus::Result<IntCounterVec> {
    let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn gauge(registry: &Registry, name: &str, help: &str, value: f64) -> prometheus::Result<()> {
    let metric = Gauge::new(name, help)?;
    metric.set(value);
    registry.register(Box::new(metric))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Copies, Process, ProcessKey};

    fn process(pid: u32, comm: &str, bytes: u64) -> Process {
        let totals = MethodTotals {
            calls: 1,
            payload_bytes: bytes,
            to_user: Copies { copies: 1, bytes },
            ..MethodTotals::default()
        };
        Process {
            key: ProcessKey { pid, start: 1 },
            pid,
            comm: comm.into(),
            exited: false,
            counters: Counters {
                methods: BTreeMap::from([(Method::Read, totals)]),
                ..Counters::default()
            },
        }
    }

    fn render(snapshot: &Snapshot) -> (String, usize) {
        let registry = Registry::new();
        let series = processes(&registry, snapshot, Evidence::Measured).expect("families");
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&registry.gather(), &mut text)
            .expect("encode");
        (String::from_utf8(text).expect("UTF-8"), series)
    }

    #[test]
    fn processes_of_one_name_share_a_series_with_the_retired() {
        let snapshot = Snapshot {
            processes: vec![
                process(1, "cat", 10),
                process(2, "cat", 20),
                process(3, "cp", 5),
            ],
            retired: BTreeMap::from([("cat".into(), process(4, "cat", 100).counters)]),
            ..Snapshot::default()
        };
        let (text, series) = render(&snapshot);
        let line = |wanted: &str| text.lines().any(|line| line == wanted);
        assert!(
            line(r#"zc_copied_bytes_total{comm="cat",direction="to_user",method="read"} 130"#),
            "{text}"
        );
        assert!(
            line(r#"zc_payload_bytes_total{comm="cp",method="read"} 5"#),
            "{text}"
        );
        let samples = text.lines().filter(|line| !line.starts_with('#')).count();
        assert_eq!(samples, series);
    }

    #[test]
    fn hostile_names_stay_one_label_value() {
        let name = "a\"b\\c\nd}";
        let (text, _) = render(&Snapshot {
            processes: vec![process(1, name, 1)],
            ..Snapshot::default()
        });
        assert!(text.contains(r#"comm="a\"b\\c\nd}""#), "{text}");
    }
}
