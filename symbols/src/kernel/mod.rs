//! What the running kernel offers to look at, with types: its functions and structs ([`KernelTypes`], from BTF),
//! and its tracepoints ([`tracepoint`], from tracefs).

mod btf;
mod format;
mod shapes;
mod tracefs;

pub use btf::{KernelArgument, KernelFunction, KernelTypes, types};
pub use format::{FieldKind, FieldPlace, Tracepoint, TracepointField};
pub use tracefs::{Tracefs, tracepoint, tracepoints};
