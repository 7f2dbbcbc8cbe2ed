//! `uprof latency`: every call is measured, and measured right, also in recursion and on threads.

use std::time::Duration;

use serde_json::Value;

use crate::args;
use crate::harness::{Fixture, Report, Target, Uprof, turn};

fn latency(function: &str, target_args: Vec<String>, flags: Vec<String>) -> (Report, Value) {
    let program = Fixture::Calls.path();
    let mut target = Target::gated(&program, target_args);
    let mut words = args![
        "latency",
        format!("{}:{function}", program.display()),
        "--pid",
        target.pid()
    ];
    words.extend(flags);
    let uprof = Uprof::json(words).start();
    let truth = target.truth();
    let report = uprof.stop().report();
    assert!(target.end().success());
    (report, truth)
}

fn assert_exact(report: &Report, truth: &Value) {
    let calls = truth["calls"].as_u64().unwrap();
    let probe = report.only();
    assert_eq!((probe.hits, probe.aggregated), (calls, calls), "{probe:?}");
    let histogram = report.histogram();
    assert_eq!((histogram.count, histogram.unit.as_str()), (calls, "ns"));
}

#[test]
fn a_million_calls_on_one_thread() {
    let _turn = turn();
    let (report, truth) = latency("work", args!["--calls", 1_000_000], args![]);
    assert_eq!(truth["calls"], 1_000_000);
    assert_exact(&report, &truth);
}

#[test]
fn a_million_calls_on_eight_threads() {
    let _turn = turn();
    let (report, truth) = latency("work", args!["--calls", 125_000, "--threads", 8], args![]);
    assert_eq!(truth["calls"], 1_000_000);
    assert_exact(&report, &truth);
}

#[test]
fn every_mechanism_measures_every_call() {
    let _turn = turn();
    for mechanism in ["session", "multi", "perf"] {
        let target = args!["--calls", 25_000, "--threads", 8];
        let (report, truth) = latency("work", target, args!["--mechanism", mechanism]);
        assert_exact(&report, &truth);
    }
}

#[test]
fn a_call_takes_what_its_own_clock_says() {
    let _turn = turn();
    for mechanism in ["session", "multi", "perf"] {
        let target = args!["--calls", 300, "--spin-ns", 300_000];
        let (report, truth) = latency("work", target, args!["--mechanism", mechanism]);
        assert_exact(&report, &truth);
        let (own, own_min) = (
            truth["own_ns"].as_f64().unwrap() / 300.0,
            truth["own_min_ns"].as_u64().unwrap(),
        );
        let histogram = report.histogram();
        assert!(
            histogram.min >= own_min,
            "{mechanism}: shorter than the call itself: {histogram:?}"
        );
        // The probe's own cost is part of what is measured: a few microseconds, more when preempted between.
        assert!(
            histogram.mean >= own && histogram.mean < own + 100_000.0,
            "{mechanism}: own {own}: {histogram:?}"
        );
        // Half of the calls are not preempted; a bucket is a sixteenth of a power of two wide.
        assert!(
            (300_000..=345_000).contains(&histogram.p50),
            "{mechanism}: {histogram:?}"
        );
    }
}

#[test]
fn in_recursion_every_frame_has_its_own_time() {
    let _turn = turn();
    for mechanism in ["session", "multi", "perf"] {
        let target = args![
            "--function",
            "recurse",
            "--calls",
            20,
            "--depth",
            10,
            "--spin-ns",
            2_000_000
        ];
        let (report, truth) = latency("recurse", target, args!["--mechanism", mechanism]);
        assert_eq!(truth["calls"], 20 * 11);
        assert_exact(&report, &truth);
        let histogram = report.histogram();
        // The innermost frame spends the time, so all that wait for it took as long, and little more.
        let own = truth["own_ns"].as_f64().unwrap() / 20.0;
        let own_max = truth["own_max_ns"].as_u64().unwrap();
        assert!(histogram.min >= 2_000_000, "{mechanism}: {histogram:?}");
        assert!(
            histogram.mean >= own && histogram.mean < own + 2e6,
            "{mechanism}: own {own}: {histogram:?}"
        );
        assert!(
            histogram.max < own_max + 50_000_000,
            "{mechanism}: own {own_max}: {histogram:?}"
        );
    }
}

#[test]
fn deeper_than_the_kernel_follows_is_accounted_for() {
    let _turn = turn();
    let target = args!["--function", "recurse", "--calls", 50, "--depth", 199];
    let (report, truth) = latency("recurse", target, args![]);
    assert_eq!(truth["calls"], 50 * 200);
    let probe = report.only();
    assert_eq!(probe.hits, 50 * 200, "{probe:?}");
    // A kernel that follows 64 returns sees at least those; the rest must say that they are open.
    assert!(probe.aggregated >= 50 * 63, "{probe:?}");
    assert_eq!(probe.aggregated, report.histogram().count);
    assert_eq!(probe.unpaired, probe.hits - probe.aggregated, "{probe:?}");
}

#[test]
fn calls_left_by_longjmp_are_unpaired() {
    let _turn = turn();
    for mechanism in ["session", "multi", "perf"] {
        let target = args!["--function", "jump", "--calls", 1000];
        let (report, _) = latency("jump", target, args!["--mechanism", mechanism]);
        let probe = report.only();
        assert_eq!(
            (probe.hits, probe.aggregated, probe.unpaired),
            (1000, 0, 1000),
            "{mechanism}: {probe:?}"
        );
        assert_eq!(probe.abandoned, 1000, "{mechanism}: {probe:?}");
    }
}

#[test]
fn a_call_that_is_still_open_at_the_end_is_unpaired() {
    let _turn = turn();
    for flags in [
        &["--mechanism", "session"][..],
        &["--mechanism", "multi"],
        &["--mechanism", "perf"],
        &["--return", "ret"],
    ] {
        // By process, and in every process that runs the file.
        for named in [true, false] {
            let program = Fixture::Calls.path();
            let mut target = Target::gated(&program, args!["--function", "open"]);
            let mut words = args!["latency", format!("{}:open_call", program.display())];
            words.extend(flags.iter().map(|flag| (*flag).to_owned()));
            if named {
                words.extend(args!["--pid", target.pid()]);
            }
            let uprof = Uprof::json(words).start();
            target.truth();
            std::thread::sleep(Duration::from_millis(100));
            let report = uprof.stop().report();
            let probe = report.only();
            assert_eq!(
                (probe.hits, probe.unpaired, probe.unfinished),
                (1, 1, 1),
                "{flags:?} {named}: {probe:?}"
            );
            assert!(
                target.end().success(),
                "{flags:?}: the target returns from the call after the probe is gone"
            );
        }
    }
}

#[test]
fn where_may_look_at_the_latency() {
    let _turn = turn();
    let (report, _) = latency(
        "work",
        args!["--calls", 1000],
        args!["--where", "latency > 1s"],
    );
    let probe = report.only();
    assert_eq!(
        (probe.hits, probe.filtered, probe.aggregated),
        (1000, 1000, 0),
        "{probe:?}"
    );

    let target = args!["--calls", 100, "--spin-ns", 1_000_000];
    let (report, _) = latency(
        "work",
        target,
        args!["--where", "latency >= 1ms && arg0 < 10"],
    );
    let probe = report.only();
    assert_eq!(
        (probe.hits, probe.filtered, probe.aggregated),
        (100, 90, 10),
        "{probe:?}"
    );
}

#[test]
fn by_measures_each_key_alone() {
    let _turn = turn();
    let (report, _) = latency(
        "work",
        args!["--calls", 1000, "--threads", 4],
        args!["--by", "even=arg0 % 2 == 0"],
    );
    assert_eq!(report.only().aggregated, 4000);
    let mut keys: Vec<(u64, u64)> = report
        .summary
        .histograms
        .iter()
        .map(|h| (h.key["even"].as_u64().unwrap(), h.count))
        .collect();
    keys.sort_unstable();
    assert_eq!(keys, [(0, 2000), (1, 2000)]);
}

#[test]
fn stopped_in_the_middle_everything_is_accounted_for() {
    let _turn = turn();
    let program = Fixture::Calls.path();
    for mechanism in ["session", "multi", "perf"] {
        let mut target = Target::gated(&program, args!["--calls", 1_000_000, "--threads", 8]);
        let probe = format!("{}:work", program.display());
        let uprof = Uprof::json(args![
            "latency",
            probe,
            "--pid",
            target.pid(),
            "--mechanism",
            mechanism
        ])
        .start();
        target.go();
        std::thread::sleep(Duration::from_millis(300));
        let report = uprof.stop().report();
        let (_, truth) = target.lines_and_truth();
        let probe = report.only();
        assert!(
            probe.hits > 0 && probe.hits < truth["calls"].as_u64().unwrap(),
            "{mechanism}: {probe:?}"
        );
        assert_eq!(probe.aggregated, report.histogram().count, "{mechanism}");
        // No more than one call per thread can be open.
        assert!(probe.unpaired <= 8, "{mechanism}: {probe:?}");
        assert!(target.end().success(), "{mechanism}");
    }
}

#[test]
fn ctrl_c_the_moment_it_is_armed_is_a_good_end() {
    let _turn = turn();
    let program = Fixture::Calls.path();
    let target = Target::gated(&program, args![]);
    // On a busy machine, where there is time between one thing that uprof does and the next.
    let mut busy = Target::gated(
        &program,
        args!["--calls", 100_000, "--threads", 4, "--spin-ns", 1_000_000],
    );
    busy.go();
    for _ in 0..40 {
        let probe = format!("{}:work", program.display());
        let uprof = Uprof::json(args!["latency", probe, "--pid", target.pid()]).start();
        assert_eq!(uprof.stop().report().only().hits, 0);
    }
}

#[test]
fn how_returns_are_seen_can_be_chosen() {
    let _turn = turn();
    let program = Fixture::Calls.path();
    let probe = format!("{}:work", program.display());
    for (how, said) in [
        ("session", "(session)"),
        ("uretprobe", "(uprobe_multi)"),
        ("ret", "(uprobe_multi)"),
    ] {
        let mut target = Target::gated(&program, args!["--calls", 1000]);
        let words = args!["latency", probe, "--pid", target.pid(), "--return", how];
        let uprof = Uprof::json(words).start();
        let truth = target.truth();
        let done = uprof.stop();
        assert!(done.stderr.contains(said), "{how}: {}", done.stderr);
        assert_exact(&done.report(), &truth);
        assert!(target.end().success());
    }
    Uprof::new(args!["latency", probe, "--return", "none"])
        .run()
        .refused(1, &["latency is known only at the return", "--return none"]);
    let mut target = Target::gated(&program, args!["--calls", 10]);
    let words = args!["trace", probe, "--pid", target.pid(), "--return", "none"];
    let uprof = Uprof::json(words).start();
    target.truth();
    let events = uprof.stop().report().events;
    assert_eq!(events.len(), 10);
    assert!(events.iter().all(|e| e.latency_ns.is_none()), "{events:?}");
    assert!(target.end().success());
}
