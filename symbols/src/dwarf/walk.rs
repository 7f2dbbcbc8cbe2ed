//! One pass over a unit's entries, stopping at functions and inlined copies.

use std::ops::Range;

use gimli::{AttributeValue, DwTag, UnitOffset};

use super::readers::{Reader, Readers, UnitAt};

/// How many references from entry to entry are followed: a copy names the function, which names its declaration.
/// More than these is a loop.
const MAX_STEPS: usize = 16;
/// How many ranges one entry may have: GCC and LLVM make two or three.
const MAX_RANGES: usize = 1 << 12;

type Value<'a> = AttributeValue<Reader<'a>>;

/// A function, an inlined copy, or a scope with a name; the attributes that matter here.
#[derive(Clone)]
pub(super) struct Entry<'a> {
    pub(super) offset: UnitOffset<usize>,
    pub(super) depth: isize,
    pub(super) tag: DwTag,
    pub(super) linkage_name: Option<Value<'a>>,
    pub(super) name: Option<Value<'a>>,
    /// DW_AT_abstract_origin or DW_AT_specification: where the rest is told.
    pub(super) origin: Option<Value<'a>>,
    pub(super) low: Option<Value<'a>>,
    high: Option<Value<'a>>,
    ranges: Option<Value<'a>>,
    pub(super) entry: Option<Value<'a>>,
    pub(super) call_file: Option<u64>,
    pub(super) call_line: Option<u64>,
    pub(super) call_column: Option<u64>,
}

/// Calls VISIT with each function, inlined copy, namespace and class of a unit, parents first.
///
/// # Errors
/// The unit is damaged; what came before it was visited.
pub(super) fn walk<'r, 'a>(
    at: UnitAt<'r, 'a>,
    mut visit: impl FnMut(&Entry<'a>),
) -> Result<(), gimli::Error> {
    let mut entries = at.unit.entries_raw(None)?;
    while !entries.is_empty() {
        let (offset, depth) = (entries.next_offset(), entries.next_depth());
        let Some(abbreviation) = entries.read_abbreviation()? else {
            // What follows the end of the tree is padding.
            if depth <= 1 {
                break;
            }
            continue;
        };
        let attributes = abbreviation.attributes();
        if !is_wanted(abbreviation.tag()) {
            entries.skip_attributes(attributes)?;
            continue;
        }
        visit(&read(&mut entries, abbreviation, offset, depth)?);
    }
    Ok(())
}

fn is_wanted(tag: DwTag) -> bool {
    is_scope(tag)
        || matches!(
            tag,
            gimli::DW_TAG_subprogram | gimli::DW_TAG_inlined_subroutine
        )
}

/// Whether its name is part of the names in it.
pub(crate) fn is_scope(tag: DwTag) -> bool {
    matches!(
        tag,
        gimli::DW_TAG_namespace
            | gimli::DW_TAG_module
            | gimli::DW_TAG_structure_type
            | gimli::DW_TAG_class_type
            | gimli::DW_TAG_union_type
            | gimli::DW_TAG_interface_type
    )
}

fn read<'a>(
    entries: &mut gimli::EntriesRaw<'_, Reader<'a>>,
    abbreviation: &gimli::Abbreviation,
    offset: UnitOffset<usize>,
    depth: isize,
) -> Result<Entry<'a>, gimli::Error> {
    let mut entry = Entry {
        offset,
        depth,
        tag: abbreviation.tag(),
        linkage_name: None,
        name: None,
        origin: None,
        low: None,
        high: None,
        ranges: None,
        entry: None,
        call_file: None,
        call_line: None,
        call_column: None,
    };
    for spec in abbreviation.attributes() {
        let attribute = entries.read_attribute_inline(*spec)?;
        let value = || Some(attribute.value());
        match attribute.name() {
            gimli::DW_AT_linkage_name | gimli::DW_AT_MIPS_linkage_name => {
                entry.linkage_name = value()
            }
            gimli::DW_AT_name => entry.name = value(),
            gimli::DW_AT_abstract_origin | gimli::DW_AT_specification => entry.origin = value(),
            gimli::DW_AT_low_pc => entry.low = value(),
            gimli::DW_AT_high_pc => entry.high = value(),
            gimli::DW_AT_ranges => entry.ranges = value(),
            gimli::DW_AT_entry_pc => entry.entry = value(),
            gimli::DW_AT_call_file => {
                entry.call_file = match attribute.value() {
                    AttributeValue::FileIndex(index) => Some(index),
                    other => other.udata_value(),
                };
            }
            gimli::DW_AT_call_line => entry.call_line = attribute.udata_value(),
            gimli::DW_AT_call_column => entry.call_column = attribute.udata_value(),
            _ => {}
        }
    }
    Ok(entry)
}

/// The entry at an offset of a unit.
pub(super) fn entry_at<'a>(at: UnitAt<'_, 'a>, offset: UnitOffset<usize>) -> Option<Entry<'a>> {
    let mut entries = at.unit.entries_raw(Some(offset)).ok()?;
    let abbreviation = entries.read_abbreviation().ok()??;
    read(&mut entries, abbreviation, offset, 0).ok()
}

/// Where a name stands: the unit's sections are needed to read it.
pub(super) struct Named<'r, 'a> {
    pub(super) at: UnitAt<'r, 'a>,
    pub(super) value: Value<'a>,
    /// Whether it is the linker's name.
    pub(super) linkage: bool,
    /// The entry that has it, in that unit.
    pub(super) offset: UnitOffset<usize>,
}

impl<'r, 'a> Named<'r, 'a> {
    pub(super) fn text(&self) -> Option<Reader<'a>> {
        self.at.unit_ref().attr_string(self.value).ok()
    }
}

impl<'a> Entry<'a> {
    /// Whether it says where code is.
    pub(super) fn has_code(&self) -> bool {
        self.low.is_some() || self.ranges.is_some()
    }

    /// Its name for the linker, else that in the source, here or where it refers to.
    pub(super) fn named<'r>(
        &self,
        readers: &'r Readers<'a>,
        at: UnitAt<'r, 'a>,
    ) -> Option<Named<'r, 'a>> {
        let mut in_source = None;
        let (mut entry, mut at) = (std::borrow::Cow::Borrowed(self), at);
        for _ in 0..MAX_STEPS {
            let named = |value, linkage| Named {
                at,
                value,
                linkage,
                offset: entry.offset,
            };
            if let Some(value) = entry.linkage_name {
                return Some(named(value, true));
            }
            if in_source.is_none() {
                in_source = entry.name.map(|value| named(value, false));
            }
            let Some((next, offset)) = entry.origin.and_then(|origin| readers.follow(at, &origin))
            else {
                break;
            };
            let Some(found) = entry_at(next, offset) else {
                break;
            };
            (entry, at) = (std::borrow::Cow::Owned(found), next);
        }
        in_source
    }

    /// Where its code is, in the order of the file. What the linker dropped is left out, and what is damaged.
    pub(super) fn code(&self, readers: &Readers<'a>, at: UnitAt<'_, 'a>) -> Vec<Range<u64>> {
        let unit = at.unit_ref();
        let address = |value: Option<Value<'a>>| value.and_then(|v| unit.attr_address(v).ok()?);
        let mut ranges = Vec::new();
        if let Some(value) = self.ranges {
            if let Ok(Some(mut list)) = unit.attr_ranges(value) {
                while let Ok(Some(range)) = list.next() {
                    ranges.push(range.begin..range.end);
                    if ranges.len() >= MAX_RANGES {
                        break;
                    }
                }
            }
        } else if let Some(low) = address(self.low) {
            let high = match self.high {
                Some(AttributeValue::Udata(size)) => low.checked_add(size),
                other => address(other),
            };
            ranges.extend(high.map(|high| low..high));
        }
        ranges.retain(|range| range.start < range.end && readers.is_code(range.start));
        ranges
    }

    /// The address where its execution starts: DW_AT_entry_pc where that lies in its code. Of an inlined copy, GCC
    /// moves it up among the caller's instructions; then the first code of the copy after it. Else where the first
    /// range (of a function) or the lowest (of a copy) starts.
    pub(super) fn entry_address(&self, at: UnitAt<'_, 'a>, code: &[Range<u64>]) -> Option<u64> {
        let starts = || code.iter().map(|range| range.start);
        let first = match self.tag {
            gimli::DW_TAG_subprogram => starts().next()?,
            _ => starts().min()?,
        };
        let Some(told) = self.told_entry(at, code) else {
            return Some(first);
        };
        if code.iter().any(|range| range.contains(&told)) {
            return Some(told);
        }
        Some(
            starts()
                .filter(|start| *start >= told)
                .min()
                .unwrap_or(first),
        )
    }

    /// What DW_AT_entry_pc says, wherever that is.
    pub(super) fn told_entry(&self, at: UnitAt<'_, 'a>, code: &[Range<u64>]) -> Option<u64> {
        match self.entry? {
            // A constant counts from the base address (DWARF 5, 2.18).
            AttributeValue::Udata(add) => code.first()?.start.checked_add(add),
            value => at.unit_ref().attr_address(value).ok().flatten(),
        }
    }
}
