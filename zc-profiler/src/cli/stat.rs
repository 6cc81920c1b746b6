//! `zc-profiler stat`.

use std::{
    fs::File,
    io::{self, Write},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::process::ExitStatusExt,
    },
    path::PathBuf,
    process::{Child, Command, ExitCode, ExitStatus},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;

use super::{
    serve::warn_of_losses,
    signals::{self, Signal},
    tell,
};
use crate::{
    Options, Profiler, Scope,
    export::{json, report},
    ledger::{Counters, Process, ProcessKey, Snapshot},
};

/// How long a process that has been waited for may take to leave its CPU for good.
const LAST_STEPS: Duration = Duration::from_secs(2);

#[derive(Debug, clap::Args)]
#[command(
    after_help = "The ledger goes to standard error, so that the command's output stays its own. \
    The exit code is the command's; 128 + N if signal N killed it; 127 or 126 if it could not be started."
)]
pub struct Args {
    /// Write the ledger as JSON too; - for standard output
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Watch this process, and the children it starts from now on, until it exits or Ctrl-C
    #[arg(
        short,
        long,
        conflicts_with = "command",
        required_unless_present = "command"
    )]
    pid: Option<u32>,
    /// The command to run, with its arguments
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<String>,
}

enum Event {
    Signal(Signal),
    Exited,
}

pub fn run(args: Args, options: Options) -> anyhow::Result<ExitCode> {
    let (sender, events) = mpsc::channel();
    signals::forward(sender.clone(), Event::Signal)?;
    let profiler = Profiler::attach(Scope::Tree, options)?;
    warn_of_losses(&profiler);
    let begun = Instant::now();
    let (root, code) = match args.pid {
        Some(pid) => {
            profiler.follow(pid)?;
            watch(pid, sender)?;
            // Either the process exits or the user has seen enough.
            let event = events.recv().context("waiting for the process")?;
            let exited = matches!(event, Event::Exited);
            (exited.then_some(pid), ExitCode::SUCCESS)
        }
        None => match start(&profiler, &args.command)? {
            Ok(mut child) => {
                let status = wait(&mut child, sender, &events)?;
                (Some(child.id()), exit_code(status))
            }
            Err(code) => return Ok(code),
        },
    };
    let seconds = begun.elapsed().as_secs_f64();
    let snapshot = settled(&profiler, root)?;
    report(&profiler, &snapshot, seconds, args.json)?;
    Ok(code)
}

/// Starts the command, counted from its first instruction on; or says with which code to exit.
fn start(profiler: &Profiler, command: &[String]) -> anyhow::Result<Result<Child, ExitCode>> {
    // The programs follow the children of processes in the ledger, so this one goes in, and is left
    // out of the report.
    profiler.follow(std::process::id())?;
    let (name, arguments) = command.split_first().context("no command given")?;
    Ok(Command::new(name).args(arguments).spawn().map_err(|error| {
        tell(format_args!("cannot run {name}: {error}"));
        ExitCode::from(if error.kind() == io::ErrorKind::NotFound {
            127
        } else {
            126
        })
    }))
}

/// Waits for the command to end, passing on the signals that did not reach it anyway.
fn wait(
    child: &mut Child,
    sender: mpsc::Sender<Event>,
    events: &mpsc::Receiver<Event>,
) -> anyhow::Result<ExitStatus> {
    let pid = child.id();
    watch(pid, sender)?;
    loop {
        match events.recv().context("waiting for the command")? {
            Event::Exited => return child.wait().context("waiting for the command"),
            Event::Signal(signal) if signal.from_terminal => {}
            Event::Signal(signal) => {
                // SAFETY: the child has not been waited for, so the pid is its own.
                unsafe { libc::kill(pid.cast_signed(), signal.number) };
            }
        }
    }
}

/// Sends [`Event::Exited`] when a process, of ours or not, is gone.
fn watch(pid: u32, sender: mpsc::Sender<Event>) -> anyhow::Result<()> {
    // SAFETY: the call takes no pointer.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = i32::try_from(fd)
        .ok()
        .filter(|fd| *fd >= 0)
        .ok_or_else(io::Error::last_os_error);
    let fd = fd.with_context(|| format!("pidfd_open({pid})"))?;
    // SAFETY: the kernel just made it, for us alone.
    let process = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    thread::spawn(move || {
        let mut poll = libc::pollfd {
            fd: process.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one valid pollfd.
        while unsafe { libc::poll(&raw mut poll, 1, -1) } < 1 {}
        // Nobody listens any more if a signal ended the waiting first.
        let _ = sender.send(Event::Exited);
    });
    Ok(())
}

/// The ledger once the root process has made its last context switch, which comes after its parent
/// could wait for it.
fn settled(profiler: &Profiler, root: Option<u32>) -> anyhow::Result<Snapshot> {
    let deadline = Instant::now() + LAST_STEPS;
    loop {
        let snapshot = profiler.snapshot()?;
        let done =
            root.is_none_or(|pid| snapshot.process(pid).is_none_or(|process| process.exited));
        if done || Instant::now() > deadline {
            return Ok(snapshot);
        }
        thread::sleep(Duration::from_millis(2));
    }
}

fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}

fn report(
    profiler: &Profiler,
    snapshot: &Snapshot,
    seconds: f64,
    json: Option<PathBuf>,
) -> anyhow::Result<()> {
    let own = std::process::id();
    let processes: Vec<Process> = snapshot
        .processes
        .iter()
        .filter(|process| process.pid != own && process.key != ProcessKey::KERNEL)
        .filter(|process| {
            process.key != ProcessKey::OVERFLOW || process.counters != Counters::default()
        })
        .cloned()
        .collect();
    let mut total = Counters::default();
    for process in &processes {
        total += &process.counters;
    }
    let report = report::ledger(
        profiler.kernel(),
        profiler.evidence(),
        seconds,
        &processes,
        &total,
    );
    // The command's exit code is passed on even if nobody reads this.
    let _ = io::stderr().write_all(report.as_bytes());
    for (reason, count) in snapshot.losses().filter(|(_, count)| *count > 0) {
        tell(format_args!("dropped: {count} ({reason})"));
    }
    if let Some(reason) = profiler.environment().skips()
        && snapshot.skipped > 0
    {
        tell(format_args!("{reason}"));
    }
    if let Some(path) = json {
        let document = json::Stat {
            kernel: profiler.kernel(),
            evidence: profiler.evidence().name(),
            seconds,
            processes: &processes,
            total: &total,
        };
        json::write(&document, &path)?;
    }
    Ok(())
}
