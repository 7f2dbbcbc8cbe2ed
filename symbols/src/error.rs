//! The one error type of this crate: what was tried, on what, and what was found instead.

use std::io;
use std::path::PathBuf;

/// Why a name could not be turned into a place.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file could not be opened or read.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried, as a verb: "open", "read".
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A directory stands where a file was expected.
    #[error("{} is a directory, not an executable or a shared library", .0.display())]
    Directory(PathBuf),
    /// The file is something else than ELF.
    #[error("{} is not an ELF executable or shared library but {found}", path.display())]
    NotElf {
        /// The file.
        path: PathBuf,
        /// What it looks like, e.g. `a script (starts with "#!/bin/sh")`.
        found: String,
    },
    /// The ELF file ends before what its headers promise.
    #[error("{} is cut short or damaged: {what}", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// What is missing.
        what: String,
    },
    /// ELF, but neither an executable nor a shared library.
    #[error("{} is {found}: only executables and shared libraries run code", path.display())]
    NotRunnable {
        /// The file.
        path: PathBuf,
        /// What it is, e.g. "an object file (ET_REL)".
        found: String,
    },
    /// A 32-bit ELF file (also x32).
    #[error("{} is a 32-bit ELF file: only 64-bit programs can be probed", .0.display())]
    WrongClass(PathBuf),
    /// ELF for another processor.
    #[error("{} is built for {found}: this uprof probes {expected} code", path.display())]
    ForeignArch {
        /// The file.
        path: PathBuf,
        /// The processor it is built for.
        found: String,
        /// The processor this build of the crate understands.
        expected: &'static str,
    },
    /// The file names no function at all.
    #[error("{} names no function: {why}", path.display())]
    NoFunctions {
        /// The file.
        path: PathBuf,
        /// Why, and what could help.
        why: &'static str,
    },
    /// The file has the name, but not in this version.
    #[error(
        "{} has no {name} of version {wanted}: {}",
        path.display(),
        versions(name, known)
    )]
    NoSuchVersion {
        /// The file.
        path: PathBuf,
        /// The name.
        name: String,
        /// The version that was asked for.
        wanted: String,
        /// The versions there are, each behind `@`, or `@@` if it is the default.
        known: Vec<String>,
    },
    /// A return was asked for where there is none.
    #[error("{place} has no return: {why}; probe its entry alone")]
    NoReturn {
        /// What was to be probed.
        place: String,
        /// Why it does not return.
        why: &'static str,
    },
    /// A line or an inlined function was asked for, which only debug information tells.
    #[error(
        "{} has no debug information, which alone knows {wanted}: build it with -g, or install its debug package{}",
        path.display(),
        notes.iter().map(|note| format!("; {note}")).collect::<String>()
    )]
    NoDebugInfo {
        /// The file.
        path: PathBuf,
        /// What was asked for, e.g. "lines".
        wanted: String,
        /// Debug files that were found but do not belong to it.
        notes: Vec<String>,
    },
    /// A static probe that the program passes over, because nobody can tell it to listen.
    #[error(
        "{0} cannot be probed: its semaphore has no bytes in the file, so nothing can raise it"
    )]
    NoSemaphore(String),
    /// A pattern that cannot be read.
    #[error("cannot read the function pattern \"{pattern}\": {why}")]
    BadPattern {
        /// The pattern as given.
        pattern: String,
        /// What is wrong with it.
        why: String,
    },
    /// The offset is past the end of the function.
    #[error("{function}+{offset:#x} is past its end: {function} has {size} bytes")]
    PastEnd {
        /// The function.
        function: String,
        /// Bytes from its start that were asked for.
        offset: u64,
        /// Its size in bytes.
        size: u64,
    },
    /// The offset is inside an instruction: a breakpoint there would corrupt the program.
    #[error(
        "{function}+{offset:#x} is inside the instruction \"{instruction}\" at +{before:#x}: a probe there would corrupt the program; the instructions beside it start at +{before:#x} and +{after:#x}"
    )]
    InsideInstruction {
        /// The function.
        function: String,
        /// Bytes from its start that were asked for.
        offset: u64,
        /// Where the instruction starts.
        before: u64,
        /// Where the next one starts.
        after: u64,
        /// The instruction, as text.
        instruction: String,
    },
    /// The code cannot be decoded up to the place asked for.
    #[error("{function}+{offset:#x} cannot be probed: the bytes at +{at:#x} are no instruction")]
    Undecodable {
        /// The function.
        function: String,
        /// Bytes from its start that were asked for.
        offset: u64,
        /// Where decoding failed.
        at: u64,
    },
    /// It cannot be told where calls of a function end.
    #[error("the exits of {function} are not known: {why}")]
    UnknownExits {
        /// The function.
        function: String,
        /// What was found instead.
        why: String,
    },
    /// The kernel refuses (or would mistake) the instruction.
    #[error("{function}+{offset:#x} cannot be probed: its instruction \"{instruction}\" {why}")]
    Unprobeable {
        /// The function.
        function: String,
        /// Bytes from its start.
        offset: u64,
        /// The instruction, as text.
        instruction: String,
        /// Why not.
        why: &'static str,
    },
    /// Debug information that cannot be read.
    #[error("the debug information in {} cannot be read: {what}", path.display())]
    Dwarf {
        /// The file that holds it.
        path: PathBuf,
        /// What was asked of it, and what is wrong.
        what: String,
    },
    /// A source file that the debug information does not know, or knows several of.
    #[error("the debug information in {} has {found}", path.display())]
    SourceFile {
        /// The file with the debug information.
        path: PathBuf,
        /// What it has instead: `no source file "x.c" with code, but x.cc`, `2 files "x.c": a/x.c, b/x.c`.
        found: String,
    },
    /// No code comes from the line, nor from any after it.
    #[error("no code comes from {file}:{line} or a later line: its last line with code is {last}")]
    NoCodeAfter {
        /// The source file.
        file: String,
        /// The line that was asked for.
        line: u32,
        /// The last line of the file that has code.
        last: u32,
    },
    /// No such process (or it has just ended).
    #[error("there is no process {pid}")]
    NoSuchProcess {
        /// The process id.
        pid: u32,
    },
    /// Something of a process could not be read.
    #[error("cannot read {what} of process {pid}: {why}")]
    Process {
        /// The process id.
        pid: u32,
        /// What was read, e.g. "/proc/PID/maps".
        what: &'static str,
        /// What the system said, and what could help.
        why: String,
    },
    /// The process's dynamic linker has not yet published (or does not publish) what it loaded.
    #[error("the list of libraries of process {pid} cannot be followed yet: {why}")]
    LinkMap {
        /// The process id.
        pid: u32,
        /// How far it got.
        why: String,
    },
    /// It is not known what an indirect function came to.
    #[error("{name} of {} is an indirect function, and what process {pid} calls by it is not known: {why}", path.display())]
    Ifunc {
        /// The process id.
        pid: u32,
        /// The function.
        name: String,
        /// The file that defines it.
        path: PathBuf,
        /// Why not, and what could help.
        why: String,
    },
    /// The kernel's functions cannot be told.
    #[error("cannot name kernel addresses by /proc/kallsyms: {why}")]
    Kallsyms {
        /// What was found, and what could help.
        why: String,
    },
    /// No program of that name was found.
    #[error("no program \"{name}\" in {}", searched.join(":"))]
    NoSuchProgram {
        /// The name.
        name: String,
        /// The directories that were searched.
        searched: Vec<String>,
    },
    /// No library of that name was found.
    #[error("no library \"{name}\" in the dynamic linker's cache or in {}", searched.join(":"))]
    NoSuchLibrary {
        /// The name.
        name: String,
        /// The directories that were searched.
        searched: Vec<String>,
    },
    /// A function's variables are not known.
    #[error("the variables of {function} in {} are not known: {why}", path.display())]
    NoVariables {
        /// The file.
        path: PathBuf,
        /// The function.
        function: String,
        /// Why, and what could help.
        why: String,
    },
    /// Something of the running kernel could not be read.
    #[error("cannot {tried}: {why}")]
    Kernel {
        /// What was tried, as a verb and its object.
        tried: String,
        /// What the system said, and what could help.
        why: String,
    },
    /// The running kernel has nothing of that name.
    #[error("this kernel has no {what} \"{name}\"{}", like(nearest))]
    NotInKernel {
        /// What was looked for: "function", "tracepoint".
        what: &'static str,
        /// Its name.
        name: String,
        /// Names that are like it, best first.
        nearest: Vec<String>,
    },
}

fn versions(name: &str, known: &[String]) -> String {
    match known {
        [] => format!("{name} has no versions there"),
        known => format!("there is {name}{}", known.join(&format!(", {name}"))),
    }
}

/// This crate's results.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// "; like it: a, b", or nothing.
fn like(names: &[String]) -> String {
    if names.is_empty() {
        String::new()
    } else {
        format!("; like it: {}", names.join(", "))
    }
}
