//! `uprof recipe mysql-queries` against MySQL 8's signature and data layout, by a fixture: Debian has no MySQL.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::args;
use crate::harness::{Fixture, Report, Target, Uprof, turn};
use crate::mysql::{STATEMENT, of_command};

fn queries(
    server: Fixture,
    target_args: Vec<String>,
    flags: Vec<String>,
) -> (Report, Vec<Value>, Value) {
    let mut server = Target::gated(&server.path(), target_args);
    let mut words = args!["recipe", "mysql-queries", "--pid", server.pid()];
    words.extend(flags);
    let uprof = Uprof::json(words).start();
    server.go();
    let (texts, truth) = server.lines_and_truth();
    let report = uprof.stop().report();
    assert!(server.end().success());
    (report, texts, truth)
}

/// The bytes of a text of the truth, where each character is one byte.
fn bytes(text: &Value) -> Vec<u8> {
    text.as_str()
        .unwrap()
        .chars()
        .map(|c| u8::try_from(u32::from(c)).expect("one byte a character"))
        .collect()
}

/// How uprof writes bytes in JSON: UTF-8 as it is, anything else as `\xNN`.
fn written(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

#[test]
fn every_statement_with_its_text() {
    let _turn = turn();
    for server in [Fixture::Mysql8, Fixture::Mysql8Inlined] {
        assert_complete(server);
    }
}

fn assert_complete(server: Fixture) {
    let (report, texts, truth) =
        queries(server, args!["--sessions", 4, "--executes", 300], args![]);
    report.summary.assert_nothing_dropped();
    assert_eq!(
        report.probe(STATEMENT).hits,
        truth["calls"].as_u64().unwrap()
    );
    let commands = [
        ("Query", "query", "queries"),
        ("Prepare", "prepare", "prepares"),
        ("Execute", "execute", "executes"),
    ];
    for (command, one, all) in commands {
        let events = of_command(&report, command);
        assert_eq!(
            events.len() as u64,
            truth[all].as_u64().unwrap(),
            "{command}"
        );
        let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
        for event in &events {
            *seen.entry(event.text("sql")).or_default() += 1;
        }
        // Short texts must be there exactly as often as they were sent; long ones are looked at below.
        let short = |text: &&Value| {
            text["length"].as_u64().unwrap() < 600 && text[one].as_u64().unwrap() > 0
        };
        for text in texts.iter().filter(short) {
            let sql = written(&bytes(&text["text"]));
            assert_eq!(
                seen.remove(sql.as_str()),
                text[one].as_u64(),
                "{command}: {sql}"
            );
        }
        assert!(
            seen.keys().all(|sql| sql.len() >= 600),
            "{command}: texts that were not sent: {seen:?}"
        );
    }
}

#[test]
fn long_text_is_marked_as_cut() {
    let _turn = turn();
    for (limit, flags) in [(1024, args![]), (65_536, args!["--text-limit", "64KiB"])] {
        assert_long_text(limit, flags);
    }
}

fn assert_long_text(limit: u64, flags: Vec<String>) {
    let target = args!["--sessions", 1, "--executes", 1];
    let (report, texts, _) = queries(Fixture::Mysql8, target, flags);
    let long: Vec<(String, u64)> = texts
        .iter()
        .filter(|text| text["length"].as_u64().unwrap() > 600)
        .map(|text| {
            (
                text["text"].as_str().unwrap().to_owned(),
                text["length"].as_u64().unwrap(),
            )
        })
        .collect();
    assert_eq!(long.len(), 3);
    for (begin, length) in long {
        let events: Vec<_> = report
            .events_of(STATEMENT)
            .filter(|e| {
                e.fields["sql"]
                    .as_str()
                    .is_some_and(|sql| sql.starts_with(&begin))
            })
            .collect();
        assert!(!events.is_empty(), "{begin}");
        for event in events {
            let shown = event.text("sql").len() as u64;
            assert_eq!(shown, length.min(limit), "{begin}");
            assert_eq!(
                event.is_cut("sql"),
                shown < length,
                "{shown} of {length} bytes"
            );
            assert!(
                !event.text("sql").contains("<<bytes after"),
                "beyond the text's end: {begin}"
            );
        }
    }
}

#[test]
fn slow_executes_alone_with_the_text_of_a_quick_prepare() {
    let _turn = turn();
    let target = args!["--sessions", 4, "--executes", 9, "--slow-ms", 20];
    let flags = args!["--min-latency", "10ms"];
    let (report, _, truth) = queries(Fixture::Mysql8, target, flags);
    report.summary.assert_nothing_dropped();
    let events: Vec<_> = report.events_of(STATEMENT).collect();
    assert_eq!(events.len() as u64, truth["slow"].as_u64().unwrap());
    for event in events {
        assert_eq!(event.text("command"), "Execute");
        // The slow one is the second of each session; a session's address is used twice.
        let sql = event.text("sql");
        let second = sql.contains("AND k2 = ?") || sql.starts_with("SELECT /* prepared 3000 */ ?");
        assert!(second, "{event:?}");
    }
    let probe = report.probe(STATEMENT);
    assert_eq!(probe.filtered, probe.hits - probe.emitted);
}
