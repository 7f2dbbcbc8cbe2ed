//! `uprof recipe mysql-queries` against a real MariaDB: as many statements as the server's own
//! counters say, each with its text.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::args;
use crate::harness::report::Event;
use crate::harness::servers::MariaDb;
use crate::harness::uprof::Running;
use crate::harness::{Report, Uprof, turn, wait_for};

/// The recipe's probe that is one event per statement.
pub const STATEMENT: &str = "statement";

fn queries(server: &MariaDb, flags: &[&str]) -> Running {
    let mut words = args!["recipe", "mysql-queries", "--pid", server.pid()];
    words.extend(flags.iter().map(ToString::to_string));
    Uprof::json(words)
        .deadline(Duration::from_secs(120))
        .start()
}

/// Events of a command of the protocol.
pub fn of_command<'a>(report: &'a Report, command: &'a str) -> Vec<&'a Event> {
    report
        .events_of(STATEMENT)
        .filter(|event| event.text("command") == command)
        .collect()
}

/// Statements with their texts: none without, none lost.
fn assert_texts(report: &Report) {
    report.summary.assert_nothing_dropped();
    for command in ["Query", "Prepare", "Execute"] {
        for event in of_command(report, command) {
            assert!(!event.text("sql").is_empty(), "{event:?}");
            assert!(event.latency_ns.is_some_and(|ns| ns > 0), "{event:?}");
        }
    }
}

/// Runs a load between two looks at the server's counters, watched by uprof.
struct Watched {
    report: Report,
    statements: u64,
    executes: u64,
    prepares: u64,
}

fn watch(server: &MariaDb, load: impl FnOnce()) -> Watched {
    let before = server.counters();
    let uprof = queries(server, &[]);
    load();
    let report = uprof.stop().report();
    let after = server.counters();
    Watched {
        report,
        statements: after.statements(&before),
        executes: after.grown(&before, "Com_stmt_execute"),
        prepares: after.grown(&before, "Com_stmt_prepare"),
    }
}

impl Watched {
    fn assert_complete(&self) {
        assert_texts(&self.report);
        let count = |command| of_command(&self.report, command).len() as u64;
        assert_eq!(count("Execute"), self.executes, "Com_stmt_execute");
        assert_eq!(count("Prepare"), self.prepares, "Com_stmt_prepare");
        assert_eq!(
            count("Query") + count("Execute"),
            self.statements,
            "all of Com_*"
        );
    }
}

const OLTP: &[&str] = &["--threads=4", "--events=300", "--time=30"];

#[test]
fn sysbench_with_prepared_statements() {
    let _turn = turn();
    let server = MariaDb::start();
    server.sysbench("oltp_read_write", &[], "prepare");
    let watched = watch(&server, || {
        server.sysbench(
            "oltp_read_write",
            &[OLTP, &["--db-ps-mode=auto"]].concat(),
            "run",
        );
    });
    watched.assert_complete();
    assert!(
        watched.executes >= 300 * 20,
        "{} executes",
        watched.executes
    );
    // The text at EXECUTE is that of a PREPARE, with its placeholders.
    let prepared: Vec<&str> = of_command(&watched.report, "Prepare")
        .iter()
        .map(|event| event.text("sql"))
        .collect();
    for event in of_command(&watched.report, "Execute") {
        assert!(prepared.contains(&event.text("sql")), "{event:?}");
    }
    let selects = of_command(&watched.report, "Execute")
        .iter()
        .filter(|e| e.text("sql").starts_with("SELECT c FROM sbtest"))
        .count();
    assert!(selects >= 300 * 10, "{selects} point selects and ranges");
}

#[test]
fn sysbench_without_prepared_statements() {
    let _turn = turn();
    let server = MariaDb::start();
    server.sysbench("oltp_read_write", &[], "prepare");
    let watched = watch(&server, || {
        server.sysbench(
            "oltp_read_write",
            &[OLTP, &["--db-ps-mode=disable"]].concat(),
            "run",
        );
    });
    watched.assert_complete();
    assert_eq!(watched.executes, 0);
    assert!(
        watched.statements >= 300 * 20,
        "{} statements",
        watched.statements
    );
}

#[test]
fn mysqlslap() {
    let _turn = turn();
    let server = MariaDb::start();
    let watched = watch(&server, || {
        server.slap(&[
            "--concurrency=4",
            "--number-of-queries=4000",
            "--delimiter=;",
            "--query=SELECT 1;SELECT 'two'",
        ]);
    });
    watched.assert_complete();
    let mut texts: BTreeMap<&str, u32> = BTreeMap::new();
    for event in of_command(&watched.report, "Query") {
        *texts.entry(event.text("sql")).or_default() += 1;
    }
    let both = texts.get("SELECT 1").unwrap_or(&0) + texts.get("SELECT 'two'").unwrap_or(&0);
    assert_eq!(both, 4000, "{texts:?}");
}

#[test]
fn only_slow_statements_yet_prepared_text_is_known() {
    let _turn = turn();
    let server = MariaDb::start();
    let uprof = queries(&server, &["--min-latency", "40ms"]);
    for i in 0..20 {
        server.sql(&format!("SELECT {i}"));
    }
    server.sql("SELECT SLEEP(0.05)");
    server.sql("DO SLEEP(0.05)");
    let report = uprof.stop().report();
    report.summary.assert_nothing_dropped();
    let mut texts: Vec<&str> = report
        .events_of(STATEMENT)
        .map(|event| event.text("sql"))
        .collect();
    texts.sort_unstable();
    assert_eq!(texts, ["DO SLEEP(0.05)", "SELECT SLEEP(0.05)"]);
    for event in report.events_of(STATEMENT) {
        let latency = event.latency_ns.unwrap();
        assert!((50_000_000..1_000_000_000).contains(&latency), "{event:?}");
    }
    assert!(
        report.probe(STATEMENT).filtered >= 20,
        "{:?}",
        report.probe(STATEMENT)
    );
}

#[test]
fn a_slow_execute_shows_the_text_of_a_quick_prepare() {
    let _turn = turn();
    let server = MariaDb::start();
    server.sysbench("oltp_point_select", &[], "prepare");
    // A trigger makes the prepared INSERT slow; its PREPARE is quick, so no event of its own is shown for it.
    server.sql("CREATE TABLE slow (n INT); CREATE TRIGGER late BEFORE INSERT ON slow FOR EACH ROW SET @x = SLEEP(0.05)");
    let script = tempfile::Builder::new().suffix(".lua").tempfile().unwrap();
    std::fs::write(
        script.path(),
        "function thread_init()\n\
           drv = sysbench.sql.driver(); con = drv:connect()\n\
           stmt = con:prepare('INSERT INTO slow VALUES (?)')\n\
           n = stmt:bind_create(sysbench.sql.type.INT); stmt:bind_param(n)\n\
         end\n\
         function event() n:set(7); stmt:execute() end\n\
         function thread_done() stmt:close(); con:disconnect() end\n",
    )
    .unwrap();
    let uprof = queries(&server, &["--min-latency", "40ms"]);
    let script = script.path().display().to_string();
    let output = server.sysbench(
        &script,
        &[
            "--threads=1",
            "--events=3",
            "--time=20",
            "--db-ps-mode=auto",
        ],
        "run",
    );
    let report = uprof.stop().report();
    let events: Vec<&Event> = report.events_of(STATEMENT).collect();
    assert_eq!(events.len(), 3, "{output}");
    for event in events {
        assert_eq!(
            (event.text("command"), event.text("sql")),
            ("Execute", "INSERT INTO slow VALUES (?)")
        );
    }
}

#[test]
fn long_text_is_whole_or_marked_as_cut() {
    let _turn = turn();
    let server = MariaDb::start();
    let texts: Vec<String> = [
        100usize, 900, 1023, 1024, 1025, 4000, 60_000, 65_536, 100_000,
    ]
    .iter()
    .map(|length| {
        format!(
            "SELECT LENGTH('{}')",
            "x".repeat(length - "SELECT LENGTH('')".len())
        )
    })
    .collect();
    let uprof = queries(&server, &[]);
    for text in &texts {
        server.sql(text);
    }
    // A client has its answer before the server's function returns: the calls are over when its connection is.
    wait_for("the connections to end", || {
        let others =
            "SELECT COUNT(*) - 1 FROM information_schema.PROCESSLIST WHERE COMMAND <> 'Daemon'";
        (server.sql(others).lines().last() == Some("0")).then_some(())
    });
    let report = uprof.stop().report();
    report.summary.assert_nothing_dropped();
    let mut queries = of_command(&report, "Query");
    queries.retain(|event| event.text("sql").starts_with("SELECT LENGTH"));
    assert_eq!(queries.len(), texts.len());
    for (event, text) in queries.iter().zip(&texts) {
        let shown = event.text("sql");
        assert!(
            text.starts_with(shown),
            "not the text's beginning: {} of {} bytes",
            shown.len(),
            text.len()
        );
        assert_eq!(
            event.is_cut("sql"),
            shown.len() < text.len(),
            "{} of {} bytes",
            shown.len(),
            text.len()
        );
        // Never a silent 64 bytes: what is below the limit of 1 KiB is whole.
        assert!(
            shown.len() >= text.len().min(1000),
            "{} of {} bytes",
            shown.len(),
            text.len()
        );
    }
}

#[test]
fn bytes_that_are_not_plain_text() {
    let _turn = turn();
    let server = MariaDb::start();
    let uprof = queries(&server, &[]);
    server.sql("SELECT '\u{1b}[31m' AS `tab\t`, 'caf\u{e9}'");
    let report = uprof.stop().report();
    assert_eq!(
        of_command(&report, "Query")[0].text("sql"),
        "SELECT '\u{1b}[31m' AS `tab\t`, 'caf\u{e9}'"
    );
}

#[test]
fn statements_that_fail_are_statements_too() {
    let _turn = turn();
    let server = MariaDb::start();
    let uprof = queries(&server, &[]);
    let error = server.sql_fails("SELEC 1");
    assert!(error.contains("syntax"), "{error}");
    let report = uprof.stop().report();
    assert!(
        of_command(&report, "Query")
            .iter()
            .any(|event| event.text("sql") == "SELEC 1")
    );
}

#[test]
fn on_a_terminal_there_are_rows_percentiles_and_the_top_statements() {
    let _turn = turn();
    let server = MariaDb::start();
    let uprof = Uprof::new(args!["recipe", "mysql-queries", "--pid", server.pid()]).start();
    for i in 0..30 {
        server.sql(&format!("SELECT {i} + {i}"));
    }
    server.sql("SELECT '\u{1b}[31mred'");
    let finished = uprof.stop().ok();
    let text = finished.text();
    assert!(
        text.contains("SELECT 7 + 7"),
        "each statement has its row:\n{text}"
    );
    assert!(
        text.to_lowercase().contains("select ? + ?"),
        "the top statements have their literals folded:\n{text}"
    );
    assert!(text.contains("p99"), "percentiles by command:\n{text}");
    assert!(text.contains("hits ="), "the accounting:\n{text}");
    assert!(
        !text.contains('\u{1b}'),
        "a target cannot write to the terminal:\n{text}"
    );
}

#[test]
fn the_server_goes_on_undisturbed() {
    let _turn = turn();
    let server = MariaDb::start();
    for _ in 0..5 {
        let uprof = queries(&server, &[]);
        assert_eq!(server.sql("SELECT 6 * 7").trim(), "42");
        let report = uprof.stop().report();
        assert_eq!(of_command(&report, "Query").len(), 1);
    }
    assert_eq!(server.sql("SELECT 6 * 7").trim(), "42");
}
