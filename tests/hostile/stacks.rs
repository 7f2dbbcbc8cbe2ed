//! Programs with more stacks than threads.

use super::program::{Program, assert_unharmed};
use crate::args;
use crate::harness::machine::scratch;
use crate::harness::turn;

#[test]
fn ucontext_coroutines_whose_stacks_ascend() {
    let _turn = turn();
    assert_unharmed("ucontext");
}

#[test]
fn ucontext_coroutines_whose_stacks_descend() {
    let _turn = turn();
    assert_unharmed("ucontext, descending");
}

#[test]
fn ucontext_coroutines_that_change_their_thread() {
    let _turn = turn();
    assert_unharmed("ucontext, two threads");
}

#[test]
fn ucontext_coroutines_linked_statically() {
    let _turn = turn();
    assert_unharmed("ucontext, static");
}

#[test]
fn coroutines_that_yield_in_the_middle_of_a_library() {
    let _turn = turn();
    assert_unharmed("ucontext through libc");
}

#[test]
fn a_switch_written_by_hand() {
    let _turn = turn();
    assert_unharmed("assembly switch");
    assert_unharmed("assembly switch, musl");
}

#[test]
fn a_switch_that_is_no_function_in_a_stripped_program() {
    let _turn = turn();
    assert_unharmed("assembly switch in line, stripped");
}

#[test]
fn boost_context() {
    let _turn = turn();
    assert_unharmed("boost.context");
}

#[test]
fn boost_context_linked_statically() {
    let _turn = turn();
    assert_unharmed("boost.context, static");
}

#[test]
fn goroutines_whose_stacks_grow_and_that_change_their_thread() {
    let _turn = turn();
    assert_unharmed("Go");
}

#[test]
fn goroutines_of_a_stripped_program() {
    let _turn = turn();
    assert_unharmed("Go, stripped");
}

/// Without a word about who runs, calls of two coroutines cannot be told apart; the program still takes no harm, each
/// entry is counted, and no return is made up.
#[test]
fn a_stack_that_is_copied_does_no_harm() {
    let _turn = turn();
    let measured = Program::named("copied shared stack").measured(&[]);
    measured.assert_told();
    for function in ["inner", "outer"] {
        let (probe, calls) = measured.of(function);
        assert_eq!(probe.hits, calls.entries, "{probe:?}");
        assert_eq!(probe.dropped, 0, "{probe:?}");
        assert!(probe.aggregated <= calls.returns, "{probe:?}\n{calls:?}");
    }
}

#[test]
fn coroutines_on_one_stack_are_told_apart_by_who_runs() {
    let _turn = turn();
    let program = Program::named("copied shared stack");
    let folder = tempfile::tempdir_in(scratch()).expect("a temporary folder");
    let recipe = folder.path().join("coroutines.toml");
    let mut text = format!(
        "[target]\nprogram = \"{}\"\n[frame]\nfunction = \"co_resume\"\nrunning = \"arg0\"\n",
        program.path.display()
    );
    for function in &program.functions {
        text += &format!(
            "[[call]]\nname = \"{}\"\nfunction = \"{function}\"\nhistogram = \"latency\"\n",
            program.probe(function)
        );
    }
    std::fs::write(&recipe, text).expect("the recipe");
    let measured = program.measured_by(args!["recipe", recipe.display()]);
    measured.assert_told();
    measured.assert_exact();
}
