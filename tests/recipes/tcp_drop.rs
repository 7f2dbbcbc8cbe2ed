//! `uprof recipe tcp-drop` against packets that are known to be dropped, and the counters of those who drop them.

use std::collections::BTreeMap;

use super::network::{Namespace, done};
use crate::args;
use crate::harness::{Report, Uprof, turn};

/// Connects to a port that a firewall closes and to one where nobody listens, by IPv4 and IPv6, and sends a SYN whose
/// checksum is wrong. The SYN behind the firewall is sent again after a second.
const SCRIPT: &str = r#"
import socket, struct
for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
    for port in (52301, 52302):
        s = socket.socket(family); s.settimeout(1.5)
        try: s.connect((address, port))
        except OSError: pass
        s.close()
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
raw.sendto(struct.pack(">HHIIBBHHH", 52303, 52303, 1, 0, 5 << 4, 2, 1000, 0xdead, 0), ("127.0.0.1", 0))
"#;

const RULES: &str = "table inet t { chain c { type filter hook input priority 0; policy accept;
  tcp dport 52301 counter drop; }; }";

/// All of it; the report of one port, and what the namespace counted.
fn dropped(port: u16, flags: &[&str]) -> (Report, Namespace) {
    let space = Namespace::new();
    space.rules(RULES);
    let mut words = args!["recipe", "tcp-drop", "--port", port];
    words.extend(flags.iter().map(ToString::to_string));
    let uprof = Uprof::json(words).start();
    done(space.command("python3").args(["-c", SCRIPT]));
    let report = uprof.stop().report();
    report.summary.assert_nothing_dropped();
    (report, space)
}

/// How many packets were dropped for this reason on their way to each of these.
fn by_destination<'a>(report: &'a Report, reason: &str) -> BTreeMap<&'a str, u64> {
    let mut found = BTreeMap::new();
    for event in &report.events {
        if event.text("reason") == reason {
            *found.entry(event.text("destination")).or_default() += 1;
        }
    }
    found
}

#[test]
fn a_firewall_is_the_reason() {
    let _turn = turn();
    let (report, space) = dropped(52301, &[]);
    let found = by_destination(&report, "SKB_DROP_REASON_NETFILTER_DROP");
    assert!(
        found["127.0.0.1:52301"] >= 2 && found["[::1]:52301"] >= 2,
        "{found:?}"
    );
    assert_eq!(found.values().sum::<u64>(), space.counted());
    assert_eq!(report.events.len() as u64, space.counted());
    for event in &report.events {
        // A SYN, from the address to itself.
        assert_eq!(event.number("flags") & 0x3f, 2, "{event:?}");
        let host = event.text("destination").trim_end_matches("52301");
        assert!(event.text("source").starts_with(host), "{event:?}");
    }
}

#[test]
fn nobody_listens() {
    let _turn = turn();
    let (report, space) = dropped(52302, &[]);
    let found = by_destination(&report, "SKB_DROP_REASON_NO_SOCKET");
    let expected = [("127.0.0.1:52302", 1), ("[::1]:52302", 1)];
    assert_eq!(found, BTreeMap::from(expected));
    // Each is answered by a reset.
    assert_eq!(space.counter("Tcp", "OutRsts"), 2);
}

#[test]
fn a_checksum_is_wrong() {
    let _turn = turn();
    let (report, space) = dropped(52303, &[]);
    let found = by_destination(&report, "SKB_DROP_REASON_TCP_CSUM");
    assert_eq!(
        found["127.0.0.1:52303"],
        space.counter("Tcp", "InCsumErrors")
    );
    assert_eq!(space.counter("Tcp", "InCsumErrors"), 1);
}

#[test]
fn by_reason_and_by_stack_in_the_kernel() {
    let _turn = turn();
    for flag in ["--count", "--stacks"] {
        let (report, space) = dropped(52301, &[flag]);
        let counts = report.summary.counts.iter();
        assert_eq!(counts.map(|c| c.count).sum::<u64>(), space.counted());
        for count in &report.summary.counts {
            assert_eq!(count.key["reason"], "SKB_DROP_REASON_NETFILTER_DROP");
            let key = serde_json::to_string(&count.key).expect("JSON");
            let names = if flag == "--stacks" {
                "nf_hook_slow"
            } else {
                "52301"
            };
            assert!(key.contains(names), "{key}");
        }
    }
}
