//! `zc-profiler doctor`, and what `serve` exports of its short form.

use std::{
    fs,
    process::{Command, Output},
};

use serde_json::Value;
use tempfile::TempDir;
use zc_profiler::{
    probes::{Evidence, hooks},
    selftest::PATHS,
};

use crate::{
    agent::{command_line::PROGRAM, serve::Server},
    harness::support::release,
};

/// Runs `doctor` on the lab's disk; what it printed, and its document.
fn doctor(arguments: &[&str]) -> (Output, String, Value) {
    let dir = TempDir::new_in("/lab").expect("directory");
    let at = dir.path().to_str().expect("UTF-8");
    let json = dir.path().join("doctor.json");
    let json = json.to_str().expect("UTF-8");
    let output = Command::new(PROGRAM)
        .args(["doctor", "--json", json, "--dir", at])
        .args(arguments)
        .output()
        .expect("run");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let document = fs::read_to_string(json).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let left = fs::read_dir(dir.path()).expect("list").count();
    assert_eq!(left, 1, "only the JSON is left");
    (output, text, serde_json::from_str(&document).expect("JSON"))
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

/// Paths whose hooks this build has.
fn expected_paths() -> impl Iterator<Item = &'static str> {
    let known = |hook| hooks::all(Evidence::Measured).any(|row| row.name == hook);
    PATHS
        .iter()
        .filter(move |path| path.hooks().all(known))
        .map(|path| path.name)
}

#[test]
fn every_path_is_exact_and_the_json_agrees() {
    let (output, text, document) = doctor(&[]);
    assert!(output.status.success(), "{text}");
    let paths = document["paths"].as_array().expect("paths");
    assert_eq!(paths.len(), PATHS.len());
    for name in expected_paths() {
        let path = paths.iter().find(|path| path["path"] == name);
        let path = path.unwrap_or_else(|| panic!("no {name} in {document}"));
        assert_eq!(path["verdict"], "exact", "{path}");
        assert_eq!(path["expected"], path["got"], "{path}");
        assert_ne!(path["got"], serde_json::json!({}), "{name} moves something");
        assert!(path.get("deep").is_none(), "{path}");
        let line = text.lines().find(|line| line.starts_with(name));
        let line = line.unwrap_or_else(|| panic!("no {name} in {text}"));
        assert!(words(line).contains(&"exact"), "{line}");
    }
    let rows = document["hooks"].as_array().expect("hooks");
    assert_eq!(rows.len(), hooks::all(Evidence::Measured).count());
    for (row, hook) in rows.iter().zip(hooks::all(Evidence::Measured)) {
        assert_eq!(row["name"], hook.name);
        let line = text
            .lines()
            .find(|line| words(line).first() == Some(&hook.name));
        let line = line.unwrap_or_else(|| panic!("no {} in {text}", hook.name));
        assert_eq!(row["attach"], words(line)[1], "{line}");
        // Each row has either a target or a reason why not.
        assert_ne!(row["target"].is_null(), row["reason"].is_null(), "{row}");
        assert!(line.ends_with(hook.lost), "{line}");
    }
    assert_eq!(document["kernel"], release());
    assert_eq!(document["environment"]["btf"], true);
}

#[test]
fn hardware_breakpoints_on_the_primitives_agree() {
    let (output, text, document) = doctor(&["--deep"]);
    assert!(output.status.success(), "{text}");
    for name in expected_paths() {
        let paths = document["paths"].as_array().expect("paths");
        let path = paths.iter().find(|path| path["path"] == name);
        let deep = &path.unwrap_or_else(|| panic!("no {name}"))["deep"];
        assert_eq!(deep["agree"], true, "{name}: {deep}\n{text}");
        assert_eq!(deep["copy_functions"], deep["cross_check"], "{name}");
    }
    // The cross-check saw something, in each direction.
    for (name, direction) in [
        ("tmpfs read", "to_user"),
        ("tmpfs write", "from_user"),
        ("sendfile to file", "in_kernel"),
    ] {
        let paths = document["paths"].as_array().expect("paths");
        let path = paths.iter().find(|path| path["path"] == name);
        let seen = &path.expect("path")["deep"]["cross_check"][direction];
        assert!(seen.as_u64() > Some(0), "{name}: {seen}");
    }
    assert!(!text.contains("no cross-check"), "{text}");
}

#[test]
fn without_breakpoints_the_cross_check_is_missed_in_one_line() {
    let taken = Breakpoints::take_all();
    let (output, text, document) = doctor(&["--deep"]);
    drop(taken);
    assert!(output.status.success(), "{text}");
    let last = text.lines().last().expect("a line");
    assert!(last.starts_with("no cross-check: "), "{text}");
    assert!(last.contains("debug registers"), "{text}");
    assert!(document["no_cross_check"].is_string(), "{document}");
}

#[test]
fn a_path_that_cannot_be_taken_is_wrong_and_fails() {
    let output = Command::new(PROGRAM)
        .args(["doctor", "--dir", "/nowhere"])
        .output()
        .expect("run");
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text
        .lines()
        .find(|line| line.starts_with("page cache write"));
    let line = line.unwrap_or_else(|| panic!("{text}"));
    assert!(
        line.contains("wrong") && line.contains("/nowhere"),
        "{line}"
    );
    assert!(text.contains(" 1 wrong"), "{text}");
}

#[test]
fn serve_exports_that_its_short_calibration_was_exact() {
    let server = Server::start();
    let samples = server.samples();
    let brief = PATHS.iter().filter(|path| path.brief);
    for path in brief.clone() {
        let series = format!("zc_calibration_ok{{path=\"{}\"}}", path.name);
        let value = samples.get(&series);
        assert_eq!(
            value.map(ToString::to_string).as_deref(),
            Some("1"),
            "{series}"
        );
    }
    let exported = samples
        .keys()
        .filter(|series| series.starts_with("zc_calibration_ok"));
    assert_eq!(exported.count(), brief.count());
}

/// All hardware breakpoints of the first CPU, for as long as it lives.
struct Breakpoints(Vec<i32>);

impl Breakpoints {
    /// Data breakpoints on a word of this process: they share the slots with all others.
    fn take_all() -> Self {
        static WORD: u64 = 0;
        const PERF_TYPE_BREAKPOINT: u32 = 5;
        const HW_BREAKPOINT_W: u32 = 2;
        /// `struct perf_event_attr` in its first version that has what is needed here.
        #[repr(C)]
        #[derive(Default)]
        struct Attributes {
            kind: u32,
            size: u32,
            config: u64,
            sample_period: u64,
            sample_type: u64,
            read_format: u64,
            flags: u64,
            wakeup_events: u32,
            bp_type: u32,
            bp_addr: u64,
            bp_len: u64,
        }
        let attributes = Attributes {
            kind: PERF_TYPE_BREAKPOINT,
            size: u32::try_from(size_of::<Attributes>()).expect("small"),
            bp_type: HW_BREAKPOINT_W,
            bp_addr: (&raw const WORD).addr() as u64,
            bp_len: 8,
            ..Attributes::default()
        };
        let (every_process, first_cpu, no_group, no_flags) = (-1, 0, -1, 0);
        let mut taken = Vec::new();
        loop {
            // SAFETY: the attributes are valid for the call, and as long as they say.
            let fd = unsafe {
                libc::syscall(
                    libc::SYS_perf_event_open,
                    &raw const attributes,
                    every_process,
                    first_cpu,
                    no_group,
                    no_flags,
                )
            };
            let Ok(fd @ 0..) = i32::try_from(fd) else {
                break;
            };
            taken.push(fd);
        }
        assert_eq!(taken.len(), 4, "{}", std::io::Error::last_os_error());
        Self(taken)
    }
}

impl Drop for Breakpoints {
    fn drop(&mut self) {
        for fd in &self.0 {
            // SAFETY: opened by `take_all`, and nobody else's.
            unsafe { libc::close(*fd) };
        }
    }
}
