//! Typed trees back to text: what `--explain` shows. The text parses to the same meaning; pointer arithmetic
//! is shown in bytes.

use std::fmt::{self, Display, Formatter, Write as _};

use super::{BinOp, Expr, Kind, Type, UnOp};

impl BinOp {
    /// As it is written.
    pub fn text(self) -> &'static str {
        match self {
            BinOp::Add => "+",
            BinOp::Sub => "-",
            BinOp::Mul => "*",
            BinOp::Div => "/",
            BinOp::Rem => "%",
            BinOp::And => "&",
            BinOp::Or => "|",
            BinOp::Xor => "^",
            BinOp::Shl => "<<",
            BinOp::Shr => ">>",
            BinOp::Eq => "==",
            BinOp::Ne => "!=",
            BinOp::Lt => "<",
            BinOp::Le => "<=",
            BinOp::Gt => ">",
            BinOp::Ge => ">=",
            BinOp::LogAnd => "&&",
            BinOp::LogOr => "||",
        }
    }

    /// Whether it compares two values.
    pub fn compares(self) -> bool {
        matches!(
            self,
            BinOp::Eq | BinOp::Ne | BinOp::Lt | BinOp::Le | BinOp::Gt | BinOp::Ge
        )
    }

    /// Whether its value is 0 or 1.
    pub fn is_truth(self) -> bool {
        self.compares() || matches!(self, BinOp::LogAnd | BinOp::LogOr)
    }

    /// C's precedence; a higher one binds tighter.
    fn precedence(self) -> u8 {
        match self {
            BinOp::LogOr => 2,
            BinOp::LogAnd => 3,
            BinOp::Or => 4,
            BinOp::Xor => 5,
            BinOp::And => 6,
            BinOp::Eq | BinOp::Ne => 7,
            BinOp::Lt | BinOp::Le | BinOp::Gt | BinOp::Ge => 8,
            BinOp::Shl | BinOp::Shr => 9,
            BinOp::Add | BinOp::Sub => 10,
            BinOp::Mul | BinOp::Div | BinOp::Rem => 11,
        }
    }
}

impl UnOp {
    /// As it is written.
    pub fn text(self) -> &'static str {
        match self {
            UnOp::Neg => "-",
            UnOp::BitNot => "~",
            UnOp::LogNot => "!",
        }
    }
}

impl Display for Type {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Type::Int { bits, signed } => write!(f, "{}{bits}", if *signed { 'i' } else { 'u' }),
            Type::Ptr { to } => match **to {
                // What everybody writes.
                Type::Int {
                    bits: 8,
                    signed: true,
                } => f.write_str("char*"),
                _ => write!(f, "{to}*"),
            },
            Type::Void => f.write_str("void"),
            Type::Str => f.write_str("text"),
            Type::Bytes => f.write_str("bytes"),
            Type::Function => f.write_str("function"),
            Type::Stack => f.write_str("stack"),
            Type::Address => f.write_str("address"),
            Type::Enum(e) => f.write_str(&e.name),
            Type::Named(named) => f.write_str(&named.name),
            Type::Deferred => f.write_str("by debug information"),
        }
    }
}

impl Type {
    /// In a sentence: "a 64-bit integer", "a pointer to u32".
    pub(crate) fn describe(&self) -> String {
        match self {
            Type::Int {
                bits: 64,
                signed: false,
            } => "a 64-bit integer".to_owned(),
            Type::Int { bits, signed: true } => format!("a signed {bits}-bit integer"),
            Type::Int {
                bits,
                signed: false,
            } => format!("an unsigned {bits}-bit integer"),
            Type::Ptr { to } => format!("a pointer to {to}"),
            Type::Void => "void".to_owned(),
            Type::Str => "a text".to_owned(),
            Type::Bytes => "a run of bytes".to_owned(),
            Type::Function => "a function".to_owned(),
            Type::Stack => "a stack".to_owned(),
            Type::Address => "an address of the network".to_owned(),
            Type::Enum(e) => format!("a value of {}", e.name),
            Type::Named(named) => format!("a {}", named.name),
            Type::Deferred => "known by debug information".to_owned(),
        }
    }
}

const COND: u8 = 1;
const UNARY: u8 = 12;
const ATOM: u8 = 13;

impl Display for Expr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write(f, self, 0, false)
    }
}

/// Writes `e`, in parentheses when it binds looser than `least`. `bytes`: an address in a context where it
/// must count in bytes, so no pointer type may show.
fn write(f: &mut Formatter<'_>, e: &Expr, least: u8, bytes: bool) -> fmt::Result {
    // An address counts in bytes when its type is left out; casts to pointers change no bits.
    if bytes
        && let Kind::Cast(inner) = &e.kind
        && matches!(e.ty, Type::Ptr { .. })
    {
        return write(f, inner, least, true);
    }
    let own = match &e.kind {
        Kind::Binary { op, .. } => op.precedence(),
        Kind::Cond { .. } => COND,
        Kind::Cast(_) if is_task(e) => ATOM,
        Kind::Unary { .. } | Kind::Cast(_) | Kind::Load(_) | Kind::Task => UNARY,
        Kind::Int(v) if cast_of(e, *v, bytes) || (e.ty == Type::I64 && (*v as i64) < 0) => UNARY,
        _ => ATOM,
    };
    let wrap = own < least;
    if wrap {
        f.write_char('(')?;
    }
    write_bare(f, e, own, bytes)?;
    if wrap {
        f.write_char(')')?;
    }
    Ok(())
}

/// Whether a constant needs its type to be read back as it is.
fn cast_of(e: &Expr, v: u64, bytes: bool) -> bool {
    let bare = if v > i64::MAX as u64 && e.ty != Type::I64 {
        Type::U64
    } else {
        Type::I64
    };
    e.ty != bare && !(bytes && matches!(e.ty, Type::Ptr { .. }))
}

fn write_bare(f: &mut Formatter<'_>, e: &Expr, own: u8, bytes: bool) -> fmt::Result {
    match &e.kind {
        Kind::Int(v) => {
            if cast_of(e, *v, bytes) {
                write!(f, "({})", e.ty)?;
            }
            if matches!(e.ty, Type::Int { signed: true, .. }) {
                write!(f, "{}", *v as i64)
            } else {
                write!(f, "{v}")
            }
        }
        Kind::Str(text) => quote(f, text),
        Kind::Builtin(b) => f.write_str(b.name()),
        Kind::Arg(n) => write!(f, "arg{n}"),
        Kind::Reg(n) => match super::check::register_name(*n) {
            Some(name) => write!(f, "reg(\"{name}\")"),
            None => write!(f, "reg({n})"),
        },
        Kind::Deferred(deferred) => f.write_str(deferred.text().trim()),
        Kind::Field(offset) => write!(f, "field({offset})"),
        Kind::Context => f.write_str("context"),
        // Its type is the kernel's: what is added to it there counts in bytes.
        Kind::Task => f.write_str("(u64)curtask"),
        Kind::Cast(_) if is_task(e) => f.write_str("curtask"),
        Kind::Stack { user } => f.write_str(if *user { "ustack" } else { "kstack" }),
        Kind::Swap(inner) => {
            f.write_str(match e.ty.size() {
                Some(2) => "ntohs(",
                Some(4) => "ntohl(",
                _ => "ntohll(",
            })?;
            write(f, inner, 0, false)?;
            f.write_char(')')
        }
        Kind::Address {
            family,
            v4,
            v6,
            port,
        } => {
            f.write_str(if port.is_some() { "endpoint(" } else { "ntop(" })?;
            match family {
                Some(family) => write(f, family, 0, false)?,
                None => f.write_str(if v6.is_some() { "10" } else { "2" })?,
            }
            for place in [v4, v6] {
                f.write_str(", ")?;
                match place {
                    Some(at) => write_address(f, at)?,
                    None => f.write_char('0')?,
                }
            }
            if let Some(port) = port {
                f.write_str(", ")?;
                write(f, port, 0, false)?;
            }
            f.write_char(')')
        }
        Kind::Retval => f.write_str("retval"),
        Kind::Latency => f.write_str("latency"),
        Kind::Depth => f.write_str("depth"),
        Kind::SelfTime => f.write_str("self"),
        Kind::Spent(on) => f.write_str(on.name()),
        Kind::Parent => f.write_str("parent"),
        Kind::Capture(name) => f.write_str(name),
        Kind::Load(addr) => {
            let shown = if bytes && matches!(e.ty, Type::Ptr { .. }) {
                &Type::U64
            } else {
                &e.ty
            };
            write!(f, "*({}*)", Star(shown))?;
            write(f, addr, UNARY, true)
        }
        Kind::Unary { op, e } => {
            f.write_str(op.text())?;
            // `--x` would be one sign too many to read.
            write(f, e, if *op == UnOp::Neg { ATOM } else { UNARY }, false)
        }
        Kind::Binary { op, a, b, .. } => {
            let pointers = matches!(e.ty, Type::Ptr { .. })
                || (*op == BinOp::Sub && matches!(a.ty, Type::Ptr { .. }));
            write(f, a, own, pointers || bytes)?;
            write!(f, " {} ", op.text())?;
            write(f, b, own + 1, pointers || bytes)
        }
        Kind::Cond { c, a, b } => {
            write(f, c, COND + 1, false)?;
            f.write_str(" ? ")?;
            write(f, a, COND + 1, bytes)?;
            f.write_str(" : ")?;
            write(f, b, COND, bytes)
        }
        Kind::Cast(inner) if matches!(&e.ty, Type::Enum(t) if t.name == super::errno::NAME) => {
            f.write_str("errno(")?;
            write(f, inner, 0, false)?;
            f.write_char(')')
        }
        Kind::Cast(inner) => {
            write!(f, "({})", e.ty)?;
            write(f, inner, UNARY, matches!(inner.ty, Type::Ptr { .. }))
        }
        Kind::ReadStr { addr, len } => {
            f.write_str("str(")?;
            write(f, addr, 0, true)?;
            if let Some(len) = len {
                f.write_str(", ")?;
                write(f, len, 0, false)?;
            }
            f.write_char(')')
        }
        Kind::ReadBuf { addr, len } => {
            f.write_str("buf(")?;
            write(f, addr, 0, true)?;
            f.write_str(", ")?;
            write(f, len, 0, false)?;
            f.write_char(')')
        }
        Kind::ReadChars { addr, size } => {
            f.write_str("chars(")?;
            write(f, addr, 0, true)?;
            write!(f, ", {size})")
        }
        Kind::After(inner) => {
            f.write_str("after(")?;
            write(f, inner, 0, false)?;
            f.write_char(')')
        }
    }
}

/// Whether it is `curtask` with its type.
fn is_task(e: &Expr) -> bool {
    matches!((&e.kind, &e.ty), (Kind::Cast(inner), Type::Ptr { .. }) if inner.kind == Kind::Task)
}

/// Where an address of the network stands: as a number, which no size is read out of.
fn write_address(f: &mut Formatter<'_>, at: &Expr) -> fmt::Result {
    if at.ty == Type::U64 {
        return write(f, at, 0, true);
    }
    f.write_str("(u64)")?;
    write(f, at, UNARY, true)
}

/// A pointee type: `char` where `char*` would be shown.
struct Star<'a>(&'a Type);

impl Display for Star<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Type::Int {
                bits: 8,
                signed: true,
            } => f.write_str("char"),
            ty => ty.fmt(f),
        }
    }
}

fn quote(f: &mut Formatter<'_>, text: &str) -> fmt::Result {
    f.write_char('"')?;
    for c in text.chars() {
        match c {
            '"' | '\\' => write!(f, "\\{c}")?,
            '\n' => f.write_str("\\n")?,
            '\t' => f.write_str("\\t")?,
            '\r' => f.write_str("\\r")?,
            c if c.is_ascii_control() => write!(f, "\\x{:02x}", c as u32)?,
            c => f.write_char(c)?,
        }
    }
    f.write_char('"')
}
