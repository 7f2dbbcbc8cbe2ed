//! What a process has mapped where.

use std::path::{Path, PathBuf};

use procfs::process::{MMapPath, MemoryMap};

use super::perf_map::PerfMap;
use crate::error::Result;
use crate::image::FileId;
use crate::process::memory::Memory;
use crate::process::{Object, Process, map_id};

/// The vDSO has a few pages; more is not believed.
const MAX_VDSO: u64 = 1 << 20;

/// Tells one program from the next under the same process id: when the process started, and where its stack is, which
/// moves when it executes another program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life {
    started: u64,
    stack: u64,
}

impl Life {
    /// `None` once the process has ended.
    pub(super) fn of(pid: u32) -> Option<Self> {
        let text = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
        let text = String::from_utf8_lossy(&text);
        // Behind the name, which may hold anything: the state is field 3, starttime 22, startstack 28 (proc(5)).
        let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
        if fields.next()? == "Z" {
            return None;
        }
        Some(Self {
            started: fields.nth(22 - 4)?.parse().ok()?,
            stack: fields.nth(28 - 23)?.parse().ok()?,
        })
    }
}

/// The mappings of one process.
#[derive(Debug)]
pub(super) struct Space {
    pub(super) life: Life,
    mappings: Vec<Mapping>,
    /// `/proc/PID/root`, where that is not this process's root.
    root: Option<PathBuf>,
    perf_map: PerfMap,
}

#[derive(Debug)]
struct Mapping {
    start: u64,
    end: u64,
    /// The file's offset at its start.
    offset: u64,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    File(Object),
    /// No file, or one that is memory by another name (`/memfd:jit`, `/dev/zero`): a compiler may put code there.
    Memory,
    Vdso,
    Special(String),
}

/// What an address comes to.
pub(super) enum Place {
    File(FilePlace),
    Jit {
        /// The function, and bytes from its start.
        function: Option<(String, u64)>,
    },
    Vdso {
        /// Bytes from its start.
        offset: u64,
        /// Its start and end.
        range: (u64, u64),
    },
    Special(String),
}

/// A place in a mapped file.
pub(super) struct FilePlace {
    /// The path as the process has it.
    pub(super) path: PathBuf,
    /// Offset in the file.
    pub(super) offset: u64,
    pub(super) open_path: PathBuf,
    pub(super) id: FileId,
    pub(super) root: Option<PathBuf>,
}

impl Space {
    /// As it is now.
    pub(super) fn read(pid: u32, life: Life) -> Result<Self> {
        let process = Process::open(pid)?;
        let maps = process.maps()?;
        let objects = process.objects_in(&maps);
        let mappings = maps
            .iter()
            .map(|map| Mapping {
                start: map.address.0,
                end: map.address.1,
                offset: map.offset,
                kind: Kind::of(map, &objects),
            })
            .collect();
        let root = process.proc_path("root");
        let same_root = FileId::of(&root).ok() == FileId::of(Path::new("/")).ok();
        Ok(Self {
            life,
            mappings,
            root: (!same_root).then_some(root),
            perf_map: PerfMap::of(&process),
        })
    }

    /// `None` where nothing is mapped, as far as this knows.
    pub(super) fn place(&mut self, address: u64) -> Option<Place> {
        let past = self.mappings.partition_point(|map| map.start <= address);
        let map = self.mappings.get(past.checked_sub(1)?)?;
        if address >= map.end {
            return None;
        }
        let within = address - map.start;
        Some(match &map.kind {
            Kind::File(object) => Place::File(FilePlace {
                path: object.path.clone(),
                offset: map.offset.saturating_add(within),
                open_path: object.open_path.clone(),
                id: object.id,
                root: self.root.clone(),
            }),
            Kind::Memory => Place::Jit {
                function: self.perf_map.function(address),
            },
            Kind::Vdso => Place::Vdso {
                offset: within,
                range: (map.start, map.end),
            },
            Kind::Special(name) => Place::Special(name.clone()),
        })
    }

    /// The function that a list of just-in-time compiled code has there, whatever is mapped.
    pub(super) fn listed(&mut self, address: u64) -> Option<(String, u64)> {
        self.perf_map.function(address)
    }
}

impl Kind {
    fn of(map: &MemoryMap, objects: &[Object]) -> Self {
        let memory = |path: &Path| {
            let path = path.to_string_lossy();
            ["/memfd:", "/dev/zero", "/dev/shm/", "/SYSV", "//anon"]
                .into_iter()
                .any(|start| path.starts_with(start))
        };
        match &map.pathname {
            MMapPath::Path(path) if memory(path) => Self::Memory,
            MMapPath::Path(path) => match objects.iter().find(|o| o.id == map_id(map)) {
                Some(object) => Self::File(object.clone()),
                None => Self::Special(path.display().to_string()),
            },
            MMapPath::Anonymous | MMapPath::Heap | MMapPath::Other(_) => match &map.pathname {
                // The kernel's own: the copies of probed instructions.
                MMapPath::Other(name) if name == "uprobes" => Self::Special(name.clone()),
                _ => Self::Memory,
            },
            MMapPath::Vdso => Self::Vdso,
            MMapPath::Stack | MMapPath::TStack(_) => Self::Special("stack".into()),
            MMapPath::Vvar => Self::Special("vvar".into()),
            MMapPath::Vsyscall => Self::Special("vsyscall".into()),
            other => Self::Special(format!("{other:?}").to_lowercase()),
        }
    }
}

/// The vDSO's bytes, from the memory of a process that has it: an ELF file like any other.
pub(super) fn read_vdso(pid: u32, (start, end): (u64, u64)) -> Result<Vec<u8>> {
    let len = end.saturating_sub(start).min(MAX_VDSO);
    Memory::open(pid)?.bytes(start, usize::try_from(len).unwrap_or(0))
}
