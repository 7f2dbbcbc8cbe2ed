//! Comparing texts with constants.
//!
//! `str(p) == "x"` and `comm == "x"` stay as they are: the kernel compares up to the NUL. A text of given
//! length is compared by its length and then eight bytes at a time, which needs no buffer.

use std::cmp::Ordering;

use super::{BinOp, Expr, Kind, Type};

/// `lhs == literal` or `lhs != literal`, in the form that the kernel half knows.
pub(super) fn compare(lhs: Expr, literal: &str, equal: bool) -> Expr {
    let span = lhs.span.clone();
    let node = |kind| Expr {
        kind,
        ty: Type::INT,
        span: span.clone(),
    };
    match lhs.kind {
        Kind::After(inner) => node(Kind::After(Box::new(compare(*inner, literal, equal)))),
        Kind::ReadStr {
            addr,
            len: Some(len),
        } => {
            let same = sized(&addr, *len, literal.as_bytes());
            if equal { same } else { not(same) }
        }
        // An array that the text fills has no NUL; a longer text never equals it.
        Kind::ReadChars { addr, size } => match literal.len().cmp(&(size as usize)) {
            Ordering::Greater => node(Kind::Int(u64::from(!equal))),
            Ordering::Equal => {
                let len = Expr::literal(u64::from(size));
                let same = sized(&addr, len, literal.as_bytes());
                if equal { same } else { not(same) }
            }
            Ordering::Less => {
                let text = Kind::ReadStr { addr, len: None };
                let text = Expr {
                    kind: text,
                    ty: Type::Str,
                    span,
                };
                compare(text, literal, equal)
            }
        },
        _ => {
            let op = if equal { BinOp::Eq } else { BinOp::Ne };
            let b = Box::new(Expr {
                kind: Kind::Str(literal.to_owned()),
                ty: Type::Str,
                span: span.clone(),
            });
            node(Kind::Binary {
                op,
                signed: false,
                a: Box::new(lhs),
                b,
            })
        }
    }
}

fn not(e: Expr) -> Expr {
    Expr {
        span: e.span.clone(),
        ty: Type::INT,
        kind: Kind::Unary {
            op: super::UnOp::LogNot,
            e: Box::new(e),
        },
    }
}

/// `len == n && first eight bytes == ... && ...`; `&&` stops before memory beyond the text is read.
fn sized(addr: &Expr, len: Expr, literal: &[u8]) -> Expr {
    let span = addr.span.clone();
    let at = |kind, ty| Expr {
        kind,
        ty,
        span: span.clone(),
    };
    let equals = |a, value: u64| {
        let ty = if value > i64::MAX as u64 {
            Type::U64
        } else {
            Type::I64
        };
        at(
            Kind::Binary {
                op: BinOp::Eq,
                signed: false,
                a: Box::new(a),
                b: Box::new(at(Kind::Int(value), ty)),
            },
            Type::INT,
        )
    };
    let mut all = equals(len, literal.len() as u64);
    let mut offset = 0;
    while offset < literal.len() {
        let left = literal.len() - offset;
        let width = [8, 4, 2, 1].into_iter().find(|w| *w <= left).unwrap_or(1);
        let chunk = &literal[offset..offset + width];
        // Little endian, as x86-64 and aarch64 are.
        let value = chunk.iter().rev().fold(0u64, |v, b| v << 8 | u64::from(*b));
        let ty = Type::Int {
            bits: 8 * width as u8,
            signed: false,
        };
        let pointer = Type::Ptr {
            to: Box::new(ty.clone()),
        };
        let place = if offset == 0 {
            at(Kind::Cast(Box::new(addr.clone())), pointer)
        } else {
            let step = Box::new(at(Kind::Int(offset as u64), Type::U64));
            at(
                Kind::Binary {
                    op: BinOp::Add,
                    signed: false,
                    a: Box::new(addr.clone()),
                    b: step,
                },
                pointer,
            )
        };
        let next = equals(at(Kind::Load(Box::new(place)), ty), value);
        all = at(
            Kind::Binary {
                op: BinOp::LogAnd,
                signed: false,
                a: Box::new(all),
                b: Box::new(next),
            },
            Type::INT,
        );
        offset += width;
    }
    all
}

/// See [`Expr::with_captures`].
pub(super) fn inline(e: &Expr, captures: &[(String, Expr)]) -> Expr {
    match &e.kind {
        // A capture may name those before it.
        Kind::Capture(name) => match captures.iter().position(|(n, _)| n == name) {
            Some(at) => inline(&captures[at].1, &captures[..at]),
            None => e.clone(),
        },
        Kind::Binary {
            op: op @ (BinOp::Eq | BinOp::Ne),
            a,
            b,
            ..
        } if let Kind::Str(literal) = &b.kind => {
            compare(inline(a, captures), literal, *op == BinOp::Eq)
        }
        kind => {
            let nested = matches!(kind, Kind::After(_));
            let mut e = e.clone();
            for child in e.children_mut() {
                *child = inline(child, captures);
                if nested {
                    without_after(child);
                }
            }
            e
        }
    }
}

/// `after()` is never nested: inside one, another means nothing more.
fn without_after(e: &mut Expr) {
    while let Kind::After(inner) = &e.kind {
        *e = (**inner).clone();
    }
    e.children_mut().into_iter().for_each(without_after);
}
