//! The same paths again, under the eyes of the cross-check.

use anyhow::ensure;

use crate::{
    Profiler,
    ledger::Counters,
    probes::{Breakpoints, CrossCheck},
    selftest::{self, Bytes, Meter, MeterError, Outcome, Plan},
};

/// What copy functions and cross-check say of one path.
#[derive(Clone, Debug)]
pub struct Testimony {
    /// The path's name.
    pub path: &'static str,
    /// Bytes by direction, as the copy functions counted them.
    pub copy_functions: Bytes,
    /// The same, as the cross-check did.
    pub cross_check: Bytes,
}

impl Testimony {
    /// Whether both say the same.
    pub fn agrees(&self) -> bool {
        self.copy_functions == self.cross_check
    }
}

/// Takes every path once for each set of breakpoints that fits the processor; the sums are those of
/// all sets together, since each run of a path is like any other.
pub fn ask(profiler: &Profiler, plan: &Plan) -> anyhow::Result<Vec<Testimony>> {
    let mut cross_check = CrossCheck::load()?;
    log::debug!(
        "the cross-check watches {:?}",
        cross_check.names().collect::<Vec<_>>()
    );
    let mut testimonies: Vec<Testimony> = Vec::new();
    for pass in 0..cross_check.passes() {
        let mut watch = Watch {
            profiler,
            cross_check: &mut cross_check,
            pass,
            breakpoints: None,
        };
        let outcomes = selftest::run(plan, &|hook| profiler.presence(hook), &mut watch)?;
        if let Some(breakpoints) = watch.breakpoints.take() {
            cross_check.release(breakpoints)?;
        }
        add(&mut testimonies, &outcomes)?;
    }
    Ok(testimonies)
}

fn add(testimonies: &mut Vec<Testimony>, outcomes: &[Outcome]) -> anyhow::Result<()> {
    for outcome in outcomes.iter().filter(|outcome| outcome.reason.is_none()) {
        let path = outcome.path.name;
        match testimonies.iter_mut().find(|known| known.path == path) {
            Some(known) => {
                ensure!(
                    known.copy_functions == outcome.copied,
                    "the copy functions counted otherwise when the path {path} was taken again"
                );
                for (sum, bytes) in known.cross_check.iter_mut().zip(outcome.cross_checked) {
                    *sum += bytes;
                }
            }
            None => testimonies.push(Testimony {
                path,
                copy_functions: outcome.copied,
                cross_check: outcome.cross_checked,
            }),
        }
    }
    Ok(())
}

/// A profiler with a cross-check beside it.
struct Watch<'a> {
    profiler: &'a Profiler,
    cross_check: &'a mut CrossCheck,
    pass: usize,
    breakpoints: Option<Breakpoints>,
}

impl Meter for Watch<'_> {
    fn begin(&mut self, pid: u32) -> Result<(), MeterError> {
        Meter::begin(&mut self.profiler, pid)?;
        self.breakpoints = Some(self.cross_check.watch(pid, self.pass)?);
        Ok(())
    }

    fn counted(&mut self, pid: u32) -> Result<Counters, MeterError> {
        Meter::counted(&mut self.profiler, pid)
    }

    fn cross_checked(&mut self) -> Result<Bytes, MeterError> {
        Ok(self.cross_check.bytes()?)
    }
}
