//! What a type is, in the few shapes that a probe can do something with.
//! DWARF and the kernel's BTF are both read into this model; [`TypeModel`] is the one way to ask either.

use crate::error::Result;

/// A type within one source of types (one image's debug information, or the kernel's BTF).
/// It means nothing in another source.
#[derive(Copy, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct TypeId(pub(crate) u64);

impl TypeId {
    /// It as an opaque number, for those who carry types without knowing of this crate.
    pub fn to_raw(self) -> u64 {
        self.0
    }

    /// What [`TypeId::to_raw`] gave. Any other number is a type that the source does not have.
    pub fn from_raw(number: u64) -> Self {
        Self(number)
    }
}

/// What a type comes to, with typedefs and qualifiers (`const`, `volatile`, atomic ...) looked through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `void`, or a typedef of it.
    Void,
    /// An integer of 1, 2, 4, 8 or 16 bytes.
    Int {
        /// Size in bytes.
        bytes: u8,
        /// Whether it has a sign.
        signed: bool,
    },
    /// A truth value of one byte (rarely more).
    Bool {
        /// Size in bytes.
        bytes: u8,
    },
    /// A character: C's `char` has 1 byte, Rust's `char`, `char32_t` and `wchar_t` have 4.
    Char {
        /// Size in bytes.
        bytes: u8,
        /// Whether it has a sign.
        signed: bool,
    },
    /// A floating-point number: a BPF program can copy its bytes, not compute with it.
    Float {
        /// Size in bytes.
        bytes: u8,
    },
    /// An enumeration.
    Enum {
        /// Size in bytes.
        bytes: u8,
        /// Whether its values have a sign.
        signed: bool,
        /// Names and values, in the order of the source.
        values: Vec<(String, i128)>,
    },
    /// A pointer, or a C++ reference.
    Pointer {
        /// What it leads to; `None` for `void *`, and for a pointer whose target the file does not describe.
        to: Option<TypeId>,
        /// A C++ `&` or `&&`: written in the source as if it were the value itself.
        reference: bool,
        /// Size in bytes.
        bytes: u8,
    },
    /// An array whose elements lie one after another.
    Array {
        /// The element's type.
        of: TypeId,
        /// Elements; `None` where the file does not say (`char data[]`).
        count: Option<u64>,
    },
    /// A struct, class or union: see [`TypeModel::members`].
    Record {
        /// Which of them.
        kind: RecordKind,
        /// Size in bytes; `None` where it is only declared and no definition is anywhere in the file.
        size: Option<u64>,
    },
    /// Text or bytes with a length of their own: a pointer and a length inside a record.
    /// Its members can be asked for like a record's.
    Text(Text),
    /// A function (what a function pointer leads to).
    Function,
    /// Something that a probe cannot read; the words say what.
    Unsupported(String),
}

impl Shape {
    /// Size in bytes of everything but arrays, whose elements have to be asked.
    pub(crate) fn plain_size(&self) -> Option<u64> {
        match self {
            Self::Int { bytes, .. }
            | Self::Bool { bytes }
            | Self::Char { bytes, .. }
            | Self::Float { bytes }
            | Self::Enum { bytes, .. }
            | Self::Pointer { bytes, .. } => Some(u64::from(*bytes)),
            Self::Record { size, .. } => *size,
            Self::Text(text) => Some(text.size),
            Self::Void | Self::Array { .. } | Self::Function | Self::Unsupported(_) => None,
        }
    }
}

/// What kind of record.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// `struct`
    Struct,
    /// `class`
    Class,
    /// `union`: all members at offset 0
    Union,
    /// A Rust enum with data: which members are meaningful depends on its discriminant.
    RustEnum,
}

/// A record that holds text (or bytes) as a pointer and a length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// Bytes from the record's start to the pointer to the first byte (8 bytes wide).
    pub pointer: u64,
    /// Where the length is, in bytes of text.
    pub length: TextLength,
    /// The record's size in bytes.
    pub size: u64,
    /// Bytes (`&[u8]`, `Vec<u8>`, `[]byte`), not meant to be read as text.
    pub binary: bool,
}

/// Where a text's length lies.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum TextLength {
    /// In the record: this many bytes from its start.
    At {
        /// Bytes from the record's start.
        offset: u64,
        /// Width in bytes.
        bytes: u8,
    },
    /// In memory before the text itself, as in libstdc++'s `std::string` before GCC 5 (copy on write).
    Before {
        /// Bytes from the length to the first byte of text.
        distance: u64,
        /// Width in bytes.
        bytes: u8,
    },
}

/// A member of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name. A C++ base class that has members is flattened: its members stand here by their own names.
    pub name: String,
    /// Its type.
    pub ty: TypeId,
    /// Bytes from the record's start. For a bit field: to the storage unit that `bits` counts in.
    pub offset: u64,
    /// For a bit field, which bits.
    pub bits: Option<BitField>,
}

/// Which bits of a little-endian storage unit a bit field has: `(unit >> shift) & ((1 << bits) - 1)`.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct BitField {
    /// Width of the storage unit to load, in bytes: 1, 2, 4 or 8.
    pub unit: u8,
    /// Bits below the field.
    pub shift: u8,
    /// Bits of the field.
    pub bits: u8,
}

/// A source of types.
pub trait TypeModel {
    /// What the type comes to. Damaged or unknown types are [`Shape::Unsupported`] with the reason.
    fn shape(&self, ty: TypeId) -> Shape;

    /// Size in bytes, where it is known.
    fn size(&self, ty: TypeId) -> Option<u64>;

    /// A record's members: those of C++ base classes first, anonymous structs and unions flattened into it.
    /// Empty for everything else, and for records that are only declared.
    fn members(&self, ty: TypeId) -> Vec<Member>;

    /// One member by name; the derived class's own wins over a base's of the same name.
    fn member(&self, ty: TypeId, name: &str) -> Option<Member> {
        self.members(ty).into_iter().rev().find(|m| m.name == name)
    }

    /// The type of that name: `struct client`, `union u`, `enum e`, `class C`, `client_t`, `ns::Foo`, `unsigned int`.
    /// A definition is preferred to a declaration.
    ///
    /// # Errors
    /// The source cannot be read.
    fn named(&self, name: &str) -> Result<Option<TypeId>>;

    /// The type as its language writes it: `struct client *`, `const char *`, `int [4]`, `&str`.
    fn type_name(&self, ty: TypeId) -> String;
}
