//! What kind of place a directory is.

use std::{
    ffi::CString,
    fs,
    mem::MaybeUninit,
    os::{linux::fs::MetadataExt, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
};

/// Where tmpfs is on every machine that has it.
const SHARED_MEMORY: &str = "/dev/shm";
/// What the rows that write to disk count on.
const BLOCK: i64 = 4096;

fn file_system(dir: &Path) -> Option<libc::statfs> {
    let path = CString::new(dir.as_os_str().as_bytes()).ok()?;
    let mut info = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: `path` ends in zero, `info` is writable, and all zero is a value of it.
    let (result, info) = unsafe {
        let result = libc::statfs(path.as_ptr(), info.as_mut_ptr());
        (result, info.assume_init())
    };
    (result == 0).then_some(info)
}

fn is(dir: &Path, magic: i64) -> bool {
    file_system(dir).is_some_and(|info| info.f_type == magic)
}

/// Of other file systems it is not known how they carry it out.
pub(super) fn has_direct_io(dir: &Path) -> bool {
    is(dir, libc::EXT4_SUPER_MAGIC) || is(dir, libc::XFS_SUPER_MAGIC)
}

/// A directory on tmpfs, which this may be itself.
pub(super) fn tmpfs(dir: &Path) -> Option<PathBuf> {
    [dir, Path::new(SHARED_MEMORY)]
        .into_iter()
        .find(|place| is(place, libc::TMPFS_MAGIC))
        .map(PathBuf::from)
}

/// This directory, if it is on xfs.
pub(super) fn xfs(dir: &Path) -> Option<PathBuf> {
    is(dir, libc::XFS_SUPER_MAGIC).then(|| dir.into())
}

/// Whether it is an ext4 whose data go to a disk straight from the task that asks: no dm, md or loop
/// between. Other file systems write metadata in that task too.
pub(super) fn is_on_disk(dir: &Path) -> bool {
    let plain = |info: libc::statfs| info.f_type == libc::EXT4_SUPER_MAGIC && info.f_bsize == BLOCK;
    if !file_system(dir).is_some_and(plain) {
        return false;
    }
    let Ok(metadata) = fs::metadata(dir) else {
        return false;
    };
    let number = metadata.st_dev();
    let (major, minor) = (libc::major(number), libc::minor(number));
    let Ok(disk) = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")) else {
        return false;
    };
    // A partition's disk is the directory above.
    disk.join("device").exists() || disk.with_file_name("device").exists()
}
