//! Compares a run with the limits in SPECIFICATION.md: those rows of its tables that name a figure of the bench.

use std::fmt::{self, Display};

use anyhow::{Context, Result};

use super::results::{PROFILER, Run};

/// The start of the last cell of such a row. The names of figures follow.
const HELD: &str = "bench, `";

/// The upper limit of one cost.
#[derive(Debug, PartialEq)]
pub struct Promise {
    /// A workload, `VARIANT under WORKLOAD`, or a figure of the agent.
    name: String,
    most: f64,
}

impl Promise {
    /// The promises in a document. The number stands at the start of its cell, or after a colon.
    pub fn parse(document: &str) -> Result<Vec<Self>> {
        let mut promises = Vec::new();
        for line in document.lines() {
            let row = line.trim_matches(['|', ' ']).rsplit_once(" | ");
            let Some((before, names)) =
                row.and_then(|(before, held)| Some((before, held.strip_prefix(HELD)?)))
            else {
                continue;
            };
            let number = before.rsplit([':', '|']).next().unwrap_or_default();
            let number = number.split_whitespace().next().unwrap_or_default();
            let most = number
                .replace(',', "")
                .parse()
                .with_context(|| format!("no number is promised in `{line}`"))?;
            // Every second piece is the text between two names.
            promises.extend(
                names
                    .split('`')
                    .step_by(2)
                    .filter(|name| !name.is_empty())
                    .map(|name| Self {
                        name: name.to_owned(),
                        most,
                    }),
            );
        }
        Ok(promises)
    }

    fn measured(&self, run: &Run) -> Option<f64> {
        let (variant, workload) = self
            .name
            .split_once(" under ")
            .unwrap_or((PROFILER, &self.name));
        run.guest
            .cost(workload, variant)
            .map(|cost| cost.median.round())
            .or_else(|| run.agent.get(&self.name).copied())
            .or_else(|| run.idle.get(&self.name).copied())
    }

    /// The measured value, if the run has measured one and it exceeds the limit.
    pub fn broken(&self, run: &Run) -> Option<Broken<'_>> {
        let measured = self.measured(run)?;
        (measured > self.most).then_some(Broken {
            promise: self,
            measured,
        })
    }
}

/// A promise that a run has broken.
pub struct Broken<'a> {
    promise: &'a Promise,
    measured: f64,
}

impl Display for Broken<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Promise { name, most } = self.promise;
        write!(f, "{name}: {} where {most} is promised", self.measured)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPECIFICATION: &str = include_str!("../../../zc-profiler/SPECIFICATION.md");
    const COMMITTED: &str = include_str!("../../../zc-profiler/bench.json");

    fn committed() -> Run {
        serde_json::from_str(COMMITTED).expect("bench.json")
    }

    #[test]
    fn the_rows_that_the_bench_holds_are_found() {
        let text = "| read | 1,580 | bench, `read 1 B`, `read 64 KiB` |\n\
                    | Memory: of the agent: 30 KiB, no more | bench, `resident_kib` |\n\
                    | Other things | e2e `serve`; bench, `x` |\n\
                    bench, `y`\n";
        let promise = |name: &str, most| Promise {
            name: name.into(),
            most,
        };
        assert_eq!(
            Promise::parse(text).unwrap(),
            [
                promise("read 1 B", 1580.0),
                promise("read 64 KiB", 1580.0),
                promise("resident_kib", 30.0)
            ]
        );
        assert!(Promise::parse("| read | little | bench, `read 1 B` |").is_err());
    }

    #[test]
    fn the_committed_figures_keep_every_promise() {
        let run = committed();
        let promises = Promise::parse(SPECIFICATION).unwrap();
        for workload in run.guest.workloads.iter().map(String::as_str) {
            assert!(
                promises.iter().any(|promise| promise.name == workload),
                "nothing is promised of {workload}"
            );
        }
        for promise in promises {
            assert!(
                promise.measured(&run).is_some(),
                "{promise:?} is not measured"
            );
            let broken = promise.broken(&run).map(|broken| broken.to_string());
            assert_eq!(broken, None);
        }
    }

    #[test]
    fn what_costs_more_is_named() {
        let run = committed();
        let promise = |name: &str, most| Promise {
            name: name.into(),
            most,
        };
        let dear = promise("read 1 B", 100.0);
        let text = dear.broken(&run).expect("broken").to_string();
        assert!(text.starts_with("read 1 B: "), "{text}");
        assert!(text.ends_with(" where 100 is promised"), "{text}");
        let switches = promise("switches only under 8 processes", 1.0);
        assert!(switches.broken(&run).is_some());
        assert!(promise("resident_kib", 1.0).broken(&run).is_some());
        assert!(promise("never measured", 0.0).broken(&run).is_none());
    }
}
