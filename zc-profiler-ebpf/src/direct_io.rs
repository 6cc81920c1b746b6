//! `O_DIRECT`: the device moves the bytes to or from user memory, and no copy carries them.

use crate::{
    call::{self, program_anywhere},
    io_uring,
    kernel::{Context, Task, field, in_interrupt, layout, probe},
    process,
};

program_anywhere! { fentry FEntryContext,
    /// `ssize_t iomap_dio_complete(struct iomap_dio *dio)`, from 5.8 on; at entry, since it frees `dio`.
    ///
    /// Notes what a system call that waited for its direct I/O moved, as its zero-copy payload; the
    /// call's own return value bounds it where the file ends inside a block. Of what completes in
    /// interrupts and workers, it marks the requests of an `io_uring`, whose completion tells the bytes;
    /// other asynchronous I/O (`io_submit`) is left out. Without it, such payload has neither copies nor
    /// zero-copy bytes. Block devices themselves and file systems without iomap do not come here.
    iomap_dio_complete, "iomap_dio_complete", |ctx| {
        let waited: u8 = field(ctx.arg(0), layout!(iomap_dio_wait));
        let size: i64 = field(ctx.arg(0), layout!(iomap_dio_size));
        if size > 0 && process::enabled() {
            if waited == 0 {
                completed_later(field(ctx.arg(0), layout!(iomap_dio_iocb)));
            } else if !in_interrupt()
                && !call::in_request()
                && matches!(Task::current().context(), Context::Call)
            {
                call::moved_by_device(size as u64);
            }
        }
    }
}

/// A request of an `io_uring` begins with its `kiocb`.
#[inline(always)]
fn completed_later(kiocb: u64) {
    let callback: u64 = probe(kiocb + u64::from(layout!(kiocb_complete)));
    if callback != 0 && callback == layout!(io_uring_read_write) {
        io_uring::moved_by_device(kiocb);
    }
}
