//! Types, variables, and where their values are when a probe is hit.
//!
//! - [`model`]: what a type is ([`Shape`], [`Member`]), the same for DWARF and the kernel's BTF;
//! - [`place`]: where a value is ([`Place`], [`Variable`]);
//! - `naming`: types as C writes them, records flattened: what both sources share;
//! - `source`, `search`, `die`, `shapes`, `text`: the types of DWARF ([`Types`]);
//! - `variables`, `globals`, `scope`, `location`: what is in scope at an instruction, and where;
//! - `abi`, `passing`: where parameters are when a function is entered, where DWARF does not say.

mod abi;
mod die;
mod globals;
mod location;
pub mod model;
pub(crate) mod naming;
mod passing;
pub mod place;
mod scope;
mod search;
mod shapes;
mod source;
mod text;
mod variables;

pub use model::{BitField, Member, RecordKind, Shape, Text, TextLength, TypeId, TypeModel};
pub use place::{Address, Arithmetic, Place, Scope, Variable, VariableKind};
pub use source::Types;
