//! Sums over a recipe's calls that no join has a hand in: `group_by` and `top` of its report.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::digest::{Digest, digest};
use super::top::Top;
use super::{Commands, Limits};
use crate::report::escape;
use crate::report::model::{Event, Histogram, Table, Value};

/// The most different values of `group_by`; the rest are one.
const MOST_GROUPS: usize = 1000;

/// What to add up.
pub struct Sums {
    group_by: Option<String>,
    top_by: Option<String>,
    sql: bool,
    top: Top,
    groups: HashMap<String, u64>,
    names: Commands,
}

impl Sums {
    /// Latency by the field GROUP_BY, and the values of the field TOP_BY that took the most time;
    /// SQL: statements that differ in literals alone are one.
    pub fn new(
        group_by: Option<String>,
        top_by: Option<String>,
        sql: bool,
        limits: Limits,
    ) -> Sums {
        Sums {
            group_by,
            top_by,
            sql,
            top: Top::new(limits),
            groups: HashMap::new(),
            names: Commands::default(),
        }
    }

    /// Takes a call as it is shown.
    pub fn call(&mut self, event: &Event) {
        let Some(latency) = event.latency_ns else {
            return;
        };
        let field = |name: &Option<String>| {
            let name = name.as_deref()?;
            event
                .fields
                .iter()
                .find(|(n, _)| **n == *name)
                .map(|(_, value)| value)
        };
        if let Some(value) = field(&self.group_by) {
            let group = self.group(text_of(value));
            self.top.command(group, latency);
        }
        if let Some(value) = field(&self.top_by) {
            let digest = match value {
                Value::Text { bytes, cut } if self.sql => digest(bytes, *cut),
                other => verbatim(text_of(other)),
            };
            self.top.statement(&digest, latency);
        }
    }

    fn group(&mut self, name: String) -> u64 {
        if let Some(group) = self.groups.get(&name) {
            return *group;
        }
        let full = self.groups.len() >= MOST_GROUPS;
        let name = if full { "(others)".to_owned() } else { name };
        let next = self.groups.len() as u64;
        let group = *self.groups.entry(name.clone()).or_insert(next);
        if group == next {
            self.names.names.push((group, name));
        }
        group
    }

    /// Latency by group, most used first.
    pub fn histograms(&self, name: &str) -> Vec<Histogram> {
        self.top.histograms(
            name,
            self.group_by.as_deref().unwrap_or_default(),
            &self.names,
        )
    }

    /// What took the most time.
    pub fn table(&self) -> Option<Table> {
        self.top.table(self.top_by.as_deref()?)
    }

    /// What the reader should know.
    pub fn note(&self) -> Option<String> {
        self.top.note()
    }
}

fn verbatim(text: String) -> Digest {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    Digest {
        id: hasher.finish(),
        text: text.into(),
    }
}

fn text_of(value: &Value) -> String {
    match value {
        Value::Int(n) => n.to_string(),
        Value::Uint(n) => n.to_string(),
        Value::Ptr(p) => format!("{p:#x}"),
        Value::Text { bytes, .. } => {
            let mut text = String::new();
            escape::text(&mut text, bytes);
            text
        }
        Value::Name(name) => name.clone(),
        Value::Duration(ns) => crate::report::units::duration(*ns as f64),
        Value::Share(part) => part.to_string(),
        Value::Stack(frames) => frames.join(" < "),
        Value::Address(address, port) => {
            let mut text = String::new();
            crate::report::units::address(&mut text, *address, *port);
            text
        }
        Value::Missing(why) => format!("({why})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(route: &str, latency: u64) -> Event {
        Event {
            probe: "request".into(),
            time_ns: 0,
            pid: 1,
            tid: 1,
            comm: "server".into(),
            nobody: false,
            latency_ns: Some(latency),
            fields: vec![(
                "route".into(),
                Value::Text {
                    bytes: route.into(),
                    cut: false,
                },
            )],
            steps: Vec::new(),
        }
    }

    #[test]
    fn calls_are_added_up_by_a_field_and_ranked_by_time() {
        let mut sums = Sums::new(
            Some("route".into()),
            Some("route".into()),
            false,
            Limits::default(),
        );
        for i in 0..10 {
            sums.call(&event("/a", 100));
            sums.call(&event("/b", 1000 + i));
        }
        let histograms = sums.histograms("request");
        assert_eq!(
            histograms.iter().map(|h| h.count).collect::<Vec<_>>(),
            [10, 10]
        );
        assert_eq!(
            histograms[0].key,
            [("route".to_owned(), Value::Name("/a".into()))]
        );
        let table = sums.table().expect("calls were made");
        assert_eq!(table.columns.last().map(String::as_str), Some("route"));
        assert_eq!(
            table.rows[0][6],
            Value::Text {
                bytes: b"/b".to_vec(),
                cut: false
            }
        );
        assert_eq!(table.rows[0][1], Value::Duration(10_045));
    }

    #[test]
    fn groups_are_bounded() {
        let mut sums = Sums::new(Some("route".into()), None, false, Limits::default());
        for i in 0..5000 {
            sums.call(&event(&i.to_string(), 1));
        }
        let histograms = sums.histograms("request");
        assert_eq!(histograms.len(), MOST_GROUPS + 1);
        assert_eq!(
            histograms.iter().map(|h| h.count).sum::<u64>(),
            5000,
            "nothing is left out"
        );
        assert!(sums.table().is_none());
    }
}
