//! The command's standard streams: pipes, or a pseudo-terminal for an interactive shell.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result};

/// Carries the host's standard input to the command until either side has had enough.
pub fn feed(mut from: File, to: OwnedFd) {
    let mut to = File::from(to);
    std::thread::spawn(move || std::io::copy(&mut from, &mut to));
}

/// Carries what the command prints to the host. A process that the command left behind may hold
/// the pipe open for ever, so once the command has ended, an empty pipe is the end.
pub fn drain(from: OwnedFd, mut to: File, ended: Arc<AtomicBool>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut from = File::from(from);
        let mut buffer = vec![0; 64 * 1024];
        loop {
            // Before the poll: what was printed before the end is then seen by it.
            let last = ended.load(Ordering::Acquire);
            if !readable(&from, if last { 0 } else { 20 }) {
                if last {
                    return;
                }
                continue;
            }
            // A terminal whose last user has gone answers EIO.
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

fn readable(file: &File, milliseconds: i32) -> bool {
    let mut poll = libc::pollfd {
        fd: file.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one valid pollfd.
    unsafe { libc::poll(&raw mut poll, 1, milliseconds) > 0 }
}

/// A pseudo-terminal, by its controlling side.
pub struct Terminal {
    controller: OwnedFd,
    device: OwnedFd,
}

impl Terminal {
    /// Opens one of so many rows and columns.
    pub fn open(size: (u16, u16)) -> Result<Self> {
        let (mut controller, mut device) = (-1, -1);
        let null = std::ptr::null_mut();
        // SAFETY: the descriptors are valid for writing; name, settings and size may be null.
        if unsafe {
            libc::openpty(
                &raw mut controller,
                &raw mut device,
                null,
                null.cast(),
                null.cast(),
            )
        } < 0
        {
            return Err(std::io::Error::last_os_error()).context("openpty failed");
        }
        // SAFETY: openpty has just opened both, for us alone.
        let terminal = unsafe {
            Self {
                controller: OwnedFd::from_raw_fd(controller),
                device: OwnedFd::from_raw_fd(device),
            }
        };
        terminal.resize(size)?;
        Ok(terminal)
    }

    pub fn resize(&self, (rows, columns): (u16, u16)) -> Result<()> {
        let size = libc::winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // SAFETY: TIOCSWINSZ reads one winsize.
        if unsafe {
            libc::ioctl(
                self.controller.as_raw_fd(),
                libc::TIOCSWINSZ,
                &raw const size,
            )
        } < 0
        {
            return Err(std::io::Error::last_os_error()).context("TIOCSWINSZ failed");
        }
        Ok(())
    }

    pub fn stream(&self) -> Result<OwnedFd> {
        self.controller
            .try_clone()
            .context("cannot share the terminal")
    }

    /// Makes it the command's controlling terminal and all its streams.
    pub fn give_to(&self, command: &mut Command) -> Result<()> {
        let stream = || -> Result<Stdio> { Ok(self.device.try_clone()?.into()) };
        command.stdin(stream()?).stdout(stream()?).stderr(stream()?);
        let own_session = || {
            // SAFETY: async-signal-safe calls on the child's own standard input.
            if unsafe { libc::setsid() < 0 || libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 } {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        };
        // SAFETY: the closure only makes async-signal-safe calls.
        unsafe { command.pre_exec(own_session) };
        Ok(())
    }
}
