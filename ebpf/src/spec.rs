//! What to load: probes, their captures, keys and actions.

use crate::expr::Expr;

/// The most bytes one string or buffer capture can ask for.
pub const MAX_CAPTURE: u32 = 65536;
/// The most bytes a string in a key can have.
pub const MAX_KEY_STRING: u32 = 128;
/// The most frames of one stack (PERF_MAX_STACK_DEPTH, linux/perf_event.h).
pub const MAX_STACK_FRAMES: u8 = 127;
/// The most buckets of a linear histogram.
pub const MAX_LINEAR_BUCKETS: u32 = 1000;
/// The most values of one statistics action.
pub const MAX_STATS: usize = 16;
/// The most captures (saved and at return together) of one probe: one bit each in a record's
/// fault mask.
pub const MAX_CAPTURES: usize = 64;

/// One thing a record carries.
#[derive(Clone, PartialEq, Debug)]
pub enum Capture {
    /// A 64-bit word.
    Int(Expr),
    /// Addresses, innermost first, one word each ([`crate::Bytes::frames`]), of at most `frames`
    /// (1..=[`MAX_STACK_FRAMES`]); marked when cut there (at the kernel's own limit, which is the
    /// largest number, also where there are no more). A thread of the kernel has no user stack: it
    /// is empty, and so is a kernel stack in a probe on a program.
    ///
    /// User stacks are followed by the kernel, by frame pointers alone. The first address is that
    /// of the probed instruction; in a call's action it is where the call returned to. At the entry
    /// of a function that has not set up its frame pointer yet the next one is missing: the direct
    /// caller, the word at the stack pointer. (From Linux 6.11 on the kernel puts it in where the
    /// probed instruction is `push rbp` or `endbr64`.) Who needs it captures that word besides.
    Stack {
        /// The program's rather than the kernel's.
        user: bool,
        /// The most frames to take.
        frames: u8,
    },
    /// A string: NUL-terminated without `len`, else exactly `len` bytes with embedded NULs kept.
    /// Both up to `limit` bytes (1..=[`MAX_CAPTURE`]) and marked when cut.
    Str {
        /// Its address.
        addr: Expr,
        /// Its length, where the program knows it.
        len: Option<Expr>,
        /// The most bytes to take.
        limit: u32,
    },
    /// Exactly `len` bytes, up to `limit`, marked when cut.
    Buf {
        /// Its address.
        addr: Expr,
        /// Its length.
        len: Expr,
        /// The most bytes to take.
        limit: u32,
    },
    /// In a call's return part: what entry captured at that index of `Call::saved`.
    Saved(u16),
}

/// One part of an aggregation's key.
#[derive(Clone, PartialEq, Debug)]
pub enum KeyPart {
    /// A word.
    Int(Expr),
    /// The thread's name.
    Comm,
    /// `len` bytes, of at most `limit` (1..=[`MAX_KEY_STRING`]); longer ones are cut there.
    Buf {
        /// Its address.
        addr: Expr,
        /// Its length.
        len: Expr,
        /// The most bytes to take.
        limit: u32,
    },
    /// A stack as in [`Capture::Stack`]; stacks are kept apart, see `Engine::stack`. Where one cannot
    /// be kept the hit is dropped for want of memory.
    Stack {
        /// The program's rather than the kernel's.
        user: bool,
    },
    /// A string, NUL-terminated without `len`, of at most `limit` bytes (1..=[`MAX_KEY_STRING`]);
    /// longer ones are cut there, so that they share a key.
    Str {
        /// Its address.
        addr: Expr,
        /// Its length, where the program knows it.
        len: Option<Expr>,
        /// The most bytes to take.
        limit: u32,
    },
}

/// What a hit that passes its filter does.
#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    /// Sends a record.
    Event {
        /// What the record carries.
        captures: Vec<Capture>,
    },
    /// Counts; with an empty key per site only (`Engine::site_hits`).
    Count {
        /// The key.
        key: Vec<KeyPart>,
    },
    /// Of a call that saves nothing: from its entry to its end `value` is what runs on this
    /// thread, for [`FrameName::Running`]; afterwards it is what it was before. All probes of the
    /// engine share it. Its own frames are named by the stack. Each such hit counts as aggregated.
    Running {
        /// What runs: a coroutine's address.
        value: Expr,
    },
    /// Of a call: adds `value` to a histogram ([`Scale::Log`]), and where its latency went to sums, see
    /// [`crate::BreakdownData`].
    Breakdown {
        /// The value; unsigned.
        value: Expr,
        /// The key; empty: one for the probe.
        key: Vec<KeyPart>,
    },
    /// Adds to a histogram.
    Histogram {
        /// The value; unsigned, but for [`Scale::Linear`], which takes it as signed.
        value: Expr,
        /// The key; empty: one histogram for the probe.
        key: Vec<KeyPart>,
        /// Its buckets.
        scale: Scale,
    },
    /// Counts, and keeps sum, least and largest of each value, as signed 64-bit words (the sum
    /// wraps), see [`crate::StatsData`]. Where one of the values cannot be read the hit is filtered.
    Stats {
        /// The values: 1..=[`MAX_STATS`].
        values: Vec<Expr>,
        /// The key; empty: one for the probe.
        key: Vec<KeyPart>,
    },
}

/// The buckets of a histogram.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Scale {
    /// Log-linear, see [`crate::hist`].
    #[default]
    Log,
    /// `buckets` of the same width from `from` on, and one for all values below, one for all above.
    Linear {
        /// The least value of the first bucket.
        from: i64,
        /// The width of each; not 0.
        step: u64,
        /// How many: 1..=[`MAX_LINEAR_BUCKETS`].
        buckets: u32,
    },
}

/// What a probe sits on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum On {
    /// Instructions of programs: [`crate::AttachSite`].
    #[default]
    Program,
    /// Events of the kernel: [`crate::KernelSite`]. [`Expr::Arg`] and [`Expr::Retval`] are those
    /// of the kernel's function, [`Expr::Reg`] is not known.
    Kernel(KernelSource),
}

/// How the kernel tells of an event.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum KernelSource {
    /// A tracepoint with its record: [`Expr::Field`] and [`Expr::Context`]. As a call: from one
    /// tracepoint to another on the same thread (entry and exit of a system call), whose
    /// [`Expr::Retval`] is the word at offset 16 of the second one's record.
    Tracepoint,
    /// A tracepoint's arguments as the kernel passes them (`TP_PROTO`): [`Expr::Arg`].
    RawTracepoint,
    /// A kernel function by fentry and fexit (Linux 5.5).
    Function,
    /// A kernel function by kprobe and kretprobe. Of calls that are open at once the kernel sees as
    /// many returns as it has CPUs, with CONFIG_PREEMPTION and in newer ones twice as many and 10 at
    /// least (`register_kretprobe` in kernel/kprobes.c; perf events cannot ask for more); the others
    /// are unpaired.
    Kprobe,
}

/// What is probed.
#[derive(Clone, PartialEq, Debug)]
pub enum ProbeKind {
    /// A place in the code: the action runs at once.
    Entry,
    /// A call: the action runs at the return.
    Call {
        /// Captured at entry, kept until the return.
        saved: Vec<Capture>,
        /// Tested at the return.
        filter: Option<Expr>,
        /// How the return is seen.
        returns: Returns,
        /// What tells this call from other open ones.
        frame: FrameName,
    },
}

/// How the end of a call is seen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Returns {
    /// The kernel replaces the return address on the stack (session, else uretprobe): cheap, and
    /// deadly to programs that move or read their stacks.
    #[default]
    Replaced,
    /// Probes on the instructions by which the function is left ([`crate::AttachSite::exits`]):
    /// the stack stays as it is. Never by a session.
    Exits,
}

/// What names a call's frame beside the process (and the site). In a session that keeps nothing
/// but the time there are no frames: the kernel pairs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum FrameName {
    /// The stack pointer at entry.
    #[default]
    Stack,
    /// Go 1.17 and later on x86-64: the goroutine (its `g` in r14), and how far the stack pointer
    /// is below the top of its stack (`g.stack.hi`, the second word of `g`): the same after the
    /// runtime has moved the stack. Where `g` cannot be read at entry the hit is filtered and
    /// counted as unreadable.
    Goroutine,
    /// The stack pointer, and what the probe with [`Action::Running`] says to run on this thread
    /// (0 where it says nothing): for coroutines that take turns on one stack.
    Running,
    /// The thread, which is in one system call at a time: of calls from one tracepoint to another
    /// ([`KernelSource::Tracepoint`]). Those of the kernel's functions are named by where they are on
    /// the kernel's stack. What a probe on the kernel says here makes no difference; one on a program
    /// cannot say this.
    Thread,
}

/// One probe.
#[derive(Clone, PartialEq, Debug)]
pub struct ProbeSpec {
    /// Its name, for errors and for the kernel's list of programs.
    pub name: String,
    /// What it sits on.
    pub on: On,
    /// Of so many hits (at most 2^31 - 1) one goes on, the others are
    /// [`crate::Counters::unsampled`]; 0 and 1: all. It is drawn by a random number before the
    /// filter is asked: of `k` that went on, `k * sample` estimates all, with a relative standard
    /// error of `1 / sqrt(k)`. In a call its entry decides, and a session's return then costs
    /// nothing. [`Action::Running`] cannot be sampled.
    pub sample: u32,
    /// How many distinct site indexes it can be attached with.
    pub sites: u32,
    /// What is probed.
    pub kind: ProbeKind,
    /// Tested at entry; no, or memory that could not be read: the hit is filtered.
    pub filter: Option<Expr>,
    /// For events: evaluated where a filter said no, at the point where the record would be sent
    /// (a call's return). True: the record is sent marked `kept`, and counted as filtered; it
    /// serves joins only.
    pub keep: Option<Expr>,
    /// What to do.
    pub action: Action,
}

impl ProbeSpec {
    /// Whether it asks where the time of its calls goes.
    pub(crate) fn asks_for_spent(&self) -> bool {
        let call = matches!(self.kind, ProbeKind::Call { .. });
        let action = matches!(self.action, Action::Breakdown { .. });
        call && (action || self.any(&|e| matches!(e, Expr::Spent(_))))
    }

    /// Whether `test` says yes to any of its expressions or a part of one.
    pub(crate) fn any(&self, test: &dyn Fn(&Expr) -> bool) -> bool {
        let is = |e: &Expr| e.any(test);
        let bytes = |addr: &Expr, len: Option<&Expr>| is(addr) || len.is_some_and(is);
        let capture = |c: &Capture| match c {
            Capture::Int(e) => is(e),
            Capture::Str { addr, len, .. } => bytes(addr, len.as_ref()),
            Capture::Buf { addr, len, .. } => bytes(addr, Some(len)),
            Capture::Saved(_) | Capture::Stack { .. } => false,
        };
        let part = |p: &KeyPart| match p {
            KeyPart::Int(e) => is(e),
            KeyPart::Str { addr, len, .. } => bytes(addr, len.as_ref()),
            KeyPart::Buf { addr, len, .. } => bytes(addr, Some(len)),
            KeyPart::Comm | KeyPart::Stack { .. } => false,
        };
        let kind = match &self.kind {
            ProbeKind::Entry => false,
            ProbeKind::Call { saved, filter, .. } => {
                saved.iter().any(capture) || filter.as_ref().is_some_and(is)
            }
        };
        let action = match &self.action {
            Action::Event { captures } => captures.iter().any(capture),
            Action::Count { key } => key.iter().any(part),
            Action::Histogram { value, key, .. } | Action::Breakdown { value, key } => {
                is(value) || key.iter().any(part)
            }
            Action::Stats { values, key } => values.iter().any(is) || key.iter().any(part),
            Action::Running { value } => is(value),
        };
        kind || action || [&self.filter, &self.keep].into_iter().flatten().any(is)
    }
}

/// How a probe is attached.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Mechanism {
    /// Entry and return in one `uprobe_multi` session link (Linux 6.13): the kernel pairs them.
    Session,
    /// `uprobe_multi` links (Linux 6.6).
    Multi,
    /// One perf event per site.
    Perf,
}

impl std::fmt::Display for Mechanism {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Mechanism::Session => "session",
            Mechanism::Multi => "uprobe_multi",
            Mechanism::Perf => "perf event",
        })
    }
}

/// How to load.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EngineOptions {
    /// Bytes of the ring buffer; rounded up to a power of two of at least a page, and to what
    /// the largest record needs. Created only if a probe sends events.
    pub ring_bytes: u32,
    /// Keys of each keyed aggregation; further ones are counted as dropped. Preallocated:
    /// a keyed histogram takes 7.9 KiB per key, so its keys are bounded to 64 MiB together.
    pub max_keys: u32,
    /// Fewer for a histogram (for a linear one as many as take that memory): creating a table of 1024 keys takes some 20 ms and 8 MB.
    pub max_histograms: u32,
    /// Calls open at once of each probe, where the kernel does not pair them, and of all probes
    /// together, where one asks for depth, own time or parent; bounded to 16 MiB.
    pub max_frames: u32,
    /// Forces the mechanism, for tests; an entry probe takes `Session` as `Multi`.
    pub mechanism: Option<Mechanism>,
    /// Calls by a return probe of their own rather than in a session.
    pub no_session: bool,
    /// Generates what the oldest supported kernel (5.10) takes even on a newer one: no
    /// compare-and-exchange, no cookies, no pid filter of the kernel. For tests.
    pub oldest: bool,
    /// Keeps the verifier's log of a refused program in the error.
    pub verifier_log: bool,
}

impl Default for EngineOptions {
    fn default() -> Self {
        EngineOptions {
            ring_bytes: 16 << 20,
            max_keys: 8192,
            max_histograms: 256,
            max_frames: 16384,
            mechanism: None,
            no_session: false,
            oldest: false,
            verifier_log: false,
        }
    }
}
