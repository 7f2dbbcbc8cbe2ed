//! Functions with code of their own: all of them, or those that a pattern names.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use gimli::AttributeValue;

use super::Dwarf;
use super::names::Wanted;
use super::readers::{Reader, Readers, UnitAt};
use super::walk::{Entry, Named, is_scope, walk};
use crate::error::Result;
use crate::matcher::Matcher;
use crate::pattern::Pattern;

/// Less debug information than this, in bytes, is read before a second thread has started.
const PARALLEL_FROM: usize = 512 << 10;

/// A function that has code of its own, as the debug information tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DwarfFunction {
    /// The linker's name; C and Go have none.
    pub linkage_name: Option<String>,
    /// The name in the source, with namespaces and classes where there is no linker's name that has them.
    pub name: String,
    /// The virtual address where it starts.
    pub address: u64,
    /// Where its code is; the first range is the one that starts with the function.
    pub ranges: Vec<Range<u64>>,
}

impl DwarfFunction {
    /// The name as symbol tables have it.
    pub fn raw_name(&self) -> &str {
        self.linkage_name.as_deref().unwrap_or(&self.name)
    }

    /// Size in bytes from the start, without parts that lie elsewhere.
    pub fn size(&self) -> u64 {
        let first = self
            .ranges
            .iter()
            .find(|range| range.contains(&self.address));
        first.map_or(0, |range| range.end - self.address)
    }
}

impl Dwarf {
    /// All functions that have code of their own, by address. One address can have several: copies that the linker
    /// found to be the same.
    ///
    /// # Errors
    /// None so far: units that are damaged are left out, and [`Dwarf::notes`] says so.
    pub fn functions(&self) -> Result<Vec<DwarfFunction>> {
        Ok(self.with(|readers| collect(readers, None)))
    }

    /// The functions that a pattern names, by address; empty where there is none.
    ///
    /// # Errors
    /// [`Error::BadPattern`](crate::Error::BadPattern).
    pub fn functions_named(&self, pattern: &Pattern) -> Result<Vec<DwarfFunction>> {
        self.find(&Matcher::for_pattern(pattern)?)
    }

    /// The functions that the first matcher to find any names.
    pub(crate) fn find(&self, matchers: &[Matcher]) -> Result<Vec<DwarfFunction>> {
        for matcher in matchers {
            let found = self.with(|readers| {
                let wanted = Wanted::new(readers, matcher);
                collect(readers, Some(&wanted))
            });
            if !found.is_empty() {
                return Ok(found);
            }
        }
        Ok(Vec::new())
    }
}

fn collect<'a>(readers: &Readers<'a>, wanted: Option<&Wanted<'_, 'a>>) -> Vec<DwarfFunction> {
    let units = match wanted {
        Some(wanted) => wanted.units(readers),
        None => (0..readers.units().len()).collect(),
    };
    let mut all = over_units(readers, &units, |_, at, found| {
        in_unit(readers, at, wanted, found)
    });
    all.sort_by(|a: &DwarfFunction, b| (a.address, a.raw_name()).cmp(&(b.address, b.raw_name())));
    all.dedup();
    all
}

/// Calls READ for each of the units (its number, and what it holds), on as many threads as pay, and gathers what it
/// finds.
pub(super) fn over_units<'a, T: Send>(
    readers: &Readers<'a>,
    units: &[usize],
    read: impl for<'r> Fn(usize, UnitAt<'r, 'a>, &mut Vec<T>) -> Result<(), gimli::Error> + Sync,
) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut found = Vec::new();
        while let Some(index) = units.get(next.fetch_add(1, Ordering::Relaxed)) {
            let whole = readers.unit(*index).map(|at| read(*index, at, &mut found));
            if !matches!(whole, Some(Ok(()))) {
                readers.damaged(*index);
            }
        }
        found
    };
    let list = readers.units();
    let bytes = units
        .iter()
        .filter_map(|index| Some(list.header(*index)?.unit_length()));
    let large = bytes.sum::<usize>() >= PARALLEL_FROM || readers.is_split();
    let threads = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(units.len());
    if !large || threads < 2 {
        return work();
    }
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut found = work();
        for other in others {
            found.extend(other.join().unwrap_or_default());
        }
        found
    })
}

fn in_unit<'r, 'a>(
    readers: &'r Readers<'a>,
    at: UnitAt<'r, 'a>,
    wanted: Option<&Wanted<'_, 'a>>,
    found: &mut Vec<DwarfFunction>,
) -> Result<(), gimli::Error> {
    let mut scopes = Scopes::default();
    let mut waiting = Vec::new();
    let whole = walk(at, |entry| {
        if is_scope(entry.tag) {
            scopes.enter(entry);
            return;
        }
        if entry.tag != gimli::DW_TAG_subprogram {
            return;
        }
        scopes.note(at, entry);
        if !entry.has_code() {
            return;
        }
        let Some(named) = entry.named(readers, at) else {
            return;
        };
        if wanted.is_none_or(|wanted| wanted.fits(&named)) {
            waiting.push((entry.clone(), named));
        }
    });
    for (entry, named) in waiting {
        found.extend(function(readers, at, &entry, &named, &scopes));
    }
    whole
}

fn function<'a>(
    readers: &Readers<'a>,
    at: UnitAt<'_, 'a>,
    entry: &Entry<'a>,
    named: &Named<'_, 'a>,
    scopes: &Scopes<'a>,
) -> Option<DwarfFunction> {
    let ranges = entry.code(readers, at);
    let address = entry.entry_address(at, &ranges)?;
    let text = String::from_utf8_lossy(named.text()?.slice()).into_owned();
    let name = match named.linkage {
        true => crate::demangle::demangle(&text).unwrap_or_else(|| text.clone()),
        // Scopes are known for this unit only.
        false if std::ptr::eq(named.at.unit, at.unit) => scopes.qualified(named.offset.0, &text),
        false => text.clone(),
    };
    Some(DwarfFunction {
        linkage_name: named.linkage.then_some(text),
        name,
        address,
        ranges,
    })
}

/// More scopes around a function than this are damage.
const MAX_SCOPES: usize = 64;

/// The namespaces and classes around what a walk visits.
#[derive(Default)]
struct Scopes<'a> {
    open: Vec<(isize, Option<AttributeValue<Reader<'a>>>)>,
    /// Functions without a linker's name that stand in a scope, by their offset: what goes before their names.
    prefixes: HashMap<usize, String>,
}

impl<'a> Scopes<'a> {
    fn enter(&mut self, entry: &Entry<'a>) {
        self.leave(entry.depth);
        self.open.push((entry.depth, entry.name));
    }

    fn leave(&mut self, depth: isize) {
        while self.open.last().is_some_and(|(open, _)| *open >= depth) {
            self.open.pop();
        }
    }

    fn note(&mut self, at: UnitAt<'_, 'a>, entry: &Entry<'a>) {
        self.leave(entry.depth);
        if entry.linkage_name.is_some() || entry.name.is_none() || self.open.is_empty() {
            return;
        }
        let names = self.open.iter().take(MAX_SCOPES).map(|(_, name)| {
            let name = name.and_then(|name| at.unit_ref().attr_string(name).ok());
            name.map_or("(anonymous)".into(), |name| name.to_string_lossy())
        });
        self.prefixes
            .insert(entry.offset.0, names.collect::<Vec<_>>().join("::"));
    }

    fn qualified(&self, offset: usize, name: &str) -> String {
        match self.prefixes.get(&offset) {
            Some(prefix) => format!("{prefix}::{name}"),
            None => name.to_owned(),
        }
    }
}
