//! Code that leaves one stack for another, found without names: instructions that load the stack pointer with
//! something that does not come from the stack itself.
//!
//! The candidates are found by their bytes, some ten milliseconds for the largest programs. Each is then looked at
//! from the start of its function on: compilers write the stack pointer too, to give back what `alloca` took, but
//! only with what was the stack pointer before.

mod known;
mod origin;

use std::os::unix::fs::FileExt;

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};

use crate::eh_frame::Lookup;
use crate::error::{Error, Result};
use crate::image::{Image, Part};
use origin::Origins;

/// Code is read in pieces of this size.
const PIECE: usize = 1 << 20;
/// Blocks are passed over at once where no byte begins a candidate.
const BLOCK: usize = 64;
/// A candidate's first three bytes tell it: REX prefix, opcode, ModRM.
const START: usize = 3;
/// How far back the start of a function that nothing describes is looked for, in bytes.
const BACK: u64 = 32 << 10;
/// How far on code is looked at, in bytes.
const AFTER: u64 = 512;
/// Functions are not decoded from further back than this, in bytes.
const FAR: u64 = 1 << 20;

/// An instruction that takes the stack pointer from elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Switch {
    /// Virtual address of the instruction.
    pub(super) address: u64,
    /// The instruction, in words.
    pub(super) text: String,
}

/// All switches in the file's code, by address.
///
/// # Errors
/// The file cannot be read.
pub(super) fn switches(image: &Image) -> Result<Vec<Switch>> {
    let candidates = candidates(image)?;
    let mut found = Vec::new();
    if candidates.is_empty() {
        return Ok(found);
    }
    let frames = Lookup::read(image);
    for address in candidates {
        if let Some(switch) = confirm(image, frames.as_ref(), address)? {
            found.push(switch);
        }
    }
    Ok(found)
}

/// Addresses of the bytes in executable sections (segments, where there are no sections) that look like a load of
/// the stack pointer.
pub(super) fn candidates(image: &Image) -> Result<Vec<u64>> {
    let headers = image.headers();
    let mut areas: Vec<(u64, u64, u64)> = Vec::new();
    if headers.has_sections() {
        let sections = (0..).map_while(|index| headers.section_at(index));
        let code = sections.filter(|s| s.executable && s.kind != object::elf::SHT_NOBITS);
        areas.extend(code.map(|s| (s.address, s.offset, s.size)));
    } else {
        let code = image.loads().filter(|s| s.executable);
        areas.extend(code.map(|s| (s.address, s.offset, s.file_size)));
    }
    let mut found = Vec::new();
    let mut bytes = vec![0; PIECE];
    for (address, offset, size) in areas {
        let mut at = 0;
        while at < size {
            let len = usize::try_from(size - at).map_or(PIECE, |left| left.min(PIECE));
            let read = read(image, &mut bytes[..len], offset.saturating_add(at))?;
            scan(&bytes[..read], |within| {
                found.push(address.saturating_add(at + within as u64))
            });
            if read < len || (size - at) as usize <= PIECE {
                break;
            }
            // Candidates that a piece's end cuts in two are whole in the next one.
            at += (PIECE - START + 1) as u64;
        }
    }
    Ok(found)
}

/// Reads as much as there is.
fn read(image: &Image, bytes: &mut [u8], offset: u64) -> Result<usize> {
    let mut filled = 0;
    while filled < bytes.len() {
        match image
            .file()
            .read_at(&mut bytes[filled..], offset + filled as u64)
        {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(source) => {
                return Err(Error::Io {
                    path: image.path().to_owned(),
                    action: "read",
                    source,
                });
            }
        }
    }
    Ok(filled)
}

/// Calls FOUND with the place of each candidate. The test over a block has no branches and no bounds to check, so
/// that compilers make vector code of it.
fn scan(bytes: &[u8], mut found: impl FnMut(usize)) {
    let at =
        |start: usize| -> Option<&[u8; BLOCK]> { bytes.get(start..start + BLOCK)?.try_into().ok() };
    let mut look = |i: usize| {
        if let Some([rex, opcode, modrm]) = bytes.get(i..i + START)
            && looks(*rex, *opcode, *modrm) != 0
            && !is_ordinary(&bytes[i..])
        {
            found(i);
        }
    };
    let mut start = 0;
    while let (Some(rex), Some(opcode), Some(modrm)) = (at(start), at(start + 1), at(start + 2)) {
        let mut any = 0;
        for i in 0..BLOCK {
            any |= looks(rex[i], opcode[i], modrm[i]);
        }
        if any != 0 {
            (start..start + BLOCK).for_each(&mut look);
        }
        start += BLOCK;
    }
    (start..bytes.len()).for_each(&mut look);
}

/// Whether three bytes may begin a load of rsp (Intel SDM 2.1: REX.W is 48 with R, X and B in the low bits; the
/// register 4 without R or B is rsp): `mov rsp, r` (89), `mov rsp, r/m` (8b), `xchg` (87), `lea rsp` (8d), and
/// `xchg rax, rsp` (94). Not `lea rsp, [rbp+N]`, which is the end of many functions.
#[inline]
fn looks(rex: u8, opcode: u8, modrm: u8) -> u8 {
    let wide = u8::from(rex & 0xf8 == 0x48);
    // Assemblers set no bit that means nothing: X belongs to an index register, which only memory has.
    let meant = u8::from(modrm < 0xc0) | u8::from(rex & 2 == 0);
    let into_reg = u8::from(modrm & 0x38 == 0x20) & u8::from(rex & 4 == 0) & meant;
    let into_rm = u8::from(modrm & 0xc7 == 0xc4) & u8::from(rex & 1 == 0) & meant;
    let on_rbp = u8::from(modrm & 7 == 5) & u8::from(modrm >= 0x40) & u8::from(rex & 1 == 0);
    let named = u8::from(opcode == 0x89) & into_rm
        | u8::from(opcode == 0x8b) & into_reg
        | u8::from(opcode == 0x8d) & into_reg & !on_rbp
        | u8::from(opcode == 0x87) & (into_reg | into_rm)
        | u8::from(opcode == 0x94) & u8::from(rex == 0x48);
    wide & named
}

/// What ends or realigns ordinary frames: `mov rsp, rbp` before `pop rbp`, and what is relative to rsp itself.
fn is_ordinary(bytes: &[u8]) -> bool {
    match bytes {
        [0x48, 0x89, 0xec, 0x5d, ..] | [0x48, 0x8b, 0xe5, 0x5d, ..] => true,
        // ModRM with a SIB byte whose base is rsp.
        [0x48 | 0x4a, 0x8b | 0x8d, 0x24 | 0x64 | 0xa4, sib, ..] => sib & 7 == 4,
        _ => false,
    }
}

/// Whether the candidate is an instruction that takes the stack pointer from elsewhere.
fn confirm(image: &Image, frames: Option<&Lookup>, address: u64) -> Result<Option<Switch>> {
    let start = Start::of(image, frames, address);
    let limit = image.headers().code_end(address);
    let end = (start.end.unwrap_or(address.saturating_add(AFTER))).min(limit);
    let len = usize::try_from(end.saturating_sub(start.address)).unwrap_or(0);
    let Some(code) = image.loaded(start.address, len)? else {
        return Ok(None);
    };
    let before = (address - start.address) as usize;
    let rest = code.get(before..).unwrap_or_default();
    if !start.known && !leads_on(rest, address) {
        return Ok(None);
    }
    let mut origins = Origins::new(&start);
    let Some(instruction) = follow(&mut origins, &start, &code, address) else {
        return Ok(None);
    };
    if !loads_stack_pointer(&instruction)
        || origins.is_own(&instruction)
        || frames.is_some_and(|frames| restores(frames, &instruction))
        || known::ends_with_known(code.get(..before).unwrap_or_default())
    {
        return Ok(None);
    }
    if start.known {
        // In loops, the stack pointer may be restored further up than it is saved.
        follow(&mut origins, &start, &code, u64::MAX);
        origins = origins.again(&start);
        follow(&mut origins, &start, &code, address);
        if origins.is_own(&instruction) {
            return Ok(None);
        }
    }
    Ok(Some(Switch {
        address,
        text: crate::arch::text(rest, address),
    }))
}

/// The instruction at ADDRESS, with ORIGINS as it finds them. `None` where none starts there.
fn follow(origins: &mut Origins, start: &Start, code: &[u8], address: u64) -> Option<Instruction> {
    let mut decoder = Decoder::with_ip(64, code, start.address, DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    let mut ended = false;
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        let at = instruction.ip();
        // Where nothing tells functions apart, padding after the last instruction of one does.
        let padding = matches!(instruction.mnemonic(), Mnemonic::Nop | Mnemonic::Int3);
        if !start.known && ended && (padding || at.is_multiple_of(16)) && origins.is_over(at) {
            *origins = Origins::new(start);
        }
        origins.arrive(&instruction);
        if at >= address {
            return (at == address).then_some(instruction);
        }
        origins.pass(&instruction);
        let leaves = matches!(
            instruction.flow_control(),
            FlowControl::Return | FlowControl::UnconditionalBranch
        );
        ended = leaves || (ended && padding);
    }
    None
}

/// Whether what follows is code: tables that stand between functions soon show something that no program does.
fn leads_on(code: &[u8], address: u64) -> bool {
    /// A switch restores some registers and goes on.
    const MOST: usize = 48;
    let decoder = Decoder::with_ip(64, code, address, DecoderOptions::NONE);
    for instruction in decoder.into_iter().take(MOST) {
        if instruction.is_invalid() || instruction.is_privileged() || !is_usual(&instruction) {
            return false;
        }
        if !matches!(
            instruction.flow_control(),
            FlowControl::Next | FlowControl::ConditionalBranch
        ) {
            return true;
        }
    }
    false
}

/// Not what only a kernel does, or hardly anybody since 1985.
fn is_usual(instruction: &Instruction) -> bool {
    !matches!(
        instruction.mnemonic(),
        Mnemonic::In
            | Mnemonic::Out
            | Mnemonic::Insb
            | Mnemonic::Insd
            | Mnemonic::Outsb
            | Mnemonic::Outsd
            | Mnemonic::Int
            | Mnemonic::Int1
            | Mnemonic::Iretd
            | Mnemonic::Iretq
            | Mnemonic::Retf
            | Mnemonic::Enter
            | Mnemonic::Xlatb
            | Mnemonic::Loop
            | Mnemonic::Loope
            | Mnemonic::Loopne
            | Mnemonic::Jrcxz
            | Mnemonic::Cmc
            | Mnemonic::Lahf
            | Mnemonic::Sahf
    )
}

/// The operand that the stack pointer is loaded from.
fn source(instruction: &Instruction) -> u32 {
    match instruction.op0_register() {
        Register::RSP => 1,
        _ => 0,
    }
}

/// Whether the call frame information finds the frame by what the stack pointer is restored from.
fn restores(frames: &Lookup, instruction: &Instruction) -> bool {
    let Some((register, _)) = frames.cfa_at(instruction.ip()) else {
        return false;
    };
    let other = source(instruction);
    let from = match instruction.op_kind(other) {
        OpKind::Memory => instruction.memory_base(),
        _ => instruction.op_register(other),
    };
    from != Register::RSP && dwarf_number(from) == Some(register)
}

/// A general register's number in DWARF (System V ABI, AMD64 supplement, figure 3.36).
fn dwarf_number(register: Register) -> Option<u16> {
    /// By the number in instructions: rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi.
    const LOW: [u16; 8] = [0, 2, 1, 3, 7, 6, 4, 5];
    let number = register.is_gpr64().then(|| register.number())?;
    Some(LOW.get(number).copied().unwrap_or(number as u16))
}

/// Where code is decoded from.
struct Start {
    /// Virtual address.
    address: u64,
    /// Something says that code starts there.
    known: bool,
    /// It is a piece of a function, with something on the stack already.
    piece: bool,
    /// Virtual address of its end, where that is known.
    end: Option<u64>,
}

impl Start {
    fn of(image: &Image, frames: Option<&Lookup>, address: u64) -> Self {
        let range = frames.and_then(|frames| frames.around(address));
        if let Some((start, end)) = range
            && address - start <= FAR
        {
            return Self {
                address: start,
                known: true,
                piece: frames.is_some_and(|frames| !frames.begins_call(start)),
                end: Some(end),
            };
        }
        if let Ok(Some(function)) = image.around_own(address)
            && address - function.address <= FAR
        {
            return Self {
                address: function.address,
                known: true,
                piece: function.part == Part::Cold,
                end: Some(function.end),
            };
        }
        // From the end of what was before, or a little way back: decoding falls into step with the code.
        let before = frames.and_then(|frames| frames.end_before(address));
        let floor = image.headers().code_start(address).max(before.unwrap_or(0));
        Self {
            address: floor.max(address.saturating_sub(BACK)),
            known: false,
            piece: false,
            end: None,
        }
    }
}

fn loads_stack_pointer(instruction: &Instruction) -> bool {
    let into = |op: u32| {
        instruction.op_kind(op) == OpKind::Register && instruction.op_register(op) == Register::RSP
    };
    match instruction.mnemonic() {
        Mnemonic::Mov | Mnemonic::Lea => into(0),
        Mnemonic::Xchg => into(0) || into(1),
        _ => false,
    }
}
