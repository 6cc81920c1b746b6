//! The same paths again, under the eyes of the witness.

use anyhow::ensure;

use crate::{
    Profiler,
    calibration::{self, Bytes, Meter, MeterError, Outcome, Plan},
    ledger::Counters,
    probes::{Breakpoints, Witness},
};

/// What carriers and witness say of one path.
#[derive(Clone, Debug)]
pub struct Testimony {
    /// The path's name.
    pub path: &'static str,
    /// Bytes by direction, as the carriers counted them.
    pub carriers: Bytes,
    /// The same, as the witness did.
    pub witness: Bytes,
}

impl Testimony {
    /// Whether both say the same.
    pub fn agrees(&self) -> bool {
        self.carriers == self.witness
    }
}

/// Takes every path once for each set of breakpoints that fits the processor; the sums are those of
/// all sets together, since each run of a path is like any other.
pub fn ask(profiler: &Profiler, plan: &Plan) -> anyhow::Result<Vec<Testimony>> {
    let mut witness = Witness::load()?;
    log::debug!(
        "the witness watches {:?}",
        witness.names().collect::<Vec<_>>()
    );
    let mut testimonies: Vec<Testimony> = Vec::new();
    for pass in 0..witness.passes() {
        let mut watch = Watch {
            profiler,
            witness: &mut witness,
            pass,
            breakpoints: None,
        };
        let outcomes = calibration::run(plan, &|hook| profiler.presence(hook), &mut watch)?;
        if let Some(breakpoints) = watch.breakpoints.take() {
            witness.release(breakpoints)?;
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
                    known.carriers == outcome.copied,
                    "the carriers counted otherwise when the path {path} was taken again"
                );
                for (sum, bytes) in known.witness.iter_mut().zip(outcome.witnessed) {
                    *sum += bytes;
                }
            }
            None => testimonies.push(Testimony {
                path,
                carriers: outcome.copied,
                witness: outcome.witnessed,
            }),
        }
    }
    Ok(())
}

/// A profiler with a witness beside it.
struct Watch<'a> {
    profiler: &'a Profiler,
    witness: &'a mut Witness,
    pass: usize,
    breakpoints: Option<Breakpoints>,
}

impl Meter for Watch<'_> {
    fn begin(&mut self, pid: u32) -> Result<(), MeterError> {
        Meter::begin(&mut self.profiler, pid)?;
        self.breakpoints = Some(self.witness.watch(pid, self.pass)?);
        Ok(())
    }

    fn counted(&mut self, pid: u32) -> Result<Counters, MeterError> {
        Meter::counted(&mut self.profiler, pid)
    }

    fn witnessed(&mut self) -> Result<Bytes, MeterError> {
        Ok(self.witness.bytes()?)
    }
}
