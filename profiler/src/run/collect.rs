//! Records to events, maps to a summary.

use std::cell::RefCell;
use std::collections::HashSet;
use std::io;
use std::time::Duration;

use uprof_ebpf::{BreakdownData, Engine, HistData, LinearData, Record, StatsData};
use uprof_recipes::{self as recipes, Action, Expr, Kind, Scale};

use super::breakdown::{Breakdowns, OfEvents};
use super::sockets::Sockets;
use super::stats;
use crate::decode::{self, Decoder, Key};
use crate::join;
use crate::plan::{FieldSource, Plan, Variant, shown_name};
use crate::report::Output;
use crate::report::model::{Column, ColumnValue, Count, Histogram, ProbeCount, Summary, Value};
use crate::stacks::Stacks;

/// What is known only when the probes are gone, by variant.
#[derive(Default)]
pub struct Known {
    /// Calls that are still open.
    pub unfinished: Vec<u64>,
    /// What a probe costs within the time it measures, in nanoseconds.
    pub costs: Vec<Option<u64>>,
}

impl Known {
    fn cost(&self, variant: usize) -> Option<u64> {
        self.costs.get(variant).copied().flatten()
    }
}

/// Gathers what the engine sends.
pub struct Collector {
    decoders: Vec<Decoder>,
    unix_offset: i64,
    /// Per variant: records that served a join only, and are not shown.
    hidden: Vec<u64>,
    statements: Option<Statements>,
    sockets: Option<Sockets>,
    sums: Option<join::sums::Sums>,
    breakdowns: Option<OfEvents>,
    stacks: RefCell<Stacks>,
}

impl Collector {
    /// For a plan's variants, in the engine's order, which are armed; of sockets those of the processes in ONLY.
    pub fn new(plan: &Plan, only: Option<&HashSet<u32>>) -> Self {
        Self {
            decoders: plan
                .variants
                .iter()
                .map(|v| Decoder::new(v, &plan.recipe))
                .collect(),
            unix_offset: uprof_ebpf::unix_offset_ns(),
            hidden: vec![0; plan.variants.len()],
            statements: plan.recipe.join.as_ref().and_then(|join| match join {
                recipes::Join::Statements(s) => Some(Statements::new(s, plan)),
                recipes::Join::Sockets(_) => None,
            }),
            sockets: match &plan.recipe.join {
                Some(recipes::Join::Sockets(s)) => Some(Sockets::new(s, plan, only)),
                _ => None,
            },
            sums: sums(plan),
            breakdowns: OfEvents::new(&plan.recipe),
            stacks: RefCell::default(),
        }
    }

    /// Has a look at a process whose stacks may be shown when it is gone.
    pub fn meet(&self, pid: u32) {
        self.stacks.borrow_mut().meet(pid);
    }

    /// Takes what the ring buffer holds, and writes it; of sockets those of the processes in `only`.
    pub fn drain(
        &mut self,
        engine: &mut Engine,
        plan: &Plan,
        only: Option<&HashSet<u32>>,
        output: &mut dyn Output,
    ) -> io::Result<()> {
        let mut result = Ok(());
        let (decoders, hidden, offset) = (&self.decoders, &mut self.hidden, self.unix_offset);
        let (statements, sums) = (&mut self.statements, &mut self.sums);
        let (sockets, stacks) = (&mut self.sockets, &self.stacks);
        let breakdowns = &mut self.breakdowns;
        let drained = engine.drain(|record| {
            if result.is_err() {
                return;
            }
            let index = usize::from(record.probe);
            let (Some(decoder), Some(variant)) = (decoders.get(index), plan.variants.get(index))
            else {
                return;
            };
            let joined = statements.as_mut().and_then(|s| s.record(index, &record));
            if plan.probe(variant).hidden || record.kept {
                if let Some(sockets) = sockets.as_mut().filter(|_| record.kept) {
                    sockets.passed_over(index, &record);
                }
                hidden[index] += u64::from(!record.kept);
                return;
            }
            let decode = || decoder.event(&record, &plan.variants, offset, stacks);
            if let Some(sockets) = sockets {
                sockets.take(index, &record, offset, &decode, only);
                hidden[index] += 1;
                result = show(sockets, hidden, output);
                return;
            }
            let mut event = decode();
            if let Some((field, text)) = joined {
                event.fields[field].1 = text;
            }
            if let Some(sums) = sums {
                sums.call(&event);
            }
            if let Some(breakdowns) = breakdowns {
                breakdowns.event(&event);
            }
            result = output.event(&event);
        });
        drained.map_err(io::Error::other)?;
        if (0..plan.variants.len()).any(|v| engine.counters(v).dropped_ring > 0) {
            if let Some(s) = &mut self.statements {
                s.join.records_lost();
            }
            if let Some(s) = &mut self.sockets {
                s.records_lost();
            }
        }
        result?;
        if let Some(sockets) = &mut self.sockets {
            sockets.due(only);
            show(sockets, &mut self.hidden, output)?;
        }
        output.flush()
    }

    /// The run is over: writes what a join has held back.
    pub fn finish(
        &mut self,
        only: Option<&HashSet<u32>>,
        output: &mut dyn Output,
    ) -> io::Result<()> {
        if let Some(sockets) = &mut self.sockets {
            sockets.finish(only);
            show(sockets, &mut self.hidden, output)?;
        }
        output.flush()
    }

    /// Everything so far.
    pub fn summary(
        &self,
        plan: &Plan,
        engine: &Engine,
        armed: Duration,
        notes: &[String],
        known: &Known,
    ) -> io::Result<Summary> {
        let mut summary = Summary {
            duration_ns: armed.as_nanos() as u64,
            notes: notes.to_vec(),
            ..Summary::default()
        };
        let mut histograms = Histograms::default();
        let mut sums = stats::Stats::default();
        let mut breakdowns = Breakdowns::default();
        let names = decode::Names {
            plan,
            stack: &|id| engine.stack(id),
            stacks: &self.stacks,
        };
        for (index, variant) in plan.variants.iter().enumerate() {
            let probe = plan.probe(variant);
            self.add_counters(&mut summary, engine, (index, variant), &probe.name, known);
            match &probe.action {
                Action::Event => {}
                Action::Count { by } if by.is_empty() => {
                    add_counts(
                        &mut summary,
                        &probe.name,
                        site_counts(engine, index, variant, plan.is_in_many(variant)),
                        probe.sample,
                    );
                }
                // All of the key was known beforehand: the kernel counted without one.
                Action::Count { .. } if variant.key.iter().all(|k| k.constant.is_some()) => {
                    let count = engine.site_hits(index).iter().sum();
                    let key = decode::key(Vec::new(), &variant.key, &names);
                    add_counts(&mut summary, &probe.name, vec![(key, count)], probe.sample);
                }
                Action::Count { .. } => {
                    let counts = engine.counts(index).map_err(io::Error::other)?;
                    let named = decode::keyed(counts, variant, &names, |there, n| *there += n);
                    add_counts(&mut summary, &probe.name, named, probe.sample);
                }
                Action::Stats { values, .. } => {
                    let all = engine.stats(index).map_err(io::Error::other)?;
                    let merge = |there: &mut StatsData, data: StatsData| stats::merge(there, &data);
                    sums.add(probe, values, decode::keyed(all, variant, &names, merge));
                }
                Action::Histogram {
                    value,
                    unit,
                    scale: Scale::Linear { from, step, .. },
                    ..
                } => {
                    let name = histogram_name(&probe.name, value);
                    let all = engine.linear(index).map_err(io::Error::other)?;
                    let merge = |there: &mut LinearData, data: LinearData| {
                        stats::merge_linear(there, &data)
                    };
                    let keyed = decode::keyed(all, variant, &names, merge).into_iter();
                    summary.linear.extend(keyed.filter_map(|one| {
                        stats::linear((&name, unit), (*from, *step), one, probe.sample)
                    }));
                }
                Action::Histogram { value, unit, .. } => {
                    let name = histogram_name(&probe.name, value);
                    let all = engine.histograms(index).map_err(io::Error::other)?;
                    let keyed =
                        decode::keyed(all, variant, &names, |there, data| there.merge(&data));
                    let scaled = keyed
                        .into_iter()
                        .map(|(key, data)| (key, stats::scaled(data, probe.sample)));
                    histograms.add((&name, unit), scaled, known.cost(index));
                    let all = engine.breakdowns(index).map_err(io::Error::other)?;
                    let merge = |there: &mut BreakdownData, data| there.merge(&data);
                    breakdowns.add(probe, decode::keyed(all, variant, &names, merge));
                }
            }
            if let Some(top) = probe.top {
                summary.top.push((probe.name.clone(), top as usize));
            }
        }
        summary.stats = sums.done();
        summary.breakdowns = breakdowns.done();
        if let Some(breakdowns) = &self.breakdowns {
            summary.breakdowns.extend(breakdowns.sums());
        }
        summary.histograms = histograms.done();
        if let Some(s) = &self.statements {
            summary
                .histograms
                .extend(s.join.histograms(&s.call, &s.key));
            summary.tables.extend(s.join.table());
            summary.notes.extend(s.join.notes());
        }
        if let Some(s) = &self.sockets {
            s.summary(&mut summary);
        }
        if let Some(sums) = &self.sums {
            summary
                .histograms
                .extend(sums.histograms(&plan.recipe.name));
            summary.tables.extend(sums.table());
            summary.notes.extend(sums.note());
        }
        summary.histograms.retain(|h: &Histogram| h.count > 0);
        summary
            .histograms
            .sort_by_key(|h| std::cmp::Reverse(h.count));
        summary.counts.sort_by_key(|c| std::cmp::Reverse(c.count));
        summary.graph = stats::graph(&plan.recipe, &summary);
        Ok(summary)
    }

    fn add_counters(
        &self,
        summary: &mut Summary,
        engine: &Engine,
        (index, variant): (usize, &Variant),
        name: &str,
        known: &Known,
    ) {
        let c = engine.counters(index);
        let hidden = self.hidden[index];
        let there = summary.probes.iter().position(|p| p.probe == name);
        let at = there.unwrap_or_else(|| {
            summary.probes.push(ProbeCount {
                probe: name.to_owned(),
                ..ProbeCount::default()
            });
            summary.probes.len() - 1
        });
        let p = &mut summary.probes[at];
        p.sites += distinct_sites(variant);
        p.hits += c.hits;
        // What a join used up was taken account of there, though no line shows it.
        p.emitted += c.emitted - hidden.min(c.emitted);
        p.aggregated += c.aggregated + hidden.min(c.emitted);
        p.filtered += c.filtered;
        p.unsampled += c.unsampled;
        p.sample = variant.spec.sample;
        p.dropped_ring += c.dropped_ring;
        p.dropped_map += c.dropped_map;
        p.unpaired += c.unpaired;
        // While the run goes on a call without a return is taken to be open.
        let rest = c.unpaired.saturating_sub(c.nested);
        let unfinished = known.unfinished.get(index).copied().unwrap_or(rest);
        p.unfinished += unfinished;
        p.abandoned += rest.saturating_sub(unfinished);
        p.nested += c.unpaired.min(c.nested);
    }
}

/// Writes the events of sockets that are ready; each stands for a record that was taken to be used up.
fn show(sockets: &mut Sockets, hidden: &mut [u64], output: &mut dyn Output) -> io::Result<()> {
    while let Some(shown) = sockets.next() {
        if let Some(hidden) = hidden.get_mut(shown.variant) {
            *hidden -= 1;
        }
        output.event(&shown.event)?;
    }
    Ok(())
}

/// Distributions by probe and key; places of one probe add up, as counts do.
#[derive(Default)]
struct Histograms(Vec<(String, Key, String, HistData, Option<u64>)>);

impl Histograms {
    /// Adds those of one place.
    fn add(
        &mut self,
        (name, unit): (&str, &str),
        all: impl Iterator<Item = (Key, HistData)>,
        cost: Option<u64>,
    ) {
        // Keys of one place differ.
        let known = self.0.len();
        for (key, data) in all {
            let mut earlier = self.0[..known].iter_mut();
            match earlier.find(|(n, k, ..)| n == name && *k == key) {
                Some((.., there, least)) => {
                    there.merge(&data);
                    // Never more than any of them cost.
                    *least = least.zip(cost).map(|(a, b)| a.min(b));
                }
                None => self
                    .0
                    .push((name.to_owned(), key, unit.to_owned(), data, cost)),
            }
        }
    }

    fn done(self) -> Vec<Histogram> {
        let made = self
            .0
            .into_iter()
            .map(|(name, key, unit, data, cost)| Histogram {
                probe_cost_ns: cost,
                ..decode::histogram(&name, key, &unit, &data)
            });
        made.collect()
    }
}

/// What a probe's histogram of VALUE is called: self time is easily taken for latency.
fn histogram_name(probe: &str, value: &Expr) -> String {
    match value.kind {
        Kind::SelfTime => format!("{probe} (self time)"),
        _ => probe.to_owned(),
    }
}

/// A report's `group_by` and `top`, where no join takes care of them.
fn sums(plan: &Plan) -> Option<join::sums::Sums> {
    let report = &plan.recipe.report;
    if plan.recipe.join.is_some() || report.group_by.is_none() && report.top.is_none() {
        return None;
    }
    let sql = report
        .top
        .as_ref()
        .is_some_and(|t| t.digest.as_deref() == Some("sql"));
    let limits = join::Limits::default();
    let top = report.top.as_ref().map_or(limits.top, |t| t.limit as usize);
    let top_by = report.top.as_ref().map(|t| t.by.clone());
    Some(join::sums::Sums::new(
        report.group_by.clone(),
        top_by,
        sql,
        join::Limits { top, ..limits },
    ))
}

/// Whether a plan's join has something to show while the run goes on.
pub fn adds_up(plan: &Plan) -> bool {
    use recipes::SocketEvents::{Closes, Lingerers};
    match &plan.recipe.join {
        Some(recipes::Join::Sockets(s)) => matches!(s.show, Closes | Lingerers),
        _ => false,
    }
}

/// How many different places a variant sits at.
pub fn distinct_sites(variant: &Variant) -> u64 {
    variant
        .sites
        .iter()
        .map(|s| (s.file, s.site.offset))
        .collect::<HashSet<_>>()
        .len() as u64
        + variant.kernel.len() as u64
}

fn site_counts(
    engine: &Engine,
    index: usize,
    variant: &Variant,
    by_function: bool,
) -> Vec<(Key, u64)> {
    let hits = engine.site_hits(index);
    if !by_function {
        return vec![(Vec::new(), hits.iter().sum())];
    }
    let named = variant
        .functions
        .iter()
        .zip(hits)
        .filter(|(_, count)| *count > 0);
    named
        .map(|(name, count)| {
            (
                vec![("function".to_owned(), Value::Name(shown_name(name)))],
                count,
            )
        })
        .collect()
}

/// Adds the counts of one place; places of one probe add up.
fn add_counts(summary: &mut Summary, probe: &str, counts: Vec<(Key, u64)>, sample: u32) {
    let known = summary.counts.iter().any(|c| c.probe == probe);
    for (key, count) in counts {
        let count = count * u64::from(sample.max(1));
        // Keys of one place differ, so that only a further place can meet one that is there.
        let there = match known {
            true => summary
                .counts
                .iter_mut()
                .find(|c| c.probe == probe && c.key == key),
            false => None,
        };
        match there {
            Some(there) => there.count += count,
            None => summary.counts.push(Count {
                probe: probe.to_owned(),
                key,
                count,
            }),
        }
    }
}

/// The columns of the event table: the recipe's, or none for a choice that fits.
pub fn columns(plan: &Plan) -> Vec<Column> {
    let value = |name: &str| match name {
        "time" => ColumnValue::Time,
        "pid" => ColumnValue::Pid,
        "tid" => ColumnValue::Tid,
        "comm" => ColumnValue::Comm,
        "latency" => ColumnValue::Latency,
        "probe" => ColumnValue::Probe,
        field => ColumnValue::Field(field.into()),
    };
    plan.recipe
        .report
        .columns
        .iter()
        .map(|c| Column {
            width: c.width.map(usize::from),
            align: c.align,
            unit: c.unit.clone(),
            ..Column::new(c.title.as_str(), value(&c.value))
        })
        .collect()
}

/// Where a capture stands among a variant's fields, and in its records.
pub(super) fn capture_of(v: &Variant, name: &str) -> Option<(usize, usize)> {
    let mut fields = v.fields.iter().enumerate();
    fields.find_map(|(at, f)| match f.from {
        FieldSource::Capture(index) if *f.name == *name => Some((at, index)),
        _ => None,
    })
}

/// The statements join, and where its inputs stand in the records.
struct Statements {
    join: join::Join,
    call: String,
    key: String,
    /// By variant.
    roles: Vec<Option<Role>>,
}

/// What a variant's records are to the join: indexes of captures.
enum Role {
    Call {
        command: usize,
        text: usize,
        id: usize,
        connection: usize,
        text_field: usize,
    },
    Prepared {
        id: usize,
    },
}

impl Statements {
    fn new(s: &recipes::Statements, plan: &Plan) -> Self {
        let role = |v: &Variant| {
            let capture = |name: &str| capture_of(v, name);
            let probe = plan.probe(v);
            if probe.name == s.call {
                let (text_field, text) = capture(&s.text)?;
                return Some(Role::Call {
                    command: capture(&s.command)?.1,
                    text,
                    id: capture(&s.id)?.1,
                    connection: capture(&s.connection)?.1,
                    text_field,
                });
            }
            (probe.name == s.prepared).then_some(Role::Prepared {
                id: capture(&s.prepared_id)?.1,
            })
        };
        let names = plan
            .recipe
            .report
            .names
            .iter()
            .find(|(n, _)| *n == s.command);
        let names: Vec<(u64, String)> = names.map(|(_, names)| names.clone()).unwrap_or_default();
        let limits = join::Limits::default();
        let top = plan
            .recipe
            .report
            .top
            .as_ref()
            .map_or(limits.top, |t| t.limit as usize);
        let commands = join::Commands {
            names,
            prepare: s.prepare.clone(),
            execute: s.execute.clone(),
            uses: s.uses.clone(),
            close: s.close.clone(),
            forget: s.close_all.clone(),
            last_id: s.last_id.map(|id| id as u32),
            ..join::Commands::default()
        };
        Self {
            join: join::Join::new(commands, join::Limits { top, ..limits }),
            call: s.call.clone(),
            key: s.command.clone(),
            roles: plan.variants.iter().map(role).collect(),
        }
    }

    /// Takes a record; for a call, the index of the field to replace and the text that belongs there.
    fn record(&mut self, variant: usize, r: &Record<'_>) -> Option<(usize, Value)> {
        match self.roles.get(variant)?.as_ref()? {
            Role::Prepared { id } => {
                let id = r.int(*id)? as u32;
                self.join.prepared(&join::Prepared {
                    time_ns: r.time_ns,
                    pid: r.pid,
                    tid: r.tid,
                    id,
                });
                None
            }
            Role::Call {
                command,
                text,
                id,
                connection,
                text_field,
            } => {
                let bytes = r.bytes(*text);
                let value = self.join.call(&join::Call {
                    time_ns: r.time_ns,
                    latency_ns: r.latency_ns,
                    pid: r.pid,
                    tid: r.tid,
                    connection: r.int(*connection).unwrap_or(0),
                    command: r.int(*command).unwrap_or(u64::MAX),
                    statement_id: r.int(*id).map(|id| id as u32),
                    text: (!bytes.fault).then_some((bytes.data, bytes.cut)),
                    kept: r.kept,
                });
                Some((*text_field, value))
            }
        }
    }
}
