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
    Error, Evidence, Options, Way,
    hooks::{self, Attach, Form, Hook},
    operands,
    status::{State, Status},
};
use crate::kernel::{Need, Symbols, btf::Btf};

pub(super) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/zc-profiler-ebpf"));

/// What loading needs to know.
pub struct Plan<'a> {
    /// The running kernel's types, for choosing forms.
    pub btf: &'a Btf,
    /// And its symbols.
    pub symbols: &'a Symbols,
    /// The same, as aya wants them.
    pub aya_btf: &'a aya::Btf,
    /// What the programs need to know.
    pub layout: KernelLayout,
    /// What of it the kernel does not have.
    pub missing: &'a [(Need, String)],
    /// How many processes the ledger holds.
    pub processes: u32,
    /// Which ways are open, and whether programs log.
    pub options: Options,
}

impl Plan<'_> {
    /// Loads and attaches every row that this kernel allows.
    pub fn carry_out(&self) -> Result<(Ebpf, Vec<Status>, Evidence), Error> {
        if self.options.way != Way::Fentry {
            let (ebpf, statuses) = self.attempt(Evidence::Derived, &HashSet::new())?;
            return Ok((ebpf, statuses, Evidence::Derived));
        }
        let mut refused = HashSet::new();
        loop {
            let (ebpf, statuses) = self.attempt(Evidence::Measured, &refused)?;
            if self.options.only.is_none()
                && !statuses
                    .iter()
                    .filter_map(Status::form)
                    .any(|form| form.attach.measures())
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
            .map_max_entries("PASSES", self.processes)
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

    /// The forms of a row that this kernel has, in order, or why it has none.
    fn forms(&self, hook: &'static Hook) -> Result<Vec<&'static Form>, String> {
        if let Some((_, member)) = self.missing.iter().find(|(need, _)| {
            // The state matters only where the tracepoint does not pass it.
            hook.needs.contains(need)
                && (*need != Need::State
                    || self.btf.tracepoint_arguments("sched_switch") == Some(3))
        }) {
            return Err(format!("this kernel does not show {member}"));
        }
        let mut forms = Vec::new();
        let mut reasons = Vec::new();
        for form in hook.forms {
            let arguments = match form.attach {
                Attach::Tracepoint => self.btf.tracepoint_arguments(form.target),
                Attach::Fentry | Attach::Fexit => self.btf.function_arguments(form.target),
                // The kernel's types do not tell of modules.
                Attach::Kprobe => self.btf.function_arguments(form.target).or_else(|| {
                    let found = self.symbols.in_module(form.target);
                    found.then_some(form.arguments)
                }),
            };
            match arguments {
                Some(arguments) if arguments == form.arguments => forms.push(form),
                Some(arguments) => {
                    reasons.push(format!("{} takes {arguments} arguments", form.target));
                }
                None => reasons.push(format!("no {}", form.target)),
            }
        }
        if forms.is_empty() {
            reasons.dedup();
            return Err(reasons.join(", "));
        }
        Ok(forms)
    }

    /// Attaches the first form that the kernel takes.
    fn attach(&self, ebpf: &mut Ebpf, hook: &'static Hook, evidence: Evidence) -> State {
        if let Some(only) = self.options.only
            && !only.contains(&hook.name)
        {
            return State::Absent("it was left out".into());
        }
        let forms = match self.forms(hook) {
            Ok(forms) => forms,
            Err(reason) => return State::Absent(reason),
        };
        let mut reasons = Vec::new();
        for form in forms {
            if form.attach.way() < self.options.way {
                let allowed = self.options.way.name();
                reasons.push(format!(
                    "{} is left out by --attach {allowed}",
                    form.attach.name()
                ));
                continue;
            }
            if evidence == Evidence::Derived && form.attach.measures() {
                continue;
            }
            match self.attach_form(ebpf, form) {
                Ok(()) => return State::Attached(form),
                Err(error) => {
                    log::debug!("{}: {error}", hook.name);
                    reasons.push(brief(&error));
                }
            }
        }
        reasons.dedup();
        State::Failed(reasons.join(", "))
    }

    fn attach_form(&self, ebpf: &mut Ebpf, form: &Form) -> Result<(), ProgramError> {
        let double = double(form.program);
        let mut names = vec![form.program];
        if self.layout.preemptible != 0 && ebpf.program(&double).is_some() {
            // The double must run last: tracepoints run the oldest first, trampolines the newest.
            match form.attach {
                Attach::Tracepoint => names.push(&double),
                _ => names.insert(0, &double),
            }
        }
        for name in &names {
            if let Err(error) = self.attach_program(ebpf, form, name) {
                // One alone would count what is shown as lost.
                for name in names {
                    unload(ebpf, name);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    fn attach_program(&self, ebpf: &mut Ebpf, form: &Form, name: &str) -> Result<(), ProgramError> {
        let program: &mut Program = ebpf
            .program_mut(name)
            .ok_or(ProgramError::UnexpectedProgramType)?;
        match form.attach {
            Attach::Fentry => {
                let program: &mut FEntry = program.try_into()?;
                program.load(form.target, self.aya_btf)?;
                program.attach()?;
            }
            Attach::Fexit => {
                let program: &mut FExit = program.try_into()?;
                program.load(form.target, self.aya_btf)?;
                program.attach()?;
            }
            Attach::Tracepoint => {
                let program: &mut BtfTracePoint = program.try_into()?;
                program.load(form.target, self.aya_btf)?;
                program.attach()?;
            }
            Attach::Kprobe => {
                let program: &mut KProbe = program.try_into()?;
                program.load()?;
                program.attach(form.target, 0)?;
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
                let collected = collect && self.forms(hook).is_ok() && !refused.contains(hook.name);
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
    for status in derived.iter_mut().filter(|status| status.form().is_none()) {
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
pub fn double(program: &str) -> String {
    format!("{program}_again")
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
