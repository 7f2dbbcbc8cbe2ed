//! Counts and histograms in the kernel.

use super::{Program, Wrong, part_of};
use crate::asm::{Alu, Cmp, Label, MapRef, Reg, Size};
use crate::expr::Expr;
use crate::expr::compile::Reason;
use crate::helper;
use crate::hist;
use crate::layout::{Counter, KeyLayout, KeySlot, hist_words};
use crate::spec::{Action, KeyPart, Scale};

use Reg::{R0, R1, R2, R3, R4, R7, R8, R9, R10};

const BPF_NOEXIST: u64 = 1;
/// Each failed try means that another CPU set a new extreme in between.
const EXTREME_TRIES: usize = 8;

fn at(word: usize) -> i16 {
    8 * word as i16
}

impl Program<'_> {
    /// Aggregates and jumps to `end`; falls through where something could not be read.
    pub(super) fn aggregate(&mut self, action: &Action, end: Label) -> Result<(), Wrong> {
        let unreadable = self.emit.asm.label();
        let key = match action {
            Action::Event { .. } => return Ok(()),
            Action::Running { .. } => {
                // All was done where the frame was found.
                self.count(Counter::Aggregated);
                self.emit.asm.jump(end);
                return Ok(());
            }
            Action::Count { key } => key,
            Action::Stats { .. }
            | Action::Histogram {
                scale: Scale::Linear { .. },
                ..
            } => {
                return Err((
                    "the action".into(),
                    "statistics and linear histograms are not compiled yet".into(),
                ));
            }
            Action::Histogram { value, key, .. } => {
                part_of("the histogram's value", self.emit.expr(value, unreadable))?;
                self.emit.asm.mov(R9, R0);
                key
            }
        };
        let is_hist = matches!(action, Action::Histogram { .. });
        if key.is_empty() {
            if is_hist {
                let base = self.block.hist.unwrap_or(0) as i16;
                self.add_to_histogram(R7, base);
            } else {
                self.count_site();
            }
            self.count(Counter::Aggregated);
            self.emit.asm.jump(end);
        } else {
            let full = self.emit.asm.label();
            let layout = KeyLayout::new(key);
            let place = part_of("the key", self.emit.take(layout.size as i16))?;
            self.key(key, &layout, place)?;
            self.find_or_insert(place, full);
            if is_hist {
                self.add_to_histogram(R8, 0);
            } else {
                self.emit.asm.constant(R1, 1);
                self.emit.asm.atomic_add(R8, 0, R1);
            }
            self.count(Counter::Aggregated);
            self.emit.asm.jump(end);
            self.emit.asm.bind(full);
            self.count(Counter::DroppedMap);
            self.emit.asm.jump(end);
        }
        self.emit.asm.bind(unreadable);
        if matches!(action, Action::Histogram { value, .. } if value.can_fault()) {
            self.count(Counter::Unreadable);
        }
        Ok(())
    }

    /// Builds the key on the stack at `place`.
    fn key(&mut self, parts: &[KeyPart], layout: &KeyLayout, place: i16) -> Result<(), Wrong> {
        for word in 0..layout.size as i16 / 8 {
            self.emit.asm.store_imm(Size::DW, R10, place + 8 * word, 0);
        }
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
        match part {
            KeyPart::Int(e) => {
                self.emit.expr(e, fault)?;
                self.emit.asm.store(Size::DW, R10, at, R0);
            }
            KeyPart::Stack { .. } | KeyPart::Buf { .. } => {
                return Err("stacks and bytes are no keys yet".into());
            }
            KeyPart::Comm => {
                self.emit.stack(R1, at);
                self.emit.asm.constant(R2, 16);
                self.emit.asm.call(helper::GET_CURRENT_COMM);
            }
            KeyPart::Str {
                addr,
                len: Some(len),
                limit,
            } => self.sized_text(addr, len, *limit, at, fault)?,
            KeyPart::Str {
                addr,
                len: None,
                limit,
            } => {
                self.emit.expr(addr, fault)?;
                self.emit.asm.mov(R3, R0);
                self.emit.stack(R1, at);
                self.emit.asm.constant(R2, u64::from(*limit) + 1);
                self.emit.asm.call(helper::PROBE_READ_USER_STR);
                self.emit.asm.jump_if_imm(Cmp::Slt, R0, 0, fault);
            }
        }
        self.emit.asm.jump(end);
        self.emit.asm.bind(fault);
        if let Some(word) = fault_word.filter(|_| part.can_fault()) {
            self.emit.asm.load(Size::DW, R0, R10, word);
            self.emit.asm.constant(R1, 1 << (index & 63));
            self.emit.asm.alu(Alu::Or, R0, R1);
            self.emit.asm.store(Size::DW, R10, word, R0);
        }
        self.emit.asm.bind(end);
        Ok(())
    }

    /// Reads a text of known length, cut at `limit`, to the stack at `at`.
    fn sized_text(
        &mut self,
        addr: &Expr,
        len: &Expr,
        limit: u32,
        at: i16,
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
        self.emit.asm.load(Size::DW, R3, R10, slot);
        self.emit.stack(R1, at);
        self.emit.asm.call(helper::PROBE_READ_USER);
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

    /// Adds R9 to the histogram at `base + off`.
    fn add_to_histogram(&mut self, base: Reg, off: i16) {
        self.bucket_index();
        let asm = &mut self.emit.asm;
        asm.alu_imm(Alu::Lsh, R1, 3);
        asm.alu(Alu::Add, R1, base);
        asm.constant(R2, 1);
        asm.atomic_add(R1, off + at(hist_words::BUCKETS), R2);

        asm.mov(R1, R9);
        if self.target.atomics {
            let no_carry = asm.label();
            asm.atomic_fetch_add(base, off + at(hist_words::SUM), R1);
            asm.alu(Alu::Add, R1, R9);
            asm.jump_if(Cmp::Ge, R1, R9, no_carry);
            asm.constant(R1, 1);
            asm.atomic_add(base, off + at(hist_words::CARRY), R1);
            asm.bind(no_carry);
        } else {
            asm.atomic_add(base, off + at(hist_words::SUM), R1);
        }

        asm.mov(R1, R9);
        self.raise(base, off + at(hist_words::MAX));
        self.emit.asm.mov(R1, R9);
        self.emit.asm.alu_imm(Alu::Xor, R1, -1);
        self.raise(base, off + at(hist_words::NOT_MIN));
    }

    /// R1 = the bucket of R9.
    fn bucket_index(&mut self) {
        let asm = &mut self.emit.asm;
        let small = asm.label();
        asm.mov(R1, R9);
        asm.jump_if_imm(Cmp::Lt, R1, 16, small);
        // R3 = the position of the highest set bit, by halving. Without branches: on values that
        // vary they are mispredicted, which cost 100 ns of a malloc histogram's 150.
        asm.mov(R2, R9);
        asm.constant(R3, 0);
        for log in (0..6).rev() {
            // R0 = the step if anything is set above it, else 0: the sign of 0 - (value >> step).
            asm.mov(R4, R2);
            asm.alu_imm(Alu::Rsh, R4, 1 << log);
            asm.constant(R0, 0);
            asm.alu(Alu::Sub, R0, R4);
            asm.alu_imm(Alu::Rsh, R0, 63);
            asm.alu_imm(Alu::Lsh, R0, log);
            asm.alu(Alu::Rsh, R2, R0);
            asm.alu(Alu::Add, R3, R0);
        }
        asm.mov(R4, R3);
        asm.alu_imm(Alu::Sub, R4, 4);
        asm.alu_imm(Alu::And, R4, 63);
        asm.alu(Alu::Rsh, R1, R4);
        asm.alu_imm(Alu::And, R1, 15);
        asm.alu_imm(Alu::Sub, R3, 3);
        asm.alu_imm(Alu::Lsh, R3, 4);
        asm.alu(Alu::Add, R1, R3);
        asm.bind(small);
        // For the verifier: it is always below.
        let inside = asm.label();
        asm.jump_if_imm(Cmp::Lt, R1, hist::BUCKETS as i32, inside);
        asm.constant(R1, hist::BUCKETS as u64 - 1);
        asm.bind(inside);
    }

    /// Raises the word at `base + off` to R1, if that is more.
    fn raise(&mut self, base: Reg, off: i16) {
        let asm = &mut self.emit.asm;
        let done = asm.label();
        asm.load(Size::DW, R0, base, off);
        if self.target.atomics {
            for _ in 0..EXTREME_TRIES {
                asm.jump_if(Cmp::Le, R1, R0, done);
                asm.mov(R2, R0);
                asm.atomic_cmpxchg(base, off, R1);
                asm.jump_if(Cmp::Eq, R0, R2, done);
            }
        } else {
            // A shard is one CPU's, and preemption is off.
            asm.jump_if(Cmp::Le, R1, R0, done);
            asm.store(Size::DW, base, off, R1);
        }
        asm.bind(done);
    }
}
