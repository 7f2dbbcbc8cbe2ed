//! `uprof recipe slow-close` against a server that forgets to close some of its connections.

use std::collections::HashMap;
use std::process::Command;

use serde_json::Value;

use crate::args;
use crate::harness::machine::tool;
use crate::harness::report::Event;
use crate::harness::{Target, Uprof, turn};

/// Of the connections of each kind: closed at once, closed too late, never closed; and two from before the run, of which the
/// peer of one has hung up before.
const SCRIPT: &str = r#"
import json, os, socket, sys, time
def say(**line): print(json.dumps(line), flush=True)
family, host = (socket.AF_INET6, "::1") if sys.argv[1] == "6" else (socket.AF_INET, "127.0.0.1")
listener = socket.create_server((host, 0), family=family)
def named(address):
    return f"[{address[0]}]:{address[1]}" if family == socket.AF_INET6 else f"{address[0]}:{address[1]}"
leaked = []
def hang_up(s):
    s.shutdown(socket.SHUT_WR)
    return time.monotonic_ns()
def pair():
    s = socket.create_connection(listener.getsockname()[:2])
    c, peer = listener.accept()
    return s, c
def told(case, s, c, **more):
    say(case=case, remote=named(s.getsockname()), fd=c.fileno(), **more)
before = pair()
hang_up(before[0])
older = pair()
leaked += [before, older]
say(ready=True)
sys.stdin.readline()
told("before", *before)
hung_up = hang_up(older[0])
told("older", *older)
for n in range(5):
    s, c = pair()
    s.sendall(b"x" * n)
    hang_up(s)
    leaked.append((s, c))
    told("leaked", s, c, unread=n)
for n in range(20):
    s, c = pair()
    hang_up(s)
    assert c.recv(1) == b""
    told("closed", s, c)
    c.close()
    s.close()
# This one is a client: the server hangs up.
s, c = pair()
hang_up(c)
say(case="client", remote=named(s.getpeername()), fd=s.fileno())
leaked.append((s, c))
s, c = pair()
told("late", s, c)
late = hang_up(s)
time.sleep(2.5)
least = time.monotonic_ns() - late
c.close()
say(case="waited", least=least)
time.sleep(0.3)
say(pid=os.getpid())
sys.stdin.readline()
"#;

fn lingering(family: &str) {
    let mut python = Command::new(tool("python3"));
    python.args(["-c", SCRIPT, family]);
    let mut target = Target::spawn(python);
    assert_eq!(target.line()["ready"], true);
    let pid = target.pid();
    let flags = args!["recipe", "slow-close", "--longer-than", "1s", "--pid", pid];
    let uprof = Uprof::json(flags).start();
    target.go();
    let (lines, _) = target.lines_and_truth();
    let report = uprof.stop().report();
    report.summary.assert_nothing_dropped();
    assert!(target.end().success());
    let mut told: HashMap<&str, Vec<&Event>> = HashMap::new();
    for event in &report.events {
        assert_eq!(event.pid, pid, "{event:?}");
        told.entry(event.text("remote")).or_default().push(event);
    }
    let tables = &report.summary.tables;
    let [open] = tables.as_slice() else {
        panic!("one table was expected: {tables:?}");
    };
    let column = |name: &str| {
        let found = open.columns.iter().position(|c| c == name);
        found.unwrap_or_else(|| panic!("no column {name}: {open:?}"))
    };
    let (remote, fd) = (column("remote"), column("fd"));
    let mut still_open = 0;
    for line in lines.iter().filter(|line| line.get("remote").is_some()) {
        let case = line["case"].as_str().expect("a text");
        let events = told.remove(line["remote"].as_str().expect("a text"));
        let row = open.rows.iter().find(|row| row[remote] == line["remote"]);
        if case == "closed" {
            assert!(
                events.is_none() && row.is_none(),
                "{line}: {events:?} {row:?}"
            );
            continue;
        }
        let events = events.unwrap_or_else(|| panic!("nothing of {line}: {report:?}"));
        let first = events[0];
        if case != "late" {
            assert_eq!(first.text("now"), "open", "{first:?}");
        }
        assert_eq!(first.fields["fd"], line["fd"], "{first:?}");
        let is_before = case == "before";
        assert_eq!(
            first.text("since") == "before uprof",
            is_before,
            "{first:?}"
        );
        assert!(first.number("held") >= 1_000_000_000, "{first:?}");
        let stack = first.fields.get("stack").and_then(Value::as_array);
        let older = ["before", "older"].contains(&case);
        assert_eq!(stack.is_none_or(Vec::is_empty), older, "{line}: {first:?}");
        if case == "leaked" {
            assert_eq!(first.fields["unread"], line["unread"], "{first:?}");
        }
        if case == "late" {
            // Where uprof was late itself, it is told of when it is closed only.
            let last = events[events.len() - 1];
            assert!(events.len() <= 2, "{events:?}");
            assert_eq!(last.text("now"), "closed", "{last:?}");
            let waited = lines.iter().find(|l| l["case"] == "waited");
            let least = waited.and_then(|l| l["least"].as_u64()).expect("a time");
            assert!(last.number("held") >= least, "{last:?}: {least}");
            assert!(row.is_none(), "{row:?}");
            continue;
        }
        assert_eq!(events.len(), 1, "{events:?}");
        let row = row.unwrap_or_else(|| panic!("{line} is still open: {open:?}"));
        assert_eq!(row[fd], line["fd"], "{row:?}");
        still_open += 1;
    }
    assert!(told.is_empty(), "nobody did this: {told:?}");
    assert_eq!(open.rows.len(), still_open);
    assert_eq!(still_open, 8);
}

#[test]
fn connections_that_a_program_forgets_to_close() {
    let _turn = turn();
    lingering("4");
    lingering("6");
}
