//! What a recipe is, once checked. Everything has public fields or plain constructors, since `uprof malloc`,
//! `latency`, `trace` and `count` write a recipe in memory.

mod objects;

use std::ops::Range;
use std::sync::Arc;

use crate::error::{Error, Source};
use crate::expr::{Expr, Spent};

pub use objects::ObjectRule;

/// The default of [`Probe::text_limit`]: how much of a text or buffer is captured, in bytes.
pub const DEFAULT_TEXT_LIMIT: u32 = 1024;
/// The largest [`Probe::text_limit`], in bytes.
pub const MAX_TEXT_LIMIT: u32 = 64 * 1024;

/// Something with its place in the recipe's text (an empty range at 0 when it came from flags).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spanned<T> {
    /// The thing itself.
    pub value: T,
    /// Byte range in the recipe's [`Source`].
    pub span: Range<usize>,
}

impl<T> From<T> for Spanned<T> {
    fn from(value: T) -> Self {
        Spanned { value, span: 0..0 }
    }
}

/// A checked recipe.
#[derive(Clone, Debug, Default)]
pub struct Recipe {
    /// Its name: the file's stem, or the built-in's name.
    pub name: String,
    /// One line: what it shows.
    pub about: String,
    /// Remarks for whoever reads the numbers, one a line.
    pub notes: Vec<String>,
    /// Which processes and objects it looks at.
    pub target: Target,
    /// Its parameters, in the order of the text.
    pub params: Vec<Param>,
    /// The probes that are switched on under the present parameters, in the order of the text.
    pub probes: Vec<Probe>,
    /// How records are joined in user space.
    pub join: Option<Join>,
    /// What is added to the name of a call's frame.
    pub frame: Option<FrameKey>,
    /// How it is shown.
    pub report: Report,
    /// The text it was read from; `None` for one written from flags.
    pub source: Option<Arc<Source>>,
}

/// Which processes and objects a recipe looks at. All empty: the command line says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// Programs, by name as on PATH or as a running comm; any of them.
    pub program: Vec<String>,
    /// Libraries as the process maps them (`libc`); any of them.
    pub library: Vec<String>,
    /// The object in which the process binds this symbol: `malloc` finds the allocator.
    pub binds: Option<String>,
}

/// A parameter: `--set name=value`, or a flag `--name value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// `min_latency`, written `$min_latency` in expressions.
    pub name: String,
    /// What values it takes.
    pub kind: ParamKind,
    /// Its value when none is given. `None`: one must be given.
    pub default: Option<Value>,
    /// Its value now: as set, else the default.
    pub value: Option<Value>,
    /// Of a text: the values that there are; empty: any.
    pub choices: Vec<String>,
    /// One line of help.
    pub help: String,
}

/// The type of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamKind {
    /// `10ms`; in expressions an integer in nanoseconds.
    Duration,
    /// `4KiB`; in expressions an integer in bytes.
    Size,
    /// A signed 64-bit integer.
    Int,
    /// A text.
    String,
    /// `true` or `false`; in expressions 1 or 0.
    Bool,
}

/// A parameter's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Nanoseconds.
    Duration(u64),
    /// Bytes.
    Size(u64),
    /// An integer.
    Int(i64),
    /// A text.
    String(String),
    /// A truth.
    Bool(bool),
}

/// When a probe fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeKind {
    /// `[[probe]]`: at the entry of a function.
    Entry,
    /// `[[call]]`: entry and return of a function, paired.
    Call,
}

/// On whose behalf the kernel runs where a probe fires.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Context {
    /// The running thread's: `pid`, `comm` and the like are known, and filters by process hold.
    #[default]
    Thread,
    /// Anybody's: in interrupts the running thread has nothing to do with the event. `pid`, `comm` and the like are
    /// unknown, and no filter by process is possible.
    Any,
    /// The running thread's or anybody's, which the recipe tells apart by itself, as by `sk_lock.owned` of a socket. No
    /// filter by process is made; `pid`, `comm` and the like may be asked for.
    Either,
}

impl Context {
    /// Whether nobody knows beforehand that the running thread does what is probed.
    pub fn is_doubtful(self) -> bool {
        self != Context::Thread
    }
}

/// What provides a place to probe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Provider {
    /// The program: functions, USDT probes, lines of source.
    #[default]
    Program,
    /// `kernel:FUNCTION`
    KernelFunction,
    /// `tracepoint:GROUP:NAME`: a tracepoint's record.
    Tracepoint,
    /// `rawtracepoint:NAME`: a tracepoint's arguments.
    RawTracepoint,
    /// `syscall:NAME`: a system call, entry and return.
    Syscall,
}

impl Provider {
    /// The kernel's, each with what stands in front of the name.
    pub const KERNEL: [(&'static str, Provider); 4] = [
        ("kernel:", Provider::KernelFunction),
        ("tracepoint:", Provider::Tracepoint),
        ("rawtracepoint:", Provider::RawTracepoint),
        ("syscall:", Provider::Syscall),
    ];

    /// Who provides what a pattern names, and the name without what stands in front.
    pub fn of(pattern: &str) -> (Provider, &str) {
        let kernel = Provider::KERNEL.iter();
        let mut known = kernel.filter_map(|(p, of)| Some((*of, pattern.strip_prefix(p)?)));
        // `kernel::launch(int)` is a function of C++.
        let found = known.next().filter(|(_, name)| !name.starts_with(':'));
        found.unwrap_or((Provider::Program, pattern))
    }

    /// Whether it is the kernel.
    pub fn is_kernel(self) -> bool {
        self != Provider::Program
    }

    /// What it provides, in a sentence: "a tracepoint".
    pub fn describe(self) -> &'static str {
        match self {
            Provider::Program => "a place in a program",
            Provider::KernelFunction => "a function of the kernel",
            Provider::Tracepoint => "a tracepoint",
            Provider::RawTracepoint => "a raw tracepoint",
            Provider::Syscall => "a system call",
        }
    }
}

/// How the return of a call is seen (`return`, `--return`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Returns {
    /// What cannot harm the target; of that the cheapest.
    #[default]
    Auto,
    /// The kernel pairs entry and return (Linux 6.13); it replaces the return address.
    Session,
    /// A return probe, which replaces the return address.
    Uretprobe,
    /// Probes on the instructions by which the function is left.
    Ret,
    /// Not at all: the call is only seen to begin.
    None,
}

impl Returns {
    /// Each with its word in recipes and on the command line.
    pub const ALL: [(&'static str, Returns); 5] = [
        ("auto", Returns::Auto),
        ("session", Returns::Session),
        ("uretprobe", Returns::Uretprobe),
        ("ret", Returns::Ret),
        ("none", Returns::None),
    ];

    /// Its word.
    pub fn word(self) -> &'static str {
        let found = Returns::ALL.iter().find(|(_, returns)| *returns == self);
        found.map_or("auto", |(word, _)| word)
    }
}

/// `[frame]`: what tells calls apart whose coroutines take turns on one stack.
#[derive(Clone, Debug, PartialEq)]
pub struct FrameKey {
    /// The functions that run a coroutine until it yields, as in [`At::functions`].
    pub functions: Vec<Spanned<String>>,
    /// Which coroutine, at their entry: an integer or pointer, made of arguments and constants alone.
    pub running: Expr,
    /// One line: what runs there.
    pub about: Option<String>,
}

/// A probe: one function in one or several spellings, and what is done at each hit.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// Unique among the probes that are switched on.
    pub name: String,
    /// Entry, or entry and return.
    pub kind: ProbeKind,
    /// Where: tried in order, the first that matches the binary is used. Never empty.
    pub at: Vec<At>,
    /// Only hits for which this is not 0 count; others are filtered. May use captures.
    pub where_: Option<Expr>,
    /// Of the filtered hits, those still sent for joins alone.
    pub keep: Option<Expr>,
    /// What is done with a hit.
    pub action: Action,
    /// When nothing matches, the probe is left out in silence.
    pub optional: bool,
    /// Its events feed a join and are not shown.
    pub hidden: bool,
    /// How many bytes of each text or buffer are captured: 1 to [`MAX_TEXT_LIMIT`].
    pub text_limit: u32,
    /// Of so many hits one is looked at; 1: all. Counts, sums and histograms are scaled up when they are shown, and said
    /// to be.
    pub sample: u32,
    /// Of a count, histogram or sums with a key: how many keys are shown, the largest first. `None`: all.
    pub top: Option<u32>,
    /// On whose behalf the kernel runs where it fires.
    pub context: Context,
    /// Where it is looked for; `None`: where the recipe says. Not for places in the kernel.
    pub target: Option<Target>,
    /// One line: what a hit means.
    pub about: Option<String>,
    /// Of a call: how its return is seen.
    pub returns: Returns,
    /// Of a call: no caller of the function catches exceptions, so that one which crosses it ends the program with or
    /// without probes; at all its places. See [`At::uncaught`].
    pub uncaught: bool,
    /// Of a call with events or a histogram: where its time goes is told. Its places then capture all of [`Spent::ALL`],
    /// if it sends events.
    pub breakdown: bool,
}

impl Probe {
    /// A probe that emits an event for each hit, with no filter.
    pub fn new(name: impl Into<String>, kind: ProbeKind, at: Vec<At>) -> Probe {
        Probe {
            name: name.into(),
            kind,
            at,
            where_: None,
            keep: None,
            action: Action::Event,
            optional: false,
            hidden: false,
            text_limit: DEFAULT_TEXT_LIMIT,
            sample: 1,
            top: None,
            context: Context::Thread,
            target: None,
            about: None,
            returns: Returns::Auto,
            uncaught: false,
            breakdown: false,
        }
    }

    /// Has it tell where the time of its calls goes.
    pub fn break_down(&mut self) {
        self.breakdown = true;
        if self.action != Action::Event {
            return;
        }
        for at in &mut self.at {
            let new = Spent::ALL.map(|on| (on.name().to_owned(), Expr::spent(on)));
            at.capture.retain(|(name, _)| Spent::of(name).is_none());
            at.capture.extend(new);
        }
    }

    /// The first expression in it that is known only when the call returns, if any: without one, a call can do
    /// without its return.
    pub fn first_of_return(&self) -> Option<&Expr> {
        let captures = self
            .at
            .iter()
            .flat_map(|a| a.capture.iter().map(|(_, e)| e));
        let filters = self.at.iter().map(|a| &a.where_);
        let filters = filters.chain([&self.where_, &self.keep]).flatten();
        captures
            .chain(filters)
            .chain(self.action.values())
            .chain(self.action.by().iter().map(|(_, e)| e))
            .find_map(Expr::first_of_return)
    }
}

/// One place to try.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct At {
    /// Patterns of functions: name, glob, demangled name with or without parameters; also `usdt:PROVIDER:NAME` and
    /// `FILE:LINE`, which no call has, and places in the kernel, with what [`Provider::KERNEL`] says in front. All that
    /// match are probed; the place as a whole matches when at least one does. One place has one provider.
    pub functions: Vec<Spanned<String>>,
    /// In which of the target's objects; empty: any.
    pub only_in: Vec<ObjectRule>,
    /// Functions that a file must have besides, by patterns as in `functions`: they tell versions of a program apart.
    pub has: Vec<Spanned<String>>,
    /// What is captured, in order. All places of a probe capture the same names with the same types.
    pub capture: Vec<(String, Expr)>,
    /// A filter of this place alone, beside the probe's.
    pub where_: Option<Expr>,
    /// As [`Probe::uncaught`], of this place alone.
    pub uncaught: bool,
}

impl At {
    /// Who provides it: the same for all its patterns.
    pub fn provider(&self) -> Provider {
        let first = self.functions.first();
        first.map_or(Provider::Program, |f| Provider::of(&f.value).0)
    }

    /// A place named by one function pattern, with nothing captured.
    pub fn function(pattern: impl Into<String>) -> At {
        At {
            functions: vec![Spanned::from(pattern.into())],
            ..At::default()
        }
    }

    /// Whether this place may be looked for in an object.
    ///
    /// `file_name` is the last part of its path (`libjemalloc.so.2`), `is_program` whether it is the
    /// process's executable. An object is allowed when one of the plain rules takes it (or there is none)
    /// and no `!` rule does.
    pub fn allows(&self, file_name: &str, is_program: bool) -> bool {
        let mut plain = self
            .only_in
            .iter()
            .filter(|r| !matches!(r, ObjectRule::Not(_)))
            .peekable();
        let wanted = plain.peek().is_none() || plain.any(|r| r.matches(file_name, is_program));
        let refused = self
            .only_in
            .iter()
            .any(|r| matches!(r, ObjectRule::Not(inner) if inner.matches(file_name, is_program)));
        wanted && !refused
    }
}

/// What is done with a hit.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// An event with the captures.
    Event,
    /// Counted in the kernel by key; no key: per probed function.
    Count {
        /// Name and value of each part of the key.
        by: Vec<(String, Expr)>,
    },
    /// A histogram in the kernel by key.
    Histogram {
        /// The value; an integer.
        value: Expr,
        /// Name and value of each part of the key.
        by: Vec<(String, Expr)>,
        /// Unit of the value: `bytes`, `ns`, or empty.
        unit: String,
        /// Its buckets.
        scale: Scale,
    },
    /// Sums, extremes and means in the kernel by key, with the number of hits.
    Stats {
        /// What is summed up; not empty.
        values: Vec<Stat>,
        /// Name and value of each part of the key.
        by: Vec<(String, Expr)>,
    },
}

impl Action {
    /// The parts of its key.
    pub fn by(&self) -> &[(String, Expr)] {
        match self {
            Action::Event => &[],
            Action::Count { by } | Action::Histogram { by, .. } | Action::Stats { by, .. } => by,
        }
    }

    /// What is made a histogram of, or summed up.
    pub fn values(&self) -> Vec<&Expr> {
        match self {
            Action::Event | Action::Count { .. } => vec![],
            Action::Histogram { value, .. } => vec![value],
            Action::Stats { values, .. } => values.iter().map(|s| &s.value).collect(),
        }
    }
}

/// The buckets of a histogram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scale {
    /// 16 in each power of two.
    #[default]
    Log,
    /// All of one width, from one value to another; values outside are counted below and above.
    Linear {
        /// The least value of the first bucket.
        from: i64,
        /// The first value that is above all buckets; `from` and a multiple of `step` more.
        to: i64,
        /// The width of each; not 0.
        step: u64,
    },
}

/// One value that is summed up.
#[derive(Clone, Debug, PartialEq)]
pub struct Stat {
    /// Its name in the report.
    pub name: String,
    /// The value; an integer, taken as signed.
    pub value: Expr,
    /// What of it is shown, in this order; never empty.
    pub show: Vec<StatKind>,
    /// Its unit: `bytes`, `ns`, or empty.
    pub unit: String,
}

/// What is shown of a value that is summed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatKind {
    /// The sum.
    Sum,
    /// The least.
    Min,
    /// The largest.
    Max,
    /// The mean.
    Avg,
}

/// How records are joined in user space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Join {
    /// Prepared statements: id -> text.
    Statements(Statements),
    /// Sockets from their first state to their last.
    Sockets(Sockets),
}

/// `[join.sockets]`: TCP sockets, followed by their address from their first transition to their last. A socket
/// belongs to the thread that connected or accepted it, whoever runs when its state changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sockets {
    /// The probe whose events are transitions from one state to another; they run on anybody's thread.
    pub state: String,
    /// Its capture that is the socket's address, and that of all `owners`.
    pub socket: String,
    /// Its capture that is the former state (`TCP_CLOSE` is 7, include/net/tcp_states.h).
    pub from: String,
    /// Its capture that is the new state.
    pub to: String,
    /// Probes whose events run on the thread that a socket belongs to. Their events are not shown.
    pub owners: Vec<String>,
    /// With [`SocketEvents::Connects`]: the probe whose events begin an attempt, on the thread that connects. Only attempts
    /// that it saw are shown, with its captures. Its own events are not.
    pub begins: Option<String>,
    /// Which transitions are shown.
    pub show: SocketEvents,
    /// With [`SocketEvents::Closes`]: what the verdict is told by.
    pub closes: Option<Closes>,
    /// With [`SocketEvents::Lingerers`]: how long a socket may stay open after its peer hung up, in nanoseconds.
    pub longer_than: u64,
}

/// What `show = "closes"` follows besides transitions. All probes but those of `inside`, and of `last` by thread, capture
/// the socket's address; calls of `closes` may leave it to `inside`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Closes {
    /// Probes and calls by which the application gives a socket up: these are shown.
    pub by: Vec<String>,
    /// The probe whose events say that the peer sent a reset.
    pub reset_received: Option<String>,
    /// The probe whose events say that this side sent one.
    pub reset_sent: Option<String>,
    /// The probe whose events are the socket's last.
    pub destroyed: Option<String>,
    /// Probes that name the socket of a call of `by` which runs on the same thread.
    pub inside: Vec<String>,
    /// Probes whose last event before a close is added to it.
    pub last: Vec<String>,
    /// What such an event and the close have in common.
    pub last_by: LastBy,
    /// The probe whose first event after a close is added to it, and how long it is waited for, in nanoseconds.
    pub next: Option<(String, u64)>,
    /// Probes whose events are told in the socket's timeline only.
    pub steps: Vec<String>,
    /// Whether timelines are kept and shown.
    pub timeline: bool,
    /// Whether each close is shown, or they are counted only.
    pub list: bool,
    /// Of which fields there are only these words: the other closes are not shown. No words: all.
    pub only: Vec<(String, Vec<String>)>,
}

/// What a close and the last event before it have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LastBy {
    /// The socket.
    #[default]
    Socket,
    /// The thread.
    Thread,
    /// The value of a capture of this name; with probes that have none, the thread.
    Capture(String),
}

impl Closes {
    /// What the join adds to the captures of a close.
    pub const FIELDS: [&'static str; 13] = [
        "verdict",
        "cause",
        "role",
        "local",
        "remote",
        "fd",
        "state_at_close",
        "reaction_ns",
        "age_ns",
        "bytes_sent",
        "bytes_received",
        "since_last_ns",
        "until_next_ns",
    ];

    /// The fields that are words, with those that there are.
    pub const WORDS: [(&'static str, &'static [&'static str]); 2] = [
        (
            "verdict",
            &["app", "peer", "peer-reset", "app-reset", "both", "unknown"],
        ),
        ("role", &["client", "server"]),
    ];

    /// The probes whose captures are added to those of a close.
    pub fn added(&self) -> impl Iterator<Item = &String> {
        self.last
            .iter()
            .chain(self.next.iter().map(|(probe, _)| probe))
    }
}

/// Which transitions of sockets are shown, each as an event of its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketEvents {
    /// All: with `held`, the time spent in the former state.
    States,
    /// The last one: with `age`, the time since it was connected or accepted.
    Lives,
    /// Those that end an attempt to connect: with `took`, the time since it began.
    Connects,
    /// None: the application's closes, with who hung up first ([`Closes::FIELDS`]).
    Closes,
    /// Those into CLOSE_WAIT that are not followed by another for so long, then, and when one comes: with `held`, the time
    /// since.
    Lingerers,
}

impl SocketEvents {
    /// Each with its word, and what it adds to the captures, in nanoseconds.
    pub const ALL: [(&'static str, SocketEvents, &'static str); 5] = [
        ("states", SocketEvents::States, "held"),
        ("lives", SocketEvents::Lives, "age"),
        ("connects", SocketEvents::Connects, "took"),
        ("closes", SocketEvents::Closes, "age_ns"),
        ("lingerers", SocketEvents::Lingerers, "held"),
    ];

    /// What lingering sockets have beside their captures and those of their owners.
    pub const OF_LINGERERS: [&'static str; 4] = ["held", "since", "now", "unread"];

    /// The name of the time that it adds. All add `role` too: `client`, `server`, `listener`, empty where unknown.
    pub fn time(self) -> &'static str {
        let found = SocketEvents::ALL.iter().find(|(_, show, _)| *show == self);
        found.map_or("", |(.., time)| time)
    }
}

/// `[join.statements]`: an execution by statement id gets the text that the statement was prepared with.
///
/// Per (process, connection) the profiler keeps id -> text. When a call with a `prepare` command ends, its
/// text belongs to the id of the first `prepared` record on the same thread that lies inside the call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statements {
    /// The probe (a call) that is one command of a client.
    pub call: String,
    /// Its capture that is the command's number.
    pub command: String,
    /// Its capture that is the text, empty for commands without one.
    pub text: String,
    /// Its capture that is the statement id (meaningful for `execute`, `uses` and `close` commands).
    pub id: String,
    /// Its capture that names the connection: connections may move between threads.
    pub connection: String,
    /// The probe that tells the id of a statement just prepared, on the thread and within the call.
    pub prepared: String,
    /// Its capture that is the id.
    pub prepared_id: String,
    /// Commands that prepare a statement.
    pub prepare: Vec<u64>,
    /// Commands that execute a prepared statement.
    pub execute: Vec<u64>,
    /// Other commands about a prepared statement: they show its text too.
    pub uses: Vec<u64>,
    /// Commands that close one prepared statement.
    pub close: Vec<u64>,
    /// Commands after which the connection has no prepared statements any more.
    pub close_all: Vec<u64>,
    /// The id that stands for the statement prepared last.
    pub last_id: Option<u64>,
}

/// How a recipe is shown.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Columns of the event table; empty: time, tid, latency of calls, then every capture.
    pub columns: Vec<Column>,
    /// Names of a capture's values: capture -> (value -> name).
    pub names: Vec<(String, Vec<(u64, String)>)>,
    /// Capture by whose values latencies are summed up at the end.
    pub group_by: Option<String>,
    /// A closing list of the most expensive.
    pub top: Option<Top>,
    /// What is drawn as a graph (`--format dot`).
    pub graph: Option<Graph>,
}

/// `[report.graph]`: keys of a count or of sums as the edges of a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Graph {
    /// The probe, with a key that has both ends.
    pub probe: String,
    /// The part of the key that is where an edge begins.
    pub from: String,
    /// The part of the key that is where it ends.
    pub to: String,
    /// The value ([`Stat::name`]) whose sum is the edge's weight; `None`: the number of hits.
    pub weight: Option<String>,
}

impl Report {
    /// The name of `value` in the capture, where the recipe gives one.
    pub fn name_of(&self, capture: &str, value: u64) -> Option<&str> {
        let (_, names) = self.names.iter().find(|(c, _)| c == capture)?;
        names
            .iter()
            .find(|(v, _)| *v == value)
            .map(|(_, name)| name.as_str())
    }
}

/// A column of the event table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its heading.
    pub title: String,
    /// A capture's name, or one of `time pid tid comm latency probe`.
    pub value: String,
    /// Least width in characters.
    pub width: Option<u16>,
    /// Left or right; `None`: by the value (numbers right).
    pub align: Option<Align>,
    /// How a number is shown: `bytes`, `ns`, `hex`.
    pub unit: Option<String>,
}

/// Where a column's text stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// At the left.
    Left,
    /// At the right.
    Right,
}

/// `[report.top]`: calls grouped by a capture, most total time first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Top {
    /// The capture.
    pub by: String,
    /// `sql`: statements that differ in literals alone are one. `None`: as captured.
    pub digest: Option<String>,
    /// How many rows.
    pub limit: u32,
}

impl Recipe {
    /// The same recipe with parameters set from text (`--set name=value`), checked again.
    ///
    /// Fails when a name is unknown, a value does not fit its type, or a parameter without default is not
    /// given. For a recipe that was not read from text there is nothing to set.
    pub fn with_params(&self, set: &[(String, String)]) -> Result<Recipe, Vec<Error>> {
        crate::load::with_params(self, set)
    }

    /// The value a parameter has now.
    pub fn param(&self, name: &str) -> Option<&Value> {
        self.params.iter().find(|p| p.name == name)?.value.as_ref()
    }

    /// The probe of that name, among those switched on.
    pub fn probe(&self, name: &str) -> Option<&Probe> {
        self.probes.iter().find(|p| p.name == name)
    }
}

impl Value {
    /// As it is given on the command line.
    pub fn text(&self) -> String {
        match self {
            Value::Duration(ns) => shortest(
                *ns,
                &[
                    ("s", 1_000_000_000),
                    ("ms", 1_000_000),
                    ("us", 1_000),
                    ("ns", 1),
                ],
                "0s",
            ),
            Value::Size(n) => shortest(
                *n,
                &[
                    ("GiB", 1 << 30),
                    ("MiB", 1 << 20),
                    ("KiB", 1 << 10),
                    ("B", 1),
                ],
                "0B",
            ),
            Value::Int(v) => v.to_string(),
            Value::String(s) => s.clone(),
            Value::Bool(b) => b.to_string(),
        }
    }
}

fn shortest(v: u64, units: &[(&str, u64)], zero: &str) -> String {
    if v == 0 {
        return zero.to_owned();
    }
    units
        .iter()
        .find(|(_, scale)| v.is_multiple_of(*scale))
        .map_or_else(
            || v.to_string(),
            |(unit, scale)| format!("{}{unit}", v / scale),
        )
}
