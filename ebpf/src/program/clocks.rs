//! The clocks of threads: programs on the scheduler's events, which say what a thread is at from then on.
//!
//! A thread is at one thing at a time: running, waiting for a CPU, or for whatever it went to sleep for. Whenever that
//! changes, the time since the last change is added to the clock of what it was at. Only threads that `spent` has put
//! into the map are looked at; for the others a switch costs a lookup for each of the two threads.
//!
//! All events about one thread come one after another: those of the scheduler are told with the run queue locked (the
//! wake-up by `sched_wakeup`, when the thread is put on it; not by `sched_waking`, which may overtake the switch). Where
//! a wake-up was not seen, the time up to the switch is that of the sleep.
//!
//! What a thread sleeps for is told by the system call it is in, as the registers have it that it entered the kernel
//! with, and for reading and writing by the kind of file; sleep that the kernel calls waiting for I/O is the disk's.

use crate::arch;
use crate::asm::{Alu, Asm, Cmp, Code, Label, MapRef, Reg, Size};
use crate::expr::compile::{Emitter, Reason};
use crate::expr::{Phase, Spent};
use crate::helper;
use crate::layout::thread;
use crate::spec::{KernelSource, On};
use crate::syscalls::{SYSCALLS, class};

use Reg::{R0, R1, R2, R3, R6, R7, R8, R9, R10};

/// `__TASK_STOPPED` and `__TASK_TRACED` (include/linux/sched.h): whatever system call it is in, it does not wait for that.
const STOPPED: i32 = 0x4 | 0x8;
/// The file types of `i_mode` (include/uapi/linux/stat.h).
const S_IFMT: i32 = 0o170000;
const S_IFSOCK: i32 = 0o140000;
const S_IFREG: i32 = 0o100000;
const S_IFBLK: i32 = 0o060000;
const S_IFDIR: i32 = 0o040000;

/// The events.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Event {
    Switch,
    Wakeup,
    Exit,
}

impl Event {
    /// In the order in which they are attached.
    pub const ALL: [Event; 3] = [Event::Exit, Event::Wakeup, Event::Switch];

    /// Its tracepoint.
    pub fn tracepoint(self) -> &'static str {
        match self {
            Event::Switch => "sched_switch",
            Event::Wakeup => "sched_wakeup",
            Event::Exit => "sched_process_exit",
        }
    }
}

/// Where the running kernel keeps what tells why a thread sleeps: offsets in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Kernel {
    /// In `struct task_struct`: `__state` (`state` before Linux 5.14), `stack`, `files`.
    pub state: u32,
    pub stack: u32,
    pub files: u32,
    /// And `in_iowait`, in bits.
    pub in_iowait: u32,
    /// `files_struct.fdt`, `fdtable.max_fds`, `fdtable.fd`, `file.f_inode`, `inode.i_mode`.
    pub fdt: u32,
    pub max_fds: u32,
    pub fd: u32,
    pub f_inode: u32,
    pub i_mode: u32,
}

/// What differs between kernels, found by trying.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ways {
    /// The switch tells the state that the thread goes off in (Linux 5.18).
    pub told_state: bool,
    /// A helper tells where the registers are (Linux 5.15); before that it is known (see [`arch::KERNEL_STACK`]).
    pub told_registers: bool,
}

/// The program on an event.
pub(crate) fn compile(event: Event, kernel: &Kernel, ways: Ways) -> Result<Code, Reason> {
    let mut clocks = Clocks {
        emit: Emitter::new(On::Kernel(KernelSource::RawTracepoint), Phase::Entry),
        kernel: *kernel,
        ways,
    };
    clocks.emit.asm.mov(R6, R1);
    let key = clocks.emit.take(8)?;
    match event {
        Event::Switch => clocks.switch(key)?,
        Event::Wakeup => clocks.wakeup(key),
        Event::Exit => {
            clocks.key(key, 0);
            let asm = &mut clocks.emit.asm;
            asm.map(R1, MapRef::Threads);
            clocks.emit.stack(R2, key);
            clocks.emit.asm.call(helper::MAP_DELETE);
        }
    }
    let asm = &mut clocks.emit.asm;
    asm.constant(R0, 0);
    asm.exit();
    std::mem::take(asm).finish()
}

struct Clocks {
    emit: Emitter<'static>,
    kernel: Kernel,
    ways: Ways,
}

impl Clocks {
    fn asm(&mut self) -> &mut Asm {
        &mut self.emit.asm
    }

    /// Puts the task that is argument `n` on the stack.
    fn key(&mut self, key: i16, n: i16) {
        self.asm().load(Size::DW, R7, R6, 8 * n);
        self.asm().store(Size::DW, R10, key, R7);
    }

    /// R7 = the task that is argument `n`, R8 = its clocks.
    fn find(&mut self, key: i16, n: i16, none: Label) {
        self.key(key, n);
        self.asm().map(R1, MapRef::Threads);
        self.emit.stack(R2, key);
        self.asm().call(helper::MAP_LOOKUP);
        self.asm().jump_if_imm(Cmp::Eq, R0, 0, none);
        self.asm().mov(R8, R0);
    }

    /// Adds the time up to now to the clock of what the thread in R8 is at.
    fn charge(&mut self) {
        let asm = self.asm();
        asm.call(helper::KTIME_GET_NS);
        asm.load(Size::DW, R1, R8, thread::AT);
        asm.alu_imm(Alu::And, R1, 7);
        asm.alu_imm(Alu::Lsh, R1, 3);
        asm.mov(R2, R8);
        asm.alu(Alu::Add, R2, R1);
        asm.load(Size::DW, R1, R8, thread::LAST);
        asm.load(Size::DW, R3, R2, thread::NS);
        asm.alu(Alu::Add, R3, R0);
        asm.alu(Alu::Sub, R3, R1);
        asm.store(Size::DW, R2, thread::NS, R3);
        asm.store(Size::DW, R8, thread::LAST, R0);
    }

    /// What the thread in R8 is at from now on.
    fn is_at(&mut self, what: Spent) {
        self.asm().store_imm(Size::DW, R8, thread::AT, what as i32);
    }

    /// (preempt, prev, next, and from Linux 5.18 the state of prev)
    fn switch(&mut self, key: i16) -> Result<(), Reason> {
        let asm = self.asm();
        let (next, runnable, end) = (asm.label(), asm.label(), asm.label());
        self.find(key, 1, next);
        self.charge();
        self.asm().load(Size::DW, R1, R6, 0);
        // (A bool: of the rest of the word nothing is promised.)
        self.asm().alu_imm(Alu::And, R1, 0xff);
        self.asm().jump_if_imm(Cmp::Ne, R1, 0, runnable);
        self.state(runnable)?;
        self.why(next)?;
        self.asm().bind(runnable);
        self.is_at(Spent::RunQueue);
        self.asm().bind(next);
        self.find(key, 2, end);
        self.charge();
        self.is_at(Spent::Cpu);
        self.asm().bind(end);
        Ok(())
    }

    /// A thread that sleeps is put on a run queue.
    fn wakeup(&mut self, key: i16) {
        let end = self.asm().label();
        self.find(key, 0, end);
        let asm = self.asm();
        asm.load(Size::DW, R1, R8, thread::AT);
        asm.jump_if_imm(Cmp::Le, R1, Spent::RunQueue as i32, end);
        self.charge();
        self.is_at(Spent::RunQueue);
        self.asm().bind(end);
    }

    /// R9 = the state in which the thread in R7 goes off; to `runnable` where it does not sleep.
    fn state(&mut self, runnable: Label) -> Result<(), Reason> {
        if self.ways.told_state {
            self.asm().load(Size::DW, R9, R6, 24);
        } else {
            let slot = self.emit.take(8)?;
            self.read(slot, R7, self.kernel.state, 4);
            self.asm().load(Size::W, R9, R10, slot);
            self.emit.give(8);
        }
        // (32 bits: of the rest of the word nothing is promised.)
        self.asm().alu_imm(Alu::Lsh, R9, 32);
        self.asm().alu_imm(Alu::Rsh, R9, 32);
        self.asm().jump_if_imm(Cmp::Eq, R9, 0, runnable);
        Ok(())
    }

    /// Reads kernel memory, `offset` bytes from where a register points, to the stack; zeros if that cannot be.
    fn read(&mut self, slot: i16, base: Reg, offset: u32, bytes: u64) {
        self.asm().mov(R3, base);
        self.asm().alu_imm(Alu::Add, R3, offset as i32);
        self.emit.read_kernel(slot, bytes);
    }

    /// Follows a pointer on the stack, as `read`.
    fn follow(&mut self, slot: i16, offset: u32, bytes: u64) {
        self.asm().load(Size::DW, R3, R10, slot);
        self.asm().alu_imm(Alu::Add, R3, offset as i32);
        self.emit.read_kernel(slot, bytes);
    }

    /// The thread in R7 sleeps in the state in R9: what its clocks in R8 say from now on; then to `done`.
    fn why(&mut self, done: Label) -> Result<(), Reason> {
        let regs = self.emit.take(24)?;
        let slot = self.emit.take(16)?;
        let asm = self.asm();
        let [other, disk, network, sleep] = [(); 4].map(|()| asm.label());
        let (no_call, store, known) = (asm.label(), asm.label(), asm.label());
        asm.alu_imm(Alu::And, R9, STOPPED);
        asm.jump_if_imm(Cmp::Ne, R9, 0, other);
        self.registers(regs)?;
        let asm = self.asm();
        // R9 = the class of the system call.
        asm.constant(R9, Spent::Other as u64);
        asm.load(Size::DW, R1, R10, regs + 16);
        asm.jump_if_imm(Cmp::Ge, R1, SYSCALLS as i32, no_call);
        asm.map_value(R2, MapRef::Syscalls, 0);
        asm.alu(Alu::Add, R2, R1);
        asm.load(Size::B, R9, R2, 0);
        asm.bind(no_call);
        asm.jump_if_imm(Cmp::Eq, R9, class::COMPLETIONS.into(), other);
        let (byte, bit) = (self.kernel.in_iowait / 8, self.kernel.in_iowait % 8);
        self.asm().store_imm(Size::DW, R10, slot, 0);
        self.read(slot, R7, byte, 1);
        let asm = self.asm();
        asm.load(Size::DW, R1, R10, slot);
        asm.alu_imm(Alu::And, R1, 1 << bit);
        asm.jump_if_imm(Cmp::Ne, R1, 0, disk);
        asm.jump_if_imm(Cmp::Lt, R9, class::FILE.into(), known);
        // The numbers of descriptors: 0 of them is a way to sleep.
        let (by_second, by_first) = (asm.label(), asm.label());
        asm.jump_if_imm(Cmp::Eq, R9, class::POLL.into(), by_second);
        asm.jump_if_imm(Cmp::Eq, R9, class::SELECT.into(), by_first);
        self.file(regs, slot, [network, disk, other]);
        let asm = self.asm();
        for (label, at) in [(by_second, regs), (by_first, regs + 8)] {
            asm.bind(label);
            asm.load(Size::W, R1, R10, at);
            asm.jump_if_imm(Cmp::Eq, R1, 0, sleep);
            asm.jump(network);
        }
        for (label, what) in [
            (disk, Spent::Disk),
            (network, Spent::Network),
            (sleep, Spent::Sleep),
            (other, Spent::Other),
        ] {
            asm.bind(label);
            asm.constant(R9, what as u64);
            asm.jump(store);
        }
        asm.bind(known);
        asm.bind(store);
        asm.store(Size::DW, R8, thread::AT, R9);
        asm.jump(done);
        self.emit.give(40);
        Ok(())
    }

    /// Copies what the running thread, which is the one in R7, entered the kernel with: the second argument of its
    /// system call, the first, and its number, as [`arch::SYSCALL`] has them.
    fn registers(&mut self, regs: i16) -> Result<(), Reason> {
        if self.ways.told_registers {
            self.asm().call(helper::GET_CURRENT_TASK_BTF);
            self.asm().mov(R1, R0);
            self.asm().call(helper::TASK_PT_REGS);
            self.asm().mov(R3, R0);
            self.asm().alu_imm(Alu::Add, R3, arch::SYSCALL);
        } else {
            self.read(regs, R7, self.kernel.stack, 8);
            self.asm().load(Size::DW, R3, R10, regs);
            self.asm()
                .alu_imm(Alu::Add, R3, arch::KERNEL_STACK + arch::SYSCALL);
        }
        self.emit.read_kernel(regs, 24);
        Ok(())
    }

    /// Jumps by the type of the file whose descriptor is the system call's first argument.
    fn file(&mut self, regs: i16, slot: i16, [network, disk, other]: [Label; 3]) {
        let Kernel {
            files,
            fdt,
            max_fds,
            fd,
            f_inode,
            i_mode,
            ..
        } = self.kernel;
        self.read(slot, R7, files, 8);
        self.follow(slot, fdt, 8);
        let table = slot + 8;
        self.asm().load(Size::DW, R1, R10, slot);
        self.asm().store(Size::DW, R10, table, R1);
        self.follow(slot, max_fds, 4);
        let asm = self.asm();
        asm.load(Size::W, R1, R10, slot);
        asm.load(Size::W, R9, R10, regs + 8);
        asm.jump_if(Cmp::Ge, R9, R1, other);
        self.follow(table, fd, 8);
        let asm = self.asm();
        asm.load(Size::DW, R1, R10, table);
        asm.alu_imm(Alu::Lsh, R9, 3);
        asm.alu(Alu::Add, R1, R9);
        asm.store(Size::DW, R10, table, R1);
        self.follow(table, 0, 8);
        self.follow(table, f_inode, 8);
        self.follow(table, i_mode, 2);
        let asm = self.asm();
        asm.load(Size::H, R1, R10, table);
        asm.alu_imm(Alu::And, R1, S_IFMT);
        for (kind, label) in [
            (S_IFSOCK, network),
            (S_IFREG, disk),
            (S_IFBLK, disk),
            (S_IFDIR, disk),
        ] {
            asm.jump_if_imm(Cmp::Eq, R1, kind, label);
        }
        asm.jump(other);
    }
}
