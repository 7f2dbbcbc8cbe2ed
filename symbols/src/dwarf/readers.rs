//! The files that make up one program's debug information, and their units: found at once, parsed when needed.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use gimli::{AttributeValue, DebugInfoOffset, DwoId, LittleEndian, Section, SectionId, UnitOffset};

use object::elf;

use super::frames::Answering;
use super::load::DebugSections;
use super::offsets::unit_offsets;
use super::split::Split;
use crate::image::Image;

/// What reads a section.
pub(crate) type Reader<'a> = gimli::EndianSlice<'a, LittleEndian>;

/// What every question asks for besides `.debug_info`.
const EARLY: [&str; 5] = [
    ".debug_line",
    ".debug_str",
    ".debug_abbrev",
    ".debug_line_str",
    ".debug_rnglists",
];

/// The files, in memory.
pub(super) struct Files {
    pub(super) main: DebugSections,
    pub(super) sup: Option<DebugSections>,
    dwp: Option<DebugSections>,
    /// The `.dwo` file of each unit of the main file, once it was asked for.
    dwos: Box<[OnceLock<Option<DebugSections>>]>,
    program: PathBuf,
    root: Option<PathBuf>,
    /// The addresses of the program's code. What is described elsewhere was dropped by the linker.
    code: Vec<Range<u64>>,
    notes: Vec<String>,
}

impl Files {
    /// The main file with its supplementary file. Packages and `.dwo` files are looked for around the program, and
    /// where the process with that ROOT sees them.
    pub(super) fn new(
        main: DebugSections,
        sup: Option<DebugSections>,
        program: &Image,
        root: Option<&Path>,
        notes: Vec<String>,
    ) -> Self {
        // Only split units keep their addresses in a table.
        main.prepare(".debug_info", &EARLY);
        let split = !main.get(".debug_addr").is_empty();
        let dwp = split
            .then(|| super::locate::package(&main, program.path()))
            .flatten();
        let units = if split {
            unit_offsets(main.get(".debug_info")).0.len()
        } else {
            0
        };
        let segments = program.headers().segments().iter();
        let code = segments.filter(|s| s.kind == elf::PT_LOAD && s.executable);
        Self {
            code: code
                .map(|s| s.address..s.address.saturating_add(s.file_size))
                .collect(),
            notes,
            main,
            sup,
            dwp,
            dwos: (0..units).map(|_| OnceLock::new()).collect(),
            program: program.path().to_owned(),
            root: root.map(Path::to_owned),
        }
    }

    pub(super) fn path(&self) -> &Path {
        self.main.path()
    }
}

/// Readers over [`Files`].
pub(crate) struct Readers<'a> {
    files: &'a Files,
    units: OnceLock<UnitList<'a>>,
    sup_units: OnceLock<Option<UnitList<'a>>>,
    gimli: Arc<gimli::Dwarf<Reader<'a>>>,
    package: Option<gimli::DwarfPackage<Reader<'a>>>,
    located: OnceLock<gimli::Dwarf<Reader<'a>>>,
    across: OnceLock<bool>,
    context: OnceLock<Answering<'a>>,
    damaged: Mutex<BTreeSet<usize>>,
    notes: Vec<String>,
}

/// The units of one `.debug_info`, by offset.
pub(crate) struct UnitList<'a> {
    pub(crate) dwarf: Arc<gimli::Dwarf<Reader<'a>>>,
    slots: Vec<Slot<'a>>,
    /// Units that cannot be read, and why.
    foreign: Vec<String>,
}

struct Slot<'a> {
    header: gimli::UnitHeader<Reader<'a>>,
    unit: OnceLock<Result<gimli::Unit<Reader<'a>>, gimli::Error>>,
    split: OnceLock<Option<Split<'a>>>,
}

/// One unit, with what it takes to follow its references.
#[derive(Clone, Copy)]
pub(crate) struct UnitAt<'r, 'a> {
    /// The units beside it.
    pub(crate) list: &'r UnitList<'a>,
    /// Its number among them.
    pub(crate) index: usize,
    /// The unit.
    pub(crate) unit: &'r gimli::Unit<Reader<'a>>,
}

impl<'r, 'a> UnitAt<'r, 'a> {
    /// Its file's sections.
    pub(crate) fn dwarf(&self) -> &'r gimli::Dwarf<Reader<'a>> {
        &self.list.dwarf
    }

    /// Both in gimli's own terms.
    pub(crate) fn unit_ref(&self) -> gimli::UnitRef<'r, Reader<'a>> {
        gimli::UnitRef::new(self.dwarf(), self.unit)
    }
}

impl<'a> UnitList<'a> {
    pub(super) fn new(dwarf: Arc<gimli::Dwarf<Reader<'a>>>) -> Self {
        let (offsets, cut) = unit_offsets(dwarf.debug_info.reader().slice());
        let (mut slots, mut foreign) = (Vec::with_capacity(offsets.len()), Vec::new());
        foreign.extend(
            cut.map(|at| format!("the unit at {at:#x} reaches past the end of .debug_info")),
        );
        for offset in offsets {
            match dwarf.debug_info.header_from_offset(DebugInfoOffset(offset)) {
                Ok(header) => slots.push(Slot {
                    header,
                    unit: OnceLock::new(),
                    split: OnceLock::new(),
                }),
                Err(e) => foreign.push(format!("the unit at {offset:#x} cannot be read: {e}")),
            }
        }
        Self {
            dwarf,
            slots,
            foreign,
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The header of unit INDEX.
    pub(crate) fn header(&self, index: usize) -> Option<&gimli::UnitHeader<Reader<'a>>> {
        self.slots.get(index).map(|slot| &slot.header)
    }

    /// Unit INDEX as it stands here: of split units, the skeleton. `None` where it is damaged.
    pub(crate) fn here(&self, index: usize) -> Option<UnitAt<'_, 'a>> {
        let slot = self.slots.get(index)?;
        let unit = slot.unit.get_or_init(|| self.dwarf.unit(slot.header));
        unit.as_ref().ok().map(|unit| UnitAt {
            list: self,
            index,
            unit,
        })
    }

    /// The unit that holds an offset in `.debug_info`, and the offset in it.
    pub(crate) fn at_offset(
        &self,
        offset: DebugInfoOffset<usize>,
    ) -> Option<(UnitAt<'_, 'a>, UnitOffset<usize>)> {
        let index = self.index_at(offset.0)?;
        let at = offset.to_unit_offset(&self.slots.get(index)?.header)?;
        Some((self.here(index)?, at))
    }

    /// The unit that holds the byte at OFFSET of `.debug_info`.
    pub(super) fn index_at(&self, offset: usize) -> Option<usize> {
        let after = self.slots.partition_point(|slot| {
            slot.header
                .debug_info_offset()
                .is_some_and(|start| start.0 <= offset)
        });
        after.checked_sub(1)
    }

    /// Puts a unit in place that was parsed elsewhere.
    pub(super) fn set(&self, index: usize, unit: gimli::Unit<Reader<'a>>) {
        if let Some(slot) = self.slots.get(index) {
            // Whoever was first has put the same there.
            let _ = slot.unit.set(Ok(unit));
        }
    }
}

impl<'a> Readers<'a> {
    pub(super) fn new(files: &'a Files) -> Self {
        let mut notes = Vec::new();
        let mut gimli = sections(&files.main, |id| match is_late(id) {
            true => "",
            false => id.name(),
        });
        gimli.populate_abbreviations_cache(gimli::AbbreviationsCacheStrategy::Duplicates);
        if let Some(sup) = &files.sup {
            let mut sup = sections(sup, SectionId::name);
            sup.populate_abbreviations_cache(gimli::AbbreviationsCacheStrategy::Duplicates);
            gimli.set_sup(sup);
        }
        let package = files.dwp.as_ref().and_then(|file| {
            let load = |id: SectionId| Ok(reader(file, id.dwo_name().unwrap_or_default()));
            let package = gimli::DwarfPackage::load(load, Reader::default());
            package
                .inspect_err(|e: &gimli::Error| {
                    notes.push(format!("{}: {e}", file.path().display()))
                })
                .ok()
        });
        Self {
            files,
            units: OnceLock::new(),
            sup_units: OnceLock::new(),
            gimli: Arc::new(gimli),
            package,
            located: OnceLock::new(),
            across: OnceLock::new(),
            context: OnceLock::new(),
            damaged: Mutex::new(BTreeSet::new()),
            notes,
        }
    }

    /// The sections of the main file; `sup()` has those of the supplementary one.
    pub(crate) fn gimli(&self) -> &Arc<gimli::Dwarf<Reader<'a>>> {
        &self.gimli
    }

    /// The sections of a unit with its lists of locations. Those of the main file are large and only asked for where
    /// variables are, so [`UnitAt::dwarf`] has them only for split units.
    pub(crate) fn with_locations<'r>(&'r self, at: UnitAt<'r, 'a>) -> &'r gimli::Dwarf<Reader<'a>> {
        if !std::ptr::eq(at.list, self.units()) {
            return at.dwarf();
        }
        self.located.get_or_init(|| {
            let mut all = sections(&self.files.main, SectionId::name);
            all.sup.clone_from(&self.gimli.sup);
            all
        })
    }

    /// The units of the main file.
    pub(crate) fn units(&self) -> &UnitList<'a> {
        self.units
            .get_or_init(|| UnitList::new(Arc::clone(&self.gimli)))
    }

    /// The units of the supplementary file.
    pub(crate) fn sup_units(&self) -> Option<&UnitList<'a>> {
        let list = || {
            self.gimli
                .sup
                .as_ref()
                .map(|sup| UnitList::new(Arc::clone(sup)))
        };
        self.sup_units.get_or_init(list).as_ref()
    }

    /// Unit INDEX of the main file with all that it describes: of split units, what the `.dwo` file has.
    /// The skeleton where that is missing; `None` where the unit is damaged.
    pub(crate) fn unit(&self, index: usize) -> Option<UnitAt<'_, 'a>> {
        let units = self.units();
        let skeleton = units.here(index)?;
        let Some(id) = skeleton.unit.dwo_id else {
            return Some(skeleton);
        };
        let slot = units.slots.get(index)?;
        let split = slot.split.get_or_init(|| self.find_split(skeleton, id));
        Some(split.as_ref().and_then(Split::unit).unwrap_or(skeleton))
    }

    /// Where a reference leads: DW_FORM_ref4 and its like within the unit, DW_FORM_ref_addr within the file,
    /// DW_FORM_GNU_ref_alt into the supplementary file.
    pub(crate) fn follow<'r>(
        &'r self,
        from: UnitAt<'r, 'a>,
        value: &AttributeValue<Reader<'a>>,
    ) -> Option<(UnitAt<'r, 'a>, UnitOffset<usize>)> {
        match *value {
            AttributeValue::UnitRef(offset) => Some((from, offset)),
            AttributeValue::DebugInfoRef(offset) => from.list.at_offset(offset),
            AttributeValue::DebugInfoRefSup(offset) => self.sup_units()?.at_offset(offset),
            _ => None,
        }
    }

    /// Whether units may have their content in other files.
    pub(super) fn is_split(&self) -> bool {
        !self.files.dwos.is_empty()
    }

    /// Whether functions may have their names in other units: made by link-time optimisation, or by dwz. Told from
    /// the bytes of `.debug_abbrev`, so now and then wrongly.
    pub(super) fn refers_across(&self) -> bool {
        // DW_AT_abstract_origin (0x31) and DW_AT_specification (0x47) of the forms DW_FORM_ref_addr (0x10) and
        // DW_FORM_GNU_ref_alt (0x1f20, as ULEB128).
        let patterns: [&[u8]; 4] = [b"\x31\x10", b"\x47\x10", b"\x31\xa0\x3e", b"\x47\xa0\x3e"];
        let abbreviations = self.gimli.debug_abbrev.reader().slice();
        *self.across.get_or_init(|| {
            patterns
                .iter()
                .any(|pattern| memchr::memmem::find(abbreviations, pattern).is_some())
        })
    }

    /// What finds frames.
    pub(super) fn context(&self) -> &Answering<'a> {
        let new = || Mutex::new(addr2line::Context::from_arc_dwarf(Arc::clone(&self.gimli)));
        self.context.get_or_init(new)
    }

    /// The sections of the `.dwo` file with the unit of that ID.
    pub(super) fn split_sections(&self, id: DwoId) -> Option<Arc<gimli::Dwarf<Reader<'a>>>> {
        let units = self.units();
        let index = (0..units.len()).find(|index| {
            units
                .here(*index)
                .is_some_and(|at| at.unit.dwo_id == Some(id))
        })?;
        let at = self.unit(index)?;
        (!std::ptr::eq(at.list, units)).then(|| Arc::clone(&at.list.dwarf))
    }

    /// Takes note of a unit that cannot be read to its end.
    pub(super) fn damaged(&self, index: usize) {
        if let Ok(mut damaged) = self.damaged.lock() {
            damaged.insert(index);
        }
    }

    /// Whether the file has code at this address. Linkers leave 0, 1 or -1 where they dropped what was there.
    pub(crate) fn is_code(&self, address: u64) -> bool {
        self.files.code.iter().any(|range| range.contains(&address))
    }

    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = self.files.notes.clone();
        let files = [
            Some(&self.files.main),
            self.files.sup.as_ref(),
            self.files.dwp.as_ref(),
        ];
        notes.extend(files.into_iter().flatten().flat_map(DebugSections::notes));
        notes.extend(self.notes.iter().cloned());
        notes.extend(self.damaged_note());
        let lists = [
            self.units.get(),
            self.sup_units.get().and_then(Option::as_ref),
        ];
        for list in lists.into_iter().flatten() {
            notes.extend(
                list.foreign
                    .iter()
                    .map(|why| format!("{}: {why}", self.files.path().display())),
            );
        }
        notes.extend(self.missing_note());
        notes
    }

    fn damaged_note(&self) -> Option<String> {
        let damaged = self.damaged.lock().ok()?;
        let first = self
            .units()
            .header(*damaged.first()?)?
            .debug_info_offset()?;
        Some(format!(
            "{}: {} of {} units are damaged and were read as far as possible, the first at {:#x} of .debug_info",
            self.files.path().display(),
            damaged.len(),
            self.units().len(),
            first.0
        ))
    }

    /// How many units want a `.dwo` file that is not there, as far as anybody looked.
    fn missing_note(&self) -> Option<String> {
        let slots = &self.units.get()?.slots;
        let asked = slots
            .iter()
            .enumerate()
            .filter_map(|(at, slot)| Some((at, slot.split.get()?)));
        let (mut all, mut missing, mut example) = (0, 0, None);
        for (index, split) in asked {
            all += 1;
            if split.is_none() {
                missing += 1;
                example = example.or_else(|| self.dwo_path(self.units().here(index)?));
            }
        }
        let example = example?;
        Some(format!(
            "{}: {missing} of {all} units have their .dwo file missing, e.g. {}",
            self.files.path().display(),
            example.display()
        ))
    }

    /// Where a skeleton unit says that its `.dwo` file is.
    pub(super) fn dwo_path(&self, skeleton: UnitAt<'_, 'a>) -> Option<PathBuf> {
        let unit = skeleton.unit_ref();
        let name = unit.attr_string(unit.dwo_name().ok()??).ok()?;
        let dir = unit
            .comp_dir
            .map_or(PathBuf::new(), |dir| path_of(dir.slice()));
        Some(dir.join(path_of(name.slice())))
    }

    fn find_split(&self, skeleton: UnitAt<'_, 'a>, id: DwoId) -> Option<Split<'a>> {
        if let Some(package) = &self.package
            && let Ok(Some(found)) = package.find_cu(id, &self.gimli)
            && let Some(split) = Split::new(found, id, skeleton)
        {
            return Some(split);
        }
        let slot = self.files.dwos.get(skeleton.index)?;
        let path = self.dwo_path(skeleton)?;
        let file = slot.get_or_init(|| {
            super::locate::dwo(&path, id, &self.files.program, self.files.root.as_deref())
        });
        let mut dwarf = sections(file.as_ref()?, |id| id.dwo_name().unwrap_or_default());
        dwarf.make_dwo(&self.gimli);
        Split::new(dwarf, id, skeleton)
    }
}

/// Sections that few questions ask for.
fn is_late(id: SectionId) -> bool {
    matches!(
        id,
        SectionId::DebugLoc | SectionId::DebugLocLists | SectionId::DebugNames
    )
}

/// The sections of one file, by the names that NAMES gives them.
pub(super) fn sections<'a>(
    file: &'a DebugSections,
    names: impl Fn(SectionId) -> &'static str,
) -> gimli::Dwarf<Reader<'a>> {
    let load = |id: SectionId| Ok::<_, std::convert::Infallible>(reader(file, names(id)));
    match gimli::Dwarf::load(load) {
        Ok(dwarf) => dwarf,
        Err(never) => match never {},
    }
}

fn reader<'a>(file: &'a DebugSections, name: &str) -> Reader<'a> {
    Reader::new(file.get(name), LittleEndian)
}

pub(super) fn path_of(bytes: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    PathBuf::from(std::ffi::OsStr::from_bytes(bytes))
}
