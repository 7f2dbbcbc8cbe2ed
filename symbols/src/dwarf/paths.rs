//! Paths of source files, as line tables have them.

use super::readers::{Readers, path_of};
use gimli::LineProgramHeader;

use super::readers::{Reader, UnitAt};

/// The path of file NUMBER of a unit of the main file, where line tables always are.
pub(super) fn file_path(readers: &Readers<'_>, index: usize, number: u64) -> Option<String> {
    let at = readers.units().here(index)?;
    let header = at.unit.line_program.as_ref()?.header();
    path_in(at, header, number)
}

/// The path of file NUMBER of a line table: absolute if the table tells enough.
pub(super) fn path_in<'a>(
    at: UnitAt<'_, 'a>,
    header: &LineProgramHeader<Reader<'a>>,
    number: u64,
) -> Option<String> {
    let text = |value| {
        at.unit_ref()
            .attr_string(value)
            .ok()
            .map(|text| path_of(text.slice()))
    };
    let file = header.file(number)?;
    let mut path = at
        .unit
        .comp_dir
        .map_or_else(Default::default, |dir| path_of(dir.slice()));
    // Directory 0 is the compiler's own, in all versions.
    if file.directory_index() != 0
        && let Some(dir) = file.directory(header).and_then(text)
    {
        path.push(dir);
    }
    path.push(text(file.path_name())?);
    Some(path.to_string_lossy().into_owned())
}

/// A path without `.`, `..` and double slashes, by its text: no file is asked.
pub(super) fn tidy(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if path.starts_with('/') => {}
            part => parts.push(part),
        }
    }
    let root = if path.starts_with('/') { "/" } else { "" };
    format!("{root}{}", parts.join("/"))
}

/// Whether a path (tidy) is the one that was asked for (tidy): the same, or ends in it, in whole components.
pub(super) fn is_asked(path: &str, asked: &str) -> bool {
    match path.strip_suffix(asked) {
        Some(before) => before.is_empty() || (!asked.starts_with('/') && before.ends_with('/')),
        None => false,
    }
}
