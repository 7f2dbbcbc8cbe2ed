//! The blocks of the human form: distributions with bars, counts, a recipe's own tables, notes, and
//! last the accounting line of each probe.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, ContentArrangement, presets};

use super::model::{Count, Histogram, ProbeCount, Summary, Value};
use super::{table, units};

pub(super) const BOLD: &str = "\x1b[1m";
pub(super) const DIM: &str = "\x1b[2m";
pub(super) const RESET: &str = "\x1b[0m";

/// Rows of a long table that a terminal shows; a file gets all of them.
pub(super) const TOP_ROWS: usize = 50;
/// With more distributions of one name than this, a row each in one table says more than blocks.
const MOST_BLOCKS: usize = 3;
/// Rows of one bar chart.
const MOST_BARS: usize = 20;
const BAR_WIDTH: usize = 40;

/// How the blocks are drawn.
pub(super) struct Style {
    /// The terminal's width: lines are cut to it.
    pub(super) width: Option<usize>,
    pub(super) colour: bool,
    /// Rows shown of a long table.
    pub(super) rows: Option<usize>,
}

impl Style {
    /// Everything, plain.
    pub(super) fn file() -> Style {
        Style {
            width: None,
            colour: false,
            rows: None,
        }
    }

    fn title(&self, out: &mut String, title: &str) {
        if self.colour {
            let _ = writeln!(out, "{BOLD}{title}{RESET}");
        } else {
            let _ = writeln!(out, "{title}");
        }
    }
}

/// Draws a summary; `closing` adds what is only said at the end: notes and what to do about losses.
pub(super) fn render(summary: &Summary, style: &Style, closing: bool) -> String {
    let mut out = String::new();
    let seconds = summary.duration_ns as f64 / 1e9;
    for group in groups(&summary.histograms, |h| (&h.name, &h.unit)) {
        if group.len() > MOST_BLOCKS {
            histogram_table(&mut out, &group, seconds, style);
        } else {
            group
                .iter()
                .for_each(|h| histogram_block(&mut out, h, seconds, style));
        }
    }
    for group in groups(&summary.counts, |c| &c.probe) {
        count_table(&mut out, &group, seconds, style);
    }
    for own in summary.tables.iter().filter(|t| !t.rows.is_empty()) {
        style.title(&mut out, &own.title);
        let mut grid = Grid::new(own.columns.iter().map(String::as_str), style);
        own.rows.iter().for_each(|row| grid.row(row.iter()));
        grid.draw(&mut out);
    }
    if closing && !summary.notes.is_empty() {
        for note in &summary.notes {
            let _ = writeln!(out, "note: {note}");
        }
        out.push('\n');
    }
    summary
        .probes
        .iter()
        .for_each(|probe| accounting(&mut out, probe, closing));
    out
}

/// Splits into runs of equal `by`, in order of first appearance.
fn groups<'a, T, K: PartialEq + 'a>(items: &'a [T], by: impl Fn(&'a T) -> K) -> Vec<Vec<&'a T>> {
    let mut groups: Vec<(K, Vec<&T>)> = Vec::new();
    for item in items {
        let key = by(item);
        // A run has a handful of probes: looking through them is nothing. The last is the likely one.
        match groups.iter_mut().rev().find(|(k, _)| *k == key) {
            Some((_, group)) => group.push(item),
            None => groups.push((key, vec![item])),
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

fn key_text(key: &[(String, Value)]) -> String {
    let mut out = String::new();
    for (name, value) in key {
        let _ = write!(out, "{}{name}=", if out.is_empty() { "" } else { " " });
        table::show(&mut out, value);
    }
    out
}

fn histogram_block(out: &mut String, h: &Histogram, seconds: f64, style: &Style) {
    let key = key_text(&h.key);
    style.title(
        out,
        &if key.is_empty() {
            h.name.clone()
        } else {
            format!("{} [{key}]", h.name)
        },
    );
    let total = h.mean * h.count as f64;
    let _ = write!(out, "  count {}", h.count);
    if seconds > 0.0 {
        let _ = write!(out, " ({})", units::rate(h.count as f64 / seconds));
    }
    let _ = write!(out, "  total {}", units::quantity(total, &h.unit));
    if seconds > 0.0 && h.unit == "bytes" {
        let _ = write!(out, " ({}/s)", units::size((total / seconds).round()));
    }
    if h.count == 0 {
        out.push_str("\n\n");
        return;
    }
    let _ = writeln!(out, "  mean {}", units::quantity(h.mean, &h.unit));
    marks(out, h, |value| value as f64);
    if let Some(cost) = h.probe_cost_ns.filter(|cost| *cost > 0) {
        let _ = write!(
            out,
            "\n  less the probe's own {}:  mean {}",
            units::quantity(cost as f64, &h.unit),
            units::quantity(h.net(h.mean), &h.unit)
        );
        marks(out, h, |value| h.net(value as f64));
    }
    out.push_str("\n\n");
    bars(out, h, style);
    out.push('\n');
}

/// The quantiles in a row.
fn marks(out: &mut String, h: &Histogram, shown: impl Fn(u64) -> f64) {
    for (name, value) in h.marks() {
        let name = name.replace("p999", "p99.9");
        let _ = write!(out, "  {name} {}", units::quantity(shown(value), &h.unit));
    }
}

/// One row of a bar chart: values from `low` up to, not including, `high`.
struct Bar {
    low: f64,
    high: f64,
    count: u64,
}

/// Collapses the buckets to powers of two, and further when they span too many.
fn collapse(h: &Histogram) -> Vec<Bar> {
    // 0, then 1, 2-3, 4-7 ...: row k holds [2^(k-1), 2^k).
    let row_of = |value: u64| (u64::BITS - value.leading_zeros()) as usize;
    let filled = || h.buckets.iter().filter(|b| b.count > 0);
    let (Some(first), Some(last)) = (
        filled().map(|b| row_of(b.low)).min(),
        filled().map(|b| row_of(b.low)).max(),
    ) else {
        return Vec::new();
    };
    let step = (last - first + 1).div_ceil(MOST_BARS);
    let bound = |row: usize| {
        if row == 0 {
            0.0
        } else {
            2f64.powi(row as i32 - 1)
        }
    };
    let mut bars: Vec<Bar> = (first..=last)
        .step_by(step)
        .map(|row| Bar {
            low: bound(row),
            high: bound(row + step),
            count: 0,
        })
        .collect();
    for bucket in filled() {
        bars[(row_of(bucket.low) - first) / step].count += bucket.count;
    }
    bars
}

fn bars(out: &mut String, h: &Histogram, style: &Style) {
    let bars = collapse(h);
    let most = bars.iter().map(|b| b.count).max().unwrap_or(0).max(1);
    let total: u64 = bars.iter().map(|b| b.count).sum();
    let label = |value: f64| {
        units::quantity_aligned(
            value,
            if h.unit == "ns" || h.unit == "bytes" {
                &h.unit
            } else {
                ""
            },
        )
    };
    let lows: Vec<(String, String)> = bars.iter().map(|b| (label(b.low), label(b.high))).collect();
    let low_width = lows.iter().map(|(low, _)| low.len()).max().unwrap_or(0);
    let high_width = lows.iter().map(|(_, high)| high.len()).max().unwrap_or(0);
    let count_width = most.to_string().len();
    // What stands before the bar: brackets, comma and gaps, and a share of up to `100.0 %`.
    let before = low_width + high_width + count_width + 19;
    let room = style.width.map_or(BAR_WIDTH, |width| {
        width.saturating_sub(before).clamp(8, BAR_WIDTH)
    });
    for (bar, (low, high)) in bars.iter().zip(&lows) {
        let share = units::share(bar.count as f64 / total.max(1) as f64);
        let drawn = draw_bar(bar.count as f64 / most as f64, room);
        let line = format!(
            "  [{low:>low_width$}, {high:>high_width$})  {:>count_width$}  {share:>7}  {drawn}",
            bar.count
        );
        let _ = writeln!(out, "{}", line.trim_end());
    }
}

/// A bar of `part` of `room`, in eighths of a character; never nothing for something.
fn draw_bar(part: f64, room: usize) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (part * (room * 8) as f64).round() as usize;
    let eighths = if part > 0.0 { eighths.max(1) } else { 0 };
    format!("{}{}", "█".repeat(eighths / 8), EIGHTHS[eighths % 8])
}

fn histogram_table(out: &mut String, group: &[&Histogram], seconds: f64, style: &Style) {
    let mut sorted = group.to_vec();
    sorted.sort_by_key(|h| std::cmp::Reverse(h.count));
    let first = sorted[0];
    style.title(out, &first.name);
    let keys = first.key.iter().map(|(name, _)| name.as_str());
    let mut grid = Grid::new(
        keys.chain(["count", "rate", "total", "mean", "p50", "p99", "max"]),
        style,
    );
    let shown = style.rows.unwrap_or(usize::MAX);
    for h in sorted.iter().take(shown) {
        let quantity = |value: f64| units::quantity_aligned(value, &h.unit);
        let rate = if seconds > 0.0 {
            units::rate(h.count as f64 / seconds)
        } else {
            String::new()
        };
        grid.cells(
            h.key.iter().map(|(_, value)| Grid::value(value)).chain(
                [
                    h.count.to_string(),
                    rate,
                    quantity(h.mean * h.count as f64),
                    quantity(h.mean),
                    quantity(h.p50 as f64),
                    quantity(h.p99 as f64),
                    quantity(h.max as f64),
                ]
                .map(|text| (text, true)),
            ),
        );
    }
    grid.and_more(sorted.len().saturating_sub(shown));
    grid.draw(out);
}

fn count_table(out: &mut String, group: &[&Count], seconds: f64, style: &Style) {
    let mut sorted = group.to_vec();
    sorted.sort_by_key(|c| std::cmp::Reverse(c.count));
    let total: u64 = sorted.iter().map(|c| c.count).sum();
    style.title(out, &sorted[0].probe);
    let keys = sorted[0].key.iter().map(|(name, _)| name.as_str());
    let mut grid = Grid::new(keys.chain(["count", "share", "rate"]), style);
    let shown = style.rows.unwrap_or(usize::MAX);
    for count in sorted.iter().take(shown) {
        let rate = if seconds > 0.0 {
            units::rate(count.count as f64 / seconds)
        } else {
            String::new()
        };
        let share = units::share(count.count as f64 / total.max(1) as f64);
        grid.cells(
            count
                .key
                .iter()
                .map(|(_, value)| Grid::value(value))
                .chain([count.count.to_string(), share, rate].map(|text| (text, true))),
        );
    }
    grid.and_more(sorted.len().saturating_sub(shown));
    grid.draw(out);
}

/// A table without lines: columns two blanks apart, numbers to the right.
struct Grid<'a> {
    table: comfy_table::Table,
    style: &'a Style,
    more: usize,
    right: Vec<bool>,
}

impl<'a> Grid<'a> {
    fn new<'t>(titles: impl Iterator<Item = &'t str>, style: &'a Style) -> Grid<'a> {
        let mut table = comfy_table::Table::new();
        table
            .load_style(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Disabled);
        let titles: Vec<String> = titles.map(str::to_uppercase).collect();
        let right = vec![false; titles.len()];
        table.set_header(titles);
        Grid {
            table,
            style,
            more: 0,
            right,
        }
    }

    /// A value's text, and whether it stands to the right.
    fn value(value: &Value) -> (String, bool) {
        let mut text = String::new();
        table::show(&mut text, value);
        (text, table::is_number(value))
    }

    fn row<'v>(&mut self, values: impl Iterator<Item = &'v Value>) {
        self.cells(values.map(Grid::value));
    }

    fn cells(&mut self, cells: impl Iterator<Item = (String, bool)>) {
        let mut row = comfy_table::Row::new();
        for (i, (text, right)) in cells.enumerate() {
            if let Some(column) = self.right.get_mut(i) {
                *column |= right;
            }
            row.add_cell(comfy_table::Cell::new(text));
        }
        self.table.add_row(row);
    }

    fn and_more(&mut self, more: usize) {
        self.more = more;
    }

    fn draw(mut self, out: &mut String) {
        for (i, column) in self.table.column_iter_mut().enumerate() {
            column.set_padding((if i == 0 { 2 } else { 0 }, 2));
            if self.right.get(i) == Some(&true) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        for (i, line) in self.table.lines().enumerate() {
            let line = line.trim_end().to_string();
            let line = match self.style.width {
                Some(width) => table::cut_text(line, width),
                None => line,
            };
            if i == 0 && self.style.colour {
                let _ = writeln!(out, "{DIM}{line}{RESET}");
            } else {
                let _ = writeln!(out, "{line}");
            }
        }
        if self.more > 0 {
            let _ = writeln!(out, "  and {} more", self.more);
        }
        out.push('\n');
    }
}

/// `malloc: 1010 hits = 1000 aggregated + 7 filtered + 3 dropped`, and what to do about losses.
fn accounting(out: &mut String, probe: &ProbeCount, closing: bool) {
    let _ = write!(out, "{}: {} hits", probe.probe, probe.hits);
    let parts = [
        (probe.emitted, "emitted"),
        (probe.aggregated, "aggregated"),
        (probe.filtered, "filtered"),
        (probe.dropped(), "dropped"),
        (probe.unpaired, "unpaired"),
    ];
    let mut sign = " =";
    for (n, name) in parts.into_iter().filter(|(n, _)| *n > 0) {
        let _ = write!(out, "{sign} {n} {name}");
        sign = " +";
    }
    out.push('\n');
    if !closing {
        return;
    }
    for loss in probe.losses() {
        let _ = writeln!(out, "  {loss}");
    }
    if probe.unpaired > 0 {
        let _ = writeln!(
            out,
            "  {} unpaired: {}",
            probe.unpaired,
            probe.without_return()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::Bucket;
    use super::super::tests::a_summary;
    use super::*;

    #[test]
    fn the_closing_blocks() {
        let page = render(&a_summary(), &Style::file(), true);
        let expected = "\
size
  count 1000 (500/s)  total 98.1 KiB (49.1 KiB/s)  mean 100 B
  min 16 B  p50 32 B  p90 64 B  p99 4 KiB  p99.9 4.88 KiB  max 4.88 KiB

  [ 16   B,  32   B)  500   50.0 %  ████████████████████████████████████████
  [ 32   B,  64   B)    0    0.0 %
  [ 64   B, 128   B)  490   49.0 %  ███████████████████████████████████████▎
  [128   B, 256   B)    0    0.0 %
  [256   B, 512   B)    0    0.0 %
  [512   B,   1 KiB)    0    0.0 %
  [  1 KiB,   2 KiB)    0    0.0 %
  [  2 KiB,   4 KiB)    0    0.0 %
  [  4 KiB,   8 KiB)   10    1.0 %  ▊

free
  COMM   COUNT   SHARE    RATE
  King     900  90.0 %   450/s
  Queen    100  10.0 %  50.0/s

top statements
  COUNT    TOTAL   SHARE  STATEMENT
     12  1.45 ms  75.0 %  SELECT ?

note: 2 statements were prepared before uprof started

malloc: 1010 hits = 1000 aggregated + 7 filtered + 3 dropped
  1 lost because the buffer was full: give it more room with --buffer, or let a filter (--pid, --comm, --where) pass less
  2 not counted because there were more keys or open calls than room: raise --max-keys, or narrow --by or the filter
";
        assert_eq!(page, expected);
    }

    #[test]
    fn many_keys_are_one_table_by_count() {
        let one = a_summary().histograms.remove(0);
        let histograms = (0..4u64)
            .map(|pid| Histogram {
                name: "latency".into(),
                key: vec![("pid".into(), Value::Uint(pid))],
                unit: "ns".into(),
                count: pid + 1,
                mean: 1500.0,
                ..one.clone()
            })
            .collect();
        let summary = Summary {
            duration_ns: 1_000_000_000,
            histograms,
            ..Summary::default()
        };
        let page = render(&summary, &Style::file(), true);
        assert_eq!(
            page,
            "\
latency
  PID  COUNT    RATE    TOTAL     MEAN    P50      P99      MAX
    3      4  4.00/s  6.00 us  1.50 us  32 ns  4.10 us  5.00 us
    2      3  3.00/s  4.50 us  1.50 us  32 ns  4.10 us  5.00 us
    1      2  2.00/s  3.00 us  1.50 us  32 ns  4.10 us  5.00 us
    0      1  1.00/s  1.50 us  1.50 us  32 ns  4.10 us  5.00 us

"
        );
    }

    #[test]
    fn a_terminal_shows_the_top_and_says_how_many_more() {
        let counts = (0..120u64)
            .map(|n| Count {
                probe: "f".into(),
                key: vec![("n".into(), Value::Uint(n))],
                count: n + 1,
            })
            .collect();
        let summary = Summary {
            duration_ns: 1,
            counts,
            ..Summary::default()
        };
        let style = Style {
            width: Some(80),
            colour: false,
            rows: Some(TOP_ROWS),
        };
        let page = render(&summary, &style, true);
        assert!(page.contains("  and 70 more\n"), "{page}");
        assert_eq!(page.lines().filter(|l| l.contains(" %")).count(), TOP_ROWS);
        let all = render(&summary, &Style::file(), true);
        assert_eq!(all.lines().filter(|l| l.contains(" %")).count(), 120);
        assert!(!all.contains("more"));
    }

    #[test]
    fn bars_fit_a_terminal() {
        let style = Style {
            width: Some(60),
            colour: false,
            rows: None,
        };
        let mut out = String::new();
        bars(&mut out, &a_summary().histograms[0], &style);
        let widest = out.lines().map(unicode_width::UnicodeWidthStr::width).max();
        assert_eq!(widest, Some(60));
    }

    #[test]
    fn bars_hold_every_value_whatever_the_span() {
        let mut h = a_summary().histograms.remove(0);
        h.buckets = [0, 1, 2, 3, 1000, 1 << 40, u64::MAX]
            .map(|v| Bucket {
                low: v,
                high: v,
                count: 1,
            })
            .to_vec();
        let bars = collapse(&h);
        assert!(bars.len() <= MOST_BARS);
        assert_eq!(bars.iter().map(|b| b.count).sum::<u64>(), 7);
        assert!(bars.windows(2).all(|w| w[0].high == w[1].low));
        h.buckets.clear();
        assert!(collapse(&h).is_empty());
    }

    #[test]
    fn the_accounting_line_names_only_what_there_is() {
        let mut out = String::new();
        accounting(
            &mut out,
            &ProbeCount {
                probe: "f".into(),
                ..ProbeCount::default()
            },
            true,
        );
        assert_eq!(out, "f: 0 hits\n");
    }

    #[test]
    fn a_key_cannot_write_to_the_terminal() {
        let key = vec![(
            "s".into(),
            Value::Text {
                bytes: b"\x1b[2J".to_vec(),
                cut: true,
            },
        )];
        let counts = vec![Count {
            probe: "f".into(),
            key,
            count: 1,
        }];
        let page = render(
            &Summary {
                counts,
                ..Summary::default()
            },
            &Style::file(),
            true,
        );
        assert!(page.contains("\\x1b[2J…(cut)") && !page.contains('\x1b'));
    }
}
