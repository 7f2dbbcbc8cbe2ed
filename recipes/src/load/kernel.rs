//! Places in the kernel: `kernel`, `tracepoint`, `rawtracepoint`, `syscall`, and what goes with them.

use toml::de::DeTable;

use super::probes::Reading;
use super::reader::{Reader, Val};
use crate::error::Error;
use crate::model::{At, Probe, ProbeKind, Provider, Spanned};
use crate::suggest;

/// The keys of places in the kernel: what stands in front of their names, too.
pub(super) const KERNEL_KEYS: [&str; 4] = ["kernel", "tracepoint", "rawtracepoint", "syscall"];

/// `kernel = "tcp_sendmsg"`: patterns as the rest of the house writes them.
pub(super) fn kernel_names(r: &Reader, key: &str, value: &Val<'_>) -> Vec<Spanned<String>> {
    let mut names = r.strings(value, key);
    for name in &mut names {
        if let (provider, _) = Provider::of(&name.value)
            && provider.is_kernel()
        {
            let what = format!("`{}` with its provider, which is the key", name.value);
            let bare = Provider::of(&name.value).1;
            r.report(
                r.error(name.span.clone(), what)
                    .help(format!("{key} = \"{bare}\"")),
            );
            continue;
        }
        name.value = format!("{key}:{}", name.value);
        check_pattern(r, name);
    }
    names
}

/// Whether a pattern is one of a provider that there is.
pub(super) fn check_pattern(r: &Reader, pattern: &Spanned<String>) {
    let (provider, name) = Provider::of(&pattern.value);
    let fault = |message: String| r.error(pattern.span.clone(), message);
    let error = match provider {
        Provider::Program => match unknown_provider(r, pattern) {
            Some(error) => error,
            None => return,
        },
        Provider::Tracepoint => match name.split_once(':') {
            Some((group, name)) if is_kernel_name(group) && is_kernel_name(name) => return,
            None if is_kernel_name(name) => {
                fault(format!("the tracepoint `{name}` without its group")).help(format!(
                    "tracepoint = \"GROUP:{name}\", as in tcp:tcp_retransmit_skb"
                ))
            }
            _ => fault(format!("`{name}` is no tracepoint"))
                .help("tracepoint = \"GROUP:NAME\", as in tcp:tcp_retransmit_skb"),
        },
        Provider::Syscall => match bare_syscall(name) {
            Some(bare) => fault(format!("`{name}` is not how a system call is called"))
                .help(format!("syscall = \"{bare}\"")),
            None if is_kernel_name(name) => return,
            None => fault(format!("`{name}` is no system call")).help("syscall = \"accept4\""),
        },
        Provider::RawTracepoint if name.contains(':') && name.split(':').all(is_kernel_name) => {
            let bare = name.rsplit(':').next().unwrap_or(name);
            fault(format!(
                "the raw tracepoint `{name}` with a group: raw ones have none"
            ))
            .help(format!("rawtracepoint = \"{bare}\""))
        }
        Provider::KernelFunction | Provider::RawTracepoint => match is_kernel_name(name) {
            true => return,
            false if provider == Provider::KernelFunction => {
                fault(format!("`{name}` is no function of the kernel"))
                    .help("kernel = \"tcp_sendmsg\": a name or a glob, without arguments")
            }
            false => fault(format!("`{name}` is no raw tracepoint"))
                .help("rawtracepoint = \"inet_sock_set_state\""),
        },
    };
    r.report(error);
}

/// What bpftrace and others write before a colon, and what nobody does.
fn unknown_provider(r: &Reader, pattern: &Spanned<String>) -> Option<Error> {
    let (kind, rest) = pattern.value.split_once(':')?;
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    // `ns::f(int)`, `file.c:123`, `main:123`
    if rest.starts_with(':')
        || kind.is_empty()
        || !kind.chars().all(word)
        || rest.parse::<u32>().is_ok()
    {
        return None;
    }
    let fault = |message: String| r.error(pattern.span.clone(), message);
    let name = rest.rsplit(':').next().unwrap_or(rest);
    let other = |help: String| Some(fault(format!("`{kind}:` is of other tools")).help(help));
    match kind {
        "usdt" => Some(
            fault(format!("`{}` is no function's name", pattern.value))
                .help("a USDT probe has a key of its own: usdt = \"provider:name\""),
        ),
        "kprobe" | "k" | "fentry" | "kfunc" | "f" => other(format!("write kernel:{name}")),
        "kretprobe" | "kr" | "fexit" | "kretfunc" | "fr" => other(format!(
            "write [[call]] with kernel:{name}, which sees entry and return"
        )),
        "uprobe" | "u" => other(format!(
            "write {name} alone; [target] says in which program or library"
        )),
        "uretprobe" | "ur" => other(format!(
            "write [[call]] with {name} alone, which sees entry and return"
        )),
        "rawtp" | "rt" | "raw_tracepoint" | "tp_btf" => {
            other(format!("write rawtracepoint:{name}"))
        }
        "t" | "tp" => other(format!("write tracepoint:{rest}")),
        _ => {
            let mut e = fault(format!("unknown provider `{kind}`"));
            e.help = suggest::help(kind, KERNEL_KEYS);
            Some(e)
        }
    }
}

/// The spelling of names and globs of the kernel.
fn is_kernel_name(name: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || "_.*?[]-".contains(c);
    !name.is_empty() && name.len() <= 128 && name.chars().all(known)
}

/// `sys_enter_close`, `__x64_sys_close` -> `close`
fn bare_syscall(name: &str) -> Option<&str> {
    let prefixes = [
        "sys_enter_",
        "sys_exit_",
        "__x64_sys_",
        "__arm64_sys_",
        "__sys_",
        "sys_",
    ];
    let bare = prefixes.iter().find_map(|p| name.strip_prefix(p));
    bare.filter(|bare| !bare.is_empty())
}

impl Reading<'_> {
    /// What a place in the kernel cannot be: of several providers at once, looked for in files, a call of a tracepoint.
    pub(super) fn kernel_place(&self, at: &At, t: Option<&DeTable<'_>>) {
        let r = self.r;
        let provider = at.provider();
        let other = at
            .functions
            .iter()
            .find(|f| Provider::of(&f.value).0 != provider);
        if let Some(other) = other {
            let what = format!(
                "one place has one provider: this is {}, the first is {}",
                Provider::of(&other.value).0.describe(),
                provider.describe()
            );
            r.report(
                r.error(other.span.clone(), what)
                    .help("[[.at]] lists several places, tried in order"),
            );
            return;
        }
        let Some(first) = at.functions.first().filter(|_| provider.is_kernel()) else {
            return;
        };
        if self.kind == ProbeKind::Call
            && matches!(provider, Provider::Tracepoint | Provider::RawTracepoint)
        {
            let what = format!("{} in [[call]]: it has no return", provider.describe());
            r.report(r.error(first.span.clone(), what).help(
                "[[probe]] fires when it is passed; kernel = \"FUNCTION\" and syscall = \"NAME\" have entry and return",
            ));
        }
        for key in ["only_in", "uncaught"] {
            let Some((key, _)) = t.and_then(|t| t.get_key_value(key)) else {
                continue;
            };
            let what = format!("`{}` of {}", key.get_ref(), provider.describe());
            r.report(r.error(key.span(), what).help(match key.get_ref().as_ref() {
                "only_in" => "it says in which of a process's files a function is looked for; the kernel is none",
                _ => "it is about exceptions of C++, which do not cross the kernel: leave it out",
            }));
        }
    }

    /// Keys of the probe that go with programs alone, or with the kernel alone.
    pub(super) fn kernel_keys(&self, t: &DeTable<'_>, probe: &Probe) {
        let r = self.r;
        let kernel = |at: &At| at.provider().is_kernel();
        if let Some((key, _)) = t.get_key_value("return")
            && probe.at.iter().all(kernel)
        {
            r.report(
                r.error(key.span(), "`return` of a place in the kernel")
                    .help("the kernel has one way to see its own returns: leave it out"),
            );
        }
        if let Some((key, _)) = t.get_key_value("target")
            && probe.at.iter().all(kernel)
        {
            let what = format!("[{}.target] of a place in the kernel", self.key);
            r.report(r.error(key.span(), what).help(
                "the kernel is in no file; the recipe's [target] says whose doings are looked at",
            ));
        }
        if probe.context.is_doubtful()
            && let Some(at) = probe.at.iter().find(|at| !kernel(at))
            && let Some((key, _)) = t.get_key_value("context")
        {
            let name = at.functions.first().map_or("", |f| f.value.as_str());
            let what = format!("`context` of `{name}`, which is in a program");
            r.report(
                r.error(key.span(), what)
                    .help("a program's functions run in its own threads: leave it out"),
            );
        }
    }
}
