//! What an expression means, computed plainly: the tests' own truth.

use uprof_recipes::{BinOp, Builtin, Expr, Kind, Type, UnOp};

/// A world: arguments, result, latency; memory is a function of its address, and `text` stands everywhere.
pub struct World {
    pub args: [u64; 10],
    pub retval: u64,
    pub latency: u64,
    pub memory: fn(u64) -> u8,
    pub text: &'static str,
}

/// Where the running thread's task is.
pub const TASK: u64 = 0x7700_0000;
/// Where a tracepoint's record is.
pub const RECORD: u64 = 0x6600_0000;

impl World {
    /// The value of an expression; truth is 1.
    pub fn eval(&self, e: &Expr) -> u64 {
        match &e.kind {
            Kind::Int(v) => *v,
            Kind::Arg(n) => self.args[usize::from(*n)],
            Kind::Reg(n) => self.args[usize::from(*n) % 10],
            Kind::Retval => self.retval,
            Kind::Latency => self.latency,
            Kind::SelfTime => self.latency / 2,
            Kind::Spent(_) => self.latency / 7,
            Kind::Depth => 3,
            Kind::Builtin(Builtin::Pid) => 4242,
            Kind::Builtin(_) | Kind::Capture(_) => self.args[0],
            Kind::Load(addr) => {
                let at = self.eval(addr);
                let bytes = e.ty.size().expect("a value in memory has a size");
                let v = (0..bytes).rev().fold(0, |v, i| {
                    v << 8 | u64::from((self.memory)(at.wrapping_add(i)))
                });
                extend(v, &e.ty)
            }
            Kind::Unary { op, e } => {
                let v = self.eval(e);
                match op {
                    UnOp::Neg => v.wrapping_neg(),
                    UnOp::BitNot => !v,
                    UnOp::LogNot => u64::from(v == 0),
                }
            }
            Kind::Binary { op, a, b, .. } if matches!(b.kind, Kind::Str(_)) => {
                let Kind::Str(literal) = &b.kind else {
                    unreachable!("just matched")
                };
                assert!(matches!(a.ty, Type::Str));
                u64::from((self.text == literal) == (*op == BinOp::Eq))
            }
            Kind::Binary {
                op: BinOp::LogAnd,
                a,
                b,
                ..
            } => u64::from(self.eval(a) != 0 && self.eval(b) != 0),
            Kind::Binary {
                op: BinOp::LogOr,
                a,
                b,
                ..
            } => u64::from(self.eval(a) != 0 || self.eval(b) != 0),
            Kind::Binary { op, signed, a, b } => binary(*op, *signed, self.eval(a), self.eval(b)),
            Kind::Cond { c, a, b } => self.eval(if self.eval(c) != 0 { a } else { b }),
            Kind::Cast(inner) => extend(self.eval(inner), &e.ty),
            Kind::After(inner) => self.eval(inner),
            Kind::Swap(inner) => {
                let bits = 8 * e.ty.size().expect("an integer has a size") as u32;
                self.eval(inner).swap_bytes() >> (64 - bits)
            }
            Kind::Task => TASK,
            Kind::Context => RECORD,
            Kind::Field(offset) => {
                let at = Box::new(Expr::int(RECORD + u64::from(*offset)));
                let kind = Kind::Load(at);
                self.eval(&Expr { kind, ..e.clone() })
            }
            Kind::Stack { .. }
            | Kind::Address { .. }
            | Kind::Parent
            | Kind::Str(_)
            | Kind::ReadStr { .. }
            | Kind::ReadChars { .. }
            | Kind::ReadBuf { .. }
            | Kind::Deferred(_) => {
                panic!("{e} is no number")
            }
        }
    }
}

fn extend(v: u64, ty: &Type) -> u64 {
    match ty.as_int() {
        Some((8, true)) => v as i8 as u64,
        Some((16, true)) => v as i16 as u64,
        Some((32, true)) => v as i32 as u64,
        Some((8, false)) => u64::from(v as u8),
        Some((16, false)) => u64::from(v as u16),
        Some((32, false)) => u64::from(v as u32),
        _ => v,
    }
}

fn binary(op: BinOp, signed: bool, a: u64, b: u64) -> u64 {
    let (x, y) = (i128::from(a), i128::from(b));
    let (x, y) = if signed {
        (i128::from(a as i64), i128::from(b as i64))
    } else {
        (x, y)
    };
    let truth = u64::from;
    match op {
        BinOp::Add => (x + y) as u64,
        BinOp::Sub => (x - y) as u64,
        BinOp::Mul => a.wrapping_mul(b),
        BinOp::Div => x.checked_div(y).unwrap_or(0) as u64,
        BinOp::Rem => x.checked_rem(y).unwrap_or(x) as u64,
        BinOp::And => a & b,
        BinOp::Or => a | b,
        BinOp::Xor => a ^ b,
        BinOp::Shl => a.wrapping_shl(b as u32),
        BinOp::Shr => (x >> (b & 63)) as u64,
        BinOp::Eq => truth(a == b),
        BinOp::Ne => truth(a != b),
        BinOp::Lt => truth(x < y),
        BinOp::Le => truth(x <= y),
        BinOp::Gt => truth(x > y),
        BinOp::Ge => truth(x >= y),
        BinOp::LogAnd | BinOp::LogOr => unreachable!("these do not evaluate both sides"),
    }
}
