//! The blocks of the human form: distributions with bars, counts, sums, a recipe's own tables, notes, and
//! last the accounting line of each probe.

use std::fmt::Write as _;

use super::grid::Grid;
use super::model::{ProbeCount, Summary};
use super::{breakdown, counts, distribution, units};

pub(super) const BOLD: &str = "\x1b[1m";
pub(super) const DIM: &str = "\x1b[2m";
pub(super) const RESET: &str = "\x1b[0m";

/// Rows of a long table that a terminal shows; a file gets all of them.
pub(super) const TOP_ROWS: usize = 50;

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

    /// A block's heading.
    pub(super) fn title(&self, out: &mut String, title: &str) {
        if self.colour {
            let _ = writeln!(out, "{BOLD}{title}{RESET}");
        } else {
            let _ = writeln!(out, "{title}");
        }
    }
}

/// A summary while it is drawn.
pub(super) struct Moment<'a> {
    pub(super) style: &'a Style,
    /// How long the run is.
    pub(super) seconds: f64,
    top: &'a [(String, usize)],
}

impl Moment<'_> {
    /// How many rows of the table NAME are shown.
    pub(super) fn shown(&self, name: &str) -> usize {
        let top = self.top.iter().find(|(n, _)| n == name);
        let top = top.map_or(usize::MAX, |(_, rows)| *rows);
        top.min(self.style.rows.unwrap_or(usize::MAX))
    }
}

/// Draws a summary; `closing` adds what is only said at the end: notes and what to do about losses.
pub(super) fn render(summary: &Summary, style: &Style, closing: bool) -> String {
    let mut out = String::new();
    let moment = Moment {
        style,
        seconds: summary.duration_ns as f64 / 1e9,
        top: &summary.top,
    };
    for group in groups(&summary.histograms, |h| (&h.name, &h.unit)) {
        distribution::draw(&mut out, &group, &moment);
    }
    for group in groups(&summary.linear, |h| (&h.name, &h.unit)) {
        distribution::draw(&mut out, &group, &moment);
    }
    for group in groups(&summary.breakdowns, |b| &b.name) {
        breakdown::draw(&mut out, &group, &moment);
    }
    for group in groups(&summary.stats, |row| &row.probe) {
        counts::stats(&mut out, &group, &moment);
    }
    for group in groups(&summary.counts, |c| &c.probe) {
        counts::counts(&mut out, &group, &moment);
    }
    for own in summary.tables.iter().filter(|t| !t.rows.is_empty()) {
        style.title(&mut out, &own.title);
        let mut grid = Grid::new(own.columns.iter().map(String::as_str), style);
        own.rows.iter().for_each(|row| grid.row(row.iter()));
        grid.draw(&mut out, None);
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

/// How often a second, in words; nothing for a run without length.
pub(super) fn per_second(count: u64, seconds: f64) -> String {
    if seconds > 0.0 {
        units::rate(count as f64 / seconds)
    } else {
        String::new()
    }
}

/// The last line of a table that does not show all its rows: how many more there are and what they add up to, in
/// hits and in the values named, each with its unit.
pub(super) fn and_more<'a>(
    rest: impl Iterator<Item = (u64, Vec<(&'a str, (f64, &'a str))>)>,
) -> Option<String> {
    let (mut keys, mut hits) = (0, 0);
    let mut sums: Vec<(&str, (f64, &str))> = Vec::new();
    for (count, values) in rest {
        keys += 1;
        hits += count;
        for (i, (name, (value, unit))) in values.into_iter().enumerate() {
            match sums.get_mut(i) {
                Some((_, (sum, _))) => *sum += value,
                None => sums.push((name, (value, unit))),
            }
        }
    }
    let mut line = match keys {
        0 => return None,
        1 => format!("  and 1 more key: count {hits}"),
        _ => format!("  and {keys} more keys: count {hits}"),
    };
    for (name, (sum, unit)) in sums {
        let _ = write!(line, ", {name} {}", units::quantity(sum, unit));
    }
    Some(line)
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
        (probe.unsampled, "unsampled"),
    ];
    let mut sign = " =";
    for (n, name) in parts.into_iter().filter(|(n, _)| *n > 0) {
        let _ = write!(out, "{sign} {n} {name}");
        sign = " +";
    }
    out.push('\n');
    if probe.sample > 1 {
        let n = probe.sample;
        let _ = writeln!(
            out,
            "  1 in {n} hits was looked at: counts and sums above are scaled by {n}"
        );
    }
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
    fn what_was_not_looked_at_is_accounted_for() {
        let mut out = String::new();
        let probe = ProbeCount {
            probe: "f".into(),
            hits: 100,
            aggregated: 10,
            unsampled: 90,
            sample: 10,
            ..ProbeCount::default()
        };
        accounting(&mut out, &probe, false);
        assert_eq!(
            out,
            "f: 100 hits = 10 aggregated + 90 unsampled\n  \
             1 in 10 hits was looked at: counts and sums above are scaled by 10\n"
        );
    }
}
