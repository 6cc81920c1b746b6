use std::{io, path::PathBuf};

use super::MeterError;

/// Why a scenario could not be driven to its end. Each text is complete: it names the cause too.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A call into the kernel failed.
    #[error("{call}: {cause}")]
    Call {
        /// Its name.
        call: &'static str,
        /// Why.
        cause: io::Error,
    },
    /// A file could not be made, opened or read.
    #[error("{}: {cause}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// A call that had bytes to move moved none.
    #[error("{call} moved nothing with {left} bytes left")]
    Stuck {
        /// Its name.
        call: &'static str,
        /// How many bytes it was asked to move.
        left: usize,
    },
    /// A number does not fit this machine's addresses.
    #[error("{0} bytes are more than this machine can address at once")]
    TooLarge(u64),
    /// The bytes that arrived are not those that were sent.
    #[error("byte {0} arrived changed")]
    Changed(u64),
    /// A disk does not hold what the lab is to read from it.
    #[error("{} does not begin with the lab's pattern: {cause}", path.display())]
    Pattern {
        /// Which.
        path: PathBuf,
        /// Where it differs.
        cause: Box<Error>,
    },
    /// Fewer or more bytes arrived than were sent.
    #[error("{got} bytes arrived of {expected}")]
    Length {
        /// How many were sent.
        expected: u64,
        /// How many came.
        got: u64,
    },
    /// A scenario was driven that [`Hardware::lacks`](super::Hardware::lacks) something.
    #[error("there is no NIC to send by")]
    NoWire,
    /// A worker said why it gave up.
    #[error("the {role}: {message}")]
    Worker {
        /// What the worker was for.
        role: &'static str,
        /// Its own words.
        message: String,
    },
    /// A worker ended without a report.
    #[error("the {role} ended early: {status}")]
    Ended {
        /// What the worker was for.
        role: &'static str,
        /// How it ended.
        status: String,
    },
    /// SIGINT or SIGTERM arrived.
    #[error("interrupted by signal {0}")]
    Interrupted(i32),
    /// The meter failed.
    #[error(transparent)]
    Meter(MeterError),
}

impl Error {
    /// The kernel's reason why `call`, made just now, failed.
    pub(super) fn last(call: &'static str) -> Self {
        Self::call(call)(io::Error::last_os_error())
    }

    /// Names the call that failed, for `map_err`.
    pub(super) fn call(call: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |cause| Self::Call { call, cause }
    }

    /// Names the file concerned, for `map_err`.
    pub(super) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |cause| Self::File { path, cause }
    }
}
