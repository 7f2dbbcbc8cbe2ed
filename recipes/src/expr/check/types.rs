//! Casts and the names of types.

use super::super::parse::{Node, TypeName};
use super::super::{BinOp, Expr, Fault, Kind, Type, fold};
use super::{Checked, Checker, Result};

impl Checker<'_> {
    pub(super) fn cast(&self, n: &Node, to: &TypeName, e: &Node) -> Result<Checked> {
        let c = self.node(e)?;
        let ty = match &to.named {
            Some(name) => {
                let of_kernel = self.is_of_kernel(&c.e);
                let ty = self.named_type(to, name, of_kernel)?;
                ty.unwrap_or(Type::Deferred)
            }
            None => type_of(to)?,
        };
        let c = match self.bits(&c) {
            Some(bits) => Checked::plain(bits),
            None => self.as_scalar(e, c, "a cast")?,
        };
        if c.is_deferred() || ty == Type::Deferred {
            return Ok(Checked::deferred(&n.span));
        }
        if ty == Type::Void {
            return Err(Fault::new(to.span.clone(), "nothing has the type void")
                .help("void* is the pointer"));
        }
        if to.words.iter().any(|w| w == "bool") && to.stars == 0 {
            let zero = Box::new(Expr {
                kind: Kind::Int(0),
                ty: Type::I64,
                span: n.span.clone(),
            });
            let kind = match c.e.as_int() {
                Some(v) => Kind::Int(u64::from(v != 0)),
                None => Kind::Binary {
                    op: BinOp::Ne,
                    signed: false,
                    a: Box::new(c.e),
                    b: zero,
                },
            };
            return Ok(Checked {
                param: c.param,
                ..Checked::plain(Expr {
                    kind,
                    ty,
                    span: n.span.clone(),
                })
            });
        }
        let kind = match c.e.as_int() {
            Some(v) => Kind::Int(fold::extend(v, &ty)),
            None => Kind::Cast(Box::new(c.e)),
        };
        Ok(Checked {
            param: c.param,
            ..Checked::plain(Expr {
                kind,
                ty,
                span: n.span.clone(),
            })
        })
    }
}

fn type_of(name: &TypeName) -> Result<Type> {
    let words: Vec<&str> = name
        .words
        .iter()
        .map(String::as_str)
        .filter(|w| *w != "const")
        .collect();
    let int = |bits, signed| Ok(Type::Int { bits, signed });
    let wrong = || {
        Err(Fault::new(
            name.span.clone(),
            format!("`{}` is no type", name.words.join(" ")),
        ))
    };
    let unsigned = words.contains(&"unsigned");
    let base: Vec<&str> = words
        .iter()
        .copied()
        .filter(|w| *w != "unsigned" && *w != "signed")
        .collect();
    let marks = words.len() - base.len();
    let base = match base.as_slice() {
        [] if marks == 1 => int(32, !unsigned),
        ["char"] if marks <= 1 => int(8, !unsigned),
        ["short"] | ["short", "int"] if marks <= 1 => int(16, !unsigned),
        ["int"] if marks <= 1 => int(32, !unsigned),
        ["long"] | ["long", "int"] | ["long", "long"] | ["long", "long", "int"] if marks <= 1 => {
            int(64, !unsigned)
        }
        ["size_t" | "uintptr_t"] if marks == 0 => int(64, false),
        ["ssize_t" | "intptr_t"] if marks == 0 => int(64, true),
        ["bool"] if marks == 0 => int(8, false),
        ["void"] if marks == 0 => Ok(Type::Void),
        ["float" | "double"] => {
            return Err(Fault::new(
                name.span.clone(),
                "there are no fractions: float and double cannot be read",
            )
            .help("(u64) has the value's bits"));
        }
        [word] if marks == 0 => {
            let signed = word.starts_with('i');
            let digits: String = word.chars().filter(char::is_ascii_digit).collect();
            match digits.parse() {
                Ok(bits @ (8 | 16 | 32 | 64)) => int(bits, signed),
                _ => wrong(),
            }
        }
        _ => wrong(),
    }?;
    if name.stars > 8 {
        return Err(Fault::new(
            name.span.clone(),
            "a pointer to a pointer to a pointer ... deeper than 8",
        ));
    }
    Ok((0..name.stars).fold(base, |to, _| Type::Ptr { to: Box::new(to) }))
}
