//! `uprof recipe ucontext-coroutines` against a program that counts its switches itself.

use std::collections::BTreeMap;

use crate::args;
use crate::harness::{Fixture, Report, Target, Uprof, turn};

const SPIN_NS: u64 = 20_000;

fn watched(fixture: Fixture, flags: &[&str]) -> (Report, serde_json::Value) {
    let spin = SPIN_NS.to_string();
    let mut target = Target::gated(&fixture.path(), ["--rounds", "40", "--spin-ns", &spin]);
    let mut words = args!["recipe", "ucontext-coroutines", "--pid", target.pid()];
    words.extend(flags.iter().map(ToString::to_string));
    let uprof = Uprof::json(words).start();
    let truth = target.truth();
    let report = uprof.stop().report();
    report.summary.assert_nothing_dropped();
    assert!(target.end().success(), "the contexts go on as before");
    (report, truth)
}

/// Switches by "FROM TO", as the program counted them.
fn switches(truth: &serde_json::Value) -> BTreeMap<String, u64> {
    let pairs = truth["switches"].as_object().expect("switches");
    pairs
        .iter()
        .map(|(pair, count)| (pair.clone(), count.as_u64().expect("a number")))
        .collect()
}

#[test]
fn who_switches_to_whom_and_how_long_each_is_away() {
    let _turn = turn();
    for fixture in [Fixture::Ucontext, Fixture::UcontextStatic] {
        let (report, truth) = watched(fixture, &[]);
        let counts = report.summary.counts.iter();
        let seen: BTreeMap<String, u64> = counts
            .filter(|count| count.probe == "switch")
            .map(|count| {
                let end = |end: &str| count.key[end].as_str().expect("an address").to_owned();
                (format!("{} {}", end("from"), end("to")), count.count)
            })
            .collect();
        assert_eq!(seen, switches(&truth));
        let made: Vec<&str> = report
            .summary
            .counts
            .iter()
            .filter(|count| count.probe == "make")
            .map(|count| count.key["function"].as_str().expect("an address"))
            .collect();
        assert_eq!(made.len(), 2);
        for function in truth["made"].as_array().expect("functions") {
            assert!(made.contains(&function.as_str().expect("an address")));
        }
        // Of the 41 and 21 switches to the two contexts the last ones came back by their ends, which is another function.
        let away = report.probe("away");
        assert_eq!(
            (away.aggregated, away.unpaired),
            (2 * (40 + 20), 2),
            "{away:?}"
        );
        let home = report.summary.histograms.iter();
        let home = home
            .filter(|h| h.key["context"] == truth["home"])
            .collect::<Vec<_>>();
        let [home] = home[..] else {
            panic!("{:?}", report.summary.histograms);
        };
        assert_eq!(home.count, 40 + 20);
        assert!(
            home.min >= SPIN_NS,
            "home waits while the others spin: {home:?}"
        );
    }
}

#[test]
fn each_switch() {
    let _turn = turn();
    let (report, truth) = watched(Fixture::Ucontext, &["--events"]);
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    for event in report.events_of("switch") {
        let pair = format!("{} {}", event.text("from"), event.text("to"));
        *seen.entry(pair).or_default() += 1;
    }
    let home = truth["home"].as_str().expect("an address");
    let mut expected = switches(&truth);
    // An event is a switch that came back.
    for (pair, count) in &mut expected {
        *count -= u64::from(pair.starts_with(home));
    }
    assert_eq!(seen, expected);
}
