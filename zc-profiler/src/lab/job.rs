//! What a worker does, and what it says of it.
//!
//! A sender stands still at two barriers, before and after what is measured. A barrier is SIGSTOP,
//! raised by the worker on itself: neither side needs a call that the ledger counts.

use std::{
    ffi::CString,
    fs::File,
    io,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, AsRawFd},
        unix::process::parent_id,
    },
    process,
};

use serde::{Deserialize, Serialize};

use super::{
    Calls, Error, scenarios,
    target::{Address, open, receive, resent, settle},
    transfer::{Flow, moved},
};

/// Context switches between a worker's two barriers that belong to the second: each of its threads, and
/// of those that the kernel runs for its `io_uring`, stops there, and that is one voluntary switch.
pub const STOP_SWITCHES: u64 = 1;

/// What a worker is to do.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Job {
    /// From the file that standard input is.
    Send {
        /// Which of the [`scenarios`].
        scenario: usize,
        to: Address,
        payload: u64,
        chunk: usize,
    },
    Receive {
        payload: u64,
    },
}

#[derive(Serialize, Deserialize)]
struct Order {
    parent: u32,
    job: Job,
}

/// What a sender knows of its own measured part.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// The system calls it made.
    pub calls: Calls,
    /// What the kernel's own accounting says.
    pub usage: Usage,
    /// Bytes that TCP sent more than once.
    pub resent: u64,
}

/// getrusage of the measured part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Voluntary context switches.
    pub voluntary: u64,
    /// Involuntary context switches.
    pub involuntary: u64,
    /// Minor page faults.
    pub minor: u64,
    /// Major page faults.
    pub major: u64,
}

/// The argument that gives a child of this process its job.
pub(super) fn order(job: &Job) -> String {
    serde_json::json!({ "parent": process::id(), "job": job }).to_string()
}

/// Carries out the job that a [`COMMAND`](super::COMMAND) was given, and reports.
///
/// # Errors
///
/// If this is no worker of a living lab; failures of the job itself go into the report.
pub fn work(order: &str) -> Result<(), Error> {
    let bad = |error: serde_json::Error| Error::call("read the job")(error.into());
    let order: Order = serde_json::from_str(order).map_err(bad)?;
    die_with(order.parent)?;
    let report = match &order.job {
        Job::Send { scenario, .. } => {
            name(
                scenarios()
                    .nth(*scenario)
                    .map_or("send", |scenario| scenario.method),
            );
            send(&order.job).map(|report| serde_json::json!(report))
        }
        Job::Receive { payload } => {
            name("receive");
            receive(*payload).map(|()| serde_json::Value::Null)
        }
    };
    let report = serde_json::json!(report.map_err(|error| error.to_string()));
    send_to_parent(report.to_string().as_bytes())
}

fn send(job: &Job) -> Result<Report, Error> {
    let Job::Send {
        scenario,
        to,
        payload,
        chunk,
    } = job
    else {
        return Ok(Report::default());
    };
    let scenario = scenarios()
        .nth(*scenario)
        .ok_or(Error::TooLarge(*scenario as u64))?;
    let source = io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map(File::from)
        .map_err(Error::call("dup"))?;
    let sink = open(to)?;
    let flow = Flow {
        source: &source,
        sink: &sink,
        payload: *payload,
        chunk: *chunk,
    };
    let mut transfer = (scenario.prepare)(*chunk)?;
    transfer.make_ready(&flow)?;
    // Once in vain: what it faults in must not come between the barrier and the first account.
    usage()?;
    touch_all_pages();
    barrier()?;
    let before = usage()?;
    let calls = transfer.transfer(&flow)?;
    settle(to, &sink)?;
    let after = usage()?;
    barrier()?;
    Ok(Report {
        calls,
        usage: after.since(before),
        resent: resent(to, &sink)?,
    })
}

/// Brings in every page that is mapped now, so that the program's own pages do not fault in the
/// measured part. Without the privilege to lock them, some may.
fn touch_all_pages() {
    // SAFETY: no memory is passed.
    unsafe { libc::mlockall(libc::MCL_CURRENT) };
}

fn barrier() -> Result<(), Error> {
    // SAFETY: no memory is passed, and SIGSTOP runs no handler.
    match unsafe { libc::raise(libc::SIGSTOP) } {
        0 => Ok(()),
        _ => Err(Error::last("raise")),
    }
}

/// A worker whose parent is gone would stand at its barrier for ever.
fn die_with(parent: u32) -> Result<(), Error> {
    // SAFETY: no memory is passed.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } != 0 {
        return Err(Error::last("prctl"));
    }
    // The parent may have died before the call above.
    if parent_id() == parent {
        Ok(())
    } else {
        let status = String::from("its parent is no lab");
        Err(Error::Ended {
            role: "worker",
            status,
        })
    }
}

/// Not by write(2), as the standard library would: a sender's ledger holds its method's calls only.
fn send_to_parent(report: &[u8]) -> Result<(), Error> {
    let socket = io::stdout().as_raw_fd();
    // SAFETY: `report` is readable for its length.
    let sent = unsafe { libc::send(socket, report.as_ptr().cast(), report.len(), 0) };
    moved("send", report.len(), sent).map(drop)
}

/// Gives the process a name by which metrics can be told apart; the kernel keeps 15 bytes.
fn name(what: &str) {
    let Ok(name) = CString::new(format!("lab-{what}")) else {
        return;
    };
    // Renaming is a convenience: the lab itself knows its workers by pid.
    // SAFETY: `name` ends in zero.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

fn usage() -> Result<Usage, Error> {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: `usage` is writable, and all zero is a value of it.
    let (result, usage) = unsafe {
        let result = libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        (result, usage.assume_init())
    };
    if result != 0 {
        return Err(Error::last("getrusage"));
    }
    Ok(Usage {
        voluntary: usage.ru_nvcsw.cast_unsigned(),
        involuntary: usage.ru_nivcsw.cast_unsigned(),
        minor: usage.ru_minflt.cast_unsigned(),
        major: usage.ru_majflt.cast_unsigned(),
    })
}

impl Usage {
    fn since(self, before: Self) -> Self {
        Self {
            voluntary: self.voluntary - before.voluntary,
            involuntary: self.involuntary - before.involuntary,
            minor: self.minor - before.minor,
            major: self.major - before.major,
        }
    }
}
