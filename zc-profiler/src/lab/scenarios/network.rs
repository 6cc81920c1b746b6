//! Sockets of every family, what splice and its kin do with them, and pairs of virtual NICs.

use super::{
    super::{
        Error, Scenario, Share, Source, Target, Theory, Truth, Veth,
        passage::{Put, Take, by_tcp, by_unix},
        plain, read_write,
        sendfile::Sendfile,
        tcp,
        transfer::Transfer,
        udp, unix,
        zerocopy_send::ZerocopySend,
    },
    shares::{
        COPIED_ON_DELIVERY, PASSED, READ, RECV, SEND, SENDFILE, SPLICE, WRITE, ZEROCOPY_SEND,
        always, moving, theory,
    },
};
use crate::ledger::Method;

type Prepare = fn(usize) -> Result<Box<dyn Transfer>, Error>;

/// Both ends in one process.
const fn within(
    method: &'static str,
    theory: Theory,
    truths: &'static [Truth],
    prepare: Prepare,
) -> Scenario {
    Scenario {
        method,
        source: Source::Cached,
        target: Target::Memory,
        theory,
        truths,
        prepare,
    }
}

const fn over(
    veth: Veth,
    method: &'static str,
    theory: Theory,
    truths: &'static [Truth],
    prepare: Prepare,
) -> Scenario {
    Scenario {
        target: Target::Veth(veth),
        ..within(method, theory, truths, prepare)
    }
}

const SENT: &[Truth] = &[always(&[SEND, RECV])];

const SENDFILE_PASSED: Share = Share {
    zero_copy: 1,
    ..SENDFILE
};
const SPLICE_PASSED: Share = Share {
    method: Method::Splice,
    ..PASSED
};
const SPLICED_TWICE: Share = Share {
    zero_copy: 2,
    ..SPLICE
};

/// By reference into a socket, and read from its other end.
const SENDFILE_READ: &[Truth] = &[always(&[SENDFILE_PASSED, READ])];
const SPLICE_READ: &[Truth] = &[always(&[SPLICED_TWICE, READ])];
/// By reference into a socket, from its other end into a pipe, and read from there.
const PAGES_TO_PIPE: &[Truth] = &[always(&[SENDFILE_PASSED, SPLICE_PASSED, READ])];
const BYTES_TO_PIPE: &[Truth] = &[always(&[WRITE, SPLICE_PASSED, READ])];
const SMALL_BYTES_TO_PIPE: &[Truth] = &[Truth {
    because: Some(
        "a UNIX socket keeps the head of a message in memory that belongs to no page alone, so splice copies it",
    ),
    ..always(&[
        WRITE,
        Share {
            zero_copy: 0,
            in_kernel: 1,
            ..SPLICE_PASSED
        },
        READ,
    ])
}];

const ZEROCOPY_LOST: &[Truth] = &[Truth {
    because: Some(
        "the other end is on this machine or its NIC cannot gather, so the kernel copied what was passed by reference",
    ),
    ..moving(COPIED_ON_DELIVERY, ZEROCOPY_SEND)
}];
const WRITTEN: &[Truth] = &[always(&[READ, WRITE])];
const WRITTEN_AND_SPLIT: &[Truth] = &[always(&[
    READ,
    Share {
        in_kernel: 1,
        ..WRITE
    },
])];
const FILE_PASSED: &[Truth] = &[always(&[SENDFILE_PASSED])];
const FILE_PASSED_AND_SPLIT: &[Truth] = &[moving(
    COPIED_ON_DELIVERY,
    &[Share {
        in_kernel: 1,
        ..SENDFILE_PASSED
    }],
)];

pub(super) static ROWS: &[Scenario] = &[
    within("tcp-ipv4", theory(4, 2, 0), SENT, tcp::prepare_ipv4),
    within("tcp-ipv6", theory(4, 2, 0), SENT, tcp::prepare_ipv6),
    within("udp-ipv6", theory(4, 2, 0), SENT, udp::prepare_ipv6),
    within(
        "udp-fragments",
        theory(4, 2, 0),
        SENT,
        udp::prepare_fragments,
    ),
    within(
        "udp6-fragments",
        theory(4, 2, 0),
        SENT,
        udp::prepare_fragments_ipv6,
    ),
    within(
        "unix-datagram",
        theory(4, 2, 0),
        SENT,
        unix::prepare_datagrams,
    ),
    within("sendfile-tcp", theory(4, 1, 1), SENDFILE_READ, |chunk| {
        by_tcp(Put::Sendfile, Take::Read, chunk)
    }),
    within("sendfile-unix", theory(4, 1, 1), SENDFILE_READ, |chunk| {
        by_unix(Put::Sendfile, Take::Read, chunk)
    }),
    within("splice-tcp", theory(6, 1, 1), SPLICE_READ, |chunk| {
        by_tcp(Put::Splice, Take::Read, chunk)
    }),
    within("splice-unix", theory(6, 1, 1), SPLICE_READ, |chunk| {
        by_unix(Put::Splice, Take::Read, chunk)
    }),
    within("bytes-tcp-pipe", theory(6, 2, 0), BYTES_TO_PIPE, |chunk| {
        by_tcp(Put::Write, Take::Splice, chunk)
    }),
    within(
        "bytes-unix-pipe",
        theory(6, 2, 0),
        SMALL_BYTES_TO_PIPE,
        |chunk| by_unix(Put::Write, Take::Splice, chunk),
    ),
    within("pages-tcp-pipe", theory(6, 1, 1), PAGES_TO_PIPE, |chunk| {
        by_tcp(Put::Sendfile, Take::Splice, chunk)
    }),
    within("pages-unix-pipe", theory(6, 1, 1), PAGES_TO_PIPE, |chunk| {
        by_unix(Put::Sendfile, Take::Splice, chunk)
    }),
    over(
        Veth::Whole,
        "read+write",
        theory(4, 2, 2),
        WRITTEN,
        read_write::prepare,
    ),
    over(
        Veth::Whole,
        "sendfile",
        theory(2, 0, 2),
        FILE_PASSED,
        plain::<Sendfile>,
    ),
    over(
        Veth::Whole,
        "zerocopy-send",
        theory(4, 0, 2),
        ZEROCOPY_LOST,
        plain::<ZerocopySend>,
    ),
    over(
        Veth::NoGather,
        "read+write",
        theory(4, 2, 2),
        WRITTEN_AND_SPLIT,
        read_write::prepare,
    ),
    over(
        Veth::NoGather,
        "sendfile",
        theory(2, 1, 2),
        FILE_PASSED_AND_SPLIT,
        plain::<Sendfile>,
    ),
    over(
        Veth::NoGather,
        "zerocopy-send",
        theory(4, 0, 2),
        ZEROCOPY_LOST,
        plain::<ZerocopySend>,
    ),
    over(
        Veth::NoChecksum,
        "read+write",
        theory(4, 2, 2),
        WRITTEN,
        read_write::prepare,
    ),
];
