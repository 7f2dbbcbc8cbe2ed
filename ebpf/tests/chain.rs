//! Depth, parent and own time of calls in the real kernel, by each mechanism.

mod common;

use std::arch::global_asm;
use std::hint::black_box;
use std::time::{Duration, Instant};

use common::*;
use uprof_ebpf::{
    Action, AttachExit, Capture, Engine, EngineOptions, Expr, KeyPart, Mechanism, ProbeKind,
    ProbeSpec, Returns,
};

/// One call, as the probes saw it, at its return.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Seen {
    probe: u32,
    arg: u64,
    depth: Option<u64>,
    /// Probe of the call around it.
    parent: Option<Option<u64>>,
    own: Option<u64>,
    latency: u64,
}

fn spec() -> ProbeSpec {
    let captures = vec![
        Capture::Saved(0),
        Capture::Int(Expr::Depth),
        Capture::Int(Expr::Parent),
        Capture::Int(Expr::SelfTime),
    ];
    call(vec![Capture::Int(arg(0))], Action::Event { captures })
}

fn drain(engine: &mut Engine) -> Vec<Seen> {
    let mut seen = Vec::new();
    engine
        .drain(|r| {
            seen.push(Seen {
                probe: r.probe.into(),
                arg: r.int(0).unwrap(),
                depth: r.int(1),
                parent: r.int(2).map(|p| p.checked_sub(1).map(|p| p >> 32)),
                own: r.int(3),
                latency: r.latency_ns,
            })
        })
        .unwrap();
    seen
}

fn load_probes(functions: &[usize], options: &EngineOptions) -> Engine {
    let specs = functions.iter().map(|_| spec()).collect();
    let mut engine = load_all(specs, options);
    for (probe, function) in functions.iter().enumerate() {
        engine
            .attach(probe, &[site(*function, 0)], Some(std::process::id()))
            .unwrap();
    }
    engine
}

fn spin(micros: u64) {
    let end = Instant::now() + Duration::from_micros(micros);
    while black_box(Instant::now()) < end {}
}

#[inline(never)]
extern "C" fn fib(n: u64) -> u64 {
    if n < 2 {
        return black_box(n);
    }
    fib(black_box(n - 1)) + fib(black_box(n - 2))
}

/// Calls, in the order of their returns: argument, depth.
fn fib_calls(n: u64, depth: u64, calls: &mut Vec<(u64, u64)>) {
    if n >= 2 {
        fib_calls(n - 1, depth + 1, calls);
        fib_calls(n - 2, depth + 1, calls);
    }
    calls.push((n, depth));
}

#[test]
fn recursion_has_depth_and_times_add_up() {
    let _alone = alone();
    for (way, options) in ways() {
        let mut engine = load_probes(&[fib as *const () as usize], &options);
        fib(black_box(10));
        engine.detach();
        let seen = drain(&mut engine);
        let mut calls = Vec::new();
        fib_calls(10, 0, &mut calls);
        let got: Vec<_> = seen.iter().map(|s| (s.arg, s.depth.unwrap())).collect();
        assert_eq!(got, calls, "{way}");
        for s in &seen {
            let around = (s.depth != Some(0)).then_some(0);
            assert_eq!(s.parent, Some(around), "{way}");
        }
        // The outermost call's time is that of all calls' own times.
        let own: u64 = seen.iter().map(|s| s.own.unwrap()).sum();
        assert_eq!(own, seen.last().unwrap().latency, "{way}");
    }
}

#[inline(never)]
extern "C" fn even(n: u64) -> u64 {
    if n == 0 {
        return black_box(1);
    }
    black_box(odd(black_box(n - 1))) ^ black_box(0)
}

#[inline(never)]
extern "C" fn odd(n: u64) -> u64 {
    if n == 0 {
        return black_box(0);
    }
    black_box(even(black_box(n - 1))) ^ black_box(0)
}

#[test]
fn mutual_recursion_in_threads_knows_its_parents() {
    let _alone = alone();
    for (way, options) in ways() {
        let functions = [even as *const () as usize, odd as *const () as usize];
        let mut engine = load_probes(&functions, &options);
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| (0..10).for_each(|_| assert_eq!(even(black_box(20)), 1)));
            }
        });
        engine.detach();
        let seen = drain(&mut engine);
        assert_eq!(seen.len(), 4 * 10 * 21, "{way}");
        for s in seen {
            assert_eq!(s.depth, Some(20 - s.arg), "{way}");
            let around = (s.arg < 20).then_some(u64::from(1 - s.probe));
            assert_eq!(s.parent, Some(around), "{way}");
            assert_eq!(u64::from(s.probe), s.arg % 2, "{way}");
        }
    }
}

#[inline(never)]
extern "C" fn inner(micros: u64) -> u64 {
    spin(black_box(micros));
    micros
}

#[inline(never)]
extern "C" fn outer(micros: u64) -> u64 {
    spin(black_box(micros));
    black_box(inner(black_box(2 * micros))) + black_box(inner(black_box(3 * micros)))
}

#[test]
fn own_time_is_what_callees_did_not_take() {
    let _alone = alone();
    for (way, options) in ways() {
        let functions = [outer as *const () as usize, inner as *const () as usize];
        let mut engine = load_probes(&functions, &options);
        outer(black_box(2000));
        engine.detach();
        let seen = drain(&mut engine);
        let [first, second, whole] = seen[..] else {
            panic!("{way}: {seen:?}");
        };
        assert_eq!(
            (first.own, second.own),
            (Some(first.latency), Some(second.latency))
        );
        let own = whole.own.unwrap();
        assert_eq!(own, whole.latency - first.latency - second.latency, "{way}");
        assert!(
            (2_000_000..whole.latency / 2).contains(&own),
            "{way}: {seen:?}"
        );
    }
}

#[test]
fn two_probes_of_one_function_see_one_call() {
    let _alone = alone();
    for (way, options) in ways() {
        let function = fib as *const () as usize;
        let mut engine = load_probes(&[function, function], &options);
        fib(black_box(6));
        engine.detach();
        let mut calls = Vec::new();
        fib_calls(6, 0, &mut calls);
        let seen = drain(&mut engine);
        for probe in 0..2 {
            let own = seen.iter().filter(|s| s.probe == probe);
            let got: Vec<_> = own.map(|s| (s.arg, s.depth.unwrap_or(u64::MAX))).collect();
            assert_eq!(got, calls, "{way} {probe}");
        }
        assert!(
            seen.iter()
                .all(|s| s.own.is_some_and(|own| own <= s.latency))
        );
    }
}

// whole() calls leave(), which never returns but jumps back (as longjmp does), then last() by way
// of a function that is not probed, last() again, and first(), which jumps to last().
global_asm!(
    ".globl uprof_chain_whole, uprof_chain_whole_ret",
    "uprof_chain_whole: push rbx; mov rbx, rsp; call uprof_chain_leave; ud2",
    "3: mov rsp, rbx; call 4f; call uprof_chain_last; call uprof_chain_first; pop rbx",
    "uprof_chain_whole_ret: ret",
    "4: sub rsp, 40; call uprof_chain_last; add rsp, 40; ret",
    ".globl uprof_chain_leave; uprof_chain_leave: push rbp; push rbp; jmp 3b",
    ".globl uprof_chain_first, uprof_chain_first_jmp",
    "uprof_chain_first: push rbp; pop rbp",
    "uprof_chain_first_jmp: jmp uprof_chain_last",
    ".globl uprof_chain_last, uprof_chain_last_ret",
    "uprof_chain_last: push rbp; pop rbp",
    "uprof_chain_last_ret: ret",
);

unsafe extern "C" {
    safe fn uprof_chain_whole();
    fn uprof_chain_whole_ret();
    fn uprof_chain_leave();
    fn uprof_chain_first();
    fn uprof_chain_first_jmp();
    fn uprof_chain_last();
    fn uprof_chain_last_ret();
}

const WHOLE: u32 = 0;
const FIRST: u32 = 2;
const LAST: u32 = 3;

/// The probes of `whole`, `leave`, `first`, `last`; those in the mask end at their exits.
fn load_jumps(at_exits: u32, options: &EngineOptions) -> Engine {
    let at = |f: unsafe extern "C" fn()| f as *const () as usize;
    let whole = uprof_chain_whole as *const () as usize;
    let places = [
        (whole, Some(at(uprof_chain_whole_ret))),
        (at(uprof_chain_leave), None),
        (at(uprof_chain_first), Some(at(uprof_chain_first_jmp))),
        (at(uprof_chain_last), Some(at(uprof_chain_last_ret))),
    ];
    let mut specs = vec![spec(); places.len()];
    for (probe, spec) in specs.iter_mut().enumerate() {
        if let (1, ProbeKind::Call { returns, .. }) = (at_exits >> probe & 1, &mut spec.kind) {
            *returns = Returns::Exits;
        }
    }
    let mut engine = load_all(specs, options);
    for (probe, (entry, exit)) in places.into_iter().enumerate() {
        let mut place = site(entry, 0);
        place.exits.extend(exit.map(|exit| AttachExit {
            offset: site(exit, 0).offset,
            condition: None,
            jump: probe as u32 == FIRST,
        }));
        let pid = Some(std::process::id());
        engine.attach(probe, &[place], pid).unwrap();
    }
    engine
}

#[test]
fn calls_that_were_left_and_tail_calls_are_told_apart() {
    let _alone = alone();
    for (way, options) in ways() {
        // Attaching takes its time: not all mixtures by all mechanisms.
        let masks = match options.mechanism {
            Some(Mechanism::Session) => (0..16).collect(),
            Some(Mechanism::Multi) => vec![0, 4, 11, 15],
            _ => vec![0, 15],
        };
        for mask in masks {
            let way = format!("{way}, {mask:#06b}");
            let mut engine = load_jumps(mask, &options);
            for _ in 0..3 {
                uprof_chain_whole();
                let seen = drain(&mut engine);
                let order: Vec<_> = seen.iter().map(|s| (s.probe, s.depth, s.parent)).collect();
                let inside = |probe| (probe, Some(1), Some(Some(u64::from(WHOLE))));
                let jumped = mask >> FIRST & 1 == 1;
                let [first, last] = match jumped {
                    true => [FIRST, LAST],
                    false => [LAST, FIRST],
                };
                let expected = [
                    inside(LAST),
                    inside(LAST),
                    inside(first),
                    inside(last),
                    (WHOLE, Some(0), Some(None)),
                ];
                assert_eq!(order, expected, "{way}");
                let latency: Vec<u64> = seen.iter().map(|s| s.latency).collect();
                let own: Vec<u64> = seen.iter().map(|s| s.own.unwrap()).collect();
                assert_eq!(own[..3], latency[..3], "{way}");
                // Of a call whose return is pending while another runs, that one is a part.
                let within = if jumped { 0 } else { latency[2] };
                assert_eq!(own[3], latency[3] - within, "{way}");
                let calls: u64 = latency[..4].iter().sum();
                assert_eq!(own[4], latency[4] - (calls - within), "{way}");
            }
            engine.detach();
            let left = engine.counters(1);
            assert_eq!((left.hits, left.unpaired), (3, 3), "{way}");
        }
    }
}

#[test]
fn recursion_10000_deep_knows_its_depth_where_exits_are_probed() {
    let _alone = alone();
    let mut spec = spec();
    if let ProbeKind::Call { returns, .. } = &mut spec.kind {
        *returns = Returns::Exits;
    }
    let options = EngineOptions {
        ring_bytes: 8 << 20,
        ..EngineOptions::default()
    };
    let mut engine = load(spec, &options);
    let mut place = site(uprof_chain_down as *const () as usize, 0);
    place.exits = vec![AttachExit {
        offset: site(uprof_chain_down_ret as *const () as usize, 0).offset,
        condition: None,
        jump: false,
    }];
    engine
        .attach(0, &[place], Some(std::process::id()))
        .unwrap();
    uprof_chain_down(9_999);
    engine.detach();
    let seen = drain(&mut engine);
    assert_eq!(seen.len(), 10_000);
    for (n, call) in seen.iter().enumerate() {
        assert_eq!((call.arg, call.depth), (n as u64, Some(9_999 - n as u64)));
    }
    let own: u64 = seen.iter().map(|s| s.own.unwrap()).sum();
    assert_eq!(own, seen[9_999].latency);
}

global_asm!(
    ".globl uprof_chain_down, uprof_chain_down_ret",
    "uprof_chain_down: push rdi; test rdi, rdi; je 2f; dec rdi; call uprof_chain_down",
    "2: pop rax",
    "uprof_chain_down_ret: ret",
);

unsafe extern "C" {
    safe fn uprof_chain_down(n: u64) -> u64;
    fn uprof_chain_down_ret();
}

#[test]
fn large_probes_that_ask_for_their_place_pass_the_verifier() {
    let _alone = alone();
    let text = |limit| Capture::Str {
        addr: Expr::Arg(0),
        len: None,
        limit,
    };
    let place = [Expr::Depth, Expr::Parent, Expr::SelfTime];
    let key = vec![
        KeyPart::Str {
            addr: Expr::Retval,
            len: None,
            limit: 100,
        },
        KeyPart::Str {
            addr: Expr::Retval,
            len: Some(Expr::Depth),
            limit: 100,
        },
        KeyPart::Int(Expr::Parent),
    ];
    for (_, options) in ways() {
        for saved in [vec![text(65536)], (0..16).map(|_| text(1024)).collect()] {
            let own = (0..saved.len()).map(|i| Capture::Saved(i as u16));
            let captures = own.chain(place.clone().map(Capture::Int)).collect();
            let mut spec = call(saved, Action::Event { captures });
            spec.sites = 1000;
            spec.filter = Some(load_i32(arg(0)));
            spec.keep = Some(Expr::Depth);
            let counts = ProbeSpec {
                sites: 1000,
                ..call(
                    vec![text(64)],
                    Action::Histogram {
                        value: Expr::SelfTime,
                        key: key.clone(),
                        scale: uprof_ebpf::Scale::Log,
                    },
                )
            };
            load_all(vec![spec, counts], &options);
        }
    }
}
