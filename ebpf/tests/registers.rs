//! Every general register as it stands at the hit, by each mechanism, at instructions that the kernel
//! handles in each of its ways.

mod common;

use std::arch::global_asm;

use common::*;
use uprof_ebpf::expr::Expr;
use uprof_ebpf::{Action, Capture, Engine, EngineOptions};

// Fills the registers with 0x1000 + their DWARF numbers and runs through the places to probe.
global_asm!(
    ".globl uprof_test_fill",
    "uprof_test_fill:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "mov rax, 0x1000",
    "mov rdx, 0x1001",
    "mov rcx, 0x1002",
    "mov rbx, 0x1003",
    "mov rsi, 0x1004",
    "mov rbp, 0x1006",
    "mov [rdi], rsp",
    "mov rdi, 0x1005",
    "mov r8, 0x1008",
    "mov r9, 0x1009",
    "mov r10, 0x100a",
    "mov r11, 0x100b",
    "mov r12, 0x100c",
    "mov r13, 0x100d",
    "mov r14, 0x100e",
    "mov r15, 0x100f",
    ".globl uprof_test_nop5",
    "uprof_test_nop5:",
    ".byte 0x0f, 0x1f, 0x44, 0x00, 0x00",
    ".globl uprof_test_push",
    "uprof_test_push:",
    "push rax",
    "pop rax",
    ".globl uprof_test_mov",
    "uprof_test_mov:",
    "mov rax, rax",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
);

unsafe extern "C" {
    /// Writes the stack pointer that all places see to `sp`.
    safe fn uprof_test_fill(sp: &mut u64);
    fn uprof_test_nop5();
    fn uprof_test_push();
    fn uprof_test_mov();
}

/// The instructions to probe: rewritten into a call from Linux 6.18, emulated, single-stepped.
fn places() -> [(&'static str, usize); 3] {
    [
        ("nop5", uprof_test_nop5 as *const () as usize),
        ("push", uprof_test_push as *const () as usize),
        ("mov", uprof_test_mov as *const () as usize),
    ]
}

fn values(engine: &mut Engine) -> Vec<Vec<Option<u64>>> {
    let mut all = Vec::new();
    engine
        .drain(|r| all.push((0..17).map(|i| r.int(i)).collect()))
        .unwrap();
    all
}

#[test]
fn each_register_is_what_the_program_left_in_it() {
    let _alone = alone();
    for (way, options) in ways() {
        for (place, address) in places() {
            let captures = (0..17).map(|n| Capture::Int(Expr::Reg(n))).collect();
            let mut engine = load(entry(Action::Event { captures }), &options);
            attach(&mut engine, address);
            let mut sp = 0;
            // The kernel rewrites a nop at its first hit: both ways of hitting it are seen.
            for _ in 0..3 {
                uprof_test_fill(&mut sp);
            }
            let hits = values(&mut engine);
            assert_eq!(hits.len(), 3, "{way}, {place}");
            for (i, hit) in hits.iter().enumerate() {
                let wanted = (0..17u64).map(|n| match n {
                    7 => Some(sp),
                    16 => Some(address as u64),
                    n => Some(0x1000 + n),
                });
                assert_eq!(*hit, wanted.collect::<Vec<_>>(), "{way}, {place}, hit {i}");
            }
        }
    }
}

#[test]
fn a_call_saves_registers_at_its_entry() {
    let _alone = alone();
    for (way, options) in ways() {
        let saved = vec![Capture::Int(Expr::Reg(5)), Capture::Int(Expr::Reg(7))];
        let captures = vec![Capture::Int(Expr::Saved(0)), Capture::Int(Expr::Saved(1))];
        let mut engine = load(call(saved, Action::Event { captures }), &options);
        attach(&mut engine, uprof_test_fill as *const () as usize);
        let mut sp = 0;
        uprof_test_fill(&mut sp);
        let mut seen = Vec::new();
        engine.drain(|r| seen.push((r.int(0), r.int(1)))).unwrap();
        // Six registers are pushed before the stack pointer is written.
        let at_entry = sp + 6 * 8;
        let argument = std::ptr::from_mut(&mut sp) as u64;
        assert_eq!(seen, [(Some(argument), Some(at_entry))], "{way}");
    }
}

#[test]
fn what_is_no_register_or_no_more_is_an_error() {
    for (spec, words) in [
        (
            entry(Action::Event {
                captures: vec![Capture::Int(Expr::Reg(17))],
            }),
            "no general register of DWARF number 17",
        ),
        (
            call(
                vec![],
                Action::Event {
                    captures: vec![Capture::Int(Expr::Reg(0))],
                },
            ),
            "capture it at entry",
        ),
    ] {
        let refused = Engine::load(vec![spec], &EngineOptions::default()).err();
        let text = refused.expect("it cannot be compiled").to_string();
        assert!(text.contains(words), "{text}");
    }
}
