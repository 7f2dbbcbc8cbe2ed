//! Tables without lines: columns two blanks apart, numbers to the right, stacks under their row.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, ContentArrangement, presets};

use super::model::Value;
use super::summary::{DIM, RESET, Style};
use super::{cell, values};

/// A key, as the rows of a summary have it.
pub(super) type Key = [(String, Value)];

/// A table that is drawn when it is full.
pub(super) struct Grid<'a> {
    table: comfy_table::Table,
    style: &'a Style,
    right: Vec<bool>,
    /// What stands under each row.
    under: Vec<Vec<String>>,
}

impl<'a> Grid<'a> {
    pub(super) fn new<'t>(titles: impl Iterator<Item = &'t str>, style: &'a Style) -> Grid<'a> {
        let mut table = comfy_table::Table::new();
        table
            .load_style(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Disabled);
        let titles: Vec<String> = titles.map(str::to_uppercase).collect();
        let right = vec![false; titles.len()];
        table.set_header(titles);
        Grid {
            table,
            style,
            right,
            under: Vec::new(),
        }
    }

    /// A value's text, and whether it stands to the right.
    fn value(value: &Value) -> (String, bool) {
        let mut text = String::new();
        values::show(&mut text, value);
        (text, values::is_number(value))
    }

    pub(super) fn row<'v>(&mut self, values: impl Iterator<Item = &'v Value>) {
        self.cells(values.map(Grid::value), Vec::new());
    }

    /// A key and what belongs to it, which stands at the right.
    pub(super) fn keyed(&mut self, keys: &Keys, key: &Key, rest: impl IntoIterator<Item = String>) {
        let rest = rest.into_iter().map(|text| (text, true));
        let key_cells = keys.plain(key).map(|(_, value)| Grid::value(value));
        self.cells(key_cells.chain(rest), keys.under(key));
    }

    fn cells(&mut self, cells: impl Iterator<Item = (String, bool)>, under: Vec<String>) {
        let mut row = comfy_table::Row::new();
        for (i, (text, right)) in cells.enumerate() {
            if let Some(column) = self.right.get_mut(i) {
                *column |= right;
            }
            row.add_cell(comfy_table::Cell::new(text));
        }
        self.table.add_row(row);
        self.under.push(under);
    }

    /// Draws it, with MORE as its last line.
    pub(super) fn draw(mut self, out: &mut String, more: Option<String>) {
        for (i, column) in self.table.column_iter_mut().enumerate() {
            column.set_padding((if i == 0 { 2 } else { 0 }, 2));
            if self.right.get(i) == Some(&true) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        // No cell has more than one line: the first is the heading, each further one a row.
        for (i, line) in self.table.lines().enumerate() {
            let line = self.style.cut(line.trim_end().to_string());
            if i == 0 && self.style.colour {
                let _ = writeln!(out, "{DIM}{line}{RESET}");
            } else {
                let _ = writeln!(out, "{line}");
            }
            let under = i.checked_sub(1).and_then(|row| self.under.get(row));
            for line in under.into_iter().flatten() {
                let _ = writeln!(out, "{}", self.style.cut(line.clone()));
            }
        }
        if let Some(more) = more {
            let _ = writeln!(out, "{more}");
        }
        out.push('\n');
    }
}

/// Which parts of the keys of one table are stacks: those have no column, they stand under their row.
pub(super) struct Keys(Vec<bool>);

impl Keys {
    pub(super) fn of<'k>(keys: impl Iterator<Item = &'k Key>) -> Keys {
        let mut stacks = Vec::new();
        for key in keys {
            stacks.resize(stacks.len().max(key.len()), false);
            for (is, (_, value)) in stacks.iter_mut().zip(key) {
                *is |= matches!(value, Value::Stack(_));
            }
        }
        Keys(stacks)
    }

    fn parts<'k>(
        &self,
        key: &'k Key,
        stacks: bool,
    ) -> impl Iterator<Item = &'k (String, Value)> + use<'k, '_> {
        let parts = key.iter().zip(&self.0);
        parts.filter(move |(_, is)| **is == stacks).map(|(p, _)| p)
    }

    /// The parts with a column.
    pub(super) fn plain<'k>(
        &self,
        key: &'k Key,
    ) -> impl Iterator<Item = &'k (String, Value)> + use<'k, '_> {
        self.parts(key, false)
    }

    /// The names of the parts with a column.
    pub(super) fn titles<'k>(&self, key: &'k Key) -> impl Iterator<Item = &'k str> + use<'k, '_> {
        self.plain(key).map(|(name, _)| name.as_str())
    }

    /// The lines under a row.
    pub(super) fn under(&self, key: &Key) -> Vec<String> {
        let stacks: Vec<_> = self.parts(key, true).collect();
        values::stack_lines(stacks.iter().map(|(name, value)| (name.as_str(), value)))
    }
}

impl Style {
    /// A line, cut to the terminal's width.
    pub(super) fn cut(&self, line: String) -> String {
        match self.width {
            Some(width) => cell::cut_text(line, width),
            None => line,
        }
    }
}
