//! Attached probes together with the ledger they fill.

use thiserror::Error;

use crate::{
    kernel::Environment,
    ledger::{self, Ledger, Snapshot},
    probes::{self, Evidence, Probes, Scope, Status},
};

/// Counts from its making until it is dropped.
pub struct Profiler {
    probes: Probes,
    ledger: Ledger,
    environment: Environment,
}

/// Why counting failed; one line each.
#[derive(Debug, Error)]
pub enum Error {
    /// It could not begin.
    #[error(transparent)]
    Attach(#[from] probes::Error),
    /// The counters could not be read.
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
}

impl Profiler {
    /// Begins counting.
    ///
    /// # Errors
    ///
    /// If the machine does not allow it; the text names the cause and the remedy.
    pub fn attach(scope: Scope, verbose: bool) -> Result<Self, Error> {
        let (probes, ledger, environment) = Probes::attach(scope, verbose)?;
        for status in probes.statuses() {
            if let Some(reason) = status.reason() {
                log::debug!("{} is not attached: {reason}", status.hook.name);
            }
        }
        Ok(Self {
            probes,
            ledger,
            environment,
        })
    }

    /// Counts this process and its descendants too, under [`Scope::Tree`].
    ///
    /// # Errors
    ///
    /// If there is no such process, or no room for it.
    pub fn follow(&self, pid: u32) -> Result<(), Error> {
        Ok(self.ledger.follow(pid)?)
    }

    /// All counters now.
    ///
    /// # Errors
    ///
    /// If the kernel refuses to read its maps.
    pub fn snapshot(&self) -> Result<Snapshot, Error> {
        let mut snapshot = self.ledger.snapshot()?;
        snapshot.skipped = self.probes.skipped()?;
        Ok(snapshot)
    }

    /// Makes room in the kernel's map; see [`Ledger::retire`].
    ///
    /// # Errors
    ///
    /// If the kernel refuses to read or change its maps.
    pub fn retire(&self) -> Result<(), Error> {
        Ok(self.ledger.retire()?)
    }

    /// What became of each row of the hook table.
    #[must_use]
    pub fn statuses(&self) -> &[Status] {
        self.probes.statuses()
    }

    /// The running kernel's release.
    #[must_use]
    pub fn kernel(&self) -> &str {
        &self.environment.release
    }

    /// How numbers of copies are come by.
    #[must_use]
    pub const fn evidence(&self) -> Evidence {
        self.probes.evidence()
    }
}
