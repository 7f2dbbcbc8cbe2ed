//! Where names come from besides the file's own tables: each is read when it is first asked for. Damage in one of
//! these takes only that one away, and is told in its report.

use std::path::PathBuf;
use std::sync::OnceLock;

use object::elf;

use super::read::Tables;
use super::symbols::Symbols;
use super::table::{Named, Table};
use super::{Function, Image, NameSource, Part};
use crate::debug::{self, DebugFile, Located, MiniDebug};
use crate::dwarf::Dwarf;
use crate::eh_frame::{self, EhFrame};
use crate::error::Result;
use crate::go::{self, GoTable};
use crate::plt;

/// What was read of a file, as far as it was asked for.
#[derive(Debug, Default)]
pub(super) struct Sources {
    own: OnceLock<Symbols>,
    named: OnceLock<Symbols>,
    rest: OnceLock<Symbols>,
    mini: OnceLock<Held<MiniDebug>>,
    frames: OnceLock<Held<EhFrame>>,
    go: OnceLock<Held<GoTable>>,
    dwarf: OnceLock<Option<Dwarf>>,
    debug_file: OnceLock<Located>,
    alternative: OnceLock<Located>,
    debug_symbols: OnceLock<Option<String>>,
}

/// Something that a file may have, and what was wrong with it.
#[derive(Debug)]
struct Held<T> {
    value: Option<T>,
    note: Option<String>,
}

impl<T> From<Result<Option<T>>> for Held<T> {
    fn from(read: Result<Option<T>>) -> Self {
        match read {
            Ok(value) => Self { value, note: None },
            Err(error) => Self {
                value: None,
                note: Some(error.to_string()),
            },
        }
    }
}

/// Whether a function may start at an address, by what unwinding says is on the stack there.
pub(super) fn begins_frame(frames: &EhFrame, address: u64) -> bool {
    frames.cfa_at(address) == Some(eh_frame::AT_ENTRY)
}

/// What one source of names has to tell about a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceReport {
    /// The source.
    pub source: NameSource,
    /// How many names of functions it gives; `None` where the file has no such thing.
    pub names: Option<usize>,
    /// The file it is in, where that is another one.
    pub path: Option<PathBuf>,
    /// How that file was found, and what was wrong: damage, files that belong to another build.
    pub notes: Vec<String>,
}

impl Image {
    /// The file with its names and debug information, where they are kept apart: looked for at the first call,
    /// in the places that [`OpenOptions`](super::OpenOptions) gives. A candidate that is not of this very build is
    /// passed over.
    pub fn debug_file(&self) -> Option<&DebugFile> {
        self.located().file.as_ref()
    }

    pub(crate) fn located(&self) -> &Located {
        let locate = || debug::locate(&self.elf, &self.options);
        self.sources.debug_file.get_or_init(locate)
    }

    /// The file that the debug information refers to for what it shares with others (`.gnu_debugaltlink`, made by
    /// dwz), for the debug information in this file, else that in the debug file.
    pub(crate) fn alternative_file(&self) -> &Located {
        self.sources.alternative.get_or_init(|| {
            let owner =
                match self.elf.has_section(".debug_info") || self.elf.has_section(".zdebug_info") {
                    true => Some(&self.elf),
                    false => self.debug_file().map(DebugFile::elf),
                };
            owner.map_or_else(Located::default, |elf| {
                debug::alternative(elf, &self.options)
            })
        })
    }

    /// The file's own symbol tables.
    ///
    /// # Errors
    /// They cannot be read, or are damaged.
    pub(super) fn own(&self) -> Result<&Symbols> {
        if let Some(symbols) = self.sources.own.get() {
            return Ok(symbols);
        }
        let tables = Tables {
            path: &self.elf.path,
            bytes: &self.elf.file,
            headers: &self.elf.headers,
        };
        let headers = &self.elf.headers;
        let mut symbols = Symbols::default();
        if let Some(table) = tables.read(elf::SHT_SYMTAB, NameSource::Symtab)? {
            symbols.add(table, headers, headers);
        }
        let dynamic = match tables.read(elf::SHT_DYNSYM, NameSource::Dynsym)? {
            None => tables.read_loaded()?,
            found => found,
        };
        if let Some(table) = dynamic {
            symbols.add(table, headers, headers);
        }
        Ok(self.sources.own.get_or_init(|| symbols.sort()))
    }

    /// Everything that has a name: the own tables, those of the debug file, and where none of them is complete,
    /// what else knows names.
    ///
    /// # Errors
    /// As [`Image::own`]. The others' damage is in [`Image::sources`].
    pub(super) fn named(&self) -> Result<&Symbols> {
        let own = self.own()?;
        Ok(self.sources.named.get_or_init(|| {
            let mut symbols = own.clone();
            let code = &self.elf.headers;
            // A debug file's table repeats what was stripped off; where nothing was, there is nothing to gain.
            if !own.has(NameSource::Symtab) {
                if let Some(file) = self.debug_file()
                    && let Some(table) = self.debug_table(file)
                {
                    symbols.add(table, file.headers(), code);
                }
                if let Some(mini) = self.mini()
                    && let Ok(Some(table)) = mini.table()
                {
                    symbols.add(table, mini.headers(), code);
                }
                if let Some(go) = self.go_table() {
                    let rows = go.functions().map(|function| Named {
                        size: function.end.saturating_sub(function.address),
                        name: function.name,
                        address: function.address,
                        part: Part::Whole,
                    });
                    let table = Table::made(NameSource::Pclntab, rows.collect());
                    symbols.add(table, code, code);
                }
                let complete = [
                    NameSource::DebugFile,
                    NameSource::MiniDebug,
                    NameSource::Pclntab,
                ];
                if !complete.iter().any(|source| symbols.has(*source)) {
                    symbols.add(self.described(), code, code);
                }
            }
            symbols.sort()
        }))
    }

    fn debug_table(&self, file: &DebugFile) -> Option<Table> {
        let tables = Tables {
            path: file.path(),
            bytes: file.file(),
            headers: file.headers(),
        };
        match tables.read(elf::SHT_SYMTAB, NameSource::DebugFile) {
            Ok(table) => table,
            Err(error) => {
                let _ = self.sources.debug_symbols.set(Some(error.to_string()));
                None
            }
        }
    }

    /// The functions of the debug information.
    fn described(&self) -> Table {
        let dwarf = self.dwarf().ok().flatten();
        let functions = dwarf.and_then(|dwarf| dwarf.functions().ok());
        let rows = functions.unwrap_or_default().into_iter();
        let rows = rows.map(|function| Named {
            size: function.size(),
            address: function.address,
            name: function.raw_name().to_owned(),
            part: Part::Whole,
        });
        Table::made(NameSource::Dwarf, rows.collect())
    }

    fn mini(&self) -> Option<&MiniDebug> {
        let read = || MiniDebug::read(&self.elf).into();
        self.sources.mini.get_or_init(read).value.as_ref()
    }

    /// Go's own table of functions and lines.
    pub(crate) fn go_table(&self) -> Option<&GoTable> {
        let read = || go::read(self).into();
        self.sources.go.get_or_init(read).value.as_ref()
    }

    /// Whether Go's own table lists code at ADDRESS: not so for C functions that cgo linked in.
    pub fn is_go_code(&self, address: u64) -> bool {
        self.go_table().is_some_and(|t| t.around(address).is_some())
    }

    /// The debug information: the file's own, else that of its debug file. Read at the first call, and its units
    /// when they are asked for.
    ///
    /// # Errors
    /// The file that has it cannot be read, or ends before it does.
    pub fn dwarf(&self) -> Result<Option<&Dwarf>> {
        if let Some(dwarf) = self.sources.dwarf.get() {
            return Ok(dwarf.as_ref());
        }
        let dwarf = Dwarf::of(self, self.options.root.as_deref())?;
        Ok(self.sources.dwarf.get_or_init(|| dwarf).as_ref())
    }

    /// Where code starts and ends by `.eh_frame`.
    pub(crate) fn frames(&self) -> Option<&EhFrame> {
        let read = || eh_frame::read(self).into();
        self.sources.frames.get_or_init(read).value.as_ref()
    }

    /// The function around an address by the file's own tables alone: nothing else is read for it.
    ///
    /// # Errors
    /// As [`Image::own`].
    pub(crate) fn around_own(&self, address: u64) -> Result<Option<Function>> {
        Ok(self.own()?.around(&self.elf.headers, address))
    }

    /// Calls LOOK with each name in the file's own tables, and whether it is defined here.
    ///
    /// # Errors
    /// As [`Image::own`].
    pub(crate) fn each_name(&self, look: impl FnMut(&[u8], bool)) -> Result<()> {
        self.own()?.each_name(look);
        Ok(())
    }

    /// Places that no table names: functions known by their range alone, and the stubs of the linkage table.
    ///
    /// # Errors
    /// As [`Image::own`].
    pub(super) fn rest(&self) -> Result<&Symbols> {
        let named = self.named()?;
        Ok(self.sources.rest.get_or_init(|| {
            let mut symbols = Symbols::default();
            let headers = &self.elf.headers;
            let stubs = plt::stubs(self, named.dynamic());
            let nameless = Table::made(NameSource::EhFrame, self.nameless(named));
            symbols.add(nameless, headers, headers);
            symbols.add(Table::made(NameSource::Plt, stubs), headers, headers);
            symbols.sort()
        }))
    }

    /// Ranges of `.eh_frame` that no named function covers.
    fn nameless(&self, named: &Symbols) -> Vec<Named> {
        let ranges = self.frames().map_or(&[][..], EhFrame::ranges);
        // One range describes a whole linkage table.
        let sections = plt::SECTIONS
            .iter()
            .filter_map(|name| self.elf.headers.section(name));
        let tables: Vec<(u64, u64)> = sections.map(|s| (s.address, s.size)).collect();
        let linkage = |at: u64| {
            tables
                .iter()
                .any(|(start, size)| at.wrapping_sub(*start) < *size)
        };
        let mut rows: Vec<Named> = Vec::new();
        for range in ranges {
            let known = !named.at(range.address).is_empty()
                || named.resolves_at(range.address)
                || named.is_covered(range.address);
            let again = rows.last().is_some_and(|row| row.address == range.address);
            if range.len == 0 || known || again || linkage(range.address) {
                continue;
            }
            rows.push(Named {
                name: format!("{}{:#x}", crate::pattern::NAMELESS, range.address),
                address: range.address,
                size: range.len,
                // Where a function starts, nothing is on the stack but its return address.
                part: match self
                    .frames()
                    .is_some_and(|f| begins_frame(f, range.address))
                {
                    true => Part::Whole,
                    false => Part::Cold,
                },
            });
        }
        rows
    }

    /// What each source of names has for this file, in order of trust. Reads them all, except that DWARF is not
    /// counted where names come from elsewhere.
    ///
    /// # Errors
    /// As [`Image::functions`].
    pub fn sources(&self) -> Result<Vec<SourceReport>> {
        let (named, rest) = (self.named()?, self.rest()?);
        let reports = NameSource::ALL.into_iter().map(|source| {
            let names = named.count(source).or_else(|| rest.count(source));
            let mut report = SourceReport {
                source,
                names: names.filter(|names| *names > 0 || source < NameSource::Pclntab),
                path: None,
                notes: Vec::new(),
            };
            match source {
                NameSource::DebugFile => {
                    let located = self.located();
                    if let Some(file) = &located.file {
                        report.path = Some(file.path().to_owned());
                        report.notes.push(format!("found {}", file.found_by()));
                    }
                    report.notes.extend(located.notes.iter().cloned());
                    let damage = self.sources.debug_symbols.get().cloned();
                    report.notes.extend(damage.flatten());
                }
                NameSource::MiniDebug => {
                    let _ = self.mini();
                    let note = self.sources.mini.get().and_then(|held| held.note.clone());
                    report.notes.extend(note);
                    let unread = self.mini().and_then(|mini| mini.table().err());
                    report.notes.extend(unread.map(|error| error.to_string()));
                }
                NameSource::Pclntab => {
                    let note = self.sources.go.get().and_then(|held| held.note.clone());
                    report.notes.extend(note);
                }
                NameSource::Dwarf => match self.dwarf() {
                    Ok(Some(dwarf)) => {
                        let own = dwarf.path() == self.elf.path;
                        report.path = (!own).then(|| dwarf.path().to_owned());
                        report.notes.extend(dwarf.notes());
                    }
                    Ok(None) => {}
                    Err(error) => report.notes.push(error.to_string()),
                },
                NameSource::EhFrame => {
                    let note = self.sources.frames.get().and_then(|held| held.note.clone());
                    report.notes.extend(note);
                }
                _ => {}
            }
            report
        });
        Ok(reports.collect())
    }
}
