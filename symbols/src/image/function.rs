//! What a file tells about one function, and where each of these facts comes from.

use std::fmt;

use super::CODE_LIMIT;
use crate::demangle::demangle;
use crate::error::Error;
use crate::site::Site;

/// The table that a function's name came from, in order of trust: where two name a place, the first counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NameSource {
    /// `.symtab`: all names, until the file is stripped.
    Symtab,
    /// `.dynsym`: what the file exports.
    Dynsym,
    /// `.symtab` of a separate debug file.
    DebugFile,
    /// `.gnu_debugdata`: the small symbol table that Fedora and others leave in stripped files, xz-compressed.
    MiniDebug,
    /// Go's table of functions, which stays when a Go program is stripped.
    Pclntab,
    /// The functions of the debug information.
    Dwarf,
    /// No name at all, but a range that unwinding knows: called `fn_0xADDRESS` here.
    EhFrame,
    /// A stub of the procedure linkage table: a jump to a function of another file.
    Plt,
}

impl NameSource {
    /// All of them, in order of trust.
    pub const ALL: [Self; 8] = [
        Self::Symtab,
        Self::Dynsym,
        Self::DebugFile,
        Self::MiniDebug,
        Self::Pclntab,
        Self::Dwarf,
        Self::EhFrame,
        Self::Plt,
    ];
}

impl fmt::Display for NameSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Symtab => ".symtab",
            Self::Dynsym => ".dynsym",
            Self::DebugFile => "debug file",
            Self::MiniDebug => ".gnu_debugdata",
            Self::Pclntab => ".gopclntab",
            Self::Dwarf => "DWARF",
            Self::EhFrame => ".eh_frame",
            Self::Plt => ".plt",
        })
    }
}

/// Whether a place is a function of its own, or a piece of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// A function. Also a clone for some arguments (`f.isra.0`, `f.constprop.0`): it is called as one.
    Whole,
    /// `f.cold`: code of `f` that hardly runs, moved out of the way. It is jumped to, not called.
    Cold,
    /// `f.part.0`: the rest of `f`, called by it where its short beginning was not enough.
    Part,
    /// A stub of the procedure linkage table.
    Stub,
}

impl Part {
    /// What a symbol's name tells: GCC and LLVM mark pieces by suffixes (`f.cold`, `f.cold.3`, `f.part.0`).
    pub(crate) fn of_name(name: &[u8]) -> Self {
        let mut words = name.split(|byte| *byte == b'.');
        let has_base = words.next().is_some_and(|base| !base.is_empty());
        let mut part = Self::Whole;
        for word in words.filter(|_| has_base) {
            match word {
                b"cold" => return Self::Cold,
                b"part" => part = Self::Part,
                _ => {}
            }
        }
        part
    }
}

/// Who told where a function ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Bounds {
    /// The size in the symbol table.
    Symbol,
    /// The range in `.eh_frame`.
    Fde,
    /// The ranges in the debug information.
    Dwarf,
    /// Go's table of functions.
    Pclntab,
    /// The size of a stub in the procedure linkage table.
    Stub,
    /// Nobody: it is taken to last until the next one, or the end of the code.
    Next,
}

/// A function: one place in the file, under all of its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// All names of this place, without versions; the one that was asked for first.
    pub names: Vec<String>,
    /// Virtual address in the file's own terms (before the load bias).
    pub address: u64,
    /// Offset in the file: what a uprobe wants.
    pub offset: u64,
    /// Size in bytes, as [`Function::bounds`] knows it; 0 where nobody does.
    pub size: u64,
    /// Virtual address of the end: by the size, else the next function, else the end of the segment.
    pub end: u64,
    /// Up to here (a virtual address) no other symbol starts: a site is never placed past it.
    pub undivided: u64,
    /// Where the name comes from.
    pub source: NameSource,
    /// Whether it is a whole function or a piece.
    pub part: Part,
    /// Where the size comes from.
    pub bounds: Bounds,
}

impl Function {
    /// The name that was asked for, as it stands in the file.
    pub fn name(&self) -> &str {
        self.names.first().map_or("?", String::as_str)
    }

    /// The name for people: demangled, with parameters.
    pub fn display_name(&self) -> String {
        demangle(self.name()).unwrap_or_else(|| self.name().to_owned())
    }

    /// Bytes from the start to the end, at most [`CODE_LIMIT`].
    pub(crate) fn code_len(&self) -> usize {
        usize::try_from(self.end.saturating_sub(self.address))
            .map_or(CODE_LIMIT, |len| len.min(CODE_LIMIT))
    }
}

/// What a pattern came to: the places, and the functions that have none.
#[derive(Debug, Default)]
pub struct Sites {
    /// Functions with the site chosen in each, by address.
    pub placed: Vec<(Function, Site)>,
    /// Functions that cannot be probed, and why.
    pub refused: Vec<(Function, Error)>,
    /// What the user should know about these places: a line without code, arguments of an inlined copy ...
    pub notes: Vec<String>,
}
