//! What the parts of a program cost that finds a process's counters: the candidates for the hot path,
//! each in a program of its own on the copy function of a read.

use std::{arch::x86_64::_rdtsc, collections::BTreeMap, os::fd::OwnedFd};

use anyhow::{Context, Result};
use aya::Btf;
use aya_obj::generated::bpf_map_type;
use serde_json::json;
use zc_profiler::probes::hooks::AttachMode;

use crate::{
    bpf::{
        self, EXIT, Place, Word, add, atomic_add, call, copy, insert, load, make_map, map, set,
        skip_if_zero, store, word,
    },
    guest::say,
    work::WORKLOADS,
};

/// As large as a process's counters.
const VALUE: u32 = 1_120;
/// As many as live on a busy machine.
const PROCESSES: u32 = 1_000;
const ROOM: u32 = 4_096;

const LOOKUP: i32 = 1;
const GET_PID_TGID: i32 = 14;
const TASK_STORAGE_GET: i32 = 156;
const CURRENT_TASK_BTF: i32 = 158;

const PLACE: Place<'static> = Place {
    attach: AttachMode::Fexit,
    target: "shmem_file_read_iter",
};
const WORK: &str = "read 1 B";
const REPETITIONS: usize = 9;

/// Counts a copy: two numbers of the value in register 0, if there is one.
fn count(adds: &[Word]) -> Vec<Word> {
    let mut words = vec![
        skip_if_zero(0, i16::try_from(adds.len() + 1).unwrap_or(i16::MAX)),
        set(1, 1),
    ];
    words.extend(adds);
    words.extend([set(0, 0), EXIT]);
    words
}

const SHARED: [Word; 2] = [atomic_add(0, 24, 1), atomic_add(0, 48, 1)];
/// Of this CPU alone: a load, an addition and a store for each number.
const OWN: [Word; 6] = [
    load(2, 0, 24),
    add(2, 1),
    store(0, 24, 2),
    load(2, 0, 48),
    add(2, 1),
    store(0, 48, 2),
];

/// Looks up the 4 or 8 bytes at the stack's top.
fn look_up(of: &OwnedFd) -> Vec<Word> {
    let mut words = map(1, of).to_vec();
    words.extend([copy(2, 10), add(2, -8), call(LOOKUP)]);
    words
}

/// This task as the key at the stack's top.
const KEY: [Word; 2] = [call(GET_PID_TGID), store(10, -8, 0)];
/// The first entry.
const FIRST: Word = word(0x7a, 10, 0, -8, 0);

/// A name, and a program unless the kernel lacks something.
type Candidate = (&'static str, Result<Vec<Word>>);

/// The candidates; the maps live as long as their programs.
fn candidates() -> Result<Vec<Candidate>> {
    use bpf_map_type as kind;
    let hash = make_map(kind::BPF_MAP_TYPE_HASH, 8, VALUE, ROOM)?;
    for other in 0..u64::from(PROCESSES) {
        insert(&hash, &(other << 20).to_ne_bytes(), &[0; VALUE as usize])?;
    }
    let own = u64::from(std::process::id());
    insert(
        &hash,
        &(own << 32 | own).to_ne_bytes(),
        &[0; VALUE as usize],
    )?;
    let slots = make_map(kind::BPF_MAP_TYPE_PERCPU_ARRAY, 4, VALUE, 1)?;
    let entries = make_map(kind::BPF_MAP_TYPE_ARRAY, 4, VALUE, ROOM)?;

    let by_hash = [KEY.to_vec(), look_up(&hash), count(&SHARED)].concat();
    let by_slot = [vec![FIRST], look_up(&slots), count(&OWN)].concat();
    // The slot says which entry is the running process's.
    let entry = [look_up(&entries), count(&SHARED)].concat();
    let index = vec![
        skip_if_zero(0, i16::try_from(entry.len())?),
        load(1, 0, 0),
        store(10, -8, 1),
    ];
    let by_index = [vec![FIRST], look_up(&slots), index, entry].concat();
    // At each switch a slot must be delivered: a look-up, and its numbers taken and added.
    let taken: Vec<Word> = (0..9)
        .flat_map(|number| {
            let at = number * 8;
            [
                load(1, 6, at),
                word(0x7a, 6, 0, at, 0),
                atomic_add(0, at, 1),
            ]
        })
        .collect();
    let find = [KEY.to_vec(), look_up(&hash)].concat();
    let deliver = [
        vec![skip_if_zero(0, i16::try_from(taken.len())?)],
        taken,
        vec![set(0, 0), EXIT],
    ]
    .concat();
    let whole = i16::try_from(find.len() + deliver.len())? - 2;
    let delivered = [
        vec![FIRST],
        look_up(&slots),
        vec![copy(6, 0), skip_if_zero(0, whole)],
        find,
        deliver,
    ]
    .concat();
    // Kernels without it say so.
    let storage = make_map(kind::BPF_MAP_TYPE_TASK_STORAGE, 4, VALUE, 0).map(|storage| {
        let mut words = vec![call(CURRENT_TASK_BTF), copy(2, 0)];
        words.extend(map(1, &storage));
        words.extend([set(3, 0), set(4, 1), call(TASK_STORAGE_GET)]);
        std::mem::forget(storage);
        [words, count(&OWN)].concat()
    });
    for map in [hash, slots, entries] {
        std::mem::forget(map);
    }
    Ok(vec![
        ("empty program", Ok(vec![set(0, 0), EXIT])),
        ("hash of processes, two atomic additions", Ok(by_hash)),
        ("per-CPU buffer, two additions", Ok(by_slot)),
        (
            "per-CPU index of the entry, array, two atomic additions",
            Ok(by_index),
        ),
        (
            "flush of a per-CPU buffer: hash, nine numbers",
            Ok(delivered),
        ),
        ("task storage, two additions", storage),
    ])
}

pub fn run() -> Result<()> {
    let btf = Btf::from_sys_fs()?;
    let mut costs = BTreeMap::new();
    let nothing = read()?;
    let mut empty = nothing;
    for (name, program) in candidates()? {
        let attached = program.and_then(|words| bpf::attach(&btf, PLACE, &words));
        match attached {
            Ok(attached) => {
                let cost = read()?;
                if costs.is_empty() {
                    empty = cost;
                    costs.insert(name, cost - nothing);
                } else {
                    costs.insert(name, cost - empty);
                }
                drop(attached);
            }
            Err(error) => eprintln!("bench: {name}: {error:#}"),
        }
    }
    say(&json!(costs))
}

/// The median cost of one read.
fn read() -> Result<f64> {
    let workload = WORKLOADS
        .iter()
        .find(|workload| workload.name == WORK)
        .context("no such work")?;
    let mut job = (workload.prepare)()?;
    job(workload.operations)?;
    let mut values = Vec::new();
    for _ in 0..REPETITIONS {
        // SAFETY: reads a counter.
        let start = unsafe { _rdtsc() };
        job(workload.operations)?;
        // SAFETY: as above.
        values.push(unsafe { _rdtsc() } - start);
    }
    values.sort_unstable();
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    Ok(values[REPETITIONS / 2] as f64 / workload.operations as f64)
}
