//! Adding a value to what is aggregated: buckets, sums and extremes, by atomic instructions.

use super::Program;
use crate::asm::{Alu, Cmp, Reg, Size};
use crate::hist;
use crate::layout::{hist_words, linear_words, signed_words, stats_words};
use crate::spec::Scale;

use Reg::{R0, R1, R2, R3, R4, R9, R10};

/// Each failed try means that another CPU set a new extreme in between.
const EXTREME_TRIES: usize = 8;

fn at(word: usize) -> i16 {
    8 * word as i16
}

impl Program<'_> {
    /// Adds 1 to the word at `base + off`, by way of R2.
    pub(super) fn add_one(&mut self, base: Reg, off: i16) {
        self.emit.asm.constant(R2, 1);
        self.emit.asm.atomic_add(base, off, R2);
    }

    /// Adds R9 to the histogram at `base + off`.
    pub(super) fn add_to_histogram(&mut self, scale: Scale, base: Reg, off: i16) {
        let first = match scale {
            Scale::Log => {
                self.bucket_index();
                hist_words::BUCKETS
            }
            Scale::Linear {
                from,
                step,
                buckets,
            } => {
                self.linear_index(from, step, buckets);
                linear_words::BELOW
            }
        };
        self.emit.asm.alu_imm(Alu::Lsh, R1, 3);
        self.emit.asm.alu(Alu::Add, R1, base);
        self.add_one(R1, off + at(first));
        if scale != Scale::Log {
            self.add_signed(base, off);
            return;
        }
        let asm = &mut self.emit.asm;
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
        self.extremes(base, off, hist_words::MAX, hist_words::NOT_MIN);
    }

    /// Adds the values in these stack slots to the statistics at `base + off`.
    pub(super) fn add_to_stats(&mut self, slots: &[i16], base: Reg, off: i16) {
        for (i, slot) in slots.iter().enumerate() {
            self.emit.asm.load(Size::DW, R9, R10, *slot);
            let first = stats_words::VALUES + i * signed_words::COUNT;
            self.add_signed(base, off + at(first));
        }
        self.add_one(base, off + at(stats_words::COUNT));
    }

    /// Adds R9 to the sum and extremes of signed values at `base + off`; R9 is another one then.
    fn add_signed(&mut self, base: Reg, off: i16) {
        let asm = &mut self.emit.asm;
        asm.atomic_add(base, off + at(signed_words::SUM), R9);
        asm.constant(R1, signed_words::FLIP);
        asm.alu(Alu::Xor, R9, R1);
        self.extremes(base, off, signed_words::MAX, signed_words::NOT_MIN);
    }

    /// R9 is among the values whose extremes these words of `base + off` are.
    fn extremes(&mut self, base: Reg, off: i16, max: usize, not_min: usize) {
        self.emit.asm.mov(R1, R9);
        self.raise(base, off + at(max));
        self.emit.asm.mov(R1, R9);
        self.emit.asm.alu_imm(Alu::Xor, R1, -1);
        self.raise(base, off + at(not_min));
    }

    /// R1 = 0 for what is below, 1 and so on for the buckets, then one for what is above.
    fn linear_index(&mut self, from: i64, step: u64, buckets: u32) {
        let asm = &mut self.emit.asm;
        let (below, inside) = (asm.label(), asm.label());
        asm.constant(R1, 0);
        asm.constant(R2, from as u64);
        asm.jump_if(Cmp::Slt, R9, R2, below);
        // The distance fits into a word that has no sign.
        asm.mov(R1, R9);
        asm.alu(Alu::Sub, R1, R2);
        asm.constant(R2, step);
        asm.alu(Alu::Div, R1, R2);
        asm.jump_if_imm(Cmp::Lt, R1, buckets as i32, inside);
        asm.constant(R1, buckets.into());
        asm.bind(inside);
        asm.alu_imm(Alu::Add, R1, 1);
        asm.bind(below);
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
