//! Syntax tree to typed tree.

use std::ops::Range;

use super::parse::{Node, Syntax, TypeName};
use super::{BinOp, Builtin, Expr, Fault, Kind, MAX_COMPARED, Scope, Type, UnOp, fold, text};
use crate::model::Value;
use crate::suggest;

const BUILTINS: &[Builtin] = &[
    Builtin::Pid,
    Builtin::Tid,
    Builtin::Uid,
    Builtin::Gid,
    Builtin::Cgroup,
    Builtin::Nsecs,
    Builtin::Cpu,
    Builtin::Comm,
];

const FUNCTIONS: &[&str] = &["str", "buf", "after"];

/// What bpftrace knows and this language does not: said so, rather than "unknown".
const NOT_YET: &[&str] = &[
    "ntop", "ustack", "kstack", "usym", "ksym", "uaddr", "kaddr", "reg", "func", "probe",
    "curtask", "rand", "args", "strncmp", "strftime", "printf", "count", "sum", "avg", "min",
    "max", "hist", "lhist", "kstr", "cgroupid", "sizeof", "offsetof", "ppid", "username", "ctx",
    "jiffies", "elf",
];

/// Names that mean something in every expression, so that no capture can have them.
pub(crate) fn is_reserved(name: &str) -> bool {
    BUILTINS.iter().any(|b| b.name() == name)
        || FUNCTIONS.contains(&name)
        || TYPE_WORDS.contains(&name)
        || matches!(
            name,
            "retval" | "latency" | "elapsed" | "time" | "probe" | "true" | "false"
        )
        || argument(name).is_some()
}

/// The words that name a type.
pub(super) const TYPE_WORDS: &[&str] = &[
    "u8",
    "u16",
    "u32",
    "u64",
    "i8",
    "i16",
    "i32",
    "i64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8_t",
    "uint16_t",
    "uint32_t",
    "uint64_t",
    "int8_t",
    "int16_t",
    "int32_t",
    "int64_t",
    "char",
    "short",
    "int",
    "long",
    "unsigned",
    "signed",
    "const",
    "size_t",
    "ssize_t",
    "uintptr_t",
    "intptr_t",
    "bool",
    "void",
    "float",
    "double",
];

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

    fn name(&self, name: &str, span: &Range<usize>) -> Result<Checked> {
        let made = |kind, ty| {
            Ok(Checked::plain(Expr {
                kind,
                ty,
                span: span.clone(),
            }))
        };
        let truth = |v| {
            Ok(Checked {
                literal: true,
                ..Checked::plain(Expr {
                    kind: Kind::Int(v),
                    ty: Type::I64,
                    span: span.clone(),
                })
            })
        };
        match name {
            "true" => return truth(1),
            "false" => return truth(0),
            _ => {}
        }
        if self.scope.constant {
            let known: Vec<String> = self
                .scope
                .params
                .iter()
                .map(|(n, _)| format!("${n}"))
                .collect();
            let fault = Fault::new(
                span.clone(),
                format!("`{name}` is not known here: only parameters are"),
            );
            return Err(
                match suggest::help(&format!("${name}"), known.iter().map(String::as_str)) {
                    Some(help) => fault.help(help),
                    None => fault,
                },
            );
        }
        if let Some((_, e)) = self.scope.captures.iter().find(|(n, _)| n == name) {
            return made(Kind::Capture(name.to_owned()), e.ty.clone());
        }
        if let Some(b) = BUILTINS.iter().find(|b| b.name() == name) {
            return made(Kind::Builtin(*b), b.ty());
        }
        if let Some(n) = argument(name) {
            if n > 9 {
                return Err(Fault::new(
                    span.clone(),
                    format!("`{name}`: arguments go from arg0 to arg9"),
                ));
            }
            return made(Kind::Arg(n as u8), Type::U64);
        }
        match name {
            "retval" | "latency" | "elapsed" if !self.scope.call => Err(Fault::new(
                span.clone(),
                format!("`{name}` is known only when the call returns"),
            )
            .label("this probe fires at the entry")
            .help("use [[call]], or `uprof latency`, which see the return")),
            "retval" => made(Kind::Retval, Type::I64),
            "latency" | "elapsed" => made(Kind::Latency, Type::U64),
            _ if FUNCTIONS.contains(&name) => {
                Err(Fault::new(span.clone(), format!("`{name}` is a function")).help(usage(name)))
            }
            _ if NOT_YET.contains(&name) && !self.scope.params.iter().any(|(n, _)| n == name) => {
                Err(not_yet(name, span))
            }
            _ => Err(self.unknown_name(name, span)),
        }
    }

    fn unknown_name(&self, name: &str, span: &Range<usize>) -> Fault {
        let fault = Fault::new(span.clone(), format!("unknown name `{name}`"));
        if self.scope.params.iter().any(|(n, _)| n == name) {
            return fault.help(format!("a parameter is written with a dollar: `${name}`"));
        }
        let arguments: Vec<String> = (0..10).map(|i| format!("arg{i}")).collect();
        let known: Vec<&str> = BUILTINS
            .iter()
            .map(|b| b.name())
            .chain(["retval", "latency"])
            .chain(self.scope.captures.iter().map(|(n, _)| n.as_str()))
            .chain(arguments.iter().map(String::as_str))
            .collect();
        if let Some(near) = suggest::nearest(name, known.iter().copied()) {
            return fault.help(format!("did you mean `{near}`?"));
        }
        let captures: Vec<&str> = self
            .scope
            .captures
            .iter()
            .map(|(n, _)| n.as_str())
            .collect();
        let here = if captures.is_empty() {
            String::new()
        } else {
            format!(", captures: {}", captures.join(", "))
        };
        fault.help(format!("known: pid tid comm uid gid cgroup nsecs cpu arg0..arg9, in calls retval and latency{here}"))
    }

    fn param(&self, name: &str, span: &Range<usize>) -> Result<Checked> {
        let made = |kind, ty| {
            Ok(Checked {
                literal: true,
                param: true,
                e: Expr {
                    kind,
                    ty,
                    span: span.clone(),
                },
            })
        };
        let unsigned = |v: u64| {
            made(
                Kind::Int(v),
                if v > i64::MAX as u64 {
                    Type::U64
                } else {
                    Type::I64
                },
            )
        };
        match self.scope.params.iter().find(|(n, _)| n == name) {
            Some((_, Value::Duration(v) | Value::Size(v))) => unsigned(*v),
            Some((_, Value::Int(v))) => made(Kind::Int(*v as u64), Type::I64),
            Some((_, Value::Bool(v))) => made(Kind::Int(u64::from(*v)), Type::I64),
            Some((_, Value::String(v))) => made(Kind::Str(v.clone()), Type::Str),
            None => {
                let fault = Fault::new(span.clone(), format!("unknown parameter `${name}`"));
                let known: Vec<String> = self
                    .scope
                    .params
                    .iter()
                    .map(|(n, _)| format!("${n}"))
                    .collect();
                Err(
                    match suggest::help(&format!("${name}"), known.iter().map(String::as_str)) {
                        Some(help) => fault.help(help),
                        None => fault
                            .help("declare it: [params] name = { type = \"int\", default = 0 }"),
                    },
                )
            }
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

    fn call(
        &self,
        n: &Node,
        name: &str,
        name_span: &Range<usize>,
        args: &[Node],
    ) -> Result<Checked> {
        if !FUNCTIONS.contains(&name) {
            if NOT_YET.contains(&name) {
                return Err(not_yet(name, name_span));
            }
            let fault = Fault::new(name_span.clone(), format!("unknown function `{name}`"));
            return Err(match suggest::help(name, FUNCTIONS.iter().copied()) {
                Some(help) => fault.help(help),
                None => fault,
            });
        }
        if self.scope.constant {
            return Err(Fault::new(
                n.span.clone(),
                format!("`{name}()` is not known here: only parameters are"),
            ));
        }
        let (least, most) = match name {
            "str" => (1, 2),
            "buf" => (2, 2),
            _ => (1, 1),
        };
        if args.len() < least || args.len() > most {
            let takes = if least == most {
                format!("{least}")
            } else {
                format!("{least} or {most}")
            };
            let plural = if most == 1 { "argument" } else { "arguments" };
            return Err(Fault::new(
                n.span.clone(),
                format!("`{name}` takes {takes} {plural}, found {}", args.len()),
            )
            .help(usage(name)));
        }
        if name == "after" {
            return self.after(n, &args[0]);
        }
        let addr = self.scalar(&args[0], &format!("`{name}()`"))?.e;
        if addr.as_int().is_some() {
            return Err(Fault::new(
                args[0].span.clone(),
                format!("`{name}()` reads from an address, and this is a constant"),
            )
            .help(usage(name)));
        }
        let len = args
            .get(1)
            .map(|a| self.scalar(a, &format!("`{name}()`")))
            .transpose()?;
        if let Some(c) = &len
            && c.e.ty == Type::I64
            && c.e.as_int().is_some_and(|v| (v as i64) < 0)
        {
            return Err(Fault::new(c.e.span.clone(), "a length cannot be negative"));
        }
        let (addr, len) = (Box::new(addr), len.map(|c| Box::new(c.e)));
        let (kind, ty) = match (name, len) {
            ("buf", Some(len)) => (Kind::ReadBuf { addr, len }, Type::Bytes),
            (_, len) => (Kind::ReadStr { addr, len }, Type::Str),
        };
        Ok(Checked::plain(Expr {
            kind,
            ty,
            span: n.span.clone(),
        }))
    }

    fn after(&self, n: &Node, arg: &Node) -> Result<Checked> {
        if !self.scope.call {
            return Err(Fault::new(
                n.span.clone(),
                "`after()` reads memory when the call returns",
            )
            .label("this probe fires at the entry")
            .help("use [[call]], which sees the return"));
        }
        let e = self.node(arg)?.e;
        if e.any(&|e| matches!(e.kind, Kind::After(_))) {
            return Err(
                Fault::new(n.span.clone(), "`after()` inside `after()`").help("one is enough")
            );
        }
        let reads = e.any(&|e| {
            matches!(
                e.kind,
                Kind::Load(_) | Kind::ReadStr { .. } | Kind::ReadBuf { .. } | Kind::Capture(_)
            )
        });
        if !reads {
            return Err(
                Fault::new(n.span.clone(), "nothing in `after()` is read from memory")
                    .help("after(*(u64*)arg0) is what arg0 points to when the call returns"),
            );
        }
        let ty = e.ty.clone();
        Ok(Checked::plain(Expr {
            kind: Kind::After(Box::new(e)),
            ty,
            span: n.span.clone(),
        }))
    }

    fn index(&self, n: &Node, of: &Node, index: &Node) -> Result<Checked> {
        let base = self.scalar(of, "`[ ]`")?.e;
        let Type::Ptr { to } = base.ty.clone() else {
            let quote = self.quote(of);
            return Err(Fault::new(
                of.span.clone(),
                format!(
                    "`[ ]` needs a pointer, and `{quote}` is {}",
                    base.ty.describe()
                ),
            )
            .help(format!(
                "say what it points to: ((u32*){quote})[0], ((char**){quote})[1]"
            )));
        };
        let index = self.scalar(index, "`[ ]`")?;
        let pointer = base.ty.clone();
        let at = scaled(BinOp::Add, base, index.e, &to, pointer, n.span.clone());
        self.load(n, at)
    }

    fn deref(&self, n: &Node, e: &Node) -> Result<Checked> {
        let addr = self.scalar(e, "`*`")?.e;
        if !matches!(addr.ty, Type::Ptr { .. }) {
            let quote = self.quote(e);
            return Err(Fault::new(
                n.span.clone(),
                format!(
                    "`*` needs a pointer, and `{quote}` is {}",
                    addr.ty.describe()
                ),
            )
            .help(format!(
                "say what it points to: *(u32*){quote}, *(char**){quote}"
            )));
        }
        self.load(n, addr)
    }

    fn load(&self, n: &Node, addr: Expr) -> Result<Checked> {
        let Type::Ptr { to } = &addr.ty else {
            return Err(Fault::new(n.span.clone(), "reading memory needs a pointer"));
        };
        if **to == Type::Void {
            return Err(
                Fault::new(n.span.clone(), "a void* says nothing of what it points to")
                    .help("cast it to a pointer to a type: (u32*), (char**)"),
            );
        }
        let ty = (**to).clone();
        Ok(Checked::plain(Expr {
            kind: Kind::Load(Box::new(addr)),
            ty,
            span: n.span.clone(),
        }))
    }

    fn cast(&self, n: &Node, to: &TypeName, e: &Node) -> Result<Checked> {
        let ty = type_of(to)?;
        let c = self.scalar(e, "a cast")?;
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

    fn unary(&self, n: &Node, op: UnOp, e: &Node) -> Result<Checked> {
        let c = self.scalar(e, &format!("`{}`", op.text()))?;
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
        })
    }

    fn binary(&self, n: &Node, op: BinOp, left: &Node, right: &Node) -> Result<Checked> {
        if matches!(op, BinOp::Eq | BinOp::Ne) {
            let (a, b) = (self.node(left)?, self.node(right)?);
            if !a.e.ty.is_scalar() || !b.e.ty.is_scalar() {
                return self.texts(n, op, (left, a), (right, b));
            }
            return self.numbers(n, op, (left, a), (right, b));
        }
        let what = format!("`{}`", op.text());
        // Order of texts: say that of them, rather than that a number is wanted.
        if matches!(op, BinOp::Lt | BinOp::Le | BinOp::Gt | BinOp::Ge) {
            for side in [left, right] {
                if matches!(self.node(side)?.e.ty, Type::Str | Type::Bytes) {
                    return Err(Fault::new(
                        n.span.clone(),
                        format!("{what} does not compare texts"),
                    )
                    .help("texts are compared by == and !="));
                }
            }
        }
        let (a, b) = (self.scalar(left, &what)?, self.scalar(right, &what)?);
        self.numbers(n, op, (left, a), (right, b))
    }

    fn numbers(
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
            return Ok(Checked::plain(pointer));
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
        })
    }

    /// Constants that make an operation senseless.
    fn odd_constant(
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
    fn pointer_arithmetic(&self, n: &Node, op: BinOp, a: &Expr, b: &Expr) -> Result<Option<Expr>> {
        let pointee = |e: &Expr| {
            if let Type::Ptr { to } = &e.ty {
                Some((**to).clone())
            } else {
                None
            }
        };
        let span = n.span.clone();
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

    fn texts(
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
    fn comparable(&self, a: &Checked, literal: &str, param: bool, at: &Node) -> Result<()> {
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

    fn cond(&self, n: &Node, c: &Node, a: &Node, b: &Node) -> Result<Checked> {
        let condition = self.scalar(c, "the condition of `?:`")?;
        let (left, right) = (self.node(a)?, self.node(b)?);
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
            return Ok(Checked { e, literal, param });
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
            literal: false,
            param,
        })
    }
}

/// `base + index * size`, with the multiplication left out where it can be.
fn scaled(op: BinOp, base: Expr, index: Expr, to: &Type, ty: Type, span: Range<usize>) -> Expr {
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
fn signedness(op: BinOp, a: &Checked, b: &Checked) -> bool {
    let unsigned = |c: &Checked| is_u64(&c.e.ty);
    match op {
        BinOp::Shl | BinOp::Shr => !unsigned(a),
        BinOp::LogAnd | BinOp::LogOr | BinOp::Eq | BinOp::Ne => false,
        _ => !(unsigned(a) || unsigned(b)),
    }
}

fn is_u64(ty: &Type) -> bool {
    matches!(
        ty,
        Type::Int {
            bits: 64,
            signed: false
        } | Type::Ptr { .. }
    )
}

/// `arg3` -> 3
fn argument(name: &str) -> Option<u32> {
    let digits = name.strip_prefix("arg")?;
    if digits.len() > 1 && digits.starts_with('0') {
        return None;
    }
    digits.bytes().all(|b| b.is_ascii_digit()).then_some(())?;
    digits.parse().ok()
}

fn not_yet(name: &str, span: &Range<usize>) -> Fault {
    let fault = Fault::new(
        span.clone(),
        format!("`{name}` is known to bpftrace; it is not supported here yet"),
    );
    match name {
        "strncmp" => fault.help("str(p, n) == \"text\" compares"),
        "count" | "hist" | "lhist" => fault.help(
            "counts and histograms are keys of the probe: count = true, histogram = \"arg0\"",
        ),
        "args" => fault.help("arguments by position: arg0"),
        _ => fault,
    }
}

fn usage(function: &str) -> &'static str {
    match function {
        "str" => "str(p) is the text at p up to its NUL, str(p, n) the text of n bytes",
        "buf" => "buf(p, n) is the n bytes at p",
        _ => "after(e) reads the memory in e when the call returns",
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
