//! The form for people: events as aligned columns, and around them the blocks of [`super::summary`].
//!
//! On a terminal the rows fit its width and the state so far is redrawn in place; in a file or a pipe
//! nothing is cut, coloured or repeated.

use std::fmt::Write as _;
use std::io;

use jiff::tz::TimeZone;
use unicode_width::UnicodeWidthStr;
use uprof_recipes::Align;

use super::cell::{Cell, GAP, cut, cut_text, write_padded};
use super::clock::Clock;
use super::model::{Column, ColumnValue, Event, Summary, Value};
use super::values::{is_number, show, show_in, stack_lines};
use super::{Output, Sink, TermInfo, breakdown, escape, summary, timeline, units};

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
    /// The block as it was last drawn there: rows that take its place push it down.
    live_block: String,
    // Reused for every row.
    cells: Vec<Cell>,
}

struct Placed {
    column: Column,
    width: usize,
}

impl Table {
    pub(super) fn new(sink: Sink, terminal: TermInfo, zone: TimeZone) -> Table {
        let mut table = Table {
            sink,
            terminal,
            columns: Vec::new(),
            stretch: None,
            header_due: true,
            clock: Clock::new(zone),
            live_lines: 0,
            live_block: String::new(),
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

    /// Puts the live block under what was written so far.
    fn draw_live(&mut self) {
        let block = self.live_block.as_bytes();
        self.sink.buffer().extend_from_slice(block);
        self.live_lines = self.live_block.lines().count();
    }

    fn fill_cells(&mut self, event: &Event) {
        for (i, placed) in self.columns.iter().enumerate() {
            let cell = &mut self.cells[i];
            cell.text.clear();
            cell.right = false;
            let text = &mut cell.text;
            match &placed.column.value {
                ColumnValue::Pid | ColumnValue::Tid | ColumnValue::Comm if event.nobody => {
                    text.push('-');
                }
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
                        match value {
                            // The frames follow under the row.
                            Value::Stack(frames) => {
                                let _ = write!(text, "{} frames", frames.len());
                            }
                            _ => show_in(text, value, placed.column.unit.as_deref().unwrap_or("")),
                        }
                        cell.right = is_number(value);
                    }
                }
                ColumnValue::Rest => rest(text, event, &self.columns),
            }
            cell.right |= matches!(
                placed.column.value,
                ColumnValue::Pid | ColumnValue::Tid | ColumnValue::Latency
            );
            if let Some(align) = placed.column.align {
                cell.right = align == Align::Right;
            }
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

    /// The stacks of an event, under its row.
    fn write_stacks(&mut self, event: &Event) {
        let has_column = |name: &str| {
            self.columns.iter().any(|p| match &p.column.value {
                ColumnValue::Field(field) => **field == *name,
                ColumnValue::Rest => true,
                _ => false,
            })
        };
        let is_stack = |value: &Value| matches!(value, Value::Stack(_));
        let fields = event.fields.iter();
        let stacks: Vec<_> = fields
            .filter(|(name, value)| is_stack(value) && has_column(name))
            .map(|(name, value)| (&**name, value))
            .collect();
        self.write_lines(stack_lines(stacks.into_iter()));
    }

    /// Lines under a row, each cut to the terminal.
    fn write_lines(&mut self, lines: impl IntoIterator<Item = String>) {
        for line in lines {
            let line = match self.terminal.size {
                Some((width, _)) => cut_text(line, width),
                None => line,
            };
            let out = self.sink.buffer();
            out.extend_from_slice(line.as_bytes());
            out.push(b'\n');
        }
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
        self.write_stacks(event);
        let has_all = |p: &Placed| p.column.value == ColumnValue::Rest;
        if !self.columns.iter().any(has_all) {
            self.write_lines(breakdown::line(event));
        }
        self.write_lines(timeline::lines(event));
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
        // Beside rows of events there is room for both.
        let most = match self.header_due {
            true => height.saturating_sub(1),
            false => height / 2,
        };
        self.live_block.clear();
        let mut cell = Cell::default();
        for line in title.lines().chain(block.lines()).take(most) {
            cell.text.clear();
            cell.text.push_str(line);
            cell.width = line.width();
            cut(&mut cell, width.saturating_sub(1));
            self.live_block.push_str(&cell.text);
            self.live_block.push('\n');
        }
        self.draw_live();
        self.sink.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.live_lines == 0 {
            self.draw_live();
        }
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

/// Captures without a column of their own, as `name=value`; text in quotes, for it has spaces. Stacks have lines of
/// their own.
fn rest(out: &mut String, event: &Event, columns: &[Placed]) {
    for (name, value) in &event.fields {
        if columns
            .iter()
            .any(|p| matches!(&p.column.value, ColumnValue::Field(n) if n == name))
            || matches!(value, Value::Stack(_))
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

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
