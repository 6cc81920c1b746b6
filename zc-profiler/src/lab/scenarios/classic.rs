//! The table of the classic articles, and the same with the hardware that they speak of.

use super::{
    super::{
        Scenario, Share, Source, Target, Truth, cold_read, copy_file_range::CopyFileRange,
        mmap_write::MmapWrite, plain, read_write, sendfile::Sendfile, splice,
    },
    shares::{
        BY_DMA, BY_DMA_AND_LOST, BY_DMA_IN_AND_OUT, BY_PIO, COPY_FILE_RANGE, MMAP, READ, SENDFILE,
        SPLICE, WRITE, always, moving, theory,
    },
};

pub(super) static ROWS: &[Scenario] = &[
    Scenario {
        method: "pio-read",
        source: Source::PioDisk,
        target: Target::Memory,
        theory: theory(2, 2, 0),
        truths: &[moving(BY_PIO, &[READ])],
        prepare: cold_read::prepare,
    },
    Scenario {
        method: "dma-read",
        source: Source::DmaDisk,
        target: Target::Memory,
        theory: theory(2, 1, 1),
        truths: &[moving(BY_DMA, &[READ])],
        prepare: cold_read::prepare,
    },
    Scenario {
        method: "read+write",
        source: Source::Cached,
        target: Target::Tcp,
        theory: theory(4, 2, 2),
        truths: &[always(&[READ, WRITE])],
        prepare: read_write::prepare,
    },
    Scenario {
        method: "mmap+write",
        source: Source::Cached,
        target: Target::Tcp,
        theory: theory(4, 1, 2),
        truths: &[always(&[MMAP, WRITE])],
        prepare: plain::<MmapWrite>,
    },
    Scenario {
        method: "sendfile",
        source: Source::Cached,
        target: Target::Tcp,
        theory: theory(2, 0, 2),
        truths: &[always(&[Share {
            zero_copy: 1,
            ..SENDFILE
        }])],
        prepare: plain::<Sendfile>,
    },
    Scenario {
        method: "splice",
        source: Source::Cached,
        target: Target::Tcp,
        theory: theory(4, 0, 2),
        truths: &[always(&[Share {
            zero_copy: 2,
            ..SPLICE
        }])],
        prepare: splice::prepare,
    },
    Scenario {
        method: "read+write",
        source: Source::Cached,
        target: Target::File,
        theory: theory(4, 2, 2),
        truths: &[always(&[READ, WRITE])],
        prepare: read_write::prepare,
    },
    Scenario {
        method: "sendfile",
        source: Source::Cached,
        target: Target::File,
        theory: theory(2, 0, 2),
        truths: &[always(&[Share {
            in_kernel: 1,
            ..SENDFILE
        }])],
        prepare: plain::<Sendfile>,
    },
    Scenario {
        method: "splice",
        source: Source::Cached,
        target: Target::File,
        theory: theory(4, 0, 2),
        truths: &[always(&[Share {
            zero_copy: 1,
            in_kernel: 1,
            ..SPLICE
        }])],
        prepare: splice::prepare,
    },
    Scenario {
        method: "copy_file_range",
        source: Source::Cached,
        target: Target::File,
        theory: theory(2, 1, 2),
        truths: &[
            Truth {
                because: Some("this file system copied the pages inside the kernel"),
                shares: &[Share {
                    in_kernel: 1,
                    ..COPY_FILE_RANGE
                }],
                moved: None,
            },
            Truth {
                because: Some("this file system shared the blocks (reflink) and copied nothing"),
                shares: &[Share {
                    zero_copy: 1,
                    ..COPY_FILE_RANGE
                }],
                moved: None,
            },
        ],
        prepare: plain::<CopyFileRange>,
    },
    Scenario {
        method: "sendfile",
        source: Source::DmaDisk,
        target: Target::Nic { gather: false },
        theory: theory(2, 1, 2),
        truths: &[moving(
            BY_DMA_AND_LOST,
            &[Share {
                zero_copy: 1,
                in_kernel: 1,
                ..SENDFILE
            }],
        )],
        prepare: plain::<Sendfile>,
    },
    Scenario {
        method: "sendfile",
        source: Source::DmaDisk,
        target: Target::Nic { gather: true },
        theory: theory(2, 0, 2),
        truths: &[moving(
            BY_DMA_IN_AND_OUT,
            &[Share {
                zero_copy: 1,
                ..SENDFILE
            }],
        )],
        prepare: plain::<Sendfile>,
    },
];
