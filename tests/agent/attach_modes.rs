//! The ways down, each forced on a kernel that would allow better: calls and payload stay exact, and
//! what is derived says so.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::atomic::Ordering,
};

use serde_json::Value;
use tempfile::TempDir;

use zc_profiler::{
    Options, Profiler, Scope,
    ledger::{Counters, Fallback, Flows, Method},
    probes::{AttachClass, Evidence},
};

use crate::{
    agent::{command_line::PROGRAM, serve::Server},
    harness::support::{Child, shared},
    paths::{
        dma,
        network::{BYTES, CHUNK, allow_zerocopy, drained, hang_up, send_chunks, sent_standby, tcp},
    },
};

const SIZE: u64 = 5_000_003;

fn run(arguments: &[&str]) -> Output {
    Command::new(PROGRAM)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{PROGRAM}: {error}"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn utf8(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// A directory on the lab's disk, with a file of [`SIZE`] bytes.
fn source() -> (TempDir, PathBuf) {
    let dir = TempDir::new_in("/lab").expect("directory");
    let file = dir.path().join("source");
    fs::write(&file, vec![7u8; usize::try_from(SIZE).expect("small")]).expect("write");
    (dir, file)
}

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("JSON")).expect("JSON")
}

/// What `stat --attach WAY` says of a command: its table, and its document.
fn stat(best: &str, dir: &Path, command: &[&str]) -> (String, Value) {
    let json = dir.join("stat.json");
    let before = ["--attach", best, "stat", "--json", utf8(&json), "--"];
    let output = run(&[&before, command].concat());
    let table = text(&output.stderr);
    assert!(output.status.success(), "{table}");
    (table, json_of(&json))
}

/// The methods of the one process of that name.
fn methods<'a>(document: &'a Value, comm: &str) -> &'a Value {
    let mut named = document["processes"]
        .as_array()
        .expect("processes")
        .iter()
        .filter(|process| process["comm"] == comm);
    let process = named
        .next()
        .unwrap_or_else(|| panic!("no {comm} in {document}"));
    assert!(named.next().is_none(), "{document}");
    &process["methods"]
}

#[test]
fn by_tracepoints_stat_derives_the_copies_of_reads_and_writes() {
    let (dir, from) = source();
    let to = dir.path().join("to");
    let (input, output) = (format!("if={}", utf8(&from)), format!("of={}", utf8(&to)));
    let command = ["dd", "bs=65536", "status=none", &input, &output];
    let (table, document) = stat("tracepoint", dir.path(), &command);
    assert_eq!(document["evidence"], "derived");
    let write = &methods(&document, "dd")["write"];
    assert_eq!(write["calls"], SIZE.div_ceil(65_536), "{write}");
    assert_eq!(write["payload_bytes"], SIZE, "{write}");
    assert_eq!(write["from_user"]["bytes"], SIZE, "{write}");
    // The loader reads the libraries' headers too: the same without any data.
    let read = &methods(&document, "dd")["read"];
    let nothing = ["dd", "bs=65536", "count=0", "status=none", &input];
    let (_, idle) = stat("tracepoint", dir.path(), &nothing);
    let idle = &methods(&idle, "dd")["read"];
    for number in ["/payload_bytes", "/to_user/bytes"] {
        let bytes = |value: &Value| value.pointer(number).and_then(Value::as_u64);
        let bytes = |value| bytes(value).unwrap_or_else(|| panic!("no {number} in {value}"));
        assert_eq!(bytes(read) - bytes(idle), SIZE, "{number}: {read}");
    }
    for head in ["TO USER (derived)", "FROM USER (derived)"] {
        assert!(table.contains(head), "no {head} in {table}");
    }
    assert!(
        table
            .contains("copies to and from user memory are derived from what system calls returned"),
        "{table}"
    );
    assert!(table.contains("unknown (faults)"), "{table}");
}

#[test]
fn by_tracepoints_stat_claims_nothing_of_what_no_call_returns() {
    let (dir, from) = source();
    let to = dir.path().join("to");
    let command = ["cp", utf8(&from), utf8(&to)];
    let (table, document) = stat("tracepoint", dir.path(), &command);
    let range = &methods(&document, "cp")["copy_file_range"];
    assert_eq!(range["payload_bytes"], SIZE, "{range}");
    // The kernel copied all of it, and nobody saw.
    assert_eq!(range["in_kernel"]["bytes"], 0, "{range}");
    let line = table.lines().find(|line| line.contains("copy_file_range"));
    let line = line.unwrap_or_else(|| panic!("{table}"));
    let cells: Vec<_> = line.split_whitespace().collect();
    assert_eq!(cells[cells.len() - 5..], ["5,000,003", "-", "0", "0", "-"]);
}

#[test]
fn by_tracepoints_the_lab_derives_and_calls_and_payload_are_exact() {
    let dir = TempDir::new_in("/lab").expect("directory");
    let json = dir.path().join("lab.json");
    let output = run(&[
        "lab",
        "read+write",
        "mmap+write",
        "sendfile",
        "splice",
        "copy_file_range",
        "--attach",
        "tracepoint",
        "--dir",
        utf8(dir.path()),
        "--payload",
        "1000003",
        "--chunk",
        "10007",
        "--json",
        utf8(&json),
    ]);
    let table = text(&output.stdout);
    assert!(output.status.success(), "{table}\n{}", text(&output.stderr));
    assert!(table.contains("copies derived"), "{table}");
    let (per_chunk, total) = table.split_once("In total").expect("two tables");
    for scenario in ["read+write", "mmap+write", "sendfile", "splice"] {
        let line = |part: &str| -> Vec<String> {
            let line = part.lines().find(|line| line.starts_with(scenario));
            let line = line.unwrap_or_else(|| panic!("no {scenario} in {table}"));
            line.split_whitespace().map(str::to_owned).collect()
        };
        let row = line(per_chunk);
        assert_eq!(row.last().map(String::as_str), Some("derived"), "{row:?}");
        // Faults, the sum, in the kernel, zero-copy.
        for column in [4, 6, 9, 11] {
            assert_eq!(row[column], "-", "{row:?}");
        }
        for column in [3, 6, 7, 11, 12] {
            assert_eq!(line(total)[column], "-", "{scenario}: {table}");
        }
    }
    assert!(!table.contains("by reference"), "nobody knows: {table}");
    let document = json_of(&json);
    assert_eq!(document["evidence"], "derived");
    let rows = document["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), 8, "{document}");
    assert!(rows.iter().all(|row| row["ok"] == true), "{document}");
}

#[test]
fn by_tracepoints_serve_labels_every_copy_derived() {
    let server = Server::start_with(&["--attach", "tracepoint"]);
    let (dir, from) = source();
    let read = || {
        let status = Command::new("cat")
            .arg(&from)
            .stdout(Stdio::null())
            .status();
        assert!(status.expect("cat").success());
        server.samples()
    };
    let labels = r#"comm="cat",direction="to_user",evidence="derived",method="read""#;
    let copied = format!("zc_copied_bytes_total{{{labels}}}");
    let payload = r#"zc_payload_bytes_total{comm="cat",method="read"}"#;
    let first = read()[&copied];
    // The libraries' headers come with each.
    assert!(first > 5_000_003.0, "{first}");
    let mut samples = read();
    for runs in 2..=4 {
        for series in [copied.as_str(), payload] {
            let bytes = samples[series];
            assert!(
                (bytes - f64::from(runs) * first).abs() < 0.5,
                "{series}: {bytes}"
            );
        }
        samples = read();
    }
    let mut labelled = 0;
    let info = |series: &&String| series.starts_with("zc_build_info");
    for series in samples.keys().filter(|series| !info(series)) {
        let of_copies = ["zc_copies_", "zc_copied_", "zc_zero_copy_", "zc_lost_"]
            .iter()
            .any(|family| series.starts_with(family));
        assert_eq!(
            of_copies,
            series.contains(r#"evidence="derived""#),
            "{series}"
        );
        labelled += u32::from(of_copies);
        assert!(!series.contains("measured"), "{series}");
        // Not counted is not zero.
        assert!(!series.contains("page_faults"), "{series}");
        assert!(!series.contains(r#"cause="fault""#), "{series}");
    }
    assert!(labelled > 0, "{samples:?}");
    server.judge();
    drop(dir);
}

/// Runs `doctor --attach WAY` on the lab's disk, which must end well; its table, and its document.
fn doctor(best: &str, arguments: &[&str]) -> (String, Value) {
    let dir = TempDir::new_in("/lab").expect("directory");
    let json = dir.path().join("doctor.json");
    let before = ["doctor", "--attach", best, "--json", utf8(&json), "--dir"];
    let output = run(&[&before[..], &[utf8(dir.path())], arguments].concat());
    let table = text(&output.stdout);
    assert!(output.status.success(), "{table}\n{}", text(&output.stderr));
    (table, json_of(&json))
}

/// The verdicts of `doctor`, by path.
fn verdicts(document: &Value) -> BTreeMap<&str, &str> {
    let paths = document["paths"].as_array().expect("paths");
    paths
        .iter()
        .map(|path| {
            let word = |name: &str| path[name].as_str().expect("a word");
            (word("path"), word("verdict"))
        })
        .collect()
}

/// Paths of which nothing that a call returns tells.
const UNTOLD: [&str; 3] = ["copy-on-write", "page faults", "private mapping"];

#[test]
fn by_tracepoints_the_doctor_calls_nothing_exact_that_is_derived() {
    for more in [&[][..], &["--deep"]] {
        let (table, document) = doctor("tracepoint", more);
        assert_eq!(document["evidence"], "derived");
        for (path, verdict) in verdicts(&document) {
            let expected = match path {
                // These need no copy function.
                "context switches" | "mmap" => "exact",
                path if UNTOLD.contains(&path) => "absent",
                _ => "derived",
            };
            assert_eq!(verdict, expected, "{path}: {table}");
        }
        let rows = document["hooks"].as_array().expect("hooks");
        for row in rows {
            let attach = row["attach"].as_str().expect("a word");
            let weak = ["tracepoint", "failed", "absent"].contains(&attach);
            assert!(weak, "{row}");
            if attach == "failed" {
                let reason = row["reason"].as_str().expect("a reason");
                assert!(reason.contains("left out by --attach tracepoint"), "{row}");
            }
        }
        let stand_in = rows.iter().find(|row| row["name"] == "sys_exit");
        assert_eq!(stand_in.expect("sys_exit")["proof"], "derived");
        assert!(table.contains("0 wrong"), "{table}");
        assert!(
            table.contains("copies to and from user memory are derived"),
            "{table}"
        );
    }
}

#[test]
fn by_kprobes_the_doctor_proves_what_they_count() {
    let (table, document) = doctor("kprobe", &[]);
    assert_eq!(verdicts(&document)["private mapping"], "exact", "{table}");
    assert_eq!(verdicts(&document)["pipe"], "derived", "{table}");
    let rows = document["hooks"].as_array().expect("hooks");
    let row = rows.iter().find(|row| row["name"] == "private_write");
    let row = row.expect("private_write");
    assert_eq!(row["attach"], "kprobe");
    assert_eq!(row["proof"], "exact");
}

#[test]
fn by_tracepoints_serve_never_calls_a_derived_path_calibrated() {
    let server = Server::start_with(&["--attach", "tracepoint"]);
    for series in server.samples().keys() {
        assert!(!series.starts_with("zc_calibration_ok"), "{series}");
    }
}

/// Measures a child by a profiler of its own.
fn measure(best: AttachClass, work: impl FnOnce()) -> Counters {
    let options = Options {
        best,
        ..Options::default()
    };
    let profiler = Profiler::attach(Scope::Tree, options).expect("attach");
    assert_eq!(profiler.evidence(), Evidence::Derived);
    let child = Child::stopped_before(work);
    child.wait_stopped();
    let pid = child.pid.cast_unsigned();
    profiler.follow(pid).expect("follow");
    child.go_on();
    child.wait_stopped();
    let snapshot = profiler.snapshot().expect("snapshot");
    let counters = snapshot.process(pid).expect("the child").counters.clone();
    child.go_on();
    child.wait_exited();
    counters
}

#[test]
fn by_kprobes_copies_inside_the_kernel_are_measured_beside_derived_ones() {
    let data = vec![7u8; CHUNK];
    let mut again = 0;
    let mut on_way = |way| {
        let (sender, receiver) = tcp();
        allow_zerocopy(&sender);
        let sink = drained(receiver);
        let resent = shared();
        let counters = measure(way, || {
            send_chunks(&sender, &data, libc::MSG_ZEROCOPY);
            hang_up(&sender);
            resent.store(sent_standby(&sender), Ordering::SeqCst);
        });
        assert_eq!(sink.join().expect("sink") as u64, BYTES);
        again = resent.load(Ordering::SeqCst);
        counters
    };
    let counters = on_way(AttachClass::Tracepoint);
    assert_eq!(counters.method(Method::Send).in_kernel.bytes, 0);
    assert!(counters.zero_copy_fallback_bytes.is_empty(), "{counters:?}");
    let counters = on_way(AttachClass::Kprobe);
    let send = counters.method(Method::Send);
    assert_eq!(send.payload_bytes, BYTES);
    assert_eq!(send.in_kernel.bytes, BYTES + again);
    let lost = &counters.zero_copy_fallback_bytes;
    assert_eq!(lost.get(&Fallback::ZerocopyCopied), Some(&(BYTES + again)));
    // What a call returned does not tell that it went by reference.
    assert_eq!(send.from_user.bytes, BYTES);
}

#[test]
fn by_tracepoints_what_disks_move_is_measured() {
    let path = dma::on_disk("ways");
    let mut buffer = vec![0; dma::PAYLOAD];
    let counters = measure(AttachClass::Tracepoint, || {
        let mut file = File::open(&path).expect("open");
        file.read_exact(&mut buffer).expect("read");
    });
    let bytes = dma::PAYLOAD as u64;
    assert_eq!(
        counters.dma_bytes.block,
        Flows {
            into: bytes,
            out: 0
        }
    );
    let read = counters.method(Method::Read);
    assert_eq!((read.payload_bytes, read.to_user.bytes), (bytes, bytes));
    fs::remove_file(path).expect("unlink");
}
