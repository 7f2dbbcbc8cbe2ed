//! Where a value is, in terms that a BPF program can compute: registers, constants, loads, and simple arithmetic.

use super::model::TypeId;

/// Where a value is at one instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The expression is the value itself: in a register, or computed. Bits above the type's width mean nothing.
    Value(Address),
    /// The value lies in memory at this address.
    Memory(Address),
    /// The value is in parts, lowest bytes first: (bytes, place).
    Pieces(Vec<(u8, Place)>),
    /// The value is known without looking.
    Constant(u64),
    /// It cannot be had here; the words say why, to follow "NAME is ": "optimised out here".
    Unavailable(String),
}

/// A 64-bit number computed at the probe. Arithmetic wraps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A register of the probed thread, by its DWARF number (x86-64: System V ABI, figure 3.36).
    Register(u16),
    /// A number.
    Constant(u64),
    /// This address of the file, where it is loaded: instruction pointer at the probe - the site's address + this.
    PcRelative(u64),
    /// A sum with a constant.
    Add(Box<Address>, i64),
    /// What lies in the probed process's memory, zero-extended.
    Load {
        /// Where.
        at: Box<Address>,
        /// How many bytes: 1, 2, 4 or 8.
        bytes: u8,
    },
    /// Two numbers combined.
    Binary {
        /// How.
        op: Arithmetic,
        /// The left one.
        left: Box<Address>,
        /// The right one.
        right: Box<Address>,
    },
}

/// What [`Address::Binary`] does, on unsigned 64-bit numbers unless it says otherwise.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    /// left + right
    Add,
    /// left - right
    Sub,
    /// left * right
    Mul,
    /// left & right
    And,
    /// left | right
    Or,
    /// left ^ right
    Xor,
    /// left << right; 0 from 64 on
    Shl,
    /// left >> right, zeros from above; 0 from 64 on
    Shr,
    /// left >> right, the sign from above; all sign from 64 on
    Sar,
}

/// A variable of the source and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    /// Its name in the source; empty for a parameter without one.
    pub name: String,
    /// Its type.
    pub ty: TypeId,
    /// Where it is.
    pub place: Place,
    /// What it is.
    pub kind: VariableKind,
}

/// What a variable is in its function.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum VariableKind {
    /// A parameter; counted from 0, `this` included.
    Parameter {
        /// Its number.
        index: usize,
    },
    /// A local variable in scope.
    Local,
    /// A variable of the file.
    Global,
    /// What the function returns; its place holds just after the return.
    Return,
}

/// Whose variables are asked for, at one instruction.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Scope<'a> {
    /// The function that the instruction belongs to as compiled, whatever was inlined into it there.
    Function,
    /// The innermost copy of this function (its name, qualified name or linkage name) inlined there.
    Inlined(&'a str),
}

impl Address {
    /// This plus a constant, with sums of constants folded.
    pub fn plus(self, add: i64) -> Self {
        match self {
            other if add == 0 => other,
            Self::Constant(value) => Self::Constant(value.wrapping_add_signed(add)),
            Self::PcRelative(value) => Self::PcRelative(value.wrapping_add_signed(add)),
            Self::Add(base, before) => match before.checked_add(add) {
                Some(0) => *base,
                Some(sum) => Self::Add(base, sum),
                None => Self::Add(Box::new(Self::Add(base, before)), add),
            },
            other => Self::Add(Box::new(other), add),
        }
    }

    /// What lies in memory here.
    pub fn load(self, bytes: u8) -> Self {
        Self::Load {
            at: Box::new(self),
            bytes,
        }
    }
}
