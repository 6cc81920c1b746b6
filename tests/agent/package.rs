//! The Debian package, installed in a machine whose first process is systemd: its service counts with
//! nothing but what the unit leaves it, and removing it leaves nothing behind.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use crate::{
    agent::{
        privileges::{capabilities, objects},
        serve::parsed,
    },
    services::units::{BYTES, exact, source},
};

const PACKAGE: &str = "zc-profiler";
const CONFIGURATION: &str = "/etc/zc-profiler/config.toml";
const ADDRESS: &str = "127.0.0.1:9464";
const LIMIT: Duration = Duration::from_mins(2);

const CAP_SYSLOG: u32 = 34;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// The ids that systemd makes up users from.
const DYNAMIC: std::ops::RangeInclusive<u32> = 61184..=65519;

/// What it prints; any other end than success is a failure.
pub fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}\n{text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// The samples of the service's `/metrics`, by name and labels. Until the first are there, it waits.
pub fn samples(log: fn() -> String) -> BTreeMap<String, f64> {
    let deadline = Instant::now() + LIMIT;
    let mut stream = loop {
        match TcpStream::connect(ADDRESS) {
            Ok(stream) => break stream,
            Err(error) => assert!(Instant::now() < deadline, "{error}: {}", log()),
        }
    };
    write!(stream, "GET /metrics HTTP/1.0\r\n\r\n").expect("send");
    let mut answer = String::new();
    let received = stream.read_to_string(&mut answer);
    assert!(received.is_ok(), "{received:?}: {}", log());
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.contains(" 200 "), "{head}");
    parsed(body)
}

/// Lays the programs that the tests use over this machine's own.
pub fn install_tools() {
    let tools = env::var("ZC_TOOLS").expect("ZC_TOOLS names a directory of programs");
    let copy = "tar -C \"$1\" -c . | tar -C / -x --keep-directory-symlink";
    said("sh", &["-c", copy, "sh", &tools]);
}

/// Until it has started what every service needs, with the programs that it loads for that.
fn wait_for_systemd() {
    let deadline = Instant::now() + LIMIT;
    let start = || {
        Command::new("systemctl")
            .args(["start", "basic.target"])
            .output()
    };
    loop {
        let output = start().expect("systemctl");
        if output.status.success() {
            return;
        }
        assert!(Instant::now() < deadline, "{output:?}");
    }
}

fn journal() -> String {
    said("journalctl", &["--no-pager", "--unit", PACKAGE])
}

fn main_process() -> u32 {
    let pid = said("systemctl", &["show", "-P", "MainPID", PACKAGE]);
    pid.trim().parse().expect("a number")
}

/// The package's files that are in this machine: directories belong to others too.
fn files() -> Vec<String> {
    let list = said("dpkg", &["-L", PACKAGE]);
    let files = list.lines().filter(|path| !Path::new(path).is_dir());
    files.map(str::to_owned).collect()
}

#[test]
#[ignore = "it takes systemd as the first process: `cargo xtask test` runs it in a machine of its own"]
fn the_package_serves_by_itself_and_goes_without_a_trace() {
    let package = env::var("ZC_PACKAGE").expect("ZC_PACKAGE names the package");
    install_tools();
    wait_for_systemd();
    let before = links();
    // Images of containers have one that forbids to start services.
    let _ = fs::remove_file("/usr/sbin/policy-rc.d");
    // Other packages' indices of what is installed are not ours to try.
    said("dpkg", &["--no-triggers", "--install", &package]);

    let files = files();
    its_files_are_there(&files);
    manual_pages_can_be_read(&files);
    completions_complete();
    samples(journal);
    serves_exactly(main_process(), journal);
    the_service_is_nobody_in_particular();
    the_service_counts();
    the_service_reads_its_configuration_standby();
    assert!(links().len() > before.len(), "its links are seen");

    said("dpkg", &["--no-triggers", "--remove", PACKAGE]);
    let state = said("systemctl", &["show", "-P", "ActiveState", PACKAGE]);
    assert_eq!(state.trim(), "inactive");
    assert!(fs::exists(CONFIGURATION).expect("stat"), "it was changed");
    said("dpkg", &["--no-triggers", "--purge", PACKAGE]);
    for path in files
        .iter()
        .map(String::as_str)
        .chain(["/etc/zc-profiler", "/usr/share/doc/zc-profiler"])
    {
        assert!(!fs::exists(path).expect("stat"), "{path} is left behind");
    }
    let enabled = Command::new("systemctl")
        .args(["is-enabled", PACKAGE])
        .status();
    assert!(!enabled.expect("systemctl").success(), "still enabled");
    let deadline = Instant::now() + LIMIT;
    while links().difference(&before).next().is_some() {
        assert!(Instant::now() < deadline, "its probes are left behind");
    }
}

/// What holds every probe. systemd has programs and maps too, for the devices of its units, but no links.
fn links() -> BTreeSet<u32> {
    let [_, _, links] = objects();
    links
}

fn its_files_are_there(files: &[String]) {
    let wanted = [
        CONFIGURATION,
        "/usr/bin/zc-profiler",
        "/usr/lib/systemd/system/zc-profiler.service",
        "/usr/share/bash-completion/completions/zc-profiler",
        "/usr/share/doc/zc-profiler/README.md",
        "/usr/share/doc/zc-profiler/copyright",
        "/usr/share/doc/zc-profiler/examples/kubernetes/daemonset.yaml",
        "/usr/share/fish/vendor_completions.d/zc-profiler.fish",
        "/usr/share/man/man1/zc-profiler-serve.1.gz",
        "/usr/share/man/man1/zc-profiler.1.gz",
        "/usr/share/zsh/vendor-completions/_zc-profiler",
    ];
    for path in wanted {
        assert!(
            files.iter().any(|file| file == path),
            "{path} is not in {files:#?}"
        );
        assert!(fs::metadata(path).expect(path).len() > 0, "{path} is empty");
    }
    let version = said("/usr/bin/zc-profiler", &["--version"]);
    assert_eq!(
        version,
        concat!("zc-profiler ", env!("CARGO_PKG_VERSION"), "\n")
    );
    let settings = said("/usr/bin/zc-profiler", &["config", "check"]);
    assert!(settings.contains("group_by = \"service\"\n"), "{settings}");
    let unit = "/usr/lib/systemd/system/zc-profiler.service";
    said("systemd-analyze", &["verify", "--man=no", unit]);
    // In tenths: 2.2 of 10 is what counting the whole machine leaves open.
    said(
        "systemd-analyze",
        &["security", "--offline=yes", "--threshold=22", unit],
    );
}

fn manual_pages_can_be_read(files: &[String]) {
    let mut number = 0;
    for page in files.iter().filter(|path| path.contains("/man/")) {
        let text = said("man", &["--warnings", "--local-file", page]);
        assert!(text.contains("SYNOPSIS"), "{page}: {text}");
        number += 1;
    }
    let text = said("man", &["zc-profiler-serve"]);
    assert!(text.contains("--max-groups"), "{text}");
    let commands = said("man", &["zc-profiler"]);
    assert!(
        !commands.contains("worker"),
        "its own are not for people: {commands}"
    );
    assert_eq!(
        number,
        commands.matches("zc-profiler-").count() + 2,
        "{files:?}"
    );
}

fn completions_complete() {
    let bash = "source /usr/share/bash-completion/completions/zc-profiler; \
        function=$(complete -p zc-profiler); function=${function##*-F }; \
        COMP_WORDS=(zc-profiler serve --gr) COMP_CWORD=2; \
        ${function% zc-profiler} zc-profiler --gr serve; echo \"${COMPREPLY[@]}\"";
    let answer = said("bash", &["--norc", "-c", bash]);
    assert!(
        answer.contains("--group-by --grace-seconds")
            || answer.contains("--grace-seconds --group-by"),
        "{answer}"
    );
    let zsh = "autoload -U compinit && compinit -u -D && print -r -- $_comps[zc-profiler] && \
        autoload +X -U _zc-profiler && print -r -- $functions[_zc-profiler]";
    let answer = said("zsh", &["-f", "-c", zsh]);
    assert!(
        answer.starts_with("_zc-profiler\n") && answer.contains("--group-by"),
        "{answer}"
    );
    let answer = said("fish", &["-c", "complete -C 'zc-profiler serve --gr'"]);
    assert!(
        answer.contains("--group-by\t") && answer.contains("--grace-seconds\t"),
        "{answer}"
    );
}

/// Known bytes are counted exactly, no probe has failed, and no more is allowed than that takes.
pub fn serves_exactly(pid: u32, log: fn() -> String) {
    let samples = samples(log);
    let of = |name: &str| -> Vec<_> {
        let series = samples
            .iter()
            .filter(|(series, _)| series.starts_with(name));
        series
            .map(|(series, value)| (series.clone(), *value))
            .collect()
    };
    let known = of("zc_calibration_ok{");
    assert!(known.len() >= 7, "{known:?}: {}", log());
    assert!(
        known.iter().all(|(_, ok)| exact(*ok, 1.0)),
        "{known:?}: {}",
        log()
    );
    let probes = of("zc_probe_attached{");
    let lost: Vec<_> = probes
        .iter()
        // What this kernel or machine does not have is no loss.
        .filter(|(series, attached)| {
            !exact(*attached, 1.0) && !series.contains(r#"attach="absent""#)
        })
        .collect();
    assert!(!probes.is_empty() && lost.is_empty(), "{lost:?}: {}", log());

    // The first answer came once it served: from then on it has given up the rest.
    assert_eq!(capabilities(pid, "CapPrm"), 1 << CAP_BPF);
    assert_eq!(capabilities(pid, "CapEff"), 1 << CAP_BPF);
    let bounds = 1 << CAP_BPF | 1 << CAP_PERFMON | 1 << CAP_SYSLOG;
    assert_eq!(capabilities(pid, "CapBnd"), bounds);
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    assert!(status.contains("\nNoNewPrivs:\t1\n"), "{status}");
    assert!(status.contains("\nSeccomp:\t2\n"), "{status}");
}

fn the_service_is_nobody_in_particular() {
    let status = fs::read_to_string(format!("/proc/{}/status", main_process())).expect("status");
    let user = status.lines().find_map(|line| line.strip_prefix("Uid:\t"));
    let user = user.and_then(|ids| ids.split('\t').next()).expect("a user");
    assert!(DYNAMIC.contains(&user.parse().expect("a number")), "{user}");
}

fn the_service_counts() {
    const RUNS: u32 = 3;
    let path = source("package-source");
    // It stays until it has been seen: a unit that is gone before anybody looks has no name any more.
    let script = format!(
        "for run in $(seq {RUNS}); do head -c {BYTES} {path} > /dev/null; done; exec sleep 1000"
    );
    said(
        "systemd-run",
        &["--quiet", "--unit=zc-reader", "sh", "-c", &script],
    );
    let series =
        r#"zc_copied_bytes_total{direction="to_user",method="read",unit="zc-reader.service"}"#;
    let deadline = Instant::now() + LIMIT;
    // The headers of libraries come with it.
    let enough = |copied: &f64| *copied >= f64::from(RUNS * BYTES);
    while !samples(journal).get(series).is_some_and(enough) {
        assert!(Instant::now() < deadline, "{}", journal());
    }
    said("systemctl", &["stop", "zc-reader"]);
    fs::remove_file(path).expect("unlink");
}

fn the_service_reads_its_configuration_standby() {
    fs::write(CONFIGURATION, "group_by = \"process\"\n").expect("write");
    let pid = main_process();
    said("systemctl", &["reload", PACKAGE]);
    let deadline = Instant::now() + LIMIT;
    while !samples(journal)
        .keys()
        .any(|series| series.contains("pid=\""))
    {
        assert!(Instant::now() < deadline, "{}", journal());
    }
    assert_eq!(main_process(), pid, "it is still the same");
}
