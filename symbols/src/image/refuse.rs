//! What is not read: told for what it is.

use std::path::Path;

use object::LittleEndian as LE;
use object::elf::{self, Machine};

use super::headers::{Header, Holds};
use crate::arch;
use crate::error::{Error, Result};

/// Refuses what is no ELF file, told for what it is.
pub(super) fn check_magic(path: &Path, start: &[u8]) -> Result<()> {
    let not_elf = |found: &str| Error::NotElf {
        path: path.to_owned(),
        found: found.to_owned(),
    };
    if start.starts_with(&elf::ELFMAG) {
        return Ok(());
    }
    let text = start
        .iter()
        .all(|b| (b' '..0x7f).contains(b) || b"\n\r\t".contains(b) || *b >= 0x80);
    if start.is_empty() {
        Err(not_elf("an empty file"))
    } else if elf::ELFMAG.starts_with(start) {
        Err(Error::Truncated {
            path: path.to_owned(),
            what: "it ends within the ELF header".into(),
        })
    } else if start.starts_with(b"!<arch>") {
        Err(not_elf("a static library (an ar archive)"))
    } else if text {
        let line = String::from_utf8_lossy(start);
        let line: String = line
            .lines()
            .next()
            .unwrap_or_default()
            .chars()
            .take(32)
            .collect();
        let kind = if line.starts_with("#!") {
            "a script"
        } else {
            "a text file"
        };
        Err(not_elf(&format!(
            "{kind} (starts with \"{}\")",
            line.escape_debug()
        )))
    } else {
        let bytes: Vec<String> = start
            .iter()
            .take(4)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        Err(not_elf(&format!(
            "a binary of another kind (starts with {})",
            bytes.join(" ")
        )))
    }
}

/// Refuses ELF files that this crate does not read: of another processor, or that hold no code.
pub(super) fn check_kind(path: &Path, header: &Header, holds: Holds) -> Result<()> {
    let machine = header.e_machine.get(LE);
    let foreign = |found| Error::ForeignArch {
        path: path.to_owned(),
        found,
        expected: arch::NAME,
    };
    if header.e_ident.class != elf::ELFCLASS64 {
        return Err(Error::Truncated {
            path: path.to_owned(),
            what: format!(
                "its ELF class is {}, neither 32-bit nor 64-bit",
                header.e_ident.class.0
            ),
        });
    }
    if header.e_ident.data != elf::ELFDATA2LSB {
        return Err(foreign("a big-endian processor".into()));
    }
    if machine != arch::MACHINE {
        return Err(foreign(machine_name(machine)));
    }
    let found = match header.e_type.get(LE) {
        elf::ET_EXEC | elf::ET_DYN => return Ok(()),
        // The files that dwz shares between debug files are of no kind in particular.
        _ if holds == Holds::Names => return Ok(()),
        elf::ET_REL => "an object file, not linked yet (ET_REL)".to_owned(),
        elf::ET_CORE => "a core dump (ET_CORE)".to_owned(),
        other => format!("an ELF file of type {other}"),
    };
    Err(Error::NotRunnable {
        path: path.to_owned(),
        found,
    })
}

fn machine_name(machine: Machine) -> String {
    match machine {
        elf::EM_AARCH64 => "aarch64".into(),
        elf::EM_X86_64 => "x86-64".into(),
        elf::EM_386 => "x86 (32-bit)".into(),
        elf::EM_ARM => "arm (32-bit)".into(),
        elf::EM_RISCV => "riscv".into(),
        elf::EM_PPC64 => "powerpc64".into(),
        elf::EM_S390 => "s390x".into(),
        elf::EM_LOONGARCH => "loongarch".into(),
        elf::EM_BPF => "the kernel's BPF machine".into(),
        other => format!("an unknown processor (e_machine {})", other.0),
    }
}
