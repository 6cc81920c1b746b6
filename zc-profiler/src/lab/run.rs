//! One scenario from beginning to end.

use std::{
    error,
    fs::File,
    io::Seek,
    path::{Path, PathBuf},
};

use super::{
    Difference, Error, Hardware, Report, STOP_SWITCHES, Scenario, Signals, Source, hardware,
    job::Job,
    scenarios,
    target::{self, Sink},
    worker::Worker,
};
use crate::ledger::Counters;

/// What all scenarios of one run share.
#[derive(Debug)]
pub struct Plan {
    payload: u64,
    chunk: usize,
    dir: PathBuf,
    source: File,
    hardware: Hardware,
}

/// A finished scenario.
#[derive(Debug)]
pub struct Run {
    /// The ledger of the sender's measured part.
    pub measured: Counters,
    /// The sender's own account of it.
    pub report: Report,
}

impl Run {
    /// Where the ledger's page faults are not what getrusage says. Both follow one rule of the
    /// kernel's, and how many there are is its choice: no truth could tell.
    #[must_use]
    pub fn fault_differences(&self) -> Vec<Difference> {
        let (ours, theirs) = (self.measured.page_faults, self.report.usage);
        [
            ("page_faults.minor", theirs.minor, ours.minor),
            ("page_faults.major", theirs.major, ours.major),
        ]
        .into_iter()
        .filter(|(_, expected, got)| expected != got)
        .map(|(field, expected, got)| Difference {
            method: None,
            field,
            expected,
            got,
        })
        .collect()
    }
}

/// What a sender is measured with. Both calls come while it stands at a barrier.
pub trait Meter {
    /// Counts the process from now on; returns what is counted already.
    ///
    /// # Errors
    ///
    /// If it cannot be counted.
    fn begin(&self, pid: u32) -> Result<Counters, MeterError>;

    /// What is counted now.
    ///
    /// # Errors
    ///
    /// If the counters cannot be read.
    fn end(&self, pid: u32) -> Result<Counters, MeterError>;
}

/// Whatever a [`Meter`] fails with.
pub type MeterError = Box<dyn error::Error + Send + Sync>;

impl Plan {
    /// Moves `payload` bytes, asking each call for `chunk`, by way of files in `dir` and of whatever
    /// hardware there is; makes the file that they come from.
    ///
    /// # Errors
    ///
    /// If the directory or the space in it is not there.
    pub fn new(dir: &Path, payload: u64, chunk: usize, hardware: Hardware) -> Result<Self, Error> {
        let (dir, source) = (dir.into(), target::source(dir, payload)?);
        Ok(Self {
            payload,
            chunk,
            dir,
            source,
            hardware,
        })
    }

    /// Bytes to move.
    #[must_use]
    pub const fn payload(&self) -> u64 {
        self.payload
    }

    /// The payload in chunks, the last of which may be a smaller one.
    #[must_use]
    pub const fn chunks(&self) -> u64 {
        self.payload.div_ceil(self.chunk as u64)
    }

    /// Drives one of the [`scenarios`] in processes of its own, measures the sender, and checks that the
    /// payload arrived intact. To be called by the main thread, with which workers live and die.
    ///
    /// # Errors
    ///
    /// If a process cannot be started, a call of it fails, the payload arrives damaged, the ledger
    /// cannot be read, or SIGINT or SIGTERM comes.
    pub fn run(
        &self,
        scenario: &'static Scenario,
        signals: &Signals,
        meter: &dyn Meter,
    ) -> Result<Run, Error> {
        let sink = Sink::new(scenario.target, &self.dir, self.payload, &self.hardware)?;
        let job = Job::Send {
            scenario: scenarios()
                .position(|other| std::ptr::eq(other, scenario))
                .unwrap_or(usize::MAX),
            to: sink.address(),
            payload: self.payload,
            chunk: self.chunk,
        };
        let own = match scenario.source {
            Source::Cold => Some(self.dir.as_path()),
            Source::Tmpfs => self.hardware.tmpfs.as_deref(),
            Source::Xfs => self.hardware.xfs.as_deref(),
            _ => None,
        };
        let source = match (self.hardware.disk(scenario.source), own) {
            (Some(disk), _) => hardware::cold(disk, self.payload)?,
            (None, Some(dir)) => {
                let mut file = target::source(dir, self.payload)?;
                file.rewind().map_err(Error::call("lseek"))?;
                if scenario.source == Source::Cold {
                    hardware::advise(&file, libc::POSIX_FADV_DONTNEED)?;
                }
                file
            }
            // The sender shares this file's position.
            (None, None) => (&self.source)
                .rewind()
                .and_then(|()| self.source.try_clone())
                .map_err(Error::call("lseek"))?,
        };
        let mut sender = Worker::start("sender", &job, source.into())?;
        sender.wait_stopped(signals)?;
        let before = meter.begin(sender.pid()).map_err(Error::Meter)?;
        sender.resume()?;
        sender.wait_stopped(signals)?;
        let after = meter.end(sender.pid()).map_err(Error::Meter)?;
        let stops = STOP_SWITCHES * sender.threads();
        sender.resume()?;
        let report = sender.finish(signals)?;
        sink.finish(self.payload, signals)?;

        let mut measured = &after - &before;
        let voluntary = &mut measured.context_switches.voluntary;
        *voluntary = voluntary.saturating_sub(stops);
        Ok(Run { measured, report })
    }
}
