//! What registers hold, as far as it matters here: something that was made of the stack pointer, or something else.

use std::collections::HashMap;

use super::{Start, source};
use iced_x86::{
    FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register,
};

/// Registers that calls keep (System V ABI, AMD64 supplement, 3.2.1), by number.
const KEPT: [Register; 6] = [
    Register::RBX,
    Register::RBP,
    Register::R12,
    Register::R13,
    Register::R14,
    Register::R15,
];

/// Follows code in the order of its addresses. Jumps take what they know along; those back need a second time.
pub(super) struct Origins {
    /// Bit N: general register N holds an address in the own stack.
    own: u16,
    /// The same at any time so far, of registers that calls keep.
    ever: u16,
    /// Bit N: register N was pushed while it held one.
    pushed: u16,
    /// Words of the frame, by base register and displacement: whether the own stack pointer was put there.
    slots: HashMap<(Register, u64), bool>,
    /// What jumps to an address bring along.
    jumps: HashMap<u64, u16>,
    /// The last instruction does not lead to the next one.
    ended: bool,
    factory: InstructionInfoFactory,
}

impl Origins {
    pub(super) fn new(start: &Start) -> Self {
        let own = match start {
            // Registers that calls keep may hold what the function put there before.
            Start { piece: true, .. } => kept(),
            Start { known: false, .. } => bit(Register::RBP),
            _ => 0,
        };
        Self {
            own: bit(Register::RSP) | own,
            ever: own,
            pushed: 0,
            slots: HashMap::new(),
            jumps: HashMap::new(),
            ended: false,
            factory: InstructionInfoFactory::new(),
        }
    }

    fn holds(&self, register: Register) -> bool {
        self.own & bit(register) != 0
    }

    fn set(&mut self, register: Register, own: bool) {
        match own {
            true => self.own |= bit(register),
            false => self.own &= !bit(register),
        }
    }

    /// From the start once more, with what jumps back have brought there.
    pub(super) fn again(self, start: &Start) -> Self {
        Self {
            ever: self.ever,
            pushed: self.pushed,
            slots: self.slots,
            jumps: self.jumps,
            ..Self::new(start)
        }
    }

    /// Whether no jump leads to an address or further down.
    pub(super) fn is_over(&self, address: u64) -> bool {
        !self.jumps.keys().any(|target| *target >= address)
    }

    /// Whether a load of the stack pointer takes what was one before.
    pub(super) fn is_own(&self, instruction: &Instruction) -> bool {
        let other = source(instruction);
        // What lies in the own frame was saved there; arguments are not kept there by code that is worth looking at.
        let in_frame =
            instruction.op_kind(other) == OpKind::Memory && self.holds(instruction.memory_base());
        in_frame || self.value(instruction, other)
    }

    /// Whether an operand is made of the stack pointer.
    fn value(&self, instruction: &Instruction, operand: u32) -> bool {
        match instruction.op_kind(operand) {
            OpKind::Register => self.holds(instruction.op_register(operand)),
            OpKind::Memory if instruction.mnemonic() == Mnemonic::Lea => {
                self.holds(instruction.memory_base()) || self.holds(instruction.memory_index())
            }
            OpKind::Memory => {
                let slot = slot(instruction);
                self.holds(slot.0) && self.slots.get(&slot).copied().unwrap_or(true)
            }
            _ => false,
        }
    }

    /// Comes to an instruction: what do jumps bring here?
    pub(super) fn arrive(&mut self, instruction: &Instruction) {
        let brought = self.jumps.get(&instruction.ip()).copied();
        self.own = match (self.ended, brought) {
            (true, Some(brought)) => brought,
            // A table of jumps leads here, or a jump from below.
            (true, None) => self.own | self.ever,
            (false, brought) => self.own | brought.unwrap_or(0),
        };
        self.ended = false;
    }

    /// Goes past an instruction.
    pub(super) fn pass(&mut self, instruction: &Instruction) {
        match instruction.flow_control() {
            FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch => {
                let target = instruction.near_branch_target();
                *self.jumps.entry(target).or_insert(0) |= self.own;
            }
            _ => {}
        }
        self.ended = matches!(
            instruction.flow_control(),
            FlowControl::UnconditionalBranch | FlowControl::IndirectBranch | FlowControl::Return
        );
        let to = instruction.op0_register();
        let into_register = instruction.op_count() > 0
            && instruction.op0_kind() == OpKind::Register
            && to.is_gpr64();
        match instruction.mnemonic() {
            Mnemonic::Mov | Mnemonic::Lea if into_register => {
                let own = self.value(instruction, 1);
                self.set(to, own || to == Register::RSP);
            }
            Mnemonic::Mov if instruction.op0_kind() == OpKind::Memory => {
                let slot = slot(instruction);
                if self.holds(slot.0) {
                    let own = self.value(instruction, 1);
                    *self.slots.entry(slot).or_insert(false) |= own;
                }
            }
            Mnemonic::Add | Mnemonic::Sub | Mnemonic::And | Mnemonic::Or if into_register => {
                let own = self.holds(to) || self.value(instruction, 1);
                self.set(to, own);
            }
            Mnemonic::Xchg if into_register && instruction.op1_kind() == OpKind::Register => {
                let (from, other) = (instruction.op1_register(), self.holds(to));
                self.set(to, self.holds(from));
                self.set(from, other);
            }
            Mnemonic::Push if instruction.op0_kind() == OpKind::Register => {
                self.pushed |= self.own & bit(to);
            }
            // Back to what it was: that tells nothing new.
            Mnemonic::Pop if instruction.op0_kind() == OpKind::Register => {
                self.own = self.own & !bit(to) | self.pushed & bit(to);
            }
            // Compilers know of functions in the same file what other registers they keep (-fipa-ra).
            Mnemonic::Call => self.own &= !bit(Register::RAX),
            _ => self.forget(instruction),
        }
        // Whatever it was: from here on it is the stack.
        self.set(Register::RSP, true);
        self.ever |= self.own & kept();
    }

    /// Registers that an instruction writes hold something else now, unless it only may write them.
    fn forget(&mut self, instruction: &Instruction) {
        let mut written = 0;
        for used in self.factory.info(instruction).used_registers() {
            if matches!(used.access(), OpAccess::Write | OpAccess::ReadWrite) {
                written |= bit(used.register());
            }
        }
        self.own &= !written;
    }
}

/// The memory that an instruction uses, as far as it is the frame's.
fn slot(instruction: &Instruction) -> (Register, u64) {
    (
        instruction.memory_base(),
        instruction.memory_displacement64(),
    )
}

fn kept() -> u16 {
    KEPT.iter().fold(0, |bits, register| bits | bit(*register))
}

fn bit(register: Register) -> u16 {
    let full = register.full_register();
    match full.is_gpr64() {
        true => 1 << full.number(),
        false => 0,
    }
}
