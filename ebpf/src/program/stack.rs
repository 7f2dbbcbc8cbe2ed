//! Stacks: in records, and as parts of keys.
//!
//! A stack in a key is a number, under which a map that all probes share has the frames. (The
//! kernel's own map for this, BPF_MAP_TYPE_STACK_TRACE, has one place for each hash modulo its
//! size: where two stacks meet one is lost; of 1000 stacks among 16384 places some 30.) The number
//! is a 64-bit hash of the frames: that two of 100,000 stacks have the same has a chance of 3e-10.

use super::{Program, Wrong, part_of};
use crate::asm::{Alu, Cmp, Label, MapRef, Reg, Size};
use crate::helper;
use crate::layout::{KeyLayout, header, kept_stack};
use crate::spec::{Action, KeyPart, MAX_STACK_FRAMES};

use Reg::{R0, R1, R2, R3, R4, R6, R8, R9, R10};

const BPF_F_USER_STACK: u64 = 1 << 8;
const BPF_NOEXIST: u64 = 1;
/// An odd number of many bits: the golden ratio's, as hash functions have it.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

fn flags(user: bool) -> u64 {
    if user { BPF_F_USER_STACK } else { 0 }
}

/// Whether a stack is part of the action's key.
pub(crate) fn in_key(action: &Action) -> bool {
    match action {
        Action::Count { key }
        | Action::Histogram { key, .. }
        | Action::Stats { key, .. }
        | Action::Breakdown { key, .. } => {
            key.iter().any(|part| matches!(part, KeyPart::Stack { .. }))
        }
        Action::Event { .. } | Action::Running { .. } => false,
    }
}

impl Program<'_> {
    /// Captures a stack into `slot` of the record in R8, to offset R9.
    pub(super) fn stack(&mut self, slot: usize, user: bool, frames: u8) {
        let limit = 8 * i32::from(frames);
        let (empty, whole) = (self.emit.asm.label(), self.emit.asm.label());
        let end = self.emit.asm.label();
        self.destination(slot, empty);
        let asm = &mut self.emit.asm;
        asm.mov(R2, R1);
        asm.mov(R1, R6);
        // One more tells whether there are more.
        asm.constant(R3, limit as u64 + 8);
        asm.constant(R4, flags(user));
        asm.call(helper::GET_STACK);
        asm.jump_if_imm(Cmp::Sle, R0, 0, empty);
        // The kernel ends at its own limit without a word.
        let most = match frames {
            MAX_STACK_FRAMES => limit - 8,
            _ => limit,
        };
        asm.jump_if_imm(Cmp::Le, R0, most, whole);
        self.mark(header::CUTS, slot);
        self.emit.asm.constant(R0, limit as u64);
        self.emit.asm.bind(whole);
        self.put_bytes(slot);
        self.emit.asm.jump(end);
        self.emit.asm.bind(empty);
        self.emit.asm.constant(R0, 0);
        self.put_bytes(slot);
        self.emit.asm.bind(end);
    }

    /// Puts the numbers of the key's stacks in; to `full` where one cannot be kept.
    pub(super) fn key_stacks(
        &mut self,
        parts: &[KeyPart],
        layout: &KeyLayout,
        place: i16,
        full: Label,
    ) -> Result<(), Wrong> {
        for (part, slot) in parts.iter().zip(&layout.parts) {
            if let KeyPart::Stack { user } = part {
                self.key_stack(*user, place + slot.offset as i16, full)?;
            }
        }
        Ok(())
    }

    /// Keeps a stack, and puts its number on the stack at `at`, where a zero is.
    fn key_stack(&mut self, user: bool, at: i16, full: Label) -> Result<(), Wrong> {
        let frame = part_of("the program", self.emit.take(8))?;
        if self.in_frame {
            self.emit.asm.store(Size::DW, R10, frame, R8);
        }
        let (done, lost) = (self.emit.asm.label(), self.emit.asm.label());
        self.claim(full);
        let asm = &mut self.emit.asm;
        asm.mov(R1, R6);
        asm.mov(R2, R8);
        asm.alu_imm(Alu::Add, R2, 8);
        asm.constant(R3, kept_stack::FRAMES.into());
        asm.constant(R4, flags(user));
        asm.call(helper::GET_STACK);
        asm.jump_if_imm(Cmp::Sle, R0, 0, done);
        asm.store(Size::DW, R8, 0, R0);
        asm.mov(R9, R0);
        self.hash();
        self.emit.asm.store(Size::DW, R10, at, R0);
        self.find_stack(at);
        self.emit.asm.jump_if_imm(Cmp::Ne, R0, 0, done);
        self.emit.asm.map(R1, MapRef::Stacks);
        self.emit.stack(R2, at);
        self.emit.asm.mov(R3, R8);
        self.emit.asm.constant(R4, BPF_NOEXIST);
        self.emit.asm.call(helper::MAP_UPDATE);
        // Another CPU may have been first: only the second look decides.
        self.find_stack(at);
        self.emit.asm.jump_if_imm(Cmp::Eq, R0, 0, lost);
        self.emit.asm.bind(done);
        let go_on = self.emit.asm.label();
        self.release();
        self.emit.asm.jump(go_on);
        self.emit.asm.bind(lost);
        self.release();
        self.emit.asm.jump(full);
        self.emit.asm.bind(go_on);
        if self.in_frame {
            self.emit.asm.load(Size::DW, R8, R10, frame);
        }
        self.emit.give(8);
        Ok(())
    }

    fn find_stack(&mut self, at: i16) {
        self.emit.asm.map(R1, MapRef::Stacks);
        self.emit.stack(R2, at);
        self.emit.asm.call(helper::MAP_LOOKUP);
    }

    /// R0 = the number of the stack at R8 with R9 bytes of frames; never 0, which is the empty one.
    fn hash(&mut self) {
        let asm = &mut self.emit.asm;
        let (again, end) = (asm.label(), asm.label());
        asm.constant(R0, 0);
        asm.constant(R1, 0);
        asm.constant(R4, MULTIPLIER);
        asm.bind(again);
        asm.jump_if(Cmp::Ge, R1, R9, end);
        asm.mov(R2, R8);
        asm.alu(Alu::Add, R2, R1);
        asm.load(Size::DW, R3, R2, 8);
        asm.alu(Alu::Xor, R0, R3);
        asm.alu(Alu::Mul, R0, R4);
        asm.mov(R3, R0);
        asm.alu_imm(Alu::Rsh, R3, 32);
        asm.alu(Alu::Xor, R0, R3);
        asm.alu_imm(Alu::Add, R1, 8);
        asm.jump_if_imm(Cmp::Lt, R1, kept_stack::FRAMES as i32, again);
        asm.bind(end);
        let nonzero = asm.label();
        asm.jump_if_imm(Cmp::Ne, R0, 0, nonzero);
        asm.constant(R0, 1);
        asm.bind(nonzero);
    }
}
