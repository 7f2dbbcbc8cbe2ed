//! What a probe costs per hit, against an empty one, in one run; and what starting up costs.
//!
//!     cargo run --release -p uprof-ebpf --example cost     (as root)
//!
//! Rounds are interleaved, since machines drift: a ratio is the median of the rounds' own ratios.
//! It is CPU time, and the least of the rounds stands beside the median: machines are busy.

use std::arch::global_asm;
use std::path::{Path, PathBuf};
use std::time::Instant;

use uprof_ebpf::{
    Action, AttachExit, AttachSite, Capture, EmptyProbe, Engine, EngineOptions, Expr, FrameName,
    KeyPart, Mechanism, ProbeKind, ProbeSpec, Returns, Scale, expr::Builtin,
};

// Two targets: one that begins with what kernels rewrite into a call (a 5-byte nop), one with what
// they emulate (push).
global_asm!(
    ".globl cost_nop5, cost_nop5_ret",
    "cost_nop5: .byte 0x0f,0x1f,0x44,0x00,0x00; lea rax,[rdi+1]; cost_nop5_ret: ret",
    ".balign 16",
    ".globl cost_push, cost_push_ret",
    "cost_push: push rbp; lea rax,[rdi+1]; pop rbp; cost_push_ret: ret",
);

unsafe extern "C" {
    safe fn cost_nop5(size: u64) -> u64;
    safe fn cost_push(size: u64) -> u64;
    fn cost_nop5_ret();
    fn cost_push_ret();
}

type Function = extern "C" fn(u64) -> u64;

const ROUNDS: usize = 25;
const CALLS: u64 = 20_000;

fn offset_of(address: usize) -> (PathBuf, u64) {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("/proc/self/maps");
    for line in maps.lines() {
        let f: Vec<&str> = line.split_whitespace().collect();
        let hex = |s: &str| usize::from_str_radix(s, 16).expect("hex");
        let (from, to) = f[0].split_once('-').expect("a range");
        if (hex(from)..hex(to)).contains(&address) {
            return (f[5].into(), (address - hex(from) + hex(f[2])) as u64);
        }
    }
    panic!("not mapped");
}

fn spec(call: bool, saved: Vec<Capture>, action: Action) -> ProbeSpec {
    let kind = if call {
        ProbeKind::Call {
            saved,
            filter: None,
            returns: Default::default(),
            frame: Default::default(),
        }
    } else {
        ProbeKind::Entry
    };
    ProbeSpec {
        on: uprof_ebpf::On::Program,
        sample: 1,
        name: "cost".into(),
        sites: 1,
        kind,
        filter: None,
        keep: None,
        action,
    }
}

/// A latency histogram of calls that end at their exits.
fn by_exits(frame: FrameName) -> ProbeSpec {
    let latency = Action::Histogram {
        value: Expr::Latency,
        key: vec![],
        scale: Scale::Log,
    };
    ProbeSpec {
        kind: ProbeKind::Call {
            saved: vec![],
            filter: None,
            returns: Returns::Exits,
            frame,
        },
        ..spec(true, vec![], latency)
    }
}

/// Nanoseconds of this thread's CPU time: what others run in between does not count.
fn cpu_ns() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is valid for writing; the clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

fn time(function: Function) -> f64 {
    let begun = cpu_ns();
    for i in 0..CALLS {
        std::hint::black_box(function(std::hint::black_box(i)));
    }
    (cpu_ns() - begun) as f64 / CALLS as f64
}

fn probed(
    path: &Path,
    [offset, exit]: [u64; 2],
    spec: ProbeSpec,
    options: &EngineOptions,
) -> Engine {
    let mut engine = Engine::load(vec![spec], options).expect("load");
    let site = AttachSite {
        path: path.into(),
        offset,
        site: 0,
        semaphore: None,
        exits: vec![AttachExit {
            offset: exit,
            condition: None,
            jump: false,
        }],
    };
    engine
        .attach(0, &[site], Some(std::process::id()))
        .expect("attach");
    engine
}

fn cost(what: &str, function: Function, addresses: [usize; 2]) {
    let (path, offset) = offset_of(addresses[0]);
    let exit = offset_of(addresses[1]).1;
    let pid = std::process::id();
    let hist = |value, key| Action::Histogram {
        value,
        key,
        scale: Scale::Log,
    };
    let by_pid = || vec![KeyPart::Int(Expr::Builtin(Builtin::Pid))];
    let string = Capture::Str {
        addr: Expr::Const(path.as_os_str().as_encoded_bytes().as_ptr() as u64),
        len: None,
        limit: 1024,
    };
    let stats = |values, key| Action::Stats { values, key };
    let linear = Action::Histogram {
        value: Expr::Arg(0),
        key: vec![],
        scale: Scale::Linear {
            from: 0,
            step: 100,
            buckets: 100,
        },
    };
    let one_of_100 = |spec| ProbeSpec {
        sample: 100,
        ..spec
    };
    let by_stack = Action::Count {
        key: vec![KeyPart::Stack { user: true }],
    };
    let cases: Vec<(&str, bool, Option<ProbeSpec>)> = vec![
        ("entry: empty", false, None),
        (
            "entry: count",
            false,
            Some(spec(false, vec![], Action::Count { key: vec![] })),
        ),
        (
            "entry: histogram of arg0",
            false,
            Some(spec(false, vec![], hist(Expr::Arg(0), vec![]))),
        ),
        (
            "entry: histogram by pid",
            false,
            Some(spec(false, vec![], hist(Expr::Arg(0), by_pid()))),
        ),
        (
            "entry: linear histogram",
            false,
            Some(spec(false, vec![], linear)),
        ),
        (
            "entry: stats of arg0",
            false,
            Some(spec(false, vec![], stats(vec![Expr::Arg(0)], vec![]))),
        ),
        (
            "entry: stats of 4 values",
            false,
            Some(spec(false, vec![], stats(vec![Expr::Arg(0); 4], vec![]))),
        ),
        (
            "entry: stats by pid",
            false,
            Some(spec(false, vec![], stats(vec![Expr::Arg(0)], by_pid()))),
        ),
        (
            "entry: count by stack",
            false,
            Some(spec(false, vec![], by_stack)),
        ),
        (
            "entry: histogram, 1 of 100",
            false,
            Some(one_of_100(spec(
                false,
                vec![],
                hist(Expr::Arg(0), by_pid()),
            ))),
        ),
        (
            "entry: event",
            false,
            Some(spec(
                false,
                vec![],
                Action::Event {
                    captures: vec![Capture::Int(Expr::Arg(0))],
                },
            )),
        ),
        (
            "entry: event, string",
            false,
            Some(spec(
                false,
                vec![],
                Action::Event {
                    captures: vec![string.clone()],
                },
            )),
        ),
        ("call: empty", true, None),
        (
            "call: latency histogram",
            true,
            Some(spec(true, vec![], hist(Expr::Latency, vec![]))),
        ),
        (
            "call: latency, 1 of 100",
            true,
            Some(one_of_100(spec(true, vec![], hist(Expr::Latency, vec![])))),
        ),
        (
            "call: own time",
            true,
            Some(spec(true, vec![], hist(Expr::SelfTime, vec![]))),
        ),
        (
            "call: latency, uprobe_multi",
            true,
            Some(spec(true, vec![], hist(Expr::Latency, vec![]))),
        ),
        (
            "call: latency by pid",
            true,
            Some(spec(true, vec![], hist(Expr::Latency, by_pid()))),
        ),
        (
            "call: event, saved string",
            true,
            Some(spec(
                true,
                vec![string],
                Action::Event {
                    captures: vec![Capture::Saved(0)],
                },
            )),
        ),
        ("exits: empty", true, None),
        (
            "exits: latency histogram",
            true,
            Some(by_exits(FrameName::Stack)),
        ),
        (
            "exits: latency, what runs",
            true,
            Some(by_exits(FrameName::Running)),
        ),
    ];
    let mut times = vec![Vec::new(); cases.len()];
    for _ in 0..ROUNDS {
        for (i, (name, call, spec)) in cases.iter().enumerate() {
            let options = EngineOptions {
                ring_bytes: 64 << 20,
                mechanism: name.ends_with("uprobe_multi").then_some(Mechanism::Multi),
                ..EngineOptions::default()
            };
            let took = match spec {
                None => {
                    let mechanism = if *call {
                        Mechanism::Session
                    } else {
                        Mechanism::Multi
                    };
                    let attach = |mechanism, offset| {
                        EmptyProbe::attach(mechanism, &path, offset, pid).expect("attach")
                    };
                    let _empty = match name.starts_with("exits") {
                        true => vec![
                            attach(Mechanism::Multi, offset),
                            attach(Mechanism::Multi, exit),
                        ],
                        false => vec![attach(mechanism, offset)],
                    };
                    time(function)
                }
                Some(spec) => {
                    let engine = probed(&path, [offset, exit], spec.clone(), &options);
                    let took = time(function);
                    assert_eq!(engine.counters(0).hits, CALLS);
                    took
                }
            };
            times[i].push(took);
        }
    }
    println!("{what}: ns per call, median and least of {ROUNDS} rounds");
    let least = |list: &[f64]| list.iter().copied().fold(f64::INFINITY, f64::min);
    let median = |mut list: Vec<f64>| {
        list.sort_by(f64::total_cmp);
        list[list.len() / 2]
    };
    let mut floor = Vec::new();
    for ((name, _, spec), list) in cases.into_iter().zip(times) {
        if spec.is_none() {
            floor = list.clone();
        }
        let ratios = list
            .iter()
            .zip(&floor)
            .map(|(time, floor)| time / floor)
            .collect();
        let least = (least(&list), least(&list) / least(&floor));
        println!(
            "  {name:32} {:8.0}  {:5.2} {:8.0}  {:5.2}",
            median(list),
            median(ratios),
            least.0,
            least.1
        );
    }
}

fn start_up() {
    let mut load = Vec::new();
    for _ in 0..20 {
        let begun = Instant::now();
        let action = Action::Histogram {
            value: Expr::Latency,
            key: vec![],
            scale: Scale::Log,
        };
        let engine = Engine::load(vec![spec(true, vec![], action)], &EngineOptions::default());
        load.push(begun.elapsed().as_micros());
        drop(engine.expect("load"));
    }
    load.sort_unstable();
    println!(
        "Engine::load of a latency histogram: median {} us",
        load[load.len() / 2]
    );
}

fn main() {
    start_up();
    let at = |entry: usize, ret: unsafe extern "C" fn()| [entry, ret as usize];
    cost(
        "5-byte nop",
        cost_nop5,
        at(cost_nop5 as *const () as usize, cost_nop5_ret),
    );
    cost(
        "push",
        cost_push,
        at(cost_push as *const () as usize, cost_push_ret),
    );
}
