//! Attached probes together with the ledger they fill.

use std::time::Duration;

use thiserror::Error;

use crate::{
    kernel::Environment,
    ledger::{self, Counters, Ledger, Process, Raw, Snapshot},
    probes::{self, Evidence, Filter, Options, Probes, Scope, State, Status},
    selftest::{self, Meter, MeterError, Outcome, Plan, Presence},
};

/// Counts from its making until it is dropped.
pub struct Profiler {
    probes: Probes,
    ledger: Ledger,
    environment: Environment,
    scope: Scope,
    calibration: Vec<Outcome>,
}

/// Why counting failed; one line each.
#[derive(Debug, Error)]
pub enum Error {
    /// It could not begin.
    #[error(transparent)]
    AttachMode(#[from] probes::Error),
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
    pub fn attach(scope: Scope, options: Options) -> Result<Self, Error> {
        let (probes, ledger, environment) = Probes::attach(scope, options)?;
        for status in probes.statuses() {
            if let Some(reason) = status.reason() {
                log::debug!("{} is not attached: {reason}", status.hook.name);
            }
        }
        Ok(Self {
            probes,
            ledger,
            environment,
            scope,
            calibration: Vec::new(),
        })
    }

    /// Counts this process and its descendants too, under [`Scope::Tree`].
    ///
    /// # Errors
    ///
    /// If there is no such process, or no room for it.
    pub fn follow(&self, pid: u32) -> Result<(), Error> {
        self.probes.flush()?;
        Ok(self.ledger.follow(pid)?)
    }

    /// Counts whom the filter names from now on, and nobody else; see [`Probes::filter`]. What was
    /// counted so far stays.
    ///
    /// # Errors
    ///
    /// If something of it is not there, or there is no room; then those are counted who were before.
    pub fn filter(&self, filter: &Filter) -> Result<(), Error> {
        Ok(self.probes.filter(filter, &self.ledger)?)
    }

    /// Has no program count anything any more.
    pub fn disable(&self) {
        self.probes.disable();
    }

    /// Moves known bytes and compares; keeps what came of it. To be called by the main thread.
    ///
    /// # Errors
    ///
    /// If the bytes cannot be moved, or the counters not be read.
    pub fn calibrate(&mut self, plan: &Plan) -> Result<&[Outcome], selftest::Error> {
        self.calibration = selftest::run(plan, &|hook| self.presence(hook), &mut &*self)?;
        Ok(&self.calibration)
    }

    /// What came of the last calibration; nothing if there was none.
    #[must_use]
    pub fn calibration(&self) -> &[Outcome] {
        &self.calibration
    }

    /// Where a hook stands, for calibrations.
    #[must_use]
    pub fn presence(&self, hook: &str) -> Presence {
        let status = self
            .statuses()
            .iter()
            .find(|status| status.hook.serves(hook));
        match status.map(|status| &status.state) {
            Some(State::Attached(_)) => Presence::Attached,
            _ if self.evidence() == Evidence::Derived => Presence::Derived,
            Some(State::Failed(_)) => Presence::Failed,
            Some(State::Absent(_)) | None => Presence::Nowhere,
        }
    }

    /// All counters now.
    ///
    /// # Errors
    ///
    /// If the kernel refuses to read its maps.
    pub fn snapshot(&self) -> Result<Snapshot, Error> {
        self.probes.flush()?;
        let mut snapshot = self.ledger.snapshot()?;
        snapshot.skipped = self.probes.skipped()?;
        Ok(snapshot)
    }

    /// Whether it is time to make room; see [`Ledger::is_filling`].
    ///
    /// # Errors
    ///
    /// If the kernel refuses to read its maps.
    pub fn is_filling(&self, routine: bool) -> Result<bool, Error> {
        Ok(self.ledger.is_filling(routine)?)
    }

    /// Shows each process as it is in the kernel's map; see [`Ledger::visit`].
    ///
    /// # Errors
    ///
    /// If the kernel refuses to read its maps.
    pub fn visit(&self, each: impl FnMut(Raw<'_>)) -> Result<(Snapshot, usize), Error> {
        self.probes.flush()?;
        let (mut snapshot, count) = self.ledger.visit(each)?;
        snapshot.skipped = self.probes.skipped()?;
        Ok((snapshot, count))
    }

    /// Makes room in the kernel's map; see [`Ledger::retire`].
    ///
    /// # Errors
    ///
    /// If the kernel refuses to read or change its maps.
    pub fn retire(
        &self,
        each: impl FnMut(Raw<'_>),
        mut last: impl FnMut(Process),
    ) -> Result<(), Error> {
        let mut gone = Vec::new();
        let result = self.ledger.retire(each, |process| {
            gone.push(process.key);
            last(process);
        });
        self.probes.forget(&gone);
        Ok(result?)
    }

    /// What became of each row of the hook table.
    #[must_use]
    pub fn statuses(&self) -> &[Status] {
        self.probes.statuses()
    }

    /// How often and how long programs have run; see [`Probes::runs`].
    ///
    /// # Errors
    ///
    /// If the kernel does not tell.
    pub fn runs(&self) -> Result<Vec<(&Status, u64, Duration)>, Error> {
        Ok(self.probes.runs()?)
    }

    /// How many instructions the verifier processed for each loaded program; see
    /// [`Probes::processed_instructions`].
    pub fn processed_instructions(&self) -> impl Iterator<Item = (&str, u32)> {
        self.probes.processed_instructions()
    }

    /// What this machine allows.
    #[must_use]
    pub const fn environment(&self) -> &Environment {
        &self.environment
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

impl Meter for &Profiler {
    fn begin(&mut self, pid: u32) -> Result<(), MeterError> {
        // Without a filter everything is counted, and to follow would be to begin anew.
        if self.scope == Scope::Tree {
            self.follow(pid)?;
        }
        Ok(())
    }

    fn counted(&mut self, pid: u32) -> Result<Counters, MeterError> {
        let snapshot = self.snapshot()?;
        let process = snapshot.process(pid);
        Ok(process
            .map(|process| process.counters.clone())
            .unwrap_or_default())
    }
}
