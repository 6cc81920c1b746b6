//! Signals as events.

use std::{sync::mpsc::Sender, thread};

use anyhow::Context;
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::{SignalsInfo, exfiltrator::origin::WithOrigin},
    low_level::siginfo::Cause,
};

/// A signal that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signal {
    /// Which.
    pub number: i32,
    /// Whether the kernel sent it, as a terminal does on Ctrl-C: then it went to the whole foreground
    /// process group.
    pub from_terminal: bool,
}

/// Sends SIGINT, SIGTERM and SIGHUP into a channel from now on. They are handled, not blocked:
/// commands started later would inherit that.
pub fn forward<E: Send + 'static>(events: Sender<E>, event: fn(Signal) -> E) -> anyhow::Result<()> {
    let mut signals = SignalsInfo::<WithOrigin>::new([SIGINT, SIGTERM, SIGHUP])
        .context("installing signal handlers")?;
    thread::spawn(move || {
        for origin in &mut signals {
            let signal = Signal {
                number: origin.signal,
                from_terminal: matches!(origin.cause, Cause::Kernel),
            };
            if events.send(event(signal)).is_err() {
                return;
            }
        }
    });
    Ok(())
}
