//! The forms of a report: the JSON schema with its order, tables, files, pipes that break.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::args;
use crate::harness::json::Json;
use crate::harness::machine::scratch;
use crate::harness::uprof::binary;
use crate::harness::{Fixture, Target, Uprof, turn};

fn lines_of(words: Vec<String>, target_args: Vec<String>) -> Vec<Json> {
    let program = Fixture::Calls.path();
    let mut target = Target::gated(&program, target_args);
    let mut all = words;
    all.extend(args!["--pid", target.pid()]);
    let uprof = Uprof::json(all).start();
    target.truth();
    let text = uprof.stop().ok().text();
    text.lines().map(Json::parse).collect()
}

const SUMMARY: &[&str] = &["type", "duration_ns", "probes", "histograms", "counts"];
const PROBE: &[&str] = &[
    "probe",
    "sites",
    "hits",
    "emitted",
    "aggregated",
    "filtered",
    "dropped",
    "unpaired",
    "unfinished",
    "abandoned",
    "nested",
    "unsampled",
    "sample",
];

/// A summary has exactly these keys in this order, but for what a recipe or this run adds after them.
fn assert_summary(summary: &Json) {
    let keys = summary.keys();
    assert_eq!(&keys[..SUMMARY.len()], SUMMARY);
    assert!(
        keys[SUMMARY.len()..].iter().all(|key| [
            "breakdowns",
            "stats",
            "linear",
            "tables",
            "notes"
        ]
        .contains(key)),
        "{keys:?}"
    );
    assert_eq!(summary.get("type"), &Json::Text("summary".to_owned()));
    for probe in summary.get("probes").items() {
        assert_eq!(probe.keys(), PROBE);
        assert!(matches!(probe.get("probe"), Json::Text(_)));
        assert!(
            PROBE[1..]
                .iter()
                .all(|key| matches!(probe.get(key), Json::Whole(_))),
            "{probe:?}"
        );
    }
}

#[test]
fn events_of_an_entry_and_of_a_call() {
    let _turn = turn();
    let probe = format!("{}:work", Fixture::Calls.path().display());
    let entry = lines_of(
        args!["trace", probe, "--capture", "b=arg0", "--capture", "a=comm"],
        args!["--calls", 3],
    );
    assert_eq!(entry.len(), 4);
    for event in &entry[..3] {
        assert_eq!(
            event.keys(),
            ["type", "probe", "time_ns", "pid", "tid", "comm", "fields"]
        );
        assert_eq!(event.get("type"), &Json::Text("event".to_owned()));
        assert_eq!(event.get("fields").keys(), ["b", "a"], "in the order given");
        assert_eq!(
            event.get("fields").get("a"),
            &Json::Text("calls".to_owned())
        );
        assert!(matches!(event.get("fields").get("b"), Json::Whole(_)));
    }
    assert_summary(&entry[3]);

    let call = lines_of(
        args!["trace", probe, "--capture", "r=retval"],
        args!["--calls", 3],
    );
    for event in &call[..3] {
        assert_eq!(
            event.keys(),
            [
                "type",
                "probe",
                "time_ns",
                "pid",
                "tid",
                "comm",
                "latency_ns",
                "fields"
            ]
        );
    }
    assert_summary(&call[3]);
}

#[test]
fn histograms_and_counts() {
    let _turn = turn();
    let probe = format!("{}:work", Fixture::Calls.path().display());
    let lines = lines_of(
        args!["latency", probe, "--by", "odd=arg0 % 2"],
        args!["--calls", 100],
    );
    let [summary] = lines.as_slice() else {
        panic!("one line: {lines:?}")
    };
    assert_summary(summary);
    assert_eq!(summary.get("histograms").items().len(), 2);
    for histogram in summary.get("histograms").items() {
        let keys = [
            "name",
            "key",
            "unit",
            "count",
            "min",
            "max",
            "mean",
            "p50",
            "p90",
            "p99",
            "p999",
            "probe_cost_ns",
            "net",
            "buckets",
        ];
        assert_eq!(histogram.keys(), keys);
        let net = ["mean", "min", "p50", "p90", "p99", "p999", "max"];
        assert_eq!(histogram.get("net").keys(), net);
        assert_eq!(histogram.get("key").keys(), ["odd"]);
        for bucket in histogram.get("buckets").items() {
            assert_eq!(bucket.keys(), ["low", "high", "count"]);
        }
    }

    let lines = lines_of(
        args!["count", probe, "--by", "odd=arg0 % 2"],
        args!["--calls", 100],
    );
    let [summary] = lines.as_slice() else {
        panic!("one line: {lines:?}")
    };
    assert_summary(summary);
    assert_eq!(summary.get("histograms").items(), []);
    assert_eq!(summary.get("counts").items().len(), 2);
    for count in summary.get("counts").items() {
        assert_eq!(count.keys(), ["probe", "key", "count"]);
        assert_eq!(count.get("key").keys(), ["odd"]);
        assert_eq!(count.get("count"), &Json::Whole(50));
    }
}

#[test]
fn cut_text_and_pointers() {
    let _turn = turn();
    let probe = format!("{}:greet", Fixture::Calls.path().display());
    let flags = args![
        "--capture",
        "text=str(arg0)",
        "--capture",
        "where=(void *)arg0",
        "--str-limit",
        8
    ];
    let lines = lines_of(
        [args!["trace", probe], flags].concat(),
        args!["--function", "text", "--calls", 1],
    );
    let fields = lines[0].get("fields");
    assert_eq!(fields.keys(), ["text", "text_cut", "where"]);
    assert_eq!(fields.get("text_cut"), &Json::Bool(true));
    let Json::Text(pointer) = fields.get("where") else {
        panic!("{fields:?}")
    };
    assert!(
        pointer.starts_with("0x") && u64::from_str_radix(&pointer[2..], 16).is_ok(),
        "{pointer}"
    );
}

#[test]
fn pictures_are_refused_where_there_is_nothing_to_draw() {
    let probe = format!("{}:work", Fixture::Calls.path().display());
    for (format, says) in [("folded", "--by ustack"), ("dot", "[report.graph]")] {
        let words = args!["count", probe, "--format", format];
        Uprof::new(words).run().refused(1, &[format, says]);
    }
}

#[test]
fn tables_end_with_percentiles_and_the_accounting() {
    let _turn = turn();
    let program = Fixture::Calls.path();
    let mut target = Target::gated(&program, args!["--calls", 4000]);
    let probe = format!("{}:work", program.display());
    let uprof = Uprof::new(args![
        "latency",
        probe,
        "--pid",
        target.pid(),
        "--where",
        "arg0 < 3000"
    ])
    .start();
    target.truth();
    let finished = uprof.stop().ok();
    let text = finished.text();
    for word in ["p50", "p99", "work", "hits =", "aggregated", "filtered"] {
        assert!(text.contains(word), "no {word} in:\n{text}");
    }
    let plain = text.replace([',', ' ', '\u{202f}'], "");
    for number in ["4000hits=", "3000aggregated", "1000filtered"] {
        assert!(plain.contains(number), "no {number} in:\n{text}");
    }
    assert!(
        !text.contains('\u{1b}'),
        "colour is for terminals alone:\n{text}"
    );
}

#[test]
fn a_file_takes_any_format() {
    let _turn = turn();
    let program = Fixture::Calls.path();
    let folder = tempfile::tempdir_in(scratch()).unwrap();
    for format in ["table", "json"] {
        let file = folder.path().join(format);
        let mut target = Target::gated(&program, args!["--calls", 10]);
        let probe = format!("{}:work", program.display());
        let words = args![
            "count",
            probe,
            "--pid",
            target.pid(),
            "--format",
            format,
            "-o",
            file.display()
        ];
        let uprof = Uprof::new(words).start();
        target.truth();
        let finished = uprof.stop().ok();
        assert!(finished.stdout.is_empty(), "{}", finished.text());
        let text = std::fs::read_to_string(file).unwrap();
        assert!(text.contains("10"), "{text}");
        assert_eq!(
            text.trim_start().starts_with('{'),
            format == "json",
            "{text}"
        );
    }
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let _turn = turn();
    let program = Fixture::Calls.path();
    for format in ["json", "table"] {
        let mut target = Target::gated(&program, args!["--calls", 20_000]);
        let mut child = Command::new(binary())
            .args([
                "trace",
                &format!("{}:work", program.display()),
                "--pid",
                &target.pid().to_string(),
                "--format",
                format,
            ])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while !line.starts_with("uprof: armed") {
            line.clear();
            assert!(
                said.read_line(&mut line).unwrap() > 0,
                "uprof ended before it was armed"
            );
        }
        let mut out = BufReader::new(child.stdout.take().unwrap());
        target.go();
        out.read_line(&mut String::new()).unwrap();
        drop(out);
        let status = crate::harness::wait_for("uprof to notice the broken pipe", || {
            child.try_wait().unwrap()
        });
        let mut rest = String::new();
        std::io::Read::read_to_string(&mut said, &mut rest).unwrap();
        assert_eq!(status.code(), Some(0), "{format}: {rest}");
        let lower = rest.to_lowercase();
        assert!(
            !lower.contains("panic") && !lower.contains("broken pipe"),
            "{format}: {rest}"
        );
        drop(target);
    }
}
