//! What the kernel knows: the running thread, its sockets, stacks; and words that mean nothing there.

use std::ops::Range;

use super::super::parse::{Node, Syntax};
use super::super::{BinOp, Expr, Fault, Kind, Type};
use super::debug::{pointee, typed};
use super::names::{OF_THE_CHAIN, argument, is_of_return};
use super::{Checked, Checker, Result};
use crate::debug::{DebugInfo, TypeRef};
use crate::model::{Context, Provider};

/// What is that of the running thread.
const OF_THE_THREAD: &[&str] = &[
    "pid", "tid", "comm", "uid", "gid", "cgroup", "curtask", "ustack",
];

impl Checker<'_> {
    /// Words that mean nothing at this provider, or in this context.
    pub(super) fn refuse(&self, name: &str, span: &Range<usize>) -> Result<()> {
        let fault = |message: String| Fault::new(span.clone(), message);
        let provider = self.scope.provider;
        if self.scope.context == Context::Any && OF_THE_THREAD.contains(&name) {
            return Err(fault(format!("`{name}` is that of whoever was interrupted"))
                .label("this probe has `context = \"any\"`")
                .help("cpu and nsecs are known; where the thread does what is probed, leave `context` out"));
        }
        match provider {
            Provider::Program if name == "kstack" => {
                return Err(fault(
                    "`kstack` in a program: the kernel's stack is that of the probe itself".into(),
                )
                .help("ustack is the program's; kstack is for places in the kernel"));
            }
            Provider::Program => return Ok(()),
            _ => {}
        }
        if OF_THE_CHAIN.contains(&name) {
            let what = format!(
                "`{name}` is of calls in a program, and this is {}",
                provider.describe()
            );
            return Err(fault(what).help(format!(
                "an argument or field of that name is written args.{name}"
            )));
        }
        match provider {
            Provider::Tracepoint | Provider::RawTracepoint if is_of_return(name) => {
                let what = format!("`{name}` in {}, which has no return", provider.describe());
                Err(fault(what).help(
                    "[[call]] with kernel = \"FUNCTION\" or syscall = \"NAME\" sees entry and return; a tracepoint's \
                     own fields are written by their names",
                ))
            }
            Provider::Tracepoint if argument(name).is_some() => {
                let what = format!("`{name}` in a tracepoint, whose fields have names");
                Err(fault(what).help("uprof symbols --args tracepoint:GROUP:NAME lists them"))
            }
            _ => Ok(()),
        }
    }

    /// `curtask`, with its type in the kernel.
    pub(super) fn task(&self, span: &Range<usize>) -> Result<Checked> {
        let Some(info) = self.info else {
            return Ok(Checked::deferred(span));
        };
        let to = kernel_type(info, "struct task_struct", span)?;
        let to = Box::new(pointee(info, Some(to), 0));
        Ok(Checked {
            debug: true,
            ..Checked::plain(typed(Expr::task(), Type::Ptr { to }, span))
        })
    }

    /// `sock(fd)`: the `struct sock *` behind a descriptor of the running thread; 0 where it is no socket. From
    /// include/linux/fdtable.h, fs.h and net.h: a socket's file has it as its `private_data`, and it has its file.
    pub(super) fn sock(&self, n: &Node, fd: &Node) -> Result<Checked> {
        let span = &n.span;
        if self.scope.context == Context::Any {
            return Err(Fault::new(
                span.clone(),
                "`sock()` is of a descriptor of whoever was interrupted",
            )
            .label("this probe has `context = \"any\"`")
            .help("the event's own socket is an argument or a field: sk->__sk_common"));
        }
        // The descriptor is looked at several times: nested ones would grow without bounds.
        if calls_sock(fd) {
            return Err(Fault::new(span.clone(), "`sock()` inside `sock()`")
                .help("a capture may hold the inner one: its name stands for it"));
        }
        let fd = self.scalar(fd, "`sock()`")?;
        let Some(info) = self.info.filter(|_| !fd.is_deferred()) else {
            return Ok(Checked::deferred(span));
        };
        if matches!(fd.e.ty, Type::Ptr { .. }) {
            return Err(Fault::new(
                span.clone(),
                "`sock()` takes a descriptor, and this is a pointer",
            )
            .help("a pointer to a socket is used by itself: sk->__sk_common"));
        }
        self.socket_of(span, info, typed(fd.e, Type::U32, span))
    }

    /// What `sock()` expands to: (u32)fd < fdt->max_fds && file && socket && socket->file == file ? socket->sk : 0
    fn socket_of(&self, span: &Range<usize>, info: &dyn DebugInfo, fd: Expr) -> Result<Checked> {
        let number = |e: Expr| typed(e, Type::U64, span);
        let of = |c: &Checked, name: &str| self.member_of(span, info, c, name);
        let table = of(&of(&self.task(span)?, "files")?, "fdt")?;
        let most = of(&table, "max_fds")?.e;
        let files = number(of(&table, "fd")?.e);
        let at = Expr::binary(
            BinOp::Add,
            files,
            Expr::binary(BinOp::Mul, number(fd.clone()), Expr::literal(8)),
        );
        let file = self.kernel_pointer(info, Expr::load(at, 8), "struct file", span)?;
        let socket = of(&file, "private_data")?.e;
        let socket = self.kernel_pointer(info, number(socket), "struct socket", span)?;
        let own = of(&socket, "file")?.e;
        let sk = of(&socket, "sk")?.e;
        let and = |a, b| Expr::binary(BinOp::LogAnd, a, b);
        let same = Expr::binary(BinOp::Eq, number(own), number(file.e.clone()));
        let is_socket = [number(file.e), number(socket.e), same];
        let known = Expr::binary(BinOp::Lt, number(fd), number(typed(most, Type::U32, span)));
        let ty = sk.ty.clone();
        let none = Expr {
            ty: ty.clone(),
            ..Expr::int(0)
        };
        let kind = Kind::Cond {
            c: Box::new(is_socket.into_iter().fold(known, and)),
            a: Box::new(sk),
            b: Box::new(none),
        };
        let e = Expr {
            kind,
            ty: ty.clone(),
            span: 0..0,
        };
        Ok(Checked {
            debug: true,
            ..Checked::plain(typed(e, ty, span))
        })
    }

    /// A word as a pointer to a type of the kernel.
    fn kernel_pointer(
        &self,
        info: &dyn DebugInfo,
        e: Expr,
        name: &str,
        span: &Range<usize>,
    ) -> Result<Checked> {
        let to = pointee(info, Some(kernel_type(info, name, span)?), 0);
        let ty = Type::Ptr { to: Box::new(to) };
        Ok(Checked::plain(typed(e, ty, span)))
    }

    /// Whether an expression leads from `curtask` or `sock()` into the kernel's memory, so that types in it are the
    /// kernel's, also where a program is probed.
    pub(super) fn is_of_kernel(&self, e: &Expr) -> bool {
        let task = |e: &Expr| match &e.kind {
            Kind::Capture(name) => self.is_captured_of_kernel(name),
            kind => *kind == Kind::Task,
        };
        self.scope.provider == Provider::Program && e.any(&task)
    }

    /// As [`Self::is_of_kernel`], of a capture. Captures name earlier ones only.
    fn is_captured_of_kernel(&self, name: &str) -> bool {
        let mut captures = self.scope.captures.iter();
        let found = captures.find(|(captured, _)| captured == name);
        found.is_some_and(|(_, e)| self.is_of_kernel(e))
    }
}

fn calls_sock(n: &Node) -> bool {
    matches!(&n.kind, Syntax::Call { name, .. } if name == "sock")
        || n.children().into_iter().any(calls_sock)
}

/// A type of the kernel by its name.
pub(super) fn kernel_type(
    info: &dyn DebugInfo,
    name: &str,
    span: &Range<usize>,
) -> Result<TypeRef> {
    let fault = |message: String| Fault::new(span.clone(), message);
    match info.kernel_type(name) {
        Ok(Some(ty)) => Ok(ty),
        Ok(None) => Err(fault(format!("this kernel has no `{name}`"))),
        Err(why) => Err(fault(format!("the kernel's types are unknown: {why}"))
            .help("uprof doctor tells what is missing")),
    }
}
