//! The ledger as plain values: what every table, JSON document and metric is made from.

use std::{
    collections::BTreeMap,
    ops::{AddAssign, Sub},
};

use serde::{Serialize, Serializer};
use zc_profiler_ebpf::{
    Direction, Dropped, FOLLOWED, Fallback, Method, MethodCounters, ProcessCounters, ProcessKey,
};

/// Runs of a copy function and the bytes they copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Copies {
    /// How often a copy function ran.
    pub copies: u64,
    /// How many bytes it copied.
    pub bytes: u64,
}

/// What one method did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MethodTotals {
    /// System calls that returned.
    pub calls: u64,
    /// Bytes they reported as moved.
    pub payload_bytes: u64,
    /// The part of the payload that no copy carried.
    pub zero_copy_bytes: u64,
    /// Kernel to user.
    pub to_user: Copies,
    /// User to kernel.
    pub from_user: Copies,
    /// Kernel to kernel.
    pub in_kernel: Copies,
}

/// Mode switches by cause, two for each system call of a method and each page fault in user mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ModeSwitches {
    /// By the system calls of the methods.
    pub syscall: u64,
    /// By page faults in user mode.
    pub fault: u64,
}

/// Context switches by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ContextSwitches {
    /// The task went to sleep or exited.
    pub voluntary: u64,
    /// The task could have gone on.
    pub involuntary: u64,
}

/// Page faults by kind, as getrusage counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PageFaults {
    /// Served without I/O.
    pub minor: u64,
    /// Waited for I/O.
    pub major: u64,
}

/// Bytes into memory and out of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Flows {
    /// From the device.
    #[serde(rename = "in")]
    pub into: u64,
    /// To the device.
    pub out: u64,
}

/// Bytes moved by DMA, by kind of device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DmaBytes {
    /// Disks.
    pub block: Flows,
    /// Network interfaces.
    pub net: Flows,
}

/// The counters of a process, or of several summed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// The methods that did anything.
    #[serde(serialize_with = "by_name")]
    pub methods: BTreeMap<Method, MethodTotals>,
    /// By cause.
    pub mode_switches: ModeSwitches,
    /// By kind.
    pub context_switches: ContextSwitches,
    /// By kind.
    pub page_faults: PageFaults,
    /// By kind of device and direction.
    pub dma_bytes: DmaBytes,
    /// By direction.
    pub pio_bytes: Flows,
    /// Bytes copied although a program asked to pass them by reference, for the reasons there were.
    #[serde(serialize_with = "by_reason")]
    pub zero_copy_fallback_bytes: BTreeMap<Fallback, u64>,
}

/// One process and its counters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Process {
    /// Pid and start time.
    #[serde(skip)]
    pub key: ProcessKey,
    /// The thread group id; 0 is the pseudo-process `kernel`.
    pub pid: u32,
    /// Command name.
    pub comm: String,
    /// Whether its last thread is gone.
    #[serde(skip)]
    pub exited: bool,
    /// The id of its cgroup, 0 if that is not known.
    #[serde(skip)]
    pub cgroup: u64,
    /// Whether it was named to be followed, itself or an ancestor, and let in by nothing else.
    #[serde(skip)]
    pub followed: bool,
    /// What it did.
    #[serde(flatten)]
    pub counters: Counters,
}

/// A process as it is in the kernel's map.
#[derive(Clone, Copy)]
pub struct Raw<'a> {
    /// Pid and start time.
    pub key: ProcessKey,
    pub(super) counters: &'a ProcessCounters,
}

impl Raw<'_> {
    /// As a plain value.
    #[must_use]
    pub fn process(&self) -> Process {
        Process::new(self.key, self.counters)
    }

    pub(super) fn exited(&self) -> bool {
        self.counters.exited != 0
    }

    pub(super) fn followed(&self) -> bool {
        self.counters.filter_bits == [FOLLOWED, 0] && !self.key.is_pseudo()
    }

    /// A number that changes with anything of it (FNV-1a, by words). Should it not, for once in 2^64, the
    /// change is seen with the next one.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        const PRIME: u64 = 0x0100_0000_01b3;
        // SAFETY: aligned numbers and bytes without gaps, as the ABI asserts.
        let words: &[u64; size_of::<ProcessCounters>() / 8] =
            unsafe { &*(&raw const *self.counters).cast() };
        let mix = |sum: u64, word: &u64| (sum ^ word).wrapping_mul(PRIME).rotate_left(29);
        // Several at a time, since a multiplication takes some cycles.
        let mut lanes = [0xcbf2_9ce4_8422_2325, 1, 2, 3];
        for part in words.chunks(lanes.len()) {
            for (lane, word) in lanes.iter_mut().zip(part) {
                *lane = mix(*lane, word);
            }
        }
        lanes.iter().fold(0, mix)
    }
}

/// All processes at one moment, counted since the probes were attached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Ordered by key.
    pub processes: Vec<Process>,
    /// Processes that are gone and were taken out of the kernel's map, summed.
    pub retired: Counters,
    /// What could not be counted where it belongs.
    pub dropped: BTreeMap<Dropped, u64>,
    /// Events that the kernel may have kept from the programs; see [`crate::probes::Probes::skipped`].
    pub skipped: u64,
}

impl MethodTotals {
    /// The copies in one direction.
    #[must_use]
    pub const fn direction(&self, direction: Direction) -> Copies {
        match direction {
            Direction::ToUser => self.to_user,
            Direction::FromUser => self.from_user,
            Direction::InKernel => self.in_kernel,
        }
    }

    /// Bytes copied in all directions.
    #[must_use]
    pub const fn copied_bytes(&self) -> u64 {
        self.to_user.bytes + self.from_user.bytes + self.in_kernel.bytes
    }
}

impl Counters {
    /// One method's totals, zero if it did nothing.
    #[must_use]
    pub fn method(&self, method: Method) -> MethodTotals {
        self.methods.get(&method).copied().unwrap_or_default()
    }

    /// All methods summed.
    #[must_use]
    pub fn all_methods(&self) -> MethodTotals {
        let mut sum = MethodTotals::default();
        for totals in self.methods.values() {
            sum += *totals;
        }
        sum
    }
}

impl Snapshot {
    /// The process of that pid that started last.
    #[must_use]
    pub fn process(&self, pid: u32) -> Option<&Process> {
        self.processes
            .iter()
            .rev()
            .find(|process| process.pid == pid)
    }

    /// All losses by reason: the label `reason` of `zc_dropped_total`.
    pub fn losses(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let dropped = self
            .dropped
            .iter()
            .map(|(reason, count)| (reason.name(), *count));
        dropped.chain([("skipped_runs", self.skipped)])
    }

    /// Everything summed.
    #[must_use]
    pub fn total(&self) -> Counters {
        let mut total = Counters::default();
        for counters in self.processes.iter().map(|process| &process.counters) {
            total += counters;
        }
        total += &self.retired;
        total
    }
}

impl Process {
    /// What the pseudo-process of the kernel's own work is called.
    pub const KERNEL: &str = "kernel";

    /// From the kernel's counters.
    #[must_use]
    pub fn new(key: ProcessKey, counters: &ProcessCounters) -> Self {
        let comm = match key {
            ProcessKey::KERNEL => Self::KERNEL.into(),
            ProcessKey::OVERFLOW => "other".into(),
            _ => comm(&counters.comm),
        };
        Self {
            key,
            pid: key.pid,
            comm,
            exited: counters.exited != 0,
            cgroup: counters.cgroup,
            followed: Raw { key, counters }.followed(),
            counters: Counters::from(counters),
        }
    }
}

fn comm(bytes: &[u8]) -> String {
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

impl From<&MethodCounters> for MethodTotals {
    fn from(counters: &MethodCounters) -> Self {
        let direction = |direction: Direction| Copies {
            copies: counters.copies[direction as usize],
            bytes: counters.copied_bytes[direction as usize],
        };
        Self {
            calls: counters.calls,
            payload_bytes: counters.payload_bytes,
            zero_copy_bytes: counters.zero_copy_bytes,
            to_user: direction(Direction::ToUser),
            from_user: direction(Direction::FromUser),
            in_kernel: direction(Direction::InKernel),
        }
    }
}

impl From<&ProcessCounters> for Counters {
    fn from(counters: &ProcessCounters) -> Self {
        let methods: BTreeMap<_, _> = Method::ALL
            .into_iter()
            .zip(counters.methods.iter().map(MethodTotals::from))
            .filter(|(_, totals)| *totals != MethodTotals::default())
            .collect();
        let calls: u64 = methods.values().map(|totals| totals.calls).sum();
        Self {
            methods,
            mode_switches: ModeSwitches {
                syscall: 2 * calls,
                fault: 2 * counters.user_faults,
            },
            context_switches: ContextSwitches {
                voluntary: counters.voluntary_switches,
                involuntary: counters.involuntary_switches,
            },
            page_faults: PageFaults {
                minor: counters.minor_faults,
                major: counters.major_faults,
            },
            dma_bytes: DmaBytes {
                block: Flows::from(counters.dma_bytes[0]),
                net: Flows::from(counters.dma_bytes[1]),
            },
            pio_bytes: Flows::from(counters.pio_bytes),
            zero_copy_fallback_bytes: Fallback::ALL
                .into_iter()
                .zip(counters.fallback_bytes)
                .filter(|(_, bytes)| *bytes > 0)
                .collect(),
        }
    }
}

impl From<[u64; 2]> for Flows {
    fn from([into, out]: [u64; 2]) -> Self {
        Self { into, out }
    }
}

/// Applies one operation to every number of two values: sums and differences share the list.
trait Zip {
    fn zip(&mut self, other: &Self, with: fn(u64, u64) -> u64);
}

macro_rules! zip {
    ($($type:ty { $($number:ident),* } { $($nested:ident),* };)*) => {$(
        impl Zip for $type {
            fn zip(&mut self, other: &Self, with: fn(u64, u64) -> u64) {
                $(self.$number = with(self.$number, other.$number);)*
                $(self.$nested.zip(&other.$nested, with);)*
            }
        }
    )*};
}

zip! {
    Copies { copies, bytes } {};
    MethodTotals { calls, payload_bytes, zero_copy_bytes } { to_user, from_user, in_kernel };
    ModeSwitches { syscall, fault } {};
    ContextSwitches { voluntary, involuntary } {};
    PageFaults { minor, major } {};
    Flows { into, out } {};
    DmaBytes {} { block, net };
    Counters {} {
        methods, mode_switches, context_switches, page_faults,
        dma_bytes, pio_bytes, zero_copy_fallback_bytes
    };
}

impl Zip for BTreeMap<Fallback, u64> {
    fn zip(&mut self, other: &Self, with: fn(u64, u64) -> u64) {
        for (reason, bytes) in other {
            let sum = self.entry(*reason).or_default();
            *sum = with(*sum, *bytes);
        }
        self.retain(|_, bytes| *bytes != 0);
    }
}

impl Zip for BTreeMap<Method, MethodTotals> {
    fn zip(&mut self, other: &Self, with: fn(u64, u64) -> u64) {
        for (method, totals) in other {
            self.entry(*method).or_default().zip(totals, with);
        }
        self.retain(|_, totals| *totals != MethodTotals::default());
    }
}

impl AddAssign for MethodTotals {
    fn add_assign(&mut self, other: Self) {
        self.zip(&other, |left, right| left + right);
    }
}

impl AddAssign<&Self> for Counters {
    fn add_assign(&mut self, other: &Self) {
        self.zip(other, |left, right| left + right);
    }
}

/// What came between two snapshots of the same process, the earlier one on the right.
impl Sub<&Counters> for &Counters {
    type Output = Counters;

    fn sub(self, earlier: &Counters) -> Counters {
        let mut difference = self.clone();
        difference.zip(earlier, u64::saturating_sub);
        difference
    }
}

fn by_name<S: Serializer>(
    methods: &BTreeMap<Method, MethodTotals>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(
        methods
            .iter()
            .map(|(method, totals)| (method.name(), totals)),
    )
}

fn by_reason<S: Serializer>(
    reasons: &BTreeMap<Fallback, u64>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(reasons.iter().map(|(reason, bytes)| (reason.name(), bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(seed: u64) -> ProcessCounters {
        let mut counters = ProcessCounters {
            user_faults: seed,
            minor_faults: seed + 1,
            major_faults: seed + 2,
            voluntary_switches: seed + 3,
            involuntary_switches: seed + 4,
            dma_bytes: [[seed + 5, seed + 6], [seed + 7, seed + 8]],
            pio_bytes: [seed + 9, seed + 10],
            fallback_bytes: [0, seed + 11, 0, 0],
            ..ProcessCounters::default()
        };
        counters.methods[Method::Read as usize] = MethodCounters {
            calls: seed,
            payload_bytes: seed * 100,
            zero_copy_bytes: seed * 7,
            copies: [seed, 0, 1],
            copied_bytes: [seed * 93, 0, 5],
        };
        counters
    }

    #[test]
    fn sums_and_differences_undo_each_other() {
        let (first, second) = (Counters::from(&counters(3)), Counters::from(&counters(10)));
        let mut sum = first.clone();
        sum += &second;
        assert_eq!(sum.method(Method::Read).payload_bytes, 1300);
        assert_eq!(
            sum.method(Method::Read).in_kernel,
            Copies {
                copies: 2,
                bytes: 10
            }
        );
        assert_eq!(
            sum.mode_switches,
            ModeSwitches {
                syscall: 26,
                fault: 26
            }
        );
        assert_eq!(&sum - &second, first);
        assert_eq!(
            &sum - &sum,
            Counters::default(),
            "methods of zeros are left out"
        );
    }

    #[test]
    fn json_has_the_documented_shape() {
        let mut raw = counters(2);
        raw.comm[..4].copy_from_slice(b"cp\0x");
        let process = Process::new(ProcessKey { pid: 7, start: 1 }, &raw);
        let json = serde_json::to_value(&process).expect("serialize");
        assert_eq!(
            json,
            serde_json::json!({
                "pid": 7, "comm": "cp",
                "methods": {"read": {
                    "calls": 2, "payload_bytes": 200, "zero_copy_bytes": 14,
                    "to_user": {"copies": 2, "bytes": 186},
                    "from_user": {"copies": 0, "bytes": 0},
                    "in_kernel": {"copies": 1, "bytes": 5},
                }},
                "mode_switches": {"syscall": 4, "fault": 4},
                "context_switches": {"voluntary": 5, "involuntary": 6},
                "page_faults": {"minor": 3, "major": 4},
                "dma_bytes": {"block": {"in": 7, "out": 8}, "net": {"in": 9, "out": 10}},
                "pio_bytes": {"in": 11, "out": 12},
                "zero_copy_fallback_bytes": {"sg_off": 13},
            })
        );
    }

    #[test]
    fn totals_keep_the_retired() {
        let snapshot = Snapshot {
            processes: vec![Process::new(ProcessKey { pid: 1, start: 1 }, &counters(1))],
            retired: Counters::from(&counters(2)),
            ..Snapshot::default()
        };
        assert_eq!(snapshot.total().method(Method::Read).payload_bytes, 300);
        assert_eq!(snapshot.total().context_switches.voluntary, 9);
    }
}
