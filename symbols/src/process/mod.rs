//! Running processes: what they run, what they have mapped, and which object they bind a symbol to.
//!
//! Files are reached through `/proc/PID`: that works when the file was replaced or deleted since, and when
//! the process sees another root (containers).

mod ifunc;
mod link_map;
mod locate;
pub(crate) mod memory;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use procfs::process::{MMPermissions, MMapPath, MemoryMap};

use crate::error::{Error, Result};
use crate::image::FileId;

pub use ifunc::{IfuncFound, IfuncTarget};
pub(crate) use locate::find_library_in;
pub use locate::{find_library_file, find_program, library_named};

/// The kernel keeps this many bytes of a thread's name (TASK_COMM_LEN is 16 with the NUL).
pub const COMM_LEN: usize = 15;

/// A running process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Process {
    /// Its id, as this namespace sees it.
    pub pid: u32,
    /// The name of its main thread (at most [`COMM_LEN`] bytes).
    pub comm: String,
}

/// A file with executable mappings in a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// The path as the process sees it, for display; " (deleted)" is cut off and told by `deleted`.
    pub path: PathBuf,
    /// A path that opens this very file from here.
    pub open_path: PathBuf,
    /// Its identity by `/proc/PID/maps`.
    pub id: FileId,
    /// Address of the mapping of the file's first byte: where virtual address 0 of a position-independent
    /// file is.
    pub base: u64,
    /// The file at that path is gone or replaced: what runs is an older one.
    pub deleted: bool,
    /// Another file stands at that path now: after an upgrade, say, until the process is restarted.
    pub replaced: bool,
}

impl Process {
    /// Looks at a process.
    ///
    /// # Errors
    /// [`Error::NoSuchProcess`].
    pub fn open(pid: u32) -> Result<Self> {
        let comm = read_comm(pid).map_err(|error| failed(pid, "/proc/PID/comm", &error))?;
        Ok(Self { pid, comm })
    }

    /// The file it runs, as a path that opens it even if it was replaced, deleted, or lies in another
    /// root: `/proc/PID/exe`.
    pub fn exe(&self) -> PathBuf {
        self.proc_path("exe")
    }

    /// The path of the file it runs as the process itself sees it, for display.
    ///
    /// # Errors
    /// The process is gone, is a kernel thread, or may not be looked at.
    pub fn exe_name(&self) -> Result<PathBuf> {
        let link =
            fs::read_link(self.exe()).map_err(|error| failed(self.pid, "/proc/PID/exe", &error))?;
        Ok(split_deleted(&link).0)
    }

    /// The files with executable mappings, in order of address; the program itself is among them.
    ///
    /// # Errors
    /// The process is gone or may not be looked at.
    pub fn objects(&self) -> Result<Vec<Object>> {
        Ok(self.objects_in(&self.maps()?))
    }

    pub(crate) fn maps(&self) -> Result<Vec<MemoryMap>> {
        let maps = i32::try_from(self.pid)
            .map_err(|_| Error::NoSuchProcess { pid: self.pid })
            .and_then(|pid| {
                procfs::process::Process::new(pid).map_err(|error| self.proc_error(error))
            })?
            .maps()
            .map_err(|error| self.proc_error(error))?;
        Ok(maps.0)
    }

    fn proc_error(&self, error: procfs::ProcError) -> Error {
        let kind = match &error {
            procfs::ProcError::NotFound(_) => io::ErrorKind::NotFound,
            procfs::ProcError::PermissionDenied(_) => io::ErrorKind::PermissionDenied,
            procfs::ProcError::Io(error, _) => return failed(self.pid, "/proc/PID/maps", error),
            _ => io::ErrorKind::Other,
        };
        match kind {
            io::ErrorKind::Other => Error::Process {
                pid: self.pid,
                what: "/proc/PID/maps",
                why: error.to_string(),
            },
            kind => failed(self.pid, "/proc/PID/maps", &kind.into()),
        }
    }

    pub(crate) fn objects_in(&self, maps: &[MemoryMap]) -> Vec<Object> {
        // One file's mappings stand together; the first one's offset gives where byte 0 would be.
        let mut base: BTreeMap<FileId, u64> = BTreeMap::new();
        let mut objects: Vec<Object> = Vec::new();
        for map in maps {
            let MMapPath::Path(path) = &map.pathname else {
                continue;
            };
            let id = map_id(map);
            let start = *base
                .entry(id)
                .or_insert(map.address.0.saturating_sub(map.offset));
            if map.perms.contains(MMPermissions::EXECUTE)
                && !objects.iter().any(|object| object.id == id)
            {
                let (path, deleted) = split_deleted(path);
                let (open_path, current) = self.reach(map, &path, id, deleted);
                let deleted = deleted || !current;
                objects.push(Object {
                    replaced: deleted && self.in_root(&path).exists(),
                    path,
                    open_path,
                    id,
                    base: start,
                    deleted,
                });
            }
        }
        objects
    }

    /// The path from here to what the process itself finds at PATH.
    fn in_root(&self, path: &Path) -> PathBuf {
        self.proc_path("root")
            .join(path.strip_prefix("/").unwrap_or(path))
    }

    /// A path that opens the mapped file from here, and whether it is the one that the process's path leads to.
    fn reach(&self, map: &MemoryMap, path: &Path, id: FileId, deleted: bool) -> (PathBuf, bool) {
        let in_root = self.in_root(path);
        if !deleted {
            // The plain path outlives the process, so it is preferred where it is the same file.
            for candidate in [path, &in_root] {
                if FileId::of(candidate).is_ok_and(|found| found == id) {
                    return (candidate.to_owned(), true);
                }
            }
        }
        let exact = self
            .proc_path("map_files")
            .join(format!("{:x}-{:x}", map.address.0, map.address.1));
        if fs::metadata(&exact).is_ok() {
            // Overlays give another device number in maps than stat does: same inode, same file.
            let same = FileId::of(&exact).ok().filter(|_| !deleted);
            let plain = [path, in_root.as_path()]
                .into_iter()
                .find(|p| FileId::of(p).ok() == same && same.is_some());
            return match plain {
                Some(plain) => (plain.to_owned(), true),
                None => (exact, false),
            };
        }
        // map_files needs privileges; the exe link does not.
        if fs::read_link(self.exe()).is_ok_and(|link| split_deleted(&link).0 == path) {
            return (self.exe(), !deleted);
        }
        (in_root, !deleted)
    }

    /// The mapped library that NAME means: `libc` (libc.so.6, libc-2.31.so), an exact file name, or a path.
    ///
    /// # Errors
    /// As [`Process::objects`].
    pub fn find_library(&self, name: &str) -> Result<Option<Object>> {
        let objects = self.objects()?;
        if name.contains('/') {
            let wanted = Path::new(name);
            let id = FileId::of(wanted).ok();
            return Ok(objects
                .into_iter()
                .find(|object| object.path == wanted || Some(object.id) == id));
        }
        let file_name = |object: &Object| {
            object
                .path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned()
        };
        let exact = objects.iter().find(|object| file_name(object) == name);
        let found = exact.or_else(|| {
            objects
                .iter()
                .find(|object| library_named(&file_name(object), name))
        });
        Ok(found.cloned())
    }

    /// The program's own object.
    ///
    /// # Errors
    /// As [`Process::objects`], or its file has no executable mapping.
    pub fn program(&self) -> Result<Object> {
        let objects = self.objects()?;
        self.program_among(&objects)?
            .cloned()
            .ok_or_else(|| Error::Process {
                pid: self.pid,
                what: "/proc/PID/maps",
                why: "its program has no executable mapping there (it is starting or ending)"
                    .into(),
            })
    }

    /// By inode and name: overlays give another device number in maps than stat does.
    fn program_among<'a>(&self, objects: &'a [Object]) -> Result<Option<&'a Object>> {
        let exe =
            fs::metadata(self.exe()).map_err(|error| failed(self.pid, "/proc/PID/exe", &error))?;
        let name = self.exe_name()?;
        let mut same = objects.iter().filter(|object| object.id.ino == exe.ino());
        Ok(same
            .clone()
            .find(|object| object.path == name)
            .or_else(|| same.next()))
    }

    /// The object whose definition of SYMBOL the process uses: the first in the dynamic linker's order that
    /// defines it (the program itself first, then preloaded libraries, then the others). Works from the moment
    /// when the dynamic linker has loaded the libraries, so also while the process stands at its entry point.
    /// `None` where nothing defines it.
    ///
    /// # Errors
    /// [`Error::LinkMap`] before that moment; the process is gone or may not be read; an object cannot be opened.
    pub fn binding_of(&self, symbol: &str) -> Result<Option<Object>> {
        link_map::binding_of(self, symbol)
    }

    pub(crate) fn proc_path(&self, entry: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{entry}", self.pid))
    }
}

/// The processes whose main thread is called NAME. Names longer than the kernel keeps are compared by what it keeps.
pub fn by_comm(name: &str) -> Vec<Process> {
    let cut = &name.as_bytes()[..name.len().min(COMM_LEN)];
    all()
        .filter(|process| process.comm.as_bytes() == cut)
        .collect()
}

/// The processes that run the file PATH (links followed, compared by identity), or one of that path that was
/// replaced since they started.
pub fn by_exe(path: &Path) -> Vec<Process> {
    let id = FileId::of(path).ok();
    let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    all()
        .filter(|process| {
            let exe = process.exe();
            (id.is_some() && FileId::of(&exe).ok() == id)
                || fs::read_link(&exe)
                    .is_ok_and(|link| split_deleted(&link) == (real.clone(), true))
        })
        .collect()
}

/// The running processes that a user means by NAME: those called so, else those whose program's file is called so.
pub fn running_program(name: &str) -> Vec<Process> {
    let named = by_comm(name);
    if !named.is_empty() {
        return named;
    }
    all()
        .filter(|process| {
            process
                .exe_name()
                .is_ok_and(|exe| exe.file_name() == Some(OsStr::new(name)))
        })
        .collect()
}

/// All processes. One small read for each.
fn all() -> impl Iterator<Item = Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        Some(Process {
            pid,
            comm: read_comm(pid).ok()?,
        })
    })
}

fn read_comm(pid: u32) -> io::Result<String> {
    let bytes = fs::read(format!("/proc/{pid}/comm"))?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(text.strip_suffix('\n').unwrap_or(&text).to_owned())
}

pub(crate) fn map_id(map: &MemoryMap) -> FileId {
    let (major, minor) = (map.dev.0.cast_unsigned(), map.dev.1.cast_unsigned());
    FileId {
        dev: libc::makedev(major, minor),
        ino: map.inode,
    }
}

/// The kernel marks the paths of files that are gone.
fn split_deleted(path: &Path) -> (PathBuf, bool) {
    match path.as_os_str().as_bytes().strip_suffix(b" (deleted)") {
        Some(rest) => (PathBuf::from(OsStr::from_bytes(rest)), true),
        None => (path.to_owned(), false),
    }
}

/// What a failed look at /proc/PID means.
fn failed(pid: u32, what: &'static str, error: &io::Error) -> Error {
    match (error.kind(), error.raw_os_error()) {
        // ESRCH: it ended between opening and reading.
        (io::ErrorKind::NotFound, _) | (_, Some(libc::ESRCH))
            if !Path::new(&format!("/proc/{pid}")).exists() =>
        {
            Error::NoSuchProcess { pid }
        }
        (io::ErrorKind::NotFound, _) if what == "/proc/PID/exe" => Error::Process {
            pid,
            what,
            why: "it runs no file (a kernel thread, or it is ending)".into(),
        },
        (io::ErrorKind::PermissionDenied, _) => Error::Process {
            pid,
            what,
            why: format!("{error}; root or CAP_SYS_PTRACE is needed"),
        },
        _ => Error::Process {
            pid,
            what,
            why: error.to_string(),
        },
    }
}
