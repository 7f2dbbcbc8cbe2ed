//! Calls nested so deeply that the kernel does not see their returns.
//!
//! For each return that is to be seen the kernel keeps a return instance per thread, and counts
//! them in `current->utask->depth`. At 64 it installs no more, and says so only in its log
//! (`prepare_uretprobe` in kernel/events/uprobes.c, the same from Linux 3.10 to 6.18: it looks at
//! the count after all handlers of the entry have run, and before it drops instances that longjmp
//! left behind). So the count at entry tells what will become of this call's return. Instances of
//! functions that were tail-called, and of other programs' probes, are in it too.

use super::{Program, Wrong, part_of, returns};
use crate::asm::{Alu, Cmp, Label, Reg, Size};
use crate::btf;
use crate::helper;
use crate::layout::Counter;
use crate::spec::Returns;

use Reg::{R0, R1, R3, R10};

/// MAX_URETPROBE_DEPTH in kernel/events/uprobes.c (until Linux 6.14 in include/linux/uprobes.h).
pub(super) const MAX_PENDING: i32 = 64;

/// Where the kernel counts the returns that are pending on a thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Pending {
    /// Offset of `utask`, a pointer, in `struct task_struct`.
    pub utask: i16,
    /// Offset of `depth`, 32 bits, in `struct uprobe_task`.
    pub depth: i16,
}

impl Pending {
    /// By the running kernel's BTF.
    pub fn find() -> Option<Pending> {
        let names = [("task_struct", "utask"), ("uprobe_task", "depth")];
        let [utask, depth] = btf::member_offsets(names).ok()?;
        Some(Pending {
            utask: utask?.try_into().ok()?,
            depth: depth?.try_into().ok()?,
        })
    }
}

impl Program<'_> {
    /// Ends the entry of a call whose return the kernel will not see.
    pub(super) fn leave_if_nested(&mut self) -> Result<(), Wrong> {
        let replaced = returns(self.spec) == Returns::Replaced;
        let (Some(pending), true) = (self.target.pending, replaced && self.on_program()) else {
            return Ok(());
        };
        let seen = self.emit.asm.label();
        if self.target.atomics {
            // From Linux 5.11 the verifier knows the type, and loads replace calls: 6 ns, not 65.
            // (A thread that has not met a probe before has no `utask`: a load by way of a null
            // pointer gives 0.)
            let asm = &mut self.emit.asm;
            asm.call(helper::GET_CURRENT_TASK_BTF);
            asm.load(Size::DW, R1, R0, pending.utask);
            asm.load(Size::W, R1, R1, pending.depth);
        } else {
            self.depth_by_reading(pending, seen)?;
        }
        self.emit.asm.jump_if_imm(Cmp::Lt, R1, MAX_PENDING, seen);
        self.count(Counter::Nested);
        self.skip_return();
        self.emit.asm.bind(seen);
        Ok(())
    }

    /// R1 = how many returns are pending; to `none` where that cannot be read.
    fn depth_by_reading(&mut self, pending: Pending, none: Label) -> Result<(), Wrong> {
        let slot = part_of("the program", self.emit.take(8))?;
        self.emit.asm.call(helper::GET_CURRENT_TASK);
        self.emit.asm.mov(R3, R0);
        self.emit.asm.alu_imm(Alu::Add, R3, pending.utask.into());
        self.emit.read_kernel(slot, 8);
        self.emit.asm.load(Size::DW, R3, R10, slot);
        self.emit.asm.jump_if_imm(Cmp::Eq, R3, 0, none);
        self.emit.asm.alu_imm(Alu::Add, R3, pending.depth.into());
        self.emit.read_kernel(slot, 4);
        self.emit.asm.jump_if_imm(Cmp::Ne, R0, 0, none);
        self.emit.asm.load(Size::W, R1, R10, slot);
        self.emit.give(8);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::vm::{Kernel, Machine};
    use super::super::{FrameKind, Part, ScratchLayout, SiteSource, Target, compile};
    use super::*;
    use crate::layout::{RecordLayout, StateLayout};
    use crate::spec::{Action, ProbeKind, ProbeSpec};

    /// Runs an entry with that many returns pending (none: the thread has never met a probe);
    /// its result, whether the call was counted as nested, and frames kept.
    fn entry(part: Part, atomics: bool, ends: Returns, depth: Option<u32>) -> (u64, u64, usize) {
        let spec = ProbeSpec {
            on: crate::On::Program,
            sample: 1,
            name: "test".into(),
            sites: 1,
            kind: ProbeKind::Call {
                saved: vec![],
                filter: None,
                returns: ends,
                frame: Default::default(),
            },
            filter: None,
            keep: None,
            action: Action::Count { key: vec![] },
        };
        let specs = std::slice::from_ref(&spec);
        let target = Target {
            atomics,
            pid_test: false,
            task_storage: false,
            chains: None,
            pending: Some(Pending { utask: 8, depth: 4 }),
            ring_bytes: 4096,
            scratch: ScratchLayout::default(),
            state: StateLayout::new(specs, 1, true).unwrap(),
            successors: vec![],
        };
        let mut kernel = Kernel::default();
        kernel.frames.value = FrameKind::Time.size(&RecordLayout::new(&spec)) as usize;
        let mut machine = Machine::new(kernel, target.state.size, 0);
        let task = machine.room(32);
        let utask = depth.map_or(0, |_| task + 16);
        let words = [0, utask, u64::from(depth.unwrap_or(0)) << 32, 0];
        // SAFETY: room for four words was just taken.
        unsafe { (task as *mut [u64; 4]).write(words) };
        machine.kernel(|k| k.task = task);
        let code = compile(0, &spec, part, SiteSource::Cookie, &target).unwrap();
        let result = machine.run(&code, &[0; crate::arch::REGS_SIZE / 8]);
        let state = &target.state;
        let counters = (state.first_shard + state.blocks[0].offset) as usize / 8;
        let nested = machine.state[counters + Counter::Nested as usize];
        let frames = machine.kernel(|k| k.frames.entries.len());
        (result, nested, frames)
    }

    #[test]
    fn the_65th_return_is_not_waited_for() {
        for atomics in [true, false] {
            for (depth, nested) in [(0, false), (63, false), (64, true), (65, true)] {
                let at_entry = entry(Part::Entry, atomics, Returns::Replaced, Some(depth));
                assert_eq!(at_entry, (0, nested.into(), usize::from(!nested)));
                let session = entry(Part::Session, atomics, Returns::Replaced, Some(depth));
                assert_eq!(session, (nested.into(), nested.into(), 0));
                let exits = entry(Part::Entry, atomics, Returns::Exits, Some(depth));
                assert_eq!(exits, (0, 0, 1), "there is no limit to exits");
            }
        }
        // (The kernel makes a load by way of a null pointer a zero; this machine cannot.)
        assert_eq!(
            entry(Part::Entry, false, Returns::Replaced, None),
            (0, 0, 1)
        );
    }
}
