//! Targets: from what the user or the recipe names to files that can be probed, and the processes in which.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, anyhow, bail};
use uprof_symbols::image::OpenOptions;
use uprof_symbols::process::{self, Object, Process};
use uprof_symbols::{FileId, Image};

use crate::debug_args::DebugArgs;

/// The processes that the user named, by --pid, --comm or `-- COMMAND`.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Named and running.
    pub pids: Vec<u32>,
    /// `--comm`: processes of this name that start later belong to it too.
    pub comm: Option<String>,
    /// The process was started for this run.
    pub command: bool,
    /// `--all`: a shared library may be probed in every process.
    pub all: bool,
    /// Where debug information is looked for.
    pub debug: DebugArgs,
}

impl Selection {
    /// Whether the user named processes at all (even if none of them runs yet). With `--all` a name is only a
    /// filter in the program, as every process is hit.
    pub fn named(&self) -> bool {
        !self.pids.is_empty() || self.awaited().is_some()
    }

    /// The name of processes that are armed as they start.
    pub fn awaited(&self) -> Option<&str> {
        self.comm.as_deref().filter(|_| !self.all)
    }
}

/// What is to be probed, before it was looked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TargetSpec {
    /// One word or path that the user typed in front of `:`.
    Word(String),
    /// The program of the selected processes.
    Own,
    /// A program of one of these names (a recipe's `program`).
    Program(Vec<String>),
    /// A library of one of these names, as the selected processes map it.
    Library(Vec<String>),
    /// The kernel: there are no files.
    Kernel,
    /// The object in which the selected processes bind this symbol.
    Binds(String),
}

/// A file to probe, opened, and the processes in which to probe it.
pub struct TargetFile {
    /// Its symbols.
    pub image: Arc<Image>,
    /// How people know it.
    pub display: PathBuf,
    /// How to open it: through /proc/PID when the process sees another file system or the file was replaced.
    pub open_path: PathBuf,
    /// `None`: in every process that runs it.
    pub pids: Option<Vec<u32>>,
    /// What the user should know: the file was replaced, or no process has loaded it yet.
    pub note: Option<String>,
}

impl TargetFile {
    fn open(open_path: &Path, display: &Path, selection: &Selection) -> Result<Self> {
        Self::open_with(open_path, display, selection.debug.options(None))
    }

    fn open_with(open_path: &Path, display: &Path, options: OpenOptions) -> Result<Self> {
        let image = Image::open_with(open_path, options).map_err(|e| {
            anyhow!(
                "{}",
                e.to_string()
                    .replace(&*open_path.to_string_lossy(), &display.to_string_lossy())
            )
        })?;
        Ok(Self {
            image: Arc::new(image),
            display: display.to_owned(),
            open_path: open_path.to_owned(),
            pids: None,
            note: None,
        })
    }

    fn of_object(object: &Object, pid: u32, selection: &Selection) -> Result<Self> {
        let options = selection.debug.options(Some(pid));
        let file = Self::open_with(&object.open_path, &object.path, options)?;
        Ok(Self {
            pids: Some(vec![pid]),
            note: outdated(object, pid),
            ..file
        })
    }

    fn of_exe(process: &Process, selection: &Selection) -> Result<Self> {
        let options = selection.debug.options(Some(process.pid));
        let name = process.exe_name()?;
        let file = Self::open_with(&process.exe(), &name, options)?;
        Ok(Self {
            pids: Some(vec![process.pid]),
            note: process
                .program()
                .ok()
                .and_then(|object| outdated(&object, process.pid)),
            ..file
        })
    }

    /// The file's own name, without folders.
    pub fn name(&self) -> Cow<'_, str> {
        self.display
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
    }
}

/// What runs is not what stands at its path now.
fn outdated(object: &Object, pid: u32) -> Option<String> {
    let what = match (object.deleted, object.replaced) {
        (false, _) => return None,
        (true, true) => "replaced",
        (true, false) => "deleted",
    };
    Some(format!(
        "{} was {what} on disk since process {pid} loaded it: what the process runs is probed, as it was then",
        object.path.display()
    ))
}

/// Finds the files that SPEC means for the SELECTION. Never empty, unless the processes are yet to start.
pub fn resolve(spec: &TargetSpec, selection: &Selection) -> Result<Vec<TargetFile>> {
    let found = match spec {
        TargetSpec::Kernel => Vec::new(),
        TargetSpec::Own => own(selection)?,
        TargetSpec::Word(word) => by_word(word, selection)?,
        TargetSpec::Program(names) => by_program(names, selection)?,
        TargetSpec::Library(names) => in_each(
            selection,
            |p| {
                let mut found = None;
                for name in names {
                    found = p.find_library(name)?;
                    if found.is_some() {
                        break;
                    }
                }
                found
                    .map(|o| TargetFile::of_object(&o, p.pid, selection))
                    .transpose()
            },
            &format!("no library named {}", names.join(" or ")),
        )?,
        TargetSpec::Binds(symbol) => {
            if selection.all && selection.pids.is_empty() {
                // What most processes bind it to.
                return by_word("libc", selection);
            }
            if !selection.named() {
                bail!(
                    "which process? Name it: --pid PID, --comm NAME, or `-- COMMAND` to start one\n\
                     (a probe on every process's {symbol} would slow the whole machine)"
                );
            }
            in_each(
                selection,
                |p| binding(p, symbol, selection),
                &format!("nothing that defines {symbol}"),
            )?
        }
    };
    Ok(merge(found))
}

fn binding(process: &Process, symbol: &str, selection: &Selection) -> Result<Option<TargetFile>> {
    match process.binding_of(symbol)? {
        Some(object) => TargetFile::of_object(&object, process.pid, selection).map(Some),
        None => Ok(None),
    }
}

/// Asks each selected process; a process that ended meanwhile is left out, one that answers nothing is an error.
fn in_each(
    selection: &Selection,
    ask: impl Fn(&Process) -> Result<Option<TargetFile>>,
    nothing: &str,
) -> Result<Vec<TargetFile>> {
    let mut found = Vec::new();
    for &pid in &selection.pids {
        let process = Process::open(pid)?;
        match ask(&process) {
            Ok(Some(file)) => found.push(file),
            Ok(None) if selection.comm.is_some() && selection.pids.len() > 1 => {}
            Ok(None) => bail!("process {pid} ({}) maps {nothing}", process.comm),
            Err(_) if !alive(pid) => {}
            Err(e) => {
                return Err(e.context(format!("looking into process {pid} ({})", process.comm)));
            }
        }
    }
    Ok(found)
}

/// Whether a process's name is NAME; the kernel keeps only its first bytes.
pub fn comm_is(comm: &str, name: &str) -> bool {
    comm.as_bytes() == &name.as_bytes()[..name.len().min(process::COMM_LEN)]
}

/// A shared library rather than a program.
pub fn is_library(image: &Image) -> bool {
    image.soname().is_some()
        || image.is_pie() && image.interpreter().is_none() && !image.is_static()
}

/// Whether the process still runs (a zombie does not).
pub fn alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|s| {
            s.rsplit(") ")
                .next()
                .map(|rest| !rest.starts_with(['Z', 'X']))
        })
        .unwrap_or(false)
}

fn own(selection: &Selection) -> Result<Vec<TargetFile>> {
    if !selection.named() {
        bail!(
            "which program? Write TARGET:FUNCTION, or name a process with --pid, --comm or `-- COMMAND`"
        );
    }
    in_each(
        selection,
        |p| TargetFile::of_exe(p, selection).map(Some),
        "no program",
    )
}

fn by_program(names: &[String], selection: &Selection) -> Result<Vec<TargetFile>> {
    if selection.named() {
        return own(selection);
    }
    let running: Vec<Process> = names
        .iter()
        .flat_map(|n| process::running_program(n))
        .collect();
    let found = everywhere(&running, selection)?;
    if !found.is_empty() {
        return Ok(found);
    }
    for name in names {
        if let Ok(path) = uprof_symbols::find_program(name) {
            return Ok(vec![TargetFile::open(&path, &path, selection)?]);
        }
    }
    bail!(
        "no process named {0} runs here, and no such program is on PATH\n\
         If it runs under another name or in a container, name it with --pid PID",
        names.join(" or ")
    )
}

/// The files of these processes, in every process that runs them; a process that ended meanwhile is left out.
fn everywhere(running: &[Process], selection: &Selection) -> Result<Vec<TargetFile>> {
    let mut found = Vec::new();
    for process in running {
        match TargetFile::of_exe(process, selection) {
            Ok(file) => found.push(TargetFile { pids: None, ..file }),
            Err(_) if !alive(process.pid) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(found)
}

fn by_word(word: &str, selection: &Selection) -> Result<Vec<TargetFile>> {
    if word.contains('/') {
        return by_path(Path::new(word), selection);
    }
    if selection.named() && !selection.pids.is_empty() {
        return in_each(
            selection,
            |p| {
                let exe = p.exe_name()?;
                let program = exe.file_name().is_some_and(|n| n == word) || comm_is(&p.comm, word);
                if program
                    || uprof_symbols::find_program(word).is_ok_and(|f| same_file(&f, &p.exe()))
                {
                    return TargetFile::of_exe(p, selection).map(Some);
                }
                match p.find_library(word)? {
                    Some(object) => TargetFile::of_object(&object, p.pid, selection).map(Some),
                    None => not_loaded_yet(word, p, selection),
                }
            },
            &format!("no program or library named {word}"),
        );
    }
    let found = everywhere(&process::running_program(word), selection)?;
    if !found.is_empty() {
        return Ok(found);
    }
    if let Ok(path) = uprof_symbols::find_program(word) {
        return Ok(vec![TargetFile::open(&path, &path, selection)?]);
    }
    if let Ok(path) = uprof_symbols::find_library_file(word) {
        return by_path(&path, selection);
    }
    bail!(
        "no program named {word}: no process of that name runs, it is not on PATH, and no library is called so{}\n\
         Write a path (./{word}), or name a process with --pid PID",
        near_processes(word)
    )
}

/// A library that no process has loaded yet: it is armed now, and hit once the process loads it (dlopen).
fn not_loaded_yet(
    word: &str,
    process: &Process,
    selection: &Selection,
) -> Result<Option<TargetFile>> {
    let Ok(path) = uprof_symbols::find_library_file(word) else {
        return Ok(None);
    };
    let file = TargetFile::open(&path, &path, selection)?;
    let note = format!(
        "process {} ({}) has not loaded {word} yet: {} is armed for when it does",
        process.pid,
        process.comm,
        path.display()
    );
    Ok(Some(TargetFile {
        pids: Some(vec![process.pid]),
        note: Some(note),
        ..file
    }))
}

fn by_path(path: &Path, selection: &Selection) -> Result<Vec<TargetFile>> {
    if selection.named() && !selection.pids.is_empty() {
        let known = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        return in_each(
            selection,
            |process| as_mapped(path, &known, process, selection).map(Some),
            "no such file",
        );
    }
    let file = TargetFile::open(path, path, selection)?;
    if selection.named() {
        return Ok(vec![TargetFile {
            pids: Some(Vec::new()),
            ..file
        }]);
    }
    if is_library(&file.image) && !selection.all {
        bail!(
            "{} is a shared library: a probe in every process that uses it would slow the whole machine\n\
             Name the process: --pid PID, --comm NAME or `-- COMMAND`; or insist with --all",
            path.display()
        );
    }
    let id = file.image.file_id();
    let mut files = vec![file];
    // What was replaced runs on as it was.
    for process in process::by_exe(path) {
        if FileId::of(&process.exe()).is_ok_and(|running| running != id) {
            files.push(TargetFile {
                pids: None,
                ..TargetFile::of_exe(&process, selection)?
            });
        }
    }
    Ok(files)
}

/// The file at PATH (KNOWN without links) as PROCESS has it mapped, which may be an older one, or one of another root;
/// as it is here where the process has not loaded it.
fn as_mapped(
    path: &Path,
    known: &Path,
    process: &Process,
    selection: &Selection,
) -> Result<TargetFile> {
    let id = FileId::of(path).ok();
    // A container's or chroot's path is below its own root.
    let root = PathBuf::from(format!("/proc/{}/root", process.pid));
    let inner = FileId::of(&root.join(path.strip_prefix("/").unwrap_or(path))).ok();
    let objects = process.objects()?;
    let same = |id: Option<FileId>| objects.iter().find(move |o| Some(o.id) == id);
    let mapped = same(id)
        .or_else(|| same(inner))
        .or_else(|| objects.iter().find(|o| o.path == known || o.path == path));
    if let Some(object) = mapped {
        return Ok(TargetFile {
            // As the user wrote it.
            display: path.to_owned(),
            ..TargetFile::of_object(object, process.pid, selection)?
        });
    }
    Ok(TargetFile {
        pids: Some(vec![process.pid]),
        ..TargetFile::open(path, path, selection)?
    })
}

fn same_file(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (std::fs::metadata(a), std::fs::metadata(b)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

fn near_processes(word: &str) -> String {
    let mut near: Vec<String> = procfs::process::all_processes()
        .into_iter()
        .flatten()
        .filter_map(|p| p.ok()?.stat().ok())
        .map(|s| s.comm)
        .filter(|c| c.contains(word) || word.contains(c.as_str()) && c.len() > 2)
        .collect();
    near.sort();
    near.dedup();
    near.truncate(5);
    match near.is_empty() {
        true => String::new(),
        false => format!(" (running with a similar name: {})", near.join(", ")),
    }
}

/// One entry a file, with the processes of all.
fn merge(found: Vec<TargetFile>) -> Vec<TargetFile> {
    let mut merged: Vec<(FileId, TargetFile)> = Vec::new();
    for file in found {
        let id = file.image.file_id();
        match merged.iter_mut().find(|(i, _)| *i == id) {
            Some((_, known)) => match (&mut known.pids, file.pids) {
                (Some(known), Some(more)) => known.extend(more),
                (known, _) => *known = None,
            },
            None => merged.push((id, file)),
        }
    }
    merged.into_iter().map(|(_, f)| f).collect()
}
