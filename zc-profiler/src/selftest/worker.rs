//! The process that does the work, from both sides.
//!
//! It stands still, by SIGSTOP raised on itself, before and after each path: neither side needs a
//! call that the ledger counts. In between paths it says how it went, on its standard output.

use std::{
    ffi::OsStr,
    fs,
    io::{self, BufRead, BufReader, Write},
    mem::MaybeUninit,
    os::unix::process::{CommandExt, parent_id},
    process::{Child, ChildStdout, Command, Stdio},
    thread,
};

use super::{FilePath, MeterError, Numbers, PATHS, Path};

/// The hidden subcommand that the worker is started with.
pub const COMMAND: &str = "calibration-worker";

/// How long a path may take, in seconds: some thousand times what it does.
const LIMIT: u32 = 60;

/// What the worker says of a path that went well.
const FINE: &str = "ok";

/// Why known bytes could not be moved at all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A call into the kernel failed.
    #[error("{0}: {1}")]
    Call(&'static str, #[source] io::Error),
    /// A path does not come to its end.
    #[error("the calibration's worker was stuck for {LIMIT} s: a path is blocked on this machine")]
    Stuck,
    /// The worker ended before its work did.
    #[error("the calibration's worker ended early")]
    Ended,
    /// An account of the kernel's could not be read.
    #[error("/proc/{0}: the kernel's accounts cannot be read")]
    KernelCounts(u32),
    /// The meter failed.
    #[error(transparent)]
    Meter(MeterError),
}

/// Killed if it is dropped before its end.
pub(super) struct Worker {
    child: Child,
    words: BufReader<ChildStdout>,
}

impl Worker {
    /// Must be called by a thread that outlives the worker: the kernel kills it with that thread.
    pub fn start(dir: &FilePath, paths: &[&Path]) -> Result<Self, Error> {
        let mut command = Command::new("/proc/self/exe");
        command
            .arg(COMMAND)
            .arg(std::process::id().to_string())
            .arg(dir)
            .args(paths.iter().map(|path| OsStr::new(path.name)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // So that the terminal cannot stop or continue it.
            .process_group(0);
        let mut child = command
            .spawn()
            .map_err(|error| Error::Call("exec /proc/self/exe", error))?;
        let words = child.stdout.take().ok_or(Error::Ended)?;
        Ok(Self {
            child,
            words: BufReader::new(words),
        })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it stands still, off its CPU.
    pub fn wait_stopped(&self) -> Result<(), Error> {
        let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
        let what = libc::WSTOPPED | libc::WEXITED | libc::WNOWAIT;
        // SAFETY: `info` is writable; WNOWAIT leaves the child to `Child`.
        while unsafe { libc::waitid(libc::P_PID, self.pid(), info.as_mut_ptr(), what) } != 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(Error::Call("waitid", error));
            }
        }
        // SAFETY: waitid has filled it in, as it does for a child.
        let (code, status) = unsafe {
            let info = info.assume_init();
            (info.si_code, info.si_status())
        };
        match (code, status) {
            (libc::CLD_STOPPED, _) => {}
            (libc::CLD_KILLED, libc::SIGALRM) => return Err(Error::Stuck),
            _ => return Err(Error::Ended),
        }
        // A stop is announced shortly before the task leaves its CPU, and that switch must not fall
        // between two readings. Reading this file makes the kernel wait for it.
        let path = format!("/proc/{}/syscall", self.pid());
        for _ in 0..1000 {
            match fs::read_to_string(&path) {
                Ok(text) if text.starts_with("running") => thread::yield_now(),
                _ => break,
            }
        }
        Ok(())
    }

    /// Lets it go on.
    pub fn resume(&self) -> Result<(), Error> {
        // SAFETY: no memory is passed; the child is not reaped yet, so the pid is its own.
        match unsafe { libc::kill(self.pid().cast_signed(), libc::SIGCONT) } {
            0 => Ok(()),
            _ => Err(Error::Call("kill", io::Error::last_os_error())),
        }
    }

    /// What went wrong on the path just taken, if anything did.
    pub fn complaint(&mut self) -> Result<Option<String>, Error> {
        let mut line = String::new();
        let read = self
            .words
            .read_line(&mut line)
            .map_err(|error| Error::Call("read", error))?;
        match line.trim_end() {
            _ if read == 0 => Err(Error::Ended),
            FINE => Ok(None),
            error => Ok(Some(error.to_owned())),
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

/// The worker's side: takes the named paths in turn.
///
/// # Errors
///
/// If its parent is gone.
pub fn carry_out(parent: u32, dir: &FilePath, names: &[String]) -> Result<(), Error> {
    // SAFETY: no memory is passed.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    // It may have died before the call above.
    if parent_id() != parent {
        return Err(Error::Ended);
    }
    // So that metrics can tell it from the program itself.
    // SAFETY: the name ends in zero.
    unsafe { libc::prctl(libc::PR_SET_NAME, c"zc-calibration".as_ptr()) };
    for name in names {
        let path = PATHS.iter().find(|path| path.name == name);
        // SAFETY: no memory is passed; the signal's default is to end this process.
        unsafe { libc::alarm(LIMIT) };
        // Once for warming up: what happens only the first time, such as copies of the program's own
        // pages, is not of the path.
        let mut work = path
            .ok_or_else(|| io::Error::other("no such path"))
            .and_then(|path| (path.prepare)(dir))
            .and_then(|mut work| work().map(|()| work));
        stop();
        let result = work.as_mut().map(|work| work());
        stop();
        let words = match result {
            Ok(Ok(())) => FINE.to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        let words = words.replace('\n', " ");
        writeln!(io::stdout(), "{words}").map_err(|error| Error::Call("write", error))?;
    }
    Ok(())
}

fn stop() {
    // SAFETY: no memory is passed, and SIGSTOP runs no handler.
    unsafe { libc::raise(libc::SIGSTOP) };
}

/// The kernel's own counts of a single-threaded process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct KernelCounts {
    pub voluntary: u64,
    pub involuntary: u64,
    pub minor: u64,
    pub major: u64,
}

impl KernelCounts {
    pub fn of(pid: u32) -> Result<Self, Error> {
        let read = |name| fs::read_to_string(format!("/proc/{pid}/{name}")).ok();
        let parsed = || {
            let (status, stat) = (read("status")?, read("stat")?);
            let line = |name| {
                let value = status.lines().find_map(|line| line.strip_prefix(name))?;
                value.trim().parse().ok()
            };
            // Fields are numbered from 1, and the second, a name, may hold anything.
            let (_, fields) = stat.rsplit_once(')')?;
            let field = |number: usize| {
                let value = fields.split_ascii_whitespace().nth(number - 3)?;
                value.parse().ok()
            };
            Some(Self {
                voluntary: line("voluntary_ctxt_switches:")?,
                involuntary: line("nonvoluntary_ctxt_switches:")?,
                minor: field(10)?,
                major: field(12)?,
            })
        };
        parsed().ok_or(Error::KernelCounts(pid))
    }

    pub fn since(self, earlier: &Self) -> Self {
        Self {
            voluntary: self.voluntary - earlier.voluntary,
            involuntary: self.involuntary - earlier.involuntary,
            minor: self.minor - earlier.minor,
            major: self.major - earlier.major,
        }
    }

    pub fn numbers(self) -> Numbers {
        [
            ("context_switches.voluntary", self.voluntary),
            ("context_switches.involuntary", self.involuntary),
            ("page_faults.minor", self.minor),
            ("page_faults.major", self.major),
        ]
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| (name.to_owned(), count))
        .collect()
    }
}
