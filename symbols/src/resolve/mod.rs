//! Back again: from an address in a process (or in the kernel) to functions, files and lines.
//!
//! - `file`: addresses of one file;
//! - `space`: what a process has mapped where, kept for as long as it is the same program;
//! - `perf_map`: functions that a just-in-time compiler made, by the list it writes for perf;
//! - `kernel`: `/proc/kallsyms`.

mod file;
mod kernel;
mod perf_map;
mod space;

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;

use crate::demangle::demangle;
use crate::error::{Error, Result};
use crate::image::{FileId, Image, OpenOptions};
pub use file::FileSymbols;
pub use kernel::KernelSymbols;
use space::{FilePlace, Life, Place, Space};

/// A function at an address: the one whose code it is, or one inlined there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its name as the file has it (mangled), where anybody knows it.
    pub function: Option<String>,
    /// Bytes from its start; `None` for an inlined one, and where its start is not known.
    pub offset: Option<u64>,
    /// The source file.
    pub file: Option<String>,
    /// The line, counted from 1; of all but the innermost function, that of the call.
    pub line: Option<u32>,
    /// Whether it has been inlined into the next frame's function.
    pub inlined: bool,
    /// Where its code is.
    pub module: Module,
}

impl Frame {
    /// The name for people: demangled.
    pub fn display_name(&self) -> Option<String> {
        let name = self.function.as_deref()?;
        Some(demangle(name).unwrap_or_else(|| name.to_owned()))
    }

    /// An address of which only the place is known.
    fn nameless(module: Module) -> Self {
        Self {
            function: None,
            offset: None,
            file: None,
            line: None,
            inlined: false,
            module,
        }
    }
}

/// Where code is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Module {
    /// A file, by the path under which the process knows it.
    File(PathBuf),
    /// Code that the kernel gives to all processes.
    Vdso,
    /// Memory without a file, where a compiler within the process puts code.
    Jit,
    /// What the kernel calls so: `[stack]`, `[uprobes]`, `[vsyscall]`.
    Special(String),
    /// The kernel itself.
    Kernel,
    /// A module of the kernel.
    KernelModule(String),
    /// Nothing is mapped there.
    Unmapped,
}

impl fmt::Display for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Vdso => f.write_str("[vdso]"),
            Self::Jit => f.write_str("[anon]"),
            Self::Special(name) | Self::KernelModule(name) => write!(f, "[{name}]"),
            Self::Kernel => f.write_str("[kernel]"),
            Self::Unmapped => f.write_str("[unknown]"),
        }
    }
}

/// Answers for all processes. What it has read it keeps: files by their identity, so that a hundred workers of one
/// server cost one reading; processes until another program runs under their number.
///
/// ```
/// let mut symbolizer = uprof_symbols::Symbolizer::new();
/// let address = uprof_symbols::demangle as *const () as u64;
/// let frames = symbolizer.frames(std::process::id(), address)?;
/// let outer = frames.last().expect("the function itself");
/// assert!(outer.display_name().expect("a name").contains("demangle"));
/// # Ok::<(), uprof_symbols::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct Symbolizer {
    options: OpenOptions,
    files: HashMap<FileId, Option<FileSymbols>>,
    spaces: HashMap<u32, Space>,
    /// The kernel gives the same one to all; `Some(None)` where it could not be read.
    vdso: Option<Option<FileSymbols>>,
    kernel: Option<KernelSymbols>,
}

/// A frame of code that a list names.
fn listed(module: Module, function: Option<(String, u64)>) -> Frame {
    let (function, offset) = function.unzip();
    Frame {
        function,
        offset,
        ..Frame::nameless(module)
    }
}

/// The same frames, at least one, in another module.
fn in_module(mut frames: Vec<Frame>, module: &Module) -> Vec<Frame> {
    if frames.is_empty() {
        frames.push(Frame::nameless(module.clone()));
    }
    for frame in &mut frames {
        frame.module = module.clone();
    }
    frames
}

impl Symbolizer {
    /// With the usual places for debug files.
    pub fn new() -> Self {
        Self::default()
    }

    /// Told where debug files may be. The root is set for each process.
    pub fn with_options(options: OpenOptions) -> Self {
        Self {
            options,
            ..Self::default()
        }
    }

    /// The functions at an address of a process, innermost first: at least one frame, which may have no name. A
    /// process that has ended since it was last asked for is remembered.
    ///
    /// What is on a stack are return addresses: they may lie behind the function that called last, so ask for
    /// 1 less.
    ///
    /// # Errors
    /// The process is gone and was never seen before, or may not be looked at. Files that cannot be read are no
    /// error: their frames have no names.
    pub fn frames(&mut self, pid: u32, address: u64) -> Result<Vec<Frame>> {
        let frame = match self.place(pid, address)? {
            Some(Place::File(place)) => return Ok(self.file_frames(pid, address, place)),
            Some(Place::Vdso { offset, range }) => return Ok(self.vdso_frames(pid, offset, range)),
            Some(Place::Jit { function }) => listed(Module::Jit, function),
            Some(Place::Special(name)) => Frame::nameless(Module::Special(name)),
            None => Frame::nameless(Module::Unmapped),
        };
        Ok(vec![frame])
    }

    fn place(&mut self, pid: u32, address: u64) -> Result<Option<Place>> {
        let life = Life::of(pid);
        if let Some(space) = self.spaces.get_mut(&pid)
            && life.is_none_or(|life| life == space.life)
        {
            let place = space.place(address);
            // It may have been mapped since, unless the process has ended.
            if place.is_some() || life.is_none() {
                return Ok(place);
            }
        }
        let life = life.ok_or(Error::NoSuchProcess { pid })?;
        let mut fresh = Space::read(pid, life)?;
        let place = fresh.place(address);
        self.spaces.insert(pid, fresh);
        Ok(place)
    }

    fn file_frames(&mut self, pid: u32, address: u64, place: FilePlace) -> Vec<Frame> {
        let file = self.files.entry(place.id).or_insert_with(|| {
            let options = OpenOptions {
                root: place.root,
                ..self.options.clone()
            };
            let image = Image::open_with(&place.open_path, options).ok()?;
            Some(FileSymbols::new(image))
        });
        let Some(file) = file else {
            // No ELF: some compilers keep their code in files of their own.
            let function = self
                .spaces
                .get_mut(&pid)
                .and_then(|space| space.listed(address));
            return vec![listed(Module::File(place.path), function)];
        };
        in_module(
            file.frames_at_offset(place.offset),
            &Module::File(place.path),
        )
    }

    fn vdso_frames(&mut self, pid: u32, offset: u64, range: (u64, u64)) -> Vec<Frame> {
        let file = self.vdso.get_or_insert_with(|| {
            let bytes = space::read_vdso(pid, range).ok()?;
            Some(FileSymbols::new(Image::from_memory(&bytes).ok()?))
        });
        let frames = file.as_ref().map(|file| file.frames_at_offset(offset));
        in_module(frames.unwrap_or_default(), &Module::Vdso)
    }

    /// Forgets what a process has mapped: for one that unloads libraries and loads others at the same place.
    pub fn forget(&mut self, pid: u32) {
        self.spaces.remove(&pid);
    }

    /// The kernel's function at an address; `None` where there is none.
    ///
    /// # Errors
    /// [`Error::Kallsyms`]: the kernel hides its addresses, or its list cannot be read.
    pub fn kernel_function(&mut self, address: u64) -> Result<Option<Frame>> {
        let kernel = match self.kernel.take() {
            Some(kernel) => kernel,
            None => KernelSymbols::read()?,
        };
        let frame = kernel.frame(address);
        self.kernel = Some(kernel);
        Ok(frame)
    }
}
