//! Following the stack pointer and computed jumps through code, as far as instructions alone tell.

use iced_x86::{Code, ConditionCode, Instruction, Mnemonic, OpKind, Register};

use super::{EffectsState, Step, writes};

/// Where the stack pointer and the frame pointer stand, in bytes from the stack pointer at entry; `None`: unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stack {
    pub(crate) pointer: Option<i64>,
    frame: Option<i64>,
}

impl Stack {
    /// At entry: nobody knows what the caller keeps in rbp.
    pub(crate) const ENTRY: Self = Self {
        pointer: Some(0),
        frame: None,
    };

    /// What is known where two ways meet.
    pub(crate) fn meet(self, other: Self) -> Self {
        let same = |a: Option<i64>, b| a.filter(|_| a == b);
        Self {
            pointer: same(self.pointer, other.pointer),
            frame: same(self.frame, other.frame),
        }
    }

    /// Behind STEP. A call leaves both as they were (psABI 1.0, 3.2.1).
    pub(crate) fn after(self, step: &Step, state: &mut EffectsState) -> Self {
        let i = &step.inner;
        let add = |base: Option<i64>, offset: i64| base.and_then(|base| base.checked_add(offset));
        let with = |pointer| Self { pointer, ..self };
        let register = |n| match i.op_kind(n) {
            OpKind::Register => i.op_register(n),
            _ => Register::None,
        };
        match (i.mnemonic(), register(0)) {
            (Mnemonic::Call, _) => self,
            (Mnemonic::Leave, _) => Self {
                pointer: add(self.frame, 8),
                frame: None,
            },
            (Mnemonic::Mov, Register::RSP) if register(1) == Register::RBP => with(self.frame),
            (Mnemonic::Mov, Register::RBP) if register(1) == Register::RSP => Self {
                frame: self.pointer,
                ..self
            },
            (Mnemonic::Add, Register::RSP) => with(add_immediate(i, self.pointer, 1)),
            (Mnemonic::Sub, Register::RSP) => with(add_immediate(i, self.pointer, -1)),
            (Mnemonic::Lea, Register::RSP) => with(self.address(i)),
            (Mnemonic::Lea, Register::RBP) => Self {
                frame: self.address(i),
                ..self
            },
            _ => self.after_other(i, state),
        }
    }

    /// Behind what changes the two only in passing: pushes, pops, and what overwrites them.
    fn after_other(mut self, i: &Instruction, state: &mut EffectsState) -> Self {
        let step = i64::from(i.stack_pointer_increment());
        let info = state.info(i);
        for used in info.used_registers().iter().filter(|u| writes(u.access())) {
            match used.register().full_register() {
                // "pop rsp" and the like
                Register::RSP if step == 0 || i.op0_register() == Register::RSP => {
                    self.pointer = None;
                }
                Register::RSP => {
                    self.pointer = self.pointer.and_then(|pointer| pointer.checked_add(step));
                }
                Register::RBP => self.frame = None,
                _ => {}
            }
        }
        self
    }

    /// What `lea` of an address on the stack gives.
    fn address(self, i: &Instruction) -> Option<i64> {
        let base = match (i.memory_base(), i.memory_index()) {
            (Register::RSP, Register::None) => self.pointer,
            (Register::RBP, Register::None) => self.frame,
            _ => None,
        };
        base?.checked_add(i.memory_displacement64().cast_signed())
    }
}

fn add_immediate(i: &Instruction, base: Option<i64>, sign: i64) -> Option<i64> {
    match i.op1_kind() {
        OpKind::Immediate8to64 | OpKind::Immediate32to64 => {
            base?.checked_add(sign * i.immediate(1).cast_signed())
        }
        _ => None,
    }
}

impl Step {
    /// The condition of a jump, as in the low four bits of its opcode (Intel SDM volume 1, appendix B). `None` for
    /// jumps that look at no flag, or at rcx (`jrcxz`, `loop`).
    pub(crate) fn condition(&self) -> Option<u8> {
        let is_flags = self.inner.is_jcc_short_or_near();
        // iced counts from 1 in the same order; 0 is "none".
        (is_flags && self.inner.condition_code() != ConditionCode::None)
            .then(|| self.inner.condition_code() as u8 - 1)
    }

    /// Filling between functions, or in front of a loop.
    pub(crate) fn is_nop(&self) -> bool {
        matches!(self.inner.mnemonic(), Mnemonic::Nop | Mnemonic::Int3)
            || self.inner.code() == Code::Xchg_r16_AX && self.inner.op0_register() == Register::AX
    }

    /// Whether its first byte may be jumped over: glibc does so with `lock` where there is one thread.
    pub(crate) fn is_locked(&self) -> bool {
        self.inner.has_lock_prefix()
    }

    /// A jump that may lead to places without a landing pad: compilers use it for `switch`.
    pub(crate) fn is_untracked(&self) -> bool {
        self.inner.segment_prefix() == Register::DS
    }
}

/// Where a computed jump takes its target from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JumpTable {
    /// A table of 4-byte distances, from itself: nothing but a `switch` has that.
    Distances,
    /// A table of 8-byte addresses, at this address: of the cases of a `switch`, or of functions.
    Addresses(u64),
}

/// How far before a jump its table is looked for, in instructions.
const LOOK: usize = 16;

/// The table that JUMP, a computed jump, takes its target from. BEFORE are the instructions before it, in order.
pub(crate) fn jump_table(before: &[Step], jump: &Step) -> Option<JumpTable> {
    if jump.inner.op0_kind() == OpKind::Memory {
        return addresses(before, &jump.inner);
    }
    let mut target = jump.inner.op0_register();
    for (at, step) in before.iter().enumerate().rev().take(LOOK) {
        let i = &step.inner;
        if i.op0_kind() != OpKind::Register || i.op0_register() != target {
            continue;
        }
        let before = &before[..at];
        match i.mnemonic() {
            Mnemonic::Cmp | Mnemonic::Test | Mnemonic::Push => {}
            Mnemonic::Mov if i.op1_kind() == OpKind::Register => target = i.op1_register(),
            Mnemonic::Mov => return addresses(before, i),
            Mnemonic::Add if i.op1_kind() == OpKind::Register => {
                return distances(before, [target, i.op1_register()]);
            }
            _ => return None,
        }
    }
    None
}

/// One of the two that were added up was read from a table of distances.
fn distances(before: &[Step], sum: [Register; 2]) -> Option<JumpTable> {
    let mut reads = before.iter().rev().take(LOOK).map(|step| &step.inner);
    let found = reads.any(|i| {
        i.mnemonic() == Mnemonic::Movsxd
            && i.op1_kind() == OpKind::Memory
            && i.memory_index_scale() == 4
            && sum.contains(&i.op0_register())
    });
    found.then_some(JumpTable::Distances)
}

/// The table of addresses that an instruction reads one of.
fn addresses(before: &[Step], i: &Instruction) -> Option<JumpTable> {
    if i.memory_index() == Register::None || i.memory_index_scale() != 8 {
        return None;
    }
    let offset = i.memory_displacement64();
    let base = match i.memory_base() {
        Register::None => 0,
        register => {
            let mut reads = before.iter().rev().map(|step| &step.inner);
            let load = reads.find(|i| {
                i.op0_kind() == OpKind::Register
                    && i.op0_register() == register
                    && i.mnemonic() == Mnemonic::Lea
                    && i.is_ip_rel_memory_operand()
            })?;
            load.ip_rel_memory_address()
        }
    };
    Some(JumpTable::Addresses(base.wrapping_add(offset)))
}
