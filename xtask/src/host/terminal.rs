//! This machine's terminal, and the signals that this process receives.

use std::io::{self, IsTerminal};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};

use anyhow::{Context, Result};
use libc::c_int;
use rustix::termios::{self, OptionalActions, Termios};

static SIGNAL: AtomicI32 = AtomicI32::new(0);
static SIGNALS: AtomicU32 = AtomicU32::new(0);
static RESIZED: AtomicBool = AtomicBool::new(false);

extern "C" fn remember(signal: c_int) {
    if signal == libc::SIGWINCH {
        RESIZED.store(true, Ordering::Relaxed);
    } else {
        SIGNAL.store(signal, Ordering::Relaxed);
        SIGNALS.fetch_add(1, Ordering::Release);
    }
}

/// From this call on, a signal that would end this process is only recorded. [`Signals`] returns it.
pub fn hold_signals() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGWINCH] {
            // SAFETY: a zeroed sigaction is valid; the handler only stores to atomics.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = remember as *const () as usize;
                action.sa_flags = libc::SA_RESTART;
                libc::sigaction(signal, &raw const action, std::ptr::null_mut());
            }
        }
    });
}

/// A listener for signals. Several listeners can exist; each of them gets every signal, also one that arrived
/// before the listener was created.
#[derive(Default)]
pub struct Signals {
    seen: u32,
}

impl Signals {
    /// The newest signal since the last call, if one has arrived.
    pub fn take(&mut self) -> Option<c_int> {
        let arrived = SIGNALS.load(Ordering::Acquire);
        let new = arrived != self.seen;
        self.seen = arrived;
        new.then(|| SIGNAL.load(Ordering::Relaxed))
    }
}

/// The terminal's new rows and columns, if its size has changed since the last call.
pub fn take_resize() -> Option<(u16, u16)> {
    RESIZED.swap(false, Ordering::Relaxed).then(size).flatten()
}

/// Whether standard input and standard output both are a terminal.
pub fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// The terminal's rows and columns.
pub fn size() -> Option<(u16, u16)> {
    let size = termios::tcgetwinsize(io::stdin()).ok()?;
    (size.ws_row > 0).then_some((size.ws_row, size.ws_col))
}

/// While this value exists, the terminal passes every key through unchanged. Dropping it restores the terminal.
pub struct Raw {
    before: Termios,
}

impl Raw {
    pub fn enter() -> Result<Self> {
        let before =
            termios::tcgetattr(io::stdin()).context("tcgetattr on standard input failed")?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(io::stdin(), OptionalActions::Now, &raw)
            .context("tcsetattr on standard input failed")?;
        Ok(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listener_hears_a_signal_once() {
        let (mut early, mut late) = (Signals::default(), Signals::default());
        let before = early.take();
        remember(libc::SIGTERM);
        assert_eq!(early.take(), Some(libc::SIGTERM));
        assert_eq!(early.take(), None);
        assert_eq!(late.take(), Some(libc::SIGTERM));
        assert!(before.is_none() || before == Some(libc::SIGTERM));
    }
}
