//! Text to a syntax tree.

use std::ops::Range;
use std::sync::OnceLock;

use pest::Parser as _;
use pest::iterators::Pair;
use pest::pratt_parser::{Assoc, Op, PrattParser};

use super::complain::plain;
use super::{BinOp, Fault, MAX_DEPTH, MAX_LENGTH, UnOp, literal};

#[derive(pest_derive::Parser)]
#[grammar = "expr/grammar.pest"]
struct Grammar;

/// A piece of syntax with its place in the text.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) kind: Syntax,
    pub(super) span: Range<usize>,
    /// How deep the tree below is.
    depth: usize,
}

#[derive(Clone, Debug)]
pub(super) enum Syntax {
    Int(u64),
    Text(Vec<u8>),
    Name(String),
    /// Without its `$`.
    Param(String),
    Call {
        name: String,
        name_span: Range<usize>,
        args: Vec<Node>,
    },
    Index {
        of: Box<Node>,
        index: Box<Node>,
    },
    Member {
        of: Box<Node>,
        /// `->` or `.`
        operator: &'static str,
        name: String,
        name_span: Range<usize>,
    },
    Cast {
        to: TypeName,
        e: Box<Node>,
    },
    Deref(Box<Node>),
    AddressOf(Box<Node>),
    Unary {
        op: UnOp,
        e: Box<Node>,
    },
    Binary {
        op: BinOp,
        a: Box<Node>,
        b: Box<Node>,
    },
    Cond {
        c: Box<Node>,
        a: Box<Node>,
        b: Box<Node>,
    },
}

/// `unsigned long**`, `struct client *`
#[derive(Clone, Debug)]
pub(super) struct TypeName {
    /// Of a type of the language.
    pub(super) words: Vec<String>,
    /// A type that debug information knows: `struct client`, `ns::Foo`.
    pub(super) named: Option<String>,
    pub(super) stars: usize,
    pub(super) span: Range<usize>,
}

pub(super) fn parse(text: &str) -> Result<Node, Fault> {
    if text.len() > MAX_LENGTH {
        return Err(Fault::new(
            0..text.len(),
            format!("the expression is longer than {MAX_LENGTH} bytes"),
        )
        .label(format!("{} bytes", text.len())));
    }
    if text.trim().is_empty() {
        return Err(Fault::new(
            0..text.len(),
            "expected an expression, found nothing",
        ));
    }
    scan(text)?;
    let mut pairs = Grammar::parse(Rule::expression, text).map_err(|e| plain(text, &e))?;
    // The grammar's `expression` is silent: its first pair is the ternary.
    let top = pairs
        .next()
        .ok_or_else(|| Fault::new(0..text.len(), "expected an expression"))?;
    ternary(top)
}

/// What needs no grammar: brackets pair up, quotes end, nesting is bounded. Done first, since the parser
/// recurses.
fn scan(text: &str) -> Result<(), Fault> {
    let mut open: Vec<(usize, char)> = Vec::new();
    let mut chars = text.char_indices();
    let mut questions = 0;
    while let Some((at, c)) = chars.next() {
        match c {
            '"' | '\'' => {
                let mut closed = false;
                while let Some((_, inside)) = chars.next() {
                    if inside == '\\' {
                        chars.next();
                    } else if inside == c {
                        closed = true;
                        break;
                    }
                }
                if !closed {
                    let what = if c == '"' { "text" } else { "character" };
                    return Err(Fault::new(
                        at..text.len(),
                        format!("this {what} has no closing quote"),
                    )
                    .label("opened here"));
                }
            }
            '(' | '[' => {
                open.push((at, c));
                if open.len() > MAX_DEPTH / 2 {
                    return Err(too_deep(at..at + 1));
                }
            }
            ')' | ']' => match open.pop() {
                Some((_, '(')) if c == ')' => {}
                Some((_, '[')) if c == ']' => {}
                Some((from, opened)) => {
                    return Err(Fault::new(
                        at..at + 1,
                        format!("`{c}` does not close the `{opened}` before it"),
                    )
                    .label(format!(
                        "`{opened}` is at character {}",
                        text[..from].chars().count() + 1
                    )));
                }
                None => return Err(Fault::new(at..at + 1, format!("`{c}` closes nothing"))),
            },
            '?' => {
                questions += 1;
                if questions > MAX_DEPTH / 2 {
                    return Err(too_deep(at..at + 1));
                }
            }
            _ => {}
        }
    }
    match open.first() {
        Some((at, c)) => Err(Fault::new(
            *at..at + 1,
            format!("this `{c}` is never closed"),
        )),
        None => Ok(()),
    }
}

fn too_deep(span: Range<usize>) -> Fault {
    Fault::new(span, "the expression is nested too deep")
        .help("capture a part of it under a name, or split the recipe's filter")
}

fn range(pair: &Pair<'_, Rule>) -> Range<usize> {
    let span = pair.as_span();
    // Pest lets a rule's span run over blanks that follow it.
    let text = span.as_str();
    span.start()..span.start() + text.trim_end().len()
}

impl Node {
    fn new(kind: Syntax, span: Range<usize>, depth_below: usize) -> Result<Node, Fault> {
        if depth_below >= MAX_DEPTH {
            return Err(too_deep(span));
        }
        Ok(Node {
            kind,
            span,
            depth: depth_below + 1,
        })
    }

    /// The pieces directly inside this one.
    pub(super) fn children(&self) -> Vec<&Node> {
        match &self.kind {
            Syntax::Int(_) | Syntax::Text(_) | Syntax::Name(_) | Syntax::Param(_) => vec![],
            Syntax::Call { args, .. } => args.iter().collect(),
            Syntax::Index { of, index } => vec![of, index],
            Syntax::Member { of: e, .. }
            | Syntax::Cast { e, .. }
            | Syntax::Deref(e)
            | Syntax::AddressOf(e)
            | Syntax::Unary { e, .. } => vec![e],
            Syntax::Binary { a, b, .. } => vec![a, b],
            Syntax::Cond { c, a, b } => vec![c, a, b],
        }
    }
}

fn operators() -> &'static PrattParser<Rule> {
    static TABLE: OnceLock<PrattParser<Rule>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let left = |r| Op::infix(r, Assoc::Left);
        PrattParser::new()
            .op(left(Rule::log_or))
            .op(left(Rule::log_and))
            .op(left(Rule::bit_or))
            .op(left(Rule::bit_xor))
            .op(left(Rule::bit_and))
            .op(left(Rule::eq) | left(Rule::ne))
            .op(left(Rule::lt) | left(Rule::le) | left(Rule::gt) | left(Rule::ge))
            .op(left(Rule::shl) | left(Rule::shr))
            .op(left(Rule::add) | left(Rule::sub))
            .op(left(Rule::mul) | left(Rule::div) | left(Rule::rem))
    })
}

fn ternary(pair: Pair<'_, Rule>) -> Result<Node, Fault> {
    let span = range(&pair);
    let mut parts = pair.into_inner();
    let c = match parts.next() {
        Some(p) => binary(p)?,
        None => return Err(Fault::new(span, "expected an expression")),
    };
    let (Some(a), Some(b)) = (parts.next(), parts.next()) else {
        return Ok(c);
    };
    let (a, b) = (ternary(a)?, ternary(b)?);
    let depth = c.depth.max(a.depth).max(b.depth);
    Node::new(
        Syntax::Cond {
            c: Box::new(c),
            a: Box::new(a),
            b: Box::new(b),
        },
        span,
        depth,
    )
}

fn binary(pair: Pair<'_, Rule>) -> Result<Node, Fault> {
    operators()
        .map_primary(unary)
        .map_infix(|a, op, b| {
            let (a, b) = (a?, b?);
            let (span, depth) = (a.span.start..b.span.end, a.depth.max(b.depth));
            Node::new(
                Syntax::Binary {
                    op: bin_op(op.as_rule()),
                    a: Box::new(a),
                    b: Box::new(b),
                },
                span,
                depth,
            )
        })
        .parse(pair.into_inner())
}

fn bin_op(rule: Rule) -> BinOp {
    match rule {
        Rule::log_or => BinOp::LogOr,
        Rule::log_and => BinOp::LogAnd,
        Rule::bit_or => BinOp::Or,
        Rule::bit_xor => BinOp::Xor,
        Rule::bit_and => BinOp::And,
        Rule::eq => BinOp::Eq,
        Rule::ne => BinOp::Ne,
        Rule::lt => BinOp::Lt,
        Rule::le => BinOp::Le,
        Rule::gt => BinOp::Gt,
        Rule::ge => BinOp::Ge,
        Rule::shl => BinOp::Shl,
        Rule::shr => BinOp::Shr,
        Rule::add => BinOp::Add,
        Rule::sub => BinOp::Sub,
        Rule::mul => BinOp::Mul,
        Rule::div => BinOp::Div,
        _ => BinOp::Rem,
    }
}

fn unary(pair: Pair<'_, Rule>) -> Result<Node, Fault> {
    let whole = range(&pair);
    let mut prefixes = Vec::new();
    let mut node: Option<Node> = None;
    for part in pair.into_inner() {
        let span = range(&part);
        node = Some(match (part.as_rule(), node.take()) {
            (
                Rule::cast
                | Rule::minus
                | Rule::bit_not
                | Rule::log_not
                | Rule::deref
                | Rule::address_of,
                None,
            ) => {
                prefixes.push(part);
                continue;
            }
            (Rule::index, Some(of)) => {
                let from = of.span.start;
                let index = inner(part)?;
                let depth = of.depth.max(index.depth);
                Node::new(
                    Syntax::Index {
                        of: Box::new(of),
                        index: Box::new(index),
                    },
                    from..span.end,
                    depth,
                )?
            }
            (Rule::member, Some(of)) => {
                let operator = if part.as_str().starts_with('-') {
                    "->"
                } else {
                    "."
                };
                let (depth, from) = (of.depth, of.span.start);
                let Some(name) = part.into_inner().next() else {
                    return Err(Fault::new(span, "expected a name"));
                };
                Node::new(
                    Syntax::Member {
                        of: Box::new(of),
                        operator,
                        name: name.as_str().to_owned(),
                        name_span: range(&name),
                    },
                    from..span.end,
                    depth,
                )?
            }
            (_, _) => primary(part)?,
        });
    }
    let mut node = node.ok_or_else(|| Fault::new(whole.clone(), "expected an expression"))?;
    for prefix in prefixes.into_iter().rev() {
        let span = range(&prefix).start..node.span.end;
        let depth = node.depth;
        let e = Box::new(node);
        let kind = match prefix.as_rule() {
            Rule::minus => Syntax::Unary { op: UnOp::Neg, e },
            Rule::bit_not => Syntax::Unary {
                op: UnOp::BitNot,
                e,
            },
            Rule::log_not => Syntax::Unary {
                op: UnOp::LogNot,
                e,
            },
            Rule::deref => Syntax::Deref(e),
            Rule::address_of => Syntax::AddressOf(e),
            _ => Syntax::Cast {
                to: type_name(prefix),
                e,
            },
        };
        node = Node::new(kind, span, depth)?;
    }
    Ok(node)
}

/// The one ternary inside a bracket.
fn inner(pair: Pair<'_, Rule>) -> Result<Node, Fault> {
    let span = range(&pair);
    match pair.into_inner().next() {
        Some(p) => ternary(p),
        None => Err(Fault::new(span, "expected an expression")),
    }
}

fn type_name(cast: Pair<'_, Rule>) -> TypeName {
    let span = range(&cast);
    let mut name = TypeName {
        words: Vec::new(),
        named: None,
        stars: 0,
        span: span.start + 1..span.end.saturating_sub(1),
    };
    for part in cast.into_inner().flatten() {
        match part.as_rule() {
            Rule::type_word => name.words.push(part.as_str().to_owned()),
            Rule::star => name.stars += 1,
            Rule::record_word => name.named = Some(part.as_str().to_owned()),
            Rule::named => {
                let before = name.named.take().map(|word| word + " ");
                name.named = Some(before.unwrap_or_default() + part.as_str());
            }
            _ => {}
        }
    }
    name
}

fn primary(pair: Pair<'_, Rule>) -> Result<Node, Fault> {
    let span = range(&pair);
    let text = pair.as_str().trim_end();
    let wrong = |(message, help): literal::Wrong| {
        let mut f = Fault::new(span.clone(), message);
        f.help = help;
        f
    };
    let kind = match pair.as_rule() {
        Rule::ternary => return ternary(pair),
        Rule::primary => return inner_primary(pair),
        Rule::number => Syntax::Int(literal::number(text).map_err(wrong)?),
        Rule::text => Syntax::Text(literal::unescape(&text[1..text.len() - 1]).map_err(wrong)?),
        Rule::character => Syntax::Int(character(text, &span)?),
        Rule::param => Syntax::Param(text[1..].to_owned()),
        Rule::call => return call(pair),
        _ => Syntax::Name(text.to_owned()),
    };
    Node::new(kind, span, 0)
}

fn inner_primary(pair: Pair<'_, Rule>) -> Result<Node, Fault> {
    let span = range(&pair);
    match pair.into_inner().next() {
        // The place of `(a + b)` is with its parentheses.
        Some(p) if p.as_rule() == Rule::ternary => ternary(p).map(|n| Node { span, ..n }),
        Some(p) => primary(p),
        None => Err(Fault::new(span, "expected an expression")),
    }
}

fn character(text: &str, span: &Range<usize>) -> Result<u64, Fault> {
    let bytes = literal::unescape(&text[1..text.len() - 1]).map_err(|(message, help)| Fault {
        help,
        ..Fault::new(span.clone(), message)
    })?;
    match bytes.as_slice() {
        [one] => Ok(u64::from(*one)),
        _ => Err(Fault::new(
            span.clone(),
            format!("{text} is not one character of one byte"),
        )
        .help("a text stands in double quotes (in TOML: where = 'comm == \"King\"')")),
    }
}

fn call(pair: Pair<'_, Rule>) -> Result<Node, Fault> {
    let span = range(&pair);
    let mut parts = pair.into_inner();
    let Some(name) = parts.next() else {
        return Err(Fault::new(span, "expected a function's name"));
    };
    let name_span = range(&name);
    let name = name.as_str().to_owned();
    let args = match parts.next() {
        Some(list) => list
            .into_inner()
            .map(ternary)
            .collect::<Result<Vec<_>, _>>()?,
        None => vec![],
    };
    let depth = args.iter().map(|a| a.depth).max().unwrap_or(0);
    Node::new(
        Syntax::Call {
            name,
            name_span,
            args,
        },
        span,
        depth,
    )
}
