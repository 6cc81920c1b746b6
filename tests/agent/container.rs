//! The image, built by podman as the Dockerfile has it, and run by the very command that its comment gives.

use std::{env, fs, path::Path, process::Command};

use crate::agent::{
    package::{install_tools, said, samples, serves_exactly},
    privileges::{objects, wait_for_nothing_but},
};

const DOCKERFILE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../zc-profiler/deploy/docker/Dockerfile"
);
/// Where there is room: layers are whole copies here.
const PODMAN: [&str; 7] = [
    "podman",
    "--root=/lab/containers",
    "--runroot=/run/containers-of-the-lab",
    "--storage-driver=vfs",
    // Nobody has started the message bus by which it would ask systemd.
    "--cgroup-manager=cgroupfs",
    "--events-backend=file",
    "--runtime=crun",
];

fn podman(arguments: &[&str]) -> String {
    said(PODMAN[0], &[&PODMAN[1..], arguments].concat())
}

/// The command in the comment.
fn documented(dockerfile: &str) -> String {
    let lines = dockerfile
        .lines()
        .map(|line| line.trim_start_matches(['#', ' ']));
    let mut command = String::new();
    for line in lines.skip_while(|line| !line.starts_with("docker run")) {
        command += line;
        command += "\n";
        if !line.ends_with('\\') {
            return command;
        }
    }
    panic!("no `docker run` in {DOCKERFILE}");
}

/// Podman's own profile, with what Docker's allows to whom the capabilities are given: that of Debian's
/// Podman is older than these.
fn seccomp_profile() -> &'static str {
    const FILE: &str = "/lab/seccomp.json";
    const ALLOWED: [&str; 2] = ["bpf", "perf_event_open"];
    let text = fs::read("/usr/share/containers/seccomp.json").expect("the profile");
    let mut profile: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    let rules = profile["syscalls"].as_array_mut().expect("rules");
    for rule in rules.iter_mut() {
        let names = rule["names"].as_array_mut().expect("names");
        names.retain(|name| !ALLOWED.iter().any(|allowed| name == allowed));
    }
    rules.retain(|rule| rule["names"] != serde_json::json!([]));
    rules.push(serde_json::json!({
        "names": ALLOWED,
        "action": "SCMP_ACT_ALLOW",
    }));
    fs::write(FILE, profile.to_string()).expect("write");
    FILE
}

fn log() -> String {
    let output = Command::new(PODMAN[0])
        .args(&PODMAN[1..])
        .args(["logs", "zc-profiler"])
        .output();
    format!("{output:?}")
}

#[test]
#[ignore = "it takes podman and what is handed out: `cargo xtask test` runs it in a machine of its own"]
fn the_image_is_built_and_runs_by_the_command_in_its_comment() {
    install_tools();
    let package = env::var("ZC_PACKAGE").expect("ZC_PACKAGE names the package");
    let context = Path::new(&package)
        .parent()
        .and_then(Path::to_str)
        .expect("a directory");
    let before = objects();
    // Docker would make it.
    fs::create_dir_all("/var/lib/docker/containers").expect("mkdir");
    podman(&[
        "build",
        "--layers=false",
        "--isolation=chroot",
        "--file",
        DOCKERFILE,
        "--tag=zc-profiler",
        context,
    ]);
    let dockerfile = fs::read_to_string(DOCKERFILE).expect("read");
    // Podman understands Docker's words.
    let command = format!(
        "docker() {{ shift; {} run --security-opt seccomp={} \"$@\"; }}\n{}",
        PODMAN.join(" "),
        seccomp_profile(),
        documented(&dockerfile)
    );
    said("sh", &["-e", "-c", &command]);

    samples(log);
    let pid = podman(&["inspect", "--format={{.State.Pid}}", "zc-profiler"]);
    serves_exactly(pid.trim().parse().expect("a number"), log);
    podman(&["stop", "--time=120", "zc-profiler"]);
    let code = podman(&["inspect", "--format={{.State.ExitCode}}", "zc-profiler"]);
    assert_eq!(code.trim(), "0", "{}", log());
    podman(&["rm", "zc-profiler"]);
    wait_for_nothing_but(&before);
}
