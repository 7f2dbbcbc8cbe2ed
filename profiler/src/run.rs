//! One run: plan, load, arm, collect, report.

mod breakdown;
mod collect;
mod ends;
mod open;
mod setup;
mod sockets;
mod stats;

use std::collections::HashSet;
use std::ffi::OsString;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::process::ExitCode;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use uprof_ebpf::{Engine, Returns};
use uprof_recipes::{self as recipes, Recipe};
use uprof_symbols::process::{self, Process};

use crate::calibrate::Calibration;
use crate::cli::{Common, DemoArgs, ReportFormat};
use crate::command::{Exit, Held, Running};
use crate::demo;
use crate::plan::{Attachment, Plan, Variant};
use crate::report::model::Summary;
use crate::report::{self, Output, TermInfo};
use crate::target::{self, Selection, TargetSpec};
use crate::watch::{End, Start, Starts, registered};
use collect::{Collector, Known};
use open::Open;
use setup::{explain_load, for_want_of_privileges, limits, options, select};

/// How often the ring buffer is looked at, unless it fills up sooner.
const DRAIN: Duration = Duration::from_millis(20);
/// How often it is looked at whether calls are nested deeper than the kernel follows.
const DEPTH: Duration = Duration::from_millis(50);
/// How long a process that has just started may take until its libraries are in place.
const SETTLE: Duration = Duration::from_secs(5);

/// How many processes that were armed late the report names one by one.
const NOTED: usize = 3;
/// What is said when nothing happened: silence would leave open whether the probes worked.
const NO_HITS: &str = "nothing was hit: no process that was watched called these functions while the probes were armed";

/// What is to be run.
pub struct Job {
    /// The recipe, its parameters set.
    pub recipe: Recipe,
    /// Where each of its probes is looked for.
    pub targets: Vec<TargetSpec>,
    /// Filters, output, limits.
    pub common: Common,
    /// The program to start, if any.
    pub command: Vec<OsString>,
    /// The report goes to standard output even beside a command: the command is known to write nothing.
    pub quiet_command: bool,
}

impl Job {
    /// A recipe whose own target says where its probes are.
    pub fn of_recipe(recipe: Recipe, common: Common, command: Vec<OsString>) -> Self {
        let targets = crate::recipe::targets_of(&recipe);
        Self {
            recipe,
            targets,
            common,
            command,
            quiet_command: false,
        }
    }
}

/// Runs a job to its end. Exit status: the command's own, if there is one.
pub fn run(job: Job) -> Result<ExitCode> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")?
        .block_on(Run::go(job))
}

/// `uprof demo`: King's allocations and the latencies of its functions, in one run.
pub fn demo(args: &DemoArgs) -> Result<ExitCode> {
    crate::doctor::check_privileges()?;
    report::say(&format!("{}\n", demo::NARRATIVE))?;
    let mut recipe = crate::recipe::load("malloc")?;
    let mut targets = crate::recipe::targets_of(&recipe);
    for function in [demo::COMPUTE, demo::REQUEST, demo::SERVE] {
        let mut probe = recipes::Probe::new(
            function,
            recipes::ProbeKind::Call,
            vec![recipes::At::function(function)],
        );
        probe.action = recipes::Action::Histogram {
            value: recipes::Expr::latency(),
            by: Vec::new(),
            unit: "ns".into(),
            scale: uprof_recipes::Scale::Log,
        };
        recipe.probes.push(probe);
        targets.push(TargetSpec::Own);
    }
    let own = std::env::current_exe().context("cannot find uprof's own file")?;
    let seconds = args.duration.as_secs_f64().to_string();
    let command = vec![own.into(), demo::SUBCOMMAND.into(), seconds.into()];
    let common = Common {
        buffer: 1 << 20,
        ..Common::default()
    };
    run(Job {
        recipe,
        targets,
        common,
        command,
        quiet_command: true,
    })
}

/// What can happen to processes while a run goes on.
enum Change {
    Started(Option<Start>),
    Ended(u32),
}

/// What ends a run from outside.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

struct Run {
    plan: Plan,
    engine: Engine,
    common: Common,
    selection: Selection,
    armed: HashSet<u32>,
    /// Processes of the wanted name that are still loading.
    settling: Vec<(Start, Instant)>,
    /// How many processes were armed after they had started.
    late: usize,
    /// Looks for inlined copies of what is probed, beside the run.
    inlined: Option<JoinHandle<Vec<String>>>,
    /// Variants whose calls were too deep for the kernel: what could be done about it was.
    followed: HashSet<usize>,
    /// Measures what the probes cost, beside the run.
    costs: Option<JoinHandle<Vec<Option<u64>>>>,
    changes: mpsc::UnboundedReceiver<Change>,
    tell: mpsc::UnboundedSender<Change>,
}

impl Run {
    async fn go(job: Job) -> Result<ExitCode> {
        let begun = Instant::now();
        report::needs(report_format(job.common.format), &job.recipe)?;
        let (selection, held) = select(&job).map_err(for_want_of_privileges)?;
        let limits = limits(&job.common, &selection)?;
        let mut plan = Plan::new(job.recipe, job.targets, limits)?;
        let attachments = plan.place(&selection).map_err(for_want_of_privileges)?;
        if selection.awaited().is_some() {
            plan.reserve()?;
        } else {
            plan.prune();
        }
        if plan.variants.is_empty() {
            match selection.awaited() {
                Some(name) if selection.pids.is_empty() => bail!(
                    "no process named {name} runs yet, and what is captured depends on its program: name the file \
                     (PATH:FUNCTION), or start it with `-- COMMAND`"
                ),
                _ => bail!("nothing to probe: none of the recipe's functions is there"),
            }
        }
        if job.common.explain {
            report::say(&plan.explain(&attachments, job.common.mechanism))?;
            return Ok(ExitCode::SUCCESS);
        }
        let options = plan.with_returns(options(&job.common)?);
        if let Some(file) = &job.common.dump_bpf {
            let specs = plan.variants.iter().map(|v| v.spec.clone()).collect();
            uprof_ebpf::dump_object(specs, &options, file)
                .with_context(|| format!("cannot write the programs to {}", file.display()))?;
            eprintln!(
                "uprof: wrote {} (look at it with llvm-objdump -d)",
                file.display()
            );
            return Ok(ExitCode::SUCCESS);
        }
        let specs = plan.variants.iter().map(|v| v.spec.clone()).collect();
        plan.loaded();
        let engine =
            Engine::load(specs, &options).map_err(|e| explain_load(e, job.common.verbose))?;
        let (tell, changes) = mpsc::unbounded_channel();
        let mut run = Run {
            plan,
            engine,
            common: job.common,
            selection,
            armed: HashSet::new(),
            settling: Vec::new(),
            late: 0,
            inlined: None,
            costs: None,
            followed: HashSet::new(),
            changes,
            tell,
        };
        let mut output = run.open_output(held.is_some() && !job.quiet_command)?;
        // From here on Ctrl-C is a good end: whoever reads "armed" may press it at once.
        let signals = Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        };
        run.arm(&attachments)?;
        run.watch(held.is_some())?;
        run.say_armed(begun.elapsed(), held.is_some());
        run.inlined = Some(std::thread::spawn(run.plan.inlined_copies()));
        let calibration = Calibration::of(&run.plan, options);
        run.costs = Some(std::thread::spawn(move || calibration.measure()));
        for note in &run.plan.notes {
            eprintln!("uprof: {note}");
        }
        let collector = Collector::new(&run.plan, run.selection.named().then_some(&run.armed));
        if run.plan.shows_user_stacks() {
            run.armed.iter().for_each(|pid| collector.meet(*pid));
        }
        run.collect(collector, output.as_mut(), signals, held).await
    }

    /// Arms sites; processes that ended meanwhile are passed over.
    fn arm(&mut self, attachments: &[Attachment]) -> Result<()> {
        for a in attachments {
            let Some(variant) = self.plan.variant_of(a) else {
                continue;
            };
            if !a.kernel.is_empty() {
                // Processes that start later are let through then; none of them has this number.
                let first = a
                    .pids
                    .as_ref()
                    .map(|pids| pids.first().copied().unwrap_or(u32::MAX));
                self.engine.attach_kernel(variant, &a.kernel, first)?;
                for &pid in a.pids.iter().flatten() {
                    self.engine.allow_kernel(pid)?;
                    self.armed.insert(pid);
                }
                continue;
            }
            match &a.pids {
                None => self.engine.attach(variant, &a.sites, None)?,
                Some(pids) => {
                    for &pid in pids {
                        let done = self.engine.attach(variant, &a.sites, Some(pid));
                        if done.is_err() && !target::alive(pid) {
                            continue;
                        }
                        done.with_context(|| format!("process {pid}"))?;
                        self.armed.insert(pid);
                    }
                }
            }
        }
        Ok(())
    }

    /// Watches for the end of the processes named, and for new ones of the name. A command's end is waited for
    /// elsewhere: it has a status.
    fn watch(&mut self, command: bool) -> Result<()> {
        let named = if command {
            &[]
        } else {
            self.selection.pids.as_slice()
        };
        for &pid in named {
            let tell = self.tell.clone();
            match End::of(pid) {
                Ok(end) => {
                    tokio::spawn(async move {
                        end.wait().await;
                        let _ = tell.send(Change::Ended(end.pid));
                    });
                }
                Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {
                    let _ = tell.send(Change::Ended(pid));
                }
                Err(e) => return Err(e).context(format!("cannot watch process {pid}")),
            }
        }
        if self.selection.awaited().is_some() {
            let starts = match Starts::listen() {
                Ok(starts) => starts,
                Err(e) if !self.selection.pids.is_empty() => {
                    let note = format!(
                        "processes that start later are not watched: the kernel's process event connector: {e}"
                    );
                    eprintln!("uprof: {note}");
                    self.plan.notes.push(note);
                    self.selection.comm = None;
                    return Ok(());
                }
                Err(e) => {
                    return Err(e).context(
                        "no process of that name runs, and later ones cannot be heard of (the kernel's process event \
                         connector; needs CAP_NET_ADMIN)\nStart it with `-- COMMAND`, or name it with --pid once it runs",
                    );
                }
            };
            let tell = self.tell.clone();
            tokio::spawn(async move {
                while let Ok(start) = starts.next().await {
                    if tell.send(Change::Started(start)).is_err() {
                        break;
                    }
                }
            });
            // One that started between the look at /proc and the first event would be missed.
            let _ = self.tell.send(Change::Started(None));
        }
        Ok(())
    }

    fn say_armed(&self, took: Duration, command: bool) {
        let sites = self.engine_sites();
        let mechanisms: HashSet<String> = (0..self.plan.variants.len())
            .map(|v| match self.plan.variants[v].mechanism() {
                "" => self.engine.mechanism(v).to_string(),
                in_kernel => in_kernel.to_owned(),
            })
            .collect();
        let mut mechanisms: Vec<String> = mechanisms.into_iter().collect();
        mechanisms.sort();
        let end = match (command, self.common.duration) {
            (true, _) => String::new(),
            (_, Some(d)) => format!("; for {}", report::units::duration(d.as_nanos() as f64)),
            _ => "; Ctrl-C to stop".into(),
        };
        let waiting = match self.selection.awaited() {
            Some(name) if self.selection.pids.is_empty() => {
                format!(", waiting for {name} to start")
            }
            _ => String::new(),
        };
        eprintln!(
            "uprof: armed {sites} {} in {:.1} ms ({}){waiting}{end}",
            if sites == 1 { "site" } else { "sites" },
            took.as_secs_f64() * 1e3,
            mechanisms.join(", "),
        );
    }

    fn engine_sites(&self) -> u64 {
        self.plan.variants.iter().map(collect::distinct_sites).sum()
    }

    fn open_output(&self, command: bool) -> Result<Box<dyn Output>> {
        let format = report_format(self.common.format);
        // With a command, standard output is the command's own.
        let mut output = match &self.common.output {
            Some(path) => {
                let file = std::fs::File::create(path)
                    .with_context(|| format!("cannot write to {}", path.display()))?;
                report::open(format, Box::new(file), TermInfo::plain())
            }
            None if command => {
                report::open(format, Box::new(io::stderr()), TermInfo::of(&io::stderr()))
            }
            None => report::open(format, Box::new(raw_stdout()?), TermInfo::of(&io::stdout())),
        };
        output.start(&collect::columns(&self.plan))?;
        Ok(output)
    }

    async fn collect(
        mut self,
        mut c: Collector,
        output: &mut dyn Output,
        mut signals: Signals,
        held: Option<Held>,
    ) -> Result<ExitCode> {
        let mut command = held
            .map(Held::release)
            .transpose()
            .context("cannot let the command run")?;
        let armed_at = Instant::now();
        let deadline = self
            .common
            .duration
            .map(|d| tokio::time::Instant::now() + d);
        let mut tick = tokio::time::interval(DRAIN);
        let mut depth = tokio::time::interval(DEPTH);
        let replaces = (self.plan.variants.iter()).any(|v| v.pairing.returns == Returns::Replaced);
        let ring = self.engine.ring_fd().map(owned).transpose()?;
        if ring.is_some() {
            read_promptly();
        }
        let mut live =
            tokio::time::interval(self.live_interval().unwrap_or(Duration::from_secs(3600)));
        live.tick().await;
        let shows = self.live_interval().is_some();
        let mut status = None;
        let mut stopping = false;
        let ended: Result<(), io::Error> = loop {
            let step = tokio::select! {
                _ = signals.interrupt.recv() => {
                    // The command has had the same Ctrl-C: its end is ours. A second one ends us at once.
                    if command.is_none() || stopping { break Ok(()) }
                    stopping = true;
                    Ok(())
                }
                _ = signals.terminate.recv() => break Ok(()),
                () = tokio::time::sleep_until(deadline.unwrap_or_else(far)), if deadline.is_some() => break Ok(()),
                code = wait(&mut command), if command.is_some() => {
                    status = Some(code.context("cannot wait for the command")?.code());
                    break Ok(());
                }
                change = self.changes.recv() => {
                    if let Some(change) = change && self.changed(change) { break Ok(()) }
                    Ok(())
                }
                _ = tokio::time::sleep(Duration::from_millis(1)), if !self.settling.is_empty() => {
                    self.settle();
                    Ok(())
                }
                ready = readable(ring.as_ref()), if ring.is_some() => {
                    ready?.clear_ready();
                    c.drain(&mut self.engine, &self.plan, self.selection.named().then_some(&self.armed), output)
                }
                _ = tick.tick(), if ring.is_some() => c.drain(&mut self.engine, &self.plan, self.selection.named().then_some(&self.armed), output),
                _ = depth.tick(), if replaces => {
                    self.follow_deeper();
                    Ok(())
                }
                _ = live.tick(), if shows => {
                    let so_far = c.summary(
                        &self.plan, &self.engine, armed_at.elapsed(), &self.plan.notes, &Known::default(),
                    )?;
                    output.live(&so_far)
                }
            };
            if step.is_err() {
                break step;
            }
        };
        let open = Open::look(&self.engine, &self.plan, &self.armed);
        self.engine.detach();
        let (unfinished, doubt) = open.unfinished(&self.engine, &self.plan);
        doubt.into_iter().for_each(|note| self.plan.note(note));
        let known = Known {
            unfinished,
            costs: self
                .costs
                .take()
                .and_then(|c| c.join().ok())
                .unwrap_or_default(),
        };
        // A look that failed has nothing to tell.
        let copies = self.inlined.take().and_then(|look| look.join().ok());
        for note in copies.unwrap_or_default() {
            self.plan.note(note);
        }
        self.tell_shared_stacks();
        let done = ended
            .and_then(|()| {
                c.drain(
                    &mut self.engine,
                    &self.plan,
                    self.selection.named().then_some(&self.armed),
                    output,
                )
            })
            .and_then(|()| {
                let only = self.selection.named().then_some(&self.armed);
                c.finish(only, output)
            })
            .and_then(|()| {
                let mut summary = c.summary(
                    &self.plan,
                    &self.engine,
                    armed_at.elapsed(),
                    &self.plan.notes,
                    &known,
                )?;
                if self.common.format == ReportFormat::Table
                    && summary.probes.iter().all(|p| p.hits == 0)
                {
                    summary.notes.push(NO_HITS.to_owned());
                }
                if self.late > NOTED {
                    let more = self.late - NOTED;
                    summary
                        .notes
                        .push(format!("the same is true of {more} more processes"));
                }
                let format = self.common.format;
                if format != ReportFormat::Table || self.common.output.is_some() {
                    tell_losses(&summary);
                }
                // A picture has no place for them.
                if matches!(format, ReportFormat::Folded | ReportFormat::Dot) {
                    summary
                        .notes
                        .iter()
                        .for_each(|note| eprintln!("uprof: {note}"));
                }
                output.finish(&summary)
            });
        match done {
            // The reader has left: a quiet end.
            Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
                return Err(e).context("cannot write the report");
            }
            _ => {}
        }
        Ok(ExitCode::from(status.unwrap_or(0) as u8))
    }

    fn live_interval(&self) -> Option<Duration> {
        let aggregates = self
            .plan
            .recipe
            .probes
            .iter()
            .any(|p| !matches!(p.action, recipes::Action::Event));
        let aggregates = aggregates || collect::adds_up(&self.plan);
        if self.common.format != ReportFormat::Table || !aggregates {
            return None;
        }
        let terminal = self.common.output.is_none() && TermInfo::of(&io::stdout()).is_terminal();
        self.common
            .interval
            .or_else(|| terminal.then_some(Duration::from_secs(1)))
    }

    /// Takes note of a process's start or end. True: there is nothing left to watch.
    fn changed(&mut self, change: Change) -> bool {
        match change {
            Change::Ended(pid) => {
                self.selection.pids.retain(|p| *p != pid);
                self.selection.pids.is_empty() && self.selection.comm.is_none()
            }
            Change::Started(start) => {
                let Some(name) = self.selection.comm.clone() else {
                    return false;
                };
                let fresh: Vec<Start> = match start {
                    Some(start) => vec![start],
                    None => process::by_comm(&name)
                        .iter()
                        .map(|p| Start {
                            pid: p.pid,
                            time_ns: now_ns(),
                        })
                        .collect(),
                };
                for start in fresh {
                    let known = self.armed.contains(&start.pid)
                        || self.settling.iter().any(|(s, _)| s.pid == start.pid);
                    let ours =
                        || Process::open(start.pid).is_ok_and(|p| target::comm_is(&p.comm, &name));
                    if !known && start.pid != std::process::id() && ours() {
                        self.settling.push((start, Instant::now()));
                    }
                }
                self.settle();
                false
            }
        }
    }

    /// Arms processes of the wanted name that have started, as soon as their libraries are in place.
    fn settle(&mut self) {
        for (start, since) in std::mem::take(&mut self.settling) {
            let selection = Selection {
                pids: vec![start.pid],
                ..self.selection.clone()
            };
            let armed = self.plan.place(&selection).and_then(|found| {
                if found.is_empty() && !self.plan.only_kernel() {
                    bail!("none of the functions is there");
                }
                if self.plan.variants.iter().any(Variant::in_kernel) {
                    self.engine.allow_kernel(start.pid)?;
                }
                self.arm(&found)
            });
            match armed {
                Ok(()) => {
                    self.armed.insert(start.pid);
                    let late = now_ns().saturating_sub(start.time_ns);
                    let name = self.selection.comm.as_deref().unwrap_or("?");
                    let note = format!(
                        "{name} (process {}) was armed {} after it started or took this name: calls before that are \
                         not in this report (start it with `-- COMMAND` to have them all, or use --all)",
                        start.pid,
                        report::units::duration(late as f64)
                    );
                    eprintln!("uprof: {note}");
                    self.late += 1;
                    if self.late <= NOTED {
                        self.plan.notes.push(note);
                    }
                }
                Err(_) if !target::alive(start.pid) => {}
                Err(_) if since.elapsed() < SETTLE => self.settling.push((start, since)),
                Err(e) => {
                    let note = format!("process {} could not be probed: {e:#}", start.pid);
                    eprintln!("uprof: {note}");
                    self.plan.notes.push(note);
                }
            }
        }
    }
}

/// Lets uprof run ahead of the programs that fill its buffer: on a busy machine it would wait its turn while
/// the buffer overflows. Where that is not permitted, nothing changes.
fn read_promptly() {
    // SAFETY: setpriority takes integers and changes only this process's nice value.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -10) };
}

fn report_format(format: ReportFormat) -> report::Format {
    match format {
        ReportFormat::Table => report::Format::Table,
        ReportFormat::Json => report::Format::Json,
        ReportFormat::Folded => report::Format::Folded,
        ReportFormat::Dot => report::Format::Dot,
    }
}

/// Losses are told on the terminal too when the report goes elsewhere.
fn tell_losses(summary: &Summary) {
    for probe in &summary.probes {
        for loss in probe.losses() {
            eprintln!("uprof: {}: {loss}", probe.probe);
        }
    }
}

/// Standard output without the line buffering of `std::io::stdout`: the report has its own buffer.
fn raw_stdout() -> Result<std::fs::File> {
    use std::os::fd::AsFd;
    Ok(std::fs::File::from(
        io::stdout()
            .as_fd()
            .try_clone_to_owned()
            .context("cannot write to standard output")?,
    ))
}

async fn wait(command: &mut Option<Running>) -> Result<Exit> {
    match command {
        Some(command) => Ok(command.wait().await?),
        None => std::future::pending().await,
    }
}

async fn readable(ring: Option<&AsyncFd<OwnedFd>>) -> io::Result<AsyncFdReadyGuard<'_, OwnedFd>> {
    match ring {
        Some(ring) => ring.readable().await,
        None => std::future::pending().await,
    }
}

fn far() -> tokio::time::Instant {
    tokio::time::Instant::now() + Duration::from_secs(86400 * 365)
}

/// CLOCK_MONOTONIC in ns, as the kernel's events have it.
fn now_ns() -> u64 {
    uprof_ebpf::monotonic_ns()
}

/// A descriptor of our own for the ring buffer, for the event loop.
fn owned(fd: RawFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the engine owns this descriptor and outlives the call, which only duplicates it.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    registered(fd.try_clone_to_owned()?)
}
