//! Reading the map of processes by many entries a call: two calls for each would take longer than everything
//! else that a scrape does.

use std::{
    io, mem,
    os::fd::{AsRawFd, BorrowedFd},
};

use aya_obj::generated::{bpf_attr, bpf_cmd};
use zc_profiler_ebpf::{ProcessCounters, ProcessKey};

/// Entries a call at first, which bounds the memory that reading takes.
const BATCH: usize = 512;

/// Passes every process of the map on; those that come or go meanwhile, perhaps. From 5.6 on.
///
/// # Safety
///
/// It must be the hash map of these keys and values.
pub unsafe fn for_each(
    map: BorrowedFd<'_>,
    mut each: impl FnMut(ProcessKey, &ProcessCounters),
) -> io::Result<()> {
    let mut keys = vec![ProcessKey::KERNEL; BATCH];
    let mut values = vec![ProcessCounters::default(); BATCH];
    // Where the last call ended: a bucket's number.
    let mut place = None;
    loop {
        let mut next = 0u64;
        // SAFETY: plain old data, for which zeros are valid.
        let mut attr: bpf_attr = unsafe { mem::zeroed() };
        attr.batch.in_batch = place.as_ref().map_or(0, |place: &u64| {
            (&raw const *place).expose_provenance() as u64
        });
        attr.batch.out_batch = (&raw mut next).expose_provenance() as u64;
        attr.batch.keys = keys.as_mut_ptr().expose_provenance() as u64;
        attr.batch.values = values.as_mut_ptr().expose_provenance() as u64;
        attr.batch.count = u32::try_from(keys.len()).unwrap_or(u32::MAX);
        attr.batch.map_fd = map.as_raw_fd().cast_unsigned();
        // SAFETY: the kernel writes at most `count` keys and values, for which there is room, by the
        // caller's promise.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                bpf_cmd::BPF_MAP_LOOKUP_BATCH,
                &raw mut attr,
                size_of::<bpf_attr>(),
            )
        };
        let error = (result < 0).then(io::Error::last_os_error);
        match error.as_ref().and_then(io::Error::raw_os_error) {
            // The second is the end, with what came before it.
            None | Some(libc::ENOENT) => {}
            // A bucket has more.
            Some(libc::ENOSPC) => {
                keys.resize(keys.len() * 2, ProcessKey::KERNEL);
                values.resize(keys.len(), ProcessCounters::default());
                continue;
            }
            Some(libc::EINTR) => continue,
            Some(code) => return Err(io::Error::from_raw_os_error(code)),
        }
        // SAFETY: the call has set it.
        let count = unsafe { attr.batch.count } as usize;
        for (key, value) in keys.iter().zip(&values).take(count) {
            each(*key, value);
        }
        if error.is_some() {
            return Ok(());
        }
        place = Some(next);
    }
}
