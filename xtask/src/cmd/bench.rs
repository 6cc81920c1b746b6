//! `cargo xtask bench`: measures the cost of the profiler, in instructions of the lab machine and in nanoseconds of
//! this machine.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::bench::promises::Promise;
use crate::bench::results::{Measured, Run};
use crate::bench::tools::{self, Tools};
use crate::bench::{chart, compare, table};
use crate::cmd::vm::Guest;
use crate::host::command;
use crate::kernels::BootFiles;
use crate::output::Output;
use crate::setup::{self, KernelChoices, Lab, artifacts};
use crate::vm::accel::Choice;
use crate::vm::hardware::Accel;
use crate::vm::machine::{Ending, Input};
use crate::vm::qemu::COUNTED_CPU;

/// Measures the cost of the profiler and of other tools
#[derive(clap::Args)]
#[command(
    after_help = "The lab machine's clock counts instructions (QEMU's icount), so two runs differ by no more \
    than the spread that the table shows. The bench fails if a cost exceeds its limit in SPECIFICATION.md."
)]
pub struct Arguments {
    #[command(flatten)]
    kernel: KernelChoices,
    /// Writes all figures to a file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes a chart to a file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Compares with an earlier run's --json, names each cost that has risen by more than the spread, and fails if
    /// there is one
    #[arg(long, value_name = "OLD.json")]
    compare: Option<PathBuf>,
    /// Skips the measurements on this machine's own kernel
    #[arg(long)]
    no_native: bool,
    /// Measures only these variants, by their names in the table, and the variant `nothing`
    #[arg(last = true, value_name = "VARIANT")]
    variants: Vec<String>,
}

/// The profiler loads no standby programs on this kernel, and all tools of Debian 12 run on it.
const KERNEL: &str = "6.12";
const TIMEOUT: Duration = Duration::from_mins(18);
const UNIT: &str = "instructions";
const PROMISES: &str = "zc-profiler/SPECIFICATION.md";

pub fn run(arguments: &Arguments) -> Result<i32> {
    let start = Instant::now();
    // Before the run, which takes long enough for a new commit.
    let commit = commit();
    let old = arguments.compare.as_deref().map(read).transpose()?;
    let document = artifacts::root().join(PROMISES);
    let document =
        fs::read_to_string(document).with_context(|| format!("cannot read {PROMISES}"))?;
    let promises = Promise::parse(&document).context(PROMISES)?;
    let kernels = arguments.kernel.or(KERNEL)?;
    let [kernel] = kernels.as_slice() else {
        bail!("the bench measures one kernel at a time: choose one by --kernel");
    };
    let lab = setup::prepare(std::slice::from_ref(kernel), &[])?;
    let tools = tools::prepare(&lab.cache)
        .inspect_err(|error| eprintln!("bench: continues without other tools: {error:#}"))
        .ok();
    let profiler = artifacts::profiler()?;
    let bench = artifacts::bench()?;
    let kernel = &lab.kernels[0];
    let machine = Machine {
        lab: &lab,
        kernel,
        tools: tools.as_ref(),
        profiler: &profiler,
        bench: &bench,
    };

    let title = format!("{} -cpu {COUNTED_CPU}, 1 CPU", kernel.title);
    let mut words = vec!["guest".to_owned()];
    words.extend(arguments.variants.iter().cloned());
    let guest = Measured::parse(&title, UNIT, &machine.run(words)?)?;
    let more = |word: &str| -> Result<BTreeMap<String, f64>> {
        if !arguments.variants.is_empty() {
            return Ok(BTreeMap::new());
        }
        let text = machine.run(vec![word.into()])?;
        serde_json::from_str(&text).with_context(|| format!("the bench printed `{text}`"))
    };
    let candidates = more("candidates")?;
    let idle = more("idle")?;
    let native = !arguments.no_native && arguments.variants.is_empty();
    let complain = |error: &anyhow::Error| eprintln!("bench: not measured natively: {error:#}");
    let native = native.then(|| natively(&bench, &profiler).inspect_err(complain));
    let (native, agent) = native.and_then(Result::ok).unzip();
    let run = Run {
        commit,
        command: format!("cargo xtask bench --kernel {}", kernel.name),
        seconds: start.elapsed().as_secs(),
        guest,
        native,
        candidates,
        idle,
        agent: agent.unwrap_or_default(),
    };
    println!("{}", table::whole(&run));
    if let Some(file) = &arguments.json {
        let text = serde_json::to_string_pretty(&run).context("the figures as JSON")?;
        write(file, &text)?;
    }
    if let Some(file) = &arguments.svg {
        write(file, &chart::svg(&run.guest))?;
    }
    let mut code = 0;
    // SPECIFICATION.md promises the costs on this kernel only.
    if kernel.name == KERNEL {
        let broken: Vec<_> = promises
            .iter()
            .filter_map(|promise| promise.broken(&run))
            .map(|broken| broken.to_string())
            .collect();
        if !broken.is_empty() {
            println!("more than {PROMISES} promises:\n  {}", broken.join("\n  "));
            code = 1;
        }
    }
    if let Some(old) = old {
        let lines = compare::dearer(&old.guest, &run.guest);
        if lines.is_empty() {
            println!("no cost has risen since {}", old.commit);
        } else {
            println!(
                "costs that have risen since {}:\n  {}",
                old.commit,
                lines.join("\n  ")
            );
            code = 1;
        }
    }
    if code != 0 {
        return Ok(code);
    }
    println!("xtask bench: ok in {} s", start.elapsed().as_secs());
    Ok(0)
}

fn read(file: &Path) -> Result<Run> {
    let text =
        fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    serde_json::from_str(&text)
        .with_context(|| format!("{} is not a file that --json has written", file.display()))
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

/// The commit that is measured, and whether there are changes on top of it.
fn commit() -> String {
    let git = |words: &[&str]| {
        command::text(
            Command::new("git")
                .current_dir(artifacts::root())
                .args(words),
        )
    };
    match git(&["rev-parse", "--short=12", "HEAD"]) {
        Err(_) => "unknown".into(),
        Ok(commit) => {
            let clean = git(&["status", "--porcelain"]).is_ok_and(|text| text.is_empty());
            let changed = if clean { "" } else { " and changes" };
            format!("{}{changed}", commit.trim())
        }
    }
}

/// The lab machine that counts instructions.
struct Machine<'a> {
    lab: &'a Lab,
    kernel: &'a BootFiles,
    tools: Option<&'a Tools>,
    profiler: &'a Path,
    bench: &'a Path,
}

impl Machine<'_> {
    /// The output of the bench in this machine.
    fn run(&self, words: Vec<String>) -> Result<String> {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let printed = Collected::default();
        let mut command = vec![text(self.bench)];
        command.extend(words);
        let guest = Guest {
            command,
            directory: PathBuf::from("/"),
            environment: self.environment(),
            profiler: self.profiler,
            input: Input::Nothing,
            output: Output {
                stdout: Box::new(printed.clone()),
                stderr: Box::new(io::stderr()),
            },
            terminal: None,
            systemd: false,
            cpus: None,
            share: None,
            forward: None,
            limit: Some(TIMEOUT),
        };
        let choice = Choice {
            accel: Accel::Counting,
            reason: "software emulation that counts instructions",
        };
        match guest.run_by(&choice, self.lab, self.kernel)? {
            Ending::Interrupted(signal) => bail!("interrupted by signal {signal}"),
            ending => match ending.exit_code() {
                0 => printed.text(),
                code => bail!("the bench ended with exit code {code}"),
            },
        }
    }

    /// PATH and the search path of libraries, with the tools of [`tools::prepare`].
    fn environment(&self) -> Vec<(String, String)> {
        let Some(tools) = self.tools else {
            return Vec::new();
        };
        let joined = |paths: &[PathBuf]| {
            let paths = paths.iter().map(|path| path.to_string_lossy());
            paths.collect::<Vec<_>>().join(":")
        };
        let own = self.profiler.parent().unwrap_or(Path::new("/"));
        let path = format!(
            "{}:{}:/usr/sbin:/usr/bin:/sbin:/bin",
            own.display(),
            joined(&tools.programs)
        );
        vec![
            ("PATH".into(), path),
            ("LD_LIBRARY_PATH".into(), joined(&tools.libraries)),
        ]
    }
}

/// Collects the output of a machine's command.
#[derive(Clone, Default)]
struct Collected(Arc<Mutex<Vec<u8>>>);

impl Collected {
    fn text(&self) -> Result<String> {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8(bytes.clone()).context("the output of the bench is not text")
    }
}

impl Write for Collected {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Measures on this machine's own kernel, with tracepoints only: the cost of an event, and of the agent itself.
fn natively(bench: &Path, profiler: &Path) -> Result<(Measured, BTreeMap<String, f64>)> {
    eprintln!("bench: natively…");
    let path = |name: &Path| std::env::join_paths([name, Path::new("/usr/bin"), Path::new("/bin")]);
    let path = path(profiler.parent().unwrap_or(Path::new("/"))).context("the PATH")?;
    let run = |word| {
        let mut command = Command::new(bench);
        command
            .arg(word)
            .env("PATH", &path)
            .stderr(Stdio::inherit());
        command::text(&mut command)
    };
    let text = run("native")?;
    eprintln!("bench: the agent among ten thousand processes…");
    let agent = run("scrape")?;
    let agent =
        serde_json::from_str(&agent).with_context(|| format!("the bench printed `{agent}`"))?;
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let title = format!("Linux {}, natively", release.trim());
    Ok((Measured::parse(&title, "nanoseconds", &text)?, agent))
}
