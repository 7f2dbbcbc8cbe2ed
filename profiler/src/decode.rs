//! From the engine's records and keys to the report's values.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use uprof_ebpf::{HistData, KeyValue, Record};
use uprof_recipes as recipes;
use uprof_recipes::Type;

use crate::plan::{Field, FieldSource, KeyField, Variant, shown_name};
use crate::report::escape;
use crate::report::model::{Bucket, Event, Histogram, Value};

/// Turns the records of one variant into events.
pub struct Decoder {
    /// The probe's name.
    pub probe: Arc<str>,
    call: bool,
    fields: Vec<Field>,
    names: Vec<Option<Vec<(u64, String)>>>,
    /// Functions' names as they are shown, by site: demangled once.
    shown: RefCell<HashMap<u32, String>>,
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
            fields: variant.fields.clone(),
            names,
            shown: RefCell::default(),
        }
    }

    fn function(&self, site: u32, functions: &[String]) -> String {
        let name = functions.get(site as usize).map_or("?", String::as_str);
        let mut shown = self.shown.borrow_mut();
        shown
            .entry(site)
            .or_insert_with(|| shown_name(name))
            .clone()
    }

    /// One record as an event. UNIX_OFFSET is what turns the kernel's monotonic time into UNIX time, in ns.
    pub fn event(&self, record: &Record<'_>, functions: &[String], unix_offset: i64) -> Event {
        let comm = || escape::comm(record.comm);
        let fields = self.fields.iter().zip(&self.names).map(|(field, names)| {
            let value = match &field.from {
                FieldSource::Comm => Value::Name(comm()),
                FieldSource::Function => Value::Name(self.function(record.site, functions)),
                FieldSource::Capture(index) => capture(record, *index, &field.ty, names.as_deref()),
            };
            (field.name.clone(), value)
        });
        Event {
            probe: self.probe.clone(),
            time_ns: record.time_ns.wrapping_add_signed(unix_offset),
            pid: record.pid,
            tid: record.tid,
            comm: comm(),
            latency_ns: self.call.then_some(record.latency_ns),
            fields: fields.collect(),
        }
    }
}

fn capture(record: &Record<'_>, index: usize, ty: &Type, names: Option<&[(u64, String)]>) -> Value {
    match ty {
        Type::Str | Type::Bytes => {
            let bytes = record.bytes(index);
            if bytes.fault {
                return Value::Missing("unreadable");
            }
            Value::Text {
                bytes: bytes.data.to_vec(),
                cut: bytes.cut,
            }
        }
        _ => match record.int(index) {
            None => Value::Missing("unreadable"),
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

/// A key of a histogram or count, with names.
pub fn key(
    values: Vec<KeyValue>,
    fields: &[KeyField],
    recipe: &recipes::Recipe,
) -> Vec<(String, Value)> {
    let mut parts = values.into_iter();
    fields
        .iter()
        .map(|f| {
            let names = recipe
                .report
                .names
                .iter()
                .find(|(n, _)| *n == f.name)
                .map(|(_, n)| n.as_slice());
            let value = match f.constant.map(KeyValue::Int).or_else(|| parts.next()) {
                Some(KeyValue::Int(v)) => scalar(v, &f.ty, names),
                Some(KeyValue::Bytes(bytes)) => Value::Text { bytes, cut: false },
                Some(KeyValue::Unreadable) => Value::Missing("unreadable"),
                None => Value::Missing("no key"),
            };
            (f.name.clone(), value)
        })
        .collect()
}

/// A histogram of the engine, for the report.
pub fn histogram(name: &str, key: Vec<(String, Value)>, unit: &str, data: &HistData) -> Histogram {
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
