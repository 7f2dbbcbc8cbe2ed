//! The recipe language of uprof and its built-in recipes.
//!
//! A recipe is TOML with C-like expressions; `docs/recipes.md` is its reference. [`parse`] turns one into a
//! checked [`Recipe`]: every name is known, every expression has a type, and every error carries the place in
//! the text. The crate knows nothing of the kernel or of ELF files: a recipe says what is wanted, not how.
//!
//! - [`mod@error`]: a text with a name, and an error that points into it
//! - [`expr`]: expressions: grammar, checker, typed tree
//! - [`model`]: what a recipe is
//! - `load`: TOML -> model
//! - [`builtin`]: the recipes that come with uprof

pub mod builtin;
pub mod error;
pub mod expr;
mod load;
pub mod model;
mod suggest;

pub use builtin::{Builtin as BuiltinRecipe, builtin};
pub use error::{Error, Source};
pub use expr::{BinOp, Builtin, Expr, Kind, Scope, Type, UnOp, parse_expr};
pub use load::parse;
pub use model::{
    Action, Align, At, Column, Join, ObjectRule, Param, ParamKind, Probe, ProbeKind, Recipe,
    Report, Spanned, Statements, Target, Top, Value,
};
