//! Debug information (DWARF 2 to 5): functions, inlined copies, lines, and the way back from addresses.
//!
//! - `load`: one file's sections, unpacked;
//! - `locate`: the files that belong to it: supplementary ones, `.dwo`, `.dwp`;
//! - `readers`, `split`, `offsets`: all of them together, and their units, parsed when needed;
//! - `walk`: one pass over a unit; `names`: which units need one;
//! - `functions`: functions with code of their own; `inlined`: their copies in others;
//! - `lines`, `paths`: from a line to addresses;
//! - `frames`: from an address to functions and lines.

mod frames;
mod functions;
mod inlined;
mod lines;
mod load;
mod locate;
mod names;
mod offsets;
mod paths;
mod ranges;
mod readers;
mod split;
mod walk;

use std::path::Path;

use object::elf;
use self_cell::self_cell;

use crate::error::Result;
use crate::image::Image;
pub use frames::SourceFrame;
pub use functions::DwarfFunction;
pub use inlined::InlinedCopy;
pub use lines::{LinePlace, LinePlaces};
use load::DebugSections;
pub(crate) use ranges::ranges_of;
use readers::Files;
pub(crate) use readers::{Reader, Readers, UnitAt};
pub(crate) use walk::is_scope;

self_cell!(
    struct Cell {
        owner: Files,
        // The units are kept in cells as they are parsed, so what borrows from the files cannot be shortened.
        #[not_covariant]
        dependent: Readers,
    }
);

/// The debug information of one program or library.
pub struct Dwarf {
    cell: Cell,
}

impl std::fmt::Debug for Dwarf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dwarf")
            .field("path", &self.path())
            .finish_non_exhaustive()
    }
}

impl Dwarf {
    /// The debug information of a program or library: its own, else that of its debug file. `None` where there is
    /// none. ROOT is that of the process that runs it (`/proc/PID/root`), where its `.dwo` files may lie.
    ///
    /// # Errors
    /// The file cannot be read. Damaged or missing parts are [`Dwarf::notes`].
    pub fn of(image: &Image, root: Option<&Path>) -> Result<Option<Self>> {
        let in_file = |name| {
            let section = image.headers().section(name);
            section.is_some_and(|section| section.kind != elf::SHT_NOBITS && section.size > 0)
        };
        let own = in_file(".debug_info") || in_file(".zdebug_info");
        let (path, file) = match (own, image.debug_file()) {
            (true, _) => (image.path(), image.file()),
            (false, Some(debug)) => (debug.path(), debug.file()),
            (false, None) => return Ok(None),
        };
        let main = DebugSections::read(path, file)?;
        if !main.has_info() {
            return Ok(None);
        }
        let (sup, mut notes) = (image.alternative_file(), Vec::new());
        notes.extend(sup.notes.iter().cloned());
        let sup = sup.file.as_ref().and_then(|sup| {
            let read = DebugSections::read(sup.path(), sup.file());
            read.inspect_err(|error| notes.push(error.to_string())).ok()
        });
        let files = Files::new(main, sup, image, root, notes);
        Ok(Some(Self {
            cell: Cell::new(files, |files| Readers::new(files)),
        }))
    }

    /// The file that holds it.
    pub fn path(&self) -> &Path {
        self.cell.borrow_owner().path()
    }

    /// What is missing or damaged, as far as anybody has looked yet: sentences for the user.
    pub fn notes(&self) -> Vec<String> {
        self.with(|readers| readers.notes())
    }

    /// Everything that borrows from the files is used inside of the closure.
    pub(crate) fn with<T>(&self, use_it: impl for<'a> FnOnce(&Readers<'a>) -> T) -> T {
        self.cell.with_dependent(|_, readers| use_it(readers))
    }
}
