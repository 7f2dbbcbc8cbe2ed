//! Latencies are those that the program itself reads from its clock, whatever way its returns are seen.

use serde_json::Value;

use crate::args;
use crate::harness::machine::scratch;
use crate::harness::report::Histogram;
use crate::harness::servers::Redis;
use crate::harness::{Fixture, Report, Uprof, turn};

/// What the two may differ by, whichever is more: nanoseconds, or a part of the whole (a bucket of the histogram is a
/// sixteenth wide).
const NS: f64 = 2_000.0;
const SHARE: f64 = 0.06;
/// On a busy machine a thread may lose the processor between the probe and the program's own look at the clock.
const TRIES: usize = 3;

/// Whether two durations in nanoseconds are the same, as far as can be asked.
fn same(ours: f64, truth: f64) -> bool {
    (ours - truth).abs() <= NS.max(SHARE * truth)
}

/// Runs a program that measures its calls of FUNCTION under `uprof latency`, and compares. WAY: what is said of how
/// returns are seen, `None` for nothing.
fn agrees(program: Fixture, function: &str, target: &[&str], way: Option<&str>) {
    let program = program.path();
    let file = scratch().join(format!("truth-{}.json", std::process::id()));
    let mut wrong = Vec::new();
    for _ in 0..TRIES {
        let probe = format!("{}:{function}", program.display());
        let done = Uprof::json(args!["latency", probe, "-o", file.display()])
            .command(&program, target)
            .run()
            .ok();
        let said = &done.stderr;
        match way {
            Some(way) => assert!(
                said.contains("exits (1), since") && said.contains(way),
                "{said}"
            ),
            None => assert!(!said.contains("returns of"), "{said}"),
        }
        let truth: Value = serde_json::from_str(&done.text()).expect("the program's own account");
        let report = Report::parse(&std::fs::read_to_string(&file).unwrap());
        let calls = truth["calls"].as_u64().unwrap();
        let one = report.only();
        assert_eq!((one.hits, one.aggregated), (calls, calls), "{one:?}");
        wrong = differences(&truth, report.histogram());
        if wrong.is_empty() {
            return;
        }
    }
    panic!("{} {target:?}: {}", program.display(), wrong.join("; "));
}

fn differences(truth: &Value, histogram: &Histogram) -> Vec<String> {
    let net = histogram
        .net
        .as_ref()
        .expect("the probe's cost was measured");
    let cost = histogram.probe_cost_ns.unwrap();
    assert!((100..100_000).contains(&cost), "a probe costs {cost} ns?");
    let marks = [
        ("p50", net.p50),
        ("p90", net.p90),
        ("p99", net.p99),
        ("p999", net.p999),
    ];
    let wrong = marks.into_iter().filter_map(|(name, ours)| {
        let theirs = truth[name].as_f64().unwrap();
        (!same(ours as f64, theirs))
            .then(|| format!("{name}: {ours} ns where the program saw {theirs}"))
    });
    wrong.collect()
}

#[test]
fn threads() {
    let _turn = turn();
    agrees(Fixture::Clocked, "timed", &["--mode", "threads"], None);
}

#[test]
fn recursion() {
    let _turn = turn();
    agrees(Fixture::Clocked, "timed", &["--mode", "recursion"], None);
}

#[test]
fn threads_and_recursion_seen_at_their_exits() {
    let _turn = turn();
    let way = Some("switches stacks");
    agrees(
        Fixture::ClockedCoroutines,
        "timed",
        &["--mode", "threads"],
        way,
    );
    agrees(
        Fixture::ClockedCoroutines,
        "timed",
        &["--mode", "recursion"],
        way,
    );
}

#[test]
fn coroutines() {
    let _turn = turn();
    let target = ["--mode", "coroutines"];
    agrees(
        Fixture::ClockedCoroutines,
        "timed",
        &target,
        Some("switches stacks"),
    );
}

#[test]
fn goroutines() {
    let _turn = turn();
    agrees(Fixture::ClockedGo, "main.Timed", &[], Some("Go"));
}

/// Every `call` of redis, also those that a script makes: a map by thread loses the outer ones.
#[test]
fn commands_within_scripts_of_redis() {
    const SCRIPTS: usize = 40;
    const INNER: usize = 3;
    let _turn = turn();
    let server = Redis::start();
    let mut client = server.connect();
    client.ask("EVAL \"for i=1,20000 do redis.call('SET','key'..i,i) end return 1\" 0");
    client.ask("CONFIG RESETSTAT");
    let recipe = scratch().join("depth.toml");
    let text = "[recipe]\nabout = \"depth of redis commands\"\n[target]\nprogram = [\"redis-server\"]\n\
                [[call]]\nname = \"call\"\nfunction = \"call\"\n\
                capture = { depth = \"depth\", self = \"self\", parent = \"parent\" }\n";
    std::fs::write(&recipe, text).unwrap();
    let uprof = Uprof::json(args!["recipe", recipe.display(), "--pid", server.pid()]).start();
    for _ in 0..SCRIPTS {
        client.ask("EVAL \"for i=1,3 do redis.call('KEYS','*') end return 1\" 0");
    }
    let report = uprof.stop().report();
    let stats = client.ask_text("INFO commandstats");
    let mean = |events: &[&crate::harness::report::Event]| {
        let sum: u64 = events.iter().map(|e| e.latency_ns.unwrap()).sum();
        sum as f64 / events.len() as f64
    };
    let at_depth = |depth: u64| -> Vec<_> {
        let events = report.events.iter();
        events.filter(|e| e.number("depth") == depth).collect()
    };
    let (outer, inner) = (at_depth(0), at_depth(1));
    assert_eq!((outer.len(), inner.len()), (SCRIPTS, SCRIPTS * INNER));
    assert_eq!(report.only().hits, (SCRIPTS * (INNER + 1)) as u64);
    for e in &outer {
        assert!(e.fields["parent"].is_null(), "{e:?}");
        let within = inner.iter().filter(|i| {
            let (end, start) = (e.time_ns, e.time_ns - e.latency_ns.unwrap());
            (start..=end).contains(&i.time_ns)
        });
        let within: Vec<u64> = within.map(|i| i.latency_ns.unwrap()).collect();
        assert_eq!(within.len(), INNER, "{e:?}");
        let rest = e.latency_ns.unwrap() - within.iter().sum::<u64>();
        assert_eq!(e.number("self"), rest, "{e:?}");
    }
    assert!(inner.iter().all(|e| e.text("parent") == "call"));
    for (command, events) in [("eval", &outer), ("keys", &inner)] {
        let line = stats
            .lines()
            .find(|l| l.starts_with(&format!("cmdstat_{command}:")));
        let line = line.unwrap_or_else(|| panic!("{stats}"));
        let per_call = line.split("usec_per_call=").nth(1).unwrap();
        let truth: f64 = per_call.split(',').next().unwrap().parse().unwrap();
        let ours = mean(events);
        assert!(
            same(ours, truth * 1000.0),
            "{command}: {ours} ns where redis says {truth} us"
        );
    }
}
