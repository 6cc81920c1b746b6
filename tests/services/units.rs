//! `zc-profiler serve` tells services apart, by cgroups like systemd's and Docker's.

use std::{
    fs, io,
    os::unix::{fs::symlink, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    agent::serve::Server,
    harness::{proof::Counted, support::Child},
};

const ROOT: &str = "/sys/fs/cgroup";
const CONTAINER: &str = "7eb263389e5eea068ad3d0c208ea4dd02ba86fa0b2ebd44f63adc391351fba6d";
pub const BYTES: u32 = 300_000;

/// A cgroup of the tests' own, removed with those above it when it goes.
pub struct Cgroup(pub PathBuf);

impl Cgroup {
    pub fn new(path: &str) -> Self {
        let path = Path::new(ROOT).join(path);
        fs::create_dir_all(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self(path)
    }

    /// A program that will move itself here before it is executed, as a service's does.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let procs = self.0.join("cgroup.procs");
        let mut command = Command::new(program.as_ref());
        // SAFETY: opens and writes a file; the tests' other threads hold no lock that this needs.
        unsafe { command.pre_exec(move || fs::write(&procs, "0")) };
        command
    }

    pub fn run(&self, program: impl AsRef<Path>, arguments: &[&str]) {
        let mut command = self.command(program);
        command.args(arguments).stdout(Stdio::null());
        let status = command.status().expect("spawn");
        assert!(status.success(), "{status}");
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let mut path = self.0.as_path();
        while path != Path::new(ROOT) && fs::remove_dir(path).is_ok() {
            path = path.parent().unwrap_or(path);
        }
    }
}

pub fn source(name: &str) -> String {
    let path = format!("/lab/{name}");
    fs::write(&path, vec![1u8; BYTES as usize]).expect("write");
    path
}

pub fn exact(left: f64, right: f64) -> bool {
    (left - right).abs() < 0.5
}

#[test]
fn services_are_told_apart_by_their_cgroups() {
    let server = Server::start();
    let path = source("services-source");
    let unit = Cgroup::new("system.slice/zc-lab.service");
    let container = Cgroup::new(&format!("system.slice/docker-{CONTAINER}.scope"));
    let head = ["-c", "300000", path.as_str()];
    for _ in 0..3 {
        unit.run("head", &head);
    }
    container.run("head", &head);
    let copied = |label: &str| {
        let samples = server.samples();
        let (first, rest) = match label {
            "" => (r#"comm="head","#, ""),
            unit if unit.starts_with("unit") => ("", unit),
            container => (container, ""),
        };
        let rest = if rest.is_empty() {
            String::new()
        } else {
            format!(",{rest}")
        };
        let series =
            format!(r#"zc_copied_bytes_total{{{first}direction="to_user",method="read"{rest}}}"#);
        samples.get(&series).copied()
    };
    let of_container = copied(&format!(r#"container="{CONTAINER}","#)).expect("the container");
    let of_unit = copied(r#"unit="zc-lab.service""#).expect("the unit");
    assert!(of_container >= 300_000.0, "{of_container}");
    assert!(
        exact(of_unit, 3.0 * of_container),
        "{of_unit} is not three times {of_container}"
    );
    assert_eq!(copied(""), None, "all of head belongs to a service");

    // The same name again is the same service, though the cgroup is another.
    drop(unit);
    let unit = Cgroup::new("system.slice/zc-lab.service");
    unit.run("head", &head);
    let of_unit = copied(r#"unit="zc-lab.service""#).expect("the unit");
    assert!(
        exact(of_unit, 4.0 * of_container),
        "{of_unit} is not four times {of_container}"
    );
    fs::remove_file(path).expect("unlink");
    a_pipeline_is_a_service(&server);
}

/// Three programs and a shell in one unit: their sum, with the same agent.
fn a_pipeline_is_a_service(server: &Server) {
    const UNIT: &str = "zc-pipeline.service";
    const LENGTH: usize = 3_000_017;
    let unit = Cgroup::new(&format!("system.slice/{UNIT}"));
    let dir = tempfile::tempdir_in("/lab").expect("tempdir");
    let [source, target] = ["source", "target"].map(|name| dir.path().join(name));
    let script = format!(
        "cat {} | gzip -1 -n | cat > {}",
        source.display(),
        target.display()
    );
    let run = |content: &[u8]| {
        fs::write(&source, content).expect("write");
        let before = server.samples();
        unit.run("sh", &["-c", &script]);
        let after = server.samples();
        for comm in ["cat", "gzip"] {
            let series = format!(r#"zc_calls_total{{comm="{comm}",method="read"}}"#);
            assert_eq!(after.get(&series), None, "it belongs to the unit");
        }
        let counted = Counted::between(&before, &after, UNIT);
        (counted, fs::metadata(&target).expect("metadata").len())
    };
    // With nothing to pass on, they read what is in their programs and libraries.
    let (start, packed_nothing) = run(&[]);
    let start = start.copied("read", "to_user") - packed_nothing;
    // Bytes that hardly can be packed.
    let content: Vec<u8> = (0..LENGTH as u64)
        .map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 59) as u8)
        .collect();
    let (counted, packed) = run(&content);
    let length = LENGTH as u64;
    assert!(packed > packed_nothing && packed < length, "{packed}");
    counted.expect(&[
        ("read", "to_user", start + 2 * length + packed),
        ("write", "from_user", length + 2 * packed),
    ]);
}

#[test]
fn groups_are_bounded_and_the_rest_is_other() {
    const NAMES: u32 = 10;
    let server = Server::start_with(&["--group-by", "comm", "--max-groups", "3"]);
    let sum = |samples: &std::collections::BTreeMap<String, f64>| -> f64 {
        let read = samples
            .iter()
            .filter(|(series, _)| series.starts_with("zc_payload_bytes_total{"));
        read.map(|(_, bytes)| bytes).sum()
    };
    let before = server.samples();
    let path = source("bounded-source");
    let dir = tempfile::tempdir_in("/lab").expect("tempdir");
    for name in 0..NAMES {
        let program = dir.path().join(format!("head{name}"));
        symlink("/usr/bin/head", &program).expect("symlink");
        let status = Command::new(&program)
            .args(["-c", "300000", path.as_str()])
            .stdout(Stdio::null())
            .status();
        assert!(status.expect("head").success());
    }
    let after = server.samples();
    assert!(exact(after["zc_groups"], 4.0), "{}", after["zc_groups"]);
    let moved = f64::from(NAMES * BYTES);
    assert!(sum(&after) - sum(&before) >= moved, "nothing is lost");
    assert!(after[r#"zc_dropped_total{reason="group_limit"}"#] >= f64::from(NAMES));
    assert!(
        after[r#"zc_payload_bytes_total{comm="other",method="read"}"#] >= moved,
        "none of the names was the first"
    );
    fs::remove_file(path).expect("unlink");
}

#[test]
fn hostile_names_are_labels_like_any_other() {
    let server = Server::start_with(&["--group-by", "process"]);
    let file = source("hostile-source");
    let names: [&[u8]; 4] = [b"\xff\"}\n{\\\0", b"\xfe\"}\n{\\\0", b"other\0", b" \0"];
    let children: Vec<_> = names
        .into_iter()
        .map(|name| {
            let file = file.clone();
            Child::stopped_before(move || {
                // SAFETY: the name ends in a zero.
                let result = unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
                assert_eq!(result, 0, "{}", io::Error::last_os_error());
                fs::read(&file).expect("read");
            })
        })
        .collect();
    for child in &children {
        child.wait_stopped();
        child.go_on();
        child.wait_stopped();
    }
    // That each line can be parsed, and none comes twice, is asserted within.
    let samples = server.samples();
    for (name, child) in [
        "\u{fffd}\\\"}\\n{\\\\",
        "\u{fffd}\\\"}\\n{\\\\",
        "other",
        " ",
    ]
    .into_iter()
    .zip(&children)
    {
        let series = format!(
            r#"zc_payload_bytes_total{{comm="{name}",method="read",pid="{}"}}"#,
            child.pid
        );
        assert!(samples[&series] >= f64::from(BYTES), "{series}");
    }
    for child in &children {
        child.go_on();
        child.wait_exited();
    }
    fs::remove_file(file).expect("unlink");
}

#[test]
fn a_process_is_not_taken_for_the_kernel_or_the_rest() {
    let server = Server::start_with(&["--group-by", "comm"]);
    let file = source("named-source");
    let pseudo = |name: &str| {
        let series = format!(r#"zc_payload_bytes_total{{comm="{name}",method="read"}}"#);
        server.samples().get(&series).copied().unwrap_or(0.0)
    };
    for (name, series) in [
        (c"kernel", "kernel (a process)"),
        (c"other", "other (a process)"),
    ] {
        let path = file.clone();
        let child = Child::stopped_before(move || {
            // SAFETY: the name ends in a zero.
            unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
            fs::read(&path).expect("read");
        });
        child.wait_stopped();
        // What it has read so far goes to its name so far.
        let before = pseudo(name.to_str().expect("UTF-8"));
        child.go_on();
        child.wait_stopped();
        assert!(exact(pseudo(series), f64::from(BYTES)), "{series}");
        assert!(exact(pseudo(name.to_str().expect("UTF-8")), before));
        child.go_on();
        child.wait_exited();
    }
    fs::remove_file(file).expect("unlink");
}

#[test]
fn the_configuration_is_read_again_without_losing_a_count() {
    let directory = tempfile::tempdir().expect("tempdir");
    let file = directory.path().join("config.toml");
    let write = |text: &str| fs::write(&file, text).expect("write");
    write("group_by = \"comm\"\nmax_groups = 100\n");
    let option = file.to_str().expect("UTF-8");
    let mut server = Server::start_with(&["--config", option]);
    let source = source("reload-source");
    let read = || {
        let status = Command::new("head")
            .args(["-c", "300000", source.as_str()])
            .stdout(Stdio::null())
            .status();
        assert!(status.expect("head").success());
    };
    read();
    let comm = r#"zc_payload_bytes_total{comm="head",method="read"}"#;
    let other = r#"zc_payload_bytes_total{comm="other",method="read"}"#;
    let before = server.samples()[comm];
    assert!(before >= f64::from(BYTES), "{before}");

    write("group_bye = \"process\"\n");
    let line = server.signal(libc::SIGHUP);
    assert!(
        line.contains("config.toml:1: unknown key \"group_bye\"; did you mean group_by?"),
        "{line}"
    );
    assert!(
        exact(server.samples()[comm], before),
        "a mistake changes nothing"
    );

    write("group_by = \"process\"\n");
    let line = server.signal(libc::SIGHUP);
    assert_eq!(line, "zc-profiler: configuration read again\n");
    read();
    let samples = server.samples();
    assert_eq!(samples.get(comm), None);
    assert!(samples[other] >= before, "what was counted is in `other`");
    let mut by_process = samples.iter().filter(|(series, _)| {
        series.starts_with(r#"zc_payload_bytes_total{comm="head",method="read",pid=""#)
    });
    let (_, bytes) = by_process.next().expect("the second head");
    assert!(exact(*bytes, before), "{bytes} is not {before}");
    fs::remove_file(source).expect("unlink");
}

#[test]
fn the_configuration_is_checked() {
    let directory = tempfile::tempdir().expect("tempdir");
    let file = directory.path().join("config.toml");
    let check = |text: &str, options: &[&str]| {
        fs::write(&file, text).expect("write");
        let output = Command::new(crate::agent::command_line::PROGRAM)
            .args(["config", "check", "--config"])
            .arg(&file)
            .args(options)
            .env("ZC_PROFILER_GRACE_SECONDS", "60")
            .env("ZC_PROFILER_MAX_GROUPS", "6")
            .env("ZC_PROFILER_UNIT", "nginx")
            .output()
            .expect("config check");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        (
            output.status.success(),
            text(output.stdout),
            text(output.stderr),
        )
    };
    let text = "listen = \"127.0.0.1:1\"\nmax_groups = 7\ngrace_seconds = 8\n\
        max_processes = 500\nprobe_statistics = true\nunit = [\"redis\"]\ncgroup = [\"/a\"]\n";
    let (ok, stdout, stderr) = check(text, &["--max-groups", "5"]);
    assert!(ok && stderr.is_empty(), "{stderr}");
    assert_eq!(
        stdout,
        "listen = \"127.0.0.1:1\"\nweb_config = \"\"\ngroup_by = \"service\"\nmax_groups = 5\ngrace_seconds = 60\n\
         max_processes = 500\nprobe_statistics = true\npid = []\ncomm = []\nunit = [\"nginx.service\"]\ncgroup = [\"/a\"]\n",
        "the option before the environment before the file before what is built in"
    );
    let (ok, _, stderr) = check("\nmax_groups = \"many\"\n", &[]);
    let file = file.display();
    assert!(!ok);
    assert_eq!(
        stderr,
        format!("zc-profiler: {file}:2: max_groups must be a number from 1 on\n")
    );
}
