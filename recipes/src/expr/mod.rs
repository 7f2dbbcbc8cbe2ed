//! Expressions: C-like text to a typed tree.
//!
//! - `scope`: what names mean where an expression stands
//! - `grammar.pest`, `parse`: text -> syntax tree, with bounds on length and depth
//! - `complain`: errors of syntax in plain words
//! - `literal`: numbers, durations, sizes, characters, texts
//! - `check`: syntax tree -> typed tree; what has no meaning is an error with its place
//! - `deferred`: what only debug information can know, kept until that is there
//! - `text`: comparing texts
//! - `types`: the types of values
//! - `build`: expressions made without text
//! - `fold`: constants are computed here, not in the kernel
//! - `display`: back to text
//! - `errno`: the names of errors

mod build;
mod check;
mod complain;
mod deferred;
mod display;
mod errno;
mod fold;
mod literal;
mod parse;
mod scope;
mod spent;
mod text;
mod types;

use std::ops::Range;
use std::sync::Arc;

use crate::error::{Error, Source};

pub(crate) use check::is_reserved;
pub use deferred::{Deferred, rebind_args};
pub(crate) use literal::{duration as parse_duration, size as parse_size};
pub use scope::Scope;
pub use spent::Spent;
pub use types::{EnumType, NamedType, Type};

/// The longest expression, in bytes.
pub const MAX_LENGTH: usize = 8192;
/// How deep an expression may nest (parentheses, operators in a row, `?:`), so that nothing that walks it
/// can run out of stack.
pub const MAX_DEPTH: usize = 128;
/// The longest text that a captured one can be compared with, in bytes.
pub const MAX_COMPARED: usize = 63;

/// A checked expression.
#[derive(Clone, Debug, PartialEq)]
pub struct Expr {
    /// What it is.
    pub kind: Kind,
    /// Its type.
    pub ty: Type,
    /// Byte range in the [`Source`] it was parsed from.
    pub span: Range<usize>,
}

/// What an expression is. All arithmetic is on 64 bits: narrower values were extended by their own type.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// A constant, extended to 64 bits by its type.
    Int(u64),
    /// A constant text: only as the right side of `==` or `!=`.
    Str(String),
    /// Something known at every hit.
    Builtin(Builtin),
    /// Argument 0 to 9, as the calling convention passes it; `u64`.
    Arg(u8),
    /// A field of a tracepoint's record, so many bytes from its start; as wide as the node's type (integer). At its
    /// entry only, in a call.
    Field(u16),
    /// The address of a tracepoint's record.
    Context,
    /// `curtask`: the running thread's `struct task_struct`; [`Type::U64`] until debug information gives it a type.
    Task,
    /// An integer in the network's byte order (big-endian), as wide as the node's type: its value.
    Swap(Box<Expr>),
    /// `kstack`, `ustack`: where the thread is, in the kernel or in the program; [`Type::Stack`].
    Stack {
        /// The program's.
        user: bool,
    },
    /// `ntop(...)`, `endpoint(...)`: an address of the network, with its port or without; [`Type::Address`].
    Address {
        /// The family (2: IPv4, 10: IPv6); `None`: IPv4 where there is no `v6`, else IPv6.
        family: Option<Box<Expr>>,
        /// Where the 4 bytes of an IPv4 address stand.
        v4: Option<Box<Expr>>,
        /// Where the 16 bytes of an IPv6 address stand.
        v6: Option<Box<Expr>>,
        /// The port, in the host's byte order.
        port: Option<Box<Expr>>,
    },
    /// A register at the hit, by its DWARF number on x86-64 (0 rax, 1 rdx, 2 rcx, 3 rbx, 4 rsi, 5 rdi, 6 rbp,
    /// 7 rsp, 8 to 15 r8 to r15, 16 rip: the probed address); `u64`. In a call it is that of the entry.
    Reg(u8),
    /// The return value; `i64`; calls only.
    Retval,
    /// From entry to return in nanoseconds; `u64`; calls only.
    Latency,
    /// How many probed calls are open around this one; `u64`; calls only.
    Depth,
    /// The latency less that of probed calls made from this one, in nanoseconds; `u64`; calls only.
    SelfTime,
    /// Nanoseconds of the latency that went to this; `u64`; calls only.
    Spent(Spent),
    /// The function of the nearest probed call around this one; [`Type::Function`]; calls only.
    Parent,
    /// A capture by name; [`Expr::with_captures`] puts its expression in its place.
    Capture(String),
    /// What stands at an address; as wide as the node's type (integer or pointer).
    Load(Box<Expr>),
    /// A unary operation.
    Unary {
        /// Which.
        op: UnOp,
        /// On what.
        e: Box<Expr>,
    },
    /// A binary operation; pointer arithmetic is already scaled. Sides are both scalars, or (for `Eq` and
    /// `Ne`) a text and a constant text.
    Binary {
        /// Which.
        op: BinOp,
        /// Whether division, remainder, right shift and order compare signed.
        signed: bool,
        /// Left side.
        a: Box<Expr>,
        /// Right side.
        b: Box<Expr>,
    },
    /// `c ? a : b`
    Cond {
        /// The condition.
        c: Box<Expr>,
        /// Its value when the condition is not 0.
        a: Box<Expr>,
        /// Its value when it is 0.
        b: Box<Expr>,
    },
    /// The value cut to the node's type, then extended.
    Cast(Box<Expr>),
    /// `str(addr)`: up to the NUL; `str(addr, len)`: exactly `len` bytes.
    ReadStr {
        /// Where.
        addr: Box<Expr>,
        /// How many bytes.
        len: Option<Box<Expr>>,
    },
    /// `buf(addr, len)`
    ReadBuf {
        /// Where.
        addr: Box<Expr>,
        /// How many bytes.
        len: Box<Expr>,
    },
    /// `chars(addr, size)`: the text in an array of `size` characters, up to its NUL where it has one.
    ReadChars {
        /// Where.
        addr: Box<Expr>,
        /// How many bytes the array has; never 0.
        size: u32,
    },
    /// An expression whose names only debug information can know: it is always a whole, never a part. After
    /// [`Expr::bind`] there are none.
    Deferred(Arc<Deferred>),
    /// `after(e)`: memory in `e` is read when the call returns; arguments and builtins in it are still those
    /// of the entry. Calls only; never nested.
    After(Box<Expr>),
}

/// Something known at every hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Builtin {
    /// Process id (`u32`).
    Pid,
    /// Thread id (`u32`).
    Tid,
    /// Real user id (`u32`).
    Uid,
    /// Real group id (`u32`).
    Gid,
    /// Id of the control group (`u64`).
    Cgroup,
    /// Monotonic clock in nanoseconds (`u64`).
    Nsecs,
    /// Number of the processor (`u32`).
    Cpu,
    /// Name of the thread (text of up to 15 bytes).
    Comm,
}

/// Unary operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UnOp {
    /// `-`
    Neg,
    /// `~`
    BitNot,
    /// `!`
    LogNot,
}

/// Binary operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // each is its C operator
pub enum BinOp {
    Add,
    Sub,
    Mul,
    Div,
    Rem,
    And,
    Or,
    Xor,
    Shl,
    Shr,
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    LogAnd,
    LogOr,
}

impl Expr {
    /// The value of a constant.
    pub fn as_int(&self) -> Option<u64> {
        match self.kind {
            Kind::Int(v) => Some(v),
            _ => None,
        }
    }

    /// The expressions directly inside this one.
    pub fn children(&self) -> Vec<&Expr> {
        match &self.kind {
            Kind::Int(_)
            | Kind::Str(_)
            | Kind::Builtin(_)
            | Kind::Arg(_)
            | Kind::Reg(_)
            | Kind::Retval
            | Kind::Latency
            | Kind::Depth
            | Kind::SelfTime
            | Kind::Spent(_)
            | Kind::Parent
            | Kind::Deferred(_)
            | Kind::Field(_)
            | Kind::Context
            | Kind::Task
            | Kind::Stack { .. }
            | Kind::Capture(_) => vec![],
            Kind::Load(e)
            | Kind::Unary { e, .. }
            | Kind::Cast(e)
            | Kind::Swap(e)
            | Kind::After(e)
            | Kind::ReadChars { addr: e, .. } => vec![e],
            Kind::Binary { a, b, .. } => vec![a, b],
            Kind::Cond { c, a, b } => vec![c, a, b],
            Kind::Address {
                family,
                v4,
                v6,
                port,
            } => [family, v4, v6, port]
                .into_iter()
                .filter_map(|e| e.as_deref())
                .collect(),
            Kind::ReadStr { addr, len } => std::iter::once(&**addr).chain(len.as_deref()).collect(),
            Kind::ReadBuf { addr, len } => vec![addr, len],
        }
    }

    /// As [`Expr::children`], to change them.
    fn children_mut(&mut self) -> Vec<&mut Expr> {
        match &mut self.kind {
            Kind::Int(_)
            | Kind::Str(_)
            | Kind::Builtin(_)
            | Kind::Arg(_)
            | Kind::Reg(_)
            | Kind::Retval
            | Kind::Latency
            | Kind::Depth
            | Kind::SelfTime
            | Kind::Spent(_)
            | Kind::Parent
            | Kind::Deferred(_)
            | Kind::Field(_)
            | Kind::Context
            | Kind::Task
            | Kind::Stack { .. }
            | Kind::Capture(_) => vec![],
            Kind::Load(e)
            | Kind::Unary { e, .. }
            | Kind::Cast(e)
            | Kind::Swap(e)
            | Kind::After(e)
            | Kind::ReadChars { addr: e, .. } => vec![e],
            Kind::Binary { a, b, .. } => vec![a, b],
            Kind::Cond { c, a, b } => vec![c, a, b],
            Kind::Address {
                family,
                v4,
                v6,
                port,
            } => [family, v4, v6, port]
                .into_iter()
                .filter_map(|e| e.as_deref_mut())
                .collect(),
            Kind::ReadStr { addr, len } => std::iter::once(&mut **addr)
                .chain(len.as_deref_mut())
                .collect(),
            Kind::ReadBuf { addr, len } => vec![addr, len],
        }
    }

    /// Whether `test` holds for this expression or one inside it.
    pub fn any(&self, test: &impl Fn(&Expr) -> bool) -> bool {
        test(self) || self.children().into_iter().any(|e| e.any(test))
    }

    /// Whether its value is known only when the call returns: it has `retval`, `latency`, `depth`, `self`, `parent` or
    /// `after()` in it. A capture counts by its own expression: put them in first, by [`Expr::with_captures`].
    pub fn needs_return(&self) -> bool {
        self.first_of_return().is_some()
    }

    /// What in it is known only when the call returns, first in the order of the text; see [`Expr::needs_return`].
    pub fn first_of_return(&self) -> Option<&Expr> {
        let own = match &self.kind {
            Kind::Retval
            | Kind::Latency
            | Kind::Depth
            | Kind::SelfTime
            | Kind::Spent(_)
            | Kind::Parent
            | Kind::After(_) => true,
            Kind::Deferred(deferred) => deferred.needs_return(),
            _ => false,
        };
        match own {
            true => Some(self),
            false => self.children().into_iter().find_map(Expr::first_of_return),
        }
    }

    /// The same expression with each capture's expression in place of its name. Comparisons of texts are
    /// brought into the form that [`parse_expr`] gives them. A name that is not among them stays.
    pub fn with_captures(&self, captures: &[(String, Expr)]) -> Expr {
        text::inline(self, captures)
    }
}

impl Builtin {
    /// Its type.
    pub fn ty(self) -> Type {
        match self {
            Builtin::Pid | Builtin::Tid | Builtin::Uid | Builtin::Gid | Builtin::Cpu => Type::U32,
            Builtin::Cgroup | Builtin::Nsecs => Type::U64,
            Builtin::Comm => Type::Str,
        }
    }

    /// Its name in expressions.
    pub fn name(self) -> &'static str {
        match self {
            Builtin::Pid => "pid",
            Builtin::Tid => "tid",
            Builtin::Uid => "uid",
            Builtin::Gid => "gid",
            Builtin::Cgroup => "cgroup",
            Builtin::Nsecs => "nsecs",
            Builtin::Cpu => "cpu",
            Builtin::Comm => "comm",
        }
    }
}

/// Parses and checks the whole text of a source as one expression: `--where`, `--capture`, `--by`.
pub fn parse_expr(source: &Source, scope: &Scope) -> Result<Expr, Error> {
    parse_at(
        &Arc::new(source.clone()),
        &source.text,
        &TextMap::Offset(0),
        scope,
    )
}

/// Where the bytes of an expression's text stand in its source.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum TextMap {
    /// As they are, from this offset on.
    Offset(usize),
    /// Byte by byte, with one more for the end: a TOML string with escapes.
    Table(Vec<usize>),
    /// Not known more exactly than this.
    Whole(Range<usize>),
}

impl TextMap {
    fn range(&self, r: Range<usize>) -> Range<usize> {
        match self {
            TextMap::Offset(o) => o + r.start..o + r.end,
            TextMap::Table(t) => {
                let last = t.last().copied().unwrap_or(0);
                let at = |i: usize| t.get(i).copied().unwrap_or(last);
                at(r.start)..at(r.end).max(at(r.start))
            }
            TextMap::Whole(whole) => whole.clone(),
        }
    }
}

/// Parses and checks a piece of a source.
pub(crate) fn parse_at(
    source: &Arc<Source>,
    text: &str,
    map: &TextMap,
    scope: &Scope,
) -> Result<Expr, Error> {
    let fail = |f: Fault| f.at(source, map);
    let tree = parse::parse(text).map_err(fail)?;
    let mut e = check::check(&tree, text, scope, None).map_err(fail)?;
    for provider in &scope.also {
        let there = scope.clone().at([*provider]);
        let other = check::check(&tree, text, &there, None).map_err(fail)?;
        // What is the same everywhere needs no debug information.
        if other.ty == Type::Deferred {
            e = other;
        }
    }
    if e.ty == Type::Deferred {
        let deferred = Deferred::new(source, text, map, scope, &tree);
        e.kind = Kind::Deferred(Arc::new(deferred));
    }
    place(&mut e, map);
    Ok(e)
}

/// Brings all spans from the expression's text to its source.
fn place(e: &mut Expr, map: &TextMap) {
    e.span = map.range(e.span.clone());
    for child in e.children_mut() {
        place(child, map);
    }
}

/// An error inside an expression's text, before it is placed in the source.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    span: Range<usize>,
    message: String,
    label: String,
    help: Option<String>,
}

impl Fault {
    pub(crate) fn new(span: Range<usize>, message: impl Into<String>) -> Fault {
        Fault {
            span,
            message: message.into(),
            label: String::new(),
            help: None,
        }
    }

    /// The error in the source.
    pub(crate) fn at(self, source: &Arc<Source>, map: &TextMap) -> Error {
        let mut e = Error::new(source, map.range(self.span), self.message).label(self.label);
        e.help = self.help;
        e
    }

    pub(crate) fn label(mut self, label: impl Into<String>) -> Fault {
        self.label = label.into();
        self
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Fault {
        self.help = Some(help.into());
        self
    }
}
