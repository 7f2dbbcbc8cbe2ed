//! A call begins: what has been left is taken off, and the call put on.

use super::super::{Program, Wrong, part_of, returns};
use super::{EMPTY, Keys, NOWHERE, STEPS, Trampoline, key, node, top};
use crate::arch;
use crate::asm::{Alu, Cmp, Label, MapRef, Reg, Size};
use crate::helper;
use crate::spec::Returns;

use Reg::{R0, R1, R2, R3, R4, R6, R8, R9, R10};

const BPF_ANY: u64 = 0;

impl Program<'_> {
    /// A call begins: takes off what was left at its place and below. If it is `kept` it is the
    /// innermost from here on.
    pub(in crate::program) fn enter_chain(&mut self, kept: bool) -> Result<(), Wrong> {
        if !self.takes_part() {
            return Ok(());
        }
        let done = self.emit.asm.label();
        let keys = self.take_keys()?;
        let node = part_of("the program", self.emit.take(node::SIZE))?;
        self.chain_key(keys.own, 0, done)?;
        self.find_or_make_lane(keys, node, done);
        let asm = &mut self.emit.asm;
        let (again, at_base, inside, push) = (asm.label(), asm.label(), asm.label(), asm.label());
        asm.store_imm(Size::DW, R10, keys.own + key::ORDER, 0);
        asm.constant(R9, STEPS);
        asm.bind(again);
        self.load_top(R8, keys);
        let asm = &mut self.emit.asm;
        asm.constant(R2, EMPTY as u64);
        asm.jump_if(Cmp::Eq, R1, R2, at_base);
        let left = asm.label();
        asm.load(Size::DW, R2, R10, keys.own + key::PLACE);
        asm.jump_if(Cmp::Gt, R1, R2, inside);
        asm.jump_if(Cmp::Ne, R1, R2, left);
        self.same_place(keys, node, kept, [left, at_base, push, done])?;
        self.emit.asm.bind(left);
        self.take_off(R8, keys, at_base, again);
        // There is more to take off: this one takes no part.
        self.emit.asm.jump(done);

        self.emit.asm.bind(inside);
        if kept {
            self.describe_inside(keys, node, at_base);
            self.is_open(keys, node, left)?;
            self.emit.asm.jump(push);
        } else {
            self.emit.asm.jump(done);
        }
        self.emit.asm.bind(at_base);
        if kept {
            self.describe_outermost(node);
            self.emit.asm.bind(push);
            self.push(keys, node, done);
        }
        self.emit.asm.bind(done);
        self.emit.give(node::SIZE);
        self.give_keys();
        Ok(())
    }

    fn update(&mut self, map: MapRef, key: i16, value: i16) {
        self.emit.asm.map(R1, map);
        self.emit.stack(R2, key);
        self.emit.stack(R3, value);
        self.emit.asm.constant(R4, BPF_ANY);
        self.emit.asm.call(helper::MAP_UPDATE);
    }

    /// R8 = the lane's top, and both keys name the lane. `room`: stack for a new one.
    fn find_or_make_lane(&mut self, keys: Keys, room: i16, none: Label) {
        let found = self.emit.asm.label();
        self.look_up(MapRef::Tops, keys.own);
        self.emit.asm.jump_if_imm(Cmp::Ne, R0, 0, found);
        let asm = &mut self.emit.asm;
        asm.store_imm(Size::DW, R10, room + top::PLACE, EMPTY);
        asm.store_imm(Size::DW, R10, room + top::ORDER, 0);
        asm.store_imm(Size::DW, R10, room + top::TRAMPOLINE, 0);
        self.update(MapRef::Tops, keys.own, room);
        self.look_up(MapRef::Tops, keys.own);
        self.emit.asm.jump_if_imm(Cmp::Eq, R0, 0, none);
        self.emit.asm.bind(found);
        self.emit.asm.mov(R8, R0);
        self.copy_lane(keys);
    }

    /// The innermost call is at the place of the new one: it shares its node (`done`), is one
    /// that tail-called it (`push`), or has been left.
    fn same_place(
        &mut self,
        keys: Keys,
        node: i16,
        kept: bool,
        [left, unknown, push, done]: [Label; 4],
    ) -> Result<(), Wrong> {
        self.look_up(MapRef::Chain, keys.top);
        self.or_unknown(R8, unknown);
        self.own_id();
        let asm = &mut self.emit.asm;
        let another = asm.label();
        asm.load(Size::DW, R2, R0, node::IP);
        asm.load(Size::DW, R3, R6, arch::DWARF_REGS[16]);
        asm.jump_if(Cmp::Ne, R2, R3, another);
        asm.load(Size::DW, R2, R0, node::ID);
        asm.jump_if(Cmp::Eq, R2, R1, another);
        if kept {
            asm.load(Size::DW, R1, R0, node::SHARED);
            asm.alu_imm(Alu::Add, R1, 1);
            asm.store(Size::DW, R0, node::SHARED, R1);
        }
        asm.jump(done);
        asm.bind(another);
        if self.trampoline().is_none() {
            return Ok(());
        }
        self.copy(R10, node + node::PARENT, R0, node::PARENT, 2);
        self.copy(R10, node + node::OUTER, R10, keys.top + key::PLACE, 2);
        self.emit.stack(R1, node + node::CALLER);
        self.read_caller();
        self.is_trampoline(node + node::CALLER, left)?;
        if !kept {
            self.emit.asm.jump(done);
            return Ok(());
        }
        let asm = &mut self.emit.asm;
        asm.load(Size::DW, R1, R10, keys.top + key::ORDER);
        asm.alu_imm(Alu::Add, R1, 1);
        asm.store(Size::DW, R10, keys.own + key::ORDER, R1);
        asm.jump(push);
        Ok(())
    }

    fn trampoline(&self) -> Option<Trampoline> {
        self.target.chains.as_ref()?.trampoline
    }

    /// Goes on if the call around the new one, as it was described, can still return, else to
    /// `left`.
    fn is_open(&mut self, keys: Keys, node: i16, left: Label) -> Result<(), Wrong> {
        if self.trampoline().is_none() {
            return Ok(());
        }
        let open = self.emit.asm.label();
        let word = part_of("the program", self.emit.take(8))?;
        self.emit.stack(R1, word);
        let asm = &mut self.emit.asm;
        asm.constant(R2, 8);
        // Where stacks move, places are distances.
        asm.load(Size::DW, R3, R6, arch::SP);
        asm.load(Size::DW, R4, R10, keys.own + key::PLACE);
        asm.alu(Alu::Sub, R3, R4);
        asm.load(Size::DW, R4, R10, keys.top + key::PLACE);
        asm.alu(Alu::Add, R3, R4);
        asm.call(helper::PROBE_READ_USER);
        asm.jump_if_imm(Cmp::Ne, R0, 0, open);
        asm.load(Size::DW, R1, R10, word);
        asm.load(Size::DW, R2, R10, node + node::CALLER);
        asm.jump_if(Cmp::Eq, R1, R2, open);
        self.is_trampoline(word, left)?;
        self.emit.asm.bind(open);
        self.emit.give(8);
        Ok(())
    }

    /// Goes on if the stack word at `word` is the address of the kernel's trampoline, else to
    /// `not`. R8 = the lane's top, which keeps it.
    fn is_trampoline(&mut self, word: i16, not: Label) -> Result<(), Wrong> {
        let yes = self.emit.asm.label();
        let slot = part_of("the program", self.emit.take(8))?;
        let asm = &mut self.emit.asm;
        asm.load(Size::DW, R1, R10, word);
        asm.load(Size::DW, R2, R8, top::TRAMPOLINE);
        asm.jump_if(Cmp::Eq, R1, R2, yes);
        asm.call(helper::GET_CURRENT_TASK);
        asm.mov(R3, R0);
        for (i, offset) in self.trampoline().into_iter().flatten().enumerate() {
            if i > 0 {
                self.emit.asm.load(Size::DW, R3, R10, slot);
            }
            self.emit.asm.alu_imm(Alu::Add, R3, offset as i32);
            self.emit.read_kernel(slot, 8);
            self.emit.asm.jump_if_imm(Cmp::Ne, R0, 0, not);
        }
        let asm = &mut self.emit.asm;
        asm.load(Size::DW, R1, R10, word);
        asm.load(Size::DW, R2, R10, slot);
        asm.jump_if(Cmp::Ne, R1, R2, not);
        asm.store(Size::DW, R8, top::TRAMPOLINE, R2);
        asm.bind(yes);
        self.emit.give(8);
        Ok(())
    }

    /// The new call is inside of the innermost one.
    fn describe_inside(&mut self, keys: Keys, node: i16, unknown: Label) {
        self.look_up(MapRef::Chain, keys.top);
        self.or_unknown(R8, unknown);
        let asm = &mut self.emit.asm;
        let known = asm.label();
        asm.load(Size::DW, R1, R0, node::ID);
        asm.store(Size::DW, R10, node + node::PARENT, R1);
        asm.load(Size::DW, R1, R0, node::DEPTH);
        asm.jump_if_imm(Cmp::Slt, R1, 0, known);
        asm.alu_imm(Alu::Add, R1, 1);
        asm.bind(known);
        asm.store(Size::DW, R10, node + node::DEPTH, R1);
        self.copy(R10, node + node::CALLER, R0, node::CALLER, 1);
        self.copy(R10, node + node::OUTER, R10, keys.top + key::PLACE, 2);
    }

    /// No call is around the new one, or it is not known which.
    fn describe_outermost(&mut self, node: i16) {
        let asm = &mut self.emit.asm;
        asm.store_imm(Size::DW, R10, node + node::OUTER, EMPTY);
        asm.store_imm(Size::DW, R10, node + node::PARENT, 0);
        asm.load(Size::DW, R1, R8, top::ORDER);
        asm.store(Size::DW, R10, node + node::OUTER_ORDER, R1);
        // 0, or all ones where that is 1.
        asm.constant(R2, 0);
        asm.alu(Alu::Sub, R2, R1);
        asm.store(Size::DW, R10, node + node::DEPTH, R2);
    }

    /// Inserts the node, and makes it the lane's top.
    fn push(&mut self, keys: Keys, node: i16, full: Label) {
        self.own_id();
        let asm = &mut self.emit.asm;
        asm.store(Size::DW, R10, node + node::ID, R1);
        asm.load(Size::DW, R1, R6, arch::DWARF_REGS[16]);
        asm.store(Size::DW, R10, node + node::IP, R1);
        asm.store_imm(Size::DW, R10, node + node::CALLEES, 0);
        asm.store_imm(Size::DW, R10, node + node::SHARED, 1);
        asm.store_imm(Size::DW, R10, node + node::PARTIAL, 0);
        let caller = node + node::CALLER;
        if returns(self.spec) == Returns::Replaced {
            self.emit.asm.store_imm(Size::DW, R10, caller, NOWHERE);
        } else {
            self.emit.stack(R1, caller);
            self.read_caller();
        }
        self.update(MapRef::Chain, keys.own, node);
        self.emit.asm.jump_if_imm(Cmp::Ne, R0, 0, full);
        self.copy(R8, top::PLACE, R10, keys.own + key::PLACE, 2);
    }
}
