//! Fields of the running kernel's structures, which user space puts into the programs' instructions
//! (`probes/operands.rs`).

use core::{arch::asm, hint::assert_unchecked};

use aya_ebpf::helpers::bpf_probe_read_kernel;
use zc_profiler_ebpf::operand;

/// The value of a field of [`KernelLayout`](zc_profiler_ebpf::KernelLayout) that has 32 bits.
macro_rules! layout {
    ($field:ident) => {
        $crate::kernel::fields::value($crate::kernel::fields::at!($field))
    };
}
pub(crate) use layout;

/// The same of one that has 64 bits.
macro_rules! address {
    ($field:ident) => {
        $crate::kernel::fields::long_value($crate::kernel::fields::at!($field))
    };
}
pub(crate) use address;

/// Which field of [`KernelLayout`](zc_profiler_ebpf::KernelLayout).
macro_rules! at {
    ($field:ident) => {
        $crate::kernel::fields::At::<{ zc_profiler_ebpf::place!($field) }>
    };
}
pub(crate) use at;

/// A field of [`KernelLayout`](zc_profiler_ebpf::KernelLayout) by its place.
#[derive(Clone, Copy)]
pub struct At<const PLACE: u16>;

#[inline(always)]
pub fn value<const PLACE: u16>(_: At<PLACE>) -> u32 {
    let value: u64;
    // SAFETY: it sets a register, whose upper half user space's instruction clears.
    unsafe {
        asm!(
            "{value} = {operand}",
            value = out(reg) value,
            operand = const operand::immediate(PLACE),
            options(nomem, nostack),
        );
        assert_unchecked(value <= u32::MAX as u64);
    }
    value as u32
}

#[inline(always)]
pub fn long_value<const PLACE: u16>(_: At<PLACE>) -> u64 {
    let value: u64;
    // SAFETY: it sets a register.
    unsafe {
        asm!(
            "{value} = {operand} ll",
            value = out(reg) value,
            operand = const operand::immediate(PLACE),
            options(nomem, nostack),
        );
    }
    value
}

/// A kernel structure that a program is handed, so that one body serves all ways of attaching.
pub trait Structure: Copy {
    fn read<const PLACE: u16, T: Load + Default>(self, at: At<PLACE>) -> T;
}

/// What trampolines and tracepoints hand over: a BTF-typed pointer.
#[derive(Clone, Copy)]
pub struct Typed(pub *const u8);

/// What a kprobe hands over: an address.
#[derive(Clone, Copy)]
pub struct Untyped(pub u64);

impl Structure for Typed {
    #[inline(always)]
    fn read<const PLACE: u16, T: Load + Default>(self, at: At<PLACE>) -> T {
        field(self.0, at)
    }
}

impl Structure for Untyped {
    #[inline(always)]
    fn read<const PLACE: u16, T: Load + Default>(self, at: At<PLACE>) -> T {
        probe(self.0 + u64::from(value(at)))
    }
}

/// Loads from a BTF-typed pointer; the verifier checks the type and catches faults.
#[inline(always)]
pub fn field<const PLACE: u16, T: Load>(base: *const u8, _: At<PLACE>) -> T {
    T::load::<PLACE>(base)
}

/// What one instruction loads.
pub trait Load: Copy {
    fn load<const PLACE: u16>(base: *const u8) -> Self;
}

macro_rules! load {
    ($($type:ty, $unsigned:ty, $width:literal;)*) => {$(
        impl Load for $type {
            #[inline(always)]
            fn load<const PLACE: u16>(base: *const u8) -> Self {
                let loaded: u64;
                // SAFETY: the verifier refuses the program unless the load is inside the typed object,
                // and the kernel turns a fault into a zero. A narrow load clears the upper bits.
                unsafe {
                    asm!(
                        concat!("{loaded} = *(", $width, " *)({base} + {operand})"),
                        loaded = out(reg) loaded,
                        base = in(reg) base,
                        operand = const operand::offset(PLACE),
                        options(readonly, nostack),
                    );
                    assert_unchecked(loaded <= <$unsigned>::MAX as u64);
                }
                loaded as Self
            }
        }
    )*};
}

load! {
    u8, u8, "u8";
    u16, u16, "u16";
    u32, u32, "u32";
    i32, u32, "u32";
    u64, u64, "u64";
    i64, u64, "u64";
    *const u8, u64, "u64";
}

/// Reads kernel memory at an address the verifier knows nothing of; 0 if it cannot be read.
#[inline(always)]
pub fn probe<T: Copy + Default>(address: u64) -> T {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_kernel(address as *const T) }.unwrap_or_default()
}
