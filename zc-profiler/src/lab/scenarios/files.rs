//! More kinds of files, pipes and devices.

use super::{
    super::{
        Scenario, Share, Source, Target, Truth, cold_read,
        copy_file_range::{CopyFileRange, Reflink},
        devices, direct_write,
        ficlone::Ficlone,
        mappings, memfd, pipes, plain, proc_read, read_write,
        sendfile::Sendfile,
        splice, write_sync,
    },
    shares::{
        BY_DMA, BY_DMA_OUT, BY_NO_DEVICE, COPIED_ON_DELIVERY, COPY_FILE_RANGE, MMAP, PASSED, READ,
        SENDFILE, SPLICE, SPLICE_ONCE, WRITE, always, moving, theory,
    },
};
use crate::ledger::Method;

pub(super) static ROWS: &[Scenario] = &[
    Scenario {
        method: "read+write",
        source: Source::Tmpfs,
        target: Target::Tmpfs,
        theory: theory(4, 2, 0),
        truths: &[moving(BY_NO_DEVICE, &[READ, WRITE])],
        prepare: read_write::prepare,
    },
    Scenario {
        method: "sendfile",
        source: Source::Tmpfs,
        target: Target::Tmpfs,
        theory: theory(2, 0, 0),
        truths: &[moving(
            COPIED_ON_DELIVERY,
            &[Share {
                in_kernel: 1,
                ..SENDFILE
            }],
        )],
        prepare: plain::<Sendfile>,
    },
    Scenario {
        method: "splice",
        source: Source::Tmpfs,
        target: Target::Tmpfs,
        theory: theory(4, 0, 0),
        truths: &[moving(
            COPIED_ON_DELIVERY,
            &[Share {
                zero_copy: 1,
                in_kernel: 1,
                ..SPLICE
            }],
        )],
        prepare: splice::prepare,
    },
    Scenario {
        method: "copy_file_range",
        source: Source::Tmpfs,
        target: Target::Tmpfs,
        theory: theory(2, 1, 0),
        truths: &[moving(
            COPIED_ON_DELIVERY,
            &[Share {
                in_kernel: 1,
                ..COPY_FILE_RANGE
            }],
        )],
        prepare: plain::<CopyFileRange>,
    },
    Scenario {
        method: "sendfile-tmpfs",
        source: Source::Tmpfs,
        target: Target::Tcp,
        theory: theory(2, 0, 1),
        truths: &[moving(
            BY_NO_DEVICE,
            &[Share {
                zero_copy: 1,
                ..SENDFILE
            }],
        )],
        prepare: plain::<Sendfile>,
    },
    Scenario {
        method: "memfd",
        source: Source::Cached,
        target: Target::Memory,
        theory: theory(4, 2, 0),
        truths: &[moving(BY_NO_DEVICE, &[WRITE, READ])],
        prepare: memfd::prepare,
    },
    Scenario {
        method: "read+write",
        source: Source::Xfs,
        target: Target::Xfs,
        theory: theory(4, 2, 2),
        truths: &[always(&[READ, WRITE])],
        prepare: read_write::prepare,
    },
    Scenario {
        method: "copy_file_range",
        source: Source::Xfs,
        target: Target::Xfs,
        theory: theory(2, 0, 0),
        truths: &[
            Truth {
                because: Some("this file system shared the blocks (reflink) and copied nothing"),
                ..always(&[Share {
                    zero_copy: 1,
                    ..COPY_FILE_RANGE
                }])
            },
            Truth {
                because: Some("this file system was made without reflinks, and copied the pages"),
                ..always(&[Share {
                    in_kernel: 1,
                    ..COPY_FILE_RANGE
                }])
            },
        ],
        prepare: plain::<Reflink>,
    },
    Scenario {
        method: "ficlone",
        source: Source::Xfs,
        target: Target::Xfs,
        theory: theory(0, 0, 0),
        truths: &[always(&[])],
        prepare: plain::<Ficlone>,
    },
    Scenario {
        method: "cold-read",
        source: Source::Cold,
        target: Target::Memory,
        theory: theory(2, 1, 1),
        truths: &[moving(BY_DMA, &[READ])],
        prepare: cold_read::prepare,
    },
    Scenario {
        method: "direct-write",
        source: Source::Cached,
        target: Target::Disk,
        theory: theory(2, 0, 1),
        truths: &[moving(
            BY_DMA_OUT,
            &[Share {
                zero_copy: 1,
                from_user: 0,
                whole_pages: true,
                ..WRITE
            }],
        )],
        prepare: direct_write::prepare,
    },
    Scenario {
        method: "write+fsync",
        source: Source::Cached,
        target: Target::Disk,
        theory: theory(2, 1, 1),
        truths: &[moving(BY_DMA_OUT, &[WRITE])],
        prepare: write_sync::prepare,
    },
    Scenario {
        method: "mmap+msync",
        source: Source::Cached,
        target: Target::Disk,
        theory: theory(2, 0, 1),
        truths: &[moving(BY_DMA_OUT, &[MMAP])],
        prepare: mappings::synced_write,
    },
    Scenario {
        method: "splice+read",
        source: Source::Cached,
        target: Target::Memory,
        theory: theory(4, 1, 0),
        truths: &[moving(BY_NO_DEVICE, &[SPLICE_ONCE, READ])],
        prepare: pipes::splice_then_read,
    },
    Scenario {
        method: "sendfile+read",
        source: Source::Cached,
        target: Target::Memory,
        theory: theory(4, 1, 0),
        truths: &[
            moving(
                BY_NO_DEVICE,
                &[
                    Share {
                        zero_copy: 1,
                        ..SENDFILE
                    },
                    READ,
                ],
            ),
            Truth {
                because: Some("this kernel writes the pages to the pipe, which copies them"),
                ..moving(
                    COPIED_ON_DELIVERY,
                    &[
                        Share {
                            in_kernel: 1,
                            ..SENDFILE
                        },
                        READ,
                    ],
                )
            },
        ],
        prepare: pipes::sendfile_then_read,
    },
    Scenario {
        method: "splice-pipes",
        source: Source::Cached,
        target: Target::Memory,
        theory: theory(6, 2, 0),
        truths: &[moving(BY_NO_DEVICE, &[WRITE, SPLICE_ONCE, READ])],
        prepare: pipes::splice_between,
    },
    Scenario {
        method: "tee",
        source: Source::Cached,
        target: Target::Memory,
        theory: theory(8, 3, 0),
        truths: &[moving(
            BY_NO_DEVICE,
            &[
                WRITE,
                Share {
                    method: Method::Tee,
                    ..PASSED
                },
                // Of both pipes.
                Share {
                    calls_each_chunk: 2,
                    payload: 2,
                    to_user: 2,
                    ..READ
                },
            ],
        )],
        prepare: pipes::tee,
    },
    Scenario {
        method: "zero-read",
        source: Source::Cached,
        target: Target::Memory,
        theory: theory(2, 0, 0),
        truths: &[moving(BY_NO_DEVICE, &[Share { to_user: 0, ..READ }])],
        prepare: devices::zero_read,
    },
    Scenario {
        method: "null-write",
        source: Source::Cached,
        target: Target::Memory,
        theory: theory(2, 0, 0),
        truths: &[moving(
            BY_NO_DEVICE,
            &[Share {
                from_user: 0,
                ..WRITE
            }],
        )],
        prepare: devices::null_write,
    },
    Scenario {
        method: "null-sendfile",
        source: Source::Cached,
        target: Target::Memory,
        theory: theory(2, 0, 0),
        truths: &[moving(
            BY_NO_DEVICE,
            &[Share {
                zero_copy: 1,
                ..SENDFILE
            }],
        )],
        prepare: devices::null_sendfile,
    },
    Scenario {
        method: "proc-read",
        source: Source::Cached,
        target: Target::Memory,
        theory: theory(2, 1, 0),
        truths: &[moving(BY_NO_DEVICE, &[READ])],
        prepare: proc_read::prepare,
    },
    Scenario {
        method: "urandom-read",
        source: Source::Cached,
        target: Target::Memory,
        theory: theory(2, 1, 0),
        truths: &[moving(BY_NO_DEVICE, &[READ])],
        prepare: devices::random_read,
    },
    Scenario {
        method: "getrandom",
        source: Source::Cached,
        target: Target::Memory,
        // A call without a method: only what it copies is counted.
        theory: theory(0, 1, 0),
        truths: &[moving(
            BY_NO_DEVICE,
            &[Share {
                method: Method::Other,
                to_user: 1,
                ..Share::NOTHING
            }],
        )],
        prepare: devices::getrandom,
    },
];
