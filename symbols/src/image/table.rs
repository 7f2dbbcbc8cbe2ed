//! One table of names, as it lies in a file or as it was put together from something else.

use std::borrow::Cow;

use object::LittleEndian as LE;
use object::elf::{self, Sym64};
use object::pod;

use super::headers::Headers;
use super::versions::Versions;
use super::{NameSource, Part};

/// What a place is called, and until where it reaches.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) source: NameSource,
    rows: Rows,
}

#[derive(Debug)]
enum Rows {
    /// Symbols and strings as they lie in the file: names are borrowed until a function is asked for.
    Elf {
        symbols: Vec<u8>,
        strings: Vec<u8>,
        versions: Versions,
    },
    Made(Vec<Named>),
}

/// A row of a table that is no ELF symbol table.
#[derive(Debug)]
pub(crate) struct Named {
    pub(crate) name: String,
    /// Virtual address.
    pub(crate) address: u64,
    /// Bytes; 0 where nobody knows.
    pub(crate) size: u64,
    /// What it is, whatever its name.
    pub(crate) part: Part,
}

/// One name of one place. `address` first: groups are runs of the same address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    pub(crate) address: u64,
    pub(crate) table: u8,
    pub(crate) row: u32,
}

/// The rows of a table that are functions.
#[derive(Debug, Default)]
pub(crate) struct Functions {
    pub(crate) entries: Vec<Entry>,
    pub(crate) ifuncs: Vec<Entry>,
}

impl Table {
    pub(crate) fn elf(
        source: NameSource,
        symbols: Vec<u8>,
        strings: Vec<u8>,
        versions: Versions,
    ) -> Self {
        let rows = Rows::Elf {
            symbols,
            strings,
            versions,
        };
        Self { source, rows }
    }

    pub(crate) fn made(source: NameSource, rows: Vec<Named>) -> Self {
        Self {
            source,
            rows: Rows::Made(rows),
        }
    }

    pub(crate) fn symbols(&self) -> &[Sym64<LE>] {
        let Rows::Elf { symbols, .. } = &self.rows else {
            return &[];
        };
        let count = symbols.len() / size_of::<Sym64<LE>>();
        pod::slice_from_bytes(symbols, count).map_or(&[], |(symbols, _)| symbols)
    }

    fn symbol(&self, row: u32) -> Option<&Sym64<LE>> {
        self.symbols().get(row as usize)
    }

    /// The rows that are functions, as table NUMBER: HOME has the section headers that the symbols refer to, CODE
    /// holds the code. The two differ in debug files.
    pub(crate) fn functions(&self, number: u8, home: &Headers, code: &Headers) -> Functions {
        let mut found = Functions::default();
        if let Rows::Made(rows) = &self.rows {
            let places = rows.iter().zip(0..).map(|(named, row)| Entry {
                address: named.address,
                table: number,
                row,
            });
            found.entries = places
                .filter(|entry| code.code_offset(entry.address).is_some())
                .collect();
            return found;
        }
        // Code sits in few sections: their flags are looked up once, not for every symbol.
        let executable: Vec<bool> = (0..)
            .map_while(|index| home.section_at(index))
            .map(|section| section.executable)
            .collect();
        for (symbol, row) in self.symbols().iter().zip(0u32..) {
            let section = symbol.st_shndx.get(LE);
            let in_code = executable
                .get(usize::from(section.0))
                .copied()
                // No headers at all: the segments decide.
                .unwrap_or(section == elf::SHN_XINDEX || executable.is_empty());
            let address = symbol.st_value.get(LE);
            if section == elf::SHN_UNDEF
                || !in_code
                || symbol.st_name.get(LE) == 0
                || code.code_offset(address).is_none()
            {
                continue;
            }
            let entry = Entry {
                address,
                table: number,
                row,
            };
            match symbol.st_info.st_type() {
                elf::STT_FUNC => found.entries.push(entry),
                elf::STT_GNU_IFUNC => found.ifuncs.push(entry),
                // Hand-written assembly often gives its functions no type; local labels are no functions.
                elf::STT_NOTYPE if symbol.st_info.st_bind() != elf::STB_LOCAL => {
                    found.entries.push(entry)
                }
                _ => {}
            }
        }
        found
    }

    /// The name of a row, without a version.
    pub(crate) fn name(&self, row: u32) -> &[u8] {
        match &self.rows {
            Rows::Elf { .. } => self.symbol(row).map_or(b"", |s| self.symbol_name(s)),
            Rows::Made(rows) => rows.get(row as usize).map_or(b"", |r| r.name.as_bytes()),
        }
    }

    /// Whether a row has that name. Far cheaper than getting the name: most differ in their first bytes.
    pub(crate) fn is_named(&self, row: u32, name: &[u8]) -> bool {
        let Rows::Elf { strings, .. } = &self.rows else {
            return self.name(row) == name;
        };
        let symbol = self.symbol(row);
        let rest = symbol.and_then(|s| strings.get(s.st_name.get(LE) as usize..));
        let rest = rest.and_then(|rest| rest.strip_prefix(name));
        // The end of the table is as good as a NUL.
        rest.is_some_and(|rest| matches!(rest.first(), None | Some(0 | b'@')))
    }

    /// The name of a symbol, without a version.
    pub(crate) fn symbol_name(&self, symbol: &Sym64<LE>) -> &[u8] {
        let name = self.written_name(symbol);
        match self.source {
            // There, versions are in a table of their own.
            NameSource::Dynsym => name,
            _ => split_version(name).0,
        }
    }

    /// As it stands in the table: `.symtab` writes versions into names (`memcpy@@GLIBC_2.14`).
    pub(crate) fn written_name(&self, symbol: &Sym64<LE>) -> &[u8] {
        let Rows::Elf { strings, .. } = &self.rows else {
            return b"";
        };
        let rest = strings
            .get(symbol.st_name.get(LE) as usize..)
            .unwrap_or_default();
        std::ffi::CStr::from_bytes_until_nul(rest).map_or(rest, std::ffi::CStr::to_bytes)
    }

    /// The version of a row's name, and whether it is the one that new programs are linked with.
    pub(crate) fn version(&self, row: u32) -> Option<(Cow<'_, str>, bool)> {
        let Rows::Elf { versions, .. } = &self.rows else {
            return None;
        };
        if let Some(version) = versions.of(row) {
            return Some(version);
        }
        let (_, version, default) = split_version(self.written_name(self.symbol(row)?));
        Some((String::from_utf8_lossy(version?), default))
    }

    pub(crate) fn size(&self, row: u32) -> u64 {
        match &self.rows {
            Rows::Elf { .. } => self.symbol(row).map_or(0, |s| s.st_size.get(LE)),
            Rows::Made(rows) => rows.get(row as usize).map_or(0, |r| r.size),
        }
    }

    /// Whether it is a whole function: by the suffixes of the name where nothing else tells.
    pub(crate) fn part(&self, row: u32) -> Part {
        match &self.rows {
            Rows::Elf { .. } => Part::of_name(self.name(row)),
            Rows::Made(rows) => rows.get(row as usize).map_or(Part::Whole, |r| r.part),
        }
    }

    /// Whether the name is only the file's own.
    pub(crate) fn is_local(&self, row: u32) -> bool {
        self.symbol(row)
            .is_some_and(|symbol| symbol.st_info.st_bind() == elf::STB_LOCAL)
    }
}

/// `memcpy@@GLIBC_2.14`: the name, the version, and whether it is the default (`@@`).
fn split_version(name: &[u8]) -> (&[u8], Option<&[u8]>, bool) {
    let Some(at) = name.iter().position(|b| *b == b'@').filter(|at| *at > 0) else {
        return (name, None, false);
    };
    let (name, rest) = name.split_at(at);
    match rest.strip_prefix(b"@@") {
        Some(version) => (name, Some(version), true),
        None => (name, rest.get(1..), false),
    }
}
