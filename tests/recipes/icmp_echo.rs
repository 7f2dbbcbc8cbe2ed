//! `uprof recipe icmp-echo` against ping, and the kernel's counters of ICMP.

use super::network::{cabled, done};
use crate::args;
use crate::harness::{Uprof, turn};

/// Of the test's pings alone.
const ID: u64 = 0xbeef;

#[test]
fn each_request_with_its_id_and_sequence() {
    let _turn = turn();
    let [asks, serves] = cabled();
    let uprof = Uprof::json(args!["recipe", "icmp-echo"]).start();
    for (address, times) in [("192.0.2.2", "5"), ("2001:db8::2", "3")] {
        let id = ID.to_string();
        let words = ["-e", &id, "-c", times, "-i", "0.2", "-s", "1000", address];
        done(asks.command("ping").args(words));
    }
    let report = uprof.stop().report();
    report.summary.assert_nothing_dropped();
    let of = |probe: &str, source: &str, destination: &str| -> Vec<u64> {
        let of = report.events_of(probe).filter(|e| {
            e.number("id") == ID
                && e.text("source") == source
                && e.text("destination") == destination
                && e.text("interrupted") == e.comm
        });
        of.map(|e| e.number("sequence")).collect()
    };
    assert_eq!(of("echo", "192.0.2.1", "192.0.2.2"), [1, 2, 3, 4, 5]);
    assert_eq!(of("echo6", "2001:db8::1", "2001:db8::2"), [1, 2, 3]);
    assert_eq!(serves.counter("Icmp", "InEchos"), 5);
    assert_eq!(serves.counter6("Icmp6InEchos"), 3);
    let ours = report.events.iter().filter(|e| e.number("id") == ID);
    assert_eq!(ours.count(), 8, "{:?}", report.events);
}

#[test]
fn requests_by_addresses_in_the_kernel() {
    let _turn = turn();
    let [asks, serves] = cabled();
    let uprof = Uprof::json(args!["recipe", "icmp-echo", "--count"]).start();
    // As fast as answers come.
    done(
        asks.command("ping")
            .args(["-f", "-q", "-c", "2000", "192.0.2.2"]),
    );
    let report = uprof.stop().report();
    report.summary.assert_nothing_dropped();
    let of = report
        .summary
        .counts
        .iter()
        .filter(|c| c.key["source"] == "192.0.2.1" && c.key["destination"] == "192.0.2.2");
    let counted: u64 = of.map(|c| c.count).sum();
    assert_eq!(counted, serves.counter("Icmp", "InEchos"));
    assert!(counted >= 2000);
}
