//! The lab's tables that only run when they are named.

use std::{fs, process::Command};

use serde_json::Value;
use tempfile::TempDir;

use crate::{agent::command_line::PROGRAM, paths::io_uring::has_send_zc};

const PAYLOAD: &str = "1000003";
const CHUNK: &str = "10007";

/// Runs these tables; the document.
fn lab(tables: &[&str]) -> Value {
    let dir = TempDir::new_in("/lab").expect("directory");
    let json = dir.path().join("lab.json");
    let output = Command::new(PROGRAM)
        .arg("lab")
        .args(tables)
        .args(["--payload", PAYLOAD, "--chunk", CHUNK, "--dir"])
        .arg(dir.path())
        .arg("--json")
        .arg(&json)
        .output()
        .unwrap_or_else(|error| panic!("{PROGRAM}: {error}"));
    assert!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&fs::read(&json).expect("JSON")).expect("JSON")
}

#[test]
fn sockets_and_rings_are_exact_in_the_lab() {
    let document = lab(&["network", "rings"]);
    let left_out = document["left_out"].as_array().expect("left out");
    let expected: &[&str] = if has_send_zc() {
        &[]
    } else {
        &[
            "ring-send-zc to tcp: this kernel's io_uring has no SEND_ZC (6.0 and later have)",
            "ring-send-zc to veth: this kernel's io_uring has no SEND_ZC (6.0 and later have)",
        ]
    };
    assert_eq!(left_out, expected);
    let rows = document["rows"].as_array().expect("rows");
    let names: Vec<_> = rows
        .iter()
        .map(|row| format!("{} {}", row["method"], row["target"]).replace('"', ""))
        .collect();
    let all = [
        "tcp-ipv4 memory",
        "tcp-ipv6 memory",
        "udp-ipv6 memory",
        "udp-fragments memory",
        "udp6-fragments memory",
        "unix-datagram memory",
        "sendfile-tcp memory",
        "sendfile-unix memory",
        "splice-tcp memory",
        "splice-unix memory",
        "bytes-tcp-pipe memory",
        "bytes-unix-pipe memory",
        "pages-tcp-pipe memory",
        "pages-unix-pipe memory",
        "read+write veth",
        "sendfile veth",
        "zerocopy-send veth",
        "read+write veth-sg",
        "sendfile veth-sg",
        "zerocopy-send veth-sg",
        "read+write veth-tx",
        "ring-write file",
        "ring-read-fixed memory",
        "ring-write-fixed file",
        "ring-direct-fixed memory",
        "ring-send tcp",
        "ring-recv memory",
        "ring-send-zc tcp",
        "ring-send-zc veth",
        "ring-splice file",
        "ring-read-sqpoll memory",
        "ring-send-sqpoll tcp",
    ];
    let driven: Vec<_> = all
        .into_iter()
        .filter(|name| has_send_zc() || !name.starts_with("ring-send-zc"))
        .collect();
    assert_eq!(names, driven);
    for row in rows {
        assert_eq!(row["ok"], true, "{row}");
    }
}
