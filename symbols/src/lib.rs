//! From a name to a place in a file and back: functions, lines and static probes of ELF executables and shared
//! libraries, the instruction where a probe on them costs least, parameters and types with the places where their
//! values are, and the files that a running process has mapped. Knows nothing of probes.
//!
//! The usual flow: open an image, find functions, place a site in each.
//!
//! ```
//! use uprof_symbols::{Image, Pattern, find_library_file};
//! use uprof_symbols::site::{self, ArgSet, Purpose};
//!
//! let image = Image::open(&find_library_file("libc")?)?;
//! for function in image.find(&Pattern::parse("malloc")?)? {
//!     let site = image.place(&function, Purpose::EntryReturn, ArgSet::EMPTY.with(0))?;
//!     println!("{} at file offset {:#x}: {} ({:?})", function.name(), site.offset, site.instruction(), site.cost);
//! }
//! # Ok::<(), uprof_symbols::Error>(())
//! ```
//!
//! - [`image`]: one ELF file: its functions, imports, identity.
//! - [`debug`]: the files where its names and debug information are kept apart.
//! - [`dwarf`]: what debug information says of functions, inlined copies and lines.
//! - [`types`]: parameters, variables and types, and where values are at an instruction.
//! - [`kernel`]: functions, types and tracepoints of the running kernel.
//! - [`site`]: where in a function a probe may sit, and what it costs there.
//! - [`eh_frame`]: where code starts and ends by its unwind tables.
//! - [`go`]: functions and lines of Go programs, stripped ones too.
//! - [`usdt`]: probes that programs bring along.
//! - [`resolve`]: from an address of a process back to functions, files and lines.
//! - [`process`]: what runs, what it has mapped, and which library it binds a symbol to.

mod arch;
pub mod debug;
mod demangle;
pub mod dwarf;
pub mod eh_frame;
mod error;
pub mod go;
pub mod hazard;
pub mod image;
pub mod kernel;
mod loaded;
mod matcher;
mod pattern;
mod plt;
pub mod process;
mod raw_symbols;
pub mod resolve;
pub mod site;
pub mod types;
pub mod usdt;

pub use demangle::demangle;
pub use error::{Error, Result};
pub use image::{FileId, Function, Image, NameSource, OpenOptions};
pub use pattern::Pattern;
pub use process::{Process, find_library_file, find_program};
pub use resolve::Symbolizer;
pub use usdt::Usdt;
