//! The kernel's limit of 64 pending returns per thread: what it does not see is counted, exactly.

mod common;

use std::arch::global_asm;

use common::*;
use uprof_ebpf::{Action, Expr};

// deep(n) calls itself until n is 0: n + 1 calls. jumps(n) does so by tail calls.
global_asm!(
    ".globl nesting_deep; nesting_deep: push rbp; test rdi, rdi; je 1f; dec rdi; call nesting_deep",
    "1: pop rbp; ret",
    ".balign 16",
    ".globl nesting_jumps; nesting_jumps: push rbp; pop rbp; test rdi, rdi; je 1f; dec rdi",
    "jmp nesting_jumps",
    "1: ret",
    // leave(n) calls itself as deep() does, and then goes back to where it was called first
    // without any return, as longjmp does.
    ".globl nesting_leave, nesting_dive",
    "nesting_leave: push rbx; mov rbx, rsp; call nesting_dive",
    "2: mov rsp, rbx; pop rbx; ret",
    "nesting_dive: push rbp; test rdi, rdi; je 2b; dec rdi; call nesting_dive; ud2",
);

unsafe extern "C" {
    safe fn nesting_deep(n: u64);
    safe fn nesting_jumps(n: u64);
    safe fn nesting_leave(n: u64);
    fn nesting_dive();
}

fn latency() -> Action {
    Action::Histogram {
        value: Expr::Latency,
        key: vec![],
        scale: uprof_ebpf::Scale::Log,
    }
}

#[test]
fn calls_beyond_the_kernels_limit_are_counted_as_such() {
    let _alone = alone();
    for (way, options) in ways() {
        let mut engine = load(call(vec![], latency()), &options);
        assert!(engine.tells_nested(), "{way}");
        attach(&mut engine, nesting_deep as *const () as usize);
        for calls in [1, 63, 64, 65, 66, 1_000, 10_000] {
            let before = engine.counters(0);
            nesting_deep(calls - 1);
            let c = engine.counters(0);
            let seen = calls.min(64);
            assert_eq!(
                (
                    c.hits - before.hits,
                    c.aggregated - before.aggregated,
                    c.nested - before.nested
                ),
                (calls, seen, calls - seen),
                "{way}"
            );
        }
        engine.detach();
        let c = engine.counters(0);
        assert_eq!(c.unpaired, c.nested, "{way}");
        accounted(way, c);
    }
}

#[test]
fn returns_pend_by_thread() {
    let _alone = alone();
    for (way, options) in ways() {
        let mut engine = load(call(vec![], latency()), &options);
        attach(&mut engine, nesting_deep as *const () as usize);
        std::thread::scope(|s| {
            for _ in 0..8 {
                s.spawn(|| nesting_deep(99));
            }
        });
        engine.detach();
        let c = engine.counters(0);
        assert_eq!((c.hits, c.aggregated, c.nested), (800, 512, 288), "{way}");
    }
}

#[test]
fn tail_calls_pend_too() {
    let _alone = alone();
    for (way, options) in ways() {
        let mut engine = load(call(vec![], latency()), &options);
        attach(&mut engine, nesting_jumps as *const () as usize);
        nesting_jumps(99);
        engine.detach();
        let c = engine.counters(0);
        assert_eq!((c.hits, c.nested), (100, 36), "{way}");
        accounted(way, c);
    }
}

#[test]
fn filtered_calls_do_not_pend_in_a_session() {
    let _alone = alone();
    for (way, options) in ways() {
        let mut spec = call(vec![], latency());
        // The outer half.
        spec.filter = Some(op(uprof_ebpf::expr::BinOp::Lt, arg(0), int(100)));
        let mut engine = load(spec, &options);
        attach(&mut engine, nesting_deep as *const () as usize);
        nesting_deep(199);
        engine.detach();
        let c = engine.counters(0);
        assert_eq!((c.hits, c.filtered), (200, 100), "{way}");
        // Elsewhere the kernel does not know that their returns are of no interest.
        let seen = if way == "session" { 64 } else { 0 };
        assert_eq!((c.aggregated, c.nested), (seen, 100 - seen), "{way}");
        accounted(way, c);
    }
}

#[test]
fn returns_that_will_never_come_pend_on() {
    let _alone = alone();
    for (way, options) in ways() {
        let specs = vec![call(vec![], latency()), call(vec![], latency())];
        let mut engine = load_all(specs, &options);
        let pid = Some(std::process::id());
        let dive = site(nesting_dive as *const () as usize, 0);
        let deep = site(nesting_deep as *const () as usize, 0);
        engine.attach(0, &[dive], pid).unwrap();
        engine.attach(1, &[deep], pid).unwrap();
        // A thread of its own, since it stays as it is.
        let left = |calls: u64| {
            std::thread::scope(|s| {
                s.spawn(|| {
                    nesting_leave(calls - 1);
                    (0..10).for_each(|_| nesting_deep(0));
                });
            });
        };
        let counted = |engine: &uprof_ebpf::Engine| {
            let c = engine.counters(1);
            (c.hits, c.aggregated, c.nested)
        };
        // The next call makes the kernel drop what has been left ...
        left(63);
        assert_eq!(counted(&engine), (10, 10, 0), "{way}");
        // ... but not once the limit is reached: it does not come to look.
        left(64);
        assert_eq!(counted(&engine), (20, 10, 10), "{way}");
        engine.detach();
        let c = engine.counters(0);
        assert_eq!((c.hits, c.aggregated, c.nested), (127, 0, 0), "{way}");
        accounted(way, c);
        accounted(way, engine.counters(1));
    }
}
