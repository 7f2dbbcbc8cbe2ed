//! The smallest program around some sections: fuzzers then spend their time in the sections, not in the headers.

/// The sections of debug information that the `dwarf` target fills.
pub const DEBUG_SECTIONS: &[&str] = &[
    ".debug_info",
    ".debug_abbrev",
    ".debug_line",
    ".debug_str",
    ".debug_ranges",
    ".debug_rnglists",
    ".debug_addr",
    ".debug_str_offsets",
    ".debug_line_str",
    ".debug_aranges",
    ".debug_loc",
    ".debug_loclists",
];

const EHDR: usize = 64;
const PHDR: usize = 56;
const CODE: usize = 4096;
const BASE: u64 = 0x40_0000;

/// An executable with a page of code at 0x400000 and these sections (layouts: elf.h).
pub fn program(sections: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0x90; EHDR + PHDR + CODE];
    let mut names = vec![0];
    let mut headers = vec![[0_u64; 8]];
    let mut add = |bytes: &mut Vec<u8>, name: &str, kind: u64, flags: u64, content: &[u8]| {
        let at = bytes.len() as u64;
        let name_at = names.len() as u64;
        names.extend(name.bytes().chain([0]));
        bytes.extend(content);
        // sh_name and sh_type share a word; sh_link and sh_info, too.
        let address = if flags == 0 { 0 } else { BASE + at };
        headers.push([
            name_at | kind << 32,
            flags,
            address,
            at,
            content.len() as u64,
            0,
            1,
            0,
        ]);
    };
    add(&mut bytes, ".text", 1, 6, &[0xc3; 256]);
    for (name, content) in sections {
        let kind = if name.starts_with(".note") { 7 } else { 1 };
        let flags = if name.starts_with(".debug") { 0 } else { 2 };
        add(&mut bytes, name, kind, flags, content);
    }
    let last = names.len() as u64;
    names.extend(b".shstrtab\0");
    headers.push([
        last | 3 << 32,
        0,
        0,
        bytes.len() as u64,
        names.len() as u64,
        0,
        1,
        0,
    ]);
    bytes.extend(&names);
    let table = bytes.len() as u64;
    let count = headers.len() as u16;
    for header in headers {
        bytes.extend(header.iter().flat_map(|word| word.to_le_bytes()));
    }
    let len = bytes.len() as u64;
    head(&mut bytes, table, count, len);
    bytes
}

fn head(bytes: &mut [u8], table: u64, count: u16, len: u64) {
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(0, b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    put(16, &[2, 0, 62, 0, 1, 0, 0, 0]);
    put(24, &(BASE + 120).to_le_bytes());
    put(32, &(EHDR as u64).to_le_bytes());
    put(40, &table.to_le_bytes());
    put(48, &[0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 64, 0]);
    put(60, &count.to_le_bytes());
    put(62, &(count - 1).to_le_bytes());
    // One segment, to read and to execute, that holds the whole file.
    put(64, &[1, 0, 0, 0, 5, 0, 0, 0]);
    for (at, word) in [
        (72, 0),
        (80, BASE),
        (88, BASE),
        (96, len),
        (104, len),
        (112, 4096),
    ] {
        put(at, &u64::to_le_bytes(word));
    }
}
