//! What reads memory: `str`, `buf`, `after`, `*p`, `p[i]`.

use std::ops::Range;

use super::super::parse::Node;
use super::super::{BinOp, Expr, Fault, Kind, Type};
use super::names::{FUNCTIONS, NOT_YET, not_yet};
use super::numbers::scaled;
use super::{Checked, Checker, Result};
use crate::suggest;

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

    pub(super) fn after(&self, n: &Node, arg: &Node) -> Result<Checked> {
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

    pub(super) fn index(&self, n: &Node, of: &Node, index: &Node) -> Result<Checked> {
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

    pub(super) fn deref(&self, n: &Node, e: &Node) -> Result<Checked> {
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

    pub(super) fn load(&self, n: &Node, addr: Expr) -> Result<Checked> {
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
}

pub(super) fn usage(function: &str) -> &'static str {
    match function {
        "str" => "str(p) is the text at p up to its NUL, str(p, n) the text of n bytes",
        "buf" => "buf(p, n) is the n bytes at p",
        _ => "after(e) reads the memory in e when the call returns",
    }
}
