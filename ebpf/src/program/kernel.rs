//! What is particular to probes on the kernel: in which processes they count, and what fentry and
//! fexit are given.

use super::{Part, Program, SiteSource, Wrong, part_of};
use crate::asm::{Alu, Cmp, MapRef, Reg, Size};
use crate::expr::Expr;
use crate::helper;
use crate::layout::EVERYONE;
use crate::spec::{KernelSource, On};

use Reg::{R0, R1, R2, R10};

impl Program<'_> {
    /// Leaves unless the process is one of those in the map, or all are wanted.
    pub(super) fn only_in_processes(&mut self) -> Result<(), Wrong> {
        let word = self.target.state.first_shard + self.block.offset + 8 * EVERYONE;
        let slot = part_of("the program", self.emit.take(8))?;
        let asm = &mut self.emit.asm;
        let ours = asm.label();
        asm.map_value(R1, MapRef::State, word);
        asm.load(Size::DW, R1, R1, 0);
        asm.jump_if_imm(Cmp::Ne, R1, 0, ours);
        asm.call(helper::GET_CURRENT_PID_TGID);
        asm.alu_imm(Alu::Rsh, R0, 32);
        asm.store(Size::DW, R10, slot, R0);
        asm.map(R1, MapRef::Pids);
        self.emit.stack(R2, slot);
        let asm = &mut self.emit.asm;
        asm.call(helper::MAP_LOOKUP);
        asm.jump_if_imm(Cmp::Ne, R0, 0, ours);
        asm.constant(R0, 0);
        asm.exit();
        asm.bind(ours);
        self.emit.give(8);
        Ok(())
    }

    /// Copies what fentry or fexit was given, where an expression asks for it.
    pub(super) fn copy_given(&mut self) -> Result<(), Wrong> {
        let (On::Kernel(KernelSource::Function), SiteSource::Kernel { arguments, .. }) =
            (self.spec.on, self.site_source)
        else {
            return Ok(());
        };
        let (asked, [first, count]) = match self.part {
            Part::Return => (
                self.spec.any(&|e| matches!(e, Expr::Retval)),
                [arguments, 1],
            ),
            _ => (
                self.spec.any(&|e| matches!(e, Expr::Arg(_))),
                [0, arguments],
            ),
        };
        match asked && count > 0 {
            true => part_of("the arguments", self.emit.copy_given(first, count)),
            false => Ok(()),
        }
    }
}
