//! Which units can name what a pattern wants, without reading them: a name is looked for as bytes among the strings,
//! the place of a string as bytes among the units. Most units fall out, and in the others comparing a name is
//! comparing a number.

use std::collections::{BTreeSet, HashSet};

use gimli::{AttributeValue, Section};
use memchr::memmem;

use super::readers::{Readers, UnitAt};
use super::walk::{Named, walk};
use crate::matcher::Matcher;

/// With more strings than this that fit, every unit is read: looking for each one's place would take longer.
const MAX_LOOKED_FOR: usize = 8;
/// Shorter words are everywhere.
const MIN_WORD: usize = 2;
/// Longer names than this, in bytes, are damage.
const MAX_NAME: usize = 1 << 16;
/// Nor does a string have more than this many mangled names as its tails.
const MAX_TAILS: usize = 16;

/// A matcher with what it comes to in one file.
pub(super) struct Wanted<'m, 'a> {
    matcher: &'m Matcher,
    /// What each name that fits contains as it stands; empty: unknown.
    word: &'m [u8],
    /// `.debug_str` of the main file, and the places of the strings in it that fit; `None` where only reading each
    /// name can tell.
    strings: Option<(&'a [u8], HashSet<usize>)>,
}

impl<'m, 'a> Wanted<'m, 'a> {
    pub(super) fn new(readers: &Readers<'a>, matcher: &'m Matcher) -> Self {
        let word = word(matcher);
        let section = readers.gimli().debug_str.reader().slice();
        let strings = (word.len() >= MIN_WORD).then(|| (section, fitting(section, matcher, word)));
        Self {
            matcher,
            word,
            strings,
        }
    }

    /// Whether a function's name fits.
    pub(super) fn fits(&self, named: &Named<'_, 'a>) -> bool {
        if let Some((section, fit)) = &self.strings
            && std::ptr::eq(named.at.dwarf().debug_str.reader().slice(), *section)
        {
            let place = match named.value {
                AttributeValue::DebugStrRef(place) => Some(place.0),
                AttributeValue::DebugStrOffsetsIndex(index) => named
                    .at
                    .unit_ref()
                    .string_offset(index)
                    .ok()
                    .map(|place| place.0),
                _ => None,
            };
            if let Some(place) = place {
                return fit.contains(&place);
            }
        }
        named
            .text()
            .is_some_and(|text| self.matcher.matches(text.slice()))
    }

    /// The units of the main file that can have such a name.
    pub(super) fn units(&self, readers: &Readers<'a>) -> Vec<usize> {
        let all = || (0..readers.units().len()).collect();
        let Some((_, fit)) = &self.strings else {
            return all();
        };
        // Split units and supplementary files have strings of their own.
        if fit.len() > MAX_LOOKED_FOR || readers.is_split() || readers.sup_units().is_some() {
            return all();
        }
        let gimli = readers.gimli();
        let info = gimli.debug_info.reader().slice();
        let mut hits: Vec<usize> = Vec::new();
        // Short names stand in the units themselves.
        hits.extend(memmem::find_iter(info, self.word));
        let mut in_table = Vec::new();
        for place in fit {
            let Ok(place) = u32::try_from(*place) else {
                return all();
            };
            let bytes = place.to_le_bytes();
            hits.extend(memmem::find_iter(info, &bytes));
            in_table.extend(memmem::find_iter(
                gimli.debug_str_offsets.reader().slice(),
                &bytes,
            ));
        }
        let units = readers.units();
        let mut found: BTreeSet<usize> = hits
            .into_iter()
            .filter_map(|at| units.index_at(at))
            .collect();
        if !in_table.is_empty() {
            in_table.sort_unstable();
            found.extend((0..units.len()).filter(|index| {
                units
                    .here(*index)
                    .is_some_and(|at| uses_table(at, &in_table))
            }));
        }
        if readers.refers_across() && self.add_referring(readers, &mut found).is_none() {
            return all();
        }
        found.into_iter().collect()
    }

    /// Adds the units that refer to functions described in the ones that were found, by looking for the place of the
    /// function as bytes. `None` where there are too many.
    fn add_referring(&self, readers: &Readers<'a>, found: &mut BTreeSet<usize>) -> Option<()> {
        let info = readers.gimli().debug_info.reader().slice();
        let mut new = found.clone();
        let mut looked_for = BTreeSet::new();
        while !new.is_empty() {
            let mut places = BTreeSet::new();
            for index in &new {
                let described = readers
                    .units()
                    .here(*index)
                    .map(|at| self.described(readers, at));
                places.extend(described.unwrap_or_default());
            }
            new.clear();
            for place in places {
                if !looked_for.insert(place) {
                    continue;
                }
                if looked_for.len() > MAX_LOOKED_FOR {
                    return None;
                }
                let bytes = u32::try_from(place).ok()?.to_le_bytes();
                let units = memmem::find_iter(info, &bytes);
                let units = units.filter_map(|at| readers.units().index_at(at));
                new.extend(units.filter(|index| found.insert(*index)));
            }
        }
        Some(())
    }

    /// The places in `.debug_info` of a unit's functions that fit and have no code there.
    fn described(&self, readers: &Readers<'a>, at: UnitAt<'_, 'a>) -> Vec<usize> {
        let mut places = Vec::new();
        // What a damaged unit has before the damage is taken.
        let _ = walk(at, |entry| {
            if entry.tag == gimli::DW_TAG_subprogram
                && !entry.has_code()
                && entry
                    .named(readers, at)
                    .is_some_and(|named| self.fits(&named))
            {
                places.extend(
                    entry
                        .offset
                        .to_debug_info_offset(&at.unit.header)
                        .map(|at| at.0),
                );
            }
        });
        places
    }
}

/// Whether one of these places in `.debug_str_offsets` belongs to the unit's table.
fn uses_table(at: UnitAt<'_, '_>, places: &[usize]) -> bool {
    let start = at.unit.str_offsets_base.0;
    let table = at.dwarf().debug_str_offsets.reader().slice();
    // Before the first offset: the length of what follows the length, a version and padding (DWARF 5, 7.26).
    let len = start
        .checked_sub(8)
        .and_then(|at| table.get(at..)?.first_chunk::<4>());
    let end = match len.map(|len| u32::from_le_bytes(*len)) {
        Some(len) if at.unit.encoding().version >= 5 && len != u32::MAX => {
            start.saturating_add(len as usize)
        }
        _ => table.len(),
    };
    let first = places.partition_point(|place| *place < start);
    places.get(first).is_some_and(|place| *place < end)
}

/// What every name that fits has in it.
fn word(matcher: &Matcher) -> &[u8] {
    match matcher {
        Matcher::Raw(word) | Matcher::Clone(word) => word.as_bytes(),
        Matcher::RawGlob { literal, .. } => literal.as_bytes(),
        Matcher::Demangled { hint, .. } | Matcher::Generic { hint, .. } => hint.as_bytes(),
        Matcher::DemangledGlob { .. } | Matcher::Regex(_) => &[],
    }
}

/// The places in a section of strings where one starts that fits. The linker lets a string be the tail of another, so
/// each place where the matcher's name can start is one.
fn fitting(section: &[u8], matcher: &Matcher, word: &[u8]) -> HashSet<usize> {
    let mut places = HashSet::new();
    if let Matcher::Raw(name) = matcher {
        let mut whole = name.clone().into_bytes();
        whole.push(0);
        places.extend(memmem::find_iter(section, &whole));
        return places;
    }
    let mangled = matches!(matcher, Matcher::Demangled { .. } | Matcher::Generic { .. });
    let mut asked = 0;
    for hit in memmem::find_iter(section, word) {
        let rest = section.get(hit..).unwrap_or_default();
        let end = hit + memchr::memchr(0, rest).unwrap_or(rest.len());
        let before = section
            .get(hit.saturating_sub(MAX_NAME)..hit)
            .unwrap_or_default();
        let start =
            memchr::memrchr(0, before).map_or(hit - before.len(), |at| hit - before.len() + at + 1);
        if !mangled {
            let name = section.get(hit..end).unwrap_or_default();
            places.extend(matcher.matches(name).then_some(hit));
            continue;
        }
        // A second word in the same string: its starts were asked before, the later ones are new.
        let starts = (start.max(asked)..hit).filter_map(|at| Some((at, section.get(at..end)?)));
        let starts = starts
            .filter(|(_, name)| crate::demangle::is_mangled(name))
            .take(MAX_TAILS);
        places.extend(
            starts
                .filter(|(_, name)| matcher.matches(name))
                .map(|(at, _)| at),
        );
        asked = hit;
    }
    places
}
