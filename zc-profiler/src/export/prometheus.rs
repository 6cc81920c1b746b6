//! The ledger in the Prometheus text format.

use std::time::{Duration, Instant};

use prometheus::{
    CounterVec, Encoder, Gauge, GaugeVec, IntCounterVec, Opts, Registry, TextEncoder,
    proto::{Counter, LabelPair, Metric, MetricFamily, MetricType},
};

use crate::{
    Agent,
    agent::{Groups, Name},
    ledger::{Counters, Direction, Fallback, Method, MethodTotals},
    probes::{Evidence, State, Status},
    selftest::{Outcome, Verdict},
};

/// What `Content-Type` the text has.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// The values of a family's own labels, and the count.
type Sample = (Vec<&'static str>, u64);

/// A counter of each group of processes: its name, help and own labels, and its samples.
pub(super) struct Family {
    pub(super) name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    /// Whether it tells of copies, so that it must say if they are derived.
    of_copies: bool,
    samples: fn(&Counters) -> Vec<Sample>,
}

pub(super) const FAMILIES: &[Family] = &[
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
        name: "zc_zero_copy_fallback_bytes_total",
        help: "Bytes copied although a program asked to pass them by reference.",
        labels: &["reason"],
        of_copies: true,
        samples: |counters| {
            let sample = |(reason, bytes): (&Fallback, &u64)| (vec![reason.name()], *bytes);
            counters
                .zero_copy_fallback_bytes
                .iter()
                .map(sample)
                .collect()
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
pub fn scrape(agent: &Agent) -> anyhow::Result<String> {
    let begun = Instant::now();
    let profiler = agent.profiler();
    let (mut families, sizes, losses) = agent.show(|snapshot, processes, groups| {
        let families = families(groups, profiler.evidence());
        let series: usize = families
            .iter()
            .map(|family| family.get_metric().len())
            .sum();
        let sizes = [series, processes, groups.len()];
        let turned_away = ("group_limit", groups.turned_away());
        let losses: Vec<_> = snapshot.losses().chain([turned_away]).collect();
        (families, sizes, losses)
    })?;
    let registry = Registry::new();
    probes(&registry, profiler.statuses())?;
    runs(&registry, &profiler.runs()?)?;
    calibration(&registry, profiler.calibration())?;
    let dropped = counters(
        &registry,
        "zc_dropped_total",
        "What could not be counted where it belongs.",
        &["reason"],
    )?;
    for (reason, count) in losses {
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
    let [series, processes, groups] = sizes.map(|size| size as f64);
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
    gauge(
        &registry,
        "zc_groups",
        "Groups that processes are summed in, `other` included.",
        groups,
    )?;
    let seconds = begun.elapsed().as_secs_f64();
    gauge(
        &registry,
        "zc_scrape_seconds",
        "Time that reading the ledger for this exposition took.",
        seconds,
    )?;
    families.extend(registry.gather());
    let mut text = Vec::new();
    TextEncoder::new().encode(&families, &mut text)?;
    Ok(String::from_utf8(text)?)
}

/// The families of process counters that have samples. Made by hand, since a group has only those
/// labels that say something.
fn families(groups: &Groups, evidence: Evidence) -> Vec<MetricFamily> {
    let families = FAMILIES.iter().map(|family| {
        let says_how = family.of_copies && evidence == Evidence::Derived;
        let mut metrics = Vec::new();
        for (name, counters) in groups.iter() {
            for (values, count) in (family.samples)(counters) {
                // Where copies are derived, a zero may be a number that nothing tells.
                if count == 0 && (family.of_copies || evidence == Evidence::Derived) {
                    continue;
                }
                let how = says_how.then(|| ("evidence", evidence_of(family, &values).name()));
                let own = family.labels.iter().copied().zip(values);
                metrics.push(metric(labels(&name).chain(own).chain(how), count));
            }
        }
        let mut result = MetricFamily::default();
        result.set_name(family.name.into());
        result.set_help(family.help.into());
        result.set_field_type(MetricType::COUNTER);
        result.set_metric(metrics);
        result
    });
    // The encoder refuses families without samples.
    families
        .filter(|family| !family.get_metric().is_empty())
        .collect()
}

fn labels(name: &Name) -> impl Iterator<Item = (&'static str, &str)> {
    let labels = [
        ("comm", &*name.comm),
        ("pid", &*name.pid),
        ("unit", &*name.unit),
        ("container", &*name.container),
    ];
    labels.into_iter().filter(|(_, value)| !value.is_empty())
}

fn metric<'a>(labels: impl Iterator<Item = (&'static str, &'a str)>, count: u64) -> Metric {
    let mut pairs: Vec<_> = labels
        .map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name(name.into());
            pair.set_value(value.into());
            pair
        })
        .collect();
    pairs.sort();
    let mut counter = Counter::default();
    #[expect(
        clippy::cast_precision_loss,
        reason = "exact below 2^53, and the format's readers have no more"
    )]
    counter.set_value(count as f64);
    let mut metric = Metric::from_label(pairs);
    metric.set_counter(counter);
    metric
}

/// Where copies are derived: what no call returns was counted where it was made, or not at all.
fn evidence_of(family: &Family, labels: &[&str]) -> Evidence {
    if labels.contains(&Direction::InKernel.name()) || family.labels == ["reason"] {
        Evidence::Measured
    } else {
        Evidence::Derived
    }
}

fn runs(registry: &Registry, runs: &[(&Status, u64, Duration)]) -> prometheus::Result<()> {
    if runs.is_empty() {
        return Ok(());
    }
    let labels = ["probe", "attach"];
    let count = counters(
        registry,
        "zc_probe_runs_total",
        "How often a probe's program has run.",
        &labels,
    )?;
    let seconds = CounterVec::new(
        Opts::new(
            "zc_probe_seconds_total",
            "How long a probe's program has run, by the kernel's clock and without the trampoline that \
             calls it.",
        ),
        &labels,
    )?;
    registry.register(Box::new(seconds.clone()))?;
    for (status, number, time) in runs {
        let attach = status.variant().map_or("", |variant| variant.attach.name());
        let values = [status.hook.name, attach];
        count.with_label_values(&values).inc_by(*number);
        seconds
            .with_label_values(&values)
            .inc_by(time.as_secs_f64());
    }
    Ok(())
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
            State::Attached(variant) => (variant.attach.name(), 1.0),
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
    use std::{
        collections::{BTreeMap, HashSet},
        sync::Arc,
        time::Instant,
    };

    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::{
        agent::{GroupBy, Grouping},
        kernel::Service,
        ledger::{Copies, Process, ProcessKey},
    };

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
            cgroup: 0,
            followed: false,
            counters: Counters {
                methods: BTreeMap::from([(Method::Read, totals)]),
                ..Counters::default()
            },
        }
    }

    fn render(by: GroupBy, processes: &[Process], service: &Service) -> String {
        let mut groups = Groups::new(Grouping {
            by,
            ..Grouping::default()
        });
        let service = Arc::new(service.clone());
        groups.count(processes, Instant::now(), &mut |_| Arc::clone(&service));
        let mut text = Vec::new();
        let families = families(&groups, Evidence::Measured);
        TextEncoder::new()
            .encode(&families, &mut text)
            .expect("encode");
        String::from_utf8(text).expect("UTF-8")
    }

    fn has(text: &str, line: &str) {
        assert!(
            text.lines().any(|found| found == line),
            "no {line} in {text}"
        );
    }

    #[test]
    fn labels_say_what_makes_the_group_and_no_more() {
        let processes = [
            process(1, "cat", 10),
            process(2, "cat", 20),
            process(3, "cp", 5),
        ];
        let none = Service::default();
        let service = Service {
            unit: Some("web.service".into()),
            container: Some("c0ffee".into()),
            pod: None,
        };
        let text = render(GroupBy::Service, &processes, &none);
        has(
            &text,
            r#"zc_copied_bytes_total{comm="cat",direction="to_user",method="read"} 30"#,
        );
        has(
            &text,
            r#"zc_payload_bytes_total{comm="cp",method="read"} 5"#,
        );
        let text = render(GroupBy::Service, &processes, &service);
        has(
            &text,
            r#"zc_payload_bytes_total{container="c0ffee",method="read",unit="web.service"} 35"#,
        );
        assert!(!text.contains("comm=\"cat\""), "{text}");
        let text = render(GroupBy::Comm, &processes, &service);
        has(
            &text,
            r#"zc_payload_bytes_total{comm="cat",method="read"} 30"#,
        );
        let text = render(GroupBy::Process, &processes, &none);
        has(
            &text,
            r#"zc_payload_bytes_total{comm="cat",method="read",pid="2"} 20"#,
        );
    }

    #[test]
    fn hostile_names_stay_one_label_value() {
        let name = "a\"b\\c\nd}";
        let text = render(GroupBy::Comm, &[process(1, name, 1)], &Service::default());
        assert!(text.contains(r#"comm="a\"b\\c\nd}""#), "{text}");
    }

    proptest! {
        #[test]
        fn no_series_comes_twice_whatever_the_names(
            names in vec(prop_oneof![vec(any::<u8>(), 0..16), prop::sample::select(vec![
                b"other".to_vec(), b"kernel".to_vec(), b"".to_vec(), b"\xff".to_vec(), b"\xfe".to_vec(),
            ])], 1..20),
            by in prop::sample::select(vec![GroupBy::Service, GroupBy::Process, GroupBy::Comm]),
        ) {
            let processes: Vec<_> = names
                .iter()
                .zip(1..)
                .map(|(name, pid)| process(pid / 2, &String::from_utf8_lossy(name), 1))
                .collect();
            // Two starts of one pid are two processes.
            let processes: Vec<_> = processes.into_iter().zip(1..).map(|(mut process, start)| {
                process.key.start = start;
                process
            }).collect();
            let text = render(by, &processes, &Service::default());
            let mut series = HashSet::new();
            let mut payload = 0;
            for line in text.lines().filter(|line| !line.starts_with("# ")) {
                let (name, value) = line.rsplit_once(' ').expect("a sample");
                prop_assert!(series.insert(name), "twice: {name}");
                if name.starts_with("zc_payload_bytes_total") {
                    payload += value.parse::<usize>().expect("a number");
                }
            }
            prop_assert_eq!(payload, names.len());
        }
    }
}
