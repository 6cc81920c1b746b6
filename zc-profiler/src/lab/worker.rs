//! Processes of the lab as their parent sees them. Each re-executes this program with a job.

use std::{
    fs,
    mem::MaybeUninit,
    os::{
        fd::OwnedFd,
        unix::{net::UnixDatagram, process::CommandExt},
    },
    process::{Child, Command, Stdio},
    thread,
};

use serde::de::DeserializeOwned;

use super::{
    Error, Signals,
    job::{self, Job},
};

/// The hidden subcommand that a worker is started with, its job as the one argument.
pub const COMMAND: &str = "lab-worker";

const LONGEST_REPORT: usize = 4096;

/// Killed if it is dropped before its end.
pub(super) struct Worker {
    role: &'static str,
    child: Child,
    reports: UnixDatagram,
}

enum State {
    Running,
    Stopped,
    Ended,
}

impl Worker {
    /// Must be called by a thread that outlives the worker: the kernel kills it with that thread.
    pub fn start(role: &'static str, job: &Job, stdin: Stdio) -> Result<Self, Error> {
        let (reports, stdout) = UnixDatagram::pair().map_err(Error::call("socketpair"))?;
        let child = Command::new("/proc/self/exe")
            .args([COMMAND, &job::order(job)])
            .stdin(stdin)
            .stdout(OwnedFd::from(stdout))
            // So that the terminal's signals reach only the parent, which then ends its workers.
            .process_group(0)
            .spawn()
            .map_err(Error::call("exec /proc/self/exe"))?;
        Ok(Self {
            role,
            child,
            reports,
        })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How many threads it has, those that the kernel runs in it among them.
    pub fn threads(&self) -> u64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id()));
        tasks.map_or(1, |tasks| tasks.count() as u64)
    }

    /// Waits until the worker stands at a barrier.
    pub fn wait_stopped(&mut self, signals: &Signals) -> Result<(), Error> {
        loop {
            match self.state()? {
                State::Running => signals.child()?,
                State::Stopped => {
                    self.wait_off_cpu();
                    return Ok(());
                }
                State::Ended => return Err(self.ended()),
            }
        }
    }

    /// Lets the worker leave a barrier.
    pub fn resume(&self) -> Result<(), Error> {
        // SAFETY: no memory is passed; the child is not reaped yet, so the pid is its own.
        match unsafe { libc::kill(self.child.id().cast_signed(), libc::SIGCONT) } {
            0 => Ok(()),
            _ => Err(Error::last("kill")),
        }
    }

    /// Waits for the worker's end and takes its report.
    pub fn finish<T: DeserializeOwned>(mut self, signals: &Signals) -> Result<T, Error> {
        while !matches!(self.state()?, State::Ended) {
            signals.child()?;
        }
        self.report().unwrap_or_else(|| Err(self.ended()))
    }

    /// What an ended worker left to be received, if anything.
    fn report<T: DeserializeOwned>(&self) -> Option<Result<T, Error>> {
        let mut text = [0; LONGEST_REPORT];
        self.reports.set_nonblocking(true).ok()?;
        let len = self.reports.recv(&mut text).ok()?;
        let report: Result<T, String> = serde_json::from_slice(&text[..len]).ok()?;
        let role = self.role;
        Some(report.map_err(|message| Error::Worker { role, message }))
    }

    /// Why a worker that must not have ended did.
    fn ended(&mut self) -> Error {
        if let Some(Err(error)) = self.report::<serde_json::Value>() {
            return error;
        }
        let status = match self.child.wait() {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        Error::Ended {
            role: self.role,
            status,
        }
    }

    fn state(&self) -> Result<State, Error> {
        let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
        let what = libc::WSTOPPED | libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        // SAFETY: `info` is writable, and all zero is a value of it; WNOWAIT leaves the child to
        // `Child`.
        let (result, info) = unsafe {
            let result = libc::waitid(libc::P_PID, self.child.id(), info.as_mut_ptr(), what);
            (result, info.assume_init())
        };
        if result != 0 {
            return Err(Error::last("waitid"));
        }
        // SAFETY: waitid filled in these members, or left them zero.
        let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
        Ok(match (pid, info.si_code) {
            (0, _) => State::Running,
            (_, libc::CLD_STOPPED) if status == libc::SIGSTOP => State::Stopped,
            (_, libc::CLD_STOPPED) => State::Running,
            _ => State::Ended,
        })
    }

    /// A stop is announced shortly before the task leaves its CPU, and that switch must not fall
    /// into the measurement. Reading this file makes the kernel wait until the task is off its CPU.
    fn wait_off_cpu(&self) {
        let path = format!("/proc/{}/syscall", self.child.id());
        for _ in 0..1000 {
            match fs::read_to_string(&path) {
                Ok(text) if text.starts_with("running") => thread::yield_now(),
                _ => break,
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Both only fail if it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
