//! What the agent itself costs where nothing happens, inside the lab machine: its clock jumps over idle
//! time, so that an hour passes in seconds.

use std::{thread, time::Duration};

use anyhow::{Result, ensure};
use serde_json::json;

use crate::{agent::Agent, guest::say};

/// What is done once after the start is done by then.
const SETTLING: Duration = Duration::from_mins(1);
/// It takes about a minute outside: the lab machine's own program looks for output all the while.
const IDLE: Duration = Duration::from_hours(1);
/// As in deploy/prometheus/prometheus.yml.
const INTERVAL: Duration = Duration::from_secs(15);
/// Ten minutes of them.
const SCRAPES: u32 = 40;

/// Prints one JSON document.
pub fn run() -> Result<()> {
    eprintln!("bench: an idle hour…");
    let agent = Agent::start(&[], &[])?;
    let result = measure(&agent);
    agent.stop()?;
    say(&result?)
}

fn measure(agent: &Agent) -> Result<serde_json::Value> {
    thread::sleep(SETTLING);
    let alone = agent.cost(|| {
        thread::sleep(IDLE);
        Ok(())
    })?;
    let mut text = String::new();
    let scraped = agent.cost(|| {
        for _ in 0..SCRAPES {
            thread::sleep(INTERVAL);
            text = agent.scrape()?;
        }
        Ok(())
    })?;
    let scraping = (INTERVAL * SCRAPES).as_secs_f64() / IDLE.as_secs_f64();
    let scrape = (scraped - alone * scraping) / f64::from(SCRAPES);
    ensure!(alone > 0.0 && scrape > 0.0, "the clock does not count");
    Ok(json!({
        "hour_ms": alone,
        "scrape_ms": scrape,
        "scrape_bytes": text.len(),
    }))
}
