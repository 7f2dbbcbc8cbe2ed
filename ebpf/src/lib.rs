//! All that speaks BPF: from a typed program to bytecode, into the kernel, and back out.
//!
//! A caller describes probes ([`ProbeSpec`]: what to test, capture and aggregate, as typed
//! [`expr`]essions), loads them ([`Engine::load`]), attaches them to places in files
//! ([`Engine::attach`]), and reads records, counters, counts and histograms. Nothing here knows of
//! symbols, recipes or reports.
//!
//! - `expr`: the tree, its reference evaluator, its compiler.
//! - `asm`: instructions, labels, references to maps and kernel functions.
//! - `program`: the shapes (entry and call; event, count, histogram) put together from those.
//! - `layout`: where things lie in memory that programs and userspace share; `record`, `key`,
//!   `hist`, `stats` are the userspace side of it.
//! - `sys`: the thin layer over bpf(2) and perf_event_open(2), for what aya 0.14 cannot do:
//!   `uprobe_multi` and session programs and links. `btf` finds the ids of kernel functions.
//! - `maps`, `load`, `link`, `hook`, `engine`: what is tried, in which order, and what is held
//!   open.
//! - `features`: what this kernel and this user can do, by trying. `object_file`: programs as ELF.
//!
//! Programs of uprobes are preemptible, so that nothing here relies on "one at a time per CPU":
//! counters are atomic additions, sharded by CPU, and scratch memory is claimed.

#![cfg(target_arch = "x86_64")]

pub mod expr;
pub mod hist;

mod arch;
mod asm;
mod btf;
mod empty;
mod engine;
mod error;
pub mod features;
mod helper;
mod hook;
mod key;
mod layout;
mod link;
mod load;
mod maps;
mod object_file;
mod program;
mod record;
mod site;
mod spec;
mod stats;
mod sys;
mod syscalls;

pub use empty::EmptyProbe;
pub use engine::{Engine, OpenCall, dump_object, monotonic_ns, unix_offset_ns};
pub use error::Error;
pub use expr::Expr;
pub use hist::{HistData, LinearData};
pub use key::{KeyBytes, KeyValue};
pub use record::{Bytes, Record};
pub use site::{AttachExit, AttachSite, KernelHook, KernelSite};
pub use spec::{
    Action, Capture, EngineOptions, FrameName, KernelSource, KeyPart, MAX_CAPTURE, MAX_CAPTURES,
    MAX_KEY_STRING, MAX_LINEAR_BUCKETS, MAX_STACK_FRAMES, MAX_STATS, Mechanism, On, ProbeKind,
    ProbeSpec, Returns, Scale,
};
pub use stats::{BreakdownData, Counters, StatData, StatsData};
