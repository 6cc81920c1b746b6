//! `zc-profiler lab`.

mod hardware;
mod note;
mod row;
mod size;
mod tables;

use std::{
    ffi::CString,
    future,
    io::{self, Write},
    iter,
    mem::MaybeUninit,
    net::TcpListener,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    thread,
    time::Instant,
};

use anyhow::{Context, ensure};
use clap::builder::{PossibleValue, PossibleValuesParser};

use crate::{
    Agent, Options, Profiler, Scope,
    agent::{GroupBy, Grouping},
    export::{http, json},
    lab::{self, Meter, MeterError, Plan, Scenario, Signals, Source, TABLES, Target, scenarios},
    ledger::{Counters, ProcessKey},
};
use row::{Document, Row};

/// The largest count that one system call takes (`MAX_RW_COUNT`).
const LARGEST_CHUNK: u64 = 0x7fff_f000;
const DEFAULT_CHUNK: u64 = 64 << 10;
/// What means every scenario.
const ALL: &str = "all";

/// Arguments of `lab`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Every method runs in a process of its own, from a file to a TCP socket on loopback or to \
    another file, or with the hardware that the options name from a disk and to a NIC. The bytes it must show are known; \
    a row whose measured bytes differ from them by one says FAIL, and the exit code is 1."
)]
pub struct LabArgs {
    /// What to drive: methods, whole tables of them, or all [default: the tables classic and methods]
    #[arg(value_name = "METHOD", value_parser = PossibleValuesParser::new(method_names()))]
    methods: Vec<String>,
    /// How much each method moves; K, M and G mean 1024, 1024^2 and 1024^3
    #[arg(long, value_name = "BYTES", value_parser = size::parse, default_value = "16M")]
    payload: u64,
    /// How much each call is asked to move [default: 64K, or the payload if that is less]
    #[arg(long, value_name = "BYTES", value_parser = size::parse)]
    chunk: Option<u64>,
    /// Write the table as JSON too; - for standard output, the table then goes to standard error
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Serve /metrics and /healthz there while the lab runs
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Keep serving after the table, until SIGINT or SIGTERM
    #[arg(long, requires = "listen")]
    hold: bool,
    /// Where the files of the lab lie while it runs [default: the directory for temporary files]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    hardware: hardware::Args,
}

/// Arguments of the hidden subcommand that `lab` starts its workers with.
#[derive(Debug, clap::Args)]
pub struct WorkerArgs {
    job: String,
}

/// What the workers' subcommand is called.
pub const WORKER: &str = lab::COMMAND;

/// Carries out `lab`; to be called by the main thread.
///
/// # Errors
///
/// If the arguments cannot be met, or nothing can be measured here; a row that fails is none.
pub fn run(args: &LabArgs, options: Options) -> anyhow::Result<ExitCode> {
    let signals = Signals::block()?;
    match drive(args, options, &signals) {
        Ok(code) => Ok(code),
        Err(error) => match error.downcast_ref() {
            Some(lab::Error::Interrupted(signal)) => {
                Ok(ExitCode::from(u8::try_from(128 + signal).unwrap_or(1)))
            }
            _ => Err(error),
        },
    }
}

/// Carries out the job that `lab` gave this process.
///
/// # Errors
///
/// If this process is no child of a lab.
pub fn worker(args: &WorkerArgs) -> anyhow::Result<ExitCode> {
    lab::work(&args.job)?;
    Ok(ExitCode::SUCCESS)
}

fn drive(args: &LabArgs, options: Options, signals: &Signals) -> anyhow::Result<ExitCode> {
    let scenarios = chosen(&args.methods);
    let dir = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let hardware = args
        .hardware
        .found(&dir)
        .with_namespaces_for(scenarios.iter().copied());
    let (scenarios, left_out) = hardware::possible(scenarios, &hardware);
    ensure!(!scenarios.is_empty(), "{}", left_out.join("; "));
    let chunk = chunk(args)?;
    check_space(&dir, args.payload, &scenarios)?;
    if let Some(path) = &args.json {
        check_writable(path)?;
    }
    let listener = args.listen.as_deref().map(http::bind).transpose()?;

    let profiler = Profiler::attach(Scope::Tree, options)?;
    // Its processes are of one service, and named after what they do.
    let grouping = Grouping {
        by: GroupBy::Comm,
        ..Grouping::default()
    };
    let agent = Arc::new(Agent::new(profiler, grouping));
    let profiler = agent.profiler();
    signals.check()?;
    if let Some(listener) = listener {
        serve(listener, Arc::clone(&agent))?;
    }
    let plan = Plan::new(&dir, args.payload, chunk, hardware)?;
    let rows = measure(&scenarios, &plan, profiler, signals)?;
    drop(plan);

    let document = Document {
        kernel: profiler.kernel(),
        evidence: profiler.evidence().name(),
        payload_bytes: args.payload,
        chunk_bytes: chunk as u64,
        rows: &rows,
        left_out: &left_out,
    };
    let report = tables::report(&document);
    let shown = if args.json.as_deref() == Some(Path::new("-")) {
        io::stderr().write_all(report.as_bytes())
    } else {
        io::stdout().write_all(report.as_bytes())
    };
    if let Some(path) = &args.json {
        json::write(&document, path)?;
    }
    for (reason, count) in profiler.snapshot()?.losses() {
        if count > 0 {
            say(&format!("lab: {count} dropped: {reason}\n"));
        }
    }
    match shown {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            return Err(error).context("writing the table");
        }
        _ => {}
    }
    if args.hold {
        say("lab: serving until interrupted\n");
        signals.stop();
    }
    Ok(ExitCode::from(u8::from(!rows.iter().all(|row| row.ok))))
}

/// Only senders are counted, and those from their first barrier on, so that the metrics of a lab are
/// the sums of its table.
impl Meter for Profiler {
    fn begin(&self, pid: u32) -> Result<Counters, MeterError> {
        self.follow(pid)?;
        self.end(pid)
    }

    fn end(&self, pid: u32) -> Result<Counters, MeterError> {
        let snapshot = self.snapshot()?;
        let counters = |pid| snapshot.process(pid).map(|process| &process.counters);
        let mut sender = counters(pid).cloned().unwrap_or_default();
        // PIO runs in interrupts, on top of any task; in the lab nobody else uses such a disk.
        if let Some(kernel) = counters(ProcessKey::KERNEL.pid) {
            sender.pio_bytes = kernel.pio_bytes;
        }
        Ok(sender)
    }
}

fn measure(
    scenarios: &[&'static Scenario],
    plan: &Plan,
    profiler: &Profiler,
    signals: &Signals,
) -> Result<Vec<Row>, lab::Error> {
    let mut rows = Vec::new();
    for (index, scenario) in scenarios.iter().enumerate() {
        let (number, of) = (index + 1, scenarios.len());
        let (method, target) = (scenario.method, scenario.target.name());
        say(&format!("lab: {number}/{of} {method} to {target} … "));
        let begun = Instant::now();
        let row = match plan.run(scenario, signals, profiler) {
            Ok(run) => Row::new(scenario, plan, run, profiler.evidence()),
            Err(error @ lab::Error::Interrupted(_)) => {
                say("interrupted\n");
                return Err(error);
            }
            Err(error) => Row::failed(scenario, &error),
        };
        let verdict = if row.ok { "ok" } else { "FAIL" };
        say(&format!(
            "{verdict} ({:.1} s)\n",
            begun.elapsed().as_secs_f64()
        ));
        rows.push(row);
    }
    Ok(rows)
}

fn serve(listener: TcpListener, agent: Arc<Agent>) -> anyhow::Result<()> {
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    thread::spawn(move || {
        let (web, limits) = (http::Web::default(), http::Limits::default());
        let serving = http::serve(listener, agent, web, limits, future::pending());
        if let Err(error) = runtime.block_on(serving) {
            log::error!("metrics: {error}");
        }
    });
    say(&format!("lab: metrics: http://{address}/metrics\n"));
    Ok(())
}

/// Progress; whoever closed standard error does not want it.
fn say(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

/// The scenarios of these names, in the order of the tables; the usual ones if none is named. A method
/// that a usual table has is driven in the others only with their whole table.
fn chosen(names: &[String]) -> Vec<&'static Scenario> {
    let wanted = |name: &str| names.iter().any(|other| other == name);
    let usual = |method| {
        let mut tables = TABLES.iter().filter(|table| table.usual);
        tables.any(|table| table.rows.iter().any(|row| row.method == method))
    };
    TABLES
        .iter()
        .flat_map(|table| {
            let whole = wanted(ALL) || wanted(table.name) || names.is_empty() && table.usual;
            table.rows.iter().filter(move |row| {
                whole || wanted(row.method) && (table.usual || !usual(row.method))
            })
        })
        .collect()
}

/// What METHOD may be.
fn method_names() -> Vec<PossibleValue> {
    let everything = PossibleValue::new(ALL).help("every method on every target");
    let tables = TABLES
        .iter()
        .map(|table| PossibleValue::new(table.name).help(table.about));
    let mut names: Vec<_> = scenarios().map(|scenario| scenario.method).collect();
    names.sort_unstable();
    names.dedup();
    let methods = names.into_iter().map(PossibleValue::new);
    iter::once(everything)
        .chain(tables)
        .chain(methods)
        .collect()
}

fn chunk(args: &LabArgs) -> anyhow::Result<usize> {
    let chunk = args.chunk.unwrap_or(DEFAULT_CHUNK.min(args.payload));
    ensure!(
        chunk <= args.payload,
        "--chunk {chunk} is more than the payload of {} bytes",
        args.payload
    );
    ensure!(
        chunk <= LARGEST_CHUNK,
        "--chunk {chunk} is more than one system call takes ({LARGEST_CHUNK} bytes)"
    );
    Ok(usize::try_from(chunk)?)
}

fn check_space(dir: &Path, payload: u64, scenarios: &[&Scenario]) -> anyhow::Result<()> {
    let second = scenarios.iter().any(|scenario| {
        [Target::File, Target::Disk].contains(&scenario.target) || scenario.source == Source::Cold
    });
    let need = payload.saturating_mul(if second { 2 } else { 1 });
    let free = free_space(dir).with_context(|| format!("--dir {}", dir.display()))?;
    ensure!(
        need <= free,
        "{} has {free} bytes free, and the lab needs {need}: choose a smaller --payload or another --dir",
        dir.display()
    );
    Ok(())
}

fn free_space(dir: &Path) -> io::Result<u64> {
    let path = CString::new(dir.as_os_str().as_bytes())?;
    let mut info = MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: `path` ends in zero, `info` is writable, and all zero is a value of it.
    let (result, info) = unsafe {
        let result = libc::statvfs(path.as_ptr(), info.as_mut_ptr());
        (result, info.assume_init())
    };
    if result == 0 {
        Ok(info.f_bavail.saturating_mul(info.f_frsize))
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Finds out before the run, not after it, that there is no place for its result.
fn check_writable(path: &Path) -> anyhow::Result<()> {
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    ensure!(
        dir.is_dir() && !path.is_dir(),
        "--json {}: no such place for a file",
        path.display()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_usual_method_is_driven_elsewhere_only_with_the_whole_table() {
        let targets = |names: &[&str]| -> Vec<&str> {
            let names: Vec<_> = names.iter().map(ToString::to_string).collect();
            let rows = chosen(&names).into_iter();
            rows.filter(|row| row.method == "read+write")
                .map(|row| row.target.name())
                .collect()
        };
        assert_eq!(targets(&["read+write"]), ["tcp", "file"]);
        assert_eq!(targets(&["network"]), ["veth", "veth-sg", "veth-tx"]);
        assert_eq!(targets(&["all"]).len(), 7);
        assert_eq!(chosen(&["ring-send".into()]).len(), 1);
    }
}
