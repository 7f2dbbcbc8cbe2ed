//! The types of one image's debug information.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

use super::die::{Die, VOID, View};
use super::model::{Member, Shape, TypeId, TypeModel};
use super::naming::{MAX_DEPTH, c_name, flatten};
use super::search::{UnitNumber, Wanted, own_name, surroundings, unit_number};
use super::shapes::Linked;
use crate::dwarf::Dwarf;
use crate::eh_frame::EhFrame;
use crate::error::Result;
use crate::image::Image;

/// The types that an image's debug information describes. What was looked up is remembered as long as this lives.
pub struct Types<'i> {
    pub(super) image: &'i Image,
    pub(super) dwarf: &'i Dwarf,
    found: Mutex<HashMap<String, Option<TypeId>>>,
    around: Mutex<HashMap<UnitNumber, Arc<HashMap<usize, String>>>>,
    /// The code of the main file's units: start, end, unit.
    pub(super) ranges: OnceLock<Vec<(u64, u64, usize)>>,
    pub(super) frames: OnceLock<Option<EhFrame>>,
}

impl std::fmt::Debug for Types<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Types")
            .field("image", &self.image.path())
            .finish_non_exhaustive()
    }
}

impl Image {
    /// The types that its debug information (its own, or its debug file's) describes; `None` where it has none.
    ///
    /// # Errors
    /// The debug information cannot be read.
    pub fn types(&self) -> Result<Option<Types<'_>>> {
        Ok(self.dwarf()?.map(|dwarf| Types {
            image: self,
            dwarf,
            found: Mutex::default(),
            around: Mutex::default(),
            ranges: OnceLock::new(),
            frames: OnceLock::new(),
        }))
    }
}

impl Types<'_> {
    /// The type of that name, remembered.
    fn lookup(&self, name: &str) -> Option<TypeId> {
        if let Some(found) = self
            .found
            .lock()
            .ok()
            .and_then(|found| found.get(name).copied())
        {
            return found;
        }
        let found = Wanted::parse(name)
            .and_then(|wanted| self.dwarf.with(|readers| View { readers }.search(&wanted)));
        if let Ok(mut known) = self.found.lock() {
            known.insert(name.to_owned(), found);
        }
        found
    }

    /// The definition of what DIE only declares.
    pub(super) fn definition(&self, die: &Die<'_, '_>) -> Option<TypeId> {
        die.name()?;
        let name = self.full_name(die);
        let tagged = match die.tag() {
            gimli::DW_TAG_union_type => "union ",
            gimli::DW_TAG_enumeration_type => "enum ",
            _ => "struct ",
        };
        let bare = name.strip_prefix(tagged).unwrap_or(&name);
        self.lookup(&format!("{tagged}{bare}"))
    }

    /// A type's name with the namespaces around it.
    pub(super) fn full_name(&self, die: &Die<'_, '_>) -> String {
        let name = own_name(die);
        let number = unit_number(die);
        let known = self
            .around
            .lock()
            .ok()
            .and_then(|around| around.get(&number).cloned());
        let around = known.unwrap_or_else(|| {
            let names = Arc::new(surroundings(die.unit));
            if let Ok(mut around) = self.around.lock() {
                around.insert(number, Arc::clone(&names));
            }
            names
        });
        match around.get(&die.entry.offset().0) {
            Some(outer) => format!("{outer}::{name}"),
            None => name,
        }
    }

    /// Runs ASK with the types as a source of links.
    pub(super) fn linked<T>(&self, ask: impl for<'f, 'r, 'a> FnOnce(Linked<'f, 'r, 'a>) -> T) -> T {
        self.dwarf.with(|readers| {
            ask(Linked {
                view: View { readers },
                find: &|die| self.definition(die),
                name: &|die| self.full_name(die),
            })
        })
    }
}

impl TypeModel for Types<'_> {
    fn shape(&self, ty: TypeId) -> Shape {
        self.linked(|linked| linked.view.shape(ty, linked.find))
    }

    fn size(&self, ty: TypeId) -> Option<u64> {
        self.linked(|linked| size(&linked, ty))
    }

    fn members(&self, ty: TypeId) -> Vec<Member> {
        self.linked(|linked| flatten(&linked, ty))
    }

    fn named(&self, name: &str) -> Result<Option<TypeId>> {
        if name.trim() == "void" {
            return Ok(Some(VOID));
        }
        Ok(self.lookup(name.trim()))
    }

    fn type_name(&self, ty: TypeId) -> String {
        self.linked(|linked| c_name(&linked, Some(ty)))
    }
}

/// A type's size in bytes, arrays included.
pub(super) fn size(linked: &Linked<'_, '_, '_>, ty: TypeId) -> Option<u64> {
    let (mut ty, mut elements) = (ty, 1_u64);
    for _ in 0..MAX_DEPTH {
        match linked.view.shape(ty, linked.find) {
            Shape::Array { of, count } => {
                elements = elements.checked_mul(count?)?;
                ty = of;
            }
            Shape::Unsupported(_) => {
                let die = linked.view.bare(ty).ok()??;
                return elements.checked_mul(die.number(gimli::DW_AT_byte_size)?);
            }
            shape => return elements.checked_mul(shape.plain_size()?),
        }
    }
    None
}
