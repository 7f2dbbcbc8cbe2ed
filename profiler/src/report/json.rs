//! JSON lines: one object an event, and last one summary. `docs` holds the schema; the order of the keys
//! is part of it.
//!
//! Events are written by hand into the buffer: at half a million a second there is no time for an
//! allocation per event.

use std::io;

use uprof_recipes::{Spent, StatKind};

use super::model::{Breakdown, Column, Event, Histogram, Linear, StatRow, Step, Summary, Value};
use super::{Output, Sink, escape, units};

/// Writes JSON lines.
pub(super) struct Json {
    sink: Sink,
}

impl Json {
    pub(super) fn new(sink: Sink) -> Json {
        Json { sink }
    }
}

impl Output for Json {
    fn start(&mut self, _columns: &[Column]) -> io::Result<()> {
        Ok(())
    }

    fn event(&mut self, event: &Event) -> io::Result<()> {
        let out = self.sink.buffer();
        out.extend_from_slice(b"{\"type\":\"event\",\"probe\":");
        string(out, event.probe.as_bytes());
        out.extend_from_slice(b",\"time_ns\":");
        number(out, event.time_ns);
        if event.nobody {
            out.extend_from_slice(b",\"pid\":null,\"tid\":null,\"comm\":null");
        } else {
            member(out, "pid", u64::from(event.pid));
            member(out, "tid", u64::from(event.tid));
            out.extend_from_slice(b",\"comm\":");
            string(out, event.comm.as_bytes());
        }
        if let Some(latency) = event.latency_ns {
            out.extend_from_slice(b",\"latency_ns\":");
            number(out, latency);
        }
        out.extend_from_slice(b",\"fields\":");
        object(out, &event.fields);
        if !event.steps.is_empty() {
            out.extend_from_slice(b",\"timeline\":");
            array(out, &event.steps, step);
        }
        out.extend_from_slice(b"}\n");
        self.sink.written()
    }

    fn live(&mut self, _so_far: &Summary) -> io::Result<()> {
        // The stream holds events and one summary, nothing in between.
        self.sink.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }

    fn finish(&mut self, summary: &Summary) -> io::Result<()> {
        write_summary(self.sink.buffer(), summary);
        self.sink.flush()
    }
}

/// One step of a timeline.
fn step(out: &mut Vec<u8>, step: &Step) {
    out.extend_from_slice(b"{\"time_ns\":");
    number(out, step.time_ns);
    out.extend_from_slice(b",\"step\":");
    string(out, step.what.as_bytes());
    member(out, "pid", step.pid);
    member(out, "tid", step.tid);
    out.extend_from_slice(b",\"comm\":");
    string(out, step.comm.as_bytes());
    out.extend_from_slice(b",\"softirq\":");
    out.extend_from_slice(if step.softirq { b"true}" } else { b"false}" });
}

fn write_summary(out: &mut Vec<u8>, summary: &Summary) {
    out.extend_from_slice(b"{\"type\":\"summary\",\"duration_ns\":");
    number(out, summary.duration_ns);
    out.extend_from_slice(b",\"probes\":");
    array(out, &summary.probes, |out, probe| {
        out.extend_from_slice(b"{\"probe\":");
        string(out, probe.probe.as_bytes());
        for (name, n) in [
            ("sites", probe.sites),
            ("hits", probe.hits),
            ("emitted", probe.emitted),
            ("aggregated", probe.aggregated),
            ("filtered", probe.filtered),
            ("dropped", probe.dropped()),
            ("unpaired", probe.unpaired),
            ("unfinished", probe.unfinished),
            ("abandoned", probe.abandoned),
            ("nested", probe.nested),
            ("unsampled", probe.unsampled),
            ("sample", probe.sample.max(1).into()),
        ] {
            member(out, name, n);
        }
        out.push(b'}');
    });
    out.extend_from_slice(b",\"histograms\":");
    array(out, &summary.histograms, |out, h| {
        distribution(
            out,
            (&h.name, &h.key, &h.unit),
            h.count,
            (h.min, h.max, h.mean),
        );
        for (name, n) in [
            ("p50", h.p50),
            ("p90", h.p90),
            ("p99", h.p99),
            ("p999", h.p999),
        ] {
            member(out, name, n);
        }
        if let Some(cost) = h.probe_cost_ns {
            net(out, h, cost);
        }
        out.extend_from_slice(b",\"buckets\":");
        array(out, &h.buckets, |out, b| {
            out.extend_from_slice(b"{\"low\":");
            number(out, b.low);
            member(out, "high", b.high);
            member(out, "count", b.count);
            out.push(b'}');
        });
        out.push(b'}');
    });
    out.extend_from_slice(b",\"counts\":");
    array(out, &summary.counts, |out, count| {
        out.extend_from_slice(b"{\"probe\":");
        string(out, count.probe.as_bytes());
        out.extend_from_slice(b",\"key\":");
        object(out, &count.key);
        member(out, "count", count.count);
        out.push(b'}');
    });
    if !summary.breakdowns.is_empty() {
        out.extend_from_slice(b",\"breakdowns\":");
        array(out, &summary.breakdowns, breakdown);
    }
    if !summary.stats.is_empty() {
        out.extend_from_slice(b",\"stats\":");
        array(out, &summary.stats, stats);
    }
    if !summary.linear.is_empty() {
        out.extend_from_slice(b",\"linear\":");
        array(out, &summary.linear, linear);
    }
    if !summary.tables.is_empty() {
        out.extend_from_slice(b",\"tables\":");
        array(out, &summary.tables, |out, table| {
            out.extend_from_slice(b"{\"title\":");
            string(out, table.title.as_bytes());
            out.extend_from_slice(b",\"columns\":");
            array(out, &table.columns, |out, column| {
                string(out, column.as_bytes())
            });
            out.extend_from_slice(b",\"rows\":");
            array(out, &table.rows, |out, row| array(out, row, value));
            out.push(b'}');
        });
    }
    if !summary.notes.is_empty() {
        out.extend_from_slice(b",\"notes\":");
        array(out, &summary.notes, |out, note| {
            string(out, note.as_bytes())
        });
    }
    out.extend_from_slice(b"}\n");
}

/// The probe's own cost, and what is left of the latencies without it.
fn net(out: &mut Vec<u8>, h: &Histogram, cost: u64) {
    member(out, "probe_cost_ns", cost);
    out.extend_from_slice(b",\"net\":{\"mean\":");
    float(out, h.net(h.mean));
    for (name, value) in h.marks() {
        member(out, name, h.net(value as f64) as u64);
    }
    out.push(b'}');
}

/// One key's sums: `"values":{"bytes":{"sum":N,"max":N}}`.
fn stats(out: &mut Vec<u8>, row: &StatRow) {
    out.extend_from_slice(b"{\"probe\":");
    string(out, row.probe.as_bytes());
    out.extend_from_slice(b",\"key\":");
    object(out, &row.key);
    member(out, "count", row.count);
    out.extend_from_slice(b",\"values\":{");
    for (i, value) in row.values.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        string(out, value.name.as_bytes());
        for (i, (kind, n)) in value.shown.iter().enumerate() {
            out.extend_from_slice(if i == 0 { b":{\"" } else { b",\"" });
            let (name, whole) = match kind {
                StatKind::Sum => ("sum", true),
                StatKind::Min => ("min", true),
                StatKind::Max => ("max", true),
                StatKind::Avg => ("avg", false),
            };
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b"\":");
            if whole && n.is_finite() {
                number(out, *n as i64);
            } else {
                float(out, *n);
            }
        }
        out.extend_from_slice(if value.shown.is_empty() { b":{}" } else { b"}" });
    }
    out.extend_from_slice(b"}}");
}

/// Where the time of one key's calls went: `"parts":{"cpu_ns":N,...}`.
fn breakdown(out: &mut Vec<u8>, b: &Breakdown) {
    out.extend_from_slice(b"{\"name\":");
    string(out, b.name.as_bytes());
    out.extend_from_slice(b",\"key\":");
    object(out, &b.key);
    member(out, "calls", b.calls);
    member(out, "known", b.known);
    member(out, "total_ns", b.total());
    out.extend_from_slice(b",\"parts\":");
    let parts = Spent::ALL.into_iter().zip(b.parts);
    let parts = parts.map(|(on, ns)| (on.name(), Value::Duration(ns)));
    object(out, &parts.collect::<Vec<_>>());
    out.push(b'}');
}

/// What all distributions begin with.
fn distribution(
    out: &mut Vec<u8>,
    (name, key, unit): (&str, &[(String, Value)], &str),
    count: u64,
    (min, max, mean): (impl itoa::Integer, impl itoa::Integer, f64),
) {
    out.extend_from_slice(b"{\"name\":");
    string(out, name.as_bytes());
    out.extend_from_slice(b",\"key\":");
    object(out, key);
    out.extend_from_slice(b",\"unit\":");
    string(out, unit.as_bytes());
    member(out, "count", count);
    member(out, "min", min);
    member(out, "max", max);
    out.extend_from_slice(b",\"mean\":");
    float(out, mean);
}

/// One distribution in steps.
fn linear(out: &mut Vec<u8>, h: &Linear) {
    distribution(
        out,
        (&h.name, &h.key, &h.unit),
        h.count,
        (h.min, h.max, h.mean),
    );
    member(out, "from", h.from);
    member(out, "to", h.to);
    member(out, "step", h.step);
    member(out, "below", h.below);
    member(out, "above", h.above);
    out.extend_from_slice(b",\"buckets\":");
    array(out, &h.buckets, |out, (low, count)| {
        out.extend_from_slice(b"{\"low\":");
        number(out, *low);
        member(out, "count", *count);
        out.push(b'}');
    });
    out.push(b'}');
}

/// Captures or a key; a text that was cut has a sibling `NAME_cut`.
fn object<N: AsRef<str>>(out: &mut Vec<u8>, members: &[(N, Value)]) {
    out.push(b'{');
    for (i, (name, v)) in members.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        string(out, name.as_ref().as_bytes());
        out.push(b':');
        value(out, v);
        if let Value::Text { cut: true, .. } = v {
            out.extend_from_slice(b",\"");
            escape::json(out, name.as_ref().as_bytes());
            out.extend_from_slice(b"_cut\":true");
        }
    }
    out.push(b'}');
}

fn value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Int(n) => number(out, *n),
        Value::Uint(n) | Value::Duration(n) => number(out, *n),
        Value::Ptr(n) => {
            out.extend_from_slice(b"\"0x");
            let digits = (64 - n.leading_zeros()).div_ceil(4).max(1);
            for i in (0..digits).rev() {
                out.push(b"0123456789abcdef"[(n >> (4 * i) & 15) as usize]);
            }
            out.push(b'"');
        }
        Value::Text { bytes, .. } => string(out, bytes),
        Value::Name(name) => string(out, name.as_bytes()),
        Value::Share(share) => float(out, *share),
        Value::Stack(frames) => array(out, frames, |out, frame| string(out, frame.as_bytes())),
        Value::Address(address, port) => {
            let mut text = String::new();
            units::address(&mut text, *address, *port);
            string(out, text.as_bytes());
        }
        Value::Missing(_) => out.extend_from_slice(b"null"),
    }
}

fn array<T>(out: &mut Vec<u8>, items: &[T], mut write: impl FnMut(&mut Vec<u8>, &T)) {
    out.push(b'[');
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write(out, item);
    }
    out.push(b']');
}

fn member(out: &mut Vec<u8>, name: &str, n: impl itoa::Integer) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    number(out, n);
}

fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    escape::json(out, bytes);
    out.push(b'"');
}

fn number(out: &mut Vec<u8>, n: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
}

fn float(out: &mut Vec<u8>, x: f64) {
    // JSON has no infinities; writing to memory cannot fail.
    if x.is_finite() && serde_json::to_writer(&mut *out, &x).is_ok() {
        return;
    }
    out.extend_from_slice(b"null");
}

#[cfg(test)]
mod tests {
    use super::super::tests::{
        a_linear, a_stack, a_summary, a_timeline, an_event, some_stats, written,
    };
    use super::super::{Format, TermInfo};
    use super::*;

    #[test]
    fn an_event_is_the_documented_line() {
        let mut event = an_event();
        let line = written(Format::Json, TermInfo::plain(), |out| out.event(&event));
        assert_eq!(
            line,
            "{\"type\":\"event\",\"probe\":\"statement\",\"time_ns\":1760000000123456789,\"pid\":812,\"tid\":900,\
             \"comm\":\"mariadbd\",\"latency_ns\":12345,\"fields\":{\"command\":\"Query\",\"sql\":\"SELECT \\\"a\\\"\\n\",\
             \"rows\":3,\"delta\":-1,\"thd\":\"0x7f00dead0000\",\"wait\":null}}\n"
        );
        event.latency_ns = None;
        event.fields = vec![
            (
                "sql".into(),
                Value::Text {
                    bytes: b"SEL\xff".to_vec(),
                    cut: true,
                },
            ),
            ("p".into(), Value::Ptr(0)),
            ("max".into(), Value::Uint(u64::MAX)),
            ("min".into(), Value::Int(i64::MIN)),
        ];
        let line = written(Format::Json, TermInfo::plain(), |out| out.event(&event));
        let read: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert!(read.get("latency_ns").is_none());
        assert_eq!(read["fields"]["sql"], "SEL\\xff");
        assert_eq!(read["fields"]["sql_cut"], true);
        assert_eq!(read["fields"]["p"], "0x0");
        assert_eq!(read["fields"]["max"], u64::MAX);
        assert_eq!(read["fields"]["min"], i64::MIN);
    }

    #[test]
    fn the_steps_of_an_event_follow_its_fields() {
        let event = a_timeline();
        let line = written(Format::Json, TermInfo::plain(), |out| out.event(&event));
        let (_, timeline) = line.split_once("null},").expect(&line);
        assert_eq!(
            timeline,
            "\"timeline\":[{\"time_ns\":1760000000123256789,\"step\":\"ESTABLISHED to CLOSE_WAIT\",\"pid\":812,\"tid\":900,\
             \"comm\":\"curl\",\"softirq\":true},{\"time_ns\":1760000000123456789,\"step\":\"close\",\"pid\":812,\
             \"tid\":900,\"comm\":\"mariadbd\",\"softirq\":false},{\"time_ns\":1760000000123459789,\
             \"step\":\"CLOSE_WAIT to LAST_ACK\",\"pid\":812,\"tid\":900,\"comm\":\"mariadbd\",\"softirq\":false}]}\n"
        );
    }

    #[test]
    fn a_summary_is_the_documented_line() {
        let mut summary = a_summary();
        summary.tables.clear();
        summary.notes.clear();
        let line = written(Format::Json, TermInfo::plain(), |out| out.finish(&summary));
        assert_eq!(
            line,
            "{\"type\":\"summary\",\"duration_ns\":2000000000,\"probes\":[{\"probe\":\"malloc\",\"sites\":1,\"hits\":1010,\
             \"emitted\":0,\"aggregated\":1000,\"filtered\":7,\"dropped\":3,\"unpaired\":0,\
             \"unfinished\":0,\"abandoned\":0,\"nested\":0,\"unsampled\":0,\"sample\":1}],\"histograms\":[{\"name\":\"size\",\
             \"key\":{},\"unit\":\"bytes\",\"count\":1000,\"min\":16,\"max\":5000,\"mean\":100.5,\"p50\":32,\"p90\":64,\
             \"p99\":4096,\"p999\":5000,\"buckets\":[{\"low\":16,\"high\":16,\"count\":500},{\"low\":64,\"high\":67,\"count\":490},\
             {\"low\":4864,\"high\":5119,\"count\":10}]}],\"counts\":[{\"probe\":\"free\",\"key\":{\"comm\":\"King\"},\"count\":900},\
             {\"probe\":\"free\",\"key\":{\"comm\":\"Queen\"},\"count\":100}]}\n"
        );
    }

    #[test]
    fn tables_and_notes_follow_the_counts() {
        let line = written(Format::Json, TermInfo::plain(), |out| {
            out.finish(&a_summary())
        });
        let read: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(read["tables"][0]["title"], "top statements");
        assert_eq!(
            read["tables"][0]["rows"][0],
            serde_json::json!([12, 1_450_000, 0.75, "SELECT ?"])
        );
        assert_eq!(
            read["notes"][0],
            "2 statements were prepared before uprof started"
        );
        let keys: Vec<usize> = [
            "\"probes\"",
            "\"histograms\"",
            "\"counts\"",
            "\"tables\"",
            "\"notes\"",
        ]
        .iter()
        .map(|k| line.find(k).unwrap())
        .collect();
        assert!(keys.is_sorted());
    }

    #[test]
    fn sums_and_steps_are_the_documented_members() {
        let mut stats = some_stats();
        stats.truncate(1);
        let summary = Summary {
            stats,
            linear: vec![a_linear()],
            ..Summary::default()
        };
        let line = written(Format::Json, TermInfo::plain(), |out| out.finish(&summary));
        assert_eq!(
            line,
            "{\"type\":\"summary\",\"duration_ns\":0,\"probes\":[],\"histograms\":[],\"counts\":[],\
             \"stats\":[{\"probe\":\"send\",\"key\":{\"peer\":\"10.0.0.1:443\"},\"count\":900,\"values\":\
             {\"bytes\":{\"sum\":71680,\"max\":100},\"took\":{\"avg\":1250.0}}}],\
             \"linear\":[{\"name\":\"delay\",\"key\":{\"comm\":\"King\"},\"unit\":\"ns\",\"count\":20,\"min\":-31,\
             \"max\":90000000,\"mean\":4500000.0,\"from\":-20,\"to\":100,\"step\":10,\"below\":1,\"above\":4,\
             \"buckets\":[{\"low\":0,\"count\":10},{\"low\":10,\"count\":0},{\"low\":20,\"count\":5}]}]}\n"
        );
    }

    #[test]
    fn where_time_went_is_the_documented_member() {
        let summary = Summary {
            breakdowns: vec![super::super::tests::a_breakdown()],
            ..Summary::default()
        };
        let line = written(Format::Json, TermInfo::plain(), |out| out.finish(&summary));
        assert_eq!(
            line,
            "{\"type\":\"summary\",\"duration_ns\":0,\"probes\":[],\"histograms\":[],\"counts\":[],\
             \"breakdowns\":[{\"name\":\"work\",\"key\":{\"comm\":\"King\"},\"calls\":1000,\"known\":1000,\
             \"total_ns\":1000000000,\"parts\":{\"cpu_ns\":250000000,\"runq_ns\":2000000,\"disk_ns\":0,\
             \"network_ns\":0,\"lock_ns\":748000000,\"sleep_ns\":0,\"other_ns\":0}}]}\n"
        );
    }

    #[test]
    fn stacks_are_arrays_and_addresses_text() {
        let mut event = an_event();
        event.fields = vec![
            ("ustack".into(), a_stack(&["b+0x1", "a \"q\""])),
            ("empty".into(), a_stack(&[])),
            (
                "peer".into(),
                Value::Address("::1".parse().unwrap(), Some(80)),
            ),
            (
                "own".into(),
                Value::Address("10.0.0.1".parse().unwrap(), None),
            ),
        ];
        let line = written(Format::Json, TermInfo::plain(), |out| out.event(&event));
        let read: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            read["fields"],
            serde_json::json!({"ustack": ["b+0x1", "a \"q\""], "empty": [], "peer": "[::1]:80", "own": "10.0.0.1"})
        );
    }

    #[test]
    fn a_mean_of_nothing_is_still_json() {
        let mut summary = a_summary();
        summary.histograms[0].mean = f64::NAN;
        let line = written(Format::Json, TermInfo::plain(), |out| out.finish(&summary));
        let read: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert!(read["histograms"][0]["mean"].is_null());
    }
}
