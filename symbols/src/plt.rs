//! The procedure linkage table: stubs through which a file calls functions of others. They look like functions to
//! whoever follows calls, but a probe on one sees only the calls out of this very file.

use object::LittleEndian as LE;

use crate::arch;
use crate::image::table::{Named, Table};
use crate::image::{Image, Part};

/// The sections that hold stubs. With `-z ibtplt`, `.plt` binds and `.plt.sec` is what is called.
pub(crate) const SECTIONS: [&str; 4] = [".plt.sec", ".plt", ".plt.got", ".iplt"];
/// What follows a stub's name.
pub(crate) const SUFFIX: &str = "@plt";
/// The size of a stub where the section does not give it.
const STUB: u64 = 16;

/// All stubs whose function is known. DYNAMIC has the names that relocations refer to.
pub(crate) fn stubs(image: &Image, dynamic: Option<&Table>) -> Vec<Named> {
    let (Some(dynamic), Ok(relocations)) = (dynamic, image.relocations()) else {
        return Vec::new();
    };
    let mut slots: Vec<(u64, u32)> = relocations
        .iter()
        .filter(|relocation| relocation.symbol != 0)
        .map(|relocation| (relocation.at, relocation.symbol))
        .collect();
    slots.sort_unstable();
    let name_of = |slot: u64| {
        let at = slots.binary_search_by_key(&slot, |(at, _)| *at).ok()?;
        let symbol = dynamic.symbols().get(slots[at].1 as usize)?;
        (symbol.st_name.get(LE) != 0).then(|| dynamic.symbol_name(symbol))
    };
    let mut stubs: Vec<Named> = Vec::new();
    for section in SECTIONS {
        let Some(header) = image.headers().section(section) else {
            continue;
        };
        let each = match header.each {
            8 => 8,
            _ => STUB,
        };
        let Ok(Some((start, code))) = image.section_data(section) else {
            continue;
        };
        for (entry, address) in code
            .chunks(each as usize)
            .zip((start..).step_by(each as usize))
        {
            let slot = arch::stub_slot(entry, address);
            if let Some(name) = slot.and_then(name_of) {
                stubs.push(Named {
                    name: format!("{}{SUFFIX}", String::from_utf8_lossy(name)),
                    address,
                    size: each,
                    part: Part::Stub,
                });
            }
        }
    }
    stubs
}
