//! The reference evaluator: what an expression means, in plain Rust.

use super::{BinOp, Builtin, BytesSource, Expr, MAX_LITERAL, Spent, UnOp};

/// Memory that could not be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("memory could not be read")]
pub struct Fault;

/// What an expression is evaluated against.
pub trait Env {
    /// Argument `n`; one on the stack can fault.
    fn arg(&self, n: u8) -> Result<u64, Fault>;
    /// A register by its DWARF number.
    fn reg(&self, n: u8) -> u64;
    /// Whether it is a probe on the kernel: every address says whose memory it leads to.
    fn in_kernel(&self) -> bool {
        false
    }
    /// The address of the tracepoint's record.
    fn context(&self) -> u64 {
        0
    }
    /// The address of the thread's `struct task_struct`.
    fn task(&self) -> u64 {
        0
    }
    /// The return value.
    fn retval(&self) -> u64;
    /// Nanoseconds from entry to return.
    fn latency(&self) -> u64;
    /// What of the latency went to this.
    fn spent(&self, _on: Spent) -> Result<u64, Fault> {
        Err(Fault)
    }
    /// Probed calls open around this one.
    fn depth(&self) -> u64 {
        0
    }
    /// The latency less that of probed calls made from this one.
    fn self_time(&self) -> u64 {
        self.latency()
    }
    /// The probed call around this one, see [`Expr::Parent`].
    fn parent(&self) -> u64 {
        0
    }
    /// A kernel-provided value.
    fn builtin(&self, which: Builtin) -> u64;
    /// An integer captured at entry.
    fn saved(&self, index: u16) -> Result<u64, Fault>;
    /// The thread's name, padded with NULs.
    fn comm(&self) -> [u8; 16];
    /// Fills `buf` from user memory, or faults as a whole.
    fn read(&self, addr: u64, buf: &mut [u8]) -> Result<(), Fault>;
    /// Reads a NUL-terminated string of at most `max` bytes, without its NUL; one that is longer
    /// is cut there. Faults if the memory ends before either.
    fn read_str(&self, addr: u64, max: usize) -> Result<Vec<u8>, Fault>;
}

/// Evaluates `expr`; the compiled program must give the same.
pub fn eval(expr: &Expr, env: &dyn Env) -> Result<u64, Fault> {
    Ok(match expr {
        Expr::Const(value) => *value,
        Expr::Arg(n) => env.arg(*n)?,
        Expr::Reg(n) => env.reg(*n),
        Expr::Field { offset, ty } => {
            let mut word = [0u8; 8];
            let addr = env.context().wrapping_add(u64::from(*offset));
            env.read(addr, &mut word[..ty.bytes()])?;
            ty.fit(u64::from_le_bytes(word))
        }
        Expr::Context => env.context(),
        Expr::Task => env.task(),
        Expr::Retval => env.retval(),
        Expr::Latency => env.latency(),
        Expr::Spent(on) => env.spent(*on)?,
        Expr::Depth => env.depth(),
        Expr::SelfTime => env.self_time(),
        Expr::Parent => env.parent(),
        Expr::Builtin(which) => env.builtin(*which),
        Expr::Saved(index) => env.saved(*index)?,
        Expr::Load { addr, ty } => {
            let addr = address(addr, env)?;
            let mut word = [0u8; 8];
            env.read(addr, &mut word[..ty.bytes()])?;
            ty.fit(u64::from_le_bytes(word))
        }
        Expr::Unary(op, e) => {
            let value = eval(e, env)?;
            match op {
                UnOp::Neg => value.wrapping_neg(),
                UnOp::BitNot => !value,
                UnOp::LogNot => u64::from(value == 0),
            }
        }
        Expr::Binary { op, signed, a, b } => {
            let left = eval(a, env)?;
            match op {
                BinOp::LogAnd if left == 0 => 0,
                BinOp::LogOr if left != 0 => 1,
                BinOp::LogAnd | BinOp::LogOr => u64::from(eval(b, env)? != 0),
                _ => binary(*op, *signed, left, eval(b, env)?),
            }
        }
        Expr::Cast { ty, e } => ty.fit(eval(e, env)?),
        Expr::Swap { bits, e } => eval(e, env)?.swap_bytes() >> (64 - u32::from(*bits)),
        Expr::Cond(c, a, b) => {
            if eval(c, env)? != 0 {
                eval(a, env)?
            } else {
                eval(b, env)?
            }
        }
        Expr::BytesEq { what, literal } => {
            let bytes = match what {
                BytesSource::Comm => {
                    let comm = env.comm();
                    let end = comm.iter().position(|b| *b == 0).unwrap_or(comm.len());
                    comm[..end].to_vec()
                }
                // Room for one more byte and its NUL: that tells "equal" from "starts with".
                BytesSource::Str { addr } => {
                    env.read_str(address(addr, env)?, literal.len().min(MAX_LITERAL) + 2)?
                }
            };
            u64::from(bytes == *literal)
        }
    })
}

/// An address; the kernel's are out of a program's reach, unless it came by its task.
fn address(expr: &Expr, env: &dyn Env) -> Result<u64, Fault> {
    let addr = eval(expr, env)?;
    let may = env.in_kernel() || addr >> 63 == 0 || expr.any(&|e| matches!(e, Expr::Task));
    if may { Ok(addr) } else { Err(Fault) }
}

/// One operation on two words, as BPF does it.
pub(crate) fn binary(op: BinOp, signed: bool, a: u64, b: u64) -> u64 {
    let (sa, sb) = (a as i64, b as i64);
    match op {
        BinOp::Add => a.wrapping_add(b),
        BinOp::Sub => a.wrapping_sub(b),
        BinOp::Mul => a.wrapping_mul(b),
        BinOp::Div if b == 0 => 0,
        BinOp::Div if signed => sa.wrapping_div(sb) as u64,
        BinOp::Div => a / b,
        BinOp::Rem if b == 0 => a,
        BinOp::Rem if signed => sa.wrapping_rem(sb) as u64,
        BinOp::Rem => a % b,
        BinOp::And => a & b,
        BinOp::Or => a | b,
        BinOp::Xor => a ^ b,
        BinOp::Shl => a << (b & 63),
        BinOp::Shr if signed => (sa >> (b & 63)) as u64,
        BinOp::Shr => a >> (b & 63),
        BinOp::Eq => u64::from(a == b),
        BinOp::Ne => u64::from(a != b),
        BinOp::Lt => u64::from(if signed { sa < sb } else { a < b }),
        BinOp::Le => u64::from(if signed { sa <= sb } else { a <= b }),
        BinOp::Gt => u64::from(if signed { sa > sb } else { a > b }),
        BinOp::Ge => u64::from(if signed { sa >= sb } else { a >= b }),
        BinOp::LogAnd => u64::from(a != 0 && b != 0),
        BinOp::LogOr => u64::from(a != 0 || b != 0),
    }
}
