//! This machine's terminal and signals.

use std::io::IsTerminal;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};

use anyhow::{Context, Result};
use libc::{STDIN_FILENO, c_int};

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

/// From now on, signals that would end this process wait for [`Signals`].
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

/// One listener of several: each hears every signal, also one that came before it began to listen.
#[derive(Default)]
pub struct Signals {
    heard: u32,
}

impl Signals {
    /// The signal that has come since the last call, if any.
    pub fn take(&mut self) -> Option<c_int> {
        let came = SIGNALS.load(Ordering::Acquire);
        let new = came != self.heard;
        self.heard = came;
        new.then(|| SIGNAL.load(Ordering::Relaxed))
    }
}

/// The terminal's rows and columns, if it has changed them since the last call.
pub fn take_resize() -> Option<(u16, u16)> {
    RESIZED.swap(false, Ordering::Relaxed).then(size).flatten()
}

/// Whether a person sits at both ends.
pub fn is_interactive() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// Rows and columns.
pub fn size() -> Option<(u16, u16)> {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCGWINSZ writes one winsize.
    let result = unsafe { libc::ioctl(STDIN_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    (result == 0 && size.ws_row > 0).then_some((size.ws_row, size.ws_col))
}

/// Hands every key through unchanged; the terminal is as before once this is dropped.
pub struct Raw {
    before: libc::termios,
}

impl Raw {
    pub fn enter() -> Result<Self> {
        // SAFETY: a zeroed termios is valid, and tcgetattr fills it.
        let (result, before) = unsafe {
            let mut before: libc::termios = std::mem::zeroed();
            (libc::tcgetattr(STDIN_FILENO, &raw mut before), before)
        };
        if result < 0 {
            return Err(std::io::Error::last_os_error())
                .context("tcgetattr on standard input failed");
        }
        let mut raw = before;
        // SAFETY: both take a valid termios.
        unsafe {
            libc::cfmakeraw(&raw mut raw);
            libc::tcsetattr(STDIN_FILENO, libc::TCSANOW, &raw const raw);
        }
        Ok(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // SAFETY: takes a valid termios.
        unsafe { libc::tcsetattr(STDIN_FILENO, libc::TCSANOW, &raw const self.before) };
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
