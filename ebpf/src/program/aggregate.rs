//! Aggregations in the kernel: what is added, and to which key.

use super::{Program, Wrong, part_of};
use crate::asm::{Alu, Cmp, Label, MapRef, Reg, Size};
use crate::expr::Expr;
use crate::expr::compile::Reason;
use crate::helper;
use crate::layout::{Counter, KeyLayout, KeySlot};
use crate::spec::{Action, KeyPart, Scale};

use Reg::{R0, R1, R2, R3, R4, R7, R8, R9, R10};

const BPF_NOEXIST: u64 = 1;
impl Program<'_> {
    /// Aggregates and jumps to `end`; falls through where something could not be read.
    pub(super) fn aggregate(&mut self, action: &Action, end: Label) -> Result<(), Wrong> {
        let key = match action {
            Action::Event { .. } => return Ok(()),
            Action::Running { .. } => {
                // All was done where the frame was found.
                self.count(Counter::Aggregated);
                self.emit.asm.jump(end);
                return Ok(());
            }
            Action::Count { key }
            | Action::Histogram { key, .. }
            | Action::Stats { key, .. }
            | Action::Breakdown { key, .. } => key,
        };
        let (unreadable, full) = (self.emit.asm.label(), self.emit.asm.label());
        let layout = KeyLayout::new(key);
        let place = part_of("the key", self.emit.take(layout.size as i16))?;
        for word in 0..layout.size as i16 / 8 {
            self.emit.asm.store_imm(Size::DW, R10, place + 8 * word, 0);
        }
        // Before there is anything in R9.
        self.key_stacks(key, &layout, place, full)?;
        let values = self.evaluate(action, unreadable)?;
        let frame = self.keep_frame(action)?;
        let (base, offset) = if key.is_empty() {
            (R7, self.block.unkeyed.unwrap_or(0) as i16)
        } else {
            self.key(key, &layout, place)?;
            self.find_or_insert(place, full);
            (R8, 0)
        };
        match action {
            Action::Histogram { scale, .. } => self.add_to_histogram(*scale, base, offset),
            Action::Breakdown { .. } => {
                self.add_to_histogram(Scale::Log, base, offset);
                self.add_spent(frame, base, offset);
            }
            Action::Stats { .. } => self.add_to_stats(&values, base, offset),
            _ if key.is_empty() => self.count_site(),
            _ => self.add_one(base, 0),
        }
        self.count(Counter::Aggregated);
        self.emit.asm.jump(end);
        self.emit.asm.bind(full);
        self.count(Counter::DroppedMap);
        self.emit.asm.jump(end);
        self.emit.asm.bind(unreadable);
        let can_fault = match action {
            Action::Histogram { value, .. } | Action::Breakdown { value, .. } => value.can_fault(),
            Action::Stats { values, .. } => values.iter().any(Expr::can_fault),
            _ => false,
        };
        if can_fault {
            self.count(Counter::Unreadable);
        }
        Ok(())
    }

    /// Evaluates what is to be added: R9 = a histogram's value; of statistics where on the stack
    /// the values are.
    fn evaluate(&mut self, action: &Action, unreadable: Label) -> Result<Vec<i16>, Wrong> {
        match action {
            Action::Histogram { value, .. } | Action::Breakdown { value, .. } => {
                part_of("the histogram's value", self.emit.expr(value, unreadable))?;
                self.emit.asm.mov(R9, R0);
                Ok(Vec::new())
            }
            Action::Stats { values, .. } => {
                let mut slots = Vec::new();
                for (i, value) in values.iter().enumerate() {
                    let what = format!("value {i}");
                    let slot = part_of(&what, self.emit.take(8))?;
                    part_of(&what, self.emit.expr(value, unreadable))?;
                    self.emit.asm.store(Size::DW, R10, slot, R0);
                    slots.push(slot);
                }
                Ok(slots)
            }
            _ => Ok(Vec::new()),
        }
    }

    /// Builds the key on the stack at `place`, where zeros and the stacks' numbers are.
    fn key(&mut self, parts: &[KeyPart], layout: &KeyLayout, place: i16) -> Result<(), Wrong> {
        for (i, (part, slot)) in parts.iter().zip(&layout.parts).enumerate() {
            let fault_word = layout.faults.map(|at| place + at as i16);
            let done = self.key_part(i, part, *slot, place, fault_word);
            part_of(&format!("key part {i}"), done)?;
        }
        Ok(())
    }

    fn key_part(
        &mut self,
        index: usize,
        part: &KeyPart,
        slot: KeySlot,
        place: i16,
        fault_word: Option<i16>,
    ) -> Result<(), Reason> {
        let at = place + slot.offset as i16;
        let (fault, end) = (self.emit.asm.label(), self.emit.asm.label());
        let scope = self.emit.scope();
        match part {
            KeyPart::Int(e) => {
                self.emit.expr(e, fault)?;
                self.emit.asm.store(Size::DW, R10, at, R0);
            }
            KeyPart::Stack { .. } => {}
            KeyPart::Comm => {
                self.emit.stack(R1, at);
                self.emit.asm.constant(R2, 16);
                self.emit.asm.call(helper::GET_CURRENT_COMM);
            }
            KeyPart::Str {
                addr,
                len: Some(len),
                limit,
            } => self.sized(addr, len, *limit, (None, at), fault)?,
            KeyPart::Buf { addr, len, limit } => {
                self.sized(addr, len, *limit, (Some(at), at + 8), fault)?;
            }
            KeyPart::Str {
                addr,
                len: None,
                limit,
            } => {
                self.emit.expr(addr, fault)?;
                self.emit.asm.mov(R3, R0);
                self.emit.stack(R1, at);
                self.emit.asm.constant(R2, u64::from(*limit) + 1);
                self.emit.read_text(self.emit.space(addr));
                self.emit.asm.jump_if_imm(Cmp::Slt, R0, 0, fault);
            }
        }
        self.emit.end_scope(scope);
        self.emit.asm.jump(end);
        self.emit.asm.bind(fault);
        if let KeyPart::Buf { .. } = part {
            self.emit.asm.store_imm(Size::DW, R10, at, 0);
        }
        if let Some(word) = fault_word.filter(|_| part.can_fault()) {
            self.emit.asm.load(Size::DW, R0, R10, word);
            self.emit.asm.constant(R1, 1 << (index & 63));
            self.emit.asm.alu(Alu::Or, R0, R1);
            self.emit.asm.store(Size::DW, R10, word, R0);
        }
        self.emit.asm.bind(end);
        Ok(())
    }

    /// Reads bytes of known length, cut at `limit`, to the stack at `at`; their number is put at
    /// `count`.
    fn sized(
        &mut self,
        addr: &Expr,
        len: &Expr,
        limit: u32,
        (count, at): (Option<i16>, i16),
        fault: Label,
    ) -> Result<(), Reason> {
        let slot = self.emit.take(8)?;
        self.emit.expr(addr, fault)?;
        self.emit.asm.store(Size::DW, R10, slot, R0);
        self.emit.expr(len, fault)?;
        let whole = self.emit.asm.label();
        self.emit.asm.mov(R2, R0);
        self.emit.asm.jump_if_imm(Cmp::Le, R2, limit as i32, whole);
        self.emit.asm.constant(R2, limit.into());
        self.emit.asm.bind(whole);
        if let Some(count) = count {
            self.emit.asm.store(Size::DW, R10, count, R2);
        }
        self.emit.asm.load(Size::DW, R3, R10, slot);
        self.emit.stack(R1, at);
        self.emit.read_memory(self.emit.space(addr));
        self.emit.asm.jump_if_imm(Cmp::Ne, R0, 0, fault);
        self.emit.give(8);
        Ok(())
    }

    /// R8 = the key's value, inserted from zeros if it is new.
    fn find_or_insert(&mut self, key: i16, full: Label) {
        let found = self.emit.asm.label();
        self.find(key);
        self.emit.asm.jump_if_imm(Cmp::Ne, R0, 0, found);
        self.emit.asm.map(R1, MapRef::Table);
        self.emit.stack(R2, key);
        self.emit
            .asm
            .map_value(R3, MapRef::State, self.target.state.zeros);
        self.emit.asm.constant(R4, BPF_NOEXIST);
        self.emit.asm.call(helper::MAP_UPDATE);
        // Another CPU may have been first: only the second look decides.
        self.find(key);
        self.emit.asm.jump_if_imm(Cmp::Eq, R0, 0, full);
        self.emit.asm.bind(found);
        self.emit.asm.mov(R8, R0);
    }

    fn find(&mut self, key: i16) {
        self.emit.asm.map(R1, MapRef::Table);
        self.emit.stack(R2, key);
        self.emit.asm.call(helper::MAP_LOOKUP);
    }
}
