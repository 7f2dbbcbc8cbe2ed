//! `uprof trace`: what each hit captured.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::args;
use crate::harness::{Fixture, Report, Target, Uprof, turn};

fn trace(function: &str, target_args: Vec<String>, flags: Vec<String>) -> (Report, Value) {
    let program = Fixture::Calls.path();
    let mut target = Target::gated(&program, target_args);
    let mut words = args![
        "trace",
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

fn unix_ns() -> u64 {
    u64::try_from(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_nanos(),
    )
    .unwrap()
}

#[test]
fn arguments_and_who_called() {
    let _turn = turn();
    let before = unix_ns();
    let flags = args!["--capture", "n=arg0"];
    let (report, truth) = trace("work", args!["--calls", 1000, "--name", "Caller"], flags);
    let after = unix_ns();
    assert_eq!((report.only().hits, report.only().emitted), (1000, 1000));
    let numbers: Vec<u64> = report
        .events
        .iter()
        .map(|event| event.number("n"))
        .collect();
    assert_eq!(
        numbers,
        (0..1000).collect::<Vec<_>>(),
        "in the order of the calls"
    );
    for event in &report.events {
        assert_eq!(
            (u64::from(event.pid), event.comm.as_str()),
            (truth["pid"].as_u64().unwrap(), "Caller")
        );
        assert_ne!(
            event.tid, event.pid,
            "the calls are made on a thread of their own"
        );
        assert!(
            (before..=after).contains(&event.time_ns),
            "{} is not in {before}..={after}",
            event.time_ns
        );
        assert_eq!(event.latency_ns, None, "an entry has no latency");
    }
    assert!(
        report
            .events
            .windows(2)
            .all(|pair| pair[0].time_ns <= pair[1].time_ns)
    );
}

#[test]
fn what_a_call_returned_and_how_long_it_took() {
    let _turn = turn();
    let flags = args!["--capture", "n=arg0", "--capture", "result=retval"];
    let (report, truth) = trace("work", args!["--calls", 500, "--spin-ns", 50_000], flags);
    assert_eq!(report.events.len(), 500);
    for event in &report.events {
        assert_eq!(event.number("result"), 3 * event.number("n") + 1);
        assert!(
            event.latency_ns.expect("a call has a latency") >= 50_000,
            "{event:?}"
        );
    }
    let returned: u64 = report
        .events
        .iter()
        .map(|event| event.number("result"))
        .sum();
    assert_eq!(returned, truth["returned"].as_u64().unwrap());
}

#[test]
fn text_of_a_given_length_ends_there() {
    let _turn = turn();
    let (report, _) = trace(
        "greet",
        args!["--function", "text", "--calls", 30],
        args!["--capture", "text=str(arg0, arg1)"],
    );
    for (i, event) in report.events.iter().enumerate() {
        assert_eq!(event.text("text"), format!("name {}", i % 10));
        assert!(!event.is_cut("text"));
    }
    assert_eq!(report.events.len(), 30);
}

#[test]
fn text_without_a_length_ends_at_its_nul_and_is_marked_when_cut() {
    let _turn = turn();
    let whole = "name 0|and bytes that do not belong to it";
    let target = || args!["--function", "text", "--calls", 1];
    let (report, _) = trace("greet", target(), args!["--capture", "text=str(arg0)"]);
    assert_eq!(report.events[0].text("text"), whole);
    assert!(!report.events[0].is_cut("text"));

    let (report, _) = trace(
        "greet",
        target(),
        args!["--capture", "text=str(arg0)", "--str-limit", 8],
    );
    let text = report.events[0].text("text").to_owned();
    assert!(
        whole.starts_with(&text) && (7..=8).contains(&text.len()),
        "{text}"
    );
    assert!(report.events[0].is_cut("text"), "{:?}", report.events[0]);
}

#[test]
fn where_compares_text_and_names() {
    let _turn = turn();
    let target = || args!["--function", "text", "--calls", 100, "--name", "Caller"];
    let flags = args![
        "--capture",
        "text=str(arg0, arg1)",
        "--where",
        r#"str(arg0, arg1) == "name 3""#
    ];
    let (report, _) = trace("greet", target(), flags);
    assert_eq!((report.only().emitted, report.only().filtered), (10, 90));
    assert!(
        report
            .events
            .iter()
            .all(|event| event.text("text") == "name 3")
    );

    for (condition, events) in [
        (r#"comm == "Caller""#, 100),
        (r#"comm == "Calle""#, 0),
        (r#"comm != "Caller""#, 0),
    ] {
        let (report, _) = trace("greet", target(), args!["--where", condition]);
        assert_eq!(report.only().emitted, events, "{condition}");
    }
}

#[test]
fn expressions_of_every_kind() {
    let _turn = turn();
    let flags = args![
        "--capture",
        "sum=arg0 * 2 + 1",
        "--capture",
        "negative=-(i64)arg0 - 1",
        "--capture",
        "narrow=(u8)(arg0 + 250)",
        "--capture",
        "choice=arg0 > 2 ? 10 : 20",
        "--capture",
        "bits=(arg0 << 4 | 0xf) & ~1",
        "--capture",
        "divided=arg0 / (arg1 - arg1)",
        "--capture",
        "who=pid",
        "--where",
        "arg0 < 8 && !(arg0 == 5 || arg0 == 6)"
    ];
    let (report, truth) = trace("work", args!["--calls", 10], flags);
    let n = [0i64, 1, 2, 3, 4, 7];
    assert_eq!(report.events.len(), n.len());
    for (event, n) in report.events.iter().zip(n) {
        let expect = [
            ("sum", n * 2 + 1),
            ("negative", -n - 1),
            ("narrow", (n + 250) & 255),
            ("choice", if n > 2 { 10 } else { 20 }),
            ("bits", (n << 4 | 0xf) & !1),
            ("divided", 0),
            ("who", truth["pid"].as_i64().unwrap()),
        ];
        for (field, value) in expect {
            assert_eq!(
                event.fields[field].as_i64(),
                Some(value),
                "{field} for n = {n}: {event:?}"
            );
        }
    }
}

#[test]
fn memory_that_cannot_be_read_is_null() {
    let _turn = turn();
    let flags = args![
        "--capture",
        "n=arg0",
        "--capture",
        "there=*(u64 *)arg0",
        "--capture",
        "text=str(arg0)"
    ];
    let (report, _) = trace("work", args!["--calls", 20], flags);
    assert_eq!(report.only().emitted, 20);
    for (n, event) in report.events.iter().enumerate() {
        assert_eq!(
            event.number("n"),
            n as u64,
            "what can be read stays right: {event:?}"
        );
        assert_eq!(event.fields["there"], Value::Null, "{event:?}");
        assert_eq!(event.fields["text"], Value::Null, "{event:?}");
    }
}

#[test]
fn events_from_eight_threads_all_arrive() {
    let _turn = turn();
    let target = args!["--calls", 25_000, "--threads", 8];
    let (report, truth) = trace("work", target, args!["--capture", "n=arg0"]);
    assert_eq!(truth["calls"], 200_000);
    assert_eq!(report.only().hits, 200_000);
    report.summary.assert_nothing_dropped();
    let mut seen = std::collections::BTreeMap::<u32, u64>::new();
    for event in &report.events {
        let next = seen.entry(event.tid).or_default();
        assert_eq!(event.number("n"), *next, "thread {} in order", event.tid);
        *next += 1;
    }
    assert!(
        seen.len() == 8 && seen.values().all(|n| *n == 25_000),
        "{seen:?}"
    );
}

#[test]
fn what_a_full_buffer_loses_is_counted_and_said() {
    let _turn = turn();
    let program = Fixture::Calls.path();
    let mut target = Target::gated(
        &program,
        args!["--function", "text", "--calls", 200_000, "--threads", 8],
    );
    let probe = format!("{}:greet", program.display());
    let flags = ["--capture", "text=str(arg0)", "--buffer", "64KiB"];
    let uprof = Uprof::json(
        args!["trace", probe, "--pid", target.pid()]
            .iter()
            .map(String::as_str)
            .chain(flags),
    )
    .start();
    // While uprof cannot read, 64 KiB must overflow.
    let stopped = nix::unistd::Pid::from_raw(i32::try_from(uprof.pid()).unwrap());
    nix::sys::signal::kill(stopped, nix::sys::signal::Signal::SIGSTOP).unwrap();
    let truth = target.truth();
    nix::sys::signal::kill(stopped, nix::sys::signal::Signal::SIGCONT).unwrap();
    let finished = uprof.stop().ok();
    let said = finished.stderr.to_lowercase();
    let report = finished.report();
    let probe = report.only();
    assert_eq!(probe.hits, truth["calls"].as_u64().unwrap());
    assert!(probe.dropped > 0, "{probe:?}");
    assert!(probe.emitted > 0, "{probe:?}");
    assert!(
        said.contains("dropped") || said.contains("lost"),
        "the loss was not told:\n{said}"
    );
    assert!(
        said.contains("--buffer"),
        "nor what to do about it:\n{said}"
    );
}

#[test]
fn explain_attaches_nothing_and_names_the_site() {
    let _turn = turn();
    let program = Fixture::EndbrFull.path();
    let probe = format!("{}:probed", program.display());
    let plan = Uprof::new(args!["latency", probe, "--explain"]).run().ok();
    let text = plan.text();
    assert!(text.contains("probed"), "{text}");
    assert!(
        text.contains("push"),
        "the instruction that is probed: {text}"
    );
    assert!(!plan.stderr.contains("armed"), "{}", plan.stderr);
}

#[test]
fn an_offset_inside_a_function_and_inside_an_instruction() {
    let _turn = turn();
    let program = Fixture::EndbrFull.path();
    let mut target = Target::gated(&program, args!["--calls", 100, "--rounds", 1]);
    // `endbr64` is four bytes long: the next instruction is at 4, and nothing begins at 2.
    let probe = |offset: u32| format!("{}:probed+{offset}", program.display());
    let uprof = Uprof::json(args!["count", probe(4), "--pid", target.pid()]).start();
    target.truth();
    assert_eq!(uprof.stop().report().only().hits, 100);
    Uprof::new(args!["count", probe(2), "--pid", target.pid()])
        .run()
        .refused(1, &["probed+2", "instruction", "4"]);
}
