//! `zc-profiler serve` counts whom its filter names, with descendants, and nobody else.

use std::{
    fs::{self, File},
    io::Read,
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::{
    agent::serve::Server,
    harness::support::{Child, shared},
    services::units::{BYTES, Cgroup, exact, source},
};

/// Reads the source under each of some circumstances, and says what a filtered agent counted of it.
fn filtered(options: &[&str], work: impl FnOnce(&str)) -> f64 {
    let server = Server::start_with(&[options, &["--group-by", "comm"]].concat());
    let source = source("filter-source");
    work(&source);
    let samples = server.samples();
    fs::remove_file(source).expect("unlink");
    let counted = samples.iter().filter(|(series, _)| {
        series.starts_with("zc_payload_bytes_total{comm=\"head") && series.contains("\"read\"")
    });
    counted.map(|(_, bytes)| bytes).sum()
}

fn head(source: &str, program: impl AsRef<std::ffi::OsStr>) {
    let status = Command::new(program)
        .args(["-c", "300000", source])
        .stdout(Stdio::null())
        .status();
    assert!(status.expect("head").success());
}

#[test]
fn filters_let_in_whom_they_name_and_nobody_else() {
    // What the libraries' headers add to each.
    let once = filtered(&[], |source| head(source, "head"));
    let arguments = |source: &str| ["-c".to_owned(), "300000".to_owned(), source.to_owned()];
    let dir = tempfile::tempdir().expect("tempdir");
    let named = dir.path().join("head-by-name");
    symlink("/usr/bin/head", &named).expect("symlink");
    let by_comm = filtered(&["--comm", "head-by-name"], |source| {
        head(source, "head");
        head(source, &named);
    });
    // It comes in by exec: what its parent's copy did before is not its own.
    assert!(
        by_comm >= f64::from(BYTES) && by_comm <= once,
        "{by_comm} of {once}"
    );

    let unit = Cgroup::new("system.slice/zc-filter.service");
    let below = Cgroup::new("zc-filter/below");
    for options in [["--unit", "zc-filter.service"], ["--cgroup", "/zc-filter"]] {
        let counted = filtered(&options, |source| {
            let text = arguments(source);
            let text: Vec<_> = text.iter().map(String::as_str).collect();
            head(source, "head");
            let inside = if options[0] == "--unit" {
                &unit
            } else {
                &below
            };
            inside.run("head", &text);
            // One that is made later, and a child.
            let later = Cgroup(inside.0.join("later"));
            fs::create_dir(&later.0).expect("mkdir");
            later.run("sh", &["-c", &format!("head -c 300000 {source}; true")]);
        });
        assert!(
            exact(counted, 2.0 * once),
            "{options:?}: {counted} is not twice {once}"
        );
    }
    drop(unit);
    let counted = filtered(&["--unit", "zc-filter.service"], |source| {
        let text = arguments(source);
        let text: Vec<_> = text.iter().map(String::as_str).collect();
        Cgroup::new("system.slice/zc-filter.service").run("head", &text);
    });
    assert!(
        exact(counted, once),
        "a unit that starts later: {counted} is not {once}"
    );

    let child = Child::stopped_before(|| {
        let source = "/lab/filter-source";
        head(source, "head");
    });
    child.wait_stopped();
    let counted = filtered(&["--pid", &child.pid.to_string()], |source| {
        head(source, "head");
        child.go_on();
        child.wait_stopped();
    });
    child.go_on();
    child.wait_exited();
    assert!(
        exact(counted, once),
        "a child of a process: {counted} is not {once}"
    );
}

#[test]
fn a_filter_of_what_is_not_there_is_one_line() {
    for (option, value, complaint) in [
        ("--pid", "4194303", "pid 4194303: no such process"),
        ("--cgroup", "/none", "cgroup /none: no such cgroup"),
    ] {
        let output = Command::new(crate::agent::command_line::PROGRAM)
            .args(["serve", "--listen", "127.0.0.1:0", option, value])
            .output()
            .expect("serve");
        assert!(!output.status.success());
        let stderr = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!(stderr, format!("zc-profiler: {complaint}\n"));
    }
}

pub const CHUNK: u32 = 4096;

/// Reads a file chunk by chunk until told otherwise, and says how many chunks it has read.
pub struct Load {
    pub child: Child,
    go_on: &'static AtomicU64,
    chunks: &'static AtomicU64,
    pub name: &'static str,
}

impl Load {
    /// Stands before its work. With children, every chunk is read by one of its own.
    pub fn new(name: &'static str, source: &str, with_children: bool) -> Self {
        Self::with_pauses(name, source, with_children, Duration::ZERO)
    }

    /// The same, with pauses between chunks.
    pub fn with_pauses(
        name: &'static str,
        source: &str,
        with_children: bool,
        pause: Duration,
    ) -> Self {
        let (go_on, chunks) = (shared(), shared());
        go_on.store(1, Ordering::SeqCst);
        let path = source.to_owned();
        let child = Child::stopped_before(move || {
            let name = std::ffi::CString::new(name).expect("no zero");
            // SAFETY: the name ends in a zero.
            unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
            let read = || {
                let mut chunk = [0; CHUNK as usize];
                let mut file = File::open(&path).expect("open");
                file.read_exact(&mut chunk).expect("read");
                // What `source` writes.
                assert_eq!(chunk, [1; CHUNK as usize]);
            };
            while go_on.load(Ordering::SeqCst) != 0 {
                if with_children {
                    Child::working(read).wait_exited();
                } else {
                    read();
                }
                chunks.fetch_add(1, Ordering::SeqCst);
                if !pause.is_zero() {
                    std::thread::sleep(pause);
                }
            }
        });
        child.wait_stopped();
        Self {
            child,
            go_on,
            chunks,
            name,
        }
    }

    pub fn read_so_far(&self) -> u64 {
        self.chunks.load(Ordering::SeqCst)
    }

    /// Returns when it has read some chunks more.
    pub fn wait_for_more(&self) {
        let before = self.read_so_far();
        while self.read_so_far() < before + 3 {
            std::thread::yield_now();
        }
    }

    /// Has it stop, and says how many bytes it read in all.
    pub fn stopped(&self) -> f64 {
        self.go_on.store(0, Ordering::SeqCst);
        self.child.wait_stopped();
        let bytes = self.read_so_far() * u64::from(CHUNK);
        f64::from(u32::try_from(bytes).expect("little"))
    }

    pub fn counted(&self, server: &Server) -> f64 {
        let name = self.name;
        let series = format!(r#"zc_payload_bytes_total{{comm="{name}",method="read"}}"#);
        server.samples().get(&series).copied().unwrap_or(0.0)
    }

    pub fn end(&self) {
        self.child.go_on();
        self.child.wait_exited();
    }
}

/// A server with a configuration file, which says first whom to count.
fn configured(file: &Path, filter: &str) -> Server {
    configure(file, filter);
    Server::start_with(&["--config", file.to_str().expect("UTF-8")])
}

fn configure(file: &Path, filter: &str) {
    fs::write(file, format!("group_by = \"comm\"\n{filter}\n")).expect("write");
}

fn reconfigure(server: &mut Server, file: &Path, filter: &str) {
    configure(file, filter);
    let line = server.signal(libc::SIGHUP);
    assert_eq!(line, "zc-profiler: configuration read again\n");
}

#[test]
fn who_is_left_out_leaves_no_entry() {
    let server = Server::start_with(&["--group-by", "process", "--comm", "zc-nobody"]);
    let source = source("filter-nobody");
    for _ in 0..20 {
        head(&source, "head");
    }
    let samples = server.samples();
    assert!(exact(samples["zc_processes"], 2.0), "`kernel` and `other`");
    let calibrated = samples.keys().filter(|it| it.starts_with("zc_calibration"));
    assert!(
        calibrated.count() > 0,
        "the agent's own process was counted"
    );
    for (series, count) in samples
        .iter()
        .filter(|(series, _)| series.contains("pid=\""))
    {
        assert!(
            series.contains("pid=\"0\"") && exact(*count, 0.0),
            "{series} {count}"
        );
    }
    fs::remove_file(source).expect("unlink");
}

#[test]
fn descendants_are_counted_to_the_byte_through_fork_and_exec() {
    let source = source("filter-descendants");
    let path = source.clone();
    let child = Child::stopped_before(move || {
        let script = format!("head -c 300000 {path}; (head -c 77 {path}; true) & wait");
        let status = Command::new("sh")
            .args(["-c", &script])
            .stdout(Stdio::null())
            .status();
        assert!(status.expect("sh").success());
    });
    child.wait_stopped();
    let pid = child.pid.to_string();
    let server = Server::start_with(&["--group-by", "comm", "--pid", &pid]);
    head(&source, "head");
    child.go_on();
    child.wait_stopped();
    // What is written, unlike what is read, has no part of libraries in it.
    let written = server.samples()[r#"zc_payload_bytes_total{comm="head",method="write"}"#];
    assert!(exact(written, 300_077.0), "{written}");
    child.go_on();
    child.wait_exited();
    fs::remove_file(source).expect("unlink");
}

#[test]
fn a_unit_that_starts_later_is_counted_to_the_byte() {
    let server = Server::start_with(&["--unit", "zc-later"]);
    let source = source("filter-later");
    head(&source, "head");
    let unit = Cgroup::new("system.slice/zc-later.service");
    for _ in 0..2 {
        unit.run("head", &["-c", "300000", &source]);
    }
    let samples = server.samples();
    let written = samples[r#"zc_payload_bytes_total{method="write",unit="zc-later.service"}"#];
    // With the byte by which each has moved itself.
    assert!(exact(written, 600_002.0), "{written}");
    assert!(
        !samples
            .keys()
            .any(|series| series.contains("comm=\"head\""))
    );
    fs::remove_file(source).expect("unlink");
}

#[test]
fn the_filter_changes_under_load_and_no_count_is_lost() {
    let directory = tempfile::tempdir().expect("tempdir");
    let file = directory.path().join("config.toml");
    let source = source("filter-load");
    let keep = Load::new("zc-keep", &source, true);
    let leave = Load::new("zc-leave", &source, false);
    let come = Load::new("zc-come", &source, true);
    let mut server = configured(&file, r#"comm = ["zc-keep", "zc-leave"]"#);
    for load in [&keep, &leave, &come] {
        load.child.go_on();
    }
    for load in [&keep, &leave, &come] {
        load.wait_for_more();
    }
    assert!(leave.counted(&server) > 0.0);
    assert!(exact(come.counted(&server), 0.0));
    let first = leave.counted(&server);
    reconfigure(&mut server, &file, r#"comm = ["zc-come", "zc-keep"]"#);
    let last = leave.counted(&server);
    assert!(last >= first, "{last} is what it had, or more than {first}");
    for load in [&leave, &come] {
        load.wait_for_more();
    }
    assert!(exact(leave.counted(&server), last), "it is out");
    assert!(come.counted(&server) > 0.0, "it is in");

    let complaint = {
        configure(&file, "pid = [4194303]");
        server.signal(libc::SIGHUP)
    };
    assert!(
        complaint.contains("the configuration stays as it was: pid 4194303: no such process"),
        "{complaint}"
    );
    // Back and forth, over everybody and over a filter that holds nobody's name.
    for filter in [
        r#"comm = ["zc-keep"]"#,
        "",
        r#"comm = ["zc-keep", "zc-leave", "zc-nobody"]"#,
        &format!("pid = [{}]", keep.child.pid),
    ] {
        reconfigure(&mut server, &file, filter);
        keep.wait_for_more();
    }
    let back = leave.counted(&server);
    assert!(back > last, "it was in once more");
    let bytes = keep.stopped();
    assert!(
        exact(keep.counted(&server), bytes),
        "{bytes} at every moment"
    );

    // Whoever comes in anew is counted from there to the byte.
    let bytes = come.stopped();
    let counted = come.counted(&server);
    assert!(counted < bytes, "it was out for a while");
    reconfigure(&mut server, &file, r#"comm = ["zc-come"]"#);
    leave.stopped();
    assert!(exact(leave.counted(&server), back));
    assert!(exact(come.counted(&server), counted));
    for load in [&keep, &leave, &come] {
        load.end();
    }
    fs::remove_file(source).expect("unlink");
}
