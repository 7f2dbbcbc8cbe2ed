//! The types of values.

use std::sync::Arc;

use crate::debug::TypeRef;

/// A type.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    /// An integer. Truth values are `int`s that are 0 or 1.
    Int {
        /// 8, 16, 32 or 64.
        bits: u8,
        /// Two's complement.
        signed: bool,
    },
    /// An address in the probed process.
    Ptr {
        /// What stands there.
        to: Box<Type>,
    },
    /// What a `void*` points to; no value has this type.
    Void,
    /// A text: `comm`, `str(p)`, a literal.
    Str,
    /// Bytes: `buf(p, n)`.
    Bytes,
    /// A probed function, shown by its name: `parent`. It can be captured or be a key, and nothing else.
    Function,
    /// A stack: addresses of code, innermost first. It can be captured or be a key, and nothing else.
    Stack,
    /// An address of the network, with its port or without; shown as `127.0.0.1:80`, `[::1]:80`, `::1`. It can be
    /// captured or be a key, and nothing else.
    Address,
    /// An enumeration, from debug information: an integer whose values have names.
    Enum(Arc<EnumType>),
    /// What a pointer of debug information points to, where that is no integer and no pointer. No bound
    /// expression has a value of this type.
    Named(Arc<NamedType>),
    /// Known once debug information is: the type of a [`Kind::Deferred`].
    Deferred,
}

/// An enumeration.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EnumType {
    /// As its language writes it: `enum color`.
    pub name: String,
    /// 8, 16, 32 or 64.
    pub bits: u8,
    /// Two's complement.
    pub signed: bool,
    /// Values, extended to 64 bits as an expression's value is, and their names.
    pub values: Vec<(u64, String)>,
}

impl EnumType {
    /// The name of a value; the first one, where several names have it.
    pub fn name_of(&self, value: u64) -> Option<&str> {
        let (_, name) = self.values.iter().find(|(v, _)| *v == value)?;
        Some(name)
    }
}

/// A type known by debug information alone: a struct, an array, a fraction.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NamedType {
    /// As its language writes it: `struct client`.
    pub name: String,
    /// What debug information calls it.
    pub ty: TypeRef,
    /// In bytes; `None` where it is only declared.
    pub size: Option<u64>,
}

impl Type {
    /// `u64`.
    pub const U64: Type = Type::Int {
        bits: 64,
        signed: false,
    };
    /// `i64`.
    pub const I64: Type = Type::Int {
        bits: 64,
        signed: true,
    };
    /// `u32`.
    pub const U32: Type = Type::Int {
        bits: 32,
        signed: false,
    };
    /// `int`: the type of comparisons.
    pub const INT: Type = Type::Int {
        bits: 32,
        signed: true,
    };

    /// Integer, enumeration or pointer: what fits a register.
    pub fn is_scalar(&self) -> bool {
        matches!(self, Type::Int { .. } | Type::Ptr { .. } | Type::Enum(_))
    }

    /// Bits and sign of an integer or enumeration.
    pub fn as_int(&self) -> Option<(u8, bool)> {
        match self {
            Type::Int { bits, signed } => Some((*bits, *signed)),
            Type::Enum(e) => Some((e.bits, e.signed)),
            _ => None,
        }
    }

    /// The size of a value of this type in memory; `void` counts 1, as in GNU C. `None` for texts, and where
    /// it is not known.
    pub fn size(&self) -> Option<u64> {
        match self {
            Type::Int { bits, .. } => Some(u64::from(*bits) / 8),
            Type::Ptr { .. } => Some(8),
            Type::Void => Some(1),
            Type::Enum(e) => Some(u64::from(e.bits) / 8),
            Type::Named(named) => named.size,
            Type::Str
            | Type::Bytes
            | Type::Function
            | Type::Stack
            | Type::Address
            | Type::Deferred => None,
        }
    }
}
