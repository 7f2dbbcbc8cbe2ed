//! `uprof recipe ntyco-coroutines` against a program with NtyCo's functions, which counts and times its coroutines itself.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::args;
use crate::harness::{Fixture, Report, Target, Uprof, turn};

const SPIN_NS: u64 = 20_000;

/// Runs the program and returns the report and its own truth.
fn watched(fixture: Fixture, flags: &[&str]) -> (Report, Value) {
    let spin = SPIN_NS.to_string();
    let mut target = Target::gated(
        &fixture.path(),
        ["--coroutines", "5", "--yields", "20", "--spin-ns", &spin],
    );
    let mut words = args!["recipe", "ntyco-coroutines", "--pid", target.pid()];
    words.extend(flags.iter().map(ToString::to_string));
    let uprof = Uprof::json(words).start();
    let truth = target.truth();
    let report = uprof.stop().report();
    report.summary.assert_nothing_dropped();
    assert!(target.end().success());
    (report, truth)
}

/// A number of the truth by the functions' addresses.
fn by_function(truth: &Value, field: &str) -> BTreeMap<String, u64> {
    let functions = truth["functions"].as_object().expect("functions");
    functions
        .iter()
        .map(|(address, of)| (address.clone(), of[field].as_u64().expect("a number")))
        .collect()
}

/// The counts of a probe by function.
fn counted(report: &Report, probe: &str) -> BTreeMap<String, u64> {
    let counts = report.summary.counts.iter().filter(|c| c.probe == probe);
    counts
        .map(|c| {
            (
                c.key["function"].as_str().expect("an address").to_owned(),
                c.count,
            )
        })
        .collect()
}

#[test]
fn made_run_yielded_ended_and_how_long_by_function() {
    let _turn = turn();
    for fixture in [Fixture::Ntyco, Fixture::NtycoOwnSwitch] {
        let (report, truth) = watched(fixture, &[]);
        let ended = by_function(&truth, "ended");
        assert_eq!(counted(&report, "create"), ended, "all of them end");
        assert_eq!(counted(&report, "end"), ended);
        let runs = by_function(&truth, "runs");
        let own = by_function(&truth, "own_ns");
        for histogram in &report.summary.histograms {
            let function = histogram.key["function"].as_str().expect("an address");
            // `mean` is rounded, and what is measured from outside is longer than what is from inside.
            let total = histogram.mean * histogram.count as f64;
            assert_eq!(histogram.count, runs[function], "{histogram:?}");
            assert!(
                total * 1.01 >= own[function] as f64,
                "{histogram:?} {own:?}"
            );
            assert!(histogram.min >= SPIN_NS, "{histogram:?}");
        }
        assert_eq!(report.summary.histograms.len(), 3);
        // Each run ends in a yield, the last one too.
        let yields: u64 = report
            .summary
            .counts
            .iter()
            .filter(|c| c.probe == "yield")
            .map(|c| c.count)
            .sum();
        assert_eq!(yields, runs.values().sum::<u64>());
    }
}

#[test]
fn each_run_with_its_coroutine() {
    let _turn = turn();
    let (report, truth) = watched(Fixture::Ntyco, &["--events"]);
    let mut runs: BTreeMap<String, u64> = BTreeMap::new();
    let mut ended: BTreeMap<String, u64> = BTreeMap::new();
    let mut last: BTreeMap<u64, u64> = BTreeMap::new();
    for event in report.events_of("run") {
        let function = event.text("function").to_owned();
        let over = event.text("ended") == "ended";
        *runs.entry(function.clone()).or_default() += 1;
        *ended.entry(function).or_default() += u64::from(over);
        *last.entry(event.number("id")).or_default() += 1;
        assert!(
            event.latency_ns.is_some_and(|ns| ns >= SPIN_NS),
            "{event:?}"
        );
    }
    assert_eq!(runs, by_function(&truth, "runs"));
    assert_eq!(ended, by_function(&truth, "ended"));
    // Of three functions in turn the first runs 21 times, the second twice, the third once.
    let expected = (0..15).map(|id| (id, [21, 2, 1][id as usize % 3]));
    assert_eq!(last, expected.collect());
}
