//! Mappings, and copies from memory to memory.

use super::{
    super::{Scenario, Share, Source, Target, mappings, pipes, process_vm},
    shares::{
        BY_DMA, BY_NO_DEVICE, MMAP, PAGES_COPIED, PASSED, READ, WRITE, always, moving, theory,
    },
};
use crate::ledger::Method;

pub(super) static ROWS: &[Scenario] = &[
    Scenario {
        method: "mmap-minor",
        source: Source::Cached,
        target: Target::Memory,
        theory: theory(2, 0, 0),
        truths: &[moving(BY_NO_DEVICE, &[MMAP])],
        prepare: mappings::read,
    },
    Scenario {
        method: "mmap-major",
        source: Source::Cold,
        target: Target::Memory,
        theory: theory(2, 0, 1),
        truths: &[moving(BY_DMA, &[MMAP])],
        prepare: mappings::read,
    },
    Scenario {
        method: "private-write",
        source: Source::Cached,
        target: Target::Memory,
        theory: theory(2, 1, 0),
        truths: &[moving(BY_NO_DEVICE, &[PAGES_COPIED])],
        prepare: mappings::private_write,
    },
    Scenario {
        method: "fork",
        source: Source::Cached,
        target: Target::Memory,
        theory: theory(0, 1, 0),
        // The memory was mapped before.
        truths: &[moving(
            BY_NO_DEVICE,
            &[Share {
                calls_once: 0,
                ..PAGES_COPIED
            }],
        )],
        prepare: mappings::fork,
    },
    Scenario {
        method: "shared-write",
        source: Source::Cached,
        target: Target::File,
        theory: theory(2, 0, 0),
        truths: &[always(&[MMAP])],
        prepare: mappings::shared_write,
    },
    Scenario {
        method: "anonymous",
        source: Source::Cached,
        target: Target::Memory,
        theory: theory(2, 0, 0),
        truths: &[moving(BY_NO_DEVICE, &[MMAP])],
        prepare: mappings::anonymous,
    },
    Scenario {
        method: "process_vm",
        source: Source::Cached,
        target: Target::Memory,
        theory: theory(2, 1, 0),
        truths: &[moving(
            BY_NO_DEVICE,
            &[Share {
                method: Method::ProcessVm,
                ..READ
            }],
        )],
        prepare: process_vm::prepare,
    },
    Scenario {
        method: "vmsplice+read",
        source: Source::Cached,
        target: Target::Memory,
        theory: theory(4, 1, 0),
        truths: &[moving(
            BY_NO_DEVICE,
            &[
                Share {
                    method: Method::Vmsplice,
                    ..PASSED
                },
                READ,
            ],
        )],
        prepare: pipes::vmsplice_then_read,
    },
    Scenario {
        method: "write+vmsplice",
        source: Source::Cached,
        target: Target::Memory,
        theory: theory(4, 2, 0),
        truths: &[moving(
            BY_NO_DEVICE,
            &[
                WRITE,
                Share {
                    method: Method::Vmsplice,
                    ..READ
                },
            ],
        )],
        prepare: pipes::write_then_vmsplice,
    },
];
