//! Arithmetic, comparisons of numbers, pointers.

use std::ops::Range;

use super::super::parse::{Node, Syntax};
use super::super::{BinOp, Expr, Fault, Kind, Type, UnOp, fold};
use super::{Checked, Checker, Result, uses};

impl Checker<'_> {
    pub(super) fn unary(&self, n: &Node, op: UnOp, e: &Node) -> Result<Checked> {
        let c = self.scalar(e, &format!("`{}`", op.text()))?;
        if c.is_deferred() {
            return Ok(Checked::deferred(&n.span));
        }
        if matches!(c.e.ty, Type::Ptr { .. }) && op != UnOp::LogNot {
            return Err(
                Fault::new(n.span.clone(), format!("`{}` on a pointer", op.text()))
                    .help("cast it to u64 first"),
            );
        }
        let ty = match op {
            UnOp::LogNot => Type::INT,
            _ if c.literal => Type::I64,
            _ if is_u64(&c.e.ty) => Type::U64,
            _ => Type::I64,
        };
        let kind = match c.e.as_int() {
            Some(v) => Kind::Int(fold::unary(op, v)),
            None => Kind::Unary {
                op,
                e: Box::new(c.e),
            },
        };
        let literal = c.literal && op != UnOp::LogNot;
        Ok(Checked {
            e: Expr {
                kind,
                ty,
                span: n.span.clone(),
            },
            literal,
            param: c.param,
            ..Checked::deferred(&n.span)
        })
    }

    pub(super) fn binary(&self, n: &Node, op: BinOp, left: &Node, right: &Node) -> Result<Checked> {
        let (a, b) = self.sides(left, right)?;
        let what = format!("`{}`", op.text());
        // Order of texts: say that of them, rather than that a number is wanted.
        if matches!(op, BinOp::Lt | BinOp::Le | BinOp::Gt | BinOp::Ge) {
            for side in [&a, &b] {
                if matches!(side.e.ty, Type::Str | Type::Bytes) {
                    return Err(Fault::new(
                        n.span.clone(),
                        format!("{what} does not compare texts"),
                    )
                    .help("texts are compared by == and !="));
                }
            }
        }
        let equality = matches!(op, BinOp::Eq | BinOp::Ne);
        if a.is_deferred() || b.is_deferred() {
            for (n, side) in [(left, a), (right, b)] {
                if !equality {
                    self.as_scalar(n, side, &what)?;
                }
            }
            return Ok(Checked::deferred(&n.span));
        }
        if equality {
            let (a, b) = self.as_texts((left, a), (right, b))?;
            if !a.e.ty.is_scalar() || !b.e.ty.is_scalar() {
                return self.texts(n, op, (left, a), (right, b));
            }
            return self.numbers(n, op, (left, a), (right, b));
        }
        let (a, b) = (
            self.as_scalar(left, a, &what)?,
            self.as_scalar(right, b, &what)?,
        );
        self.numbers(n, op, (left, a), (right, b))
    }

    /// Both sides; a name on one of them may be a value of the enumeration on the other.
    fn sides(&self, left: &Node, right: &Node) -> Result<(Checked, Checked)> {
        let named = |n: &Node, other: &Checked, fault: Fault| match &n.kind {
            Syntax::Name(name) => self.enumerator(n, name, &other.e.ty).ok_or(fault),
            _ => Err(fault),
        };
        match (self.node(left), self.node(right)) {
            (Err(fault), Ok(b)) => Ok((named(left, &b, fault)?, b)),
            (Ok(a), Err(fault)) => {
                let b = named(right, &a, fault)?;
                Ok((a, b))
            }
            (a, b) => Ok((a?, b?)),
        }
    }

    pub(super) fn numbers(
        &self,
        n: &Node,
        op: BinOp,
        (left, a): (&Node, Checked),
        (right, b): (&Node, Checked),
    ) -> Result<Checked> {
        let signed = signedness(op, &a, &b);
        self.odd_constant(op, (left, &a), (right, &b))?;
        let span = n.span.clone();
        let param = a.param || b.param;
        let literal = a.literal && b.literal && !op.is_truth();
        if let Some(pointer) = self.pointer_arithmetic(n, op, &a.e, &b.e)? {
            return Ok(Checked {
                debug: a.debug || b.debug,
                ..Checked::plain(pointer)
            });
        }
        let ty = if op.is_truth() {
            Type::INT
        } else {
            Type::Int { bits: 64, signed }
        };
        let kind = match (op, a.e.as_int(), b.e.as_int()) {
            (_, Some(x), Some(y)) => Kind::Int(fold::binary(op, signed, x, y)),
            // The left side decides: the right one is never evaluated.
            (BinOp::LogAnd, Some(0), _) => Kind::Int(0),
            (BinOp::LogOr, Some(1..), _) => Kind::Int(1),
            // `latency >= $min_latency` with 0 is no filter at all.
            (BinOp::Ge, _, Some(0)) if !signed => Kind::Int(1),
            (BinOp::Le, Some(0), _) if !signed => Kind::Int(1),
            _ => Kind::Binary {
                op,
                signed,
                a: Box::new(a.e),
                b: Box::new(b.e),
            },
        };
        Ok(Checked {
            e: Expr { kind, ty, span },
            literal,
            param,
            ..Checked::deferred(&n.span)
        })
    }

    /// Constants that make an operation senseless.
    pub(super) fn odd_constant(
        &self,
        op: BinOp,
        (left, a): (&Node, &Checked),
        (right, b): (&Node, &Checked),
    ) -> Result<()> {
        match (op, b.e.as_int()) {
            (BinOp::Div | BinOp::Rem, Some(0)) => {
                return Err(Fault::new(right.span.clone(), "division by zero").label("this is 0"));
            }
            (BinOp::Shl | BinOp::Shr, Some(64..)) => {
                return Err(
                    Fault::new(right.span.clone(), "a shift by 64 bits or more").label("0 to 63")
                );
            }
            _ => {}
        }
        if !op.compares() {
            return Ok(());
        }
        for (constant, node, other, other_node) in [(b, right, a, left), (a, left, b, right)] {
            let Some(v) = constant.e.as_int() else {
                continue;
            };
            if other.e.as_int().is_some() || constant.param {
                continue;
            }
            let negative = constant.e.ty == Type::I64 && (v as i64) < 0;
            let quote = self.quote(other_node);
            if negative && is_u64(&other.e.ty) && !matches!(op, BinOp::Eq | BinOp::Ne) {
                return Err(Fault::new(
                    node.span.clone(),
                    format!("`{quote}` is unsigned: it is never negative"),
                )
                .help(format!(
                    "if it is signed in the program, cast it: (int64){quote}, (int){quote}"
                )));
            }
            if let Type::Int { bits, signed } = other.e.ty
                && bits < 64
            {
                let (low, high) = if signed {
                    (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1)
                } else {
                    (0, (1i128 << bits) - 1)
                };
                let value = if negative {
                    i128::from(v as i64)
                } else {
                    i128::from(v)
                };
                if value < low || value > high {
                    let word = if value > high {
                        "too large"
                    } else {
                        "too small"
                    };
                    return Err(Fault::new(
                        node.span.clone(),
                        format!(
                            "the constant is {word} for `{quote}`, which is {}",
                            other.e.ty.describe()
                        ),
                    )
                    .label(format!("it goes from {low} to {high}")));
                }
            }
        }
        Ok(())
    }

    /// `p + i`, `i + p`, `p - i` (scaled) and `p - q`; `None` when no pointer takes part or it is a comparison.
    pub(super) fn pointer_arithmetic(
        &self,
        n: &Node,
        op: BinOp,
        a: &Expr,
        b: &Expr,
    ) -> Result<Option<Expr>> {
        let pointee = |e: &Expr| {
            if let Type::Ptr { to } = &e.ty {
                Some((**to).clone())
            } else {
                None
            }
        };
        let span = n.span.clone();
        if !op.is_truth() {
            for to in [pointee(a), pointee(b)].iter().flatten() {
                known_size(&span, to)?;
            }
        }
        match (op, pointee(a), pointee(b)) {
            (_, None, None) => Ok(None),
            _ if op.is_truth() => Ok(None),
            (BinOp::Add | BinOp::Sub, Some(to), None) => Ok(Some(scaled(
                op,
                a.clone(),
                b.clone(),
                &to,
                a.ty.clone(),
                span,
            ))),
            (BinOp::Add, None, Some(to)) => Ok(Some(scaled(
                op,
                b.clone(),
                a.clone(),
                &to,
                b.ty.clone(),
                span,
            ))),
            (BinOp::Sub, Some(to), Some(other)) if to == other => {
                let size = to.size().unwrap_or(1);
                if let (Some(x), Some(y)) = (a.as_int(), b.as_int()) {
                    let bytes = fold::binary(op, true, x, y);
                    let kind = Kind::Int(fold::binary(BinOp::Div, true, bytes, size));
                    return Ok(Some(Expr {
                        kind,
                        ty: Type::I64,
                        span,
                    }));
                }
                let at = |kind| Expr {
                    kind,
                    ty: Type::I64,
                    span: span.clone(),
                };
                let difference = at(Kind::Binary {
                    op,
                    signed: true,
                    a: Box::new(a.clone()),
                    b: Box::new(b.clone()),
                });
                if size == 1 {
                    return Ok(Some(difference));
                }
                let size = Box::new(at(Kind::Int(size)));
                Ok(Some(at(Kind::Binary {
                    op: BinOp::Div,
                    signed: true,
                    a: Box::new(difference),
                    b: size,
                })))
            }
            (BinOp::Sub, Some(_), Some(_)) => Err(Fault::new(
                span,
                "the difference of pointers to different types",
            )
            .help("cast both to u64")),
            _ => Err(Fault::new(span, format!("`{}` on a pointer", op.text()))
                .help("cast it to u64 first")),
        }
    }

    pub(super) fn cond(&self, n: &Node, c: &Node, a: &Node, b: &Node) -> Result<Checked> {
        let condition = self.scalar(c, "the condition of `?:`")?;
        let left = self.decayed(a, self.node(a)?)?;
        let right = self.decayed(b, self.node(b)?)?;
        if condition.is_deferred() || left.is_deferred() || right.is_deferred() {
            return Ok(Checked::deferred(&n.span));
        }
        for (side, c) in [(a, &left), (b, &right)] {
            if let Some(uses) = uses(&c.e.ty) {
                let what = format!(
                    "`?:` chooses between numbers, and `{}` is {}",
                    self.quote(side),
                    c.e.ty.describe()
                );
                return Err(Fault::new(side.span.clone(), what).help(uses));
            }
        }
        if !left.e.ty.is_scalar() || !right.e.ty.is_scalar() {
            return Err(
                Fault::new(n.span.clone(), "`?:` chooses between numbers, not texts")
                    .help("choose the address or the length: str(p, c ? n : 0)"),
            );
        }
        let ty = match (&left.e.ty, &right.e.ty) {
            (x, y) if x == y => x.clone(),
            (Type::Ptr { .. }, _) if right.literal => left.e.ty.clone(),
            (_, Type::Ptr { .. }) if left.literal => right.e.ty.clone(),
            _ => Type::Int {
                bits: 64,
                signed: signedness(BinOp::Add, &left, &right),
            },
        };
        let (literal, param) = (
            left.literal && right.literal && condition.literal,
            condition.param || left.param || right.param,
        );
        if let Some(v) = condition.e.as_int() {
            let chosen = if v != 0 { left.e } else { right.e };
            let span = n.span.clone();
            let e = match chosen.kind {
                _ if chosen.ty == ty => chosen,
                Kind::Int(v) => Expr {
                    kind: Kind::Int(v),
                    ty,
                    span,
                },
                _ => Expr {
                    kind: Kind::Cast(Box::new(chosen)),
                    ty,
                    span,
                },
            };
            return Ok(Checked {
                e,
                literal,
                param,
                ..Checked::deferred(&n.span)
            });
        }
        let kind = Kind::Cond {
            c: Box::new(condition.e),
            a: Box::new(left.e),
            b: Box::new(right.e),
        };
        Ok(Checked {
            e: Expr {
                kind,
                ty,
                span: n.span.clone(),
            },
            param,
            ..Checked::deferred(&n.span)
        })
    }
}

/// Elements that are only declared have no size to step by.
pub(super) fn known_size(span: &Range<usize>, to: &Type) -> Result<()> {
    match to.size() {
        Some(_) => Ok(()),
        None => Err(Fault::new(
            span.clone(),
            format!("the size of {} is not known here: it is only declared", to),
        )),
    }
}

/// `base + index * size`, with the multiplication left out where it can be.
pub(super) fn scaled(
    op: BinOp,
    base: Expr,
    index: Expr,
    to: &Type,
    ty: Type,
    span: Range<usize>,
) -> Expr {
    let size = to.size().unwrap_or(1);
    let step = match index.as_int() {
        Some(v) => Expr {
            kind: Kind::Int(v.wrapping_mul(size)),
            ty: Type::I64,
            span: index.span.clone(),
        },
        None if size == 1 => index,
        None => {
            let (ty, span) = (Type::I64, index.span.clone());
            let by = Box::new(Expr {
                kind: Kind::Int(size),
                ty: Type::I64,
                span: span.clone(),
            });
            Expr {
                kind: Kind::Binary {
                    op: BinOp::Mul,
                    signed: true,
                    a: Box::new(index),
                    b: by,
                },
                ty,
                span,
            }
        }
    };
    if step.as_int() == Some(0) {
        return Expr { ty, span, ..base };
    }
    if let (Some(a), Some(b)) = (base.as_int(), step.as_int()) {
        return Expr {
            kind: Kind::Int(fold::binary(op, false, a, b)),
            ty,
            span,
        };
    }
    Expr {
        kind: Kind::Binary {
            op,
            signed: false,
            a: Box::new(base),
            b: Box::new(step),
        },
        ty,
        span,
    }
}

/// An operation is unsigned if a 64-bit side is; literals follow the other side; a shift follows its left.
pub(super) fn signedness(op: BinOp, a: &Checked, b: &Checked) -> bool {
    let unsigned = |c: &Checked| is_u64(&c.e.ty);
    match op {
        BinOp::Shl | BinOp::Shr => !unsigned(a),
        BinOp::LogAnd | BinOp::LogOr | BinOp::Eq | BinOp::Ne => false,
        _ => !(unsigned(a) || unsigned(b)),
    }
}

pub(super) fn is_u64(ty: &Type) -> bool {
    matches!(
        ty,
        Type::Int {
            bits: 64,
            signed: false
        } | Type::Ptr { .. }
    )
}
