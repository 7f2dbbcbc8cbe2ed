//! Open calls: what entry leaves for the return.
//!
//! A call is named by its frame: the process and the stack pointer at entry, which no two open
//! calls share, recursion and threads included; with several sites the site too, since a tail
//! call enters the next function with the same stack pointer. Where stacks move or are shared
//! their owner is part of the name. In a session program the kernel pairs entry and return and
//! carries the time; a frame is needed only for what was captured, and where it is small `kept` has
//! it. In the kernel it is the kernel's stack, and for a system call the thread.
//!
//! A frame is removed at its return. One left behind (longjmp, exception) is overwritten by the
//! next call at that place, or removed by it if it is filtered: then it is counted as abandoned.

use super::{Part, Program, Wrong, frame_name, part_of};
use crate::arch;
use crate::asm::{Alu, Cmp, Kfunc, Label, MapRef, Reg, Size};
use crate::expr::Phase;
use crate::helper;
use crate::layout::{Counter, FrameKind, defers, frame_key, header, open};
use crate::spec::{FrameName, KernelSource, On, ProbeKind};

use Reg::{R0, R1, R2, R3, R4, R6, R8, R9, R10};

/// Bits of a session's cookie that tell the process.
const COOKIE_PID_BITS: i32 = 16;
const BPF_ANY: u64 = 0;
const BPF_NOEXIST: u64 = 1;
const EEXIST: i32 = 17;

impl Program<'_> {
    fn session(&self) -> bool {
        self.part == Part::Session
    }

    /// Whether this call's frames are in a map.
    fn has_frames(&self) -> bool {
        match self.frame {
            FrameKind::None => false,
            FrameKind::Time => !self.session(),
            FrameKind::Record => !self.keeps_with_thread(),
            FrameKind::Running => true,
        }
    }

    pub(super) fn call_entry(&mut self) -> Result<(), Wrong> {
        self.top()?;
        self.copy_given()?;
        let (reject, full) = (self.emit.asm.label(), self.emit.asm.label());
        let (unreadable, unsampled) = (self.emit.asm.label(), self.emit.asm.label());
        let left_out = self.emit.asm.label();
        self.sample(unsampled);
        let spec = self.spec;
        let deferred = match defers(spec) {
            true => Some(part_of("the program", self.emit.take(8))?),
            false => None,
        };
        if let Some(slot) = deferred {
            self.emit.asm.store_imm(Size::DW, R10, slot, 0);
        }
        self.share()?;
        self.filter("the filter", &spec.filter, reject)?;
        let go_on = self.emit.asm.label();
        self.emit.asm.bind(go_on);
        self.leave_if_nested()?;
        self.enter_chain(true)?;
        match self.frame {
            FrameKind::Record => self.remember_record(deferred, unreadable, full)?,
            _ if !self.has_frames() => self.remember_in_cookie(),
            _ => self.remember_time(unreadable, full)?,
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
            self.emit.asm.jump(left_out);
        }
        self.emit.asm.bind(unsampled);
        self.count(Counter::Unsampled);
        self.emit.asm.bind(left_out);
        self.leave_out()?;
        self.emit.asm.bind(unreadable);
        self.count(Counter::Filtered);
        self.count(Counter::Unreadable);
        self.forget_chain()?;
        self.skip_return();
        self.emit.asm.bind(full);
        self.count(Counter::DroppedMap);
        self.forget_chain()?;
        self.skip_return();
        Ok(())
    }

    /// Ends the entry of a call that was filtered, or left out by sampling.
    fn leave_out(&mut self) -> Result<(), Wrong> {
        self.enter_chain(false)?;
        self.forget_abandoned()?;
        self.skip_return();
        Ok(())
    }

    /// What a call that never returned left in the place of a filtered one must not meet its
    /// return. (In a session the filtered call's return is skipped.)
    fn forget_abandoned(&mut self) -> Result<(), Wrong> {
        if !self.has_frames() || self.session() {
            return Ok(());
        }
        let nothing = self.emit.asm.label();
        self.frame_key(0, nothing)?;
        self.drop_frame();
        self.emit.asm.jump_if_imm(Cmp::Ne, R0, 0, nothing);
        self.count(Counter::Abandoned);
        self.emit.asm.bind(nothing);
        Ok(())
    }

    /// Ends an entry whose return is of no interest: in a session the kernel then skips it.
    pub(super) fn skip_return(&mut self) {
        let skip = u64::from(self.session());
        self.emit.asm.constant(R0, skip);
        self.emit.asm.exit();
    }

    /// The cookie: the time in its upper 48 bits (which lasts for 78 hours), the process in the lower 16. A process
    /// that is forked within the call has the call and its cookie too, and returns from it: that is not our return.
    fn remember_in_cookie(&mut self) {
        self.process_of_cookie();
        let asm = &mut self.emit.asm;
        asm.mov(R1, R6);
        asm.call_kfunc(Kfunc::SessionCookie);
        asm.mov(R8, R0);
        asm.call(helper::KTIME_GET_NS);
        asm.alu_imm(Alu::Lsh, R0, COOKIE_PID_BITS);
        asm.alu(Alu::Or, R0, R9);
        asm.store(Size::DW, R8, 0, R0);
    }

    /// R9 = what a cookie says of the process.
    fn process_of_cookie(&mut self) {
        let asm = &mut self.emit.asm;
        asm.call(helper::GET_CURRENT_PID_TGID);
        asm.alu_imm(Alu::Rsh, R0, 32);
        asm.alu_imm(Alu::And, R0, (1 << COOKIE_PID_BITS) - 1);
        asm.mov(R9, R0);
    }

    /// R1 = the time of the entry by the cookie, seen from `now`.
    fn time_of_cookie(&mut self, now: i16, none: Label) {
        self.process_of_cookie();
        let asm = &mut self.emit.asm;
        asm.mov(R1, R6);
        asm.call_kfunc(Kfunc::SessionCookie);
        asm.load(Size::DW, R1, R0, 0);
        asm.mov(R2, R1);
        asm.alu_imm(Alu::And, R2, (1 << COOKIE_PID_BITS) - 1);
        asm.jump_if(Cmp::Ne, R2, R9, none);
        asm.alu_imm(Alu::Rsh, R1, COOKIE_PID_BITS);
        asm.load(Size::DW, R2, R10, now);
        asm.mov(R3, R2);
        asm.alu(Alu::Sub, R3, R1);
        asm.alu_imm(Alu::Lsh, R3, COOKIE_PID_BITS);
        asm.alu_imm(Alu::Rsh, R3, COOKIE_PID_BITS);
        asm.mov(R1, R2);
        asm.alu(Alu::Sub, R1, R3);
    }

    /// The frame is a few words, built on the stack.
    fn remember_time(&mut self, unreadable: Label, full: Label) -> Result<(), Wrong> {
        let runs = self.will_run(unreadable)?;
        self.frame_key(0, unreadable)?;
        let size = self.frame.size(self.layout) as i16;
        let frame = part_of("the program", self.emit.take(size))?;
        self.emit.asm.call(helper::GET_CURRENT_PID_TGID);
        self.emit
            .asm
            .store(Size::DW, R10, frame + open::PID_TGID, R0);
        self.emit.stack(R1, frame + open::CALLER);
        self.read_caller();
        if runs.is_some() {
            self.find_running(frame + open::PID_TGID);
            self.emit.asm.store(Size::DW, R10, frame + open::FORMER, R0);
        }
        self.emit.asm.call(helper::KTIME_GET_NS);
        self.emit.asm.store(Size::DW, R10, frame + open::TIME, R0);
        self.insert_frame(|emit| emit.stack(R3, frame), full);
        if let Some(value) = runs {
            self.set_running(frame, value, full);
        }
        // The key stays where it is, and with it what was taken before.
        self.emit.give(size);
        Ok(())
    }

    /// Reads the word at the stack pointer to where R1 points; a zero where it cannot be read.
    pub(super) fn read_caller(&mut self) {
        let user = self.on_program();
        let asm = &mut self.emit.asm;
        if !user {
            asm.store_imm(Size::DW, R1, 0, 0);
            return;
        }
        asm.constant(R2, 8);
        asm.load(Size::DW, R3, R6, arch::SP);
        asm.call(helper::PROBE_READ_USER);
    }

    /// The frame is the record, as far as entry can build it.
    fn remember_record(
        &mut self,
        deferred: Option<i16>,
        unreadable: Label,
        full: Label,
    ) -> Result<(), Wrong> {
        let kept = match self.keeps_with_thread() {
            true => Some(self.open_kept(full)?),
            false => None,
        };
        if kept.is_none() {
            self.insert_record(unreadable, full)?;
        }
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
        if let Some(at) = self.layout.spent() {
            return self.begin_spent(at);
        }
        asm.call(helper::KTIME_GET_NS);
        asm.store(Size::DW, R8, header::TIME, R0);
        if let Some(index) = kept {
            self.point_to_kept(index);
        }
        Ok(())
    }

    /// R8 = a new record among the open calls.
    fn insert_record(&mut self, unreadable: Label, full: Label) -> Result<(), Wrong> {
        self.frame_key(0, unreadable)?;
        let zeros = self.target.state.zeros;
        self.insert_frame(|emit| emit.asm.map_value(R3, MapRef::State, zeros), full);
        self.find_frame(full);
        let asm = &mut self.emit.asm;
        asm.call(helper::GET_CURRENT_PID_TGID);
        asm.store(Size::DW, R8, header::PID_TGID, R0);
        asm.mov(R1, R8);
        asm.alu_imm(Alu::Add, R1, header::COMM.into());
        self.read_caller();
        Ok(())
    }

    /// Puts the frame's key on the stack; `popped`: how far the stack pointer is above the
    /// entry's. To `unreadable` where the owner of the stack cannot be told.
    fn frame_key(&mut self, popped: i32, unreadable: Label) -> Result<(), Wrong> {
        let name = frame_name(self.spec);
        let key = match self.frame_key {
            Some(key) => key,
            None => part_of("the program", self.emit.take(frame_key::size(name) as i16))?,
        };
        self.frame_key = Some(key);
        let owner = key + frame_key::OWNER;
        let asm = &mut self.emit.asm;
        asm.call(helper::GET_CURRENT_PID_TGID);
        if name == FrameName::Running {
            asm.store(Size::DW, R10, owner, R0);
        }
        asm.alu_imm(Alu::Rsh, R0, 32);
        asm.alu_imm(Alu::Lsh, R0, 32);
        if let Some(site) = self.site {
            asm.load(Size::DW, R1, R10, site);
            asm.alu(Alu::Or, R0, R1);
        }
        asm.store(Size::DW, R10, key + frame_key::PROCESS, R0);
        match name {
            FrameName::Stack | FrameName::Thread => {}
            FrameName::Goroutine => self.stack_top(owner, unreadable),
            FrameName::Running => {
                self.find_running(owner);
                self.emit.asm.store(Size::DW, R10, owner, R0);
            }
        }
        match self.spec.on {
            On::Program | On::Kernel(KernelSource::Kprobe) => {
                self.place_on_stack(name, popped, owner);
            }
            // What the program is given lies on the kernel's stack, at the same place for both
            // ends of a call: they are run by one trampoline.
            On::Kernel(KernelSource::Function) => {
                part_of("the program", self.emit.context())?;
                self.emit.asm.mov(R1, R0);
            }
            // (A thread's number changes when it executes another program; its task stays.)
            On::Kernel(_) => {
                self.emit.asm.call(helper::GET_CURRENT_TASK);
                self.emit.asm.mov(R1, R0);
            }
        }
        self.emit
            .asm
            .store(Size::DW, R10, key + frame_key::PLACE, R1);
        Ok(())
    }

    /// R1 = where on its stack the call is; `popped`: how far the stack pointer is above the entry's. A goroutine's
    /// `owner` word holds the top of its stack and then the goroutine.
    pub(super) fn place_on_stack(&mut self, name: FrameName, popped: i32, owner: i16) {
        let asm = &mut self.emit.asm;
        asm.load(Size::DW, R1, R6, arch::SP);
        if popped != 0 {
            asm.alu_imm(Alu::Sub, R1, popped);
        }
        if name == FrameName::Goroutine {
            asm.load(Size::DW, R2, R10, owner);
            asm.alu(Alu::Sub, R1, R2);
            asm.load(Size::DW, R2, R6, arch::GOROUTINE);
            asm.store(Size::DW, R10, owner, R2);
        }
    }

    /// Reads the top of the goroutine's stack to the stack word at `word`.
    pub(super) fn stack_top(&mut self, word: i16, unreadable: Label) {
        self.emit.stack(R1, word);
        let asm = &mut self.emit.asm;
        asm.constant(R2, 8);
        asm.load(Size::DW, R3, R6, arch::GOROUTINE);
        asm.alu_imm(Alu::Add, R3, arch::GOROUTINE_STACK_HI);
        asm.call(helper::PROBE_READ_USER);
        asm.jump_if_imm(Cmp::Ne, R0, 0, unreadable);
    }

    fn frame_args(&mut self) {
        let key = self.frame_key.unwrap_or(-16);
        self.emit.asm.map(R1, MapRef::Frames);
        self.emit.stack(R2, key);
    }

    /// Inserts what `frame` lets R3 point to. What is there already was abandoned: it is
    /// overwritten. (Asking first whether something is there would cost each call a lookup, some
    /// 25 ns of 1,150.)
    fn insert_frame(
        &mut self,
        frame: impl Fn(&mut crate::expr::compile::Emitter<'_>),
        full: Label,
    ) {
        let inserted = self.emit.asm.label();
        for flags in [BPF_NOEXIST, BPF_ANY] {
            self.frame_args();
            frame(&mut self.emit);
            let asm = &mut self.emit.asm;
            asm.constant(R4, flags);
            asm.call(helper::MAP_UPDATE);
            asm.jump_if_imm(Cmp::Eq, R0, 0, inserted);
            if flags == BPF_NOEXIST {
                // Before Linux 6.4 the kernel's function gave an int, and what is above it in
                // the register is whatever it is.
                asm.alu_imm(Alu::Add, R0, EEXIST);
                asm.alu_imm(Alu::Lsh, R0, 32);
                asm.jump_if_imm(Cmp::Ne, R0, 0, full);
                self.count(Counter::Abandoned);
            }
        }
        self.emit.asm.jump(full);
        self.emit.asm.bind(inserted);
    }

    /// R8 = the frame.
    fn find_frame(&mut self, none: Label) {
        self.frame_args();
        self.emit.asm.call(helper::MAP_LOOKUP);
        self.emit.asm.jump_if_imm(Cmp::Eq, R0, 0, none);
        self.emit.asm.mov(R8, R0);
    }

    /// Removes the frame; R0 = 0 if there was one.
    pub(super) fn drop_frame(&mut self) {
        if self.has_frames() && self.frame_key.is_some() {
            self.frame_args();
            self.emit.asm.call(helper::MAP_DELETE);
        }
    }

    pub(super) fn call_return(&mut self) -> Result<(), Wrong> {
        self.emit.phase = Phase::Return;
        self.emit.forget_reads();
        let spec = self.spec;
        let ProbeKind::Call { filter, .. } = &spec.kind else {
            return Ok(());
        };
        // A return whose entry was not seen is no hit, nor is an exit that is not taken.
        let none = self.emit.asm.label();
        if self.part == Part::Exit {
            self.exit_taken(none)?;
        }
        let slot = part_of("the program", self.emit.take(8))?;
        let latency = part_of("the program", self.emit.take(8))?;
        self.emit.asm.call(helper::KTIME_GET_NS);
        self.emit.asm.store(Size::DW, R10, slot, R0);
        self.now = Some(slot);
        if self.part != Part::Exit {
            self.find_site()?;
        }
        self.entry_time(none)?;
        if let Some(at) = self.layout.spent() {
            self.end_spent(at, slot)?;
            self.emit.asm.load(Size::DW, R1, R8, header::TIME);
        }
        let asm = &mut self.emit.asm;
        asm.load(Size::DW, R2, R10, slot);
        asm.alu(Alu::Sub, R2, R1);
        asm.store(Size::DW, R10, latency, R2);
        self.latency = Some(latency);
        self.emit.latency = Some(latency);
        self.leave_chain()?;
        self.copy_given()?;
        if self.frame == FrameKind::Record {
            self.in_frame = true;
            self.emit.frame = Some(self.layout);
        }
        if self.frame == FrameKind::Running {
            self.restore_running();
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

    /// R1 = the time of the entry, R8 = the frame if there is one.
    fn entry_time(&mut self, none: Label) -> Result<(), Wrong> {
        if self.keeps_with_thread() {
            self.close_kept(none);
            self.emit.asm.load(Size::DW, R1, R8, header::TIME);
            return Ok(());
        }
        if let (false, Some(now)) = (self.has_frames(), self.now) {
            self.time_of_cookie(now, none);
            return Ok(());
        }
        let popped = match self.part {
            Part::Exit => 0,
            _ => arch::SP_AT_RETURN,
        };
        self.frame_key(popped, none)?;
        self.find_frame(none);
        let time = match self.frame {
            FrameKind::Record => header::TIME,
            _ => open::TIME,
        };
        self.emit.asm.load(Size::DW, R1, R8, time);
        Ok(())
    }
}
