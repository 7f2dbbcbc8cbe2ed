//! Constants are computed here, by the same rules as in the kernel: 64 bits, wrapping.

use super::{BinOp, Type, UnOp};

/// Cuts a value to an integer type and extends it to 64 bits again.
pub(super) fn extend(value: u64, ty: &Type) -> u64 {
    match ty {
        Type::Int { bits, signed } if *bits < 64 => {
            let shift = 64 - u32::from(*bits);
            if *signed {
                (((value << shift) as i64) >> shift) as u64
            } else {
                (value << shift) >> shift
            }
        }
        _ => value,
    }
}

pub(super) fn unary(op: UnOp, v: u64) -> u64 {
    match op {
        UnOp::Neg => v.wrapping_neg(),
        UnOp::BitNot => !v,
        UnOp::LogNot => u64::from(v == 0),
    }
}

/// A binary operation on constants; `x / 0` is 0 and `x % 0` is x, as in BPF.
pub(super) fn binary(op: BinOp, signed: bool, a: u64, b: u64) -> u64 {
    let (sa, sb) = (a as i64, b as i64);
    let shift = (b & 63) as u32;
    let order =
        |unsigned: bool, with_sign: bool| u64::from(if signed { with_sign } else { unsigned });
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
        BinOp::Shl => a << shift,
        BinOp::Shr if signed => (sa >> shift) as u64,
        BinOp::Shr => a >> shift,
        BinOp::Eq => u64::from(a == b),
        BinOp::Ne => u64::from(a != b),
        BinOp::Lt => order(a < b, sa < sb),
        BinOp::Le => order(a <= b, sa <= sb),
        BinOp::Gt => order(a > b, sa > sb),
        BinOp::Ge => order(a >= b, sa >= sb),
        BinOp::LogAnd => u64::from(a != 0 && b != 0),
        BinOp::LogOr => u64::from(a != 0 || b != 0),
    }
}
