//! The eBPF object of zc-profiler: the list of its programs' modules.
//!
//! Built for the bpf target by the build script of the crate `zc-profiler`, which embeds it.

#![cfg_attr(
    target_arch = "bpf",
    no_std,
    no_main,
    feature(asm_experimental_arch, macro_metavar_expr_concat)
)]

#[cfg(target_arch = "bpf")]
mod copies;
#[cfg(target_arch = "bpf")]
mod cross_check;
#[cfg(target_arch = "bpf")]
mod devices;
#[cfg(target_arch = "bpf")]
mod faults;
#[cfg(target_arch = "bpf")]
mod kernel;
#[cfg(target_arch = "bpf")]
mod ledger;
#[cfg(target_arch = "bpf")]
mod sched;
#[cfg(target_arch = "bpf")]
mod sockets;
#[cfg(target_arch = "bpf")]
mod syscalls;

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The helpers that this object calls, among them probe_read_kernel, are for GPL-compatible
/// programs only.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(target_arch = "bpf"))]
fn main() {
    eprintln!("zc-profiler-ebpf runs in the kernel; the program to start is zc-profiler");
    std::process::exit(1);
}
