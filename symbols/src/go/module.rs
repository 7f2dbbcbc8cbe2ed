//! The runtime's record of the program (`moduledata`, runtime/symtab.go), found by its first word, the address of
//! the table of functions. In position-independent programs pointers are what the relocations will write.

use std::collections::HashMap;

use super::table::{GoTable, Layout};
use crate::arch;
use crate::error::Result;
use crate::image::Image;

/// Words of `moduledata` that stand alike in all versions since 1.16: six slices behind the header's address, then
/// findfunctab, minpc, maxpc, text.
const TEXT: u64 = 22;
/// `gofunc`, the base of the functions' data: since 1.18, and since 1.20 with two words of coverage counters before
/// it. Later ones may move it again: what stands there is checked.
const GO_FUNC: [u64; 8] = [38, 40, 39, 41, 42, 43, 44, 45];

/// Pointers in the file's data, as the process will see them (less the load bias).
#[derive(Debug)]
pub(super) struct Pointers<'a> {
    image: &'a Image,
    /// What relocations write, by place.
    relocated: HashMap<u64, u64>,
}

/// Where the record is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Module {
    address: u64,
}

impl<'a> Pointers<'a> {
    pub(super) fn of(image: &'a Image) -> Result<Self> {
        let relocations = match image.is_pie() {
            true => image.relocations()?,
            false => Vec::new(),
        };
        Ok(Self {
            image,
            relocated: relocations
                .into_iter()
                .filter(|relocation| relocation.kind == arch::relocation::RELATIVE)
                .map(|relocation| (relocation.at, relocation.addend))
                .collect(),
        })
    }

    /// The pointer at an address.
    pub(super) fn at(&self, address: u64) -> Option<u64> {
        match self.relocated.get(&address) {
            Some(target) => Some(*target),
            None => self.image.loaded_word(address),
        }
    }

    /// The record that belongs to the table of functions at an address.
    pub(super) fn module(&self, table: u64) -> Option<Module> {
        let found = (self.relocated.iter())
            .filter(|(_, target)| **target == table)
            .map(|(at, _)| *at)
            .chain(self.stored(table))
            .map(|address| Module { address });
        // Its next word is the address of the names, which stand in the table, soon behind the header.
        found
            .filter(|module| {
                let names = module.word(self, 1).unwrap_or(0).wrapping_sub(table);
                (1..=4096).contains(&names)
            })
            .min_by_key(|module| module.address)
    }

    /// Where the program's data holds a pointer as it is.
    fn stored(&self, target: u64) -> Vec<u64> {
        let mut places = Vec::new();
        for segment in self.image.loads().filter(|segment| segment.writable) {
            let Ok(Some(bytes)) = self.image.loaded_rest(segment.address) else {
                continue;
            };
            let words = bytes.chunks_exact(8).zip((segment.address..).step_by(8));
            places.extend(
                words
                    .filter(|(word, _)| **word == target.to_le_bytes())
                    .map(|(_, at)| at),
            );
        }
        places
    }
}

impl Module {
    fn word(self, pointers: &Pointers, word: u64) -> Option<u64> {
        pointers.at(self.address.checked_add(word * 8)?)
    }

    /// Where the code starts.
    pub(super) fn text(self, pointers: &Pointers) -> Option<u64> {
        self.word(pointers, TEXT)
    }
}

impl GoTable {
    /// The base that functions' data is counted from; found once, by trying where it may stand.
    pub(super) fn data_base(&self, image: &Image) -> Option<u64> {
        *self.data_base.get_or_init(|| {
            let pointers = Pointers::of(image).ok()?;
            let module = pointers.module(self.address)?;
            let mut words = GO_FUNC;
            if self.layout == Layout::Go1_20 {
                words.swap(0, 1);
            }
            words
                .into_iter()
                .filter_map(|word| module.word(&pointers, word))
                .find(|base| self.is_data_base(image, *base))
        })
    }
}
