//! Split units: what a `.dwo` file, or a `.dwp` package of many, holds for a skeleton in the program.

use std::sync::Arc;

use gimli::{DwoId, UnitType};

use super::readers::{Reader, UnitAt, UnitList};

/// The full form of a skeleton unit, and the units beside it in its file.
pub(super) struct Split<'a> {
    list: UnitList<'a>,
    index: usize,
}

impl<'a> Split<'a> {
    /// The unit of that ID in DWARF, if it is there. What only the linker knew, it takes from the skeleton.
    pub(super) fn new(
        mut dwarf: gimli::Dwarf<Reader<'a>>,
        id: DwoId,
        skeleton: UnitAt<'_, 'a>,
    ) -> Option<Self> {
        dwarf.populate_abbreviations_cache(gimli::AbbreviationsCacheStrategy::Duplicates);
        let probe = UnitList::new(Arc::new(dwarf));
        let index = find_id(&probe, id)?;
        let mut unit = probe.dwarf.unit(*probe.header(index)?).ok()?;
        unit.copy_relocated_attributes(skeleton.unit);
        // The first list may have parsed the unit, without those attributes, to see its ID.
        let list = UnitList::new(Arc::clone(&probe.dwarf));
        list.set(index, unit);
        Some(Self { list, index })
    }

    pub(super) fn unit(&self) -> Option<UnitAt<'_, 'a>> {
        self.list.here(self.index)
    }
}

/// The number of the unit that a `.dwo` file has for this ID.
pub(super) fn find_id(list: &UnitList<'_>, id: DwoId) -> Option<usize> {
    (0..list.len()).find(
        |index| match list.header(*index).map(gimli::UnitHeader::type_) {
            Some(UnitType::SplitCompilation(found)) => found == id,
            // Before DWARF 5, an attribute of the first entry told it.
            Some(UnitType::Compilation) => {
                list.here(*index).and_then(|at| at.unit.dwo_id) == Some(id)
            }
            _ => false,
        },
    )
}
