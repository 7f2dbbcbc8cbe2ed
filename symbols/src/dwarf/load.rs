//! One file's debug sections as bytes in memory: mapped or read, decompressed where they are packed.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

use memmap2::Mmap;
use object::LittleEndian as LE;
use object::elf::{self, FileHeader64, SectionHeader64};
use object::read::elf::{CompressionHeader, FileHeader, SectionHeader};
use object::read::{CompressedData, CompressionFormat};

use crate::error::{Error, Result};

/// Files up to this size are read: nothing can change under the reader then, and reading costs no more than mapping.
const READ_LIMIT: u64 = 1 << 20;
/// A packed section that claims to become larger than this is refused: no debug information at hand comes near.
const UNPACKED_LIMIT: u64 = 4 << 30;
/// Nor may it grow more than this many times. zlib cannot (its limit is 1032 times); debug information grows 3 to 10
/// times, and only a trap grows more than this under zstd.
const UNPACKED_RATIO: u64 = 1032;
/// Less than this, in bytes packed, is unpacked before a thread has started.
const PARALLEL_FROM: usize = 64 << 10;
/// The old form of a packed section (`.zdebug_info`): "ZLIB", then the size in 8 bytes, big-endian.
const OLD_PACKED: &[u8] = b"ZLIB";

/// The debug sections of one ELF file.
#[derive(Debug)]
pub(super) struct DebugSections {
    path: PathBuf,
    file: Bytes,
    /// By their names as of today: `.zdebug_info` is here as `.debug_info`.
    sections: HashMap<String, Place>,
    /// What is wrong with some of them; these are taken as empty, or as far as they go.
    notes: Mutex<Vec<String>>,
}

/// Where a section's bytes are.
#[derive(Debug)]
enum Place {
    File(Range<usize>),
    /// Packed; unpacked when it is asked for.
    Packed {
        packed: Range<usize>,
        format: CompressionFormat,
        size: u64,
        unpacked: OnceLock<Vec<u8>>,
    },
}

/// The bytes of a file.
#[derive(Debug)]
enum Bytes {
    Read(Vec<u8>),
    Mapped(Mmap),
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Read(bytes) => bytes,
            Self::Mapped(map) => map,
        }
    }
}

impl DebugSections {
    /// Makes the debug sections of an open file readable; all of them, whatever they hold. PATH is for messages.
    ///
    /// # Errors
    /// It cannot be read, or is no 64-bit little-endian ELF file.
    pub(super) fn read(path: &Path, file: &File) -> Result<Self> {
        let file = read_or_map(path, file)?;
        let mut notes = Vec::new();
        let sections = find(path, &file, &mut notes)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            sections,
            notes: Mutex::new(notes),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What is wrong with the sections that were looked at.
    pub(super) fn notes(&self) -> Vec<String> {
        let notes = self
            .notes
            .lock()
            .map(|notes| notes.clone())
            .unwrap_or_default();
        let path = self.path.display();
        notes
            .into_iter()
            .map(|note| format!("{path}: {note}"))
            .collect()
    }

    /// Whether it describes code or types.
    pub(super) fn has_info(&self) -> bool {
        self.sections.contains_key(".debug_info")
    }

    /// The bytes of a section, empty where there is none.
    pub(super) fn get(&self, name: &str) -> &[u8] {
        match self.sections.get(name) {
            None => &[],
            Some(Place::File(range)) => self.file.get(range.clone()).unwrap_or_default(),
            Some(Place::Packed {
                packed,
                format,
                size,
                unpacked,
            }) => unpacked.get_or_init(|| {
                let packed = CompressedData {
                    format: *format,
                    data: self.file.get(packed.clone()).unwrap_or_default(),
                    uncompressed_size: *size,
                };
                unpack(packed).unwrap_or_else(|why| {
                    if let Ok(mut notes) = self.notes.lock() {
                        notes.push(format!("{name} {why}"));
                    }
                    Vec::new()
                })
            }),
        }
    }

    /// Unpacks these at once, the first beside the others: it is the largest.
    pub(super) fn prepare(&self, first: &str, others: &[&str]) {
        let is_large = |place: &Place| matches!(place, Place::Packed { packed, .. } if packed.len() > PARALLEL_FROM);
        if self.sections.get(first).is_some_and(is_large) {
            std::thread::scope(|scope| {
                scope.spawn(|| self.get(first));
                for name in others {
                    self.get(name);
                }
            });
        }
    }
}

/// The debug sections of a file; notes on those that are damaged.
fn find(path: &Path, data: &[u8], notes: &mut Vec<String>) -> Result<HashMap<String, Place>> {
    let damaged = |what: String| Error::Truncated {
        path: path.to_owned(),
        what,
    };
    let header =
        FileHeader64::<LE>::parse(data).map_err(|e| damaged(format!("its ELF header: {e}")))?;
    // A big-endian file passes the parser with this type and makes no sense after it.
    if !header.is_little_endian() {
        return Err(damaged("it is big-endian".into()));
    }
    let table = header
        .sections(LE, data)
        .map_err(|e| damaged(format!("its section headers: {e}")))?;
    let mut found = HashMap::new();
    for section in table.iter() {
        let name = table.section_name(LE, section).unwrap_or_default();
        let Some(name) = std::str::from_utf8(name)
            .ok()
            .filter(|name| is_wanted(name))
        else {
            continue;
        };
        let Some(range) = range_in(section, data.len()) else {
            continue;
        };
        if (range.len() as u64) < section.sh_size(LE) {
            notes.push(format!("{name} reaches past the end of the file"));
        }
        match place(section, name, data, range) {
            Ok(place) => {
                found.insert(name.replacen(".zdebug_", ".debug_", 1), place);
            }
            Err(why) => notes.push(format!("{name} {why}")),
        }
    }
    Ok(found)
}

/// What anything here reads. Macros are large, and nobody asks for them.
fn is_wanted(name: &str) -> bool {
    let kind = name
        .strip_prefix(".debug_")
        .or_else(|| name.strip_prefix(".zdebug_"));
    kind.is_some_and(|kind| {
        !["mac", "gdb", "pub", "gnu"]
            .iter()
            .any(|start| kind.starts_with(start))
    })
}

/// The bytes of a section that the file has; `None` for one without any (NOBITS).
fn range_in(section: &SectionHeader64<LE>, len: usize) -> Option<Range<usize>> {
    let (start, size) = section.file_range(LE)?;
    let start = usize::try_from(start).ok()?;
    let end = start.checked_add(usize::try_from(size).ok()?)?;
    (start <= len).then(|| start..end.min(len))
}

/// Whether a section is packed, and how.
fn place(
    section: &SectionHeader64<LE>,
    name: &str,
    file: &[u8],
    range: Range<usize>,
) -> Result<Place, String> {
    let bytes = file.get(range.clone()).unwrap_or_default();
    let packed = |start: usize, format, size| Place::Packed {
        packed: start.min(range.end)..range.end,
        format,
        size,
        unpacked: OnceLock::new(),
    };
    if name.starts_with(".zdebug_") {
        let size = bytes
            .strip_prefix(OLD_PACKED)
            .and_then(|rest| rest.first_chunk());
        let size = u64::from_be_bytes(*size.ok_or("does not start as a packed section does")?);
        let start = range.start + OLD_PACKED.len() + size_of::<u64>();
        return Ok(packed(start, CompressionFormat::Zlib, size));
    }
    let header = section
        .compression(LE, file)
        .map_err(|e| format!("is damaged: {e}"))?;
    let Some((header, start, _)) = header else {
        return Ok(Place::File(range));
    };
    let format = match header.ch_type(LE) {
        elf::ELFCOMPRESS_ZLIB => CompressionFormat::Zlib,
        elf::ELFCOMPRESS_ZSTD => CompressionFormat::Zstandard,
        other => return Err(format!("is packed in an unknown way ({})", other.0)),
    };
    let start = usize::try_from(start).map_err(|_| "is damaged")?;
    Ok(packed(start, format, header.ch_size(LE)))
}

fn unpack(packed: CompressedData<'_>) -> Result<Vec<u8>, String> {
    let (from, to) = (packed.data.len() as u64, packed.uncompressed_size);
    if to > UNPACKED_LIMIT || to > from.saturating_mul(UNPACKED_RATIO) {
        return Err(format!(
            "claims to grow from {from} to {to} bytes: that is refused"
        ));
    }
    let unpacked = packed
        .decompress()
        .map_err(|e| format!("cannot be unpacked: {e}"))?;
    Ok(unpacked.into_owned())
}

fn read_or_map(path: &Path, file: &File) -> Result<Bytes> {
    let io = |action| {
        move |source| Error::Io {
            path: path.to_owned(),
            action,
            source,
        }
    };
    let len = file.metadata().map_err(io("read"))?.len();
    if len <= READ_LIMIT {
        let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
        file.read_exact_at(&mut bytes, 0).map_err(io("read"))?;
        return Ok(Bytes::Read(bytes));
    }
    // Debug files have hundreds of megabytes of which a question needs a few: reading them whole would cost more than
    // the answer. They are replaced by renaming (package managers) or unlinked first (linkers), so a mapping keeps
    // what it had. Whoever cuts one short in place, as root or as its owner, can end this reader by SIGBUS; that
    // reader can be started again, and nothing that it attached outlives it.
    // SAFETY: the map is read-only and private to this value; that nobody writes to the file is assumed, as said.
    let map = unsafe { Mmap::map(file) }.map_err(io("map"))?;
    Ok(Bytes::Mapped(map))
}
