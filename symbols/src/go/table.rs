//! `.gopclntab`: where it is, what its header says, and the functions it lists.

use super::module::Pointers;
use super::{index, number, text};
use crate::error::Result;
use crate::image::Image;

/// Magic numbers of the versions (debug/gosym/pclntab.go), little-endian.
const GO_1_2: u32 = 0xffff_fffb;
const GO_1_16: u32 = 0xffff_fffa;
const GO_1_18: u32 = 0xffff_fff0;
const GO_1_20: u32 = 0xffff_fff1;

/// Behind the magic number: two zeros, the size of the smallest instruction, the size of a pointer.
const AFTER_MAGIC: [u8; 4] = [0, 0, 1, 8];

/// How the table is laid out; named by the first Go that writes it so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Layout {
    Go1_2,
    Go1_16,
    Go1_18,
    Go1_20,
}

/// The table of one program.
#[derive(Debug)]
pub struct GoTable {
    pub(super) bytes: Vec<u8>,
    /// Its virtual address.
    pub(super) address: u64,
    pub(super) layout: Layout,
    pub(super) parts: Parts,
    /// Address of the function and offset of its record, by address.
    rows: Vec<(u64, usize)>,
    /// Where the last function ends.
    end: u64,
    /// The base of the functions' data (`go:func.*`); found when first needed.
    pub(super) data_base: std::sync::OnceLock<Option<u64>>,
}

/// Offsets into the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parts {
    pub(super) names: usize,
    pub(super) units: usize,
    pub(super) files: usize,
    pub(super) pcs: usize,
    functions: usize,
    rows: usize,
    count: usize,
}

/// A function of a Go program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoFunction {
    /// Its name, with its package: `main.(*T).Sum`.
    pub name: String,
    /// Virtual address.
    pub address: u64,
    /// Virtual address of the next function: padding is counted in.
    pub end: u64,
}

/// Reads the table of functions of a Go program; `None` where there is none (or none that can be understood).
/// It is found by its section, and where the section headers are stripped away, by its first bytes.
///
/// # Errors
/// The file cannot be read, or ends before its section does.
pub fn read(image: &Image) -> Result<Option<GoTable>> {
    for name in [".gopclntab", ".data.rel.ro.gopclntab"] {
        if let Some((address, bytes)) = image.section_data(name)?
            && let Some(table) = GoTable::new(image, address, bytes)?
        {
            return Ok(Some(table));
        }
    }
    if !image.headers().has_sections() {
        return scan(image);
    }
    // Programs linked by an external linker may carry it within another section.
    match image.is_go() {
        true => scan(image),
        false => Ok(None),
    }
}

/// Looks for the table in what is loaded.
fn scan(image: &Image) -> Result<Option<GoTable>> {
    /// All linkers align it at least so.
    const ALIGN: usize = 8;
    /// More places that look like a header are somebody's data.
    const MOST: usize = 16;
    let segments: Vec<u64> = image.loads().map(|segment| segment.address).collect();
    for start in segments {
        let Some(bytes) = image.loaded_rest(start)? else {
            continue;
        };
        let found = bytes
            .chunks_exact(ALIGN)
            .enumerate()
            .filter(|(_, chunk)| layout(chunk).is_some())
            .take(MOST);
        for (at, _) in found {
            let at = at * ALIGN;
            let rest = bytes.get(at..).unwrap_or_default().to_vec();
            if let Some(table) = GoTable::new(image, start + at as u64, rest)? {
                return Ok(Some(table));
            }
        }
    }
    Ok(None)
}

fn layout(bytes: &[u8]) -> Option<Layout> {
    if bytes.get(4..8)? != AFTER_MAGIC {
        return None;
    }
    Some(match u32::try_from(number(bytes, 0, 4)?).ok()? {
        GO_1_2 => Layout::Go1_2,
        GO_1_16 => Layout::Go1_16,
        GO_1_18 => Layout::Go1_18,
        GO_1_20 => Layout::Go1_20,
        _ => return None,
    })
}

impl Layout {
    /// The size of one field of the list of functions, and of the first field of a function's record.
    pub(super) fn field(self) -> usize {
        if self >= Self::Go1_18 { 4 } else { 8 }
    }

    fn parts(self, bytes: &[u8]) -> Option<Parts> {
        let word = |n: usize| index(bytes, 8 + n * 8, 8);
        let count = word(0)?;
        Some(match self {
            Self::Go1_2 => {
                let rows = 16;
                let after = rows + count.checked_mul(16)? + 8;
                Parts {
                    names: 0,
                    units: 0,
                    files: index(bytes, after, 4)?,
                    pcs: 0,
                    functions: 0,
                    rows,
                    count,
                }
            }
            Self::Go1_16 | Self::Go1_18 | Self::Go1_20 => {
                // From 1.18 on, the start of the code stands before the offsets.
                let at = if self == Self::Go1_16 { 2 } else { 3 };
                Parts {
                    names: word(at)?,
                    units: word(at + 1)?,
                    files: word(at + 2)?,
                    pcs: word(at + 3)?,
                    functions: word(at + 4)?,
                    rows: word(at + 4)?,
                    count,
                }
            }
        })
    }
}

impl GoTable {
    fn new(image: &Image, address: u64, bytes: Vec<u8>) -> Result<Option<Self>> {
        let Some(layout) = layout(&bytes) else {
            return Ok(None);
        };
        let Some(parts) = layout.parts(&bytes) else {
            return Ok(None);
        };
        let pointers = Pointers::of(image)?;
        let start = match layout {
            Layout::Go1_2 | Layout::Go1_16 => 0,
            Layout::Go1_18 | Layout::Go1_20 => match text_start(image, &pointers, address) {
                Some(start) => start,
                None => return Ok(None),
            },
        };
        let field = layout.field();
        let mut rows = Vec::new();
        let mut end = 0;
        for row in 0..=parts.count {
            let at = row
                .checked_mul(2 * field)
                .and_then(|at| at.checked_add(parts.rows));
            // A count that lies ends with the bytes.
            let Some((at, entry)) = at.and_then(|at| Some((at, number(&bytes, at, field)?))) else {
                break;
            };
            let entry = match layout {
                Layout::Go1_2 | Layout::Go1_16 => pointers
                    .at(address.wrapping_add(at as u64))
                    .unwrap_or(entry),
                Layout::Go1_18 | Layout::Go1_20 => start.wrapping_add(entry),
            };
            let record =
                index(&bytes, at + field, field).and_then(|at| at.checked_add(parts.functions));
            match record.filter(|_| row < parts.count) {
                Some(record) if image.offset_of(entry).is_some() => rows.push((entry, record)),
                _ => end = entry,
            }
        }
        if rows.is_empty() {
            return Ok(None);
        }
        rows.sort_unstable();
        rows.dedup_by_key(|row| row.0);
        Ok(Some(Self {
            bytes,
            address,
            layout,
            parts,
            rows,
            end,
            data_base: std::sync::OnceLock::new(),
        }))
    }

    /// All functions, by address. Those whose name cannot be read are left out.
    pub fn functions(&self) -> impl Iterator<Item = GoFunction> {
        // Functions may share a name (a wrapper and what it wraps), but not all of them the longest one.
        let mut budget = self.bytes.len().saturating_mul(4);
        (0..self.rows.len()).filter_map(move |row| {
            let function = self.function(row)?;
            budget = budget.checked_sub(function.name.len())?;
            Some(function)
        })
    }

    fn function(&self, row: usize) -> Option<GoFunction> {
        let (address, record) = *self.rows.get(row)?;
        Some(GoFunction {
            name: self.name(index(&self.bytes, record + self.layout.field(), 4)?)?,
            address,
            end: self.row_end(row),
        })
    }

    fn row_end(&self, row: usize) -> u64 {
        let start = self.rows.get(row).map_or(0, |row| row.0);
        let next = self.rows.get(row + 1).map_or(self.end, |next| next.0);
        next.max(start)
    }

    pub(super) fn name(&self, at: usize) -> Option<String> {
        let name = text(&self.bytes, self.parts.names.checked_add(at)?)?;
        (!name.is_empty()).then(|| String::from_utf8_lossy(name).into_owned())
    }

    /// The function that an address lies in.
    pub fn around(&self, address: u64) -> Option<GoFunction> {
        self.function(self.row_of(address)?)
    }

    /// The function's address and the offset of its record.
    pub(super) fn record_of(&self, address: u64) -> Option<(u64, usize)> {
        self.rows.get(self.row_of(address)?).copied()
    }

    pub(super) fn records(&self) -> &[(u64, usize)] {
        &self.rows
    }

    fn row_of(&self, address: u64) -> Option<usize> {
        let past = self.rows.partition_point(|row| row.0 <= address);
        let row = past.checked_sub(1)?;
        (address < self.row_end(row)).then_some(row)
    }
}

/// The address that functions are counted from: in the header (before 1.26, which leaves it 0), else in the
/// runtime's record of the program, else the start of the code.
fn text_start(image: &Image, pointers: &Pointers, table: u64) -> Option<u64> {
    /// Behind the magic number, the count of functions and that of files.
    const TEXT_START: u64 = 24;
    let known = |start: &u64| image.offset_of(*start).is_some();
    let header = pointers.at(table.wrapping_add(TEXT_START)).filter(known);
    let module = || pointers.module(table)?.text(pointers).filter(known);
    let section = || image.headers().section(".text").map(|text| text.address);
    header.or_else(module).or_else(section)
}
