//! `O_DIRECT`: the device moves the bytes to or from user memory, and no copy carries them.

use crate::{
    kernel::{
        Task,
        fields::{at, field},
        in_interrupt,
    },
    ledger::call::{self, entry_program},
};

entry_program! {
    /// `ssize_t iomap_dio_complete(struct iomap_dio *dio)`, from 5.8 on; at entry, since it frees `dio`.
    ///
    /// Notes what a system call that waited for its direct I/O moved, as its zero-copy payload; the
    /// call's own return value bounds it where the file ends inside a block. Asynchronous I/O
    /// (`io_submit`, an `io_uring`) completes in interrupts and workers that know no call and is left
    /// out. Without it, such payload has neither copies nor zero-copy bytes. Block devices themselves
    /// and file systems without iomap do not come here.
    iomap_dio_complete, "iomap_dio_complete", |ctx| {
        let waited: u8 = field(ctx.arg(0), at!(iomap_dio_wait));
        let size: i64 = field(ctx.arg(0), at!(iomap_dio_size));
        if waited != 0
            && size > 0
            && !in_interrupt()
            && !call::in_request()
            && Task::current().is_collected()
        {
            call::moved_by_device(size as u64);
        }
    }
}
