//! The form for people: events as aligned columns, and around them the blocks of [`super::summary`].
//!
//! On a terminal the rows fit its width and the state so far is redrawn in place; in a file or a pipe
//! nothing is cut, coloured or repeated.

use std::fmt::Write as _;
use std::io;

use jiff::{Timestamp, tz::TimeZone};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::model::{Column, ColumnValue, Event, Summary, Value};
use super::{Output, Sink, TermInfo, escape, summary, units};

/// Between two columns.
const GAP: usize = 2;
/// A column of text is never squeezed below this, even if the terminal then wraps the line.
const LEAST_TEXT: usize = 16;
/// A column grows with what it holds, up to this; longer values push their own row out only.
const MOST_GROWTH: usize = 40;

/// Writes the human form.
pub(super) struct Table {
    sink: Sink,
    terminal: TermInfo,
    columns: Vec<Placed>,
    /// The index of the last column of text: it takes what a terminal's line has left.
    stretch: Option<usize>,
    header_due: bool,
    clock: Clock,
    /// Lines of the block that the next write replaces (terminals only).
    live_lines: usize,
    // Reused for every row.
    cells: Vec<Cell>,
}

struct Placed {
    column: Column,
    width: usize,
}

#[derive(Default)]
struct Cell {
    text: String,
    width: usize,
    right: bool,
}

impl Table {
    pub(super) fn new(sink: Sink, terminal: TermInfo, zone: TimeZone) -> Table {
        let mut table = Table {
            sink,
            terminal,
            columns: Vec::new(),
            stretch: None,
            header_due: true,
            clock: Clock {
                zone,
                second: u64::MAX,
                text: String::new(),
            },
            live_lines: 0,
            cells: Vec::new(),
        };
        table.place(&[
            Column::new("TIME", ColumnValue::Time),
            Column::new("PID", ColumnValue::Pid),
            Column::new("TID", ColumnValue::Tid),
            Column::new("COMM", ColumnValue::Comm),
            Column::new("PROBE", ColumnValue::Probe),
            Column::new("LATENCY", ColumnValue::Latency),
            Column::new("VALUES", ColumnValue::Rest),
        ]);
        table
    }

    fn place(&mut self, columns: &[Column]) {
        self.columns = columns
            .iter()
            .map(|column| {
                let usual = match column.value {
                    ColumnValue::Time => 12,
                    ColumnValue::Pid | ColumnValue::Tid => 7,
                    ColumnValue::Comm => 15,
                    ColumnValue::Probe => 12,
                    ColumnValue::Latency => 8,
                    ColumnValue::Field(_) => 8,
                    ColumnValue::Rest => LEAST_TEXT,
                };
                let width = column.width.unwrap_or(usual).max(column.title.width());
                Placed {
                    column: column.clone(),
                    width,
                }
            })
            .collect();
        let is_text =
            |p: &Placed| matches!(p.column.value, ColumnValue::Field(_) | ColumnValue::Rest);
        self.stretch = self.columns.iter().rposition(is_text);
        self.cells.clear();
        self.cells.resize_with(columns.len(), Cell::default);
    }

    /// Takes the live block off the terminal: what is written next stands in its place.
    fn erase_live(&mut self) {
        if self.live_lines > 0 {
            let up = format!("\x1b[{}F\x1b[J", self.live_lines);
            self.sink.buffer().extend_from_slice(up.as_bytes());
            self.live_lines = 0;
        }
    }

    fn fill_cells(&mut self, event: &Event) {
        for (i, placed) in self.columns.iter().enumerate() {
            let cell = &mut self.cells[i];
            cell.text.clear();
            cell.right = false;
            let text = &mut cell.text;
            match &placed.column.value {
                ColumnValue::Time => self.clock.write(text, event.time_ns),
                ColumnValue::Pid => text.push_str(itoa::Buffer::new().format(event.pid)),
                ColumnValue::Tid => text.push_str(itoa::Buffer::new().format(event.tid)),
                ColumnValue::Comm => escape::text(text, event.comm.as_bytes()),
                ColumnValue::Probe => escape::text(text, event.probe.as_bytes()),
                ColumnValue::Latency => {
                    if let Some(ns) = event.latency_ns {
                        text.push_str(&units::duration_aligned(ns as f64));
                    }
                }
                ColumnValue::Field(name) => {
                    if let Some((_, value)) = event.fields.iter().find(|(n, _)| n == name) {
                        show(text, value);
                        cell.right = is_number(value);
                    }
                }
                ColumnValue::Rest => rest(text, event, &self.columns),
            }
            cell.right |= matches!(
                placed.column.value,
                ColumnValue::Pid | ColumnValue::Tid | ColumnValue::Latency
            );
            cell.width = if cell.text.is_ascii() {
                cell.text.len()
            } else {
                cell.text.width()
            };
        }
    }

    /// Cuts cells so that the row fits the terminal, and lets the columns grow with their content.
    fn fit(&mut self) {
        let line = self.terminal.size.map(|(width, _)| width);
        for (i, (placed, cell)) in self.columns.iter_mut().zip(&mut self.cells).enumerate() {
            if self.stretch == Some(i) && line.is_some() {
                continue;
            }
            if line.is_some() && cell.width > MOST_GROWTH {
                cut(cell, MOST_GROWTH);
            }
            if cell.width > placed.width && cell.width <= MOST_GROWTH {
                placed.width = cell.width;
            }
        }
        if let (Some(line), Some(i)) = (line, self.stretch) {
            let others: usize = self
                .columns
                .iter()
                .enumerate()
                .filter(|(j, _)| *j != i)
                .map(|(_, p)| p.width + GAP)
                .sum();
            let room = line.saturating_sub(others).max(LEAST_TEXT);
            self.columns[i].width = room;
            cut(&mut self.cells[i], room);
        }
    }

    fn write_header(&mut self) {
        let colour = self.terminal.colour;
        let out = self.sink.buffer();
        if colour {
            out.extend_from_slice(summary::BOLD.as_bytes());
        }
        let last = self.columns.len().saturating_sub(1);
        for (i, (placed, cell)) in self.columns.iter().zip(&self.cells).enumerate() {
            let title = &placed.column.title;
            write_padded(
                out,
                title,
                title.width(),
                placed.width,
                cell.right,
                i == last,
            );
        }
        if colour {
            out.extend_from_slice(summary::RESET.as_bytes());
        }
        out.push(b'\n');
    }

    fn write_row(&mut self) {
        let colour = self.terminal.colour;
        let out = self.sink.buffer();
        let last = self.columns.len().saturating_sub(1);
        for (i, (placed, cell)) in self.columns.iter().zip(&self.cells).enumerate() {
            let dim = colour && placed.column.value == ColumnValue::Time;
            if dim {
                out.extend_from_slice(summary::DIM.as_bytes());
            }
            write_padded(
                out,
                &cell.text,
                cell.width,
                placed.width,
                cell.right,
                i == last,
            );
            if dim {
                out.extend_from_slice(summary::RESET.as_bytes());
            }
        }
        while out.last() == Some(&b' ') {
            out.pop();
        }
        out.push(b'\n');
    }
}

impl Output for Table {
    fn start(&mut self, columns: &[Column]) -> io::Result<()> {
        if !columns.is_empty() {
            self.place(columns);
        }
        Ok(())
    }

    fn event(&mut self, event: &Event) -> io::Result<()> {
        self.erase_live();
        self.fill_cells(event);
        self.fit();
        // The header waits for the first row: only then is it known which columns hold numbers.
        if std::mem::take(&mut self.header_due) {
            self.write_header();
        }
        self.write_row();
        self.sink.written()
    }

    fn live(&mut self, so_far: &Summary) -> io::Result<()> {
        self.terminal.refresh();
        self.erase_live();
        let title = format!("--- {} ---\n", units::duration(so_far.duration_ns as f64));
        let Some((width, height)) = self.terminal.size else {
            let block = summary::render(so_far, &summary::Style::file(), false);
            let out = self.sink.buffer();
            out.extend_from_slice(title.as_bytes());
            out.extend_from_slice(block.as_bytes());
            out.push(b'\n');
            return self.sink.flush();
        };
        // Without colour, so that lines can be cut by their width; a line too long or a block too high
        // would scroll, and the next redraw would start at the wrong place.
        let style = summary::Style {
            width: Some(width),
            colour: false,
            ..summary::Style::file()
        };
        let block = summary::render(so_far, &style, false);
        let mut cell = Cell::default();
        for line in title
            .lines()
            .chain(block.lines())
            .take(height.saturating_sub(1))
        {
            cell.text.clear();
            cell.text.push_str(line);
            cell.width = line.width();
            cut(&mut cell, width.saturating_sub(1));
            let out = self.sink.buffer();
            out.extend_from_slice(cell.text.as_bytes());
            out.push(b'\n');
            self.live_lines += 1;
        }
        self.sink.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }

    fn finish(&mut self, so_far: &Summary) -> io::Result<()> {
        self.terminal.refresh();
        self.erase_live();
        let style = match self.terminal.size {
            Some((width, _)) => summary::Style {
                width: Some(width),
                colour: self.terminal.colour,
                rows: Some(summary::TOP_ROWS),
            },
            None => summary::Style::file(),
        };
        let block = summary::render(so_far, &style, true);
        if !self.header_due {
            self.sink.buffer().push(b'\n');
        }
        self.sink.buffer().extend_from_slice(block.as_bytes());
        self.sink.flush()
    }
}

/// Appends a value as a table shows it.
pub(super) fn show(out: &mut String, value: &Value) {
    match value {
        Value::Int(n) => out.push_str(itoa::Buffer::new().format(*n)),
        Value::Uint(n) => out.push_str(itoa::Buffer::new().format(*n)),
        Value::Ptr(n) => {
            let _ = write!(out, "{n:#x}");
        }
        Value::Text { bytes, cut } => {
            escape::text(out, bytes);
            if *cut {
                out.push_str("…(cut)");
            }
        }
        Value::Name(name) => escape::text(out, name.as_bytes()),
        Value::Duration(ns) => out.push_str(&units::duration_aligned(*ns as f64)),
        Value::Share(part) => out.push_str(&units::share(*part)),
        Value::Stack(frames) => {
            for (i, frame) in frames.iter().enumerate() {
                out.push_str(if i == 0 { "" } else { " < " });
                escape::text(out, frame.as_bytes());
            }
        }
        Value::Address(address, port) => units::address(out, *address, *port),
        Value::Missing(why) => {
            if !why.is_empty() {
                let _ = write!(out, "({why})");
            }
        }
    }
}

/// Does this value stand at the right of its column?
pub(super) fn is_number(value: &Value) -> bool {
    matches!(
        value,
        Value::Int(_) | Value::Uint(_) | Value::Duration(_) | Value::Share(_)
    )
}

/// Captures without a column of their own, as `name=value`; text in quotes, for it has spaces.
fn rest(out: &mut String, event: &Event, columns: &[Placed]) {
    for (name, value) in &event.fields {
        if columns
            .iter()
            .any(|p| matches!(&p.column.value, ColumnValue::Field(n) if n == name))
        {
            continue;
        }
        if !out.is_empty() {
            out.push(' ');
        }
        escape::text(out, name.as_bytes());
        out.push('=');
        match value {
            Value::Text { bytes, cut } => {
                out.push('"');
                escape::text(out, bytes);
                out.push_str(if *cut { "\"…(cut)" } else { "\"" });
            }
            Value::Duration(ns) => out.push_str(&units::duration(*ns as f64)),
            other => show(out, other),
        }
    }
}

/// Shortens a cell to `room` columns of the terminal, the last of them `…`.
fn cut(cell: &mut Cell, room: usize) {
    if cell.width <= room {
        return;
    }
    let mut used = 0;
    let mut end = 0;
    for (at, c) in cell.text.char_indices() {
        let width = c.width().unwrap_or(0);
        if used + width + 1 > room {
            break;
        }
        used += width;
        end = at + c.len_utf8();
    }
    cell.text.truncate(end);
    cell.text.push('…');
    cell.width = used + 1;
}

/// As [`cut`], for any text.
pub(super) fn cut_text(text: String, room: usize) -> String {
    let mut cell = Cell {
        width: text.width(),
        text,
        right: false,
    };
    cut(&mut cell, room);
    cell.text
}

fn write_padded(out: &mut Vec<u8>, text: &str, width: usize, room: usize, right: bool, last: bool) {
    let pad = room.saturating_sub(width);
    let blanks = |out: &mut Vec<u8>, n: usize| out.resize(out.len() + n, b' ');
    if right {
        blanks(out, pad);
    }
    out.extend_from_slice(text.as_bytes());
    if !last {
        blanks(out, if right { GAP } else { pad + GAP });
    }
}

/// Local time of day to the millisecond, worked out once a second.
struct Clock {
    zone: TimeZone,
    second: u64,
    text: String,
}

impl Clock {
    fn write(&mut self, out: &mut String, time_ns: u64) {
        let second = time_ns / 1_000_000_000;
        if second != self.second {
            self.second = second;
            self.text.clear();
            // u64 nanoseconds end in the year 2554: always a valid time stamp.
            if let Ok(stamp) = Timestamp::from_second(second as i64) {
                let _ = write!(
                    self.text,
                    "{}",
                    stamp.to_zoned(self.zone.clone()).strftime("%H:%M:%S")
                );
            }
        }
        out.push_str(&self.text);
        let ms = (time_ns / 1_000_000 % 1000) as u32;
        out.push('.');
        for digit in [ms / 100, ms / 10 % 10, ms % 10] {
            out.push(char::from_digit(digit, 10).unwrap_or('0'));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::super::tests::{a_summary, an_event, written};
    use super::*;

    fn columns() -> Vec<Column> {
        vec![
            Column::new("TIME", ColumnValue::Time),
            Column::new("PID", ColumnValue::Pid),
            Column::new("COMMAND", ColumnValue::Field("command".into())),
            Column::new("ROWS", ColumnValue::Field("rows".into())),
            Column::new("LATENCY", ColumnValue::Latency),
            Column::new("SQL", ColumnValue::Field("sql".into())),
        ]
    }

    fn long_statement() -> Event {
        let mut event = an_event();
        event.latency_ns = Some(2_500_000_000);
        event.fields[1].1 = Value::Text {
            bytes: b"SELECT * FROM t WHERE name = '\x1b[31m'".to_vec(),
            cut: true,
        };
        event.fields[2].1 = Value::Uint(1_234_567_890);
        event
    }

    #[test]
    fn a_file_gets_whole_values_under_one_header() {
        let page = written(Format::Table, TermInfo::plain(), |out| {
            out.start(&columns())?;
            out.event(&an_event())?;
            out.event(&long_statement())?;
            out.event(&an_event())
        });
        assert_eq!(
            page,
            "\
TIME              PID  COMMAND       ROWS   LATENCY  SQL
08:53:20.123      812  Query            3   12.3 us  SELECT \"a\"\\n
08:53:20.123      812  Query     1234567890   2.50  s  SELECT * FROM t WHERE name = '\\x1b[31m'…(cut)
08:53:20.123      812  Query              3   12.3 us  SELECT \"a\"\\n
"
        );
    }

    #[test]
    fn a_terminal_gets_rows_that_fit() {
        for width in [60, 80, 100] {
            let page = written(Format::Table, TermInfo::sized(width, 24, false), |out| {
                out.start(&columns())?;
                out.event(&long_statement())
            });
            for line in page.lines() {
                assert!(
                    line.width() <= width.max(55 + LEAST_TEXT),
                    "{width}: {line}"
                );
            }
            assert!(!page.contains('\x1b'));
        }
        let page = written(Format::Table, TermInfo::sized(80, 24, false), |out| {
            out.start(&columns())?;
            out.event(&long_statement())
        });
        assert!(page.ends_with("  SELECT * FROM t WHERE na…\n"), "{page}");
    }

    #[test]
    fn wide_characters_are_cut_by_their_width() {
        assert_eq!(cut_text("東京東京".into(), 8), "東京東京");
        assert_eq!(cut_text("東京東京".into(), 7), "東京東…");
        assert_eq!(cut_text("東京東京".into(), 6), "東京…");
    }

    #[test]
    fn without_columns_every_capture_is_shown_by_name() {
        let page = written(Format::Table, TermInfo::plain(), |out| {
            out.event(&an_event())
        });
        assert_eq!(
            page,
            "\
TIME              PID      TID  COMM             PROBE          LATENCY  VALUES
08:53:20.123      812      900  mariadbd         statement      12.3 us  command=Query sql=\"SELECT \"a\"\\n\" rows=3 delta=-1 thd=0x7f00dead0000 wait=(unreadable)
"
        );
    }

    #[test]
    fn colour_is_for_terminals_and_closed_again() {
        let page = written(Format::Table, TermInfo::sized(100, 24, true), |out| {
            out.event(&an_event()).and(out.finish(&a_summary()))
        });
        assert!(page.contains(summary::BOLD) && page.contains(summary::DIM));
        let opened = page.matches(summary::BOLD).count() + page.matches(summary::DIM).count();
        assert_eq!(opened, page.matches(summary::RESET).count());
    }

    #[test]
    fn the_live_block_is_redrawn_in_place_and_gives_way() {
        let page = written(Format::Table, TermInfo::sized(80, 10, false), |out| {
            out.live(&a_summary())?;
            out.live(&a_summary())?;
            out.event(&an_event())?;
            out.live(&a_summary())
        });
        // Nine lines at most, and each redraw goes back over exactly those.
        assert_eq!(page.matches("\x1b[9F\x1b[J").count(), 2);
        assert!(page.lines().all(|line| line.width() < 100));
        let plain = written(Format::Table, TermInfo::plain(), |out| {
            out.live(&a_summary())
        });
        assert!(plain.starts_with("--- 2.00 s ---\n") && !plain.contains('\x1b'));
    }
}
