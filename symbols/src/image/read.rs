//! Reading symbol tables: by section headers, or where those are stripped by what the dynamic linker uses.

use std::path::Path;

use object::LittleEndian as LE;
use object::elf::{self, DynamicTag, FileHeader64, SectionType, Sym64};
use object::read::elf::{GnuHashTable, HashTable};

use super::NameSource;
use super::headers::{Headers, Source, read_checked};
use super::table::Table;
use super::versions::Versions;
use crate::error::{Error, Result};

/// No symbol table is larger; a file that claims more would only take the memory away.
const MAX_TABLE: u64 = 2 << 30;

/// One ELF file's bytes, as far as reading its tables needs them.
pub(crate) struct Tables<'a> {
    pub(crate) path: &'a Path,
    pub(crate) bytes: &'a dyn Source,
    pub(crate) headers: &'a Headers,
}

impl Tables<'_> {
    /// `.symtab` or `.dynsym` (by KIND), if there is one.
    pub(crate) fn read(&self, kind: SectionType, source: NameSource) -> Result<Option<Table>> {
        let Some(section) = self.headers.section_of_kind(kind) else {
            return Ok(None);
        };
        let dynamic = kind == elf::SHT_DYNSYM;
        let what = if dynamic {
            "the dynamic symbol table"
        } else {
            "the symbol table"
        };
        let names = self.headers.section_at(section.link as usize);
        let names = names.ok_or_else(|| self.damaged(format!("{what} has no string table")))?;
        let symbols = self.piece(section.offset, section.size, what)?;
        let strings = self.piece(names.offset, names.size, "the symbols' names")?;
        let versions = if dynamic {
            let part = |kind| {
                let section = self.headers.section_of_kind(kind)?;
                self.piece(section.offset, section.size, "the versions")
                    .ok()
            };
            let numbers = part(elf::SHT_GNU_VERSYM).unwrap_or_default();
            let definitions = part(elf::SHT_GNU_VERDEF).unwrap_or_default();
            Versions::read(numbers, &definitions, &strings)
        } else {
            Versions::default()
        };
        Ok(Some(Table::elf(source, symbols, strings, versions)))
    }

    /// `.dynsym` of a file whose section headers are stripped away, by PT_DYNAMIC.
    pub(crate) fn read_loaded(&self) -> Result<Option<Table>> {
        let entries = self.headers.dynamic(self.bytes);
        let value = |tag: DynamicTag| entries.iter().find(|(t, _)| *t == tag).map(|(_, v)| *v);
        let (Some(symbols), Some(strings), Some(len)) = (
            value(elf::DT_SYMTAB),
            value(elf::DT_STRTAB),
            value(elf::DT_STRSZ),
        ) else {
            return Ok(None);
        };
        // Linkers put the names right behind the symbols; used where no hash table tells how many there are.
        let between = strings.saturating_sub(symbols) / size_of::<Sym64<LE>>() as u64;
        let count = self.hashed(value(elf::DT_GNU_HASH), value(elf::DT_HASH));
        let count = count.filter(|count| *count > 0).unwrap_or(between);
        let what = "the dynamic symbol table";
        let strings = self.loaded(strings, len, "the symbols' names")?;
        let symbols = self.loaded(symbols, count.saturating_mul(24), what)?;
        let numbers = value(elf::DT_VERSYM)
            .and_then(|at| self.loaded(at, count.saturating_mul(2), what).ok());
        let definitions = value(elf::DT_VERDEF).and_then(|at| self.rest(at));
        let versions = Versions::read(
            numbers.unwrap_or_default(),
            &definitions.unwrap_or_default(),
            &strings,
        );
        Ok(Some(Table::elf(
            NameSource::Dynsym,
            symbols,
            strings,
            versions,
        )))
    }

    /// How many symbols the hash tables know: the dynamic section itself does not tell.
    fn hashed(&self, gnu: Option<u64>, old: Option<u64>) -> Option<u64> {
        if let Some(bytes) = old.and_then(|at| self.rest(at))
            && let Ok(table) = HashTable::<FileHeader64<LE>>::parse(LE, &bytes)
        {
            return Some(u64::from(table.symbol_table_length()));
        }
        let bytes = self.rest(gnu?)?;
        let table = GnuHashTable::<FileHeader64<LE>>::parse(LE, &bytes).ok()?;
        table.symbol_table_length(LE).map(u64::from)
    }

    fn damaged(&self, what: String) -> Error {
        Error::Truncated {
            path: self.path.to_owned(),
            what,
        }
    }

    fn piece(&self, offset: u64, size: u64, what: &str) -> Result<Vec<u8>> {
        if size > MAX_TABLE {
            return Err(self.damaged(format!("{what} claims {size} bytes")));
        }
        let len = self.headers.file_len;
        read_checked(self.path, self.bytes, len, offset, size, what)
    }

    /// SIZE bytes at a virtual address.
    fn loaded(&self, address: u64, size: u64, what: &str) -> Result<Vec<u8>> {
        let place = self
            .headers
            .loaded_at(address)
            .filter(|(_, left)| size <= *left);
        let (offset, _) = place.ok_or_else(|| {
            self.damaged(format!(
                "{what} ({size} bytes at address {address:#x}) is not in it"
            ))
        })?;
        self.piece(offset, size, what)
    }

    /// From a virtual address to the end of its segment.
    fn rest(&self, address: u64) -> Option<Vec<u8>> {
        let (offset, left) = self.headers.loaded_at(address)?;
        self.piece(offset, left, "a table").ok()
    }
}
