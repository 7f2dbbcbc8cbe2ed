//! `.eh_frame`: where functions start and end, also in stripped files, and where a frame's base is.
//!
//! Compilers emit one frame description entry (FDE) for each contiguous piece of a function, so the cold part that
//! GCC splits off has one of its own.

use std::cell::RefCell;
use std::collections::HashMap;

use gimli::{
    BaseAddresses, CfaRule, CommonInformationEntry, EhFrameHdr, EhFrameOffset, EndianSlice,
    FrameDescriptionEntry, LittleEndian, Pointer, RegisterRule, UnwindContext, UnwindSection,
};
use object::elf;

use crate::error::Result;
use crate::image::Image;

type Bytes<'a> = EndianSlice<'a, LittleEndian>;
type Cie<'a> = CommonInformationEntry<Bytes<'a>>;
type Fde<'a> = FrameDescriptionEntry<Bytes<'a>>;

/// Where the frame's base is when a function is entered, as [`EhFrame::cfa_at`] tells it: past the return address, by
/// the stack pointer's number in DWARF (System V ABI, AMD64 supplement, figure 3.36).
pub(crate) const AT_ENTRY: (u16, i64) = (7, 8);

/// The piece of code that one frame description entry covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FrameRange {
    /// Virtual address of its start.
    pub address: u64,
    /// Its length in bytes.
    pub len: u64,
    /// It has landing pads or clean-ups for exceptions (a language-specific data area).
    pub has_handlers: bool,
    /// Where the entry is within the section.
    entry: usize,
}

impl FrameRange {
    /// Virtual address of its end.
    pub fn end(&self) -> u64 {
        self.address.saturating_add(self.len)
    }
}

/// The call frame information of one file.
#[derive(Debug)]
pub struct EhFrame {
    bytes: Vec<u8>,
    bases: BaseAddresses,
    ranges: Vec<FrameRange>,
}

/// Reads `.eh_frame`; `None` where the file has none. Entries that cannot be read are left out: the others still
/// tell the truth. Without section headers it is found by the search table in PT_GNU_EH_FRAME.
///
/// # Errors
/// The section reaches past the end of the file, or cannot be read.
pub fn read(image: &Image) -> Result<Option<EhFrame>> {
    let bases = bases(image);
    if let Some((address, bytes)) = image.section_data(".eh_frame")? {
        let bases = bases.set_eh_frame(address);
        let entries = entries_of(&bytes);
        return Ok(Some(EhFrame::new(bytes, bases, entries)));
    }
    let Some((table, search)) = search_table(image)? else {
        return Ok(None);
    };
    let bases = bases.set_eh_frame_hdr(table);
    let Some((address, pointers)) = searched(&search, &bases) else {
        return Ok(None);
    };
    let Some(bytes) = image.loaded_rest(address)? else {
        return Ok(None);
    };
    let entries = pointers
        .iter()
        .filter_map(|pointer| usize::try_from(pointer.checked_sub(address)?).ok())
        .collect();
    Ok(Some(EhFrame::new(
        bytes,
        bases.set_eh_frame(address),
        entries,
    )))
}

fn bases(image: &Image) -> BaseAddresses {
    let text = image.headers().section(".text").map_or(0, |s| s.address);
    let got = image.headers().section(".got").map_or(0, |s| s.address);
    BaseAddresses::default().set_text(text).set_got(got)
}

/// The search table (`.eh_frame_hdr`), with its address.
fn search_table(image: &Image) -> Result<Option<(u64, Vec<u8>)>> {
    let Some(table) = (image.headers()).segment_of_kind(elf::PT_GNU_EH_FRAME) else {
        return Ok(None);
    };
    let Some(len) = usize::try_from(table.file_size).ok() else {
        return Ok(None);
    };
    let search = image.loaded(table.address, len)?;
    Ok(search.map(|search| (table.address, search)))
}

/// The address of `.eh_frame` and those of all its entries, by the search table (`.eh_frame_hdr`).
fn searched(table: &[u8], bases: &BaseAddresses) -> Option<(u64, Vec<u64>)> {
    let header = EhFrameHdr::new(table, LittleEndian).parse(bases, 8).ok()?;
    let Pointer::Direct(address) = header.eh_frame_ptr() else {
        return None;
    };
    let mut pointers = Vec::new();
    if let Some(rows) = header.table() {
        let mut rows = rows.iter(bases);
        // A row takes bytes of the table, so a count that lies ends with it.
        while let Ok(Some((_, pointer))) = rows.next() {
            if let Pointer::Direct(pointer) = pointer {
                pointers.push(pointer);
            }
        }
    }
    Some((address, pointers))
}

/// Offsets of all entries (FDEs, not the CIEs they share). Linkers leave terminators (a length of 0) in the middle
/// when they put the end marker of one library before other files: the walk goes on behind them.
fn entries_of(bytes: &[u8]) -> Vec<usize> {
    let word = |at: usize| {
        let bytes = bytes.get(at..at.checked_add(4)?)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    };
    let long = |at: usize| {
        let bytes = bytes.get(at..at.checked_add(8)?)?;
        usize::try_from(u64::from_le_bytes(bytes.try_into().ok()?)).ok()
    };
    let mut entries = Vec::new();
    let mut at = 0;
    while let Some(length) = word(at) {
        let (start, length) = match length {
            u32::MAX => (at + 12, long(at + 4)),
            length => (at + 4, usize::try_from(length).ok()),
        };
        if length.is_some_and(|length| length >= 4) && word(start).is_some_and(|cie| cie != 0) {
            entries.push(at);
        }
        let Some(next) = length.and_then(|length| start.checked_add(length)) else {
            break;
        };
        at = next;
    }
    entries
}

impl EhFrame {
    fn new(bytes: Vec<u8>, bases: BaseAddresses, mut entries: Vec<usize>) -> Self {
        entries.sort_unstable();
        entries.dedup();
        let mut frame = Self {
            bytes,
            bases,
            ranges: Vec::new(),
        };
        let shared = Shared::default();
        let mut ranges: Vec<FrameRange> = entries
            .into_iter()
            .filter_map(|entry| {
                let fde = frame.entry(entry, &shared)?;
                Some(FrameRange {
                    address: fde.initial_address(),
                    len: fde.len(),
                    has_handlers: fde.lsda().is_some(),
                    entry,
                })
            })
            .collect();
        ranges.sort_unstable();
        frame.ranges = ranges;
        frame
    }

    /// All pieces, by address; the same piece twice where two entries describe it.
    pub fn ranges(&self) -> &[FrameRange] {
        &self.ranges
    }

    /// The piece that an address lies in; of several, the one that starts last.
    pub fn around(&self, address: u64) -> Option<&FrameRange> {
        let past = self.ranges.partition_point(|r| r.address <= address);
        let range = self.ranges.get(past.checked_sub(1)?)?;
        (address < range.end()).then_some(range)
    }

    /// Where the frame's base (the canonical frame address: the stack pointer before the call) is at an address, as
    /// a DWARF register number and a signed offset from it. `None` where it is not so simple (in the PLT, and where
    /// code realigns its stack), or no entry covers the address.
    pub fn cfa_at(&self, address: u64) -> Option<(u16, i64)> {
        let range = self.around(address)?;
        let shared = Shared::default();
        self.cfa_of(&self.entry(range.entry, &shared)?, address)
    }

    fn cfa_of(&self, fde: &Fde<'_>, address: u64) -> Option<(u16, i64)> {
        let section = gimli::EhFrame::new(&self.bytes, LittleEndian);
        let mut context = UnwindContext::new();
        let row = fde
            .unwind_info_for_address(&section, &self.bases, &mut context, address)
            .ok()?;
        match row.cfa() {
            CfaRule::RegisterAndOffset { register, offset } => Some((register.0, *offset)),
            CfaRule::Expression(_) => None,
        }
    }

    fn entry<'a>(&'a self, at: usize, shared: &Shared<'a>) -> Option<Fde<'a>> {
        let section = gimli::EhFrame::new(&self.bytes, LittleEndian);
        let get = |section: &gimli::EhFrame<Bytes<'a>>,
                   bases: &BaseAddresses,
                   offset: EhFrameOffset| shared.cie(section, bases, offset);
        section
            .fde_from_offset(&self.bases, EhFrameOffset(at), get)
            .ok()
    }
}

/// The call frame information of one file for a few questions: entries are found by the search table in
/// PT_GNU_EH_FRAME, where there is one, and none is read that is not asked for.
#[derive(Debug)]
pub(crate) struct Lookup {
    /// The search table.
    search: Vec<u8>,
    all: EhFrame,
}

impl Lookup {
    /// `None` where the file has no call frame information, or it cannot be read.
    pub(crate) fn read(image: &Image) -> Option<Self> {
        let search = search_table(image).ok().flatten();
        let section = image.section_data(".eh_frame").ok().flatten();
        let (Some((table, search)), Some((address, bytes))) = (search, section) else {
            return Some(Self {
                search: Vec::new(),
                all: read(image).ok()??,
            });
        };
        let bases = bases(image).set_eh_frame_hdr(table).set_eh_frame(address);
        let all = EhFrame {
            bytes,
            bases,
            ranges: Vec::new(),
        };
        Some(Self { search, all })
    }

    /// Calls LOOK with the entry that covers an address.
    fn with<T>(&self, address: u64, look: impl FnOnce(&Fde<'_>) -> Option<T>) -> Option<T> {
        let shared = Shared::default();
        if self.search.is_empty() {
            let range = self.all.around(address)?;
            return look(&self.all.entry(range.entry, &shared)?);
        }
        let fde = self.nearest(address)?;
        look(&fde).filter(|_| fde.contains(address))
    }

    /// The last entry that starts at or before an address (the first, where none does).
    fn nearest(&self, address: u64) -> Option<Fde<'_>> {
        let bases = &self.all.bases;
        let header = EhFrameHdr::new(&self.search, LittleEndian);
        let header = header.parse(bases, 8).ok()?;
        let table = header.table()?;
        let pointer = table.lookup(address, bases).ok()?;
        let offset = table.pointer_to_offset(pointer).ok()?;
        let section = gimli::EhFrame::new(&self.all.bytes, LittleEndian);
        section
            .fde_from_offset(bases, offset, gimli::EhFrame::cie_from_offset)
            .ok()
    }

    /// Start and end of the piece of code that an address lies in.
    pub(crate) fn around(&self, address: u64) -> Option<(u64, u64)> {
        self.with(address, |fde| {
            let end = fde.initial_address().saturating_add(fde.len());
            Some((fde.initial_address(), end))
        })
    }

    /// The end of the last piece that starts before an address.
    pub(crate) fn end_before(&self, address: u64) -> Option<u64> {
        if self.search.is_empty() {
            let ranges = self.all.ranges();
            let past = ranges.partition_point(|r| r.address <= address);
            return Some(ranges.get(past.checked_sub(1)?)?.end());
        }
        let fde = self.nearest(address)?;
        let end = fde.initial_address().saturating_add(fde.len());
        (end <= address).then_some(end)
    }

    /// As [`EhFrame::cfa_at`].
    pub(crate) fn cfa_at(&self, address: u64) -> Option<(u16, i64)> {
        self.with(address, |fde| self.all.cfa_of(fde, address))
    }

    /// Whether there is nothing on the stack at an address but what a call puts there.
    pub(crate) fn begins_call(&self, address: u64) -> bool {
        self.cfa_at(address) == Some(AT_ENTRY)
    }

    /// Whether an address has no caller by the call frame information: where a thread starts.
    pub(crate) fn has_no_caller(&self, address: u64) -> bool {
        let section = gimli::EhFrame::new(&self.all.bytes, LittleEndian);
        let mut context = UnwindContext::new();
        let found = self.with(address, |fde| {
            let row = fde.unwind_info_for_address(&section, &self.all.bases, &mut context, address);
            let rule = row.ok()?.register(fde.cie().return_address_register());
            Some(rule == Some(RegisterRule::Undefined))
        });
        found == Some(true)
    }
}

/// Entries share what they have in common (CIEs): each is read once.
#[derive(Default)]
struct Shared<'a>(RefCell<HashMap<usize, gimli::Result<Cie<'a>>>>);

impl<'a> Shared<'a> {
    fn cie(
        &self,
        section: &gimli::EhFrame<Bytes<'a>>,
        bases: &BaseAddresses,
        offset: EhFrameOffset,
    ) -> gimli::Result<Cie<'a>> {
        let mut known = self.0.borrow_mut();
        known
            .entry(offset.0)
            .or_insert_with(|| section.cie_from_offset(bases, offset))
            .clone()
    }
}
