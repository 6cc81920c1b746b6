//! The scenarios for real, without probes: threads in the place of the lab's processes.

use std::{
    collections::BTreeSet,
    fs::File,
    io::Seek,
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::fd::{AsFd, OwnedFd},
    thread,
};

use super::{netns::Cable, target::Sink, transfer::Flow, *};
use crate::ledger::Method;

/// Payload and chunk.
const SIZES: [(u64, usize); 6] = [
    (4096, 1),
    (1 << 20, 4096),
    (4 << 20, 65536),
    (1_000_003, 10_007),
    (1_000_003, 3_000_000),
    (1, 1),
];

fn transfer(
    scenario: &Scenario,
    source: &File,
    sink: &File,
    (payload, chunk): (u64, usize),
) -> Calls {
    let flow = Flow {
        source,
        sink,
        payload,
        chunk,
    };
    (scenario.prepare)(chunk)
        .and_then(|mut transfer| {
            transfer.make_ready(&flow)?;
            transfer.transfer(&flow)
        })
        .unwrap_or_else(|error| panic!("{}: {error}", scenario.method))
}

/// What every machine has, where a file system may be any.
fn plain_machine(dir: &std::path::Path) -> Hardware {
    Hardware {
        disk: true,
        tmpfs: Some(dir.into()),
        ..Hardware::default()
    }
}

/// What can be driven here.
fn possible() -> impl Iterator<Item = &'static Scenario> {
    let dir = std::env::temp_dir();
    let machine = plain_machine(&dir);
    let direct = place::has_direct_io(&dir);
    scenarios().filter(move |scenario| {
        machine.lacks(scenario).is_none() && (direct || scenario.method != "direct-write")
    })
}

fn drive(scenario: &Scenario, size: (u64, usize)) -> Calls {
    let dir = tempfile::tempdir().unwrap();
    let mut source = target::source(dir.path(), size.0).unwrap();
    source.rewind().unwrap();
    match scenario.target {
        Target::Tcp => {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let receiver =
                thread::spawn(move || pattern::check(&mut listener.accept().unwrap().0, size.0));
            let calls = {
                let sink = File::from(OwnedFd::from(stream));
                transfer(scenario, &source, &sink, size)
            };
            receiver.join().unwrap().unwrap();
            calls
        }
        Target::File | Target::Disk | Target::Tmpfs | Target::Xfs => {
            let machine = plain_machine(dir.path());
            let sink = Sink::new(scenario.target, dir.path(), size.0, &machine).unwrap();
            let (Sink::File(file) | Sink::Disk(file)) = &sink else {
                panic!("no file");
            };
            let calls = transfer(scenario, &source, file, size);
            sink.finish(size.0, &Signals::block().unwrap()).unwrap();
            calls
        }
        Target::Memory => {
            let null = File::open("/dev/null").unwrap();
            transfer(scenario, &source, &null, size)
        }
        Target::Veth(veth) => {
            let (listener, stream) = Cable::new(veth.offloads()).unwrap().connect().unwrap();
            let receiver =
                thread::spawn(move || pattern::check(&mut listener.accept().unwrap().0, size.0));
            let sink = File::from(OwnedFd::from(stream));
            let calls = transfer(scenario, &source, &sink, size);
            hardware::drain(sink.as_fd()).unwrap();
            receiver.join().unwrap().unwrap();
            calls
        }
        Target::Nic { .. } => panic!("{} needs hardware", scenario.method),
    }
}

fn moves_the_payload_intact(scenario: &Scenario, sizes: &[(u64, usize)]) {
    for size in sizes {
        let calls = drive(scenario, *size);
        let chunks = size.0.div_ceil(size.1 as u64);
        // Whole pages may take fewer calls.
        let shares = scenario.truths[0].shares.iter();
        for share in shares.filter(|share| !share.whole_pages) {
            let least = share.calls_each_chunk * chunks + share.calls_once;
            assert!(
                calls.of(share.method) >= least,
                "{} of {size:?}: {calls:?}",
                scenario.method
            );
        }
    }
}

#[test]
fn every_scenario_moves_the_payload_intact() {
    for scenario in possible() {
        moves_the_payload_intact(scenario, &SIZES);
    }
}

#[test]
fn so_does_every_one_that_needs_a_kernels_leave_where_it_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let hardware = Hardware::default()
        .with_features(dir.path())
        .with_namespaces_for(scenarios());
    for scenario in scenarios() {
        let always = Hardware::default().lacks(scenario).is_none();
        if always || scenario.source == Source::Direct || hardware.lacks(scenario).is_some() {
            continue;
        }
        let sizes = [(1_000_003, 10_007), (300_000, 300_000), (1, 1)];
        moves_the_payload_intact(scenario, &sizes);
    }
}

#[test]
fn files_take_exactly_the_calls_of_the_theory() {
    let to_file = |scenario: &&Scenario| {
        let once = scenario.truths[0]
            .shares
            .iter()
            .any(|share| share.calls_once > 0);
        [Target::File, Target::Tmpfs].contains(&scenario.target) && !once
    };
    for scenario in possible().filter(to_file) {
        for size in [(4096, 1), (4 << 20, 65536), (1_000_003, 10_007)] {
            let calls = drive(scenario, size).total();
            let chunks = size.0.div_ceil(size.1 as u64);
            assert_eq!(
                calls,
                scenario.truths[0].calls(chunks),
                "{}",
                scenario.method
            );
            assert_eq!(2 * calls, scenario.theory.mode_switches * chunks);
        }
    }
}

/// Rows of which some bytes are neither copied nor passed, but made up or thrown away; or copied
/// without a call that reports them.
const EXCEPTIONS: [&str; 5] = [
    "zero-read",
    "null-write",
    "getrandom",
    "private-write",
    "fork",
];

#[test]
fn truths_add_up() {
    let mut names = BTreeSet::new();
    for scenario in scenarios() {
        assert!(
            names.insert((scenario.method, scenario.target.name())),
            "{} twice",
            scenario.method
        );
        assert!(!scenario.truths.is_empty());
        for truth in scenario.truths {
            for share in truth.shares {
                let accounted = share.zero_copy + share.to_user + share.from_user + share.in_kernel;
                // Passed by reference or copied, and copied later.
                let split = scenario.target == Target::Veth(Veth::NoGather) && share.in_kernel > 0;
                let later = split || truth.moved.is_some_and(|moved| moved.lost > 0);
                let twice = later && accounted == 2 * share.payload;
                // A ring's requests tell less than system calls do.
                let unknown = share.method == Method::IoUring
                    && (share.payload == 0 || accounted < share.payload && truth.because.is_some());
                let exception = EXCEPTIONS.contains(&scenario.method);
                assert!(
                    (accounted == share.payload) != exception || twice || unknown,
                    "{}: {share:?}",
                    scenario.method
                );
                let calls = share.calls_each_chunk + share.calls_once;
                assert!(calls > 0 || exception && share.payload == 0);
            }
            let methods: BTreeSet<_> = truth.shares.iter().map(|share| share.method).collect();
            assert_eq!(
                methods.len(),
                truth.shares.len(),
                "a method is listed twice"
            );
        }
    }
}

#[test]
fn temporary_files_have_no_name() {
    let dir = tempfile::tempdir().unwrap();
    let _source = target::source(dir.path(), 10).unwrap();
    let sink = Sink::new(Target::File, dir.path(), 10, &Hardware::default()).unwrap();
    assert_eq!(dir.path().read_dir().unwrap().count(), 0);
    let signals = Signals::block().unwrap();
    let error = sink.finish(10, &signals).unwrap_err().to_string();
    assert_eq!(error, "0 bytes arrived of 10");
    let missing = dir.path().join("missing");
    let error = target::source(&missing, 10).unwrap_err().to_string();
    assert!(error.contains("No such file or directory"), "{error}");
}

#[test]
fn a_scenario_says_which_hardware_it_lacks() {
    let disk = |scenario: &&Scenario| scenario.method == "pio-read";
    let scenario = scenarios().find(disk).unwrap();
    let mut hardware = Hardware::default();
    assert_eq!(hardware.lacks(scenario), Some("no --pio-disk to read from"));
    hardware.pio_disk = Some("/dev/sda".into());
    assert_eq!(hardware.lacks(scenario), None);
    let lacking = |hardware: &Hardware| {
        let lacks = |scenario: &&Scenario| hardware.lacks(scenario).is_some();
        let usual = TABLES.iter().filter(|table| table.usual);
        usual.flat_map(|table| table.rows).filter(lacks).count()
    };
    assert_eq!(lacking(&Hardware::default()), 6);
}

#[test]
fn a_disk_must_hold_the_pattern_and_is_read_from_its_start() {
    let mut disk = tempfile::NamedTempFile::new().unwrap();
    pattern::write(&mut disk, 100_000).unwrap();
    let mut cold = hardware::cold(disk.path(), 50_000).unwrap();
    let flow = Flow {
        source: &cold,
        sink: &cold,
        payload: 50_000,
        chunk: 1_001,
    };
    let calls = cold_read::prepare(1_001).unwrap().transfer(&flow).unwrap();
    assert_eq!(calls.of(Method::Read), 50);
    assert_eq!(cold.stream_position().unwrap(), 50_000);
    let error = hardware::cold(disk.path(), 100_001)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("the lab's pattern: 100000 bytes arrived of 100001"),
        "{error}"
    );
    std::io::Write::write_all(disk.as_file_mut(), b"more").unwrap();
    assert!(matches!(
        hardware::cold(disk.path(), 100_004),
        Err(Error::Pattern { .. })
    ));
}
