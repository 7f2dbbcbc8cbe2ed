//! Exits: which call an instruction ends, and whether it does this time.
//!
//! An exit's cookie says whose exit it is (the low half: the index of the site) and when it is
//! taken (the high half). All conditions of x86-64 are "one of these flags is set" or its
//! opposite, once "sign differs from overflow" is taken for a flag (Intel SDM volume 1, appendix
//! B), so that one short sequence without branches over conditions decides them all.

use super::{Program, Wrong, part_of};
use crate::arch;
use crate::asm::{Alu, Cmp, Label, Reg, Size};
use crate::site::AttachExit;

use Reg::{R0, R1, R2, R3, R6, R10};

/// Flags of x86: carry, parity, zero, sign, overflow.
const CF: u32 = 1;
const PF: u32 = 1 << 2;
const ZF: u32 = 1 << 6;
const SF: u32 = 1 << 7;
const OF: u32 = 1 << 11;
/// Made up: the sign differs from the overflow.
const LESS: u32 = 1 << 16;
/// The exit is taken if none of the flags is set.
const NONE_OF: u32 = 1 << 17;
/// The exit is a jump: there is no return value yet.
const JUMP: u32 = 1 << 18;

/// The flags of each pair of conditions: any set for the even one, none set for the odd one.
const CONDITIONS: [u32; 8] = [OF, CF, ZF, CF | ZF, SF, PF, LESS, LESS | ZF];

/// The cookie of an exit of site `site`.
pub(crate) fn cookie(site: u32, exit: &AttachExit) -> u64 {
    let taken = match exit.condition {
        None => NONE_OF,
        Some(condition) => {
            let pair = CONDITIONS[usize::from(condition >> 1 & 7)];
            pair | if condition & 1 != 0 { NONE_OF } else { 0 }
        }
    };
    let jump = if exit.jump || exit.condition.is_some() {
        JUMP
    } else {
        0
    };
    u64::from(taken | jump) << 32 | u64::from(site)
}

impl Program<'_> {
    /// Goes on if the exit is taken, else to `stays`; keeps the site, and whether it is a jump.
    pub(super) fn exit_taken(&mut self, stays: Label) -> Result<(), Wrong> {
        let jumped = part_of("the program", self.emit.take(8))?;
        let site = match self.spec.sites > 1 {
            true => Some(part_of("the program", self.emit.take(8))?),
            false => None,
        };
        self.cookie();
        let asm = &mut self.emit.asm;
        let (none_set, taken) = (asm.label(), asm.label());
        asm.mov(R3, R0);
        asm.alu_imm(Alu::Rsh, R3, 32);
        if let Some(slot) = site {
            asm.alu_imm(Alu::Lsh, R0, 32);
            asm.alu_imm(Alu::Rsh, R0, 32);
            asm.store(Size::DW, R10, slot, R0);
        }
        asm.mov(R2, R3);
        asm.alu_imm(Alu::And, R2, JUMP as i32);
        asm.store(Size::DW, R10, jumped, R2);
        // R1 = the flags, LESS among them: overflow is brought to the sign's place, then both up.
        asm.load(Size::DW, R1, R6, arch::FLAGS);
        asm.mov(R2, R1);
        asm.alu_imm(Alu::Rsh, R2, 4);
        asm.alu(Alu::Xor, R2, R1);
        asm.alu_imm(Alu::And, R2, SF as i32);
        asm.alu_imm(Alu::Lsh, R2, 9);
        asm.alu_imm(Alu::And, R1, (CF | PF | ZF | SF | OF) as i32);
        asm.alu(Alu::Or, R1, R2);
        asm.alu(Alu::And, R1, R3);
        asm.alu_imm(Alu::And, R3, NONE_OF as i32);
        asm.jump_if_imm(Cmp::Eq, R1, 0, none_set);
        asm.jump_if_imm(Cmp::Ne, R3, 0, stays);
        asm.jump(taken);
        asm.bind(none_set);
        asm.jump_if_imm(Cmp::Eq, R3, 0, stays);
        asm.bind(taken);
        self.site = site;
        self.emit.jumped = Some(jumped);
        Ok(())
    }
}

const _: () = assert!(OF >> 4 == SF && SF << 9 == LESS);
