//! Where an expression's inputs come from: registers, records, what fentry was given, memory.

use super::compile::{Emitter, Reason, check_type};
use super::{Expr, IntType, MAX_ARG, Phase};
use crate::arch;
use crate::asm::{Alu, Cmp, Label, Reg, Size};
use crate::helper;
use crate::spec::{KernelSource, On};

use Reg::{R0, R1, R2, R3, R6, R10};

/// Bytes of a tracepoint's record that programs are not given: the kernel has put the address of
/// its registers there (`perf_trace_run_bpf_submit` in kernel/events/core.c).
const COMMON: i16 = 8;
/// Where the record of a system call's exit has what it returns (`struct syscall_tp_t` in
/// kernel/trace/trace_syscalls.c).
const SYSCALL_RETVAL: i16 = 16;
/// The most arguments that the kernel hands on (MAX_BPF_FUNC_ARGS in include/linux/bpf.h).
pub(crate) const MAX_KERNEL_ARGS: u8 = 12;

/// Whose memory an address leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Space {
    /// The program's.
    User,
    /// The address says it: on x86-64 the kernel's have the highest bit set.
    Told,
}

impl Emitter<'_> {
    /// Loads what takes no other register; false if `expr` is no such thing.
    pub(super) fn leaf(&mut self, expr: &Expr, dst: Reg) -> Result<bool, Reason> {
        if let Expr::Const(value) = expr {
            self.asm.constant(dst, *value);
            return Ok(true);
        }
        let Some((base, offset, ty)) = self.place(expr)? else {
            return Ok(false);
        };
        self.load(ty, dst, base, offset);
        Ok(true)
    }

    pub(super) fn is_leaf(&self, expr: &Expr) -> bool {
        matches!(expr, Expr::Const(_)) || matches!(self.place(expr), Ok(Some(_)))
    }

    /// Where `expr` lies in memory that programs may load from, if it does.
    fn place(&self, expr: &Expr) -> Result<Option<(Reg, i16, IntType)>, Reason> {
        if let Some(made) = self.made(expr) {
            return Ok(Some(made));
        }
        let at_return = self.phase == Phase::Return;
        let word = |(base, offset)| Ok(Some((base, offset, IntType::U64)));
        match expr {
            Expr::Arg(_) | Expr::Field { .. } | Expr::Context if at_return => {
                Err("an argument is gone at the return: capture it at entry".into())
            }
            Expr::Arg(n) => self.argument(*n)?.map_or(Ok(None), word),
            Expr::Reg(_) if at_return => {
                Err("a register is another one's at the return: capture it at entry".into())
            }
            Expr::Reg(_) if self.on != On::Program => {
                Err("registers are known in programs, not in the kernel".into())
            }
            Expr::Reg(n) => match arch::DWARF_REGS.get(usize::from(*n)) {
                Some(offset) => word((R6, *offset)),
                None => Err(format!("there is no general register of DWARF number {n}")),
            },
            Expr::Field { .. } | Expr::Context
                if self.on != On::Kernel(KernelSource::Tracepoint) =>
            {
                Err("only a tracepoint has a record with fields".into())
            }
            Expr::Field { offset, ty } => {
                check_type(*ty)?;
                let at = i16::try_from(*offset).ok().filter(|at| *at >= COMMON);
                let at = at.ok_or_else(|| {
                    format!("programs are not given what is at offset {offset} of a record")
                })?;
                let aligned = usize::from(*offset) % ty.bytes() == 0;
                Ok(aligned.then_some((R6, at, *ty)))
            }
            Expr::Retval if at_return && self.jumped.is_some() => Ok(None),
            Expr::Retval if at_return => word(self.retval()?),
            Expr::Latency if at_return => match self.latency {
                Some(slot) => word((R10, slot)),
                None => Err("the latency is not known here".into()),
            },
            Expr::Retval | Expr::Latency => {
                Err("there is no return value or latency at entry".into())
            }
            _ => Ok(None),
        }
    }

    /// Where argument `n` is, if it is not on the stack of its function.
    fn argument(&self, n: u8) -> Result<Option<(Reg, i16)>, Reason> {
        let within = |most: u8, of: &str| match n < most {
            true => Ok(()),
            false => Err(format!("there is no argument {n}: {of} has {most}")),
        };
        match self.on {
            On::Program | On::Kernel(KernelSource::Kprobe) => {
                if n > MAX_ARG {
                    return Err(format!("there is no argument {n}: the last is {MAX_ARG}"));
                }
                let register = arch::ARGS.get(usize::from(n));
                Ok(register.map(|offset| (R6, *offset)))
            }
            On::Kernel(KernelSource::RawTracepoint) => {
                within(MAX_KERNEL_ARGS, "a raw tracepoint")?;
                Ok(Some((R6, 8 * i16::from(n))))
            }
            On::Kernel(KernelSource::Function) => {
                let (slot, count) = self.given.unwrap_or_default();
                within(count, "the function")?;
                Ok(Some((R10, slot + 8 * i16::from(n))))
            }
            On::Kernel(KernelSource::Tracepoint) => {
                Err("a tracepoint has fields, not arguments".into())
            }
        }
    }

    /// Where the return value is.
    pub(super) fn retval(&self) -> Result<(Reg, i16), Reason> {
        match (self.on, self.given) {
            (On::Program | On::Kernel(KernelSource::Kprobe), _) => Ok((R6, arch::RETVAL)),
            (On::Kernel(KernelSource::Tracepoint), _) => Ok((R6, SYSCALL_RETVAL)),
            (On::Kernel(KernelSource::Function), Some((slot, _))) => Ok((R10, slot)),
            (On::Kernel(_), _) => Err("there is no return value".into()),
        }
    }

    /// Copies `count` words that fentry or fexit was given, from the word `first` on: as they are,
    /// pointers among them can be followed, but the verifier refuses to calculate with them.
    pub fn copy_given(&mut self, first: u8, count: u8) -> Result<(), Reason> {
        let slot = self.take(8 * i16::from(count))?;
        self.asm.mov(R3, R6);
        self.asm.alu_imm(Alu::Add, R3, 8 * i32::from(first));
        self.read_kernel(slot, 8 * u64::from(count));
        self.given = Some((slot, count));
        Ok(())
    }

    /// R0 = the address of what the program was given, as a number. Reading the stack slot that
    /// holds it on itself makes the verifier forget that it is a pointer, on every kernel.
    pub fn context(&mut self) -> Result<(), Reason> {
        let slot = self.take(8)?;
        self.asm.store(Size::DW, R10, slot, R6);
        self.stack(R3, slot);
        self.read_kernel(slot, 8);
        self.asm.load(Size::DW, R0, R10, slot);
        self.give(8);
        Ok(())
    }

    /// Reads `bytes` of kernel memory at R3 into the stack slot. On failure R0 is not 0, and the
    /// bytes are zeros.
    pub fn read_kernel(&mut self, slot: i16, bytes: u64) {
        self.stack(R1, slot);
        self.asm.constant(R2, bytes);
        self.asm.call(helper::PROBE_READ_KERNEL);
    }

    /// Whose memory the address `addr` leads to.
    pub fn space(&self, addr: &Expr) -> Space {
        match self.on {
            On::Program if !addr.any(&|e| matches!(e, Expr::Task)) => Space::User,
            _ => Space::Told,
        }
    }

    /// Reads R2 bytes at address R3 to R1; R0 is 0 if that was possible.
    pub fn read_memory(&mut self, space: Space) {
        self.read_by(space, helper::PROBE_READ_USER, helper::PROBE_READ_KERNEL);
    }

    /// Reads a string of at most R2 bytes, its NUL among them, at address R3 to R1; R0 = how many
    /// that were, or negative.
    pub fn read_text(&mut self, space: Space) {
        let (user, kernel) = (helper::PROBE_READ_USER_STR, helper::PROBE_READ_KERNEL_STR);
        self.read_by(space, user, kernel);
    }

    fn read_by(&mut self, space: Space, user: u32, kernel: u32) {
        if space == Space::User {
            return self.asm.call(user);
        }
        let (of_kernel, end) = (self.asm.label(), self.asm.label());
        self.asm.jump_if_imm(Cmp::Slt, R3, 0, of_kernel);
        self.asm.call(user);
        self.asm.jump(end);
        self.asm.bind(of_kernel);
        self.asm.call(kernel);
        self.asm.bind(end);
    }

    /// R0 = the value of type `ty` at address R0.
    pub(super) fn read(&mut self, ty: IntType, space: Space, fault: Label) -> Result<(), Reason> {
        let slot = self.take(8)?;
        self.asm.mov(R3, R0);
        self.asm.constant(R2, ty.bytes() as u64);
        self.stack(R1, slot);
        self.read_memory(space);
        self.asm.jump_if_imm(Cmp::Ne, R0, 0, fault);
        self.load(ty, R0, R10, slot);
        self.give(8);
        Ok(())
    }

    /// `dst` = the value of type `ty` in memory that programs may load from.
    pub(super) fn load(&mut self, ty: IntType, dst: Reg, base: Reg, offset: i16) {
        let size = match ty.bits {
            8 => Size::B,
            16 => Size::H,
            32 => Size::W,
            _ => Size::DW,
        };
        self.asm.load(size, dst, base, offset);
        if ty.signed {
            self.fit(ty, dst);
        }
    }
}
