//! Which hits are left out by [`crate::ProbeSpec::sample`].
//!
//! By a random number rather than by counting: what is probed often comes in patterns (a lock and
//! its unlock, malloc and free in turn), of which every N-th would see one part only. One in N
//! then holds on average: of `k` hits that were kept, `k * N` is the estimate of all, with a
//! relative standard error of about `1 / sqrt(k)` (it is that of a binomial distribution). Hits
//! themselves are counted exactly.

use super::Program;
use crate::asm::{Alu, Cmp, Label, Reg};
use crate::helper;

use Reg::R0;

impl Program<'_> {
    /// Goes on with one hit of so many, with the others to `unsampled`. (That 2^32 is no multiple
    /// of N makes it off by less than N / 2^32 of itself.)
    pub(super) fn sample(&mut self, unsampled: Label) {
        let Ok(of) = i32::try_from(self.spec.sample) else {
            // More than `check` lets through.
            return;
        };
        if of <= 1 {
            return;
        }
        let asm = &mut self.emit.asm;
        asm.call(helper::GET_PRANDOM_U32);
        // Of what is above the low half nothing is promised.
        asm.alu_imm(Alu::Lsh, R0, 32);
        asm.alu_imm(Alu::Rsh, R0, 32);
        asm.alu_imm(Alu::Mod, R0, of);
        asm.jump_if_imm(Cmp::Ne, R0, 0, unsampled);
    }
}
