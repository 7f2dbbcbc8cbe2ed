//! Tables of names put together: indexed by address, names borrowed until a function is asked for.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use object::LittleEndian as LE;
use object::elf;

use super::headers::Headers;
use super::table::{Entry, Functions, Table};
use super::{Bounds, Function, NameSource, Part};

/// How many functions before an address are asked whether they reach over it: functions hardly nest.
const LOOK_BACK: usize = 16;

#[derive(Clone, Debug, Default)]
pub(crate) struct Symbols {
    /// In order of trust: where two name a place, the word of the first counts.
    tables: Vec<Arc<Table>>,
    /// Functions, by address.
    entries: Vec<Entry>,
    /// Resolvers of indirect functions, by address.
    ifuncs: Vec<Entry>,
}

impl Symbols {
    /// Adds a table whose symbols refer to the sections of HOME, for the code in CODE. [`Symbols::sort`] ends the adding.
    pub(crate) fn add(&mut self, table: Table, home: &Headers, code: &Headers) {
        let Ok(number) = u8::try_from(self.tables.len()) else {
            return;
        };
        let Functions { entries, ifuncs } = table.functions(number, home, code);
        self.entries.extend(entries);
        self.ifuncs.extend(ifuncs);
        self.tables.push(Arc::new(table));
    }

    pub(crate) fn sort(mut self) -> Self {
        self.entries.sort_unstable();
        self.ifuncs.sort_unstable();
        self
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn has(&self, source: NameSource) -> bool {
        self.tables.iter().any(|table| table.source == source)
    }

    /// How many names of functions come from a source; `None` where there is no such table.
    pub(crate) fn count(&self, source: NameSource) -> Option<usize> {
        self.has(source).then(|| {
            let all = self.entries.iter().chain(&self.ifuncs);
            all.filter(|entry| self.source(entry) == Some(source))
                .count()
        })
    }

    /// Runs of entries at the same address.
    pub(crate) fn groups(&self) -> impl Iterator<Item = &[Entry]> {
        self.entries.chunk_by(|a, b| a.address == b.address)
    }

    /// The entries at an address.
    pub(crate) fn at(&self, address: u64) -> &[Entry] {
        let start = self.entries.partition_point(|e| e.address < address);
        let rest = self.entries.get(start..).unwrap_or_default();
        let len = rest.iter().take_while(|e| e.address == address).count();
        &rest[..len]
    }

    /// Whether the resolver of an indirect function starts at an address.
    pub(crate) fn resolves_at(&self, address: u64) -> bool {
        let found = self.ifuncs.binary_search_by_key(&address, |e| e.address);
        found.is_ok()
    }

    /// Whether an address lies past the start of a function, or piece of one, that has a size.
    pub(crate) fn is_covered(&self, address: u64) -> bool {
        let past = self.entries.partition_point(|e| e.address < address);
        let before = past.checked_sub(1).and_then(|at| self.entries.get(at));
        before.is_some_and(|entry| address - entry.address < self.size(entry))
    }

    pub(crate) fn ifuncs(&self) -> impl Iterator<Item = &Entry> {
        self.ifuncs.iter()
    }

    fn table(&self, entry: &Entry) -> Option<&Table> {
        self.tables
            .get(usize::from(entry.table))
            .map(|table| &**table)
    }

    fn source(&self, entry: &Entry) -> Option<NameSource> {
        self.table(entry).map(|table| table.source)
    }

    pub(crate) fn name(&self, entry: &Entry) -> &[u8] {
        self.table(entry).map_or(b"", |table| table.name(entry.row))
    }

    pub(crate) fn is_named(&self, entry: &Entry, name: &[u8]) -> bool {
        self.table(entry)
            .is_some_and(|table| table.is_named(entry.row, name))
    }

    /// The version of a name, and whether it is the one that new programs are linked with.
    pub(crate) fn version(&self, entry: &Entry) -> Option<(Cow<'_, str>, bool)> {
        self.table(entry)?.version(entry.row)
    }

    fn size(&self, entry: &Entry) -> u64 {
        self.table(entry).map_or(0, |table| table.size(entry.row))
    }

    fn is_local(&self, entry: &Entry) -> bool {
        self.table(entry)
            .is_some_and(|table| table.is_local(entry.row))
    }

    /// The function of a group; names for which FIRST holds are put first.
    pub(crate) fn function(
        &self,
        headers: &Headers,
        group: &[Entry],
        first: impl Fn(&Entry) -> bool,
    ) -> Function {
        let address = group.first().map_or(0, |entry| entry.address);
        let mut names: Vec<(bool, bool, usize, &[u8])> = group
            .iter()
            .map(|entry| {
                let name = self.name(entry);
                // Of aliases, the public one without underscores is the one that people know: malloc, not __libc_malloc.
                (
                    !first(entry),
                    self.is_local(entry),
                    name.iter().take_while(|b| **b == b'_').count(),
                    name,
                )
            })
            .collect();
        names.sort_unstable();
        let mut seen = HashSet::new();
        let texts: Vec<String> = names
            .into_iter()
            // Most places have one name: no set is made for those.
            .filter(|(.., name)| group.len() == 1 || seen.insert(*name))
            .map(|(.., name)| String::from_utf8_lossy(name).into_owned())
            .collect();
        let (size, bounds) = self.size_of(group);
        let segment_end = headers.code_end(address);
        let next = self.after(address).unwrap_or(segment_end).min(segment_end);
        let end = if size > 0 {
            address.saturating_add(size).min(segment_end)
        } else {
            next
        };
        let source = group.first().and_then(|entry| self.source(entry));
        let source = source.unwrap_or(NameSource::Symtab);
        // A whole function may have a piece's name beside its own.
        let parts = group
            .iter()
            .filter_map(|entry| Some(self.table(entry)?.part(entry.row)));
        let part = parts.min().unwrap_or(Part::Whole);
        Function {
            names: texts,
            address,
            offset: headers.code_offset(address).unwrap_or(0),
            size,
            end,
            undivided: end.min(next),
            source,
            part,
            bounds,
        }
    }

    /// The largest size in the first table that gives one.
    fn size_of(&self, group: &[Entry]) -> (u64, Bounds) {
        let mut best: Option<(&Entry, u64)> = None;
        // A group is in order of its tables.
        for entry in group {
            let size = self.size(entry);
            match best {
                Some((first, _)) if first.table != entry.table => break,
                Some((_, known)) if known >= size => {}
                _ if size > 0 => best = Some((entry, size)),
                _ => {}
            }
        }
        let Some((entry, size)) = best else {
            return (0, Bounds::Next);
        };
        let bounds = match self.source(entry) {
            Some(NameSource::Pclntab) => Bounds::Pclntab,
            Some(NameSource::Dwarf) => Bounds::Dwarf,
            Some(NameSource::EhFrame) => Bounds::Fde,
            Some(NameSource::Plt) => Bounds::Stub,
            _ => Bounds::Symbol,
        };
        (size, bounds)
    }

    /// The address of the next function (or IFUNC resolver) after ADDRESS.
    pub(crate) fn after(&self, address: u64) -> Option<u64> {
        let next = |entries: &[Entry]| {
            let past = entries.partition_point(|entry| entry.address <= address);
            entries.get(past).map(|entry| entry.address)
        };
        let (function, resolver) = (next(&self.entries), next(&self.ifuncs));
        [function, resolver].into_iter().flatten().min()
    }

    /// The function that ADDRESS lies in.
    pub(crate) fn around(&self, headers: &Headers, address: u64) -> Option<Function> {
        headers.code_offset(address)?;
        let mut past = self
            .entries
            .partition_point(|entry| entry.address <= address);
        for _ in 0..LOOK_BACK {
            let start = self.entries.get(past.checked_sub(1)?)?.address;
            let first = self.entries.partition_point(|entry| entry.address < start);
            let function = self.function(headers, &self.entries[first..past], |_| false);
            if address < function.end {
                return Some(function);
            }
            past = first;
        }
        None
    }

    /// Whether ADDRESS lies in a function with a size. The `.cold` parts that GCC splits off carry symbols of their
    /// own, but are no functions: they jump back.
    pub(crate) fn is_inside(&self, address: u64) -> bool {
        let past = self
            .entries
            .partition_point(|entry| entry.address <= address);
        let Some(entry) = past.checked_sub(1).and_then(|at| self.entries.get(at)) else {
            return false;
        };
        address - entry.address < self.size(entry)
            && !self.name(entry).windows(5).any(|part| part == b".cold")
    }

    /// Whether NAME is defined as a function; with EXPORTED, one that others can bind to. An executable without
    /// `.dynsym` exports nothing, yet its own calls bind within: there `.symtab`'s global names count.
    pub(crate) fn defines(&self, name: &[u8], exported: bool) -> bool {
        let has_dynsym = self.has(NameSource::Dynsym);
        self.entries.iter().chain(&self.ifuncs).any(|entry| {
            let visible = !has_dynsym || self.source(entry) == Some(NameSource::Dynsym);
            (!exported || (visible && !self.is_local(entry))) && self.name(entry) == name
        })
    }

    /// Whether NAME is an undefined entry of `.dynsym`.
    pub(crate) fn imports(&self, name: &[u8]) -> bool {
        self.dynamic().is_some_and(|table| {
            let mut symbols = table.symbols().iter();
            symbols.any(|s| s.st_shndx.get(LE) == elf::SHN_UNDEF && table.symbol_name(s) == name)
        })
    }

    /// Calls LOOK with each name of any kind, and whether it is defined here.
    pub(crate) fn each_name(&self, mut look: impl FnMut(&[u8], bool)) {
        for table in &self.tables {
            for symbol in table.symbols() {
                let name = table.symbol_name(symbol);
                look(name, symbol.st_shndx.get(LE) != elf::SHN_UNDEF);
            }
        }
    }

    /// The address of an exported symbol of any kind.
    pub(crate) fn exported_address(&self, name: &[u8]) -> Option<u64> {
        let table = self.dynamic()?;
        let mut symbols = table.symbols().iter();
        symbols
            .find(|s| s.st_shndx.get(LE) != elf::SHN_UNDEF && table.written_name(s) == name)
            .map(|symbol| symbol.st_value.get(LE))
    }

    /// The address of a variable, by whichever table names it.
    pub(crate) fn variable(&self, name: &[u8]) -> Option<u64> {
        let found = self.tables.iter().find_map(|table| {
            let mut symbols = table.symbols().iter();
            symbols.find(|s| {
                s.st_shndx.get(LE) != elf::SHN_UNDEF
                    && s.st_info.st_type() == elf::STT_OBJECT
                    && table.symbol_name(s) == name
            })
        });
        found.map(|symbol| symbol.st_value.get(LE))
    }

    /// `.dynsym`, defined or not.
    pub(crate) fn dynamic(&self) -> Option<&Table> {
        let mut tables = self.tables.iter();
        tables
            .find(|table| table.source == NameSource::Dynsym)
            .map(|table| &**table)
    }
}
