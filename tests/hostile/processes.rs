//! Processes that come and go. With `-- COMMAND` and with `--pid` only the process itself is looked at, not its children.

use std::process::Command;

use super::program::{LIMIT, Program, assert_unharmed, truth};
use crate::args;
use crate::harness::{Target, Uprof, turn};

#[test]
fn forks_and_vforks() {
    let _turn = turn();
    assert_unharmed("fork and vfork");
    Program::named("fork and vfork")
        .measured(&["--return", "ret"])
        .assert_exact();
}

#[test]
fn a_process_that_becomes_itself_anew() {
    let _turn = turn();
    assert_unharmed("exec");
    Program::named("exec")
        .measured(&["--return", "ret"])
        .assert_exact();
}

#[test]
fn a_process_that_ends_within_probed_functions() {
    let _turn = turn();
    assert_unharmed("exit");
    Program::named("exit")
        .measured(&["--return", "ret"])
        .assert_exact();
}

/// Runs a program behind its gate under `uprof latency --pid`, to its end; it counts what uprof counts.
fn by_pid(name: &str, flags: &[&str]) {
    let program = Program::named(name);
    let mut command = Command::new(&program.path);
    command.args(&program.args).arg("--gate");
    let mut target = Target::spawn(command);
    assert_eq!(target.line()["ready"], true);
    let mut words = args!["latency"];
    words.extend(program.probes());
    words.extend(args!["--pid", target.pid()]);
    words.extend(flags.iter().map(|&flag| flag.to_owned()));
    let uprof = Uprof::json(words).deadline(2 * LIMIT).start();
    target.go();
    let line = target.line();
    assert!(target.end().success(), "{name} ends badly under --pid");
    let finished = uprof.stop();
    let stderr = finished.stderr.clone();
    let report = finished.report();
    let truth = truth(&line.to_string());
    for function in &program.functions {
        let (probe, calls) = (report.probe(&program.probe(function)), &truth[function]);
        let got = (
            probe.hits,
            probe.aggregated,
            probe.unpaired,
            probe.unfinished,
        );
        let expected = (calls.entries, calls.returns, calls.left(), 0);
        assert_eq!(
            got, expected,
            "{name} {flags:?}: {probe:?}\n{calls:?}\n{stderr}"
        );
    }
}

#[test]
fn forks_of_a_process_that_runs_already() {
    let _turn = turn();
    by_pid("fork and vfork", &[]);
    by_pid("fork and vfork", &["--return", "ret"]);
}

#[test]
fn threads_and_coroutines_of_a_process_that_runs_already() {
    let _turn = turn();
    for name in ["ucontext", "Go", "64 threads", "dying threads", "exit"] {
        by_pid(name, &[]);
    }
}
