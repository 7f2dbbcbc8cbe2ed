//! The kernel's types in the model that they share with those of programs.

use btf_rs::{Btf, BtfType, Fwd, Type};

use super::btf::{KernelTypes, damaged, type_id};
use crate::error::Result;
use crate::types::model::{BitField, Member, RecordKind, Shape, TypeId, TypeModel};
use crate::types::naming::{Link, Links, MAX_DEPTH, OwnMember, c_name, flatten};

impl KernelTypes {
    /// The definition of a type that one part of the kernel only declares: a module's in the kernel, or the reverse.
    fn definition(&self, btf: &Btf, declared: &Fwd) -> Option<TypeId> {
        let tag = if declared.is_union() {
            "union"
        } else {
            "struct"
        };
        self.named(&format!("{tag} {}", btf.resolve_name(declared).ok()?))
            .ok()?
    }
}

impl Links for KernelTypes {
    fn link(&self, ty: TypeId) -> Link {
        let Some((number, btf, ty)) = self.resolve(ty) else {
            return Link::Named("?".into());
        };
        let at = |id| (id != 0).then(|| type_id(number, id));
        let of = |ty: &dyn BtfType| ty.get_type_id().and_then(at);
        let tagged = |tag: &str, ty: &dyn BtfType| match btf.resolve_name(ty).unwrap_or_default() {
            name if name.is_empty() => Link::Named(format!("{tag} {{...}}")),
            name => Link::Named(format!("{tag} {name}")),
        };
        match &ty {
            Type::Void => Link::Named("void".into()),
            Type::Ptr(t) => Link::Pointer("*", of(t)),
            Type::Volatile(t) => Link::Qualified("volatile", of(t)),
            Type::Const(t) => Link::Qualified("const", of(t)),
            Type::Restrict(t) => Link::Qualified("restrict", of(t)),
            Type::Array(t) => Link::Array(
                type_id(number, t.get_type_id().unwrap_or(0)),
                Some(t.len() as u64),
            ),
            Type::FuncProto(t) => Link::Function(
                at(t.return_type_id()),
                t.parameters
                    .iter()
                    .filter_map(|p| at(p.get_type_id()?))
                    .collect(),
            ),
            Type::TypeTag(t) if t.get_type_id().is_some_and(|id| id != 0) => {
                self.link(type_id(number, t.get_type_id().unwrap_or(0)))
            }
            Type::Struct(t) => tagged("struct", t),
            Type::Union(t) => tagged("union", t),
            Type::Enum(t) => tagged("enum", t),
            Type::Enum64(t) => tagged("enum", t),
            Type::Fwd(t) if t.is_union() => tagged("union", t),
            Type::Fwd(t) => tagged("struct", t),
            other => Link::Named(
                other
                    .as_btf_type()
                    .and_then(|t| btf.resolve_name(t).ok())
                    .unwrap_or_default(),
            ),
        }
    }

    fn own_members(&self, ty: TypeId) -> Vec<OwnMember> {
        let Some((number, btf, Type::Struct(record) | Type::Union(record))) = self.bare(ty) else {
            return Vec::new();
        };
        let member = |member: &btf_rs::Member| {
            let bit = u64::from(member.bit_offset());
            let ty = type_id(number, member.get_type_id()?);
            let width = member.bitfield_size().filter(|width| *width > 0);
            let (offset, bits) = match width {
                None => (bit / 8, None),
                Some(width) => {
                    BitField::locate(bit, width.into()).map(|(at, bits)| (at, Some(bits)))?
                }
            };
            let name = btf
                .resolve_name(member)
                .ok()
                .filter(|name| !name.is_empty());
            // An unnamed bit field is padding; an unnamed record is an anonymous one.
            (name.is_some() || bits.is_none()).then_some(OwnMember {
                name,
                ty,
                offset,
                bits,
            })
        };
        record.members.iter().filter_map(member).collect()
    }
}

impl TypeModel for KernelTypes {
    fn shape(&self, ty: TypeId) -> Shape {
        let Some((number, btf, bare)) = self.bare(ty) else {
            return Shape::Unsupported("a type that the kernel's BTF does not define".into());
        };
        let record = |kind, size: usize| Shape::Record {
            kind,
            size: Some(size as u64),
        };
        match &bare {
            Type::Void => Shape::Void,
            Type::Int(t) => int(t, &btf.resolve_name(t).unwrap_or_default()),
            Type::Float(t) => Shape::Float {
                bytes: small(t.size()),
            },
            Type::Ptr(t) => Shape::Pointer {
                to: t
                    .get_type_id()
                    .filter(|id| *id != 0)
                    .map(|id| type_id(number, id)),
                reference: false,
                bytes: size_of::<u64>() as u8,
            },
            Type::Array(t) => Shape::Array {
                of: type_id(number, t.get_type_id().unwrap_or(0)),
                // A flexible array member is written as one of no elements.
                count: (t.len() > 0).then_some(t.len() as u64),
            },
            Type::Struct(t) => record(RecordKind::Struct, t.size()),
            Type::Union(t) => record(RecordKind::Union, t.size()),
            Type::Fwd(t) => match self.definition(btf, t).and_then(|ty| self.bare(ty)) {
                Some((_, _, Type::Struct(t))) => record(RecordKind::Struct, t.size()),
                Some((_, _, Type::Union(t))) => record(RecordKind::Union, t.size()),
                _ => Shape::Record {
                    kind: RecordKind::Struct,
                    size: None,
                },
            },
            Type::Enum(t) => Shape::Enum {
                bytes: small(t.size()),
                signed: t.is_signed(),
                values: t
                    .members
                    .iter()
                    .map(|m| {
                        (
                            btf.resolve_name(m).unwrap_or_default(),
                            extend32(m.val(), t.is_signed()),
                        )
                    })
                    .collect(),
            },
            Type::Enum64(t) => Shape::Enum {
                bytes: small(t.size()),
                signed: t.is_signed(),
                values: t
                    .members
                    .iter()
                    .map(|m| {
                        (
                            btf.resolve_name(m).unwrap_or_default(),
                            extend64(m.val(), t.is_signed()),
                        )
                    })
                    .collect(),
            },
            Type::Func(_) | Type::FuncProto(_) => Shape::Function,
            other => Shape::Unsupported(format!("a BTF type of kind {}", other.name())),
        }
    }

    fn size(&self, ty: TypeId) -> Option<u64> {
        let mut each = ty;
        let mut elements: u64 = 1;
        for _ in 0..MAX_DEPTH {
            let one = match self.shape(each) {
                Shape::Array { of, count } => {
                    elements = elements.checked_mul(count?)?;
                    each = of;
                    continue;
                }
                shape => shape.plain_size()?,
            };
            return elements.checked_mul(one);
        }
        None
    }

    fn members(&self, ty: TypeId) -> Vec<Member> {
        let defined = match self.bare(ty) {
            Some((_, btf, Type::Fwd(declared))) => self.definition(btf, &declared),
            _ => None,
        };
        flatten(self, defined.unwrap_or(ty))
    }

    fn named(&self, name: &str) -> Result<Option<TypeId>> {
        let (tag, bare) = match name.trim().split_once(' ') {
            Some((tag @ ("struct" | "union" | "enum"), rest)) => (Some(tag), rest.trim()),
            _ => (None, name.trim()),
        };
        if bare.is_empty() {
            return Ok(None);
        }
        for (number, _, btf) in self.sources() {
            let ids = btf.resolve_ids_by_name(bare).map_err(damaged)?;
            let mut best = None;
            for id in ids {
                let rank = match (tag, btf.resolve_type_by_id(id).map_err(damaged)?) {
                    (None, Type::Typedef(_) | Type::Int(_) | Type::Float(_)) => 0,
                    (None | Some("struct"), Type::Struct(_)) => 1,
                    (None | Some("union"), Type::Union(_)) => 2,
                    (None | Some("enum"), Type::Enum(_) | Type::Enum64(_)) => 3,
                    _ => continue,
                };
                if best.is_none_or(|(before, _)| rank < before) {
                    best = Some((rank, id));
                }
            }
            if let Some((_, id)) = best {
                return Ok(Some(type_id(number, id)));
            }
        }
        Ok(None)
    }

    fn type_name(&self, ty: TypeId) -> String {
        c_name(self, Some(ty))
    }
}

fn int(int: &btf_rs::Int, name: &str) -> Shape {
    let bytes = small(int.size());
    if int.is_bool() {
        Shape::Bool { bytes }
    } else if int.is_char() || matches!(name, "char" | "signed char") {
        // `unsigned char` is the kernel's u8: a number. Its plain `char` is text, though it has no sign since Linux 6.2
        // (-funsigned-char).
        Shape::Char {
            bytes,
            signed: name == "char" || int.is_signed(),
        }
    } else {
        Shape::Int {
            bytes,
            signed: int.is_signed(),
        }
    }
}

fn small(size: usize) -> u8 {
    u8::try_from(size).unwrap_or(u8::MAX)
}

fn extend32(value: u32, signed: bool) -> i128 {
    if signed {
        i128::from(value.cast_signed())
    } else {
        i128::from(value)
    }
}

fn extend64(value: u64, signed: bool) -> i128 {
    if signed {
        i128::from(value.cast_signed())
    } else {
        i128::from(value)
    }
}
