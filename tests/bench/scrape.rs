//! What the agent itself costs where ten thousand processes live that have done I/O, on this machine's
//! own kernel.

use std::{
    env, fs,
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::{agent::Agent, guest::say};

const PROCESSES: usize = 10_000;
const SCRAPES: usize = 20;
/// How long the agent is left alone.
const IDLE: Duration = Duration::from_secs(20);

/// Prints one JSON document. The profiler must be on the PATH.
pub fn run() -> Result<()> {
    let begun = Instant::now();
    let agent = Agent::start(&["--attach", "tracepoint"], &["--max-processes", "16384"])?;
    let attached = begun.elapsed();
    let result = measure(&agent);
    let ending = Instant::now();
    agent.stop()?;
    let detached = ending.elapsed();
    let mut line = result?;
    line["start_seconds"] = attached.as_secs_f64().into();
    line["stop_seconds"] = detached.as_secs_f64().into();
    say(&line)
}

fn measure(agent: &Agent) -> Result<serde_json::Value> {
    let crowd = Crowd::gather()?;
    // Whoever is new is named once.
    let first = agent.cost(|| agent.scrape().map(drop))?;
    let mut costs = (0..SCRAPES)
        .map(|_| agent.cost(|| agent.scrape().map(drop)))
        .collect::<Result<Vec<_>>>()?;
    costs.sort_by(f64::total_cmp);
    let text = agent.scrape()?;
    let processes: f64 = text
        .lines()
        .find_map(|line| line.strip_prefix("zc_processes "))
        .context("no zc_processes")?
        .parse()?;
    #[expect(clippy::cast_precision_loss, reason = "small")]
    let wanted = PROCESSES as f64;
    ensure!(
        processes >= wanted,
        "only {processes} processes are counted"
    );
    let memory = resident(agent)?;
    let idle = agent.cost(|| {
        thread::sleep(IDLE);
        Ok(())
    })?;
    drop(crowd);
    Ok(json!({
        "processes": processes,
        "first_scrape_ms": first,
        "scrape_ms": costs[SCRAPES / 2],
        "slowest_scrape_ms": costs[SCRAPES - 1],
        "resident_kib": memory,
        "idle_ms_per_second": idle / IDLE.as_secs_f64(),
        "scrape_bytes": text.len(),
    }))
}

fn resident(agent: &Agent) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", agent.id()))?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_ascii_whitespace().next())
        .and_then(|kib| kib.parse().ok())
        .context("VmRSS")
}

/// Processes that have done I/O and live on.
struct Crowd {
    leader: Child,
}

impl Crowd {
    /// Forked by a process of its own, so that all of them end with it.
    fn gather() -> Result<Self> {
        let mut leader = Command::new(env::current_exe()?)
            .arg("crowd")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut out = BufReader::new(leader.stdout.take().context("no standard output")?);
        let mut line = String::new();
        out.read_line(&mut line)?;
        ensure!(!line.is_empty(), "the crowd has not come together");
        Ok(Self { leader })
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        drop(self.leader.stdin.take());
        let _ = self.leader.wait();
    }
}

/// The crowd: each of its members reads and writes, and waits for the end.
pub fn crowd() -> Result<()> {
    let (mut reader, writer) = std::io::pipe()?;
    for _ in 0..PROCESSES {
        // SAFETY: this process has one thread.
        match unsafe { libc::fork() } {
            -1 => return Err(std::io::Error::last_os_error()).context("fork"),
            0 => {
                // SAFETY: plain system calls on a buffer of our own, then no return.
                unsafe {
                    libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                    let mut byte = [0u8];
                    let zero = libc::open(c"/dev/zero".as_ptr(), libc::O_RDWR);
                    libc::read(zero, byte.as_mut_ptr().cast(), 1);
                    libc::write(zero, byte.as_ptr().cast(), 1);
                    libc::write(
                        std::os::fd::AsRawFd::as_raw_fd(&writer),
                        byte.as_ptr().cast(),
                        1,
                    );
                    loop {
                        libc::pause();
                    }
                }
            }
            _ => {}
        }
    }
    reader.read_exact(&mut vec![0; PROCESSES])?;
    println!("complete");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    // SAFETY: ends at once; the members' parent-death signal ends them.
    unsafe { libc::_exit(0) }
}
