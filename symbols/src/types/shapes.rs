//! The types of DWARF in the model that programs share with the kernel.

use gimli::AttributeValue;

use super::die::{Die, Language, VOID, View, dimension};
use super::model::{BitField, RecordKind, Shape, TypeId};
use super::naming::{Link, Links, MAX_DEPTH, OwnMember};

impl<'r, 'a> View<'r, 'a> {
    /// A type with typedefs and qualifiers looked through; `None` where they end in `void`.
    /// The error says what is wrong with it.
    pub(super) fn bare(&self, ty: TypeId) -> Result<Option<Die<'r, 'a>>, String> {
        if ty == VOID {
            return Ok(None);
        }
        let mut die = self
            .die(ty)
            .ok_or("a type that its debug information lacks")?;
        for _ in 0..MAX_DEPTH {
            if !is_alias(die.tag()) {
                return Ok(Some(die));
            }
            if die.attr(gimli::DW_AT_type).is_none() {
                return Ok(None);
            }
            die = self
                .follow(&die, gimli::DW_AT_type)
                .ok_or("a type whose debug information is elsewhere or damaged")?;
        }
        Err("a type whose names go round in a circle".into())
    }

    /// As [`Self::bare`], with the definition in place of a mere declaration.
    pub(super) fn defined(
        &self,
        ty: TypeId,
        find: Definitions<'_>,
    ) -> Result<Option<Die<'r, 'a>>, String> {
        let Some(die) = self.bare(ty)? else {
            return Ok(None);
        };
        if !is_record(die.tag()) && die.tag() != gimli::DW_TAG_enumeration_type {
            return Ok(Some(die));
        }
        if let Some(signed) = self.follow(&die, gimli::DW_AT_signature) {
            return Ok(Some(signed));
        }
        if !die.flag(gimli::DW_AT_declaration) {
            return Ok(Some(die));
        }
        Ok(Some(find(&die).and_then(|ty| self.die(ty)).unwrap_or(die)))
    }

    pub(super) fn shape(&self, ty: TypeId, find: Definitions<'_>) -> Shape {
        let die = match self.defined(ty, find) {
            Ok(Some(die)) => die,
            Ok(None) => return Shape::Void,
            Err(why) => return Shape::Unsupported(why),
        };
        // A type that the array's own entry is of: dimensions are its only split personality.
        let pointer = |reference| Shape::Pointer {
            to: self.follow(&die, gimli::DW_AT_type).and_then(|to| to.id(0)),
            reference,
            bytes: small(die.number(gimli::DW_AT_byte_size).unwrap_or(8)),
        };
        match die.tag() {
            gimli::DW_TAG_base_type => base_type(&die),
            gimli::DW_TAG_pointer_type => pointer(false),
            gimli::DW_TAG_reference_type | gimli::DW_TAG_rvalue_reference_type => pointer(true),
            gimli::DW_TAG_unspecified_type => Shape::Void,
            gimli::DW_TAG_array_type => self.array(&die, ty),
            gimli::DW_TAG_enumeration_type => self.enumeration(&die),
            gimli::DW_TAG_subroutine_type => Shape::Function,
            tag if is_record(tag) => self
                .text(&die)
                .map_or_else(|| self.record(&die), Shape::Text),
            gimli::DW_TAG_ptr_to_member_type => {
                Shape::Unsupported("a C++ pointer to a member".into())
            }
            tag => Shape::Unsupported(format!("a type of kind {tag}")),
        }
    }

    fn record(&self, die: &Die<'r, 'a>) -> Shape {
        let children = self.children(die);
        let kind = match die.tag() {
            gimli::DW_TAG_union_type => RecordKind::Union,
            _ if children
                .iter()
                .any(|child| child.tag() == gimli::DW_TAG_variant_part) =>
            {
                RecordKind::RustEnum
            }
            gimli::DW_TAG_class_type | gimli::DW_TAG_interface_type => RecordKind::Class,
            _ => RecordKind::Struct,
        };
        let size = die
            .number(gimli::DW_AT_byte_size)
            .filter(|_| !die.flag(gimli::DW_AT_declaration));
        Shape::Record { kind, size }
    }

    fn enumeration(&self, die: &Die<'r, 'a>) -> Shape {
        let under = self.follow(die, gimli::DW_AT_type).and_then(|ty| ty.id(0));
        let under = under
            .and_then(|ty| self.bare(ty).ok().flatten())
            .map(|die| base_type(&die));
        let children = self.children(die);
        let each = children
            .iter()
            .filter(|child| child.tag() == gimli::DW_TAG_enumerator);
        let values: Vec<(String, AttributeValue<_>)> = each
            .filter_map(|child| Some((child.name()?, child.attr(gimli::DW_AT_const_value)?)))
            .collect();
        let signed = match under {
            Some(Shape::Int { signed, .. } | Shape::Char { signed, .. }) => signed,
            _ => values
                .iter()
                .any(|(_, value)| matches!(value, AttributeValue::Sdata(number) if *number < 0)),
        };
        let bytes = die
            .number(gimli::DW_AT_byte_size)
            .or_else(|| under.and_then(|under| under.plain_size()));
        // Negative values are written with their sign; the other forms have none.
        let number = |value: &AttributeValue<_>| match value {
            AttributeValue::Sdata(number) => Some(i128::from(*number)),
            other => other.udata_value().map(i128::from),
        };
        Shape::Enum {
            bytes: small(bytes.unwrap_or(4)),
            signed,
            values: values
                .iter()
                .filter_map(|(name, value)| Some((name.clone(), number(value)?)))
                .collect(),
        }
    }

    /// An array, or the row of one: `int a[2][3]` is an array of 2 arrays of 3.
    fn array(&self, die: &Die<'r, 'a>, ty: TypeId) -> Shape {
        if die.flag(gimli::DW_AT_GNU_vector) {
            return Shape::Unsupported("a vector register's type".into());
        }
        let counts = self.dimensions(die);
        // Behind typedefs the number is the typedef's, which is never a row.
        let at = if self
            .die(ty)
            .is_some_and(|own| own.entry.offset() == die.entry.offset())
        {
            dimension(ty)
        } else {
            0
        };
        let at = usize::try_from(at).unwrap_or(0);
        let of = if at + 1 < counts.len() {
            die.id(at as u64 + 1)
        } else {
            Some(self.type_id_of(die))
        };
        match of {
            Some(of) => Shape::Array {
                of,
                count: counts.get(at).copied().flatten(),
            },
            None => Shape::Unsupported("an array of too many dimensions".into()),
        }
    }

    /// How many elements each dimension has.
    fn dimensions(&self, die: &Die<'r, 'a>) -> Vec<Option<u64>> {
        let children = self.children(die);
        let ranges = children
            .iter()
            .filter(|child| child.tag() == gimli::DW_TAG_subrange_type);
        ranges
            .map(|range| {
                let lower = range.number(gimli::DW_AT_lower_bound).unwrap_or(0);
                let upper = || match range.attr(gimli::DW_AT_upper_bound)? {
                    // GCC: -1 for `a[0]`. In one or two bytes it is the end of an array of 256 or 65536.
                    AttributeValue::Sdata(-1)
                    | AttributeValue::Data4(u32::MAX)
                    | AttributeValue::Data8(u64::MAX) => Some(0),
                    value => value.udata_value()?.checked_sub(lower)?.checked_add(1),
                };
                range.number(gimli::DW_AT_count).or_else(upper)
            })
            .collect()
    }

    /// The members of a record as they stand in it.
    fn record_members(&self, die: &Die<'r, 'a>) -> Vec<OwnMember> {
        let mut members = Vec::new();
        for child in self.children(die) {
            match child.tag() {
                gimli::DW_TAG_inheritance => members.extend(self.member(&child, true)),
                gimli::DW_TAG_member => members.extend(self.member(&child, false)),
                gimli::DW_TAG_variant_part => self.variants(&child, &mut members),
                _ => {}
            }
        }
        members
    }

    fn member(&self, die: &Die<'r, 'a>, base: bool) -> Option<OwnMember> {
        // A static member of a class (DWARF 4 and older) lies elsewhere.
        if die.flag(gimli::DW_AT_external) || die.flag(gimli::DW_AT_declaration) {
            return None;
        }
        let ty = self.follow(die, gimli::DW_AT_type)?;
        let name = die.name().filter(|name| !name.is_empty() && !base);
        let start = match die.attr(gimli::DW_AT_data_member_location) {
            None => 0,
            Some(value) => value
                .udata_value()
                .or_else(|| constant_location(&value, die))?,
        };
        let (offset, bits) = match die.number(gimli::DW_AT_bit_size) {
            None => (start, None),
            Some(width) => {
                let bit = start
                    .checked_mul(8)?
                    .checked_add(self.first_bit(die, &ty, width)?)?;
                let (offset, bits) = BitField::locate(bit, width)?;
                (offset, Some(bits))
            }
        };
        // An unnamed bit field is padding; an unnamed member that is no record has nothing to flatten.
        let padding = name.is_none() && bits.is_some();
        (!padding).then_some(OwnMember {
            name,
            ty: ty.id(0)?,
            offset,
            bits,
        })
    }

    /// The first bit of a bit field, from its member's location on.
    fn first_bit(&self, die: &Die<'r, 'a>, ty: &Die<'r, 'a>, width: u64) -> Option<u64> {
        if let Some(first) = die.number(gimli::DW_AT_data_bit_offset) {
            return Some(first);
        }
        let Some(from_top) = die.attr(gimli::DW_AT_bit_offset) else {
            return Some(0);
        };
        // DWARF 2 and 3: counted from the most significant bit of a storage unit, which little-endian puts last.
        let unit = die
            .number(gimli::DW_AT_byte_size)
            .or_else(|| self.bare(ty.id(0)?).ok()??.number(gimli::DW_AT_byte_size))?;
        unit.checked_mul(8)?
            .checked_sub(from_top.udata_value()?)?
            .checked_sub(width)
    }

    /// A Rust enum's variants, each as a member by its name, and its discriminant as `__discriminant`.
    fn variants(&self, part: &Die<'r, 'a>, members: &mut Vec<OwnMember>) {
        for child in self.children(part) {
            match child.tag() {
                gimli::DW_TAG_variant => {
                    let inner = self.children(&child);
                    let inner = inner
                        .iter()
                        .filter(|each| each.tag() == gimli::DW_TAG_member);
                    members.extend(inner.filter_map(|each| self.member(each, false)));
                }
                gimli::DW_TAG_member => {
                    members.extend(self.member(&child, false).map(|member| OwnMember {
                        name: Some("__discriminant".into()),
                        ..member
                    }))
                }
                _ => {}
            }
        }
    }

    /// What a pointer, array, function ... is made of.
    fn function_link(&self, die: &Die<'r, 'a>) -> Link {
        let children = self.children(die);
        let parameters = children
            .iter()
            .filter(|child| child.tag() == gimli::DW_TAG_formal_parameter);
        let returns = self.type_of(die).and_then(|ty| ty.id(0));
        Link::Function(
            returns,
            parameters.map(|each| self.type_id_of(each)).collect(),
        )
    }
}

/// A member's location as DWARF 2 writes it: `DW_OP_plus_uconst N`. A virtual base's depends on the object.
fn constant_location(
    value: &AttributeValue<crate::dwarf::Reader<'_>>,
    die: &Die<'_, '_>,
) -> Option<u64> {
    let mut operations = value.exprloc_value()?.operations(die.unit.unit.encoding());
    match (operations.next().ok()??, operations.next().ok()?) {
        (
            gimli::Operation::PlusConstant { value } | gimli::Operation::UnsignedConstant { value },
            None,
        ) => Some(value),
        _ => None,
    }
}

/// Finds the definition of a record or enumeration that its own unit only declares.
pub(super) type Definitions<'f> = &'f dyn Fn(&Die<'_, '_>) -> Option<TypeId>;

/// For [`View`] as a source of links, which need to find definitions too.
pub(super) struct Linked<'f, 'r, 'a> {
    pub(super) view: View<'r, 'a>,
    pub(super) find: Definitions<'f>,
    pub(super) name: &'f dyn Fn(&Die<'_, '_>) -> String,
}

impl Links for Linked<'_, '_, '_> {
    fn link(&self, ty: TypeId) -> Link {
        if ty == VOID {
            return Link::Named("void".into());
        }
        let view = self.view;
        let Some(die) = view.die(ty) else {
            return Link::Named("?".into());
        };
        let of = || view.follow(&die, gimli::DW_AT_type).and_then(|ty| ty.id(0));
        // Rust and Go give their pointers and arrays names: `&str`, `*main.T`.
        if let (Some(name), false) = (die.name(), die.language() == Language::C)
            && !is_record(die.tag())
            && die.tag() != gimli::DW_TAG_typedef
            && die.tag() != gimli::DW_TAG_enumeration_type
        {
            return Link::Named(name);
        }
        match die.tag() {
            gimli::DW_TAG_pointer_type => Link::Pointer("*", of()),
            gimli::DW_TAG_reference_type => Link::Pointer("&", of()),
            gimli::DW_TAG_rvalue_reference_type => Link::Pointer("&&", of()),
            gimli::DW_TAG_const_type => Link::Qualified("const", of()),
            gimli::DW_TAG_volatile_type => Link::Qualified("volatile", of()),
            gimli::DW_TAG_restrict_type => Link::Qualified("restrict", of()),
            gimli::DW_TAG_atomic_type => Link::Qualified("_Atomic", of()),
            gimli::DW_TAG_array_type => match view.array(&die, ty) {
                Shape::Array { of, count } => Link::Array(of, count),
                _ => Link::Array(view.type_id_of(&die), None),
            },
            gimli::DW_TAG_subroutine_type => view.function_link(&die),
            _ => Link::Named((self.name)(&die)),
        }
    }

    fn own_members(&self, ty: TypeId) -> Vec<OwnMember> {
        match self.view.defined(ty, self.find) {
            Ok(Some(die)) if is_record(die.tag()) => self.view.record_members(&die),
            _ => Vec::new(),
        }
    }
}

/// Typedefs and qualifiers: other names for a type.
fn is_alias(tag: gimli::DwTag) -> bool {
    matches!(
        tag,
        gimli::DW_TAG_typedef
            | gimli::DW_TAG_const_type
            | gimli::DW_TAG_volatile_type
            | gimli::DW_TAG_restrict_type
            | gimli::DW_TAG_atomic_type
            | gimli::DW_TAG_immutable_type
            | gimli::DW_TAG_packed_type
            | gimli::DW_TAG_shared_type
            | gimli::DW_TAG_template_alias
            | gimli::DW_TAG_subrange_type
    )
}

pub(super) fn is_record(tag: gimli::DwTag) -> bool {
    matches!(
        tag,
        gimli::DW_TAG_structure_type
            | gimli::DW_TAG_class_type
            | gimli::DW_TAG_union_type
            | gimli::DW_TAG_interface_type
    )
}

fn base_type(die: &Die<'_, '_>) -> Shape {
    let bytes = small(die.number(gimli::DW_AT_byte_size).unwrap_or(0));
    let encoding = match die.attr(gimli::DW_AT_encoding) {
        Some(AttributeValue::Encoding(encoding)) => encoding,
        _ => gimli::DwAte(0),
    };
    match encoding {
        _ if bytes == 0 => Shape::Void,
        gimli::DW_ATE_boolean => Shape::Bool { bytes },
        // Go and Rust have characters of their own; their int8 and uint8 are numbers, but look like C's char.
        gimli::DW_ATE_signed_char | gimli::DW_ATE_unsigned_char
            if matches!(die.language(), Language::Rust | Language::Go) =>
        {
            Shape::Int {
                bytes,
                signed: encoding == gimli::DW_ATE_signed_char,
            }
        }
        gimli::DW_ATE_signed_char | gimli::DW_ATE_unsigned_char | gimli::DW_ATE_UTF => {
            Shape::Char {
                bytes,
                signed: encoding == gimli::DW_ATE_signed_char,
            }
        }
        gimli::DW_ATE_signed => Shape::Int {
            bytes,
            signed: true,
        },
        gimli::DW_ATE_unsigned | gimli::DW_ATE_address => Shape::Int {
            bytes,
            signed: false,
        },
        gimli::DW_ATE_float => Shape::Float { bytes },
        other => Shape::Unsupported(format!("a number of kind {other}")),
    }
}

pub(super) fn small(size: u64) -> u8 {
    u8::try_from(size).unwrap_or(u8::MAX)
}
