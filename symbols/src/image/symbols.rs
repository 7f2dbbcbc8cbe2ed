//! The symbol tables: read whole, indexed by address, names borrowed until a function is asked for.

use std::fs::File;
use std::path::Path;

use object::LittleEndian as LE;
use object::elf::{self, Sym64};
use object::pod;

use super::headers::{Headers, read_checked};
use super::{Bounds, Function, NameSource, Part};
use crate::error::{Error, Result};

/// No symbol table is larger; a file that claims more would only take the memory away.
const MAX_TABLE: u64 = 2 << 30;

#[derive(Debug)]
struct Table {
    source: NameSource,
    symbols: Vec<u8>,
    strings: Vec<u8>,
}

/// One name of one place. `address` first: groups are runs of the same address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    address: u64,
    table: u8,
    symbol: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Symbols {
    /// `.symtab` first: where both name a place, its word counts.
    tables: Vec<Table>,
    /// Functions, by address.
    entries: Vec<Entry>,
    ifuncs: Vec<Entry>,
}

impl Symbols {
    pub(crate) fn read(path: &Path, file: &File, headers: &Headers) -> Result<Self> {
        let mut symbols = Self::default();
        for (kind, source) in [
            (elf::SHT_SYMTAB, NameSource::Symtab),
            (elf::SHT_DYNSYM, NameSource::Dynsym),
        ] {
            let Some(section) = headers.section_of_kind(kind) else {
                continue;
            };
            let read = |offset, size, what: &str| {
                if size > MAX_TABLE {
                    let what = format!("{what} claims {size} bytes");
                    return Err(Error::Truncated {
                        path: path.to_owned(),
                        what,
                    });
                }
                read_checked(path, file, headers.file_len, offset, size, what)
            };
            let what = if kind == elf::SHT_SYMTAB {
                "the symbol table"
            } else {
                "the dynamic symbol table"
            };
            let strings =
                headers
                    .section_at(section.link as usize)
                    .ok_or_else(|| Error::Truncated {
                        path: path.to_owned(),
                        what: format!("{what} has no string table"),
                    })?;
            let bytes = read(section.offset, section.size, what)?;
            let strings = read(strings.offset, strings.size, "the symbols' names")?;
            symbols.add(
                headers,
                Table {
                    source,
                    symbols: bytes,
                    strings,
                },
            );
        }
        symbols.entries.sort_unstable();
        Ok(symbols)
    }

    fn add(&mut self, headers: &Headers, table: Table) {
        let number = self.tables.len() as u8;
        // Code sits in few sections: their flags are looked up once, not for every symbol.
        let code: Vec<bool> = (0..)
            .map_while(|index| headers.section_at(index))
            .map(|section| section.executable)
            .collect();
        for (at, symbol) in table.all().iter().enumerate() {
            let Ok(at) = u32::try_from(at) else { break };
            let entry = Entry {
                address: symbol.st_value.get(LE),
                table: number,
                symbol: at,
            };
            let section = symbol.st_shndx.get(LE);
            let in_code = code
                .get(usize::from(section.0))
                .copied()
                .unwrap_or(section == elf::SHN_XINDEX);
            if section == elf::SHN_UNDEF || !in_code || symbol.st_name.get(LE) == 0 {
                continue;
            }
            match symbol.st_info.st_type() {
                elf::STT_FUNC => self.entries.push(entry),
                elf::STT_GNU_IFUNC => self.ifuncs.push(entry),
                // Hand-written assembly often gives its functions no type; local labels are no functions.
                elf::STT_NOTYPE if symbol.st_info.st_bind() != elf::STB_LOCAL => {
                    self.entries.push(entry)
                }
                _ => {}
            }
        }
        self.entries
            .retain(|entry| entry.table != number || headers.code_offset(entry.address).is_some());
        self.tables.push(table);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Runs of entries at the same address.
    pub(crate) fn groups(&self) -> impl Iterator<Item = &[Entry]> {
        self.entries.chunk_by(|a, b| a.address == b.address)
    }

    pub(crate) fn ifuncs(&self) -> impl Iterator<Item = &Entry> {
        self.ifuncs.iter()
    }

    pub(crate) fn name(&self, entry: &Entry) -> &[u8] {
        let Some(table) = self.tables.get(usize::from(entry.table)) else {
            return b"";
        };
        table
            .all()
            .get(entry.symbol as usize)
            .map_or(b"", |symbol| unversioned(table.name(symbol)))
    }

    fn symbol(&self, entry: &Entry) -> Option<&Sym64<LE>> {
        self.tables
            .get(usize::from(entry.table))?
            .all()
            .get(entry.symbol as usize)
    }

    /// The function of a group; names for which FIRST holds are put first.
    pub(crate) fn function(
        &self,
        headers: &Headers,
        group: &[Entry],
        first: impl Fn(&[u8]) -> bool,
    ) -> Function {
        let address = group.first().map_or(0, |entry| entry.address);
        let mut names: Vec<(bool, bool, usize, &[u8])> = group
            .iter()
            .map(|entry| {
                let name = self.name(entry);
                let local = self
                    .symbol(entry)
                    .is_some_and(|symbol| symbol.st_info.st_bind() == elf::STB_LOCAL);
                // Of aliases, the public one without underscores is the one that people know: malloc, not __libc_malloc.
                (
                    !first(name),
                    local,
                    name.iter().take_while(|b| **b == b'_').count(),
                    name,
                )
            })
            .collect();
        names.sort_unstable();
        let mut texts: Vec<String> = Vec::with_capacity(names.len());
        for (.., name) in names {
            let name = String::from_utf8_lossy(name).into_owned();
            if !texts.contains(&name) {
                texts.push(name);
            }
        }
        let size = group
            .iter()
            .filter_map(|e| self.symbol(e))
            .map(|s| s.st_size.get(LE))
            .max()
            .unwrap_or(0);
        let segment_end = headers.code_end(address);
        let next = self.after(address).unwrap_or(segment_end).min(segment_end);
        let end = if size > 0 {
            address.saturating_add(size).min(segment_end)
        } else {
            next
        };
        let source = group
            .first()
            .and_then(|entry| self.tables.get(usize::from(entry.table)))
            .map_or(NameSource::Symtab, |table| table.source);
        let part = texts
            .first()
            .map_or(Part::Whole, |name| Part::of_name(name));
        Function {
            names: texts,
            address,
            offset: headers.code_offset(address).unwrap_or(0),
            size,
            end,
            undivided: end.min(next),
            source,
            part,
            bounds: if size > 0 {
                Bounds::Symbol
            } else {
                Bounds::Next
            },
        }
    }

    /// The address of the next function (or IFUNC resolver) after ADDRESS.
    fn after(&self, address: u64) -> Option<u64> {
        let next = self
            .entries
            .partition_point(|entry| entry.address <= address);
        let function = self.entries.get(next).map(|entry| entry.address);
        let resolver = self
            .ifuncs
            .iter()
            .map(|entry| entry.address)
            .filter(|at| *at > address)
            .min();
        [function, resolver].into_iter().flatten().min()
    }

    /// The function that ADDRESS lies in.
    pub(crate) fn around(&self, headers: &Headers, address: u64) -> Option<Function> {
        headers.code_offset(address)?;
        let past = self
            .entries
            .partition_point(|entry| entry.address <= address);
        let start = self.entries.get(past.checked_sub(1)?)?.address;
        let first = self.entries.partition_point(|entry| entry.address < start);
        let function = self.function(headers, &self.entries[first..past], |_| false);
        (address < function.end).then_some(function)
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
        self.symbol(entry)
            .is_some_and(|symbol| address - entry.address < symbol.st_size.get(LE))
            && !self.name(entry).windows(5).any(|part| part == b".cold")
    }

    /// Whether NAME is defined as a function; with EXPORTED, one that others can bind to. An executable without
    /// `.dynsym` exports nothing, yet its own calls bind within: there `.symtab`'s global names count.
    pub(crate) fn defines(&self, name: &[u8], exported: bool) -> bool {
        let has_dynsym = self
            .tables
            .iter()
            .any(|table| table.source == NameSource::Dynsym);
        self.entries.iter().chain(&self.ifuncs).any(|entry| {
            let Some(table) = self.tables.get(usize::from(entry.table)) else {
                return false;
            };
            let Some(symbol) = table.all().get(entry.symbol as usize) else {
                return false;
            };
            let visible = table.source == NameSource::Dynsym || !has_dynsym;
            let global = symbol.st_info.st_bind() != elf::STB_LOCAL;
            (!exported || (visible && global)) && unversioned(table.name(symbol)) == name
        })
    }

    /// Whether NAME is an undefined entry of `.dynsym`.
    pub(crate) fn imports(&self, name: &[u8]) -> bool {
        self.dynamic().is_some_and(|table| {
            let mut symbols = table.all().iter();
            symbols
                .any(|s| s.st_shndx.get(LE) == elf::SHN_UNDEF && unversioned(table.name(s)) == name)
        })
    }

    pub(crate) fn exported_address(&self, name: &[u8]) -> Option<u64> {
        let table = self.dynamic()?;
        let mut symbols = table.all().iter();
        symbols
            .find(|s| s.st_shndx.get(LE) != elf::SHN_UNDEF && table.name(s) == name)
            .map(|symbol| symbol.st_value.get(LE))
    }

    fn dynamic(&self) -> Option<&Table> {
        self.tables
            .iter()
            .find(|table| table.source == NameSource::Dynsym)
    }
}

impl Table {
    fn all(&self) -> &[Sym64<LE>] {
        let count = self.symbols.len() / size_of::<Sym64<LE>>();
        pod::slice_from_bytes(&self.symbols, count).map_or(&[], |(symbols, _)| symbols)
    }

    fn name(&self, symbol: &Sym64<LE>) -> &[u8] {
        let rest = self
            .strings
            .get(symbol.st_name.get(LE) as usize..)
            .unwrap_or_default();
        std::ffi::CStr::from_bytes_until_nul(rest).map_or(rest, std::ffi::CStr::to_bytes)
    }
}

/// `.symtab` writes versions into names: `memcpy@@GLIBC_2.14`.
fn unversioned(name: &[u8]) -> &[u8] {
    match name.iter().position(|b| *b == b'@') {
        Some(at) if at > 0 => &name[..at],
        _ => name,
    }
}
