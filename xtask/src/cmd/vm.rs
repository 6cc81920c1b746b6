//! `cargo xtask vm`: runs a command of this machine's root file system in the lab machine.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::host::terminal;
use crate::kernels::BootFiles;
use crate::output::Output;
use crate::setup::{self, KernelChoice, Lab, artifacts};
use crate::vm::accel::{self, Choice};
use crate::vm::hardware::{Forward, Hardware};
use crate::vm::machine::{self, Ending, Input, Limits};
use crate::vm::request::{GUEST_PROGRAMS, Request};

/// Boots the lab machine and runs a command in it, or a shell
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    kernel: KernelChoice,
    /// A directory that the command can write to, at the same path in the machine
    #[arg(long, value_name = "DIR")]
    share: Option<PathBuf>,
    /// Ends the machine after this many seconds [default: 600; none for a shell]
    #[arg(long, value_name = "SECS")]
    timeout: Option<u64>,
    /// Makes systemd the machine's first process; it starts only units that the command starts
    #[arg(long)]
    systemd: bool,
    /// Number of CPUs [default: 2 with KVM, 1 in emulation, where one thread runs all of them]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    cpus: Option<u16>,
    /// The command [default: an interactive shell]
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

const TIMEOUT: Duration = Duration::from_mins(10);

pub fn run(arguments: Arguments) -> Result<i32> {
    let share = arguments.share.as_deref().map(shareable).transpose()?;
    let systemd: &[_] = if arguments.systemd {
        &[setup::SYSTEMD_PACKAGE]
    } else {
        &[]
    };
    let lab = setup::prepare(std::slice::from_ref(&arguments.kernel), systemd)?;
    let profiler = artifacts::profiler()?;

    let interactive = arguments.command.is_empty() && terminal::is_interactive();
    let shell = || vec![std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".into())];
    let guest = Guest {
        command: if arguments.command.is_empty() {
            shell()
        } else {
            arguments.command
        },
        directory: std::env::current_dir().context("cannot read the current directory")?,
        environment: Vec::new(),
        profiler: &profiler,
        input: Input::Ours,
        output: Output::ours(),
        terminal: interactive.then(|| terminal::size().unwrap_or((24, 80))),
        systemd: arguments.systemd,
        cpus: arguments.cpus,
        share: share.as_deref(),
        forward: None,
        limit: match arguments.timeout {
            Some(seconds) => Some(Duration::from_secs(seconds)),
            None => (!interactive).then_some(TIMEOUT),
        },
    };
    Ok(guest.run(&lab, &lab.kernels[0])?.exit_code())
}

fn shareable(directory: &Path) -> Result<PathBuf> {
    let path = directory
        .canonicalize()
        .with_context(|| format!("cannot share {}", directory.display()))?;
    if !path.is_dir() || path.parent().is_none() {
        bail!(
            "cannot share {}: --share takes a directory other than /",
            directory.display()
        );
    }
    Ok(path)
}

/// A command for the lab machine, and the parts of the machine that the command needs.
pub struct Guest<'a> {
    pub command: Vec<String>,
    pub directory: PathBuf,
    /// Variables in addition to [`PASSED_ON`] and PATH.
    pub environment: Vec<(String, String)>,
    /// The profiler's program. Its directory comes first on the PATH.
    pub profiler: &'a Path,
    pub input: Input,
    pub output: Output,
    pub terminal: Option<(u16, u16)>,
    /// Whether systemd is the machine's first process.
    pub systemd: bool,
    pub cpus: Option<u16>,
    pub share: Option<&'a Path>,
    pub forward: Option<Forward>,
    pub limit: Option<Duration>,
}

/// The variables that the command inherits from this process.
const PASSED_ON: [&str; 3] = ["HOME", "TERM", "RUST_BACKTRACE"];

impl Guest<'_> {
    pub fn run(self, lab: &Lab, kernel: &BootFiles) -> Result<Ending> {
        let choice = accel::choose(&lab.cache, kernel)?;
        self.run_by(&choice, lab, kernel)
    }

    pub fn run_by(self, choice: &Choice, lab: &Lab, kernel: &BootFiles) -> Result<Ending> {
        eprintln!("vm: {}, {}", kernel.title, choice.reason);
        let request = Request {
            environment: self.environment(),
            directory: self.directory.to_string_lossy().into_owned(),
            command: self.command,
            terminal: self.terminal,
            systemd: self.systemd,
        };
        let hardware = Hardware {
            kernel,
            accel: choice.accel,
            cpus: self.cpus,
            disk: Some(&lab.disk),
            share: self.share,
            forward: self.forward,
        };
        machine::run(
            &hardware,
            &request,
            (self.input, self.output),
            Limits::total(self.limit),
        )
    }

    fn environment(&self) -> Vec<(String, String)> {
        let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/sbin:/usr/bin:/sbin:/bin".into());
        let own = self.profiler.parent().unwrap_or(Path::new("/"));
        let path = (
            "PATH".to_owned(),
            format!("{}:{path}:{GUEST_PROGRAMS}", own.display()),
        );
        let passed = PASSED_ON
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)));
        std::iter::once(path)
            .chain(passed)
            .chain(self.environment.iter().cloned())
            .collect()
    }
}
