//! `uprof recipe nginx-close` against a real nginx: connections of known numbers of requests, and nginx's own log of them.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use crate::args;
use crate::harness::servers::Nginx;
use crate::harness::uprof::Running;
use crate::harness::{Report, Uprof, turn, wait_for};

fn server() -> Nginx {
    let nobody = TcpListener::bind(("127.0.0.1", 0)).expect("a port on the loopback");
    Nginx::start(nobody.local_addr().expect("it is bound").port())
}

fn watch(server: &Nginx, flags: &[&str]) -> Running {
    let mut words = args!["recipe", "nginx-close"];
    for pid in server.workers() {
        words.extend(args!["--pid", pid]);
    }
    words.extend(flags.iter().map(ToString::to_string));
    Uprof::json(words)
        .deadline(Duration::from_secs(120))
        .start()
}

/// As many requests as said on one connection, of which nginx closes the last: whoever reads on sees its end.
fn talk(server: &Nginx, path: &str, requests: u64) {
    let mut stream = server.connect();
    for left in (0..requests).rev() {
        let connection = if left > 0 { "keep-alive" } else { "close" };
        let text = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: {connection}\r\n\r\n");
        stream.write_all(text.as_bytes()).expect("write to nginx");
        if left > 0 {
            one_answer(&mut stream);
        }
    }
    let mut rest = Vec::new();
    stream
        .read_to_end(&mut rest)
        .expect("nginx answers and closes");
    assert!(rest.starts_with(b"HTTP/1.1 200"), "{rest:?}");
}

/// Reads an answer whose body ends in "behind".
fn one_answer(stream: &mut TcpStream) {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"behind") {
        let mut buffer = [0; 4096];
        let got = stream.read(&mut buffer).expect("nginx answers");
        assert!(got > 0, "nginx closed early: {bytes:?}");
        bytes.extend(&buffer[..got]);
    }
}

/// What is told of connections of the role: by nginx's number of it, requests, bytes sent and received.
fn of_role(report: &Report, role: &str) -> BTreeMap<u64, [u64; 3]> {
    let events = report.events_of("close");
    let events = events.filter(|event| event.text("role") == role);
    events
        .map(|event| {
            assert!(event.number("fd") > 2, "{event:?}");
            let told = ["requests", "bytes_sent", "bytes_received"];
            (event.number("number"), told.map(|what| event.number(what)))
        })
        .collect()
}

#[test]
fn every_close_with_the_numbers_of_its_connection() {
    let _turn = turn();
    let server = server();
    let before = server.log().len();
    let uprof = watch(&server, &[]);
    for requests in [1, 2, 7] {
        talk(&server, "/once/x", requests);
    }
    let log = wait_for("the log to be written", || {
        let log = server.log();
        (log.len() >= before + 2 * 10).then(|| log[before..].to_vec())
    });
    server.wait_closed();
    let report = uprof.stop().report();
    report.summary.assert_nothing_dropped();
    // How many requests each connection has served, and the bytes of all.
    let mut truth: BTreeMap<u64, [u64; 3]> = BTreeMap::new();
    for line in &log {
        let [requests, sent, received] = truth.entry(line.connection).or_default();
        *requests = line.requests;
        *sent += line.sent;
        *received += line.received;
    }
    assert_eq!(of_role(&report, "server"), truth);
    // To the server behind, each request has a connection of its own.
    assert_eq!(of_role(&report, "client").len(), 10);
    for event in report.events_of("close") {
        let is_ours = |end| event.text(end).starts_with("127.0.0.1:");
        assert!(is_ours("local") && is_ours("remote"), "{event:?}");
    }
}

#[test]
fn the_age_is_that_of_the_connection() {
    let _turn = turn();
    let server = server();
    let uprof = watch(&server, &["--min-age", "80ms"]);
    talk(&server, "/once/x", 1);
    let begun = std::time::Instant::now();
    let mut stream = server.connect();
    stream
        .write_all(b"GET /file HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r")
        .expect("write to nginx");
    std::thread::sleep(Duration::from_millis(100));
    stream.write_all(b"\n").expect("write to nginx");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("nginx answers");
    let lived = begun.elapsed();
    let report = uprof.stop().report();
    let ours = stream.local_addr().expect("it is bound").to_string();
    let mut found = 0;
    for event in report.events_of("close") {
        let age = Duration::from_nanos(event.number("age_ns"));
        // nginx's clock has steps of a millisecond, and stands between events.
        assert!(age >= Duration::from_millis(75), "{event:?}");
        if event.text("remote") == ours {
            assert!(
                Duration::from_millis(100) <= age && age <= lived,
                "{event:?} of {lived:?}"
            );
            found += 1;
        }
    }
    assert_eq!(
        (found, report.events.len()),
        (1, report.probe("close").emitted as usize)
    );
}

#[test]
fn counts_by_role() {
    let _turn = turn();
    let server = server();
    let uprof = watch(&server, &["--count"]);
    for _ in 0..20 {
        talk(&server, "/once/x", 1);
    }
    server.wait_closed();
    let report = uprof.stop().report();
    report.summary.assert_nothing_dropped();
    assert!(report.events.is_empty(), "{:?}", report.events);
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for count in &report.summary.counts {
        let role = count.key["role"].as_str().expect("a role");
        *counts.entry(role).or_default() += count.count;
    }
    // 20 of the test's, and 20 that nginx itself opened to the server behind, which is nginx at both ends.
    assert_eq!(counts, BTreeMap::from([("client", 20), ("server", 40)]));
}
