//! What a machine may refuse: one line with the cause and the remedy, and no number.

use std::{
    fs, io,
    os::unix::process::CommandExt,
    process::{Command, Output},
};

use crate::{agent::command_line::PROGRAM, harness::support::kernel_is};

/// Ways to begin counting.
const COMMANDS: [&[&str]; 3] = [
    &["stat", "--attach", "tracepoint", "--", "true"],
    &["serve", "--listen", "127.0.0.1:0"],
    &["doctor"],
];

/// Has every command fail with one line that holds these words; `prepare` says how to start it.
fn refused(prepare: impl Fn() -> Command, words: &[&str]) {
    for arguments in COMMANDS {
        let output = prepare().args(arguments).output().expect("run");
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        let line = stderr(&output);
        assert_eq!(line.lines().count(), 1, "{arguments:?}: {line}");
        for word in words {
            assert!(line.contains(word), "{arguments:?}: no {word} in {line}");
        }
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The program in a mount namespace where this shell command was run first.
fn behind(mounts: &str) -> Command {
    let script = format!("{mounts} && exec {PROGRAM} \"$@\"");
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &script, "sh"]);
    command
}

/// The program with these capabilities only.
fn with_capabilities(capabilities: &str) -> Command {
    let mut command = Command::new("setpriv");
    command
        .arg("--inh-caps=-all")
        .arg(format!("--bounding-set=-all,{capabilities}"))
        .arg(PROGRAM);
    command
}

#[test]
fn without_btf() {
    let hidden = || behind("mount -t tmpfs none /sys/kernel/btf");
    refused(
        hidden,
        &["/sys/kernel/btf/vmlinux", "CONFIG_DEBUG_INFO_BTF=y"],
    );
    let empty = || behind("mount --bind /dev/null /sys/kernel/btf/vmlinux");
    refused(empty, &["/sys/kernel/btf/vmlinux", "mounted over"]);
}

#[test]
fn under_lockdown() {
    // The real thing cannot be undone until the machine boots again.
    let locked = || {
        behind(
            "mount -t tmpfs none /sys/kernel/security && \
             echo 'none integrity [confidentiality]' > /sys/kernel/security/lockdown",
        )
    };
    refused(locked, &["confidentiality", "lockdown=integrity"]);
}

#[test]
fn without_capabilities() {
    for missing in ["+bpf,+syslog", "+perfmon,+syslog"] {
        refused(
            || with_capabilities(missing),
            &["CAP_BPF", "CAP_PERFMON", "root"],
        );
    }
    let nested = || {
        let mut command = Command::new("unshare");
        command.args(["-r", PROGRAM]);
        command
    };
    refused(nested, &["user namespace", "root of the machine"]);
}

#[test]
fn with_a_limit_of_locked_memory() {
    // What is usual; the tests of this process may have raised theirs.
    let limited = || {
        let mut command = with_capabilities("+bpf,+perfmon,+syslog");
        let limit = libc::rlimit {
            rlim_cur: 65_536,
            rlim_max: 65_536,
        };
        // SAFETY: a valid structure.
        let lower = move || match unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) }
        {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        };
        // SAFETY: one system call, on a value of its own.
        unsafe { command.pre_exec(lower) };
        command
    };
    if kernel_is("5.10.") {
        refused(limited, &["CAP_SYS_RESOURCE", "ulimit -l unlimited"]);
    } else {
        let output = limited().args(["stat", "--", "true"]).output();
        let output = output.expect("run");
        assert!(output.status.success(), "{}", stderr(&output));
    }
}

#[test]
fn under_a_seccomp_filter() {
    let filtered = || {
        let mut command = Command::new(PROGRAM);
        // SAFETY: the closure makes one system call that takes only what it holds.
        unsafe { command.pre_exec(refuse_bpf) };
        command
    };
    refused(filtered, &["seccomp", "allows bpf"]);
}

/// As container runtimes do it: bpf(2) fails with EPERM.
fn refuse_bpf() -> io::Result<()> {
    const LOAD_NUMBER: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const EPERM: u32 = 0x0005_0001;
    const ALLOW: u32 = 0x7fff_0000;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let number = u32::try_from(libc::SYS_bpf).unwrap_or_default();
    let mut steps = [
        step(LOAD_NUMBER, 0, 0, 0),
        step(JUMP_IF_EQUAL, 0, 1, number),
        step(RETURN, 0, 0, EPERM),
        step(RETURN, 0, 0, ALLOW),
    ];
    let filter = libc::sock_fprog {
        len: 4,
        filter: steps.as_mut_ptr(),
    };
    // SAFETY: the filter is valid for the call.
    let result = unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const filter,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[test]
fn a_paranoid_kernel_gives_no_cross_check_and_says_so() {
    let file = "/proc/sys/kernel/perf_event_paranoid";
    let before = fs::read_to_string(file).expect("paranoid");
    // Debian's own: nobody but CAP_SYS_ADMIN, not even CAP_PERFMON.
    fs::write(file, "3").expect("paranoid");
    let output = with_capabilities("+bpf,+perfmon,+syslog,+sys_resource,+dac_override")
        .args(["doctor", "--deep", "--dir", "/lab"])
        .output()
        .expect("run");
    fs::write(file, before).expect("paranoid");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", stderr(&output));
    let last = text.lines().last().expect("a line");
    for word in ["no cross-check", "perf_event_paranoid=3", "CAP_SYS_ADMIN"] {
        assert!(last.contains(word), "no {word} in {last}");
    }
}
