//! From a recipe's typed expressions to the engine's.
//!
//! In a call, whatever does not depend on the return is evaluated at entry and saved in the call's frame, since
//! arguments and what they point to may be gone when the function returns. Only what `after(...)` wraps reads
//! memory at the return. Captures that an expression names are put in their place before
//! ([`Expr::with_captures`]).

use uprof_ebpf::expr::{self as b, Expr as B};
use uprof_ebpf::{Capture, KeyPart, MAX_STACK_FRAMES};
use uprof_recipes::{BinOp, Builtin, Expr, Kind, Type, UnOp};

/// The most bytes of an address of the network.
const ADDRESS: u32 = 16;
/// The most bytes of a text that is part of a key.
const KEY_TEXT: u32 = 64;

/// Lowers the expressions of one probe. For a call it gathers what the frame must save.
#[derive(Default)]
pub struct Lowering {
    /// The probe is a call: expressions run in its return part.
    pub call: bool,
    /// What entry saves, by index.
    pub saved: Vec<Capture>,
    /// Up to how many bytes of a text or buffer are captured.
    pub text_limit: u32,
}

impl Lowering {
    /// An expression of a probe's entry part.
    pub fn entry(&self, e: &Expr) -> B {
        let two = |a: &Expr, c: &Expr| (Box::new(self.entry(a)), Box::new(self.entry(c)));
        match &e.kind {
            Kind::Int(v) => B::Const(*v),
            Kind::Builtin(builtin) => builtin_of(*builtin),
            Kind::Arg(n) => B::Arg(*n),
            Kind::Reg(n) => B::Reg(*n),
            Kind::Retval => B::Retval,
            Kind::Latency => B::Latency,
            Kind::Depth => B::Depth,
            Kind::SelfTime => B::SelfTime,
            Kind::Spent(on) => B::Spent(b::Spent::ALL[*on as usize]),
            Kind::Parent => B::Parent,
            Kind::Load(addr) => B::Load {
                addr: Box::new(self.entry(addr)),
                ty: int_type(&e.ty),
            },
            Kind::Unary { op, e } => B::Unary(unary(*op), Box::new(self.entry(e))),
            Kind::Binary { op, a, b, .. } if is_text(a) || is_text(b) => {
                text_comparison(*op, a, b, &mut |e| self.entry(e))
            }
            Kind::Binary { op, signed, a, b } => {
                let (a, b) = two(a, b);
                B::Binary {
                    op: binary(*op),
                    signed: *signed,
                    a,
                    b,
                }
            }
            Kind::Cond { c, a, b } => {
                let (a, b) = two(a, b);
                B::Cond(Box::new(self.entry(c)), a, b)
            }
            Kind::Cast(inner) => cast(&e.ty, self.entry(inner)),
            Kind::Field(offset) => B::Field {
                offset: *offset,
                ty: int_type(&e.ty),
            },
            Kind::Context => B::Context,
            Kind::Task => B::Task,
            Kind::Swap(inner) => swap(&e.ty, self.entry(inner)),
            Kind::After(inner) => self.entry(inner),
            // Captures are put in their place beforehand, and what is deferred is bound; texts are captured, keys,
            // or sides of a comparison: the checker lets them stand nowhere else.
            Kind::Capture(_)
            | Kind::Deferred(_)
            | Kind::Stack { .. }
            | Kind::Address { .. }
            | Kind::Str(_)
            | Kind::ReadStr { .. }
            | Kind::ReadChars { .. }
            | Kind::ReadBuf { .. } => B::Const(0),
        }
    }

    /// An expression of a call's return part; `after`: inside `after(...)`, where memory is read at the return.
    fn at_return(&mut self, e: &Expr, after: bool) -> B {
        if !after && !e.needs_return() && depends_on_entry(e) {
            let value = self.entry(e);
            return self.save(Capture::Int(value));
        }
        match &e.kind {
            Kind::Arg(_) | Kind::Reg(_) | Kind::Field(_) | Kind::Context => {
                let value = self.entry(e);
                self.save(Capture::Int(value))
            }
            Kind::Load(addr) => B::Load {
                addr: Box::new(self.at_return(addr, after)),
                ty: int_type(&e.ty),
            },
            Kind::Unary { op, e } => B::Unary(unary(*op), Box::new(self.at_return(e, after))),
            Kind::Binary { op, a, b, .. } if is_text(a) || is_text(b) => {
                text_comparison(*op, a, b, &mut |e| self.at_return(e, after))
            }
            Kind::Binary { op, signed, a, b } => B::Binary {
                op: binary(*op),
                signed: *signed,
                a: Box::new(self.at_return(a, after)),
                b: Box::new(self.at_return(b, after)),
            },
            Kind::Cond { c, a, b } => B::Cond(
                Box::new(self.at_return(c, after)),
                Box::new(self.at_return(a, after)),
                Box::new(self.at_return(b, after)),
            ),
            Kind::Cast(inner) => cast(&e.ty, self.at_return(inner, after)),
            Kind::Swap(inner) => swap(&e.ty, self.at_return(inner, after)),
            Kind::After(inner) => self.at_return(inner, true),
            _ => self.entry(e),
        }
    }

    /// A scalar expression where the probe's action runs.
    pub fn scalar(&mut self, e: &Expr) -> B {
        if self.call {
            self.at_return(e, false)
        } else {
            self.entry(e)
        }
    }

    /// An address of the network: its bytes, 4 or 16 of them, and the port.
    pub fn address(&mut self, e: &Expr) -> Option<(Capture, Option<Capture>)> {
        let Kind::Address { port, .. } = &e.kind else {
            return None;
        };
        let early = self.call && !e.needs_return();
        let bytes = match early {
            true => {
                let bytes = self.address_bytes(e, &mut |l, e| l.entry(e))?;
                Capture::Saved(self.index_of(bytes))
            }
            false => self.address_bytes(e, &mut |l, e| l.scalar(e))?,
        };
        let port = port.as_ref().map(|port| Capture::Int(self.scalar(port)));
        Some((bytes, port))
    }

    fn address_bytes(
        &mut self,
        e: &Expr,
        lower: &mut dyn FnMut(&mut Self, &Expr) -> B,
    ) -> Option<Capture> {
        let (addr, len) = self.address_place(e, lower)?;
        Some(Capture::Buf {
            addr,
            len,
            limit: ADDRESS,
        })
    }

    /// Where the bytes of an address stand, and how many there are: none for a family that has neither form.
    fn address_place(
        &mut self,
        e: &Expr,
        lower: &mut dyn FnMut(&mut Self, &Expr) -> B,
    ) -> Option<(B, B)> {
        let Kind::Address { family, v4, v6, .. } = &e.kind else {
            return None;
        };
        let v4 = v4.as_ref().map(|a| (lower(self, a), B::Const(4)));
        let v6 = v6
            .as_ref()
            .map(|a| (lower(self, a), B::Const(ADDRESS.into())));
        let Some(family) = family else {
            return v6.or(v4);
        };
        let family = lower(self, family);
        let is = |number: u16| B::Binary {
            op: b::BinOp::Eq,
            signed: false,
            a: Box::new(family.clone()),
            b: Box::new(B::Const(number.into())),
        };
        let either = |test: B, yes: B, no: B| B::Cond(Box::new(test), Box::new(yes), Box::new(no));
        let none = || (B::Const(0), B::Const(0));
        let (at6, len6) = v6.unwrap_or_else(none);
        let (at4, len4) = v4.unwrap_or_else(none);
        let len6 = either(is(libc::AF_INET6 as u16), len6, B::Const(0));
        Some((
            either(is(libc::AF_INET as u16), at4, at6),
            either(is(libc::AF_INET as u16), len4, len6),
        ))
    }

    /// A capture of an event.
    pub fn capture(&mut self, e: &Expr) -> Capture {
        if let Kind::Stack { user } = e.kind {
            return Capture::Stack {
                user,
                frames: MAX_STACK_FRAMES,
            };
        }
        let late = e.needs_return();
        let limit = self.text_limit;
        if self.call && !late && !e.ty.is_scalar() && e.kind != Kind::Builtin(Builtin::Comm) {
            let text = self.text(e, limit, &mut |l, e| l.entry(e));
            let index = self.index_of(text);
            return Capture::Saved(index);
        }
        match e.ty {
            Type::Str | Type::Bytes => self.text(e, limit, &mut |l, e| l.scalar(e)),
            _ => Capture::Int(self.scalar(e)),
        }
    }

    fn text(
        &mut self,
        e: &Expr,
        limit: u32,
        lower: &mut dyn FnMut(&mut Self, &Expr) -> B,
    ) -> Capture {
        match &e.kind {
            Kind::ReadStr { addr, len } => {
                let addr = lower(self, addr);
                Capture::Str {
                    addr,
                    len: len.as_ref().map(|l| lower(self, l)),
                    limit,
                }
            }
            Kind::ReadChars { addr, size } => Capture::Str {
                addr: lower(self, addr),
                len: None,
                limit: limit.min(*size),
            },
            Kind::ReadBuf { addr, len } => {
                let addr = lower(self, addr);
                Capture::Buf {
                    addr,
                    len: lower(self, len),
                    limit,
                }
            }
            Kind::After(inner) => self.text(inner, limit, &mut |l, e| l.at_return(e, true)),
            // `comm` as a capture: every record carries it; the decoder takes it from there.
            _ => Capture::Int(B::Const(0)),
        }
    }

    /// The parts of a key that an expression is; `None` for bytes.
    pub fn key(&mut self, e: &Expr) -> Option<Vec<KeyPart>> {
        match &e.kind {
            Kind::Address { port, .. } => {
                let (addr, len) = self.address_place(e, &mut |l, e| l.scalar(e))?;
                let port = port.as_ref().map(|port| KeyPart::Int(self.scalar(port)));
                let bytes = KeyPart::Buf {
                    addr,
                    len,
                    limit: ADDRESS,
                };
                Some(std::iter::once(bytes).chain(port).collect())
            }
            // Addresses mean something in their process alone.
            Kind::Stack { user: true } => Some(vec![
                KeyPart::Int(B::Builtin(b::Builtin::Pid)),
                KeyPart::Stack { user: true },
            ]),
            Kind::Stack { user: false } => Some(vec![KeyPart::Stack { user: false }]),
            _ => self.plain_key(e).map(|part| vec![part]),
        }
    }

    fn plain_key(&mut self, e: &Expr) -> Option<KeyPart> {
        match &e.kind {
            Kind::Builtin(Builtin::Comm) => Some(KeyPart::Comm),
            Kind::After(inner) if !inner.ty.is_scalar() => {
                self.key_text(inner, &mut |l, e| l.at_return(e, true))
            }
            _ if e.ty.is_scalar() || e.ty == Type::Function => Some(KeyPart::Int(self.scalar(e))),
            _ => self.key_text(e, &mut |l, e| l.scalar(e)),
        }
    }

    fn key_text(
        &mut self,
        e: &Expr,
        lower: &mut dyn FnMut(&mut Self, &Expr) -> B,
    ) -> Option<KeyPart> {
        match &e.kind {
            Kind::ReadStr { addr, len } => Some(KeyPart::Str {
                addr: lower(self, addr),
                len: len.as_ref().map(|l| lower(self, l)),
                limit: KEY_TEXT,
            }),
            Kind::ReadChars { addr, size } => Some(KeyPart::Str {
                addr: lower(self, addr),
                len: None,
                limit: KEY_TEXT.min(*size),
            }),
            _ => None,
        }
    }

    /// Splits a call's filter: what can be decided at entry, and the rest for the return.
    pub fn split_filter(&mut self, filter: &Expr) -> (Option<B>, Option<B>) {
        let (mut early, mut late) = (None, None);
        for conjunct in conjuncts(filter) {
            if conjunct.needs_return() {
                let lowered = self.at_return(conjunct, false);
                late = Some(and(late, lowered));
            } else {
                early = Some(and(early, self.entry(conjunct)));
            }
        }
        (early, late)
    }

    fn save(&mut self, capture: Capture) -> B {
        B::Saved(self.index_of(capture))
    }

    fn index_of(&mut self, capture: Capture) -> u16 {
        let known = self.saved.iter().position(|c| *c == capture);
        known.unwrap_or_else(|| {
            self.saved.push(capture);
            self.saved.len() - 1
        }) as u16
    }
}

/// `str(p) == "x"`, `comm != "King"`: one side is a literal.
fn text_comparison(op: BinOp, a: &Expr, b: &Expr, lower: &mut dyn FnMut(&Expr) -> B) -> B {
    let (text, literal) = match (&a.kind, &b.kind) {
        (Kind::Str(literal), _) => (b, literal),
        (_, Kind::Str(literal)) => (a, literal),
        _ => return B::Const(0),
    };
    let what = match &text.kind {
        Kind::ReadStr { addr, .. } | Kind::ReadBuf { addr, .. } => b::BytesSource::Str {
            addr: Box::new(lower(addr)),
        },
        _ => b::BytesSource::Comm,
    };
    let equal = B::BytesEq {
        what,
        literal: literal.as_bytes().to_vec(),
    };
    match op {
        BinOp::Ne => B::Unary(b::UnOp::LogNot, Box::new(equal)),
        _ => equal,
    }
}

/// Both, where there is a first.
pub fn and(first: Option<B>, second: B) -> B {
    match first {
        None => second,
        Some(first) => B::Binary {
            op: b::BinOp::LogAnd,
            signed: false,
            a: Box::new(first),
            b: Box::new(second),
        },
    }
}

fn conjuncts(e: &Expr) -> Vec<&Expr> {
    match &e.kind {
        Kind::Binary {
            op: BinOp::LogAnd,
            a,
            b,
            ..
        } => {
            let mut all = conjuncts(a);
            all.extend(conjuncts(b));
            all
        }
        _ => vec![e],
    }
}

fn depends_on_entry(e: &Expr) -> bool {
    let entry = |e: &Expr| {
        matches!(
            e.kind,
            Kind::Arg(_)
                | Kind::Reg(_)
                | Kind::Field(_)
                | Kind::Context
                | Kind::Load(_)
                | Kind::ReadStr { .. }
                | Kind::ReadChars { .. }
                | Kind::Builtin(Builtin::Nsecs | Builtin::Cpu)
        )
    };
    e.any(&entry)
}

/// The registers that an expression takes at entry: bit n for argument n.
pub fn args_of(e: &Expr) -> Vec<u8> {
    let mut args = Vec::new();
    collect_args(e, &mut args);
    args
}

fn collect_args(e: &Expr, args: &mut Vec<u8>) {
    if let Kind::Arg(n) = e.kind {
        args.push(n);
    }
    for child in e.children() {
        collect_args(child, args);
    }
}

fn is_text(e: &Expr) -> bool {
    matches!(e.ty, Type::Str | Type::Bytes)
}

fn cast(ty: &Type, e: B) -> B {
    match ty {
        Type::Int { bits: 64, .. } | Type::Ptr { .. } => e,
        _ => match int_type(ty) {
            b::IntType { bits: 64, .. } => e,
            ty => B::Cast { ty, e: Box::new(e) },
        },
    }
}

/// From the network's byte order.
fn swap(ty: &Type, e: B) -> B {
    let bits = int_type(ty).bits;
    B::Swap {
        bits,
        e: Box::new(e),
    }
}

/// The buckets of a histogram.
pub fn scale(scale: uprof_recipes::Scale) -> uprof_ebpf::Scale {
    match scale {
        uprof_recipes::Scale::Log => uprof_ebpf::Scale::Log,
        uprof_recipes::Scale::Linear { from, to, step } => uprof_ebpf::Scale::Linear {
            from,
            step,
            buckets: (to.wrapping_sub(from).cast_unsigned() / step.max(1)) as u32,
        },
    }
}

fn int_type(ty: &Type) -> b::IntType {
    match ty.as_int() {
        Some((bits, signed)) => b::IntType { bits, signed },
        None => b::IntType {
            bits: 64,
            signed: false,
        },
    }
}

fn builtin_of(builtin: Builtin) -> B {
    B::Builtin(match builtin {
        Builtin::Pid => b::Builtin::Pid,
        Builtin::Tid => b::Builtin::Tid,
        Builtin::Uid => b::Builtin::Uid,
        Builtin::Gid => b::Builtin::Gid,
        Builtin::Cgroup => b::Builtin::Cgroup,
        Builtin::Nsecs => b::Builtin::Nsecs,
        Builtin::Cpu => b::Builtin::Cpu,
        Builtin::Comm => return B::Const(0),
    })
}

fn unary(op: UnOp) -> b::UnOp {
    match op {
        UnOp::Neg => b::UnOp::Neg,
        UnOp::BitNot => b::UnOp::BitNot,
        UnOp::LogNot => b::UnOp::LogNot,
    }
}

fn binary(op: BinOp) -> b::BinOp {
    match op {
        BinOp::Add => b::BinOp::Add,
        BinOp::Sub => b::BinOp::Sub,
        BinOp::Mul => b::BinOp::Mul,
        BinOp::Div => b::BinOp::Div,
        BinOp::Rem => b::BinOp::Rem,
        BinOp::And => b::BinOp::And,
        BinOp::Or => b::BinOp::Or,
        BinOp::Xor => b::BinOp::Xor,
        BinOp::Shl => b::BinOp::Shl,
        BinOp::Shr => b::BinOp::Shr,
        BinOp::Eq => b::BinOp::Eq,
        BinOp::Ne => b::BinOp::Ne,
        BinOp::Lt => b::BinOp::Lt,
        BinOp::Le => b::BinOp::Le,
        BinOp::Gt => b::BinOp::Gt,
        BinOp::Ge => b::BinOp::Ge,
        BinOp::LogAnd => b::BinOp::LogAnd,
        BinOp::LogOr => b::BinOp::LogOr,
    }
}

#[cfg(test)]
#[path = "lower_tests.rs"]
mod tests;
