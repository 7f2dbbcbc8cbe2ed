//! The forms a report takes.
//!
//! - [`model`]: what is said
//! - [`table`]: the human form: events, and what stands around them
//! - `timeline`: the steps of an event, under its row
//! - [`summary`]: its blocks, made of `distribution` with `bars`, and `counts`
//! - `grid`, `cell`, `values`, `clock`: how its rows are laid out and what stands in them
//! - [`json`]: the machine's form
//! - `at_end`: what is written at the end alone: [`folded`] for flame graphs, [`dot`] for graphs
//! - [`units`]: how quantities are written
//! - [`escape`]: what keeps a target's bytes off the terminal
//!
//! All of them write through [`Output`], in the order `start`, then `event`, `live` and `flush` as they
//! come, then `finish`.

mod at_end;
mod bars;
mod breakdown;
mod cell;
mod clock;
mod counts;
mod distribution;
mod dot;
pub mod escape;
mod folded;
mod grid;
mod json;
pub mod model;
mod summary;
mod table;
mod timeline;
pub mod units;
mod values;

use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use model::{Column, Event, Summary};
use uprof_recipes::{Recipe, Type};

/// Where a report goes, in whatever form.
///
/// Errors are those of the writer; one of kind [`io::ErrorKind::BrokenPipe`] means that the reader has
/// gone, which is a quiet end and no failure.
pub trait Output {
    /// Says which columns events have (none: a choice that fits every event). Writes nothing yet.
    fn start(&mut self, columns: &[Column]) -> io::Result<()>;
    /// Writes one event, into a buffer.
    fn event(&mut self, event: &Event) -> io::Result<()>;
    /// Shows the state so far: redrawn in place on a terminal, a block elsewhere.
    fn live(&mut self, so_far: &Summary) -> io::Result<()>;
    /// Hands on what is buffered: call it after each drain of the ring buffer.
    fn flush(&mut self) -> io::Result<()>;
    /// Writes the closing summary and flushes.
    fn finish(&mut self, summary: &Summary) -> io::Result<()>;
}

/// The forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Aligned columns and blocks for people.
    Table,
    /// One JSON object a line.
    Json,
    /// Stacks with their weights, for flame graphs.
    Folded,
    /// A graph, for Graphviz.
    Dot,
}

/// Whether a recipe has what the format shows. Fails in words that say what is missing.
pub fn needs(format: Format, recipe: &Recipe) -> Result<()> {
    let stack = |p: &uprof_recipes::Probe| p.action.by().iter().any(|(_, e)| e.ty == Type::Stack);
    match format {
        Format::Folded if !recipe.probes.iter().any(stack) => bail!(
            "--format folded is for stacks, and no count, sum or histogram of {} has one in its key: add one \
             (--by ustack, --by kstack; in a recipe `by`), or take --format table or json",
            recipe.name
        ),
        Format::Dot if recipe.report.graph.is_none() => bail!(
            "--format dot is for graphs, and {} has none: its recipe says in [report.graph] which keys are the \
             ends of an edge; or take --format table or json",
            recipe.name
        ),
        _ => Ok(()),
    }
}

/// What the report is written to: a terminal of some size, or not a terminal.
#[derive(Clone, Debug)]
pub struct TermInfo {
    size: Option<(usize, usize)>,
    colour: bool,
    // Asked again before each redraw, since windows are resized.
    terminal: Option<Arc<OwnedFd>>,
}

impl TermInfo {
    /// Not a terminal: nothing is cut, coloured or redrawn.
    pub fn plain() -> TermInfo {
        TermInfo {
            size: None,
            colour: false,
            terminal: None,
        }
    }

    /// What `stream` is. Colour needs a terminal, no `NO_COLOR`, and a `TERM` other than `dumb`.
    pub fn of(stream: &impl AsFd) -> TermInfo {
        let fd = stream.as_fd();
        if !fd.is_terminal() {
            return TermInfo::plain();
        }
        let unset = |name: &str| std::env::var_os(name).is_none_or(|v| v.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let mut info = TermInfo {
            size: Some((80, 24)),
            colour: unset("NO_COLOR") && !dumb,
            terminal: fd.try_clone_to_owned().ok().map(Arc::new),
        };
        info.refresh();
        info
    }

    /// A terminal of a given size.
    #[cfg(test)]
    fn sized(width: usize, height: usize, colour: bool) -> TermInfo {
        TermInfo {
            size: Some((width, height)),
            colour,
            terminal: None,
        }
    }

    /// Is it a terminal?
    pub fn is_terminal(&self) -> bool {
        self.size.is_some()
    }

    fn refresh(&mut self) {
        if let Some(fd) = &self.terminal
            && let Some((width, height)) = terminal_size::terminal_size_of(fd.as_fd())
            && width.0 > 0
            && height.0 > 0
        {
            self.size = Some((width.0.into(), height.0.into()));
        }
    }
}

/// Writes a whole text to standard output; a reader that has left is a quiet end.
pub fn say(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            Err(e).context("cannot write to standard output")
        }
        _ => Ok(()),
    }
}

/// A value as a table shows it.
pub fn text(value: &model::Value) -> String {
    let mut text = String::new();
    values::show(&mut text, value);
    text
}

/// Starts a report of `format` on `writer`, which `terminal` describes. The report does its own
/// buffering: give it a plain file.
pub fn open(format: Format, writer: Box<dyn Write>, terminal: TermInfo) -> Box<dyn Output> {
    let sink = Sink::new(writer);
    match format {
        Format::Json => Box::new(json::Json::new(sink)),
        Format::Table => Box::new(table::Table::new(
            sink,
            terminal,
            jiff::tz::TimeZone::system(),
        )),
        Format::Folded => Box::new(at_end::AtEnd::new(sink, folded::draw)),
        Format::Dot => Box::new(at_end::AtEnd::new(sink, dot::draw)),
    }
}

/// A writer behind a large buffer that the forms append to directly.
struct Sink {
    writer: Box<dyn Write>,
    buffer: Vec<u8>,
}

impl Sink {
    /// Fewer, larger writes than this gain nothing measurable.
    const FULL: usize = 128 * 1024;

    fn new(writer: Box<dyn Write>) -> Sink {
        Sink {
            writer,
            buffer: Vec::with_capacity(Self::FULL + 4096),
        }
    }

    fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// Call after each piece appended: hands on when the buffer is full.
    fn written(&mut self) -> io::Result<()> {
        if self.buffer.len() >= Self::FULL {
            self.flush()
        } else {
            Ok(())
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let done = self
            .writer
            .write_all(&self.buffer)
            .and_then(|()| self.writer.flush());
        // Even after an error: what was partly written must not be written twice.
        self.buffer.clear();
        done
    }
}

#[cfg(test)]
mod tests {
    use super::model::*;
    use uprof_recipes::{Action, StatKind};

    use super::*;
    use std::sync::Mutex;

    /// A writer whose content the test keeps.
    #[derive(Clone, Default)]
    pub(super) struct Page(Arc<Mutex<Vec<u8>>>);

    impl Page {
        pub(super) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).expect("reports are UTF-8")
        }
    }

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What a report in UTC writes for these calls.
    pub(super) fn written(
        format: Format,
        terminal: TermInfo,
        calls: impl FnOnce(&mut dyn Output) -> io::Result<()>,
    ) -> String {
        let page = Page::default();
        let sink = Sink::new(Box::new(page.clone()));
        let mut output: Box<dyn Output> = match format {
            Format::Json => Box::new(json::Json::new(sink)),
            Format::Table => Box::new(table::Table::new(sink, terminal, jiff::tz::TimeZone::UTC)),
            Format::Folded | Format::Dot => open(format, Box::new(page.clone()), terminal),
        };
        calls(output.as_mut()).expect("a page takes everything");
        output.flush().expect("a page takes everything");
        page.text()
    }

    pub(super) fn an_event() -> Event {
        Event {
            probe: "statement".into(),
            time_ns: 1_760_000_000_123_456_789,
            pid: 812,
            tid: 900,
            comm: "mariadbd".into(),
            nobody: false,
            latency_ns: Some(12_345),
            fields: vec![
                ("command".into(), Value::Name("Query".into())),
                (
                    "sql".into(),
                    Value::Text {
                        bytes: b"SELECT \"a\"\n".to_vec(),
                        cut: false,
                    },
                ),
                ("rows".into(), Value::Uint(3)),
                ("delta".into(), Value::Int(-1)),
                ("thd".into(), Value::Ptr(0x7f00_dead_0000)),
                ("wait".into(), Value::Missing("unreadable")),
            ],
            steps: Vec::new(),
        }
    }

    /// An event 200 us after something in an interrupt and 3 us before something of its own thread.
    pub(super) fn a_timeline() -> Event {
        let mut event = an_event();
        let step = |time_ns, what: &str, comm: &str, softirq| Step {
            time_ns,
            what: what.to_owned(),
            pid: 812,
            tid: 900,
            comm: comm.to_owned(),
            softirq,
        };
        event.steps = vec![
            step(
                event.time_ns - 200_000,
                "ESTABLISHED to CLOSE_WAIT",
                "curl",
                true,
            ),
            step(event.time_ns, "close", "mariadbd", false),
            step(
                event.time_ns + 3_000,
                "CLOSE_WAIT to LAST_ACK",
                "mariadbd",
                false,
            ),
        ];
        event
    }

    pub(super) fn a_summary() -> Summary {
        let comm = |name: &str| {
            vec![(
                "comm".to_string(),
                Value::Text {
                    bytes: name.into(),
                    cut: false,
                },
            )]
        };
        Summary {
            duration_ns: 2_000_000_000,
            probes: vec![ProbeCount {
                probe: "malloc".into(),
                sites: 1,
                hits: 1010,
                aggregated: 1000,
                filtered: 7,
                dropped_ring: 1,
                dropped_map: 2,
                ..ProbeCount::default()
            }],
            histograms: vec![Histogram {
                name: "size".into(),
                key: vec![],
                unit: "bytes".into(),
                count: 1000,
                min: 16,
                max: 5000,
                mean: 100.5,
                p50: 32,
                p90: 64,
                p99: 4096,
                p999: 5000,
                buckets: vec![
                    Bucket {
                        low: 16,
                        high: 16,
                        count: 500,
                    },
                    Bucket {
                        low: 64,
                        high: 67,
                        count: 490,
                    },
                    Bucket {
                        low: 4864,
                        high: 5119,
                        count: 10,
                    },
                ],
                probe_cost_ns: None,
            }],
            counts: vec![
                Count {
                    probe: "free".into(),
                    key: comm("King"),
                    count: 900,
                },
                Count {
                    probe: "free".into(),
                    key: comm("Queen"),
                    count: 100,
                },
            ],
            tables: vec![Table {
                title: "top statements".into(),
                columns: vec![
                    "count".into(),
                    "total".into(),
                    "share".into(),
                    "statement".into(),
                ],
                rows: vec![vec![
                    Value::Uint(12),
                    Value::Duration(1_450_000),
                    Value::Share(0.75),
                    Value::Text {
                        bytes: b"SELECT ?".to_vec(),
                        cut: false,
                    },
                ]],
            }],
            notes: vec!["2 statements were prepared before uprof started".into()],
            ..Summary::default()
        }
    }

    pub(super) fn a_breakdown() -> Breakdown {
        Breakdown {
            name: "work".into(),
            key: vec![("comm".into(), Value::Name("King".into()))],
            calls: 1000,
            known: 1000,
            parts: [250_000_000, 2_000_000, 0, 0, 748_000_000, 0, 0],
        }
    }

    pub(super) fn a_stack(frames: &[&str]) -> Value {
        Value::Stack(frames.iter().map(|f| f.to_string()).collect())
    }

    pub(super) fn a_linear() -> Linear {
        Linear {
            name: "delay".into(),
            key: vec![("comm".into(), Value::Name("King".into()))],
            unit: "ns".into(),
            count: 20,
            below: 1,
            above: 4,
            min: -31,
            max: 90_000_000,
            mean: 4_500_000.0,
            from: -20,
            to: 100,
            step: 10,
            buckets: vec![(0, 10), (10, 0), (20, 5)],
        }
    }

    /// Sums of bytes and means of times, by peer.
    pub(super) fn some_stats() -> Vec<StatRow> {
        let row = |peer: Value, count, bytes: [f64; 2], took| StatRow {
            probe: "send".into(),
            key: vec![("peer".into(), peer)],
            count,
            values: vec![
                StatValue {
                    name: "bytes".into(),
                    unit: "bytes".into(),
                    shown: vec![(StatKind::Sum, bytes[0]), (StatKind::Max, bytes[1])],
                },
                StatValue {
                    name: "took".into(),
                    unit: "ns".into(),
                    shown: vec![(StatKind::Avg, took)],
                },
            ],
        };
        let address = |text: &str, port| Value::Address(text.parse().unwrap(), Some(port));
        vec![
            row(address("10.0.0.1", 443), 900, [71680.0, 100.0], 1250.0),
            row(address("::1", 80), 2, [1572864.0, 1048576.0], 2500.5),
            row(Value::Missing("unreadable"), 1, [-5.0, -5.0], 7.0),
        ]
    }

    #[test]
    fn a_picture_needs_what_it_shows() {
        let text = "[[probe]]\nname = \"f\"\nfunction = \"f\"\ncount = true\nby = [\"pid\"]\n";
        let parsed = uprof_recipes::parse(uprof_recipes::Source::new("t.toml", text));
        let mut recipe = parsed.expect("a recipe");
        let refused = |format, recipe: &Recipe| needs(format, recipe).unwrap_err().to_string();
        assert!(refused(Format::Folded, &recipe).contains("--by ustack"));
        assert!(refused(Format::Dot, &recipe).contains("[report.graph]"));
        for format in [Format::Table, Format::Json] {
            needs(format, &recipe).unwrap();
        }
        let Action::Count { by } = &mut recipe.probes[0].action else {
            panic!("{recipe:?}")
        };
        by[0].1.ty = Type::Stack;
        needs(Format::Folded, &recipe).unwrap();
        recipe.report.graph = Some(uprof_recipes::Graph {
            probe: "f".into(),
            from: "pid".into(),
            to: "pid".into(),
            weight: None,
        });
        needs(Format::Dot, &recipe).unwrap();
    }

    #[test]
    fn events_reach_the_writer_at_flush_and_when_the_buffer_fills() {
        let page = Page::default();
        let mut output = open(Format::Json, Box::new(page.clone()), TermInfo::plain());
        output.event(&an_event()).unwrap();
        assert_eq!(page.text(), "");
        output.flush().unwrap();
        assert_eq!(page.text().lines().count(), 1);
        for _ in 0..1000 {
            output.event(&an_event()).unwrap();
        }
        assert!(page.text().lines().count() > 500);
    }

    #[test]
    fn a_reader_that_left_is_told_as_a_broken_pipe() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        for format in [Format::Table, Format::Json] {
            let mut output = open(
                format,
                Box::new(writer.try_clone().unwrap()),
                TermInfo::plain(),
            );
            output.event(&an_event()).unwrap();
            assert_eq!(
                output.flush().unwrap_err().kind(),
                io::ErrorKind::BrokenPipe
            );
        }
    }
}
