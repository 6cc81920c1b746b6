//! What this machine allows: kernel, architecture, lockdown, capabilities.

use std::{fs, io};

/// Capabilities by their bit in `CapEff`.
const CAPABILITIES: [(u32, &str); 4] = [
    (39, "CAP_BPF"),
    (38, "CAP_PERFMON"),
    (21, "CAP_SYS_ADMIN"),
    (34, "CAP_SYSLOG"),
];

/// The state of the machine as far as it bears on loading programs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// `uname -r`.
    pub release: String,
    /// Whether the kernel publishes its BTF.
    pub btf: bool,
    /// The lockdown mode in force: none, integrity or confidentiality; none if the kernel has no such
    /// thing.
    pub lockdown: String,
    /// Whether the kernel preempts tasks in kernel mode; true if it does not say.
    pub preemptible: bool,
    /// Whether the scheduler ends each time slice by a timer of its own (`HRTICK`, on by default in 7.x),
    /// and not at the next tick or on the way to user mode; false if the kernel does not say.
    pub slice_timer: bool,
    /// Which capabilities of interest this process has.
    pub capabilities: Vec<&'static str>,
    /// What may make those count for nothing.
    pub confinement: Option<Confinement>,
}

/// What may refuse a process that has the capabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confinement {
    /// A filter decides which system calls it may make.
    Seccomp,
    /// Its capabilities are those of a user namespace only.
    UserNamespace,
}

/// What the kernel says it refuses where it is locked down for confidentiality.
pub const LOCKED_DOWN: &str = "the kernel is locked down (confidentiality), which refuses programs that read kernel memory: boot \
     with lockdown=integrity or lockdown=none";

impl Environment {
    /// Reads the state of this machine and process.
    ///
    /// # Errors
    ///
    /// If /proc cannot be read.
    pub fn read() -> io::Result<Self> {
        let status = fs::read_to_string("/proc/self/status")?;
        let lockdown = fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
        Ok(Self {
            release: fs::read_to_string("/proc/sys/kernel/osrelease")?
                .trim()
                .into(),
            btf: fs::exists("/sys/kernel/btf/vmlinux")?,
            lockdown: chosen(&lockdown).into(),
            preemptible: preemptible(
                &fs::read_to_string("/proc/sys/kernel/version")?,
                fs::read_to_string("/sys/kernel/debug/sched/preempt")
                    .ok()
                    .as_deref(),
            ),
            slice_timer: fs::read_to_string("/sys/kernel/debug/sched/features")
                .is_ok_and(|features| has_slice_timer(&features)),
            capabilities: capabilities(&status),
            confinement: confinement(&status, &fs::read_to_string("/proc/self/uid_map")?),
        })
    }

    /// Whether a capability is held.
    #[must_use]
    pub fn has(&self, capability: &str) -> bool {
        self.capabilities.contains(&capability)
    }

    /// For what reason the kernel may skip runs of programs here in numbers, with the remedy.
    #[must_use]
    pub fn skips(&self) -> Option<&'static str> {
        (self.preemptible && self.slice_timer).then_some(
            "this kernel ends time slices in the middle of programs (scheduler feature HRTICK): where many \
             busy tasks share a CPU it skips runs, which are counted as skipped_runs; `echo NO_HRTICK > \
             /sys/kernel/debug/sched/features` prevents that",
        )
    }

    /// The one thing, if there is one, for which no program can be loaded here; with its remedy.
    #[must_use]
    pub fn obstacle(&self) -> Option<String> {
        let loads = self.has("CAP_SYS_ADMIN") || self.has("CAP_BPF") && self.has("CAP_PERFMON");
        if !loads {
            return Some(
                "not permitted to load eBPF programs: run as root, or with CAP_BPF, CAP_PERFMON and \
                 CAP_SYSLOG"
                    .into(),
            );
        }
        if self.lockdown == "confidentiality" {
            return Some(LOCKED_DOWN.into());
        }
        if !self.btf {
            return Some(format!(
                "kernel {} publishes no BTF (/sys/kernel/btf/vmlinux): it needs CONFIG_DEBUG_INFO_BTF=y",
                self.release
            ));
        }
        None
    }

    /// Why bpf(2) is refused although the capabilities for it are held, with the remedy; `limited` says
    /// whether memory that programs lock is.
    #[must_use]
    pub fn refusal(&self, limited: bool) -> &'static str {
        match self.confinement {
            Some(Confinement::Seccomp) => {
                "a seccomp filter is in force, and does not let bpf(2) pass: start the container, or the \
                 service, with a profile that allows bpf and perf_event_open"
            }
            Some(Confinement::UserNamespace) => {
                "capabilities in a user namespace do not permit bpf(2): run as root of the machine, or with \
                 its CAP_BPF, CAP_PERFMON and CAP_SYSLOG"
            }
            None if limited => {
                "the kernel refused to make a map, which before 5.11 counts against the limit of locked \
                 memory: run with CAP_SYS_RESOURCE, or after `ulimit -l unlimited`"
            }
            None => {
                "bpf(2) is refused although this process has the capabilities for it: a security module such \
                 as SELinux or AppArmor must allow it"
            }
        }
    }
}

/// `Seccomp:` in /proc/PID/status is 2 under a filter; the initial user namespace maps every id to
/// itself.
fn confinement(status: &str, uid_map: &str) -> Option<Confinement> {
    let mode = status
        .lines()
        .find_map(|line| line.strip_prefix("Seccomp:"));
    if mode.is_some_and(|mode| mode.trim() == "2") {
        return Some(Confinement::Seccomp);
    }
    let words: Vec<_> = uid_map.split_ascii_whitespace().collect();
    (words != ["0", "0", "4294967295"]).then_some(Confinement::UserNamespace)
}

/// The mode in brackets: `none [integrity] confidentiality`.
fn chosen(modes: &str) -> &str {
    modes
        .split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'))
        .map_or("none", |(mode, _)| mode)
}

/// By `uname -v` and, for kernels that can be told at run time, the mode in force.
fn preemptible(version: &str, modes: Option<&str>) -> bool {
    let modes = modes.and_then(|modes| modes.split_once('('));
    let mode = modes
        .and_then(|(_, rest)| rest.split_once(')'))
        .map(|(mode, _)| mode);
    version.contains("PREEMPT") && !matches!(mode, Some("none" | "voluntary"))
}

fn has_slice_timer(features: &str) -> bool {
    features
        .split_ascii_whitespace()
        .any(|feature| feature == "HRTICK")
}

fn capabilities(status: &str) -> Vec<&'static str> {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
        .unwrap_or_default();
    CAPABILITIES
        .into_iter()
        .filter(|(bit, _)| effective >> bit & 1 == 1)
        .map(|(_, name)| name)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn able() -> Environment {
        Environment {
            release: "6.1".into(),
            btf: true,
            lockdown: "none".into(),
            preemptible: false,
            slice_timer: false,
            capabilities: vec!["CAP_BPF", "CAP_PERFMON"],
            ..Environment::default()
        }
    }

    #[test]
    fn each_obstacle_is_named_with_its_remedy() {
        assert_eq!(able().obstacle(), None);
        let of = |change: fn(&mut Environment)| {
            let mut environment = able();
            change(&mut environment);
            environment.obstacle().expect("an obstacle")
        };
        assert!(of(|it| it.capabilities = vec!["CAP_BPF"]).contains("run as root"));
        assert!(of(|it| it.lockdown = "confidentiality".into()).contains("lockdown=integrity"));
        assert!(of(|it| it.btf = false).contains("CONFIG_DEBUG_INFO_BTF"));
    }

    #[test]
    fn each_refusal_is_named_with_its_remedy() {
        let confined = |confinement| Environment {
            confinement: Some(confinement),
            ..able()
        };
        let filtered = confined(Confinement::Seccomp);
        assert!(filtered.refusal(true).contains("seccomp"));
        let nested = confined(Confinement::UserNamespace);
        assert!(nested.refusal(true).contains("root of the machine"));
        assert!(able().refusal(true).contains("ulimit -l"));
        assert!(able().refusal(false).contains("SELinux"));
    }

    #[test]
    fn filters_and_namespaces_are_recognised() {
        let (open, initial) = (
            "Name:\tx\nSeccomp:\t0\n",
            "         0          0 4294967295\n",
        );
        assert_eq!(confinement(open, initial), None);
        let filter = "Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1\n";
        assert_eq!(confinement(filter, initial), Some(Confinement::Seccomp));
        let mapped = "         0       1000          1\n";
        let nested = Some(Confinement::UserNamespace);
        assert_eq!(confinement(open, mapped), nested);
    }

    #[test]
    fn preemption_is_assumed_unless_ruled_out() {
        let dynamic = "#1 SMP PREEMPT_DYNAMIC Debian 6.1";
        assert!(!preemptible("#1 SMP Debian 5.10", None));
        assert!(!preemptible(dynamic, Some("none (voluntary) full \n")));
        assert!(preemptible(dynamic, Some("full (lazy) \n")));
        assert!(preemptible(dynamic, None));
    }

    #[test]
    fn runs_are_skipped_where_slices_end_inside_programs() {
        assert!(has_slice_timer("PLACE_LAG HRTICK NO_HRTICK_DL\n"));
        assert!(!has_slice_timer("PLACE_LAG NO_HRTICK HRTICK_DL\n"));
        let of = |preemptible, slice_timer| {
            let environment = Environment {
                preemptible,
                slice_timer,
                ..able()
            };
            environment.skips().is_some()
        };
        assert!(of(true, true) && !of(true, false) && !of(false, true));
    }

    #[test]
    fn lockdown_and_capabilities_are_read() {
        assert_eq!(chosen("none [integrity] confidentiality\n"), "integrity");
        assert_eq!(chosen(""), "none");
        let status = "Name:\tx\nCapEff:\t000000c000200000\n";
        assert_eq!(
            capabilities(status),
            ["CAP_BPF", "CAP_PERFMON", "CAP_SYS_ADMIN"]
        );
        assert!(capabilities("CapEff:\tgarbage").is_empty());
    }
}
