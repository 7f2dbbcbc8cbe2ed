//! Stacks of programs in the real kernel: in records and in keys.

mod common;

use std::arch::global_asm;
use std::hint::black_box;

use common::*;
use uprof_ebpf::{Action, Capture, EngineOptions, Expr, KeyPart, KeyValue};

// Functions with frame pointers; the innermost is probed at a nop after its frame is set up. The
// outermost one ends the chain: what calls it has other things than a frame pointer in rbp.
global_asm!(
    ".balign 16",
    ".globl stacks_leaf, stacks_probe, stacks_a, stacks_b, stacks_top",
    ".globl stacks_a_after, stacks_b_after, stacks_top_first, stacks_top_second",
    "stacks_leaf: push rbp; mov rbp, rsp",
    "stacks_probe: nop; pop rbp; ret",
    "stacks_a: push rbp; mov rbp, rsp; call stacks_leaf",
    "stacks_a_after: pop rbp; ret",
    "stacks_b: push rbp; mov rbp, rsp; call stacks_leaf",
    "stacks_b_after: pop rbp; ret",
    "stacks_top: push rbp; xor ebp, ebp; call stacks_a",
    "stacks_top_first: call stacks_b",
    "stacks_top_second: pop rbp; ret",
);

unsafe extern "C" {
    safe fn stacks_top();
    safe fn stacks_probe();
    safe fn stacks_leaf();
    safe fn stacks_a_after();
    safe fn stacks_b_after();
    safe fn stacks_top_first();
    safe fn stacks_top_second();
}

fn at(function: unsafe extern "C" fn()) -> u64 {
    black_box(function) as usize as u64
}

/// The stacks of the first and of the second call.
fn expected() -> [[u64; 3]; 2] {
    [
        [at(stacks_probe), at(stacks_a_after), at(stacks_top_first)],
        [at(stacks_probe), at(stacks_b_after), at(stacks_top_second)],
    ]
}

fn stack(user: bool, frames: u8) -> Capture {
    Capture::Stack { user, frames }
}

#[test]
fn a_record_has_the_stack_of_its_hit() {
    let _alone = alone();
    for (way, options) in ways() {
        let captures = vec![stack(true, 2), stack(true, 3), stack(false, 10)];
        let mut engine = load(entry(Action::Event { captures }), &options);
        attach(&mut engine, at(stacks_probe) as usize);
        stacks_top();
        engine.detach();
        let mut seen = Vec::new();
        engine
            .drain(|r| {
                let two: Vec<u64> = r.bytes(0).frames().collect();
                let all: Vec<u64> = r.bytes(1).frames().collect();
                assert_eq!((&two[..], r.bytes(0).cut), (&all[..2], true), "{way}");
                assert!(!r.bytes(1).cut, "{way}");
                assert!(r.bytes(2).data.is_empty(), "{way}");
                seen.push(all);
            })
            .unwrap();
        assert_eq!(seen, expected().map(|s| s.to_vec()), "{way}");
        accounted(way, engine.counters(0));
    }
}

#[test]
fn a_call_has_one_stack_at_entry_and_one_at_its_return() {
    let _alone = alone();
    for (way, options) in ways() {
        let captures = vec![Capture::Saved(0), stack(true, 2)];
        let action = Action::Event { captures };
        let mut engine = load(call(vec![stack(true, 5)], action), &options);
        attach(&mut engine, at(stacks_leaf) as usize);
        stacks_top();
        engine.detach();
        let mut seen = Vec::new();
        engine
            .drain(|r| {
                let entry: Vec<u64> = r.bytes(0).frames().collect();
                seen.push((entry[0], r.bytes(1).frames().collect::<Vec<_>>()));
            })
            .unwrap();
        let [first, second] = expected();
        let leaf = at(stacks_leaf);
        let wanted = [(leaf, first[1..].to_vec()), (leaf, second[1..].to_vec())];
        assert_eq!(seen, wanted, "{way}");
    }
}

#[test]
fn stacks_are_keys() {
    let _alone = alone();
    for (way, options) in ways() {
        let key = vec![KeyPart::Stack { user: true }, KeyPart::Comm];
        let stats = Action::Stats {
            values: vec![Expr::Reg(7)],
            key: key.clone(),
        };
        let specs = vec![entry(Action::Count { key }), entry(stats)];
        let mut engine = load_all(specs, &options);
        let site = site(at(stacks_probe) as usize, 0);
        for probe in 0..2 {
            let site = std::slice::from_ref(&site);
            engine
                .attach(probe, site, Some(std::process::id()))
                .unwrap();
        }
        for _ in 0..50 {
            stacks_top();
        }
        engine.detach();
        let mut seen = Vec::new();
        for (key, count) in engine.counts(0).unwrap() {
            let KeyValue::Stack(id) = key.values()[0] else {
                panic!("{way}: {key:?}");
            };
            let frames = engine.stack(id).unwrap();
            seen.push((frames, count));
        }
        seen.sort();
        let mut wanted = expected().map(|s| (s.to_vec(), 50));
        wanted.sort();
        assert_eq!(seen, wanted, "{way}");
        assert_eq!(engine.stats(1).unwrap().len(), 2, "{way}");
        assert_eq!(engine.stack(0), Some(vec![]), "{way}");
        assert_eq!(engine.stack(12345), None, "{way}");
        accounted(way, engine.counters(0));
    }
}

#[test]
fn a_stack_that_cannot_be_kept_is_told() {
    let _alone = alone();
    for (way, options) in ways() {
        let key = vec![KeyPart::Stack { user: true }];
        let options = EngineOptions {
            max_keys: 1,
            ..options
        };
        let mut engine = load(entry(Action::Count { key }), &options);
        attach(&mut engine, at(stacks_probe) as usize);
        stacks_top();
        engine.detach();
        let c = engine.counters(0);
        assert_eq!((c.hits, c.aggregated, c.dropped_map), (2, 1, 1), "{way}");
    }
}
