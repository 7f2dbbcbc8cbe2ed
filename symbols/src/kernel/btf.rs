//! The running kernel's types and functions, from its BTF (Linux Documentation/bpf/btf.rst).

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use btf_rs::{Backend, Btf, BtfType, Type};

use crate::error::{Error, Result};
use crate::types::model::TypeId;
use crate::types::naming::MAX_DEPTH;

/// Where the kernel shows its BTF, and that of each module (since Linux 5.4 and 5.11).
const DIRECTORY: &str = "/sys/kernel/btf";

/// BTF ids fit in 32 bits; above them stands the number of the module (0: the kernel itself).
const MODULE_SHIFT: u32 = 32;

/// The types of a kernel and of its modules.
pub struct KernelTypes {
    directory: PathBuf,
    vmlinux: Btf,
    modules: OnceLock<Vec<Module>>,
}

struct Module {
    name: String,
    btf: Btf,
}

/// A function of the kernel, or what a raw tracepoint hands to its programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelFunction {
    /// Its name.
    pub name: String,
    /// Its number in the BTF of the kernel or of its module; of a raw tracepoint its typedef's.
    pub id: u32,
    /// The module it is in; `None` for the kernel itself.
    pub module: Option<String>,
    /// Its parameters in order.
    pub parameters: Vec<KernelArgument>,
    /// Whether more may follow (`...`).
    pub variadic: bool,
    /// What it returns; `None` for `void`.
    pub returns: Option<TypeId>,
}

/// A parameter of a kernel function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelArgument {
    /// Its name; empty where the kernel does not tell.
    pub name: String,
    /// Its type.
    pub ty: TypeId,
}

/// The running kernel's types, read at the first call.
///
/// # Errors
/// As [`KernelTypes::open`].
pub fn types() -> Result<&'static KernelTypes> {
    static RUNNING: OnceLock<KernelTypes> = OnceLock::new();
    if let Some(types) = RUNNING.get() {
        return Ok(types);
    }
    let types = KernelTypes::open(Path::new(DIRECTORY))?;
    Ok(RUNNING.get_or_init(|| types))
}

impl KernelTypes {
    /// Reads `vmlinux` of a directory like /sys/kernel/btf; its other files (modules) when they are first needed.
    ///
    /// # Errors
    /// There is none (the kernel was built without CONFIG_DEBUG_INFO_BTF), or it cannot be read.
    pub fn open(directory: &Path) -> Result<Self> {
        let path = directory.join("vmlinux");
        let vmlinux = open_mapped(&path).map_err(|error| Error::Kernel {
            tried: "read the kernel's types".into(),
            why: format!(
                "{}: {error}. A kernel built with CONFIG_DEBUG_INFO_BTF=y shows them there",
                path.display()
            ),
        })?;
        Ok(Self {
            directory: directory.to_owned(),
            vmlinux,
            modules: OnceLock::new(),
        })
    }

    /// Modules, by name. One whose BTF cannot be read (built for another kernel) is as good as without BTF.
    fn modules(&self) -> &[Module] {
        self.modules.get_or_init(|| {
            let entries = std::fs::read_dir(&self.directory)
                .into_iter()
                .flatten()
                .flatten();
            let mut modules: Vec<Module> = entries
                .filter(|entry| entry.file_name() != "vmlinux")
                .filter_map(|entry| {
                    let btf = Btf::from_split_file(entry.path(), &self.vmlinux).ok()?;
                    Some(Module {
                        name: entry.file_name().to_string_lossy().into_owned(),
                        btf,
                    })
                })
                .collect();
            modules.sort_by(|a, b| a.name.cmp(&b.name));
            modules
        })
    }

    /// The kernel first, then its modules, each with its number.
    pub(super) fn sources(&self) -> impl Iterator<Item = (u64, Option<&str>, &Btf)> {
        let modules = std::iter::once_with(|| self.modules()).flatten().zip(1..);
        let modules =
            modules.map(|(module, number)| (number, Some(module.name.as_str()), &module.btf));
        std::iter::once((0, None, &self.vmlinux)).chain(modules)
    }

    /// A function by name: the kernel's own, else a module's.
    ///
    /// # Errors
    /// BTF knows none of that name (the nearest are named), or is damaged.
    pub fn function(&self, name: &str) -> Result<KernelFunction> {
        for (number, module, btf) in self.sources() {
            for id in btf.resolve_ids_by_name(name).map_err(damaged)? {
                if let Type::Func(func) = btf.resolve_type_by_id(id).map_err(damaged)?
                    && let Type::FuncProto(proto) =
                        btf.resolve_chained_type(&func).map_err(damaged)?
                {
                    return Ok(prototype(number, module, btf, (name, id), &proto, 0));
                }
            }
        }
        Err(Error::NotInKernel {
            what: "function",
            nearest: nearest(name, self.functions("*")?.into_iter(), 5),
            name: name.to_owned(),
        })
    }

    /// The names of all functions that a glob of `*` and `?` matches, in order.
    ///
    /// # Errors
    /// The glob cannot be read; BTF is damaged.
    pub fn functions(&self, glob: &str) -> Result<Vec<String>> {
        self.names(glob, |btf, ty| match ty {
            Type::Func(func) => btf.resolve_name(func).ok(),
            _ => None,
        })
    }

    /// What a raw tracepoint (`sched_switch`) hands to a program.
    ///
    /// # Errors
    /// There is none of that name (the nearest are named), or BTF is damaged.
    pub fn raw_tracepoint(&self, name: &str) -> Result<KernelFunction> {
        let type_name = format!("{RAW_PREFIX}{name}");
        for (number, module, btf) in self.sources() {
            for id in btf.resolve_ids_by_name(&type_name).map_err(damaged)? {
                // typedef void (*btf_trace_NAME)(void *, ARGUMENTS): the first is the tracepoint's own.
                let Type::Typedef(typedef) = btf.resolve_type_by_id(id).map_err(damaged)? else {
                    continue;
                };
                if let Type::Ptr(pointer) = btf.resolve_chained_type(&typedef).map_err(damaged)?
                    && let Type::FuncProto(proto) =
                        btf.resolve_chained_type(&pointer).map_err(damaged)?
                {
                    let mut point = prototype(number, module, btf, (name, id), &proto, 1);
                    self.name_arguments(&mut point);
                    return Ok(point);
                }
            }
        }
        Err(Error::NotInKernel {
            what: "raw tracepoint",
            nearest: nearest(name, self.raw_tracepoints("*")?.into_iter(), 5),
            name: name.to_owned(),
        })
    }

    /// The typedef of a raw tracepoint has no names for its arguments; the function that calls its programs has.
    fn name_arguments(&self, point: &mut KernelFunction) {
        if let Ok(caller) = self.function(&format!("{CALLER_PREFIX}{}", point.name)) {
            let names = caller.parameters.into_iter().skip(1).map(|p| p.name);
            for (argument, name) in point.parameters.iter_mut().zip(names) {
                argument.name = name;
            }
        }
    }

    /// The names of all raw tracepoints that a glob of `*` and `?` matches, in order.
    ///
    /// # Errors
    /// The glob cannot be read; BTF is damaged.
    pub fn raw_tracepoints(&self, glob: &str) -> Result<Vec<String>> {
        self.names(glob, |btf, ty| match ty {
            Type::Typedef(typedef) => btf
                .resolve_name(typedef)
                .ok()?
                .strip_prefix(RAW_PREFIX)
                .map(str::to_owned),
            _ => None,
        })
    }

    fn names(
        &self,
        glob: &str,
        name: impl Fn(&Btf, &Type) -> Option<String>,
    ) -> Result<Vec<String>> {
        let pattern = glob::Pattern::new(glob).map_err(|error| Error::BadPattern {
            pattern: glob.to_owned(),
            why: error.to_string(),
        })?;
        let mut names = Vec::new();
        for (number, _, btf) in self.sources() {
            let section = match number {
                0 => btf.base(),
                _ => btf.split().unwrap_or_else(|| btf.base()),
            };
            let (first, last) = section.type_id_range();
            for id in first..=last {
                let ty = btf.resolve_type_by_id(id).map_err(damaged)?;
                names.extend(name(btf, &ty).filter(|name| pattern.matches(name)));
            }
        }
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// Whether an integer type is in the network's byte order: the kernel marks such by typedefs (`__be16`,
    /// include/uapi/linux/types.h).
    pub fn is_network_order(&self, ty: TypeId) -> bool {
        let Some((_, btf, mut ty)) = self.resolve(ty) else {
            return false;
        };
        for _ in 0..MAX_DEPTH {
            let next = match &ty {
                Type::Typedef(t) => match btf.resolve_name(t).as_deref() {
                    Ok("__be16" | "__be32" | "__be64") => return true,
                    _ => btf.resolve_chained_type(t),
                },
                Type::Volatile(t) | Type::Const(t) | Type::Restrict(t) => {
                    btf.resolve_chained_type(t)
                }
                Type::TypeTag(t) => btf.resolve_chained_type(t),
                _ => return false,
            };
            match next {
                Ok(next) => ty = next,
                Err(_) => return false,
            }
        }
        false
    }

    /// What a type id means: the BTF it is in, and the type.
    pub(super) fn resolve(&self, ty: TypeId) -> Option<(u64, &Btf, Type)> {
        let number = ty.0 >> MODULE_SHIFT;
        let btf = match usize::try_from(number).ok()?.checked_sub(1) {
            None => &self.vmlinux,
            Some(index) => &self.modules().get(index)?.btf,
        };
        let id = u32::try_from(ty.0 & u64::from(u32::MAX)).ok()?;
        Some((number, btf, btf.resolve_type_by_id(id).ok()?))
    }

    /// As [`Self::resolve`], with typedefs and qualifiers looked through.
    pub(super) fn bare(&self, ty: TypeId) -> Option<(u64, &Btf, Type)> {
        let (number, btf, mut ty) = self.resolve(ty)?;
        for _ in 0..MAX_DEPTH {
            let next = match &ty {
                Type::Typedef(t) => btf.resolve_chained_type(t),
                Type::Volatile(t) | Type::Const(t) | Type::Restrict(t) => {
                    btf.resolve_chained_type(t)
                }
                Type::TypeTag(t) => btf.resolve_chained_type(t),
                _ => return Some((number, btf, ty)),
            };
            ty = next.ok()?;
        }
        None
    }
}

/// The functions that call the programs of a tracepoint (include/linux/tracepoint.h, Linux 5.10).
const CALLER_PREFIX: &str = "__traceiter_";
/// The typedefs that describe raw tracepoints (include/trace/bpf_probe.h).
const RAW_PREFIX: &str = "btf_trace_";

pub(super) fn type_id(number: u64, id: u32) -> TypeId {
    TypeId(number << MODULE_SHIFT | u64::from(id))
}

fn prototype(
    number: u64,
    module: Option<&str>,
    btf: &Btf,
    (name, id): (&str, u32),
    proto: &btf_rs::FuncProto,
    skip: usize,
) -> KernelFunction {
    let arguments = proto
        .parameters
        .iter()
        .skip(skip)
        .filter(|p| !p.is_variadic());
    KernelFunction {
        name: name.to_owned(),
        id,
        module: module.map(str::to_owned),
        parameters: arguments
            .map(|parameter| KernelArgument {
                name: btf.resolve_name(parameter).unwrap_or_default(),
                ty: type_id(number, parameter.get_type_id().unwrap_or(0)),
            })
            .collect(),
        variadic: proto.parameters.iter().any(btf_rs::Parameter::is_variadic),
        returns: (proto.return_type_id() != 0).then(|| type_id(number, proto.return_type_id())),
    }
}

pub(super) fn damaged(error: btf_rs::Error) -> Error {
    Error::Kernel {
        tried: "read the kernel's types (BTF)".into(),
        why: error.to_string(),
    }
}

/// Up to COUNT of ALL that are most like NAME, best first: for messages.
pub(super) fn nearest(name: &str, all: impl Iterator<Item = String>, count: usize) -> Vec<String> {
    let likeness = |other: &str| {
        let part = if other.contains(name) { 1.0 } else { 0.0 };
        part + strsim::jaro_winkler(name, other)
    };
    let mut scored: Vec<(f64, String)> = all
        .map(|other| (likeness(&other), other))
        .filter(|(score, _)| *score > 0.8)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    scored
        .into_iter()
        .take(count)
        .map(|(_, name)| name)
        .collect()
}

/// BTF is looked into where it lies: decoding all 150,000 types takes ten times as long as one lookup.
fn open_mapped(path: &Path) -> Result<Btf, btf_rs::Error> {
    match Btf::from_file_with_backend(path, Backend::Mmap) {
        // Before Linux 6.16 sysfs cannot be mapped: a copy in memory can.
        Err(btf_rs::Error::IO(error)) if error.raw_os_error() == Some(libc::ENODEV) => {
            let copy = copy_in_memory(path)?;
            Btf::from_file_with_backend(
                format!("/proc/self/fd/{}", copy.as_raw_fd()),
                Backend::Mmap,
            )
        }
        other => other,
    }
}

fn copy_in_memory(path: &Path) -> io::Result<File> {
    let mut bytes = Vec::new();
    File::open(path)?.read_to_end(&mut bytes)?;
    // SAFETY: the name is NUL-terminated; the descriptor returned is ours alone.
    let fd = unsafe { libc::memfd_create(c"btf".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: as above.
    let mut copy = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    copy.write_all(&bytes)?;
    Ok(copy)
}
