//! What `doctor` found, as tables and as JSON.

use std::{
    fmt,
    io::{self, Write},
    time::Duration,
};

use serde::Serialize;

use super::deep::Testimony;
use crate::{
    export::table::{Column, Table},
    kernel::Environment,
    ledger::Direction,
    probes::{Evidence, State, Status},
    selftest::{Bytes, Numbers, Outcome, Verdict},
};

const HOOKS: &[Column] = &[
    Column::words("hook"),
    Column::words("attached"),
    Column::words("to"),
    Column::words("proof"),
    Column::words("counts"),
    Column::words("lost otherwise"),
];

const PATHS: &[Column] = &[
    Column::words("path"),
    Column::words("verdict"),
    Column::of("bytes copied", "to user"),
    Column::of("bytes copied", "from user"),
    Column::of("bytes copied", "in kernel"),
    Column::words(""),
];

const DEEP: &[Column] = &[
    Column::words("path"),
    Column::words("verdict"),
    Column::of("copy functions", "to user"),
    Column::of("copy functions", "from user"),
    Column::of("copy functions", "in kernel"),
    Column::of("hardware breakpoints", "to user"),
    Column::of("hardware breakpoints", "from user"),
    Column::of("hardware breakpoints", "in kernel"),
];

/// What is known before anything is attached.
pub fn environment(out: &mut dyn Write, environment: &Environment) -> io::Result<()> {
    let capabilities = match environment.capabilities.as_slice() {
        [] => "none of interest".to_owned(),
        held => held.join(" "),
    };
    let btf = if environment.btf { "yes" } else { "no" };
    writeln!(out, "kernel      {}", environment.release)?;
    writeln!(out, "BTF         {btf}")?;
    writeln!(out, "lockdown    {}", environment.lockdown)?;
    writeln!(out, "privileges  {capabilities}")?;
    if let Some(reason) = environment.skips() {
        writeln!(out, "warning     {reason}")?;
    }
    Ok(())
}

/// Everything after that.
pub struct Report<'a> {
    pub statuses: &'a [Status],
    pub evidence: Evidence,
    pub outcomes: &'a [Outcome],
    /// What the cross-check said, if it was asked; or why it could not be.
    pub cross_check: Option<Result<&'a [Testimony], &'a str>>,
    /// How long moving the known bytes took.
    pub proof: Duration,
}

impl Report<'_> {
    /// Whether everything that is attached counts exactly, the cross-check included.
    pub fn exact(&self) -> bool {
        let agreed = match &self.cross_check {
            Some(Ok(testimonies)) => testimonies.iter().all(Testimony::agrees),
            // That nobody can be asked says nothing of what was counted.
            Some(Err(_)) | None => true,
        };
        let wrong = |outcome: &Outcome| outcome.verdict == Verdict::Wrong;
        agreed && !self.outcomes.iter().any(wrong)
    }

    fn hooks(&self) -> Table {
        let mut table = Table::new(HOOKS);
        for status in self.statuses {
            let hook = status.hook;
            let (attached, to) = match &status.state {
                State::Attached(variant) => (variant.attach.name(), variant.target),
                State::Absent(reason) => ("absent", reason.as_str()),
                State::Failed(reason) => ("failed", reason.as_str()),
            };
            let proof = proof(self.outcomes, status).map_or("-", Verdict::name);
            table.row([hook.name, attached, to, proof, hook.counts, hook.lost].map(String::from));
        }
        table
    }

    fn paths(&self) -> Table {
        let mut table = Table::new(PATHS);
        for outcome in self.outcomes {
            let words = [outcome.path.name, outcome.verdict.name()].map(String::from);
            let copied = match outcome.verdict {
                Verdict::Absent => Default::default(),
                Verdict::Derived => derived(outcome.copied),
                Verdict::Exact | Verdict::Wrong => cells(outcome.copied),
            };
            table.row(words.into_iter().chain(copied).chain([outcome.complaint()]));
        }
        table
    }
}

/// The worst verdict on the paths that an attached hook had a part in.
fn proof(outcomes: &[Outcome], status: &Status) -> Option<Verdict> {
    status.variant()?;
    outcomes
        .iter()
        .filter(|outcome| outcome.verdict != Verdict::Absent)
        .filter(|outcome| outcome.path.hooks().any(|name| status.hook.serves(name)))
        .map(|outcome| outcome.verdict)
        .max()
}

/// That nothing was derived does not say that nothing was copied.
fn derived(bytes: Bytes) -> [String; Direction::ALL.len()] {
    bytes.map(|bytes| match bytes {
        0 => "-".into(),
        _ => bytes.to_string(),
    })
}

fn cells(bytes: Bytes) -> [String; Direction::ALL.len()] {
    bytes.map(|bytes| bytes.to_string())
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |verdict| {
            let those = |outcome: &&Outcome| outcome.verdict == verdict;
            self.outcomes.iter().filter(those).count()
        };
        let attached = self
            .statuses
            .iter()
            .filter(|status| status.variant().is_some());
        writeln!(f, "{}", self.hooks())?;
        let hooks = self.statuses.len();
        let how = match self.evidence {
            Evidence::Measured => "copies are measured where they are made",
            Evidence::Derived => {
                "copies to and from user memory are derived from what system calls returned"
            }
        };
        writeln!(f, "{} of {hooks} hooks count; {how}\n", attached.count())?;
        writeln!(f, "{}", self.paths())?;
        writeln!(
            f,
            "{} of {} paths exact, {} derived, {} wrong, {} absent, in {:.2} s",
            count(Verdict::Exact),
            self.outcomes.len(),
            count(Verdict::Derived),
            count(Verdict::Wrong),
            count(Verdict::Absent),
            self.proof.as_secs_f64()
        )?;
        match &self.cross_check {
            None => Ok(()),
            Some(Err(error)) => writeln!(f, "\nno cross-check: {error}"),
            Some(Ok(testimonies)) => {
                let mut table = Table::new(DEEP);
                for testimony in *testimonies {
                    let verdict = if testimony.agrees() {
                        "agree"
                    } else {
                        "DIFFER"
                    };
                    let words = [testimony.path, verdict].map(String::from);
                    let sides = cells(testimony.copy_functions).into_iter();
                    table.row(
                        words
                            .into_iter()
                            .chain(sides.chain(cells(testimony.cross_check))),
                    );
                }
                write!(f, "\n{table}")
            }
        }
    }
}

/// What `doctor --json` writes.
#[derive(Debug, Serialize)]
pub struct Document<'a> {
    kernel: &'a str,
    /// `measured` or `derived`.
    evidence: &'a str,
    environment: EnvironmentDocument<'a>,
    hooks: Vec<HookDocument<'a>>,
    paths: Vec<PathDocument<'a>>,
    /// Why `--deep` found nobody to ask.
    #[serde(skip_serializing_if = "Option::is_none")]
    no_cross_check: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct EnvironmentDocument<'a> {
    btf: bool,
    lockdown: &'a str,
    privileges: &'a [&'static str],
}

#[derive(Debug, Serialize)]
struct HookDocument<'a> {
    name: &'a str,
    /// `absent` or `failed` where nothing counts.
    attach: &'a str,
    target: Option<&'a str>,
    counts: &'a str,
    lost: &'a str,
    /// Why nothing counts.
    reason: Option<&'a str>,
    /// The worst verdict on the paths it had a part in.
    proof: Option<&'static str>,
}

#[derive(Debug, Serialize)]
struct PathDocument<'a> {
    path: &'a str,
    verdict: &'a str,
    expected: &'a Numbers,
    got: &'a Numbers,
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deep: Option<DeepDocument>,
}

#[derive(Debug, Serialize)]
struct DeepDocument {
    agree: bool,
    copy_functions: DirectionsDocument,
    cross_check: DirectionsDocument,
}

#[derive(Debug, Serialize)]
struct DirectionsDocument {
    to_user: u64,
    from_user: u64,
    in_kernel: u64,
}

impl From<Bytes> for DirectionsDocument {
    fn from(bytes: Bytes) -> Self {
        Self {
            to_user: bytes[Direction::ToUser as usize],
            from_user: bytes[Direction::FromUser as usize],
            in_kernel: bytes[Direction::InKernel as usize],
        }
    }
}

impl<'a> Document<'a> {
    pub fn new(environment: &'a Environment, report: &Report<'a>) -> Self {
        let (statuses, outcomes) = (report.statuses, report.outcomes);
        let (cross_check, no_cross_check) = match report.cross_check {
            Some(Ok(testimonies)) => (testimonies, None),
            Some(Err(error)) => (&[][..], Some(error)),
            None => (&[][..], None),
        };
        let hooks = statuses.iter().map(|status| HookDocument {
            name: status.hook.name,
            attach: match &status.state {
                State::Attached(variant) => variant.attach.name(),
                State::Absent(_) => "absent",
                State::Failed(_) => "failed",
            },
            target: status.variant().map(|variant| variant.target),
            counts: status.hook.counts,
            lost: status.hook.lost,
            reason: status.reason(),
            proof: proof(outcomes, status).map(Verdict::name),
        });
        let deep = |path: &str| {
            let testimony = cross_check.iter().find(|it| it.path == path)?;
            Some(DeepDocument {
                agree: testimony.agrees(),
                copy_functions: testimony.copy_functions.into(),
                cross_check: testimony.cross_check.into(),
            })
        };
        let paths = outcomes.iter().map(|outcome| PathDocument {
            path: outcome.path.name,
            verdict: outcome.verdict.name(),
            expected: &outcome.expected,
            got: &outcome.got,
            reason: outcome.reason.as_deref(),
            deep: deep(outcome.path.name),
        });
        Self {
            kernel: &environment.release,
            evidence: report.evidence.name(),
            environment: EnvironmentDocument {
                btf: environment.btf,
                lockdown: &environment.lockdown,
                privileges: &environment.capabilities,
            },
            hooks: hooks.collect(),
            paths: paths.collect(),
            no_cross_check,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::selftest;

    fn outcome(verdict: Verdict) -> Outcome {
        Outcome {
            path: &selftest::PATHS[0],
            verdict,
            expected: Numbers::from([("read.to_user_bytes".into(), 10)]),
            got: Numbers::from([("read.to_user_bytes".into(), 11)]),
            reason: None,
            copied: [11, 0, 0],
            cross_checked: [0; 3],
        }
    }

    fn report<'a>(
        outcomes: &'a [Outcome],
        cross_check: Option<Result<&'a [Testimony], &'a str>>,
    ) -> Report<'a> {
        Report {
            statuses: &[],
            evidence: Evidence::Measured,
            outcomes,
            cross_check,
            proof: Duration::from_millis(120),
        }
    }

    #[test]
    fn one_wrong_byte_is_shown_and_fails() {
        let outcomes = [outcome(Verdict::Wrong)];
        let report = report(&outcomes, None);
        assert!(!report.exact());
        let text = report.to_string();
        let line = "read.to_user_bytes: expected 10, got 11";
        assert!(text.contains(line) && text.contains("1 wrong"), "{text}");
        let document = serde_json::to_value(Document::new(&Environment::default(), &report));
        let path = &document.expect("JSON")["paths"][0];
        assert_eq!(path["verdict"], "wrong");
        assert_eq!(path["expected"]["read.to_user_bytes"], 10);
        assert_eq!(path["got"]["read.to_user_bytes"], 11);
    }

    #[test]
    fn a_cross_check_that_saw_otherwise_fails_and_one_that_is_not_there_does_not() {
        let outcomes = [outcome(Verdict::Exact)];
        let testimony = |cross_check| Testimony {
            path: outcomes[0].path.name,
            copy_functions: [10, 0, 0],
            cross_check,
        };
        let (same, other) = ([testimony([10, 0, 0])], [testimony([9, 0, 0])]);
        assert!(report(&outcomes, Some(Ok(&same))).exact());
        let differing = report(&outcomes, Some(Ok(&other)));
        assert!(!differing.exact() && differing.to_string().contains("DIFFER"));
        let alone = report(&outcomes, Some(Err("no breakpoints")));
        assert!(alone.exact());
        assert!(
            alone
                .to_string()
                .ends_with("no cross-check: no breakpoints\n")
        );
    }
}
