//! What return probes do to programs that `auto` keeps them from: the danger is real.

use std::os::unix::process::ExitStatusExt;

use nix::sys::signal::Signal;

use super::program::{LIMIT, Program};
use crate::harness::uprof::Finished;
use crate::harness::{Uprof, turn};

/// Runs a program with return probes on all its functions, whatever they do to it.
fn insist(name: &str) -> Finished {
    let program = Program::named(name);
    let mut words = vec!["latency".to_owned()];
    words.extend(program.probes());
    words.extend(["--return", "uretprobe", "-o", "/dev/null"].map(str::to_owned));
    Uprof::json(words)
        .command(&program.path, &program.args)
        .deadline(2 * LIMIT)
        .run()
}

/// The signal that the program died of: as uprof's own, or as a shell says it.
fn died_of(finished: &Finished) -> Option<Signal> {
    let number = finished.status.signal().or_else(|| {
        let code = finished.status.code().unwrap_or_default();
        (code > 128).then(|| code - 128)
    });
    number.and_then(|number| Signal::try_from(number).ok())
}

fn assert_crash(name: &str) {
    let finished = insist(name);
    let signal = died_of(&finished);
    assert!(
        matches!(signal, Some(Signal::SIGILL | Signal::SIGSEGV)),
        "{name}: {:?}\n{}",
        finished.status,
        finished.stderr
    );
}

#[test]
fn coroutines_crash() {
    let _turn = turn();
    for name in [
        "ucontext",
        "ucontext, descending",
        "assembly switch",
        "assembly switch in line, stripped",
        "copied shared stack",
        "boost.context",
    ] {
        assert_crash(name);
    }
}

#[test]
fn handlers_on_a_stack_above_crash() {
    let _turn = turn();
    assert_crash("signals, stack above");
}

#[test]
fn go_finds_a_strange_return_address() {
    let _turn = turn();
    // It dies each time. Mostly the runtime finds the address itself; now and then something worse comes first.
    let found = (0..5).any(|_| {
        let finished = insist("Go");
        assert_ne!(finished.status.code(), Some(0), "{}", finished.stderr);
        finished.stderr.contains("unexpected return pc")
    });
    assert!(found, "five runs died of something else");
}

#[test]
fn exceptions_are_not_caught() {
    let _turn = turn();
    let finished = insist("C++ exceptions");
    assert_eq!(
        died_of(&finished),
        Some(Signal::SIGABRT),
        "{}",
        finished.stderr
    );
    assert!(
        finished.stderr.contains("terminate called"),
        "{}",
        finished.stderr
    );
}

#[test]
fn destructors_of_threads_are_passed_over() {
    let _turn = turn();
    let alone = Program::named("dying threads, C++").alone();
    let finished = insist("dying threads, C++");
    assert_ne!(finished.text(), alone.stdout, "{}", finished.stderr);
}

#[test]
fn return_addresses_are_seen_to_be_strange() {
    let _turn = turn();
    let finished = insist("return addresses");
    assert_eq!(finished.status.code(), Some(5), "{}", finished.stderr);
}
