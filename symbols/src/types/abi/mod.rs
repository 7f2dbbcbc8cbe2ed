//! Calling conventions: where parameters are when a function is entered, and its value when it has returned.
//! What the processor's own convention says is in one file per architecture.

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub(super) use x86_64::{ARGUMENTS, cfa_at_entry, parameters, readable, returned};

/// Whose rules a function follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Convention {
    /// The processor's C convention; C++ follows it too.
    C,
    /// Rust's own, which no document promises: what its compilers have done so far.
    Rust,
    /// Go's since 1.17 ("ABIInternal", cmd/compile/abi-internal.md).
    Go,
    /// Go's before: everything on the stack.
    GoStack,
}

/// What a piece of a value is to a calling convention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It goes in a general register.
    Integer,
    /// It goes in a floating-point register.
    Float,
    /// Neither: `long double`, vectors, complex numbers, what nobody described.
    Other,
}

/// A value of a scalar type within a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leaf {
    /// Bytes from the start of the whole value.
    pub(super) offset: u64,
    pub(super) bytes: u64,
    pub(super) kind: Kind,
}

/// What a calling convention wants to know of a type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Passed {
    pub(super) size: u64,
    pub(super) align: u64,
    /// Its scalars, by offset; those of a union side by side. Empty for a value with more than anyone passes in
    /// registers.
    pub(super) leaves: Vec<Leaf>,
    /// A struct, union or array.
    pub(super) aggregate: bool,
    /// C++ passes the address of a copy: the class has a destructor or copy constructor of its own.
    pub(super) by_reference: bool,
    /// Some leaves overlap in different forms: a union, or a Rust enum.
    pub(super) overlaps: bool,
}

/// What is said of a value in a floating-point register.
pub(super) const IN_FLOAT_REGISTER: &str = "in a floating-point register, which probes cannot read";
