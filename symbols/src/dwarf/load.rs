//! One file's debug sections as bytes in memory: mapped or read, decompressed where they are packed.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

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
/// The old form of a packed section (`.zdebug_info`): "ZLIB", then the size in 8 bytes, big-endian.
const OLD_PACKED: &[u8] = b"ZLIB";

/// The debug sections of one ELF file.
#[derive(Debug)]
pub(super) struct DebugSections {
    path: PathBuf,
    file: Bytes,
    /// Where each lies in the file, by its name as of today (`.zdebug_info` is here as `.debug_info`).
    plain: HashMap<String, std::ops::Range<usize>>,
    unpacked: HashMap<String, Vec<u8>>,
    /// What is wrong with some of them; these are taken as empty, or as far as they go.
    pub(super) notes: Vec<String>,
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
        let mut sections = Self {
            path: path.to_owned(),
            file,
            plain: HashMap::new(),
            unpacked: HashMap::new(),
            notes: Vec::new(),
        };
        sections.find()?;
        Ok(sections)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The bytes of a section, empty where there is none.
    pub(super) fn get(&self, name: &str) -> &[u8] {
        if let Some(bytes) = self.unpacked.get(name) {
            return bytes;
        }
        let range = self.plain.get(name).cloned();
        range
            .and_then(|range| self.file.get(range))
            .unwrap_or_default()
    }

    /// Whether it describes code or types.
    pub(super) fn has_info(&self) -> bool {
        !self.get(".debug_info").is_empty()
    }

    fn find(&mut self) -> Result<()> {
        let damaged = |what: &str| Error::Truncated {
            path: self.path.clone(),
            what: what.to_owned(),
        };
        let data: &[u8] = &self.file;
        let header = FileHeader64::<LE>::parse(data)
            .map_err(|e| damaged(&format!("its ELF header: {e}")))?;
        // A big-endian file passes the parser with this type and makes no sense after it.
        if !header.is_little_endian() {
            return Err(damaged("it is big-endian"));
        }
        let table = header
            .sections(LE, data)
            .map_err(|e| damaged(&format!("its section headers: {e}")))?;
        let (mut plain, mut unpacked, mut notes) = (HashMap::new(), HashMap::new(), Vec::new());
        for section in table.iter() {
            let name = table.section_name(LE, section).unwrap_or_default();
            let Some(name) = std::str::from_utf8(name)
                .ok()
                .filter(|name| is_wanted(name))
            else {
                continue;
            };
            let name_now = name.replacen(".zdebug_", ".debug_", 1);
            let Some(range) = range_in(section, data.len()) else {
                continue;
            };
            if (range.len() as u64) < section.sh_size(LE) {
                notes.push(format!("{name} reaches past the end of the file"));
            }
            match unpack(section, name, data, &range) {
                Ok(Some(bytes)) => {
                    unpacked.insert(name_now, bytes);
                }
                Ok(None) => {
                    plain.insert(name_now, range);
                }
                Err(why) => notes.push(format!("{name} {why}")),
            }
        }
        let path = self.path.display();
        self.notes = notes
            .into_iter()
            .map(|note| format!("{path}: {note}"))
            .collect();
        self.plain = plain;
        self.unpacked = unpacked;
        Ok(())
    }
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
fn range_in(section: &SectionHeader64<LE>, len: usize) -> Option<std::ops::Range<usize>> {
    let (start, size) = section.file_range(LE)?;
    let start = usize::try_from(start).ok()?;
    let end = start.checked_add(usize::try_from(size).ok()?)?;
    (start <= len).then(|| start..end.min(len))
}

/// A packed section's content; `None` where it lies in the file as it is.
fn unpack(
    section: &SectionHeader64<LE>,
    name: &str,
    file: &[u8],
    range: &std::ops::Range<usize>,
) -> Result<Option<Vec<u8>>, String> {
    let bytes = file.get(range.clone()).unwrap_or_default();
    let packed = if name.starts_with(".zdebug_") {
        let size = bytes
            .strip_prefix(OLD_PACKED)
            .and_then(|rest| rest.first_chunk());
        let size = size.ok_or("does not start as a packed section does")?;
        CompressedData {
            format: CompressionFormat::Zlib,
            data: bytes.get(OLD_PACKED.len() + 8..).unwrap_or_default(),
            uncompressed_size: u64::from_be_bytes(*size),
        }
    } else {
        let header = section.compression(LE, file);
        let Some((header, offset, _)) = header.map_err(|e| format!("is damaged: {e}"))? else {
            return Ok(None);
        };
        let start = usize::try_from(offset).ok();
        CompressedData {
            format: match header.ch_type(LE) {
                elf::ELFCOMPRESS_ZLIB => CompressionFormat::Zlib,
                elf::ELFCOMPRESS_ZSTD => CompressionFormat::Zstandard,
                other => return Err(format!("is packed in an unknown way ({})", other.0)),
            },
            data: start
                .and_then(|start| file.get(start..range.end))
                .unwrap_or_default(),
            uncompressed_size: header.ch_size(LE),
        }
    };
    let (from, to) = (packed.data.len() as u64, packed.uncompressed_size);
    if to > UNPACKED_LIMIT || to > from.saturating_mul(UNPACKED_RATIO) {
        return Err(format!(
            "claims to grow from {from} to {to} bytes: that is refused"
        ));
    }
    match packed.decompress() {
        Ok(Cow::Owned(bytes)) => Ok(Some(bytes)),
        Ok(Cow::Borrowed(bytes)) => Ok(Some(bytes.to_vec())),
        Err(e) => Err(format!("cannot be unpacked: {e}")),
    }
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
