//! Types for expressions, from whoever knows them: a program's debug information, the kernel's BTF, and the plain types
//! that the formats of tracepoints are written in.

use std::cell::RefCell;

use uprof_recipes::debug as r;
use uprof_symbols::kernel;
use uprof_symbols::types::{Shape, TextLength, TypeId, TypeModel, Types};

/// Set in the numbers of the kernel's types: a program's own stay below.
const KERNEL: u64 = 1 << 63;
/// Set in the numbers of types that are made here.
const PLAIN: u64 = 1 << 62;

/// A type that no debug information describes.
#[derive(Clone, Debug, PartialEq)]
pub struct PlainType {
    /// What it comes to.
    pub shape: r::TypeShape,
    /// As the kernel writes it.
    pub name: String,
    /// In bytes, where it has a size.
    pub size: Option<u64>,
    /// An integer in the network's byte order.
    pub network_order: bool,
}

impl PlainType {
    /// That of a variable that only the symbol table knows.
    pub fn untyped() -> Self {
        Self {
            shape: r::TypeShape::Unsupported(
                "a variable whose type only debug information would tell: take its address, as in *(u64*)&NAME"
                    .to_owned(),
            ),
            name: "unknown type".to_owned(),
            size: None,
            network_order: false,
        }
    }
}

/// The types that the expressions of one place may ask for.
#[derive(Default)]
pub struct Models<'a> {
    /// The program's.
    pub program: Option<Types<'a>>,
    plain: RefCell<Vec<PlainType>>,
}

impl Models<'_> {
    fn of(&self, ty: r::TypeRef) -> Option<(&dyn TypeModel, u64)> {
        if ty.0 & KERNEL != 0 {
            let model: &dyn TypeModel = kernel::types().ok()?;
            return Some((model, KERNEL));
        }
        let program = self.program.as_ref()?;
        Some((program, 0))
    }

    fn made(&self, ty: r::TypeRef) -> Option<PlainType> {
        let index = (ty.0 & KERNEL == 0 && ty.0 & PLAIN != 0).then_some(ty.0 & !PLAIN)?;
        self.plain
            .borrow()
            .get(usize::try_from(index).ok()?)
            .cloned()
    }

    /// Gives a type a number.
    pub fn make(&self, ty: PlainType) -> r::TypeRef {
        let mut plain = self.plain.borrow_mut();
        let known = plain.iter().position(|t| *t == ty);
        let index = known.unwrap_or_else(|| {
            plain.push(ty);
            plain.len() - 1
        });
        r::TypeRef(PLAIN | index as u64)
    }

    /// See [`uprof_recipes::DebugInfo::named`].
    pub fn named(&self, name: &str) -> Option<r::TypeRef> {
        self.program.as_ref()?.named(name).ok()?.map(of_program)
    }

    /// See [`uprof_recipes::DebugInfo::kernel_type`].
    pub fn kernel_type(&self, name: &str) -> Result<Option<r::TypeRef>, String> {
        let types = kernel::types().map_err(|e| e.to_string())?;
        Ok(types.named(name).map_err(|e| e.to_string())?.map(of_kernel))
    }

    /// See [`uprof_recipes::DebugInfo::network_order`].
    pub fn network_order(&self, ty: r::TypeRef) -> bool {
        if let Some(made) = self.made(ty) {
            return made.network_order;
        }
        ty.0 & KERNEL != 0 && kernel::types().is_ok_and(|types| types.is_network_order(id(ty)))
    }

    /// See [`uprof_recipes::DebugInfo::shape`].
    pub fn shape(&self, ty: r::TypeRef) -> r::TypeShape {
        if let Some(made) = self.made(ty) {
            return made.shape;
        }
        match self.of(ty) {
            Some((types, tag)) => shape(types.shape(id(ty)), tag),
            None => r::TypeShape::Unsupported("a type of no source".to_owned()),
        }
    }

    /// See [`uprof_recipes::DebugInfo::size`].
    pub fn size(&self, ty: r::TypeRef) -> Option<u64> {
        match self.made(ty) {
            Some(made) => made.size,
            None => self.of(ty)?.0.size(id(ty)),
        }
    }

    /// See [`uprof_recipes::DebugInfo::member`].
    pub fn member(&self, ty: r::TypeRef, name: &str) -> Result<r::Member, Vec<String>> {
        let Some((types, tag)) = self.of(ty).filter(|_| self.made(ty).is_none()) else {
            return Err(Vec::new());
        };
        match types.member(id(ty), name) {
            Some(member) => Ok(r::Member {
                offset: member.offset,
                ty: r::TypeRef(member.ty.to_raw() | tag),
                bits: member.bits.map(|b| r::BitField {
                    unit: b.unit,
                    shift: b.shift,
                    bits: b.bits,
                }),
            }),
            None => Err(types.members(id(ty)).into_iter().map(|m| m.name).collect()),
        }
    }

    /// See [`uprof_recipes::DebugInfo::name`].
    pub fn name(&self, ty: r::TypeRef) -> String {
        match self.made(ty) {
            Some(made) => made.name,
            None => self
                .of(ty)
                .map_or_else(String::new, |(types, _)| types.type_name(id(ty))),
        }
    }
}

/// The number of a program's type.
pub fn of_program(ty: TypeId) -> r::TypeRef {
    r::TypeRef(ty.to_raw())
}

/// The number of a type of the kernel.
pub fn of_kernel(ty: TypeId) -> r::TypeRef {
    r::TypeRef(ty.to_raw() | KERNEL)
}

fn id(ty: r::TypeRef) -> TypeId {
    TypeId::from_raw(ty.0 & !KERNEL)
}

fn shape(shape: Shape, tag: u64) -> r::TypeShape {
    use r::TypeShape as T;
    let type_ref = |ty: TypeId| r::TypeRef(ty.to_raw() | tag);
    match shape {
        Shape::Void => T::Void,
        Shape::Int { bytes, signed } => T::Int { bytes, signed },
        Shape::Bool { bytes } => T::Bool { bytes },
        Shape::Char { bytes, signed } => T::Char { bytes, signed },
        Shape::Float { bytes } => T::Float { bytes },
        Shape::Enum {
            bytes,
            signed,
            values,
        } => T::Enum {
            bytes,
            signed,
            values,
        },
        Shape::Pointer { to, reference, .. } => T::Pointer {
            to: to.map(type_ref),
            reference,
        },
        Shape::Array { of, count } => T::Array {
            of: type_ref(of),
            count,
        },
        Shape::Record { .. } => T::Record,
        Shape::Text(text) => T::Text(r::TextShape {
            pointer: text.pointer,
            length: match text.length {
                TextLength::At { offset, bytes } => r::TextLength::At { offset, bytes },
                TextLength::Before { distance, bytes } => r::TextLength::Before { distance, bytes },
            },
            binary: text.binary,
        }),
        Shape::Function => T::Function,
        Shape::Unsupported(what) => T::Unsupported(what),
    }
}
