//! Where the time of a call goes: what its thread's clocks said at its entry, and what they ran until its return.
//!
//! A map that all probes share holds the clocks of each thread that has made such a call; `clocks` has the programs that
//! set them. A thread comes into the map at its first entry, with zeros: as if it had run since the machine was started,
//! which is no matter, since only differences count. Here clocks are read, not set. That of the CPU stands while the thread
//! runs: what it has run since is added.
//!
//! (Not every kernel tells of every switch: a virtual machine's has been seen to leave out those from some threads of its
//! own. A thread that is found here is set right.)
//!
//! A thread can be preempted amid a reading. Then the time at which its clocks were set is another one afterwards, and
//! they are read again.

use super::{Program, Wrong, part_of};
use crate::asm::{Alu, Cmp, Label, MapRef, Reg, Size};
use crate::expr::Spent;
use crate::helper;
use crate::layout::{breakdown_words, header, spent, thread};
use crate::spec::Action;

use Reg::{R0, R1, R2, R3, R4, R8, R9, R10};

const BPF_NOEXIST: u64 = 1;
/// Readings that are tried: each failed one means that the thread was preempted amid it.
const TRIES: usize = 4;
const CLOCKS: i16 = Spent::ALL.len() as i16;

impl Program<'_> {
    /// Keeps what the clocks say in the frame in R8, with the time of the entry.
    pub(super) fn begin_spent(&mut self, at: i16) -> Result<(), Wrong> {
        let asm = &mut self.emit.asm;
        let (unknown, done) = (asm.label(), asm.label());
        asm.store_imm(Size::DW, R8, at + spent::KNOWN, 1);
        self.find_clocks(true, unknown)?;
        let last = part_of("the program", self.emit.take(8))?;
        let asm = &mut self.emit.asm;
        for _ in 0..TRIES {
            asm.load(Size::DW, R1, R9, thread::LAST);
            asm.store(Size::DW, R10, last, R1);
            asm.call(helper::KTIME_GET_NS);
            asm.store(Size::DW, R8, header::TIME, R0);
            asm.load(Size::DW, R1, R10, last);
            for clock in 0..CLOCKS {
                asm.load(Size::DW, R2, R9, thread::NS + 8 * clock);
                if clock == Spent::Cpu as i16 {
                    asm.alu(Alu::Add, R2, R0);
                    asm.alu(Alu::Sub, R2, R1);
                }
                asm.store(Size::DW, R8, at + spent::NS + 8 * clock, R2);
            }
            asm.load(Size::DW, R2, R9, thread::LAST);
            asm.jump_if(Cmp::Eq, R1, R2, done);
        }
        asm.bind(unknown);
        asm.store_imm(Size::DW, R8, at + spent::KNOWN, 0);
        asm.call(helper::KTIME_GET_NS);
        asm.store(Size::DW, R8, header::TIME, R0);
        asm.bind(done);
        self.emit.give(8);
        Ok(())
    }

    /// Turns what the frame in R8 keeps into what the clocks ran since, until the time in the stack slot `now`: or
    /// until later, where the thread was preempted in between.
    pub(super) fn end_spent(&mut self, at: i16, now: i16) -> Result<(), Wrong> {
        let read = part_of("the program", self.emit.take(8 * CLOCKS))?;
        let asm = &mut self.emit.asm;
        let (unknown, whole, done) = (asm.label(), asm.label(), asm.label());
        asm.load(Size::DW, R1, R8, at + spent::KNOWN);
        asm.jump_if_imm(Cmp::Eq, R1, 0, unknown);
        asm.call(helper::GET_CURRENT_PID_TGID);
        asm.load(Size::DW, R1, R8, header::PID_TGID);
        asm.jump_if(Cmp::Ne, R0, R1, unknown);
        self.find_clocks(false, unknown)?;
        let asm = &mut self.emit.asm;
        for _ in 0..TRIES {
            let (set_before, again) = (asm.label(), asm.label());
            asm.load(Size::DW, R1, R9, thread::LAST);
            asm.load(Size::DW, R0, R10, now);
            asm.jump_if(Cmp::Le, R1, R0, set_before);
            asm.call(helper::KTIME_GET_NS);
            asm.store(Size::DW, R10, now, R0);
            asm.jump(again);
            asm.bind(set_before);
            for clock in 0..CLOCKS {
                asm.load(Size::DW, R2, R9, thread::NS + 8 * clock);
                if clock == Spent::Cpu as i16 {
                    asm.alu(Alu::Add, R2, R0);
                    asm.alu(Alu::Sub, R2, R1);
                }
                asm.store(Size::DW, R10, read + 8 * clock, R2);
            }
            asm.load(Size::DW, R2, R9, thread::LAST);
            asm.jump_if(Cmp::Eq, R1, R2, whole);
            asm.bind(again);
        }
        asm.bind(unknown);
        asm.store_imm(Size::DW, R8, at + spent::KNOWN, 0);
        asm.jump(done);
        asm.bind(whole);
        for clock in 0..CLOCKS {
            let word = at + spent::NS + 8 * clock;
            asm.load(Size::DW, R1, R10, read + 8 * clock);
            asm.load(Size::DW, R2, R8, word);
            asm.alu(Alu::Sub, R1, R2);
            asm.store(Size::DW, R8, word, R1);
        }
        asm.bind(done);
        self.emit.give(8 * CLOCKS);
        Ok(())
    }

    /// R9 = the clocks of this thread; `insert`: it gets some if it has none.
    fn find_clocks(&mut self, insert: bool, none: Label) -> Result<(), Wrong> {
        let task = part_of("the program", self.emit.take(8))?;
        let found = self.emit.asm.label();
        self.emit.asm.call(helper::GET_CURRENT_TASK);
        self.emit.asm.store(Size::DW, R10, task, R0);
        self.look_up_clocks(task);
        self.emit.asm.jump_if_imm(Cmp::Ne, R0, 0, found);
        if insert {
            let zeros = self.target.state.zeros;
            self.emit.asm.map(R1, MapRef::Threads);
            self.emit.stack(R2, task);
            self.emit.asm.map_value(R3, MapRef::State, zeros);
            self.emit.asm.constant(R4, BPF_NOEXIST);
            self.emit.asm.call(helper::MAP_UPDATE);
            self.look_up_clocks(task);
            self.emit.asm.jump_if_imm(Cmp::Ne, R0, 0, found);
        }
        self.emit.asm.jump(none);
        self.emit.asm.bind(found);
        self.emit.asm.mov(R9, R0);
        self.repair_clocks(task)?;
        self.emit.give(8);
        Ok(())
    }

    /// This thread runs, whatever the clocks in R9 say: where a switch to it was not told, the time until now goes to
    /// what it was at, and from here on it is the CPU's. `word`: some stack.
    fn repair_clocks(&mut self, word: i16) -> Result<(), Wrong> {
        let last = part_of("the program", self.emit.take(8))?;
        let asm = &mut self.emit.asm;
        let right = asm.label();
        asm.load(Size::DW, R1, R9, thread::AT);
        asm.jump_if_imm(Cmp::Eq, R1, Spent::Cpu as i32, right);
        asm.store(Size::DW, R10, word, R1);
        asm.load(Size::DW, R1, R9, thread::LAST);
        asm.store(Size::DW, R10, last, R1);
        asm.call(helper::KTIME_GET_NS);
        asm.mov(R4, R0);
        asm.load(Size::DW, R3, R10, last);
        if self.target.atomics {
            // Preempted in between: then it has been told.
            asm.mov(R0, R3);
            asm.atomic_cmpxchg(R9, thread::LAST, R4);
            asm.jump_if(Cmp::Ne, R0, R3, right);
        } else {
            asm.store(Size::DW, R9, thread::LAST, R4);
        }
        asm.store_imm(Size::DW, R9, thread::AT, Spent::Cpu as i32);
        asm.alu(Alu::Sub, R4, R3);
        asm.load(Size::DW, R1, R10, word);
        asm.alu_imm(Alu::And, R1, 7);
        asm.alu_imm(Alu::Lsh, R1, 3);
        asm.alu(Alu::Add, R1, R9);
        asm.atomic_add(R1, thread::NS, R4);
        asm.bind(right);
        self.emit.give(8);
        Ok(())
    }

    fn look_up_clocks(&mut self, task: i16) {
        self.emit.asm.map(R1, MapRef::Threads);
        self.emit.stack(R2, task);
        self.emit.asm.call(helper::MAP_LOOKUP);
    }

    /// Where on the stack the frame's address is, for an action that needs it when R8 is something else.
    pub(super) fn keep_frame(&mut self, action: &Action) -> Result<i16, Wrong> {
        if !matches!(action, Action::Breakdown { .. }) {
            return Ok(0);
        }
        let slot = part_of("the program", self.emit.take(8))?;
        self.emit.asm.store(Size::DW, R10, slot, R8);
        Ok(slot)
    }

    /// Adds where the call's time went, by the frame whose address is in the stack slot, to the sums behind the
    /// histogram at `base + off`.
    pub(super) fn add_spent(&mut self, frame: i16, base: Reg, off: i16) {
        let Some(at) = self.layout.spent() else {
            return;
        };
        let asm = &mut self.emit.asm;
        let unknown = asm.label();
        asm.load(Size::DW, R3, R10, frame);
        asm.load(Size::DW, R1, R3, at + spent::KNOWN);
        asm.jump_if_imm(Cmp::Eq, R1, 0, unknown);
        for clock in 0..CLOCKS {
            asm.load(Size::DW, R1, R3, at + spent::NS + 8 * clock);
            let word = 8 * (breakdown_words::NS as i16 + clock);
            asm.atomic_add(base, off + word, R1);
        }
        self.add_one(base, off + 8 * breakdown_words::KNOWN as i16);
        self.emit.asm.bind(unknown);
    }
}
