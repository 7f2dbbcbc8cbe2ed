//! `uprof recipe redis-commands` against a real redis, whose own counters and replies are the truth, and against
//! other versions' layouts by a fixture.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::args;
use crate::harness::servers::Redis;
use crate::harness::uprof::Running;
use crate::harness::{Fixture, Report, Target, Uprof, turn};

const COMMAND: &str = "command";

fn commands(pid: u32, flags: &[&str]) -> Running {
    let mut words = args!["recipe", "redis-commands", "--pid", pid];
    words.extend(flags.iter().map(ToString::to_string));
    Uprof::json(words).start()
}

/// The server's own counts: command -> calls and microseconds.
fn counters(server: &Redis) -> BTreeMap<String, (u64, u64)> {
    let text = server.connect().ask_text("INFO commandstats");
    let lines = text
        .lines()
        .filter_map(|line| line.strip_prefix("cmdstat_"));
    let counter = |line: &str| {
        let (name, values) = line.split_once(':')?;
        let value = |key: &str| {
            let values = values.split(',').filter_map(|v| v.split_once('='));
            let mut found = values.filter(|(k, _)| *k == key);
            found.next()?.1.parse().ok()
        };
        Some((name.to_owned(), (value("calls")?, value("usec")?)))
    };
    let all: BTreeMap<_, _> = lines.filter_map(counter).collect();
    assert!(!all.is_empty(), "{text}");
    all
}

/// What the server counted since `before`; without INFO, which asks for it.
fn grown(server: &Redis, before: &BTreeMap<String, (u64, u64)>) -> BTreeMap<String, (u64, u64)> {
    let mut grown = counters(server);
    for (name, (calls, usec)) in &mut grown {
        let (had, took) = before.get(name).copied().unwrap_or_default();
        (*calls, *usec) = (*calls - had, *usec - took);
    }
    grown.retain(|name, (calls, _)| *calls > 0 && name != "info");
    grown
}

fn load(server: &Redis) {
    let mut client = server.connect();
    for n in 0..200 {
        client.ask(&format!("SET key:{} {n}", n % 7));
    }
    for _ in 0..50 {
        client.ask("get key:1");
    }
    client.ask("OBJECT FREQ key:1");
    client.ask("CLIENT NO-EVICT off");
    client.ask("CONFIG RESETSTAT x");
    client.ask("EVAL \"for i=1,30 do redis.call('incr','n') end\" 0");
    for command in ["MULTI", "INCR m", "INCR m", "EXEC"] {
        client.ask(command);
    }
}

#[test]
fn latencies_by_command_are_as_many_as_the_server_counts() {
    let _turn = turn();
    let server = Redis::start();
    let before = counters(&server);
    let uprof = commands(server.pid(), &[]);
    load(&server);
    // The server counts a call within it: when the next command is answered it has returned.
    let truth = grown(&server, &before);
    let report = uprof.stop().report();
    report.summary.assert_nothing_dropped();
    let mut found: BTreeMap<&str, (u64, f64)> = BTreeMap::new();
    for h in &report.summary.histograms {
        let name = h.key["command"].as_str().expect("a command has a name");
        found.insert(name, (h.count, h.mean * h.count as f64));
    }
    found.remove("info");
    let counts = |of: &BTreeMap<&str, (u64, f64)>| -> BTreeMap<String, u64> {
        of.iter().map(|(k, v)| (k.to_string(), v.0)).collect()
    };
    let expected: BTreeMap<String, u64> = truth.iter().map(|(k, v)| (k.clone(), v.0)).collect();
    assert_eq!(counts(&found), expected);
    assert_eq!(expected["set"], 200);
    assert_eq!(expected["incr"], 32, "of the script and of the transaction");
    assert!(expected.contains_key("client|no-evict"), "{expected:?}");
    // Its own time is within the call, measured in whole microseconds.
    for (name, (calls, usec)) in &truth {
        let total = found[name.as_str()].1;
        assert!(
            total + (calls * 1000) as f64 >= (usec * 1000) as f64,
            "{name}: {usec} us by the server, {total} ns by uprof"
        );
    }
    assert_eq!(report.only().filtered, 0);
}

#[test]
fn each_command_has_its_words_and_its_client() {
    let _turn = turn();
    let server = Redis::start();
    let mut client = server.connect();
    let id: u64 = client.ask("CLIENT ID")[1..].parse().expect("a number");
    let uprof = commands(server.pid(), &["--events", "--text-limit", "64KiB"]);
    let (long, longer) = ("x".repeat(300), "y".repeat(60_000));
    client.ask("SET foo bar EX 100");
    client.ask(&format!("SET {long} {longer}"));
    client.ask("SET \"\" \"caf\u{e9}\"");
    client.ask("CoNfIg gEt maxmemory");
    client.ask("NOSUCHCOMMAND x");
    client.ask("PING");
    let report = uprof.stop().report();
    report.summary.assert_nothing_dropped();
    let words = ["command", "key", "second", "third", "fourth"];
    let found: Vec<[&str; 5]> = report
        .events_of(COMMAND)
        .map(|event| words.map(|word| event.text(word)))
        .collect();
    // What is no command is refused before it is executed.
    let expected = [
        ["set", "foo", "bar", "EX", "100"],
        ["set", &long, &longer, "", ""],
        ["set", "", "caf\u{e9}", "", ""],
        ["config|get", "gEt", "maxmemory", "", ""],
        ["ping", "", "", "", ""],
    ];
    assert_eq!(found, expected);
    for (event, words) in report.events_of(COMMAND).zip([5, 3, 3, 3, 1]) {
        assert_eq!(event.number("client"), id);
        assert_eq!(event.number("words"), words);
        assert_eq!(event.number("depth"), 0);
    }
}

#[test]
fn commands_of_a_script_are_within_it() {
    let _turn = turn();
    let server = Redis::start();
    let mut client = server.connect();
    let uprof = commands(server.pid(), &["--events"]);
    client.ask("EVAL \"for i=1,40 do redis.call('set','k'..i,i) end\" 0");
    client.ask("PING");
    let report = uprof.stop().report();
    let events: Vec<_> = report.events_of(COMMAND).collect();
    assert_eq!(events.len(), 42);
    let mut within = 0;
    for (n, event) in events[..40].iter().enumerate() {
        assert_eq!(event.text("key"), format!("k{}", n + 1));
        assert_eq!(event.number("depth"), 1);
        within += event.latency_ns.expect("a call");
    }
    let eval = events[40];
    assert_eq!((eval.text("command"), eval.number("depth")), ("eval", 0));
    assert_eq!(eval.number("own") + within, eval.latency_ns.unwrap());
}

#[test]
fn keys_are_counted() {
    let _turn = turn();
    let server = Redis::start();
    let mut client = server.connect();
    let uprof = commands(server.pid(), &["--keys"]);
    let mut expected: BTreeMap<(String, String), u64> = BTreeMap::new();
    for n in 0..300u64 {
        let key = format!("key:{}", n * n % 17);
        let command = ["SET", "APPEND"][(n % 2) as usize];
        client.ask(&format!("{command} {key} {n}"));
        *expected.entry((command.to_lowercase(), key)).or_default() += 1;
    }
    let report = uprof.stop().report();
    report.summary.assert_nothing_dropped();
    let text = |v: &Value| v.as_str().expect("a text").to_owned();
    let found: BTreeMap<_, _> = report
        .summary
        .counts
        .iter()
        .map(|c| ((text(&c.key["command"]), text(&c.key["key"])), c.count))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn slow_commands_alone() {
    let _turn = turn();
    let server = Redis::start();
    let mut client = server.connect();
    let uprof = commands(server.pid(), &["--min-latency", "2ms"]);
    for _ in 0..50 {
        client.ask("PING");
    }
    // A million rounds of its interpreter take several milliseconds on any machine.
    client.ask("EVAL \"local i = 0 while i < 5000000 do i = i + 1 end return i\" 0");
    client.ask("PING");
    let report = uprof.stop().report();
    assert_eq!(report.only().hits, 52);
    let mut events = report.events_of(COMMAND);
    assert!(events.any(|event| event.text("command") == "eval"));
    for event in report.events_of(COMMAND) {
        assert!(event.latency_ns.unwrap() >= 2_000_000, "{event:?}");
    }
}

/// Runs the fixture with these flags of the compiler under the recipe.
fn layout(flags: &'static [&'static str], more: &[&str]) -> (Report, Vec<Value>, u64) {
    let mut target = Target::gated(&Fixture::Redis(flags).path(), args![]);
    let uprof = commands(target.pid(), more);
    target.go();
    let (lines, truth) = target.lines_and_truth();
    let report = uprof.stop().report();
    assert!(target.end().success());
    (report, lines, truth["calls"].as_u64().unwrap())
}

const LAYOUTS: [&[&str]; 8] = [
    &[
        "-DARGC=0x58",
        "-DCMD=0x98",
        "-DNAME=0xd8",
        "-DHAS=trySendReadToIOThreads",
    ],
    &[
        "-DARGC=0x58",
        "-DCMD=0x80",
        "-DNAME=0xd8",
        "-DHAS=waitaofCommand",
    ],
    &[
        "-DARGC=0x48",
        "-DCMD=0x70",
        "-DNAME=0x190",
        "-DHAS=fcallCommand",
    ],
    &[
        "-DARGC=0x48",
        "-DCMD=0x70",
        "-DNAME=0",
        "-DHAS=hrandfieldCommand",
    ],
    &["-DARGC=0x48", "-DCMD=0x60", "-DNAME=0", "-DHAS=lposCommand"],
    &["-DARGC=0x40", "-DCMD=0x50", "-DNAME=0", "-DHAS=xaddCommand"],
    &["-DARGC=0x38", "-DCMD=0x48", "-DNAME=0"],
    // None of them, but described.
    &["-g", "-DARGC=0x128", "-DCMD=0x1a0", "-DNAME=0x20"],
];

#[test]
fn layouts_of_other_versions() {
    let _turn = turn();
    for flags in LAYOUTS {
        let (report, lines, calls) = layout(flags, &["--events"]);
        report.summary.assert_nothing_dropped();
        assert_eq!(lines.len() as u64, calls);
        assert_eq!(report.only().emitted, calls, "{flags:?}");
        for (event, line) in report.events_of(COMMAND).zip(&lines) {
            assert_eq!(event.text("command"), line["command"], "{flags:?}");
            assert_eq!(event.number("client"), line["id"].as_u64().unwrap());
            assert_eq!(event.number("words"), line["argc"].as_u64().unwrap());
            let words = line["words"].as_array().unwrap();
            for (n, field) in ["key", "second", "third", "fourth"].iter().enumerate() {
                let (length, begin) = match words.get(n) {
                    Some(word) => (word[0].as_u64().unwrap(), word[1].as_str().unwrap()),
                    None => (0, ""),
                };
                let shown = event.text(field);
                assert!(shown.starts_with(begin), "{flags:?}: {event:?}");
                assert_eq!(shown.len() as u64, length.min(1024), "{flags:?}: {event:?}");
                assert_eq!(event.is_cut(field), length > 1024, "{flags:?}: {event:?}");
            }
        }
    }
}

#[test]
fn an_unknown_layout_is_refused_rather_than_shown() {
    let _turn = turn();
    let strange: [&[&str]; 3] = [
        // redis 7.0.0.
        &[
            "-DARGC=0x40",
            "-DCMD=0x68",
            "-DNAME=0x190",
            "-DHAS=fcallCommand",
        ],
        &[
            "-DARGC=0x60",
            "-DCMD=0x80",
            "-DNAME=0xd8",
            "-DHAS=waitaofCommand",
        ],
        &[
            "-DARGC=0x58",
            "-DCMD=0x88",
            "-DNAME=0xd8",
            "-DHAS=waitaofCommand",
        ],
    ];
    for flags in strange {
        for mode in [&["--events"][..], &["--keys"], &[]] {
            let (report, _, calls) = layout(flags, mode);
            let probe = report.only();
            assert_eq!((probe.hits, probe.filtered), (calls, calls), "{flags:?}");
        }
    }
}
