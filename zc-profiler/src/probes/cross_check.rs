//! Hardware breakpoints on the copy primitives: a cross-check that is independent of the copy functions.
//!
//! The primitives cannot be hooked in any other way (`lib/iov_iter.c` is built without ftrace), and a
//! hit costs far more than a copy function's program, so this is for self-tests of one task.

use std::collections::HashSet;

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, MapData},
    programs::{
        PerfEvent, ProgramError,
        perf_event::{
            BreakpointConfig, PerfEventConfig, PerfEventLinkId, PerfEventScope, SamplePolicy,
        },
    },
};
use zc_profiler_ebpf::{ABSENT, Direction, Primitive};

use super::{Error, attach::OBJECT, operands, take};
use crate::kernel::{self, Symbols, btf::Btf};

/// How many execution breakpoints an x86 processor has.
pub const SLOTS: usize = 4;

const BYTES: &str = "CROSS_CHECKED";
const PRIMITIVES: &str = "PRIMITIVES";

/// A row of [`TABLE`]: a name and where its arguments are.
struct Row {
    name: &'static str,
    bytes: u32,
    iter: u32,
    user: Direction,
    /// Whether it is one that only kernels before 5.14 have, or that is a leaf there only.
    old: Option<bool>,
    user_only: bool,
}

const fn row(name: &'static str, bytes: u32, iter: u32, user: Direction) -> Row {
    Row {
        name,
        bytes,
        iter,
        user,
        old: None,
        user_only: false,
    }
}

/// The leaves: no primitive here calls another, for iterators of the kind it counts.
const TABLE: &[Row] = &[
    row("_copy_to_iter", 1, 2, Direction::ToUser),
    row("_copy_from_iter", 1, 2, Direction::FromUser),
    row("copy_page_from_iter_atomic", 2, 3, Direction::FromUser),
    row("copy_folio_from_iter_atomic", 2, 3, Direction::FromUser),
    row("_copy_from_iter_full", 1, 2, Direction::FromUser),
    Row {
        user_only: true,
        old: Some(true),
        ..row("copy_page_to_iter", 2, 3, Direction::ToUser)
    },
    Row {
        user_only: true,
        old: Some(true),
        ..row("copy_page_from_iter", 2, 3, Direction::FromUser)
    },
    row("iov_iter_copy_from_user_atomic", 3, 1, Direction::FromUser),
    Row {
        old: Some(false),
        ..row("copy_mc_to_kernel", 2, ABSENT, Direction::InKernel)
    },
    row("copy_page", ABSENT, ABSENT, Direction::InKernel),
];

/// The program and its maps, loaded once; breakpoints are set for one task at a time.
pub struct CrossCheck {
    ebpf: Ebpf,
    addresses: Vec<(&'static str, u64)>,
    bytes: Array<MapData, u64>,
    _primitives: HashMap<MapData, u64, Primitive>,
}

/// Breakpoints that are set; given back to [`CrossCheck::release`].
pub struct Breakpoints(Vec<PerfEventLinkId>);

impl CrossCheck {
    /// Loads the program.
    ///
    /// # Errors
    ///
    /// If the kernel refuses, or hides its symbols.
    pub fn load() -> Result<Self, Error> {
        let btf = Btf::of_kernel().map_err(Error::Btf)?;
        let mut names: HashSet<_> = TABLE.iter().map(|row| row.name).collect();
        names.extend(kernel::SYMBOLS);
        let symbols = Symbols::read(&names).map_err(Error::Environment)?;
        let (layout, _) = kernel::resolve(&btf, &symbols);
        // Before 5.14 the functions that copy a page did so themselves.
        let old = btf.member("iov_iter", "iter_type").is_none();
        let iter_count = btf.member("iov_iter", "count").unwrap_or(ABSENT);
        let mut ebpf = EbpfLoader::new()
            .btf(None)
            .override_global("ITER_SIDES", &layout.iter_sides, true)
            .map_max_entries("SUSPENDED", 1)
            .load(&operands::fill(OBJECT, &layout))
            .map_err(Error::Load)?;
        let mut primitives: HashMap<_, u64, Primitive> = take(&mut ebpf, PRIMITIVES)?;
        let mut addresses = Vec::new();
        for row in TABLE {
            let Some(address) = symbols.address(row.name) else {
                continue;
            };
            if row.old.is_some_and(|wanted| wanted != old) {
                continue;
            }
            let primitive = Primitive {
                bytes: row.bytes,
                iter: row.iter,
                iter_count,
                user: row.user as u32,
                user_only: row.user_only.into(),
            };
            primitives
                .insert(address, primitive, 0)
                .map_err(|source| Error::Map {
                    name: PRIMITIVES,
                    source,
                })?;
            addresses.push((row.name, address));
        }
        let bytes = take(&mut ebpf, BYTES)?;
        program(&mut ebpf)
            .and_then(PerfEvent::load)
            .map_err(|error| Error::CrossCheck(super::attach::brief(&error)))?;
        if addresses.is_empty() {
            return Err(Error::CrossCheck(
                "no copy primitive in /proc/kallsyms: it needs CAP_SYSLOG, or \
                 kernel.kptr_restrict=0"
                    .into(),
            ));
        }
        Ok(Self {
            ebpf,
            addresses,
            bytes,
            _primitives: primitives,
        })
    }

    /// The primitives that this kernel has.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.addresses.iter().map(|(name, _)| *name)
    }

    /// In how many passes over the same work every primitive is watched once.
    #[must_use]
    pub fn passes(&self) -> usize {
        self.addresses.len().div_ceil(SLOTS)
    }

    /// Sets one pass's breakpoints for one task.
    ///
    /// # Errors
    ///
    /// If the machine has none to give.
    pub fn watch(&mut self, pid: u32, pass: usize) -> Result<Breakpoints, Error> {
        let refused = |error: &ProgramError| {
            if is_forbidden(error) {
                return Error::CrossCheck(forbidden());
            }
            Error::CrossCheck(format!(
                "no hardware breakpoints to be had on this machine: {}; they need a processor, or a \
                 virtual machine, with debug registers that nobody else uses",
                super::attach::brief(error)
            ))
        };
        let program = program(&mut self.ebpf).map_err(|error| refused(&error))?;
        let mut links = Vec::new();
        for (_, address) in self.addresses.iter().skip(pass * SLOTS).take(SLOTS) {
            let link = program
                .attach(
                    PerfEventConfig::Breakpoint(BreakpointConfig::Instruction {
                        address: *address,
                    }),
                    PerfEventScope::OneProcess { pid, cpu: None },
                    SamplePolicy::Period(1),
                    false,
                )
                .map_err(|error| refused(&error))?;
            links.push(link);
        }
        Ok(Breakpoints(links))
    }

    /// Takes breakpoints away.
    ///
    /// # Errors
    ///
    /// If they are not set.
    pub fn release(&mut self, breakpoints: Breakpoints) -> Result<(), Error> {
        let wrong = |error: ProgramError| Error::CrossCheck(error.to_string());
        let program = program(&mut self.ebpf).map_err(wrong)?;
        for link in breakpoints.0 {
            program.detach(link).map_err(wrong)?;
        }
        Ok(())
    }

    /// Bytes seen so far, by direction.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn bytes(&self) -> Result<[u64; Direction::ALL.len()], Error> {
        let mut sums = [0; Direction::ALL.len()];
        for direction in Direction::ALL {
            sums[direction as usize] =
                self.bytes
                    .get(&(direction as u32), 0)
                    .map_err(|source| Error::Map {
                        name: BYTES,
                        source,
                    })?;
        }
        Ok(sums)
    }
}

fn is_forbidden(error: &ProgramError) -> bool {
    match error {
        ProgramError::SyscallError(error) => {
            error.io_error.kind() == std::io::ErrorKind::PermissionDenied
        }
        _ => false,
    }
}

fn forbidden() -> String {
    let file = "/proc/sys/kernel/perf_event_paranoid";
    let level = std::fs::read_to_string(file).unwrap_or_default();
    format!(
        "perf_event_open is refused, with kernel.perf_event_paranoid={}: run with CAP_SYS_ADMIN, or set \
         it to 2 or less, and have seccomp filters allow the call",
        level.trim()
    )
}

fn program(ebpf: &mut Ebpf) -> Result<&mut PerfEvent, ProgramError> {
    ebpf.program_mut("cross_check")
        .ok_or(ProgramError::UnexpectedProgramType)?
        .try_into()
}
