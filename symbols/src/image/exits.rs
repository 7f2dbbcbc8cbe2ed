//! Where functions are left: [`site::exits`](crate::site) with what this file knows of the code around.

use std::ops::Range;

use super::code::Around;
use super::{Function, Image, Part};
use crate::arch::{self, Kernel};
use crate::eh_frame::AT_ENTRY;
use crate::error::Result;
use crate::plt;
use crate::site::{self, EXITS_LIMIT, Exit, Neighbours, Target};

/// Enough code for any stub of a linkage table.
const STUB: usize = 16;

impl Image {
    /// All instructions by which a call of FUNCTION ends, by address: returns, and jumps to other functions, in its
    /// range and in the pieces that the compiler moved elsewhere. Empty for a function that never returns. At each
    /// the stack pointer stands where it stood at entry when a call ends there.
    ///
    /// A return costs more than an entry: the kernel single-steps it ([`Cost::SingleStepped`](site::Cost)).
    ///
    /// # Errors
    /// As [`Image::code`]; [`Error::UnknownExits`](crate::Error::UnknownExits): its end is not known, or not all of it
    /// is instructions; [`Error::Unprobeable`](crate::Error::Unprobeable): the kernel refuses one of the exits;
    /// [`Error::NoReturn`](crate::Error::NoReturn) for a piece that is jumped to.
    pub fn exits(&self, function: &Function) -> Result<Vec<Exit>> {
        self.check_is_called(function)?;
        let around = self.around_function(function)?;
        let code = self.code(function, EXITS_LIMIT)?;
        site::exits(function, &code, &around, Kernel::running())
    }
}

impl Around<'_> {
    /// Whether the linkage table has a stub at an address: its frame looks like that of a piece.
    fn is_stub(&self, address: u64) -> bool {
        let headers = &self.image.elf.headers;
        let mut sections = plt::SECTIONS
            .iter()
            .filter_map(|name| headers.section(name));
        sections.any(|s| address.wrapping_sub(s.address) < s.size)
            || arch::stub_slot(&self.bytes_at(address, STUB), address).is_some()
    }

    /// Whether FOUND is, by its name, a piece of FUNCTION.
    fn is_piece(found: &Function, function: &Function) -> bool {
        let of = |name: &String| {
            let rests = function
                .names
                .iter()
                .filter_map(|f| name.strip_prefix(f.as_str()));
            rests.into_iter().any(|rest| rest.starts_with('.'))
        };
        match found.part {
            // Never called, so what is jumped to belongs to who jumps.
            Part::Cold => true,
            Part::Part => found.names.iter().any(of),
            Part::Whole | Part::Stub => false,
        }
    }
}

impl Neighbours for Around<'_> {
    fn target(&self, function: &Function, address: u64) -> Target {
        let headers = &self.image.elf.headers;
        let named = self.symbols.around(headers, address);
        // What has no size is not known to reach further than to its start.
        if let Some(found) = named.filter(|f| f.size > 0 || f.address == address) {
            let found = self.image.complete(found);
            let range = found.address..found.end;
            return match address != found.address || Self::is_piece(&found, function) {
                true => Target::Piece(range),
                false => Target::Function(range),
            };
        }
        if self.is_stub(address) {
            return Target::Function(address..address);
        }
        let frames = self.image.frames();
        let Some(range) = frames.and_then(|frames| frames.around(address)) else {
            return Target::Unknown;
        };
        let starts = range.address == address && self.frame_at(address) == Some(AT_ENTRY);
        let range = range.address..range.end();
        match starts {
            true => Target::Nameless(range),
            false => Target::Piece(range),
        }
    }

    fn frame_at(&self, address: u64) -> Option<(u16, i64)> {
        self.image.frames()?.cfa_at(address)
    }

    fn code(&self, range: &Range<u64>) -> Vec<u8> {
        let len = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX);
        self.bytes_at(range.start, len.min(EXITS_LIMIT))
    }

    fn word(&self, address: u64) -> Option<u64> {
        match self.image.loaded_word(address)? {
            // What the dynamic linker writes there.
            0 => {
                let relocations = self.image.relocations().ok()?;
                let found = relocations.binary_search_by_key(&address, |r| r.at).ok()?;
                let relocation = relocations.get(found)?;
                (relocation.kind == arch::relocation::RELATIVE).then_some(relocation.addend)
            }
            word => Some(word),
        }
    }

    fn offset(&self, address: u64) -> Option<u64> {
        self.image.elf.headers.code_offset(address)
    }
}
