//! The command's standard streams: pipes, or a pseudo-terminal for an interactive shell.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::event::PollFlags;
use rustix::pty::OpenptFlags;
use rustix::stdio::stdin;
use rustix::termios::Winsize;

use super::ports::poll;

/// Copies the host's standard input to the command, until one of the two sides closes its stream.
pub fn feed(mut from: File, to: OwnedFd) {
    let mut to = File::from(to);
    std::thread::spawn(move || std::io::copy(&mut from, &mut to));
}

/// Copies the command's output to the host. A process that the command left behind can hold the pipe open for
/// ever; so once the command has `ended`, an empty pipe is the end of its output.
pub fn drain(from: OwnedFd, mut to: File, ended: Arc<AtomicBool>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut from = File::from(from);
        let mut buffer = vec![0; 64 * 1024];
        loop {
            // Read before the poll, so that the poll sees all output from before the command's end.
            let last = ended.load(Ordering::Acquire);
            let timeout = Duration::from_millis(if last { 0 } else { 20 });
            if poll(&from, PollFlags::IN, timeout).is_empty() {
                if last {
                    return;
                }
                continue;
            }
            // A terminal that its last user has closed returns EIO.
            match from.read(&mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(size) => {
                    if to.write_all(&buffer[..size]).is_err() {
                        return;
                    }
                }
            }
        }
    })
}

/// A pseudo-terminal.
pub struct Terminal {
    controller: OwnedFd,
    device: OwnedFd,
}

impl Terminal {
    pub fn open(size: (u16, u16)) -> Result<Self> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let controller = rustix::pty::openpt(flags).context("cannot open a pseudo-terminal")?;
        rustix::pty::unlockpt(&controller).context("cannot unlock the pseudo-terminal")?;
        let device = rustix::pty::ioctl_tiocgptpeer(&controller, flags)
            .context("cannot open the device of the pseudo-terminal")?;
        let terminal = Self { controller, device };
        terminal.resize(size)?;
        Ok(terminal)
    }

    pub fn resize(&self, (ws_row, ws_col): (u16, u16)) -> Result<()> {
        let size = Winsize {
            ws_row,
            ws_col,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(&self.controller, size).context("TIOCSWINSZ failed")
    }

    /// A stream of what the command prints, which also takes what the command reads.
    pub fn stream(&self) -> Result<OwnedFd> {
        self.controller
            .try_clone()
            .context("cannot share the terminal")
    }

    /// Makes this terminal the controlling terminal and the standard streams of `command`.
    pub fn attach(&self, command: &mut Command) -> Result<()> {
        let stream = || -> Result<Stdio> { Ok(self.device.try_clone()?.into()) };
        command.stdin(stream()?).stdout(stream()?).stderr(stream()?);
        let own_session = || {
            rustix::process::setsid()?;
            rustix::process::ioctl_tiocsctty(stdin())?;
            Ok(())
        };
        // SAFETY: the closure makes async-signal-safe calls only.
        unsafe { command.pre_exec(own_session) };
        Ok(())
    }
}
