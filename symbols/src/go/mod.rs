//! Go's own tables: `.gopclntab` names every function and every line, also in stripped programs, since the runtime
//! needs it for its stack traces.
//!
//! - [`table`]: finding it, its header in each of its versions, the list of functions;
//! - [`lines`]: from an address to functions (inlined ones too), files and lines;
//! - [`module`]: the runtime's record of the program, which leads to the trees of inlined calls;
//! - [`build_info`]: which Go made it.
//!
//! The layouts are those of the Go sources: runtime/symtab.go and runtime/runtime2.go (`pcHeader`, `_func`,
//! `inlinedCall`, `moduledata`), debug/buildinfo.

mod build_info;
mod lines;
mod module;
mod table;

pub use build_info::version;
pub use lines::GoFrame;
pub use table::{GoFunction, GoTable, read};

/// A number of SIZE (4 or 8) bytes, little-endian, as all Go programs for this processor have them.
fn number(bytes: &[u8], at: usize, size: usize) -> Option<u64> {
    let mut word = [0; 8];
    word.get_mut(..size)?
        .copy_from_slice(bytes.get(at..at.checked_add(size)?)?);
    Some(u64::from_le_bytes(word))
}

fn half(bytes: &[u8], at: usize) -> Option<u32> {
    u32::try_from(number(bytes, at, 4)?).ok()
}

fn index(bytes: &[u8], at: usize, size: usize) -> Option<usize> {
    usize::try_from(number(bytes, at, size)?).ok()
}

/// The text at an offset, up to its NUL.
fn text(bytes: &[u8], at: usize) -> Option<&[u8]> {
    /// Names of instantiated generics are long, but not like this; without a limit, a damaged table in which all
    /// names run to its end would take the square of its size.
    const LONGEST: usize = 16 << 10;
    let rest = bytes.get(at..)?;
    let rest = rest.get(..LONGEST).unwrap_or(rest);
    let end = rest.iter().position(|byte| *byte == 0)?;
    rest.get(..end)
}
