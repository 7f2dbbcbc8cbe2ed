//! An image's bytes by virtual address, code or data, as they lie in the file: what a process sees there before
//! relocation.

use std::fs::File;
use std::io::Write;
use std::os::fd::FromRawFd;
use std::path::PathBuf;

use object::LittleEndian as LE;
use object::elf::{self, Rela64};
use object::pod;

use crate::error::{Error, Result};
use crate::image::Image;
use crate::image::headers::{Segment, read_checked};

impl Image {
    /// LEN bytes at a virtual address; `None` where the file holds no such address, or ends within.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn loaded(&self, address: u64, len: usize) -> Result<Option<Vec<u8>>> {
        let Some(segment) = self.segment_of(address) else {
            return Ok(None);
        };
        let at = address - segment.address;
        if segment.file_size - at < len as u64 {
            return Ok(None);
        }
        self.read_segment(segment, at, len as u64).map(Some)
    }

    /// All bytes from a virtual address to the end of its segment's part of the file.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn loaded_rest(&self, address: u64) -> Result<Option<Vec<u8>>> {
        let Some(segment) = self.segment_of(address) else {
            return Ok(None);
        };
        let at = address - segment.address;
        self.read_segment(segment, at, segment.file_size - at)
            .map(Some)
    }

    /// The little-endian number of 8 bytes at a virtual address.
    pub(crate) fn loaded_word(&self, address: u64) -> Option<u64> {
        let bytes = self.loaded(address, 8).ok()??;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    }

    /// An ELF file that is in memory only (the vDSO).
    ///
    /// # Errors
    /// As [`Image::open`].
    pub(crate) fn from_memory(bytes: &[u8]) -> Result<Self> {
        let failed = |source| Error::Io {
            path: "/proc/self/fd".into(),
            action: "write a copy of memory to",
            source,
        };
        // SAFETY: the name ends with NUL; the call makes a new descriptor or fails.
        let fd = unsafe { libc::memfd_create(c"image".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(failed(std::io::Error::last_os_error()));
        }
        // SAFETY: the descriptor was just made, and nobody else has it.
        let mut file = unsafe { File::from_raw_fd(fd) };
        file.write_all(bytes).map_err(failed)?;
        Self::open(&PathBuf::from(format!("/proc/self/fd/{fd}")))
    }

    /// What was added to the file's addresses in a process that has the file's first byte mapped at BASE.
    pub(crate) fn bias_of(&self, base: u64) -> u64 {
        let first = self.loads().next();
        first.map_or(base, |segment| {
            base.wrapping_sub(segment.address.wrapping_sub(segment.offset))
        })
    }

    /// The loaded segments.
    pub(crate) fn loads(&self) -> impl Iterator<Item = &Segment> {
        let segments = self.headers().segments().iter();
        segments.filter(|segment| segment.kind == elf::PT_LOAD)
    }

    fn segment_of(&self, address: u64) -> Option<&Segment> {
        self.loads()
            .find(|s| address.wrapping_sub(s.address) < s.file_size)
    }

    fn read_segment(&self, segment: &Segment, at: u64, len: u64) -> Result<Vec<u8>> {
        let file_len = self.headers().file_len;
        let offset = segment.offset.saturating_add(at);
        read_checked(
            self.path(),
            self.file(),
            file_len,
            offset,
            len,
            "a loaded segment",
        )
    }

    /// All relocations that the dynamic linker (or a static program's start-up) applies: those of the dynamic
    /// section (DT_RELA, DT_JMPREL), and of `.rela.*` sections where the file has no dynamic section.
    ///
    /// # Errors
    /// The file cannot be read. Damaged tables are as good as none.
    pub(crate) fn relocations(&self) -> Result<Vec<Relocation>> {
        let dynamic = self.headers().dynamic(self.file());
        let value = |wanted| {
            let found = dynamic.iter().find(|(tag, _)| *tag == wanted);
            found.map(|(_, value)| *value)
        };
        let mut tables = Vec::new();
        for (start, size) in [
            (elf::DT_RELA, elf::DT_RELASZ),
            (elf::DT_JMPREL, elf::DT_PLTRELSZ),
        ] {
            tables.extend(value(start).zip(value(size)));
        }
        if tables.is_empty() {
            let sections = [".rela.plt", ".rela.iplt", ".rela.dyn"];
            let found = sections.map(|name| self.headers().section(name));
            tables.extend(found.iter().flatten().map(|s| (s.address, s.size)));
        }
        let mut relocations = Vec::new();
        for (address, size) in tables {
            let Ok(size) = usize::try_from(size) else {
                continue;
            };
            // A size that the file does not hold is refused before it is believed.
            let Some(bytes) = self.loaded(address, size)? else {
                continue;
            };
            let count = bytes.len() / size_of::<Rela64<LE>>();
            if let Ok((entries, _)) = pod::slice_from_bytes::<Rela64<LE>>(&bytes, count) {
                relocations.extend(entries.iter().map(|rela| Relocation {
                    at: rela.r_offset.get(LE),
                    kind: rela.r_type(LE, false).0,
                    symbol: rela.r_sym(LE, false),
                    addend: rela.r_addend.get(LE).cast_unsigned(),
                }));
            }
        }
        // A static program without a dynamic section may name one table twice.
        relocations.sort_unstable();
        relocations.dedup();
        Ok(relocations)
    }
}

/// One entry of a relocation table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Relocation {
    /// The place that is written, as a virtual address.
    pub(crate) at: u64,
    /// `R_X86_64_...`.
    pub(crate) kind: u32,
    /// Index into `.dynsym`; 0 for none.
    pub(crate) symbol: u32,
    /// What is added, in two's complement.
    pub(crate) addend: u64,
}
