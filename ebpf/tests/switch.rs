//! From replaced return addresses to exits, while probes are attached.

mod common;

use std::arch::global_asm;
use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use common::*;
use uprof_ebpf::expr::BinOp;
use uprof_ebpf::{
    Action, AttachExit, AttachSite, Capture, Counters, Engine, Expr, KeyPart, ProbeSpec, Returns,
};

// down(n) calls itself until n is 0: n + 1 calls. around(f, x) calls f(x).
global_asm!(
    ".globl uprof_switch_down, uprof_switch_down_ret",
    "uprof_switch_down: push rdi; test rdi, rdi; je 2f; dec rdi; call uprof_switch_down",
    "2: pop rax",
    "uprof_switch_down_ret: ret",
    ".globl uprof_switch_around, uprof_switch_around_ret",
    "uprof_switch_around: push rdi; mov rdi, rsi; call [rsp]; pop rdi",
    "uprof_switch_around_ret: ret",
);

unsafe extern "C" {
    safe fn uprof_switch_down(n: u64) -> u64;
    fn uprof_switch_down_ret();
    safe fn uprof_switch_around(call: extern "C" fn(*mut c_void), with: *mut c_void);
    fn uprof_switch_around_ret();
}

fn latency() -> Action {
    Action::Histogram {
        value: Expr::Latency,
        key: vec![],
        scale: uprof_ebpf::Scale::Log,
    }
}

fn with_exit(function: usize, exit: usize) -> AttachSite {
    AttachSite {
        exits: vec![AttachExit {
            offset: site(exit, 0).offset,
            condition: None,
            jump: false,
        }],
        ..site(function, 0)
    }
}

fn down() -> AttachSite {
    let at = |f: unsafe extern "C" fn()| f as *const () as usize;
    with_exit(
        uprof_switch_down as *const () as usize,
        at(uprof_switch_down_ret),
    )
}

fn around() -> AttachSite {
    let at = |f: unsafe extern "C" fn()| f as *const () as usize;
    with_exit(
        uprof_switch_around as *const () as usize,
        at(uprof_switch_around_ret),
    )
}

fn by_first_argument() -> ProbeSpec {
    let key = vec![KeyPart::Int(op(BinOp::Rem, Expr::Saved(0), int(2)))];
    call(vec![Capture::Int(arg(0))], Action::Count { key })
}

#[test]
fn what_is_nested_too_deeply_is_seen_after_the_switch() {
    let _alone = alone();
    for (way, options) in ways() {
        for spec in [call(vec![], latency()), by_first_argument()] {
            let mut engine = load(spec, &options);
            let pid = Some(std::process::id());
            engine.attach(0, &[down()], pid).unwrap();
            for round in 1..=2 {
                uprof_switch_down(9_999);
                let c = engine.counters(0);
                let seen = (c.hits, c.aggregated, c.nested);
                assert_eq!(seen, (round * 10_000, round * 64, round * 9_936), "{way}");
            }
            assert_eq!(engine.returns(0), Returns::Replaced);
            assert!(engine.use_exits(0).unwrap(), "{way}");
            assert_eq!(engine.returns(0), Returns::Exits);
            for round in 1..=3 {
                uprof_switch_down(9_999);
                let c = engine.counters(0);
                let seen = (c.hits, c.aggregated, c.nested);
                let all = (20_000 + round * 10_000, 128 + round * 10_000, 19_872);
                assert_eq!(seen, all, "{way}");
            }
            // There is nothing left to switch.
            assert!(!engine.use_exits(0).unwrap(), "{way}");
            engine.detach();
            uprof_switch_down(10);
            let c = engine.counters(0);
            assert_eq!((c.hits, c.unpaired), (50_000, c.nested), "{way}");
            accounted(way, c);
        }
    }
}

extern "C" fn switch(engine: *mut c_void) {
    // SAFETY: it is an engine, lent for the call.
    let engine = unsafe { &mut *engine.cast::<Engine>() };
    assert!(engine.use_exits(0).unwrap());
}

extern "C" fn nothing(_: *mut c_void) {}

#[test]
fn a_call_that_is_open_at_the_switch_is_counted_once() {
    let _alone = alone();
    for (way, options) in ways() {
        let mut engine = load(call(vec![], latency()), &options);
        let pid = Some(std::process::id());
        engine.attach(0, &[around()], pid).unwrap();
        uprof_switch_around(switch, (&raw mut engine).cast());
        let c = engine.counters(0);
        assert_eq!((c.hits, c.aggregated), (1, 1), "{way}");
        uprof_switch_around(nothing, std::ptr::null_mut());
        // What is attached later counts as well.
        uprof_switch_down(9);
        engine.attach(0, &[down()], pid).unwrap();
        uprof_switch_down(99);
        engine.detach();
        uprof_switch_around(nothing, std::ptr::null_mut());
        let c = engine.counters(0);
        assert_eq!((c.hits, c.aggregated), (102, 102), "{way}");
        accounted(way, c);
    }
}

#[test]
fn only_calls_whose_exits_are_known_are_switched() {
    let _alone = alone();
    for (way, options) in ways() {
        let specs = vec![
            call(vec![], latency()),
            entry(Action::Count { key: vec![] }),
            call(vec![], latency()),
            call(vec![], latency()),
        ];
        let mut engine = load_all(specs, &options);
        let pid = Some(std::process::id());
        let plain = site(uprof_switch_down as *const () as usize, 0);
        engine.attach(0, &[down()], pid).unwrap();
        engine.attach(0, std::slice::from_ref(&plain), pid).unwrap();
        engine.attach(1, &[plain], pid).unwrap();
        assert!(
            !engine.use_exits(0).unwrap(),
            "{way}: one site has no exits"
        );
        assert!(!engine.use_exits(1).unwrap(), "{way}: it is no call");
        assert!(engine.use_exits(9).is_err(), "{way}");
        // Not attached yet, and other probes stay as they are.
        assert!(engine.use_exits(2).unwrap(), "{way}");
        engine.attach(2, &[down()], pid).unwrap();
        engine.attach(3, &[down()], pid).unwrap();
        uprof_switch_down(99);
        engine.detach();
        let ended = |probe| {
            let c = engine.counters(probe);
            accounted(way, c);
            (c.hits, c.aggregated, c.nested)
        };
        assert_eq!(ended(1), (100, 100, 0), "{way}");
        assert_eq!(ended(2), (100, 100, 0), "{way}");
        assert_eq!(ended(3), (100, 64, 36), "{way}");
    }
}

#[test]
fn processes_that_are_gone_are_not_attached_again() {
    let _alone = alone();
    for (way, options) in ways() {
        let mut engine = load(call(vec![], latency()), &options);
        let mut child = std::process::Command::new("sleep")
            .arg("30")
            .spawn()
            .unwrap();
        engine.attach(0, &[down()], Some(child.id())).unwrap();
        engine
            .attach(0, &[down()], Some(std::process::id()))
            .unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(engine.use_exits(0).unwrap(), "{way}");
        uprof_switch_down(99);
        engine.detach();
        let c = engine.counters(0);
        assert!(c.hits >= 100 && c.nested == 0, "{way}: {c:?}");
        assert_eq!(c.aggregated, c.hits, "{way}");
    }
}

/// Runs `function` again and again on three threads, each time that many calls, and what
/// `meanwhile` does; how many calls there were.
fn on_threads(function: fn(), calls: u64, meanwhile: impl FnOnce()) -> u64 {
    let (stop, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    function();
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        while rounds.load(Ordering::Relaxed) < 3 {
            std::thread::sleep(Duration::from_millis(1));
        }
        meanwhile();
        let done = rounds.load(Ordering::Relaxed);
        while rounds.load(Ordering::Relaxed) < done + 9 {
            std::thread::sleep(Duration::from_millis(1));
        }
        stop.store(true, Ordering::Relaxed);
    });
    calls * rounds.into_inner()
}

/// Every call was a hit; but for those that the kernel says it has missed.
#[track_caller]
fn all_hit(way: &str, c: Counters, calls: u64) {
    let missed = c.missed.unwrap();
    assert!(
        c.hits <= calls && calls <= c.hits + missed,
        "{way}: {calls} calls, {c:?}"
    );
    accounted(way, c);
}

#[test]
fn recursion_across_the_switch_is_seen_whole() {
    let _alone = alone();
    for (way, mut options) in ways() {
        options.max_frames = 65_536;
        for spec in [call(vec![], latency()), by_first_argument()] {
            let mut engine = load(spec, &options);
            let pid = Some(std::process::id());
            engine.attach(0, &[down()], pid).unwrap();
            let deep = || assert_eq!(uprof_switch_down(9_999), 9_999);
            let mut before = 0;
            let calls = on_threads(deep, 10_000, || {
                assert!(engine.use_exits(0).unwrap(), "{way}");
                before = engine.counters(0).nested;
            });
            let c = engine.counters(0);
            all_hit(way, c, calls);
            assert_eq!((c.nested, c.dropped()), (before, 0), "{way}");
            // Those that were open returned, and those that the kernel would not follow ended.
            assert!(c.unpaired - c.nested <= c.missed.unwrap(), "{way}: {c:?}");
            assert!(c.aggregated > 9 * 10_000 && before > 9_000, "{way}: {c:?}");
            let more = on_threads(deep, 10_000, || ());
            engine.detach();
            let c = engine.counters(0);
            all_hit(way, c, calls + more);
            assert!(c.unpaired - before <= c.missed.unwrap(), "{way}: {c:?}");
        }
    }
}

#[test]
fn no_call_is_missed_or_counted_twice_as_the_turn_goes_over() {
    let _alone = alone();
    for (way, options) in ways() {
        for _ in 0..10 {
            let mut engine = load(call(vec![], latency()), &options);
            let pid = Some(std::process::id());
            engine.attach(0, &[down()], pid).unwrap();
            let shallow = || {
                (0..100).for_each(|_| assert_eq!(uprof_switch_down(0), 0));
            };
            let calls = on_threads(shallow, 100, || {
                assert!(engine.use_exits(0).unwrap(), "{way}");
            });
            engine.detach();
            let c = engine.counters(0);
            all_hit(way, c, calls);
            assert!(c.unpaired <= c.missed.unwrap(), "{way}: {c:?}");
        }
    }
}

#[test]
fn a_switch_that_fails_changes_nothing() {
    let _alone = alone();
    for (way, options) in ways() {
        let mut engine = load(call(vec![], latency()), &options);
        let pid = Some(std::process::id());
        let mut beyond = down();
        beyond.exits[0].offset = 1 << 40;
        engine.attach(0, &[beyond], pid).unwrap();
        let kept = engine.keeps_frames(0);
        let calls = on_threads(
            || assert_eq!(uprof_switch_down(9), 9),
            10,
            || {
                for _ in 0..2 {
                    assert!(engine.use_exits(0).is_err(), "{way}");
                }
            },
        );
        assert_eq!(engine.returns(0), Returns::Replaced);
        assert_eq!(engine.keeps_frames(0), kept, "{way}");
        engine.detach();
        let c = engine.counters(0);
        all_hit(way, c, calls);
        assert!(c.unpaired <= c.missed.unwrap(), "{way}: {c:?}");
    }
}

extern "C" fn down_and_switch(engine: *mut c_void) {
    uprof_switch_down(1);
    // SAFETY: it is an engine, lent for the call.
    let engine = unsafe { &mut *engine.cast::<Engine>() };
    for probe in 0..2 {
        assert!(engine.use_exits(probe).unwrap());
        uprof_switch_down(1);
    }
}

#[test]
fn calls_keep_their_places_in_the_call_that_is_open_at_the_switch() {
    let _alone = alone();
    for (way, options) in ways() {
        for saved in [vec![], vec![Capture::Int(arg(0))]] {
            let captures = [Expr::Depth, Expr::Parent, Expr::SelfTime].map(Capture::Int);
            let action = Action::Event {
                captures: captures.to_vec(),
            };
            let specs = vec![call(saved.clone(), action.clone()), call(saved, action)];
            let mut engine = load_all(specs, &options);
            let pid = Some(std::process::id());
            engine.attach(0, &[around()], pid).unwrap();
            engine.attach(1, &[down()], pid).unwrap();
            uprof_switch_around(down_and_switch, (&raw mut engine).cast());
            uprof_switch_around(nothing, std::ptr::null_mut());
            engine.detach();
            let mut seen = Vec::new();
            let mut latencies = [0, 0];
            let mut own = 0;
            engine
                .drain(|r| {
                    let parent = probe_of(r.int(1).unwrap());
                    // What the first call around the others took, and they within it.
                    if seen.len() < 7 && parent != Some(1) {
                        latencies[usize::from(r.probe)] += r.latency_ns;
                    }
                    if seen.len() < 7 && r.probe == 0 {
                        own = r.int(2).unwrap();
                    }
                    seen.push((r.probe, r.int(0).unwrap(), parent));
                })
                .unwrap();
            let pair = [(1, 2, Some(1)), (1, 1, Some(0))];
            let mut expected = pair.repeat(3);
            expected.extend([(0, 0, None); 2]);
            assert_eq!(seen, expected, "{way}");
            assert_eq!(own, latencies[0] - latencies[1], "{way}");
        }
    }
}

/// The probe of the call around.
fn probe_of(parent: u64) -> Option<u64> {
    parent.checked_sub(1).map(|p| p >> 32)
}
