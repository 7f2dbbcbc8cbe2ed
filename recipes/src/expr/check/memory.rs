//! What reads memory: `str`, `buf`, `after`, `*p`, `p[i]`.

use std::ops::Range;

use super::super::parse::{Node, Syntax};
use super::super::{BinOp, Expr, Fault, Kind, Type};
use super::names::{FUNCTIONS, NOT_YET, not_yet, register_name};
use super::numbers::{known_size, scaled};
use super::place::word;
use super::{Checked, Checker, Result};
use crate::debug::Place;
use crate::model::MAX_TEXT_LIMIT;
use crate::suggest;

/// The largest array whose text `chars` reads, in bytes.
const MOST_CHARS: u64 = MAX_TEXT_LIMIT as u64;

impl Checker<'_> {
    pub(super) fn call(
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
        arity(n, name, args.len())?;
        match name {
            "after" => return self.after(n, &args[0]),
            "reg" => return self.register(n, &args[0]),
            "sock" => return self.sock(n, &args[0]),
            "ntop" | "endpoint" => return self.address(n, name, args),
            "ntohs" | "ntohl" | "ntohll" => return self.host_order(n, name, &args[0]),
            "errno" => return self.errno(n, &args[0]),
            "called_by" => return self.called_by(n, &args[0]),
            _ => {}
        }
        let addr = self.scalar(&args[0], &format!("`{name}()`"))?;
        if addr.is_deferred() {
            for other in &args[1..] {
                self.scalar(other, &format!("`{name}()`"))?;
            }
            return Ok(Checked::deferred(&n.span));
        }
        let addr = addr.e;
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
        if len.as_ref().is_some_and(Checked::is_deferred) {
            return Ok(Checked::deferred(&n.span));
        }
        if let Some(c) = &len
            && c.e.ty == Type::I64
            && c.e.as_int().is_some_and(|v| (v as i64) < 0)
        {
            return Err(Fault::new(c.e.span.clone(), "a length cannot be negative"));
        }
        let (kind, ty) = reading(name, Box::new(addr), len.map(|c| Box::new(c.e)))?;
        Ok(Checked::plain(Expr {
            kind,
            ty,
            span: n.span.clone(),
        }))
    }

    pub(super) fn after(&self, n: &Node, arg: &Node) -> Result<Checked> {
        if !self.scope.call {
            return Err(Fault::new(
                n.span.clone(),
                "`after()` reads memory when the call returns",
            )
            .label("this probe fires at the entry")
            .help("use [[call]], which sees the return"));
        }
        let c = self.node(arg)?;
        if c.is_deferred() {
            return Ok(Checked::deferred(&n.span));
        }
        // A buffer by its name is the text in it; a pointer that is itself read may be followed further.
        let is_read = c.place.is_none() && c.e.any(&|e| matches!(e.kind, Kind::Load(_)));
        let debug = c.debug;
        let e = match is_read {
            true => c.e,
            false => self.finish(arg, c)?,
        };
        if e.any(&|e| matches!(e.kind, Kind::After(_))) {
            return Err(
                Fault::new(n.span.clone(), "`after()` inside `after()`").help("one is enough")
            );
        }
        let reads = e.any(&|e| {
            matches!(
                e.kind,
                Kind::Load(_)
                    | Kind::ReadStr { .. }
                    | Kind::ReadChars { .. }
                    | Kind::ReadBuf { .. }
                    | Kind::Capture(_)
            )
        });
        if !reads {
            return Err(
                Fault::new(n.span.clone(), "nothing in `after()` is read from memory")
                    .help("after(*(u64*)arg0) is what arg0 points to when the call returns"),
            );
        }
        let ty = e.ty.clone();
        let e = Expr {
            kind: Kind::After(Box::new(e)),
            ty,
            span: n.span.clone(),
        };
        Ok(Checked {
            debug,
            ..Checked::plain(e)
        })
    }

    pub(super) fn index(&self, n: &Node, of: &Node, index: &Node) -> Result<Checked> {
        let base = self.scalar(of, "`[ ]`")?;
        if base.is_deferred() || self.may_be_typed(of) {
            self.scalar(index, "`[ ]`")?;
            return Ok(Checked::deferred(&n.span));
        }
        let (base, debug) = (base.e, base.debug);
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
        if index.is_deferred() {
            return Ok(Checked::deferred(&n.span));
        }
        known_size(&n.span, &to)?;
        let pointer = base.ty.clone();
        let at = scaled(BinOp::Add, base, index.e, &to, pointer, n.span.clone());
        self.load(n, at, debug)
    }

    pub(super) fn deref(&self, n: &Node, e: &Node) -> Result<Checked> {
        let addr = self.scalar(e, "`*`")?;
        if addr.is_deferred() || self.may_be_typed(e) {
            return Ok(Checked::deferred(&n.span));
        }
        let (addr, debug) = (addr.e, addr.debug);
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
        self.load(n, addr, debug)
    }

    fn load(&self, n: &Node, addr: Expr, debug: bool) -> Result<Checked> {
        let Type::Ptr { to } = &addr.ty else {
            return Err(Fault::new(n.span.clone(), "reading memory needs a pointer"));
        };
        if **to == Type::Void {
            return Err(
                Fault::new(n.span.clone(), "a void* says nothing of what it points to")
                    .help("cast it to a pointer to a type: (u32*), (char**)"),
            );
        }
        if let (Type::Named(named), Some(info)) = (&**to, self.info) {
            let ty = named.ty;
            return self.value(&n.span, info, Place::Memory(word(addr)), ty);
        }
        let ty = (**to).clone();
        let e = Expr {
            kind: Kind::Load(Box::new(addr)),
            ty,
            span: n.span.clone(),
        };
        Ok(Checked {
            debug,
            ..Checked::plain(e)
        })
    }

    /// `reg("rdi")`
    fn register(&self, n: &Node, arg: &Node) -> Result<Checked> {
        if self.scope.provider.is_kernel() {
            let what = format!(
                "`reg()` reads a program's registers, and this is {}",
                self.scope.provider.describe()
            );
            return Err(Fault::new(n.span.clone(), what)
                .help("the kernel's arguments and fields are written by their names"));
        }
        let known = || (0..=16).filter_map(register_name);
        let Syntax::Text(name) = &arg.kind else {
            return Err(
                Fault::new(arg.span.clone(), "a register is named by a text in quotes")
                    .help(usage("reg")),
            );
        };
        let name = String::from_utf8_lossy(name);
        let found = (0..=16).find(|r| {
            register_name(*r).is_some_and(|k| k == name || (*r < 8 || *r == 16) && k[1..] == *name)
        });
        let Some(number) = found else {
            let fault = Fault::new(arg.span.clone(), format!("there is no register `{name}`"));
            return Err(fault.help(known().collect::<Vec<_>>().join(" ")));
        };
        Ok(Checked::plain(Expr {
            kind: Kind::Reg(number),
            ty: Type::U64,
            span: n.span.clone(),
        }))
    }
}

impl Checker<'_> {
    /// `called_by("f")`: where the probed function returns to, as the stack has it at its entry, is in f.
    fn called_by(&self, n: &Node, arg: &Node) -> Result<Checked> {
        let fault = |what: String| Fault::new(n.span.clone(), what);
        if self.scope.provider.is_kernel() {
            let what = format!(
                "`called_by()` looks at a program's stack, and this is {}",
                self.scope.provider.describe()
            );
            return Err(fault(what));
        }
        let Syntax::Text(name) = &arg.kind else {
            let fault = Fault::new(arg.span.clone(), "a function is named by a text in quotes");
            return Err(fault.help(usage("called_by")));
        };
        let Some(info) = self.info else {
            return Ok(Checked::deferred(&n.span));
        };
        let found = info.called_by(&String::from_utf8_lossy(name));
        let found = found.map_err(|why| fault(format!("`called_by()`: {why}")))?;
        Ok(Checked::plain(super::debug::typed(
            found,
            Type::INT,
            &n.span,
        )))
    }

    /// `errno(e)`: the same integer, which is shown as the name of an error where it is one, negated.
    fn errno(&self, n: &Node, arg: &Node) -> Result<Checked> {
        let c = self.scalar(arg, "`errno()`")?;
        if c.is_deferred() {
            return Ok(Checked::deferred(&n.span));
        }
        let kind = match c.e.ty.as_int() {
            Some((64, _)) => Kind::Cast(Box::new(c.e)),
            Some((bits, _)) => {
                let signed = Type::Int { bits, signed: true };
                Kind::Cast(Box::new(super::debug::typed(c.e, signed, &n.span)))
            }
            None => {
                return Err(
                    Fault::new(n.span.clone(), "`errno()` of a pointer").help(usage("errno"))
                );
            }
        };
        Ok(Checked::plain(Expr {
            kind,
            ty: Type::Enum(super::super::errno::errors()),
            span: n.span.clone(),
        }))
    }
}

/// Whether a function has as many arguments as it takes.
fn arity(n: &Node, name: &str, found: usize) -> Result<()> {
    let takes: &[usize] = match name {
        "str" => &[1, 2],
        "buf" | "chars" => &[2],
        "ntop" => &[1, 3],
        "endpoint" => &[2, 4],
        _ => &[1],
    };
    if !takes.contains(&found) {
        let plural = if takes == [1] {
            "argument"
        } else {
            "arguments"
        };
        let takes: Vec<String> = takes.iter().map(usize::to_string).collect();
        let takes = takes.join(" or ");
        return Err(Fault::new(
            n.span.clone(),
            format!("`{name}` takes {takes} {plural}, found {}", found),
        )
        .help(usage(name)));
    }
    Ok(())
}

/// What `str`, `chars` and `buf` read.
fn reading(name: &str, addr: Box<Expr>, len: Option<Box<Expr>>) -> Result<(Kind, Type)> {
    match (name, len) {
        ("chars", Some(len)) => match len.as_int() {
            Some(size @ 1..=MOST_CHARS) => {
                let size = size as u32;
                Ok((Kind::ReadChars { addr, size }, Type::Str))
            }
            _ => Err(Fault::new(
                len.span.clone(),
                format!("the size of an array is a constant from 1 to {MOST_CHARS}"),
            )
            .help("str(p, n) is a text whose length is computed")),
        },
        ("buf", Some(len)) => Ok((Kind::ReadBuf { addr, len }, Type::Bytes)),
        (_, len) => Ok((Kind::ReadStr { addr, len }, Type::Str)),
    }
}

pub(super) fn usage(function: &str) -> &'static str {
    match function {
        "errno" => "errno(e) is shown as ENOENT where e is -2, as the number where it is no error",
        "str" => "str(p) is the text at p up to its NUL, str(p, n) the text of n bytes",
        "chars" => "chars(p, n) is the text in the array of n characters at p",
        "reg" => "reg(\"rdi\") is the register rdi at the hit",
        "called_by" => "called_by(\"main\") is 1 where the function returns into main, else 0",
        "buf" => "buf(p, n) is the n bytes at p",
        "sock" => {
            "sock(fd) is the kernel's struct sock behind a descriptor: sock(arg0)->__sk_common.skc_dport"
        }
        "ntop" | "endpoint" | "ntohs" | "ntohl" | "ntohll" => super::network::usage(function),
        _ => "after(e) reads the memory in e when the call returns",
    }
}
