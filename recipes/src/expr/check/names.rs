//! Names: what is known, and what is nearest to what is not.

use std::ops::Range;

use super::super::parse::{Node, Syntax};
use super::super::{Builtin, Expr, Fault, Kind, Scope, Spent, Type};
use super::debug::listed;
use super::memory::usage;
use super::{Checked, Checker, Result};
use crate::debug::DebugInfo;
use crate::model::{Provider, Value};
use crate::suggest;

pub(super) const BUILTINS: &[Builtin] = &[
    Builtin::Pid,
    Builtin::Tid,
    Builtin::Uid,
    Builtin::Gid,
    Builtin::Cgroup,
    Builtin::Nsecs,
    Builtin::Cpu,
    Builtin::Comm,
];

pub(super) const FUNCTIONS: &[&str] = &[
    "str",
    "buf",
    "chars",
    "reg",
    "after",
    "sock",
    "ntop",
    "endpoint",
    "ntohs",
    "ntohl",
    "ntohll",
    "errno",
    "called_by",
];

/// What bpftrace knows and this language does not: said so, rather than "unknown".
pub(super) const NOT_YET: &[&str] = &[
    "usym", "ksym", "uaddr", "kaddr", "func", "probe", "bswap", "macaddr", "signal", "override",
    "rand", "args", "strncmp", "strftime", "printf", "count", "sum", "avg", "min", "max", "hist",
    "lhist", "kstr", "cgroupid", "sizeof", "offsetof", "ppid", "username", "ctx", "jiffies", "elf",
];

/// Names that mean something in every expression, so that no capture can have them.
pub(crate) fn is_reserved(name: &str) -> bool {
    BUILTINS.iter().any(|b| b.name() == name)
        || matches!(name, "str" | "buf" | "chars" | "reg" | "after")
        || TYPE_WORDS.contains(&name)
        || matches!(
            name,
            "retval" | "latency" | "elapsed" | "time" | "probe" | "true" | "false"
        )
        || argument(name).is_some()
}

/// Words that are known only when a call returns.
pub(in crate::expr) fn is_of_return(name: &str) -> bool {
    matches!(name, "retval" | "latency" | "elapsed")
        || OF_THE_CHAIN.contains(&name)
        || Spent::of(name).is_some()
}

/// What a call knows of the other open ones. Captures may have these names.
pub(super) const OF_THE_CHAIN: &[&str] = &["depth", "self", "parent"];

/// `self` in `self->x`, `parent` in `parent.x`: records of the program, since a call's own have no members.
pub(in crate::expr) fn is_own_record(of: &Node, scope: &Scope) -> bool {
    matches!(&of.kind, Syntax::Name(name) if OF_THE_CHAIN.contains(&name.as_str())
        && !scope.captures.iter().any(|(n, _)| n == name))
}

/// The words that name a type.
pub(in crate::expr) const TYPE_WORDS: &[&str] = &[
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

impl Checker<'_> {
    pub(super) fn name(&self, name: &str, span: &Range<usize>) -> Result<Checked> {
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
            return Err(self.only_parameters(name, span));
        }
        if let Some((_, e)) = self.scope.captures.iter().find(|(n, _)| n == name) {
            return made(Kind::Capture(name.to_owned()), e.ty.clone());
        }
        self.refuse(name, span)?;
        if let Some(b) = BUILTINS.iter().find(|b| b.name() == name) {
            return made(Kind::Builtin(*b), b.ty());
        }
        if let (Some(on), true) = (Spent::of(name), self.scope.call) {
            return made(Kind::Spent(on), Type::U64);
        }
        match name {
            _ if argument(name).is_some() => made(self.argument(name, span)?, Type::U64),
            _ if is_of_return(name) && !self.scope.call => Err(at_the_entry(name, span)),
            "curtask" => self.task(span),
            "kstack" | "ustack" => {
                let user = name == "ustack";
                made(Kind::Stack { user }, Type::Stack)
            }
            "retval" => self.returned(span),
            "latency" | "elapsed" => made(Kind::Latency, Type::U64),
            "depth" => made(Kind::Depth, Type::U64),
            "self" => made(Kind::SelfTime, Type::U64),
            "parent" => made(Kind::Parent, Type::Function),
            _ => self.debug_name(name, span),
        }
    }

    /// `arg3`, as it is passed at this place.
    fn argument(&self, name: &str, span: &Range<usize>) -> Result<Kind> {
        let fault = |what: String| Fault::new(span.clone(), what);
        let Some(n @ 0..=9) = argument(name) else {
            return Err(fault(format!("`{name}`: arguments go from arg0 to arg9")));
        };
        let Some(info) = self.info else {
            return Ok(Kind::Arg(n as u8));
        };
        let own = info.argument(n as u8);
        let own = own.map_err(|why| fault(format!("`{name}` is {why}")))?;
        Ok(match own.ty {
            Type::U64 => own.kind,
            _ => Kind::Cast(Box::new(own)),
        })
    }

    /// `when` and its like know no probe.
    fn only_parameters(&self, name: &str, span: &Range<usize>) -> Fault {
        let fault = Fault::new(
            span.clone(),
            format!("`{name}` is not known here: only parameters are"),
        );
        match self.like_parameter(name) {
            Some(help) => fault.help(help),
            None => fault,
        }
    }

    /// Which parameter may have been meant.
    fn like_parameter(&self, name: &str) -> Option<String> {
        let known: Vec<String> = self
            .scope
            .params
            .iter()
            .map(|(n, _)| format!("${n}"))
            .collect();
        suggest::help(&format!("${name}"), known.iter().map(String::as_str))
    }

    /// A name that debug information may know: a parameter, a variable.
    pub(super) fn debug_name(&self, name: &str, span: &Range<usize>) -> Result<Checked> {
        if self.scope.params.iter().any(|(n, _)| n == name) {
            let fault = Fault::new(span.clone(), format!("unknown name `{name}`"));
            return Err(fault.help(format!("a parameter is written with a dollar: `${name}`")));
        }
        let Some(info) = self.info else {
            return Ok(Checked::deferred(span));
        };
        match info.variable(name) {
            Ok(Some(variable)) => self.value(span, info, variable.place, variable.ty),
            Err(why) => Err(Fault::new(span.clone(), format!("`{name}` is {why}"))),
            Ok(None) if FUNCTIONS.contains(&name) => {
                let fault = Fault::new(span.clone(), format!("`{name}` is a function"));
                Err(with_remark(fault.help(usage(name)), info))
            }
            Ok(None) if NOT_YET.contains(&name) => Err(with_remark(not_yet(name, span), info)),
            Ok(None) => Err(with_remark(self.unknown_name(name, span, info), info)),
        }
    }

    /// What the function returns, by its type where that is known.
    fn returned(&self, span: &Range<usize>) -> Result<Checked> {
        let plain = Checked::plain(Expr {
            kind: Kind::Retval,
            ty: Type::I64,
            span: span.clone(),
        });
        let Some(info) = self.info else {
            // What a function of the kernel returns may be narrower than the register it is in.
            return match self.scope.provider {
                Provider::KernelFunction => Ok(Checked::deferred(span)),
                _ => Ok(plain),
            };
        };
        match info.returned() {
            Some(value) => self.value(span, info, value.place, value.ty),
            None => Ok(plain),
        }
    }

    /// Nothing knows it: what is near, what there is, and why there may be no more.
    fn unknown_name(&self, name: &str, span: &Range<usize>, info: &dyn DebugInfo) -> Fault {
        let captures = self.scope.captures.iter().map(|(n, _)| n.as_str());
        let arguments: Vec<String> = (0..10).map(|i| format!("arg{i}")).collect();
        let variables = info.variables();
        let kernel = self.scope.provider.is_kernel();
        let chain = OF_THE_CHAIN.iter().copied().filter(|_| !kernel);
        let words = BUILTINS
            .iter()
            .map(|b| b.name())
            .chain(["retval", "latency", "curtask"])
            .chain(Spent::ALL.map(Spent::name))
            .chain(chain)
            .chain(arguments.iter().map(String::as_str));
        let known = words
            .chain(captures.clone())
            .chain(variables.iter().map(String::as_str));
        // A word that a call has for itself may be asked of the program.
        let known = known.filter(|k| *k != name);
        let mut help = match suggest::nearest(name, known) {
            Some(near) => format!("did you mean `{near}`?"),
            None if kernel => {
                "known: pid tid comm uid gid cgroup nsecs cpu curtask, in calls retval and latency"
                    .to_owned()
            }
            None => "known: pid tid comm uid gid cgroup nsecs cpu arg0..arg9, in calls retval, latency, depth, self and parent"
                .to_owned(),
        };
        let captures: Vec<&str> = captures.collect();
        if !captures.is_empty() {
            help.push_str(&format!("; captures: {}", captures.join(", ")));
        }
        if !variables.is_empty() {
            let whose = match self.scope.provider {
                Provider::Program => "in the source here",
                Provider::Tracepoint => "its fields",
                _ => "its arguments",
            };
            help.push_str(&format!("; {whose}: {}", listed(&variables)));
        }
        Fault::new(span.clone(), format!("unknown name `{name}`")).help(help)
    }

    pub(super) fn param(&self, name: &str, span: &Range<usize>) -> Result<Checked> {
        let made = |kind, ty| {
            Ok(Checked {
                literal: true,
                param: true,
                ..Checked::plain(Expr {
                    kind,
                    ty,
                    span: span.clone(),
                })
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
                Err(match self.like_parameter(name) {
                    Some(help) => fault.help(help),
                    None => {
                        fault.help("declare it: [params] name = { type = \"int\", default = 0 }")
                    }
                })
            }
        }
    }
}

/// A name may be the program's own, of which nothing is known: then why is said.
fn with_remark(mut fault: Fault, info: &dyn DebugInfo) -> Fault {
    let remark = info.remark();
    if !remark.is_empty() {
        fault.help = Some(match fault.help {
            Some(help) => format!("{help}; {remark}"),
            None => remark,
        });
    }
    fault
}

/// Registers by their DWARF numbers on x86-64.
pub(crate) fn register_name(number: u8) -> Option<&'static str> {
    const NAMES: [&str; 17] = [
        "rax", "rdx", "rcx", "rbx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12",
        "r13", "r14", "r15", "rip",
    ];
    NAMES.get(usize::from(number)).copied()
}

/// `arg3` -> 3
pub(super) fn argument(name: &str) -> Option<u32> {
    let digits = name.strip_prefix("arg")?;
    if digits.len() > 1 && digits.starts_with('0') {
        return None;
    }
    digits.bytes().all(|b| b.is_ascii_digit()).then_some(())?;
    digits.parse().ok()
}

/// What a call alone knows, in a probe of the entry.
fn at_the_entry(name: &str, span: &Range<usize>) -> Fault {
    let help = "use [[call]], or `uprof latency`, which see the return";
    let fault = Fault::new(
        span.clone(),
        format!("`{name}` is known only when the call returns"),
    )
    .label("this probe fires at the entry");
    match OF_THE_CHAIN.contains(&name) {
        true => fault.help(format!(
            "{help}; the function's own `{name}` is written argN"
        )),
        false => fault.help(help),
    }
}

pub(super) fn not_yet(name: &str, span: &Range<usize>) -> Fault {
    let fault = Fault::new(
        span.clone(),
        format!("`{name}` is known to bpftrace; it is not supported here yet"),
    );
    match name {
        "strncmp" => fault.help("str(p, n) == \"text\" compares"),
        "count" | "hist" | "lhist" => fault.help(
            "counts and histograms are keys of the probe: count = true, histogram = \"arg0\"",
        ),
        "args" => {
            fault.help("arguments by position: arg0; in the kernel by name: args.skb, or skb alone")
        }
        "bswap" => {
            fault.help("ntohs(e), ntohl(e) and ntohll(e) turn integers of the network round")
        }
        "sum" | "min" | "max" | "avg" => {
            fault.help(format!("sums are keys of the probe: {name} = \"arg0\""))
        }
        _ => fault,
    }
}
