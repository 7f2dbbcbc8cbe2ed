//! What names a frame where stacks are switched, moved and shared.

mod common;

use std::arch::global_asm;
use std::cell::UnsafeCell;

use common::*;
use uprof_ebpf::expr::Expr;
use uprof_ebpf::{Action, Capture, Engine, FrameName, ProbeSpec};

// A function that calls `rsi(rdi)` and returns rdi + 1000.
global_asm!(
    ".globl uprof_frames_calls, uprof_frames_calls_ret",
    "uprof_frames_calls: push rbx",
    "mov rbx, rdi",
    "call rsi",
    "lea rax, [rbx + 1000]",
    "pop rbx",
    "uprof_frames_calls_ret: ret",
);

// Calls a function with r14 = rdi, as Go code has its g there, and takes its own stack back.
// The function moves its stack to rsi (0: it stays), as the Go runtime does when one grows: the
// words in use, the stack pointer, and what g says of the end of the stack.
global_asm!(
    ".globl uprof_frames_go, uprof_frames_grow, uprof_frames_grow_ret",
    "uprof_frames_go: push rbx",
    "push r14",
    "mov rbx, rsp",
    "mov r14, rdi",
    "call uprof_frames_grow",
    "mov rsp, rbx",
    "pop r14",
    "pop rbx",
    "ret",
    "uprof_frames_grow: push rbp",
    "mov eax, 7",
    "test rsi, rsi",
    "je 2f",
    "mov rcx, [rsp]",
    "mov rdx, [rsp + 8]",
    "mov [rsi], rcx",
    "mov [rsi + 8], rdx",
    "mov rcx, rsi",
    "sub rcx, rsp",
    "add [r14 + 8], rcx",
    "mov rsp, rsi",
    "2: pop rbp",
    "uprof_frames_grow_ret: ret",
);

// Coroutines that run on one stack. `uprof_frames_resume` switches to the stack of the coroutine
// whose address is in rdi: a word that holds its stack pointer, then its argument.
// `uprof_frames_yield` switches back.
global_asm!(
    ".globl uprof_frames_resume, uprof_frames_switch, uprof_frames_resumed",
    ".globl uprof_frames_begin, uprof_frames_work, uprof_frames_work_ret",
    "uprof_frames_resume:",
    "push rbx; push rbp; push r12; push r13; push r14; push r15",
    "mov [rip + uprof_frames_scheduler], rsp",
    "mov [rip + uprof_frames_current], rdi",
    "mov rsp, [rdi]",
    "pop r15; pop r14; pop r13; pop r12; pop rbp; pop rbx",
    "uprof_frames_switch: ret",
    "uprof_frames_yield:",
    "push rbx; push rbp; push r12; push r13; push r14; push r15",
    "mov rax, [rip + uprof_frames_current]",
    "mov [rax], rsp",
    "mov rsp, [rip + uprof_frames_scheduler]",
    "pop r15; pop r14; pop r13; pop r12; pop rbp; pop rbx",
    "uprof_frames_resumed: ret",
    "uprof_frames_begin:",
    "mov rax, [rip + uprof_frames_current]",
    "mov rdi, [rax + 8]",
    "call uprof_frames_work",
    "mov rcx, [rip + uprof_frames_current]",
    "mov [rcx + 8], rax",
    "call uprof_frames_yield",
    "ud2",
    "uprof_frames_work: push rbx",
    "mov rbx, rdi",
    "call uprof_frames_yield",
    "lea rax, [rbx + 1000]",
    "pop rbx",
    "uprof_frames_work_ret: ret",
    ".pushsection .bss",
    ".balign 8",
    "uprof_frames_scheduler: .zero 8",
    "uprof_frames_current: .zero 8",
    ".popsection",
);

unsafe extern "C" {
    fn uprof_frames_calls(id: u64, callee: extern "C" fn(u64)) -> u64;
    fn uprof_frames_calls_ret();
    fn uprof_frames_go(g: *mut u64, stack: *mut u64) -> u64;
    fn uprof_frames_grow();
    fn uprof_frames_grow_ret();
    fn uprof_frames_resume(coroutine: *mut [u64; 2]);
    fn uprof_frames_switch();
    fn uprof_frames_resumed();
    fn uprof_frames_begin();
    fn uprof_frames_work();
    fn uprof_frames_work_ret();
}

macro_rules! at {
    ($function:ident) => {
        $function as *const () as usize
    };
}

/// Sends the first argument and the return value.
fn in_and_out(frame: FrameName) -> ProbeSpec {
    let captures = vec![Capture::Saved(0), Capture::Int(Expr::Retval)];
    exits(
        vec![Capture::Int(arg(0))],
        frame,
        Action::Event { captures },
    )
}

fn latency(frame: FrameName) -> ProbeSpec {
    let value = Expr::Latency;
    exits(
        vec![],
        frame,
        Action::Histogram {
            value,
            key: vec![],
            scale: uprof_ebpf::Scale::Log,
        },
    )
}

fn attach_to(engine: &mut Engine, probe: usize, function: usize, rets: &[usize]) {
    let site = exit_site(function, 0, rets);
    engine
        .attach(probe, &[site], Some(std::process::id()))
        .unwrap();
}

fn sent(engine: &mut Engine) -> Vec<(u64, u64)> {
    let mut all = Vec::new();
    let each = |r: uprof_ebpf::Record<'_>| all.push((r.int(0).unwrap(), r.int(1).unwrap()));
    engine.drain(each).unwrap();
    all
}

/// Contexts of the main program and of two coroutines on stacks of their own.
struct Contexts(UnsafeCell<[libc::ucontext_t; 3]>);

// SAFETY: one test at a time uses them, on one thread.
unsafe impl Sync for Contexts {}

// SAFETY: plain memory, which getcontext fills.
static CONTEXTS: Contexts = Contexts(UnsafeCell::new(unsafe { std::mem::zeroed() }));

fn switch(from: usize, to: usize) {
    let contexts = CONTEXTS.0.get().cast::<libc::ucontext_t>();
    // SAFETY: `to` was made by makecontext or left by swapcontext.
    unsafe { libc::swapcontext(contexts.add(from), contexts.add(to)) };
}

/// In the middle of a call: back to the main program.
extern "C" fn pause(id: u64) {
    switch(id as usize % 10, 0);
}

extern "C" fn coroutine(id: i32) {
    for turn in 0..5 {
        let value = 10 * turn + id as u64;
        // SAFETY: it calls `pause`.
        assert_eq!(unsafe { uprof_frames_calls(value, pause) }, value + 1000);
    }
    switch(id as usize, 0);
}

#[test]
fn calls_on_two_stacks_that_take_turns_are_paired() {
    let _alone = alone();
    for (way, options) in exit_ways() {
        let mut engine = load(in_and_out(FrameName::Stack), &options);
        let rets = [at!(uprof_frames_calls_ret)];
        attach_to(&mut engine, 0, at!(uprof_frames_calls), &rets);
        let mut stacks = [vec![0u8; 64 << 10], vec![0u8; 64 << 10]];
        let contexts = CONTEXTS.0.get().cast::<libc::ucontext_t>();
        for (i, stack) in stacks.iter_mut().enumerate() {
            // SAFETY: each context has a stack that outlives it; the function takes an int.
            unsafe {
                let context = contexts.add(i + 1);
                libc::getcontext(context);
                (*context).uc_stack.ss_sp = stack.as_mut_ptr().cast();
                (*context).uc_stack.ss_size = stack.len();
                (*context).uc_link = contexts;
                let entry = std::mem::transmute::<extern "C" fn(i32), extern "C" fn()>(coroutine);
                libc::makecontext(context, entry, 1, i as i32 + 1);
            }
        }
        for _ in 0..6 {
            switch(0, 1);
            switch(0, 2);
        }
        engine.detach();
        let turns = (0..5).flat_map(|turn| [10 * turn + 1, 10 * turn + 2]);
        let expected: Vec<_> = turns.map(|id| (id, id + 1000)).collect();
        assert_eq!(sent(&mut engine), expected, "{way}");
        let c = engine.counters(0);
        let account = (c.hits, c.emitted, c.abandoned, c.unpaired);
        assert_eq!(account, (10, 10, 0, 0), "{way}: {c:?}");
    }
}

#[test]
fn a_goroutines_call_is_paired_after_its_stack_was_copied() {
    let _alone = alone();
    for (way, options) in exit_ways() {
        // Named by the stack alone, calls whose stack moved stay open.
        for (frame, ended) in [(FrameName::Goroutine, 12), (FrameName::Stack, 4)] {
            let mut engine = load(latency(frame), &options);
            let rets = [at!(uprof_frames_grow_ret)];
            attach_to(&mut engine, 0, at!(uprof_frames_grow), &rets);
            let mut stack = vec![0u64; 1024];
            for i in 0..12 {
                let mut g = [0x1000, 0x7fff_ffff_f000 + 16 * i, 0];
                let moved = match i % 3 {
                    0 => std::ptr::null_mut(),
                    _ => &raw mut stack[500 + 2 * i as usize],
                };
                // SAFETY: the stack has room on both sides, and g is written where it is said.
                assert_eq!(unsafe { uprof_frames_go(g.as_mut_ptr(), moved) }, 7);
            }
            engine.detach();
            let c = engine.counters(0);
            assert_eq!(
                (c.hits, c.aggregated),
                (12, ended),
                "{way} {frame:?}: {c:?}"
            );
            assert_eq!(c.unpaired, 12 - ended, "{way} {frame:?}: {c:?}");
        }
    }
}

#[test]
fn open_calls_tell_their_goroutine_and_one_without_is_none() {
    let _alone = alone();
    for (way, options) in exit_ways() {
        let mut engine = load(latency(FrameName::Goroutine), &options);
        // It is left as if it had no exits.
        attach_to(&mut engine, 0, at!(uprof_frames_grow), &[]);
        let mut g = [0x1000, 0x7fff_ffff_f000, 0];
        let g = g.as_mut_ptr();
        // SAFETY: nothing is moved, and g is not written.
        unsafe {
            uprof_frames_go(g, std::ptr::null_mut());
            uprof_frames_go(std::ptr::without_provenance_mut(8), std::ptr::null_mut());
        }
        engine.detach();
        let open = engine.open_calls(0).unwrap();
        assert_eq!(open.len(), 1, "{way}: {open:?}");
        assert_eq!(open[0].goroutine, Some(g as u64), "{way}");
        assert!((open[0].sp as i64) < 0, "{way}: {open:?}");
        let c = engine.counters(0);
        let account = (c.hits, c.filtered, c.unreadable, c.unpaired);
        assert_eq!(account, (2, 1, 1, 1), "{way}: {c:?}");
    }
}

/// A coroutine whose stack lies elsewhere while another runs.
#[repr(C)]
struct Coroutine {
    /// This word and the next are what the assembly knows of it.
    sp: *mut u64,
    /// What `uprof_frames_work` gets, then what it returned.
    value: u64,
    /// The words above the stack pointer.
    kept: Vec<u64>,
}

/// Runs two coroutines on one stack, by turns, until both are done; what their work returned.
fn take_turns(values: [u64; 2]) -> [u64; 2] {
    let mut stack = vec![0u64; 4096];
    let top = &raw mut stack[4000];
    let mut coroutines = values.map(|value| {
        // Six registers, and where to begin; from there on the stack is as after a call.
        let mut kept = vec![0; 8];
        kept[6] = at!(uprof_frames_begin) as u64;
        Coroutine {
            // SAFETY: well inside of the stack.
            sp: unsafe { top.sub(kept.len()) },
            value,
            kept,
        }
    });
    for _ in 0..2 {
        for coroutine in &mut coroutines {
            // SAFETY: the words in use are copied in before, and out after it ran; it yields
            // before its stack is another's.
            unsafe {
                let kept = &coroutine.kept;
                std::ptr::copy_nonoverlapping(kept.as_ptr(), coroutine.sp, kept.len());
                uprof_frames_resume(std::ptr::from_mut(coroutine).cast());
                let used = top.offset_from(coroutine.sp) as usize;
                coroutine.kept = std::slice::from_raw_parts(coroutine.sp, used).to_vec();
            }
        }
    }
    coroutines.map(|c| c.value)
}

#[test]
fn coroutines_that_share_one_stack_are_told_apart_by_what_runs() {
    let _alone = alone();
    for (way, options) in exit_ways() {
        // Named by the stack alone, the second call takes the place of the first.
        for (frame, ended) in [(FrameName::Running, 8), (FrameName::Stack, 4)] {
            let running = exits(vec![], frame, Action::Running { value: arg(0) });
            let mut engine = load_all(vec![running, in_and_out(frame)], &options);
            // Both of its `ret`s: the first is that into the coroutine, on another stack.
            let rets = [at!(uprof_frames_switch), at!(uprof_frames_resumed)];
            attach_to(&mut engine, 0, at!(uprof_frames_resume), &rets);
            let rets = [at!(uprof_frames_work_ret)];
            attach_to(&mut engine, 1, at!(uprof_frames_work), &rets);
            for turn in 0..4 {
                let (a, b) = (2 * turn, 2 * turn + 1);
                assert_eq!(take_turns([a, b]), [a + 1000, b + 1000]);
            }
            engine.detach();
            let resumed = engine.counters(0);
            let account = (resumed.hits, resumed.aggregated, resumed.unpaired);
            assert_eq!(account, (16, 16, 0), "{way}: {resumed:?}");
            let c = engine.counters(1);
            assert_eq!((c.hits, c.emitted), (8, ended), "{way} {frame:?}: {c:?}");
            assert_eq!(
                (c.abandoned, c.unpaired),
                (8 - ended, 8 - ended),
                "{way}: {c:?}"
            );
            let calls = sent(&mut engine);
            if frame == FrameName::Running {
                let expected: Vec<_> = (0..8).map(|id| (id, id + 1000)).collect();
                assert_eq!(calls, expected, "{way}");
            } else {
                assert!(calls.iter().any(|(id, value)| id + 1000 != *value), "{way}");
            }
        }
    }
}

#[test]
fn a_full_table_of_what_runs_drops_the_call_that_says_it() {
    let _alone = alone();
    for (way, options) in exit_ways() {
        let options = uprof_ebpf::EngineOptions {
            max_frames: 1,
            ..options
        };
        let running = exits(vec![], FrameName::Stack, Action::Running { value: arg(0) });
        let mut engine = load(running, &options);
        let rets = [at!(uprof_frames_calls_ret)];
        attach_to(&mut engine, 0, at!(uprof_frames_calls), &rets);
        // SAFETY: the callees do nothing but call it again.
        unsafe { uprof_frames_calls(1, again) };
        engine.detach();
        let c = engine.counters(0);
        let account = (c.hits, c.aggregated, c.dropped_map, c.unpaired);
        assert_eq!(account, (2, 1, 1, 0), "{way}: {c:?}");
    }
}

#[test]
fn what_runs_may_be_said_by_calls_whose_return_address_is_replaced() {
    let _alone = alone();
    for (way, options) in ways() {
        let running = call(vec![], Action::Running { value: arg(0) });
        let inner = in_and_out(FrameName::Running);
        let mut engine = load_all(vec![running, inner], &options);
        attach_to(&mut engine, 0, at!(uprof_frames_calls), &[]);
        let rets = [at!(uprof_frames_grow_ret)];
        attach_to(&mut engine, 1, at!(uprof_frames_grow), &rets);
        for _ in 0..10 {
            // SAFETY: the callees do nothing but call it again, and `uprof_frames_go`.
            unsafe { uprof_frames_calls(1, again) };
        }
        engine.detach();
        let c = engine.counters(0);
        let account = (c.hits, c.aggregated, c.unpaired);
        assert_eq!(account, (20, 20, 0), "{way}: {c:?}");
        let c = engine.counters(1);
        let account = (c.hits, c.emitted, c.unpaired);
        assert_eq!(account, (10, 10, 0), "{way}: {c:?}");
    }
}

extern "C" fn again(_: u64) {
    extern "C" fn nothing(_: u64) {
        let mut g = [0, 0, 0];
        // SAFETY: nothing is moved.
        unsafe { uprof_frames_go(g.as_mut_ptr(), std::ptr::null_mut()) };
    }
    // SAFETY: the callee is as above.
    unsafe { uprof_frames_calls(2, nothing) };
}
