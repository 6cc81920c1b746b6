//! `zc-profiler serve` holds no more than it needs, and leaves nothing behind.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::process::ExitStatusExt,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::{
    agent::{command_line::PROGRAM, serve::Server},
    ledger::filters::{CHUNK, Load},
    services::units::{exact, source},
};

const CAP_BPF: u32 = 39;

pub fn capabilities(pid: u32, set: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix(set));
    let bits = line.and_then(|line| line.strip_prefix(":\t"));
    u64::from_str_radix(bits.unwrap_or_else(|| panic!("no {set}")), 16).expect("hex")
}

/// What the kernel holds, by number: programs, maps and links.
pub fn objects() -> [BTreeSet<u32>; 3] {
    const PROGRAMS: i64 = 11;
    const MAPS: i64 = 12;
    const LINKS: i64 = 31;
    [PROGRAMS, MAPS, LINKS].map(|next| {
        let mut found = BTreeSet::new();
        // start_id, next_id, open_flags
        let mut attributes = [0u32; 3];
        // SAFETY: valid for the call, which writes the second word.
        while unsafe {
            libc::syscall(
                libc::SYS_bpf,
                next,
                attributes.as_mut_ptr(),
                size_of_val(&attributes),
            )
        } == 0
        {
            found.insert(attributes[1]);
            attributes[0] = attributes[1];
        }
        found
    })
}

fn head_reads(bytes: &str, path: &str) {
    let status = Command::new("head")
        .args(["-c", bytes, path])
        .stdout(Stdio::null())
        .status();
    assert!(status.expect("head").success());
}

#[test]
fn one_capability_is_kept_in_every_thread() {
    keeps_one_capability(&Server::start(), 1);
}

#[test]
fn so_it_is_in_the_thread_that_shows_the_programs_log() {
    let server = Server::of(Command::new(PROGRAM).args(["-v", "serve", "--listen", "127.0.0.1:0"]));
    keeps_one_capability(&server, 2);
}

fn keeps_one_capability(server: &Server, least_threads: usize) {
    // What it does afterwards, it can do without the others.
    server.samples();
    let threads = fs::read_dir(format!("/proc/{}/task", server.pid())).expect("task");
    let mut number = 0;
    for thread in threads {
        let name = thread.expect("thread").file_name();
        let thread = name
            .to_str()
            .and_then(|name| name.parse().ok())
            .expect("a number");
        for set in ["CapPrm", "CapEff"] {
            assert_eq!(capabilities(thread, set), 1 << CAP_BPF, "{set} of {thread}");
        }
        for set in ["CapInh", "CapAmb"] {
            assert_eq!(capabilities(thread, set), 0, "{set} of {thread}");
        }
        number += 1;
    }
    assert!(number >= least_threads, "{number} threads");
}

#[test]
fn an_agent_killed_under_load_leaves_nothing_behind_and_another_counts_at_once() {
    // Without, emulated CPUs would be busy with the load, and two agents would take minutes to start.
    const PAUSE: Duration = Duration::from_millis(5);
    let before = objects();
    let mut server = Server::start_with(&["--group-by", "comm"]);
    let during = objects();
    for (before, during) in before.iter().zip(&during) {
        assert!(
            during.difference(before).count() > 0,
            "nothing to leave behind"
        );
    }
    let source = source("killed-source");
    let [load, with_children] = [("zc-load", false), ("zc-parent", true)]
        .map(|(name, with_children)| Load::with_pauses(name, &source, with_children, PAUSE));
    for load in [&load, &with_children] {
        load.child.go_on();
        load.wait_for_more();
    }
    assert!(load.counted(&server) > 0.0);
    let status = server.end(libc::SIGKILL);
    assert_eq!(status.signal(), Some(libc::SIGKILL));

    // While the kernel still takes the first one's probes down.
    let mut server = Server::start_with(&["--group-by", "comm"]);
    for load in [&load, &with_children] {
        load.wait_for_more();
    }
    let later = Load::new("zc-later", &source, true);
    // What it has read of its own memory goes to its name so far.
    server.samples();
    later.child.go_on();
    later.wait_for_more();
    let bytes = later.stopped();
    assert!(
        exact(later.counted(&server), bytes),
        "{bytes} from birth on"
    );
    for load in [&load, &with_children] {
        let (bytes, counted) = (load.stopped(), load.counted(&server));
        assert!(counted > 0.0 && counted < bytes, "{counted} of {bytes}");
        let name = load.name;
        let copied =
            format!(r#"zc_copied_bytes_total{{comm="{name}",direction="to_user",method="read"}}"#);
        let samples = server.samples();
        // Kernels that preempt inside programs may skip some, but never in silence.
        let skipped = samples[r#"zc_dropped_total{reason="skipped_runs"}"#];
        let copied = samples[&copied];
        let apart = (counted - copied).abs() / f64::from(CHUNK);
        // One was perhaps between its copy and its end when the agent began to count.
        assert!(
            apart <= skipped + 1.0,
            "{copied} copied of {counted}, {skipped} skipped"
        );
    }
    // Each has compared what it read.
    for load in [&load, &with_children, &later] {
        load.end();
    }
    server.end(libc::SIGKILL);
    wait_for_nothing_but(&before);
    fs::remove_file(source).expect("unlink");
}

pub fn wait_for_nothing_but(before: &[BTreeSet<u32>; 3]) {
    // The kernel frees them behind the last reader's back.
    let deadline = Instant::now() + Duration::from_mins(2);
    while objects()
        .iter()
        .zip(before)
        .any(|(after, before)| after.difference(before).next().is_some())
    {
        assert!(Instant::now() < deadline, "still there after two minutes");
    }
    if let Ok(mut pins) = fs::read_dir("/sys/fs/bpf") {
        assert!(pins.next().is_none(), "something is pinned");
    }
}

#[test]
fn two_agents_count_the_same() {
    let servers = [Server::start(), Server::start()];
    let path = "/lab/two-agents";
    fs::write(path, vec![1u8; 300_000]).expect("write");
    head_reads("300000", path);
    let copied = r#"zc_copied_bytes_total{comm="head",direction="to_user",method="read"}"#;
    let written = r#"zc_payload_bytes_total{comm="head",method="write"}"#;
    let [first, second] = servers.map(|server| {
        let samples = server.samples();
        // Unlike what it reads, what it writes has no part of libraries in it.
        let written = samples[written];
        assert!((written - 300_000.0).abs() < 0.5, "{written}");
        samples[copied]
    });
    assert!(first >= 300_000.0, "{first}");
    assert!((first - second).abs() < 0.5, "{first} and {second}");
    fs::remove_file(path).expect("unlink");
}

#[test]
fn it_needs_no_root() {
    // CAP_SYSLOG for addresses of symbols; before 5.11 CAP_SYS_RESOURCE for the memory of maps.
    let wanted = "+bpf,+perfmon,+syslog,+sys_resource";
    let server = Server::of(Command::new("setpriv").args([
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        &format!("--inh-caps={wanted}"),
        &format!("--ambient-caps={wanted}"),
        PROGRAM,
        "serve",
        "--listen",
        "127.0.0.1:0",
    ]));
    assert_eq!(capabilities(server.pid(), "CapPrm"), 1 << CAP_BPF);
    let path = "/lab/no-root";
    fs::write(path, vec![1u8; 300_000]).expect("write");
    head_reads("300000", path);
    let series = r#"zc_copied_bytes_total{comm="head",direction="to_user",method="read"}"#;
    assert!(server.samples()[series] >= 300_000.0);
    fs::remove_file(path).expect("unlink");
}
