//! What a run adds up to: a distribution of latency per command, and the statements that took the most time.

use std::collections::HashMap;
use std::sync::Arc;

use super::digest::Digest;
use super::{Commands, Limits};
use crate::report::model::{Bucket, Histogram, Table, Value};

/// Latencies of one kind. One significant digit makes hdrhistogram keep 16 buckets per power of two, as
/// the histograms made in the kernel have; count, sum and bounds are exact.
struct Latencies {
    histogram: hdrhistogram::Histogram<u64>,
    count: u64,
    total: u128,
    min: u64,
    max: u64,
}

impl Latencies {
    fn new() -> Option<Latencies> {
        // Starts at one bucket and grows: most statements are far from an hour.
        let histogram = hdrhistogram::Histogram::new(1).ok()?;
        Some(Latencies {
            histogram,
            count: 0,
            total: 0,
            min: u64::MAX,
            max: 0,
        })
    }

    fn record(&mut self, ns: u64) {
        if self.histogram.record(ns).is_err() {
            self.histogram.saturating_record(ns);
        }
        self.count += 1;
        self.total += u128::from(ns);
        self.min = self.min.min(ns);
        self.max = self.max.max(ns);
    }

    fn add(&mut self, other: &Latencies) {
        // Both grow on their own, so there is always room.
        let _ = self.histogram.add(&other.histogram);
        self.count += other.count;
        self.total += other.total;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }

    fn quantile(&self, q: f64) -> u64 {
        self.histogram.value_at_quantile(q).min(self.max)
    }

    fn mean(&self) -> f64 {
        self.total as f64 / self.count.max(1) as f64
    }
}

/// The sums so far.
pub struct Top {
    limits: Limits,
    commands: HashMap<u64, Latencies>,
    statements: HashMap<u64, (Arc<str>, Latencies)>,
    /// Statements added up as one to bound memory, and how many digests went into it.
    other: Option<Latencies>,
    others: u64,
}

impl Top {
    /// Nothing yet.
    pub fn new(limits: Limits) -> Top {
        Top {
            limits,
            commands: HashMap::new(),
            statements: HashMap::new(),
            other: None,
            others: 0,
        }
    }

    /// A call of a command took so long.
    pub fn command(&mut self, command: u64, latency_ns: u64) {
        if let Some(latencies) = self.commands.get_mut(&command) {
            latencies.record(latency_ns);
        } else if let Some(mut latencies) = Latencies::new() {
            latencies.record(latency_ns);
            self.commands.insert(command, latencies);
        }
    }

    /// A statement took so long.
    pub fn statement(&mut self, digest: &Digest, latency_ns: u64) {
        if let Some((_, latencies)) = self.statements.get_mut(&digest.id) {
            return latencies.record(latency_ns);
        }
        if self.statements.len() >= self.limits.digests.max(1) {
            self.fold_the_cheap_half();
        }
        if let Some(mut latencies) = Latencies::new() {
            latencies.record(latency_ns);
            self.statements
                .insert(digest.id, (digest.text.clone(), latencies));
        }
    }

    /// Makes room: the half that took the least time becomes one row. What comes to the top stays exact
    /// unless it was among the cheapest half before.
    fn fold_the_cheap_half(&mut self) {
        let mut totals: Vec<(u128, u64)> = self
            .statements
            .iter()
            .map(|(id, (_, l))| (l.total, *id))
            .collect();
        totals.sort_unstable();
        let Some(mut other) = self.other.take().or_else(Latencies::new) else {
            return;
        };
        for (_, id) in &totals[..totals.len().div_ceil(2)] {
            if let Some((_, latencies)) = self.statements.remove(id) {
                other.add(&latencies);
                self.others += 1;
            }
        }
        self.other = Some(other);
    }

    /// Latency by command, most used first.
    pub fn histograms(&self, name: &str, key: &str, commands: &Commands) -> Vec<Histogram> {
        let mut all: Vec<(&u64, &Latencies)> = self.commands.iter().collect();
        all.sort_by_key(|(command, l)| (std::cmp::Reverse(l.count), **command));
        all.into_iter()
            .map(|(command, l)| Histogram {
                name: name.into(),
                key: vec![(key.into(), Value::Name(commands.name(*command)))],
                unit: "ns".into(),
                count: l.count,
                min: l.min,
                max: l.max,
                mean: l.mean(),
                p50: l.quantile(0.5),
                p90: l.quantile(0.9),
                p99: l.quantile(0.99),
                p999: l.quantile(0.999),
                buckets: buckets(&l.histogram),
                probe_cost_ns: None,
            })
            .collect()
    }

    /// The statements (or whatever else was ranked, by its name) that took the most time in total.
    pub fn table(&self, what: &str) -> Option<Table> {
        let mut all: Vec<&(Arc<str>, Latencies)> = self.statements.values().collect();
        if all.is_empty() {
            return None;
        }
        // By text where the time is the same, so that the order does not depend on the hash.
        all.sort_by(|(a_text, a), (b_text, b)| {
            b.total.cmp(&a.total).then_with(|| a_text.cmp(b_text))
        });
        let kinds = all.len() as u64 + self.others;
        let whole: u128 = all
            .iter()
            .map(|(_, l)| l.total)
            .chain(self.other.iter().map(|l| l.total))
            .sum();
        let row = |text: Value, l: &Latencies| {
            vec![
                Value::Uint(l.count),
                Value::Duration(u64::try_from(l.total).unwrap_or(u64::MAX)),
                Value::Duration(l.mean().round() as u64),
                Value::Duration(l.quantile(0.99)),
                Value::Duration(l.max),
                Value::Share(l.total as f64 / whole.max(1) as f64),
                text,
            ]
        };
        let text = |text: &Arc<str>| Value::Text {
            bytes: text.as_bytes().to_vec(),
            cut: false,
        };
        let mut rows: Vec<Vec<Value>> = all
            .iter()
            .take(self.limits.top)
            .map(|(t, l)| row(text(t), l))
            .collect();
        let title = match rows.len() as u64 {
            n if n < kinds => format!("top {n} of {kinds} {what}s by total time"),
            _ => format!("{what}s by total time"),
        };
        if let Some(other) = &self.other {
            rows.push(row(Value::Name("(others)".into()), other));
        }
        let columns = ["count", "total", "mean", "p99", "max", "share", what];
        Some(Table {
            title,
            columns: columns.map(String::from).to_vec(),
            rows,
        })
    }

    /// Says what was added up as one.
    pub fn note(&self) -> Option<String> {
        (self.others > 0).then(|| {
            format!(
                "more than {} different ones in the table of the top: {} that took the least time are one row, (others)",
                self.limits.digests, self.others
            )
        })
    }
}

fn buckets(histogram: &hdrhistogram::Histogram<u64>) -> Vec<Bucket> {
    histogram
        .iter_recorded()
        .map(|step| {
            let value = step.value_iterated_to();
            Bucket {
                low: histogram.lowest_equivalent(value),
                high: histogram.highest_equivalent(value),
                count: step.count_at_value(),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::digest::digest;
    use super::*;

    fn of(text: &str) -> Digest {
        digest(text.as_bytes(), false)
    }

    #[test]
    fn percentiles_by_command_are_within_a_sixteenth() {
        let mut top = Top::new(Limits::default());
        for ns in 1..=100_000 {
            top.command(3, ns);
        }
        let h = top
            .histograms("latency", "command", &Commands::default())
            .remove(0);
        assert_eq!(
            (h.count, h.min, h.max, h.mean),
            (100_000, 1, 100_000, 50_000.5)
        );
        for (got, exact) in [
            (h.p50, 50_000.0),
            (h.p90, 90_000.0),
            (h.p99, 99_000.0),
            (h.p999, 99_900.0),
        ] {
            assert!(
                (got as f64 / exact - 1.0).abs() < 1.0 / 16.0,
                "{got} {exact}"
            );
        }
        assert_eq!(h.buckets.iter().map(|b| b.count).sum::<u64>(), 100_000);
        assert!(h.buckets.windows(2).all(|w| w[0].high < w[1].low));
        assert!(h.buckets.iter().all(|b| b.high - b.low <= b.low / 16));
        assert_eq!(h.key, [("command".to_string(), Value::Name("3".into()))]);
    }

    #[test]
    fn the_top_is_by_total_time() {
        let mut top = Top::new(Limits {
            top: 2,
            ..Limits::default()
        });
        for _ in 0..100 {
            top.statement(&of("SELECT 1"), 10);
        }
        top.statement(&of("SELECT a FROM slow"), 100_000);
        for _ in 0..10 {
            top.statement(&of("SELECT b FROM t"), 1_000);
        }
        let table = top.table("statement").unwrap();
        assert_eq!(table.title, "top 2 of 3 statements by total time");
        assert_eq!(table.columns.len(), table.rows[0].len());
        assert_eq!(table.rows[0][1], Value::Duration(100_000));
        assert_eq!(table.rows[1][0], Value::Uint(10));
        assert_eq!(table.rows[0][5], Value::Share(100_000.0 / 111_000.0));
        assert!(top.note().is_none());
    }

    #[test]
    fn memory_is_bounded_and_nothing_is_lost_from_the_sums() {
        let mut top = Top::new(Limits {
            digests: 64,
            top: 5,
            ..Limits::default()
        });
        for i in 0..5_000 {
            top.statement(&of(&format!("SELECT c FROM t{i}")), 10);
            top.statement(&of("SELECT c FROM hot"), 1_000);
        }
        assert!(top.statements.len() <= 64);
        let table = top.table("statement").unwrap();
        assert_eq!(table.rows[0][0], Value::Uint(5_000));
        assert_eq!(
            table.rows.last().unwrap()[6],
            Value::Name("(others)".into())
        );
        let kept: u64 = top.statements.values().map(|(_, l)| l.count).sum();
        assert_eq!(kept + top.other.as_ref().unwrap().count, 10_000);
        assert!(
            top.note()
                .unwrap()
                .starts_with("more than 64 different ones")
        );
    }

    #[test]
    fn extreme_latencies_are_counted() {
        let mut top = Top::new(Limits::default());
        for ns in [0, 1, u64::MAX] {
            top.command(1, ns);
        }
        let h = top
            .histograms("latency", "command", &Commands::default())
            .remove(0);
        assert_eq!((h.count, h.min, h.max), (3, 0, u64::MAX));
        assert_eq!(h.buckets.iter().map(|b| b.count).sum::<u64>(), 3);
    }
}
