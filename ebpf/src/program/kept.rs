//! Frames of a session's calls that are kept with their thread.
//!
//! In BPF's task storage each thread has an array of frames that is used as a stack. The session's cookie tells the frame,
//! so that what is a lookup, an insertion and a removal by key in a map of open calls is here a load of the array's
//! address: some 15 ns twice for each call in place of 400. No thread is in another's way, and what a thread leaves goes
//! with it; a process that is forked within a call, and returns from it too, has an array of its own or none.
//!
//! Frames of calls that were left (longjmp, exception) are found by the rule by which the kernel finds that their returns
//! will not come (`arch_uretprobe_is_alive` in arch/x86/kernel/uprobes.c): the stack pointer has moved above them. Since it
//! follows [`MAX_PENDING`] returns of a thread there are never more frames.

use super::nesting::MAX_PENDING;
use super::{Part, Program, Wrong, frame_name, part_of};
use crate::arch;
use crate::asm::{Alu, Cmp, Kfunc, Label, MapRef, Reg, Size};
use crate::helper;
use crate::layout::{Counter, FrameKind, RecordLayout, header};
use crate::spec::{FrameName, On, ProbeKind, ProbeSpec};

use Reg::{R0, R1, R2, R3, R4, R6, R7, R8, R9, R10};

/// BPF_LOCAL_STORAGE_GET_F_CREATE
const CREATE: u64 = 1;
/// Bits of a session's cookie that tell the frame; the others are the time of the entry, in nanoseconds (it lasts for two
/// years).
const INDEX_BITS: i32 = 8;
/// The largest array: what the kernel allocates without waiting is at most 8 KiB with what it adds (`kmalloc_nolock`, from
/// Linux 6.19).
const MAX_BYTES: u32 = 7936;
/// Where frames begin; before them is how many there are.
const FRAMES: u32 = 8;

/// In a frame: the stack pointer at entry (in place of the word that is there), and the index of the site.
const PLACE: i16 = header::COMM;
const SITE: i16 = header::COMM + 8;

/// Bytes of a thread's array, if frames of the probe's calls can be kept so where a session has them.
pub(crate) fn array_bytes(spec: &ProbeSpec) -> Option<u32> {
    let call = matches!(spec.kind, ProbeKind::Call { .. }) && spec.on == On::Program;
    let kept = call && FrameKind::of(spec) == FrameKind::Record;
    let layout = RecordLayout::new(spec);
    let bytes = FRAMES + MAX_PENDING as u32 * layout.size();
    let small = bytes <= MAX_BYTES && layout.spent().is_none();
    (kept && frame_name(spec) == FrameName::Stack && small).then_some(bytes)
}

impl Program<'_> {
    /// Whether this call's frames are kept with its thread.
    pub(super) fn keeps_with_thread(&self) -> bool {
        self.part == Part::Session && self.target.task_storage && array_bytes(self.spec).is_some()
    }

    /// R0 = the thread's array.
    fn array(&mut self, flags: u64, none: Label) {
        let asm = &mut self.emit.asm;
        asm.call(helper::GET_CURRENT_TASK_BTF);
        asm.map(R1, MapRef::Kept);
        asm.mov(R2, R0);
        asm.constant(R3, 0);
        asm.constant(R4, flags);
        asm.call(helper::TASK_STORAGE_GET);
        asm.jump_if_imm(Cmp::Eq, R0, 0, none);
    }

    /// R8 = the frame of index R1, which is left as its offset; R0 is the array.
    fn frame_at(&mut self) {
        let asm = &mut self.emit.asm;
        asm.alu_imm(Alu::Mul, R1, self.layout.size() as i32);
        asm.mov(R8, R0);
        asm.alu(Alu::Add, R8, R1);
    }

    /// R8 = a new frame without faults; returns the stack slot of its index.
    pub(super) fn open_kept(&mut self, full: Label) -> Result<i16, Wrong> {
        let index = part_of("the program", self.emit.take(8))?;
        self.array(CREATE, full);
        self.leave_abandoned(full);
        let asm = &mut self.emit.asm;
        asm.jump_if_imm(Cmp::Ge, R1, MAX_PENDING, full);
        asm.store(Size::DW, R10, index, R1);
        asm.mov(R2, R1);
        asm.alu_imm(Alu::Add, R2, 1);
        asm.store(Size::DW, R0, 0, R2);
        self.frame_at();
        let asm = &mut self.emit.asm;
        asm.alu_imm(Alu::Add, R8, FRAMES as i32);
        for word in [header::PROBE, header::FAULTS, header::CUTS] {
            asm.store_imm(Size::DW, R8, word, 0);
        }
        asm.load(Size::DW, R1, R6, arch::SP);
        asm.store(Size::DW, R8, PLACE, R1);
        if let Some(site) = self.site {
            asm.load(Size::DW, R1, R10, site);
            asm.store(Size::DW, R8, SITE, R1);
        }
        Ok(index)
    }

    /// R1 = how many frames of R0 are those of calls around this one; the others were left. (At the same place on the stack
    /// a call of another site is around this one: it tail-called its function.)
    fn leave_abandoned(&mut self, never: Label) {
        let site = self.site;
        let asm = &mut self.emit.asm;
        let (again, left, found, all) = (asm.label(), asm.label(), asm.label(), asm.label());
        asm.load(Size::DW, R1, R0, 0);
        asm.jump_if_imm(Cmp::Gt, R1, MAX_PENDING, never);
        asm.mov(R9, R1);
        asm.load(Size::DW, R2, R6, arch::SP);
        asm.bind(again);
        asm.jump_if_imm(Cmp::Eq, R1, 0, found);
        asm.mov(R3, R1);
        asm.alu_imm(Alu::Sub, R3, 1);
        asm.alu_imm(Alu::Mul, R3, self.layout.size() as i32);
        asm.alu(Alu::Add, R3, R0);
        asm.load(Size::DW, R4, R3, FRAMES as i16 + PLACE);
        asm.jump_if(Cmp::Gt, R4, R2, found);
        if let Some(site) = site {
            asm.jump_if(Cmp::Ne, R4, R2, left);
            asm.load(Size::DW, R4, R3, FRAMES as i16 + SITE);
            asm.load(Size::DW, R3, R10, site);
            asm.jump_if(Cmp::Ne, R4, R3, found);
        }
        asm.bind(left);
        asm.alu_imm(Alu::Sub, R1, 1);
        asm.jump(again);
        asm.bind(found);
        asm.alu(Alu::Sub, R9, R1);
        asm.jump_if_imm(Cmp::Eq, R9, 0, all);
        asm.atomic_add(R7, 8 * Counter::Abandoned as i16, R9);
        asm.bind(all);
    }

    /// The entry's time, R0, goes into the cookie, and with it which frame it is.
    pub(super) fn point_to_kept(&mut self, index: i16) {
        let asm = &mut self.emit.asm;
        asm.alu_imm(Alu::Lsh, R0, INDEX_BITS);
        asm.load(Size::DW, R1, R10, index);
        asm.alu(Alu::Or, R0, R1);
        asm.mov(R9, R0);
        asm.mov(R1, R6);
        asm.call_kfunc(Kfunc::SessionCookie);
        asm.store(Size::DW, R0, 0, R9);
    }

    /// R8 = the frame that the cookie tells; it is the call's no longer, and stays until the thread's next one.
    pub(super) fn close_kept(&mut self, none: Label) {
        let asm = &mut self.emit.asm;
        asm.mov(R1, R6);
        asm.call_kfunc(Kfunc::SessionCookie);
        asm.load(Size::DW, R9, R0, 0);
        self.array(0, none);
        let asm = &mut self.emit.asm;
        let all = asm.label();
        asm.mov(R1, R9);
        asm.alu_imm(Alu::And, R1, (1 << INDEX_BITS) - 1);
        asm.jump_if_imm(Cmp::Ge, R1, MAX_PENDING, none);
        asm.mov(R2, R1);
        self.frame_at();
        let asm = &mut self.emit.asm;
        asm.alu_imm(Alu::Add, R8, FRAMES as i32);
        asm.alu_imm(Alu::Rsh, R9, INDEX_BITS);
        asm.load(Size::DW, R1, R8, header::TIME);
        asm.alu_imm(Alu::Lsh, R1, INDEX_BITS);
        asm.alu_imm(Alu::Rsh, R1, INDEX_BITS);
        asm.jump_if(Cmp::Ne, R1, R9, none);
        // What is above it was left.
        asm.load(Size::DW, R9, R0, 0);
        asm.store(Size::DW, R0, 0, R2);
        asm.alu(Alu::Sub, R9, R2);
        asm.jump_if_imm(Cmp::Sle, R9, 1, all);
        asm.alu_imm(Alu::Sub, R9, 1);
        self.counters();
        let asm = &mut self.emit.asm;
        asm.atomic_add(R7, 8 * Counter::Abandoned as i16, R9);
        asm.bind(all);
    }
}
