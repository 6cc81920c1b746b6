//! Self-proof: a process of our own moves known bytes through the kernel's paths, and the ledger is
//! compared with them to the byte. It knows nothing of probes, only of whatever reads a ledger.

mod paths;
mod work;
mod worker;

use std::{
    collections::BTreeMap,
    error,
    path::{Path as FilePath, PathBuf},
};

use self::worker::{KernelCounts, Worker};
pub use self::{
    paths::{PATHS, Path},
    worker::{COMMAND, Error, carry_out},
};
use crate::ledger::{Counters, Direction, MethodTotals};

/// Numbers by name, such as `read.to_user_bytes`; those that are zero are left out.
pub type Numbers = BTreeMap<String, u64>;

/// Bytes by [`Direction`].
pub type Bytes = [u64; Direction::ALL.len()];

/// Whatever a [`Meter`] fails with.
pub type MeterError = Box<dyn error::Error + Send + Sync>;

/// What the worker is measured with. Every call comes while it stands still.
pub trait Meter {
    /// Counts this process from now on.
    ///
    /// # Errors
    ///
    /// If it cannot be counted.
    fn begin(&mut self, pid: u32) -> Result<(), MeterError>;

    /// What is counted of it so far.
    ///
    /// # Errors
    ///
    /// If the counters cannot be read.
    fn counted(&mut self, pid: u32) -> Result<Counters, MeterError>;

    /// What an independent cross-check has seen so far, if there is one.
    ///
    /// # Errors
    ///
    /// If it cannot be asked.
    fn cross_checked(&mut self) -> Result<Bytes, MeterError> {
        Ok(Bytes::default())
    }
}

/// Where a hook of a path stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It counts.
    Attached,
    /// This kernel has nothing to attach it to.
    Nowhere,
    /// It could have been attached and was not.
    Failed,
    /// It is not attached, and copies are derived from what system calls returned instead.
    Derived,
}

/// Which paths are taken, and where.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Only those that need no file of their own and take no time.
    pub brief: bool,
    /// Where files are made.
    pub dir: PathBuf,
}

/// What a path has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Every number is what it must be.
    Exact,
    /// Calls and payload are what they must be; what was copied is derived from them.
    Derived,
    /// Not taken: what would count it is not attached.
    Absent,
    /// Some number is not what it must be, or the path could not be taken.
    Wrong,
}

impl Verdict {
    /// The word that tables and JSON use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Derived => "derived",
            Self::Absent => "absent",
            Self::Wrong => "wrong",
        }
    }
}

/// A path and what it has shown.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The row.
    pub path: &'static Path,
    /// Whether the ledger was right.
    pub verdict: Verdict,
    /// What the ledger had to show.
    pub expected: Numbers,
    /// What it showed.
    pub got: Numbers,
    /// Why the path is derived or absent, or could not be taken.
    pub reason: Option<String>,
    /// Bytes that the ledger says were copied.
    pub copied: Bytes,
    /// Bytes that the cross-check saw copied.
    pub cross_checked: Bytes,
}

impl Outcome {
    fn without(path: &'static Path, verdict: Verdict, reason: String) -> Self {
        Self {
            path,
            verdict,
            expected: Numbers::new(),
            got: Numbers::new(),
            reason: Some(reason),
            copied: Bytes::default(),
            cross_checked: Bytes::default(),
        }
    }

    /// In one line, what is not as it must be; nothing if the path is exact.
    #[must_use]
    pub fn complaint(&self) -> String {
        if let Some(reason) = &self.reason {
            return reason.clone();
        }
        let number = |numbers: &Numbers, name: &String| numbers.get(name).copied().unwrap_or(0);
        let mut names: Vec<_> = self.expected.keys().chain(self.got.keys()).collect();
        names.sort_unstable();
        names.dedup();
        names
            .into_iter()
            .map(|name| (name, number(&self.expected, name), number(&self.got, name)))
            .filter(|(_, expected, got)| expected != got)
            .map(|(name, expected, got)| format!("{name}: expected {expected}, got {got}"))
            .collect::<Vec<_>>()
            .join("; ")
    }
}

/// Takes every path of the plan once, after once for warming up, in a child process.
///
/// # Errors
///
/// If the child cannot be started or dies, or the ledger cannot be read.
pub fn run(
    plan: &Plan,
    presence: &dyn Fn(&str) -> Presence,
    meter: &mut dyn Meter,
) -> Result<Vec<Outcome>, Error> {
    let mut outcomes = Vec::new();
    let mut taken = Vec::new();
    for path in PATHS.iter().filter(|path| path.brief || !plan.brief) {
        match path.missing(presence) {
            Some(hook) if presence(hook) == Presence::Derived && path.is_derivable() => {
                taken.push((path, Some(hook)));
            }
            Some(hook) => outcomes.push(Outcome::without(
                path,
                Verdict::Absent,
                format!("{hook} is not attached"),
            )),
            None => taken.push((path, None)),
        }
    }
    if taken.is_empty() {
        return Ok(outcomes);
    }
    let paths: Vec<_> = taken.iter().map(|(path, _)| *path).collect();
    let mut worker = Worker::start(&plan.dir, &paths)?;
    for (index, (path, missing)) in taken.into_iter().enumerate() {
        worker.wait_stopped()?;
        if index == 0 {
            meter.begin(worker.pid()).map_err(Error::Meter)?;
        }
        outcomes.push(take(path, missing, &mut worker, meter)?);
    }
    outcomes.sort_by_key(|outcome| PATHS.iter().position(|path| path.name == outcome.path.name));
    Ok(outcomes)
}

/// Lets the worker, which stands before a path's work, do it; `missing` as in [`judge`].
fn take(
    path: &'static Path,
    missing: Option<&str>,
    worker: &mut Worker,
    meter: &mut dyn Meter,
) -> Result<Outcome, Error> {
    let pid = worker.pid();
    let before = meter.counted(pid).map_err(Error::Meter)?;
    let seen_before = meter.cross_checked().map_err(Error::Meter)?;
    let accounts_before = KernelCounts::of(pid)?;
    worker.resume()?;
    worker.wait_stopped()?;
    let after = meter.counted(pid).map_err(Error::Meter)?;
    let seen_after = meter.cross_checked().map_err(Error::Meter)?;
    let accounts = KernelCounts::of(pid)?.since(&accounts_before);
    worker.resume()?;
    if let Some(error) = worker.complaint()? {
        let reason = format!("it could not be taken: {error}");
        return Ok(Outcome::without(path, Verdict::Wrong, reason));
    }
    let difference = &after - &before;
    let mut outcome = judge(path, missing, &accounts.numbers(), &difference);
    for (sum, (after, before)) in outcome
        .cross_checked
        .iter_mut()
        .zip(seen_after.into_iter().zip(seen_before))
    {
        *sum = after - before;
    }
    Ok(outcome)
}

/// Compares a ledger with what a path must show; `accounts` are the kernel's own. Where a hook is
/// missing, only calls and payload are known for themselves.
fn judge(
    path: &'static Path,
    missing: Option<&str>,
    accounts: &Numbers,
    ledger: &Counters,
) -> Outcome {
    let mut expected = path.expected();
    let mut got = numbers(ledger);
    if missing.is_some() {
        let known =
            |name: &str| matches!(name.rsplit_once('.'), Some((_, "calls" | "payload_bytes")));
        expected.retain(|name, _| known(name));
        got.retain(|name, _| known(name));
    }
    let switches = account_numbers(ledger);
    for name in path.accounts {
        let copy = |from: &Numbers, to: &mut Numbers| {
            if let Some(count) = from.get(*name) {
                to.insert((*name).to_owned(), *count);
            }
        };
        copy(accounts, &mut expected);
        copy(&switches, &mut got);
    }
    let idle = path
        .accounts
        .first()
        .filter(|name| !expected.contains_key(**name));
    let all = ledger.all_methods();
    let (verdict, reason) = match (idle, missing) {
        (Some(name), _) => {
            let reason = format!("the work caused no {name}, so nothing is proven");
            (Verdict::Wrong, Some(reason))
        }
        _ if expected != got => (Verdict::Wrong, None),
        (None, Some(hook)) => {
            let reason =
                format!("{hook} is not attached: calls and payload are exact, copies derived");
            (Verdict::Derived, Some(reason))
        }
        (None, None) => (Verdict::Exact, None),
    };
    Outcome {
        path,
        verdict,
        reason,
        expected,
        got,
        copied: Direction::ALL.map(|direction| all.direction(direction).bytes),
        cross_checked: Bytes::default(),
    }
}

/// The methods' numbers that bytes are known of.
fn numbers(ledger: &Counters) -> Numbers {
    let of = |totals: &MethodTotals| {
        [
            ("calls", totals.calls),
            ("payload_bytes", totals.payload_bytes),
            ("zero_copy_bytes", totals.zero_copy_bytes),
            ("to_user_bytes", totals.to_user.bytes),
            ("from_user_bytes", totals.from_user.bytes),
            ("in_kernel_bytes", totals.in_kernel.bytes),
        ]
    };
    ledger
        .methods
        .iter()
        .flat_map(|(method, totals)| {
            of(totals).map(|(name, count)| (format!("{}.{name}", method.name()), count))
        })
        .filter(|(_, count)| *count > 0)
        .collect()
}

/// The numbers that the kernel keeps account of too.
fn account_numbers(ledger: &Counters) -> Numbers {
    KernelCounts {
        voluntary: ledger.context_switches.voluntary,
        involuntary: ledger.context_switches.involuntary,
        minor: ledger.page_faults.minor,
        major: ledger.page_faults.major,
    }
    .numbers()
}

/// Where files are made unless somebody says otherwise: rather on a disk than in memory.
#[must_use]
pub fn default_dir() -> PathBuf {
    let disk = FilePath::new("/var/tmp");
    if disk.is_dir() {
        disk.into()
    } else {
        std::env::temp_dir()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ledger::Method,
        probes::{Evidence, hooks},
    };

    fn row(name: &str) -> &'static Path {
        PATHS
            .iter()
            .find(|path| path.name == name)
            .unwrap_or_else(|| panic!("no path {name}"))
    }

    fn pipe_ledger() -> Counters {
        let mut ledger = Counters::default();
        for method in [Method::Read, Method::Write] {
            let totals = ledger.methods.entry(method).or_default();
            (totals.calls, totals.payload_bytes) = (paths::CALLS, paths::PAYLOAD);
            let copies = match method {
                Method::Read => &mut totals.to_user,
                _ => &mut totals.from_user,
            };
            copies.bytes = paths::PAYLOAD;
        }
        ledger
    }

    #[test]
    fn a_single_byte_is_wrong() {
        let path = row("pipe");
        let nothing = Numbers::new();
        let outcome = judge(path, None, &nothing, &pipe_ledger());
        assert_eq!(outcome.verdict, Verdict::Exact, "{}", outcome.complaint());
        assert_eq!(outcome.complaint(), "");
        for change in [
            |ledger: &mut Counters| {
                ledger.methods.get_mut(&Method::Read).unwrap().to_user.bytes -= 1;
            },
            |ledger: &mut Counters| ledger.methods.get_mut(&Method::Write).unwrap().calls += 1,
            |ledger: &mut Counters| {
                ledger
                    .methods
                    .entry(Method::Send)
                    .or_default()
                    .payload_bytes = 1;
            },
            |ledger: &mut Counters| ledger.methods.clear(),
        ] {
            let mut ledger = pipe_ledger();
            change(&mut ledger);
            let outcome = judge(path, None, &nothing, &ledger);
            assert_eq!(outcome.verdict, Verdict::Wrong);
            assert!(outcome.complaint().contains("expected"), "{outcome:?}");
        }
        let mut ledger = pipe_ledger();
        ledger.methods.get_mut(&Method::Read).unwrap().to_user.bytes += 1;
        assert_eq!(
            judge(path, None, &nothing, &ledger).complaint(),
            format!(
                "read.to_user_bytes: expected {}, got {}",
                paths::PAYLOAD,
                paths::PAYLOAD + 1
            )
        );
    }

    #[test]
    fn the_kernels_accounts_decide_where_bytes_do_not() {
        let path = row("context switches");
        let mut ledger = Counters::default();
        ledger.context_switches.voluntary = 9;
        let accounts = |voluntary| {
            KernelCounts {
                voluntary,
                ..KernelCounts::default()
            }
            .numbers()
        };
        assert_eq!(
            judge(path, None, &accounts(9), &ledger).verdict,
            Verdict::Exact
        );
        assert_eq!(
            judge(path, None, &accounts(8), &ledger).verdict,
            Verdict::Wrong
        );
        let idle = judge(path, None, &accounts(0), &Counters::default());
        assert_eq!(idle.verdict, Verdict::Wrong, "nothing happened");
    }

    #[test]
    fn without_a_carrier_calls_and_payload_must_still_be_right() {
        let (path, nothing) = (row("pipe"), Numbers::new());
        let mut ledger = pipe_ledger();
        ledger.methods.get_mut(&Method::Read).unwrap().to_user.bytes = 0;
        let outcome = judge(path, Some("pipe_read"), &nothing, &ledger);
        assert_eq!(outcome.verdict, Verdict::Derived);
        assert!(outcome.complaint().contains("pipe_read"), "{outcome:?}");
        ledger.methods.get_mut(&Method::Read).unwrap().payload_bytes -= 1;
        let outcome = judge(path, Some("pipe_read"), &nothing, &ledger);
        assert_eq!(outcome.verdict, Verdict::Wrong);
        assert!(outcome.complaint().contains("expected"), "{outcome:?}");
        // Of these, nothing that a call returns tells.
        for name in ["copy-on-write", "page faults", "context switches"] {
            assert!(!row(name).is_derivable(), "{name}");
        }
    }

    #[test]
    fn a_path_is_absent_without_its_hooks() {
        let path = row("sendfile to TCP");
        let but = |name: &'static str, presence| {
            path.missing(&move |hook| {
                if hook == name {
                    presence
                } else {
                    Presence::Attached
                }
            })
        };
        assert_eq!(but("tcp_send", Presence::Nowhere), Some("tcp_send"));
        assert_eq!(but("socket_splice", Presence::Nowhere), None);
        assert_eq!(
            but("socket_splice", Presence::Failed),
            Some("socket_splice")
        );
        assert_eq!(but("", Presence::Attached), None);
    }

    #[test]
    fn every_hook_of_a_path_is_in_the_hook_table() {
        for path in PATHS {
            for hook in path.hooks() {
                let known = hooks::all(Evidence::Measured).any(|row| row.name == hook);
                assert!(known, "{}: {hook}", path.name);
            }
        }
        assert!(PATHS.len() >= 12, "a dozen paths");
    }
}
