//! Expressions made without text: by flags, and by debug information.

use super::{BinOp, Builtin, Expr, Kind, Spent, Type, fold};

impl Expr {
    /// A constant of type `u64`.
    pub fn int(value: u64) -> Expr {
        Expr {
            kind: Kind::Int(value),
            ty: Type::U64,
            span: 0..0,
        }
    }

    /// Something known at every hit.
    pub fn builtin(builtin: Builtin) -> Expr {
        Expr {
            ty: builtin.ty(),
            kind: Kind::Builtin(builtin),
            span: 0..0,
        }
    }

    /// Argument `n`, a `u64`.
    pub fn arg(n: u8) -> Expr {
        Expr {
            kind: Kind::Arg(n),
            ty: Type::U64,
            span: 0..0,
        }
    }

    /// The latency of a call.
    pub fn latency() -> Expr {
        Expr {
            kind: Kind::Latency,
            ty: Type::U64,
            span: 0..0,
        }
    }

    /// The self time of a call: its latency less that of probed calls made from it.
    pub fn self_time() -> Expr {
        Expr {
            kind: Kind::SelfTime,
            ty: Type::U64,
            span: 0..0,
        }
    }

    /// What of a call's latency went to this.
    pub fn spent(on: Spent) -> Expr {
        Expr {
            kind: Kind::Spent(on),
            ty: Type::U64,
            span: 0..0,
        }
    }

    /// The return value of a call.
    pub fn retval() -> Expr {
        Expr {
            kind: Kind::Retval,
            ty: Type::I64,
            span: 0..0,
        }
    }

    /// A register at the hit, by its DWARF number; a `u64`. See [`Kind::Reg`].
    pub fn reg(n: u8) -> Expr {
        Expr {
            kind: Kind::Reg(n),
            ty: Type::U64,
            span: 0..0,
        }
    }

    /// The unsigned integer of 1, 2, 4 or 8 bytes that stands so many bytes into a tracepoint's record.
    pub fn field(offset: u16, bytes: u8) -> Expr {
        Expr {
            kind: Kind::Field(offset),
            ty: Type::Int {
                bits: 8 * bytes,
                signed: false,
            },
            span: 0..0,
        }
    }

    /// The address of a tracepoint's record, a `u64`.
    pub fn context() -> Expr {
        Expr {
            kind: Kind::Context,
            ty: Type::U64,
            span: 0..0,
        }
    }

    /// The address of the running thread's `struct task_struct`, a `u64`.
    pub fn task() -> Expr {
        Expr {
            kind: Kind::Task,
            ty: Type::U64,
            span: 0..0,
        }
    }

    /// Where the running thread is, in the program or in the kernel.
    pub fn stack(user: bool) -> Expr {
        Expr {
            kind: Kind::Stack { user },
            ty: Type::Stack,
            span: 0..0,
        }
    }

    /// The value of an integer that stands in the network's byte order, of the same type.
    pub fn swapped(self) -> Expr {
        let (ty, span) = (self.ty.clone(), self.span.clone());
        let bytes = ty.size().unwrap_or(8);
        let kind = match self.as_int() {
            Some(v) => Kind::Int(fold::extend(v.swap_bytes() >> (64 - 8 * bytes), &ty)),
            None => Kind::Swap(Box::new(self)),
        };
        Expr { kind, ty, span }
    }

    /// The unsigned integer of 1, 2, 4 or 8 bytes that stands at an address.
    pub fn load(address: Expr, bytes: u8) -> Expr {
        Expr {
            kind: Kind::Load(Box::new(address)),
            ty: Type::Int {
                bits: 8 * bytes,
                signed: false,
            },
            span: 0..0,
        }
    }

    /// An operation on two unsigned 64-bit words; addresses count in bytes.
    pub fn binary(op: BinOp, a: Expr, b: Expr) -> Expr {
        Expr::words(op, false, a, b)
    }

    /// The value as an integer of 1, 2, 4 or 8 bytes.
    pub fn cast(self, bytes: u8, signed: bool) -> Expr {
        Expr {
            kind: Kind::Cast(Box::new(self)),
            ty: Type::Int {
                bits: 8 * bytes,
                signed,
            },
            span: 0..0,
        }
    }

    /// This address plus so many bytes.
    pub fn plus(self, bytes: i64) -> Expr {
        match bytes {
            0 => self,
            1.. => Expr::binary(BinOp::Add, self, Expr::literal(bytes as u64)),
            _ => Expr::binary(BinOp::Sub, self, Expr::literal(bytes.unsigned_abs())),
        }
    }

    /// A constant with the type that it has when it is written out.
    pub(super) fn literal(value: u64) -> Expr {
        let ty = match value > i64::MAX as u64 {
            true => Type::U64,
            false => Type::I64,
        };
        Expr {
            ty,
            ..Expr::int(value)
        }
    }

    /// An operation on two 64-bit words; truth values are `int`s.
    pub(super) fn words(op: BinOp, signed: bool, a: Expr, b: Expr) -> Expr {
        let ty = match op.is_truth() {
            true => Type::INT,
            false => Type::Int { bits: 64, signed },
        };
        Expr {
            kind: Kind::Binary {
                op,
                signed,
                a: Box::new(a),
                b: Box::new(b),
            },
            ty,
            span: 0..0,
        }
    }
}
