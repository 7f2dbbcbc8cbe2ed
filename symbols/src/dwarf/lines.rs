//! From a line of a source file to the addresses where its execution starts.
//!
//! A line table has a row for each stretch of code, and an optimised line has many stretches, mixed with those of its
//! neighbours and of what was put in line there. Who probes a line wants a hit per execution. So of all rows of the
//! line within one function, or within one inlined copy, the first counts (as in gdb); each copy of the code (inlined,
//! templates, clones) has one of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::Dwarf;
use super::functions::over_units;
use super::inlined::name_of;
use super::paths::{is_asked, path_in, tidy};
use super::readers::{Readers, UnitAt};
use super::walk::{Entry, walk};
use crate::error::{Error, Result};

/// How many files an error lists.
const MAX_LISTED: usize = 8;
/// A file is like another from this likeness on (of 0 to 1).
const LIKE: f64 = 0.8;

/// The places of a source line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinePlaces {
    /// The source file, as the debug information names it.
    pub file: String,
    /// The line that has code: the one that was asked for, else the next one that has.
    pub line: u32,
    /// The line that was asked for.
    pub asked: u32,
    /// Its places, by address.
    pub places: Vec<LinePlace>,
}

/// Where the execution of a line starts in one function or inlined copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinePlace {
    /// The virtual address.
    pub address: u64,
    /// The column, counted from 1; `None` where the compiler did not say.
    pub column: Option<u32>,
    /// The functions it is in: inlined ones first, the innermost of them at the start; the one that has code of its
    /// own last. Empty where none is known.
    pub within: Vec<String>,
    /// The address where that last one starts.
    pub function_address: Option<u64>,
}

/// A row of a line table: a statement starts there.
#[derive(Clone, Debug)]
struct Row {
    unit: usize,
    file: String,
    line: u32,
    column: Option<u32>,
    address: u64,
}

impl Dwarf {
    /// The places of line LINE of a source file, named by its whole path or by the end of it (`x.c`, `src/x.c`).
    /// Where the line has no code, those of the next line that has some: [`LinePlaces::line`] tells.
    ///
    /// # Errors
    /// [`Error::SourceFile`]: no such file, or several. [`Error::NoCodeAfter`]: no later line has code either.
    pub fn places_of_line(&self, file: &str, line: u32) -> Result<LinePlaces> {
        let asked = tidy(file);
        let rows = self.with(|readers| rows_of(readers, &asked));
        let files: BTreeSet<&str> = rows.iter().map(|row| row.file.as_str()).collect();
        let wrong = |found: String| Error::SourceFile {
            path: self.path().to_owned(),
            found,
        };
        let Some(name) = files.first().map(|name| (*name).to_owned()) else {
            return Err(wrong(self.with(|readers| nothing_like(readers, file))));
        };
        if files.len() > 1 {
            let listed: Vec<&str> = files.iter().copied().take(MAX_LISTED).collect();
            return Err(wrong(format!(
                "{} files \"{file}\": {}; more of the path tells them apart",
                files.len(),
                listed.join(", ")
            )));
        }
        let Some(found) = rows
            .iter()
            .map(|row| row.line)
            .filter(|found| *found >= line)
            .min()
        else {
            return Err(Error::NoCodeAfter {
                last: rows.iter().map(|row| row.line).max().unwrap_or_default(),
                file: name,
                line,
            });
        };
        let rows: Vec<Row> = rows.into_iter().filter(|row| row.line == found).collect();
        Ok(LinePlaces {
            file: name,
            line: found,
            asked: line,
            places: self.with(|readers| one_each(readers, rows)),
        })
    }
}

/// All statements of the files that are asked for.
fn rows_of(readers: &Readers<'_>, asked: &str) -> Vec<Row> {
    let units: Vec<usize> = (0..readers.units().len()).collect();
    over_units(readers, &units, |index, _, rows| {
        match readers.units().here(index) {
            Some(at) => unit_rows(readers, index, at, asked, rows),
            None => Ok(()),
        }
    })
}

fn unit_rows(
    readers: &Readers<'_>,
    index: usize,
    at: UnitAt<'_, '_>,
    asked: &str,
    found: &mut Vec<Row>,
) -> Result<(), gimli::Error> {
    let Some(program) = at.unit.line_program.clone() else {
        return Ok(());
    };
    let files = files_of(at, program.header(), asked);
    if files.is_empty() {
        return Ok(());
    }
    let mut rows = program.rows();
    // What the linker dropped starts at 0, 1 or -1, up to the end of its sequence.
    let (mut at_start, mut dropped) = (true, false);
    while let Some((_, row)) = rows.next_row()? {
        if at_start {
            dropped = !readers.is_code(row.address());
        }
        at_start = row.end_sequence();
        if dropped || row.end_sequence() || !row.is_stmt() {
            continue;
        }
        let line = row.line().and_then(|line| u32::try_from(line.get()).ok());
        if let (Some(line), Some(file)) = (line, files.get(&row.file_index())) {
            found.push(Row {
                unit: index,
                file: file.clone(),
                line,
                column: match row.column() {
                    gimli::ColumnType::LeftEdge => None,
                    gimli::ColumnType::Column(column) => u32::try_from(column.get()).ok(),
                },
                address: row.address(),
            });
        }
    }
    Ok(())
}

/// The files of a line table that are asked for, by their numbers.
fn files_of<'a>(
    at: UnitAt<'_, 'a>,
    header: &gimli::LineProgramHeader<super::Reader<'a>>,
    asked: &str,
) -> BTreeMap<u64, String> {
    let name = asked.rsplit('/').next().unwrap_or(asked).as_bytes();
    // Numbers start at 0 in DWARF 5, at 1 before.
    (0..=header.file_names().len() as u64)
        .filter(|number| {
            // Most files fall out by their last component, without making their paths.
            let file = header
                .file(*number)
                .and_then(|file| at.unit_ref().attr_string(file.path_name()).ok());
            file.is_some_and(|file| file.slice().ends_with(name))
        })
        .filter_map(|number| Some((number, tidy(&path_in(at, header, number)?))))
        .filter(|(_, path)| is_asked(path, asked))
        .collect()
}

/// What to say where no file fits: the ones that are like it.
fn nothing_like(readers: &Readers<'_>, file: &str) -> String {
    let last = |path: &str| path.rsplit('/').next().unwrap_or(path).to_owned();
    let wanted = last(file);
    let mut like: BTreeSet<String> = BTreeSet::new();
    for index in 0..readers.units().len() {
        let Some(at) = readers.units().here(index) else {
            continue;
        };
        let Some(header) = at
            .unit
            .line_program
            .as_ref()
            .map(|program| program.header())
        else {
            continue;
        };
        let paths = (0..=header.file_names().len() as u64).filter_map(|n| path_in(at, header, n));
        like.extend(paths.map(|path| tidy(&path)).filter(|path| {
            strsim::jaro_winkler(&wanted.to_lowercase(), &last(path).to_lowercase()) > LIKE
        }));
    }
    let mut like: Vec<String> = like.into_iter().collect();
    like.sort_by(|a, b| {
        let likeness = |path: &str| strsim::jaro_winkler(&wanted, &last(path));
        likeness(b).total_cmp(&likeness(a)).then_with(|| a.cmp(b))
    });
    like.truncate(MAX_LISTED);
    let like = if like.is_empty() {
        String::new()
    } else {
        format!("; it has {}", like.join(", "))
    };
    format!("no source file \"{file}\" that has code{like}")
}

/// A function or inlined copy that holds a row, and how it is told from others.
#[derive(Clone)]
struct Holder {
    /// Unit and offset of its entry.
    id: (usize, usize),
    within: Vec<String>,
    function_address: Option<u64>,
    ranges: Vec<Range<u64>>,
}

/// The first row in each function or inlined copy. Where one has several ranges, that of its start goes before the
/// cold ones, wherever these lie.
fn one_each(readers: &Readers<'_>, mut rows: Vec<Row>) -> Vec<LinePlace> {
    rows.sort_by_key(|row| (row.unit, row.address));
    rows.dedup_by_key(|row| row.address);
    let mut units: Vec<usize> = rows.iter().map(|row| row.unit).collect();
    units.dedup();
    let line = rows.first().map_or(0, |row| row.line);
    let holders: Vec<(u64, Holder)> = over_units(readers, &units, |index, at, found| {
        let addresses: Vec<u64> = rows
            .iter()
            .filter(|row| row.unit == index)
            .map(|row| row.address)
            .collect();
        holders_in(readers, index, at, (line, &addresses), found)
    });
    let holders: BTreeMap<u64, Holder> = holders.into_iter().collect();
    let mut best: BTreeMap<(usize, usize), (usize, LinePlace)> = BTreeMap::new();
    for row in rows {
        let holder = holders.get(&row.address);
        // A row in no function stands for itself.
        let id = holder.map_or((usize::MAX, row.address as usize), |holder| holder.id);
        let ranges = holder.map_or(&[][..], |holder| &holder.ranges);
        let piece = ranges
            .iter()
            .position(|range| range.contains(&row.address))
            .unwrap_or_default();
        let place = LinePlace {
            address: row.address,
            column: row.column,
            within: holder
                .map(|holder| holder.within.clone())
                .unwrap_or_default(),
            function_address: holder.and_then(|holder| holder.function_address),
        };
        match best.get(&id) {
            Some((before, _)) if *before <= piece => {}
            _ => {
                best.insert(id, (piece, place));
            }
        }
    }
    let mut places: Vec<LinePlace> = best.into_values().map(|(_, place)| place).collect();
    places.sort_by_key(|place| place.address);
    places.dedup_by_key(|place| place.address);
    places
}

/// For each address (sorted) of a line, the innermost function or inlined copy of a unit that has it.
fn holders_in<'a>(
    readers: &Readers<'a>,
    index: usize,
    at: UnitAt<'_, 'a>,
    (line, addresses): (u32, &[u64]),
    found: &mut Vec<(u64, Holder)>,
) -> Result<(), gimli::Error> {
    let mut around: Vec<Entry<'a>> = Vec::new();
    let mut innermost: BTreeMap<u64, Holder> = BTreeMap::new();
    let whole = walk(at, |entry| {
        while around.last().is_some_and(|last| last.depth >= entry.depth) {
            around.pop();
        }
        if !matches!(
            entry.tag,
            gimli::DW_TAG_subprogram | gimli::DW_TAG_inlined_subroutine
        ) {
            return;
        }
        around.push(entry.clone());
        if !entry.has_code() {
            return;
        }
        let ranges = entry.code(readers, at);
        let mut holder = None;
        // GCC puts the statements at the start of a copy among the caller's instructions before it, together with
        // the call's own.
        let inlined = entry.tag == gimli::DW_TAG_inlined_subroutine;
        let early = entry.told_entry(at, &ranges).filter(|_| inlined);
        let early = early.filter(|_| entry.call_line != Some(u64::from(line)));
        let early = early.map(|start| start..start.saturating_add(1));
        for range in ranges.iter().chain(&early) {
            let first = addresses.partition_point(|address| *address < range.start);
            let inside = addresses
                .iter()
                .skip(first)
                .take_while(|address| range.contains(address));
            for address in inside {
                // Parents come first, so the last one to have an address is the innermost.
                let holder =
                    holder.get_or_insert_with(|| holder_of(readers, index, at, &around, &ranges));
                innermost.insert(*address, holder.clone());
            }
        }
    });
    found.extend(innermost);
    whole
}

fn holder_of<'a>(
    readers: &Readers<'a>,
    index: usize,
    at: UnitAt<'_, 'a>,
    path: &[Entry<'a>],
    ranges: &[Range<u64>],
) -> Holder {
    let outer = path
        .iter()
        .rposition(|entry| entry.tag == gimli::DW_TAG_subprogram);
    let path = path.get(outer.unwrap_or_default()..).unwrap_or_default();
    let function = path.first();
    Holder {
        id: (index, path.last().map_or(0, |entry| entry.offset.0)),
        within: path
            .iter()
            .rev()
            .map(|entry| name_of(readers, at, entry))
            .collect(),
        function_address: function.and_then(|f| f.entry_address(at, &f.code(readers, at))),
        ranges: ranges.to_vec(),
    }
}
