//! `uprof recipe postgres-queries` against a real PostgreSQL: what its own log of durations says, statement by statement.

use std::time::Duration;

use crate::args;
use crate::harness::report::Event;
use crate::harness::servers::{LoggedStatement, Postgres};
use crate::harness::uprof::Running;
use crate::harness::{Report, Uprof, turn};

fn watch(flags: &[&str]) -> Running {
    // The server forks a process for each connection: all processes of the program are looked at.
    let mut words = args!["recipe", "postgres-queries", "--uid", "nobody"];
    words.extend(flags.iter().map(ToString::to_string));
    Uprof::json(words)
        .deadline(Duration::from_secs(120))
        .start()
}

/// Runs a load watched by uprof; the server's own log of it goes with the report.
fn watched(server: &Postgres, load: impl FnOnce()) -> (Report, Vec<LoggedStatement>) {
    let before = server.statements().len();
    let uprof = watch(&[]);
    load();
    let report = uprof.stop().report();
    report.summary.assert_nothing_dropped();
    (report, server.statements().split_off(before))
}

fn statements(report: &Report) -> Vec<&Event> {
    report.events_of("statement").collect()
}

/// Each process's statements are those that it logged, in order, and none took longer than it says itself.
fn assert_as_logged(report: &Report, log: &[LoggedStatement]) {
    let mut seen = statements(report);
    let mut log: Vec<&LoggedStatement> = log.iter().collect();
    seen.sort_by_key(|event| event.pid);
    log.sort_by_key(|line| line.pid);
    let texts = |event: &&Event| (event.pid, event.text("sql").to_owned());
    let logged = |line: &&LoggedStatement| (line.pid, line.sql.clone());
    assert_eq!(
        seen.iter().map(texts).collect::<Vec<_>>(),
        log.iter().map(logged).collect::<Vec<_>>()
    );
    for (event, line) in seen.iter().zip(&log) {
        let latency = event.latency_ns.expect("a call has a latency");
        // The log is in microseconds.
        assert!(latency <= line.took_ns + 1000, "{event:?} {line:?}");
    }
}

#[test]
fn pgbench_in_all_three_protocols() {
    let _turn = turn();
    let server = Postgres::start();
    server.bench(&["-i", "-q", "-s", "1"]);
    for protocol in ["simple", "extended", "prepared"] {
        let (report, log) = watched(&server, || {
            server.bench(&["-n", "-M", protocol, "-c", "2", "-t", "50"]);
        });
        assert_as_logged(&report, &log);
        // Each of 100 transactions is seven statements of one row each, but for BEGIN and END.
        let rows: u64 = statements(&report)
            .iter()
            .filter(|event| event.text("sql").contains("pgbench_"))
            .map(|event| event.number("rows"))
            .sum();
        assert!(rows >= 500, "{protocol}: {rows} rows");
        assert!(log.len() >= 700, "{protocol}: {} statements", log.len());
    }
}

#[test]
fn rows_and_several_statements_in_one_string() {
    let _turn = turn();
    let server = Postgres::start();
    server.sql("CREATE TABLE t (n int, s text)");
    let (report, _) = watched(&server, || {
        server.sql("INSERT INTO t SELECT i, 'x' || i FROM generate_series(1, 1000) i");
        server.sql("SELECT * FROM t WHERE n <= 321");
        server.sql("UPDATE t SET n = 0 WHERE n > 990; DELETE FROM t WHERE n = 0");
    });
    let rows: Vec<u64> = statements(&report)
        .iter()
        .map(|event| event.number("rows"))
        .collect();
    assert_eq!(rows, [1000, 321, 10, 10]);
    for event in &statements(&report)[2..] {
        assert_eq!(
            event.text("sql"),
            "UPDATE t SET n = 0 WHERE n > 990; DELETE FROM t WHERE n = 0"
        );
    }
}

#[test]
fn errors_with_their_statement_code_and_message() {
    let _turn = turn();
    let server = Postgres::start();
    let (report, log) = watched(&server, || {
        server.sql_fails("SELEC 1");
        server.sql_fails("SELECT * FROM missing");
        server.sql_fails("SELECT 1 / (n - 5) FROM generate_series(1, 9) n");
        server.sql("SELECT 6 * 7");
    });
    let errors: Vec<_> = report
        .events_of("error")
        .map(|event| ["sql", "code", "message"].map(|field| event.text(field)))
        .collect();
    assert_eq!(
        errors,
        [
            ["SELEC 1", "42601", "syntax error at or near \"SELEC\""],
            [
                "SELECT * FROM missing",
                "42P01",
                "relation \"missing\" does not exist"
            ],
            [
                "SELECT 1 / (n - 5) FROM generate_series(1, 9) n",
                "22012",
                "division by zero"
            ],
        ]
    );
    // Of the three only the last came to be executed, and was left by a longjmp.
    assert_as_logged(&report, &log);
    let calls = report.probe("statement");
    assert_eq!((calls.hits, calls.emitted), (2, 1), "{calls:?}");
    assert_eq!(calls.unpaired, 1, "{calls:?}");
}

#[test]
fn only_slow_statements_but_every_error() {
    let _turn = turn();
    let server = Postgres::start();
    let uprof = watch(&["--min-latency", "40ms", "--phases"]);
    server.sql("SELECT 1");
    server.sql("SELECT pg_sleep(0.05)");
    server.sql_fails("SELECT nothing");
    let report = uprof.stop().report();
    report.summary.assert_nothing_dropped();
    let shown = statements(&report);
    // A busy machine may have made another one slow.
    assert!(
        shown
            .iter()
            .all(|event| event.latency_ns >= Some(40_000_000))
    );
    let slow = |event: &&&Event| event.text("sql") == "SELECT pg_sleep(0.05)";
    assert_eq!(shown.iter().filter(slow).count(), 1, "{shown:?}");
    assert_eq!(shown.len() as u64 + report.probe("statement").filtered, 2);
    assert_eq!(report.events_of("error").count(), 1);
    // What is parsed need not be planned.
    let phases = |name: &str| report.events_of(name).count();
    assert_eq!((phases("parse"), phases("plan")), (3, 2));
}
