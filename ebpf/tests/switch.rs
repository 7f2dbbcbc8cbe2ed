//! From replaced return addresses to exits, while probes are attached.

mod common;

use std::arch::global_asm;
use std::ffi::c_void;

use common::*;
use uprof_ebpf::expr::BinOp;
use uprof_ebpf::{
    Action, AttachExit, AttachSite, Capture, Engine, Expr, KeyPart, ProbeSpec, Returns,
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
        // Where the kernel keeps the time of the entry it is gone with the link.
        let paired = u64::from(way != "session");
        assert_eq!((c.hits, c.aggregated), (1, paired), "{way}");
        uprof_switch_around(nothing, std::ptr::null_mut());
        engine.detach();
        let c = engine.counters(0);
        assert_eq!((c.hits, c.aggregated), (2, 1 + paired), "{way}");
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
