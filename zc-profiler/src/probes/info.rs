//! What the kernel knows of a loaded program beyond what aya asks for.

use std::{
    io, mem,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    time::Duration,
};

use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_prog_info, bpf_stats_type};

/// Has the kernel keep [`runs`] of all programs of the machine, until the result is dropped. From 5.8 on.
pub fn keep_runs() -> io::Result<OwnedFd> {
    // SAFETY: plain old data, for which zeros are valid.
    let mut attr: bpf_attr = unsafe { mem::zeroed() };
    attr.enable_stats.type_ = bpf_stats_type::BPF_STATS_RUN_TIME as u32;
    // SAFETY: the command reads `attr` only.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            bpf_cmd::BPF_ENABLE_STATS,
            &raw mut attr,
            size_of::<bpf_attr>(),
        )
    };
    match RawFd::try_from(result) {
        // SAFETY: fresh from the kernel, and nobody else's.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// How often the program has run, and for how long, while that was kept.
pub fn runs(program: BorrowedFd<'_>) -> io::Result<(u64, Duration)> {
    let info = info(program)?;
    Ok((info.run_cnt, Duration::from_nanos(info.run_time_ns)))
}

/// How often the kernel skipped the program because a run of it was under way on the same CPU; 0
/// before 5.12, where none is skipped.
pub fn recursion_misses(program: BorrowedFd<'_>) -> io::Result<u64> {
    Ok(info(program)?.recursion_misses)
}

fn info(program: BorrowedFd<'_>) -> io::Result<bpf_prog_info> {
    // SAFETY: plain old data, for which zeros are valid.
    let (mut info, mut attr): (bpf_prog_info, bpf_attr) = unsafe { mem::zeroed() };
    attr.info.bpf_fd = program.as_raw_fd().cast_unsigned();
    attr.info.info_len = u32::try_from(size_of::<bpf_prog_info>()).unwrap_or(u32::MAX);
    attr.info.info = (&raw mut info).expose_provenance() as u64;
    // SAFETY: the kernel writes at most `info_len` bytes to `info`, which lives across the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            bpf_cmd::BPF_OBJ_GET_INFO_BY_FD,
            &raw mut attr,
            size_of::<bpf_attr>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(info)
}
