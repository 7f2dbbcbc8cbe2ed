//! Which program an entry is counted by, where others take a probe over while it is attached.
//!
//! For a while both are attached, and an entry runs both: the successor first, since the kernel
//! runs first what was attached last (see `Engine::places`). A word of the probe says whose turn
//! it is. If it went from the one to the other at once, an entry in between could be counted by
//! neither: the successor has left it to the former program, which then finds it is not its turn.
//! So the word has a state in between: the successor counts, and leaves a mark that this thread
//! is its own from here on; the former program counts what threads without a mark do. Once no
//! entry can be under way that began before, the turn is the successor's alone.
//!
//! (Marks share few words. A thread that comes between both programs of another with the same
//! word, in the milliseconds that this takes, makes that one hit count twice.)

use super::{Part, Program, returns};
use crate::asm::{Alu, Cmp, MapRef, Reg, Size};
use crate::helper;
use crate::layout::{MARKS, TURN};
use crate::spec::{ProbeKind, Returns};

use Reg::{R0, R1, R2, R3};

/// Values of the word: the first program's turn, ...
pub(crate) const FORMER: u64 = 0;
/// ... going over, ...
pub(crate) const CHANGING: u64 = 1;
/// ... its successor's.
pub(crate) const SUCCESSOR: u64 = 2;

impl Program<'_> {
    /// Leaves an entry that is another program's to count.
    pub(super) fn only_in_turn(&mut self) {
        let successor = self.target.successors.contains(&self.index.into());
        let call = matches!(self.spec.kind, ProbeKind::Call { .. });
        if !call || !self.on_program() || !successor && returns(self.spec) != Returns::Replaced {
            return;
        }
        debug_assert!(matches!(self.part, Part::Entry | Part::Session));
        let [always, never] = match successor {
            true => [SUCCESSOR, FORMER],
            false => [FORMER, SUCCESSOR],
        };
        let state = &self.target.state;
        let turn = state.first_shard + self.block.offset + 8 * TURN;
        let asm = &mut self.emit.asm;
        let (mine, others) = (asm.label(), asm.label());
        asm.map_value(R1, MapRef::State, turn);
        asm.load(Size::DW, R1, R1, 0);
        asm.jump_if_imm(Cmp::Eq, R1, always as i32, mine);
        asm.jump_if_imm(Cmp::Eq, R1, never as i32, others);
        // R1 = the mark, R2 = its place.
        asm.call(helper::GET_CURRENT_PID_TGID);
        asm.mov(R1, R0);
        asm.alu_imm(Alu::Lsh, R1, 32);
        asm.alu_imm(Alu::Rsh, R1, 32);
        asm.constant(R2, (u64::from(self.index) + 1) << 32);
        asm.alu(Alu::Or, R1, R2);
        asm.alu_imm(Alu::And, R0, MARKS as i32 - 1);
        asm.alu_imm(Alu::Lsh, R0, 3);
        asm.map_value(R2, MapRef::State, state.marks);
        asm.alu(Alu::Add, R2, R0);
        if successor {
            asm.store(Size::DW, R2, 0, R1);
            asm.jump(mine);
        } else {
            asm.load(Size::DW, R3, R2, 0);
            asm.jump_if(Cmp::Ne, R3, R1, mine);
        }
        asm.bind(others);
        self.skip_return();
        self.emit.asm.bind(mine);
    }
}
