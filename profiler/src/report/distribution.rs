//! The blocks of distributions, and one table of many.

use std::fmt::Write as _;

use super::bars;
use super::grid::{Grid, Key, Keys};
use super::model::{Histogram, Linear, Value};
use super::summary::{Moment, Style, and_more, per_second};
use super::{units, values};

/// With more distributions of one name than this, a row each in one table says more than blocks.
const MOST_BLOCKS: usize = 3;

/// What is drawn as a block of its own, or as a row of a table where there are many.
pub(super) trait Distribution {
    /// Its name, how many values there are, their mean, and its unit.
    fn head(&self) -> (&str, u64, f64, &str);
    /// Draws it alone.
    fn block(&self, out: &mut String, moment: &Moment);
    /// Draws many, and says what is left out.
    fn table(out: &mut String, name: &str, shown: &[&Self], moment: &Moment, more: Option<String>);
}

/// Draws the distributions of one name.
pub(super) fn draw<D: Distribution>(out: &mut String, group: &[&D], moment: &Moment) {
    let Some((name, ..)) = group.first().map(|first| first.head()) else {
        return;
    };
    let mut sorted = group.to_vec();
    sorted.sort_by_key(|d| std::cmp::Reverse(d.head().1));
    let (shown, left) = sorted.split_at(moment.shown(name).min(sorted.len()));
    let more = and_more(left.iter().map(|d| {
        let (_, count, mean, unit) = d.head();
        (count, vec![("total", (mean * count as f64, unit))])
    }));
    if group.len() > MOST_BLOCKS {
        D::table(out, name, shown, moment, more);
    } else {
        for d in shown {
            d.block(out, moment);
        }
        out.extend(more.map(|more| more + "\n\n"));
    }
}

impl Distribution for Histogram {
    fn head(&self) -> (&str, u64, f64, &str) {
        (&self.name, self.count, self.mean, &self.unit)
    }

    fn block(&self, out: &mut String, moment: &Moment) {
        block_title(out, &self.name, &self.key, moment.style);
        let total = self.mean * self.count as f64;
        counted(out, self.count, moment);
        let _ = write!(out, "  total {}", units::quantity(total, &self.unit));
        if moment.seconds > 0.0 && self.unit == "bytes" {
            let _ = write!(
                out,
                " ({}/s)",
                units::size((total / moment.seconds).round())
            );
        }
        if self.count == 0 {
            out.push_str("\n\n");
            return;
        }
        let _ = writeln!(out, "  mean {}", units::quantity(self.mean, &self.unit));
        marks(out, self, |value| value as f64);
        if let Some(cost) = self.probe_cost_ns.filter(|cost| *cost > 0) {
            let _ = write!(
                out,
                "\n  less the probe's own {}:  mean {}",
                units::quantity(cost as f64, &self.unit),
                units::quantity(self.net(self.mean), &self.unit)
            );
            marks(out, self, |value| self.net(value as f64));
        }
        out.push_str("\n\n");
        bars::log(out, self, moment.style);
        out.push('\n');
    }

    fn table(out: &mut String, name: &str, shown: &[&Self], moment: &Moment, more: Option<String>) {
        let columns = ["count", "rate", "total", "mean", "p50", "p99", "max"];
        let rows = shown.iter().map(|h| {
            let quantity = |value: f64| units::quantity_aligned(value, &h.unit);
            let cells = [
                h.count.to_string(),
                per_second(h.count, moment.seconds),
                quantity(h.mean * h.count as f64),
                quantity(h.mean),
                quantity(h.p50 as f64),
                quantity(h.p99 as f64),
                quantity(h.max as f64),
            ];
            (h.key.as_slice(), cells)
        });
        table(out, name, columns, rows, moment.style, more);
    }
}

impl Distribution for Linear {
    fn head(&self) -> (&str, u64, f64, &str) {
        (&self.name, self.count, self.mean, &self.unit)
    }

    fn block(&self, out: &mut String, moment: &Moment) {
        block_title(out, &self.name, &self.key, moment.style);
        counted(out, self.count, moment);
        let least = [
            ("mean", self.mean),
            ("min", self.min as f64),
            ("max", self.max as f64),
        ];
        for (name, value) in least.into_iter().filter(|_| self.count > 0) {
            let _ = write!(out, "  {name} {}", units::quantity(value, &self.unit));
        }
        out.push_str("\n\n");
        bars::linear(out, self, moment.style);
        out.push('\n');
    }

    fn table(out: &mut String, name: &str, shown: &[&Self], moment: &Moment, more: Option<String>) {
        let columns = ["count", "rate", "mean", "min", "max", "below", "above"];
        let rows = shown.iter().map(|h| {
            let quantity = |value: f64| units::quantity_aligned(value, &h.unit);
            let cells = [
                h.count.to_string(),
                per_second(h.count, moment.seconds),
                quantity(h.mean),
                quantity(h.min as f64),
                quantity(h.max as f64),
                h.below.to_string(),
                h.above.to_string(),
            ];
            (h.key.as_slice(), cells)
        });
        table(out, name, columns, rows, moment.style, more);
    }
}

/// The name and key of a block, and under it the key's stacks.
pub(super) fn block_title(out: &mut String, name: &str, key: &Key, style: &Style) {
    let keys = Keys::of([key].into_iter());
    let mut text = String::new();
    for (name, value) in keys.plain(key) {
        let _ = write!(text, "{}{name}=", if text.is_empty() { "" } else { " " });
        values::show(&mut text, value);
    }
    match text.is_empty() {
        true => style.title(out, name),
        false => style.title(out, &format!("{name} [{text}]")),
    }
    for line in keys.under(key) {
        let _ = writeln!(out, "{}", style.cut(line));
    }
}

/// `  count 1000 (500/s)`
fn counted(out: &mut String, count: u64, moment: &Moment) {
    let _ = write!(out, "  count {count}");
    let rate = per_second(count, moment.seconds);
    if !rate.is_empty() {
        let _ = write!(out, " ({rate})");
    }
}

/// The quantiles in a row.
fn marks(out: &mut String, h: &Histogram, shown: impl Fn(u64) -> f64) {
    for (name, value) in h.marks() {
        let name = name.replace("p999", "p99.9");
        let _ = write!(out, "  {name} {}", units::quantity(shown(value), &h.unit));
    }
}

fn table<'k, const N: usize>(
    out: &mut String,
    name: &str,
    columns: [&str; N],
    rows: impl Iterator<Item = (&'k Key, [String; N])> + Clone,
    style: &Style,
    more: Option<String>,
) {
    style.title(out, name);
    let keys = Keys::of(rows.clone().map(|(key, _)| key));
    let titles: &[(String, Value)] = rows.clone().next().map_or(&[], |(key, _)| key);
    let mut grid = Grid::new(keys.titles(titles).chain(columns), style);
    for (key, cells) in rows {
        grid.keyed(&keys, key, cells);
    }
    grid.draw(out, more);
}

#[cfg(test)]
mod tests {
    use super::super::model::{Summary, Value};
    use super::super::summary::render;
    use super::super::tests::{a_linear, a_stack, a_summary};
    use super::*;

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
        let mut summary = Summary {
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
        summary.top = vec![("latency".into(), 2)];
        let page = render(&summary, &Style::file(), true);
        assert!(
            page.ends_with("5.00 us\n  and 2 more keys: count 3, total 4.50 us\n\n"),
            "{page}"
        );
        assert_eq!(page.lines().filter(|line| line.contains("/s")).count(), 2);
    }

    #[test]
    fn few_keys_are_blocks_with_their_stacks_and_no_more_than_the_top() {
        let mut summary = Summary {
            histograms: vec![a_summary().histograms.remove(0); 2],
            top: vec![("size".into(), 1)],
            ..Summary::default()
        };
        summary.histograms[1].count = 2000;
        summary.histograms[1].key = vec![
            ("pid".into(), Value::Uint(1)),
            ("ustack".into(), a_stack(&["malloc", "main"])),
        ];
        let page = render(&summary, &Style::file(), true);
        assert!(
            page.starts_with("size [pid=1]\n      malloc\n      main\n  count 2000 "),
            "{page}"
        );
        assert!(
            page.ends_with("\n  and 1 more key: count 1000, total 98.1 KiB\n\n"),
            "{page}"
        );
    }

    #[test]
    fn steps_stand_between_what_is_below_and_above() {
        let mut summary = Summary {
            duration_ns: 2_000_000_000,
            linear: vec![a_linear()],
            ..Summary::default()
        };
        let page = render(&summary, &Style::file(), true);
        let expected = "\
delay [comm=King]
  count 20 (10.0/s)  mean 4.50 ms  min -31 ns  max 90.0 ms

  [   ..., -20 ns)   1    5.0 %  ████
  [  0 ns,  10 ns)  10   50.0 %  ████████████████████████████████████████
  [ 10 ns,  20 ns)   0    0.0 %
  [ 20 ns,  30 ns)   5   25.0 %  ████████████████████
  [100 ns,    ...)   4   20.0 %  ████████████████

";
        assert_eq!(page, expected);
        // More than a few: a row each.
        summary.linear = vec![a_linear(); 4];
        let page = render(&summary, &Style::file(), true);
        let lines: Vec<&str> = page.lines().take(3).collect();
        assert_eq!(
            lines,
            [
                "delay",
                "  COMM  COUNT    RATE     MEAN     MIN      MAX  BELOW  ABOVE",
                "  King     20  10.0/s  4.50 ms  -31 ns  90.0 ms      1      4"
            ]
        );
    }
}
