//! What uprof reported, read from its JSON lines; the accounting is checked in every one.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

/// `null` as the empty value.
fn or_none<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(
    value: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(value)?.unwrap_or_default())
}

/// One event.
#[derive(Clone, Debug, Deserialize)]
pub struct Event {
    pub probe: String,
    pub time_ns: u64,
    /// 0, and no name: nobody knows on whose behalf it happened.
    #[serde(deserialize_with = "or_none")]
    pub pid: u32,
    #[serde(deserialize_with = "or_none")]
    pub tid: u32,
    #[serde(deserialize_with = "or_none")]
    pub comm: String,
    pub latency_ns: Option<u64>,
    pub fields: Map<String, Value>,
    /// There only where the recipe keeps it.
    #[serde(default)]
    pub timeline: Vec<TimelineStep>,
}

impl Event {
    /// A captured text; fails when it is missing or something else.
    pub fn text(&self, field: &str) -> &str {
        self.fields
            .get(field)
            .and_then(Value::as_str)
            .unwrap_or_else(|| panic!("no text `{field}` in {self:?}"))
    }

    /// A captured number; fails when it is missing or something else.
    pub fn number(&self, field: &str) -> u64 {
        self.fields
            .get(field)
            .and_then(Value::as_u64)
            .unwrap_or_else(|| panic!("no number `{field}` in {self:?}"))
    }

    /// A captured pointer, written `0x...`.
    pub fn pointer(&self, field: &str) -> u64 {
        let text = self.text(field);
        let digits = text
            .strip_prefix("0x")
            .unwrap_or_else(|| panic!("`{field}` is not 0x...: {text}"));
        u64::from_str_radix(digits, 16).unwrap_or_else(|e| panic!("`{field}`: {e}: {text}"))
    }

    /// Whether a captured text was marked as cut.
    pub fn is_cut(&self, field: &str) -> bool {
        self.fields.get(&format!("{field}_cut")) == Some(&Value::Bool(true))
    }
}

/// One step of an event's timeline.
#[derive(Clone, Debug, Deserialize)]
pub struct TimelineStep {
    pub time_ns: u64,
    pub step: String,
    pub pid: u32,
    pub tid: u32,
    pub comm: String,
    pub softirq: bool,
}

/// The summary: the last line.
#[derive(Clone, Debug, Deserialize)]
pub struct Summary {
    pub duration_ns: u64,
    pub probes: Vec<ProbeCount>,
    pub histograms: Vec<Histogram>,
    pub counts: Vec<Count>,
    /// There only where it is told where the time of calls went.
    #[serde(default)]
    pub breakdowns: Vec<Breakdown>,
    /// There only where something is summed up.
    #[serde(default)]
    pub stats: Vec<Stats>,
    /// There only where a histogram has steps of one width.
    #[serde(default)]
    pub linear: Vec<Linear>,
    /// There only where a recipe makes them.
    #[serde(default)]
    pub tables: Vec<Table>,
}

/// A table of a recipe's own.
#[derive(Clone, Debug, Deserialize)]
pub struct Table {
    pub title: String,
    pub columns: Vec<String>,
    pub rows: Vec<Vec<Value>>,
}

/// What became of one probe's hits.
#[derive(Clone, Debug, Deserialize)]
pub struct ProbeCount {
    pub probe: String,
    pub sites: u64,
    pub hits: u64,
    pub emitted: u64,
    pub aggregated: u64,
    pub filtered: u64,
    pub dropped: u64,
    pub unpaired: u64,
    /// Of the unpaired: still open when the probes went.
    pub unfinished: u64,
    /// Of the unpaired: left without a return.
    pub abandoned: u64,
    /// Of the unpaired: so deep that the kernel hides their returns.
    pub nested: u64,
    /// Passed over, since one in `sample` was looked at.
    pub unsampled: u64,
    /// Of so many hits one was looked at; 1: all.
    pub sample: u32,
}

/// One histogram.
#[derive(Clone, Debug, Deserialize)]
pub struct Histogram {
    pub name: String,
    pub key: Map<String, Value>,
    pub unit: String,
    pub count: u64,
    pub min: u64,
    pub max: u64,
    pub mean: f64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p999: u64,
    pub probe_cost_ns: Option<u64>,
    pub net: Option<Net>,
    pub buckets: Vec<Bucket>,
}

/// Where the time of calls went, for one key.
#[derive(Clone, Debug, Deserialize)]
pub struct Breakdown {
    pub name: String,
    pub key: Map<String, Value>,
    pub calls: u64,
    /// Of which it is known: the others are in no sum.
    pub known: u64,
    pub total_ns: u64,
    pub parts: BTreeMap<String, u64>,
}

/// Latencies less the probe's own cost.
#[derive(Clone, Debug, Deserialize)]
pub struct Net {
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p999: u64,
}

/// One bucket: `low..=high`.
#[derive(Clone, Debug, Deserialize)]
pub struct Bucket {
    pub low: u64,
    pub high: u64,
    pub count: u64,
}

/// One count.
#[derive(Clone, Debug, Deserialize)]
pub struct Count {
    pub probe: String,
    pub key: Map<String, Value>,
    pub count: u64,
}

/// Sums of one key.
#[derive(Clone, Debug, Deserialize)]
pub struct Stats {
    pub probe: String,
    pub key: Map<String, Value>,
    pub count: u64,
    /// By name: `sum`, `min`, `max` and `avg`, those that are shown.
    pub values: BTreeMap<String, BTreeMap<String, f64>>,
}

/// One histogram in steps of one width.
#[derive(Clone, Debug, Deserialize)]
pub struct Linear {
    pub name: String,
    pub key: Map<String, Value>,
    pub count: u64,
    pub min: i64,
    pub max: i64,
    pub mean: f64,
    pub from: i64,
    pub to: i64,
    pub step: u64,
    pub below: u64,
    pub above: u64,
    pub buckets: Vec<Step>,
}

/// One step: from `low` on.
#[derive(Clone, Debug, Deserialize)]
pub struct Step {
    pub low: i64,
    pub count: u64,
}

/// A whole report.
#[derive(Clone, Debug)]
pub struct Report {
    pub events: Vec<Event>,
    pub summary: Summary,
}

impl Report {
    /// Reads a report in JSON lines and checks what must hold in every one.
    pub fn parse(text: &str) -> Self {
        let mut events = Vec::new();
        let summary = each_line(text, |event| events.push(event));
        let report = Self { events, summary };
        check_emitted(&report.summary, &report.events);
        report
    }

    /// The counts of a probe by its name.
    pub fn probe(&self, name: &str) -> &ProbeCount {
        self.summary.probe(name)
    }

    /// The counts of the only probe.
    pub fn only(&self) -> &ProbeCount {
        let [probe] = self.summary.probes.as_slice() else {
            panic!("one probe was expected: {:?}", self.summary.probes);
        };
        probe
    }

    /// The only histogram.
    pub fn histogram(&self) -> &Histogram {
        let [histogram] = self.summary.histograms.as_slice() else {
            panic!("one histogram was expected: {:?}", self.summary.histograms);
        };
        histogram
    }

    /// Events of one probe.
    pub fn events_of<'a>(&'a self, probe: &'a str) -> impl Iterator<Item = &'a Event> {
        self.events.iter().filter(move |event| event.probe == probe)
    }
}

impl Summary {
    /// The counts of a probe by its name.
    pub fn probe(&self, name: &str) -> &ProbeCount {
        self.probes
            .iter()
            .find(|probe| probe.probe == name)
            .unwrap_or_else(|| panic!("no probe `{name}` in {:?}", self.probes))
    }

    /// Hits of all probes together.
    pub fn hits(&self) -> u64 {
        self.probes.iter().map(|probe| probe.hits).sum()
    }

    /// Fails when anything was lost.
    pub fn assert_nothing_dropped(&self) {
        for probe in &self.probes {
            assert_eq!(probe.dropped, 0, "{probe:?}");
        }
    }
}

/// Gives each event of a report to `take` without keeping them, and returns the summary, checked.
pub fn each_line(text: &str, mut take: impl FnMut(Event)) -> Summary {
    let mut lines = text.lines();
    let last = lines
        .next_back()
        .expect("a report has at least its summary");
    for line in lines {
        take(serde_json::from_str(line).unwrap_or_else(|e| panic!("not an event: {e}: {line}")));
    }
    let value: Value =
        serde_json::from_str(last).unwrap_or_else(|e| panic!("not JSON: {e}: {last}"));
    assert_eq!(
        value["type"], "summary",
        "the last line is the summary: {last}"
    );
    let summary: Summary =
        serde_json::from_value(value).unwrap_or_else(|e| panic!("not a summary: {e}: {last}"));
    check(&summary);
    summary
}

/// The accounting identity, and that each histogram agrees with itself.
fn check(summary: &Summary) {
    for probe in &summary.probes {
        let accounted = probe.emitted
            + probe.aggregated
            + probe.filtered
            + probe.dropped
            + probe.unpaired
            + probe.unsampled;
        assert!(
            probe.sample > 0 && (probe.sample > 1 || probe.unsampled == 0),
            "{probe:?}"
        );
        assert_eq!(
            probe.hits, accounted,
            "hits are not accounted for: {probe:?}"
        );
        assert_eq!(
            probe.unpaired,
            probe.unfinished + probe.abandoned + probe.nested,
            "unpaired hits are not accounted for: {probe:?}"
        );
    }
    for count in &summary.counts {
        assert!(
            summary
                .probes
                .iter()
                .any(|probe| probe.probe == count.probe),
            "a count of a probe that is not there: {count:?}"
        );
    }
    for (i, row) in summary.stats.iter().enumerate() {
        let mut earlier = summary.stats[..i].iter();
        assert!(
            !earlier.any(|e| e.probe == row.probe && e.key == row.key),
            "one key twice: {row:?}"
        );
        assert!(row.count > 0, "{row:?}");
        for value in row.values.values() {
            let of = |kind: &str| value.get(kind).copied();
            let (least, most) = (of("min"), of("max"));
            let avg = of("avg").or_else(|| of("sum").map(|sum| sum / row.count as f64));
            assert!(
                least.is_none_or(|min| avg.is_none_or(|avg| min <= avg)),
                "{row:?}"
            );
            assert!(
                most.is_none_or(|max| avg.is_none_or(|avg| avg <= max)),
                "{row:?}"
            );
        }
    }
    for (i, linear) in summary.linear.iter().enumerate() {
        let mut earlier = summary.linear[..i].iter();
        assert!(
            !earlier.any(|e| e.name == linear.name && e.key == linear.key),
            "one key twice: {linear:?}"
        );
        check_linear(linear);
    }
    for histogram in &summary.histograms {
        assert!(!histogram.name.is_empty(), "{histogram:?}");
        let Histogram {
            min,
            max,
            mean,
            p50,
            p90,
            p99,
            p999,
            ..
        } = *histogram;
        let total: u64 = histogram.buckets.iter().map(|bucket| bucket.count).sum();
        assert_eq!(
            total, histogram.count,
            "the buckets do not add up: {histogram:?}"
        );
        assert!(
            histogram
                .buckets
                .iter()
                .all(|b| b.low <= b.high && b.count > 0),
            "{histogram:?}"
        );
        assert!(
            histogram
                .buckets
                .windows(2)
                .all(|pair| pair[0].high < pair[1].low),
            "{histogram:?}"
        );
        assert!(
            min <= p50 && p50 <= p90 && p90 <= p99 && p99 <= p999 && p999 <= max,
            "{histogram:?}"
        );
        assert!(min as f64 <= mean && mean <= max as f64, "{histogram:?}");
    }
}

/// That a histogram in steps agrees with itself.
fn check_linear(linear: &Linear) {
    let steps: u64 = linear.buckets.iter().map(|step| step.count).sum();
    let counted = linear.below + steps + linear.above;
    assert_eq!(linear.count, counted, "{linear:?}");
    let width = linear.step as i64;
    let mut pairs = linear.buckets.windows(2);
    assert!(pairs.all(|p| p[0].low + width == p[1].low), "{linear:?}");
    if let (Some(first), Some(last)) = (linear.buckets.first(), linear.buckets.last()) {
        assert!(first.count > 0 && last.count > 0, "{linear:?}");
        assert!(
            linear.from <= first.low && last.low + width <= linear.to,
            "{linear:?}"
        );
    }
    assert_eq!(linear.below > 0, linear.min < linear.from, "{linear:?}");
    assert_eq!(linear.above > 0, linear.max >= linear.to, "{linear:?}");
    let (min, max) = (linear.min as f64, linear.max as f64);
    assert!(min <= linear.mean && linear.mean <= max, "{linear:?}");
}

/// As many events of a probe arrived as it says it emitted.
fn check_emitted(summary: &Summary, events: &[Event]) {
    let mut arrived: BTreeMap<&str, u64> = BTreeMap::new();
    for event in events {
        *arrived.entry(&event.probe).or_default() += 1;
    }
    for probe in &summary.probes {
        let arrived = arrived.remove(probe.probe.as_str()).unwrap_or(0);
        assert_eq!(
            arrived, probe.emitted,
            "events in the report against {probe:?}"
        );
    }
    assert!(
        arrived.is_empty(),
        "events of probes that the summary does not name: {arrived:?}"
    );
}
