//! Where the time of calls went: a block with a bar for each part, one after the other where there are few keys, else a
//! table of shares with a row for each key.

use std::fmt::Write as _;

use uprof_recipes::Spent;

use super::grid::{Grid, Keys};
use super::model::{Breakdown, Event, Value};
use super::summary::{Moment, and_more};
use super::units;
use super::{bars, distribution};

/// So many keys have a block each.
const MOST_BLOCKS: usize = 3;
/// What stands before a bar: indentation, the part's title, two times, a share, gaps.
const BEFORE_BAR: usize = 52;
const BAR_WIDTH: usize = 40;

/// Draws those of one probe.
pub(super) fn draw(out: &mut String, group: &[&Breakdown], moment: &Moment) {
    let shown = moment.shown(&group[0].name).min(group.len());
    let (shown, rest) = group.split_at(shown);
    if group.len() <= MOST_BLOCKS {
        shown.iter().for_each(|b| block(out, b, moment));
    } else {
        let rest = rest.iter().map(|b| {
            let total = ("total", (b.total() as f64, "ns"));
            (b.calls, vec![total])
        });
        table(out, shown, moment, and_more(rest));
    }
}

fn block(out: &mut String, b: &Breakdown, moment: &Moment) {
    let style = moment.style;
    let calls = if b.known == 1 { "call" } else { "calls" };
    let title = format!("where the time of {} {calls} of {} went", b.known, b.name);
    distribution::block_title(out, &title, &b.key, style);
    if b.known > 0 {
        let heads = ["TOTAL", "PER CALL", "SHARE"];
        let _ = writeln!(
            out,
            "  {:9}  {:>10}  {:>10}  {:>8}",
            "", heads[0], heads[1], heads[2]
        );
        let room = style.width.map_or(BAR_WIDTH, |width| {
            width.saturating_sub(BEFORE_BAR).clamp(8, BAR_WIDTH)
        });
        for (on, ns) in Spent::ALL.into_iter().zip(b.parts) {
            let share = b.share(on);
            let line = format!(
                "  {:9}  {:>10}  {:>10}  {:>8}  {}",
                on.title(),
                units::duration_aligned(ns as f64),
                units::duration_aligned(ns as f64 / b.known as f64),
                units::share(share),
                bars::draw_bar(share, room),
            );
            let _ = writeln!(out, "{}", line.trim_end());
        }
    }
    unknown(out, b.calls - b.known);
    out.push('\n');
}

fn table(out: &mut String, shown: &[&Breakdown], moment: &Moment, more: Option<String>) {
    let Some(first) = shown.first() else {
        return;
    };
    let style = moment.style;
    style.title(out, &format!("where the time of {} went", first.name));
    let keys = Keys::of(shown.iter().map(|b| &b.key[..]));
    let parts = Spent::ALL.map(Spent::title);
    let titles = keys.titles(&first.key);
    let mut grid = Grid::new(titles.chain(["calls", "per call"]).chain(parts), style);
    for b in shown {
        let each = b.total() as f64 / b.known.max(1) as f64;
        let head = [b.known.to_string(), units::duration_aligned(each)];
        let parts = Spent::ALL.map(|on| units::share(b.share(on)));
        grid.keyed(&keys, &b.key, head.into_iter().chain(parts));
    }
    grid.draw(out, more);
    unknown(out, shown.iter().map(|b| b.calls - b.known).sum());
}

/// What is said of calls that are not in the sums.
fn unknown(out: &mut String, calls: u64) {
    if calls > 0 {
        let _ = writeln!(
            out,
            "  of {calls} more it is not known: they returned on another thread than they began on, or there were too \
             many threads"
        );
    }
}

/// An event's parts that are a hundredth of its latency or more, as a line under its row.
pub(super) fn line(event: &Event) -> Option<String> {
    let latency = event.latency_ns?;
    let mut line = String::new();
    for (name, value) in &event.fields {
        let (Some(on), Value::Duration(ns)) = (Spent::of(name), value) else {
            continue;
        };
        if *ns > 0 && *ns >= latency / 100 {
            let gap = if line.is_empty() { "      " } else { "  " };
            let _ = write!(line, "{gap}{} {}", on.title(), units::duration(*ns as f64));
        }
    }
    (!line.is_empty()).then_some(line)
}

#[cfg(test)]
mod tests {
    use super::super::model::Summary;
    use super::super::summary::{Style, render};
    use super::super::tests::{a_breakdown, an_event};
    use super::*;

    fn page(breakdowns: Vec<Breakdown>) -> String {
        let summary = Summary {
            breakdowns,
            ..Summary::default()
        };
        render(&summary, &Style::file(), true)
    }

    #[test]
    fn a_few_keys_are_blocks_with_bars() {
        let mut other = a_breakdown();
        (other.key, other.calls, other.known) = (Vec::new(), 3, 1);
        other.parts = [0, 0, 0, 0, 0, 5_000_000, 0];
        assert_eq!(
            page(vec![a_breakdown(), other]),
            "\
where the time of 1000 calls of work went [comm=King]
                  TOTAL    PER CALL     SHARE
  cpu            250 ms      250 us    25.0 %  ██████████
  run queue     2.00 ms     2.00 us     0.2 %  ▏
  disk             0 ns        0 ns     0.0 %
  network          0 ns        0 ns     0.0 %
  locks          748 ms      748 us    74.8 %  █████████████████████████████▉
  sleep            0 ns        0 ns     0.0 %
  other            0 ns        0 ns     0.0 %

where the time of 1 call of work went
                  TOTAL    PER CALL     SHARE
  cpu              0 ns        0 ns     0.0 %
  run queue        0 ns        0 ns     0.0 %
  disk             0 ns        0 ns     0.0 %
  network          0 ns        0 ns     0.0 %
  locks            0 ns        0 ns     0.0 %
  sleep         5.00 ms     5.00 ms   100.0 %  ████████████████████████████████████████
  other            0 ns        0 ns     0.0 %
  of 2 more it is not known: they returned on another thread than they began on, or there were too many threads

"
        );
    }

    #[test]
    fn many_keys_are_a_table_of_shares() {
        let many = (0..5u64).map(|pid| Breakdown {
            key: vec![("pid".into(), Value::Uint(pid))],
            ..a_breakdown()
        });
        let page = page(many.collect());
        let lines: Vec<&str> = page.lines().collect();
        assert_eq!(lines[0], "where the time of work went");
        let words: Vec<&str> = lines[1].split_whitespace().collect();
        let heads = "PID CALLS PER CALL CPU RUN QUEUE DISK NETWORK LOCKS SLEEP OTHER";
        assert_eq!(words, heads.split(' ').collect::<Vec<_>>());
        let words: Vec<&str> = lines[2].split_whitespace().collect();
        let row = "0 1000 1.00 ms 25.0 % 0.2 % 0.0 % 0.0 % 74.8 % 0.0 % 0.0 %";
        assert_eq!(words, row.split(' ').collect::<Vec<_>>());
    }

    #[test]
    fn an_event_has_a_line_of_what_matters() {
        let mut event = an_event();
        assert_eq!(line(&event), None);
        event.latency_ns = Some(1_000_000);
        let parts = [150_000, 9_999, 0, 840_001, 0, 0, 0];
        let fields = Spent::ALL.into_iter().zip(parts);
        event.fields = fields
            .map(|(on, ns)| (on.name().into(), Value::Duration(ns)))
            .collect();
        let expected = "      cpu 150 us  network 840 us";
        assert_eq!(line(&event).as_deref(), Some(expected));
    }
}
