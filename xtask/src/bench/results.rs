//! The measurements of a run, and the statistics over them.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// The cost of one workload under one variant.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// The median of all repetitions, per operation.
    pub median: f64,
    /// Half the interquartile range of the repetitions, or half the range of the medians of several visits if
    /// that is more.
    pub spread: f64,
}

/// The figures by workload, then by variant.
pub type Figures = BTreeMap<String, BTreeMap<String, Figure>>;

/// The measurements of one machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    pub kernel: String,
    pub unit: String,
    /// In the order in which they were measured.
    pub workloads: Vec<String>,
    pub variants: Vec<String>,
    pub figures: Figures,
    /// The variants that could not run, and the reason.
    pub failed: BTreeMap<String, String>,
}

/// The results of a whole run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    pub commit: String,
    pub command: String,
    pub seconds: u64,
    /// The lab machine, in instructions.
    pub guest: Measured,
    /// This machine, in nanoseconds.
    pub native: Option<Measured>,
    /// Parts of eBPF programs, in instructions per event.
    #[serde(default)]
    pub candidates: BTreeMap<String, f64>,
    /// The cost of the agent itself in an idle lab machine.
    #[serde(default)]
    pub idle: BTreeMap<String, f64>,
    /// The cost of the agent itself with many processes, on this machine's kernel.
    #[serde(default)]
    pub agent: BTreeMap<String, f64>,
}

/// A line of the bench's output.
#[derive(Deserialize)]
struct Line {
    variant: String,
    #[serde(default)]
    workload: String,
    #[serde(default)]
    values: Vec<f64>,
    failed: Option<String>,
}

/// The variant without any program attached.
pub const NOTHING: &str = "nothing";
/// The variant with programs that do nothing: the lowest possible cost.
pub const EMPTY: &str = "empty programs";
pub const PROFILER: &str = "zc-profiler";

impl Measured {
    /// Parses the output of the bench.
    pub fn parse(kernel: &str, unit: &str, text: &str) -> Result<Self> {
        let mut measured = Self {
            kernel: kernel.to_owned(),
            unit: unit.to_owned(),
            ..Self::default()
        };
        let mut visits: BTreeMap<(String, String), Vec<Vec<f64>>> = BTreeMap::new();
        for line in text.lines().filter(|line| !line.is_empty()) {
            let line: Line = serde_json::from_str(line)
                .with_context(|| format!("the bench printed `{line}`"))?;
            if let Some(reason) = line.failed {
                measured.failed.insert(line.variant, reason);
                continue;
            }
            add_name(&mut measured.variants, &line.variant);
            add_name(&mut measured.workloads, &line.workload);
            let of = visits.entry((line.workload, line.variant)).or_default();
            of.push(line.values);
        }
        for ((workload, variant), visits) in visits {
            let row = measured.figures.entry(workload).or_default();
            row.insert(variant, Figure::of(&visits));
        }
        Ok(measured)
    }

    pub fn figure(&self, workload: &str, variant: &str) -> Option<Figure> {
        self.figures.get(workload)?.get(variant).copied()
    }

    /// The cost that a variant adds to one operation, and its spread.
    pub fn cost(&self, workload: &str, variant: &str) -> Option<Figure> {
        let with = self.figure(workload, variant)?;
        let without = self.figure(workload, NOTHING)?;
        Some(Figure {
            median: with.median - without.median,
            spread: with.spread + without.spread,
        })
    }
}

fn add_name(names: &mut Vec<String>, name: &str) {
    if !names.iter().any(|known| known == name) {
        names.push(name.to_owned());
    }
}

impl Figure {
    fn of(visits: &[Vec<f64>]) -> Self {
        let mut all: Vec<f64> = visits.concat();
        all.sort_by(f64::total_cmp);
        let middle = (quantile(&all, 0.75) - quantile(&all, 0.25)) / 2.0;
        let mut medians: Vec<f64> = visits
            .iter()
            .map(|visit| {
                let mut visit = visit.clone();
                visit.sort_by(f64::total_cmp);
                quantile(&visit, 0.5)
            })
            .collect();
        medians.sort_by(f64::total_cmp);
        let apart = match (medians.first(), medians.last()) {
            (Some(least), Some(most)) => (most - least) / 2.0,
            _ => 0.0,
        };
        Self {
            median: quantile(&all, 0.5),
            spread: middle.max(apart),
        }
    }
}

/// A quantile of sorted values, interpolated linearly between two of them.
fn quantile(sorted: &[f64], part: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return f64::NAN;
    };
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a few hundred values"
    )]
    let (place, below) = {
        let place = last as f64 * part;
        (place - place.floor(), place.floor() as usize)
    };
    let above = (below + 1).min(last);
    sorted[below] + (sorted[above] - sorted[below]) * place
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub const LINES: &str = r#"
{"variant":"nothing","workload":"a","values":[10,10,11]}
{"variant":"x","workload":"a","values":[30,31,32]}
{"variant":"y","failed":"no such program"}
{"variant":"nothing","workload":"a","values":[10,10,90]}
"#;

    #[test]
    fn one_disturbed_repetition_changes_nothing() {
        let measured = Measured::parse("Linux", "ns", LINES).unwrap();
        let nothing = measured.figure("a", NOTHING).unwrap();
        assert_eq!(nothing.median.to_bits(), 10f64.to_bits());
        assert!(nothing.spread < 1.0, "{nothing:?}");
        let cost = measured.cost("a", "x").unwrap();
        assert_eq!(cost.median.to_bits(), 21f64.to_bits());
        assert_eq!(measured.failed["y"], "no such program");
        assert_eq!(measured.variants, ["nothing", "x"]);
    }

    #[test]
    fn visits_that_differ_are_a_spread() {
        let figure = Figure::of(&[vec![10.0, 10.0], vec![20.0, 20.0]]);
        assert!((figure.spread - 5.0).abs() < 1e-9, "{figure:?}");
    }

    #[test]
    fn the_run_that_is_kept_can_be_compared_with() {
        let kept = include_str!("../../../zc-profiler/bench.json");
        let run: Run = serde_json::from_str(kept).unwrap();
        assert!(run.guest.cost("getppid", PROFILER).is_some());
    }

    #[test]
    fn what_is_not_json_is_shown() {
        let error = Measured::parse("Linux", "ns", "panic!").unwrap_err();
        assert!(format!("{error:#}").contains("panic!"), "{error:#}");
    }
}
