//! ELF header, segments, sections, dynamic entries and notes, each checked against the file's length.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use object::LittleEndian as LE;
use object::elf::{
    self, Dyn64, DynamicTag, FileHeader64, FileType, NoteType, ProgramHeader64, ProgramType,
    SectionHeader64, SectionType,
};
use object::pod;
use object::read::elf::NoteIterator;

use super::refuse;
use crate::error::{Error, Result};

pub(super) type Header = FileHeader64<LE>;

/// Larger tables than this are damage: the kernel itself takes 64 KiB of program headers at most.
const MAX_HEADERS: u64 = 16 << 20;
/// Notes, interpreter and dynamic entries are small; what claims to be larger is not read.
const MAX_SMALL: u64 = 1 << 20;

/// What an ELF file's bytes come from: a file, or memory that one was unpacked to.
pub(crate) trait Source {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

impl Source for File {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buffer, offset)
    }
}

impl Source for Vec<u8> {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).ok();
        let end = start.and_then(|start| start.checked_add(buffer.len()));
        let bytes = start.zip(end).and_then(|(start, end)| self.get(start..end));
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// What a file's headers are expected to describe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holds {
    /// A program or library: its segments lie in the file.
    Code,
    /// Only names and debug information. Its segments are those of the program it belongs to, and not in the file.
    Names,
}

#[derive(Debug)]
pub(crate) struct Headers {
    pub(crate) kind: FileType,
    pub(crate) entry: u64,
    pub(crate) file_len: u64,
    holds: Holds,
    segments: Vec<Segment>,
    sections: Vec<Section>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    pub(crate) kind: ProgramType,
    pub(crate) executable: bool,
    pub(crate) writable: bool,
    pub(crate) offset: u64,
    pub(crate) address: u64,
    pub(crate) file_size: u64,
    align: u64,
}

#[derive(Debug)]
pub(crate) struct Section {
    pub(crate) name: String,
    pub(crate) kind: SectionType,
    pub(crate) executable: bool,
    /// Where it is loaded; 0 for what is not.
    pub(crate) address: u64,
    pub(crate) offset: u64,
    pub(crate) size: u64,
    pub(crate) link: u32,
    /// The size of one entry, where it is a table.
    pub(crate) each: u64,
    align: u64,
}

pub(crate) struct Note {
    pub(crate) name: Vec<u8>,
    pub(crate) kind: NoteType,
    pub(crate) data: Vec<u8>,
}

impl Headers {
    pub(crate) fn read(path: &Path, file: &dyn Source, len: u64, holds: Holds) -> Result<Self> {
        let read = |offset, size, what: &str| read_checked(path, file, len, offset, size, what);
        let start = read(0, len.min(64), "its first bytes")?;
        refuse::check_magic(path, &start)?;
        let truncated = |what: &str| Error::Truncated {
            path: path.to_owned(),
            what: what.to_owned(),
        };
        // The class decides the length of the header, so a short file may still be named for what it is.
        if start.get(4) == Some(&elf::ELFCLASS32.0) {
            return Err(Error::WrongClass(path.to_owned()));
        }
        let (header, _) = pod::from_bytes::<Header>(&start)
            .map_err(|()| truncated("it ends within the ELF header"))?;
        refuse::check_kind(path, header, holds)?;

        let program_size = u64::from(header.e_phentsize.get(LE));
        if header.e_phnum.get(LE) > 0 && program_size != size_of::<ProgramHeader64<LE>>() as u64 {
            return Err(truncated("its program headers have an unknown size"));
        }
        let bytes = read(
            header.e_phoff.get(LE),
            program_size * u64::from(header.e_phnum.get(LE)),
            "the program headers",
        )?;
        let segments: Vec<Segment> = pod::slice_from_all_bytes::<ProgramHeader64<LE>>(&bytes)
            .map_err(|()| truncated("the program headers are incomplete"))?
            .iter()
            .map(Segment::new)
            .collect();
        let loaded = segments.iter().filter(|s| s.kind == elf::PT_LOAD);
        for segment in loaded.filter(|_| holds == Holds::Code) {
            if segment
                .offset
                .checked_add(segment.file_size)
                .is_none_or(|end| end > len)
            {
                return Err(truncated(&format!(
                    "a segment of {} bytes at offset {:#x} reaches past the end of the file ({len} bytes)",
                    segment.file_size, segment.offset
                )));
            }
        }
        let sections = read_sections(path, file, len, header)?;
        Ok(Self {
            kind: header.e_type.get(LE),
            entry: header.e_entry.get(LE),
            file_len: len,
            holds,
            segments,
            sections,
        })
    }

    pub(crate) fn has_sections(&self) -> bool {
        !self.sections.is_empty()
    }

    pub(crate) fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name)
    }

    pub(crate) fn section_at(&self, index: usize) -> Option<&Section> {
        self.sections.get(index)
    }

    pub(crate) fn section_of_kind(&self, kind: SectionType) -> Option<&Section> {
        self.sections.iter().find(|section| section.kind == kind)
    }

    pub(crate) fn segment_of_kind(&self, kind: ProgramType) -> Option<&Segment> {
        self.segments.iter().find(|segment| segment.kind == kind)
    }

    pub(crate) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The executable segment whose bytes in the file hold ADDRESS.
    fn code_segment(&self, address: u64) -> Option<&Segment> {
        self.segments
            .iter()
            .find(|s| s.is_code() && address.wrapping_sub(s.address) < s.file_size)
    }

    pub(crate) fn code_offset(&self, address: u64) -> Option<u64> {
        self.code_segment(address)
            .map(|s| address - s.address + s.offset)
    }

    pub(crate) fn code_end(&self, address: u64) -> u64 {
        self.code_segment(address)
            .map_or(address, |s| s.address.saturating_add(s.file_size))
    }

    /// The start of the executable section that ADDRESS lies in, else of its segment.
    pub(crate) fn code_start(&self, address: u64) -> u64 {
        let mut sections = self.sections.iter().filter(|s| s.executable);
        let section = sections.find(|s| address.wrapping_sub(s.address) < s.size);
        let segment = || self.code_segment(address).map_or(address, |s| s.address);
        section.map_or_else(segment, |s| s.address)
    }

    pub(crate) fn code_address(&self, offset: u64) -> Option<u64> {
        let segment = self
            .segments
            .iter()
            .find(|s| s.is_code() && offset.wrapping_sub(s.offset) < s.file_size)?;
        Some(offset - segment.offset + segment.address)
    }

    /// The file offset of any loaded address (data too).
    pub(crate) fn data_offset(&self, address: u64) -> Option<u64> {
        self.segments
            .iter()
            .find(|s| s.kind == elf::PT_LOAD && address.wrapping_sub(s.address) < s.file_size)
            .map(|s| address - s.address + s.offset)
    }

    /// The file offset of any loaded address, and how many of its segment's bytes the file has from there on.
    pub(crate) fn loaded_at(&self, address: u64) -> Option<(u64, u64)> {
        let mut loads = self.segments.iter().filter(|s| s.kind == elf::PT_LOAD);
        let segment = loads.find(|s| address.wrapping_sub(s.address) < s.file_size)?;
        let at = address - segment.address;
        Some((segment.offset.checked_add(at)?, segment.file_size - at))
    }

    pub(crate) fn interpreter(&self, file: &dyn Source) -> Option<String> {
        let bytes = self.segment_bytes(file, self.segment_of_kind(elf::PT_INTERP)?)?;
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
        String::from_utf8(bytes[..end].to_vec()).ok()
    }

    fn segment_bytes(&self, file: &dyn Source, segment: &Segment) -> Option<Vec<u8>> {
        self.bytes(file, segment.offset, segment.file_size)
    }

    fn bytes(&self, file: &dyn Source, offset: u64, size: u64) -> Option<Vec<u8>> {
        if size > MAX_SMALL || offset.checked_add(size)? > self.file_len {
            return None;
        }
        let mut bytes = vec![0; usize::try_from(size).ok()?];
        file.read_exact_at(&mut bytes, offset).ok()?;
        Some(bytes)
    }

    /// Tags and values of the dynamic section, empty for a static executable.
    pub(crate) fn dynamic(&self, file: &dyn Source) -> Vec<(DynamicTag, u64)> {
        let bytes = self
            .segment_of_kind(elf::PT_DYNAMIC)
            .and_then(|s| self.segment_bytes(file, s));
        let Some(bytes) = bytes else {
            return Vec::new();
        };
        let entries =
            pod::slice_from_bytes::<Dyn64<LE>>(&bytes, bytes.len() / size_of::<Dyn64<LE>>());
        entries.map_or_else(
            |()| Vec::new(),
            |(entries, _)| {
                let pairs = entries.iter().map(|e| (e.d_tag.get(LE), e.d_val.get(LE)));
                pairs.take_while(|(tag, _)| *tag != elf::DT_NULL).collect()
            },
        )
    }

    pub(crate) fn flagged_pie(&self, file: &dyn Source) -> bool {
        let flags = elf::DF_1_PIE.0;
        self.dynamic(file)
            .iter()
            .any(|(tag, value)| *tag == elf::DT_FLAGS_1 && value & flags != 0)
    }

    pub(crate) fn dynamic_strings(&self, file: &dyn Source, wanted: DynamicTag) -> Vec<String> {
        let entries = self.dynamic(file);
        let value = |wanted: DynamicTag| {
            entries
                .iter()
                .find(|(tag, _)| *tag == wanted)
                .map(|(_, value)| *value)
        };
        let table = value(elf::DT_STRTAB).and_then(|address| self.data_offset(address));
        let (Some(table), Some(size)) = (table, value(elf::DT_STRSZ)) else {
            return Vec::new();
        };
        let string = |at: u64| {
            // A page holds any file name; the table itself can have megabytes.
            let bytes = self.bytes(
                file,
                table.checked_add(at)?,
                size.checked_sub(at)?.min(4096),
            )?;
            let end = bytes.iter().position(|b| *b == 0)?;
            Some(String::from_utf8_lossy(&bytes[..end]).into_owned())
        };
        entries
            .iter()
            .filter(|(tag, _)| *tag == wanted)
            .filter_map(|(_, at)| string(*at))
            .collect()
    }

    pub(crate) fn build_id(&self, file: &dyn Source) -> Option<Vec<u8>> {
        let notes = self.notes(file);
        let id = notes
            .into_iter()
            .find(|note| note.kind == elf::NT_GNU_BUILD_ID && note.name == b"GNU");
        id.map(|note| note.data)
    }

    pub(crate) fn notes(&self, file: &dyn Source) -> Vec<Note> {
        let mut notes = Vec::new();
        let segments = self.segments.iter().filter(|s| s.kind == elf::PT_NOTE);
        let segments = segments.map(|s| (s.offset, s.file_size, s.align));
        // The segments of a debug file lead nowhere.
        let sections = self.sections.iter().filter(|s| s.kind == elf::SHT_NOTE);
        let sections = sections.map(|s| (s.offset, s.size, s.align));
        let places: Vec<_> = match self.holds {
            Holds::Code => segments.collect(),
            Holds::Names => sections.collect(),
        };
        for (offset, size, align) in places {
            let Some(bytes) = self.bytes(file, offset, size) else {
                continue;
            };
            let Ok(mut each) = NoteIterator::<Header>::new(LE, align, &bytes) else {
                continue;
            };
            while let Ok(Some(note)) = each.next() {
                notes.push(Note {
                    name: note.name().to_vec(),
                    kind: note.n_type(LE),
                    data: note.desc().to_vec(),
                });
            }
        }
        notes
    }
}

impl Segment {
    fn new(header: &ProgramHeader64<LE>) -> Self {
        Self {
            kind: header.p_type.get(LE),
            executable: header.p_flags.get(LE).0 & elf::PF_X.0 != 0,
            writable: header.p_flags.get(LE).0 & elf::PF_W.0 != 0,
            offset: header.p_offset.get(LE),
            address: header.p_vaddr.get(LE),
            file_size: header.p_filesz.get(LE),
            align: header.p_align.get(LE),
        }
    }

    fn is_code(&self) -> bool {
        self.kind == elf::PT_LOAD && self.executable
    }
}

/// Reads SIZE bytes at OFFSET, or says that the file ends before.
pub(crate) fn read_checked(
    path: &Path,
    file: &dyn Source,
    len: u64,
    offset: u64,
    size: u64,
    what: &str,
) -> Result<Vec<u8>> {
    let truncated = || Error::Truncated {
        path: path.to_owned(),
        what: format!(
            "{what} ({size} bytes at offset {offset:#x}) should be there, but the file has {len} bytes"
        ),
    };
    if offset.checked_add(size).is_none_or(|end| end > len) {
        return Err(truncated());
    }
    let mut bytes = vec![0; usize::try_from(size).map_err(|_| truncated())?];
    file.read_exact_at(&mut bytes, offset)
        .map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => truncated(),
            _ => Error::Io {
                path: path.to_owned(),
                action: "read",
                source,
            },
        })?;
    Ok(bytes)
}

fn read_sections(
    path: &Path,
    file: &dyn Source,
    len: u64,
    header: &Header,
) -> Result<Vec<Section>> {
    let truncated = |what: &str| Error::Truncated {
        path: path.to_owned(),
        what: what.to_owned(),
    };
    let offset = header.e_shoff.get(LE);
    if offset == 0 {
        return Ok(Vec::new());
    }
    let each = size_of::<SectionHeader64<LE>>() as u64;
    if u64::from(header.e_shentsize.get(LE)) != each {
        return Err(truncated("its section headers have an unknown size"));
    }
    let read = |count: u64| {
        let size = count.checked_mul(each).filter(|size| *size <= MAX_HEADERS);
        let size = size.ok_or_else(|| truncated(&format!("it claims {count} section headers")))?;
        read_checked(path, file, len, offset, size, "the section headers")
    };
    let mut count = u64::from(header.e_shnum.get(LE));
    let mut names = u32::from(header.e_shstrndx.get(LE).0);
    // More than 65279 sections: the first header carries the true numbers (gABI, "Sections").
    if count == 0 || names == u32::from(elf::SHN_XINDEX.0) {
        let bytes = read(1)?;
        let (first, _) = pod::from_bytes::<SectionHeader64<LE>>(&bytes)
            .map_err(|()| truncated("the section headers are incomplete"))?;
        if count == 0 {
            count = first.sh_size.get(LE);
        }
        if names == u32::from(elf::SHN_XINDEX.0) {
            names = first.sh_link.get(LE);
        }
    }
    let bytes = read(count)?;
    let raw = pod::slice_from_all_bytes::<SectionHeader64<LE>>(&bytes)
        .map_err(|()| truncated("the section headers are incomplete"))?;
    let strings = match raw.get(names as usize).filter(|_| names != 0) {
        Some(table) => {
            let size = table.sh_size.get(LE);
            if size > MAX_HEADERS {
                return Err(truncated(&format!("the section names claim {size} bytes")));
            }
            read_checked(
                path,
                file,
                len,
                table.sh_offset.get(LE),
                size,
                "the section names",
            )?
        }
        None => Vec::new(),
    };
    let name = |at: u32| {
        let rest = strings.get(at as usize..).unwrap_or_default();
        let end = rest.iter().position(|b| *b == 0).unwrap_or(rest.len());
        String::from_utf8_lossy(&rest[..end]).into_owned()
    };
    Ok(raw
        .iter()
        .map(|section| Section {
            name: name(section.sh_name.get(LE)),
            kind: section.sh_type.get(LE),
            executable: section.sh_flags.get(LE).0 & elf::SHF_EXECINSTR.0 != 0,
            address: section.sh_addr.get(LE),
            offset: section.sh_offset.get(LE),
            size: section.sh_size.get(LE),
            link: section.sh_link.get(LE),
            each: section.sh_entsize.get(LE),
            align: section.sh_addralign.get(LE),
        })
        .collect())
}
