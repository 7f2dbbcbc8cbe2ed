//! Sums, extremes and linear histograms of the engine, for the report; and what samples stand for.

use uprof_ebpf::{HistData, LinearData, StatsData};
use uprof_recipes::{Probe, Recipe, Stat, StatKind};

use crate::decode::Key;
use crate::report;
use crate::report::model::{Count, Graph, Linear, StatRow, StatValue, Summary};

/// Sums by probe and key; places of one probe add up, as counts do.
#[derive(Default)]
pub struct Stats<'a>(Vec<(&'a Probe, &'a [Stat], Key, StatsData)>);

impl<'a> Stats<'a> {
    /// Adds those of one place.
    pub fn add(&mut self, probe: &'a Probe, values: &'a [Stat], all: Vec<(Key, StatsData)>) {
        // Keys of one place differ.
        let known = self.0.len();
        for (key, data) in all {
            let mut earlier = self.0[..known].iter_mut();
            match earlier.find(|(p, _, k, _)| p.name == probe.name && *k == key) {
                Some((.., there)) => merge(there, &data),
                None => self.0.push((probe, values, key, data)),
            }
        }
    }

    /// For the report, as many as the sampled hits stand for.
    pub fn done(self) -> Vec<StatRow> {
        let rows = self
            .0
            .into_iter()
            .map(|(probe, values, key, data)| StatRow {
                probe: probe.name.clone(),
                key,
                count: data.count * u64::from(probe.sample.max(1)),
                values: values
                    .iter()
                    .zip(&data.values)
                    .map(|(stat, value)| StatValue {
                        name: stat.name.clone(),
                        unit: stat.unit.clone(),
                        shown: stat
                            .show
                            .iter()
                            .map(|kind| {
                                let sum = value.sum as f64;
                                let shown = match kind {
                                    StatKind::Sum => sum * f64::from(probe.sample.max(1)),
                                    StatKind::Min => value.min as f64,
                                    StatKind::Max => value.max as f64,
                                    StatKind::Avg => sum / data.count.max(1) as f64,
                                };
                                (*kind, shown)
                            })
                            .collect(),
                    })
                    .collect(),
            });
        rows.collect()
    }
}

/// One of the same key more.
pub fn merge(there: &mut StatsData, more: &StatsData) {
    there.count += more.count;
    for (there, more) in there.values.iter_mut().zip(&more.values) {
        there.sum = there.sum.wrapping_add(more.sum);
        there.min = there.min.min(more.min);
        there.max = there.max.max(more.max);
    }
}

/// One of the same key more.
pub fn merge_linear(there: &mut LinearData, more: &LinearData) {
    there.below += more.below;
    there.above += more.above;
    there.sum = there.sum.wrapping_add(more.sum);
    there.min = there.min.min(more.min);
    there.max = there.max.max(more.max);
    for (there, more) in there.buckets.iter_mut().zip(&more.buckets) {
        *there += more;
    }
}

/// A histogram of so many steps, for the report; `None` when nothing was counted.
pub fn linear(
    (name, unit): (&str, &str),
    (from, step): (i64, u64),
    (key, data): (Key, LinearData),
    sample: u32,
) -> Option<Linear> {
    let counted = data.below + data.above + data.buckets.iter().sum::<u64>();
    if counted == 0 {
        return None;
    }
    let sample = u64::from(sample.max(1));
    let filled = |n: &u64| *n > 0;
    let first = data.buckets.iter().position(filled).unwrap_or(0);
    let end = data.buckets.iter().rposition(filled).map_or(0, |i| i + 1);
    let low = |i: usize| from.wrapping_add_unsigned(step.wrapping_mul(i as u64));
    Some(Linear {
        name: name.to_owned(),
        key,
        unit: unit.to_owned(),
        count: counted * sample,
        below: data.below * sample,
        above: data.above * sample,
        min: data.min,
        max: data.max,
        mean: data.sum as f64 / counted as f64,
        from,
        to: low(data.buckets.len()),
        step,
        buckets: (first..end)
            .map(|i| (low(i), data.buckets[i] * sample))
            .collect(),
    })
}

/// What a sample's histogram stands for.
pub fn scaled(mut data: HistData, sample: u32) -> HistData {
    if sample > 1 {
        data.count *= u64::from(sample);
        data.sum *= u128::from(sample);
        for n in &mut data.buckets {
            *n *= u64::from(sample);
        }
    }
    data
}

/// The recipe's graph, from the sums or counts of its probe.
pub fn graph(recipe: &Recipe, summary: &Summary) -> Option<Graph> {
    let wanted = recipe.report.graph.as_ref()?;
    let ends = |key: &Key| {
        let end = |name: &str| {
            let (_, value) = key.iter().find(|(n, _)| n == name)?;
            Some(report::text(value))
        };
        Some((end(&wanted.from)?, end(&wanted.to)?))
    };
    let counts = summary.counts.iter().filter(|c| c.probe == wanted.probe);
    let counted = counts.map(|Count { key, count, .. }| (key, *count));
    let weight = |row: &StatRow| {
        let Some(name) = &wanted.weight else {
            return row.count;
        };
        let value = row.values.iter().find(|v| v.name == *name);
        value.and_then(StatValue::sum).unwrap_or(0.0).max(0.0) as u64
    };
    let rows = summary.stats.iter().filter(|s| s.probe == wanted.probe);
    let summed = rows.map(|row| (&row.key, weight(row)));
    let mut edges: Vec<(String, String, u64)> = Vec::new();
    for (key, weight) in counted.chain(summed) {
        let Some((from, to)) = ends(key) else {
            continue;
        };
        match edges.iter_mut().find(|(f, t, _)| *f == from && *t == to) {
            Some((.., there)) => *there += weight,
            None => edges.push((from, to, weight)),
        }
    }
    let unit = summary
        .stats
        .iter()
        .filter(|s| s.probe == wanted.probe)
        .flat_map(|s| &s.values)
        .find(|v| Some(&v.name) == wanted.weight.as_ref())
        .map(|v| v.unit.clone());
    Some(Graph {
        name: recipe.name.clone(),
        weight: unit.unwrap_or_else(|| "hits".to_owned()),
        edges,
    })
}
