//! One ELF file: opened once, its tables read to the heap when they are first needed. Nothing is mapped:
//! a mapping of the text would count as resident memory, and a file cut short while mapped kills the reader.

mod code;
pub(crate) mod elf;
mod exits;
mod find;
mod function;
pub(crate) mod headers;
mod options;
mod place;
mod places;
pub(crate) mod read;
mod refuse;
mod sources;
mod symbols;
pub(crate) mod table;
mod versions;

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Mutex;

use object::elf as format;

use crate::error::{Error, Result};
use code::Window;
use elf::{Elf, hex};
use headers::{Headers, Holds};
use sources::Sources;

pub use function::{Bounds, Function, NameSource, Part, Sites};
pub use options::{Debuginfod, OpenOptions};
pub use sources::SourceReport;

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

/// One ELF executable or shared library.
#[derive(Debug)]
pub struct Image {
    elf: Elf,
    id: FileId,
    options: OpenOptions,
    sources: Sources,
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
        Self::open_with(path, OpenOptions::default())
    }

    /// [`Image::open`], told where debug files may be.
    ///
    /// # Errors
    /// As [`Image::open`].
    pub fn open_with(path: &Path, options: OpenOptions) -> Result<Self> {
        let io = |action| {
            move |source| Error::Io {
                path: path.to_owned(),
                action,
                source,
            }
        };
        let file = File::open(path).map_err(io("open"))?;
        let metadata = file.metadata().map_err(io("read"))?;
        Ok(Self {
            elf: Elf::read(path, file, Holds::Code)?,
            id: FileId {
                dev: metadata.dev(),
                ino: metadata.ino(),
            },
            options,
            sources: Sources::default(),
            window: Mutex::new(Window::default()),
            aside: Mutex::new(Window::default()),
        })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.elf.path
    }

    /// The file's identity.
    pub fn file_id(&self) -> FileId {
        self.id
    }

    /// The GNU build ID, in hexadecimal.
    pub fn build_id(&self) -> Option<String> {
        self.elf.build_id().map(|id| hex(&id))
    }

    /// The dynamic linker it asks for (PT_INTERP).
    pub fn interpreter(&self) -> Option<String> {
        self.elf.headers.interpreter(&self.elf.file)
    }

    /// The libraries it asks for (DT_NEEDED), in order.
    pub fn needed(&self) -> Vec<String> {
        self.elf
            .headers
            .dynamic_strings(&self.elf.file, format::DT_NEEDED)
    }

    /// The name that programs link it by (DT_SONAME).
    pub fn soname(&self) -> Option<String> {
        self.elf
            .headers
            .dynamic_strings(&self.elf.file, format::DT_SONAME)
            .into_iter()
            .next()
    }

    /// An executable that loads no libraries (static or static-pie).
    pub fn is_static(&self) -> bool {
        let library = self.is_pie() && !self.elf.headers.flagged_pie(&self.elf.file);
        !library && self.interpreter().is_none() && self.needed().is_empty()
    }

    /// A library rather than a program: it has a name to be linked by, or nothing that starts it.
    pub(crate) fn is_library(&self) -> bool {
        let started = self.interpreter().is_some() || self.elf.headers.flagged_pie(&self.elf.file);
        self.soname().is_some() || (self.is_pie() && !started)
    }

    /// Where it wants its libraries looked for: DT_RPATH, DT_RUNPATH.
    pub(crate) fn library_paths(&self) -> [Vec<String>; 2] {
        [format::DT_RPATH, format::DT_RUNPATH].map(|tag| {
            let lists = self.elf.headers.dynamic_strings(&self.elf.file, tag);
            let paths = lists.iter().flat_map(|list| list.split(':'));
            paths.filter(|p| !p.is_empty()).map(str::to_owned).collect()
        })
    }

    /// Whether it is loaded at an address chosen at run time (ET_DYN: position-independent executables, libraries).
    pub fn is_pie(&self) -> bool {
        self.elf.headers.kind == format::ET_DYN
    }

    /// Where execution starts, as a virtual address in the file's own terms.
    pub fn entry_point(&self) -> u64 {
        self.elf.headers.entry
    }

    /// Whether the Go compiler made it: return probes would kill it (Go moves its stacks).
    pub fn is_go(&self) -> bool {
        self.elf.headers.section(".go.buildinfo").is_some()
            || self.elf.headers.section(".gopclntab").is_some()
            || self.elf.headers.section(".data.rel.ro.gopclntab").is_some()
            || self
                .elf
                .headers
                .notes(&self.elf.file)
                .iter()
                .any(|note| note.name == b"Go")
    }

    /// The file offset of a virtual address, if the file holds code there.
    pub fn offset_of(&self, address: u64) -> Option<u64> {
        self.elf.headers.code_offset(address)
    }

    /// The virtual address that the file's byte at OFFSET is loaded to, if it is code.
    pub fn address_of(&self, offset: u64) -> Option<u64> {
        self.elf.headers.code_address(offset)
    }

    pub(crate) fn file(&self) -> &File {
        &self.elf.file
    }

    pub(crate) fn headers(&self) -> &Headers {
        &self.elf.headers
    }

    /// The bytes of a section as they lie in the file (not decompressed), with its address; `None` where there is
    /// none, or it has no bytes there (NOBITS, as in debug files).
    ///
    /// # Errors
    /// It reaches past the end of the file, or cannot be read.
    pub(crate) fn section_data(&self, name: &str) -> Result<Option<(u64, Vec<u8>)>> {
        self.elf.section_data(name)
    }
}
