//! From an address to functions, files and lines: each function's record leads to tables of (value, length of code)
//! pairs for its files, its lines, and its tree of inlined calls.

use super::table::{GoTable, Layout};
use super::{half, index, text};
use crate::image::Image;

/// Which of a function's tables tells the node of the tree of inlined calls, and which of its data is that tree
/// (`PCDATA_InlTreeIndex`, `FUNCDATA_InlTree` since 1.16).
const TREE_INDEX: usize = 2;
const TREE: usize = 3;
/// A chain of inlined calls that is longer is damage.
const DEEPEST: usize = 128;

/// One function at an address, inlined or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoFrame {
    /// Its name, with its package.
    pub function: String,
    /// Its source file, as the compiler knew it.
    pub file: Option<String>,
    /// The line; of all but the innermost function, that of the call.
    pub line: Option<u32>,
    /// It was inlined into the next one.
    pub inlined: bool,
}

/// One function's record (`_func`).
#[derive(Clone, Copy)]
struct Record<'a> {
    table: &'a GoTable,
    entry: u64,
    at: usize,
}

/// A node of the tree of inlined calls: who was inlined, and an instruction of its caller at the call.
struct Node {
    name: usize,
    parent_pc: u64,
}

impl GoTable {
    /// The functions at an address, innermost first; empty where it is in none. IMAGE is the file that the table
    /// was read from: it holds the trees of inlined calls. Without them (before Go 1.16) there is one frame.
    pub fn frames(&self, image: &Image, address: u64) -> Vec<GoFrame> {
        let Some((entry, at)) = self.record_of(address) else {
            return Vec::new();
        };
        let record = Record {
            table: self,
            entry,
            at,
        };
        let tree = record.tree(image);
        let mut frames = Vec::new();
        let mut pc = address;
        while frames.len() < DEEPEST
            && let Some(node) = tree.and_then(|tree| record.node(image, tree, pc))
        {
            let Some(name) = self.name(node.name) else {
                break;
            };
            frames.push(record.frame(name, pc, true));
            pc = entry.wrapping_add(node.parent_pc);
        }
        if let Some(outer) = self.around(address) {
            frames.push(record.frame(outer.name, pc, false));
        }
        frames
    }

    /// Whether the trees of some functions, counted from BASE, can be read.
    pub(super) fn is_data_base(&self, image: &Image, base: u64) -> bool {
        const ENOUGH: usize = 8;
        let mut records = self.records().iter().filter_map(|(entry, at)| {
            let record = Record {
                table: self,
                entry: *entry,
                at: *at,
            };
            let tree = base.checked_add(u64::from(record.data(TREE)?))?;
            Some((record, tree))
        });
        let mut sane = 0;
        while sane < ENOUGH
            && let Some((record, tree)) = records.next()
        {
            match record.read_node(image, tree, 0) {
                Some(node) if self.is_name(node.name) => sane += 1,
                _ => return false,
            }
        }
        sane > 0
    }

    /// Names stand behind each other: before each is the end of another.
    fn is_name(&self, at: usize) -> bool {
        let before = (self.parts.names + at)
            .checked_sub(1)
            .and_then(|at| self.bytes.get(at));
        at == 0 || (before == Some(&0) && self.name(at).is_some())
    }
}

impl Record<'_> {
    /// A field of 4 bytes, by its number behind the first (the entry).
    fn field(&self, number: usize) -> Option<u32> {
        let at = self.at + self.table.layout.field() + number * 4;
        half(&self.table.bytes, at)
    }

    fn frame(&self, function: String, pc: u64, inlined: bool) -> GoFrame {
        let file = (self.field(4)).and_then(|files| self.value(files, pc));
        let line = (self.field(5)).and_then(|lines| self.value(lines, pc));
        GoFrame {
            function,
            file: file.and_then(|file| self.file(u32::try_from(file).ok()?)),
            line: line.and_then(|line| u32::try_from(line).ok()),
            inlined,
        }
    }

    fn file(&self, number: u32) -> Option<String> {
        let GoTable {
            bytes,
            parts,
            layout,
            ..
        } = self.table;
        let number = usize::try_from(number).ok()?;
        let name = match layout {
            Layout::Go1_2 => index(bytes, parts.files + number.checked_mul(4)?, 4)?,
            _ => {
                let unit = usize::try_from(self.field(7)?).ok()?;
                let at = unit.checked_add(number)?.checked_mul(4)?;
                let name = half(bytes, parts.units.checked_add(at)?)?;
                let name = (name != u32::MAX).then_some(name)?;
                parts.files.checked_add(usize::try_from(name).ok()?)?
            }
        };
        let name = text(bytes, name)?;
        Some(String::from_utf8_lossy(name).into_owned())
    }

    /// The value that a table has for an address: pairs of a change of value and a length of code, both variable
    /// in length, the change with its sign in the lowest bit.
    fn value(&self, table: u32, pc: u64) -> Option<i32> {
        if table == 0 {
            return None;
        }
        let at = self
            .table
            .parts
            .pcs
            .checked_add(usize::try_from(table).ok()?)?;
        let mut bytes = self.table.bytes.get(at..)?.iter();
        let (mut value, mut end) = (-1i32, self.entry);
        loop {
            let change = varint(&mut bytes)?;
            if change == 0 && end != self.entry {
                return None;
            }
            let change = (change >> 1) ^ (change & 1).wrapping_neg();
            value = value.wrapping_add(change.cast_signed());
            end = end.wrapping_add(u64::from(varint(&mut bytes)?));
            if pc < end {
                return (value >= 0).then_some(value);
            }
        }
    }

    /// Where the function's data (an offset to the base before 1.18: an address) of a kind is; since 1.18.
    fn data(&self, kind: usize) -> Option<u32> {
        let first = match self.table.layout {
            Layout::Go1_2 | Layout::Go1_16 => return None,
            Layout::Go1_18 => 9,
            // One more field: the function's first line.
            Layout::Go1_20 => 10,
        };
        let tables = usize::try_from(self.field(6)?).ok()?;
        let [.., count] = self.field(first - 1)?.to_le_bytes();
        if kind >= usize::from(count) {
            return None;
        }
        let offset = self.field(first.checked_add(tables)?.checked_add(kind)?)?;
        (offset != u32::MAX).then_some(offset)
    }

    /// The address of the tree of inlined calls.
    fn tree(&self, image: &Image) -> Option<u64> {
        if self.table.layout == Layout::Go1_16 {
            // Before 1.18 addresses stand there, aligned to their size.
            let tables = usize::try_from(self.field(6)?).ok()?;
            let [.., count] = self.field(8)?.to_le_bytes();
            let at = (self.at + 44 + tables.checked_mul(4)?).next_multiple_of(8) + TREE * 8;
            let address = index(&self.table.bytes, at, 8)? as u64;
            return (TREE < usize::from(count) && address != 0).then_some(address);
        }
        let offset = self.data(TREE)?;
        let base = self.table.data_base(image)?;
        base.checked_add(u64::from(offset))
    }

    /// The innermost inlined call at an address.
    fn node(&self, image: &Image, tree: u64, pc: u64) -> Option<Node> {
        let first = match self.table.layout {
            Layout::Go1_2 => return None,
            Layout::Go1_16 | Layout::Go1_18 => 9,
            Layout::Go1_20 => 10,
        };
        if usize::try_from(self.field(6)?).ok()? <= TREE_INDEX {
            return None;
        }
        let node = self.value(self.field(first + TREE_INDEX)?, pc)?;
        self.read_node(image, tree, u64::try_from(node).ok()?)
    }

    /// `inlinedCall`: before 1.20 20 bytes with the name at 12 and the place in the caller at 16; since then 16
    /// bytes, with them at 4 and 8.
    fn read_node(&self, image: &Image, tree: u64, node: u64) -> Option<Node> {
        let (size, name, parent) = match self.table.layout {
            Layout::Go1_20 => (16, 4, 8),
            _ => (20, 12, 16),
        };
        let at = tree.checked_add(node.checked_mul(size)?)?;
        let bytes = image.loaded(at, size as usize).ok()??;
        Some(Node {
            name: index(&bytes, name, 4)?,
            parent_pc: u64::from(half(&bytes, parent)?),
        })
    }
}

/// Seven bits a byte, the lowest first; the highest bit says that more follow.
fn varint<'a>(bytes: &mut impl Iterator<Item = &'a u8>) -> Option<u32> {
    let mut value = 0u32;
    for shift in (0..35).step_by(7) {
        let byte = bytes.next()?;
        value |= u32::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
