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

use Reg::{R0, R1, R2, R3, R10};

/// MAX_URETPROBE_DEPTH in kernel/events/uprobes.c (until Linux 6.14 in include/linux/uprobes.h).
const MAX_PENDING: i32 = 64;

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
        let (Some(pending), true) = (self.target.pending, replaced) else {
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
        self.read_kernel(slot, 8);
        self.emit.asm.load(Size::DW, R3, R10, slot);
        self.emit.asm.jump_if_imm(Cmp::Eq, R3, 0, none);
        self.emit.asm.alu_imm(Alu::Add, R3, pending.depth.into());
        self.read_kernel(slot, 4);
        self.emit.asm.jump_if_imm(Cmp::Ne, R0, 0, none);
        self.emit.asm.load(Size::W, R1, R10, slot);
        self.emit.give(8);
        Ok(())
    }

    /// Reads `bytes` of kernel memory at R3 into the stack slot. On failure R0 is not 0, and the
    /// bytes are zeros.
    pub(super) fn read_kernel(&mut self, slot: i16, bytes: u64) {
        self.emit.stack(R1, slot);
        self.emit.asm.constant(R2, bytes);
        self.emit.asm.call(helper::PROBE_READ_KERNEL);
    }
}
