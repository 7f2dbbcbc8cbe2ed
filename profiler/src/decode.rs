//! From the engine's records and keys to the report's values.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use uprof_ebpf::{HistData, KeyBytes, KeyValue, Record};
use uprof_recipes as recipes;
use uprof_recipes::Type;

use crate::plan::{Field, FieldSource, KeyField, KeyParts, Plan, Variant, shown_name};
use crate::report::escape;
use crate::report::model::{Bucket, Event, Histogram, Value};
use crate::stacks::Stacks;

/// A key's parts, with their names.
pub type Key = Vec<(String, Value)>;

/// Turns the records of one variant into events.
pub struct Decoder {
    /// The probe's name.
    pub probe: Arc<str>,
    call: bool,
    nobody: bool,
    fields: Vec<Field>,
    names: Vec<Option<Vec<(u64, String)>>>,
    /// Functions' names as they are shown, by variant and site: demangled once.
    shown: RefCell<HashMap<(usize, usize), String>>,
}

impl Decoder {
    /// For the records of a variant.
    pub fn new(variant: &Variant, recipe: &recipes::Recipe) -> Self {
        let names = variant
            .fields
            .iter()
            .map(|f| {
                recipe
                    .report
                    .names
                    .iter()
                    .find(|(n, _)| **n == *f.name)
                    .map(|(_, names)| names.clone())
            })
            .collect();
        Self {
            probe: recipe.probes[variant.probe].name.as_str().into(),
            call: recipe.probes[variant.probe].kind == recipes::ProbeKind::Call,
            nobody: recipe.probes[variant.probe].context.is_doubtful(),
            fields: variant.fields.clone(),
            names,
            shown: RefCell::default(),
        }
    }

    fn function(&self, place: (usize, usize), variants: &[Variant]) -> String {
        let mut shown = self.shown.borrow_mut();
        let shown = shown
            .entry(place)
            .or_insert_with(|| function_at(place, variants));
        shown.clone()
    }

    /// One record as an event. VARIANTS are the plan's; UNIX_OFFSET is what turns the kernel's monotonic time into UNIX
    /// time, in ns.
    pub fn event(
        &self,
        record: &Record<'_>,
        variants: &[Variant],
        unix_offset: i64,
        stacks: &RefCell<Stacks>,
    ) -> Event {
        let comm = || escape::comm(record.comm);
        let own = (usize::from(record.probe), record.site as usize);
        let fields = self.fields.iter().zip(&self.names).map(|(field, names)| {
            let value = match &field.from {
                FieldSource::Comm => Value::Name(comm()),
                FieldSource::Function => Value::Name(self.function(own, variants)),
                FieldSource::Capture(index) if field.ty == Type::Function => {
                    let name = |place| self.function(place, variants);
                    record.int(*index).map_or(UNKNOWN, |v| parent(v, name))
                }
                FieldSource::Capture(index) => capture(record, *index, &field.ty, names.as_deref()),
                FieldSource::Spent(index) => record.int(*index).map_or(UNKNOWN, spent),
                FieldSource::Address { bytes, port } => {
                    let at = record.bytes(*bytes);
                    let port = port.map(|port| record.int(port));
                    match at.fault {
                        true => UNREADABLE,
                        false => address(at.data, port),
                    }
                }
                FieldSource::Stack { index, user } => {
                    let pid = user.then_some(record.pid);
                    let frames = words(record.bytes(*index).data);
                    Value::Stack(stacks.borrow_mut().frames(pid, &frames))
                }
            };
            (field.name.clone(), value)
        });
        Event {
            probe: self.probe.clone(),
            time_ns: record.time_ns.wrapping_add_signed(unix_offset),
            pid: record.pid,
            tid: record.tid,
            comm: comm(),
            nobody: self.nobody,
            latency_ns: self.call.then_some(record.latency_ns),
            fields: fields.collect(),
            steps: Vec::new(),
        }
    }
}

/// What could not be read.
const UNREADABLE: Value = Value::Missing("unreadable");

/// An address of the network: 4 or 16 bytes, with a port or without (the inner `None`: it could not be read).
fn address(bytes: &[u8], port: Option<Option<u64>>) -> Value {
    let address = match (<[u8; 4]>::try_from(bytes), <[u8; 16]>::try_from(bytes)) {
        (Ok(v4), _) => IpAddr::from(v4),
        (_, Ok(v6)) => IpAddr::from(v6),
        _ => return Value::Missing("no address"),
    };
    match port {
        Some(None) => UNREADABLE,
        port => Value::Address(address, port.flatten().map(|port| port as u16)),
    }
}

/// What went to something. (Clocks of two CPUs may be a little apart: never less than nothing.)
fn spent(ns: u64) -> Value {
    Value::Duration((ns as i64).max(0) as u64)
}

/// The addresses of a stack.
fn words(bytes: &[u8]) -> Vec<u64> {
    let words = bytes.chunks_exact(8);
    words
        .map(|w| u64::from_le_bytes(w.try_into().unwrap_or_default()))
        .collect()
}

/// What `parent` is where the calls around are not known.
const UNKNOWN: Value = Value::Missing("unknown");

/// The probed call around another, as [`uprof_ebpf::Expr::Parent`] tells it; NAME is that of a variant's site.
fn parent(code: u64, name: impl FnOnce((usize, usize)) -> String) -> Value {
    match code.checked_sub(1) {
        Some(code) => Value::Name(name(((code >> 32) as usize, code as u32 as usize))),
        None => Value::Missing("none"),
    }
}

/// The name of the function at a variant's site, as it is shown.
fn function_at((variant, site): (usize, usize), variants: &[Variant]) -> String {
    let name = variants.get(variant).and_then(|v| v.functions.get(site));
    name.map_or_else(|| "?".to_owned(), |name| shown_name(name))
}

fn capture(record: &Record<'_>, index: usize, ty: &Type, names: Option<&[(u64, String)]>) -> Value {
    match ty {
        Type::Str | Type::Bytes => {
            let bytes = record.bytes(index);
            if bytes.fault {
                return UNREADABLE;
            }
            Value::Text {
                bytes: bytes.data.to_vec(),
                cut: bytes.cut,
            }
        }
        _ => match record.int(index) {
            None => UNREADABLE,
            Some(v) => scalar(v, ty, names),
        },
    }
}

fn scalar(v: u64, ty: &Type, names: Option<&[(u64, String)]>) -> Value {
    if let Some((_, name)) = names.and_then(|names| names.iter().find(|(n, _)| *n == v)) {
        return Value::Name(name.clone());
    }
    match ty {
        Type::Ptr { .. } => Value::Ptr(v),
        Type::Enum(e) => match e.name_of(v) {
            Some(name) => Value::Name(name.to_owned()),
            None if e.signed => Value::Int(v as i64),
            None => Value::Uint(v),
        },
        Type::Int { signed: true, .. } => Value::Int(v as i64),
        _ => Value::Uint(v),
    }
}

/// What gives the parts of keys their names.
pub struct Names<'a> {
    /// The recipe and its places.
    pub plan: &'a Plan,
    /// The addresses of a stack by its number: [`uprof_ebpf::Engine::stack`].
    pub stack: &'a dyn Fn(u64) -> Option<Vec<u64>>,
    /// What names them.
    pub stacks: &'a RefCell<Stacks>,
}

/// The entries of a variant's histograms, counts or sums, with their keys in words. Several functions may have one
/// name, and several stacks: entries that differ in nothing else are merged.
pub fn keyed<T>(
    entries: impl IntoIterator<Item = (KeyBytes, T)>,
    variant: &Variant,
    names: &Names<'_>,
    merge: impl Fn(&mut T, T),
) -> Vec<(Key, T)> {
    let entries = entries.into_iter().map(|(bytes, entry)| {
        let key = key(bytes.values(), &variant.key, names);
        (key, entry)
    });
    let alike = |k: &KeyField| k.ty == Type::Function || k.ty == Type::Stack;
    match variant.key.iter().any(alike) {
        true => merged(entries, merge),
        false => entries.collect(),
    }
}

fn merged<T>(entries: impl Iterator<Item = (Key, T)>, merge: impl Fn(&mut T, T)) -> Vec<(Key, T)> {
    let mut all: Vec<(Key, T)> = Vec::new();
    for (key, entry) in entries {
        match all.iter_mut().find(|(k, _)| *k == key) {
            Some((_, there)) => merge(there, entry),
            None => all.push((key, entry)),
        }
    }
    all
}

/// A key of a histogram, count or sum, with names.
pub fn key(values: Vec<KeyValue>, fields: &[KeyField], names: &Names<'_>) -> Key {
    let mut parts = values.into_iter();
    fields
        .iter()
        .map(|f| {
            let value = match f.parts {
                KeyParts::One => {
                    let part = f.constant.map(KeyValue::Int).or_else(|| parts.next());
                    part_of_key(part, f, names)
                }
                KeyParts::Address { port } => {
                    let bytes = parts.next();
                    let port = port.then(|| match parts.next() {
                        Some(KeyValue::Int(port)) => Some(port),
                        _ => None,
                    });
                    match bytes {
                        Some(KeyValue::Bytes(bytes)) => address(&bytes, port),
                        _ => UNREADABLE,
                    }
                }
                KeyParts::Stack { user } => {
                    let pid = match user.then(|| parts.next()).flatten() {
                        Some(KeyValue::Int(pid)) => Some(pid as u32),
                        _ => None,
                    };
                    let frames = match parts.next() {
                        Some(KeyValue::Stack(id)) => (names.stack)(id),
                        _ => None,
                    };
                    match frames {
                        Some(frames) => {
                            Value::Stack(names.stacks.borrow_mut().frames(pid, &frames))
                        }
                        None => Value::Missing("no stack"),
                    }
                }
            };
            (f.name.clone(), value)
        })
        .collect()
}

fn part_of_key(part: Option<KeyValue>, f: &KeyField, names: &Names<'_>) -> Value {
    let Names { plan, .. } = names;
    let named = plan.recipe.report.names.iter().find(|(n, _)| *n == f.name);
    let named = named.map(|(_, n)| n.as_slice());
    match part {
        Some(KeyValue::Int(v)) if f.ty == Type::Function => {
            parent(v, |place| function_at(place, &plan.variants))
        }
        Some(KeyValue::Unreadable) if f.ty == Type::Function => UNKNOWN,
        Some(KeyValue::Int(v)) => scalar(v, &f.ty, named),
        Some(KeyValue::Bytes(bytes)) => Value::Text { bytes, cut: false },
        Some(KeyValue::Unreadable) => UNREADABLE,
        Some(KeyValue::Stack(_)) | None => Value::Missing("no key"),
    }
}

/// A histogram of the engine, for the report.
pub fn histogram(name: &str, key: Key, unit: &str, data: &HistData) -> Histogram {
    let buckets = data
        .buckets
        .iter()
        .enumerate()
        .filter(|(_, n)| **n > 0)
        .map(|(index, n)| {
            let (low, high) = uprof_ebpf::hist::bounds(index);
            Bucket {
                low,
                high,
                count: *n,
            }
        });
    Histogram {
        name: name.to_owned(),
        key,
        unit: unit.to_owned(),
        count: data.count,
        min: data.min,
        max: data.max,
        mean: if data.count == 0 {
            0.0
        } else {
            data.sum as f64 / data.count as f64
        },
        p50: data.quantile(0.5),
        p90: data.quantile(0.9),
        p99: data.quantile(0.99),
        p999: data.quantile(0.999),
        buckets: buckets.collect(),
        probe_cost_ns: None,
    }
}

#[cfg(test)]
mod tests {
    use uprof_ebpf::{Action, Expr as B, KeyPart};

    use super::*;
    use crate::plan::Limits;
    use crate::target::TargetSpec;

    /// Two probes in two functions each, counted by `parent` and `depth`.
    fn a_plan() -> Plan {
        let text = "[[call]]\nname = \"a\"\nfunction = \"a*\"\ncount = true\nby = [\"parent\", \"depth\"]\n\
                    [[call]]\nname = \"b\"\nfunction = \"b*\"\ncapture = { own = \"self\", from = \"parent\", too = \"comm\" }\n";
        let recipe = recipes::parse(recipes::Source::new("t.toml", text)).expect("a recipe");
        let targets = vec![TargetSpec::Own; 2];
        let mut plan = Plan::new(recipe, targets, Limits::default()).expect("a plan");
        plan.variants[0].functions = vec!["a1".into(), "_ZN2ns2a2Ei".into()];
        plan.variants[1].functions = vec!["b1".into(), "a1".into()];
        plan
    }

    fn named(name: &str, depth: u64) -> Key {
        let from = Value::Name(name.into());
        vec![
            ("parent".into(), from),
            ("depth".into(), Value::Uint(depth)),
        ]
    }

    #[test]
    fn calls_of_the_chain_are_lowered() {
        let plan = a_plan();
        let Action::Count { key } = &plan.variants[0].spec.action else {
            panic!("{:?}", plan.variants[0].spec)
        };
        assert_eq!(*key, [KeyPart::Int(B::Parent), KeyPart::Int(B::Depth)]);
        let Action::Event { captures } = &plan.variants[1].spec.action else {
            panic!("{:?}", plan.variants[1].spec)
        };
        assert_eq!(
            *captures,
            [
                uprof_ebpf::Capture::Int(B::SelfTime),
                uprof_ebpf::Capture::Int(B::Parent)
            ]
        );
        let types: Vec<&Type> = plan.variants[1].fields.iter().map(|f| &f.ty).collect();
        assert_eq!(types, [&Type::U64, &Type::Function, &Type::Str]);
    }

    #[test]
    fn parents_are_shown_by_name() {
        let plan = a_plan();
        let key = |code: KeyValue| {
            let values = vec![code, KeyValue::Int(3)];
            let names = Names {
                plan: &plan,
                stack: &|_| None,
                stacks: &RefCell::default(),
            };
            key(values, &plan.variants[0].key, &names).swap_remove(0).1
        };
        let name = |name: &str| Value::Name(name.into());
        assert_eq!(key(KeyValue::Int(0)), Value::Missing("none"));
        assert_eq!(key(KeyValue::Int(1)), name("a1"));
        assert_eq!(key(KeyValue::Int(1 + 1)), name("ns::a2(int)"));
        assert_eq!(key(KeyValue::Int(1 + (1 << 32))), name("b1"));
        // What no plan has must not end the run.
        assert_eq!(key(KeyValue::Int(1 + (1 << 32 | 2))), name("?"));
        assert_eq!(key(KeyValue::Int(u64::MAX)), name("?"));
        assert_eq!(key(KeyValue::Unreadable), Value::Missing("unknown"));
    }

    #[test]
    fn functions_of_one_name_are_one_key() {
        let entries = [
            (named("a1", 0), 1),
            (named("b1", 0), 10),
            (named("a1", 1), 100),
            (named("a1", 0), 1000),
        ];
        let all = merged(entries.into_iter(), |there, n| *there += n);
        assert_eq!(
            all,
            [
                (named("a1", 0), 1001),
                (named("b1", 0), 10),
                (named("a1", 1), 100)
            ]
        );
    }
}
