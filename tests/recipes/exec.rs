//! `uprof recipe exec` against a program that starts others, and knows which.

use std::process::Command;

use serde_json::Value;

use crate::args;
use crate::harness::machine::tool;
use crate::harness::report::Event;
use crate::harness::{Report, Target, Uprof, turn};

/// Starts programs one after the other: good ones, ones that fail, long and odd lists of arguments.
const SCRIPT: &str = r##"
import errno, json, os, sys
def say(**line): print(json.dumps(line), flush=True)
folder = sys.argv[1]
plain = folder + "/plain"
open(plain, "w").write("no program\n")
script = folder + "/script"
open(script, "w").write("#!/bin/sh\nexit 3\n")
os.chmod(script, 0o755)
open("/proc/self/comm", "w").write("the-starter")
say(ready=True)
sys.stdin.readline()
true = os.path.realpath("/bin/true")
long = ["true"] + [str(n) for n in range(4000)]
for path, words in [(true, ["true", "a", "b c", ""]), (true, long), (true, ["other name", b"\xff\xfe", "it's"]),
                    (script, ["script", "x"]), ("/no/such/program", ["x"]), (plain, ["plain"]), (folder, ["folder"])]:
    ends = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        try: os.execv(path, words)
        except OSError as e: os.write(ends[1], errno.errorcode[e.errno].encode())
        os._exit(0)
    os.close(ends[1])
    error = os.read(ends[0], 100).decode() or 0
    os.waitpid(child, 0)
    if path == script: words = ["/bin/sh", script, "x"]
    shown = ["".join(chr(b) if b < 0x80 else f"\\x{b:02x}" for b in os.fsencode(word)) for word in words]
    say(path=path, words=shown, error=error, child=child)
descriptor = os.open(true, os.O_RDONLY)
child = os.fork()
if child == 0: os.execve(descriptor, ["by descriptor"], {})
os.waitpid(child, 0)
say(path=None, words=["by descriptor"], error=0, child=child)
say(pid=os.getpid())
sys.stdin.readline()
"##;

fn started(flags: &[&str]) -> (Report, Vec<Value>, u32) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut python = Command::new(tool("python3"));
    python.args(["-c", SCRIPT]).arg(folder.path());
    let mut target = Target::spawn(python);
    assert_eq!(target.line()["ready"], true);
    let mut words = args!["recipe", "exec"];
    words.extend(flags.iter().map(ToString::to_string));
    let uprof = Uprof::json(words).start();
    target.go();
    let (lines, _) = target.lines_and_truth();
    let report = uprof.stop().report();
    report.summary.assert_nothing_dropped();
    let pid = target.pid();
    assert!(target.end().success());
    (report, lines, pid)
}

fn assert_exec(event: &Event, line: &Value, parent: u32) {
    assert_eq!(event.pid, line["child"], "{event:?}: {line}");
    assert_eq!(event.number("ppid"), u64::from(parent), "{event:?}");
    assert_eq!(event.text("before"), "the-starter", "{event:?}");
    assert_eq!(event.fields["error"], line["error"], "{event:?}: {line}");
    match line["path"].as_str() {
        Some(path) => assert_eq!(event.text("filename"), path, "{event:?}"),
        // How the kernel names a program that was given by its descriptor.
        None => assert!(event.text("filename").starts_with("/dev/fd/"), "{event:?}"),
    }
    let words = line["words"].as_array().expect("a list");
    if line["error"] == 0 {
        let words = words
            .iter()
            .map(|w| format!("{}\0", w.as_str().expect("a text")));
        assert_eq!(event.text("args"), words.collect::<String>());
        assert!(!event.is_cut("args"));
        assert_ne!(event.comm, "the-starter", "{event:?}");
    } else {
        assert_eq!(event.text("args"), "", "{event:?}");
        assert_eq!(event.comm, "the-starter", "{event:?}");
    }
}

#[test]
fn every_program_that_is_started_with_its_arguments() {
    let _turn = turn();
    let (report, lines, pid) = started(&[]);
    assert_eq!(lines.len(), 8);
    let errors = lines.iter().filter(|line| line["error"] != 0).count();
    assert_eq!(errors, 3, "{lines:?}");
    let ours = |event: &&Event| event.number("ppid") == u64::from(pid);
    let events: Vec<&Event> = report.events_of("exec").filter(ours).collect();
    assert_eq!(events.len(), lines.len(), "{events:?}");
    for (event, line) in events.iter().zip(&lines) {
        assert_exec(event, line, pid);
    }
}

#[test]
fn those_alone_that_failed() {
    let _turn = turn();
    let (report, lines, pid) = started(&["--failed"]);
    let ours = |event: &&Event| event.number("ppid") == u64::from(pid);
    let events: Vec<&Event> = report.events_of("exec").filter(ours).collect();
    let failed: Vec<&Value> = lines.iter().filter(|line| line["error"] != 0).collect();
    assert_eq!(events.len(), failed.len());
    for (event, line) in events.iter().zip(failed) {
        assert_exec(event, line, pid);
    }
}
