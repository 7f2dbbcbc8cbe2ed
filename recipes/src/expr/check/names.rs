//! Names: what is known, and what is nearest to what is not.

use std::ops::Range;

use super::super::{Builtin, Expr, Fault, Kind, Type};
use super::memory::usage;
use super::{Checked, Checker, Result};
use crate::model::Value;
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

pub(super) const FUNCTIONS: &[&str] = &["str", "buf", "after"];

/// What bpftrace knows and this language does not: said so, rather than "unknown".
pub(super) const NOT_YET: &[&str] = &[
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

    pub(super) fn unknown_name(&self, name: &str, span: &Range<usize>) -> Fault {
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

    pub(super) fn param(&self, name: &str, span: &Range<usize>) -> Result<Checked> {
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
        "args" => fault.help("arguments by position: arg0"),
        _ => fault,
    }
}
