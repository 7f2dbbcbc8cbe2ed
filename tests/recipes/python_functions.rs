//! `uprof recipe python-functions` against a program that counts its own calls.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

use crate::args;
use crate::harness::{Report, Target, Uprof, turn};

/// Functions that call each other from Python and from C (by `map` and `sorted`), and count their calls.
const SCRIPT: &str = r#"
import json, os, sys
print(json.dumps({"ready": True, "pid": os.getpid()}), flush=True)
sys.stdin.readline()
calls = {"leaf": 0, "branch": 0, "method": 0}

def leaf(n):
    calls["leaf"] += 1
    return n + 1

def branch(n):
    calls["branch"] += 1
    return leaf(n) + leaf(n)

class Tree:
    def method(self):
        calls["method"] += 1
        return branch(1)

for n in range(50):
    Tree().method()
sum(map(leaf, range(30)))
sorted(range(20), key=leaf)
print(json.dumps({"pid": os.getpid(), "calls": calls}), flush=True)
sys.stdin.readline()
"#;

fn functions(flags: &[&str]) -> (Report, BTreeMap<String, u64>) {
    // Debian's own Python has the probes; others on PATH may lack them.
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-c", SCRIPT]);
    let mut target = Target::spawn(python);
    assert_eq!(target.line()["ready"], true);
    let mut words = args!["recipe", "python-functions", "--pid", target.pid()];
    words.extend(flags.iter().map(ToString::to_string));
    let uprof = Uprof::json(words).start();
    let truth = target.truth();
    let report = uprof.stop().report();
    assert!(target.end().success());
    report.summary.assert_nothing_dropped();
    let calls = truth["calls"].as_object().unwrap();
    let calls = calls.iter().map(|(k, v)| (k.clone(), v.as_u64().unwrap()));
    (report, calls.collect())
}

fn of_script(fields: &serde_json::Map<String, Value>) -> Option<String> {
    let own = fields["file"] == "<string>" && fields["function"] != "<module>";
    own.then(|| fields["function"].as_str().unwrap().to_owned())
}

#[test]
fn calls_and_lines_are_counted() {
    let _turn = turn();
    let (report, calls) = functions(&[]);
    assert_eq!(calls["leaf"], 150);
    let counted = |probe: &str| -> BTreeMap<String, u64> {
        let counts = report.summary.counts.iter().filter(|c| c.probe == probe);
        let own = counts.filter_map(|c| Some((of_script(&c.key)?, c.count)));
        own.filter(|(name, _)| name != "Tree").collect()
    };
    assert_eq!(counted("calls"), calls);
    // Each of them has two lines.
    let lines: BTreeMap<_, _> = calls.iter().map(|(k, v)| (k.clone(), 2 * v)).collect();
    assert_eq!(counted("lines"), lines);
}

#[test]
fn each_call_is_entered_and_left() {
    let _turn = turn();
    let (report, calls) = functions(&["--events"]);
    for probe in ["enter", "leave"] {
        let mut found: BTreeMap<String, u64> = BTreeMap::new();
        for event in report.events_of(probe) {
            if let Some(name) = of_script(&event.fields) {
                *found.entry(name).or_default() += 1;
            }
        }
        found.remove("Tree");
        assert_eq!(found, calls, "{probe}");
    }
}
