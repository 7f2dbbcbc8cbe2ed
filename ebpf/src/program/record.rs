//! Records: captures, and their way into the ring buffer.
//!
//! A record without bytes is reserved in the ring buffer at its size and filled in place. One with
//! bytes is built in scratch memory, or in the frame of its call, and copied at its true length:
//! reserving for the limit would waste most of the ring.

use super::{Program, ScratchLayout, Wrong, part_of};
use crate::asm::{Alu, Cmp, Label, MapRef, Reg, Size};
use crate::expr::Expr;
use crate::expr::compile::Reason;
use crate::expr::input::Space;
use crate::helper;
use crate::layout::{Counter, WAKE_SENT, header};
use crate::spec::Capture;

use Reg::{R0, R1, R2, R3, R4, R8, R9, R10};

const BPF_RB_NO_WAKEUP: u64 = 1;
const BPF_RB_FORCE_WAKEUP: u64 = 2;
const BPF_RB_AVAIL_DATA: u64 = 0;
/// The unit in which memory is mapped or not.
const PAGE: i32 = 4096;

/// Bytes that are to be captured: the stack slot of their address, and whose memory that is.
#[derive(Clone, Copy)]
struct Source {
    address: i16,
    space: Space,
}

/// Where a record is built.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Ring,
    Scratch,
    Frame,
}

impl Program<'_> {
    /// Sends a record; a hit at `reject` may still be kept.
    pub(super) fn event(
        &mut self,
        captures: &[Capture],
        reject: Label,
        end: Label,
    ) -> Result<(), Wrong> {
        let (send, filtered) = (self.emit.asm.label(), self.emit.asm.label());
        let spec = self.spec;
        if let Some(keep) = &spec.keep {
            let slot = part_of("the program", self.emit.take(8))?;
            self.kept = Some(slot);
            self.emit.asm.store_imm(Size::DW, R10, slot, 0);
            self.emit.asm.jump(send);
            self.emit.asm.bind(reject);
            part_of("the keep expression", self.emit.expr(keep, filtered))?;
            self.emit.asm.jump_if_imm(Cmp::Eq, R0, 0, filtered);
            self.emit
                .asm
                .store_imm(Size::DW, R10, slot, header::KEPT.into());
        }
        self.emit.asm.bind(send);
        self.send(captures, end)?;
        if spec.keep.is_none() {
            self.emit.asm.bind(reject);
        }
        self.emit.asm.bind(filtered);
        self.count(Counter::Filtered);
        Ok(())
    }

    /// Counts how sending ended, a kept record as filtered whatever became of it.
    fn sent(&mut self, outcome: Counter, end: Label) {
        if let Some(slot) = self.kept {
            let plain = self.emit.asm.label();
            self.emit.asm.load(Size::DW, R1, R10, slot);
            self.emit.asm.jump_if_imm(Cmp::Eq, R1, 0, plain);
            self.count(Counter::Filtered);
            self.emit.asm.jump(end);
            self.emit.asm.bind(plain);
        }
        self.count(outcome);
        self.emit.asm.jump(end);
    }

    fn send(&mut self, captures: &[Capture], end: Label) -> Result<(), Wrong> {
        let place = if self.in_frame {
            Place::Frame
        } else if self.layout.has_bytes() {
            Place::Scratch
        } else {
            Place::Ring
        };
        let (ring_full, no_memory) = (self.emit.asm.label(), self.emit.asm.label());
        match place {
            Place::Ring => self.reserve(ring_full),
            Place::Scratch => self.claim(no_memory),
            Place::Frame => self.resume(no_memory),
        }
        self.header(place);
        let mut slot = self.layout.saved;
        for (i, capture) in captures.iter().enumerate() {
            if let Capture::Saved(_) = capture {
                continue;
            }
            part_of(&format!("capture {i}"), self.capture(slot, capture))?;
            slot += 1;
        }
        self.wake_flags();
        if place == Place::Ring {
            let asm = &mut self.emit.asm;
            asm.mov(R1, R8);
            asm.mov(R2, R0);
            asm.call(helper::RINGBUF_SUBMIT);
        } else {
            let asm = &mut self.emit.asm;
            asm.mov(R4, R0);
            asm.map(R1, MapRef::Ring);
            asm.mov(R2, R8);
            asm.mov(R3, R9);
            asm.call(helper::RINGBUF_OUTPUT);
            if place == Place::Scratch {
                self.release();
            }
            self.emit.asm.jump_if_imm(Cmp::Ne, R0, 0, ring_full);
        }
        self.sent(Counter::Emitted, end);
        self.emit.asm.bind(ring_full);
        self.sent(Counter::DroppedRing, end);
        self.emit.asm.bind(no_memory);
        if place != Place::Ring {
            self.sent(Counter::DroppedMap, end);
        }
        Ok(())
    }

    /// R8 = room in the ring buffer.
    fn reserve(&mut self, full: Label) {
        let asm = &mut self.emit.asm;
        asm.map(R1, MapRef::Ring);
        asm.constant(R2, self.layout.fixed().into());
        asm.constant(R3, 0);
        asm.call(helper::RINGBUF_RESERVE);
        asm.jump_if_imm(Cmp::Eq, R0, 0, full);
        asm.mov(R8, R0);
    }

    /// R8 = a slot of scratch memory, R9 = where bytes begin.
    pub(super) fn claim(&mut self, none: Label) {
        let ScratchLayout { slots, size } = self.target.scratch;
        let mask = slots as i32 - 1;
        let own_of_cpu = !self.target.atomics;
        let by_thread = self.on_program() && !own_of_cpu;
        let asm = &mut self.emit.asm;
        let claimed = asm.label();
        asm.call(match by_thread {
            true => helper::GET_CURRENT_PID_TGID,
            false => helper::GET_SMP_PROCESSOR_ID,
        });
        asm.mov(R9, R0);
        let tries = match own_of_cpu {
            true => 1,
            false => ScratchLayout::TRIES.min(slots),
        };
        for _ in 0..tries {
            asm.alu_imm(Alu::And, R9, mask);
            asm.mov(R1, R9);
            asm.alu_imm(Alu::Mul, R1, size as i32);
            asm.map_value(R8, MapRef::Scratch, 0);
            asm.alu(Alu::Add, R8, R1);
            asm.constant(R1, 1);
            if own_of_cpu {
                asm.load(Size::DW, R0, R8, 0);
                asm.jump_if_imm(Cmp::Ne, R0, 0, none);
                asm.store(Size::DW, R8, 0, R1);
                asm.jump(claimed);
            } else {
                asm.constant(R0, 0);
                asm.atomic_cmpxchg(R8, 0, R1);
                asm.jump_if_imm(Cmp::Eq, R0, 0, claimed);
                asm.alu_imm(Alu::Add, R9, 1);
            }
        }
        asm.jump(none);
        asm.bind(claimed);
        asm.alu_imm(Alu::Add, R8, 8);
        asm.constant(R9, self.layout.fixed().into());
    }

    /// Gives the slot back; R0 survives.
    pub(super) fn release(&mut self) {
        self.emit.asm.constant(R1, 0);
        if self.target.atomics {
            self.emit.asm.atomic_xchg(R8, -8, R1);
        } else {
            self.emit.asm.store(Size::DW, R8, -8, R1);
        }
    }

    /// R9 = the end of the bytes that entry captured.
    fn resume(&mut self, never: Label) {
        let most = self.layout.before(self.layout.saved) as i32;
        let asm = &mut self.emit.asm;
        asm.load(Size::DW, R9, R8, header::LATENCY);
        asm.jump_if_imm(Cmp::Gt, R9, most, never);
    }

    fn header(&mut self, place: Place) {
        let first = u64::from(self.index);
        let asm = &mut self.emit.asm;
        asm.constant(R1, first);
        if let Some(kept) = self.kept {
            asm.load(Size::DW, R2, R10, kept);
            asm.alu_imm(Alu::Lsh, R2, 16);
            asm.alu(Alu::Or, R1, R2);
        }
        if let Some(site) = self.site {
            asm.load(Size::DW, R2, R10, site);
            asm.alu_imm(Alu::Lsh, R2, 32);
            asm.alu(Alu::Or, R1, R2);
        }
        asm.store(Size::DW, R8, header::PROBE, R1);
        match self.now {
            Some(slot) => asm.load(Size::DW, R0, R10, slot),
            None => asm.call(helper::KTIME_GET_NS),
        }
        asm.store(Size::DW, R8, header::TIME, R0);
        asm.call(helper::GET_CURRENT_PID_TGID);
        asm.store(Size::DW, R8, header::PID_TGID, R0);
        match self.latency {
            Some(slot) => asm.load(Size::DW, R0, R10, slot),
            None => asm.constant(R0, 0),
        }
        asm.store(Size::DW, R8, header::LATENCY, R0);
        asm.mov(R1, R8);
        asm.alu_imm(Alu::Add, R1, header::COMM.into());
        asm.constant(R2, 16);
        asm.call(helper::GET_CURRENT_COMM);
        if place != Place::Frame {
            for mask in [header::FAULTS, header::CUTS] {
                self.emit.asm.store_imm(Size::DW, R8, mask, 0);
            }
        }
    }

    /// R0 = how to announce a record: userspace is woken once when much has piled up, and
    /// otherwise looks by itself now and then.
    fn wake_flags(&mut self) {
        let asm = &mut self.emit.asm;
        let quiet = asm.label();
        let end = asm.label();
        asm.map(R1, MapRef::Ring);
        asm.constant(R2, BPF_RB_AVAIL_DATA);
        asm.call(helper::RINGBUF_QUERY);
        asm.jump_if_imm(Cmp::Le, R0, (self.target.ring_bytes / 8) as i32, quiet);
        asm.map_value(R1, MapRef::State, WAKE_SENT);
        asm.load(Size::DW, R2, R1, 0);
        asm.jump_if_imm(Cmp::Ne, R2, 0, quiet);
        asm.store_imm(Size::DW, R1, 0, 1);
        asm.constant(R0, BPF_RB_FORCE_WAKEUP);
        asm.jump(end);
        asm.bind(quiet);
        asm.constant(R0, BPF_RB_NO_WAKEUP);
        asm.bind(end);
    }

    /// Captures into `slot` of the record in R8; bytes go to offset R9, which moves on.
    pub(super) fn capture(&mut self, slot: usize, capture: &Capture) -> Result<(), Reason> {
        let at = self.layout.slot(slot);
        let (fault, end) = (self.emit.asm.label(), self.emit.asm.label());
        let scope = self.emit.scope();
        match capture {
            Capture::Stack { user, frames } => {
                self.stack(slot, *user, *frames);
                self.emit.asm.jump(end);
            }
            Capture::Saved(_) => return Err("a saved capture cannot be captured again".into()),
            Capture::Int(e) => {
                self.emit.expr(e, fault)?;
                self.emit.asm.store(Size::DW, R8, at, R0);
                self.emit.asm.jump(end);
                self.emit.asm.bind(fault);
                self.mark(header::FAULTS, slot);
                self.emit.asm.store_imm(Size::DW, R8, at, 0);
            }
            Capture::Str { addr, len, limit } => {
                self.bytes(slot, addr, len.as_ref(), *limit, fault, end)?;
            }
            Capture::Buf { addr, len, limit } => {
                self.bytes(slot, addr, Some(len), *limit, fault, end)?;
            }
        }
        self.emit.asm.bind(end);
        self.emit.end_scope(scope);
        Ok(())
    }

    fn bytes(
        &mut self,
        slot: usize,
        addr: &Expr,
        len: Option<&Expr>,
        limit: u32,
        fault: Label,
        end: Label,
    ) -> Result<(), Reason> {
        let address = self.emit.take(8)?;
        let space = self.emit.space(addr);
        let source = Source { address, space };
        let length = self.emit.take(8)?;
        let chunk = self.emit.take(8)?;
        let (partly, store) = (self.emit.asm.label(), self.emit.asm.label());
        self.emit.expr(addr, fault)?;
        self.emit.asm.store(Size::DW, R10, address, R0);
        match len {
            Some(len) => {
                self.emit.expr(len, fault)?;
                self.read_exactly(slot, source, length, limit, partly, fault);
            }
            None => self.read_to_nul(slot, source, limit, partly, fault),
        }
        self.emit.asm.jump(store);
        self.emit.asm.bind(partly);
        self.mark(header::FAULTS, slot);
        self.read_pages(slot, source, len.map(|_| length), chunk, limit, fault);
        self.emit.asm.bind(store);
        self.put_bytes(slot);
        let at = self.layout.slot(slot);
        self.emit.asm.jump(end);
        self.emit.asm.bind(fault);
        self.mark(header::FAULTS, slot);
        self.emit.asm.store_imm(Size::DW, R8, at, 0);
        self.emit.give(24);
        Ok(())
    }

    /// R0 bytes were read to offset R9, which moves on.
    pub(super) fn put_bytes(&mut self, slot: usize) {
        let at = self.layout.slot(slot);
        let asm = &mut self.emit.asm;
        asm.mov(R1, R0);
        asm.alu_imm(Alu::Lsh, R1, 32);
        asm.alu(Alu::Or, R1, R9);
        asm.store(Size::DW, R8, at, R1);
        asm.alu(Alu::Add, R9, R0);
    }

    /// Reads R0 bytes; R0 = how many that were.
    fn read_exactly(
        &mut self,
        slot: usize,
        source: Source,
        length: i16,
        limit: u32,
        partly: Label,
        never: Label,
    ) {
        let fits = self.emit.asm.label();
        self.emit.asm.jump_if_imm(Cmp::Le, R0, limit as i32, fits);
        self.mark(header::CUTS, slot);
        self.emit.asm.constant(R0, limit.into());
        self.emit.asm.bind(fits);
        self.emit.asm.store(Size::DW, R10, length, R0);
        self.emit.asm.mov(R2, R0);
        self.destination(slot, never);
        self.emit.asm.load(Size::DW, R3, R10, source.address);
        self.emit.read_memory(source.space);
        self.emit.asm.jump_if_imm(Cmp::Ne, R0, 0, partly);
        self.emit.asm.load(Size::DW, R0, R10, length);
    }

    /// Reads a string; R0 = its length without the NUL.
    fn read_to_nul(
        &mut self,
        slot: usize,
        source: Source,
        limit: u32,
        partly: Label,
        never: Label,
    ) {
        // Room for the NUL and one byte more: a result above `limit + 1` means cut.
        self.emit.asm.constant(R2, u64::from(limit) + 2);
        self.destination(slot, never);
        self.emit.asm.load(Size::DW, R3, R10, source.address);
        self.emit.read_text(source.space);
        self.emit.asm.jump_if_imm(Cmp::Slt, R0, 0, partly);
        let (whole, empty) = (self.emit.asm.label(), self.emit.asm.label());
        // On 5.10 and 6.1 an empty string is 0 bytes long, without its NUL. (Their verifiers learn
        // from an order that the rest is at least 1, but not from inequality.)
        self.emit.asm.jump_if_imm(Cmp::Slt, R0, 1, empty);
        self.emit
            .asm
            .jump_if_imm(Cmp::Le, R0, limit as i32 + 1, whole);
        self.mark(header::CUTS, slot);
        self.emit.asm.constant(R0, u64::from(limit) + 1);
        self.emit.asm.bind(whole);
        self.emit.asm.alu_imm(Alu::Sub, R0, 1);
        self.emit.asm.bind(empty);
    }

    /// R1 = where this slot's bytes go. The comparison is for the verifier; it never fails.
    pub(super) fn destination(&mut self, slot: usize, never: Label) {
        let most = self.layout.before(slot) as i32;
        self.emit.asm.jump_if_imm(Cmp::Gt, R9, most, never);
        self.emit.asm.mov(R1, R8);
        self.emit.asm.alu(Alu::Add, R1, R9);
    }

    /// What can be read of memory that cannot be read whole: page by page up to the fault. R0 =
    /// how many bytes that is. There is no NUL among them, or the string would have been read.
    fn read_pages(
        &mut self,
        slot: usize,
        source: Source,
        length: Option<i16>,
        chunk: i16,
        limit: u32,
        never: Label,
    ) {
        let first = limit.min(PAGE as u32) as i32;
        let (finish, short, enough) = (
            self.emit.asm.label(),
            self.emit.asm.label(),
            self.emit.asm.label(),
        );
        let asm = &mut self.emit.asm;
        asm.store_imm(Size::DW, R10, chunk, 0);
        asm.load(Size::DW, R3, R10, source.address);
        asm.mov(R1, R3);
        asm.alu_imm(Alu::And, R1, PAGE - 1);
        asm.constant(R2, PAGE as u64);
        asm.alu(Alu::Sub, R2, R1);
        if let Some(length) = length {
            asm.load(Size::DW, R1, R10, length);
            asm.jump_if(Cmp::Le, R2, R1, short);
            asm.mov(R2, R1);
            asm.bind(short);
        }
        asm.jump_if_imm(Cmp::Le, R2, first, enough);
        asm.constant(R2, first as u64);
        asm.bind(enough);
        asm.store(Size::DW, R10, chunk, R2);
        self.destination(slot, never);
        self.emit.read_memory(source.space);
        let asm = &mut self.emit.asm;
        let again = asm.label();
        asm.load(Size::DW, R4, R10, chunk);
        asm.jump_if_imm(Cmp::Eq, R0, 0, again);
        asm.constant(R0, 0);
        let done = asm.label();
        asm.jump(done);
        asm.bind(again);
        if limit as i32 > PAGE {
            self.read_next_page(slot, source, length, chunk, limit, [again, finish, never]);
        }
        let asm = &mut self.emit.asm;
        asm.bind(finish);
        asm.mov(R0, R4);
        asm.bind(done);
    }

    /// One more whole page, if the limit and the length allow. R4 = what has been read, also in
    /// `chunk`. To `again` after success, to `finish` at the end.
    fn read_next_page(
        &mut self,
        slot: usize,
        source: Source,
        length: Option<i16>,
        chunk: i16,
        limit: u32,
        [again, finish, never]: [Label; 3],
    ) {
        let asm = &mut self.emit.asm;
        asm.jump_if_imm(Cmp::Gt, R4, limit as i32 - PAGE, finish);
        // Linux 5.10 does not know that the copy on the stack is as small as R4 is now.
        asm.store(Size::DW, R10, chunk, R4);
        if let Some(length) = length {
            asm.mov(R2, R4);
            asm.alu_imm(Alu::Add, R2, PAGE);
            asm.load(Size::DW, R1, R10, length);
            asm.jump_if(Cmp::Gt, R2, R1, finish);
        }
        self.destination(slot, never);
        let asm = &mut self.emit.asm;
        asm.alu(Alu::Add, R1, R4);
        asm.constant(R2, PAGE as u64);
        asm.load(Size::DW, R3, R10, source.address);
        asm.alu(Alu::Add, R3, R4);
        self.emit.read_memory(source.space);
        let asm = &mut self.emit.asm;
        asm.load(Size::DW, R4, R10, chunk);
        asm.jump_if_imm(Cmp::Ne, R0, 0, finish);
        asm.alu_imm(Alu::Add, R4, PAGE);
        asm.store(Size::DW, R10, chunk, R4);
        asm.jump(again);
    }
}
