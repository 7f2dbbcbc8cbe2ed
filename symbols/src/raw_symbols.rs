//! Symbol tables row by row, of all kinds, as relocations and operands refer to them.

use std::collections::HashMap;
use std::ffi::CStr;

use object::LittleEndian as LE;
use object::elf::{self, Sym64, SymbolType, Verdaux, Verdef, Vernaux, Verneed};
use object::pod::{self, Pod};

use crate::error::Result;
use crate::image::Image;

/// No file has as many versions; what goes on beyond is damage that leads in circles.
const MAX_VERSIONS: usize = 0x8000;

/// One table.
#[derive(Debug)]
pub(crate) struct RawSymbols {
    symbols: Vec<u8>,
    strings: Vec<u8>,
    /// `.gnu.version`: two bytes for each symbol.
    numbers: Vec<u8>,
    versions: HashMap<u16, String>,
}

/// One row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RawSymbol<'a> {
    /// The row's number, which relocations use.
    pub(crate) row: u32,
    /// Without version.
    pub(crate) name: &'a [u8],
    pub(crate) address: u64,
    pub(crate) kind: SymbolType,
    pub(crate) defined: bool,
    pub(crate) version: Option<&'a str>,
    /// Old programs alone use this definition: there is a newer one of the same name.
    pub(crate) hidden: bool,
}

impl RawSymbols {
    /// `.dynsym` with the versions that it defines and needs; `None` where there is none.
    pub(crate) fn dynamic(image: &Image) -> Result<Option<Self>> {
        let Some(mut table) = Self::read(image, ".dynsym", ".dynstr")? else {
            return Ok(None);
        };
        let section = |name| {
            Ok(image
                .section_data(name)?
                .map_or_else(Vec::new, |found| found.1))
        };
        table.numbers = section(".gnu.version")?;
        let defined = section(".gnu.version_d")?;
        let needed = section(".gnu.version_r")?;
        table.versions = defined_versions(&defined, &table.strings);
        table
            .versions
            .extend(needed_versions(&needed, &table.strings));
        Ok(Some(table))
    }

    /// `.symtab`; `None` where it is stripped away.
    pub(crate) fn whole(image: &Image) -> Result<Option<Self>> {
        Self::read(image, ".symtab", ".strtab")
    }

    fn read(image: &Image, symbols: &str, strings: &str) -> Result<Option<Self>> {
        let Some((_, symbols)) = image.section_data(symbols)? else {
            return Ok(None);
        };
        let Some((_, strings)) = image.section_data(strings)? else {
            return Ok(None);
        };
        Ok(Some(Self {
            symbols,
            strings,
            numbers: Vec::new(),
            versions: HashMap::new(),
        }))
    }

    /// All rows with a name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = RawSymbol<'_>> {
        let count = self.symbols.len() / size_of::<Sym64<LE>>();
        let rows = pod::slice_from_bytes::<Sym64<LE>>(&self.symbols, count);
        let rows = rows.map_or(&[][..], |(rows, _)| rows);
        (0u32..).zip(rows).filter_map(|(row, symbol)| {
            let name = string(&self.strings, symbol.st_name.get(LE))?;
            let number = self.number(row);
            let written = name.iter().position(|b| *b == b'@').filter(|at| *at > 0);
            let (name, version) = name.split_at(written.unwrap_or(name.len()));
            // `.symtab` writes versions into names: memcpy@@GLIBC_2.14, memcpy@GLIBC_2.2.5.
            let hidden = version.starts_with(b"@") && !version.starts_with(b"@@");
            let version = std::str::from_utf8(version).unwrap_or_default();
            let version = Some(version.trim_start_matches('@')).filter(|v| !v.is_empty());
            Some(RawSymbol {
                row,
                name,
                address: symbol.st_value.get(LE),
                kind: symbol.st_info.st_type(),
                defined: symbol.st_shndx.get(LE) != elf::SHN_UNDEF,
                version: version.or_else(|| Some(self.versions.get(&number.0)?.as_str())),
                hidden: hidden || number.1,
            })
        })
    }

    /// A symbol's version, and whether it is hidden.
    fn number(&self, row: u32) -> (u16, bool) {
        const HIDDEN: u16 = 0x8000;
        let at = row as usize * 2;
        let number = match self.numbers.get(at..at + 2) {
            Some([low, high]) => u16::from_le_bytes([*low, *high]),
            _ => 0,
        };
        (number & !HIDDEN, number & HIDDEN != 0)
    }
}

fn string(strings: &[u8], at: u32) -> Option<&[u8]> {
    /// Longer names are damage: without a limit, many of them in a table without NULs would take for ever.
    const LONGEST: usize = 64 << 10;
    let rest = strings.get(at as usize..)?;
    let text = CStr::from_bytes_until_nul(rest.get(..LONGEST).unwrap_or(rest)).ok()?;
    Some(text.to_bytes()).filter(|text| !text.is_empty())
}

fn entry<T: Pod>(bytes: &[u8], at: usize) -> Option<&T> {
    Some(pod::from_bytes::<T>(bytes.get(at..)?).ok()?.0)
}

/// `.gnu.version_d`: each definition's first name.
fn defined_versions(bytes: &[u8], strings: &[u8]) -> HashMap<u16, String> {
    let mut versions = HashMap::new();
    let mut at = 0;
    for _ in 0..MAX_VERSIONS {
        let Some(definition) = entry::<Verdef<LE>>(bytes, at) else {
            break;
        };
        let name = entry::<Verdaux<LE>>(bytes, at + definition.vd_aux.get(LE) as usize)
            .and_then(|name| string(strings, name.vda_name.get(LE)));
        // The first one names the file itself.
        let number = definition.vd_ndx.get(LE).0;
        if let Some(name) = name.filter(|_| number > 1) {
            versions.insert(number, String::from_utf8_lossy(name).into_owned());
        }
        match definition.vd_next.get(LE) as usize {
            0 => break,
            next => at += next,
        }
    }
    versions
}

/// `.gnu.version_r`: for each file the versions that are wanted of it.
fn needed_versions(bytes: &[u8], strings: &[u8]) -> HashMap<u16, String> {
    let mut versions = HashMap::new();
    let mut at = 0;
    for _ in 0..MAX_VERSIONS {
        let Some(file) = entry::<Verneed<LE>>(bytes, at) else {
            break;
        };
        let mut each = at + file.vn_aux.get(LE) as usize;
        for _ in 0..file.vn_cnt.get(LE) {
            let Some(wanted) = entry::<Vernaux<LE>>(bytes, each) else {
                break;
            };
            if let Some(name) = string(strings, wanted.vna_name.get(LE)) {
                let name = String::from_utf8_lossy(name).into_owned();
                versions.insert(wanted.vna_other.get(LE).0, name);
            }
            match wanted.vna_next.get(LE) as usize {
                0 => break,
                next => each += next,
            }
        }
        match file.vn_next.get(LE) as usize {
            0 => break,
            next => at += next,
        }
    }
    versions
}
