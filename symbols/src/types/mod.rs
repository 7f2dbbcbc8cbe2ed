//! Types, variables, and where their values are when a probe is hit.
//!
//! - [`model`]: what a type is ([`Shape`], [`Member`]), the same for DWARF and the kernel's BTF;
//! - [`place`]: where a value is ([`Place`], [`Variable`]).

pub mod model;
pub(crate) mod naming;
pub mod place;

pub use model::{BitField, Member, RecordKind, Shape, Text, TextLength, TypeId, TypeModel};
pub use place::{Address, Arithmetic, Place, Scope, Variable, VariableKind};
