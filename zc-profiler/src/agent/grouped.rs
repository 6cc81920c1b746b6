//! A profiler whose ledger is kept by groups, for as long as it runs.

use std::{
    cell::RefCell,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use super::{Error, Grouping, Groups, Profiler, Services};
use crate::ledger::{Process, Raw, Snapshot};

/// A profiler, and the groups that its processes are summed in.
pub struct Agent {
    profiler: Profiler,
    state: Mutex<State>,
}

struct State {
    groups: Groups,
    services: Services,
}

impl State {
    fn count(&mut self, processes: &[Process], now: Instant) {
        self.groups.count(processes, now, &mut |process| {
            self.services.of(process, now)
        });
    }

    /// Counts a process of the ledger; most have done nothing since the last time.
    fn look_at(&mut self, raw: Raw<'_>, now: Instant) {
        let fingerprint = raw.fingerprint();
        if !self.groups.count_unchanged(raw.key, fingerprint, now) {
            self.count(&[raw.process()], now);
            self.groups.remember(raw.key, fingerprint);
        }
    }
}

impl Agent {
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

    /// Shows the ledger now without its processes, how many those are, and what they did by groups.
    ///
    /// # Errors
    ///
    /// If the kernel refuses to read its maps.
    pub fn show<T>(&self, show: impl FnOnce(&Snapshot, usize, &Groups) -> T) -> Result<T, Error> {
        let mut state = self.lock();
        let now = Instant::now();
        let (snapshot, processes) = self.profiler.visit(|raw| state.look_at(raw, now))?;
        state.groups.expire(Instant::now());
        Ok(show(&snapshot, processes, &state.groups))
    }

    /// Makes room in the kernel's map; see [`crate::ledger::Ledger::retire`].
    ///
    /// # Errors
    ///
    /// If the kernel refuses to read or change its maps.
    pub fn retire(&self) -> Result<(), Error> {
        let state = RefCell::new(self.lock());
        let now = Instant::now();
        // Should nobody scrape, every process is looked at while it is there.
        let look = |raw: Raw<'_>| state.borrow_mut().look_at(raw, now);
        // One after the other: a crowd that goes at once is not kept in memory beside what is known of it.
        let last = |process: Process| {
            let mut state = state.borrow_mut();
            let gone = [process];
            state.count(&gone, now);
            state.groups.forget(&gone);
        };
        self.profiler.retire(look, last)
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
