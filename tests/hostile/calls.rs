//! Calls that are hard to count: deep, ended by jumps, interrupted, on many threads.

use super::program::{Program, assert_unharmed};
use crate::harness::turn;

#[test]
fn recursion_ten_thousand_deep() {
    let _turn = turn();
    let measured = Program::named("recursion").measured(&[]);
    // Three times down: the ends that the kernel hides in the first are a reason to look at the exits from then on.
    measured.assert_exact_but("descend", 10_000);
    measured.assert_exact_but("shallow", 1);
}

#[test]
fn recursion_ten_thousand_deep_with_probes_on_the_exits() {
    let _turn = turn();
    Program::named("recursion")
        .measured(&["--return", "ret"])
        .assert_exact();
}

/// Of functions that end in a jump to another the caller sees one return; both are counted, however returns are seen.
#[test]
fn calls_that_end_in_jumps() {
    let _turn = turn();
    for name in ["tail calls", "tail calls, endbr64"] {
        let program = Program::named(name);
        program.measured(&[]).assert_exact();
        program.measured(&["--return", "ret"]).assert_exact();
    }
}

#[test]
fn signals_that_interrupt_probed_functions() {
    let _turn = turn();
    assert_unharmed("signals");
    Program::named("signals")
        .measured(&["--return", "ret"])
        .assert_exact();
}

#[test]
fn signals_on_a_stack_of_their_own() {
    let _turn = turn();
    assert_unharmed("signals, stack below");
    assert_unharmed("signals, stack above");
}

#[test]
fn sixty_four_threads() {
    let _turn = turn();
    assert_unharmed("64 threads");
    Program::named("64 threads")
        .measured(&["--return", "ret"])
        .assert_exact();
}

#[test]
fn functions_that_look_at_their_return_address() {
    let _turn = turn();
    assert_unharmed("return addresses");
}
