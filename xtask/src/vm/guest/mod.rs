//! The program that runs inside the lab machine: xtask itself, as the guest's first process. It starts the command,
//! copies the command's streams over virtio-serial ports, and reports the exit code.

mod ports;
mod streams;

use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions};
use rustix::system::RebootCommand;

use crate::host::command::exit_code;
use crate::setup::SYSTEMD;
use crate::vm::request::{self, Request};
use streams::Terminal;

/// Runs the request and switches the machine off.
pub fn main() -> ! {
    if std::process::id() != 1 {
        eprintln!("error: `guest` runs only as the first process of the lab machine");
        std::process::exit(2);
    }
    if let Err(error) = perform() {
        // The host shows the console if it gets no exit code.
        println!("zc-lab: {error:#}");
    }
    let _ = rustix::system::reboot(RebootCommand::PowerOff);
    std::process::exit(1);
}

fn perform() -> Result<()> {
    let request = std::fs::read_to_string(request::GUEST_PATH)
        .with_context(|| format!("cannot read {}", request::GUEST_PATH))?;
    let request = Request::parse(&request)?;
    if request.systemd {
        start_systemd()?;
    }
    serve(&request)
}

const UNITS: &str = "/run/systemd/system";
/// The target that systemd starts. It wants no unit, so only units that the command starts run.
const TARGET: (&str, &str) = (
    "zc-lab.target",
    "[Unit]\nDescription=The lab\nDefaultDependencies=no\n",
);
/// Units of these targets set up the devices, files and timers of a whole machine. The lab does not need them, and in
/// emulation they take minutes.
const UNWANTED: [&str; 2] = ["sysinit.target.wants", "timers.target.wants"];
/// The one unit of [`UNWANTED`] that stays.
const WANTED: &str = "systemd-journald.service";

/// Writes the lab's target and masks the unwanted units.
fn write_units() -> std::io::Result<()> {
    std::fs::create_dir_all(UNITS)?;
    for (place, target) in ["/usr/lib/systemd/system", "/etc/systemd/system"]
        .into_iter()
        .flat_map(|place| UNWANTED.map(|target| (place, target)))
    {
        for unit in std::fs::read_dir(format!("{place}/{target}"))
            .into_iter()
            .flatten()
        {
            let name = unit?.file_name();
            let mask = std::path::Path::new(UNITS).join(&name);
            if name != WANTED && !mask.is_symlink() {
                std::os::unix::fs::symlink("/dev/null", mask)?;
            }
        }
    }
    std::fs::write(format!("{UNITS}/{}", TARGET.0), TARGET.1)
}

/// Replaces the first process with systemd. Returns in a new process.
fn start_systemd() -> Result<()> {
    write_units().with_context(|| format!("cannot write to {UNITS}"))?;
    // SAFETY: the process has one thread only, so the child may make any call.
    match unsafe { libc::fork() } {
        0 => {
            rustix::process::setsid().context("setsid failed")?;
            Ok(())
        }
        -1 => Err(std::io::Error::last_os_error()).context("cannot fork"),
        _ => {
            let unit = format!("--unit={}", TARGET.0);
            let error = Command::new(SYSTEMD)
                .args(["--show-status=no", &unit])
                .exec();
            Err(error).with_context(|| format!("cannot execute {SYSTEMD}"))
        }
    }
}

fn serve(request: &Request) -> Result<()> {
    let mut control = ports::open("control")?;
    let stdin = ports::open("stdin")?;
    let stdout = ports::open("stdout")?;
    let mut stderr = ports::open("stderr")?;
    writeln!(control, "ready").context("cannot write to the control port")?;

    let code = match start(request) {
        Err(error) => {
            writeln!(
                stderr,
                "zc-lab: cannot run {}: {error:#}",
                request.command[0]
            )?;
            127
        }
        Ok(started) => {
            let ended = Arc::new(AtomicBool::new(false));
            let group = started.pid;
            let terminal = started.terminal;
            let orders = control
                .try_clone()
                .context("cannot share the control port")?;
            std::thread::spawn(move || obey(orders, group, terminal.as_ref()));
            streams::feed(stdin, started.stdin);
            let pumps = [(started.stdout, stdout), (started.stderr, stderr)]
                .map(|(from, to)| from.map(|from| streams::drain(from, to, ended.clone())));
            let code = wait_for(started.pid)?;
            ended.store(true, Ordering::Release);
            for pump in pumps.into_iter().flatten() {
                let _ = pump.join();
            }
            code
        }
    };
    writeln!(control, "exit {code}").context("cannot write to the control port")
}

struct Started {
    pid: Pid,
    stdin: OwnedFd,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    terminal: Option<Terminal>,
}

fn start(request: &Request) -> Result<Started> {
    let mut command = Command::new(&request.command[0]);
    command
        .args(&request.command[1..])
        .current_dir(&request.directory)
        .env_clear()
        .envs(request.environment.iter().cloned());
    if !std::path::Path::new(&request.directory).is_dir() {
        anyhow::bail!("there is no directory {} in the guest", request.directory);
    }
    if let Some(size) = request.terminal {
        let terminal = Terminal::open(size)?;
        terminal.attach(&mut command)?;
        let child = command.spawn()?;
        return Ok(Started {
            pid: Pid::from_child(&child),
            stdin: terminal.stream()?,
            stdout: Some(terminal.stream()?),
            stderr: None,
            terminal: Some(terminal),
        });
    }
    let mut child = command
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    Ok(Started {
        pid: Pid::from_child(&child),
        stdin: child.stdin.take().context("no standard input")?.into(),
        stdout: child.stdout.take().map(Into::into),
        stderr: child.stderr.take().map(Into::into),
        terminal: None,
    })
}

/// Carries out the host's orders, one line each, until the host closes the port.
fn obey(control: std::fs::File, group: Pid, terminal: Option<&Terminal>) {
    for line in BufReader::new(control).lines().map_while(Result::ok) {
        let mut words = line.split(' ');
        let name = words.next().unwrap_or_default();
        let numbers: Vec<u16> = words.filter_map(|word| word.parse().ok()).collect();
        match (name, numbers.as_slice(), terminal) {
            ("signal", [signal], _) => {
                if let Some(signal) = Signal::from_named_raw(i32::from(*signal)) {
                    let _ = rustix::process::kill_process_group(group, signal);
                }
            }
            ("size", [rows, columns], Some(terminal)) => {
                let _ = terminal.resize((*rows, *columns));
            }
            _ => println!("zc-lab: the host asked for `{line}`, which is unknown"),
        }
    }
}

/// Waits for the command. Also reaps the orphaned processes that the first process inherits.
fn wait_for(pid: Pid) -> Result<i32> {
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((reaped, status))) if reaped == pid => {
                return Ok(exit_code(ExitStatus::from_raw(status.as_raw())));
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("waitpid failed"),
        }
    }
}
