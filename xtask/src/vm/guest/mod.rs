//! What runs inside the virtual machine: this same program, as the guest's first process. It
//! starts the command, carries its streams over virtio-serial ports, and reports how it ended.

mod ports;
mod streams;

use std::ffi::c_int;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};

use crate::setup::SYSTEMD;
use crate::vm::request::{self, Request};
use streams::Terminal;

/// Never returns to the shell that called it: the machine is switched off at the end.
pub fn main() -> ! {
    if std::process::id() != 1 {
        eprintln!("error: `guest` is for the virtual machine's own use");
        std::process::exit(2);
    }
    if let Err(error) = perform() {
        // The console, which the host shows when no exit code came.
        println!("zc-lab: {error:#}");
    }
    // SAFETY: takes a constant; returns only on failure.
    unsafe { libc::reboot(libc::RB_POWER_OFF) };
    std::process::exit(1);
}

fn perform() -> Result<()> {
    let request = std::fs::read_to_string(request::GUEST_PATH)
        .with_context(|| format!("cannot read {}", request::GUEST_PATH))?;
    let request = Request::parse(&request)?;
    if request.systemd {
        give_way_to_systemd()?;
    }
    serve(&request)
}

const UNITS: &str = "/run/systemd/system";
/// The lab's target, which wants nothing: what runs is what the command starts, with what that needs.
const TARGET: (&str, &str) = (
    "zc-lab.target",
    "[Unit]\nDescription=The lab\nDefaultDependencies=no\n",
);
/// What these targets want for a machine of its own is the host's business: its devices, files and timers.
/// In emulation it would take minutes.
const UNWANTED: [&str; 2] = ["sysinit.target.wants", "timers.target.wants"];
const WANTED: &str = "systemd-journald.service";

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

/// Returns in a process of its own, while the first one becomes systemd.
fn give_way_to_systemd() -> Result<()> {
    write_units().with_context(|| format!("cannot write to {UNITS}"))?;
    // SAFETY: there is no other thread yet.
    match unsafe { libc::fork() } {
        0 => {
            // SAFETY: takes nothing.
            unsafe { libc::setsid() };
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
    pid: c_int,
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
        terminal.give_to(&mut command)?;
        let child = command.spawn()?;
        return Ok(Started {
            pid: pid(&child),
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
        pid: pid(&child),
        stdin: child.stdin.take().context("no standard input")?.into(),
        stdout: child.stdout.take().map(Into::into),
        stderr: child.stderr.take().map(Into::into),
        terminal: None,
    })
}

fn pid(child: &std::process::Child) -> c_int {
    c_int::try_from(child.id()).expect("process ids fit pid_t")
}

/// The host's wishes, a line each, until it hangs up.
fn obey(control: std::fs::File, group: c_int, terminal: Option<&Terminal>) {
    for line in BufReader::new(control).lines().map_while(Result::ok) {
        let mut words = line.split(' ');
        let name = words.next().unwrap_or_default();
        let numbers: Vec<c_int> = words.filter_map(|word| word.parse().ok()).collect();
        match (name, numbers.as_slice(), terminal) {
            ("signal", [signal], _) => {
                // SAFETY: sends a signal to the command's own process group.
                unsafe { libc::kill(-group, *signal) };
            }
            ("size", [rows, columns], Some(terminal)) => {
                if let (Ok(rows), Ok(columns)) = (u16::try_from(*rows), u16::try_from(*columns)) {
                    let _ = terminal.resize((rows, columns));
                }
            }
            _ => println!("zc-lab: the host asked for `{line}`, which is unknown"),
        }
    }
}

/// Also reaps the orphans that the first process of a system inherits.
fn wait_for(pid: c_int) -> Result<c_int> {
    loop {
        let mut status = 0;
        // SAFETY: `status` is valid for writing.
        let reaped = unsafe { libc::waitpid(-1, &raw mut status, 0) };
        if reaped < 0 {
            let error = std::io::Error::last_os_error();
            if error.kind() != std::io::ErrorKind::Interrupted {
                return Err(error).context("waitpid failed");
            }
        } else if reaped == pid {
            return Ok(exit_code(status));
        }
    }
}

/// As a shell reports it: a signal is 128 and its number.
fn exit_code(status: c_int) -> c_int {
    if libc::WIFSIGNALED(status) {
        128 + libc::WTERMSIG(status)
    } else {
        libc::WEXITSTATUS(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_a_shell_s() {
        assert_eq!(exit_code(0), 0);
        assert_eq!(exit_code(7 << 8), 7);
        assert_eq!(exit_code(libc::SIGKILL), 137);
    }
}
