//! Which probed calls are open around a call: its depth, its parent, and the time of its own.
//!
//! Each lane (a thread; a goroutine; a coroutine on a thread) has a chain of open calls. Two maps
//! that all probes share hold it: `tops` says where a lane's innermost call is, `chain` has a node
//! for each call, with the call around it. Calls that were filtered or dropped, and those whose
//! return the kernel does not see, take no part.
//!
//! Stacks grow down, so that a call that is found at or below the place of a new one has been left
//! without a return (longjmp, exception), and is taken off; so is one above it at whose place there
//! is neither its return address nor the kernel's trampoline any more. (One that was left, and
//! whose return address nothing has overwritten or put there again, is taken for open.) At the very same place there
//! are two others: a function that tail-called the new one, whose return is pending (the trampoline
//! is there), and another probe's view of the same call, which shares the node. A function that was tail-called has the depth and parent of the one that
//! called it, as it would if that one had been seen to end; both return at once, the inner one
//! first, and its time counts as spent outside of the other.
//!
//! Both maps forget what was used least recently when they are full. A call whose node is missing
//! has its latency all the same; its depth, parent and own time are unknown. Calls on several
//! stacks of one thread are told apart only by lanes: without a name for what runs, a call on a
//! higher stack takes those of a lower one for left.

mod enter;
mod leave;
#[cfg(test)]
mod tests;

use super::{Program, Wrong, frame_name, part_of};
use crate::asm::{Alu, Cmp, Label, MapRef, Reg, Size};
use crate::btf;
use crate::helper;
use crate::spec::{FrameName, On, ProbeKind, ProbeSpec};

use Reg::{R0, R1, R2, R9, R10};

/// Calls that one entry or return takes off; what is left is for later ones.
const STEPS: u64 = 64;
/// The place of a lane's top where no call is open.
const EMPTY: i32 = -1;

/// No return address.
const NOWHERE: i32 = -1;

/// A key of `chain`; its first half, the lane, is a key of `tops`.
mod key {
    /// u64: tgid in the high half, thread in the low (none for goroutines).
    pub const THREAD: i16 = 0;
    /// u64: the goroutine, or what runs.
    pub const OWNER: i16 = 8;
    /// u64: the stack pointer at entry; of goroutines its distance from the top of their stack.
    pub const PLACE: i16 = 16;
    /// u64: how many pending tail calls there are at this place before it.
    pub const ORDER: i16 = 24;
    pub const SIZE: i16 = 32;
    pub const LANE: i16 = 16;
}

/// A value of `tops`: place and order of the innermost call, or [`EMPTY`] and whether the calls
/// around are unknown; and the trampoline, once it was needed.
mod top {
    pub const PLACE: i16 = 0;
    pub const ORDER: i16 = 8;
    pub const TRAMPOLINE: i16 = 16;
    pub const SIZE: i16 = 24;
}

/// A value of `chain`: words.
mod node {
    /// What is the top after this call.
    pub const OUTER: i16 = 0;
    pub const OUTER_ORDER: i16 = 8;
    /// Nanoseconds spent in probed calls.
    pub const CALLEES: i16 = 16;
    /// As [`crate::Expr::Parent`] has it.
    pub const PARENT: i16 = 24;
    /// All ones: unknown, and so is the parent.
    pub const DEPTH: i16 = 32;
    /// The call itself, as its callees' parent; 0: whichever.
    pub const ID: i16 = 40;
    /// The probed instruction.
    pub const IP: i16 = 48;
    /// How many probes share it.
    pub const SHARED: i16 = 56;
    /// Not 0: not all callees are known.
    pub const PARTIAL: i16 = 64;
    /// What is at its place while it is open, if not the trampoline: the return address.
    pub const CALLER: i16 = 72;
    pub const SIZE: i16 = 80;
}

/// Bytes of keys and values of `tops` and `chain`.
pub(crate) const TOPS: (u32, u32) = (key::LANE as u32, top::SIZE as u32);
pub(crate) const CHAIN: (u32, u32) = (key::SIZE as u32, node::SIZE as u32);

/// Where the kernel says what it puts in the place of return addresses: offsets from the task on,
/// each of a pointer but the last.
pub(crate) type Trampoline = [u32; 3];

/// By the running kernel's BTF: `task->mm->uprobes_state.xol_area->vaddr`.
fn find_trampoline() -> Option<Trampoline> {
    let names = [
        ("task_struct", "mm"),
        ("mm_struct", "uprobes_state"),
        ("uprobes_state", "xol_area"),
        ("xol_area", "vaddr"),
    ];
    let [mm, state, area, address] = btf::member_offsets(names).ok()?;
    Some([mm?, state?.checked_add(area?)?, address?])
}

/// What the programs of an engine need to know of chains.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Chains {
    /// Not known without BTF: then functions that tail-called another have neither depth nor own
    /// time, and return addresses are not looked at.
    pub trampoline: Option<Trampoline>,
}

impl Chains {
    /// If any probe asks for depth, own time or parent, all take part.
    pub fn of(probes: &[ProbeSpec]) -> Option<Chains> {
        probes.iter().any(asks).then(|| Chains {
            trampoline: find_trampoline(),
        })
    }
}

fn asks(spec: &ProbeSpec) -> bool {
    let call = matches!(spec.kind, ProbeKind::Call { .. });
    call && spec.on == On::Program && spec.any(&|e| e.asks_for_chain())
}

/// Stack slots: keys that are being looked up.
#[derive(Clone, Copy)]
struct Keys {
    /// Of this call.
    own: i16,
    /// Of the lane's top.
    top: i16,
}

impl Program<'_> {
    /// Calls of the kernel's functions are on other stacks, and take no part.
    fn takes_part(&self) -> bool {
        self.target.chains.is_some() && self.spec.on == On::Program
    }

    fn take_keys(&mut self) -> Result<Keys, Wrong> {
        Ok(Keys {
            own: part_of("the program", self.emit.take(key::SIZE))?,
            top: part_of("the program", self.emit.take(key::SIZE))?,
        })
    }

    fn give_keys(&mut self) {
        self.emit.give(2 * key::SIZE);
    }

    /// Puts the key of this call on the stack; `popped`: how far the stack pointer is above the
    /// entry's.
    fn chain_key(&mut self, at: i16, popped: i32, unreadable: Label) -> Result<(), Wrong> {
        let (thread, owner) = (at + key::THREAD, at + key::OWNER);
        let name = frame_name(self.spec);
        let asm = &mut self.emit.asm;
        asm.call(helper::GET_CURRENT_PID_TGID);
        asm.store(Size::DW, R10, thread, R0);
        asm.store_imm(Size::DW, R10, owner, 0);
        match name {
            FrameName::Stack | FrameName::Thread => {}
            FrameName::Goroutine => {
                asm.alu_imm(Alu::Rsh, R0, 32);
                asm.alu_imm(Alu::Lsh, R0, 32);
                asm.store(Size::DW, R10, thread, R0);
                self.stack_top(owner, unreadable);
            }
            FrameName::Running => {
                self.find_running(thread);
                self.emit.asm.store(Size::DW, R10, owner, R0);
            }
        }
        self.place_on_stack(name, popped, owner);
        self.emit.asm.store(Size::DW, R10, at + key::PLACE, R1);
        Ok(())
    }

    /// R0 = what `map` has for the key at `at`.
    fn look_up(&mut self, map: MapRef, at: i16) {
        self.emit.asm.map(R1, map);
        self.emit.stack(R2, at);
        self.emit.asm.call(helper::MAP_LOOKUP);
    }

    fn copy_lane(&mut self, keys: Keys) {
        self.copy(R10, keys.top, R10, keys.own, key::LANE / 8);
    }

    /// Copies words by way of R1.
    fn copy(&mut self, to: Reg, at: i16, from: Reg, off: i16, words: i16) {
        for word in 0..words {
            self.emit.asm.load(Size::DW, R1, from, off + 8 * word);
            self.emit.asm.store(Size::DW, to, at + 8 * word, R1);
        }
    }

    /// The key of the lane's innermost call, which `lane` points to; R1 = its place.
    fn load_top(&mut self, lane: Reg, keys: Keys) {
        let asm = &mut self.emit.asm;
        asm.load(Size::DW, R1, lane, top::ORDER);
        asm.store(Size::DW, R10, keys.top + key::ORDER, R1);
        asm.load(Size::DW, R1, lane, top::PLACE);
        asm.store(Size::DW, R10, keys.top + key::PLACE, R1);
    }

    /// Takes the innermost call off, then goes on at `again`; falls through after many. To
    /// `unknown` where it has no node.
    fn take_off(&mut self, lane: Reg, keys: Keys, unknown: Label, again: Label) {
        self.look_up(MapRef::Chain, keys.top);
        self.or_unknown(lane, unknown);
        self.copy(lane, top::PLACE, R0, node::OUTER, 2);
        self.drop_node(keys.top);
        self.emit.asm.alu_imm(Alu::Sub, R9, 1);
        self.emit.asm.jump_if_imm(Cmp::Ne, R9, 0, again);
    }

    fn drop_node(&mut self, at: i16) {
        self.emit.asm.map(R1, MapRef::Chain);
        self.emit.stack(R2, at);
        self.emit.asm.call(helper::MAP_DELETE);
    }

    /// If R0 is no node, what is around is not known any more.
    fn or_unknown(&mut self, lane: Reg, unknown: Label) {
        let asm = &mut self.emit.asm;
        let known = asm.label();
        asm.jump_if_imm(Cmp::Ne, R0, 0, known);
        asm.constant(R1, EMPTY as u64);
        asm.store(Size::DW, lane, top::PLACE, R1);
        asm.constant(R1, 1);
        asm.store(Size::DW, lane, top::ORDER, R1);
        asm.jump(unknown);
        asm.bind(known);
    }

    /// R1 = what callees of this call have for a parent.
    fn own_id(&mut self) {
        let asm = &mut self.emit.asm;
        asm.constant(R1, (u64::from(self.index) << 32) + 1);
        if let Some(site) = self.site {
            asm.load(Size::DW, R2, R10, site);
            asm.alu(Alu::Add, R1, R2);
        }
    }
}
