//! `uprof recipe nginx-requests` against a real nginx: what its own access log says, request by request.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::args;
use crate::harness::machine::tool;
use crate::harness::report::Event;
use crate::harness::servers::{Logged, Nginx};
use crate::harness::uprof::Running;
use crate::harness::{Fixture, Target, Uprof, turn, wait_for};

/// A server that nginx asks and that never answers.
fn silent() -> TcpListener {
    TcpListener::bind(("127.0.0.1", 0)).expect("a port on the loopback")
}

fn server(silent: &TcpListener) -> Nginx {
    Nginx::start(silent.local_addr().expect("it is bound").port())
}

fn watch(server: &Nginx, flags: &[&str]) -> Running {
    let mut words = args!["recipe", "nginx-requests"];
    for pid in server.workers() {
        words.extend(args!["--pid", pid]);
    }
    words.extend(flags.iter().map(ToString::to_string));
    Uprof::json(words)
        .deadline(Duration::from_secs(120))
        .start()
}

/// What an event says, in the log's terms.
fn told(event: &Event) -> Logged {
    let text = |field: &str| match event.fields.get(field) {
        Some(value) => value.as_str().unwrap_or_default().to_owned(),
        None => String::new(),
    };
    let took = event.number("took");
    assert_eq!(
        took % 1_000_000,
        0,
        "nginx's time is in milliseconds: {event:?}"
    );
    Logged {
        pid: event.pid,
        status: event.number("status"),
        method: text("method"),
        uri: text("uri"),
        took_ms: took / 1_000_000,
        sent: event.number("sent"),
        received: event.number("received"),
        http: text("http"),
        proxied: event.number("proxied") == 1,
        connection: 0,
        requests: 0,
    }
}

/// A line without what the recipe does not tell, and what a request is not known to be where it was not understood.
fn comparable(line: &Logged) -> Logged {
    let unread = line.method.is_empty();
    Logged {
        http: if unread {
            String::new()
        } else {
            line.http.clone()
        },
        connection: 0,
        requests: 0,
        ..line.clone()
    }
}

/// Reads one answer to each of METHODS, each with its length in its header.
fn answers(stream: &mut TcpStream, methods: &[&str]) {
    let mut bytes = Vec::new();
    for method in methods {
        let head = loop {
            if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            more(stream, &mut bytes);
        };
        let header = String::from_utf8_lossy(&bytes[..head]).to_lowercase();
        let length: usize = match header.split("content-length: ").nth(1) {
            Some(rest) if *method != "HEAD" => {
                rest.lines().next().unwrap_or_default().parse().unwrap()
            }
            _ => 0,
        };
        while bytes.len() < head + length {
            more(stream, &mut bytes);
        }
        bytes.drain(..head + length);
    }
}

fn more(stream: &mut TcpStream, bytes: &mut Vec<u8>) {
    let mut buffer = [0; 65536];
    let got = stream.read(&mut buffer).expect("nginx answers");
    assert!(
        got > 0,
        "nginx closed before its answer was whole: {bytes:?}"
    );
    bytes.extend(&buffer[..got]);
}

fn request(method: &str, path: &str, body: &str) -> String {
    let length = match body.len() {
        0 => String::new(),
        length => format!("Content-Length: {length}\r\n"),
    };
    format!("{method} {path} HTTP/1.1\r\nHost: test\r\n{length}\r\n{body}")
}

/// Sends requests one after the other on one connection.
fn in_turn(server: &Nginx, requests: &[(&str, &str, &str)]) {
    let mut stream = server.connect();
    for (method, path, body) in requests {
        stream
            .write_all(request(method, path, body).as_bytes())
            .expect("write to nginx");
        answers(&mut stream, &[method]);
    }
}

/// The server's own count of requests, without this one.
fn counted(server: &Nginx) -> u64 {
    let mut stream = server.connect();
    stream
        .write_all(b"GET /counters HTTP/1.0\r\n\r\n")
        .expect("write to nginx");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("nginx answers");
    let numbers = text
        .lines()
        .skip_while(|line| !line.starts_with("server accepts"))
        .nth(1)
        .expect("the counters");
    let requests: u64 = numbers.split_whitespace().nth(2).unwrap().parse().unwrap();
    requests - 1
}

/// All kinds of requests: kept alive, pipelined, failing, proxied, given up, broken, and of HTTP/2.
fn all_kinds(server: &Nginx, silent: &TcpListener) {
    in_turn(
        server,
        &[
            ("GET", "/file", ""),
            ("GET", "/file?with=arguments&and=%20", ""),
            ("HEAD", "/file", ""),
            ("GET", "/missing", ""),
            ("POST", "/post", "a body"),
            ("DELETE", "/file", ""),
            ("GET", "/kept/a", ""),
            ("GET", "/kept/b", ""),
            ("GET", "/once/a", ""),
        ],
    );
    let mut stream = server.connect();
    let pipelined: String = (0..5)
        .map(|i| request("GET", &format!("/file?{i}"), ""))
        .collect();
    stream
        .write_all(pipelined.as_bytes())
        .expect("write to nginx");
    answers(&mut stream, &["GET"; 5]);
    // 413, and the connection's end.
    let mut stream = server.connect();
    stream
        .write_all(b"POST /post HTTP/1.1\r\nHost: test\r\nContent-Length: 2000\r\n\r\n")
        .expect("write to nginx");
    answers(&mut stream, &["POST"]);
    drop(stream);
    // 400: no request at all.
    let mut stream = server.connect();
    stream.write_all(b"what?\r\n\r\n").expect("write to nginx");
    answers(&mut stream, &["GET"]);
    drop(stream);
    give_up(server, silent);
    over_http2(server);
}

/// A client that goes while nginx waits for a server behind it: 499.
fn give_up(server: &Nginx, silent: &TcpListener) {
    let mut stream = server.connect();
    stream
        .write_all(request("GET", "/silent", "").as_bytes())
        .expect("write to nginx");
    let (asked, _) = silent.accept().expect("nginx asks the server behind it");
    std::thread::sleep(Duration::from_millis(60));
    drop(stream);
    wait_for("nginx to see that its client is gone", || {
        server
            .log()
            .iter()
            .any(|line| line.uri == "/silent")
            .then_some(())
    });
    drop(asked);
}

/// A connection each: curl 7.88 cannot send a second request on one that began with HTTP/2.
fn over_http2(server: &Nginx) {
    for path in ["/file?1", "/file?2", "/missing?3"] {
        let output = Command::new(tool("curl"))
            .args(["-sS", "--http2-prior-knowledge"])
            .arg(format!("http://127.0.0.1:{}{path}", server.http2))
            .output()
            .expect("run curl");
        assert!(output.status.success(), "curl: {output:?}");
    }
}

#[test]
fn every_request_is_that_of_the_access_log() {
    let _turn = turn();
    let silent = silent();
    let server = server(&silent);
    let before = counted(&server) + 1;
    let logged_before = wait_for("the log's first line", || {
        Some(server.log().len()).filter(|&lines| lines > 0)
    });
    let uprof = watch(&server, &[]);
    all_kinds(&server, &silent);
    let requests = counted(&server) + 1 - before;
    let mut expected = wait_for("the log to be written", || {
        let log = server.log();
        let new = log[logged_before..].iter().map(comparable);
        let new: Vec<Logged> = new.collect();
        (new.len() as u64 == requests).then_some(new)
    });
    let report = uprof.stop().report();
    report.summary.assert_nothing_dropped();
    let mut seen: Vec<Logged> = report
        .events_of("request")
        .map(|event| comparable(&told(event)))
        .collect();
    // Each worker writes its own lines in order; those of the two are in any.
    expected.sort_by_key(|line| line.pid);
    seen.sort_by_key(|line| line.pid);
    assert_eq!(seen, expected);
    assert_all_kinds(&seen);
}

/// The load was what it should be.
fn assert_all_kinds(seen: &[Logged]) {
    let count = |of: &dyn Fn(&&Logged) -> bool| seen.iter().filter(of).count();
    for status in [200, 201, 400, 404, 405, 413, 499] {
        assert!(
            count(&|line| line.status == status) > 0,
            "{status}: {seen:?}"
        );
    }
    assert_eq!(count(&|line| line.http == "2.0"), 3, "{seen:?}");
    assert_eq!(count(&|line| line.proxied), 4, "{seen:?}");
    let given_up = seen.iter().find(|line| line.uri == "/silent").unwrap();
    assert!(given_up.took_ms >= 50, "{given_up:?}");
}

#[test]
fn a_load_of_kept_alive_requests_is_complete() {
    let _turn = turn();
    let silent = silent();
    let server = server(&silent);
    let before = counted(&server) + 1;
    let uprof = watch(&server, &[]);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| in_turn(&server, &[("GET", "/file", ""); 500]));
        }
    });
    let requests = counted(&server) + 1 - before;
    let report = uprof.stop().report();
    report.summary.assert_nothing_dropped();
    assert_eq!(report.probe("request").emitted, requests);
    let of_load = report
        .events_of("request")
        .filter(|event| event.text("uri") == "/file" && event.number("status") == 200);
    assert_eq!(of_load.count(), 2000);
}

#[test]
fn only_those_that_failed_or_were_slow() {
    let _turn = turn();
    let silent = silent();
    let server = server(&silent);
    let failed = watch(&server, &["--least-status", "404"]);
    let slow = watch(&server, &["--min-took", "50ms"]);
    in_turn(&server, &[("GET", "/file", ""), ("GET", "/missing", "")]);
    give_up(&server, &silent);
    let shown = |run: Running| {
        let report = run.stop().report();
        assert_eq!(report.probe("request").hits, 3);
        let events: Vec<Logged> = report.events_of("request").map(told).collect();
        events
    };
    let failed: Vec<String> = shown(failed).into_iter().map(|line| line.uri).collect();
    assert_eq!(failed, ["/missing", "/silent"]);
    // A busy machine may have made others slow.
    let slow = shown(slow);
    assert!(slow.iter().all(|line| line.took_ms >= 50), "{slow:?}");
    assert!(slow.iter().any(|line| line.uri == "/silent"), "{slow:?}");
}

#[test]
fn other_layouts_are_known_or_refused() {
    let _turn = turn();
    let mut target = Target::gated(&Fixture::NginxLayouts.path(), [] as [&str; 0]);
    let uprof = Uprof::json(args!["recipe", "nginx-requests", "--pid", target.pid()]).start();
    target.truth();
    let report = uprof.stop().report();
    let events: Vec<&Event> = report.events_of("request").collect();
    let [known @ .., unknown] = &events[..] else {
        panic!("no event: {report:?}");
    };
    let uris: Vec<&str> = known.iter().map(|event| event.text("uri")).collect();
    assert_eq!(uris, ["1.22.1", "1.24.0", "1.28.0", "1.31.4"]);
    for (event, status) in known.iter().zip(200..) {
        let told = ["client", "method", "http"].map(|field| event.text(field));
        assert_eq!(told, ["192.0.2.7", "GET", "1.1"]);
        let told = ["status", "took", "sent", "received"].map(|field| event.number(field));
        assert_eq!(told, [status, 350_000_000, 1234, 77], "{event:?}");
    }
    for field in ["method", "uri", "status", "took", "received", "http"] {
        let value = unknown.fields.get(field);
        assert!(value.is_none_or(Value::is_null), "{field}: {unknown:?}");
    }
}
