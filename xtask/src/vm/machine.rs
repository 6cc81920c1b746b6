//! Runs one command in one lab machine: its streams, signals and time limits, and the console's last lines if the
//! machine ends without an exit code.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::host::terminal::{self, Signals};
use crate::output::Output;
use crate::vm::hardware::Hardware;
use crate::vm::qemu::Qemu;
use crate::vm::request::Request;

/// The time limits of a machine.
#[derive(Clone, Copy)]
pub struct Limits {
    /// For the boot, from QEMU's start until the command starts.
    pub boot: Duration,
    /// For the whole run. Without it, the run has no limit.
    pub total: Option<Duration>,
}

impl Limits {
    pub fn total(total: Option<Duration>) -> Self {
        Self {
            boot: Duration::from_secs(90),
            total,
        }
    }
}

/// How a machine ended.
#[derive(Debug)]
pub enum Ending {
    /// The command's exit code.
    Exited(i32),
    /// This process received a signal and ended the machine.
    Interrupted(i32),
    /// The machine ended without an exit code.
    Lost { cause: String, console: Vec<String> },
}

impl Ending {
    /// The exit code for this process. For a machine that was lost, also prints the console's last lines to standard
    /// error.
    pub fn exit_code(self) -> i32 {
        match self {
            Self::Exited(code) => code,
            Self::Interrupted(signal) => 128 + signal,
            Self::Lost { cause, console } => {
                if console.is_empty() {
                    eprintln!("vm: {cause}; the console is empty");
                } else {
                    eprintln!("vm: {cause}; the console's last lines:");
                }
                for line in console {
                    eprintln!("vm: | {line}");
                }
                1
            }
        }
    }
}

/// The standard input of the command in the guest.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// This process's standard input.
    Ours,
    Nothing,
}

const CONSOLE_LINES: usize = 60;
/// The time that the command gets to end after a signal, and the guest to switch its power off.
const GRACE: Duration = Duration::from_secs(10);
/// The interval between two checks for signals.
const TICK: Duration = Duration::from_millis(50);

enum Event {
    Ready,
    Exit(i32),
    HungUp,
    /// The reader of this process's output has closed its stream.
    Unread,
}

/// Boots the machine, runs the request in it and waits for its end.
pub fn run(
    hardware: &Hardware<'_>,
    request: &Request,
    (input, output): (Input, Output),
    limits: Limits,
) -> Result<Ending> {
    terminal::hold_signals();
    let mut qemu = Qemu::start(hardware, request)?;
    let console = Console::default();
    let watchers = [
        qemu.process
            .stdout
            .take()
            .map(|stream| console.follow(stream)),
        qemu.process
            .stderr
            .take()
            .map(|stream| console.follow(stream)),
    ];
    let [control, stdin, stdout, stderr] = &qemu.ports;
    let share = |stream: &UnixStream| stream.try_clone().context("cannot share a stream");
    let (control, stdin) = (share(control)?, share(stdin)?);
    let (sender, events) = channel();
    let pumps = [
        pump(share(stdout)?, output.stdout, sender.clone()),
        pump(share(stderr)?, output.stderr, sender.clone()),
    ];

    listen(share(&control)?, sender);

    let ending = {
        let _raw = request
            .terminal
            .map(|_| terminal::Raw::enter())
            .transpose()?;
        supervise(&mut qemu, &events, control, (stdin, input), limits)
    };
    if let Ok(Ending::Exited(_)) = ending {
        wait_for_power_off(&mut qemu);
    }
    drop(qemu);
    for thread in pumps {
        let _ = thread.join();
    }
    for thread in watchers.into_iter().flatten() {
        let _ = thread.join();
    }
    Ok(match ending {
        Ok(ending) => ending,
        Err(cause) => Ending::Lost {
            cause,
            console: console.lines(),
        },
    })
}

/// Waits for the machine's end. The error is the reason why there is no exit code.
fn supervise(
    qemu: &mut Qemu,
    events: &Receiver<Event>,
    mut control: UnixStream,
    (stdin, input): (UnixStream, Input),
    limits: Limits,
) -> Result<Ending, String> {
    let start = Instant::now();
    let mut stdin = Some(stdin);
    let mut interrupted: Option<(i32, Instant)> = None;
    let mut signals = Signals::default();
    loop {
        match events.recv_timeout(TICK) {
            Ok(Event::Ready) => {
                qemu.discard_files();
                if let Some(stdin) = stdin.take() {
                    feed(stdin, input);
                }
            }
            Ok(Event::Unread) => {
                tell(&mut control, &format!("signal {}", libc::SIGPIPE));
            }
            Ok(Event::Exit(code)) => return Ok(Ending::Exited(code)),
            Ok(Event::HungUp) | Err(RecvTimeoutError::Disconnected) => {
                return Err("the guest ended without an exit code".to_owned());
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        let running = stdin.is_none();
        if let Some(signal) = signals.take() {
            if !running || interrupted.is_some() {
                return Ok(Ending::Interrupted(signal));
            }
            interrupted = Some((signal, Instant::now()));
            tell(&mut control, &format!("signal {signal}"));
        }
        if let Some((rows, columns)) = terminal::take_resize()
            && running
        {
            tell(&mut control, &format!("size {rows} {columns}"));
        }
        if let Some((signal, since)) = interrupted
            && since.elapsed() > GRACE
        {
            return Ok(Ending::Interrupted(signal));
        }
        if !running && start.elapsed() > limits.boot {
            return Err(format!(
                "the guest did not start within {} s",
                limits.boot.as_secs()
            ));
        }
        if let Some(total) = limits.total
            && start.elapsed() > total
        {
            return Err(format!(
                "the time limit of {} s has passed",
                total.as_secs()
            ));
        }
    }
}

/// Sends an order to the guest. An error is ignored: it means that the guest has ended, which [`listen`] reports.
fn tell(control: &mut UnixStream, order: &str) {
    let _ = writeln!(control, "{order}");
}

/// Waits until the guest, which has reported its exit code, has switched itself off.
fn wait_for_power_off(qemu: &mut Qemu) {
    let deadline = Instant::now() + GRACE;
    while Instant::now() < deadline {
        match qemu.process.try_wait() {
            Ok(None) => std::thread::sleep(Duration::from_millis(5)),
            _ => return,
        }
    }
}

/// Passes the guest's messages on, until the guest closes the control port.
fn listen(control: UnixStream, events: Sender<Event>) {
    std::thread::spawn(move || {
        for line in BufReader::new(control).lines().map_while(Result::ok) {
            let event = match line.split_once(' ') {
                Some(("exit", code)) => code.parse().map(Event::Exit).ok(),
                _ => (line == "ready").then_some(Event::Ready),
            };
            if let Some(event) = event
                && events.send(event).is_err()
            {
                return;
            }
        }
        let _ = events.send(Event::HungUp);
    });
}

/// Copies the input to the guest, in a thread that can wait for input until this process ends.
fn feed(mut to: UnixStream, input: Input) {
    std::thread::spawn(move || {
        if input == Input::Ours {
            let _ = io::copy(&mut io::stdin().lock(), &mut to);
        }
        // Closes one direction only: QEMU discards unread bytes when both are closed.
        let _ = to.shutdown(Shutdown::Write);
    });
}

/// Copies one output stream of the guest to its end.
fn pump(
    mut from: UnixStream,
    mut to: impl Write + Send + 'static,
    events: Sender<Event>,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        let mut wanted = true;
        while let Ok(size) = from.read(&mut buffer) {
            if size == 0 {
                return;
            }
            // Reads on after `to` is closed: otherwise the guest would block in its write.
            if wanted
                && to
                    .write_all(&buffer[..size])
                    .and_then(|()| to.flush())
                    .is_err()
            {
                wanted = false;
                let _ = events.send(Event::Unread);
            }
        }
    })
}

/// The last lines of the guest's console and of QEMU's own messages.
#[derive(Clone, Default)]
struct Console {
    tail: Arc<Mutex<VecDeque<String>>>,
}

impl Console {
    fn follow(&self, stream: impl Read + Send + 'static) -> JoinHandle<()> {
        let console = self.clone();
        std::thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            let mut line = Vec::new();
            while stream
                .read_until(b'\n', &mut line)
                .is_ok_and(|size| size > 0)
            {
                console.push(&String::from_utf8_lossy(&line));
                line.clear();
            }
        })
    }

    fn push(&self, line: &str) {
        let line: String = line
            .trim_end()
            .chars()
            .filter(|c| !c.is_control())
            .collect();
        if line.is_empty() {
            return;
        }
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        if tail.len() == CONSOLE_LINES {
            tail.pop_front();
        }
        tail.push_back(line);
    }

    fn lines(&self) -> Vec<String> {
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_console_keeps_its_last_lines() {
        let console = Console::default();
        let lines: Vec<_> = (0..100).map(|n| format!("line {n}\r\n\n")).collect();
        let text = lines.concat();
        console.follow(io::Cursor::new(text)).join().unwrap();
        let lines = console.lines();
        assert_eq!(lines.len(), CONSOLE_LINES);
        assert_eq!(lines.last().unwrap(), "line 99");
    }

    #[test]
    fn exit_codes_follow_the_shell() {
        assert_eq!(Ending::Exited(7).exit_code(), 7);
        assert_eq!(Ending::Interrupted(2).exit_code(), 130);
        let lost = Ending::Lost {
            cause: "x".into(),
            console: vec![],
        };
        assert_eq!(lost.exit_code(), 1);
    }
}
