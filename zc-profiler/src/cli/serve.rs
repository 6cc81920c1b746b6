//! `zc-profiler serve`.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use clap::ValueEnum;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{config, tell};
use crate::{
    Agent, Options, Profiler, Scope,
    agent::{GroupBy, Grouping},
    export::http::{self, Limits, Web},
    kernel,
    kernel::Service,
    probes::{Evidence, Filter, State, room_for_processes},
    selftest::{self, Plan, Verdict},
};

/// How often it is looked whether room must be made in the kernel's map.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After so many looks it is made in any case.
const LOOKS: u32 = 10;

#[derive(Debug, Default, clap::Args)]
#[command(
    after_help = "An option is taken from the command line, else from the environment, else from the \
    configuration file, else it is what is built in. SIGHUP reads the file again, and counts and groups what \
    it says, without losing a count. In the file, filters are lists: `unit = [\"nginx.service\"]`."
)]
pub struct Args {
    /// The configuration file [default: /etc/zc-profiler/config.toml, if there is one]
    #[arg(long, value_name = "FILE", env = "ZC_PROFILER_CONFIG")]
    config: Option<PathBuf>,
    /// Where to serve /metrics, /api/v1/ledger, /healthz and /readyz [default: 127.0.0.1:9464; in the file: listen]
    #[arg(long, value_name = "ADDR", env = "ZC_PROFILER_LISTEN")]
    listen: Option<String>,
    /// TLS, client certificates and passwords of the endpoint: a file in the form that Prometheus'
    /// exporters share. It, and those that it names, are read again as soon as they change [in the file:
    /// `web_config`]
    #[arg(long, value_name = "FILE", env = "ZC_PROFILER_WEB_CONFIG")]
    web_config: Option<PathBuf>,
    /// Sum processes by service (systemd unit or container, else command name), by process or by
    /// command name [default: service; in the file: `group_by`]
    #[arg(long, value_enum, value_name = "WHAT", env = "ZC_PROFILER_GROUP_BY")]
    group_by: Option<GroupBy>,
    /// How many groups to export at most; the rest is summed as `other` [default: 200; in the file:
    /// `max_groups`]
    #[arg(long, value_name = "N", env = "ZC_PROFILER_MAX_GROUPS", value_parser = clap::value_parser!(u32).range(1..))]
    max_groups: Option<u32>,
    /// How long to export a group after its last process has gone [default: 300; in the file:
    /// `grace_seconds`]
    #[arg(long, value_name = "SECONDS", env = "ZC_PROFILER_GRACE_SECONDS")]
    grace_seconds: Option<u64>,
    /// For how many processes at once there is room in the kernel; what more there are is counted as
    /// `other`. Taken at the start only [default: by this machine's memory, 4096 to 65536; in the file:
    /// `max_processes`]
    #[arg(long, value_name = "N", env = "ZC_PROFILER_MAX_PROCESSES", value_parser = clap::value_parser!(u32).range(1..))]
    max_processes: Option<u32>,
    /// Have the kernel measure how often and how long each probe's program runs, and export it. It costs
    /// some 150 instructions a run, of all BPF programs of the machine; the time leaves out the trampoline
    /// that calls the program, often the greater part. Taken at the start only [default: off; in the file:
    /// `probe_statistics`]
    #[arg(long, env = "ZC_PROFILER_PROBE_STATISTICS")]
    probe_statistics: bool,
    /// Count only these processes and their descendants, separated by commas; each filter adds to what
    /// is counted [default: everybody; in the file: pid]
    #[arg(
        long = "pid",
        value_name = "PID",
        env = "ZC_PROFILER_PID",
        value_delimiter = ','
    )]
    pids: Vec<u32>,
    /// Count only processes of these command names and their descendants [in the file: comm]
    #[arg(
        long = "comm",
        value_name = "NAME",
        env = "ZC_PROFILER_COMM",
        value_delimiter = ','
    )]
    comms: Vec<String>,
    /// Count only processes of these systemd units, running or not, and their descendants [in the file:
    /// unit]
    #[arg(long = "unit", value_name = "UNIT", env = "ZC_PROFILER_UNIT", value_delimiter = ',', value_parser = unit_name)]
    units: Vec<String>,
    /// Count only processes in these cgroups, in those inside them, and their descendants [in the file:
    /// cgroup]
    #[arg(
        long = "cgroup",
        value_name = "PATH",
        env = "ZC_PROFILER_CGROUP",
        value_delimiter = ','
    )]
    cgroups: Vec<PathBuf>,
}

/// What holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    listen: String,
    web_config: Option<PathBuf>,
    grouping: Grouping,
    max_processes: u32,
    probe_statistics: bool,
    filter: Filter,
}

impl Args {
    /// What holds now: reads the file.
    pub fn settings(&self) -> anyhow::Result<Settings> {
        Ok(self.over(config::File::read(self.config.as_deref())?))
    }

    /// What holds over a file's content.
    pub fn over(&self, file: config::File) -> Settings {
        let built_in = Grouping::default();
        let listen = self.listen.clone().or(file.listen);
        let max = self.max_groups.or(file.max_groups);
        let grace = self.grace_seconds.or(file.grace_seconds);
        Settings {
            listen: listen.unwrap_or_else(|| "127.0.0.1:9464".into()),
            web_config: self
                .web_config
                .clone()
                .or(file.web_config)
                .filter(|path| !path.as_os_str().is_empty()),
            grouping: Grouping {
                by: self.group_by.or(file.group_by).unwrap_or(built_in.by),
                max: max.map_or(built_in.max, |max| max as usize),
                grace: grace.map_or(built_in.grace, Duration::from_secs),
            },
            max_processes: self
                .max_processes
                .or(file.max_processes)
                .unwrap_or_else(room_for_processes),
            probe_statistics: self.probe_statistics || file.probe_statistics.unwrap_or_default(),
            filter: Filter {
                pids: given(&self.pids, file.pid),
                comms: given(&self.comms, file.comm),
                units: given(&self.units, file.unit),
                cgroups: given(&self.cgroups, file.cgroup),
            },
        }
    }
}

fn given<T: Clone>(here: &[T], in_file: Option<Vec<T>>) -> Vec<T> {
    if here.is_empty() {
        in_file.unwrap_or_default()
    } else {
        here.to_owned()
    }
}

/// A unit's name; one without a kind is a service, as systemctl has it.
pub fn unit_name(text: &str) -> Result<String, String> {
    let is_unit = |name: &str| Service::of_path(name.as_bytes()).unit.as_deref() == Some(name);
    let service = format!("{text}.service");
    [text.to_owned(), service]
        .into_iter()
        .find(|name| is_unit(name))
        .ok_or_else(|| format!("{text:?} is not the name of a unit that has processes"))
}

impl Settings {
    /// What is wrong with the web configuration, if there is one.
    pub fn check_web_config(&self) -> anyhow::Result<()> {
        Web::open(self.web_config.as_deref()).map(drop)
    }

    /// As the file would say it.
    pub fn shown(&self) -> Vec<(&'static str, String)> {
        let by = self.grouping.by.to_possible_value();
        let web_config = self.web_config.as_deref().unwrap_or(Path::new(""));
        vec![
            ("listen", format!("{:?}", self.listen)),
            ("web_config", format!("{:?}", web_config.to_string_lossy())),
            (
                "group_by",
                format!("{:?}", by.as_ref().map_or("", |by| by.get_name())),
            ),
            ("max_groups", self.grouping.max.to_string()),
            ("grace_seconds", self.grouping.grace.as_secs().to_string()),
            ("max_processes", self.max_processes.to_string()),
            ("probe_statistics", self.probe_statistics.to_string()),
            ("pid", format!("{:?}", self.filter.pids)),
            ("comm", format!("{:?}", self.filter.comms)),
            ("unit", format!("{:?}", self.filter.units)),
            ("cgroup", format!("{:?}", self.filter.cgroups)),
        ]
    }
}

pub fn run(args: Args, options: Options) -> anyhow::Result<ExitCode> {
    share_heap();
    let settings = args.settings()?;
    let web = Web::open(settings.web_config.as_deref())?;
    let listener = http::bind(&settings.listen)?;
    let address = listener.local_addr()?;
    let scope = if settings.filter.is_empty() {
        Scope::System
    } else {
        Scope::Tree
    };
    let options = Options {
        processes: Some(settings.max_processes),
        statistics: settings.probe_statistics,
        ..options
    };
    let mut profiler = Profiler::attach(scope, options)?;
    warn_of_losses(&profiler);
    calibrate(&mut profiler);
    if scope == Scope::Tree {
        profiler.filter(&settings.filter)?;
    }
    if let Some(reason) = profiler.environment().skips() {
        log::warn!("{reason}");
    }
    let kept = kernel::give_up().context("dropping capabilities")?;
    let agent = Arc::new(Agent::new(profiler, settings.grouping));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let hangup = signal(SignalKind::hangup())?;
        let counting = Arc::clone(&agent);
        let stop = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            // Detaching takes the kernel some seconds: for each function it waits for a grace period of
            // RCU tasks, a tenth of a second by its own pause between two, one after the other under one
            // lock. On 6.1 and 6.12 it takes ten, whether the links are closed in turn, by as many
            // threads, or by the process's end. So nothing is counted and nobody served from here on,
            // and what is still attached returns at once.
            counting.profiler().disable();
            tell(format_args!(
                "no longer counting; the kernel takes the probes down"
            ));
        };
        tokio::spawn(retire(Arc::clone(&agent)));
        tokio::spawn(reload(hangup, args, settings, Arc::clone(&agent)));
        tell(format_args!(
            "counting; capabilities kept: {kept}; metrics: {}://{address}/metrics",
            web.scheme()
        ));
        http::serve(listener, agent, web, Limits::default(), stop).await
    })?;
    runtime.shutdown_background();
    Ok(ExitCode::SUCCESS)
}

/// Scrapes and what makes room run in threads of their own: what one has freed, the other takes. With a heap
/// each, memory would grow to what the largest crowd takes in every one of them.
fn share_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it sets a number of the allocator's.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// On each SIGHUP takes what can change while it counts from the file; a file with mistakes changes
/// nothing.
async fn reload(mut hangup: Signal, args: Args, mut settings: Settings, agent: Arc<Agent>) {
    while hangup.recv().await.is_some() {
        let new = match args.settings() {
            Ok(new) => new,
            Err(error) => {
                log::error!("the configuration stays as it was: {error:#}");
                continue;
            }
        };
        // The same filter too: cgroups of its paths may have been made anew.
        if let Err(error) = agent.profiler().filter(&new.filter) {
            log::error!("the configuration stays as it was: {error}");
            continue;
        }
        if new.listen != settings.listen || new.web_config != settings.web_config {
            log::warn!(
                "still at {}: another address or web configuration needs a restart",
                settings.listen
            );
        }
        agent.regroup(new.grouping);
        settings.grouping = new.grouping;
        tell(format_args!("configuration read again"));
    }
}

/// Counts known bytes before anything else; numbers that are wrong are still served, as wrong ones.
fn calibrate(profiler: &mut Profiler) {
    let plan = Plan {
        brief: true,
        dir: selftest::default_dir(),
    };
    match profiler.calibrate(&plan) {
        Ok(outcomes) => {
            for outcome in outcomes {
                if outcome.verdict == Verdict::Wrong {
                    log::error!(
                        "known bytes were NOT counted exactly on the path {}: {}",
                        outcome.path.name,
                        outcome.complaint()
                    );
                }
            }
        }
        Err(error) => log::error!("whether known bytes are counted exactly is not known: {error}"),
    }
}

async fn retire(agent: Arc<Agent>) {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    for look in (0..LOOKS).cycle() {
        ticks.tick().await;
        let due = match agent.profiler().is_filling(look == 0) {
            Ok(filling) => filling,
            Err(error) => {
                log::error!("looking for room in the ledger: {error}");
                false
            }
        };
        if due && let Err(error) = agent.retire() {
            log::error!("making room in the ledger: {error}");
        }
    }
}

/// Says at once what will not be counted, rather than exporting silence.
pub fn warn_of_losses(profiler: &Profiler) {
    if profiler.evidence() == Evidence::Derived {
        log::warn!(
            "no program is attached to the kernel's functions: copies are derived from what system calls \
             returned, and page faults are not counted; `zc-profiler doctor` says why"
        );
        return;
    }
    for status in profiler.statuses() {
        if let State::Failed(reason) = &status.state {
            log::warn!("{}: {reason}; lost: {}", status.hook.name, status.hook.lost);
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn the_command_line_comes_before_the_file_before_what_is_built_in() {
        let args = Line::parse_from([
            "serve",
            "--max-groups",
            "5",
            "--pid",
            "4,5",
            "--unit",
            "nginx",
        ])
        .args;
        let file = config::File {
            max_groups: Some(7),
            grace_seconds: Some(9),
            max_processes: Some(600),
            web_config: Some("/a \"web\".yml".into()),
            probe_statistics: Some(true),
            unit: Some(vec!["redis.service".into()]),
            cgroup: Some(vec!["/a".into()]),
            ..config::File::default()
        };
        let expected = [
            ("listen", "\"127.0.0.1:9464\""),
            ("web_config", "\"/a \\\"web\\\".yml\""),
            ("group_by", "\"service\""),
            ("max_groups", "5"),
            ("grace_seconds", "9"),
            ("max_processes", "600"),
            ("probe_statistics", "true"),
            ("pid", "[4, 5]"),
            ("comm", "[]"),
            ("unit", "[\"nginx.service\"]"),
            ("cgroup", "[\"/a\"]"),
        ];
        let expected = expected.map(|(key, value)| (key, value.to_owned()));
        assert_eq!(args.over(file).shown(), expected);
    }
}
