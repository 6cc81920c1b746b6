//! `cargo xtask run`: runs the profiler's lab in the lab machine or on this machine's own kernel.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use crate::cmd::vm::Guest;
use crate::host::command;
use crate::host::terminal::{self, Signals};
use crate::kernels::{self, BootFiles};
use crate::output::Output;
use crate::setup::{self, KernelChoices, Lab, artifacts};
use crate::vm::hardware::Forward;
use crate::vm::machine::Input;

/// Builds everything, boots the lab machine and runs the lab in it
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    kernels: KernelChoices,
    /// Runs the lab on this machine's own kernel instead
    #[arg(long, conflicts_with_all = ["kernel", "modules"])]
    host: bool,
    /// Writes the lab's results to this file, or with several kernels to one file each, named FILE-KERNEL
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The port of this machine that serves the metrics [default: 9464, or a free one if it is in use]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Keeps serving the metrics after the table, until Ctrl-C
    #[arg(long)]
    hold: bool,
    /// Ends the machine after this many seconds [default: 900; none with --hold]
    #[arg(long, value_name = "SECS")]
    timeout: Option<u64>,
    /// Arguments for the lab
    #[arg(last = true, value_name = "LAB ARGS")]
    lab: Vec<String>,
}

const METRICS_PORT: u16 = 9464;
const TIMEOUT: Duration = Duration::from_mins(15);

pub fn run(arguments: &Arguments) -> Result<i32> {
    if let Some(file) = &arguments.json {
        check_writable(file)?;
    }
    let port = choose_port(arguments.port)?;
    let lab = if arguments.host {
        setup::prepare_compiler()?;
        None
    } else {
        Some(setup::prepare(
            &arguments.kernels.or(kernels::DEFAULT)?,
            &[],
        )?)
    };
    let profiler = artifacts::profiler()?;
    let run = Run {
        arguments,
        profiler: &profiler,
        port,
    };
    let Some(lab) = lab else {
        return run.and_keep(arguments.json.as_deref(), |results| run.here(results));
    };
    if arguments.hold && lab.kernels.len() > 1 {
        bail!("--hold needs one kernel: with several, the first would run for ever");
    }
    let mut failed = Vec::new();
    for kernel in &lab.kernels {
        let file = arguments
            .json
            .as_deref()
            .map(|file| match lab.kernels.len() {
                1 => file.to_owned(),
                _ => named_after(file, &kernel.name),
            });
        let code = run.and_keep(file.as_deref(), |results| run.inside(&lab, kernel, results))?;
        if lab.kernels.len() == 1 || code > 128 {
            return Ok(code);
        }
        if code != 0 {
            failed.push(&*kernel.name);
        }
    }
    if failed.is_empty() {
        return Ok(0);
    }
    eprintln!("xtask run: the lab failed on {}", failed.join(", "));
    Ok(1)
}

/// The file of one kernel's results: `lab-6.1.json` for `lab.json` and kernel 6.1.
fn named_after(file: &Path, kernel: &str) -> PathBuf {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let name = match file.extension() {
        Some(extension) => format!("{stem}-{kernel}.{}", extension.to_string_lossy()),
        None => format!("{stem}-{kernel}"),
    };
    file.with_file_name(name)
}

struct Run<'a> {
    arguments: &'a Arguments,
    profiler: &'a Path,
    port: u16,
}

impl Run<'_> {
    /// Runs the lab with the path to write its results to, and copies the results to `file`.
    fn and_keep(&self, file: Option<&Path>, lab: impl FnOnce(&Path) -> Result<i32>) -> Result<i32> {
        let exchange = tempfile::Builder::new()
            .prefix("zc-lab-results-")
            .tempdir()
            .context("cannot create a temporary directory: set TMPDIR to a writable one")?;
        let results = exchange.path().join("lab.json");
        eprintln!("metrics: http://127.0.0.1:{}/metrics", self.port);
        let code = lab(&results)?;
        match file {
            Some(file) if results.exists() => {
                std::fs::copy(&results, file)
                    .with_context(|| format!("cannot write {}", file.display()))?;
            }
            Some(_) if code == 0 => bail!("the lab succeeded but wrote no results"),
            _ => {}
        }
        Ok(code)
    }

    /// Runs the lab in the lab machine.
    fn inside(&self, lab: &Lab, kernel: &BootFiles, results: &Path) -> Result<i32> {
        let listen = format!("0.0.0.0:{METRICS_PORT}");
        // `zc-hardware lab` sets the hardware up and passes its names to the lab.
        let mut command = ["zc-hardware", "lab", "zc-profiler"]
            .map(str::to_owned)
            .to_vec();
        command.extend(lab_arguments(
            self.arguments,
            Path::new("/lab"),
            &listen,
            results,
        ));
        let guest = Guest {
            command,
            directory: std::env::current_dir().context("cannot read the current directory")?,
            environment: Vec::new(),
            profiler: self.profiler,
            input: Input::Nothing,
            output: Output::ours(),
            terminal: None,
            systemd: false,
            cpus: None,
            share: results.parent(),
            forward: Some(Forward {
                host: self.port,
                guest: METRICS_PORT,
            }),
            limit: match self.arguments.timeout {
                Some(seconds) => Some(Duration::from_secs(seconds)),
                None => (!self.arguments.hold).then_some(TIMEOUT),
            },
        };
        Ok(guest.run(lab, kernel)?.exit_code())
    }

    /// Runs the lab on this machine's own kernel. The terminal sends Ctrl-C to the lab, too; this process waits for
    /// the lab's end to remove its files.
    fn here(&self, results: &Path) -> Result<i32> {
        let directory = TempDir::new().context("cannot create a temporary directory")?;
        let listen = format!("127.0.0.1:{}", self.port);
        let mut lab = Command::new(self.profiler);
        lab.args(lab_arguments(
            self.arguments,
            directory.path(),
            &listen,
            results,
        ));
        terminal::hold_signals();
        let mut signals = Signals::default();
        let mut child = lab
            .spawn()
            .with_context(|| format!("cannot start {}", self.profiler.display()))?;
        loop {
            if let Some(status) = child.try_wait().context("cannot wait for the lab")? {
                return Ok(command::exit_code(status));
            }
            if let Some(signal) = signals.take()
                && let Some(signal) = Signal::from_named_raw(signal)
                && signal != Signal::INT
            {
                let _ = rustix::process::kill_process(Pid::from_child(&child), signal);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn lab_arguments(
    arguments: &Arguments,
    directory: &Path,
    listen: &str,
    results: &Path,
) -> Vec<String> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let mut words = vec![
        "lab".into(),
        "--dir".into(),
        text(directory),
        "--listen".into(),
        listen.into(),
    ];
    if arguments.json.is_some() {
        words.extend(["--json".into(), text(results)]);
    }
    if arguments.hold {
        words.push("--hold".into());
    }
    words.extend(arguments.lab.iter().cloned());
    words
}

/// Checks that `file` can be written, before the machine boots.
fn check_writable(file: &Path) -> Result<()> {
    let existed = file.exists();
    std::fs::File::options()
        .append(true)
        .create(true)
        .open(file)
        .with_context(|| format!("cannot write {}", file.display()))?;
    if !existed {
        let _ = std::fs::remove_file(file);
    }
    Ok(())
}

/// The port that the user chose; without one, the default port or else any free port.
fn choose_port(wanted: Option<u16>) -> Result<u16> {
    let free = |port| -> std::io::Result<u16> {
        Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, port))?
            .local_addr()?
            .port())
    };
    match wanted {
        Some(port) => free(port).map_err(|error| {
            anyhow!("port {port} of 127.0.0.1 cannot be used ({error}): choose another with --port")
        }),
        None => free(METRICS_PORT)
            .or_else(|_| free(0))
            .context("no port of 127.0.0.1 is free"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_replaced_unless_it_was_asked_for() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = choose_port(Some(port)).unwrap_err().to_string();
        assert!(error.contains(&format!("port {port}")), "{error}");
        assert!(choose_port(None).is_ok());
    }

    #[test]
    fn several_kernels_have_a_file_each() {
        let named = |file| named_after(Path::new(file), "6.1");
        assert_eq!(named("/a/lab.json"), Path::new("/a/lab-6.1.json"));
        assert_eq!(named("lab"), Path::new("lab-6.1"));
    }

    #[test]
    fn an_unwritable_result_is_noticed_first() {
        let dir = tempfile::tempdir().unwrap();
        assert!(check_writable(&dir.path().join("no/such/dir")).is_err());
        let file = dir.path().join("new");
        check_writable(&file).unwrap();
        assert!(!file.exists());
    }
}
