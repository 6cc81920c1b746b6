//! Programs of a few instructions, written out: what an attached program costs at least, and what
//! its parts cost.

use std::{
    io, mem,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
};

use anyhow::{Context, Result, bail};
use aya::Btf;
use aya_obj::{
    btf::BtfKind,
    generated::{bpf_attach_type, bpf_attr, bpf_cmd, bpf_map_type, bpf_prog_type},
};
use zc_profiler::probes::hooks::AttachMode;

/// One instruction of 8 bytes.
pub type Word = u64;

/// The fields of an instruction, in the kernel's order.
pub const fn word(code: u8, to: u8, from: u8, offset: i16, number: i32) -> Word {
    code as u64
        | (to as u64) << 8
        | (from as u64) << 12
        | (offset.cast_unsigned() as u64) << 16
        | (number.cast_unsigned() as u64) << 32
}

pub const fn set(register: u8, number: i32) -> Word {
    word(0xb7, register, 0, 0, number)
}

pub const fn copy(to: u8, from: u8) -> Word {
    word(0xbf, to, from, 0, 0)
}

pub const fn add(register: u8, number: i32) -> Word {
    word(0x07, register, 0, 0, number)
}

/// Eight bytes from memory.
pub const fn load(to: u8, from: u8, offset: i16) -> Word {
    word(0x79, to, from, offset, 0)
}

/// Eight bytes to memory.
pub const fn store(to: u8, offset: i16, from: u8) -> Word {
    word(0x7b, to, from, offset, 0)
}

pub const fn atomic_add(to: u8, offset: i16, from: u8) -> Word {
    word(0xdb, to, from, offset, 0)
}

/// Skips so many instructions if the register is zero.
pub const fn skip_if_zero(register: u8, words: i16) -> Word {
    word(0x15, register, 0, words, 0)
}

pub const fn call(helper: i32) -> Word {
    word(0x85, 0, 0, 0, helper)
}

pub const EXIT: Word = word(0x95, 0, 0, 0, 0);

/// The address of a map: two words.
pub fn map(register: u8, map: &OwnedFd) -> [Word; 2] {
    [word(0x18, register, 1, 0, map.as_raw_fd()), 0]
}

fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<RawFd> {
    // SAFETY: the caller has filled in what the command reads, and it lives across the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            &raw mut *attr,
            size_of::<bpf_attr>(),
        )
    };
    RawFd::try_from(result)
        .ok()
        .filter(|fd| *fd >= 0)
        .ok_or_else(io::Error::last_os_error)
}

fn owned(fd: RawFd) -> OwnedFd {
    // SAFETY: fresh from the kernel, and nobody else's.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn zeros() -> bpf_attr {
    // SAFETY: plain old data, for which zeros are valid.
    unsafe { mem::zeroed() }
}

fn length<T>(slice: &[T]) -> u32 {
    u32::try_from(slice.len()).unwrap_or(u32::MAX)
}

/// A kernel function, or tracepoint, and how a program attaches to it.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    pub attach: AttachMode,
    pub target: &'a str,
}

/// Attaches a program; dropping the result detaches it.
pub fn attach(btf: &Btf, place: Place<'_>, program: &[Word]) -> Result<(OwnedFd, OwnedFd)> {
    let (kind, expected, name) = match place.attach {
        AttachMode::Fentry => (
            BtfKind::Func,
            bpf_attach_type::BPF_TRACE_FENTRY,
            place.target.to_owned(),
        ),
        AttachMode::Fexit => (
            BtfKind::Func,
            bpf_attach_type::BPF_TRACE_FEXIT,
            place.target.to_owned(),
        ),
        AttachMode::Tracepoint => (
            BtfKind::Typedef,
            bpf_attach_type::BPF_TRACE_RAW_TP,
            format!("btf_trace_{}", place.target),
        ),
        AttachMode::Kprobe => bail!("{}: kprobes are not measured", place.target),
    };
    let id = btf.id_by_type_name_kind(&name, kind)?;
    let mut log = vec![0u8; 64 << 10];
    let mut attr = zeros();
    // SAFETY: the fields of BPF_PROG_LOAD.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    load.prog_type = bpf_prog_type::BPF_PROG_TYPE_TRACING as u32;
    load.insn_cnt = length(program);
    load.insns = program.as_ptr().expose_provenance() as u64;
    load.license = c"GPL".as_ptr().expose_provenance() as u64;
    load.log_level = 1;
    load.log_size = length(&log);
    load.log_buf = log.as_mut_ptr().expose_provenance() as u64;
    load.expected_attach_type = expected as u32;
    load.attach_btf_id = id;
    let loaded = match bpf(bpf_cmd::BPF_PROG_LOAD, &mut attr) {
        Ok(fd) => owned(fd),
        Err(error) => {
            let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
            let said = String::from_utf8_lossy(&log[..end]).into_owned();
            return Err(error).with_context(|| format!("loading for {name}: {said}"));
        }
    };
    let mut attr = zeros();
    attr.raw_tracepoint.prog_fd = loaded.as_raw_fd().cast_unsigned();
    let link = bpf(bpf_cmd::BPF_RAW_TRACEPOINT_OPEN, &mut attr)
        .with_context(|| format!("attaching to {name}"))?;
    Ok((loaded, owned(link)))
}

/// Makes a map whose keys take `key` bytes.
pub fn make_map(kind: bpf_map_type, key: u32, value: u32, entries: u32) -> Result<OwnedFd> {
    let mut attr = zeros();
    // SAFETY: the fields of BPF_MAP_CREATE.
    let create = unsafe { &mut attr.__bindgen_anon_1 };
    create.map_type = kind as u32;
    create.key_size = key;
    create.value_size = value;
    create.max_entries = entries;
    if kind == bpf_map_type::BPF_MAP_TYPE_TASK_STORAGE {
        // BPF_F_NO_PREALLOC, which this kind asks for.
        create.map_flags = 1;
        let types = types_of(value)?;
        create.btf_fd = types.as_raw_fd().cast_unsigned();
        create.btf_key_type_id = 1;
        create.btf_value_type_id = 4;
        return bpf(bpf_cmd::BPF_MAP_CREATE, &mut attr)
            .map(owned)
            .context("making a task storage");
    }
    bpf(bpf_cmd::BPF_MAP_CREATE, &mut attr)
        .map(owned)
        .with_context(|| format!("making a map of kind {}", kind as u32))
}

/// Sets an entry from user space.
pub fn insert(map: &OwnedFd, key: &[u8], value: &[u8]) -> Result<()> {
    let mut attr = zeros();
    // SAFETY: the fields of BPF_MAP_UPDATE_ELEM.
    let update = unsafe { &mut attr.__bindgen_anon_2 };
    update.map_fd = map.as_raw_fd().cast_unsigned();
    update.key = key.as_ptr().expose_provenance() as u64;
    update.__bindgen_anon_1.value = value.as_ptr().expose_provenance() as u64;
    bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr).context("filling a map")?;
    Ok(())
}

/// Type information of an `int`, a `u64`, and an array of those, which some maps insist on.
fn types_of(value: u32) -> Result<OwnedFd> {
    const INT: u32 = 1 << 24;
    const ARRAY: u32 = 3 << 24;
    const STRUCT: u32 = 4 << 24;
    // An int; a u64; an array of u64, with int as index; a structure around it.
    #[rustfmt::skip]
    let types: [u32; 20] = [
        1, INT, 4, 1 << 24 | 32,
        5, INT, 8, 64,
        0, ARRAY, 0, 2, 1, value / 8,
        9, STRUCT | 1, value, 5, 3, 0,
    ];
    let strings = b"\0int\0u64\0v\0";
    let mut blob = Vec::new();
    blob.extend(0xeb9fu16.to_ne_bytes());
    blob.extend([1, 0]);
    for number in [
        24,
        0,
        length(&types) * 4,
        length(&types) * 4,
        length(strings),
    ] {
        blob.extend(number.to_ne_bytes());
    }
    for number in types {
        blob.extend(number.to_ne_bytes());
    }
    blob.extend(strings);
    let mut attr = zeros();
    // SAFETY: the fields of BPF_BTF_LOAD.
    let load = unsafe { &mut attr.__bindgen_anon_7 };
    load.btf = blob.as_ptr().expose_provenance() as u64;
    load.btf_size = length(&blob);
    bpf(bpf_cmd::BPF_BTF_LOAD, &mut attr)
        .map(owned)
        .context("loading type information")
}
