//! x86-64: System V argument registers, and what Linux does with a probed instruction
//! (`arch/x86/kernel/uprobes.c`: `uprobe_init_insn`, `branch_setup_xol_ops`, `push_setup_xol_ops`, `can_optimize`).

use object::elf::Machine;

use iced_x86::{
    Code, Decoder, DecoderOptions, FastFormatter, FlowControl, Instruction, InstructionInfoFactory,
    Mnemonic, OpAccess, OpKind, Register,
};

use super::{Effects, Flow, Kernel, Price};
use crate::site::{ArgSet, Cost};

mod follow;
pub(crate) use follow::{JumpTable, Stack, jump_table};

/// The architecture, as people call it.
pub(crate) const NAME: &str = "x86-64";
/// Its number in ELF headers (gABI, `e_machine`).
pub(crate) const MACHINE: Machine = object::elf::EM_X86_64;

/// Kinds of relocations.
pub(crate) mod relocation {
    use object::elf;

    /// Writes an address of the file itself.
    pub(crate) const RELATIVE: u32 = elf::R_X86_64_RELATIVE.0;
    /// Writes what a function of the file itself returns: the implementation that it picks.
    pub(crate) const IRELATIVE: u32 = elf::R_X86_64_IRELATIVE.0;
    /// Write the address of a symbol: for calls through the PLT, for others, and into data.
    pub(crate) const SYMBOL: [u32; 3] = [
        elf::R_X86_64_JUMP_SLOT.0,
        elf::R_X86_64_GLOB_DAT.0,
        elf::R_X86_64_64.0,
    ];
}

/// The page size: an optimised nop must lie within one page.
const PAGE: u64 = 4096;

/// One decoded instruction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    /// Bytes from the start of the code.
    pub(crate) at: usize,
    /// Length in bytes.
    pub(crate) len: usize,
    /// Where execution goes next.
    pub(crate) flow: Flow,
    inner: Instruction,
}

impl Step {
    /// `endbr64`: the mark of a place that indirect calls may reach.
    pub(crate) fn is_landing_pad(&self) -> bool {
        self.inner.code() == Code::Endbr64
    }

    /// `push` of a register, or room made on the stack by `sub`.
    pub(crate) fn takes_stack(&self) -> bool {
        self.inner.code() == Code::Push_r64
            || (self.inner.mnemonic() == Mnemonic::Sub
                && self.inner.op0_register() == Register::RSP
                && self.inner.op1_kind() != OpKind::Register)
    }

    /// The word of memory that it reads or writes, where that is named by the stack or frame pointer alone: the
    /// register's DWARF number and the offset from it.
    pub(crate) fn stack_word(&self) -> Option<(u16, i64)> {
        let i = &self.inner;
        let register = match i.memory_base() {
            Register::RSP => 7,
            Register::RBP => 6,
            _ => return None,
        };
        let operand = (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Memory);
        let word = operand && i.memory_size().size() == 8 && i.memory_index() == Register::None;
        (word && i.code() != Code::Lea_r64_m)
            .then(|| (register, i.memory_displacement64().cast_signed()))
    }

    /// Saves a register in the frame or restores it from there, or does nothing.
    pub(crate) fn keeps_registers(&self) -> bool {
        let moves = matches!(
            self.inner.mnemonic(),
            Mnemonic::Mov
                | Mnemonic::Movsx
                | Mnemonic::Movsxd
                | Mnemonic::Movzx
                | Mnemonic::Movss
                | Mnemonic::Movsd
                | Mnemonic::Movups
        );
        let in_frame = self.inner.memory_base() == Register::RSP
            && self.inner.memory_index() == Register::None;
        self.inner.mnemonic() == Mnemonic::Nop || (moves && in_frame)
    }
}

/// Decodes code from its start. Stops at the end; an instruction cut off there is `Flow::Invalid`.
pub(crate) struct Instructions<'a> {
    decoder: Decoder<'a>,
    address: u64,
}

impl<'a> Instructions<'a> {
    pub(crate) fn new(code: &'a [u8], address: u64) -> Self {
        Self {
            decoder: Decoder::with_ip(64, code, address, DecoderOptions::NONE),
            address,
        }
    }
}

impl Iterator for Instructions<'_> {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        if !self.decoder.can_decode() {
            return None;
        }
        let inner = self.decoder.decode();
        let at = usize::try_from(inner.ip().wrapping_sub(self.address)).ok()?;
        Some(Step {
            at,
            len: inner.len().max(1),
            flow: flow(&inner),
            inner,
        })
    }
}

fn flow(instruction: &Instruction) -> Flow {
    let near = || {
        matches!(
            instruction.op0_kind(),
            OpKind::NearBranch64 | OpKind::NearBranch32 | OpKind::NearBranch16
        )
        .then(|| instruction.near_branch_target())
    };
    match instruction.flow_control() {
        _ if instruction.is_invalid() => Flow::Invalid,
        // Privileged: it never gets to the next one.
        _ if instruction.code() == Code::Hlt => Flow::Trap,
        FlowControl::Next => Flow::Next,
        FlowControl::UnconditionalBranch => {
            near().map_or(Flow::JumpAnywhere, |target| Flow::Jump {
                target,
                conditional: false,
            })
        }
        FlowControl::ConditionalBranch | FlowControl::XbeginXabortXend => {
            near().map_or(Flow::Trap, |target| Flow::Jump {
                target,
                conditional: true,
            })
        }
        FlowControl::IndirectBranch => Flow::JumpAnywhere,
        FlowControl::Return => Flow::Return,
        FlowControl::Call | FlowControl::IndirectCall => Flow::Call,
        FlowControl::Interrupt | FlowControl::Exception => Flow::Trap,
    }
}

/// The integer argument registers of the System V ABI (psABI 1.0, 3.2.3), in order.
fn argument(register: Register) -> Option<u8> {
    Some(match register.full_register() {
        Register::RDI => 0,
        Register::RSI => 1,
        Register::RDX => 2,
        Register::RCX => 3,
        Register::R8 => 4,
        Register::R9 => 5,
        _ => return None,
    })
}

fn writes(access: OpAccess) -> bool {
    matches!(
        access,
        OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
    )
}

/// What the instruction changes.
pub(crate) fn effects(step: &Step, factory: &mut InstructionInfoFactory) -> Effects {
    let info = factory.info(&step.inner);
    let mut effects = Effects {
        args_written: ArgSet::EMPTY,
        moves_stack: false,
        writes_memory: info
            .used_memory()
            .iter()
            .any(|memory| writes(memory.access())),
    };
    for used in info
        .used_registers()
        .iter()
        .filter(|used| writes(used.access()))
    {
        if let Some(arg) = argument(used.register()) {
            effects.args_written = effects.args_written.with(arg);
        }
        effects.moves_stack |= used.register().full_register() == Register::RSP;
    }
    effects
}

/// The state that [`effects`] needs between calls.
pub(crate) type EffectsState = InstructionInfoFactory;

/// What a probe on this instruction costs. BYTES start at the instruction, ADDRESS is its own.
pub(crate) fn cost(step: &Step, bytes: &[u8], address: u64, kernel: Kernel) -> Price {
    let bytes = bytes.get(..step.len).unwrap_or(bytes);
    let Some(raw) = Raw::split(bytes) else {
        return Price::Refused("is no instruction");
    };
    if step.flow == Flow::Invalid {
        return Price::Refused("is no instruction");
    }
    let nop = is_nop(&raw, bytes);
    if nop
        && bytes.len() == 5
        && raw.map == Map::Two
        && kernel.at_least(6, 18)
        && address % PAGE <= PAGE - 5
    {
        return Price::Cost(Cost::Nop5);
    }
    if let Some(why) = refused(&raw, step) {
        return Price::Refused(why);
    }
    if raw.map == Map::One && raw.opcode == 0x90 {
        // The kernel takes any 90 for a nop, whatever stands before it (until 6.19).
        return match raw.rex & 1 {
            0 => Price::Cost(Cost::Emulated),
            _ => Price::Refused("(xchg with r8) would be taken for a nop by the kernel"),
        };
    }
    let emulated = match (raw.map, raw.opcode) {
        (Map::One, 0xe8 | 0xe9 | 0xeb | 0x70..=0x7f) | (Map::Two, 0x80..=0x8f) => {
            if raw.operand_size {
                return Price::Refused(
                    "is a branch with a size prefix, which the kernel does not probe",
                );
            }
            true
        }
        (Map::One, 0x50..=0x57) => bytes.len() == 1 || (bytes.len() == 2 && raw.rex == 0x41),
        _ => nop && kernel.at_least(6, 16),
    };
    Price::Cost(if emulated {
        Cost::Emulated
    } else {
        Cost::SingleStepped
    })
}

/// The nops that the kernel knows by their bytes (`x86_nops`, asm/nops.h), up to 9 bytes; longer ones are rare
/// and differ between versions.
fn is_nop(raw: &Raw, bytes: &[u8]) -> bool {
    const NOPS: [&[u8]; 9] = [
        &[0x90],
        &[0x66, 0x90],
        &[0x0f, 0x1f, 0x00],
        &[0x0f, 0x1f, 0x40, 0x00],
        &[0x0f, 0x1f, 0x44, 0x00, 0x00],
        &[0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00],
        &[0x0f, 0x1f, 0x80, 0, 0, 0, 0],
        &[0x0f, 0x1f, 0x84, 0x00, 0, 0, 0, 0],
        &[0x66, 0x0f, 0x1f, 0x84, 0x00, 0, 0, 0, 0],
    ];
    raw.rex == 0 && NOPS.contains(&bytes)
}

/// Why `uprobe_init_insn` would return ENOTSUPP.
fn refused(raw: &Raw, step: &Step) -> Option<&'static str> {
    if raw.bad_prefix {
        return Some("has a prefix (lock, or a segment's) that the kernel does not probe");
    }
    // insn_masking_exception: pop ss, mov ss
    if step.inner.op0_register() == Register::SS && step.inner.op0_kind() == OpKind::Register {
        return Some("loads the stack segment, which the kernel does not probe");
    }
    // good_insns_64. Only the byte behind the prefixes counts; for VEX and EVEX that is the opcode itself,
    // so that vmovdqa (6f) is refused. 0f is good, and with it all legacy two-byte opcodes.
    let opcode = if raw.map == Map::Two {
        0x0f
    } else {
        raw.opcode
    };
    let bad = matches!(
        opcode,
        0x06 | 0x07
            | 0x0e
            | 0x16 | 0x17
            | 0x1e | 0x1f
            | 0x27 | 0x2f
            | 0x37 | 0x3f
            | 0x60..=0x62
            | 0x6c..=0x6f
            | 0x82 | 0x9a
            | 0xcc..=0xcf
            | 0xd4..=0xd6
            | 0xe4..=0xe7
            | 0xea
            | 0xec..=0xef
            | 0xf1 | 0xf4
            | 0xfa | 0xfb
    );
    bad.then_some("is of a kind that the kernel does not probe")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Map {
    One,
    /// Behind 0f.
    Two,
    /// VEX or EVEX: the opcode stands alone.
    Vector,
}

/// An instruction's first bytes, split the way the kernel's decoder (arch/x86/lib/insn.c) does.
struct Raw {
    bad_prefix: bool,
    operand_size: bool,
    rex: u8,
    map: Map,
    opcode: u8,
}

impl Raw {
    fn split(bytes: &[u8]) -> Option<Self> {
        let mut raw = Self {
            bad_prefix: false,
            operand_size: false,
            rex: 0,
            map: Map::One,
            opcode: 0,
        };
        let mut at = 0;
        loop {
            match bytes.get(at)? {
                0x26 | 0x2e | 0x36 | 0x3e | 0xf0 => raw.bad_prefix = true,
                0x66 => raw.operand_size = true,
                0x64 | 0x65 | 0x67 | 0xf2 | 0xf3 => {}
                _ => break,
            }
            at += 1;
        }
        if let rex @ 0x40..=0x4f = *bytes.get(at)? {
            raw.rex = rex;
            at += 1;
        }
        let (map, skip) = match bytes.get(at)? {
            0x0f => (Map::Two, 1),
            0xc5 => (Map::Vector, 2),
            0xc4 => (Map::Vector, 3),
            0x62 => (Map::Vector, 4),
            _ => (Map::One, 0),
        };
        raw.map = map;
        raw.opcode = *bytes.get(at + skip)?;
        Some(raw)
    }
}

/// The address of the pointer that a stub of the procedure linkage table jumps through.
pub(crate) fn stub_slot(stub: &[u8], address: u64) -> Option<u64> {
    // endbr64, a push of the index or a mov to r11 may come first.
    const LOOK: usize = 3;
    let decoder = Decoder::with_ip(64, stub, address, DecoderOptions::NONE);
    let mut jumps = decoder.into_iter().take(LOOK).filter(|i| {
        i.flow_control() == FlowControl::IndirectBranch && i.is_ip_rel_memory_operand()
    });
    jumps.next().map(|jump| jump.ip_rel_memory_address())
}

/// The first instruction of BYTES, in words.
pub(crate) fn text(bytes: &[u8], address: u64) -> String {
    let mut out = String::new();
    let mut decoder = Decoder::with_ip(64, bytes, address, DecoderOptions::NONE);
    let instruction = decoder.decode();
    if instruction.is_invalid() {
        return "(no instruction)".into();
    }
    FastFormatter::new().format(&instruction, &mut out);
    out
}
