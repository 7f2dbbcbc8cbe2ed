//! Calls within calls: depth, parent and self time, by the program's own account.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::args;
use crate::harness::report::Event;
use crate::harness::{Fixture, Report, Target, Uprof, turn};

/// Runs nested with TARGET_ARGS under `uprof COMMAND a b c FLAGS`; gives report and truth.
fn nested(command: &str, target_args: Vec<String>, flags: Vec<String>) -> (Report, Value) {
    let program = Fixture::Nested.path();
    let mut target = Target::gated(&program, target_args);
    let mut words = args![command];
    words.extend(["a", "b", "c"].map(|f| format!("{}:{f}", program.display())));
    words.extend(args!["--pid", target.pid()]);
    words.extend(flags);
    let uprof = Uprof::json(words).start();
    let truth = target.truth();
    let report = uprof.stop().report();
    assert!(target.end().success());
    report.summary.assert_nothing_dropped();
    assert_eq!(report.summary.hits(), truth["calls"].as_u64().unwrap());
    (report, truth)
}

/// `function/parent/depth`, as the program writes it.
fn place(probe: &str, parent: &Value, depth: &Value) -> String {
    let function = probe.split_once(':').expect("PATH:FUNCTION").1;
    let parent = match parent {
        Value::Null => "-",
        name => name.as_str().expect("a parent is a name"),
    };
    format!("{function}/{parent}/{depth}")
}

fn by_place(truth: &Value) -> BTreeMap<String, u64> {
    let by = truth["by"].as_object().expect("an object");
    by.iter()
        .map(|(place, n)| (place.clone(), n.as_u64().unwrap()))
        .collect()
}

#[test]
fn each_call_knows_its_place_and_its_own_time() {
    let _turn = turn();
    let flags = args![
        "--capture",
        "depth=depth",
        "--capture",
        "self=self",
        "--capture",
        "parent=parent"
    ];
    for how in ["auto", "uretprobe", "ret"] {
        let mut flags = flags.clone();
        flags.extend(args!["--return", how]);
        let target = args!["--trees", 100, "--threads", 4, "--spin-ns", 2000];
        let (report, truth) = nested("trace", target, flags);
        let mut found: BTreeMap<String, u64> = BTreeMap::new();
        for event in &report.events {
            let fields = &event.fields;
            let place = place(&event.probe, &fields["parent"], &fields["depth"]);
            *found.entry(place).or_default() += 1;
        }
        assert_eq!(found, by_place(&truth), "{how}");
        assert_own_times(&report.events);
    }
}

/// The time that is a call's own and the latencies of the calls made from it are its latency, to the nanosecond.
fn assert_own_times(events: &[Event]) {
    let mut made: BTreeMap<(u32, u64), u64> = BTreeMap::new();
    // Of one thread records come in the order of the returns: calls made from a call come before it.
    for event in events {
        let latency = event.latency_ns.expect("a call");
        let depth = event.number("depth");
        let within = made.remove(&(event.tid, depth + 1)).unwrap_or(0);
        assert_eq!(event.number("self") + within, latency, "{event:?}");
        assert!(event.number("self") >= 2000, "{event:?}");
        *made.entry((event.tid, depth)).or_default() += latency;
    }
}

#[test]
fn who_called_is_told_by_the_return_address() {
    let _turn = turn();
    // `any` makes the calls from within another, wherever the compiler has put it.
    let within = "called_by(\"a\") || called_by(\"b\") || called_by(\"c\") || called_by(\"any\")";
    let nobody = "called_by(\"nobody\")";
    let flags = args![
        "--by",
        format!("within={within}"),
        "--by",
        format!("nobody={nobody}")
    ];
    let (report, truth) = nested("count", args!["--threads", 4], flags);
    let mut found: BTreeMap<(String, bool), u64> = BTreeMap::new();
    for count in &report.summary.counts {
        assert_eq!(count.key["nobody"], 0);
        let function = count.probe.split_once(':').expect("PATH:FUNCTION").1;
        let key = (function.to_owned(), count.key["within"] == 1);
        *found.entry(key).or_default() += count.count;
    }
    let mut expected = BTreeMap::new();
    for (place, calls) in by_place(&truth) {
        let mut words = place.split('/');
        let function = words.next().expect("a function").to_owned();
        let key = (function, words.next() != Some("-"));
        *expected.entry(key).or_default() += calls;
    }
    expected.retain(|_, calls| *calls > 0);
    assert_eq!(found, expected);
}

#[test]
fn parents_and_depths_are_keys() {
    let _turn = turn();
    let flags = args!["--by", "parent", "--by", "depth"];
    let (report, truth) = nested("count", args!["--threads", 4], flags);
    let counts = &report.summary.counts;
    let found: BTreeMap<String, u64> = counts
        .iter()
        .map(|c| (place(&c.probe, &c.key["parent"], &c.key["depth"]), c.count))
        .collect();
    assert_eq!(found, by_place(&truth));
    assert_eq!(found.len(), counts.len());
}

#[test]
fn histograms_of_self_time_say_so() {
    let _turn = turn();
    let target = args!["--trees", 200, "--spin-ns", 2000];
    let (report, truth) = nested("latency", target, args!["--self", "--by", "parent"]);
    let mut found: BTreeMap<String, u64> = BTreeMap::new();
    for h in &report.summary.histograms {
        let probe = h.name.strip_suffix(" (self time)").expect(&h.name);
        assert_eq!(h.unit, "ns");
        assert!(h.min >= 2000, "{h:?}");
        *found
            .entry(place(probe, &h.key["parent"], &Value::Null))
            .or_default() += h.count;
    }
    let mut expected: BTreeMap<String, u64> = BTreeMap::new();
    for (place, n) in by_place(&truth) {
        let (pair, _) = place.rsplit_once('/').unwrap();
        *expected.entry(format!("{pair}/null")).or_default() += n;
    }
    assert_eq!(found, expected);
}

#[test]
fn a_condition_on_the_depth_is_decided_at_the_return() {
    let _turn = turn();
    let flags = args!["--where", "depth == 2", "--capture", "depth=depth"];
    let (report, truth) = nested("trace", args!["--trees", 200], flags);
    let wanted = |place: &String| place.ends_with("/2");
    let expected: u64 = by_place(&truth)
        .into_iter()
        .filter_map(|(place, n)| wanted(&place).then_some(n))
        .sum();
    assert_eq!(report.events.len() as u64, expected);
    assert!(report.events.iter().all(|e| e.number("depth") == 2));
}
