//! The program as a user types it.

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;
use zc_profiler::probes::Evidence;

/// On the PATH inside the lab machine.
pub const PROGRAM: &str = "zc-profiler";

fn run(args: &[&str]) -> Output {
    Command::new(PROGRAM)
        .args(args)
        .output()
        .unwrap_or_else(|error| panic!("{PROGRAM}: {error}"))
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs `stat --json` on a command; its document.
fn stat(command: &[&str]) -> (Output, Value) {
    let dir = TempDir::new_in("/lab").expect("directory");
    let path = dir.path().join("stat.json");
    let path = path.to_str().expect("UTF-8");
    let output = run(&[&["stat", "--json", path, "--"], command].concat());
    let text =
        fs::read_to_string(path).unwrap_or_else(|error| panic!("{error}: {}", stderr(&output)));
    (output, serde_json::from_str(&text).expect("JSON"))
}

fn number(value: &Value, path: &str) -> u64 {
    value
        .pointer(path)
        .and_then(Value::as_u64)
        .unwrap_or_else(|| panic!("no {path} in {value}"))
}

fn named<'a>(document: &'a Value, comm: &str) -> Vec<&'a Value> {
    let processes = document["processes"].as_array().expect("processes");
    processes
        .iter()
        .filter(|process| process["comm"] == comm)
        .collect()
}

#[test]
fn stat_accounts_for_every_byte_of_a_cp() {
    let dir = TempDir::new_in("/lab").expect("directory");
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    let size = 5_000_003u64;
    fs::write(&from, vec![7u8; usize::try_from(size).expect("small")]).expect("write");
    let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    let (output, document) = stat(&["cp", &text(&from), &text(&to)]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(fs::read(&from).expect("from"), fs::read(&to).expect("to"));
    let cp = named(&document, "cp");
    assert_eq!(cp.len(), 1, "{document}");
    // This cp copies by copy_file_range, and ext4 has no reflinks: the kernel copies page to page.
    assert_eq!(
        number(cp[0], "/methods/copy_file_range/payload_bytes"),
        size
    );
    assert_eq!(
        number(cp[0], "/methods/copy_file_range/in_kernel/bytes"),
        size
    );
    assert_eq!(number(cp[0], "/methods/copy_file_range/zero_copy_bytes"), 0);
    assert_eq!(document["evidence"], "measured");
    assert_eq!(
        document["total"]["methods"], cp[0]["methods"],
        "one process is the total"
    );
}

#[test]
fn stat_follows_descendants_and_passes_the_exit_code_on() {
    let dir = TempDir::new_in("/lab").expect("directory");
    let source = dir.path().join("source");
    fs::write(&source, vec![7u8; 100_000]).expect("write");
    let script = format!(
        "cat {} | (cat; true) > /dev/null; exit 37",
        source.display()
    );
    let (output, document) = stat(&["sh", "-c", &script]);
    assert_eq!(output.status.code(), Some(37));
    let cats = named(&document, "cat");
    assert_eq!(cats.len(), 2, "{document}");
    let read: u64 = cats
        .iter()
        .map(|cat| number(cat, "/methods/read/to_user/bytes"))
        .sum();
    let written: u64 = cats
        .iter()
        .map(|cat| number(cat, "/methods/write/payload_bytes"))
        .sum();
    assert_eq!(written, 200_000, "to the pipe, and to /dev/null");
    let copied: u64 = cats
        .iter()
        .filter_map(|cat| {
            cat.pointer("/methods/write/from_user/bytes")
                .and_then(Value::as_u64)
        })
        .sum();
    assert_eq!(copied, 100_000, "/dev/null copies nothing");
    // Each cat also reads the ELF headers of the libraries it loads.
    assert!(read >= 200_000);
    let libraries = number(
        &stat(&["cat", "/dev/null"]).1,
        "/total/methods/read/to_user/bytes",
    );
    assert_eq!(read, 200_000 + 2 * libraries);
}

#[test]
fn stat_reports_a_killed_command_and_one_that_does_not_exist() {
    let (output, _) = stat(&["sh", "-c", "kill -9 $$"]);
    assert_eq!(output.status.code(), Some(137));
    let output = run(&["stat", "--", "no-such-command"]);
    assert_eq!(output.status.code(), Some(127));
    assert_eq!(stderr(&output).lines().count(), 1, "{}", stderr(&output));
    let output = run(&["stat", "-p", "4194303"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stderr(&output), "zc-profiler: no process 4194303\n");
}

#[test]
fn stat_passes_signals_on_and_still_prints_the_ledger() {
    let mut child = Command::new(PROGRAM)
        .args([
            "stat",
            "--",
            "sh",
            "-c",
            "trap 'exit 5' INT; echo ready; while :; do sleep 0.1; done",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("spawn");
    let mut ready = [0; 6];
    let out = child.stdout.as_mut().expect("piped");
    std::io::Read::read_exact(out, &mut ready).expect("the command runs");
    // SAFETY: our own child.
    unsafe { libc::kill(child.id().cast_signed(), libc::SIGINT) };
    let output = child.wait_with_output().expect("wait");
    assert_eq!(output.status.code(), Some(5), "{}", stderr(&output));
    assert!(stderr(&output).contains("total"), "{}", stderr(&output));
}

#[test]
fn the_command_has_no_signal_blocked_or_ignored() {
    let script = "grep -E 'Sig(Blk|Ign)' /proc/self/status";
    let masks = |command: &mut Command| command.output().expect("run").stdout;
    let alone = masks(Command::new("sh").args(["-c", script]));
    let under = masks(Command::new(PROGRAM).args(["stat", "--", "sh", "-c", script]));
    assert_eq!(
        String::from_utf8_lossy(&under),
        String::from_utf8_lossy(&alone)
    );
}

#[test]
fn stat_watches_a_running_process_until_it_exits() {
    let dir = TempDir::new_in("/lab").expect("directory");
    let (go, json) = (dir.path().join("go"), dir.path().join("stat.json"));
    fs::write(dir.path().join("data"), vec![7u8; 70_000]).expect("write");
    let script = format!(
        "cd {} && while [ ! -e go ]; do sleep 0.1; done; cat data",
        dir.path().display()
    );
    let mut watched = Command::new("sh")
        .args(["-c", &script])
        .stdout(Stdio::null())
        .spawn()
        .expect("spawn");
    let mut program = Command::new(PROGRAM)
        .args(["stat", "-p", &watched.id().to_string(), "--json"])
        .arg(&json)
        .stderr(Stdio::piped())
        .spawn()
        .expect("spawn");
    // It says nothing when it begins, but the kernel shows its pidfd.
    let fds = format!("/proc/{}/fd", program.id());
    let watching = || {
        let entries = fs::read_dir(&fds).expect("descriptors");
        entries.flatten().any(|entry| {
            fs::read_link(entry.path()).is_ok_and(|link| link.to_string_lossy().contains("pidfd"))
        })
    };
    let deadline = Instant::now() + Duration::from_mins(3);
    while !watching() {
        assert!(Instant::now() < deadline, "stat -p never began to watch");
        thread::sleep(Duration::from_millis(20));
    }
    fs::write(&go, "").expect("go");
    assert!(watched.wait().expect("wait").success());
    assert!(program.wait().expect("wait").success());
    let document: Value = serde_json::from_slice(&fs::read(&json).expect("JSON")).expect("JSON");
    let cat = named(&document, "cat");
    assert_eq!(
        number(cat[0], "/methods/write/payload_bytes"),
        70_000,
        "{document}"
    );
}

#[test]
fn lab_passes_and_its_json_agrees() {
    let dir = TempDir::new_in("/lab").expect("directory");
    let json = dir.path().join("lab.json");
    let at = dir.path().to_str().expect("UTF-8");
    let (payload, chunk) = (1_000_003u64, 10_007u64);
    let args = [
        "lab",
        "--dir",
        at,
        "--payload",
        "1000003",
        "--chunk",
        "10007",
        "--json",
    ];
    let output = run(&[&args[..], &[json.to_str().expect("UTF-8")]].concat());
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{table}\n{}", stderr(&output));
    assert!(table.contains("OK") && !table.contains("FAIL"), "{table}");
    let document: Value = serde_json::from_slice(&fs::read(&json).expect("JSON")).expect("JSON");
    assert_eq!(number(&document, "/payload_bytes"), payload);
    assert_eq!(number(&document, "/chunk_bytes"), chunk);
    let rows = document["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), 15, "{document}");
    for row in rows {
        assert_eq!(row["ok"], true, "{row}");
        let methods = row["measured"]["methods"].as_object().expect("methods");
        let moved: u64 = methods
            .values()
            .map(|method| number(method, "/payload_bytes"))
            .sum();
        // Completions on 5.10 do not tell what completed.
        let unknown = moved == 0 && row["method"] == "io_uring-read";
        assert!(unknown || moved == payload || moved == 2 * payload, "{row}");
    }
    let left: Vec<_> = fs::read_dir(dir.path()).expect("list").flatten().collect();
    assert_eq!(left.len(), 1, "only the JSON is left: {left:?}");
}

#[test]
fn lab_shows_every_kind_of_file_and_memory() {
    let dir = TempDir::new_in("/lab").expect("directory");
    let json = dir.path().join("lab.json");
    let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    let (at, json_at) = (text(dir.path()), text(&json));
    let lab = ["lab", "files", "memory", "--dir", &at, "--json", &json_at];
    let size = ["--payload", "1000003", "--chunk", "10007"];
    let read = |output: &Output| -> Value {
        let table = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{table}\n{}", stderr(output));
        serde_json::from_slice(&fs::read(&json).expect("JSON")).expect("JSON")
    };
    let xfs = ["--xfs-dir", crate::paths::xfs::dir()];
    let document = read(&run(&[&lab[..], &size, &xfs].concat()));
    assert_eq!(document["left_out"], serde_json::json!([]));
    let rows = document["rows"].as_array().expect("rows");
    let tables = zc_profiler::lab::TABLES.iter();
    let named = tables.filter(|table| ["files", "memory"].contains(&table.name));
    let expected: Vec<_> = named
        .flat_map(|table| table.rows)
        .map(|row| (row.method, row.target.name()))
        .collect();
    assert_eq!(expected.len(), 32);
    let got: Vec<_> = rows
        .iter()
        .map(|row| ["method", "target"].map(|name| row[name].as_str().expect("name")))
        .map(|[method, target]| (method, target))
        .collect();
    assert_eq!(got, expected);
    for row in rows {
        assert_eq!(row["ok"], true, "{row}");
    }
    // Where more than one truth is allowed, which one holds here is known.
    let bytes = |method: &str, target: &str, path: &str| -> u64 {
        let named = |row: &&Value| row["method"] == method && row["target"] == target;
        let row = rows.iter().find(named).expect("row");
        number(row, &format!("/measured/methods/{path}"))
    };
    let by_pipe = bytes("sendfile+read", "memory", "sendfile/in_kernel/bytes");
    let copies = crate::paths::splices::sendfile_copies_to_a_pipe();
    assert_eq!(by_pipe, u64::from(copies) * 1_000_003);
    let shared = "copy_file_range/zero_copy_bytes";
    assert_eq!(bytes("copy_file_range", "xfs", shared), 1_000_003);
    // What page faults there are is the kernel's choice, and that there are some is not.
    let faults = |method: &str, kind: &str| -> u64 {
        let row = rows.iter().find(|row| row["method"] == method);
        number(row.expect("row"), &format!("/measured/page_faults/{kind}"))
    };
    for method in ["mmap-minor", "private-write", "fork", "anonymous"] {
        assert!(faults(method, "minor") > 0, "{document}");
        assert_eq!(faults(method, "major"), 0, "{document}");
    }
    assert!(faults("mmap-major", "major") > 0, "{document}");

    let without = [
        "lab",
        "ficlone",
        "zero-read",
        "--dir",
        &at,
        "--json",
        &json_at,
    ];
    let document = read(&run(&[&without[..], &size].concat()));
    let left_out = ["ficlone to xfs: no xfs in --xfs-dir or --dir"];
    assert_eq!(document["left_out"], serde_json::json!(left_out));
}

#[test]
fn lab_refuses_nonsense_in_one_line_each() {
    for (args, word) in [
        (&["lab", "--chunk", "0"][..], "chunk"),
        (&["lab", "--payload", "12parsecs"], "12parsecs"),
        (&["lab", "teleport"], "teleport"),
        (&["lab", "--dir", "/nowhere"], "/nowhere"),
    ] {
        let output = run(args);
        assert!(!output.status.success(), "{args:?}");
        let text = stderr(&output);
        assert!(
            text.lines().next().is_some_and(|line| line.contains(word)),
            "{args:?}: {text}"
        );
    }
}

#[test]
fn doctor_names_every_hook() {
    let output = run(&["doctor"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let text = String::from_utf8_lossy(&output.stdout);
    for word in ["kernel", "BTF", "lockdown", "privileges"] {
        assert!(text.contains(word), "{text}");
    }
    for hook in zc_profiler::probes::hooks::all(Evidence::Measured) {
        assert!(
            text.lines().any(|line| line.starts_with(hook.name)),
            "no {} in {text}",
            hook.name
        );
    }
    assert!(!text.contains("failed"), "{text}");
}

#[test]
fn an_unprivileged_start_fails_with_one_line() {
    for command in [
        &["stat", "--", "true"][..],
        &["serve", "--listen", "127.0.0.1:0"],
        &["lab"],
    ] {
        let output = Command::new("setpriv")
            .args([
                "--reuid=65534",
                "--clear-groups",
                "--inh-caps=-all",
                "--bounding-set=-all",
                PROGRAM,
            ])
            .args(command)
            .output()
            .expect("setpriv");
        assert_eq!(output.status.code(), Some(1), "{command:?}");
        let text = stderr(&output);
        assert_eq!(text.lines().count(), 1, "{command:?}: {text}");
        assert!(text.contains("CAP_BPF"), "{command:?}: {text}");
    }
}

#[test]
fn a_closed_pipe_is_a_quiet_end() {
    let script = format!("{PROGRAM} doctor | head -1 > /dev/null; echo ${{PIPESTATUS[0]}}");
    let output = Command::new("bash")
        .args(["-c", &script])
        .output()
        .expect("bash");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "0\n");
    assert_eq!(stderr(&output), "");
}
