//! Calls that end at their exits, on functions whose exits are known to the instruction.

mod common;

use std::arch::global_asm;

use common::*;
use uprof_ebpf::expr::Expr;
use uprof_ebpf::{
    Action, AttachExit, AttachSite, Capture, Engine, FrameName, KeyPart, KeyValue, Mechanism,
    OpenCall, Returns,
};

// Three returns.
global_asm!(
    ".globl uprof_exits_three, uprof_exits_three_a, uprof_exits_three_b, uprof_exits_three_c",
    "uprof_exits_three:",
    "push rbx",
    "lea rax, [rdi + rdi]",
    "test rdi, rdi",
    "je 2f",
    "cmp rdi, 1",
    "je 3f",
    "pop rbx",
    "uprof_exits_three_a: ret",
    "2: mov eax, 100",
    "pop rbx",
    "uprof_exits_three_b: ret",
    "3: mov eax, 200",
    "pop rbx",
    "uprof_exits_three_c: ret",
);

// Sixteen functions, 32 bytes apart, one for each condition: sets the flags that it is given and
// jumps away on its condition (returns 2), or stays (returns 1).
global_asm!(
    ".macro uprof_jcc n",
    ".balign 32",
    "push rdi",
    "popfq",
    ".byte 0x0f, 0x80 + \\n",
    ".long 3f - . - 4",
    "mov eax, 1",
    "ret",
    ".endm",
    ".balign 32",
    ".globl uprof_exits_jcc",
    "uprof_exits_jcc:",
    ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
    "uprof_jcc \\n",
    ".endr",
    "3: mov eax, 2",
    "ret",
);
/// Offsets in each of them.
const JCC: usize = 2;
const JCC_RET: usize = 13;

// Two functions that share their last piece; recursion; a function that calls itself last.
global_asm!(
    ".globl uprof_exits_left, uprof_exits_right, uprof_exits_shared",
    "uprof_exits_left: push rbx",
    "lea rax, [rdi + 1]",
    "jmp 2f",
    "uprof_exits_right: push rbx",
    "lea rax, [rdi + 2]",
    "2: pop rbx",
    "uprof_exits_shared: ret",
    ".globl uprof_exits_down, uprof_exits_down_ret",
    "uprof_exits_down: push rdi",
    "test rdi, rdi",
    "je 2f",
    "dec rdi",
    "call uprof_exits_down",
    "2: pop rax",
    "uprof_exits_down_ret: ret",
    ".globl uprof_exits_tail, uprof_exits_tail_jmp, uprof_exits_tail_ret",
    "uprof_exits_tail: push rdi",
    "pop rax",
    "test rdi, rdi",
    "je uprof_exits_tail_ret",
    "dec rdi",
    "uprof_exits_tail_jmp: jmp uprof_exits_tail",
    "uprof_exits_tail_ret: ret",
);

// A function that is one return, and one that is one jump (into that).
global_asm!(
    ".globl uprof_exits_ret, uprof_exits_jmp",
    "uprof_exits_ret: ret",
    "uprof_exits_jmp: jmp uprof_exits_ret",
);

// A function that returns, or leaves as longjmp does: `uprof_exits_catch` calls it and goes on in
// either case. The call is at an offset that is known: its return address.
global_asm!(
    ".globl uprof_exits_catch, uprof_exits_caught, uprof_exits_leave, uprof_exits_leave_ret",
    "uprof_exits_catch: push rbx",
    "mov rbx, rsp",
    "call uprof_exits_leave",
    "uprof_exits_caught: mov rsp, rbx",
    "pop rbx",
    "ret",
    "uprof_exits_leave: push rbp",
    "test rdi, rdi",
    "jne uprof_exits_caught",
    "pop rbp",
    "uprof_exits_leave_ret: ret",
);

unsafe extern "C" {
    safe fn uprof_exits_three(n: u64) -> u64;
    fn uprof_exits_three_a();
    fn uprof_exits_three_b();
    fn uprof_exits_three_c();
    fn uprof_exits_jcc();
    safe fn uprof_exits_left(n: u64) -> u64;
    safe fn uprof_exits_right(n: u64) -> u64;
    fn uprof_exits_shared();
    safe fn uprof_exits_down(n: u64) -> u64;
    fn uprof_exits_down_ret();
    safe fn uprof_exits_tail(n: u64) -> u64;
    fn uprof_exits_tail_jmp();
    fn uprof_exits_tail_ret();
    safe fn uprof_exits_ret(n: u64);
    safe fn uprof_exits_jmp(n: u64);
    safe fn uprof_exits_catch(leaves: u64);
    fn uprof_exits_caught();
    fn uprof_exits_leave();
    fn uprof_exits_leave_ret();
}

macro_rules! at {
    ($function:ident) => {
        $function as *const () as usize
    };
}

/// Sends the first argument and the return value.
fn in_and_out() -> (Vec<Capture>, Action) {
    let captures = vec![Capture::Saved(0), Capture::Int(Expr::Retval)];
    (vec![Capture::Int(arg(0))], Action::Event { captures })
}

fn latency() -> Action {
    Action::Histogram {
        value: Expr::Latency,
        key: vec![],
        scale: uprof_ebpf::Scale::Log,
    }
}

fn attach_sites(engine: &mut Engine, sites: &[AttachSite]) {
    engine.attach(0, sites, Some(std::process::id())).unwrap();
}

fn three() -> AttachSite {
    let rets = [
        at!(uprof_exits_three_a),
        at!(uprof_exits_three_b),
        at!(uprof_exits_three_c),
    ];
    exit_site(at!(uprof_exits_three), 0, &rets)
}

fn sent(engine: &mut Engine) -> Vec<(u32, Option<u64>, Option<u64>)> {
    let mut all = Vec::new();
    engine
        .drain(|r| all.push((r.site, r.int(0), r.int(1))))
        .unwrap();
    all
}

#[test]
fn each_return_of_a_function_ends_its_call() {
    let _alone = alone();
    for (way, options) in exit_ways() {
        let (saved, action) = in_and_out();
        let mut engine = load(exits(saved, FrameName::Stack, action), &options);
        assert_eq!(engine.returns(0), Returns::Exits, "{way}");
        assert_eq!(Some(engine.mechanism(0)), options.mechanism, "{way}");
        attach_sites(&mut engine, &[three()]);
        let values = [0, 1, 2, 3, 1, 0, 7];
        let results: Vec<u64> = values.iter().map(|n| uprof_exits_three(*n)).collect();
        engine.detach();
        let expected: Vec<_> = std::iter::zip(values, results)
            .map(|(n, r)| (0, Some(n), Some(r)))
            .collect();
        assert_eq!(sent(&mut engine), expected, "{way}");
        let c = engine.counters(0);
        assert_eq!((c.hits, c.emitted, c.unpaired), (7, 7, 0), "{way}: {c:?}");
        assert_eq!(engine.open_calls(0).unwrap(), [], "{way}");
    }
}

#[test]
fn every_thread_ends_its_own_calls() {
    let _alone = alone();
    for (way, options) in exit_ways() {
        let mut engine = load(exits(vec![], FrameName::Stack, latency()), &options);
        attach_sites(&mut engine, &[three()]);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..200).map(|n| uprof_exits_three(n % 3)).sum::<u64>());
            }
        });
        engine.detach();
        let c = engine.counters(0);
        assert_eq!(
            (c.hits, c.aggregated, c.abandoned),
            (1600, 1600, 0),
            "{way}: {c:?}"
        );
        let h = &engine.histograms(0).unwrap()[0].1;
        assert!(h.count == 1600 && h.min > 0, "{way}");
        accounted(way, c);
    }
}

/// The function for a condition.
fn jcc(condition: usize) -> extern "C" fn(u64) -> u64 {
    let address = at!(uprof_exits_jcc) + 32 * condition;
    // SAFETY: there are sixteen functions of this type, 32 bytes apart.
    unsafe { std::mem::transmute::<usize, extern "C" fn(u64) -> u64>(address) }
}

#[test]
fn conditional_jumps_end_a_call_when_the_processor_takes_them() {
    let _alone = alone();
    for (way, options) in exit_ways() {
        // A perf event takes long to go: some conditions are enough to see that it is the same.
        let conditions: Vec<usize> = match options.mechanism {
            Some(Mechanism::Perf) => vec![2, 7, 12, 15],
            _ => (0..16).collect(),
        };
        let (saved, action) = in_and_out();
        let mut spec = exits(saved, FrameName::Stack, action);
        spec.sites = 16;
        let mut engine = load(spec, &options);
        let sites: Vec<_> = conditions
            .iter()
            .map(|n| {
                let function = jcc(*n) as usize;
                let jump = exit(function + JCC, Some(*n as u8));
                AttachSite {
                    exits: vec![exit(function + JCC_RET, None), jump],
                    ..site(function, *n as u32)
                }
            })
            .collect();
        attach_sites(&mut engine, &sites);
        let mut expected = Vec::new();
        for n in conditions {
            for bits in 0..32u64 {
                // Carry, parity, zero, sign and overflow, and what is always set.
                let spread = [0, 2, 6, 7, 11].iter().enumerate();
                let flags = spread.fold(0x202, |f, (i, at)| f | (bits >> i & 1) << at);
                // The function itself says whether it jumped: then its value is not known.
                let stayed = jcc(n)(flags) == 1;
                expected.push((n as u32, Some(flags), stayed.then_some(1)));
            }
        }
        engine.detach();
        assert_eq!(sent(&mut engine), expected, "{way}");
        let c = engine.counters(0);
        assert_eq!(
            (c.hits, c.emitted),
            (c.emitted, expected.len() as u64),
            "{way}"
        );
    }
}

#[test]
fn an_exit_may_be_that_of_two_functions() {
    let _alone = alone();
    for (way, options) in exit_ways() {
        let (saved, action) = in_and_out();
        let mut spec = exits(saved, FrameName::Stack, action);
        spec.sites = 2;
        let mut engine = load(spec, &options);
        let shared = [at!(uprof_exits_shared)];
        let sites = [
            exit_site(at!(uprof_exits_left), 0, &shared),
            exit_site(at!(uprof_exits_right), 1, &shared),
        ];
        attach_sites(&mut engine, &sites);
        let mut expected = Vec::new();
        for n in 0..10 {
            expected.push((0, Some(n), Some(uprof_exits_left(n))));
            expected.push((1, Some(n), Some(uprof_exits_right(n))));
        }
        engine.detach();
        assert_eq!(sent(&mut engine), expected, "{way}");
        assert_eq!(engine.counters(0).unpaired, 0, "{way}");
    }
}

#[test]
fn recursion_ten_thousand_deep_is_paired() {
    let _alone = alone();
    for (way, options) in exit_ways() {
        let key = vec![KeyPart::Int(Expr::Retval)];
        let action = Action::Count { key };
        let options = uprof_ebpf::EngineOptions {
            max_keys: 20_000,
            ..options
        };
        let mut engine = load(exits(vec![], FrameName::Stack, action), &options);
        let rets = [at!(uprof_exits_down_ret)];
        attach_sites(&mut engine, &[exit_site(at!(uprof_exits_down), 0, &rets)]);
        assert_eq!(uprof_exits_down(10_000), 10_000);
        engine.detach();
        let c = engine.counters(0);
        assert_eq!((c.hits, c.aggregated), (10_001, 10_001), "{way}: {c:?}");
        let mut counts = engine.counts(0).unwrap();
        counts.sort_by_key(|(key, _)| key.values());
        let values = counts.iter().map(|(key, n)| (key.values(), *n));
        let expected = (0..=10_000).map(|n| (vec![KeyValue::Int(n)], 1));
        assert!(values.eq(expected), "{way}");
    }
}

#[test]
fn a_function_that_calls_itself_last_ends_before_it_begins_again() {
    let _alone = alone();
    for (way, options) in exit_ways() {
        let (saved, action) = in_and_out();
        let mut engine = load(exits(saved, FrameName::Stack, action), &options);
        let jump = AttachExit {
            jump: true,
            ..exit(at!(uprof_exits_tail_jmp), None)
        };
        let mut site = exit_site(at!(uprof_exits_tail), 0, &[at!(uprof_exits_tail_ret)]);
        site.exits.push(jump);
        attach_sites(&mut engine, &[site]);
        uprof_exits_tail(4);
        engine.detach();
        let mut expected: Vec<_> = (1..=4).rev().map(|n| (0, Some(n), None)).collect();
        expected.push((0, Some(0), Some(0)));
        assert_eq!(sent(&mut engine), expected, "{way}");
        let c = engine.counters(0);
        assert_eq!((c.hits, c.emitted, c.abandoned), (5, 5, 0), "{way}: {c:?}");
    }
}

#[test]
fn an_instruction_may_be_a_functions_first_and_its_last() {
    let _alone = alone();
    for (way, options) in exit_ways() {
        let mut spec = exits(vec![], FrameName::Stack, latency());
        spec.sites = 2;
        let mut engine = load(spec, &options);
        let jump = AttachExit {
            jump: true,
            ..exit(at!(uprof_exits_jmp), None)
        };
        let sites = [
            exit_site(at!(uprof_exits_ret), 0, &[at!(uprof_exits_ret)]),
            AttachSite {
                exits: vec![jump],
                ..site(at!(uprof_exits_jmp), 1)
            },
        ];
        attach_sites(&mut engine, &sites);
        (0..50).for_each(|n| uprof_exits_jmp(n));
        (0..20).for_each(|n| uprof_exits_ret(n));
        engine.detach();
        // The probe that was attached last is run first: the entry's.
        let c = engine.counters(0);
        let account = (c.hits, c.aggregated, c.abandoned, c.unpaired);
        assert_eq!(account, (120, 120, 0, 0), "{way}: {c:?}");
        assert_eq!(engine.site_hits(0), [70, 50], "{way}");
    }
}

/// 1: the call is left, 0: it returns. Three that were left are followed by another, one is not.
const LEAVES: [u64; 7] = [1, 1, 0, 1, 0, 0, 1];

fn leaves() -> AttachSite {
    exit_site(at!(uprof_exits_leave), 0, &[at!(uprof_exits_leave_ret)])
}

/// The address of the word that a call here from this stack would push.
#[track_caller]
fn left_open(way: &str, open: &[OpenCall], begun: u64, caller: Option<usize>) {
    let [call] = open else {
        panic!("{way}: {open:?}");
    };
    // SAFETY: it only asks.
    let tid = unsafe { libc::gettid() } as u32;
    assert_eq!((call.pid, call.tid), (std::process::id(), tid), "{way}");
    let now = uprof_ebpf::monotonic_ns();
    assert!((begun..now).contains(&call.time_ns), "{way}: {call:?}");
    if let Some(caller) = caller {
        assert_eq!(call.caller, caller as u64, "{way}");
    }
    let here = std::ptr::from_ref(&now) as u64;
    assert!(call.sp.abs_diff(here) < 1 << 20, "{way}: {call:?}");
    assert_eq!((call.site, call.goroutine), (0, None), "{way}");
}

#[test]
fn calls_that_were_left_are_counted_exactly() {
    let _alone = alone();
    for (way, options) in exit_ways() {
        for saved in [vec![], vec![Capture::Int(arg(0))]] {
            for returns in [Returns::Exits, Returns::Replaced] {
                let mut spec = exits(saved.clone(), FrameName::Stack, latency());
                if returns == Returns::Replaced {
                    spec = call(saved.clone(), latency());
                }
                let mut engine = load(spec, &options);
                attach_sites(&mut engine, &[leaves()]);
                let begun = uprof_ebpf::monotonic_ns();
                LEAVES
                    .into_iter()
                    .for_each(|leaves| uprof_exits_catch(leaves));
                engine.detach();
                let c = engine.counters(0);
                let account = (c.hits, c.aggregated, c.unpaired, c.abandoned);
                assert_eq!(account, (7, 3, 4, 3), "{way} {returns:?}: {c:?}");
                let open = engine.open_calls(0).unwrap();
                // Where the kernel replaces return addresses, which it puts there first is its
                // own affair.
                let caller = (returns == Returns::Exits).then_some(at!(uprof_exits_caught));
                left_open(way, &open, begun, caller);
            }
        }
    }
}

#[test]
fn a_filtered_call_clears_the_place_of_one_that_was_left() {
    let _alone = alone();
    for (way, options) in exit_ways() {
        let mut spec = exits(vec![], FrameName::Stack, latency());
        spec.filter = Some(arg(0));
        let mut engine = load(spec, &options);
        attach_sites(&mut engine, &[leaves()]);
        LEAVES
            .into_iter()
            .for_each(|leaves| uprof_exits_catch(leaves));
        engine.detach();
        let c = engine.counters(0);
        let account = (c.hits, c.filtered, c.unpaired, c.abandoned);
        assert_eq!(account, (7, 3, 4, 3), "{way}: {c:?}");
        assert_eq!(engine.open_calls(0).unwrap().len(), 1, "{way}");
    }
}

#[test]
fn a_session_that_keeps_little_of_its_calls_has_no_frames_to_tell_of() {
    let _alone = alone();
    let word = Capture::Int(arg(0));
    let text = Capture::Str {
        addr: arg(0),
        len: None,
        limit: 64,
    };
    for (saved, abandoned, open) in [(vec![], 0, 0), (vec![word], 3, 0), (vec![text], 3, 1)] {
        let options = ways().swap_remove(0).1;
        let mut engine = load(call(saved, latency()), &options);
        attach_sites(&mut engine, &[site(at!(uprof_exits_leave), 0)]);
        LEAVES
            .into_iter()
            .for_each(|leaves| uprof_exits_catch(leaves));
        engine.detach();
        let c = engine.counters(0);
        assert_eq!((c.hits, c.aggregated, c.unpaired), (7, 3, 4), "{c:?}");
        assert_eq!(c.abandoned, abandoned);
        assert_eq!(engine.open_calls(0).unwrap().len(), open);
    }
}
