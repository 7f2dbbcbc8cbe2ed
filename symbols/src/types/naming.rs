//! What DWARF and BTF have in common once read: types written as C writes them, and records flattened.

use std::cell::Cell;

use super::model::{BitField, Member, TypeId};

/// How deep types may be nested before they count as damaged: real ones stay under 20.
pub(crate) const MAX_DEPTH: usize = 64;

/// How many types one name may be made of, and how many records one may be flattened from: more is damage,
/// such as a type that contains itself twice.
const MAX_STEPS: usize = 1024;

/// How many members a flattened record may have (the kernel's largest has some 300).
const MAX_MEMBERS: usize = 65_536;

/// How a type is built from others.
pub(crate) enum Link {
    /// It has a name of its own.
    Named(String),
    /// A pointer (or "&", "&&").
    Pointer(&'static str, Option<TypeId>),
    /// A qualifier in front of another type.
    Qualified(&'static str, Option<TypeId>),
    /// An array.
    Array(TypeId, Option<u64>),
    /// A function.
    Function(Option<TypeId>, Vec<TypeId>),
}

/// A member as it stands in its record.
pub(crate) struct OwnMember {
    /// `None`: an anonymous struct or union, or a base class, whose members belong to the outer record.
    pub(crate) name: Option<String>,
    pub(crate) ty: TypeId,
    pub(crate) offset: u64,
    pub(crate) bits: Option<BitField>,
}

/// What both kinds of type information answer.
pub(crate) trait Links {
    fn link(&self, ty: TypeId) -> Link;
    fn own_members(&self, ty: TypeId) -> Vec<OwnMember>;
}

/// A type as C writes it, e.g. `const char *`, `int (*)(void *)`, `int [4]`.
pub(crate) fn c_name(types: &dyn Links, ty: Option<TypeId>) -> String {
    let writer = Writer {
        types,
        steps: Cell::new(0),
    };
    writer.declare(ty, String::new(), 0)
}

struct Writer<'a> {
    types: &'a dyn Links,
    steps: Cell<usize>,
}

impl Writer<'_> {
    /// TY with DECLARATOR (what stands around the name in a C declaration) put in place.
    fn declare(&self, ty: Option<TypeId>, declarator: String, depth: usize) -> String {
        let Some(ty) = ty else {
            return spaced("void", &declarator);
        };
        self.steps.set(self.steps.get() + 1);
        if depth > MAX_DEPTH || self.steps.get() > MAX_STEPS {
            return spaced("...", &declarator);
        }
        match self.types.link(ty) {
            Link::Named(name) => spaced(&name, &declarator),
            Link::Pointer(mark, to) => {
                let declarator = match to.map(|to| self.types.link(to)) {
                    Some(Link::Array(..) | Link::Function(..)) => format!("({mark}{declarator})"),
                    _ => format!("{mark}{declarator}"),
                };
                self.declare(to, declarator, depth + 1)
            }
            // "char *const": the qualifier of a pointer stands behind its star.
            Link::Qualified(qualifier, of) => match of.map(|of| self.types.link(of)) {
                Some(Link::Pointer(..)) => {
                    self.declare(of, spaced(qualifier, &declarator), depth + 1)
                }
                _ => {
                    let inner = self.declare(of, declarator, depth + 1);
                    // A constant array of constant elements is described as both.
                    let twice = inner.starts_with(&format!("{qualifier} "));
                    if twice {
                        inner
                    } else {
                        format!("{qualifier} {inner}")
                    }
                }
            },
            Link::Array(of, count) => {
                let count = count.map(|count| count.to_string()).unwrap_or_default();
                self.declare(Some(of), format!("{declarator}[{count}]"), depth + 1)
            }
            Link::Function(returns, parameters) => {
                let list = self.parameters(&parameters, depth);
                self.declare(returns, format!("{declarator}({list})"), depth + 1)
            }
        }
    }

    fn parameters(&self, parameters: &[TypeId], depth: usize) -> String {
        if parameters.is_empty() {
            return "void".to_owned();
        }
        let mut list = Vec::new();
        for each in parameters {
            if self.steps.get() > MAX_STEPS {
                list.push("...".to_owned());
                break;
            }
            list.push(self.declare(Some(*each), String::new(), depth + 1));
        }
        list.join(", ")
    }
}

fn spaced(name: &str, declarator: &str) -> String {
    if declarator.is_empty() {
        name.to_owned()
    } else {
        format!("{name} {declarator}")
    }
}

/// A record's members with anonymous structs, unions and base classes flattened, bases first.
pub(crate) fn flatten(types: &dyn Links, ty: TypeId) -> Vec<Member> {
    let mut flat = Flat {
        types,
        members: Vec::new(),
        records: 0,
    };
    flat.add(ty, 0, 0);
    flat.members
}

struct Flat<'a> {
    types: &'a dyn Links,
    members: Vec<Member>,
    records: usize,
}

impl Flat<'_> {
    fn add(&mut self, ty: TypeId, base: u64, depth: usize) {
        self.records += 1;
        if depth > MAX_DEPTH || self.records > MAX_STEPS {
            return;
        }
        for own in self.types.own_members(ty) {
            if self.members.len() >= MAX_MEMBERS {
                return;
            }
            let offset = base.wrapping_add(own.offset);
            let (ty, bits) = (own.ty, own.bits);
            match own.name {
                Some(name) => self.members.push(Member {
                    name,
                    ty,
                    offset,
                    bits,
                }),
                None => self.add(ty, offset, depth + 1),
            }
        }
    }
}

impl BitField {
    /// The bit field of WIDTH bits that starts BIT bits into a little-endian record: the offset of the smallest
    /// storage unit that holds it (aligned if one does), and the bits in it. `None` if none of up to 8 bytes does.
    pub(crate) fn locate(bit: u64, width: u64) -> Option<(u64, Self)> {
        if width == 0 || width > 64 {
            return None;
        }
        let fits = |unit: u64, offset: u64| {
            let shift = bit - offset * 8;
            (shift + width <= unit * 8).then_some((
                offset,
                Self {
                    unit: unit as u8,
                    shift: shift as u8,
                    bits: width as u8,
                },
            ))
        };
        let units = [1, 2, 4, 8];
        let aligned = units
            .iter()
            .find_map(|unit| fits(*unit, (bit / 8) & !(unit - 1)));
        aligned.or_else(|| units.iter().find_map(|unit| fits(*unit, bit / 8)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bit_field_lies_in_the_smallest_unit_that_holds_it() {
        let locate =
            |bit, width| BitField::locate(bit, width).map(|(at, b)| (at, b.unit, b.shift, b.bits));
        assert_eq!(locate(3, 5), Some((0, 1, 3, 5)));
        assert_eq!(locate(12, 8), Some((0, 4, 12, 8)));
        assert_eq!(locate(38, 3), Some((4, 2, 6, 3)));
        assert_eq!(
            locate(60, 8),
            Some((7, 2, 4, 8)),
            "packed: no aligned unit holds it"
        );
        assert_eq!(locate(4, 64), None);
        assert_eq!(locate(0, 0), None);
        assert_eq!(locate(64, 64), Some((8, 8, 0, 64)));
    }

    /// Types that lead to themselves, as only damage makes them.
    struct Loop;
    impl Links for Loop {
        fn link(&self, ty: TypeId) -> Link {
            match ty.0 {
                0 => Link::Qualified("const", Some(ty)),
                1 => Link::Pointer("*", Some(ty)),
                2 => Link::Array(ty, Some(3)),
                _ => Link::Function(Some(ty), vec![ty, ty]),
            }
        }
        fn own_members(&self, ty: TypeId) -> Vec<OwnMember> {
            let own = |name| OwnMember {
                name,
                ty,
                offset: u64::MAX,
                bits: None,
            };
            vec![own(None), own(None), own(Some("x".into()))]
        }
    }

    #[test]
    fn types_that_contain_themselves_come_to_an_end() {
        for ty in 0..4 {
            assert!(c_name(&Loop, Some(TypeId(ty))).contains("..."));
        }
        assert!(flatten(&Loop, TypeId(0)).len() <= MAX_MEMBERS);
    }
}
