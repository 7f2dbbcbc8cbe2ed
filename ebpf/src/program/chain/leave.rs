//! A call ends: what is known of it is told, and it is taken off.

use super::super::{Part, Program, Wrong, part_of};
use super::{EMPTY, Keys, STEPS, key, node, top};
use crate::arch;
use crate::asm::{Alu, Cmp, Label, MapRef, Reg, Size};
use crate::expr::Chained;

use Reg::{R0, R1, R2, R7, R9, R10};

impl Program<'_> {
    /// This call ends: keeps what is known of it on the stack, and adds its latency to what the
    /// call around it spent in calls. (R8, the frame, is left alone.)
    pub(in crate::program) fn leave_chain(&mut self) -> Result<(), Wrong> {
        if !self.takes_part() {
            return Ok(());
        }
        let known = part_of("the program", self.emit.take(Chained::SIZE))?;
        self.emit.chained = Some(Chained(known));
        for word in 0..Chained::SIZE / 8 {
            self.emit.asm.store_imm(Size::DW, R10, known + 8 * word, 0);
        }
        let popped = match self.part {
            Part::Exit => 0,
            _ => arch::SP_AT_RETURN,
        };
        self.unchain(popped, self.latency)
    }

    /// The entry was not kept: the call takes no part after all.
    pub(in crate::program) fn forget_chain(&mut self) -> Result<(), Wrong> {
        match self.takes_part() {
            true => self.unchain(0, None),
            false => Ok(()),
        }
    }

    fn unchain(&mut self, popped: i32, latency: Option<i16>) -> Result<(), Wrong> {
        let (done, missing) = (self.emit.asm.label(), self.emit.asm.label());
        let keys = self.take_keys()?;
        self.chain_key(keys.own, popped, done)?;
        self.look_up(MapRef::Tops, keys.own);
        let asm = &mut self.emit.asm;
        asm.jump_if_imm(Cmp::Eq, R0, 0, done);
        asm.mov(R7, R0);
        self.copy_lane(keys);
        let asm = &mut self.emit.asm;
        let (again, left, own) = (asm.label(), asm.label(), asm.label());
        asm.constant(R9, STEPS);
        asm.bind(again);
        self.load_top(R7, keys);
        let asm = &mut self.emit.asm;
        asm.load(Size::DW, R2, R10, keys.own + key::PLACE);
        asm.jump_if(Cmp::Gt, R1, R2, missing);
        asm.jump_if(Cmp::Ne, R1, R2, left);
        self.look_up(MapRef::Chain, keys.top);
        self.or_unknown(R7, done);
        self.own_id();
        let asm = &mut self.emit.asm;
        asm.load(Size::DW, R2, R0, node::ID);
        asm.jump_if(Cmp::Eq, R2, R1, own);
        asm.load(Size::DW, R2, R0, node::SHARED);
        asm.jump_if_imm(Cmp::Gt, R2, 1, own);
        asm.load(Size::DW, R2, R0, node::ID);
        asm.jump_if_imm(Cmp::Eq, R2, 0, own);
        asm.bind(left);
        self.take_off(R7, keys, done, again);
        self.emit.asm.jump(done);

        self.emit.asm.bind(own);
        if let Some(latency) = latency {
            self.tell(latency);
        }
        self.pop(keys, latency, done);
        self.emit.asm.bind(missing);
        self.mark_partial(keys);
        self.emit.asm.bind(done);
        self.give_keys();
        Ok(())
    }

    /// Keeps what node R0 tells.
    fn tell(&mut self, latency: i16) {
        let Some(Chained(known)) = self.emit.chained else {
            return;
        };
        let asm = &mut self.emit.asm;
        let (partial, nowhere) = (asm.label(), asm.label());
        asm.load(Size::DW, R1, R0, node::PARTIAL);
        asm.jump_if_imm(Cmp::Ne, R1, 0, partial);
        asm.load(Size::DW, R1, R10, latency);
        asm.load(Size::DW, R2, R0, node::CALLEES);
        asm.alu(Alu::Sub, R1, R2);
        asm.store(Size::DW, R10, known + Chained::OWN_TIME, R1);
        asm.store_imm(Size::DW, R10, known + Chained::KNOWS_TIME, 1);
        asm.bind(partial);
        asm.load(Size::DW, R1, R0, node::DEPTH);
        asm.jump_if_imm(Cmp::Slt, R1, 0, nowhere);
        asm.store(Size::DW, R10, known + Chained::DEPTH, R1);
        asm.load(Size::DW, R1, R0, node::PARENT);
        asm.store(Size::DW, R10, known + Chained::PARENT, R1);
        asm.store_imm(Size::DW, R10, known + Chained::KNOWS_PLACE, 1);
        asm.bind(nowhere);
    }

    /// Node R0, the top, is this call's: takes it off once nobody shares it, then to `done`.
    fn pop(&mut self, keys: Keys, latency: Option<i16>, done: Label) {
        let asm = &mut self.emit.asm;
        let last = asm.label();
        asm.load(Size::DW, R1, R0, node::SHARED);
        asm.jump_if_imm(Cmp::Le, R1, 1, last);
        asm.alu_imm(Alu::Sub, R1, 1);
        asm.store(Size::DW, R0, node::SHARED, R1);
        asm.store_imm(Size::DW, R0, node::ID, 0);
        asm.jump(done);
        asm.bind(last);
        self.copy(R10, keys.own + key::PLACE, R0, node::OUTER, 2);
        self.copy(R7, top::PLACE, R10, keys.own + key::PLACE, 2);
        self.drop_node(keys.top);
        if let Some(latency) = latency {
            let asm = &mut self.emit.asm;
            asm.load(Size::DW, R1, R10, keys.own + key::PLACE);
            asm.constant(R2, EMPTY as u64);
            asm.jump_if(Cmp::Eq, R1, R2, done);
            self.look_up(MapRef::Chain, keys.own);
            let asm = &mut self.emit.asm;
            asm.jump_if_imm(Cmp::Eq, R0, 0, done);
            asm.load(Size::DW, R1, R0, node::CALLEES);
            asm.load(Size::DW, R2, R10, latency);
            asm.alu(Alu::Add, R1, R2);
            asm.store(Size::DW, R0, node::CALLEES, R1);
        }
        self.emit.asm.jump(done);
    }

    /// This call has no node: the call around it cannot tell how long it was in calls.
    fn mark_partial(&mut self, keys: Keys) {
        let none = self.emit.asm.label();
        self.look_up(MapRef::Chain, keys.top);
        let asm = &mut self.emit.asm;
        asm.jump_if_imm(Cmp::Eq, R0, 0, none);
        asm.store_imm(Size::DW, R0, node::PARTIAL, 1);
        asm.bind(none);
    }
}
