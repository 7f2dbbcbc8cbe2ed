//! Typed expressions: what a probe reads, tests and computes.
//!
//! The tree is what the recipe language leaves after its own checking: every operation is on 64-bit
//! words, signedness sits on the operation, and memory is read with a stated width. It has two
//! meanings that must agree: [`eval`] is the reference, the compiler in this folder is what runs
//! in the kernel. A property test compares the two on random trees.

pub(crate) mod compile;
mod eval;
pub(crate) mod input;
pub(crate) mod share;

pub(crate) use compile::Chained;
pub use eval::{Env, Fault, eval};

/// The longest literal that [`Expr::BytesEq`] can compare with, in bytes.
pub const MAX_LITERAL: usize = 63;
/// Arguments passed in registers by the System V ABI on x86-64; later ones are on the stack.
pub const REGISTER_ARGS: u8 = 6;
/// The last argument that can be named, counted from 0.
pub const MAX_ARG: u8 = 31;

/// An integer's width and signedness.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct IntType {
    /// 8, 16, 32 or 64.
    pub bits: u8,
    /// Whether it is sign-extended to 64 bits.
    pub signed: bool,
}

impl IntType {
    /// Unsigned 64-bit, the width of every intermediate value.
    pub const U64: IntType = IntType {
        bits: 64,
        signed: false,
    };

    /// Width in bytes.
    pub fn bytes(self) -> usize {
        usize::from(self.bits / 8)
    }

    /// Truncates `value` to this type and extends it again to 64 bits.
    pub fn fit(self, value: u64) -> u64 {
        let shift = 64u32.saturating_sub(u32::from(self.bits)) & 63;
        if self.signed {
            (((value << shift) as i64) >> shift) as u64
        } else {
            (value << shift) >> shift
        }
    }
}

/// What the kernel tells about the moment of a hit.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Builtin {
    /// Process id (the kernel's tgid), in the initial pid namespace.
    Pid,
    /// Thread id, in the initial pid namespace.
    Tid,
    /// User id of the thread.
    Uid,
    /// Group id of the thread.
    Gid,
    /// Id of the thread's cgroup (v2), the inode number of its directory.
    Cgroup,
    /// Monotonic clock in nanoseconds.
    Nsecs,
    /// The CPU that the hit ran on.
    Cpu,
}

/// What the time of a call goes to. A thread is at one of them at any time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Spent {
    /// It runs, interrupts among it.
    Cpu,
    /// It could run, and waits for a CPU.
    RunQueue,
    /// It waits for a disk, or in a system call about files.
    Disk,
    /// It waits for a socket, or for a descriptor to get ready.
    Network,
    /// It waits for another thread: futexes (mutexes, condition variables, ends of threads), locks of files, semaphores.
    Lock,
    /// It sleeps for a time that it chose.
    Sleep,
    /// It waits for anything else: pipes, terminals, ends of processes, the kernel's own locks.
    Other,
}

impl Spent {
    /// All, in the order of their numbers.
    pub const ALL: [Spent; 7] = [
        Spent::Cpu,
        Spent::RunQueue,
        Spent::Disk,
        Spent::Network,
        Spent::Lock,
        Spent::Sleep,
        Spent::Other,
    ];
}

/// One-operand operations.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum UnOp {
    /// `-x`
    Neg,
    /// `~x`
    BitNot,
    /// `!x`: 1 if x is 0, else 0
    LogNot,
}

/// Two-operand operations; comparisons and logic give 0 or 1.
#[allow(missing_docs, reason = "the names say it all")]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum BinOp {
    Add,
    Sub,
    Mul,
    Div,
    Rem,
    And,
    Or,
    Xor,
    Shl,
    Shr,
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    LogAnd,
    LogOr,
}

/// Where the bytes of a comparison come from.
#[derive(Clone, PartialEq, Debug)]
pub enum BytesSource {
    /// The thread's name, at most 15 bytes.
    Comm,
    /// A NUL-terminated string in memory, as [`Expr::Load`] has it.
    Str {
        /// Its address.
        addr: Box<Expr>,
    },
}

/// An expression. Its value is a 64-bit word or a fault (memory that could not be read).
#[derive(Clone, PartialEq, Debug)]
pub enum Expr {
    /// A constant.
    Const(u64),
    /// Argument `n` of the function, as passed. 0..=5 are registers, 6.. are on the stack; valid
    /// at entry only, where the stack pointer is still at the return address. Of a kernel
    /// function by fentry there are as many as it takes, of a raw tracepoint 12 at most.
    Arg(u8),
    /// A general register at the hit, by its DWARF number on x86-64: 0 rax, 1 rdx, 2 rcx, 3 rbx,
    /// 4 rsi, 5 rdi, 6 rbp, 7 rsp, 8..=15 r8 to r15, 16 rip (the probed address). At entry only.
    Reg(u8),
    /// A field of the tracepoint's record, `offset` bytes from its start; of
    /// [`crate::KernelSource::Tracepoint`] only, in a call at its entry. The first 8 bytes are not
    /// the record's: the kernel keeps something else there while programs run.
    Field {
        /// Bytes from the start of the record, aligned to the width.
        offset: u16,
        /// The width.
        ty: IntType,
    },
    /// The address of the tracepoint's record, for fields that are arrays or lie elsewhere in it
    /// (`__data_loc`). As [`Expr::Field`].
    Context,
    /// The address of the running thread's `struct task_struct`.
    Task,
    /// The function's return value; in a call's return part only. It faults where the call ended
    /// by a jump into another function, which has yet to compute it.
    Retval,
    /// Nanoseconds from entry to return; in a call's return part only.
    Latency,
    /// Nanoseconds of the latency that went to this; in a call's return part only. All of them add up to the latency.
    /// They fault where that is not known: the call returned on another thread than it began on, or more threads than
    /// `max_frames` made probed calls.
    Spent(Spent),
    /// How many probed calls, of any probe of the engine, are open around this one (those that
    /// were filtered or dropped, and [`crate::Counters::nested`] ones, are not among them); in a
    /// call's return part only. A function that was tail-called has the depth of the one that
    /// called it. This and the next two fault where they are not known: more calls are open than
    /// `max_frames`, or a call on another stack of the same thread made this one look as if it
    /// had been left ([`crate::FrameName::Running`] tells such calls apart).
    Depth,
    /// Nanoseconds of the latency that were not spent in probed calls made from this one, as
    /// `Depth` has them; in a call's return part only.
    SelfTime,
    /// The nearest probed call around this one: 0 for none, else 1 + (index of the probe << 32 |
    /// index of the site); in a call's return part only. Of a function that was tail-called it is
    /// the one around the function that called it.
    Parent,
    /// What the kernel tells.
    Builtin(Builtin),
    /// An integer captured at entry (index into `Call::saved`); in a call's return part only.
    /// It faults if it could not be read at entry.
    Saved(u16),
    /// Memory at `addr`, extended to 64 bits. In a probe on a program it is the program's memory,
    /// unless [`Expr::Task`] is part of the address; then, and in probes on the kernel, the address
    /// itself says whether it is the kernel's memory or the running program's (so do those of
    /// texts and buffers).
    Load {
        /// The address.
        addr: Box<Expr>,
        /// The width.
        ty: IntType,
    },
    /// A one-operand operation.
    Unary(UnOp, Box<Expr>),
    /// A two-operand operation on 64-bit words. `x/0` is 0 and `x%0` is x, as BPF has it; shift
    /// counts are taken modulo 64; `&&` and `||` evaluate their right side only when needed.
    Binary {
        /// The operation.
        op: BinOp,
        /// Picks the meaning of Div, Rem, Shr and of the order comparisons.
        signed: bool,
        /// Left side.
        a: Box<Expr>,
        /// Right side.
        b: Box<Expr>,
    },
    /// Truncation and extension.
    Cast {
        /// To this type.
        ty: IntType,
        /// The operand.
        e: Box<Expr>,
    },
    /// The low 16, 32 or 64 bits with their bytes in reverse order, zero-extended: from or to the
    /// network's byte order.
    Swap {
        /// 16, 32 or 64.
        bits: u8,
        /// The operand.
        e: Box<Expr>,
    },
    /// `c ? a : b`; only the chosen side is evaluated.
    Cond(Box<Expr>, Box<Expr>, Box<Expr>),
    /// 1 if the NUL-terminated bytes equal the literal, else 0.
    BytesEq {
        /// Left side.
        what: BytesSource,
        /// Right side, without its NUL, at most [`MAX_LITERAL`] bytes.
        literal: Vec<u8>,
    },
}

/// Where an expression is evaluated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// At the function's first instructions.
    Entry,
    /// When the function has returned.
    Return,
}

impl Expr {
    /// A binary operation, unsigned.
    pub fn binary(op: BinOp, a: Expr, b: Expr) -> Expr {
        Expr::Binary {
            op,
            signed: false,
            a: Box::new(a),
            b: Box::new(b),
        }
    }

    /// Whether it is about where in other probed calls this one is.
    pub(crate) fn asks_for_chain(&self) -> bool {
        matches!(self, Expr::Depth | Expr::SelfTime | Expr::Parent)
    }

    /// Whether `test` says yes to it or to a part of it.
    pub(crate) fn any(&self, test: &dyn Fn(&Expr) -> bool) -> bool {
        test(self)
            || match self {
                Expr::Const(_)
                | Expr::Arg(_)
                | Expr::Field { .. }
                | Expr::Context
                | Expr::Task
                | Expr::Reg(_)
                | Expr::Retval
                | Expr::Latency
                | Expr::Spent(_)
                | Expr::Depth
                | Expr::SelfTime
                | Expr::Parent
                | Expr::Builtin(_)
                | Expr::Saved(_) => false,
                Expr::Load { addr: e, .. }
                | Expr::Unary(_, e)
                | Expr::Cast { e, .. }
                | Expr::Swap { e, .. } => e.any(test),
                Expr::Binary { a, b, .. } => a.any(test) || b.any(test),
                Expr::Cond(c, a, b) => [c, a, b].into_iter().any(|e| e.any(test)),
                Expr::BytesEq { what, .. } => match what {
                    BytesSource::Comm => false,
                    BytesSource::Str { addr } => addr.any(test),
                },
            }
    }

    /// Whether evaluating it can fault.
    pub fn can_fault(&self) -> bool {
        match self {
            Expr::Const(_)
            | Expr::Reg(_)
            | Expr::Field { .. }
            | Expr::Context
            | Expr::Task
            | Expr::Latency
            | Expr::Builtin(_) => false,
            Expr::Arg(n) => *n >= REGISTER_ARGS,
            Expr::Depth
            | Expr::SelfTime
            | Expr::Parent
            | Expr::Spent(_)
            | Expr::Retval
            | Expr::Saved(_)
            | Expr::Load { .. } => true,
            Expr::Unary(_, e) | Expr::Cast { e, .. } | Expr::Swap { e, .. } => e.can_fault(),
            Expr::Binary { a, b, .. } => a.can_fault() || b.can_fault(),
            Expr::Cond(c, a, b) => c.can_fault() || a.can_fault() || b.can_fault(),
            Expr::BytesEq { what, .. } => matches!(what, BytesSource::Str { .. }),
        }
    }
}
