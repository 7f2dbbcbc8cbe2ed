//! What the tests against the real kernel share: functions of this very binary to probe, and where
//! they lie in its file.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};

use uprof_ebpf::expr::{BinOp, Builtin, Expr, IntType};
use uprof_ebpf::{
    Action, AttachExit, AttachSite, Capture, Counters, Engine, EngineOptions, FrameName, Mechanism,
    ProbeKind, ProbeSpec, Returns,
};

/// Fails clearly where these tests cannot run: they are never skipped.
pub fn need_root() {
    // SAFETY: it only asks.
    let euid = unsafe { libc::geteuid() };
    assert_eq!(euid, 0, "these tests load BPF programs: run them as root");
}

/// Probed functions are this process's, and tests run side by side in it: one at a time.
pub fn alone() -> MutexGuard<'static, ()> {
    need_root();
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(|e| e.into_inner())
}

/// How a probe can be attached, and as the oldest kernel would have it. An older kernel's own
/// ways are named, as it does not have the others: UPROF_TEST_MECHANISMS="multi perf".
pub fn ways() -> Vec<(&'static str, EngineOptions)> {
    let options = |mechanism, oldest| EngineOptions {
        ring_bytes: 1 << 20,
        mechanism: Some(mechanism),
        oldest,
        verifier_log: true,
        ..EngineOptions::default()
    };
    let mut ways = vec![
        ("session", options(Mechanism::Session, false)),
        ("multi", options(Mechanism::Multi, false)),
        ("perf", options(Mechanism::Perf, false)),
        ("multi, oldest", options(Mechanism::Multi, true)),
        ("perf, oldest", options(Mechanism::Perf, true)),
    ];
    if let Ok(here) = std::env::var("UPROF_TEST_MECHANISMS") {
        ways.retain(|(name, _)| here.split(' ').any(|mechanism| name.starts_with(mechanism)));
        assert!(!ways.is_empty(), "none of UPROF_TEST_MECHANISMS: {here}");
    }
    ways
}

/// The same for calls that end at their exits, which no session sees.
pub fn exit_ways() -> Vec<(&'static str, EngineOptions)> {
    let mut ways = ways();
    ways.retain(|(_, options)| options.mechanism != Some(Mechanism::Session));
    ways
}

/// Where the function at `address` lies in this binary's file.
pub fn site(address: usize, index: u32) -> AttachSite {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    for line in maps.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (from, to) = fields[0].split_once('-').unwrap();
        let hex = |s: &str| usize::from_str_radix(s, 16).unwrap();
        if (hex(from)..hex(to)).contains(&address) {
            return AttachSite {
                path: PathBuf::from(fields[5]),
                offset: (address - hex(from) + hex(fields[2])) as u64,
                site: index,
                semaphore: None,
                exits: Vec::new(),
            };
        }
    }
    panic!("{address:#x} is not mapped");
}

/// Loads one probe; the verifier's log on failure.
pub fn load(spec: ProbeSpec, options: &EngineOptions) -> Engine {
    load_all(vec![spec], options)
}

pub fn load_all(specs: Vec<ProbeSpec>, options: &EngineOptions) -> Engine {
    Engine::load(specs, options).unwrap_or_else(|e| {
        let log = e.verifier_log().unwrap_or_default();
        let tail = &log[log.len().saturating_sub(6000)..];
        panic!("{e}\n{tail}")
    })
}

/// Attaches probe 0 to a function of this process.
pub fn attach(engine: &mut Engine, function: usize) {
    engine
        .attach(0, &[site(function, 0)], Some(std::process::id()))
        .unwrap();
}

pub fn call(saved: Vec<Capture>, action: Action) -> ProbeSpec {
    ProbeSpec {
        on: uprof_ebpf::On::Program,
        sample: 1,
        name: "call".into(),
        sites: 1,
        kind: ProbeKind::Call {
            saved,
            filter: None,
            returns: Default::default(),
            frame: Default::default(),
        },
        filter: None,
        keep: None,
        action,
    }
}

/// A call that ends at its exits.
pub fn exits(saved: Vec<Capture>, frame: FrameName, action: Action) -> ProbeSpec {
    ProbeSpec {
        on: uprof_ebpf::On::Program,
        sample: 1,
        name: "exits".into(),
        kind: ProbeKind::Call {
            saved,
            filter: None,
            returns: Returns::Exits,
            frame,
        },
        ..call(vec![], action)
    }
}

/// The exit at `address` of this process's code; with a condition it is a jump.
pub fn exit(address: usize, condition: Option<u8>) -> AttachExit {
    AttachExit {
        offset: site(address, 0).offset,
        condition,
        jump: condition.is_some(),
    }
}

/// A function and the addresses of its `ret`s.
pub fn exit_site(function: usize, index: u32, rets: &[usize]) -> AttachSite {
    AttachSite {
        exits: rets.iter().map(|at| exit(*at, None)).collect(),
        ..site(function, index)
    }
}

pub fn entry(action: Action) -> ProbeSpec {
    ProbeSpec {
        on: uprof_ebpf::On::Program,
        sample: 1,
        name: "entry".into(),
        sites: 1,
        kind: ProbeKind::Entry,
        filter: None,
        keep: None,
        action,
    }
}

pub fn arg(n: u8) -> Expr {
    Expr::Arg(n)
}

pub fn int(value: u64) -> Expr {
    Expr::Const(value)
}

pub fn op(op: BinOp, a: Expr, b: Expr) -> Expr {
    Expr::binary(op, a, b)
}

pub fn pid() -> Expr {
    Expr::Builtin(Builtin::Pid)
}

pub fn load_i32(addr: Expr) -> Expr {
    Expr::Load {
        addr: Box::new(addr),
        ty: IntType {
            bits: 32,
            signed: true,
        },
    }
}

/// The identity that every probe's counters keep, once detached.
#[track_caller]
pub fn accounted(way: &str, c: Counters) {
    let ended = c.emitted + c.aggregated + c.filtered + c.dropped_ring + c.dropped_map;
    assert_eq!(c.hits, ended + c.unsampled + c.unpaired, "{way}: {c:?}");
}

/// A literal that is in memory for sure: a probe cannot read a page of a file that nobody has read yet.
#[allow(dead_code, reason = "not every test binary has texts")]
pub fn resident(text: &'static std::ffi::CStr) -> *const std::ffi::c_char {
    std::hint::black_box(std::hint::black_box(text).to_bytes().to_vec());
    text.as_ptr()
}
