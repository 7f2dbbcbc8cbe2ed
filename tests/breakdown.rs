//! `--breakdown`: where the time of calls goes, against a program whose calls measure themselves by the monotonic clock,
//! their thread's CPU time and the scheduler's own account of waiting for a CPU; and against MariaDB and redis.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;

use crate::args;
use crate::harness::machine::scratch;
use crate::harness::report::Breakdown;
use crate::harness::servers::{MariaDb, Redis};
use crate::harness::{Fixture, Report, Target, Uprof, turn};

/// The parts, in the order of the report.
const PARTS: [&str; 7] = [
    "cpu_ns",
    "runq_ns",
    "disk_ns",
    "network_ns",
    "lock_ns",
    "sleep_ns",
    "other_ns",
];
/// What the fixture's calls wait for, by kind: an index of the parts; the first one spins.
const WAITS: [Option<usize>; 6] = [None, Some(5), Some(4), Some(2), Some(3), Some(6)];
/// What a part may be off besides a twentieth, in nanoseconds.
const SLACK: u64 = 100_000;

/// A file of some megabytes on a file system that reads around its cache.
fn file() -> PathBuf {
    let path = scratch().join("waits.data");
    std::fs::write(&path, vec![7; 8 << 20]).unwrap();
    let file = std::fs::File::open(&path).unwrap();
    file.sync_all().unwrap();
    path
}

/// What a call should be made of, as it has measured itself.
fn truth_of(call: &Value) -> [u64; 7] {
    let number = |name: &str| call[name].as_u64().unwrap();
    let mut parts = [0; 7];
    (parts[0], parts[1]) = (number("cpu"), number("runq"));
    let asleep = number("wall").saturating_sub(parts[0] + parts[1]);
    match WAITS[number("kind") as usize] {
        Some(part) => parts[part] = asleep,
        // Between two readings of clocks, and to the scheduler's own grain.
        None => parts[0] += asleep,
    }
    parts
}

/// Runs the fixture under uprof: what it says, each call by itself, what the calls say.
fn run(words: Vec<String>, flags: &[String], target_args: Vec<String>) -> (Report, Vec<Value>) {
    let program = Fixture::Waits.path();
    let mut target = Target::gated(&program, target_args);
    let mut words = words;
    words.extend(args![
        format!("{}:work", program.display()),
        "--breakdown",
        "--pid",
        target.pid()
    ]);
    words.extend(flags.iter().cloned());
    let uprof = Uprof::json(words)
        .deadline(Duration::from_secs(120))
        .start();
    target.go();
    let (calls, truth) = target.lines_and_truth();
    assert!(
        calls.iter().all(|call| call.get("failed").is_none()),
        "{calls:?}"
    );
    assert_eq!(truth["calls"], calls.len());
    let report = uprof.stop().report();
    assert!(target.end().success());
    report.summary.assert_nothing_dropped();
    (report, calls)
}

/// Each of the calls is told, and of each kind half of them so near to what they measured that no part is off by more
/// than a twentieth or a tenth of a millisecond. (A thread that loses its CPU between its first clock and the probe
/// measures something else than the probe, and some do on a busy machine; and to the scheduler's own account a switch is over before it is told.)
fn assert_parts(report: &Report, calls: &[Value], what: &str) {
    assert_eq!(report.events.len(), calls.len(), "{what}");
    let mut right: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    let mut wrong = Vec::new();
    for (event, call) in report.events.iter().zip(calls) {
        let kind = event.number("kind");
        assert_eq!(call["kind"], kind, "{what}");
        let told = PARTS.map(|part| event.number(part));
        let latency = event.latency_ns.unwrap();
        assert_eq!(told.iter().sum::<u64>(), latency, "{what}: {event:?}");
        let truth = truth_of(call);
        let near = |(told, truth): (&u64, &u64)| told.abs_diff(*truth) <= SLACK.max(truth / 20);
        let all_near = told.iter().zip(&truth).all(near);
        let (fine, all) = right.entry(kind).or_default();
        *fine += u64::from(all_near);
        *all += 1;
        if !all_near {
            wrong.push((kind, told, truth));
        }
    }
    assert_eq!(right.len(), WAITS.len(), "{what}: all kinds");
    let most = right.values().all(|(fine, all)| 2 * fine >= *all);
    assert!(most, "{what}: {right:?}: {wrong:?}");
}

fn all_kinds() -> Vec<String> {
    args!["--calls", 16, "--ms", 12, "--file", file().display()]
}

#[test]
fn each_call_is_told_as_it_has_measured_itself() {
    let _turn = turn();
    for mechanism in ["session", "multi", "perf"] {
        let flags = args!["--capture", "kind=arg0", "--mechanism", mechanism];
        let (report, calls) = run(args!["trace"], &flags, all_kinds());
        assert_parts(&report, &calls, mechanism);
    }
    // Where nothing on the stack changes, too.
    let flags = args!["--capture", "kind=arg0", "--return", "ret"];
    let (report, calls) = run(args!["trace"], &flags, all_kinds());
    assert_parts(&report, &calls, "ret");
}

#[test]
fn sums_by_key_are_those_of_the_calls() {
    let _turn = turn();
    let flags = args!["--by", "kind=(u32)arg0"];
    let (report, calls) = run(args!["latency"], &flags, all_kinds());
    let breakdowns = &report.summary.breakdowns;
    assert_eq!(breakdowns.len(), WAITS.len());
    for histogram in &report.summary.histograms {
        let of = |b: &&Breakdown| b.key == histogram.key;
        let b = breakdowns.iter().find(of).expect("one for each key");
        let kind = b.key["kind"].as_u64().unwrap();
        let mine: Vec<&Value> = calls.iter().filter(|c| c["kind"] == kind).collect();
        let n = mine.len() as u64;
        assert_eq!(b.name, histogram.name);
        assert_eq!((b.calls, b.known, histogram.count), (n, n, n));
        assert_eq!(b.parts.values().sum::<u64>(), b.total_ns);
        let mean = b.total_ns as f64 / n as f64;
        assert!((mean - histogram.mean).abs() < 1.0, "{b:?} {histogram:?}");
        // All waiting is of the one part. Sums have no outliers that can be left out: where a virtual machine's kernel did
        // not tell of a wake-up, waiting for a CPU is in it too, so that both are compared together.
        let waits = WAITS[kind as usize].unwrap_or(0);
        let parts = mine.iter().map(|call| truth_of(call));
        let truth: (u64, u64) = parts.fold((0, 0), |sum, p| (sum.0 + p[waits], sum.1 + p[1]));
        let told = (b.parts[PARTS[waits]], b.parts["runq_ns"]);
        let slack = |truth: u64| (truth / 20).max(n * 2 * SLACK);
        assert!(
            told.0 + slack(truth.0) >= truth.0,
            "{told:?} {truth:?}: {b:?}"
        );
        let both = (told.0 + told.1, truth.0 + truth.1);
        // (More is what a thread waited outside of its own measurement.)
        assert!(
            both.0 + slack(both.1) >= both.1,
            "{told:?} {truth:?}: {b:?}"
        );
        assert!(
            told.0 <= both.1 + slack(both.1),
            "{told:?} {truth:?}: {b:?}"
        );
        let others = PARTS[2..].iter().filter(|part| **part != PARTS[waits]);
        let others: u64 = others.map(|part| b.parts[*part]).sum();
        assert!(others <= n * SLACK, "{kind}: {b:?}");
    }
}

#[test]
fn threads_on_one_cpu_wait_for_each_other() {
    let _turn = turn();
    let target = args!["--calls", 8, "--ms", 40, "--kind", 0, "--threads", 3];
    let (report, calls) = run(args!["latency"], &[], target);
    let [b] = &report.summary.breakdowns[..] else {
        panic!("{:?}", report.summary)
    };
    assert_eq!(b.calls as usize, calls.len());
    let sum = |name: &str| calls.iter().map(|c| c[name].as_u64().unwrap()).sum::<u64>();
    let (cpu, queue) = (sum("cpu"), sum("runq"));
    assert!(queue > cpu, "two of three wait at any time: {calls:?}");
    for (part, truth) in [("cpu_ns", cpu), ("runq_ns", queue)] {
        let slack = (truth / 20).max(b.calls * SLACK);
        assert!(
            b.parts[part].abs_diff(truth) <= slack,
            "{part} {truth}: {b:?}"
        );
    }
}

#[test]
fn parts_are_words_of_the_language() {
    let _turn = turn();
    let program = Fixture::Waits.path();
    let mut target = Target::gated(&program, args!["--calls", 5, "--ms", 10]);
    let place = format!("{}:work", program.display());
    let words = args![
        "count",
        place,
        "--where",
        "lock_ns > 5ms",
        "--pid",
        target.pid()
    ];
    let sums = args!["--sum", "waited=lock_ns", "--by", "kind=(u32)arg0"];
    let uprof = Uprof::json([words, sums].concat()).start();
    target.truth();
    let report = uprof.stop().report();
    assert!(target.end().success());
    let [row] = &report.summary.stats[..] else {
        panic!("{:?}", report.summary.stats)
    };
    assert_eq!((row.key["kind"].as_u64(), row.count), (Some(2), 5));
    assert!(row.values["waited"]["min"] > 5e6);
}

#[test]
fn a_table_says_where_the_time_went() {
    let _turn = turn();
    let place = format!("{}:work", Fixture::Waits.path().display());
    let target = args!["--calls", 4, "--ms", 10, "--kind", 1];
    let mut target = Target::gated(&Fixture::Waits.path(), target);
    let uprof = Uprof::new(args![
        "latency",
        place,
        "--breakdown",
        "--pid",
        target.pid()
    ])
    .start();
    target.truth();
    let text = uprof.stop().ok().text();
    assert!(target.end().success());
    assert!(text.contains("where the time of 4 calls of "), "{text}");
    let sleep = text
        .lines()
        .find(|line| line.starts_with("  sleep "))
        .expect(&text);
    assert!(sleep.contains('%') && sleep.contains('█'), "{text}");
}

#[test]
fn what_has_no_calls_has_no_breakdown() {
    let place = format!("{}:work", Fixture::Waits.path().display());
    Uprof::new(args!["count", place, "--breakdown"])
        .run()
        .refused(1, &["--breakdown", "--sum wait=lock_ns"]);
    Uprof::new(args!["latency", place, "--breakdown", "--self"])
        .run()
        .refused(1, &["one of --self and --breakdown"]);
}

/// MariaDB sleeps, waits for locks of its own and computes, as it is told.
#[test]
fn statements_of_mariadb() {
    let _turn = turn();
    let server = MariaDb::start();
    server.sql("CREATE DATABASE waits; CREATE TABLE waits.t (id INT PRIMARY KEY, n INT) ENGINE=InnoDB; INSERT INTO waits.t VALUES (1, 0)");
    let words = args![
        "recipe",
        "mysql-queries",
        "--pid",
        server.pid(),
        "--breakdown"
    ];
    let uprof = Uprof::json(words)
        .deadline(Duration::from_secs(120))
        .start();
    std::thread::scope(|scope| {
        scope.spawn(|| server.sql("BEGIN; UPDATE waits.t SET n = n + 1; DO SLEEP(1.5); COMMIT"));
        sleep(Duration::from_millis(700));
        server.sql("UPDATE waits.t SET n = n + 10 WHERE id = 1");
    });
    server.sql("SELECT BENCHMARK(3000000, SHA1('x'))");
    let report = uprof.stop().report();
    let find = |start: &str| {
        let mut events = report.events_of("statement");
        let found =
            events.find(|e| e.text("command") == "Query" && e.text("sql").starts_with(start));
        found.unwrap_or_else(|| panic!("no {start}: {report:?}"))
    };
    for event in report.events_of("statement") {
        let all: u64 = PARTS.iter().map(|part| event.number(part)).sum();
        assert_eq!(Some(all), event.latency_ns, "{event:?}");
    }
    // Sleep and row locks are condition variables of the server's, waited for by futex.
    let slept = find("DO SLEEP");
    assert!(slept.number("lock_ns") > 1_400_000_000, "{slept:?}");
    let waited = find("UPDATE waits.t SET n = n + 10");
    assert!(waited.number("lock_ns") > 300_000_000, "{waited:?}");
    let computed = find("SELECT BENCHMARK");
    let latency = computed.latency_ns.unwrap();
    let (cpu, queue) = (computed.number("cpu_ns"), computed.number("runq_ns"));
    assert!(
        cpu + queue > latency / 10 * 9 && cpu > 10_000_000,
        "{computed:?}"
    );
    let sums = &report.summary.breakdowns;
    let queries = sums
        .iter()
        .find(|b| b.key["command"] == "Query")
        .expect("a sum");
    let of = |name: &str| {
        let events = report
            .events_of("statement")
            .filter(|e| e.text("command") == "Query");
        events.map(|e| e.number(name)).sum::<u64>()
    };
    for part in PARTS {
        assert_eq!(queries.parts[part], of(part), "{part}");
    }
}

/// A command that sleeps in redis sleeps; by command, in the kernel.
#[test]
fn commands_of_redis() {
    let _turn = turn();
    let server = Redis::start();
    let words = args![
        "recipe",
        "redis-commands",
        "--pid",
        server.pid(),
        "--breakdown"
    ];
    let uprof = Uprof::json(words).start();
    let mut client = server.connect();
    client.ask("DEBUG SLEEP 0.3");
    client.ask("SET a b");
    let report = uprof.stop().report();
    let of = |command: &str| {
        let mut all = report.summary.breakdowns.iter();
        let found = all.find(|b| {
            b.key["command"]
                .as_str()
                .is_some_and(|c| c.starts_with(command))
        });
        found.unwrap_or_else(|| panic!("no {command}: {:?}", report.summary))
    };
    let debug = of("debug");
    assert!(debug.parts["sleep_ns"] >= 299_000_000, "{debug:?}");
    assert!(
        debug.parts["sleep_ns"] > debug.total_ns / 10 * 9 - debug.parts["runq_ns"],
        "{debug:?}"
    );
    let set = of("set");
    assert_eq!((set.calls, set.parts["sleep_ns"]), (1, 0), "{set:?}");
}
