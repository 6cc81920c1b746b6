//! `zc-profiler serve`, scraped over a real socket and judged by promtool.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, ChildStderr, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use zc_profiler::kernel::Environment;

use crate::agent::command_line::PROGRAM;

/// The samples of what `/metrics` answers, by name and labels.
pub fn parsed(body: &str) -> BTreeMap<String, f64> {
    let mut samples = BTreeMap::new();
    for line in body.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').expect("a sample");
        let old = samples.insert(series.to_owned(), value.parse().expect("a number"));
        assert_eq!(old, None, "twice: {series}");
    }
    samples
}

/// A running `serve`, killed if the test fails.
pub struct Server {
    child: Child,
    /// Until nobody reads what it says any more.
    lines: Option<BufReader<ChildStderr>>,
    address: String,
}

impl Server {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// With further options.
    pub fn start_with(options: &[&str]) -> Self {
        let mut command = Command::new(PROGRAM);
        command
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(options);
        Self::of(&mut command)
    }

    /// Of a command that begins to serve sooner or later.
    pub fn of(command: &mut Command) -> Self {
        let mut child = command
            .env_remove("ZC_PROFILER_CONFIG")
            .stderr(Stdio::piped())
            .spawn()
            .expect("spawn");
        let mut said = String::new();
        let mut lines = BufReader::new(child.stderr.take().expect("piped"));
        // Warnings come first.
        let address = loop {
            let more = lines.read_line(&mut said).expect("a line");
            assert_ne!(more, 0, "no address in {said:?}");
            let address = said.trim().rsplit_once("http://");
            if let Some((address, _)) = address.and_then(|(_, url)| url.split_once('/')) {
                break address;
            }
        };
        Self {
            address: address.to_owned(),
            child,
            lines: Some(lines),
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where it listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    fn kill(&self, number: i32) {
        // SAFETY: our own child.
        unsafe { libc::kill(self.child.id().cast_signed(), number) };
    }

    /// Sends a signal that ends it, and waits until it has.
    pub fn end(&mut self, number: i32) -> ExitStatus {
        self.kill(number);
        self.child.wait().expect("wait")
    }

    /// Sends a signal, and waits for the next line on standard error.
    pub fn signal(&mut self, number: i32) -> String {
        self.kill(number);
        let mut line = String::new();
        let lines = self.lines.as_mut().expect("somebody reads");
        lines.read_line(&mut line).expect("a line");
        line
    }

    fn get(&self, path: &str) -> (String, String) {
        let mut stream = TcpStream::connect(&self.address).expect("connect");
        let host = &self.address;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        )
        .expect("send");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("receive");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        (head.to_owned(), body.to_owned())
    }

    /// The samples of `/metrics`, by name and labels.
    pub fn samples(&self) -> BTreeMap<String, f64> {
        let (head, body) = self.get("/metrics");
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let body = if head
            .to_ascii_lowercase()
            .contains("transfer-encoding: chunked")
        {
            panic!("a body of known length was expected: {head}")
        } else {
            body
        };
        parsed(&body)
    }

    /// Has promtool look at `/metrics`.
    pub fn judge(&self) {
        let promtool = env::var("ZC_PROMTOOL").expect("ZC_PROMTOOL names promtool");
        let mut check = Command::new(promtool)
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("promtool");
        let (_, body) = self.get("/metrics");
        check
            .stdin
            .take()
            .expect("piped")
            .write_all(body.as_bytes())
            .expect("write");
        let output = check.wait_with_output().expect("promtool");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(
            output.stdout.is_empty() && output.stderr.is_empty(),
            "promtool complains: {output:?}"
        );
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn metrics_count_a_known_workload_and_promtool_is_content() {
    let mut server = Server::start_with(&["--probe-statistics"]);
    let path = "/lab/serve-source";
    fs::write(path, vec![1u8; 300_000]).expect("write");
    let copied = r#"zc_copied_bytes_total{comm="head",direction="to_user",method="read"}"#;
    let read = || {
        let status = Command::new("head")
            .args(["-c", "300000", path])
            .stdout(Stdio::null())
            .status();
        assert!(status.expect("head").success());
        let value = server.samples().get(copied).copied();
        value.unwrap_or_else(|| panic!("no {copied}"))
    };
    let first = read();
    // The libraries' headers come with each; processes that have exited stay in the sum.
    assert!(first >= 300_000.0, "{first}");
    for runs in 2..=4 {
        assert!(
            (read() - f64::from(runs) * first).abs() < 0.5,
            "run {runs} adds what the first did"
        );
    }
    fs::remove_file(path).expect("unlink");

    let samples = server.samples();
    let switches = samples
        .keys()
        .filter(|series| series.starts_with("zc_context_switches_total"));
    assert!(switches.count() > 0);
    let attached = r#"zc_probe_attached{attach="fexit",probe="file_read"}"#;
    assert!((samples[attached] - 1.0).abs() < f64::EPSILON);

    runs_are_counted(&server, &samples);
    server.judge();

    let (head, body) = server.get("/api/v1/ledger");
    assert!(head.contains("application/json"), "{head}");
    let ledger: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    let groups = ledger["groups"].as_array().expect("groups");
    let of_head = groups
        .iter()
        .find(|group| group["comm"] == "head")
        .expect("head");
    let bytes = of_head["methods"]["read"]["to_user"]["bytes"].as_f64();
    assert_eq!(bytes, samples.get(copied).copied(), "as in the metrics");
    assert_eq!(ledger["evidence"], "measured");

    // Whoever started it has gone.
    server.lines = None;
    let status = server.end(libc::SIGTERM);
    assert!(status.success(), "{status}");
}

/// A call that nobody else makes runs its program, and where there is one its double, each time.
fn runs_are_counted(server: &Server, before: &BTreeMap<String, f64>) {
    const CALLS: u32 = 100;
    for _ in 0..CALLS {
        // SAFETY: there are no such files.
        unsafe { libc::tee(-1, -1, 1, 0) };
    }
    let after = server.samples();
    let added = |name: &str| {
        let series = format!("{name}{{attach=\"fexit\",probe=\"sys_tee\"}}");
        after[&series] - before[&series]
    };
    let programs = 1 + u32::from(Environment::read().expect("environment").preemptible);
    let expected = f64::from(CALLS * programs);
    let runs = added("zc_probe_runs_total");
    assert!((runs - expected).abs() < 0.5, "{runs} runs");
    assert!(added("zc_probe_seconds_total") > 0.0);
}

#[test]
fn counters_never_fall_while_processes_come_and_go() {
    let server = Server::start();
    let mut before = server.samples();
    let measured = |series: &&String| series.starts_with("zc_probe_runs_total");
    assert_eq!(before.keys().find(measured), None, "only on demand");
    let begun = Instant::now();
    // Longer than it takes until the first exited processes are taken out of the kernel's map.
    while begun.elapsed() < Duration::from_secs(24) {
        for _ in 0..5 {
            assert!(Command::new("true").status().expect("true").success());
        }
        let now = server.samples();
        for (series, value) in before
            .iter()
            .filter(|(series, _)| series.contains("_total{"))
        {
            let new = now
                .get(series)
                .unwrap_or_else(|| panic!("{series} is gone"));
            assert!(new >= value, "{series} fell from {value} to {new}");
        }
        before = now;
    }
}

#[test]
fn it_is_healthy_and_ends_at_once_on_sigterm() {
    let mut server = Server::start();
    let (head, body) = server.get("/healthz");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert_eq!(body, "ok\n");
    let (head, body) = server.get("/readyz");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert_eq!(body, "counting\n");
    // A client that never finishes its request must not hold it up.
    let _slow = TcpStream::connect(&server.address).expect("connect");
    assert!(server.signal(libc::SIGTERM).contains("no longer counting"));
    while TcpStream::connect(&server.address).is_ok() {
        std::thread::yield_now();
    }
    // Nobody had to wait for that until the kernel has taken down some seventy probes.
    let gone = server.child.try_wait().expect("wait");
    assert!(gone.is_none(), "{gone:?}");
    let status = server.child.wait().expect("wait");
    assert!(status.success(), "{status}");
}

#[test]
fn a_port_in_use_is_one_line() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = taken.local_addr().expect("address").to_string();
    let output = Command::new(PROGRAM)
        .args(["serve", "--listen", &address])
        .output()
        .expect("run");
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(
        text.contains(&address) && text.contains("--listen"),
        "{text}"
    );
}
