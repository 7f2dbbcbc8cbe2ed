//! Damage: small changes to a real file, chosen by a seed, most of them where parsers look.

use std::ops::Range;

use object::{Object, ObjectSection, ObjectSegment};

/// A xorshift generator: the same numbers in every run.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Seeds that differ a little begin far apart.
    pub fn new(seed: u64) -> Self {
        let mut this = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        this.next();
        this.next();
        this
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below LIMIT; 0 if that is 0.
    pub fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() >> 11)
            .map_or(0, |number| number.checked_rem(limit).unwrap_or(0))
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// A file with its parts: headers and sections, as byte ranges.
pub struct Original {
    pub name: String,
    pub bytes: Vec<u8>,
    parts: Vec<(String, Range<usize>)>,
}

/// Sections that only the program itself reads.
const DULL: &[&str] = &[
    ".text", ".rodata", ".data", ".bss", ".comment", ".plt.got", ".fini", ".init",
];

impl Original {
    pub fn new(name: &str, bytes: Vec<u8>) -> Self {
        let mut parts = vec![("the ELF header".to_owned(), 0..64)];
        let word = |at: usize| {
            let bytes = bytes.get(at..at + 8)?;
            usize::try_from(u64::from_le_bytes(bytes.try_into().ok()?)).ok()
        };
        let half = |at: usize| {
            Some(usize::from(u16::from_le_bytes(
                bytes.get(at..at + 2)?.try_into().ok()?,
            )))
        };
        // e_phoff, e_shoff; e_phentsize and e_phnum, e_shentsize and e_shnum (elf.h, Elf64_Ehdr).
        for (what, offset, size) in [
            ("the program headers", 32, 54),
            ("the section headers", 40, 58),
        ] {
            let start = word(offset).unwrap_or(0);
            let len = half(size).unwrap_or(0) * half(size + 2).unwrap_or(0);
            parts.push((what.to_owned(), start..start + len));
        }
        let file = object::File::parse(&*bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        for section in file.sections() {
            let name = section.name().unwrap_or_default().to_owned();
            if let Some((offset, size)) = section.file_range()
                && !DULL.contains(&name.as_str())
            {
                parts.push((name, whole(offset)..whole(offset + size)));
            }
        }
        if parts.len() == 3 {
            let segments = file.segments().map(|segment| segment.file_range());
            parts.extend(
                segments.map(|(at, len)| ("a segment".to_owned(), whole(at)..whole(at + len))),
            );
        }
        let len = bytes.len();
        parts.retain(|(_, range)| range.start < range.end && range.end <= len);
        Self {
            name: name.to_owned(),
            bytes,
            parts,
        }
    }

    /// A damaged copy, and what was done to it.
    pub fn damaged(&self, random: &mut Random) -> (Vec<u8>, String) {
        let mut bytes = self.bytes.clone();
        let mut done = Vec::new();
        for _ in 0..1 + random.below(3) {
            done.push(self.damage(&mut bytes, random));
        }
        (bytes, format!("{}: {}", self.name, done.join(", ")))
    }

    fn damage(&self, bytes: &mut Vec<u8>, random: &mut Random) -> String {
        let (name, range) = random.pick(&self.parts).clone();
        let range = range.start..range.end.min(bytes.len());
        if range.is_empty() {
            return format!("{name} is gone already");
        }
        match random.below(16) {
            0 => {
                let at = random.below(bytes.len());
                bytes.truncate(at);
                format!("cut at {at:#x}")
            }
            1 => {
                let at = range.start + random.below(range.len());
                bytes.truncate(at);
                format!("cut in {name} at {at:#x}")
            }
            2 => self.swap_headers(bytes, random),
            3 => {
                let (from, source) = random.pick(&self.parts).clone();
                let end = source.end.min(bytes.len());
                let source = source.start.min(end)..end;
                let len = source.len().min(range.len());
                bytes.copy_within(source.start..source.start + len, range.start);
                format!("{from} over {name}")
            }
            4 => {
                bytes[range].fill(*random.pick(&[0, 0xff, 0x80]));
                format!("{name} blotted out")
            }
            5..8 => {
                let count = 1 + random.below(16);
                for _ in 0..count {
                    let at = range.start + random.below(range.len());
                    bytes[at] ^= 1 << random.below(8);
                }
                format!("{count} bits of {name}")
            }
            8 => {
                let count = 1 + random.below(64);
                for _ in 0..count {
                    let at = random.below(bytes.len());
                    bytes[at] = random.next() as u8;
                }
                format!("{count} bytes anywhere")
            }
            _ => overwrite(bytes, &name, range, random),
        }
    }

    /// Two sections are given each other's place.
    fn swap_headers(&self, bytes: &mut [u8], random: &mut Random) -> String {
        let headers = self
            .parts
            .iter()
            .find(|(name, _)| name == "the section headers");
        let Some((_, table)) = headers.filter(|(_, table)| table.end <= bytes.len()) else {
            return "no sections to swap".to_owned();
        };
        let count = table.len() / 64;
        let (one, other) = (random.below(count), random.below(count));
        // sh_addr, sh_offset and sh_size lie together (elf.h, Elf64_Shdr).
        for at in 16..40 {
            bytes.swap(table.start + one * 64 + at, table.start + other * 64 + at);
        }
        format!("sections {one} and {other} swapped")
    }
}

/// A field gets an extreme value.
fn overwrite(bytes: &mut [u8], name: &str, range: Range<usize>, random: &mut Random) -> String {
    let len = bytes.len() as u64;
    let extremes = [
        0,
        1,
        2,
        7,
        0x7f,
        0xff,
        0x7fff,
        0xffff,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_fff0,
        0xffff_ffff,
        0x7fff_ffff_ffff_ffff,
        0x8000_0000_0000_0000,
        u64::MAX - 7,
        u64::MAX,
        len,
        len - 1,
        len / 2,
        range.start as u64,
        range.len() as u64,
        random.next(),
    ];
    let width = *random.pick(&[1, 2, 4, 8]);
    let value = *random.pick(&extremes);
    // Most fields are aligned; LEB128 numbers are not.
    let step = if random.below(4) == 0 { 1 } else { width };
    let at = range.start + random.below(range.len()) / step * step;
    let end = (at + width).min(range.end);
    bytes[at..end].copy_from_slice(&value.to_le_bytes()[..end - at]);
    format!(
        "{value:#x} in {width} bytes of {name} at +{:#x}",
        at - range.start
    )
}

fn whole(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
