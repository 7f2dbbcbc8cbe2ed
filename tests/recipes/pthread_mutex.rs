//! `uprof recipe pthread-mutex` against a program that knows who waited for which mutex, and how long.

use serde_json::Value;

use crate::args;
use crate::harness::report::Event;
use crate::harness::{Fixture, Report, Target, Uprof, turn};

const ROUNDS: u64 = 8;
const FREE: u64 = 3000;
/// Below the 20 ms for which the mutexes are held.
const LEAST: &str = "15ms";

fn waits(fixture: Fixture, flags: &[&str]) -> (Report, Vec<Value>, Value) {
    let args = args!["--rounds", ROUNDS, "--free", FREE];
    let mut target = Target::gated(&fixture.path(), args);
    let mut words = args!["recipe", "pthread-mutex", "--pid", target.pid()];
    words.extend(args!["--min-wait", LEAST]);
    words.extend(flags.iter().map(ToString::to_string));
    let uprof = Uprof::json(words).start();
    target.go();
    let (waits, truth) = target.lines_and_truth();
    let report = uprof.stop().report();
    assert!(target.end().success());
    report.summary.assert_nothing_dropped();
    (report, waits, truth)
}

/// The addresses of the two mutexes that were waited for.
fn mutexes(truth: &Value) -> [&str; 2] {
    [0, 1].map(|n| truth["mutexes"][n].as_str().unwrap())
}

/// The waits that the program tells of, each with its event, by the thread that waits.
fn assert_waits(report: &Report, waits: &[Value], truth: &Value) {
    let mutexes = mutexes(truth);
    let pid = u32::try_from(truth["pid"].as_u64().unwrap()).unwrap();
    // The holder's own locks can be slow too, on a busy machine; they are of its main thread.
    let events: Vec<&Event> = report
        .events
        .iter()
        .filter(|event| event.tid != pid && mutexes.contains(&event.text("mutex")))
        .collect();
    assert_eq!(events.len() as u64, 2 * ROUNDS, "{events:?}");
    for (event, wait) in events.iter().zip(waits) {
        let which = usize::try_from(wait["mutex"].as_u64().unwrap()).unwrap();
        assert_eq!(event.text("mutex"), mutexes[which]);
        let (least, most) = (wait["least_ns"].as_u64(), wait["most_ns"].as_u64());
        let latency = event.latency_ns;
        assert!(latency >= least && latency <= most, "{event:?}: {wait}");
    }
}

#[test]
fn only_what_waits_is_probed_where_its_name_is_known() {
    let _turn = turn();
    for fixture in [Fixture::Mutexes, Fixture::MutexesStatic] {
        let (report, waits, truth) = waits(fixture, &["--events"]);
        assert_waits(&report, &waits, &truth);
        // Locks of a mutex that is free are no hits.
        let hits = report.only().hits;
        assert!((2 * ROUNDS..FREE).contains(&hits), "{hits} hits");
    }
}

#[test]
fn waits_by_mutex_in_the_kernel() {
    let _turn = turn();
    let (report, waits, truth) = waits(Fixture::Mutexes, &[]);
    for (which, mutex) in mutexes(&truth).into_iter().enumerate() {
        let of = |h: &&crate::harness::report::Histogram| h.key["mutex"] == mutex;
        let histogram = report.summary.histograms.iter().find(of);
        let histogram = histogram.unwrap_or_else(|| panic!("{mutex}: {:?}", report.summary));
        assert_eq!(histogram.count, ROUNDS);
        let least = waits.iter().filter(|w| w["mutex"] == which);
        let least = least.map(|w| w["least_ns"].as_u64().unwrap()).min();
        assert!(histogram.min >= least.unwrap(), "{histogram:?}");
    }
}

#[test]
fn callers_are_known_where_every_lock_is_probed() {
    let _turn = turn();
    let (report, waits, truth) = waits(Fixture::Mutexes, &["--events", "--callers"]);
    assert_waits(&report, &waits, &truth);
    let probe = report.only();
    assert!(probe.hits >= truth["locks"].as_u64().unwrap(), "{probe:?}");
    let pid = truth["pid"].as_u64().unwrap();
    for event in report.events.iter().filter(|e| u64::from(e.tid) != pid) {
        let Some(which) = mutexes(&truth)
            .iter()
            .position(|m| *m == event.text("mutex"))
        else {
            continue;
        };
        let caller = event.text("caller").trim_start_matches("0x");
        let caller = u64::from_str_radix(caller, 16).expect("an address");
        let waiter = truth["waiters"][which].as_u64().unwrap();
        // Within the function that waits: each of the two is shorter than this.
        assert!(
            (waiter..waiter + 112).contains(&caller),
            "{event:?}: {truth}"
        );
    }
}
