//! A profiler whose ledger is kept by groups, for as long as it runs.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use crate::{
    Error, Profiler,
    identity::Services,
    ledger::{Grouping, Groups, Process, Snapshot},
};

/// A profiler, and the groups that its processes are summed in.
pub struct Accounts {
    profiler: Profiler,
    state: Mutex<State>,
}

struct State {
    groups: Groups,
    services: Services,
}

impl State {
    fn count(&mut self, processes: &[Process]) {
        let now = Instant::now();
        self.groups.count(processes, now, &mut |process| {
            self.services.of(process, now)
        });
    }
}

impl Accounts {
    /// Begins with what the profiler has counted so far.
    #[must_use]
    pub fn new(profiler: Profiler, grouping: Grouping) -> Self {
        let state = Mutex::new(State {
            groups: Groups::new(grouping),
            services: Services::new(),
        });
        Self { profiler, state }
    }

    /// What counts.
    #[must_use]
    pub const fn profiler(&self) -> &Profiler {
        &self.profiler
    }

    /// Shows the ledger now, and the same by groups.
    ///
    /// # Errors
    ///
    /// If the kernel refuses to read its maps.
    pub fn show<T>(&self, show: impl FnOnce(&Snapshot, &Groups) -> T) -> Result<T, Error> {
        let mut state = self.lock();
        let snapshot = self.profiler.snapshot()?;
        state.count(&snapshot.processes);
        state.groups.expire(Instant::now());
        Ok(show(&snapshot, &state.groups))
    }

    /// Makes room in the kernel's map; see [`crate::ledger::Ledger::retire`].
    ///
    /// # Errors
    ///
    /// If the kernel refuses to read or change its maps.
    pub fn retire(&self) -> Result<(), Error> {
        let mut state = self.lock();
        // Should nobody scrape, every process is looked at while it is there.
        state.count(&self.profiler.snapshot()?.processes);
        let mut gone = Vec::new();
        let result = self.profiler.retire(|process| gone.push(process));
        state.count(&gone);
        state.groups.forget(&gone);
        result
    }

    /// Groups in another way from now on, without losing a count.
    pub fn regroup(&self, grouping: Grouping) {
        self.lock().groups.change(grouping);
    }

    /// A panic while holding it leaves nothing half done that matters.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
