//! A probe's accounting: every hit ends in exactly one way; and what [`crate::Action::Stats`] keeps.

use crate::expr::Spent;
use crate::hist;
use crate::layout::{breakdown_words, hist_words, signed_words, stats_words};

/// Counters of one probe, final once the engine is detached.
///
/// `hits = emitted + aggregated + filtered + unsampled + dropped_ring + dropped_map + unpaired`, exactly. A
/// call's hits are its entries; a return whose entry was not seen is no hit.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counters {
    /// Times the probe ran.
    pub hits: u64,
    /// Records sent.
    pub emitted: u64,
    /// Added to a count or histogram.
    pub aggregated: u64,
    /// A filter said no (records sent as `kept` among them), or something that it, a value, a
    /// string in a key or the name of a call's frame needed could not be read.
    pub filtered: u64,
    /// Left out by [`crate::ProbeSpec::sample`].
    pub unsampled: u64,
    /// The ring buffer was full.
    pub dropped_ring: u64,
    /// A table of keys or of open calls was full, or no scratch memory was free.
    pub dropped_map: u64,
    /// Calls still open, or whose return will never be seen (longjmp, exception, thread's end).
    pub unpaired: u64,
    /// Of the unpaired: those in whose frame's place a later call was found, so that they had
    /// been left before (longjmp, exception, thread's end). See [`crate::Engine::open_calls`] for
    /// the others. Where the kernel keeps the frames (a session) nobody tells.
    pub abandoned: u64,
    /// Of the unpaired: those whose return the kernel does not see, since 64 returns were pending on the thread already
    /// (of probes of any program, and with those of calls left by longjmp or an exception until the kernel notices).
    /// See [`crate::Engine::tells_nested`].
    pub nested: u64,
    /// Of the filtered: those for which memory could not be read.
    pub unreadable: u64,
    /// Hits that the kernel itself missed, where it tells (not among `hits`).
    pub missed: Option<u64>,
}

impl Counters {
    /// Everything that was dropped.
    pub fn dropped(&self) -> u64 {
        self.dropped_ring + self.dropped_map
    }
}

/// What [`crate::Action::Stats`] keeps of one key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StatsData {
    /// Hits.
    pub count: u64,
    /// By value, in the order of the action.
    pub values: Vec<StatData>,
}

/// One value's sum and extremes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StatData {
    /// The sum; it wraps.
    pub sum: i64,
    /// The least value.
    pub min: i64,
    /// The largest value.
    pub max: i64,
}

impl StatData {
    /// From [`signed_words`] of at least one value.
    pub(crate) fn decode(word: impl Fn(usize) -> u64) -> StatData {
        let signed = |word: u64| (word ^ signed_words::FLIP) as i64;
        StatData {
            sum: word(signed_words::SUM) as i64,
            min: signed(!word(signed_words::NOT_MIN)),
            max: signed(word(signed_words::MAX)),
        }
    }

    pub(crate) fn merge(&mut self, other: &StatData) {
        self.sum = self.sum.wrapping_add(other.sum);
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }
}

impl StatsData {
    /// `None`: there were no hits.
    pub(crate) fn decode(values: usize, word: impl Fn(usize) -> u64) -> Option<StatsData> {
        let count = word(stats_words::COUNT);
        let value = |i: usize| {
            let first = stats_words::VALUES + i * signed_words::COUNT;
            StatData::decode(|at| word(first + at))
        };
        (count > 0).then(|| StatsData {
            count,
            values: (0..values).map(value).collect(),
        })
    }

    pub(crate) fn merge(&mut self, other: &StatsData) {
        self.count += other.count;
        for (to, from) in self.values.iter_mut().zip(&other.values) {
            to.merge(from);
        }
    }
}

/// What [`crate::Action::Breakdown`] keeps of one key beside the histogram.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct BreakdownData {
    /// All calls.
    pub calls: u64,
    /// Those of which it is known where their time went: they alone are in the sums.
    pub known: u64,
    /// Nanoseconds for each of [`Spent::ALL`]; together the latency of the calls that are known.
    pub ns: [u64; Spent::ALL.len()],
}

impl BreakdownData {
    pub(crate) fn decode(word: impl Fn(usize) -> u64) -> BreakdownData {
        let buckets = (0..hist::BUCKETS).map(|i| word(hist_words::BUCKETS + i));
        BreakdownData {
            calls: buckets.sum(),
            known: word(breakdown_words::KNOWN),
            ns: std::array::from_fn(|i| word(breakdown_words::NS + i)),
        }
    }

    /// Adds the calls of another key or place.
    pub fn merge(&mut self, other: &BreakdownData) {
        self.calls += other.calls;
        self.known += other.known;
        for (to, from) in self.ns.iter_mut().zip(other.ns) {
            *to += from;
        }
    }
}
