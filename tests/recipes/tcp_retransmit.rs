//! `uprof recipe tcp-retransmit` where a firewall loses packets, against the kernel's TcpRetransSegs.

use crate::args;
use crate::harness::{Report, Target, Uprof, turn};

use super::network::{Namespace, cabled, done};

/// Of the test's namespaces alone: others on this machine shall not be counted.
const PORT: &str = "52201";

const SERVER: &str = r#"
import json, socket, sys
l = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True)
print(json.dumps({"ready": True}), flush=True)
for _ in range(2):
    c, _ = l.accept(); n = 0
    while d := c.recv(1 << 20): n += len(d)
    print(json.dumps({"received": n}), flush=True)
"#;

const CLIENT: &str = r#"
import socket, sys
for address in ("192.0.2.2", "2001:db8::2"):
    c = socket.create_connection((address, int(sys.argv[1])))
    c.sendall(b"x" * 1500000)
    c.close()
"#;

/// Every second answer to a SYN is lost on its way back, and one in ten of what the client sends.
const SENDER: &str = "table inet t { chain c { type filter hook input priority 0; policy accept;
  tcp flags & (syn | ack) == (syn | ack) numgen inc mod 2 < 1 drop; }; }";
const RECEIVER: &str = "table inet t { chain c { type filter hook input priority 0; policy accept;
  numgen random mod 100 < 10 counter drop; }; }";

/// Transfers by IPv4 and IPv6; the report, and how many segments were sent again and packets dropped.
fn lossy(flags: &[&str]) -> (Report, u64, u64) {
    let [sender, receiver] = cabled();
    sender.rules(SENDER);
    receiver.rules(RECEIVER);
    let mut words = args!["recipe", "tcp-retransmit", "--port", PORT];
    words.extend(flags.iter().map(ToString::to_string));
    let uprof = Uprof::json(words).start();
    let mut server = receiver.command("python3");
    server.args(["-c", SERVER, PORT]);
    let mut server = Target::spawn(server);
    assert_eq!(server.line()["ready"], true);
    done(sender.command("python3").args(["-c", CLIENT, PORT]));
    for _ in 0..2 {
        assert_eq!(server.line()["received"], 1_500_000);
    }
    assert!(server.end().success());
    let again = |space: &Namespace| space.counter("Tcp", "RetransSegs");
    // The last of it may still be on its way when the programs have ended: counted until nothing changes.
    let mut before = u64::MAX;
    while before != again(&sender) + again(&receiver) {
        before = again(&sender) + again(&receiver);
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
    let report = uprof.stop().report();
    let truth = again(&sender) + again(&receiver);
    report.summary.assert_nothing_dropped();
    (report, truth, receiver.counted())
}

#[test]
fn each_segment_sent_again() {
    let _turn = turn();
    let (report, truth, lost) = lossy(&[]);
    assert!(truth > 0 && lost > 0, "{truth} {lost}");
    let sum: u64 = report.events.iter().map(|e| e.number("segments")).sum();
    assert_eq!(sum, truth);
    for (local, remote) in [
        ("192.0.2.1:", "192.0.2.2:52201"),
        ("[2001:db8::1]:", "[2001:db8::2]:52201"),
    ] {
        let of = report.events_of("retransmit").filter(|e| {
            e.text("local").starts_with(local)
                && e.text("remote") == remote
                && e.text("state") == "ESTABLISHED"
                && e.number("bytes") > 0
                && e.number("bytes") <= 1448 * e.number("segments")
        });
        assert!(of.count() > 0, "{local}: {report:?}");
    }
}

#[test]
fn segments_by_connection_in_the_kernel() {
    let _turn = turn();
    let (report, truth, _) = lossy(&["--count"]);
    let stats = report.summary.stats.iter();
    let segments: u64 = stats.map(|row| row.values["segments"]["sum"] as u64).sum();
    let answers: u64 = report.summary.counts.iter().map(|row| row.count).sum();
    assert!(truth > 0);
    assert_eq!(segments + answers, truth);
}
