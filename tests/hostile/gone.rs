//! Probes go away with uprof, however it ends, and leave the target's memory as it was.

use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::memory::changed_bytes;
use super::program::{LIMIT, Program, truth};
use crate::args;
use crate::harness::machine::tool;
use crate::harness::uprof::Running;
use crate::harness::{Target, Uprof, turn, wait_for};

/// Programs whose returns are replaced and programs whose exits are probed.
const PROGRAMS: [&str; 5] = [
    "64 threads",
    "tail calls",
    "ucontext",
    "Go",
    "C++ exceptions",
];

fn start(program: &Program, more: &[String]) -> Target {
    let mut command = Command::new(&program.path);
    command.args(&program.args).args(more);
    Target::spawn(command)
}

fn attach(program: &Program, target: &Target) -> Running {
    let mut words = args!["latency"];
    words.extend(program.probes());
    words.extend(args!["--pid", target.pid()]);
    Uprof::json(words).deadline(LIMIT).start()
}

fn kill_uprof(uprof: Running) {
    let pid = i32::try_from(uprof.pid()).expect("pids are small");
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("uprof runs");
    assert!(!uprof.finish().status.success());
}

/// The kernel's list of probes that were made by writing into tracefs, and which of them were hit.
fn trace_events() -> String {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let script = "mount -t tracefs none \"$1\" && cat \"$1/uprobe_events\" \"$1/dynamic_events\"";
    let output = Command::new(tool("unshare"))
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(folder.path())
        .output()
        .expect("unshare runs");
    assert!(output.status.success(), "tracefs: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Attaches to a program at its gate, ends uprof by `end`, lets the program go: it was never disturbed.
fn bytes_around(end: fn(Running)) {
    for name in PROGRAMS {
        let program = Program::named(name);
        let expected = truth(&program.alone().stdout);
        let mut target = start(&program, &args!["--gate"]);
        assert_eq!(target.line()["ready"], true);
        let pid = target.pid();
        assert_eq!(changed_bytes(pid), Some(0), "{name} before");
        let events = trace_events();
        let uprof = attach(&program, &target);
        let during = changed_bytes(pid).expect("the target runs");
        assert!(
            during >= program.functions.len(),
            "{name}: {during} bytes differ while probed"
        );
        assert_eq!(
            trace_events(),
            events,
            "{name}: uprof needs no events of tracefs"
        );
        end(uprof);
        wait_for("the bytes to be as before", || {
            (changed_bytes(pid) == Some(0)).then_some(())
        });
        assert_eq!(trace_events(), events, "{name} afterwards");
        target.go();
        let line = target.line().to_string();
        for (function, calls) in truth(&line) {
            assert_eq!(calls.entries, expected[&function].entries, "{name}: {line}");
        }
        assert!(target.end().success(), "{name} ends badly");
    }
}

#[test]
fn probes_go_when_uprof_is_killed() {
    let _turn = turn();
    bytes_around(kill_uprof);
}

#[test]
fn probes_go_when_uprof_ends() {
    let _turn = turn();
    bytes_around(|uprof| {
        uprof.stop().report();
    });
}

/// Killed in the middle of calls: those that are open then return to where they came from.
#[test]
fn a_busy_target_goes_on_when_uprof_is_killed() {
    let _turn = turn();
    for name in PROGRAMS {
        let program = Program::named(name);
        let expected = program.alone().stdout;
        let mut target = start(&program, &args!["--seconds", 3, "--hold"]);
        for _ in 0..2 {
            let uprof = attach(&program, &target);
            std::thread::sleep(Duration::from_millis(200));
            kill_uprof(uprof);
        }
        let pid = target.pid();
        wait_for("the bytes to be as before", || {
            (changed_bytes(pid) == Some(0)).then_some(())
        });
        let expected: serde_json::Value = serde_json::from_str(&expected).expect("one line");
        assert_eq!(target.line(), expected, "{name}");
        assert!(target.end().success(), "{name} ends badly");
    }
}
