//! What a recipe asks of debug information, once the binary is known.
//!
//! A recipe is read before anybody knows which binary it meets. Expressions with names or members in them that
//! only debug information can know are kept ([`crate::Expr::is_deferred`]) and bound at each place by
//! [`crate::model::Probe::bind`], which asks through [`DebugInfo`]. Whoever has DWARF, BTF or the format of a
//! tracepoint implements it; this crate reads none of them.

use crate::expr::Expr;

/// A type of one source of debug information; it means nothing in another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TypeRef(pub u64);

/// What a type comes to, with typedefs and qualifiers looked through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TypeShape {
    /// `void`
    Void,
    /// An integer.
    Int {
        /// Size in bytes.
        bytes: u8,
        /// Two's complement.
        signed: bool,
    },
    /// A truth value.
    Bool {
        /// Size in bytes.
        bytes: u8,
    },
    /// A character.
    Char {
        /// Size in bytes: 1 for C's `char`.
        bytes: u8,
        /// Two's complement: as C's plain `char` is on x86-64. A pointer to such ones is a text.
        signed: bool,
    },
    /// A floating-point number.
    Float {
        /// Size in bytes.
        bytes: u8,
    },
    /// An enumeration.
    Enum {
        /// Size in bytes.
        bytes: u8,
        /// Two's complement.
        signed: bool,
        /// Names and values.
        values: Vec<(String, i128)>,
    },
    /// A pointer or a reference.
    Pointer {
        /// To what; `None`: `void*`, or not described.
        to: Option<TypeRef>,
        /// A C++ reference: written as if it were what it refers to.
        reference: bool,
    },
    /// Elements one after another.
    Array {
        /// Of what.
        of: TypeRef,
        /// How many, where that is known.
        count: Option<u64>,
    },
    /// A struct, class or union.
    Record,
    /// A record that holds a text: `std::string`, `&str`, Go's `string`. It may have members, too.
    Text(TextShape),
    /// A function.
    Function,
    /// What cannot be read; the words say what it is.
    Unsupported(String),
}

/// Where a record keeps a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextShape {
    /// Bytes from the record's start to the pointer (8 bytes wide).
    pub pointer: u64,
    /// Where the length is, which counts bytes.
    pub length: TextLength,
    /// Bytes (`&[u8]`), not meant to be read as text.
    pub binary: bool,
}

/// Where the length of a text lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextLength {
    /// In the record.
    At {
        /// Bytes from the record's start.
        offset: u64,
        /// Width in bytes.
        bytes: u8,
    },
    /// In memory before the text.
    Before {
        /// Bytes from the length to the text.
        distance: u64,
        /// Width in bytes.
        bytes: u8,
    },
}

/// A member of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Bytes from the record's start; for a bit field, to the unit that it lies in.
    pub offset: u64,
    /// Its type.
    pub ty: TypeRef,
    /// For a bit field, which bits.
    pub bits: Option<BitField>,
}

/// Which bits of a little-endian unit: `(unit >> shift) & ((1 << bits) - 1)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BitField {
    /// Width of the unit in bytes: 1, 2, 4 or 8.
    pub unit: u8,
    /// Bits below the field.
    pub shift: u8,
    /// Bits of the field.
    pub bits: u8,
}

/// Where a variable is. The expressions are made of [`Expr::arg`], [`Expr::reg`], [`Expr::retval`],
/// [`Expr::int`], [`Expr::plus`], [`Expr::load`] and their like; their types are not looked at.
#[derive(Clone, Debug, PartialEq)]
pub enum Place {
    /// The expression is the value; bits above the type's width mean nothing.
    Value(Expr),
    /// The value lies in memory, at the address that the expression is.
    Memory(Expr),
    /// The value is in parts, lowest bytes first: how many bytes, and where.
    Pieces(Vec<(u8, Place)>),
}

/// A parameter or variable.
#[derive(Clone, Debug, PartialEq)]
pub struct Variable {
    /// Where it is.
    pub place: Place,
    /// Its type.
    pub ty: TypeRef,
}

/// What is known at one place of one binary.
pub trait DebugInfo {
    /// A parameter or variable by its name in the source; `None` when there is none of that name.
    ///
    /// # Errors
    /// It is there and cannot be read here; the words follow "NAME is ": "optimised out here".
    fn variable(&self, name: &str) -> Result<Option<Variable>, String>;

    /// The names of all parameters and variables, parameters first.
    fn variables(&self) -> Vec<String>;

    /// What the function returns, and where that is after the return; `None` when that is not known.
    fn returned(&self) -> Option<Variable>;

    /// `argN`: as the calling convention passes it, unless the place has arguments of its own, as a USDT has.
    ///
    /// # Errors
    /// The place has no such argument, or none that can be read; the words follow "argN is ".
    fn argument(&self, n: u8) -> Result<Expr, String> {
        Ok(Expr::arg(n))
    }

    /// 1 where the probed function returns into that one, else 0: a constant 0 where the file has no such function.
    ///
    /// # Errors
    /// The stack does not tell it at this place; the words say why.
    fn called_by(&self, _function: &str) -> Result<Expr, String> {
        Err("nothing is known of functions here".to_owned())
    }

    /// A type by its name: `struct client`, `client_t`, `ns::Foo`.
    fn named(&self, name: &str) -> Option<TypeRef>;

    /// What a type comes to.
    fn shape(&self, ty: TypeRef) -> TypeShape;

    /// A type's size in bytes; `None`: it is only declared, or has none.
    fn size(&self, ty: TypeRef) -> Option<u64>;

    /// A member of a record by its name.
    ///
    /// # Errors
    /// There is none of that name; the names that there are.
    fn member(&self, ty: TypeRef, name: &str) -> Result<Member, Vec<String>>;

    /// A type as its language writes it: `struct client`.
    fn name(&self, ty: TypeRef) -> String;

    /// Whether an integer type is in the network's byte order (`__be16`): its value is what [`crate::Kind::Swap`] makes
    /// of it.
    fn network_order(&self, _ty: TypeRef) -> bool {
        false
    }

    /// A type of the running kernel by its name, whatever is probed; `struct task_struct` is that of `curtask`. Its
    /// numbers differ from those of the program's types.
    ///
    /// # Errors
    /// Why none is known: the words follow "the kernel's types are unknown: ".
    fn kernel_type(&self, _name: &str) -> Result<Option<TypeRef>, String> {
        Err("nothing tells of them here".to_owned())
    }

    /// Why nothing, or not all, is known here: "redis-server has no debug information", with what to do about
    /// it; it is said with an unknown name. Empty: there is nothing to say.
    fn remark(&self) -> String {
        String::new()
    }
}
