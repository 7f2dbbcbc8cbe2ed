//! Program shapes: a probe's expressions and action put together.
//!
//! Registers, throughout: R6 the task's registers, R7 the probe's block of counters in this CPU's
//! shard, R8 the record being built or the call's frame, R9 the end of its bytes or a histogram's
//! value. `flow` below reads top to bottom as a hit does; `record` builds and sends records,
//! `aggregate` and `add` counts, histograms and statistics, `frame` open calls, `kept` those that
//! are kept with their thread, `exit` which of them an instruction ends, `running` what runs on a
//! thread, `nesting` which returns the kernel will not see, `chain` which open call is around
//! which, `turn` which of two programs counts an entry, `sample` which hits are left out, `reads`
//! the filter and what is read once for all that ask for it, `spent` where the time of a call went
//! and `clocks` what tells, `stack` stacks, `kernel` what is particular to probes on the kernel.

mod add;
mod aggregate;
mod chain;
mod check;
pub(crate) mod clocks;
pub(crate) mod exit;
mod frame;
mod kept;
mod kernel;
mod nesting;
mod reads;
mod record;
mod running;
mod sample;
mod spent;
mod stack;
#[cfg(test)]
mod tests;
pub(crate) mod turn;
#[cfg(test)]
mod vm;

use crate::asm::{Alu, Cmp, Code, Kfunc, Label, MapRef, Reg, Size};
use crate::error::Error;
use crate::expr::Phase;
use crate::expr::compile::{Emitter, Reason};
use crate::expr::input::MAX_KERNEL_ARGS;
use crate::helper;
use crate::layout::{
    Block, Counter, FrameKind, MAX_PIDS, MAX_VALUE, PIDS, RecordLayout, StateLayout, header,
    kept_stack,
};
use crate::spec::{
    Action, FrameName, KernelSource, MAX_CAPTURES, Mechanism, On, ProbeKind, ProbeSpec, Returns,
};

pub(crate) use chain::{CHAIN, Chains, TOPS};
pub(crate) use kept::array_bytes;
pub(crate) use nesting::Pending;
pub(crate) use stack::in_key as keeps_stacks;

use Reg::{R0, R1, R2, R6, R7, R8, R10};

/// Which part of a probe a program is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Part {
    /// An entry probe, or a call's entry.
    Entry,
    /// A call's return.
    Return,
    /// An instruction by which a call may end.
    Exit,
    /// Both of a call's ends.
    Session,
}

impl Part {
    pub fn name(self) -> &'static str {
        match self {
            Part::Entry => "entry",
            Part::Return => "return",
            Part::Exit => "exit",
            Part::Session => "call",
        }
    }

    /// The programs of a probe.
    pub fn of(spec: &ProbeSpec, mechanism: Mechanism) -> &'static [Part] {
        match (&spec.kind, returns(spec), mechanism) {
            (ProbeKind::Entry, ..) => &[Part::Entry],
            _ if spec.on != On::Program => &[Part::Entry, Part::Return],
            (_, Returns::Exits, _) => &[Part::Entry, Part::Exit],
            (_, _, Mechanism::Session) => &[Part::Session],
            _ => &[Part::Entry, Part::Return],
        }
    }
}

/// How the end of a probe's calls is seen.
pub(crate) fn returns(spec: &ProbeSpec) -> Returns {
    match spec.kind {
        ProbeKind::Call { returns, .. } => returns,
        ProbeKind::Entry => Returns::Replaced,
    }
}

/// What names a probe's frames. A call that says what runs cannot itself be named by that.
pub(crate) fn frame_name(spec: &ProbeSpec) -> FrameName {
    match spec.on {
        On::Program => {}
        On::Kernel(KernelSource::Function | KernelSource::Kprobe) => return FrameName::Stack,
        On::Kernel(_) => return FrameName::Thread,
    }
    match (&spec.kind, &spec.action) {
        (_, Action::Running { .. }) | (ProbeKind::Entry, _) => FrameName::Stack,
        (ProbeKind::Call { frame, .. }, _) => *frame,
    }
}

/// Where a program learns the index of its site.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum SiteSource {
    /// From the link's cookie.
    Cookie,
    /// It is a constant (a program per site, or only one site): what the cookie would be.
    Constant(u64),
    /// The same in the kernel.
    Kernel {
        /// The index of the site.
        site: u32,
        /// How many arguments its function takes, if it is one.
        arguments: u8,
    },
}

impl SiteSource {
    /// Of a program that is not to be attached: of a place that nothing is known of.
    pub const ANY_KERNEL: SiteSource = SiteSource::Kernel {
        site: 0,
        arguments: MAX_KERNEL_ARGS,
    };
}

/// What the programs of an engine share.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Target {
    /// Compare-and-exchange and fetching additions (Linux 5.12).
    pub atomics: bool,
    /// Programs test the process id themselves.
    pub pid_test: bool,
    /// Sessions keep small frames with their thread.
    pub task_storage: bool,
    /// If a probe asks where in others its calls are.
    pub chains: Option<Chains>,
    /// Where the kernel counts the returns that are pending on a thread; not known without BTF.
    pub pending: Option<Pending>,
    pub ring_bytes: u32,
    pub scratch: ScratchLayout,
    pub state: StateLayout,
    /// Probes whose programs take over from others that are attached.
    pub successors: Vec<usize>,
}

/// Scratch memory in which records with strings are built: slots of one ARRAY value, each with a
/// word that says it is taken.
///
/// With atomics a slot is claimed by compare-and-exchange, starting at one picked by the thread
/// (in the kernel, where the idle threads of all CPUs share a number, by the CPU), so that a
/// preempted or interrupted program keeps its own. Before Linux 5.12 programs run with preemption
/// off, and a slot belongs to a CPU: an interrupt's program ends before the one it interrupted goes
/// on, so that a plain load and store claim; where it finds the slot taken its hit is dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct ScratchLayout {
    /// A power of two; 0 when no probe needs scratch.
    pub slots: u32,
    /// Bytes of a slot: the word that claims it, then the record.
    pub size: u32,
}

impl ScratchLayout {
    /// Slots that are tried before a hit is dropped.
    pub const TRIES: u32 = 8;

    pub fn new(probes: &[ProbeSpec], cpus: u32, atomics: bool) -> Option<ScratchLayout> {
        let record = probes.iter().map(scratch_bytes).filter(|bytes| *bytes > 0);
        let Some(record) = record.max() else {
            return Some(ScratchLayout::default());
        };
        let size = (record + 8).next_multiple_of(64);
        let fit = MAX_VALUE / size;
        let cpus = cpus.max(1).next_power_of_two();
        let slots = if atomics {
            // The largest power of two that fits, within reason.
            (1u32 << fit.checked_ilog2()?).min(512.max(cpus))
        } else if cpus <= fit {
            cpus
        } else {
            return None;
        };
        Some(ScratchLayout { slots, size })
    }
}

/// Scratch memory that a probe needs: of records with bytes that are not built in a call's frame,
/// or of stacks in keys.
fn scratch_bytes(spec: &ProbeSpec) -> u32 {
    match &spec.action {
        Action::Event { .. } if FrameKind::of(spec) != FrameKind::Record => {
            let layout = RecordLayout::new(spec);
            if layout.has_bytes() { layout.size() } else { 0 }
        }
        action if stack::in_key(action) => kept_stack::SIZE,
        _ => 0,
    }
}

/// Compiles one program of probe `index`.
pub(crate) fn compile(
    index: usize,
    spec: &ProbeSpec,
    part: Part,
    site: SiteSource,
    target: &Target,
) -> Result<Code, Error> {
    let fail = |(what, reason): Wrong| Error::Compile {
        probe: spec.name.clone(),
        what,
        reason,
    };
    check::check(spec).map_err(fail)?;
    let layout = RecordLayout::new(spec);
    let Some(block) = target.state.blocks.get(index).copied() else {
        return Err(fail(("its counters".into(), "have no place".into())));
    };
    let program = |shares| Program {
        emit: Emitter::new(spec.on, Phase::Entry),
        spec,
        index: index as u16,
        target,
        block,
        frame: FrameKind::of(spec),
        in_frame: false,
        part,
        site_source: match site {
            SiteSource::Cookie if spec.sites <= 1 && part != Part::Exit => SiteSource::Constant(0),
            other => other,
        },
        layout: &layout,
        site: None,
        kept: None,
        latency: None,
        now: None,
        frame_key: None,
        shares,
    };
    // Where a record may be kept although its filter said no, what the filter has read is not known.
    let mut made = program(spec.keep.is_none());
    let mut done = made.flow();
    if done.is_err() && made.shares {
        // What is shared takes room on the stack.
        made = program(false);
        done = made.flow();
    }
    done.map_err(fail)?;
    let whole = |reason| fail(("the program".into(), reason));
    made.emit.asm.finish().map_err(whole)
}

/// Which part of a probe is wrong, and why.
pub(crate) type Wrong = (String, Reason);

/// Says which part it was.
fn part_of<T>(what: &str, result: Result<T, Reason>) -> Result<T, Wrong> {
    result.map_err(|reason| (what.to_string(), reason))
}

/// One program being put together.
struct Program<'a> {
    emit: Emitter<'a>,
    spec: &'a ProbeSpec,
    index: u16,
    target: &'a Target,
    block: Block,
    frame: FrameKind,
    /// R8 is the call's frame, and the record is built there.
    in_frame: bool,
    part: Part,
    site_source: SiteSource,
    layout: &'a RecordLayout,
    /// Stack slots.
    site: Option<i16>,
    kept: Option<i16>,
    latency: Option<i16>,
    now: Option<i16>,
    frame_key: Option<i16>,
    /// What comes more than once is read once.
    shares: bool,
}

impl Program<'_> {
    fn flow(&mut self) -> Result<(), Wrong> {
        if self.on_program() {
            self.keep_own_stack();
        }
        self.emit.asm.mov(R6, R1);
        match (&self.spec.kind, self.part) {
            (ProbeKind::Entry, _) => {
                self.top()?;
                let (reject, unsampled) = (self.emit.asm.label(), self.emit.asm.label());
                self.sample(unsampled);
                self.copy_given()?;
                self.share()?;
                self.filter("the filter", &self.spec.filter, reject)?;
                self.act(reject)?;
                self.emit.asm.bind(unsampled);
                self.count(Counter::Unsampled);
                self.leave()
            }
            (ProbeKind::Call { .. }, Part::Entry) => self.call_entry(),
            (ProbeKind::Call { .. }, Part::Return | Part::Exit) => self.call_return(),
            (ProbeKind::Call { .. }, Part::Session) => {
                let returned = self.emit.asm.label();
                self.emit.asm.mov(R1, R6);
                self.emit.asm.call_kfunc(Kfunc::SessionIsReturn);
                // It is a bool: the rest of the register is not defined.
                self.emit.asm.alu_imm(Alu::And, R0, 1);
                self.emit.asm.jump_if_imm(Cmp::Ne, R0, 0, returned);
                self.call_entry()?;
                self.emit.asm.bind(returned);
                self.call_return()
            }
        }
    }

    /// Has the program run on its thread's stack. Since Linux 6.13 one that takes 64 bytes or more
    /// gets a stack that all its runs on a CPU share, also where, as at a uprobe, a thread can be
    /// preempted amid it by another that runs it too (`bpf_enable_priv_stack` in
    /// kernel/bpf/verifier.c): keys and frames of calls get mixed up. Programs with tail calls get
    /// none; that this one is never made the verifier sees, and removes it.
    fn keep_own_stack(&mut self) {
        let asm = &mut self.emit.asm;
        let begin = asm.label();
        asm.constant(R0, 1);
        asm.jump_if_imm(Cmp::Ne, R0, 0, begin);
        asm.call(helper::TAIL_CALL);
        asm.bind(begin);
    }

    /// What every hit begins with: is it one of ours, which counters, which site, one hit.
    fn top(&mut self) -> Result<(), Wrong> {
        match self.spec.on {
            On::Program if self.target.pid_test => self.pid_test(),
            On::Program => {}
            On::Kernel(_) => self.only_in_processes()?,
        }
        self.only_in_turn();
        self.counters();
        self.find_site()?;
        self.count(Counter::Hits);
        if !self.counts_sites() {
            self.count_site();
        }
        Ok(())
    }

    /// Leaves unless the process is one of those asked for.
    fn pid_test(&mut self) {
        let asm = &mut self.emit.asm;
        let ours = asm.label();
        asm.call(helper::GET_CURRENT_PID_TGID);
        asm.alu_imm(Alu::Rsh, R0, 32);
        asm.map_value(R1, MapRef::State, PIDS);
        asm.load(Size::DW, R2, R1, 0);
        asm.jump_if_imm(Cmp::Eq, R2, 0, ours);
        for i in 0..MAX_PIDS {
            asm.load(Size::DW, R2, R1, 8 * i as i16);
            asm.jump_if(Cmp::Eq, R2, R0, ours);
        }
        asm.constant(R0, 0);
        asm.exit();
        asm.bind(ours);
    }

    fn on_program(&self) -> bool {
        self.spec.on == On::Program
    }

    /// R7 = this probe's block in this CPU's shard.
    fn counters(&mut self) {
        let state = &self.target.state;
        let asm = &mut self.emit.asm;
        if state.shards > 1 {
            asm.call(helper::GET_SMP_PROCESSOR_ID);
            asm.alu_imm(Alu::And, R0, state.shards as i32 - 1);
            asm.alu_imm(Alu::Mul, R0, state.stride as i32);
        }
        asm.map_value(R7, MapRef::State, state.first_shard + self.block.offset);
        if state.shards > 1 {
            asm.alu(Alu::Add, R7, R0);
        }
    }

    /// Puts the site's index on the stack, where there is more than one.
    fn find_site(&mut self) -> Result<(), Wrong> {
        if self.spec.sites <= 1 {
            return Ok(());
        }
        let slot = match self.site {
            Some(slot) => slot,
            None => part_of("the program", self.emit.take(8))?,
        };
        self.site = Some(slot);
        self.cookie();
        self.emit.asm.store(Size::DW, R10, slot, R0);
        Ok(())
    }

    /// R0 = the link's cookie.
    fn cookie(&mut self) {
        let asm = &mut self.emit.asm;
        match self.site_source {
            SiteSource::Constant(cookie) => asm.constant(R0, cookie),
            SiteSource::Kernel { site, .. } => asm.constant(R0, site.into()),
            SiteSource::Cookie => {
                asm.mov(R1, R6);
                asm.call(helper::GET_ATTACH_COOKIE);
            }
        }
    }

    fn count(&mut self, counter: Counter) {
        self.emit.asm.constant(R1, 1);
        self.emit.asm.atomic_add(R7, 8 * counter as i16, R1);
    }

    /// Site counters count what was aggregated, not hits.
    fn counts_sites(&self) -> bool {
        matches!(&self.spec.action, Action::Count { key } if key.is_empty())
    }

    fn count_site(&mut self) {
        let (Some(slot), Some(offset)) = (self.site, self.block.sites) else {
            return;
        };
        let asm = &mut self.emit.asm;
        let skip = asm.label();
        asm.load(Size::DW, R1, R10, slot);
        asm.jump_if_imm(Cmp::Ge, R1, self.spec.sites as i32, skip);
        asm.alu_imm(Alu::Lsh, R1, 3);
        asm.alu(Alu::Add, R1, R7);
        asm.constant(R2, 1);
        asm.atomic_add(R1, offset as i16, R2);
        asm.bind(skip);
    }

    /// The action of a hit that passed its filters, and what becomes of one at `reject`.
    fn act(&mut self, reject: Label) -> Result<(), Wrong> {
        let end = self.emit.asm.label();
        match &self.spec.action {
            Action::Event { captures } => self.event(captures, reject, end)?,
            action => {
                self.aggregate(action, end)?;
                self.emit.asm.bind(reject);
                self.count(Counter::Filtered);
            }
        }
        self.emit.asm.bind(end);
        self.leave()
    }

    /// The end of a hit.
    fn leave(&mut self) -> Result<(), Wrong> {
        if self.emit.phase == Phase::Return {
            self.drop_frame();
        }
        self.emit.asm.constant(R0, 0);
        self.emit.asm.exit();
        Ok(())
    }

    /// Sets a slot's bit in one of the record's masks.
    fn mark(&mut self, mask: i16, slot: usize) {
        let asm = &mut self.emit.asm;
        asm.load(Size::DW, R1, R8, mask);
        asm.constant(R2, 1 << (slot & 63));
        asm.alu(Alu::Or, R1, R2);
        asm.store(Size::DW, R8, mask, R1);
    }
}

const _: () = assert!(header::SIZE as usize + 8 * MAX_CAPTURES < i16::MAX as usize);
