//! `uprof malloc`: the allocator that the process really uses, counted exactly.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::args;
use crate::harness::machine::{library, scratch};
use crate::harness::report::{Summary, each_line};
use crate::harness::servers::Redis;
use crate::harness::{Fixture, Report, Target, Uprof, turn};

fn malloc(fixture: Fixture, target_args: Vec<String>, env: &[(&str, &Path)]) -> (Report, Value) {
    let mut king = Target::gated_with(&fixture.path(), target_args, env);
    let uprof = Uprof::json(args!["malloc", "--pid", king.pid()]).start();
    let truth = king.truth();
    let report = uprof.stop().report();
    assert!(king.end().success());
    (report, truth)
}

fn assert_hits(summary: &Summary, truth: &Value, pairs: &[(&str, &str)]) {
    for (probe, name) in pairs {
        assert_eq!(
            summary.probe(probe).hits,
            truth[name].as_u64().unwrap(),
            "{probe}: {:?}",
            summary.probes
        );
    }
}

/// The histogram of malloc's sizes against King's own, by powers of two: the finer buckets lie within these.
fn assert_sizes(report: &Report, truth: &Value) {
    let sizes = report
        .summary
        .histograms
        .iter()
        .find(|h| h.unit == "bytes" && h.count == truth["mallocs"].as_u64().unwrap())
        .unwrap_or_else(|| {
            panic!(
                "no histogram of malloc's sizes: {:?}",
                report.summary.histograms
            )
        });
    assert_eq!(
        (sizes.min, sizes.max),
        (
            truth["min"].as_u64().unwrap(),
            truth["max"].as_u64().unwrap()
        )
    );
    let bytes = sizes.mean * sizes.count as f64;
    let truth_bytes = truth["bytes"].as_f64().unwrap();
    assert!(
        (bytes - truth_bytes).abs() <= truth_bytes * 1e-6,
        "{bytes} bytes, not {truth_bytes}"
    );
    for (power, count) in truth["log2"].as_array().unwrap().iter().enumerate() {
        let (low, high) = (1u64 << power, (1u64 << power) * 2 - 1);
        let within: u64 = sizes
            .buckets
            .iter()
            .filter(|b| b.low >= low && b.high <= high)
            .map(|b| b.count)
            .sum();
        assert_eq!(
            within,
            count.as_u64().unwrap(),
            "sizes from {low} to {high}"
        );
    }
}

#[test]
fn a_million_pairs_on_one_thread() {
    let _turn = turn();
    let (report, truth) = malloc(Fixture::King, args!["--pairs", 1_000_000], &[]);
    assert_eq!(truth["mallocs"], 1_000_000);
    assert_hits(
        &report.summary,
        &truth,
        &[("malloc", "mallocs"), ("free", "frees")],
    );
    assert_sizes(&report, &truth);
    report.summary.assert_nothing_dropped();
}

#[test]
fn a_million_pairs_on_eight_threads() {
    let _turn = turn();
    let (report, truth) = malloc(
        Fixture::King,
        args!["--pairs", 125_000, "--threads", 8, "--window", 8],
        &[],
    );
    assert_eq!(truth["mallocs"], 1_000_000);
    assert_hits(
        &report.summary,
        &truth,
        &[("malloc", "mallocs"), ("free", "frees")],
    );
    assert_sizes(&report, &truth);
    report.summary.assert_nothing_dropped();
}

/// Hits of all probes whose name says that they belong to the memalign family.
fn memaligns(summary: &Summary) -> u64 {
    summary
        .probes
        .iter()
        .filter(|probe| probe.probe.contains("align"))
        .map(|probe| probe.hits)
        .sum()
}

#[test]
fn every_function_of_the_family() {
    let _turn = turn();
    let family = args![
        "--pairs",
        1000,
        "--callocs",
        100,
        "--reallocs",
        200,
        "--memaligns",
        300,
        "--threads",
        3
    ];
    let (report, truth) = malloc(Fixture::King, family, &[]);
    let names = [
        ("malloc", "mallocs"),
        ("calloc", "callocs"),
        ("realloc", "reallocs"),
        ("free", "frees"),
    ];
    assert_hits(&report.summary, &truth, &names);
    assert_eq!(
        memaligns(&report.summary),
        truth["memaligns"].as_u64().unwrap()
    );
}

#[test]
fn a_static_program_has_its_own_allocator() {
    let _turn = turn();
    let family = args![
        "--pairs",
        10_000,
        "--callocs",
        100,
        "--reallocs",
        200,
        "--threads",
        2
    ];
    let (report, truth) = malloc(Fixture::KingStatic, family, &[]);
    let names = [
        ("malloc", "mallocs"),
        ("calloc", "callocs"),
        ("realloc", "reallocs"),
        ("free", "frees"),
    ];
    assert_hits(&report.summary, &truth, &names);
}

#[test]
fn jemalloc_tcmalloc_and_mimalloc() {
    let _turn = turn();
    for name in [
        "libjemalloc.so.2",
        "libtcmalloc_minimal.so.4",
        "libmimalloc.so.2",
    ] {
        let library = library(name);
        let env: [(&str, &Path); 1] = [("LD_PRELOAD", &library)];
        let (report, truth) = malloc(
            Fixture::King,
            args!["--pairs", 10_000, "--threads", 4],
            &env,
        );
        assert_hits(
            &report.summary,
            &truth,
            &[("malloc", "mallocs"), ("free", "frees")],
        );
        assert_sizes(&report, &truth);

        let family = args!["--callocs", 100, "--reallocs", 200, "--memaligns", 300];
        let (report, truth) = malloc(Fixture::King, family, &env);
        let names = [
            ("malloc", "mallocs"),
            ("calloc", "callocs"),
            ("realloc", "reallocs"),
        ];
        assert_hits(&report.summary, &truth, &names);
        // tcmalloc's posix_memalign (half of King's) calls its aligned_alloc; mimalloc's realloc may call its free.
        let aligned = truth["memaligns"].as_u64().unwrap();
        let seen = memaligns(&report.summary);
        assert!(
            seen == aligned || name.contains("tcmalloc") && seen == aligned + aligned / 2,
            "{name}: {seen}"
        );
        let (frees, known) = (report.probe("free").hits, truth["frees"].as_u64().unwrap());
        let inner = if name.contains("mimalloc") {
            truth["reallocs"].as_u64().unwrap()
        } else {
            0
        };
        assert!(
            (known..=known + inner).contains(&frees),
            "{name}: {frees} frees, not {known}"
        );
    }
}

#[test]
fn another_king_is_not_counted() {
    let _turn = turn();
    let mut other = Target::gated(&Fixture::King.path(), args!["--pairs", 50_000]);
    let mut king = Target::gated(&Fixture::King.path(), args!["--pairs", 1000]);
    let uprof = Uprof::json(args!["malloc", "--pid", king.pid()]).start();
    other.truth();
    let truth = king.truth();
    let report = uprof.stop().report();
    assert_hits(
        &report.summary,
        &truth,
        &[("malloc", "mallocs"), ("free", "frees")],
    );
}

#[test]
fn by_name_for_processes_that_run_and_that_start_later() {
    let _turn = turn();
    let program = Fixture::King.path();
    let mut before = Target::gated(&program, args!["--pairs", 1000]);
    let mut stranger = Target::gated(&program, args!["--pairs", 50_000, "--name", "Stranger"]);
    let uprof = Uprof::json(args!["malloc", "--comm", "King"]).start();
    before.truth();
    stranger.truth();
    let mut after = Target::gated(&program, args!["--pairs", 10_000]);
    std::thread::sleep(Duration::from_millis(1500));
    after.truth();
    let report = uprof.stop().report();
    for probe in ["malloc", "free"] {
        let probe = report.probe(probe);
        // The second King is found soon after it took its name, before it was let go.
        assert_eq!(probe.hits - probe.filtered, 11_000, "{probe:?}");
    }
}

#[test]
fn by_name_when_none_runs_yet() {
    let _turn = turn();
    let uprof = Uprof::json(args!["malloc", "--comm", "King"]).start();
    let mut king = Target::gated(&Fixture::King.path(), args!["--pairs", 10_000]);
    std::thread::sleep(Duration::from_millis(1500));
    let truth = king.truth();
    let report = uprof.stop().report();
    for (probe, name) in [("malloc", "mallocs"), ("free", "frees")] {
        let probe = report.probe(probe);
        // From its exec on, or from its name on: what the loader allocated may be in it.
        let counted = probe.hits - probe.filtered;
        let known = truth[name].as_u64().unwrap();
        assert!(
            (known..known + 50).contains(&counted),
            "{counted} {name}, not {known}"
        );
    }
}

#[test]
fn by_name_in_all_processes_a_short_program_is_counted_from_its_first_call() {
    let _turn = turn();
    let plan = args!["malloc", "--comm", "King", "--all"];
    let uprof = Uprof::json(plan).start();
    let mut king = Command::new(Fixture::King.path());
    king.args(args!["--pairs", 1000]);
    let mut king = Target::spawn(king);
    let (_, truth) = king.lines_and_truth();
    assert!(king.end().success());
    let report = uprof.stop().report();
    for (probe, name) in [("malloc", "mallocs"), ("free", "frees")] {
        let (counted, known) = (
            report.probe(probe).aggregated,
            truth[name].as_u64().unwrap(),
        );
        assert!(
            (known..known + 1000).contains(&counted),
            "{counted} {name}, not {known}"
        );
    }
}

#[test]
fn redis_uses_jemalloc() {
    let _turn = turn();
    let server = Redis::start();
    let mut client = server.connect();
    let uprof = Uprof::json(args!["malloc", "--pid", server.pid()]).start();
    for i in 0..1000 {
        assert_eq!(client.ask(&format!("SET key:{i} value:{i}")), "+OK");
    }
    let report = uprof.stop().report();
    // Each SET keeps at least a key and a value.
    assert!(
        report.probe("malloc").hits >= 2000,
        "{:?}",
        report.summary.probes
    );
    assert_eq!(client.ask("PING"), "+PONG");
    let plan = Uprof::new(args!["malloc", "--pid", server.pid(), "--explain"])
        .run()
        .ok()
        .text();
    assert!(plan.contains("jemalloc"), "{plan}");
    assert!(!plan.contains("libc.so"), "{plan}");
}

/// A file for a report, removed when the test ends well or not.
fn report_file(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("report.json")
}

#[test]
fn a_million_pairs_as_events_lose_nothing() {
    let _turn = turn();
    let folder = tempfile::tempdir_in(scratch()).unwrap();
    let file = report_file(&folder);
    let mut king = Target::gated(
        &Fixture::King.path(),
        args!["--pairs", 1_000_000, "--window", 16],
    );
    let uprof = Uprof::json(args![
        "malloc",
        "--events",
        "--pid",
        king.pid(),
        "-o",
        file.display()
    ])
    .deadline(Duration::from_secs(180))
    .start();
    let truth = king.truth();
    let finished = uprof.stop().ok();
    assert!(finished.stdout.is_empty(), "-o keeps standard output empty");
    assert!(king.end().success());

    let text = std::fs::read_to_string(&file).unwrap();
    let mut live: HashMap<u64, u64> = HashMap::new();
    let (mut mallocs, mut frees, mut bytes) = (0u64, 0u64, 0u64);
    let summary = each_line(&text, |event| match event.probe.as_str() {
        "malloc" => {
            mallocs += 1;
            bytes += event.number("size");
            *live.entry(event.pointer("pointer")).or_default() += 1;
        }
        "free" => {
            frees += 1;
            let pointer = event.pointer("pointer");
            let held = live
                .get_mut(&pointer)
                .unwrap_or_else(|| panic!("{pointer:#x} was freed before it was returned"));
            assert_eq!(*held, 1, "{pointer:#x} was freed twice or returned twice");
            *held = 0;
        }
        other => panic!("King calls no {other}"),
    });
    summary.assert_nothing_dropped();
    assert_hits(
        &summary,
        &truth,
        &[("malloc", "mallocs"), ("free", "frees")],
    );
    assert_eq!((mallocs, frees), (1_000_000, 1_000_000));
    assert_eq!(bytes, truth["bytes"].as_u64().unwrap());
    assert!(
        live.values().all(|held| *held == 0),
        "every block King took was freed"
    );
}

#[test]
fn events_of_eight_threads_are_complete() {
    let _turn = turn();
    let mut king = Target::gated(
        &Fixture::King.path(),
        args!["--pairs", 20_000, "--threads", 8, "--reallocs", 100],
    );
    // Eight threads on every core leave uprof little time to read: room for all that may wait meanwhile.
    let words = args![
        "malloc",
        "--events",
        "--pid",
        king.pid(),
        "--buffer",
        "128MiB"
    ];
    let uprof = Uprof::json(words).start();
    let truth = king.truth();
    let report = uprof.stop().report();
    report.summary.assert_nothing_dropped();
    for (probe, name) in [
        ("malloc", "mallocs"),
        ("free", "frees"),
        ("realloc", "reallocs"),
    ] {
        assert_eq!(
            report.events_of(probe).count() as u64,
            truth[name].as_u64().unwrap(),
            "{probe}"
        );
    }
}

#[test]
fn stopped_in_the_middle_everything_is_accounted_for() {
    let _turn = turn();
    for flags in [args![], args!["--events"]] {
        let mut king = Target::gated(
            &Fixture::King.path(),
            args!["--pairs", 2_000_000, "--threads", 4],
        );
        let mut words = args!["malloc", "--pid", king.pid()];
        words.extend(flags);
        let uprof = Uprof::json(words).start();
        king.go();
        std::thread::sleep(Duration::from_millis(300));
        let report = uprof.stop().report();
        let (_, truth) = king.lines_and_truth();
        let hits = report.probe("malloc").hits;
        assert!(
            hits > 0 && hits < truth["mallocs"].as_u64().unwrap(),
            "{hits}"
        );
        assert!(king.end().success());
    }
}
