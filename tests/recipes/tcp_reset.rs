//! `uprof recipe tcp-reset` against programs that make resets, and the kernel's counters of them.

use serde_json::Value;

use super::network::Namespace;
use crate::args;
use crate::harness::{Target, Uprof, turn};

/// Connects to a closed port, closes with SO_LINGER 0, and closes with data unread: by IPv4 and IPv6.
const SCRIPT: &str = r#"
import json, os, socket, struct, sys
print(json.dumps({"ready": True}), flush=True)
sys.stdin.readline()
def name(s):
    return ("[%s]:%d" if s[0].count(":") else "%s:%d") % s[:2]
def told(what, by, to):
    print(json.dumps({"what": what, "by": by, "to": to, "inode": told.inode}), flush=True)
told.inode = None
for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
    s = socket.socket(family); s.bind((address, 0))
    ends = name((address, 52401)), name(s.getsockname())
    try: s.connect((address, 52401))
    except ConnectionRefusedError: told("refused", *ends)
    with socket.create_server((address, 0), family=family) as l:
        c = socket.create_connection(l.getsockname()[:2]); d, _ = l.accept()
        c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        ends = name(c.getsockname()), name(c.getpeername())
        told.inode = os.fstat(c.fileno()).st_ino
        c.close(); told("linger", *ends)
        c = socket.create_connection(l.getsockname()[:2]); d, _ = l.accept()
        c.send(b"unread")
        ends = name(d.getsockname()), name(d.getpeername())
        told.inode = os.fstat(d.fileno()).st_ino
        d.close(); told("unread", *ends)
        told.inode = None
print(json.dumps({"pid": os.getpid()}), flush=True)
sys.stdin.readline()
"#;

fn reasons(what: &str) -> &'static [&'static str] {
    match what {
        "refused" => &["SK_RST_REASON_NO_SOCKET"],
        "linger" => &[
            "SK_RST_REASON_TCP_STATE",
            "SK_RST_REASON_TCP_ABORT_ON_LINGER",
        ],
        _ => &["SK_RST_REASON_TCP_ABORT_ON_CLOSE"],
    }
}

fn start(space: &Namespace) -> Target {
    let mut python = space.command("python3");
    python.args(["-c", SCRIPT]);
    let mut target = Target::spawn(python);
    assert_eq!(target.line()["ready"], true);
    target
}

#[test]
fn each_reset_by_whom_to_whom_and_why() {
    let _turn = turn();
    let space = Namespace::new();
    let mut target = start(&space);
    let uprof = Uprof::json(args!["recipe", "tcp-reset"]).start();
    target.go();
    let (truth, pid) = target.lines_and_truth();
    let report = uprof.stop().report();
    report.summary.assert_nothing_dropped();
    assert_eq!(truth.len(), 6);
    assert_eq!(space.counter("Tcp", "OutRsts"), truth.len() as u64);
    for reset in &truth {
        let (by, to) = (&reset["by"], &reset["to"]);
        let sent: Vec<_> = report
            .events_of("sent")
            .filter(|e| e.fields["local"] == *by && e.fields["remote"] == *to)
            .collect();
        let [sent] = sent.as_slice() else {
            panic!("{reset}: {:?}", report.events);
        };
        let what = reset["what"].as_str().expect("a word");
        assert!(
            reasons(what).contains(&sent.text("reason")),
            "{reset}: {sent:?}"
        );
        if what == "refused" {
            assert_eq!(sent.text("owner"), "-", "{sent:?}");
            assert_eq!(sent.fields["inode"], Value::Null, "{sent:?}");
        } else {
            assert_eq!(sent.fields["owner"], pid["pid"], "{sent:?}");
            assert_eq!(sent.fields["inode"], reset["inode"], "{sent:?}");
            assert_eq!(sent.number("uid_of_socket"), 0, "{sent:?}");
        }
        let received: Vec<_> = report
            .events_of("received")
            .filter(|e| e.fields["local"] == *to && e.fields["remote"] == *by)
            .collect();
        let [received] = received.as_slice() else {
            panic!("{reset}: {:?}", report.events);
        };
        let state = if what == "refused" {
            "SYN_SENT"
        } else {
            "ESTABLISHED"
        };
        assert_eq!(received.text("state"), state, "{received:?}");
    }
    // Connections that a reset ended; attempts count as AttemptFails.
    assert_eq!(space.counter("Tcp", "AttemptFails"), 2);
}

#[test]
fn counts_by_addresses_in_the_kernel() {
    let _turn = turn();
    let space = Namespace::new();
    let mut target = start(&space);
    let uprof = Uprof::json(args!["recipe", "tcp-reset", "--count", "--port", 52401]).start();
    target.go();
    let (truth, _) = target.lines_and_truth();
    let report = uprof.stop().report();
    let refused: Vec<_> = truth.iter().filter(|r| r["what"] == "refused").collect();
    assert_eq!(refused.len(), 2);
    for (probe, local, remote) in [("sent", "by", "to"), ("received", "to", "by")] {
        let counts: Vec<_> = report
            .summary
            .counts
            .iter()
            .filter(|c| c.probe == probe)
            .collect();
        assert_eq!(counts.len(), 2, "{counts:?}");
        for reset in &refused {
            let of = |c: &&&crate::harness::report::Count| {
                c.key["local"] == reset[local] && c.key["remote"] == reset[remote]
            };
            let found = counts.iter().find(of).expect("a count");
            assert_eq!(found.count, 1, "{found:?}");
        }
    }
}
