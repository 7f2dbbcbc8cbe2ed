//! Comparing texts.

use super::super::parse::Node;
use super::super::{BinOp, Builtin, Expr, Fault, Kind, MAX_COMPARED, Type, text};
use super::debug::listed;
use super::{Checked, Checker, Result, shown, uses};

impl Checker<'_> {
    /// Both sides of `==` or `!=`: beside a text, what debug information says is one becomes one, and a text is
    /// the name of an enumeration's value.
    pub(super) fn as_texts(
        &self,
        (left, a): (&Node, Checked),
        (right, b): (&Node, Checked),
    ) -> Result<(Checked, Checked)> {
        let (at, bt) = (a.e.clone(), b.e.clone());
        Ok((self.beside(left, a, &bt)?, self.beside(right, b, &at)?))
    }

    fn beside(&self, n: &Node, c: Checked, other: &Expr) -> Result<Checked> {
        if let (Kind::Str(name), Type::Enum(values)) = (&c.e.kind, &other.ty) {
            return match self.enumerator(n, name, &other.ty) {
                Some(value) => Ok(value),
                None => {
                    let known: Vec<String> = values.values.iter().map(|v| v.1.clone()).collect();
                    let fault =
                        Fault::new(n.span.clone(), format!("{} has no such value", values.name));
                    Err(fault.help(format!("it has: {}", listed(&known))))
                }
            };
        }
        if other.ty == Type::Str
            && let Some(text) = self.text_of(n, &c)?
        {
            return Ok(Checked::plain(text));
        }
        self.decayed(n, c)
    }

    pub(super) fn texts(
        &self,
        n: &Node,
        op: BinOp,
        (left, a): (&Node, Checked),
        (right, b): (&Node, Checked),
    ) -> Result<Checked> {
        // The constant to the right.
        let swap = matches!(a.e.kind, Kind::Str(_)) && !matches!(b.e.kind, Kind::Str(_));
        let ((left, a), (right, b)) = if swap {
            ((right, b), (left, a))
        } else {
            ((left, a), (right, b))
        };
        for (side, c) in [(left, &a), (right, &b)] {
            if let Some(uses) = uses(&c.e.ty) {
                let what = format!(
                    "`{}` is {}, which cannot be compared",
                    self.quote(side),
                    c.e.ty.describe()
                );
                return Err(Fault::new(side.span.clone(), what).help(uses));
            }
        }
        if a.e.ty == Type::Bytes || b.e.ty == Type::Bytes {
            return Err(Fault::new(n.span.clone(), "bytes cannot be compared")
                .help("str(p, n) is a text of n bytes, which can"));
        }
        if a.e.ty.is_scalar() || b.e.ty.is_scalar() {
            let (text, number) = if a.e.ty.is_scalar() {
                (right, (left, &a.e))
            } else {
                (left, (right, &b.e))
            };
            let quote = self.quote(number.0);
            let fault = Fault::new(
                n.span.clone(),
                format!(
                    "a text is compared with a number: {} is a text, `{quote}` is {}",
                    shown(&self.quote(text)),
                    number.1.ty.describe()
                ),
            );
            return Err(if number.1.as_int().is_some() {
                fault.help("texts stand in double quotes")
            } else {
                fault.help(format!("str({quote}) is the text it points to"))
            });
        }
        let Kind::Str(literal) = &b.e.kind else {
            return Err(Fault::new(
                n.span.clone(),
                "a text can be compared with a constant text alone",
            )
            .help(format!("{} == \"...\"", self.quote(left))));
        };
        self.comparable(&a, literal, b.param, right)?;
        let equal = op == BinOp::Eq;
        if let Kind::Str(other) = &a.e.kind {
            let kind = Kind::Int(u64::from((other == literal) == equal));
            return Ok(Checked {
                param: a.param || b.param,
                ..Checked::plain(Expr {
                    kind,
                    ty: Type::INT,
                    span: n.span.clone(),
                })
            });
        }
        if matches!(a.e.kind, Kind::Cond { .. }) {
            return Err(
                Fault::new(left.span.clone(), "a choice of texts cannot be compared")
                    .help("compare each of them"),
            );
        }
        let mut e = text::compare(a.e, literal, equal);
        e.span = n.span.clone();
        Ok(Checked::plain(e))
    }

    /// Whether a constant can equal a text at all.
    pub(super) fn comparable(
        &self,
        a: &Checked,
        literal: &str,
        param: bool,
        at: &Node,
    ) -> Result<()> {
        if literal.len() > MAX_COMPARED {
            return Err(Fault::new(
                at.span.clone(),
                format!("a text is compared with at most {MAX_COMPARED} bytes"),
            )
            .label(format!("{} bytes", literal.len())));
        }
        if literal.contains('\0') && !matches!(a.e.kind, Kind::Str(_)) {
            return Err(
                Fault::new(at.span.clone(), "a text to compare with cannot hold NUL")
                    .label("\\0 ends a text"),
            );
        }
        if a.e.kind == Kind::Builtin(Builtin::Comm) && literal.len() > 15 && !param {
            let cut: String = literal
                .char_indices()
                .take_while(|(i, c)| i + c.len_utf8() <= 15)
                .map(|(_, c)| c)
                .collect();
            return Err(
                Fault::new(at.span.clone(), "`comm` is never longer than 15 bytes")
                    .label(format!("{} bytes", literal.len()))
                    .help(format!("the kernel cuts names: comm == \"{cut}\"")),
            );
        }
        Ok(())
    }
}
