//! `zc-profiler serve`.

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    Options, Profiler, Scope,
    calibration::{self, Plan, Verdict},
    export::http,
    probes::{Evidence, State},
};

/// How often room is made in the kernel's map, should nobody scrape.
const RETIRE_EVERY: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to serve /metrics and /healthz
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9464")]
    listen: String,
}

pub fn run(args: &Args, options: Options) -> anyhow::Result<ExitCode> {
    let listener = http::bind(&args.listen)?;
    let address = listener.local_addr()?;
    let mut profiler = Profiler::attach(Scope::System, options)?;
    warn_of_losses(&profiler);
    calibrate(&mut profiler);
    let profiler = Arc::new(profiler);
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
        tokio::spawn(retire(Arc::clone(&profiler)));
        eprintln!("zc-profiler: counting; metrics: http://{address}/metrics");
        http::serve(listener, profiler, stop).await
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

async fn retire(profiler: Arc<Profiler>) {
    let mut ticks = tokio::time::interval(RETIRE_EVERY);
    loop {
        ticks.tick().await;
        if let Err(error) = profiler.retire() {
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
