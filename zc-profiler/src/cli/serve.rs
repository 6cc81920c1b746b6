//! `zc-profiler serve`.

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    Accounts, Profiler, Scope,
    calibration::{self, Plan, Verdict},
    export::http,
    ledger::{GroupBy, Grouping},
    probes::{Evidence, State},
};

/// How often room is made in the kernel's map, should nobody scrape.
const RETIRE_EVERY: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to serve /metrics and /healthz
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9464")]
    listen: String,
    /// Sum processes by service (systemd unit or container, else command name), by process or by
    /// command name
    #[arg(long, value_enum, value_name = "WHAT", default_value = "service")]
    group_by: GroupBy,
    /// How many groups to export at most; the rest is summed as `other`
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    max_groups: u32,
    /// How long to export a group after its last process has gone
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    grace: u64,
}

impl Args {
    fn grouping(&self) -> Grouping {
        Grouping {
            by: self.group_by,
            max: self.max_groups as usize,
            grace: Duration::from_secs(self.grace),
        }
    }
}

pub fn run(args: &Args, verbose: bool) -> anyhow::Result<ExitCode> {
    let listener = http::bind(&args.listen)?;
    let address = listener.local_addr()?;
    let mut profiler = Profiler::attach(Scope::System, verbose)?;
    warn_of_losses(&profiler);
    calibrate(&mut profiler);
    let accounts = Arc::new(Accounts::new(profiler, args.grouping()));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let stop = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        tokio::spawn(retire(Arc::clone(&accounts)));
        eprintln!("zc-profiler: counting; metrics: http://{address}/metrics");
        http::serve(listener, accounts, stop).await
    })?;
    runtime.shutdown_background();
    Ok(ExitCode::SUCCESS)
}

/// Counts known bytes before anything else; numbers that are wrong are still served, as wrong ones.
fn calibrate(profiler: &mut Profiler) {
    let plan = Plan {
        brief: true,
        dir: calibration::default_dir(),
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

async fn retire(accounts: Arc<Accounts>) {
    let mut ticks = tokio::time::interval(RETIRE_EVERY);
    loop {
        ticks.tick().await;
        if let Err(error) = accounts.retire() {
            log::error!("making room in the ledger: {error}");
        }
    }
}

/// Says at once what will not be counted, rather than exporting silence.
pub fn warn_of_losses(profiler: &Profiler) {
    if profiler.evidence() == Evidence::Derived {
        log::warn!(
            "no function of this kernel can be hooked: copies are derived from what calls returned, page \
             faults are not counted; `zc-profiler doctor` says why"
        );
        return;
    }
    for status in profiler.statuses() {
        if let State::Failed(reason) = &status.state {
            log::warn!("{}: {reason}; lost: {}", status.hook.name, status.hook.lost);
        }
    }
}
