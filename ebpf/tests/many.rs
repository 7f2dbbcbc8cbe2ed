//! Thousands of sites at once: attached in one go, told apart, and let go quickly.

mod common;

use std::arch::global_asm;
use std::time::{Duration, Instant};

use common::*;
use uprof_ebpf::{Action, AttachSite, EngineOptions, Expr, Mechanism, ProbeSpec};

const FUNCTIONS: usize = 9007;

// Functions of 16 bytes, one after the other; each begins with an instruction that is emulated.
global_asm!(
    ".balign 16",
    ".globl many_functions",
    "many_functions:",
    ".rept 9007",
    ".balign 16",
    "push rbp; mov rax, rdi; pop rbp; ret",
    ".endr",
);

unsafe extern "C" {
    fn many_functions();
}

fn function(index: usize) -> extern "C" fn(u64) -> u64 {
    let address = many_functions as *const () as usize + 16 * index;
    // SAFETY: that many functions of this type lie there, 16 bytes apart.
    unsafe { std::mem::transmute(address) }
}

fn sites() -> Vec<AttachSite> {
    let first = site(many_functions as *const () as usize, 0);
    (0..FUNCTIONS)
        .map(|i| AttachSite {
            path: first.path.clone(),
            offset: first.offset + 16 * i as u64,
            site: i as u32,
            semaphore: None,
            exits: Vec::new(),
        })
        .collect()
}

#[test]
fn nine_thousand_sites_attach_and_detach_quickly_and_are_told_apart() {
    let _alone = alone();
    for call_probe in [false, true] {
        let spec = match call_probe {
            false => entry(Action::Count { key: vec![] }),
            true => call(
                vec![],
                Action::Histogram {
                    value: Expr::Latency,
                    key: vec![],
                    scale: uprof_ebpf::Scale::Log,
                },
            ),
        };
        let spec = ProbeSpec {
            sites: FUNCTIONS as u32,
            ..spec
        };
        let mut engine = load(
            spec,
            &EngineOptions {
                verifier_log: true,
                ..EngineOptions::default()
            },
        );
        if engine.mechanism(0) == Mechanism::Perf {
            panic!("this kernel has no uprobe_multi: nine thousand perf events would take minutes");
        }
        let sites = sites();
        let begun = Instant::now();
        engine.attach(0, &sites, Some(std::process::id())).unwrap();
        let attached = begun.elapsed();
        for i in [0, 1, 4000, FUNCTIONS - 1] {
            for _ in 0..=i % 7 {
                assert_eq!(function(i)(5), 5);
            }
        }
        let begun = Instant::now();
        engine.detach();
        let detached = begun.elapsed();
        let begun = Instant::now();
        let hits = engine.site_hits(0);
        for i in [0, 1, 2, 4000, FUNCTIONS - 1] {
            let expected = if i == 2 { 0 } else { (i % 7 + 1) as u64 };
            assert_eq!(hits[i], expected, "function {i}");
        }
        accounted("many", engine.counters(0));
        drop(engine);
        println!(
            "attach {attached:?}, detach {detached:?}, drop {:?}",
            begun.elapsed()
        );
        // Tens of milliseconds alone; other tests may be running beside.
        assert!(
            attached < Duration::from_secs(2),
            "attaching took {attached:?}"
        );
        assert!(
            detached < Duration::from_secs(2),
            "detaching took {detached:?}"
        );
    }
}
