//! Open calls: what entry leaves for the return.
//!
//! A call is named by its frame: the process and the stack pointer at entry, which no two open
//! calls share, recursion and threads included; with several sites the site too, since a tail
//! call enters the next function with the same stack pointer. In a session program the kernel
//! pairs entry and return and carries the time; a frame is needed only for what was captured.
//!
//! A frame is removed at its return. One left behind (longjmp, exception) is overwritten by the
//! next call at that place, or removed by it if it is filtered.

use super::{FrameKind, Part, Program, Wrong, defers, part_of};
use crate::arch;
use crate::asm::{Alu, Cmp, Kfunc, Label, MapRef, Reg, Size};
use crate::expr::Phase;
use crate::helper;
use crate::layout::{Counter, header};
use crate::spec::ProbeKind;

use Reg::{R0, R1, R2, R3, R4, R6, R8, R9, R10};

const BPF_ANY: u64 = 0;

impl Program<'_> {
    fn session(&self) -> bool {
        self.part == Part::Session
    }

    /// Whether this call's frames are in a map.
    fn has_frames(&self) -> bool {
        match self.frame {
            FrameKind::None => false,
            FrameKind::Time => !self.session(),
            FrameKind::Record => true,
        }
    }

    pub(super) fn call_entry(&mut self) -> Result<(), Wrong> {
        self.top()?;
        let (reject, full) = (self.emit.asm.label(), self.emit.asm.label());
        let spec = self.spec;
        let deferred = match defers(spec) {
            true => Some(part_of("the program", self.emit.take(8))?),
            false => None,
        };
        if let Some(slot) = deferred {
            self.emit.asm.store_imm(Size::DW, R10, slot, 0);
        }
        self.filter("the filter", &spec.filter, reject)?;
        let go_on = self.emit.asm.label();
        self.emit.asm.bind(go_on);
        match self.frame {
            _ if !self.has_frames() => self.remember_in_cookie(),
            FrameKind::Record => self.remember_record(deferred, full)?,
            _ => self.remember_time(full)?,
        }
        self.emit.asm.constant(R0, 0);
        self.emit.asm.exit();

        self.emit.asm.bind(reject);
        if let Some(slot) = deferred {
            self.emit
                .asm
                .store_imm(Size::DW, R10, slot, header::DEFERRED.into());
            self.emit.asm.jump(go_on);
        } else {
            self.count(Counter::Filtered);
            if self.has_frames() && !self.session() {
                // What a call that never returned left here must not meet this call's return.
                self.frame_key(0)?;
                self.drop_frame();
            }
            self.skip_return();
        }
        self.emit.asm.bind(full);
        self.count(Counter::DroppedMap);
        self.skip_return();
        Ok(())
    }

    /// Ends an entry whose return is of no interest: in a session the kernel then skips it.
    fn skip_return(&mut self) {
        let skip = u64::from(self.session());
        self.emit.asm.constant(R0, skip);
        self.emit.asm.exit();
    }

    fn remember_in_cookie(&mut self) {
        let asm = &mut self.emit.asm;
        asm.mov(R1, R6);
        asm.call_kfunc(Kfunc::SessionCookie);
        asm.mov(R8, R0);
        asm.call(helper::KTIME_GET_NS);
        asm.store(Size::DW, R8, 0, R0);
    }

    fn remember_time(&mut self, full: Label) -> Result<(), Wrong> {
        self.frame_key(0)?;
        let time = part_of("the program", self.emit.take(8))?;
        self.emit.asm.call(helper::KTIME_GET_NS);
        self.emit.asm.store(Size::DW, R10, time, R0);
        self.emit.stack(R3, time);
        self.insert_frame(full);
        self.emit.give(8);
        Ok(())
    }

    /// The frame is the record, as far as entry can build it.
    fn remember_record(&mut self, deferred: Option<i16>, full: Label) -> Result<(), Wrong> {
        self.frame_key(0)?;
        self.emit
            .asm
            .map_value(R3, MapRef::State, self.target.state.zeros);
        self.insert_frame(full);
        self.find_frame(full);
        let spec = self.spec;
        let ProbeKind::Call { saved, .. } = &spec.kind else {
            return Ok(());
        };
        self.emit.asm.constant(R9, self.layout.fixed().into());
        for (slot, capture) in saved.iter().enumerate() {
            let what = format!("saved capture {slot}");
            part_of(&what, self.capture(slot, capture))?;
        }
        let asm = &mut self.emit.asm;
        asm.store(Size::DW, R8, header::LATENCY, R9);
        if let Some(slot) = deferred {
            asm.load(Size::DW, R1, R10, slot);
            asm.store(Size::H, R8, header::FLAGS, R1);
        }
        // As late as possible: captures are not part of the call.
        asm.call(helper::KTIME_GET_NS);
        asm.store(Size::DW, R8, header::TIME, R0);
        Ok(())
    }

    /// Puts the frame's key on the stack; `popped`: how far the stack pointer is above the
    /// entry's.
    fn frame_key(&mut self, popped: i32) -> Result<i16, Wrong> {
        let key = match self.frame_key {
            Some(key) => key,
            None => part_of("the program", self.emit.take(16))?,
        };
        self.frame_key = Some(key);
        let asm = &mut self.emit.asm;
        asm.call(helper::GET_CURRENT_PID_TGID);
        asm.alu_imm(Alu::Rsh, R0, 32);
        if let Some(site) = self.site {
            asm.alu_imm(Alu::Lsh, R0, 32);
            asm.load(Size::DW, R1, R10, site);
            asm.alu(Alu::Or, R0, R1);
        }
        asm.store(Size::DW, R10, key, R0);
        asm.load(Size::DW, R1, R6, arch::SP);
        if popped != 0 {
            asm.alu_imm(Alu::Sub, R1, popped);
        }
        asm.store(Size::DW, R10, key + 8, R1);
        Ok(key)
    }

    fn frame_args(&mut self) {
        let key = self.frame_key.unwrap_or(-16);
        self.emit.asm.map(R1, MapRef::Frames);
        self.emit.stack(R2, key);
    }

    /// Inserts what R3 points to.
    fn insert_frame(&mut self, full: Label) {
        self.frame_args();
        self.emit.asm.constant(R4, BPF_ANY);
        self.emit.asm.call(helper::MAP_UPDATE);
        self.emit.asm.jump_if_imm(Cmp::Ne, R0, 0, full);
    }

    /// R8 = the frame.
    fn find_frame(&mut self, none: Label) {
        self.frame_args();
        self.emit.asm.call(helper::MAP_LOOKUP);
        self.emit.asm.jump_if_imm(Cmp::Eq, R0, 0, none);
        self.emit.asm.mov(R8, R0);
    }

    pub(super) fn drop_frame(&mut self) {
        if self.has_frames() && self.frame_key.is_some() {
            self.frame_args();
            self.emit.asm.call(helper::MAP_DELETE);
        }
    }

    pub(super) fn call_return(&mut self) -> Result<(), Wrong> {
        self.emit.phase = Phase::Return;
        let spec = self.spec;
        let ProbeKind::Call { filter, .. } = &spec.kind else {
            return Ok(());
        };
        let slot = part_of("the program", self.emit.take(8))?;
        let latency = part_of("the program", self.emit.take(8))?;
        self.emit.asm.call(helper::KTIME_GET_NS);
        self.emit.asm.store(Size::DW, R10, slot, R0);
        self.now = Some(slot);
        // A return whose entry was not seen is no hit.
        let none = self.emit.asm.label();
        self.find_site()?;
        match self.frame {
            _ if !self.has_frames() => {
                self.emit.asm.mov(R1, R6);
                self.emit.asm.call_kfunc(Kfunc::SessionCookie);
                self.emit.asm.load(Size::DW, R1, R0, 0);
            }
            kind => {
                self.frame_key(arch::SP_AT_RETURN)?;
                self.find_frame(none);
                let time = if kind == FrameKind::Time {
                    0
                } else {
                    header::TIME
                };
                self.emit.asm.load(Size::DW, R1, R8, time);
            }
        }
        let asm = &mut self.emit.asm;
        asm.load(Size::DW, R2, R10, slot);
        asm.alu(Alu::Sub, R2, R1);
        asm.store(Size::DW, R10, latency, R2);
        self.latency = Some(latency);
        self.emit.latency = Some(latency);
        if self.frame == FrameKind::Record {
            self.in_frame = true;
            self.emit.frame = Some(self.layout);
        }
        self.counters();
        let reject = self.emit.asm.label();
        if defers(spec) {
            self.emit.asm.load(Size::H, R1, R8, header::FLAGS);
            self.emit.asm.jump_if_imm(Cmp::Ne, R1, 0, reject);
        }
        self.filter("the filter at return", filter, reject)?;
        self.act(reject)?;
        self.emit.asm.bind(none);
        self.emit.asm.constant(R0, 0);
        self.emit.asm.exit();
        Ok(())
    }
}
