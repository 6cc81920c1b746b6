//! Requests of an `io_uring`, one at a time.

use super::{
    super::{
        Error, Scenario, Share, Source, Target, Theory, Truth, Veth, io_uring_read, io_uring_recv,
        io_uring_splice, io_uring_write, transfer::Transfer,
    },
    shares::{
        COPIED_ON_DELIVERY, IO_URING, IO_URING_READ, IO_URING_WRITE, SEND, UNTOLD, always, moving,
        theory,
    },
};

const fn row(
    method: &'static str,
    (source, target): (Source, Target),
    theory: Theory,
    truths: &'static [Truth],
    prepare: fn(usize) -> Result<Box<dyn Transfer>, Error>,
) -> Scenario {
    Scenario {
        method,
        source,
        target,
        theory,
        truths,
        prepare,
    }
}

/// What such a request does where its completion tells the payload, and where it does not.
macro_rules! truths {
    ($share:expr $(, $other:expr)*) => {
        &[
            always(&[$share $(, $other)*]),
            Truth {
                because: UNTOLD,
                ..always(&[Share { payload: 0, ..$share } $(, $other)*])
            },
        ]
    };
}

const READ_INTO_MEMORY: &[Truth] = truths!(IO_URING_READ);
const WRITTEN: &[Truth] = truths!(IO_URING_WRITE);
const SENT_BY_REFERENCE: &[Truth] = &[Truth {
    because: Some(
        "the receiver is on this machine, so the kernel copied for it what was passed by reference",
    ),
    ..moving(
        COPIED_ON_DELIVERY,
        &[Share {
            zero_copy: 1,
            in_kernel: 1,
            ..IO_URING
        }],
    )
}];
/// Into the pipe, and copied out of it.
const SPLICED: Share = Share {
    calls_each_chunk: 2,
    payload: 2,
    in_kernel: 1,
    ..IO_URING
};

pub(super) static ROWS: &[Scenario] = &[
    row(
        "ring-write",
        (Source::Cached, Target::File),
        theory(2, 1, 1),
        WRITTEN,
        io_uring_write::prepare,
    ),
    row(
        "ring-read-fixed",
        (Source::Cached, Target::Memory),
        theory(2, 1, 1),
        READ_INTO_MEMORY,
        io_uring_read::prepare_fixed,
    ),
    row(
        "ring-write-fixed",
        (Source::Cached, Target::File),
        theory(2, 1, 1),
        WRITTEN,
        io_uring_write::prepare_fixed,
    ),
    row(
        "ring-direct-fixed",
        (Source::Direct, Target::Memory),
        theory(2, 0, 1),
        &[
            Truth {
                because: Some("the disk's end of it is seen by no request: payload without copies"),
                ..always(&[IO_URING])
            },
            Truth {
                because: UNTOLD,
                ..always(&[Share {
                    payload: 0,
                    ..IO_URING
                }])
            },
        ],
        io_uring_read::prepare_direct,
    ),
    row(
        "ring-send",
        (Source::Cached, Target::Tcp),
        theory(2, 1, 1),
        WRITTEN,
        io_uring_write::prepare_send,
    ),
    row(
        "ring-recv",
        (Source::Cached, Target::Memory),
        theory(4, 2, 0),
        truths!(IO_URING_READ, SEND),
        io_uring_recv::prepare,
    ),
    row(
        "ring-send-zc",
        (Source::Cached, Target::Tcp),
        theory(2, 0, 1),
        SENT_BY_REFERENCE,
        io_uring_write::prepare_send_zerocopy,
    ),
    row(
        "ring-send-zc",
        (Source::Cached, Target::Veth(Veth::Whole)),
        theory(2, 0, 1),
        SENT_BY_REFERENCE,
        io_uring_write::prepare_send_zerocopy,
    ),
    row(
        "ring-splice",
        (Source::Cached, Target::File),
        theory(4, 0, 2),
        &[
            Truth {
                because: Some(
                    "called zero-copy, but a file takes the pages by copying them; what a ring's splice passes is not told apart",
                ),
                ..always(&[SPLICED])
            },
            Truth {
                because: UNTOLD,
                ..always(&[Share {
                    payload: 0,
                    ..SPLICED
                }])
            },
        ],
        io_uring_splice::prepare,
    ),
    row(
        "ring-read-sqpoll",
        (Source::Cached, Target::Memory),
        theory(2, 1, 1),
        READ_INTO_MEMORY,
        io_uring_read::prepare_polled,
    ),
    row(
        "ring-send-sqpoll",
        (Source::Cached, Target::Tcp),
        theory(2, 1, 1),
        WRITTEN,
        io_uring_write::prepare_send_polled,
    ),
];
