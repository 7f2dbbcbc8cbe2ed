//! `uprof recipe openssl-io` against Python's and OpenSSL's own ends of connections, which log what they sent.

use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::args;
use crate::harness::machine::tool;
use crate::harness::{Report, Target, Uprof, turn};

/// A server and a client in one process, each in a thread of its own. A line for each read and write: the thread, which
/// of the two, the text and its length; of the client's alone the last read fails, since the server breaks off.
const SCRIPT: &str = r#"
import json, os, socket, ssl, sys, threading
server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
server.load_cert_chain("cert.pem", "key.pem")
client = ssl.create_default_context(cafile="cert.pem")
print(json.dumps({"ready": True, "pid": os.getpid()}), flush=True)
sys.stdin.readline()
lock, failed = threading.Lock(), 0

def log(what, data):
    with lock:
        text = data.decode("latin-1")
        line = {"tid": threading.get_native_id(), "what": what, "size": len(data), "text": text[:100]}
        print(json.dumps(line), flush=True)

def receive(s, size):
    while size > 0:
        data = s.recv(65536)
        log("read", data)
        size -= len(data)

def serve(listener):
    s = server.wrap_socket(listener.accept()[0], server_side=True)
    for size in sizes:
        receive(s, size)
        answer = b"answer " + b"y" * size
        s.sendall(answer)
        log("write", answer)
    # Without a good-bye.
    socket.socket(fileno=s.detach()).close()

sizes = [1, 5, 100, 1000, 5000, 40000]
listener = socket.create_server(("127.0.0.1", 0))
thread = threading.Thread(target=serve, args=[listener])
thread.start()
raw = socket.create_connection(listener.getsockname())
s = client.wrap_socket(raw, server_hostname="localhost", suppress_ragged_eofs=False)
for size in sizes:
    question = b"q" * size
    s.sendall(question)
    log("write", question)
    receive(s, size + 7)
try:
    s.recv(1)
except OSError:
    failed += 1
thread.join()
print(json.dumps({"pid": os.getpid(), "failed": failed}), flush=True)
sys.stdin.readline()
"#;

/// A folder with a certificate for `localhost` and its key.
fn certificate() -> TempDir {
    let folder = tempfile::Builder::new()
        .prefix("uprof-openssl-")
        .tempdir()
        .expect("a temporary folder");
    let words = "req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=localhost \
                 -addext subjectAltName=DNS:localhost";
    let output = Command::new(tool("openssl"))
        .args(words.split_whitespace())
        .current_dir(folder.path())
        .output()
        .expect("run openssl");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    folder
}

fn connections(flags: &[&str]) -> (Report, Vec<Value>, Value) {
    let folder = certificate();
    let mut python = Command::new(tool("python3"));
    python.args(["-c", SCRIPT]).current_dir(folder.path());
    let mut target = Target::spawn(python);
    assert_eq!(target.line()["ready"], true);
    let mut words = args!["recipe", "openssl-io", "--pid", target.pid()];
    words.extend(flags.iter().map(ToString::to_string));
    let uprof = Uprof::json(words).start();
    target.go();
    let (lines, truth) = target.lines_and_truth();
    let report = uprof.stop().report();
    assert!(target.end().success());
    report.summary.assert_nothing_dropped();
    (report, lines, truth)
}

/// The thread, and reading or writing, of one of the four functions.
fn what(probe: &str) -> &'static str {
    match probe {
        "SSL_read" | "SSL_read_ex" => "read",
        "SSL_write" | "SSL_write_ex" => "write",
        other => panic!("a probe {other}"),
    }
}

#[test]
fn sizes_by_thread() {
    let _turn = turn();
    let (report, lines, truth) = connections(&[]);
    let mut failed = 0;
    let mut counted = 0;
    for h in &report.summary.histograms {
        assert_eq!(h.unit, "bytes");
        if h.key["result"] == "failed" {
            assert_eq!((what(&h.name), h.max), ("read", 0));
            failed += h.count;
            continue;
        }
        let of = |line: &&Value| line["tid"] == h.key["tid"] && line["what"] == what(&h.name);
        let sizes: Vec<u64> = lines
            .iter()
            .filter(of)
            .map(|line| line["size"].as_u64().unwrap())
            .collect();
        assert_eq!(h.count, sizes.len() as u64, "{h:?}");
        assert_eq!(Some(&h.max), sizes.iter().max(), "{h:?}");
        let total = (h.mean * h.count as f64).round() as u64;
        assert_eq!(total, sizes.iter().sum::<u64>(), "{h:?}");
        counted += sizes.len();
    }
    assert_eq!(counted, lines.len());
    assert_eq!(failed, truth["failed"].as_u64().unwrap());
    assert_eq!(failed, 1);
}

#[test]
fn each_call_with_its_text() {
    let _turn = turn();
    for flags in [&["--text", "--text-limit", "64KiB"][..], &["--events"]] {
        let (report, lines, _) = connections(flags);
        let texts = flags[0] == "--text";
        let mut connections = std::collections::BTreeMap::new();
        for line in &lines {
            let mut events = report
                .events
                .iter()
                .filter(|e| u64::from(e.tid) == line["tid"] && what(&e.probe) == line["what"]);
            // Of one thread and direction they come in the order of the log.
            let taken: &mut usize = connections
                .entry((line["tid"].as_u64(), line["what"].as_str()))
                .or_default();
            let event = events.nth(*taken).unwrap_or_else(|| panic!("{line}"));
            *taken += 1;
            assert_eq!(event.text("result"), "ok");
            assert_eq!(event.number("size"), line["size"].as_u64().unwrap());
            if texts {
                let text = event.text("text");
                assert!(text.starts_with(line["text"].as_str().unwrap()), "{line}");
                assert_eq!(text.len() as u64, event.number("size"));
            } else {
                assert!(!event.fields.contains_key("text"));
            }
        }
        let failed = report.events.len() - lines.len();
        assert_eq!(failed, 1);
    }
}
