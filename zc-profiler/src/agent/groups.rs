//! Processes summed in groups of bounded number, for series that last.
//!
//! Each count of a process is given to one group, once: the one it belongs to when the count is first
//! seen. So no group's counters fall when a process ends, changes its name or moves, and all groups
//! together are always the whole ledger.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Serialize;
use zc_profiler_ebpf::ProcessKey;

use crate::{
    kernel::Service,
    ledger::{Counters, Process},
};

/// What makes a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum GroupBy {
    /// The unit or container, else the command name.
    #[default]
    Service,
    /// The process and its command name.
    Process,
    /// The command name.
    Comm,
}

/// How processes are summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grouping {
    /// What makes a group.
    pub by: GroupBy,
    /// How many groups there are at most, beside `other`.
    pub max: usize,
    /// How long a group stays after its last process has gone.
    pub grace: Duration,
}

impl Default for Grouping {
    fn default() -> Self {
        Self {
            by: GroupBy::default(),
            max: 200,
            grace: Duration::from_mins(5),
        }
    }
}

/// The labels of a group; those that are empty are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Name {
    /// The command name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub comm: String,
    /// The thread group id.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub pid: String,
    /// The systemd unit.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub unit: String,
    /// The container's name, else its id.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub container: String,
}

impl Name {
    /// Of the group that takes what no other does.
    pub const OTHER: &str = "other";

    fn of(by: GroupBy, process: &Process, service: &Service) -> Self {
        let known = service.unit.is_some() || service.container.is_some();
        let mut name = Self::default();
        if by != GroupBy::Service || !known {
            name.comm.clone_from(&process.comm);
            // Where no pid tells them apart. No command name is as long.
            let taken = [Process::KERNEL, Self::OTHER].contains(&&*process.comm);
            if taken && by != GroupBy::Process && !process.key.is_pseudo() {
                name.comm.push_str(" (a process)");
            }
        }
        if by == GroupBy::Process && process.key != ProcessKey::OVERFLOW {
            name.pid = process.pid.to_string();
        }
        if by != GroupBy::Comm {
            name.unit = service.unit.clone().unwrap_or_default();
            name.container = service.container.clone().unwrap_or_default();
        }
        name
    }

    /// Of the group that takes what no other does.
    #[must_use]
    pub fn other() -> Self {
        Self {
            comm: Self::OTHER.into(),
            ..Self::default()
        }
    }
}

/// The groups, and what they need to know to go on.
pub struct Groups {
    grouping: Grouping,
    named: BTreeMap<Name, Group>,
    /// Names whose counters have joined `other`, which nobody has seen to be gone yet.
    leaving: HashSet<Name>,
    other: Counters,
    /// When a process of a group was last there, by the group's number.
    seen: HashMap<u64, Instant>,
    /// How many groups there have been.
    numbers: u64,
    processes: HashMap<ProcessKey, Known>,
    turned_away: u64,
}

struct Group {
    counters: Counters,
    /// Its own for good.
    number: u64,
}

/// A process of the ledger.
#[derive(Default)]
struct Known {
    /// What its groups have been given.
    given: Counters,
    /// The cgroup that `service` was found by.
    cgroup: u64,
    service: Option<Arc<Service>>,
    turned_away: bool,
    /// How it looked in the kernel's map when it was counted last, and the number of its group.
    last: Option<(u64, u64)>,
}

impl Groups {
    /// None yet.
    #[must_use]
    pub fn new(grouping: Grouping) -> Self {
        Self {
            grouping,
            named: BTreeMap::new(),
            leaving: HashSet::new(),
            other: Counters::default(),
            seen: HashMap::new(),
            numbers: 0,
            processes: HashMap::new(),
            turned_away: 0,
        }
    }

    /// Groups in another way from now on. If other things make a group, what was counted so far joins
    /// `other`, and names that were in use stay out until [`Self::expire`] has shown them gone.
    pub fn change(&mut self, grouping: Grouping) {
        if grouping.by != self.grouping.by {
            for (name, group) in std::mem::take(&mut self.named) {
                self.other += &group.counters;
                self.leaving.insert(name);
            }
            self.seen.clear();
        }
        self.grouping = grouping;
    }

    /// Gives the groups what is new in these processes' counters. A process's service is looked up when
    /// it is first seen, and when it has moved. Those who are in stay in.
    pub fn count(
        &mut self,
        processes: &[Process],
        now: Instant,
        service: &mut dyn FnMut(&Process) -> Arc<Service>,
    ) {
        for process in processes {
            let known = self.processes.entry(process.key).or_default();
            if self.grouping.by != GroupBy::Comm
                && (known.service.is_none() || known.cgroup != process.cgroup)
            {
                known.cgroup = process.cgroup;
                known.service = Some(service(process));
            }
            let unknown = Service::default();
            let service = known.service.as_deref().unwrap_or(&unknown);
            let name = Name::of(self.grouping.by, process, service);
            let new = &process.counters - &known.given;
            known.given.clone_from(&process.counters);
            known.last = None;
            if let Some(group) = self.named.get_mut(&name) {
                group.counters += &new;
                self.seen.insert(group.number, now);
                known.last = Some((0, group.number));
                continue;
            }
            let barred = name == Name::other() || self.leaving.contains(&name);
            if !barred && self.named.len() < self.grouping.max {
                self.numbers += 1;
                let group = Group {
                    counters: new,
                    number: self.numbers,
                };
                self.seen.insert(group.number, now);
                known.last = Some((0, group.number));
                self.named.insert(name, group);
                continue;
            }
            self.other += &new;
            if !barred && !known.turned_away {
                known.turned_away = true;
                self.turned_away += 1;
            }
        }
    }

    /// Counts a process of which nothing has changed since [`Self::remember`] was told how it looks;
    /// says whether that was so.
    pub fn count_unchanged(&mut self, key: ProcessKey, fingerprint: u64, now: Instant) -> bool {
        let known = self.processes.get(&key);
        let Some((last, group)) = known.and_then(|known| known.last) else {
            return false;
        };
        match self.seen.get_mut(&group) {
            Some(seen) if last == fingerprint => {
                *seen = now;
                true
            }
            _ => false,
        }
    }

    /// Notes how a process looked that has just been counted.
    pub fn remember(&mut self, key: ProcessKey, fingerprint: u64) {
        let known = self.processes.get_mut(&key);
        if let Some((last, _)) = known.and_then(|known| known.last.as_mut()) {
            *last = fingerprint;
        }
    }

    /// Forgets processes that will not be seen again; they have been counted.
    pub fn forget(&mut self, processes: &[Process]) {
        for process in processes {
            self.processes.remove(&process.key);
        }
    }

    /// Lets groups go whose processes have been gone for the grace period; what they had joins `other`.
    /// To be called after a count whose groups are shown: a group that comes back later has been seen to
    /// be absent, and begins anew.
    pub fn expire(&mut self, now: Instant) {
        let grace = self.grouping.grace;
        self.seen
            .retain(|_, seen| now.saturating_duration_since(*seen) <= grace);
        let gone = self
            .named
            .extract_if(.., |_, group| !self.seen.contains_key(&group.number));
        for (_, group) in gone {
            self.other += &group.counters;
        }
        self.leaving.clear();
    }

    /// The groups with their names, `other` last.
    pub fn iter(&self) -> impl Iterator<Item = (Name, &Counters)> {
        let named = self.named.iter();
        named
            .map(|(name, group)| (name.clone(), &group.counters))
            .chain([(Name::other(), &self.other)])
    }

    /// How many there are, `other` included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.named.len() + 1
    }

    /// Never: there is always `other`.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// How many processes were counted in `other` for want of a group.
    #[must_use]
    pub const fn turned_away(&self) -> u64 {
        self.turned_away
    }

    /// Everything summed.
    #[must_use]
    pub fn total(&self) -> Counters {
        let mut total = Counters::default();
        for (_, counters) in self.iter() {
            total += counters;
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::ledger::{ContextSwitches, Method};

    fn process(pid: u32, comm: &str) -> Process {
        Process {
            key: ProcessKey { pid, start: 1 },
            pid,
            comm: comm.into(),
            exited: false,
            cgroup: 0,
            followed: false,
            counters: Counters::default(),
        }
    }

    fn work(process: &mut Process, bytes: u64) {
        let totals = process.counters.methods.entry(Method::Read).or_default();
        totals.calls += 1;
        totals.payload_bytes += bytes;
        process.counters.context_switches.voluntary += 1;
    }

    fn payload(counters: &Counters) -> u64 {
        counters.method(Method::Read).payload_bytes
    }

    fn nothing(_: &Process) -> Arc<Service> {
        Arc::default()
    }

    fn by_comm(max: usize) -> Groups {
        Groups::new(Grouping {
            by: GroupBy::Comm,
            max,
            grace: Duration::from_secs(10),
        })
    }

    fn of(groups: &Groups, comm: &str) -> Option<u64> {
        let mut found = groups.iter().filter(|(name, _)| name.comm == comm);
        found.next().map(|(_, counters)| payload(counters))
    }

    #[test]
    fn who_has_done_nothing_is_still_there() {
        let mut groups = by_comm(10);
        let mut process = process(1, "cat");
        work(&mut process, 7);
        let begin = Instant::now();
        let after = |seconds| begin + Duration::from_secs(seconds);
        assert!(!groups.count_unchanged(process.key, 5, after(0)), "new");
        groups.count(std::slice::from_ref(&process), after(0), &mut nothing);
        groups.remember(process.key, 5);
        assert!(!groups.count_unchanged(process.key, 6, after(9)), "changed");
        assert!(groups.count_unchanged(process.key, 5, after(9)));
        groups.expire(after(15));
        assert_eq!(of(&groups, "cat"), Some(7));
        groups.change(Grouping {
            by: GroupBy::Process,
            ..groups.grouping
        });
        assert!(!groups.count_unchanged(process.key, 5, after(16)));
    }

    #[test]
    fn a_new_name_takes_nothing_from_the_old_one() {
        let mut groups = by_comm(10);
        let mut process = process(1, "bash");
        work(&mut process, 100);
        let now = Instant::now();
        groups.count(std::slice::from_ref(&process), now, &mut nothing);
        process.comm = "cat".into();
        work(&mut process, 7);
        groups.count(std::slice::from_ref(&process), now, &mut nothing);
        assert_eq!(
            (of(&groups, "bash"), of(&groups, "cat")),
            (Some(100), Some(7))
        );
    }

    #[test]
    fn who_is_in_stays_until_the_grace_period_has_passed() {
        let mut groups = by_comm(1);
        let begin = Instant::now();
        let after = |seconds| begin + Duration::from_secs(seconds);
        let (mut first, mut second) = (process(1, "first"), process(2, "second"));
        work(&mut first, 10);
        work(&mut second, 5);
        groups.count(&[first.clone(), second.clone()], after(0), &mut nothing);
        assert_eq!(
            (of(&groups, "first"), of(&groups, "other")),
            (Some(10), Some(5))
        );
        assert_eq!(groups.turned_away(), 1);
        groups.forget(&[first]);
        work(&mut second, 1);
        groups.count(std::slice::from_ref(&second), after(10), &mut nothing);
        assert_eq!(
            (of(&groups, "first"), of(&groups, "other")),
            (Some(10), Some(6))
        );
        work(&mut second, 1);
        groups.count(std::slice::from_ref(&second), after(11), &mut nothing);
        groups.expire(after(11));
        assert_eq!(of(&groups, "first"), None, "gone for longer than that");
        assert_eq!(of(&groups, "other"), Some(17));
        work(&mut second, 1);
        groups.count(std::slice::from_ref(&second), after(12), &mut nothing);
        assert_eq!(
            (of(&groups, "second"), of(&groups, "other")),
            (Some(1), Some(17))
        );
        assert_eq!(groups.turned_away(), 1, "each process once");
    }

    #[test]
    fn a_process_named_like_no_process_is_a_group_of_its_own() {
        let mut pseudo = [process(0, "kernel"), process(u32::MAX, "other")];
        pseudo[0].key = ProcessKey::KERNEL;
        pseudo[1].key = ProcessKey::OVERFLOW;
        let mut processes = [process(1, "kernel"), process(2, "other")];
        for (bytes, process) in pseudo.iter_mut().chain(&mut processes).enumerate() {
            work(process, 1 << bytes);
        }
        let all = [pseudo, processes].concat();
        for by in [GroupBy::Comm, GroupBy::Service] {
            let mut groups = by_comm(10);
            groups.change(Grouping {
                by,
                ..groups.grouping
            });
            groups.count(&all, Instant::now(), &mut nothing);
            let of = |comm| of(&groups, comm);
            assert_eq!((of("kernel"), of("other")), (Some(1), Some(2)));
            assert_eq!(of("kernel (a process)"), Some(4));
            assert_eq!(of("other (a process)"), Some(8));
        }
    }

    #[test]
    fn a_service_is_looked_up_once_and_again_after_a_move() {
        let mut groups = Groups::new(Grouping::default());
        let mut process = process(1, "postgres");
        let mut look_ups = 0;
        let mut count = |process: &Process, unit: &str| {
            groups.count(std::slice::from_ref(process), Instant::now(), &mut |_| {
                look_ups += 1;
                Arc::new(Service {
                    unit: Some(unit.into()),
                    ..Service::default()
                })
            });
            look_ups
        };
        assert_eq!(count(&process, "a.service"), 1);
        assert_eq!(count(&process, "b.service"), 1);
        process.cgroup = 7;
        work(&mut process, 1);
        assert_eq!(count(&process, "b.service"), 2);
        let names: Vec<_> = groups.iter().map(|(name, _)| name.unit).collect();
        assert_eq!(names, ["a.service", "b.service", ""], "units, other");
    }

    #[test]
    fn another_grouping_loses_no_count_and_lowers_no_series() {
        let mut groups = by_comm(10);
        let mut processes = [process(0, "kernel"), process(1, "cat"), process(2, "cat")];
        processes[0].key = ProcessKey::KERNEL;
        for process in &mut processes {
            work(process, 10);
        }
        let now = Instant::now();
        groups.count(&processes, now, &mut nothing);
        groups.change(Grouping {
            by: GroupBy::Process,
            ..groups.grouping
        });
        work(&mut processes[2], 3);
        groups.count(&processes, now, &mut nothing);
        let found = |groups: &Groups| -> Vec<_> {
            let row = |(name, counters): (Name, &_)| (name.comm, name.pid, payload(counters));
            groups.iter().map(row).collect()
        };
        let row = |comm: &str, pid: &str, bytes| (comm.to_owned(), pid.to_owned(), bytes);
        let expected = [
            row("cat", "1", 0),
            row("cat", "2", 3),
            row("kernel", "0", 0),
            row("other", "", 30),
        ];
        assert_eq!(found(&groups), expected);
        groups.expire(now);
        groups.change(Grouping {
            by: GroupBy::Comm,
            ..groups.grouping
        });
        groups.change(Grouping {
            by: GroupBy::Process,
            ..groups.grouping
        });
        work(&mut processes[2], 4);
        groups.count(&processes, now, &mut nothing);
        assert_eq!(
            found(&groups),
            [row("other", "", 37)],
            "nobody has seen them gone"
        );
        groups.expire(now);
        groups.count(&processes, now, &mut nothing);
        assert_eq!(found(&groups).len(), 4);
    }

    /// What may happen to the processes of a machine.
    #[derive(Clone, Debug)]
    enum Event {
        Birth(u8),
        Work(usize, u64),
        Exec(usize, u8),
        Move(usize, u8),
        Exit(usize),
        Scrape(u64),
        Regroup(GroupBy, usize),
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let by = prop::sample::select(vec![GroupBy::Service, GroupBy::Process, GroupBy::Comm]);
        vec(
            prop_oneof![
                3 => (0..12u8).prop_map(Event::Birth),
                6 => (any::<usize>(), 0..1_000_000u64).prop_map(|(who, bytes)| Event::Work(who, bytes)),
                1 => (any::<usize>(), 0..12u8).prop_map(|(who, name)| Event::Exec(who, name)),
                1 => (any::<usize>(), 0..6u8).prop_map(|(who, cgroup)| Event::Move(who, cgroup)),
                2 => any::<usize>().prop_map(Event::Exit),
                3 => (0..8u64).prop_map(Event::Scrape),
                1 => (by, 1..8usize).prop_map(|(by, max)| Event::Regroup(by, max)),
            ],
            0..120,
        )
    }

    proptest! {
        #[test]
        fn nothing_is_lost_doubled_or_lowered(events in events()) {
            let mut groups = Groups::new(Grouping { by: GroupBy::Comm, max: 4, grace: Duration::from_secs(10) });
            let mut service = |process: &Process| {
                // Some cgroups are of no unit.
                Arc::new(Service {
                    unit: (process.cgroup > 1).then(|| format!("{}.service", process.cgroup)),
                    ..Service::default()
                })
            };
            let mut live: Vec<Process> = Vec::new();
            let (mut next, mut now, mut max) = (1, Instant::now(), 4);
            let mut retired = Counters::default();
            let mut before: BTreeMap<Name, Counters> = BTreeMap::new();
            for event in events {
                let some = |who: usize, live: &[Process]| (!live.is_empty()).then(|| who % live.len());
                match event {
                    Event::Birth(name) => {
                        // Pids are used again soon.
                        let mut new = process(next % 5, &format!("comm{name}"));
                        new.key.start = next;
                        live.push(new);
                        next += 1;
                    }
                    Event::Work(who, bytes) => if let Some(who) = some(who, &live) {
                        work(&mut live[who], bytes);
                    },
                    Event::Exec(who, name) => if let Some(who) = some(who, &live) {
                        live[who].comm = format!("comm{name}");
                    },
                    Event::Move(who, cgroup) => if let Some(who) = some(who, &live) {
                        live[who].cgroup = cgroup.into();
                    },
                    Event::Exit(who) => if let Some(who) = some(who, &live) {
                        let gone = [live.swap_remove(who)];
                        groups.count(&gone, now, &mut service);
                        groups.forget(&gone);
                        retired += &gone[0].counters;
                    },
                    Event::Regroup(by, new_max) => {
                        max = max.max(new_max);
                        groups.change(Grouping { by, max: new_max, grace: Duration::from_secs(10) });
                    }
                    Event::Scrape(seconds) => {
                        now += Duration::from_secs(seconds);
                        groups.count(&live, now, &mut service);
                        groups.expire(now);
                        let mut expected = retired.clone();
                        for process in &live {
                            expected += &process.counters;
                        }
                        prop_assert_eq!(groups.total(), expected);
                        prop_assert!(groups.len() <= max + 1);
                        let after: BTreeMap<_, _> = groups.iter().map(|(name, counters)| (name, counters.clone())).collect();
                        prop_assert_eq!(after.len(), groups.len());
                        for (name, earlier) in &before {
                            // Those that left the list joined `other`, which is on it.
                            if let Some(later) = after.get(name) {
                                prop_assert!(payload(later) >= payload(earlier), "{:?} fell", name);
                                let ContextSwitches { voluntary, .. } = later.context_switches;
                                prop_assert!(voluntary >= earlier.context_switches.voluntary);
                            }
                        }
                        before = after;
                    }
                }
                prop_assert!(groups.processes.len() <= live.len());
            }
        }
    }
}
