//! Where the time of calls went: sums that the kernel kept, and those of the events that are shown.

use uprof_ebpf::BreakdownData;
use uprof_recipes::{Action, Probe, Recipe, Spent};

use crate::decode::Key;
use crate::report::model::{Breakdown, Event, Value};

/// The most keys that events are summed up by; what comes later is summed up together.
const MOST_KEYS: usize = 1000;

/// Sums by probe and key; places of one probe add up, as counts do.
#[derive(Default, Clone)]
pub struct Breakdowns(Vec<(String, Key, u32, BreakdownData)>);

impl Breakdowns {
    /// Adds those of one place.
    pub fn add(&mut self, probe: &Probe, all: impl IntoIterator<Item = (Key, BreakdownData)>) {
        for (key, data) in all {
            self.one(&probe.name, key, probe.sample, &data);
        }
    }

    fn one(&mut self, name: &str, key: Key, sample: u32, data: &BreakdownData) {
        let known = self.0.iter_mut();
        let there = known.into_iter().find(|(n, k, ..)| n == name && *k == key);
        match there {
            Some((.., there)) => there.merge(data),
            None => self.0.push((name.to_owned(), key, sample, *data)),
        }
    }

    /// For the report, as many as the sampled calls stand for; those that took longest first.
    pub fn done(self) -> Vec<Breakdown> {
        let made = self.0.into_iter().map(|(name, key, sample, data)| {
            let scale = u64::from(sample.max(1));
            Breakdown {
                name,
                key,
                calls: data.calls * scale,
                known: data.known * scale,
                // (Clocks of two CPUs may be a little apart.)
                parts: data.ns.map(|ns| (ns as i64).max(0) as u64 * scale),
            }
        });
        let mut made: Vec<Breakdown> = made.filter(|b| b.calls > 0).collect();
        made.sort_by_key(|b| std::cmp::Reverse(b.total()));
        made
    }
}

/// The events of calls whose time is broken down, added up by what the report groups by.
pub struct OfEvents {
    /// Names and samples of the probes that have such events.
    probes: Vec<(String, u32)>,
    group_by: Option<String>,
    sums: Breakdowns,
}

impl OfEvents {
    /// `None`: no probe has such events.
    pub fn new(recipe: &Recipe) -> Option<OfEvents> {
        let events = |p: &&Probe| p.breakdown && p.action == Action::Event;
        let probes = recipe.probes.iter().filter(events);
        let probes: Vec<_> = probes.map(|p| (p.name.clone(), p.sample)).collect();
        (!probes.is_empty()).then(|| OfEvents {
            probes,
            group_by: recipe.report.group_by.clone(),
            sums: Breakdowns::default(),
        })
    }

    /// Adds an event that is shown.
    pub fn event(&mut self, event: &Event) {
        let Some((name, sample)) = self.probes.iter().find(|(name, _)| **name == *event.probe)
        else {
            return;
        };
        let mut data = BreakdownData {
            calls: 1,
            ..BreakdownData::default()
        };
        let mut known = 0;
        for (field, value) in &event.fields {
            if let (Some(on), Value::Duration(ns)) = (Spent::of(field), value) {
                data.ns[on as usize] = *ns;
                known += 1;
            }
        }
        data.known = u64::from(known == Spent::ALL.len());
        let by = self.group_by.as_deref();
        let field = event.fields.iter().find(|(f, _)| Some(&**f) == by);
        let mut key: Key = field
            .map(|(f, value)| (f.to_string(), value.clone()))
            .into_iter()
            .collect();
        let there = self.sums.0.iter().any(|(n, k, ..)| n == name && *k == key);
        if !there && self.sums.0.len() >= MOST_KEYS {
            key = Vec::new();
        }
        let (name, sample) = (name.clone(), *sample);
        self.sums.one(&name, key, sample, &data);
    }

    /// All so far.
    pub fn sums(&self) -> Vec<Breakdown> {
        self.sums.clone().done()
    }
}
