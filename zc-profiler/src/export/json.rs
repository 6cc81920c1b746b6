//! JSON documents, for machines.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use anyhow::Context;
use serde::Serialize;

use crate::{
    Agent,
    agent::Name,
    ledger::{Counters, Process},
};

/// What `stat --json` writes.
#[derive(Debug, Serialize)]
pub struct Stat<'a> {
    /// The running kernel's release.
    pub kernel: &'a str,
    /// `measured` or `derived`.
    pub evidence: &'a str,
    /// From the command's start to its end.
    pub seconds: f64,
    /// The command's process and its descendants.
    pub processes: &'a [Process],
    /// Their sum.
    pub total: &'a Counters,
}

/// What `/api/v1/ledger` shows.
#[derive(Debug, Serialize)]
struct Ledger<'a> {
    kernel: &'a str,
    /// `measured` or `derived`.
    evidence: &'a str,
    groups: Vec<Group<'a>>,
    /// What could not be counted where it belongs, by reason.
    dropped: BTreeMap<&'static str, u64>,
}

#[derive(Debug, Serialize)]
struct Group<'a> {
    #[serde(flatten)]
    name: Name,
    #[serde(flatten)]
    counters: &'a Counters,
}

/// Reads the ledger, by groups.
///
/// # Errors
///
/// If the ledger cannot be read.
pub fn ledger(agent: &Agent) -> anyhow::Result<String> {
    let profiler = agent.profiler();
    let text = agent.show(|snapshot, _, groups| {
        let turned_away = ("group_limit", groups.turned_away());
        let group = |(name, counters)| Group { name, counters };
        serde_json::to_string(&Ledger {
            kernel: profiler.kernel(),
            evidence: profiler.evidence().name(),
            groups: groups.iter().map(group).collect(),
            dropped: snapshot.losses().chain([turned_away]).collect(),
        })
    })?;
    Ok(text? + "\n")
}

/// Writes a document to a file, `-` for standard output; whole or not at all.
///
/// # Errors
///
/// If the file cannot be written.
pub fn write(document: &impl Serialize, path: &Path) -> anyhow::Result<()> {
    let mut text = serde_json::to_string_pretty(document)?;
    text.push('\n');
    if path == Path::new("-") {
        return Ok(io::stdout().lock().write_all(text.as_bytes())?);
    }
    // A device or a pipe is written to, not replaced.
    if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        return fs::write(path, text).with_context(|| format!("writing {}", path.display()));
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    let beside = PathBuf::from(beside);
    fs::write(&beside, text)
        .and_then(|()| fs::rename(&beside, path))
        .inspect_err(|_| _ = fs::remove_file(&beside))
        .with_context(|| format!("writing {}", path.display()))
}
