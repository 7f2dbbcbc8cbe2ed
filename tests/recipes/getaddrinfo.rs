//! `uprof recipe getaddrinfo` against a program that looks names up and measures it by its own clock.

use std::process::Command;

use serde_json::Value;

use crate::args;
use crate::harness::machine::tool;
use crate::harness::report::Event;
use crate::harness::{Report, Target, Uprof, turn};

/// Looks names up that need no network; a line for each with what came of it.
const SCRIPT: &str = r#"
import json, os, socket, sys, time
print(json.dumps({"ready": True, "pid": os.getpid()}), flush=True)
sys.stdin.readline()
lookups = [("127.0.0.1", "80"), ("localhost", "443"), ("no such name", "80"), (None, "8080"), ("::1", "53"),
           ("127.0.0.1", "no such service"), ("a b." * 20, "80")]
for host, service in lookups:
    result, began = 0, time.monotonic_ns()
    try:
        socket.getaddrinfo(host, service)
    except OSError as e:
        result = e.errno
    took = time.monotonic_ns() - began
    print(json.dumps({"host": host, "service": service, "result": result, "took": took}), flush=True)
print(json.dumps({"pid": os.getpid()}), flush=True)
sys.stdin.readline()
"#;

fn lookups(flags: &[&str]) -> (Report, Vec<Value>) {
    let mut python = Command::new(tool("python3"));
    python.args(["-c", SCRIPT]);
    let mut target = Target::spawn(python);
    assert_eq!(target.line()["ready"], true);
    let mut words = args!["recipe", "getaddrinfo", "--pid", target.pid()];
    words.extend(flags.iter().map(ToString::to_string));
    let uprof = Uprof::json(words).start();
    target.go();
    let (lines, _) = target.lines_and_truth();
    let report = uprof.stop().report();
    assert!(target.end().success());
    report.summary.assert_nothing_dropped();
    (report, lines)
}

/// netdb.h's, as Python gives them.
fn name(result: &Value) -> &'static str {
    match result.as_i64().expect("a number") {
        0 => "ok",
        -2 => "EAI_NONAME",
        -3 => "EAI_AGAIN",
        -5 => "EAI_NODATA",
        -8 => "EAI_SERVICE",
        other => panic!("an error that was not expected here: {other}"),
    }
}

fn assert_lookup(event: &Event, line: &Value) {
    assert_eq!(event.fields["host"], line["host"]);
    assert_eq!(event.fields["service"], line["service"]);
    assert_eq!(event.text("result"), name(&line["result"]), "{event:?}");
    assert!(
        event.latency_ns <= line["took"].as_u64(),
        "{event:?}: {line}"
    );
}

#[test]
fn each_look_up_with_its_name_and_result() {
    let _turn = turn();
    let (report, lines) = lookups(&[]);
    assert_eq!(lines.len(), 7);
    assert_eq!(report.events.len(), lines.len());
    for (event, line) in report.events.iter().zip(&lines) {
        assert_lookup(event, line);
    }
    let failed = lines.iter().filter(|line| line["result"] != 0).count();
    assert!(failed >= 3, "{lines:?}");
}

#[test]
fn latencies_by_name_and_result_in_the_kernel() {
    let _turn = turn();
    let (report, lines) = lookups(&["--summary"]);
    let count: u64 = report.summary.histograms.iter().map(|h| h.count).sum();
    assert_eq!(count, lines.len() as u64);
    for line in &lines {
        let of = |h: &&crate::harness::report::Histogram| {
            let host = match line["host"].as_str() {
                // A key holds 64 bytes.
                Some(host) => h.key["host"].as_str() == host.get(..host.len().min(64)),
                None => h.key["host"].is_null(),
            };
            host && h.key["result"] == name(&line["result"])
        };
        let found = report.summary.histograms.iter().find(of);
        let found = found.unwrap_or_else(|| panic!("{line}: {:?}", report.summary.histograms));
        assert!(
            found.min <= line["took"].as_u64().unwrap(),
            "{line}: {found:?}"
        );
    }
}
