//! What runs on a thread: said by calls of one probe, and part of the names of others' frames.
//!
//! A map that all probes share holds it by thread; a thread on which nothing was said to run is
//! not in it.

use super::{Program, Wrong, part_of};
use crate::asm::{Alu, Cmp, Label, MapRef, Reg, Size};
use crate::expr::Expr;
use crate::helper;
use crate::layout::open;
use crate::spec::Action;

use Reg::{R0, R1, R2, R3, R4, R8, R10};

const BPF_ANY: u64 = 0;

impl Program<'_> {
    /// The stack word at `word` holds a thread (its pid_tgid); R0 = what runs on it, 0 for
    /// nothing.
    pub(super) fn find_running(&mut self, word: i16) {
        let none = self.emit.asm.label();
        self.emit.asm.map(R1, MapRef::Running);
        self.emit.stack(R2, word);
        self.emit.asm.call(helper::MAP_LOOKUP);
        // Nothing found is a null pointer, and as good as a zero.
        self.emit.asm.jump_if_imm(Cmp::Eq, R0, 0, none);
        self.emit.asm.load(Size::DW, R0, R0, 0);
        self.emit.asm.bind(none);
    }

    /// Evaluates what is to run into a stack word, if this call says so.
    pub(super) fn will_run(&mut self, unreadable: Label) -> Result<Option<i16>, Wrong> {
        let Action::Running { value } = &self.spec.action else {
            return Ok(None);
        };
        let slot = part_of("the program", self.emit.take(8))?;
        let value: &Expr = value;
        part_of("what runs", self.emit.expr(value, unreadable))?;
        self.emit.asm.store(Size::DW, R10, slot, R0);
        Ok(Some(slot))
    }

    /// From here on the value in stack word `value` runs on the thread in the frame at `frame`.
    pub(super) fn set_running(&mut self, frame: i16, value: i16, full: Label) {
        let done = self.emit.asm.label();
        self.emit.asm.map(R1, MapRef::Running);
        self.emit.stack(R2, frame + open::PID_TGID);
        self.emit.stack(R3, value);
        self.emit.asm.constant(R4, BPF_ANY);
        self.emit.asm.call(helper::MAP_UPDATE);
        self.emit.asm.jump_if_imm(Cmp::Eq, R0, 0, done);
        self.drop_frame();
        self.emit.asm.jump(full);
        self.emit.asm.bind(done);
    }

    /// What ran before the call runs again; R8 = the call's frame.
    pub(super) fn restore_running(&mut self) {
        let (nothing, done) = (self.emit.asm.label(), self.emit.asm.label());
        let asm = &mut self.emit.asm;
        asm.map(R1, MapRef::Running);
        asm.mov(R2, R8);
        asm.alu_imm(Alu::Add, R2, open::PID_TGID.into());
        asm.load(Size::DW, R3, R8, open::FORMER);
        asm.jump_if_imm(Cmp::Eq, R3, 0, nothing);
        asm.mov(R3, R8);
        asm.alu_imm(Alu::Add, R3, open::FORMER.into());
        asm.constant(R4, BPF_ANY);
        asm.call(helper::MAP_UPDATE);
        asm.jump(done);
        asm.bind(nothing);
        asm.call(helper::MAP_DELETE);
        asm.bind(done);
    }
}
