//! One ELF file: opened once, its tables read to the heap when they are first needed. Nothing is mapped:
//! a mapping of the text would count as resident memory, and a file cut short while mapped kills the reader.

mod code;
mod headers;
mod symbols;

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

use object::elf;

use crate::demangle::{demangle, without_parameters};
use crate::error::{Error, Result};
use crate::pattern::{Matcher, Pattern};
use crate::site::{self, ArgSet, Purpose, Site};
use code::{Around, Window};
use headers::Headers;
use symbols::Symbols;

/// How much code of one function is looked at, in bytes: past this, a function's branches are taken as unknown.
pub const CODE_LIMIT: usize = 64 << 10;

/// A file's identity, as `stat` and `/proc/PID/maps` give it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId {
    /// Device number, in the form of `st_dev`.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
}

impl FileId {
    /// The identity of the file that PATH leads to (links followed).
    pub fn of(path: &Path) -> std::io::Result<Self> {
        std::fs::metadata(path).map(|m| Self {
            dev: m.dev(),
            ino: m.ino(),
        })
    }
}

/// The table that a function's name came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NameSource {
    /// `.symtab`: all names, until the file is stripped.
    Symtab,
    /// `.dynsym`: what the file exports.
    Dynsym,
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
    /// Size in bytes as the symbol gives it; 0 where it does not.
    pub size: u64,
    /// Virtual address of the end: by the size, else the next function, else the end of the segment.
    pub end: u64,
    /// Up to here (a virtual address) no other symbol starts: a site is never placed past it.
    pub undivided: u64,
    /// Where the name comes from.
    pub source: NameSource,
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
}

/// One ELF executable or shared library.
#[derive(Debug)]
pub struct Image {
    path: PathBuf,
    file: File,
    id: FileId,
    headers: Headers,
    symbols: OnceLock<Symbols>,
    window: Mutex<Window>,
    /// Code looked at aside: compilers put cold parts together, far from the functions.
    aside: Mutex<Window>,
}

impl Image {
    /// Opens an executable or shared library for this processor and reads its headers.
    ///
    /// # Errors
    /// The file cannot be read, is a directory, no ELF, cut short, 32-bit, for another processor, or no
    /// program or library at all: each its own [`Error`].
    pub fn open(path: &Path) -> Result<Self> {
        let io = |action| {
            move |source| Error::Io {
                path: path.to_owned(),
                action,
                source,
            }
        };
        let file = File::open(path).map_err(io("open"))?;
        let metadata = file.metadata().map_err(io("read"))?;
        if metadata.is_dir() {
            return Err(Error::Directory(path.to_owned()));
        }
        if !metadata.is_file() {
            return Err(Error::NotElf {
                path: path.to_owned(),
                found: "a device or a pipe".into(),
            });
        }
        let headers = Headers::read(path, &file, metadata.len())?;
        Ok(Self {
            path: path.to_owned(),
            file,
            id: FileId {
                dev: metadata.dev(),
                ino: metadata.ino(),
            },
            headers,
            symbols: OnceLock::new(),
            window: Mutex::new(Window::default()),
            aside: Mutex::new(Window::default()),
        })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file's identity.
    pub fn file_id(&self) -> FileId {
        self.id
    }

    /// The GNU build ID, in hexadecimal.
    pub fn build_id(&self) -> Option<String> {
        self.headers.notes(&self.file).into_iter().find_map(|note| {
            (note.kind == elf::NT_GNU_BUILD_ID && note.name == b"GNU")
                .then(|| note.data.iter().map(|byte| format!("{byte:02x}")).collect())
        })
    }

    /// The dynamic linker it asks for (PT_INTERP).
    pub fn interpreter(&self) -> Option<String> {
        self.headers.interpreter(&self.file)
    }

    /// The libraries it asks for (DT_NEEDED), in order.
    pub fn needed(&self) -> Vec<String> {
        self.headers.dynamic_strings(&self.file, elf::DT_NEEDED)
    }

    /// The name that programs link it by (DT_SONAME).
    pub fn soname(&self) -> Option<String> {
        self.headers
            .dynamic_strings(&self.file, elf::DT_SONAME)
            .into_iter()
            .next()
    }

    /// An executable that loads no libraries (static or static-pie).
    pub fn is_static(&self) -> bool {
        let library = self.is_pie() && !self.headers.flagged_pie(&self.file);
        !library && self.interpreter().is_none() && self.needed().is_empty()
    }

    /// Whether it is loaded at an address chosen at run time (ET_DYN: position-independent executables, libraries).
    pub fn is_pie(&self) -> bool {
        self.headers.kind == elf::ET_DYN
    }

    /// Where execution starts, as a virtual address in the file's own terms.
    pub fn entry_point(&self) -> u64 {
        self.headers.entry
    }

    /// Whether the Go compiler made it: return probes would kill it (Go moves its stacks).
    pub fn is_go(&self) -> bool {
        self.headers.section(".go.buildinfo").is_some()
            || self.headers.section(".gopclntab").is_some()
            || self.headers.section(".data.rel.ro.gopclntab").is_some()
            || self
                .headers
                .notes(&self.file)
                .iter()
                .any(|note| note.name == b"Go")
    }

    /// The file offset of a virtual address, if the file holds code there.
    pub fn offset_of(&self, address: u64) -> Option<u64> {
        self.headers.code_offset(address)
    }

    /// The virtual address that the file's byte at OFFSET is loaded to, if it is code.
    pub fn address_of(&self, offset: u64) -> Option<u64> {
        self.headers.code_address(offset)
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn headers(&self) -> &Headers {
        &self.headers
    }

    /// The bytes of a section as they lie in the file (not decompressed), with its address; `None` where there is
    /// none, or it has no bytes there (NOBITS, as in debug files).
    ///
    /// # Errors
    /// It reaches past the end of the file, or cannot be read.
    pub(crate) fn section_data(&self, name: &str) -> Result<Option<(u64, Vec<u8>)>> {
        let Some(section) = self.headers.section(name).filter(|s| s.kind != elf::SHT_NOBITS) else {
            return Ok(None);
        };
        let len = self.headers.file_len;
        headers::read_checked(&self.path, &self.file, len, section.offset, section.size, name)
            .map(|bytes| Some((section.address, bytes)))
    }

    /// The symbol tables. Read at the first call.
    fn symbols(&self) -> Result<&Symbols> {
        if let Some(symbols) = self.symbols.get() {
            return Ok(symbols);
        }
        let symbols = Symbols::read(&self.path, &self.file, &self.headers)?;
        Ok(self.symbols.get_or_init(|| symbols))
    }

    fn named(&self) -> Result<&Symbols> {
        let symbols = self.symbols()?;
        if symbols.is_empty() {
            let why = if self.headers.has_sections() {
                "it is stripped and exports nothing; an unstripped build, or its debug package, has the names"
            } else {
                "its section headers are stripped away"
            };
            return Err(Error::NoFunctions {
                path: self.path.clone(),
                why,
            });
        }
        Ok(symbols)
    }

    /// All functions, by address: aliases are one, undefined symbols and IFUNC resolvers are left out.
    ///
    /// # Errors
    /// The tables cannot be read or are damaged; the file names no function ([`Error::NoFunctions`]).
    pub fn functions(&self) -> Result<Vec<Function>> {
        let symbols = self.named()?;
        Ok(symbols
            .groups()
            .map(|group| symbols.function(&self.headers, group, |_| false))
            .collect())
    }

    /// The functions that a pattern names, by address; empty where there is none.
    /// For [`Pattern::Offset`] the functions of its base, for [`Pattern::Address`] the one around it.
    ///
    /// # Errors
    /// As [`Image::functions`], and [`Error::BadPattern`].
    pub fn find(&self, pattern: &Pattern) -> Result<Vec<Function>> {
        let matchers = Matcher::for_pattern(pattern)?;
        let symbols = self.named()?;
        if let Pattern::Address(address) = pattern {
            let function = symbols.around(&self.headers, *address);
            return Ok(function.into_iter().collect());
        }
        for matcher in matchers {
            let found: Vec<Function> = symbols
                .groups()
                .filter(|group| {
                    group
                        .iter()
                        .any(|symbol| matcher.matches(symbols.name(symbol)))
                })
                .map(|group| symbols.function(&self.headers, group, |name| matcher.matches(name)))
                .collect();
            if !found.is_empty() {
                return Ok(found);
            }
        }
        Ok(Vec::new())
    }

    /// Names that match but belong to indirect functions (STT_GNU_IFUNC): what stands there is a resolver
    /// that picks the code to run, so a probe would count resolutions, not calls.
    pub fn find_ifuncs(&self, pattern: &Pattern) -> Result<Vec<String>> {
        let matchers = Matcher::for_pattern(pattern)?;
        let symbols = self.symbols()?;
        for matcher in matchers {
            let mut names: Vec<String> = symbols
                .ifuncs()
                .map(|symbol| symbols.name(symbol))
                .filter(|name| matcher.matches(name))
                .map(|name| String::from_utf8_lossy(name).into_owned())
                .collect();
            if !names.is_empty() {
                names.sort();
                names.dedup();
                return Ok(names);
            }
        }
        Ok(Vec::new())
    }

    /// Up to COUNT names like NAME, best first: those that contain it (without regard to case), then similar ones.
    /// Mangled names are given demangled. For error messages: it reads and demangles every name.
    pub fn nearest(&self, name: &str, count: usize) -> Vec<String> {
        let Ok(symbols) = self.symbols() else {
            return Vec::new();
        };
        let trimmed = without_parameters(name)
            .trim_matches(['*', '?'])
            .to_lowercase();
        let wanted = if trimmed.is_empty() {
            name.to_lowercase()
        } else {
            trimmed
        };
        let mut scored: Vec<(f64, String)> = symbols
            .groups()
            .flat_map(|group| group.iter().map(|symbol| symbols.name(symbol)))
            .map(|raw| {
                let raw = String::from_utf8_lossy(raw);
                let shown = demangle(&raw).unwrap_or_else(|| raw.into_owned());
                (
                    likeness(&wanted, &without_parameters(&shown).to_lowercase()),
                    shown,
                )
            })
            .filter(|(score, _)| *score > 0.8)
            .collect();
        scored.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        scored.dedup_by(|a, b| a.1 == b.1);
        scored
            .into_iter()
            .take(count)
            .map(|(_, shown)| shown)
            .collect()
    }

    /// Whether NAME is a function (or IFUNC) defined here: exported, or named in `.symtab`.
    pub fn defines(&self, name: &str) -> Result<bool> {
        Ok(self.symbols()?.defines(name.as_bytes(), false))
    }

    /// Whether NAME is a function that other objects of the process can bind to.
    pub fn exports(&self, name: &str) -> Result<bool> {
        Ok(self.symbols()?.defines(name.as_bytes(), true))
    }

    /// Whether it uses a symbol NAME of some other object (an undefined entry in `.dynsym`).
    pub fn imports(&self, name: &str) -> Result<bool> {
        Ok(self.symbols()?.imports(name.as_bytes()))
    }

    /// The address of an exported symbol of any kind, in the file's own terms.
    pub(crate) fn exported_address(&self, name: &str) -> Option<u64> {
        self.symbols().ok()?.exported_address(name.as_bytes())
    }

    /// Chooses the site in a function: [`site::place`] with the code read from this file.
    ///
    /// # Errors
    /// As [`Image::code`] and [`site::place`].
    pub fn place(&self, function: &Function, purpose: Purpose, live_args: ArgSet) -> Result<Site> {
        let around = Around {
            image: self,
            symbols: self.symbols()?,
        };
        self.with_code(function, CODE_LIMIT, |code| {
            site::place_in(&around, function, code, purpose, live_args)
        })?
    }

    /// The site at a user's function+offset: [`site::at_offset`] with the code read from this file.
    ///
    /// # Errors
    /// As [`Image::code`] and [`site::at_offset`].
    pub fn place_at(&self, function: &Function, add: u64) -> Result<Site> {
        self.with_code(function, CODE_LIMIT, |code| {
            site::at_offset(function, code, add)
        })?
    }

    /// File offsets of a function's `ret` instructions: [`site::returns`] with the code read from this file.
    ///
    /// # Errors
    /// As [`Image::code`].
    pub fn returns(&self, function: &Function) -> Result<Vec<u64>> {
        self.with_code(function, CODE_LIMIT, |code| site::returns(function, code))
    }

    /// Everything that a pattern names, placed: found, then [`Image::place`], or [`Image::place_at`] where the
    /// pattern gives an offset or an address.
    ///
    /// # Errors
    /// As [`Image::find`]. A function that cannot be probed is no error here: see [`Sites::refused`].
    pub fn sites(&self, pattern: &Pattern, purpose: Purpose, live_args: ArgSet) -> Result<Sites> {
        let mut sites = Sites::default();
        for function in self.find(pattern)? {
            let add = match pattern {
                Pattern::Address(address) => Some(address - function.address),
                other => other.offset(),
            };
            let placed = match add {
                None => self.place(&function, purpose, live_args),
                Some(add) => self.place_at(&function, add),
            };
            match placed {
                Ok(site) => sites.placed.push((function, site)),
                Err(error) => sites.refused.push((function, error)),
            }
        }
        Ok(sites)
    }
}

/// 0 to 2: above 1 where one name contains the other (the closer in length the better), else strsim's likeness.
fn likeness(wanted: &str, name: &str) -> f64 {
    let base = name.rsplit("::").next().unwrap_or(name);
    if name.contains(wanted) {
        return 1.0 + wanted.len() as f64 / name.len().max(1) as f64;
    }
    strsim::jaro_winkler(wanted, base).max(strsim::jaro_winkler(wanted, name))
}
