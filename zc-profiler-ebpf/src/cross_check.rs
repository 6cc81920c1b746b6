//! The cross-check: counts at the copy primitives themselves, which no other program can be attached to,
//! by hardware breakpoints. It shares nothing with the copy functions but the eyes for an `iov_iter`.

use aya_ebpf::{
    bindings::bpf_perf_event_data,
    macros::{map, perf_event},
    maps::{Array, HashMap},
    programs::PerfEventContext,
};
use zc_profiler_ebpf::{ABSENT, Direction, Primitive};

use crate::{
    kernel::{
        Side,
        fields::{layout, probe},
    },
    ledger::entry::add,
};

const PAGE: u64 = 4096;

/// What stands at each breakpoint's address.
#[map]
static PRIMITIVES: HashMap<u64, Primitive> = HashMap::with_max_entries(16, 0);

/// Bytes, by [`Direction`].
#[map]
static CROSS_CHECKED: Array<u64> = Array::with_max_entries(Direction::ALL.len() as u32, 0);

/// A perf event of type breakpoint, on all kernels; each is bound to one task.
///
/// Counts the bytes that a copy primitive is about to copy. Without it, `doctor --deep` has nothing
/// to hold the copy functions against; nothing else uses it.
#[perf_event]
pub fn cross_check(ctx: PerfEventContext) -> u32 {
    let _ = testify(&ctx);
    0
}

#[inline(always)]
fn testify(ctx: &PerfEventContext) -> Option<()> {
    let registers = Registers::of(ctx);
    // SAFETY: nobody removes an entry.
    let primitive = unsafe { PRIMITIVES.get(&registers.ip) }?;
    let mut bytes = if primitive.bytes == ABSENT {
        PAGE
    } else {
        registers.argument(primitive.bytes)
    };
    let mut direction = Direction::InKernel as u32;
    if primitive.iter != ABSENT {
        let iter = registers.argument(primitive.iter);
        bytes = bytes.min(probe(iter + u64::from(primitive.iter_count)));
        match Side::of_type(probe(iter + u64::from(layout!(iter_type)))) {
            Side::User => direction = primitive.user,
            _ if primitive.user_only != 0 => return None,
            _ => {}
        }
    }
    add(CROSS_CHECKED.get_ptr_mut(direction)?, bytes);
    Some(())
}

/// The registers that matter, at a function's first instruction.
struct Registers {
    ip: u64,
    arguments: [u64; 4],
}

impl Registers {
    #[inline(always)]
    fn of(ctx: &PerfEventContext) -> Self {
        let data: *const bpf_perf_event_data = ctx.ctx;
        // SAFETY: the kernel passes a valid context; volatile keeps the loads whole and in place, as
        // the verifier wants them.
        unsafe {
            let registers = &raw const (*data).regs;
            Self {
                ip: (&raw const (*registers).rip).read_volatile(),
                arguments: [
                    (&raw const (*registers).rdi).read_volatile(),
                    (&raw const (*registers).rsi).read_volatile(),
                    (&raw const (*registers).rdx).read_volatile(),
                    (&raw const (*registers).rcx).read_volatile(),
                ],
            }
        }
    }

    #[inline(always)]
    const fn argument(&self, number: u32) -> u64 {
        match number {
            0 => self.arguments[0],
            1 => self.arguments[1],
            2 => self.arguments[2],
            _ => self.arguments[3],
        }
    }
}
