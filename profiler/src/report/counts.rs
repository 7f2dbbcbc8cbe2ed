//! The tables of counts and of sums.

use super::grid::{Grid, Keys};
use super::model::{Count, StatRow};
use super::summary::{Moment, and_more, per_second};
use super::units;
use uprof_recipes::StatKind;

/// Draws the counts of one probe.
pub(super) fn counts(out: &mut String, group: &[&Count], moment: &Moment) {
    let Some(first) = group.first() else { return };
    let mut sorted = group.to_vec();
    sorted.sort_by_key(|c| std::cmp::Reverse(c.count));
    let total: u64 = sorted.iter().map(|c| c.count).sum();
    moment.style.title(out, &first.probe);
    let keys = Keys::of(sorted.iter().map(|c| c.key.as_slice()));
    let titles = keys.titles(&sorted[0].key);
    let mut grid = Grid::new(titles.chain(["count", "share", "rate"]), moment.style);
    let shown = moment.shown(&first.probe).min(sorted.len());
    for count in &sorted[..shown] {
        let share = units::share(count.count as f64 / total.max(1) as f64);
        let rate = per_second(count.count, moment.seconds);
        grid.keyed(&keys, &count.key, [count.count.to_string(), share, rate]);
    }
    let rest = sorted[shown..].iter().map(|c| (c.count, Vec::new()));
    grid.draw(out, and_more(rest));
}

/// Draws the sums of one probe, those of the largest first sum before the others.
pub(super) fn stats(out: &mut String, group: &[&StatRow], moment: &Moment) {
    let Some(first) = group.first() else { return };
    let mut sorted = group.to_vec();
    sorted.sort_by(|a, b| b.weight().total_cmp(&a.weight()));
    moment.style.title(out, &first.probe);
    let keys = Keys::of(sorted.iter().map(|row| row.key.as_slice()));
    let columns: Vec<String> = first
        .values
        .iter()
        .flat_map(|v| v.shown.iter().map(|(kind, _)| column(&v.name, *kind)))
        .collect();
    let titles = keys.titles(&sorted[0].key).chain(["count"]);
    let titles = titles.chain(columns.iter().map(String::as_str));
    let mut grid = Grid::new(titles, moment.style);
    let shown = moment.shown(&first.probe).min(sorted.len());
    for row in &sorted[..shown] {
        let values = row.values.iter().flat_map(|v| {
            let quantity = |n: &f64| units::quantity_aligned(*n, &v.unit);
            v.shown.iter().map(move |(_, n)| quantity(n))
        });
        let cells = std::iter::once(row.count.to_string()).chain(values);
        grid.keyed(&keys, &row.key, cells);
    }
    let rest = sorted[shown..].iter().map(|row| {
        let values = row.values.iter();
        let sums = values.filter_map(|v| Some((v.name.as_str(), (v.sum()?, v.unit.as_str()))));
        (row.count, sums.collect())
    });
    grid.draw(out, and_more(rest));
}

/// What a column of a value is called: a sum by the value's name alone.
fn column(name: &str, kind: StatKind) -> String {
    match kind {
        StatKind::Sum => name.to_owned(),
        StatKind::Min => format!("{name} min"),
        StatKind::Max => format!("{name} max"),
        StatKind::Avg => format!("{name} avg"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::{Count, Summary, Value};
    use super::super::summary::{Style, TOP_ROWS, render};
    use super::super::tests::{a_stack, some_stats};

    #[test]
    fn a_terminal_shows_the_top_and_says_how_many_more() {
        let counts = (0..120u64)
            .map(|n| Count {
                probe: "f".into(),
                key: vec![("n".into(), Value::Uint(n))],
                count: n + 1,
            })
            .collect();
        let mut summary = Summary {
            duration_ns: 1,
            counts,
            ..Summary::default()
        };
        let style = Style {
            width: Some(80),
            colour: false,
            rows: Some(TOP_ROWS),
        };
        let rows = |page: &str| page.lines().filter(|l| l.contains(" %")).count();
        let page = render(&summary, &style, true);
        assert!(page.contains("  and 70 more keys: count 2485\n"), "{page}");
        assert_eq!(rows(&page), TOP_ROWS);
        let all = render(&summary, &Style::file(), true);
        assert_eq!(rows(&all), 120);
        assert!(!all.contains("more"));
        // The recipe's own number, in a file too; a larger one changes nothing on a terminal.
        summary.top = vec![("g".into(), 1), ("f".into(), 119)];
        let most = render(&summary, &Style::file(), true);
        assert!(most.contains("  and 1 more key: count 1\n"), "{most}");
        assert_eq!(rows(&most), 119);
        assert_eq!(rows(&render(&summary, &style, true)), TOP_ROWS);
    }

    #[test]
    fn sums_stand_in_their_units_the_largest_first() {
        let mut summary = Summary {
            stats: some_stats(),
            ..Summary::default()
        };
        let page = render(&summary, &Style::file(), true);
        assert_eq!(
            page,
            "\
send
  PEER          COUNT     BYTES  BYTES MAX  TOOK AVG
  [::1]:80          2  1.50 MiB      1 MiB   2.50 us
  10.0.0.1:443    900    70 KiB    100   B   1.25 us
  (unreadable)      1    -5   B     -5   B      7 ns

"
        );
        summary.top = vec![("send".into(), 1)];
        let page = render(&summary, &Style::file(), true);
        assert!(
            page.ends_with("  and 2 more keys: count 901, bytes 70.0 KiB\n\n"),
            "{page}"
        );
    }

    #[test]
    fn frames_of_a_key_stand_under_its_row() {
        let count = |comm: &str, stack: Value, count| Count {
            probe: "send".into(),
            key: vec![
                ("comm".into(), Value::Name(comm.into())),
                ("kstack".into(), stack),
            ],
            count,
        };
        let summary = Summary {
            counts: vec![
                count("King", a_stack(&["tcp_sendmsg+0x1b", "sock_sendmsg"]), 3),
                count("Queen", Value::Missing("unreadable"), 1),
            ],
            ..Summary::default()
        };
        let style = Style {
            width: Some(20),
            ..Style::file()
        };
        assert_eq!(
            render(&summary, &style, true),
            "\
send
  COMM   COUNT   SH…
  King       3  75.…
      tcp_sendmsg+0…
      sock_sendmsg
  Queen      1  25.…
      (unreadable)

"
        );
    }

    #[test]
    fn a_key_cannot_write_to_the_terminal() {
        let text = Value::Text {
            bytes: b"\x1b[2J".to_vec(),
            cut: true,
        };
        let counts = vec![Count {
            probe: "f".into(),
            key: vec![("s".into(), text), ("t".into(), a_stack(&["\x1b[1m"]))],
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
        assert!(page.contains("\\x1b[2J…(cut)") && page.contains("\\x1b[1m"));
        assert!(!page.contains('\x1b'));
    }
}
