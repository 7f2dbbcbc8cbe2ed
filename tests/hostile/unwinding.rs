//! Frames that are left otherwise than by a return.

use super::program::{Program, assert_unharmed};
use crate::harness::turn;

#[test]
fn exceptions_through_one_and_through_a_hundred_frames() {
    let _turn = turn();
    assert_unharmed("C++ exceptions");
    assert_unharmed("C++ exceptions, static");
}

/// The library itself knows nothing of exceptions.
#[test]
fn exceptions_through_a_library() {
    let _turn = turn();
    assert_unharmed("C++ exceptions through libc");
}

#[test]
fn longjmp_out_of_one_and_of_a_hundred_frames() {
    let _turn = turn();
    let measured = Program::named("longjmp").measured(&[]);
    for function in ["one", "faulty", "landing"] {
        measured.assert_exact_but(function, 0);
    }
    // 36 of a hundred are deeper than the kernel follows, twenty times.
    measured.assert_exact_but("many", 20 * 36);
}

#[test]
fn longjmp_past_probes_on_the_exits() {
    let _turn = turn();
    Program::named("longjmp")
        .measured(&["--return", "ret"])
        .assert_exact();
}

#[test]
fn threads_that_end_in_probed_functions() {
    let _turn = turn();
    assert_unharmed("dying threads");
}

#[test]
fn threads_with_destructors_that_end_in_probed_functions() {
    let _turn = turn();
    assert_unharmed("dying threads, C++");
}
