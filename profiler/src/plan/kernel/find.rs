//! From what a recipe calls a place in the kernel to events that programs can sit on.

use uprof_ebpf::{KernelHook, KernelSource, features};
use uprof_recipes::Provider;
use uprof_symbols::kernel;

use super::known::{Known, field};

/// The most places that a glob may name: each is a program of its own.
const MOST_PLACES: usize = 64;
/// What stands in front of a system call's name in that of the tracepoint at its entry.
const ENTER: &str = "sys_enter_";
/// Where a system call's first argument stands in the record of its entry, and each one's size
/// (`struct syscall_trace_enter`, include/trace/syscall.h).
const SYSCALL_ARGS: u16 = 16;
/// System calls take up to six.
const MOST_SYSCALL_ARGS: u8 = 6;

/// A place that was found.
pub struct Found {
    /// Its name.
    pub name: String,
    /// How the kernel tells of it.
    pub source: KernelSource,
    /// The event.
    pub hook: KernelHook,
    /// What expressions may name there.
    pub known: Known,
}
/// What a pattern names, if it works here.
pub fn find(pattern: &str, call: bool) -> Result<Vec<Found>, String> {
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
        Err(why) => Known::undescribed(format!("kernel:{name} ({why})")),
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
            ends: Vec::new(),
        },
        known: Known::of_fields(point.own_fields(), format!("tracepoint:{name}")),
    })
}

fn syscall(name: &str, call: bool) -> Result<Found, String> {
    let find = |side: &str| {
        kernel::tracepoint("syscalls", &format!("sys_{side}_{name}")).map_err(|e| e.to_string())
    };
    let enter = find("enter")?;
    let mut ends = Vec::new();
    if call {
        ends.push(find("exit")?.id);
        // On x86-64 an execveat that succeeds ends as if it had been an execve (set_personality_64bit()).
        if name == "execveat" {
            ends.extend(kernel::tracepoint("syscalls", "sys_exit_execve").map(|e| e.id));
        }
    }
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
        hook: KernelHook::Tracepoint { id: enter.id, ends },
        known,
    })
}
