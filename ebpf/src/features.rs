//! What this kernel and this user can do, found by trying.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::OnceLock;

use aya_obj::generated::{bpf_map_type, bpf_prog_type};

use crate::asm::{Asm, Kfunc, Reg, Size};
use crate::btf;
use crate::engine::Engine;
use crate::expr::Expr;
use crate::helper;
use crate::link::PerfSource;
use crate::maps::{create_map, create_task_storage};
use crate::program::Part;
use crate::site::KernelHook;
use crate::spec::{
    Action, EngineOptions, FrameName, KernelSource, On, ProbeKind, ProbeSpec, Returns,
};
use crate::sys::{self, attach_type};

/// One thing that was tried.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Feature {
    /// What it is.
    pub name: String,
    /// Whether it works, or why not.
    pub works: Result<(), String>,
    /// What to do about it, or what it means; empty if there is nothing to say.
    pub advice: String,
}

/// Capabilities that matter, by their numbers in include/uapi/linux/capability.h.
const CAPABILITIES: [(&str, u32, &str); 5] = [
    ("CAP_BPF", 39, "needed to load programs"),
    ("CAP_PERFMON", 38, "needed to attach to functions"),
    (
        "CAP_SYS_ADMIN",
        21,
        "needed to attach by perf event or uprobe_multi",
    ),
    (
        "CAP_SYS_PTRACE",
        19,
        "needed to look at other users' processes",
    ),
    (
        "CAP_SYS_RESOURCE",
        24,
        "needed before Linux 5.11 to lock memory for maps",
    ),
];

/// Before Linux 6.10 the pid filter of `uprobe_multi` lets one thread through only, not the
/// process; then the programs test the process id themselves. This is the one thing here that
/// is told by the kernel's version: trying it takes a second thread and a probed function.
pub fn kernel_filters_pid() -> bool {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").is_ok_and(|r| at_least(&r, 6, 10))
}

fn at_least(release: &str, major: u32, minor: u32) -> bool {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(str::parse::<u32>);
    let mut next = || numbers.next().and_then(Result::ok).unwrap_or(0);
    (next(), next()) >= (major, minor)
}

fn load(
    asm: Asm,
    kind: bpf_prog_type,
    attach_type: u32,
    kfunc: Option<u32>,
) -> io::Result<OwnedFd> {
    let mut code = asm.finish().map_err(io::Error::other)?;
    for (at, _) in &code.kfuncs {
        code.insns[*at].imm = kfunc.unwrap_or(0) as i32;
    }
    let load = sys::ProgLoad {
        kind,
        name: "uprof_try",
        insns: &code.insns,
        attach_type,
        btf_id: 0,
    };
    sys::prog_load(&load, None)
}

fn finish(mut asm: Asm) -> Asm {
    asm.constant(Reg::R0, 0);
    asm.exit();
    asm
}

/// A program that does nothing but call a helper without arguments.
fn calling(helper: Option<u32>) -> Asm {
    let mut asm = Asm::default();
    if let Some(helper) = helper {
        asm.call(helper);
    }
    finish(asm)
}

/// Whether programs may compare and exchange (Linux 5.12).
pub(crate) fn has_cmpxchg() -> bool {
    let mut asm = Asm::default();
    asm.store_imm(Size::DW, Reg::R10, -8, 0);
    asm.constant(Reg::R0, 0);
    asm.constant(Reg::R1, 1);
    asm.atomic_cmpxchg(Reg::R10, -8, Reg::R1);
    load(finish(asm), bpf_prog_type::BPF_PROG_TYPE_KPROBE, 0, None).is_ok()
}

/// Whether programs on functions may keep so many bytes with the thread that they run on (Linux 5.11).
pub(crate) fn has_task_storage(bytes: u32) -> bool {
    create_task_storage(bytes).is_ok()
}

fn has_links(attach_type: u32, kfunc: Option<Kfunc>) -> io::Result<()> {
    let mut asm = Asm::default();
    let mut id = None;
    if let Some(kfunc) = kfunc {
        [id] = btf::function_ids([kfunc.name()])?;
        if id.is_none() {
            return Err(io::Error::other(format!(
                "the kernel has no function {}",
                kfunc.name()
            )));
        }
        asm.call_kfunc(kfunc);
    }
    let prog = load(
        finish(asm),
        bpf_prog_type::BPF_PROG_TYPE_KPROBE,
        attach_type,
        id,
    )?;
    let link = sys::MultiLink {
        path: Path::new("/"),
        offsets: &[1],
        cookies: &[],
        semaphores: &[],
        pid: None,
        at_return: false,
        attach_type,
    };
    match sys::link_multi(prog.as_fd(), &link) {
        // The directory was looked at: it is the only thing wrong.
        Err(e) if e.raw_os_error() == Some(libc::EBADF) => Ok(()),
        Err(e) => Err(e),
        Ok(_) => Err(io::Error::other("a link on a directory was made")),
    }
}

fn perf_uprobe() -> io::Result<()> {
    let prog = load(calling(None), bpf_prog_type::BPF_PROG_TYPE_KPROBE, 0, None)?;
    // Its own code, at an offset that no program reaches: the ELF header.
    let exe = std::fs::read_link("/proc/self/exe")?;
    let source = PerfSource::find()?;
    let pid = Some(std::process::id());
    source
        .attach(prog.as_fd(), &exe, (0, 0), pid, false, None)
        .map(drop)
}

fn attach_cookie() -> io::Result<()> {
    let mut asm = Asm::default();
    asm.call(helper::GET_ATTACH_COOKIE);
    load(finish(asm), bpf_prog_type::BPF_PROG_TYPE_KPROBE, 0, None).map(drop)
}

/// Whether probes on this kind of event work here, or why not: found by attaching one, once.
pub fn kernel(source: KernelSource) -> Result<(), String> {
    static FOUND: [OnceLock<Result<(), String>>; 4] = [const { OnceLock::new() }; 4];
    let (at, hook): (usize, fn() -> io::Result<KernelHook>) = match source {
        KernelSource::Tracepoint => (0, || {
            let (ends, id) = (Vec::new(), some_tracepoint()?);
            Ok(KernelHook::Tracepoint { id, ends })
        }),
        KernelSource::RawTracepoint => (1, || {
            let name = SOME_TRACEPOINT.into();
            Ok(KernelHook::RawTracepoint { name })
        }),
        KernelSource::Function => (2, some_function),
        KernelSource::Kprobe => (3, || {
            let name = SOME_FUNCTION.into();
            Ok(KernelHook::Kprobe { name })
        }),
    };
    let found = FOUND[at].get_or_init(|| hook().and_then(attaches).map_err(|e| explain(&e)));
    found.clone()
}

/// A tracepoint that every kernel has, and that fires seldom.
const SOME_TRACEPOINT: &str = "sched_process_exec";
/// A function of which the same holds, and that modules can call: it is not inlined.
const SOME_FUNCTION: &str = "vfs_fsync";

/// Numbers that tracepoints have (TRACE_EVENT_TYPE_MAX is more, but they are given out from below);
/// the first ones are ftrace's own, and one of those is every function.
const TRACEPOINT_IDS: std::ops::Range<u64> = 64..2048;

/// The number of any tracepoint. By trying: tracefs, which has the names, need not be mounted.
fn some_tracepoint() -> io::Result<u64> {
    let mut last = io::Error::from_raw_os_error(libc::ENOENT);
    for id in TRACEPOINT_IDS {
        match sys::perf_tracepoint(id) {
            Ok(_) => return Ok(id),
            Err(e) => last = e,
        }
    }
    Err(last)
}

/// The number of a function in the running kernel's BTF; `None`: it is not there.
pub fn function_id(name: &str) -> io::Result<Option<u32>> {
    let [id] = btf::function_ids([name])?;
    Ok(id)
}

fn some_function() -> io::Result<KernelHook> {
    let id = function_id(SOME_FUNCTION)?;
    let none = || io::Error::other(format!("the kernel's BTF does not have {SOME_FUNCTION}"));
    Ok(KernelHook::Function {
        name: SOME_FUNCTION.into(),
        btf_id: id.ok_or_else(none)?,
        arguments: 2,
        module: None,
    })
}

/// Attaches an empty program, and lets go of it.
fn attaches(hook: KernelHook) -> io::Result<()> {
    let code = calling(None).finish().map_err(io::Error::other)?;
    let (kind, attach_type, btf_id) = hook.program(Part::Entry);
    let load = sys::ProgLoad {
        kind,
        name: "uprof_try",
        insns: &code.insns,
        attach_type,
        btf_id,
    };
    let prog = sys::prog_load(&load, None)?;
    hook.attach(Part::Entry, prog.as_fd()).map(drop)
}

/// What tells where the time of calls goes, set up for a call and taken down.
fn clocks() -> io::Result<()> {
    let spec = ProbeSpec {
        name: "try".into(),
        on: On::Program,
        sample: 1,
        sites: 1,
        kind: ProbeKind::Call {
            saved: vec![],
            filter: None,
            returns: Returns::Replaced,
            frame: FrameName::Stack,
        },
        filter: None,
        keep: None,
        action: Action::Breakdown {
            value: Expr::Latency,
            key: vec![],
        },
    };
    let options = EngineOptions {
        max_frames: 16,
        ..EngineOptions::default()
    };
    match Engine::load(vec![spec], &options) {
        Ok(_) => Ok(()),
        Err(crate::Error::Clocks { source, .. }) => Err(source),
        Err(other) => Err(io::Error::other(other)),
    }
}

fn ring_buffer() -> io::Result<()> {
    match create_map("try", bpf_map_type::BPF_MAP_TYPE_RINGBUF, 0, 0, 4096, 0) {
        Ok(_) => Ok(()),
        Err(crate::Error::Map { source, .. }) => Err(source),
        Err(other) => Err(io::Error::other(other)),
    }
}

fn readable(path: &str) -> io::Result<()> {
    std::fs::File::open(path).map(drop)
}

/// Effective capabilities of this process, as a mask.
fn capabilities() -> io::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .ok_or_else(|| io::Error::other("/proc/self/status has no CapEff"))
}

/// Tries everything.
pub fn probe() -> Vec<Feature> {
    let mut all = Vec::new();
    let mut add = |name: &str, result: io::Result<()>, advice: &str| {
        let works = result.map_err(|e| explain(&e));
        let advice = if works.is_ok() { "" } else { advice };
        all.push(Feature {
            name: name.into(),
            works,
            advice: advice.into(),
        });
    };
    let own_test = |e: bool, why: &str| {
        if e {
            Ok(())
        } else {
            Err(io::Error::other(why))
        }
    };
    add(
        "BTF",
        readable("/sys/kernel/btf/vmlinux"),
        "kernel types are unknown: no session probes; a kernel built with CONFIG_DEBUG_INFO_BTF has them",
    );
    add(
        "ring buffer",
        ring_buffer(),
        "no events can be sent: Linux 5.8 or newer is needed",
    );
    add(
        "atomic compare-and-exchange",
        own_test(has_cmpxchg(), "refused"),
        "sums wrap at 64 bits; Linux 5.12 has it",
    );
    add(
        "uprobe by perf event",
        perf_uprobe(),
        "functions of programs cannot be probed: CONFIG_UPROBE_EVENTS and root are needed",
    );
    add(
        "uprobe_multi",
        has_links(attach_type::UPROBE_MULTI, None),
        "each function costs a perf event, and many are slow to attach; Linux 6.6 has it",
    );
    add(
        "uprobe_multi's pid filter",
        own_test(
            kernel_filters_pid(),
            "this kernel filters threads, not processes",
        ),
        "every process that runs a probed file pays for it; Linux 6.10 has it right",
    );
    add(
        "uprobe session",
        has_links(attach_type::UPROBE_SESSION, Some(Kfunc::SessionCookie)),
        "calls take two probes and a map; Linux 6.13 has it",
    );
    add(
        "attach cookie",
        attach_cookie(),
        "each site takes a program of its own; Linux 5.15 has it",
    );
    let on_kernel = |source| kernel(source).map_err(io::Error::other);
    add(
        "tracepoint",
        on_kernel(KernelSource::Tracepoint),
        "no events and system calls of the kernel by tracepoint: tracefs, CONFIG_BPF_EVENTS and root are needed",
    );
    add(
        "raw tracepoint",
        on_kernel(KernelSource::RawTracepoint),
        "no events of the kernel by raw tracepoint: CONFIG_BPF_EVENTS and root are needed",
    );
    add(
        "fentry and fexit",
        on_kernel(KernelSource::Function),
        "functions of the kernel are probed by kprobe instead; Linux 5.5 with BTF and ftrace has it, unless it is locked down",
    );
    add(
        "kprobe",
        on_kernel(KernelSource::Kprobe),
        "functions of the kernel are probed by fentry alone; CONFIG_KPROBE_EVENTS and root are needed",
    );
    add(
        "where the time of calls goes",
        clocks(),
        "no --breakdown: the raw tracepoints sched_switch, sched_wakeup and sched_process_exit, BTF and root are needed",
    );
    let mask = capabilities();
    for (name, bit, advice) in CAPABILITIES {
        let result = match &mask {
            Ok(mask) if mask >> bit & 1 == 1 => Ok(()),
            Ok(_) => Err(io::Error::other("this user lacks it")),
            Err(e) => Err(io::Error::other(e.to_string())),
        };
        add(name, result, advice);
    }
    settings(&mut add);
    all
}

/// Settings that may forbid things to some.
fn settings(add: &mut impl FnMut(&str, io::Result<()>, &str)) {
    let read = |path: &str| std::fs::read_to_string(path).map(|t| t.trim().to_string());
    let number = |path: &str, fine: fn(i64) -> bool| {
        let text = read(path)?;
        match text.parse::<i64>() {
            Ok(n) if fine(n) => Ok(()),
            _ => Err(io::Error::other(format!("{path} is {text}"))),
        }
    };
    add(
        "perf events for every user",
        number("/proc/sys/kernel/perf_event_paranoid", |n| n < 3),
        "users without CAP_PERFMON cannot open perf events",
    );
    add(
        "BPF for every user",
        number("/proc/sys/kernel/unprivileged_bpf_disabled", |n| n == 0),
        "users without CAP_BPF cannot load programs, as it should be",
    );
    let lockdown = match read("/sys/kernel/security/lockdown") {
        Ok(text) if text.contains("[confidentiality]") => Err(io::Error::other("confidentiality")),
        _ => Ok(()),
    };
    add(
        "no kernel lockdown",
        lockdown,
        "lockdown in confidentiality mode forbids BPF to read memory",
    );
}

fn explain(e: &io::Error) -> String {
    match e.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => format!("not permitted ({e})"),
        _ => e.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_compare_by_number() {
        assert!(at_least("6.18.44-fc-v669\n", 6, 10));
        assert!(at_least("6.10.0", 6, 10));
        assert!(at_least("7.0", 6, 10));
        assert!(!at_least("6.9.12-amd64", 6, 10));
        assert!(!at_least("5.10.0-28", 6, 10));
        assert!(!at_least("", 6, 10));
    }
}
