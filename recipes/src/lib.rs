//! The recipe language of uprof and its built-in recipes.
//!
//! A recipe is TOML with C-like expressions; `docs/recipes.md` is its reference. [`parse`] turns one into a
//! checked [`Recipe`]: every name is known, every expression has a type, and every error carries the place in
//! the text. The crate knows nothing of the kernel or of ELF files: a recipe says what is wanted, not how.
//!
//! - [`mod@error`]: a text with a name, and an error that points into it
//! - [`expr`]: expressions: grammar, checker, typed tree
//! - [`debug`]: what is asked of debug information once the binary is known
//! - [`model`]: what a recipe is
//! - `bind`: a probe at one place, with what debug information knows there
//! - `load`: TOML -> model
//! - [`builtin`]: the recipes that come with uprof

mod bind;
pub mod builtin;
pub mod debug;
pub mod error;
pub mod expr;
mod load;
pub mod model;
mod suggest;

pub use builtin::{Builtin as BuiltinRecipe, builtin};
pub use debug::DebugInfo;
pub use error::{Error, Source};
pub use expr::Spent;
pub use expr::{
    BinOp, Builtin, Deferred, EnumType, Expr, Kind, NamedType, Scope, Type, UnOp, parse_expr,
    rebind_args,
};
pub use load::parse;
pub use model::{
    Action, Align, At, Closes, Column, Context, FrameKey, Graph, Join, LastBy, ObjectRule, Param,
    ParamKind, Probe, ProbeKind, Provider, Recipe, Report, Returns, Scale, SocketEvents, Sockets,
    Spanned, Stat, StatKind, Statements, Target, Top, Value,
};
