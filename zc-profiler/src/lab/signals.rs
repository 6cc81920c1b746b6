//! Waiting for a worker or for the wish to stop, whichever comes first.

use std::{mem::MaybeUninit, ptr};

use super::Error;

const STOP: [libc::c_int; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];

/// SIGINT, SIGTERM, SIGHUP and SIGCHLD, blocked so that they wait to be asked for: an interrupted lab must
/// still end its workers and remove its files.
pub struct Signals {
    all: libc::sigset_t,
    stop: libc::sigset_t,
}

impl Signals {
    /// Blocks them in this thread and those that it starts from now on; so call it first.
    ///
    /// # Errors
    ///
    /// The kernel's, if it refuses.
    pub fn block() -> Result<Self, Error> {
        let stop = set(&STOP);
        let all = set(&[libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGCHLD]);
        // SAFETY: `all` is an initialised set; the old mask is not asked for.
        match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, ptr::null_mut()) } {
            0 => Ok(Self { all, stop }),
            error => Err(Error::call("pthread_sigmask")(
                std::io::Error::from_raw_os_error(error),
            )),
        }
    }

    /// Returns when a child may have changed its state.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`] if a signal to stop came first.
    pub fn child(&self) -> Result<(), Error> {
        // A SIGCHLD can be missed where a thread of the caller does not block it.
        self.wait(200)
    }

    /// Whether a signal to stop has come.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`] if so.
    pub fn check(&self) -> Result<(), Error> {
        self.wait(0)
    }

    /// Waits for a signal to stop.
    pub fn stop(&self) {
        loop {
            // SAFETY: an initialised set; no further information is asked for.
            let signal = unsafe { libc::sigwaitinfo(&raw const self.stop, ptr::null_mut()) };
            if signal > 0 {
                return;
            }
        }
    }

    fn wait(&self, milliseconds: libc::c_long) -> Result<(), Error> {
        let time = libc::timespec {
            tv_sec: 0,
            tv_nsec: milliseconds * 1_000_000,
        };
        // SAFETY: an initialised set and time; no further information is asked for.
        let signal =
            unsafe { libc::sigtimedwait(&raw const self.all, ptr::null_mut(), &raw const time) };
        if STOP.contains(&signal) {
            Err(Error::Interrupted(signal))
        } else {
            Ok(())
        }
    }
}

fn set(signals: &[libc::c_int]) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set before anything reads it.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), *signal);
        }
        set.assume_init()
    }
}
