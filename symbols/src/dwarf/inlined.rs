//! Copies of functions that the compiler put in line: places without a symbol.

use std::collections::HashMap;
use std::ops::Range;

use gimli::AttributeValue;

use super::Dwarf;
use super::functions::over_units;
use super::names::Wanted;
use super::paths::file_path;
use super::readers::{Readers, UnitAt};
use super::walk::{Entry, walk};
use crate::error::Result;
use crate::matcher::Matcher;
use crate::pattern::Pattern;

/// One copy of a function in the code of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InlinedCopy {
    /// The function's name as the linker would have it, else that in the source.
    pub name: String,
    /// The virtual address where the copy's execution starts.
    pub address: u64,
    /// Where its code is, by address; other code can stand between.
    pub ranges: Vec<Range<u64>>,
    /// The names of the functions that it is in: the one that calls it in the source first, the one that has code of
    /// its own last.
    pub within: Vec<String>,
    /// The address where the last of them starts.
    pub function_address: u64,
    /// The source file with the call.
    pub call_file: Option<String>,
    /// Its line.
    pub call_line: Option<u32>,
    /// Its column, counted from 1.
    pub call_column: Option<u32>,
}

impl Dwarf {
    /// All inlined copies of the functions that a pattern names, by address, one for each address; empty where there
    /// is none.
    ///
    /// # Errors
    /// [`Error::BadPattern`](crate::Error::BadPattern).
    pub fn inlined(&self, pattern: &Pattern) -> Result<Vec<InlinedCopy>> {
        for matcher in Matcher::for_pattern(pattern)? {
            let found = self.with(|readers| {
                let wanted = Wanted::new(readers, &matcher);
                let units = wanted.units(readers);
                over_units(readers, &units, |index, at, found| {
                    in_unit(readers, index, at, &wanted, found)
                })
            });
            if !found.is_empty() {
                return Ok(one_each(found));
            }
        }
        Ok(Vec::new())
    }
}

/// Of copies that start at the same address, the outermost: a probe there is hit once.
fn one_each(mut copies: Vec<InlinedCopy>) -> Vec<InlinedCopy> {
    copies.sort_by(|a, b| {
        (a.address, a.within.len(), &a.name).cmp(&(b.address, b.within.len(), &b.name))
    });
    copies.dedup_by_key(|copy| copy.address);
    copies
}

fn in_unit<'a>(
    readers: &Readers<'a>,
    index: usize,
    at: UnitAt<'_, 'a>,
    wanted: &Wanted<'_, 'a>,
    found: &mut Vec<InlinedCopy>,
) -> Result<(), gimli::Error> {
    let mut around: Vec<Entry<'a>> = Vec::new();
    // Thousands of copies refer to a few functions.
    let mut known: HashMap<Origin, bool> = HashMap::new();
    walk(at, |entry| {
        while around.last().is_some_and(|last| last.depth >= entry.depth) {
            around.pop();
        }
        let inlined = match entry.tag {
            gimli::DW_TAG_subprogram => false,
            gimli::DW_TAG_inlined_subroutine => true,
            _ => return,
        };
        around.push(entry.clone());
        if !inlined {
            return;
        }
        let ask = || {
            entry
                .named(readers, at)
                .is_some_and(|named| wanted.fits(&named))
        };
        let fits = match entry.origin.as_ref().and_then(origin) {
            Some(origin) => *known.entry(origin).or_insert_with(ask),
            None => ask(),
        };
        if fits {
            found.extend(copy(readers, index, at, &around));
        }
    })
}

/// Where an entry's function is told, as a number: which kind of reference, and to where.
type Origin = (u8, usize);

fn origin<R: gimli::Reader<Offset = usize>>(value: &AttributeValue<R>) -> Option<Origin> {
    match value {
        AttributeValue::UnitRef(offset) => Some((0, offset.0)),
        AttributeValue::DebugInfoRef(offset) => Some((1, offset.0)),
        AttributeValue::DebugInfoRefSup(offset) => Some((2, offset.0)),
        _ => None,
    }
}

fn copy<'a>(
    readers: &Readers<'a>,
    index: usize,
    at: UnitAt<'_, 'a>,
    path: &[Entry<'a>],
) -> Option<InlinedCopy> {
    let (entry, around) = path.split_last()?;
    let mut ranges = entry.code(readers, at);
    let address = entry.entry_address(at, &ranges)?;
    ranges.sort_by_key(|range| range.start);
    // A function within a function (GNU C) is not called where it stands: only what is within the last one counts.
    let outer = around
        .iter()
        .rposition(|entry| entry.tag == gimli::DW_TAG_subprogram)?;
    let function = around.get(outer)?;
    let code = function.code(readers, at);
    let number = |value: Option<u64>| value.and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0);
    Some(InlinedCopy {
        name: name_of(readers, at, entry),
        address,
        ranges,
        within: around
            .get(outer..)?
            .iter()
            .rev()
            .map(|e| name_of(readers, at, e))
            .collect(),
        function_address: function.entry_address(at, &code)?,
        call_file: entry
            .call_file
            .and_then(|file| file_path(readers, index, file)),
        call_line: number(entry.call_line),
        call_column: number(entry.call_column),
    })
}

/// The name of an entry, for people where there is none.
pub(super) fn name_of<'a>(readers: &Readers<'a>, at: UnitAt<'_, 'a>, entry: &Entry<'a>) -> String {
    let text = entry.named(readers, at).and_then(|named| named.text());
    text.map_or("(anonymous)".to_owned(), |text| {
        text.to_string_lossy().into_owned()
    })
}
