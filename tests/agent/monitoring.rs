//! A real Prometheus, Debian's, scrapes the agent while nginx and others move known bytes: it finds no
//! fault with what it scrapes, counts what was moved, and has an answer to every query of every dashboard.
//!
//! On 6.12 only: Prometheus in emulation costs as much as some ten other tests, and what it sees of
//! an agent does not depend on the kernel. It scrapes every three seconds, so that a slow machine
//! never takes longer than that, and some fifteen times: what users call minutes adds nothing to it.

use std::{
    env, fs,
    io::{Read, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    agent::{picture, serve::Server},
    harness::{
        proof::{connect, free_addresses},
        support::kernel_is,
    },
    paths::network::{CHUNK, allow_zerocopy, drained, hang_up, send_chunks, tcp},
    services::{
        nginx::{self, BODY, Nginx},
        units::{Cgroup, source},
    },
};

/// The interval of scrapes, and the range that Grafana would make rates of: four of them.
const INTERVAL: &str = "3s";
const RATE_INTERVAL: &str = "12s";

/// Scrapes in each of three stretches of work; more of them make a better picture.
const SCRAPES: u64 = 4;
const SCRAPES_OF_PICTURE: u64 = 15;

/// Between two looks at what takes its time: most of the time nobody needs the CPU.
const PAUSE: Duration = Duration::from_millis(300);

const CONTAINER: &str = "9fb263389e5eea068ad3d0c208ea4dd02ba86fa0b2ebd44f63adc391351fba6d";

fn deploy(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../zc-profiler/deploy")
        .join(file)
}

fn text(file: &str) -> String {
    let path = deploy(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Two times.
pub struct Stretch(String, String);

/// A Prometheus with the configuration and the rules that are shipped.
pub struct Prometheus {
    child: Child,
    address: SocketAddr,
    _dir: TempDir,
}

impl Prometheus {
    fn start(agent: &str) -> Self {
        let promtool = env::var_os("ZC_PROMTOOL").expect("ZC_PROMTOOL names promtool");
        let program = Path::new(&promtool).with_file_name("prometheus");
        let dir = TempDir::new_in("/lab").expect("directory");
        for rules in ["recording.yml", "alerts.yml"] {
            fs::write(dir.path().join(rules), text(&format!("prometheus/{rules}"))).expect("write");
        }
        let shipped = text("prometheus/prometheus.yml");
        let config = shipped
            .replace("127.0.0.1:9464", agent)
            .replace("15s", INTERVAL);
        assert_ne!(shipped, config);
        let file = dir.path().join("prometheus.yml");
        fs::write(&file, config).expect("write");
        let [address] = free_addresses();
        let child = Command::new(&program)
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                dir.path().join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .arg("--log.level=warn")
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        let prometheus = Self {
            child,
            address,
            _dir: dir,
        };
        // Until then it answers, but not what it is asked.
        while !prometheus.get("/-/ready").contains("Ready") {
            thread::sleep(PAUSE);
        }
        prometheus
    }

    fn get(&self, path: &str) -> String {
        let mut stream = connect(self.address);
        write!(
            stream,
            "GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n",
            self.address
        )
        .expect("send");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("receive");
        let (_, body) = answer.split_once("\r\n\r\n").expect("a head");
        body.to_owned()
    }

    fn api(&self, path: &str, parameters: &[(&str, &str)]) -> Value {
        let encode = |text: &str| -> String {
            let byte = |byte: u8| match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
                _ => format!("%{byte:02X}"),
            };
            text.bytes().map(byte).collect()
        };
        let parameters: Vec<_> = parameters
            .iter()
            .map(|(name, value)| format!("{}={}", encode(name), encode(value)))
            .collect();
        let body = self.get(&format!("/api/v1/{path}?{}", parameters.join("&")));
        let mut answer: Value = serde_json::from_str(&body).unwrap_or_else(|_| panic!("{body}"));
        assert_eq!(answer["status"], "success", "{parameters:?}: {answer}");
        answer["data"].take()
    }

    fn query(&self, query: &str) -> Vec<Value> {
        let mut data = self.api("query", &[("query", query)]);
        match data["result"].take() {
            Value::Array(series) => series,
            other => panic!("{query}: {other}"),
        }
    }

    /// The value of the only series that answers, if one does.
    fn value(&self, query: &str) -> Option<f64> {
        let series = self.query(query);
        assert!(series.len() < 2, "{query}: {series:?}");
        let value = series.first()?["value"][1].as_str().expect("a value");
        Some(value.parse().expect("a number"))
    }

    /// How often the agent was scraped.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count"
    )]
    fn scrapes(&self) -> u64 {
        let count = self.value(r#"count_over_time(up{job="zc-profiler"}[1h])"#);
        count.unwrap_or_default() as u64
    }

    /// Works until so many more scrapes have come.
    fn while_scraping(&self, scrapes: u64, mut work: impl FnMut()) {
        let last = self.scrapes() + scrapes;
        while self.scrapes() < last {
            work();
            thread::sleep(PAUSE);
        }
    }

    /// From the first scrape to the last so far, in Prometheus' time.
    fn so_far(&self) -> Stretch {
        let scrapes = self.query(r#"up{job="zc-profiler"}[1h]"#);
        let times = scrapes[0]["values"].as_array().expect("scrapes");
        let time = |point: Option<&Value>| point.expect("a scrape")[0].to_string();
        Stretch(time(times.first()), time(times.last()))
    }

    /// Every series of a range query, which have numbers.
    pub fn range(&self, query: &str, Stretch(start, end): &Stretch) -> Vec<Value> {
        let parameters = [
            ("query", query),
            ("start", start),
            ("end", end),
            ("step", "3"),
        ];
        let mut data = self.api("query_range", &parameters);
        let Value::Array(mut series) = data["result"].take() else {
            panic!("{query}: no series");
        };
        let is_number = |point: &Value| {
            let value = point[1]
                .as_str()
                .and_then(|value| value.parse::<f64>().ok());
            value.is_some_and(f64::is_finite)
        };
        series.retain(|series| {
            let points = series["values"].as_array();
            points.is_some_and(|points| points.iter().any(is_number))
        });
        series
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A dashboard's queries, as Grafana would send them: with everything chosen that can be.
pub fn filled(query: &str) -> String {
    let mut text = query.replace("$__rate_interval", RATE_INTERVAL);
    for variable in ["instance", "unit", "container", "comm"] {
        text = text.replace(&format!("${variable}"), ".*");
    }
    assert!(!text.contains('$'), "an unknown variable: {text}");
    text
}

pub fn dashboard(name: &str) -> Value {
    serde_json::from_str(&text(&format!("grafana/{name}.json"))).expect("JSON")
}

/// Sends by `MSG_ZEROCOPY` to this machine itself, which copies all the same.
fn lose_zero_copy() {
    let (sender, receiver) = tcp();
    allow_zerocopy(&sender);
    let sink = drained(receiver);
    send_chunks(&sender, &vec![7; CHUNK], libc::MSG_ZEROCOPY);
    hang_up(&sender);
    sink.join().expect("sink");
}

#[test]
fn a_real_prometheus_counts_what_was_moved_and_answers_every_dashboard() {
    if !kernel_is("6.12.") {
        return;
    }
    // One panel shows what the kernel keeps on demand only.
    let (nginx, server) = (Nginx::start(), Server::start_with(&["--probe-statistics"]));
    let file = source("monitoring-source");
    let container = Cgroup::new(&format!("system.slice/docker-{CONTAINER}.scope"));
    let head = || container.run("head", &["-c", "300000", &file]);
    // Each series is there at the first scrape: a counter has no beginning in Prometheus' eyes.
    nginx::get(nginx.by_read);
    nginx::get(nginx.by_sendfile);
    head();
    lose_zero_copy();

    let prometheus = Prometheus::start(server.address());
    while prometheus.scrapes() == 0 {
        thread::sleep(PAUSE);
    }
    let scrapes = picture::wanted().map_or(SCRAPES, |_| SCRAPES_OF_PICTURE);
    let (mut by_read, mut by_sendfile, mut heads) = (0_u64, 0_u64, 0_u64);
    prometheus.while_scraping(scrapes, || {
        heads += nginx::get(nginx.by_read);
        by_read += 1;
    });
    prometheus.while_scraping(scrapes, || {
        heads += nginx::get(nginx.by_sendfile);
        by_sendfile += 1;
        head();
    });
    prometheus.while_scraping(scrapes, || {
        heads += nginx::get(nginx.by_sendfile);
        by_sendfile += 1;
        lose_zero_copy();
    });

    let worked = prometheus.so_far();
    // One that had begun may have seen half of the last work.
    prometheus.while_scraping(2, || {});

    assert_all_is_well(&prometheus, 3 * scrapes);
    let body = BODY as u64;
    for (family, labels, expected) in [
        (
            "copied",
            r#"method="read",direction="to_user""#,
            by_read * body,
        ),
        (
            "copied",
            r#"method="write",direction="from_user""#,
            by_read * body + heads,
        ),
        ("payload", r#"method="sendfile""#, by_sendfile * body),
        ("zero_copy", r#"method="sendfile""#, by_sendfile * body),
    ] {
        // Not increase(), which guesses what came before the first and after the last sample.
        let series = format!(
            r#"zc_{family}_bytes_total{{unit="{}",{labels}}}[1h]"#,
            nginx::UNIT
        );
        let counted = prometheus.value(&format!(
            "max_over_time({series}) - min_over_time({series})"
        ));
        assert_eq!(
            counted.map(|bytes| bytes.to_string()),
            Some(expected.to_string()),
            "{series}"
        );
    }
    for name in ["overview", "service", "agent"] {
        assert_every_query_is_answered(&prometheus, &worked, &dashboard(name));
    }
    if let Some(file) = picture::wanted() {
        picture::draw(&prometheus, &worked, &dashboard("overview"), &file);
    }
    fs::remove_file(file).expect("unlink");
}

/// Every scrape was taken whole, and no rule fails.
fn assert_all_is_well(prometheus: &Prometheus, scrapes: u64) {
    let of_agent = |query: &str| {
        let query = query.replace('#', r#"{job="zc-profiler"}[1h]"#);
        prometheus
            .value(&query)
            .unwrap_or_else(|| panic!("no answer to {query}"))
    };
    assert!(of_agent("min_over_time(up#)") > 0.0, "no scrape failed");
    assert!(prometheus.scrapes() >= scrapes);
    assert!(of_agent("min_over_time(scrape_samples_scraped#)") > 100.0);
    let text = prometheus.get("/metrics");
    let mut faults = 0;
    for line in text
        .lines()
        .filter(|line| line.starts_with("prometheus_target_scrapes_"))
    {
        let (series, count) = line.rsplit_once(' ').expect("a sample");
        assert_eq!(count, "0", "{series}");
        faults += 1;
    }
    assert!(
        faults >= 4,
        "duplicates, out of order, out of bounds, and too many: {text}"
    );
    let targets = prometheus.api("targets", &[]);
    assert_eq!(targets["activeTargets"][0]["lastError"], "", "{targets}");
    let rules = prometheus.api("rules", &[]);
    let groups = rules["groups"].as_array().expect("groups");
    let rules = groups
        .iter()
        .flat_map(|group| group["rules"].as_array().expect("rules"));
    let mut count = 0;
    for rule in rules {
        assert_eq!(rule["lastError"].as_str().unwrap_or_default(), "", "{rule}");
        count += 1;
    }
    assert!(count > 0, "the rules are loaded");
}

fn assert_every_query_is_answered(prometheus: &Prometheus, worked: &Stretch, dashboard: &Value) {
    let panels = dashboard["panels"].as_array().expect("panels");
    let mut queries = 0;
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        for target in panel["targets"].as_array().expect("targets") {
            let query = filled(target["expr"].as_str().expect("a query"));
            assert!(
                !prometheus.range(&query, worked).is_empty(),
                "{}: no data for {query}",
                panel["title"]
            );
            queries += 1;
        }
    }
    assert!(queries > 0);
    for variable in dashboard["templating"]["list"]
        .as_array()
        .expect("variables")
    {
        if variable["type"] == "datasource" {
            continue;
        }
        let query = variable["query"]["query"].as_str().expect("a query");
        let inner = query
            .strip_prefix("label_values(")
            .and_then(|rest| rest.strip_suffix(')'));
        let (series, label) = inner
            .and_then(|inner| inner.rsplit_once(", "))
            .expect(query);
        let values = prometheus.api(
            &format!("label/{label}/values"),
            &[("match[]", &filled(series))],
        );
        assert_ne!(values, Value::Array(Vec::new()), "no values for {query}");
    }
}
