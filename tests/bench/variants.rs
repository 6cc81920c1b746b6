//! What may be attached while work is measured.

use std::{
    ffi::OsString,
    io::{BufRead, BufReader, Read},
    process::{Child, ChildStderr, ChildStdout, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use zc_profiler::{
    Options, Profiler, Scope,
    probes::{
        AttachClass, Status,
        hooks::{AttachMode, HOOKS, SYSCALLS},
    },
};

use crate::bpf;

/// One state of the machine to measure in.
pub struct Variant {
    pub name: &'static str,
    pub kind: Kind,
}

pub enum Kind {
    /// Nothing attached.
    None,
    /// This same program, as a process of its own that holds something attached.
    Held,
    /// A program that counts until SIGINT and then says what.
    Tool {
        command: &'static [&'static str],
        /// What it says at once before it attaches; nothing if it waits with its words.
        begins: &'static str,
        /// What it says if it has counted.
        proof: &'static str,
    },
    /// `zc-profiler serve`.
    Serve,
    /// A program that runs the work under its eyes.
    Around(&'static [&'static str]),
}

const fn tool(
    name: &'static str,
    command: &'static [&'static str],
    proof: &'static str,
) -> Variant {
    Variant {
        name,
        kind: Kind::Tool {
            command,
            begins: "",
            proof,
        },
    }
}

const fn held(name: &'static str) -> Variant {
    Variant {
        name,
        kind: Kind::Held,
    }
}

/// The first is what the others are compared with.
pub const VARIANTS: [Variant; 15] = [
    Variant {
        name: "nothing",
        kind: Kind::None,
    },
    held("empty programs"),
    Variant {
        name: "zc-profiler",
        kind: Kind::Serve,
    },
    held("switches only"),
    held("faults only"),
    held("system calls only"),
    held("copy functions only"),
    held("sockets only"),
    held("devices only"),
    held("tracepoints only"),
    Variant {
        name: "bpftrace sums",
        kind: Kind::Tool {
            command: &["bpftrace", "-e", SUMS],
            begins: "Attaching",
            proof: "@[",
        },
    },
    tool("syscount", &["syscount"], "getppid"),
    tool("cpudist", &["cpudist"], "usecs"),
    // Whoever it traces besides: it counts nothing before it has a command of its own.
    Variant {
        name: "perf trace -s",
        kind: Kind::Around(&["perf", "trace", "-s", "-a", "-o", "/dev/null"]),
    },
    Variant {
        name: "strace -c",
        kind: Kind::Around(&["strace", "-c", "-f", "-o", "/dev/null"]),
    },
];

/// The sum of what the same system calls return, by process: less than the ledger tells.
const SUMS: &str = "\
    tracepoint:syscalls:sys_exit_read,tracepoint:syscalls:sys_exit_pread64,\
    tracepoint:syscalls:sys_exit_readv,tracepoint:syscalls:sys_exit_preadv,\
    tracepoint:syscalls:sys_exit_preadv2,tracepoint:syscalls:sys_exit_write,\
    tracepoint:syscalls:sys_exit_pwrite64,tracepoint:syscalls:sys_exit_writev,\
    tracepoint:syscalls:sys_exit_pwritev,tracepoint:syscalls:sys_exit_pwritev2,\
    tracepoint:syscalls:sys_exit_sendfile64,tracepoint:syscalls:sys_exit_splice,\
    tracepoint:syscalls:sys_exit_tee,tracepoint:syscalls:sys_exit_vmsplice,\
    tracepoint:syscalls:sys_exit_copy_file_range,tracepoint:syscalls:sys_exit_sendto,\
    tracepoint:syscalls:sys_exit_sendmsg,tracepoint:syscalls:sys_exit_recvfrom,\
    tracepoint:syscalls:sys_exit_recvmsg,tracepoint:syscalls:sys_exit_process_vm_readv,\
    tracepoint:syscalls:sys_exit_process_vm_writev \
    /args->ret > 0/ { @[pid] = sum(args->ret); }";

/// The rows of the hook table that a group of probes is made of.
fn rows(group: &str) -> Option<Vec<&'static str>> {
    const SWITCHES: [&str; 3] = ["sched_switch", "process_fork", "process_rename"];
    const FAULTS: [&str; 1] = ["page_fault"];
    let is_socket = |name: &str| name.starts_with("owner_") || name == "skb_coalesce";
    let is_device = |name: &str| {
        [
            "block_",
            "net_dma",
            "pio",
            "cgroups",
            "new_cgroups",
            "old_cgroups",
        ]
        .iter()
        .any(|start| name.starts_with(start))
    };
    let rest = || HOOKS.iter().map(|hook| hook.name);
    let others = |name: &&str| {
        !SWITCHES.contains(name) && !FAULTS.contains(name) && !is_socket(name) && !is_device(name)
    };
    Some(match group {
        "switches only" => SWITCHES.to_vec(),
        "faults only" => FAULTS.to_vec(),
        "system calls only" => SYSCALLS.iter().map(|hook| hook.name).collect(),
        "copy functions only" => rest().filter(others).collect(),
        "sockets only" => rest().filter(|name| is_socket(name)).collect(),
        "devices only" => rest().filter(|name| is_device(name)).collect(),
        _ => return None,
    })
}

/// Attaches what this variant holds, tells so, and detaches when its standard input ends.
pub fn hold(name: &str) -> Result<()> {
    let profiler = |options| {
        Profiler::attach(Scope::System, options).with_context(|| format!("attaching {name}"))
    };
    if name == "empty programs" {
        let empty = empty_programs(AttachClass::Fentry)?;
        return wait_for_end(empty);
    }
    let options = if name == "tracepoints only" {
        Options {
            best: AttachClass::Tracepoint,
            ..Options::default()
        }
    } else {
        let only = rows(name).with_context(|| format!("nothing is called {name:?}"))?;
        Options {
            only: Some(only.leak()),
            ..Options::default()
        }
    };
    wait_for_end(profiler(options)?)
}

fn wait_for_end<T>(held: T) -> Result<()> {
    println!("{READY}");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    drop(held);
    Ok(())
}

/// An empty program wherever the profiler has one on this kernel.
pub fn empty_programs(best: AttachClass) -> Result<impl Sized> {
    let options = Options {
        best,
        ..Options::default()
    };
    let profiler = Profiler::attach(Scope::System, options)?;
    let btf = aya::Btf::from_sys_fs()?;
    let places: Vec<_> = profiler
        .statuses()
        .iter()
        .filter_map(Status::variant)
        .filter(|form| form.attach != AttachMode::Kprobe)
        .map(|form| bpf::Place {
            attach: form.attach,
            target: form.target,
        })
        .collect();
    drop(profiler);
    places
        .into_iter()
        .map(|place| bpf::attach(&btf, place, &[bpf::set(0, 0), bpf::EXIT]))
        .collect::<Result<Vec<_>>>()
}

/// What a process says once everything is attached.
const READY: &str = "ready";

/// A variant in force, until [`Active::end`].
pub enum Active {
    Nothing,
    Held(Child),
    Tool(Child, BufReader<ChildStdout>, &'static str),
    /// Whose last words must find a reader.
    Serve(Child, BufReader<ChildStderr>),
    Around(&'static [&'static str]),
}

impl Variant {
    pub fn named(name: &str) -> Result<&'static Self> {
        VARIANTS
            .iter()
            .find(|variant| variant.name == name)
            .with_context(|| format!("no variant is called {name:?}"))
    }

    /// Puts it in force.
    pub fn begin(&self) -> Result<Active> {
        Ok(match self.kind {
            Kind::None => Active::Nothing,
            Kind::Around(command) => Active::Around(command),
            Kind::Held => {
                let mut child = Command::new(std::env::current_exe()?)
                    .args(["hold", self.name])
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .spawn()?;
                let out = child.stdout.take().context("no standard output")?;
                wait_for_line(&mut BufReader::new(out), READY)?;
                Active::Held(child)
            }
            Kind::Serve => {
                let mut child = Command::new("zc-profiler")
                    .args(["serve", "--listen", "127.0.0.1:0"])
                    .stderr(Stdio::piped())
                    .spawn()
                    .context("zc-profiler")?;
                let err = child.stderr.take().context("no standard error")?;
                let mut err = BufReader::new(err);
                wait_for_line(&mut err, "http://")?;
                Active::Serve(child, err)
            }
            Kind::Tool {
                command,
                begins,
                proof,
            } => {
                let mut child = Command::new(command[0])
                    .args(&command[1..])
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped())
                    .spawn()
                    .with_context(|| command[0].to_owned())?;
                let mut out = BufReader::new(child.stdout.take().context("no standard output")?);
                let begun = if begins.is_empty() {
                    Ok(())
                } else {
                    wait_for_line(&mut out, begins)
                };
                if let Err(error) = begun.and_then(|()| wait_until_idle(&mut child)) {
                    let _ = child.kill();
                    return Err(error);
                }
                Active::Tool(child, out, proof)
            }
        })
    }
}

fn wait_for_line(stream: &mut impl BufRead, text: &str) -> Result<()> {
    let mut said = String::new();
    loop {
        let more = stream.read_line(&mut said)?;
        ensure!(more > 0, "it ended: {}", said.trim());
        if said.contains(text) {
            return Ok(());
        }
    }
}

/// These tools do not tell when they count: they do when they have come to rest.
fn wait_until_idle(child: &mut Child) -> Result<()> {
    const POLL: Duration = Duration::from_millis(500);
    const QUIET: u32 = 6;
    const LIMIT: u32 = 600;
    let (mut used, mut quiet) = (u64::MAX, 0);
    for _ in 0..LIMIT {
        thread::sleep(POLL);
        if child.try_wait()?.is_some() {
            let mut said = String::new();
            if let Some(mut stream) = child.stderr.take() {
                stream.read_to_string(&mut said)?;
            }
            bail!("{}", said.lines().next().unwrap_or("it ended at once"));
        }
        let now = cpu_time(child.id())?;
        // What it does while it waits is little.
        quiet = if now.saturating_sub(used) < 5_000_000 && used <= now {
            quiet + 1
        } else {
            0
        };
        used = now;
        if quiet == QUIET {
            return Ok(());
        }
    }
    bail!("it does not come to rest")
}

/// What all threads of a process have run for, in nanoseconds.
pub fn cpu_time(pid: u32) -> Result<u64> {
    let (mut clock, mut time) = (
        0,
        libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        },
    );
    // SAFETY: both are writable for the calls.
    let failed = unsafe {
        libc::clock_getcpuclockid(pid.cast_signed(), &raw mut clock) != 0
            || libc::clock_gettime(clock, &raw mut time) != 0
    };
    ensure!(!failed, "no clock of process {pid}");
    Ok(u64::try_from(time.tv_sec)? * 1_000_000_000 + u64::try_from(time.tv_nsec)?)
}

impl Active {
    /// The command that does the work in this state.
    pub fn command(&self, program: impl Into<OsString>) -> Command {
        let program = program.into();
        match self {
            Self::Around(words) => {
                let mut command = Command::new(words[0]);
                command.args(&words[1..]).arg(program);
                command
            }
            _ => Command::new(program),
        }
    }

    /// Ends it, and says whether it was what it seemed.
    pub fn end(self) -> Result<()> {
        match self {
            Self::Nothing | Self::Around(_) => Ok(()),
            Self::Held(mut child) => {
                drop(child.stdin.take());
                let status = child.wait()?;
                ensure!(status.success(), "it ended with {status}");
                Ok(())
            }
            Self::Serve(mut child, mut said) => {
                interrupt(&child);
                std::io::copy(&mut said, &mut std::io::sink())?;
                let status = child.wait()?;
                ensure!(status.success(), "it ended with {status}");
                Ok(())
            }
            Self::Tool(mut child, mut out, proof) => {
                interrupt(&child);
                let mut said = String::new();
                out.read_to_string(&mut said)?;
                child.wait()?;
                if !said.contains(proof) {
                    bail!("it has not counted: its output lacks {proof:?}");
                }
                Ok(())
            }
        }
    }
}

fn interrupt(child: &Child) {
    // SAFETY: our own child, not waited for yet.
    unsafe { libc::kill(child.id().cast_signed(), libc::SIGINT) };
}
