//! A kernel with a kind of `iov_iter` that nobody knew when this was written.

use std::{fs, process::Command};

use serde_json::Value;
use tempfile::TempDir;

use crate::{agent::command_line::PROGRAM, harness::support::path};

const TYPES: &str = "/sys/kernel/btf/vmlinux";
const BYTES: usize = 1_000_003;

/// The kernel's own description of itself in which pages of files go by another name.
fn without_bvec() -> Vec<u8> {
    let (name, other) = (b"\0ITER_BVEC\0", b"\0ITER_NEWS\0");
    let mut types = fs::read(TYPES).expect("the kernel's types");
    let places: Vec<_> = types
        .windows(name.len())
        .enumerate()
        .filter(|(_, bytes)| bytes == name)
        .map(|(place, _)| place)
        .collect();
    let [place] = places[..] else {
        panic!("ITER_BVEC at {places:?}");
    };
    types[place..place + other.len()].copy_from_slice(other);
    types
}

#[test]
fn copies_by_an_unknown_iter_are_counted_as_dropped_with_their_bytes() {
    let dir = TempDir::new_in("/lab").expect("directory");
    let place = |name| dir.path().join(name).to_str().expect("UTF-8").to_owned();
    let (types, from, to) = (place("types"), place("from"), place("to"));
    let json = place("stat.json");
    fs::write(&types, without_bvec()).expect("write");
    fs::write(&from, vec![7u8; BYTES]).expect("write");
    // cp has the kernel copy page to page, by ITER_BVEC.
    let script = format!(
        "mount --bind {types} {TYPES} && exec {PROGRAM} stat --json {json} -- cp {from} {to}"
    );
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", &script])
        .output()
        .expect("unshare");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    let dropped = |reason: &str| {
        let line = text
            .lines()
            .find(|line| line.ends_with(&format!(" ({reason})")));
        let line = line.unwrap_or_else(|| panic!("no {reason} in {text}"));
        let number = line.strip_prefix("zc-profiler: dropped: ");
        let number = number.and_then(|rest| rest.split(' ').next());
        number.and_then(|number| number.parse::<usize>().ok())
    };
    assert_eq!(dropped("unknown_iter_bytes"), Some(BYTES), "{text}");
    assert!(dropped("unknown_iter") > Some(0), "{text}");
    let document: Value = serde_json::from_slice(&fs::read(&json).expect("JSON")).expect("JSON");
    let range = &document["total"]["methods"]["copy_file_range"];
    assert_eq!(range["payload_bytes"], BYTES, "{document}");
    // Nobody knows, so nothing is claimed.
    assert_eq!(range["zero_copy_bytes"], 0, "{document}");
    assert_eq!(range["in_kernel"]["bytes"], 0, "{document}");
    path("unknown iov_iter type, counted as dropped");
}
