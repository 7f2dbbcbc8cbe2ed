//! Entries of DWARF (DIEs) with the unit they are in, and the way from one to another.

use gimli::{
    AttributeValue, DebugInfoOffset, DebuggingInformationEntry, DwAt, DwTag, UnitOffset, UnitType,
};

use super::model::TypeId;
use super::naming::MAX_DEPTH;
use crate::dwarf::{Reader, Readers, UnitAt};

/// `void`: DWARF has no entry for it.
pub(super) const VOID: TypeId = TypeId(u64::MAX);

/// A [`TypeId`] of DWARF, from the top: 2 bits for the file, 4 for the dimension of an array,
/// 24 for the unit (of split ones only), 34 for the offset in its `.debug_info`.
const OFFSET_BITS: u32 = 34;
const UNIT_BITS: u32 = 24;
const DIMENSION_BITS: u32 = 4;

/// The file that a unit is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Home {
    /// The program or its debug file.
    Main,
    /// The supplementary file.
    Supplement,
    /// The `.dwo` file or package entry for this unit of the main file.
    Split(usize),
}

/// One entry.
#[derive(Clone)]
pub(super) struct Die<'r, 'a> {
    pub(super) unit: UnitAt<'r, 'a>,
    pub(super) home: Home,
    pub(super) entry: DebuggingInformationEntry<Reader<'a>>,
}

impl<'a> Die<'_, 'a> {
    pub(super) fn tag(&self) -> DwTag {
        self.entry.tag()
    }

    pub(super) fn attr(&self, name: DwAt) -> Option<AttributeValue<Reader<'a>>> {
        self.entry.attr_value(name)
    }

    pub(super) fn number(&self, name: DwAt) -> Option<u64> {
        self.attr(name)?.udata_value()
    }

    pub(super) fn flag(&self, name: DwAt) -> bool {
        matches!(self.attr(name), Some(AttributeValue::Flag(true)))
    }

    pub(super) fn text(&self, name: DwAt) -> Option<String> {
        let text = self.unit.unit_ref().attr_string(self.attr(name)?).ok()?;
        Some(text.to_string_lossy().into_owned())
    }

    /// Its DW_AT_name.
    pub(super) fn name(&self) -> Option<String> {
        self.text(gimli::DW_AT_name)
    }

    /// The language of its unit, where it says.
    pub(super) fn language(&self) -> Language {
        let unit = self.unit.unit_ref();
        let mut entries = unit.entries();
        match entries.next_dfs() {
            Ok(Some(root)) => match root.attr_value(gimli::DW_AT_language) {
                Some(AttributeValue::Language(language)) => Language::of(language),
                _ => Language::Other,
            },
            _ => Language::Other,
        }
    }

    /// Its number, with a dimension for arrays.
    pub(super) fn id(&self, dimension: u64) -> Option<TypeId> {
        let offset = self
            .entry
            .offset()
            .to_debug_info_offset(&self.unit.unit.header)?
            .0 as u64;
        let (kind, unit) = match self.home {
            Home::Main => (0, 0),
            Home::Supplement => (1, 0),
            Home::Split(unit) => (2, unit as u64),
        };
        let fits = offset >> OFFSET_BITS == 0
            && unit >> UNIT_BITS == 0
            && dimension >> DIMENSION_BITS == 0;
        let upper = (kind << DIMENSION_BITS | dimension) << UNIT_BITS | unit;
        fits.then_some(TypeId(upper << OFFSET_BITS | offset))
    }
}

/// The dimension in a [`TypeId`].
pub(super) fn dimension(ty: TypeId) -> u64 {
    (ty.0 >> (OFFSET_BITS + UNIT_BITS)) & ((1 << DIMENSION_BITS) - 1)
}

/// Languages whose types differ in more than names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Language {
    C,
    Cpp,
    Rust,
    Go,
    Other,
}

impl Language {
    fn of(language: gimli::DwLang) -> Self {
        match language {
            gimli::DW_LANG_C
            | gimli::DW_LANG_C89
            | gimli::DW_LANG_C99
            | gimli::DW_LANG_C11
            | gimli::DW_LANG_C17 => Self::C,
            gimli::DW_LANG_C_plus_plus
            | gimli::DW_LANG_C_plus_plus_03
            | gimli::DW_LANG_C_plus_plus_11
            | gimli::DW_LANG_C_plus_plus_14
            | gimli::DW_LANG_C_plus_plus_17
            | gimli::DW_LANG_C_plus_plus_20 => Self::Cpp,
            gimli::DW_LANG_Rust => Self::Rust,
            gimli::DW_LANG_Go => Self::Go,
            _ => Self::Other,
        }
    }
}

/// The debug information, while it is looked at.
#[derive(Clone, Copy)]
pub(super) struct View<'r, 'a> {
    pub(super) readers: &'r Readers<'a>,
}

impl<'r, 'a> View<'r, 'a> {
    /// The entry of a type.
    pub(super) fn die(&self, ty: TypeId) -> Option<Die<'r, 'a>> {
        let offset = ty.0 & ((1 << OFFSET_BITS) - 1);
        let number = usize::try_from((ty.0 >> OFFSET_BITS) & ((1 << UNIT_BITS) - 1)).ok()?;
        let offset = DebugInfoOffset(usize::try_from(offset).ok()?);
        let (home, list) = match ty.0 >> (OFFSET_BITS + UNIT_BITS + DIMENSION_BITS) {
            0 => (Home::Main, self.readers.units()),
            1 => (Home::Supplement, self.readers.sup_units()?),
            2 => (Home::Split(number), self.readers.unit(number)?.list),
            _ => return None,
        };
        let (unit, at) = list.at_offset(offset)?;
        self.at(unit, home, at)
    }

    fn at(
        &self,
        unit: UnitAt<'r, 'a>,
        home: Home,
        offset: UnitOffset<usize>,
    ) -> Option<Die<'r, 'a>> {
        let entry = unit.unit.entry(offset).ok()?;
        (entry.tag() != gimli::DW_TAG_null).then_some(Die { unit, home, entry })
    }

    /// The first entry of unit INDEX of the main file, or of what that stands for.
    pub(super) fn root(&self, index: usize) -> Option<Die<'r, 'a>> {
        let unit = self.readers.unit(index)?;
        let home = if std::ptr::eq(unit.list, self.readers.units()) {
            Home::Main
        } else {
            Home::Split(index)
        };
        self.at(unit, home, unit.unit.header.root_offset())
    }

    /// The first entry of unit INDEX of the supplementary file.
    pub(super) fn supplement_root(&self, index: usize) -> Option<Die<'r, 'a>> {
        let unit = self.readers.sup_units()?.here(index)?;
        self.at(unit, Home::Supplement, unit.unit.header.root_offset())
    }

    /// Where an attribute leads that refers to another entry.
    pub(super) fn follow(&self, from: &Die<'r, 'a>, name: DwAt) -> Option<Die<'r, 'a>> {
        let value = from.attr(name)?;
        if let AttributeValue::DebugTypesRef(signature) = value {
            return self.signed_type(from, signature);
        }
        let home = match value {
            AttributeValue::DebugInfoRefSup(_) => Home::Supplement,
            _ => from.home,
        };
        let (unit, offset) = self.readers.follow(from.unit, &value)?;
        self.at(unit, home, offset)
    }

    /// The type that a type unit of the same file defines (DWARF 5; before, they have a section of their own).
    fn signed_type(
        &self,
        from: &Die<'r, 'a>,
        wanted: gimli::DebugTypeSignature,
    ) -> Option<Die<'r, 'a>> {
        let list = from.unit.list;
        for index in 0..list.len() {
            let (UnitType::Type {
                type_signature,
                type_offset,
            }
            | UnitType::SplitType {
                type_signature,
                type_offset,
            }) = list.header(index)?.type_()
            else {
                continue;
            };
            if type_signature == wanted {
                return self.at(list.here(index)?, from.home, type_offset);
            }
        }
        None
    }

    /// The entries directly below one.
    pub(super) fn children(&self, die: &Die<'r, 'a>) -> Vec<Die<'r, 'a>> {
        let mut children = Vec::new();
        if !die.entry.has_children() {
            return children;
        }
        let unit = die.unit;
        let Ok(mut tree) = unit.unit.entries_tree(Some(die.entry.offset())) else {
            return children;
        };
        let Ok(root) = tree.root() else {
            return children;
        };
        let mut each = root.children();
        // What is damaged ends the list: the children before it are as good as ever.
        while let Ok(Some(node)) = each.next() {
            children.push(Die {
                unit,
                home: die.home,
                entry: node.entry().clone(),
            });
        }
        children
    }

    /// An attribute of an entry, or of those that it completes (DW_AT_abstract_origin, DW_AT_specification).
    pub(super) fn inherited<T>(
        &self,
        die: &Die<'r, 'a>,
        get: impl Fn(&Die<'r, 'a>) -> Option<T>,
    ) -> Option<T> {
        let mut die = die.clone();
        for _ in 0..MAX_DEPTH {
            if let Some(found) = get(&die) {
                return Some(found);
            }
            die = self
                .follow(&die, gimli::DW_AT_abstract_origin)
                .or_else(|| self.follow(&die, gimli::DW_AT_specification))?;
        }
        None
    }

    /// The type that an entry is of; `None` for void and for a reference that leads nowhere.
    pub(super) fn type_of(&self, die: &Die<'r, 'a>) -> Option<Die<'r, 'a>> {
        self.inherited(die, |die| self.follow(die, gimli::DW_AT_type))
    }

    /// The number of [`Self::type_of`], [`VOID`] where there is none.
    pub(super) fn type_id_of(&self, die: &Die<'r, 'a>) -> TypeId {
        self.type_of(die).and_then(|ty| ty.id(0)).unwrap_or(VOID)
    }
}
