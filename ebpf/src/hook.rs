//! From a loaded program to an event of the kernel.

use std::ffi::CString;
use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;

use aya_obj::generated::bpf_prog_type;

use crate::link::{Link, PerfSource};
use crate::program::{Part, SiteSource};
use crate::site::{KernelHook, KernelSite};
use crate::spec::KernelSource;
use crate::sys::{self, attach_type};

/// ENOTSUPP, which is the kernel's own (include/linux/errno.h).
const ENOTSUPP: i32 = 524;

impl fmt::Display for KernelHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KernelHook::Tracepoint { id, ends } if ends.is_empty() => {
                write!(f, "tracepoint number {id}")
            }
            KernelHook::Tracepoint { id, ends } => {
                write!(f, "tracepoints number {id} and {ends:?}")
            }
            KernelHook::RawTracepoint { name } => write!(f, "raw tracepoint {name}"),
            KernelHook::Function { name, .. } => write!(f, "kernel function {name} (fentry)"),
            KernelHook::Kprobe { name } => write!(f, "kernel function {name} (kprobe)"),
        }
    }
}

impl KernelHook {
    /// What it is an event of.
    pub fn source(&self) -> KernelSource {
        match self {
            KernelHook::Tracepoint { .. } => KernelSource::Tracepoint,
            KernelHook::RawTracepoint { .. } => KernelSource::RawTracepoint,
            KernelHook::Function { .. } => KernelSource::Function,
            KernelHook::Kprobe { .. } => KernelSource::Kprobe,
        }
    }

    /// A program's type, its attach type, and the function that it is loaded for.
    pub(crate) fn program(&self, part: Part) -> (bpf_prog_type, u32, u32) {
        use bpf_prog_type::*;
        match self {
            KernelHook::Tracepoint { .. } => (BPF_PROG_TYPE_TRACEPOINT, attach_type::NONE, 0),
            KernelHook::RawTracepoint { .. } => {
                (BPF_PROG_TYPE_RAW_TRACEPOINT, attach_type::NONE, 0)
            }
            KernelHook::Function { btf_id, .. } => {
                let end = match part {
                    Part::Return => attach_type::FEXIT,
                    _ => attach_type::FENTRY,
                };
                (BPF_PROG_TYPE_TRACING, end, *btf_id)
            }
            KernelHook::Kprobe { .. } => (BPF_PROG_TYPE_KPROBE, attach_type::NONE, 0),
        }
    }

    /// Attaches a program of that type, wherever this part of it belongs.
    pub(crate) fn attach(&self, part: Part, prog: BorrowedFd<'_>) -> io::Result<Vec<Link>> {
        let link = match self {
            KernelHook::Tracepoint { id, ends } => {
                let ids = match part {
                    Part::Return if !ends.is_empty() => ends.as_slice(),
                    _ => std::slice::from_ref(id),
                };
                let links = ids
                    .iter()
                    .map(|id| Link::on_event(prog, sys::perf_tracepoint(*id)?, None));
                return links.collect();
            }
            KernelHook::RawTracepoint { name } => {
                let name = CString::new(name.as_str())?;
                sys::raw_tracepoint(prog, Some(&name)).map(Link::new)
            }
            KernelHook::Function { .. } => sys::raw_tracepoint(prog, None).map(Link::new),
            KernelHook::Kprobe { name } => {
                let name = CString::new(name.as_str())?;
                let source = PerfSource::of("kprobe").map_err(|e| match e.kind() {
                    io::ErrorKind::NotFound => io::Error::new(
                        io::ErrorKind::Unsupported,
                        "this kernel is built without kprobes as perf events (CONFIG_KPROBE_EVENTS)",
                    ),
                    _ => e,
                })?;
                source.attach_kprobe(prog, &name, part == Part::Return)
            }
        };
        Ok(vec![link?])
    }

    /// What the kernel means by an error of loading a program.
    pub(crate) fn explain_load(&self, e: &io::Error) -> &'static str {
        match (self, e.raw_os_error()) {
            (_, Some(libc::E2BIG)) => {
                ": it takes the verifier too many steps: fewer or smaller captures are needed"
            }
            (KernelHook::Function { .. }, _) => self.explain(e),
            _ => "",
        }
    }

    /// What the kernel means by an error of attaching; empty: what it always means.
    pub(crate) fn explain(&self, e: &io::Error) -> &'static str {
        use KernelHook::*;
        let Some(errno) = e.raw_os_error() else {
            return "";
        };
        match (self, errno) {
            (Tracepoint { .. }, libc::ENOENT | libc::EINVAL) => {
                ": there is no tracepoint of this number"
            }
            (Tracepoint { .. }, libc::EACCES) => {
                ": a field is beyond the record's end, or tracepoints are not permitted"
            }
            (RawTracepoint { .. }, libc::ENOENT) => ": there is no tracepoint of this name",
            (RawTracepoint { .. }, libc::EINVAL) => ": an argument is beyond its last one",
            (Function { .. }, libc::EPERM) => ": this kernel does not permit fentry",
            (Function { .. }, ENOTSUPP) => {
                ": the function's arguments are not supported, or the kernel has no trampolines"
            }
            (Function { .. }, libc::EBUSY) => ": something else has patched the function",
            (Function { .. }, libc::ENOENT | libc::EINVAL) => {
                ": the function cannot be traced, or is another one in this kernel's BTF"
            }
            (Kprobe { .. }, libc::ENOENT) => ": the kernel has no such function",
            (Kprobe { .. }, libc::EADDRNOTAVAIL) => {
                ": several functions of the kernel have this name"
            }
            (Kprobe { .. }, libc::EINVAL) => ": the kernel lets nobody probe this function",
            (_, libc::E2BIG) => ": too many programs are attached there already",
            _ => "",
        }
    }
}

impl KernelSite {
    /// What its programs are told of it.
    pub(crate) fn source(&self) -> SiteSource {
        SiteSource::Kernel {
            site: self.site,
            arguments: match self.hook {
                KernelHook::Function { arguments, .. } => arguments,
                _ => 0,
            },
        }
    }
}
