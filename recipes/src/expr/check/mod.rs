//! Syntax tree to typed tree.
//!
//! - `names`: builtins, captures, parameters
//! - `memory`: `str`, `buf`, `after`, `*p`, `p[i]`
//! - `numbers`: arithmetic, comparisons, pointers, `?:`
//! - `texts`: comparing texts
//! - `kernel`: the running thread, sockets, stacks, and words that a place has not; `network`: addresses
//! - `types`: casts
//! - `debug`: variables, members and types that debug information knows; `finish`: what stands at the end;
//!   `place`: parts of where things are
//!
//! Without debug information, what only that can know has the type [`Type::Deferred`], and so has everything made
//! of it; the rest is checked.

mod debug;
mod finish;
mod kernel;
mod memory;
mod names;
mod network;
mod numbers;
mod place;
mod texts;
mod types;

use std::ops::Range;

use super::parse::{Node, Syntax};
use super::{Builtin, Expr, Fault, Kind, Scope, Type};
use crate::debug::{DebugInfo, Place};

pub(super) use names::{TYPE_WORDS, is_of_return, is_own_record};
pub(crate) use names::{is_reserved, register_name};

/// A checked node, with what only its neighbours need to know.
struct Checked {
    e: Expr,
    /// Made of literals alone: its signedness follows the other side.
    literal: bool,
    /// A parameter's value is in it: what is odd about its value is not the recipe's fault.
    param: bool,
    /// Its type comes from debug information, not from a cast: a `char*` is a text.
    debug: bool,
    /// Where it is, for what fits no register (its type is [`Type::Named`], and `e` no value).
    place: Option<Place>,
}

impl Checked {
    fn plain(e: Expr) -> Checked {
        Checked {
            e,
            literal: false,
            param: false,
            debug: false,
            place: None,
        }
    }

    /// What is known once debug information is.
    fn deferred(span: &Range<usize>) -> Checked {
        Checked::plain(Expr {
            kind: Kind::Int(0),
            ty: Type::Deferred,
            span: span.clone(),
        })
    }

    fn is_deferred(&self) -> bool {
        self.e.ty == Type::Deferred
    }
}

type Result<T> = std::result::Result<T, Fault>;

/// The typed tree; of type [`Type::Deferred`] (and no more than that) when it takes debug information to tell and
/// there is none.
pub(super) fn check(
    tree: &Node,
    text: &str,
    scope: &Scope,
    info: Option<&dyn DebugInfo>,
) -> Result<Expr> {
    let checker = Checker { text, scope, info };
    let checked = checker.node(tree)?;
    checker.finish(tree, checked)
}

struct Checker<'a> {
    text: &'a str,
    scope: &'a Scope,
    info: Option<&'a dyn DebugInfo>,
}

impl Checker<'_> {
    /// A node's own text, for messages.
    fn quote(&self, node: &Node) -> String {
        let text = self.text.get(node.span.clone()).unwrap_or("");
        if text.chars().count() > 40 {
            text.chars().take(37).chain("...".chars()).collect()
        } else {
            text.to_owned()
        }
    }

    fn node(&self, n: &Node) -> Result<Checked> {
        let mut c = self.syntax(n)?;
        // A constant that is shown as a plain number is one, whatever it was computed from.
        if let Kind::Int(v) = c.e.kind
            && c.e.ty == Expr::literal(v).ty
            && c.place.is_none()
        {
            c.literal = true;
        }
        Ok(c)
    }

    fn syntax(&self, n: &Node) -> Result<Checked> {
        let made = |kind, ty| {
            Checked::plain(Expr {
                kind,
                ty,
                span: n.span.clone(),
            })
        };
        match &n.kind {
            Syntax::Int(v) => {
                let ty = if *v > i64::MAX as u64 {
                    Type::U64
                } else {
                    Type::I64
                };
                Ok(Checked {
                    literal: true,
                    ..made(Kind::Int(*v), ty)
                })
            }
            Syntax::Text(bytes) => {
                let text = std::str::from_utf8(bytes).map_err(|_| {
                    Fault::new(n.span.clone(), "the text is not UTF-8 after its escapes")
                })?;
                Ok(Checked {
                    literal: true,
                    ..made(Kind::Str(text.to_owned()), Type::Str)
                })
            }
            Syntax::Name(name) => self.name(name, &n.span),
            Syntax::Param(name) => self.param(name, &n.span),
            Syntax::Call {
                name,
                name_span,
                args,
            } => self.call(n, name, name_span, args),
            Syntax::Index { of, index } => self.index(n, of, index),
            Syntax::Member {
                of,
                operator,
                name,
                name_span,
            } => self.member(n, of, operator, (name, name_span)),
            Syntax::Cast { to, e } => self.cast(n, to, e),
            Syntax::Deref(e) => self.deref(n, e),
            Syntax::AddressOf(e) => self.address_of(n, e),
            Syntax::Unary { op, e } => self.unary(n, *op, e),
            Syntax::Binary { op, a, b } => self.binary(n, *op, a, b),
            Syntax::Cond { c, a, b } => self.cond(n, c, a, b),
        }
    }

    /// A node that must be a number or an address.
    fn scalar(&self, n: &Node, what: &str) -> Result<Checked> {
        self.as_scalar(n, self.node(n)?, what)
    }

    fn as_scalar(&self, n: &Node, c: Checked, what: &str) -> Result<Checked> {
        let c = self.decayed(n, c)?;
        if c.e.ty.is_scalar() || c.is_deferred() {
            return Ok(c);
        }
        let quote = self.quote(n);
        let fault = Fault::new(
            n.span.clone(),
            format!(
                "{what} takes numbers, and {} is {}",
                shown(&quote),
                c.e.ty.describe()
            ),
        );
        Err(match c.e.kind {
            Kind::ReadStr { .. } | Kind::Builtin(Builtin::Comm) | Kind::Str(_) => {
                fault.help("a text can be captured, be a key, or be compared by == and != with a text in quotes")
            }
            _ => match uses(&c.e.ty) {
                Some(uses) => fault.help(uses),
                None => fault,
            },
        })
    }
}

/// What can be done with a function, a stack, an address of the network: not much.
fn uses(ty: &Type) -> Option<&'static str> {
    match ty {
        Type::Function => Some("a function can be captured or be a key, and nothing else"),
        Type::Stack => Some("a stack can be captured or be a key, and nothing else"),
        Type::Address => Some(
            "an address of the network can be captured or be a key, and nothing else; compare the bytes that it is \
             made of",
        ),
        _ => None,
    }
}

/// A text in quotes as it is, anything else in backticks.
fn shown(quote: &str) -> String {
    if quote.starts_with('"') {
        quote.to_owned()
    } else {
        format!("`{quote}`")
    }
}
