//! What a run has to say, before it takes a form: events, counts, histograms, and the accounting.
//!
//! The engine's records end as these types; [`super::table`] and [`super::json`] write them.

use std::net::IpAddr;
use std::sync::Arc;

use uprof_recipes::{Align, Spent, StatKind};

/// One captured or computed value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A signed integer.
    Int(i64),
    /// An unsigned integer.
    Uint(u64),
    /// An address: shown in hexadecimal.
    Ptr(u64),
    /// Bytes that the target holds as text; any bytes at all, they are escaped when written.
    Text {
        /// The bytes as captured.
        bytes: Vec<u8>,
        /// The text was longer than what was captured.
        cut: bool,
    },
    /// The name of an enumerated value (`Query` for command 3).
    Name(String),
    /// A span of time in nanoseconds.
    Duration(u64),
    /// A part of a whole, 0 to 1: a per cent sign on the terminal, the fraction in JSON.
    Share(f64),
    /// Where a thread was: its frames in words (`tcp_sendmsg+0x1b`, `main (./a.out)`), innermost first.
    Stack(Vec<String>),
    /// An address of the network, with its port where it has one: `127.0.0.1:80`, `[::1]:80`, `::1`.
    Address(IpAddr, Option<u16>),
    /// There is no value, and why (`unreadable`): `null` in JSON.
    Missing(&'static str),
}

impl Value {
    /// A whole number that is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Value::Uint(n) | Value::Duration(n) | Value::Ptr(n) => Some(*n),
            Value::Int(n) => u64::try_from(*n).ok(),
            _ => None,
        }
    }
}

/// One hit of a probe, or one finished call.
#[derive(Clone, Debug)]
pub struct Event {
    /// The probe's name.
    pub probe: Arc<str>,
    /// When, in nanoseconds since the UNIX epoch; for a call, when it returned.
    pub time_ns: u64,
    /// The process (thread group).
    pub pid: u32,
    /// The thread.
    pub tid: u32,
    /// The thread's name, as [`super::escape::comm`] makes it.
    pub comm: String,
    /// Nobody knows on whose behalf it happened: process, thread and name mean nothing, and are not shown.
    pub nobody: bool,
    /// How long the call took, in nanoseconds; calls only.
    pub latency_ns: Option<u64>,
    /// The captures, in the recipe's order.
    pub fields: Vec<(Arc<str>, Value)>,
    /// What led to it and came of it, in the order of time, where the recipe keeps that.
    pub steps: Vec<Step>,
}

/// One step of an event's timeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// When, in nanoseconds since the UNIX epoch.
    pub time_ns: u64,
    /// What happened.
    pub what: String,
    /// The process that was running.
    pub pid: u32,
    /// The thread that was running.
    pub tid: u32,
    /// Its name, as [`super::escape::comm`] makes it.
    pub comm: String,
    /// In an interrupt: the thread that it ran under has nothing to do with it.
    pub softirq: bool,
}

/// Where every hit of one probe went:
/// `hits = emitted + aggregated + filtered + dropped + unpaired + unsampled`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProbeCount {
    /// The probe's name.
    pub probe: String,
    /// At how many places it was set.
    pub sites: u64,
    /// How often it was hit.
    pub hits: u64,
    /// Shown as events.
    pub emitted: u64,
    /// Counted in a histogram or a count.
    pub aggregated: u64,
    /// Turned down by a filter.
    pub filtered: u64,
    /// Lost: the buffer to user space was full.
    pub dropped_ring: u64,
    /// Lost: a table of keys was full.
    pub dropped_map: u64,
    /// Calls whose return was not seen: `unfinished + abandoned + nested`.
    pub unpaired: u64,
    /// Of the unpaired: still open when the probes went.
    pub unfinished: u64,
    /// Of the unpaired: left without a return (longjmp, exception), or their thread or process ended inside.
    pub abandoned: u64,
    /// Of the unpaired: the kernel keeps 64 open calls for a thread, and these came on top.
    pub nested: u64,
    /// Passed over, since one in so many was looked at.
    pub unsampled: u64,
    /// Of so many hits one was looked at; up to 1: all of them.
    pub sample: u32,
}

impl ProbeCount {
    /// Everything that was lost.
    pub fn dropped(&self) -> u64 {
        self.dropped_ring + self.dropped_map
    }

    /// What was lost, why, and what to do about it: a sentence for each cause.
    pub fn losses(&self) -> Vec<String> {
        let mut losses = Vec::new();
        if self.dropped_ring > 0 {
            losses.push(format!(
                "{} lost because the buffer was full: give it more room with --buffer, or let a filter (--pid, --comm, --where) pass less",
                self.dropped_ring
            ));
        }
        if self.dropped_map > 0 {
            losses.push(format!(
                "{} not counted because there were more keys or open calls than room: raise --max-keys, or narrow --by or the filter",
                self.dropped_map
            ));
        }
        if self.nested > 0 {
            losses.push(format!(
                "{} returns not seen: the kernel follows 64 nested calls of a thread, these were deeper; --return ret has no such limit",
                self.nested
            ));
        }
        losses
    }

    /// What became of the calls without a return, in words; empty when there are none.
    pub fn without_return(&self) -> String {
        let parts = [
            (self.unfinished, "still open at the end"),
            (
                self.abandoned,
                "left without a return (longjmp, exception, end of the thread or process)",
            ),
            (self.nested, "nested too deeply"),
        ];
        let parts = parts.into_iter().filter(|(n, _)| *n > 0);
        let parts: Vec<String> = parts.map(|(n, what)| format!("{n} {what}")).collect();
        parts.join(", ")
    }
}

/// How many values fell between two bounds, both inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// The smallest value counted here.
    pub low: u64,
    /// The largest value counted here.
    pub high: u64,
    /// How many there were.
    pub count: u64,
}

/// A distribution of one value, for one key.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    /// What was measured.
    pub name: String,
    /// The key, as `--by` names its parts; empty when there is none.
    pub key: Vec<(String, Value)>,
    /// `ns`, `bytes`, or any word; empty for plain numbers.
    pub unit: String,
    /// How many values.
    pub count: u64,
    /// The smallest, exactly.
    pub min: u64,
    /// The largest, exactly.
    pub max: u64,
    /// Their mean, exactly.
    pub mean: f64,
    /// Half of the values are at most this.
    pub p50: u64,
    /// 90 per cent of the values are at most this.
    pub p90: u64,
    /// 99 per cent of the values are at most this.
    pub p99: u64,
    /// 99.9 per cent of the values are at most this.
    pub p999: u64,
    /// The buckets that are not empty, in ascending order.
    pub buckets: Vec<Bucket>,
    /// Of latencies: how much of each is the probe's own cost, in nanoseconds, where that was measured.
    pub probe_cost_ns: Option<u64>,
}

impl Histogram {
    /// A value less the probe's own cost.
    pub fn net(&self, value: f64) -> f64 {
        (value - self.probe_cost_ns.unwrap_or(0) as f64).max(0.0)
    }

    /// The least value, the quantiles and the greatest, by their names in JSON.
    pub fn marks(&self) -> [(&'static str, u64); 6] {
        [
            ("min", self.min),
            ("p50", self.p50),
            ("p90", self.p90),
            ("p99", self.p99),
            ("p999", self.p999),
            ("max", self.max),
        ]
    }
}

/// How often one key was seen.
#[derive(Clone, Debug, PartialEq)]
pub struct Count {
    /// The probe that counted.
    pub probe: String,
    /// The key, as `--by` names its parts; empty when there is none.
    pub key: Vec<(String, Value)>,
    /// How often.
    pub count: u64,
}

/// Sums and extremes of one key.
#[derive(Clone, Debug, PartialEq)]
pub struct StatRow {
    /// The probe that summed up.
    pub probe: String,
    /// The key, as `by` names its parts; empty when there is none.
    pub key: Vec<(String, Value)>,
    /// How many hits.
    pub count: u64,
    /// The values, in the recipe's order; the same ones in all rows of a probe.
    pub values: Vec<StatValue>,
}

/// What is shown of one value that was summed up.
#[derive(Clone, Debug, PartialEq)]
pub struct StatValue {
    /// Its name.
    pub name: String,
    /// `ns`, `bytes`, or any word; empty for plain numbers.
    pub unit: String,
    /// What is shown of it, in the recipe's order.
    pub shown: Vec<(StatKind, f64)>,
}

impl StatRow {
    /// What rows are ordered by: the first value's sum where that is shown, else the hits.
    pub fn weight(&self) -> f64 {
        let sum = self.values.first().and_then(StatValue::sum);
        sum.unwrap_or(self.count as f64)
    }
}

impl StatValue {
    /// The sum, where it is shown.
    pub fn sum(&self) -> Option<f64> {
        let sum = self.shown.iter().find(|(kind, _)| *kind == StatKind::Sum);
        sum.map(|(_, sum)| *sum)
    }
}

/// A distribution of one value in steps of one width, for one key.
#[derive(Clone, Debug, PartialEq)]
pub struct Linear {
    /// What was measured.
    pub name: String,
    /// The key, as `by` names its parts; empty when there is none.
    pub key: Vec<(String, Value)>,
    /// `ns`, `bytes`, or any word; empty for plain numbers.
    pub unit: String,
    /// How many values, with those below and above.
    pub count: u64,
    /// Less than the first step.
    pub below: u64,
    /// Beyond the last step.
    pub above: u64,
    /// The least, exactly.
    pub min: i64,
    /// The greatest, exactly.
    pub max: i64,
    /// Their mean, exactly.
    pub mean: f64,
    /// Where the first step begins, also if nothing fell into it.
    pub from: i64,
    /// Where the last step ends: what is that much or more is above.
    pub to: i64,
    /// How wide a step is.
    pub step: u64,
    /// The least value of each step and how many fell into it: all from the first that is not empty to the last.
    pub buckets: Vec<(i64, u64)>,
}

/// Where the time of calls went, for one key.
#[derive(Clone, Debug, PartialEq)]
pub struct Breakdown {
    /// The probe that these are calls of.
    pub name: String,
    /// The key, as `--by` names its parts; empty when there is none.
    pub key: Vec<(String, Value)>,
    /// All calls.
    pub calls: u64,
    /// Those of which it is known: the parts are theirs alone.
    pub known: u64,
    /// Nanoseconds for each of [`Spent::ALL`]: together their latency.
    pub parts: [u64; Spent::ALL.len()],
}

impl Breakdown {
    /// The latency of the calls of which it is known, in nanoseconds.
    pub fn total(&self) -> u64 {
        self.parts.iter().sum()
    }

    /// The share of one part, 0 to 1.
    pub fn share(&self, on: Spent) -> f64 {
        self.parts[on as usize] as f64 / self.total().max(1) as f64
    }
}

/// The graph of `--format dot`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Graph {
    /// What it is called.
    pub name: String,
    /// What the edges' weights are: a unit (`bytes`, `ns`, any word), or `hits`.
    pub weight: String,
    /// From, to, and the weight.
    pub edges: Vec<(String, String, u64)>,
}

/// A closing table of a recipe's own, such as the top statements.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// What it shows.
    pub title: String,
    /// The columns' titles.
    pub columns: Vec<String>,
    /// The rows, as wide as the columns.
    pub rows: Vec<Vec<Value>>,
}

/// What is said at the end of a run, and so far while it goes on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// How long the probes were armed, in nanoseconds.
    pub duration_ns: u64,
    /// The accounting of each probe.
    pub probes: Vec<ProbeCount>,
    /// The distributions.
    pub histograms: Vec<Histogram>,
    /// The counts.
    pub counts: Vec<Count>,
    /// Where the time of calls went.
    pub breakdowns: Vec<Breakdown>,
    /// The sums.
    pub stats: Vec<StatRow>,
    /// The distributions in steps of one width.
    pub linear: Vec<Linear>,
    /// Of which names (of a probe, of a histogram) so many keys are shown only.
    pub top: Vec<(String, usize)>,
    /// The graph, where the recipe has one.
    pub graph: Option<Graph>,
    /// The recipe's own tables.
    pub tables: Vec<Table>,
    /// What the reader should know about this run, a sentence each.
    pub notes: Vec<String>,
}

/// One column of the event table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// The heading.
    pub title: String,
    /// What stands in it.
    pub value: ColumnValue,
    /// The least width; without it what suits the value.
    pub width: Option<usize>,
    /// Where it stands; without it numbers stand at the right.
    pub align: Option<Align>,
    /// How a number is shown: `bytes`, `ns`, `hex`, or with any other word after it.
    pub unit: Option<String>,
}

impl Column {
    /// A column of the width that suits its value.
    pub fn new(title: impl Into<String>, value: ColumnValue) -> Column {
        Column {
            title: title.into(),
            value,
            width: None,
            align: None,
            unit: None,
        }
    }
}

/// What stands in a column of the event table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ColumnValue {
    /// Local time of day.
    Time,
    /// The process.
    Pid,
    /// The thread.
    Tid,
    /// The thread's name.
    Comm,
    /// The probe's name.
    Probe,
    /// The call's latency.
    Latency,
    /// The capture of this name.
    Field(Arc<str>),
    /// Every capture that has no column of its own, as `name=value`.
    Rest,
}
