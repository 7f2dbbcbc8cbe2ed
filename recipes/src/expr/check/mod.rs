//! Syntax tree to typed tree.
//!
//! - `names`: builtins, captures, parameters
//! - `memory`: `str`, `buf`, `after`, `*p`, `p[i]`
//! - `numbers`: arithmetic, comparisons, pointers, `?:`
//! - `texts`: comparing texts
//! - `types`: casts

mod memory;
mod names;
mod numbers;
mod texts;
mod types;

use super::parse::{Node, Syntax};
use super::{Builtin, Expr, Fault, Kind, Scope, Type};

pub(super) use names::TYPE_WORDS;
pub(crate) use names::is_reserved;

/// A checked node, with what only its neighbours need to know.
struct Checked {
    e: Expr,
    /// Made of literals alone: its signedness follows the other side.
    literal: bool,
    /// A parameter's value is in it: what is odd about its value is not the recipe's fault.
    param: bool,
}

impl Checked {
    fn plain(e: Expr) -> Checked {
        Checked {
            e,
            literal: false,
            param: false,
        }
    }
}

type Result<T> = std::result::Result<T, Fault>;

pub(super) fn check(tree: &Node, text: &str, scope: &Scope) -> Result<Expr> {
    Ok(Checker { text, scope }.node(tree)?.e)
}

struct Checker<'a> {
    text: &'a str,
    scope: &'a Scope,
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
            Syntax::Member { of, operator } => Err(Fault::new(
                n.span.clone(),
                format!("`{operator}` needs types from debug information: not supported yet"),
            )
            .help(format!("read by offset: *(u32*)({} + 24)", self.quote(of)))),
            Syntax::Cast { to, e } => self.cast(n, to, e),
            Syntax::Deref(e) => self.deref(n, e),
            Syntax::AddressOf => Err(Fault::new(n.span.clone(), "`&` takes no address here")
                .help("`&` between two values is bitwise and")),
            Syntax::Unary { op, e } => self.unary(n, *op, e),
            Syntax::Binary { op, a, b } => self.binary(n, *op, a, b),
            Syntax::Cond { c, a, b } => self.cond(n, c, a, b),
        }
    }

    /// A node that must be a number or an address.
    fn scalar(&self, n: &Node, what: &str) -> Result<Checked> {
        let c = self.node(n)?;
        if c.e.ty.is_scalar() {
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
            _ => fault,
        })
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
