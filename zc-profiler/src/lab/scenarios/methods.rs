//! Other ways in and out of the kernel.

use super::{
    super::{
        Scenario, Share, Source, Target, Truth, direct_read, io_uring_read, pipe, plain, udp, unix,
        vmsplice, zerocopy_send::ZerocopySend,
    },
    shares::{
        COPIED_ON_DELIVERY, IO_URING_READ, MMAP, PASSED, READ, RECV, SEND, WRITE, ZEROCOPY_SEND,
        always, moving, theory,
    },
};
use crate::ledger::Method;

pub(super) static ROWS: &[Scenario] = &[
    Scenario {
        method: "pipe",
        source: Source::Cached,
        target: Target::Memory,
        theory: theory(4, 2, 0),
        truths: &[always(&[WRITE, READ])],
        prepare: pipe::prepare,
    },
    Scenario {
        method: "unix",
        source: Source::Cached,
        target: Target::Memory,
        theory: theory(4, 2, 0),
        truths: &[always(&[WRITE, READ])],
        prepare: unix::prepare,
    },
    Scenario {
        method: "udp",
        source: Source::Cached,
        target: Target::Memory,
        theory: theory(4, 2, 0),
        truths: &[always(&[SEND, RECV])],
        prepare: udp::prepare,
    },
    Scenario {
        method: "direct-read",
        source: Source::Direct,
        target: Target::Memory,
        theory: theory(2, 0, 1),
        truths: &[always(&[Share {
            zero_copy: 1,
            to_user: 0,
            ..READ
        }])],
        prepare: direct_read::prepare,
    },
    Scenario {
        method: "io_uring-read",
        source: Source::Cached,
        target: Target::Memory,
        theory: theory(2, 1, 1),
        truths: &[
            always(&[IO_URING_READ]),
            Truth {
                because: Some("this kernel does not tell what requests completed: no payload"),
                ..always(&[Share {
                    payload: 0,
                    ..IO_URING_READ
                }])
            },
        ],
        prepare: io_uring_read::prepare,
    },
    Scenario {
        method: "zerocopy-send",
        source: Source::Cached,
        target: Target::Tcp,
        theory: theory(4, 0, 2),
        truths: &[Truth {
            because: Some(
                "the receiver is on this machine, so the kernel copied for it what was passed by reference",
            ),
            ..moving(COPIED_ON_DELIVERY, ZEROCOPY_SEND)
        }],
        prepare: plain::<ZerocopySend>,
    },
    Scenario {
        method: "vmsplice",
        source: Source::Cached,
        target: Target::Tcp,
        theory: theory(6, 0, 2),
        truths: &[always(&[
            MMAP,
            Share {
                method: Method::Vmsplice,
                ..PASSED
            },
            Share {
                method: Method::Splice,
                ..PASSED
            },
        ])],
        prepare: vmsplice::prepare,
    },
];
