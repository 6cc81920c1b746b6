//! The hook table, and getting its programs attached.

mod attach;
mod cross_check;
mod filter;
pub mod hooks;
mod info;
mod operands;
mod status;

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Mutex, MutexGuard, PoisonError, mpsc},
    time::Duration,
};

use aya::{
    Ebpf,
    maps::{HashMap, Map, MapData, MapError, PerCpuArray},
    programs::{ProgramError, RawTracePoint, RawTracePointRunOptions, TestRun},
};
use thiserror::Error;
use zc_profiler_ebpf::{FOLLOWED, ProcessCounters, ProcessKey, Running, Touched};

pub use self::{
    cross_check::{Breakpoints, CrossCheck},
    filter::Filter,
    status::{State, Status},
};
use self::{filter::Wanted, hooks::AttachMode};
use crate::{
    kernel::{self, Environment, Requirement, Symbols, btf},
    ledger::Ledger,
};

/// Which processes are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Every process of the machine, and the pseudo-process `kernel`.
    System,
    /// Only processes that [`Ledger::follow`] names, and their descendants from then on.
    Tree,
}

/// How counting is to be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The strongest way of attaching that may be used.
    pub best: AttachClass,
    /// Whether programs log.
    pub verbose: bool,
    /// For how many processes at once there is room; `None` for what suits this machine.
    pub processes: Option<u32>,
    /// Only these rows of the hook table, to measure what they cost: what others would complete is
    /// counted in part.
    pub only: Option<&'static [&'static str]>,
    /// Whether the kernel keeps how often and how long programs run: see [`Probes::runs`].
    pub statistics: bool,
}

/// A way of attaching programs to the kernel, the strongest first. What one way cannot do is left to
/// the next, so the strongest that is allowed names all that are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum AttachClass {
    /// Entries and exits of functions: every copy is counted where it is made.
    #[default]
    Fentry,
    /// Entries of functions by breakpoint.
    Kprobe,
    /// Tracepoints: what system calls returned.
    Tracepoint,
}

impl AttachClass {
    /// Every way, in this order.
    pub const ALL: [Self; 3] = [Self::Fentry, Self::Kprobe, Self::Tracepoint];

    /// The word for it on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fentry => "fentry",
            Self::Kprobe => "kprobe",
            Self::Tracepoint => "tracepoint",
        }
    }
}

/// How numbers of copies are come by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// Each copy is counted where it is made.
    Measured,
    /// Copies are inferred from what system calls returned.
    Derived,
}

impl Evidence {
    /// The word for it in tables, JSON and labels.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Measured => "measured",
            Self::Derived => "derived",
        }
    }
}

/// The program that delivers what the task on a CPU has done so far.
const FLUSH: &str = "flush_now";

const BTF: &str = "reading the kernel's type information (/sys/kernel/btf/vmlinux)";

/// Why counting could not begin.
#[derive(Debug, Error)]
pub enum Error {
    /// The machine does not allow it; the text names the remedy.
    #[error("{0}")]
    Obstacle(String),
    /// The state of the machine could not be read.
    #[error("reading the state of this machine: {0}")]
    Environment(#[source] io::Error),
    /// The kernel's type information could not be read.
    #[error("{BTF}: {0}; is something mounted over it?")]
    Btf(btf::BtfError),
    /// aya could not read the kernel's type information.
    #[error("{BTF}: {0}; is something mounted over it?")]
    AyaBtf(aya::BtfError),
    /// The maps could not be made.
    #[error("loading the eBPF object: {}", chain(.0))]
    Load(aya::EbpfError),
    /// Without this hook no number can be trusted.
    #[error("cannot attach {hook}, without which nothing can be counted: {reason}")]
    Vital {
        /// The hook's name.
        hook: &'static str,
        /// What the kernel said.
        reason: String,
    },
    /// What processes have done and still run could not be fetched.
    #[error("bpf(BPF_PROG_TEST_RUN) of {FLUSH}: {0}")]
    Deliver(#[source] ProgramError),
    /// The kernel does not measure programs.
    #[error(
        "bpf(BPF_ENABLE_STATS): {0}; it takes CAP_SYS_ADMIN, so try without --probe-statistics"
    )]
    Statistics(#[source] io::Error),
    /// The kernel does not describe a program.
    #[error("bpf(BPF_OBJ_GET_INFO_BY_FD): {0}")]
    Info(#[source] io::Error),
    /// What the filter names is not there.
    #[error("{0}")]
    Filter(String),
    /// The cross-check cannot be called.
    #[error("{0}")]
    CrossCheck(String),
    /// A map could not be used.
    #[error("map {name}: {}", chain(.source))]
    Map {
        /// The map's name.
        name: &'static str,
        /// What failed.
        source: MapError,
    },
}

/// For how many processes there is room on this machine, before new ones are charged to `other`: the entries, of some
/// 1.1 KB each, take less than a fiftieth of this machine's memory.
#[must_use]
pub fn room_for_processes() -> u32 {
    const SHARE: u64 = 64 << 10;
    // SAFETY: takes no pointer.
    let value = |name| unsafe { libc::sysconf(name) };
    let (pages, size) = (value(libc::_SC_PHYS_PAGES), value(libc::_SC_PAGESIZE));
    let memory = u64::try_from(pages).unwrap_or(0) * u64::try_from(size).unwrap_or(0);
    u32::try_from(memory / SHARE).map_or(65_536, |entries| entries.clamp(4_096, 65_536))
}

/// Attached programs; dropping them detaches.
pub struct Probes {
    /// Owns the programs and their links.
    ebpf: Ebpf,
    wanted: Mutex<Wanted>,
    /// The lock is for [`Probes::flush`].
    running: Mutex<PerCpuArray<MapData, Running>>,
    statuses: Vec<Status>,
    evidence: Evidence,
    /// Has the kernel measure programs while it is open.
    statistics: Option<OwnedFd>,
}

impl Probes {
    /// Attaches to the running kernel everything that it allows.
    ///
    /// # Errors
    ///
    /// If it allows nothing, or not what is vital; the text names the cause and the remedy.
    pub fn attach(scope: Scope, options: Options) -> Result<(Self, Ledger, Environment), Error> {
        let environment = Environment::read().map_err(Error::Environment)?;
        if let Some(obstacle) = environment.obstacle() {
            return Err(Error::Obstacle(obstacle));
        }
        let limited = !raise_memlock_limit();
        let statistics = options.statistics.then(info::keep_runs).transpose();
        let statistics = statistics.map_err(Error::Statistics)?;
        let btf = btf::Btf::of_kernel().map_err(Error::Btf)?;
        let kprobes = hooks::targets(|attach| attach == AttachMode::Kprobe);
        let names = kprobes.chain(kernel::SYMBOLS).collect();
        let symbols = Symbols::read(&names).map_err(Error::Environment)?;
        let (mut layout, missing) = kernel::resolve(&btf, &symbols);
        if let Some((_, member)) = missing
            .iter()
            .find(|(need, _)| *need == Requirement::Writer)
        {
            log::warn!(
                "this kernel does not show {member}: pages of files that are written to disk later are \
                 charged to whoever has it done"
            );
        }
        layout.preemptible = environment.preemptible.into();
        let pio_disks = kernel::pio_disks();
        layout.pio_disks = u32::try_from(pio_disks.len()).unwrap_or(u32::MAX);
        let plan = attach::Plan {
            btf: &btf,
            symbols: &symbols,
            aya_btf: &btf
                .for_aya(
                    hooks::targets(|attach| {
                        matches!(attach, AttachMode::Fentry | AttachMode::Fexit)
                    }),
                    hooks::targets(|attach| attach == AttachMode::Tracepoint),
                )
                .map_err(Error::AyaBtf)?,
            layout,
            missing: &missing,
            processes: options.processes.unwrap_or_else(room_for_processes),
            options,
        };
        let (mut ebpf, statuses, evidence) = plan
            .carry_out()
            .map_err(|error| explained(error, &environment, limited))?;
        // All kernels that have BTF have this helper; without, programs load in part and count nothing.
        // The mode of lockdown is not to be seen where securityfs is not mounted.
        if !aya::features().bpf_probe_read_kernel() {
            return Err(Error::Obstacle(kernel::LOCKED_DOWN.into()));
        }
        if let Some(status) = statuses.iter().find(|status| {
            status.hook.vital && status.variant().is_none() && options.only.is_none()
        }) {
            return Err(Error::Vital {
                hook: status.hook.name,
                reason: status.reason().unwrap_or_default().to_owned(),
            });
        }
        if options.verbose {
            forward_logs(&mut ebpf);
        }
        let ledger = open_ledger(&mut ebpf, plan.processes)?;
        exclude_from_dma(&mut ebpf, &pio_disks)?;
        load_flush(&mut ebpf).map_err(Error::Deliver)?;
        let running = take(&mut ebpf, "RUNNING")?;
        let wanted = Wanted::take(&mut ebpf)?;
        let probes = Self {
            ebpf,
            wanted: Mutex::new(wanted),
            running: Mutex::new(running),
            statuses,
            evidence,
            statistics,
        };
        // What was done before is nobody's.
        probes.flush()?;
        probes.wanted().open(scope)?;
        Ok((probes, ledger, environment))
    }

    /// Counts whom the filter names, and their descendants, from now on, and nobody else.
    ///
    /// # Errors
    ///
    /// If something of it is not there, or there is no room; then those are counted who were before.
    pub fn filter(&self, filter: &Filter, ledger: &Ledger) -> Result<(), Error> {
        self.flush()?;
        self.wanted().change(filter, ledger)
    }

    /// Has no program count anything any more.
    pub fn disable(&self) {
        if let Err(error) = self.flush() {
            log::debug!("before closing the gate: {error}");
        }
        self.wanted().disable();
    }

    /// Has what processes have done since they came onto their CPUs added to their entries: to be called
    /// before those are read.
    ///
    /// # Errors
    ///
    /// If the kernel does not run the program that does it.
    pub fn flush(&self) -> Result<(), Error> {
        let name = "RUNNING";
        // The program may not be interrupted by itself.
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let all = (running.get(&0, 0)).map_err(|source| Error::Map { name, source })?;
        let missing = || Error::Deliver(ProgramError::NotLoaded);
        let program = self.ebpf.program(FLUSH).ok_or_else(missing)?;
        let program: &RawTracePoint = program.try_into().map_err(Error::Deliver)?;
        // On x86-64 the possible CPUs have the numbers from 0 on.
        for (cpu, running) in (0..).zip(all.iter()) {
            // Who has done nothing is not interrupted.
            if running.buffer.touched == Touched::default() {
                continue;
            }
            let options = RawTracePointRunOptions {
                cpu: Some(cpu),
                ..RawTracePointRunOptions::new()
            };
            match program.test_run(options) {
                // It was taken offline, and whoever ran there has left it.
                Err(ProgramError::SyscallError(error))
                    if error.io_error.raw_os_error() == Some(libc::ENXIO) => {}
                result => _ = result.map_err(Error::Deliver)?,
            }
        }
        Ok(())
    }

    /// Processes that will not be seen again.
    pub fn forget(&self, processes: &[ProcessKey]) {
        self.wanted().forget(processes);
    }

    /// A panic while holding it leaves a filter as good as any.
    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What became of each row of the hook table.
    #[must_use]
    pub fn statuses(&self) -> &[Status] {
        &self.statuses
    }

    /// How numbers of copies are come by.
    #[must_use]
    pub const fn evidence(&self) -> Evidence {
        self.evidence
    }

    /// How many events were lost at most because the kernel skipped a program that was under way on
    /// the same CPU, and its double too where it has one.
    ///
    /// # Errors
    ///
    /// If the kernel does not tell.
    pub fn skipped(&self) -> Result<u64, Error> {
        let mut sum = 0;
        for variant in self.statuses.iter().filter_map(Status::variant) {
            let first = self.misses(variant.program)?.unwrap_or_default();
            let standby = self.misses(&attach::standby(variant.program))?;
            sum += standby.map_or(first, |standby| first.min(standby));
        }
        Ok(sum)
    }

    /// How often each attached program has run, its double's runs included, and for how long; nothing
    /// unless [`Options::statistics`] asked for it. The time leaves out the trampoline or tracepoint that
    /// calls the program.
    ///
    /// # Errors
    ///
    /// If the kernel does not tell.
    pub fn runs(&self) -> Result<Vec<(&Status, u64, Duration)>, Error> {
        if self.statistics.is_none() {
            return Ok(Vec::new());
        }
        let mut all = Vec::new();
        for status in &self.statuses {
            let Some(variant) = status.variant() else {
                continue;
            };
            let (mut runs, mut time) = (0, Duration::ZERO);
            for name in [variant.program, &attach::standby(variant.program)] {
                if let Some(fd) = self.loaded(name) {
                    let (more, longer) = info::runs(fd).map_err(Error::Info)?;
                    runs += more;
                    time += longer;
                }
            }
            all.push((status, runs, time));
        }
        Ok(all)
    }

    /// How many instructions the verifier processed for each loaded program; nothing before Linux 5.16, which
    /// does not tell.
    pub fn processed_instructions(&self) -> impl Iterator<Item = (&str, u32)> {
        self.ebpf.programs().filter_map(|(name, program)| {
            let info = program.info().ok()?;
            Some((name, info.verified_instruction_count()?))
        })
    }

    /// The kernel's count of skipped runs, if the program is loaded.
    fn misses(&self, program: &str) -> Result<Option<u64>, Error> {
        let fd = self.loaded(program);
        fd.map(|fd| info::recursion_misses(fd).map_err(Error::Info))
            .transpose()
    }

    fn loaded(&self, program: &str) -> Option<BorrowedFd<'_>> {
        let program = self.ebpf.program(program)?;
        program.fd().ok().map(AsFd::as_fd)
    }
}

/// The cause and remedy instead of what a call said, where the kernel refused to load anything at all.
fn explained(error: Error, environment: &Environment, limited: bool) -> Error {
    let refused = |error: &(dyn std::error::Error + 'static)| {
        let code = error.downcast_ref::<io::Error>()?.raw_os_error()?;
        Some([libc::EPERM, libc::EACCES, libc::ENOSYS].contains(&code))
    };
    let Error::Load(load) = &error else {
        return error;
    };
    let first: &(dyn std::error::Error + 'static) = load;
    if std::iter::successors(Some(first), |error| error.source())
        .any(|error| refused(error).unwrap_or_default())
    {
        return Error::Obstacle(environment.refusal(limited).into());
    }
    error
}

fn open_ledger(ebpf: &mut Ebpf, room: u32) -> Result<Ledger, Error> {
    let name = "PROCESSES";
    let descriptor = match ebpf.map(name) {
        Some(Map::HashMap(data)) => data.fd().as_fd().try_clone_to_owned(),
        _ => Err(io::ErrorKind::NotFound.into()),
    };
    let descriptor = descriptor.map_err(|error| Error::Map {
        name,
        source: MapError::IoError(error),
    })?;
    let mut processes: HashMap<MapData, ProcessKey, ProcessCounters> = take(ebpf, name)?;
    for key in [ProcessKey::KERNEL, ProcessKey::OVERFLOW] {
        // Where processes are followed, PIO is of interest too, which nobody's is.
        let counters = ProcessCounters {
            filter_bits: [FOLLOWED, 0],
            ..ProcessCounters::default()
        };
        processes
            .insert(key, counters, 0)
            .map_err(|source| Error::Map { name, source })?;
    }
    let (dropped, created) = (take(ebpf, "DROPPED")?, take(ebpf, "CREATED")?);
    Ok(Ledger::new(processes, descriptor, dropped, created, room))
}

/// It is attached to nothing.
fn load_flush(ebpf: &mut Ebpf) -> Result<(), ProgramError> {
    let program: &mut RawTracePoint = ebpf
        .program_mut(FLUSH)
        .ok_or(ProgramError::NotLoaded)?
        .try_into()?;
    program.load()
}

/// What is asked of these disks is no DMA.
fn exclude_from_dma(ebpf: &mut Ebpf, disks: &[u32]) -> Result<(), Error> {
    let name = "PIO_DISKS";
    let mut map: HashMap<MapData, u32, u8> = take(ebpf, name)?;
    for disk in disks {
        map.insert(disk, 1, 0)
            .map_err(|source| Error::Map { name, source })?;
    }
    Ok(())
}

fn take<T: TryFrom<Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<T, Error> {
    let map = ebpf.take_map(name).ok_or(Error::Map {
        name,
        source: MapError::InvalidName { name: name.into() },
    })?;
    T::try_from(map).map_err(|source| Error::Map { name, source })
}

/// Before 5.11 maps count against this limit, whose default is too small for any. Whether it is off.
fn raise_memlock_limit() -> bool {
    let unlimited = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: the structure is valid for the call. Failing is harmless where the limit is not used;
    // elsewhere loading fails with a message of its own.
    unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const unlimited) == 0 }
}

/// Prints what the programs log. They log only rare events, and only on request.
fn forward_logs(ebpf: &mut Ebpf) {
    match aya_log::EbpfLogger::init(ebpf) {
        Ok(mut logger) => {
            let (done, dropped) = mpsc::channel();
            std::thread::spawn(move || {
                // It has them from its parent, which may still need its own; reading takes none.
                let result = kernel::give_up();
                let refused = result.is_err();
                _ = done.send(result);
                if refused {
                    return;
                }
                loop {
                    logger.flush();
                    std::thread::sleep(Duration::from_millis(100));
                }
            });
            if let Ok(Err(error)) = dropped.recv() {
                log::warn!("the programs' own log is not shown, with capabilities kept: {error}");
            }
        }
        Err(error) => log::warn!("the programs' own log is not available: {error}"),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        // Some errors say their cause themselves.
        if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
        source = error.source();
    }
    text
}
