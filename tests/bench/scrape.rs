//! What the agent itself costs where ten thousand processes live that have done I/O, on this machine's
//! own kernel.

use std::{
    env, fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::{guest::say, variants::cpu_time};

const PROCESSES: usize = 10_000;
const SCRAPES: usize = 20;
/// How long the agent is left alone.
const IDLE: Duration = Duration::from_secs(20);

/// Prints one JSON document. The profiler must be on the PATH.
pub fn run() -> Result<()> {
    let begun = Instant::now();
    let mut agent = Command::new("zc-profiler")
        .args(["--attach", "tracepoint", "serve", "--listen", "127.0.0.1:0"])
        .args(["--max-processes", "16384"])
        .stderr(Stdio::piped())
        .spawn()
        .context("zc-profiler")?;
    let mut said = BufReader::new(agent.stderr.take().context("no standard error")?);
    let address = address(&mut said)?;
    let attached = begun.elapsed();
    let result = measure(&agent, &address);
    // SAFETY: our own child, not waited for yet.
    unsafe { libc::kill(agent.id().cast_signed(), libc::SIGTERM) };
    let ending = Instant::now();
    let status = agent.wait()?;
    let detached = ending.elapsed();
    ensure!(status.success(), "zc-profiler ended with {status}");
    let mut line = result?;
    line["start_seconds"] = attached.as_secs_f64().into();
    line["stop_seconds"] = detached.as_secs_f64().into();
    say(&line)
}

fn address(said: &mut impl BufRead) -> Result<String> {
    loop {
        let mut line = String::new();
        ensure!(said.read_line(&mut line)? > 0, "zc-profiler has ended");
        if let Some((address, _)) = line
            .split_once("http://")
            .and_then(|(_, url)| url.split_once('/'))
        {
            return Ok(address.to_owned());
        }
    }
}

fn measure(agent: &Child, address: &str) -> Result<serde_json::Value> {
    let crowd = Crowd::gather()?;
    // Whoever is new is named once.
    let first = cost(agent, || scrape(address).map(drop))?;
    let mut costs = (0..SCRAPES)
        .map(|_| cost(agent, || scrape(address).map(drop)))
        .collect::<Result<Vec<_>>>()?;
    costs.sort_by(f64::total_cmp);
    let text = scrape(address)?;
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
    let idle = cost(agent, || {
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

/// The agent's CPU time meanwhile, in milliseconds.
fn cost(agent: &Child, action: impl FnOnce() -> Result<()>) -> Result<f64> {
    let before = cpu_time(agent.id())?;
    action()?;
    let spent = Duration::from_nanos(cpu_time(agent.id())? - before);
    Ok(spent.as_secs_f64() * 1e3)
}

fn scrape(address: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    write!(
        stream,
        "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn resident(agent: &Child) -> Result<u64> {
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
