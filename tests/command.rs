//! `-- COMMAND`: the command's own streams and status, and probes armed before its first instruction.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::args;
use crate::harness::machine::{scratch, tool};
use crate::harness::uprof::binary;
use crate::harness::{Fixture, Report, Uprof, turn};

fn report_of(file: &Path) -> Report {
    Report::parse(&std::fs::read_to_string(file).expect("the report that -o names"))
}

#[test]
fn its_first_call_is_counted_and_its_status_kept() {
    let _turn = turn();
    let folder = tempfile::tempdir_in(scratch()).unwrap();
    let file = folder.path().join("report");
    for fixture in [Fixture::Calls, Fixture::CallsStatic] {
        let program = fixture.path();
        for command in ["count", "latency"] {
            let words = args![
                command,
                format!("{}:work", program.display()),
                "-o",
                file.display()
            ];
            let finished = Uprof::json(words)
                .command(&program, args!["--calls", 1000, "--exit", 7])
                .run();
            assert_eq!(finished.status.code(), Some(7), "{}", finished.stderr);
            let truth: Value = serde_json::from_str(&finished.text())
                .expect("the command's own line and nothing else");
            assert_eq!(truth["calls"], 1000);
            assert_eq!(report_of(&file).only().hits, 1000, "{command} {fixture:?}");
        }
    }
}

#[test]
fn without_a_file_the_report_goes_to_standard_error() {
    let _turn = turn();
    let program = Fixture::Calls.path();
    let words = args!["count", format!("{}:work", program.display())];
    let finished = Uprof::new(words)
        .command(&program, args!["--calls", 1234])
        .run()
        .ok();
    let truth: Value =
        serde_json::from_str(&finished.text()).expect("the command's own line and nothing else");
    assert_eq!(truth["calls"], 1234);
    assert!(
        finished.stderr.replace([',', ' '], "").contains("1234"),
        "{}",
        finished.stderr
    );
    assert!(finished.stderr.contains("work"), "{}", finished.stderr);
}

#[test]
fn it_keeps_its_standard_input() {
    let _turn = turn();
    let mut child = Command::new(binary())
        .args(["malloc", "--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(b"three\nlines\nof text\n")
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout, b"three\nlines\nof text\n");
}

#[test]
fn what_it_allocates() {
    let _turn = turn();
    let folder = tempfile::tempdir_in(scratch()).unwrap();
    let file = folder.path().join("report");
    for fixture in [Fixture::King, Fixture::KingStatic] {
        let words = args!["malloc", "-o", file.display()];
        let finished = Uprof::json(words)
            .command(&fixture.path(), args!["--pairs", 10_000, "--threads", 2])
            .run()
            .ok();
        let truth: Value = serde_json::from_str(&finished.text()).unwrap();
        let report = report_of(&file);
        for (probe, name) in [("malloc", "mallocs"), ("free", "frees")] {
            let (hits, known) = (report.probe(probe).hits, truth[name].as_u64().unwrap());
            // libc allocates a little around main and for each thread, and frees what the thread's cache holds.
            assert!(
                (known..known + 1000).contains(&hits),
                "{fixture:?}: {hits} {name}, not {known}"
            );
        }
    }
}

#[test]
fn a_program_that_becomes_another_is_followed() {
    let _turn = turn();
    let folder = tempfile::tempdir_in(scratch()).unwrap();
    let file = folder.path().join("report");
    let program = Fixture::Calls.path();
    let words = args![
        "count",
        format!("{}:work", program.display()),
        "-o",
        file.display()
    ];
    let script = format!("exec {} --calls 500", program.display());
    Uprof::json(words)
        .command(&tool("sh"), args!["-c", script])
        .run()
        .ok();
    assert_eq!(report_of(&file).only().hits, 500);
}

#[test]
fn killed_by_a_signal_it_says_so_as_a_shell_would() {
    let _turn = turn();
    let program = Fixture::ExitsEarly.path();
    let words = args!["count", format!("{}:work", program.display())];
    let finished = Uprof::new(words)
        .command(&program, args!["--how", "signal"])
        .run();
    assert_eq!(finished.status.code(), Some(128 + 9), "{}", finished.stderr);
    assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
}

#[test]
fn the_end_inside_a_call_is_accounted_for() {
    let _turn = turn();
    let folder = tempfile::tempdir_in(scratch()).unwrap();
    let file = folder.path().join("report");
    let program = Fixture::ExitsEarly.path();
    let words = args![
        "latency",
        format!("{}:work", program.display()),
        "-o",
        file.display()
    ];
    let finished = Uprof::json(words)
        .command(
            &program,
            args!["--how", "inside", "--calls", 100, "--exit", 3],
        )
        .run();
    assert_eq!(finished.status.code(), Some(3), "{}", finished.stderr);
    let report = report_of(&file);
    let probe = report.only();
    assert_eq!(
        (probe.hits, probe.aggregated, probe.unpaired),
        (101, 100, 1),
        "{probe:?}"
    );
}

#[test]
fn a_command_that_does_not_exist() {
    let _turn = turn();
    let finished = Uprof::new(args!["malloc", "--", "no-such-program-anywhere"]).run();
    // The status by which shells tell it.
    finished.refused(127, &["no-such-program-anywhere"]);
}
