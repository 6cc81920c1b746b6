//! From the hook table to attached programs.

use std::collections::HashSet;

use aya::{
    Ebpf, EbpfLoader,
    programs::{BtfTracePoint, FEntry, FExit, KProbe, Program, ProgramError},
};
use aya_log::Level;
use zc_profiler_ebpf::{
    COLLECTED, COMPARED, KernelLayout, Method, NO_PAYLOAD, SYSCALLS, SyscallMethods,
};

use super::{
    AttachClass, Error, Evidence, Options,
    hooks::{self, AttachMode, Hook, Variant},
    operands,
    status::{State, Status},
};
use crate::kernel::{Requirement, Symbols, btf::Btf};

pub(super) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/zc-profiler-ebpf"));

/// What loading needs to know.
pub struct Plan<'a> {
    /// The running kernel's types, for choosing variants.
    pub btf: &'a Btf,
    /// And its symbols.
    pub symbols: &'a Symbols,
    /// The same, as aya wants them.
    pub aya_btf: &'a aya::Btf,
    /// What the programs need to know.
    pub layout: KernelLayout,
    /// What of it the kernel does not have.
    pub missing: &'a [(Requirement, String)],
    /// How many processes the ledger holds.
    pub processes: u32,
    /// Which ways are open, and whether programs log.
    pub options: Options,
}

impl Plan<'_> {
    /// Loads and attaches every row that this kernel allows.
    pub fn carry_out(&self) -> Result<(Ebpf, Vec<Status>, Evidence), Error> {
        if self.options.best != AttachClass::Fentry {
            let (ebpf, statuses) = self.attempt(Evidence::Derived, &HashSet::new())?;
            return Ok((ebpf, statuses, Evidence::Derived));
        }
        let mut refused = HashSet::new();
        loop {
            let (ebpf, statuses) = self.attempt(Evidence::Measured, &refused)?;
            if self.options.only.is_none()
                && !statuses
                    .iter()
                    .filter_map(Status::variant)
                    .any(|variant| variant.attach.measures())
            {
                let (ebpf, derived) = self.attempt(Evidence::Derived, &refused)?;
                return Ok((ebpf, with_reasons(derived, &statuses), Evidence::Derived));
            }
            // The programs were told that this exit collects copies, which it will not: again,
            // without it.
            let failed: Vec<_> = statuses
                .iter()
                .filter(|status| status.hook.syscall.is_some())
                .filter(|status| matches!(status.state, State::Failed(_)))
                .map(|status| status.hook.name)
                .filter(|name| !refused.contains(name))
                .collect();
            if failed.is_empty() {
                return Ok((ebpf, statuses, Evidence::Measured));
            }
            refused.extend(failed);
        }
    }

    fn attempt(
        &self,
        evidence: Evidence,
        refused: &HashSet<&str>,
    ) -> Result<(Ebpf, Vec<Status>), Error> {
        let collected = evidence == Evidence::Measured;
        let methods = self.syscall_methods(collected, refused);
        let level = if self.options.verbose {
            Level::Debug as u8
        } else {
            0
        };
        let mut ebpf = EbpfLoader::new()
            .btf(Some(self.aya_btf))
            .override_global("ITER_SIDES", &self.layout.iter_sides, true)
            .override_global("SYSCALL_METHODS", methods.as_slice(), true)
            .override_global(aya_log::LEVEL, &level, true)
            .map_max_entries("PROCESSES", self.processes)
            .map_max_entries("EXTRA_FILTER_BITS", self.processes)
            .load(&operands::fill(OBJECT, &self.layout))
            .map_err(Error::Load)?;
        let statuses = hooks::all(evidence)
            .map(|hook| Status {
                hook,
                state: self.attach(&mut ebpf, hook, evidence),
            })
            .collect();
        Ok((ebpf, statuses))
    }

    /// The variants of a row that this kernel has, in order, or why it has none.
    fn variants(&self, hook: &'static Hook) -> Result<Vec<&'static Variant>, String> {
        if let Some((_, member)) = self.missing.iter().find(|(need, _)| {
            // The state matters only where the tracepoint does not pass it.
            hook.needs.contains(need)
                && (*need != Requirement::State
                    || self.btf.tracepoint_arguments("sched_switch") == Some(3))
        }) {
            return Err(format!("this kernel does not show {member}"));
        }
        let mut variants = Vec::new();
        let mut reasons = Vec::new();
        for variant in hook.variants {
            let arguments = match variant.attach {
                AttachMode::Tracepoint => self.btf.tracepoint_arguments(variant.target),
                AttachMode::Fentry | AttachMode::Fexit => {
                    self.btf.function_arguments(variant.target)
                }
                // The kernel's types do not tell of modules.
                AttachMode::Kprobe => self.btf.function_arguments(variant.target).or_else(|| {
                    let found = self.symbols.in_module(variant.target);
                    found.then_some(variant.arguments)
                }),
            };
            match arguments {
                Some(arguments) if arguments == variant.arguments => variants.push(variant),
                Some(arguments) => {
                    reasons.push(format!("{} takes {arguments} arguments", variant.target));
                }
                None => reasons.push(format!("no {}", variant.target)),
            }
        }
        if variants.is_empty() {
            reasons.dedup();
            return Err(reasons.join(", "));
        }
        Ok(variants)
    }

    /// Attaches the first form that the kernel takes.
    fn attach(&self, ebpf: &mut Ebpf, hook: &'static Hook, evidence: Evidence) -> State {
        if let Some(only) = self.options.only
            && !only.contains(&hook.name)
        {
            return State::Absent("it was left out".into());
        }
        let variants = match self.variants(hook) {
            Ok(variants) => variants,
            Err(reason) => return State::Absent(reason),
        };
        let mut reasons = Vec::new();
        for variant in variants {
            if variant.attach.class() < self.options.best {
                let allowed = self.options.best.name();
                reasons.push(format!(
                    "{} is left out by --attach {allowed}",
                    variant.attach.name()
                ));
                continue;
            }
            if evidence == Evidence::Derived && variant.attach.measures() {
                continue;
            }
            match self.attach_variant(ebpf, variant) {
                Ok(()) => return State::Attached(variant),
                Err(error) => {
                    log::debug!("{}: {error}", hook.name);
                    reasons.push(brief(&error));
                }
            }
        }
        reasons.dedup();
        State::Failed(reasons.join(", "))
    }

    fn attach_variant(&self, ebpf: &mut Ebpf, variant: &Variant) -> Result<(), ProgramError> {
        let standby = standby(variant.program);
        let mut names = vec![variant.program];
        if self.layout.preemptible != 0 && ebpf.program(&standby).is_some() {
            // The double must run last: tracepoints run the oldest first, trampolines the newest.
            match variant.attach {
                AttachMode::Tracepoint => names.push(&standby),
                _ => names.insert(0, &standby),
            }
        }
        for name in &names {
            if let Err(error) = self.attach_program(ebpf, variant, name) {
                // One alone would count what is shown as lost.
                for name in names {
                    unload(ebpf, name);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    fn attach_program(
        &self,
        ebpf: &mut Ebpf,
        variant: &Variant,
        name: &str,
    ) -> Result<(), ProgramError> {
        let program: &mut Program = ebpf
            .program_mut(name)
            .ok_or(ProgramError::UnexpectedProgramType)?;
        match variant.attach {
            AttachMode::Fentry => {
                let program: &mut FEntry = program.try_into()?;
                program.load(variant.target, self.aya_btf)?;
                program.attach()?;
            }
            AttachMode::Fexit => {
                let program: &mut FExit = program.try_into()?;
                program.load(variant.target, self.aya_btf)?;
                program.attach()?;
            }
            AttachMode::Tracepoint => {
                let program: &mut BtfTracePoint = program.try_into()?;
                program.load(variant.target, self.aya_btf)?;
                program.attach()?;
            }
            AttachMode::Kprobe => {
                let program: &mut KProbe = program.try_into()?;
                program.load()?;
                program.attach(variant.target, 0)?;
            }
        }
        Ok(())
    }

    /// Which method each system call is of, and whether its exit will collect.
    fn syscall_methods(&self, collect: bool, refused: &HashSet<&str>) -> SyscallMethods {
        let mut methods = [Method::Other as u8; SYSCALLS];
        let mut set = |number: i64, value| {
            if let Ok(index) = usize::try_from(number)
                && let Some(slot) = methods.get_mut(index)
            {
                *slot = value;
            }
        };
        for hook in hooks::SYSCALLS {
            if let Some(call) = hook.syscall {
                let collected =
                    collect && self.variants(hook).is_ok() && !refused.contains(hook.name);
                let collected = match (collected, call.compares) {
                    (true, true) => COLLECTED | COMPARED,
                    (true, false) => COLLECTED,
                    (false, _) => 0,
                };
                let silent = if call.returns_bytes { 0 } else { NO_PAYLOAD };
                set(call.number, call.method as u8 | collected | silent);
            }
        }
        methods
    }
}

/// Why the rows that only a measurement fills are empty is what the first attempt said.
fn with_reasons(mut derived: Vec<Status>, measured: &[Status]) -> Vec<Status> {
    for status in derived
        .iter_mut()
        .filter(|status| status.variant().is_none())
    {
        if let Some(first) = measured
            .iter()
            .find(|first| first.hook.name == status.hook.name)
        {
            status.state = first.state.clone();
        }
    }
    derived
}

/// Detaches a program, if it was attached.
fn unload(ebpf: &mut Ebpf, name: &str) {
    // Not loaded is as good.
    match ebpf.program_mut(name) {
        Some(Program::FEntry(program)) => _ = program.unload(),
        Some(Program::FExit(program)) => _ = program.unload(),
        Some(Program::BtfTracePoint(program)) => _ = program.unload(),
        _ => {}
    }
}

/// The program that takes over where the kernel skips one (see the programs' module `call`).
pub fn standby(program: &str) -> String {
    format!("{program}_standby")
}

/// One line: the verifier's log is for `-v`.
pub(super) fn brief(error: &ProgramError) -> String {
    let text = match error {
        ProgramError::LoadError { io_error, .. } => {
            format!("the kernel refused to load it: {io_error}")
        }
        ProgramError::SyscallError(error) => format!("{} failed: {}", error.call, error.io_error),
        other => other.to_string(),
    };
    text.lines().next().unwrap_or_default().to_owned()
}
