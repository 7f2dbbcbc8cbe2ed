//! Probes that programs bring along (USDT): `.note.stapsdt` notes, as `<sys/sdt.h>` and its likes write them.
//! The place is one `nop`; a note tells where, what it is called, and where its arguments are at that moment.
//! Layout: <https://sourceware.org/systemtap/wiki/UserSpaceProbeImplementation>.

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
use x86_64 as syntax;

use std::collections::HashMap;

use object::LittleEndian as LE;
use object::elf::FileHeader64;
use object::read::elf::NoteIterator;

use crate::error::Result;
use crate::image::Image;
use crate::raw_symbols::RawSymbols;

/// `NT_STAPSDT`
const STAPSDT: u32 = 3;

/// One place of a probe. Inlining and templates make several places of one probe: the same provider and name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usdt {
    /// The provider: `python`, `libc`.
    pub provider: String,
    /// The name: `function__entry`.
    pub name: String,
    /// Virtual address of its `nop` in the file's own terms.
    pub address: u64,
    /// Offset of that in the file: what a uprobe wants.
    pub offset: u64,
    /// The counter of those who listen, where the probe has one: while it is 0, the program leaves the probe out.
    pub semaphore: Option<Semaphore>,
    /// Where the arguments are, in order: the first is `arg0`.
    pub args: Vec<UsdtArg>,
}

/// A counter of 16 bits that whoever attaches has to raise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Semaphore {
    /// Virtual address in the file's own terms.
    pub address: u64,
    /// Offset in the file: what the kernel calls `ref_ctr_offset`. `None` where the file has no bytes for it: then
    /// the kernel cannot raise it.
    pub offset: Option<u64>,
}

/// An argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsdtArg {
    /// As the note has it: `-4@%edi`.
    pub text: String,
    /// Size in bytes: 1, 2, 4 or 8.
    pub size: u8,
    /// Whether it has a sign.
    pub signed: bool,
    /// It is a floating-point number: its bytes may be copied, not computed with.
    pub float: bool,
    /// Where it is.
    pub operand: Operand,
}

/// Where an argument is when the probe is hit. Registers go by their DWARF numbers (on x86-64: psABI, figure 3.36).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operand {
    /// It is always this.
    Constant(i64),
    /// In the low bytes of a register, above `shift` bits (8 for `%ah`).
    Register {
        /// The DWARF number.
        register: u8,
        /// Bits below it.
        shift: u8,
    },
    /// In memory, at base + index * scale + displacement. With the instruction pointer (16 on x86-64) as base, its
    /// value is the probe's own address.
    Memory {
        /// The DWARF number of the base.
        base: Option<u8>,
        /// The DWARF number of the index, and its factor: 1, 2, 4 or 8.
        index: Option<(u8, u8)>,
        /// What is added, in bytes. Without a base and index, the address itself.
        displacement: i64,
    },
    /// A probe cannot read it; the words say why.
    Unreadable(String),
}

impl Image {
    /// The USDT probes of this file, by address; empty where it has none. Notes that cannot be read, or that lead
    /// to no code, are left out.
    ///
    /// # Errors
    /// The section that holds them reaches past the end of the file, or cannot be read.
    pub fn usdt(&self) -> Result<Vec<Usdt>> {
        let Some((_, notes)) = self.section_data(".note.stapsdt")? else {
            return Ok(Vec::new());
        };
        // Prelink moves code without knowing of notes: what it did to this section, it did to all.
        let base = self.headers().section(".stapsdt.base").map(|s| s.address);
        let mut probes = Vec::new();
        // Its entries are aligned to 4, whatever the section says.
        if let Ok(mut each) = NoteIterator::<FileHeader64<LE>>::new(LE, 4, &notes) {
            let mut symbols = Named::of(self);
            // A note takes bytes, so the walk ends with them.
            while let Ok(Some(note)) = each.next() {
                if note.n_type(LE).0 == STAPSDT && note.name() == b"stapsdt" {
                    probes.extend(self.probe(note.desc(), base, &mut symbols));
                }
            }
        }
        probes.sort_by(|a: &Usdt, b| {
            (a.address, &a.provider, &a.name).cmp(&(b.address, &b.provider, &b.name))
        });
        probes.dedup();
        Ok(probes)
    }

    /// Three addresses (the probe's, the base's when it was linked, the semaphore's), then three texts.
    fn probe(&self, note: &[u8], base: Option<u64>, symbols: &mut Named<'_>) -> Option<Usdt> {
        let (addresses, texts) = note.split_at_checked(24)?;
        let mut words = addresses.chunks_exact(8).filter_map(|word| {
            let word: [u8; 8] = word.try_into().ok()?;
            Some(u64::from_le_bytes(word))
        });
        let (address, linked, semaphore) = (words.next()?, words.next()?, words.next()?);
        let moved = base
            .filter(|_| linked != 0)
            .map_or(0, |base| base.wrapping_sub(linked));
        let mut texts = texts.split(|byte| *byte == 0).map(String::from_utf8_lossy);
        let (provider, name) = (texts.next()?.into_owned(), texts.next()?.into_owned());
        let args = texts.next().unwrap_or_default();
        let address = address.wrapping_add(moved);
        let offset = self.offset_of(address)?;
        let semaphore = (semaphore != 0).then(|| semaphore.wrapping_add(moved));
        (!name.is_empty()).then(|| Usdt {
            provider,
            name,
            address,
            offset,
            semaphore: semaphore.map(|address| Semaphore {
                address,
                offset: self.headers().data_offset(address),
            }),
            args: parse_args(&args, address, symbols),
        })
    }
}

/// Arguments stand one after another, with spaces between: `-4@%edi 8@$5 8f@%xmm0`. The size is negative for numbers
/// with a sign, and has an `f` behind it for floating-point ones.
fn parse_args(text: &str, probe: u64, symbols: &mut Named<'_>) -> Vec<UsdtArg> {
    let args = text.split_ascii_whitespace();
    args.map(|arg| parse_arg(arg, probe, symbols)).collect()
}

fn parse_arg(text: &str, probe: u64, symbols: &mut Named<'_>) -> UsdtArg {
    // Notes of the first version have no sizes: then it is a word.
    let (size, operand) = match text.split_once('@') {
        Some((size, operand)) if size.starts_with(|c: char| c == '-' || c.is_ascii_digit()) => {
            (size, operand)
        }
        _ => ("8", text),
    };
    let float = size.ends_with('f');
    let signed = size.starts_with('-');
    let number = size.trim_start_matches('-').trim_end_matches('f');
    let size = number
        .parse()
        .ok()
        .filter(|size| [1, 2, 4, 8].contains(size));
    let operand = match size {
        Some(_) => syntax::operand(operand, probe, &mut |name| symbols.address(name)),
        None => Operand::Unreadable(format!("it has {number} bytes, not 1, 2, 4 or 8")),
    };
    UsdtArg {
        text: text.to_owned(),
        size: size.unwrap_or(8),
        signed,
        float,
        operand,
    }
}

/// Addresses of symbols of any kind by name, read when the first one is asked for.
struct Named<'a> {
    image: &'a Image,
    addresses: Option<HashMap<Vec<u8>, u64>>,
}

impl<'a> Named<'a> {
    fn of(image: &'a Image) -> Self {
        Self {
            image,
            addresses: None,
        }
    }

    /// `None` where no table names it. The whole table's word counts before that of the exported names.
    fn address(&mut self, name: &str) -> Option<u64> {
        let addresses = self.addresses.get_or_insert_with(|| {
            let tables = [
                RawSymbols::dynamic(self.image),
                RawSymbols::whole(self.image),
            ];
            let mut addresses = HashMap::new();
            for table in tables.iter().flatten().flatten() {
                let defined = table.iter().filter(|symbol| symbol.defined);
                addresses.extend(defined.map(|symbol| (symbol.name.to_vec(), symbol.address)));
            }
            addresses
        });
        addresses.get(name.as_bytes()).copied()
    }
}

#[cfg(test)]
mod tests;
