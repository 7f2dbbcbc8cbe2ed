//! Places in the kernel: which of a probe's alternatives works here, and what is known there of arguments and fields.

use anyhow::{Result, bail};
use uprof_ebpf::{
    FrameName, KernelHook, KernelSite, KernelSource, On, ProbeKind, Returns, features,
};
use uprof_recipes::debug as r;
use uprof_recipes::{self as recipes, BinOp, Context, DebugInfo, Expr, Kind, Provider, Type};
use uprof_symbols::kernel::{self, FieldKind, FieldPlace, KernelFunction, TracepointField};
use uprof_symbols::process;

use super::models::{Models, PlainType, of_kernel};
use super::returns::Pairing;
use super::{Attachment, Plan, Variant};
use crate::recipe::rendered;
use crate::target::Selection;

/// The most places that a glob may name: each is a program of its own.
const MOST_PLACES: usize = 64;
/// What stands in front of a system call's name in that of the tracepoint at its entry.
const ENTER: &str = "sys_enter_";
/// Where a system call's first argument stands in the record of its entry, and each one's size
/// (`struct syscall_trace_enter`, include/trace/syscall.h).
const SYSCALL_ARGS: u16 = 16;
/// System calls take up to six.
const MOST_SYSCALL_ARGS: u8 = 6;

/// A place that was found, with what expressions may name there.
struct Found {
    name: String,
    source: KernelSource,
    hook: KernelHook,
    known: Known,
}

/// Whether a probe in the kernel works here: by which of its alternatives, or why by none.
pub fn trial(probe: &recipes::Probe) -> Result<String, String> {
    let call = probe.kind == recipes::ProbeKind::Call;
    let mut reasons: Vec<String> = Vec::new();
    for (at, place) in probe.at.iter().enumerate() {
        let mut named = place.functions.iter();
        let tried: Result<(), String> = named.try_for_each(|pattern| {
            for found in find(&pattern.value, call)? {
                let bound = probe.bind(at, &found.known);
                bound.map_err(|e| rendered(&[e]).to_string())?;
            }
            Ok(())
        });
        match tried {
            Ok(()) => return Ok(names_of(place)),
            Err(why) => reasons.push(why),
        }
    }
    Err(reasons.join("; "))
}

/// What is known at a place in the kernel.
#[derive(Default)]
struct Known {
    models: Models<'static>,
    /// Arguments with their names, in order.
    variables: Vec<(String, r::Variable)>,
    /// Fields of a record: only those that are asked for are looked into, as finding a type by its name takes
    /// milliseconds.
    fields: Vec<TracepointField>,
    arguments: Vec<Expr>,
    returned: Option<r::Variable>,
    /// What is returned is a `long`.
    returns_long: bool,
    /// What has no such argument, for errors.
    what: String,
}

/// Whether all places of a probe are in the kernel.
pub fn is_kernel(probe: &recipes::Probe) -> bool {
    probe
        .at
        .first()
        .is_some_and(|at| at.provider() != Provider::Program)
}

impl Variant {
    /// Whether its places are in the kernel.
    pub fn in_kernel(&self) -> bool {
        self.spec.on != On::Program
    }

    /// How the kernel tells of it; of places in programs nothing.
    pub fn mechanism(&self) -> &'static str {
        match self.spec.on {
            On::Program => "",
            On::Kernel(KernelSource::Tracepoint) => "tracepoint",
            On::Kernel(KernelSource::RawTracepoint) => "raw tracepoint",
            On::Kernel(KernelSource::Function) => match self.spec.kind {
                ProbeKind::Call { .. } => "fentry and fexit",
                ProbeKind::Entry => "fentry",
            },
            On::Kernel(KernelSource::Kprobe) => match self.spec.kind {
                ProbeKind::Call { .. } => "kprobe and kretprobe",
                ProbeKind::Entry => "kprobe",
            },
        }
    }
}

impl Plan {
    /// Whether all is in the kernel: then there is nothing in processes to be armed.
    pub fn only_kernel(&self) -> bool {
        self.recipe.probes.iter().all(is_kernel)
    }

    /// Finds the first alternative of a probe that works here. Nothing is looked for anew for processes that start
    /// later: the kernel is the same.
    pub(super) fn place_kernel(
        &mut self,
        index: usize,
        selection: &Selection,
        attachments: &mut Vec<Attachment>,
    ) -> Result<()> {
        if self.loaded {
            return Ok(());
        }
        let probe = self.recipe.probes[index].clone();
        self.check_context(&probe, selection)?;
        let mut reasons: Vec<String> = Vec::new();
        for at in 0..probe.at.len() {
            match self.kernel_place((index, at), &probe) {
                Ok(mut placed) => {
                    if let Some(first) = reasons.first() {
                        self.note(format!(
                            "{}: seen by {}, since {first}",
                            probe.name,
                            names_of(&probe.at[at])
                        ));
                    }
                    let pids = self.whose(&probe, selection)?;
                    placed.iter_mut().for_each(|a| a.pids = pids.clone());
                    attachments.append(&mut placed);
                    return Ok(());
                }
                Err(why) => reasons.push(why),
            }
        }
        if probe.optional {
            return Ok(());
        }
        let reasons = reasons.join("\n  nor: ");
        match reasons.starts_with(&probe.name) {
            true => bail!("{reasons}"),
            false => bail!("{}: {reasons}", probe.name),
        }
    }

    /// The processes on whose behalf the kernel is to be watched; `None`: all.
    fn whose(&self, probe: &recipes::Probe, selection: &Selection) -> Result<Option<Vec<u32>>> {
        if probe.context == Context::Any {
            return Ok(None);
        }
        if selection.named() {
            return Ok(Some(selection.pids.clone()));
        }
        let programs = &probe.target.as_ref().unwrap_or(&self.recipe.target).program;
        if programs.is_empty() {
            return Ok(None);
        }
        let running = programs
            .iter()
            .flat_map(|name| process::running_program(name));
        let pids: Vec<u32> = running.map(|p| p.pid).collect();
        if pids.is_empty() {
            bail!(
                "no process named {} runs here\nIf it runs under another name or in a container, name it with --pid PID",
                programs.join(" or ")
            );
        }
        Ok(Some(pids))
    }

    /// Where the running thread has nothing to do with the event, it cannot be asked for.
    fn check_context(&self, probe: &recipes::Probe, selection: &Selection) -> Result<()> {
        if probe.context == Context::Thread {
            return Ok(());
        }
        let limits = &self.limits;
        let flag = match (limits.uid, limits.cgroup, &limits.comm) {
            (Some(_), ..) => Some("--uid"),
            (_, Some(_), _) => Some("--cgroup"),
            (.., Some(_)) => Some("--comm"),
            // The join knows whose a socket is.
            _ if matches!(self.recipe.join, Some(recipes::Join::Sockets(_))) => None,
            _ if selection.named() && !selection.command => Some("--pid and --comm"),
            _ => None,
        };
        match flag {
            Some(flag) => bail!(
                "{}: {flag} cannot be told here: the kernel does this in interrupts too, on whatever thread is running then\n\
                 Filter by what the event is about instead: `uprof recipe {} --help` tells the recipe's own parameters",
                probe.name,
                self.recipe.name
            ),
            None => Ok(()),
        }
    }

    /// The places of one alternative; an error is why there are none.
    fn kernel_place(
        &mut self,
        (index, at): (usize, usize),
        probe: &recipes::Probe,
    ) -> Result<Vec<Attachment>, String> {
        let call = probe.kind == recipes::ProbeKind::Call;
        let mut found = Vec::new();
        for pattern in &probe.at[at].functions {
            found.extend(find(&pattern.value, call)?);
        }
        let pairing = match call {
            true => Pairing {
                returns: Returns::Replaced,
                frame: FrameName::Thread,
            },
            false => Pairing::default(),
        };
        let mut attachments: Vec<Attachment> = Vec::new();
        for place in found {
            let bound = probe
                .bind(at, &place.known)
                .map_err(|e| rendered(&[e]).to_string())?;
            let slot = self
                .variant_for((index, at), Some(bound), pairing)
                .map_err(|e| e.to_string())?;
            let variant = &mut self.variants[slot];
            variant.spec.on = On::Kernel(place.source);
            let site = KernelSite {
                hook: place.hook,
                site: variant.functions.len() as u32,
            };
            variant.functions.push(place.name);
            variant.spec.sites = variant.functions.len() as u32;
            variant.kernel.push(site.clone());
            let id = variant.id;
            match attachments.iter_mut().find(|a| a.variant == id) {
                Some(known) => known.kernel.push(site),
                None => attachments.push(Attachment {
                    variant: id,
                    sites: Vec::new(),
                    kernel: vec![site],
                    pids: None,
                }),
            }
        }
        Ok(attachments)
    }
}

/// As people write it.
fn names_of(at: &recipes::At) -> String {
    let names: Vec<&str> = at.functions.iter().map(|f| f.value.as_str()).collect();
    names.join(", ")
}

/// What a pattern names, if it works here.
fn find(pattern: &str, call: bool) -> Result<Vec<Found>, String> {
    let (provider, name) = Provider::of(pattern);
    let one: fn(&str, bool) -> Result<Found, String> = match provider {
        Provider::KernelFunction => |name, _| function(name),
        Provider::Tracepoint => |name, _| tracepoint(name),
        Provider::RawTracepoint => |name, _| raw_tracepoint(name),
        Provider::Syscall => syscall,
        Provider::Program => {
            return Err(format!(
                "{pattern} is no place in the kernel, and one probe cannot be in both"
            ));
        }
    };
    if !name.contains(['*', '?', '[']) {
        return Ok(vec![one(name, call)?]);
    }
    let names = matching(provider, name)?;
    match names.len() {
        0 => Err(format!("nothing in the kernel matches {pattern}")),
        1..=MOST_PLACES => names.iter().map(|name| one(name, call)).collect(),
        many => Err(format!(
            "{many} places match {pattern}, and each needs a program of its own: name at most {MOST_PLACES}"
        )),
    }
}

/// The names that a glob stands for.
fn matching(provider: Provider, glob: &str) -> Result<Vec<String>, String> {
    let pairs =
        |group: &str, name: &str| kernel::tracepoints(group, name).map_err(|e| e.to_string());
    let types = || kernel::types().map_err(|e| e.to_string());
    match provider {
        Provider::KernelFunction => types()?.functions(glob).map_err(|e| e.to_string()),
        Provider::RawTracepoint => types()?.raw_tracepoints(glob).map_err(|e| e.to_string()),
        Provider::Tracepoint => {
            let (group, name) = glob.split_once(':').unwrap_or((glob, "*"));
            let found = pairs(group, name)?.into_iter();
            Ok(found
                .map(|(group, name)| format!("{group}:{name}"))
                .collect())
        }
        Provider::Syscall => {
            let found = pairs("syscalls", &format!("{ENTER}{glob}"))?.into_iter();
            let names = found.map(|(_, name)| name[ENTER.len()..].to_owned());
            Ok(names.collect())
        }
        Provider::Program => Ok(Vec::new()),
    }
}

/// By fentry and fexit where that works, else by kprobes.
fn function(name: &str) -> Result<Found, String> {
    let described = kernel::types()
        .and_then(|types| types.function(name))
        .map_err(|e| e.to_string());
    let own = described.as_ref().is_ok_and(|f| f.module.is_none());
    let (source, hook) = match (features::kernel(KernelSource::Function), &described) {
        (Ok(()), Ok(f)) if own => (
            KernelSource::Function,
            KernelHook::Function {
                name: name.to_owned(),
                btf_id: f.id,
                arguments: f.parameters.len() as u8,
                module: None,
            },
        ),
        (_, Err(unknown)) if !listed(name) => return Err(unknown.clone()),
        (fentry, _) => match features::kernel(KernelSource::Kprobe) {
            Ok(()) => (
                KernelSource::Kprobe,
                KernelHook::Kprobe {
                    name: name.to_owned(),
                },
            ),
            Err(kprobe) => {
                let fentry = match (fentry, &described) {
                    (Err(why), _) => why,
                    (Ok(()), Err(why)) => why.clone(),
                    (Ok(()), Ok(_)) => "it is a module's".to_owned(),
                };
                return Err(format!(
                    "kernel:{name} cannot be probed here (fentry: {fentry}; kprobe: {kprobe})"
                ));
            }
        },
    };
    let known = match described {
        Ok(f) => Known::of_function(&f, format!("kernel:{name}")),
        Err(why) => Known {
            arguments: (0..6).map(Expr::arg).collect(),
            what: format!("kernel:{name} ({why})"),
            ..Known::default()
        },
    };
    Ok(Found {
        name: name.to_owned(),
        source,
        hook,
        known,
    })
}

/// Whether the kernel or a module has code of that name, though BTF does not describe it. Where nobody tells, it may be.
fn listed(name: &str) -> bool {
    let Ok(symbols) = std::fs::read_to_string("/proc/kallsyms") else {
        return true;
    };
    // ffffffff81000000 T name	[module]
    symbols.lines().any(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        matches!(words.next(), Some("t" | "T" | "w" | "W")) && words.next() == Some(name)
    })
}

fn raw_tracepoint(name: &str) -> Result<Found, String> {
    let point = kernel::types()
        .and_then(|types| types.raw_tracepoint(name))
        .map_err(|e| e.to_string())?;
    Ok(Found {
        name: name.to_owned(),
        source: KernelSource::RawTracepoint,
        hook: KernelHook::RawTracepoint {
            name: name.to_owned(),
        },
        known: Known::of_function(&point, format!("rawtracepoint:{name}")),
    })
}

/// Not tried beforehand, as functions are: every kernel that describes a tracepoint lets programs sit on it, and letting
/// go of a trial would take 50 ms.
fn tracepoint(name: &str) -> Result<Found, String> {
    let Some((group, point)) = name.split_once(':') else {
        return Err(format!("tracepoint:{name}: write tracepoint:GROUP:NAME"));
    };
    let point = kernel::tracepoint(group, point).map_err(|e| e.to_string())?;
    Ok(Found {
        name: name.to_owned(),
        source: KernelSource::Tracepoint,
        hook: KernelHook::Tracepoint {
            id: point.id,
            end: None,
        },
        known: Known::of_fields(point.own_fields(), format!("tracepoint:{name}")),
    })
}

fn syscall(name: &str, call: bool) -> Result<Found, String> {
    let find = |side: &str| {
        kernel::tracepoint("syscalls", &format!("sys_{side}_{name}")).map_err(|e| e.to_string())
    };
    let enter = find("enter")?;
    let end = match call {
        true => Some(find("exit")?.id),
        false => None,
    };
    let own = enter
        .own_fields()
        .filter(|field| field.name != "__syscall_nr");
    let mut known = Known::of_fields(own, format!("syscall:{name}"));
    known.arguments = (0..MOST_SYSCALL_ARGS)
        .map(|n| field(SYSCALL_ARGS + 8 * u16::from(n), 64, false))
        .collect();
    known.returns_long = call;
    Ok(Found {
        name: name.to_owned(),
        source: KernelSource::Tracepoint,
        hook: KernelHook::Tracepoint { id: enter.id, end },
        known,
    })
}

/// An integer in a tracepoint's record.
fn field(offset: u16, bits: u8, signed: bool) -> Expr {
    Expr {
        kind: Kind::Field(offset),
        ty: Type::Int { bits, signed },
        span: 0..0,
    }
}

/// The address of a byte of a tracepoint's record.
fn in_record(offset: u16) -> Expr {
    let context = Expr {
        kind: Kind::Context,
        ty: Type::U64,
        span: 0..0,
    };
    context.plus(i64::from(offset))
}

impl Known {
    fn of_function(f: &KernelFunction, what: String) -> Self {
        let value = |e: Expr, ty| r::Variable {
            place: r::Place::Value(e),
            ty: of_kernel(ty),
        };
        let parameters = f.parameters.iter().zip(0u8..);
        Self {
            variables: parameters
                .clone()
                .filter(|(p, _)| !p.name.is_empty())
                .map(|(p, n)| (p.name.clone(), value(Expr::arg(n), p.ty)))
                .collect(),
            arguments: parameters.map(|(_, n)| Expr::arg(n)).collect(),
            returned: f.returns.map(|ty| value(Expr::retval(), ty)),
            what,
            ..Self::default()
        }
    }

    fn of_fields<'f>(fields: impl Iterator<Item = &'f TracepointField>, what: String) -> Self {
        Self {
            fields: fields.cloned().collect(),
            what,
            ..Self::default()
        }
    }

    /// Where a field of a tracepoint's record is, and its type.
    fn field(&self, f: &TracepointField) -> Option<r::Variable> {
        let offset = u16::try_from(f.offset).ok()?;
        // What lies elsewhere in the record is told by where it begins: the low half of a word.
        let start = match f.place {
            FieldPlace::Inline => in_record(offset),
            FieldPlace::DataLoc => Expr::binary(
                BinOp::Add,
                in_record(0),
                Expr::binary(BinOp::And, field(offset, 32, false), Expr::int(0xffff)),
            ),
            FieldPlace::RelLoc => Expr::binary(
                BinOp::Add,
                in_record(offset + 4),
                Expr::binary(BinOp::And, field(offset, 32, false), Expr::int(0xffff)),
            ),
        };
        let (place, ty) = match &f.kind {
            FieldKind::Int => {
                let bits = 8 * u8::try_from(f.size).ok()?;
                let value = r::Place::Value(field(offset, bits, f.signed));
                (value, self.integer(&f.type_text, f.size as u8, f.signed))
            }
            FieldKind::Pointer { text } => {
                let to = match text {
                    true => Some(self.character()),
                    false => self.pointee(&f.type_text),
                };
                let value = r::Place::Value(field(offset, 64, false));
                (value, self.pointer(to, &f.type_text))
            }
            FieldKind::Text if f.place == FieldPlace::Inline => {
                let ty = self.array(self.character(), 1, u64::from(f.size), &f.type_text);
                (r::Place::Memory(start), ty)
            }
            FieldKind::Text => (
                r::Place::Value(start),
                self.pointer(Some(self.character()), &f.type_text),
            ),
            FieldKind::Array { each, count } => {
                let of = self.integer(element(&f.type_text), (*each).max(1) as u8, false);
                match count {
                    Some(count) => {
                        let size = u64::from(*each);
                        let ty = self.array(of, size, u64::from(*count), &f.type_text);
                        (r::Place::Memory(start), ty)
                    }
                    None => (r::Place::Value(start), self.pointer(Some(of), &f.type_text)),
                }
            }
            FieldKind::Bytes => {
                let known = self.models.kernel_type(&f.type_text).ok().flatten();
                let byte = self.integer("unsigned char", 1, false);
                let ty =
                    known.unwrap_or_else(|| self.array(byte, 1, u64::from(f.size), &f.type_text));
                (r::Place::Memory(start), ty)
            }
        };
        Some(r::Variable { place, ty })
    }

    /// The kernel's own type of that name: an enumeration has names for its values, and a system call's `int` stands in
    /// 8 bytes of which 4 count. Else a plain integer.
    fn integer(&self, name: &str, bytes: u8, signed: bool) -> r::TypeRef {
        let told = !name.starts_with("enum ") && known_size(name) == Some(bytes);
        if !told
            && let Ok(Some(ty)) = self.models.kernel_type(name)
            && self
                .models
                .size(ty)
                .is_some_and(|size| size <= bytes.into())
        {
            return ty;
        }
        self.plain(name, bytes, signed)
    }

    fn plain(&self, name: &str, bytes: u8, signed: bool) -> r::TypeRef {
        self.models.make(PlainType {
            shape: r::TypeShape::Int { bytes, signed },
            name: name.to_owned(),
            size: Some(bytes.into()),
            network_order: matches!(name, "__be16" | "__be32" | "__be64"),
        })
    }

    fn character(&self) -> r::TypeRef {
        self.models.make(PlainType {
            shape: r::TypeShape::Char {
                bytes: 1,
                signed: true,
            },
            name: "char".to_owned(),
            size: Some(1),
            network_order: false,
        })
    }

    fn pointer(&self, to: Option<r::TypeRef>, name: &str) -> r::TypeRef {
        self.models.make(PlainType {
            shape: r::TypeShape::Pointer {
                to,
                reference: false,
            },
            name: name.to_owned(),
            size: Some(8),
            network_order: false,
        })
    }

    fn array(&self, of: r::TypeRef, each: u64, count: u64, name: &str) -> r::TypeRef {
        self.models.make(PlainType {
            shape: r::TypeShape::Array {
                of,
                count: Some(count),
            },
            name: name.to_owned(),
            size: Some(each * count),
            network_order: false,
        })
    }

    /// What a field like `struct sock *` or `const void *` points to.
    fn pointee(&self, text: &str) -> Option<r::TypeRef> {
        let to = text.strip_suffix('*')?.trim();
        let to = to.strip_prefix("const ").unwrap_or(to).trim();
        self.models.kernel_type(to).ok().flatten()
    }
}

/// The size of C's own integers and of those that the kernel names by their width: the record says all about them.
fn known_size(name: &str) -> Option<u8> {
    Some(match name {
        "char" | "bool" | "u8" | "__u8" | "unsigned char" | "uint8_t" => 1,
        "short" | "u16" | "__u16" | "unsigned short" | "uint16_t" | "__be16" => 2,
        "int" | "u32" | "__u32" | "unsigned int" | "uint32_t" | "__be32" => 4,
        "long" | "u64" | "__u64" | "unsigned long" | "uint64_t" | "__be64" => 8,
        _ => return None,
    })
}

/// The type of the elements: `__u8` of `__u8 [4]`.
fn element(text: &str) -> &str {
    text.split_once('[').map_or(text, |(of, _)| of).trim()
}

impl DebugInfo for Known {
    fn variable(&self, name: &str) -> Result<Option<r::Variable>, String> {
        let argument = self.variables.iter().find(|(n, _)| n == name);
        let field = self.fields.iter().find(|f| f.name == name);
        Ok(argument
            .map(|(_, variable)| variable.clone())
            .or_else(|| self.field(field?)))
    }

    fn variables(&self) -> Vec<String> {
        let arguments = self.variables.iter().map(|(name, _)| name);
        let fields = self.fields.iter().map(|f| &f.name);
        arguments.chain(fields).cloned().collect()
    }

    fn returned(&self) -> Option<r::Variable> {
        let long = || r::Variable {
            place: r::Place::Value(Expr::retval()),
            ty: self.plain("long", 8, true),
        };
        let returned = self.returned.clone();
        returned.or_else(|| self.returns_long.then(long))
    }

    fn argument(&self, n: u8) -> Result<Expr, String> {
        self.arguments
            .get(usize::from(n))
            .cloned()
            .ok_or_else(|| match self.arguments.len() {
                0 => format!("not there: {} has fields with names", self.what),
                count => format!("not there: {} has {count} arguments", self.what),
            })
    }

    fn named(&self, name: &str) -> Option<r::TypeRef> {
        self.models.kernel_type(name).ok().flatten()
    }

    fn kernel_type(&self, name: &str) -> Result<Option<r::TypeRef>, String> {
        self.models.kernel_type(name)
    }

    fn network_order(&self, ty: r::TypeRef) -> bool {
        self.models.network_order(ty)
    }

    fn shape(&self, ty: r::TypeRef) -> r::TypeShape {
        self.models.shape(ty)
    }

    fn size(&self, ty: r::TypeRef) -> Option<u64> {
        self.models.size(ty)
    }

    fn member(&self, ty: r::TypeRef, name: &str) -> Result<r::Member, Vec<String>> {
        self.models.member(ty, name)
    }

    fn name(&self, ty: r::TypeRef) -> String {
        self.models.name(ty)
    }

    fn remark(&self) -> String {
        format!("at {}", self.what)
    }
}
