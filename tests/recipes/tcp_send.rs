//! `uprof recipe tcp-send` against programs that count what they send, and the kernel's own counts of a connection.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

use super::network::done;
use crate::args;
use crate::harness::machine::tool;
use crate::harness::{Target, Uprof, turn};

/// Connections by IPv4 and IPv6 over which it sends by various calls; a line for each send, then totals.
const SCRIPT: &str = r#"
import json, os, socket, sys, tempfile, threading, struct
def drain(c):
    while c.recv(1 << 20): pass
def pair(family, address):
    with socket.create_server((address, 0), family=family) as l:
        c = socket.socket(family); c.connect(l.getsockname())
        return c, l.accept()[0]
def name(s):
    return ("[%s]:%d" if s[0].count(":") else "%s:%d") % s[:2]
pairs = [pair(socket.AF_INET, "127.0.0.1"), pair(socket.AF_INET6, "::1")]
gone, peer = pair(socket.AF_INET, "127.0.0.1")
for _, d in pairs: threading.Thread(target=drain, args=(d,), daemon=True).start()
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
many = int(sys.argv[1])
print(json.dumps({"ready": True, "port": pairs[0][0].getsockname()[1]}), flush=True)
sys.stdin.readline()
sends = []
def told(c, sent): sends.append((name(c.getsockname()), name(c.getpeername()), sent))
file = tempfile.TemporaryFile(); file.write(b"f" * 5000); file.flush()
for c, _ in pairs:
    told(c, c.send(b"a"))
    told(c, c.send(b"b" * 70000))
    told(c, os.write(c.fileno(), b"c" * 100))
    told(c, c.sendmsg([b"d" * 10, b"e" * 20]))
    told(c, os.sendfile(c.fileno(), file.fileno(), 0, 5000))
    for i in range(many): told(c, c.send(b"f" * (i % 1000 + 1)))
udp.sendto(b"not TCP", ("127.0.0.1", 9))
# The other side resets: sending fails.
ends = name(gone.getsockname()), name(gone.getpeername())
peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)); peer.close()
for error in ("ECONNRESET", "EPIPE"):
    try: gone.send(b"x")
    except OSError as e: sends.append((*ends, __import__("errno").errorcode[e.errno]))
for send in sends: print(json.dumps(send))
print(json.dumps({"pid": os.getpid()}), flush=True)
sys.stdin.readline()
"#;

/// One send: local, remote, bytes or the error's name.
type Send = (String, String, Value);

struct Sender {
    target: Target,
    port: u64,
}

impl Sender {
    fn new(many: u32) -> Self {
        let mut python = Command::new(tool("python3"));
        python.args(["-c", SCRIPT, &many.to_string()]);
        let mut target = Target::spawn(python);
        let port = target.line()["port"].as_u64().expect("a port");
        Self { target, port }
    }

    /// Lets it send; returns all that it sent.
    fn go(&mut self) -> Vec<Send> {
        self.target.go();
        let (lines, _) = self.target.lines_and_truth();
        let text = |v: &Value| v.as_str().expect("an address").to_owned();
        let send = |l: Value| (text(&l[0]), text(&l[1]), l[2].clone());
        lines.into_iter().map(send).collect()
    }
}

fn bytes(sends: &[Send]) -> Vec<u64> {
    sends.iter().filter_map(|send| send.2.as_u64()).collect()
}

#[test]
fn each_send_with_what_it_returned() {
    let _turn = turn();
    let mut sender = Sender::new(10);
    let uprof = Uprof::json(args![
        "recipe",
        "tcp-send",
        "--events",
        "--pid",
        sender.target.pid()
    ]);
    let uprof = uprof.start();
    let truth = sender.go();
    let report = uprof.stop().report();
    report.summary.assert_nothing_dropped();
    let seen: Vec<Send> = report
        .events
        .iter()
        .map(|e| {
            let text = |field| e.text(field).to_owned();
            (text("local"), text("remote"), e.fields["sent"].clone())
        })
        .collect();
    assert_eq!(truth.len(), 2 * 15 + 2);
    assert_eq!(seen, truth);
}

#[test]
fn flows_are_what_the_kernel_counts_of_the_connection() {
    let _turn = turn();
    let mut sender = Sender::new(50_000);
    let uprof = Uprof::json(args![
        "recipe",
        "tcp-send",
        "--flows",
        "--pid",
        sender.target.pid()
    ]);
    let uprof = uprof.start();
    let truth = sender.go();
    let report = uprof.stop().report();
    report.summary.assert_nothing_dropped();
    let mut flows: BTreeMap<_, (u64, u64, u64)> = BTreeMap::new();
    for (local, remote, sent) in &truth {
        let flow = flows.entry((local.as_str(), remote.as_str())).or_default();
        flow.0 += 1;
        flow.1 += sent.as_u64().unwrap_or(0);
        flow.2 += u64::from(sent.is_string());
    }
    let sum = |row: &crate::harness::report::Stats, name| row.values[name]["sum"] as u64;
    let seen: BTreeMap<_, _> = report
        .summary
        .stats
        .iter()
        .map(|row| {
            let end = |part: &str| row.key[part].as_str().expect("an address");
            let counted = (row.count, sum(row, "bytes"), sum(row, "failed"));
            ((end("local"), end("remote")), counted)
        })
        .collect();
    assert_eq!(flows.len(), 3);
    assert_eq!(seen, flows);

    // The kernel's count of the open connection: SYN is one byte more.
    let filter = format!("sport = :{}", sender.port);
    let ss = done(Command::new(tool("ss")).args(["-Htin", &filter]));
    let acked = ss.split("bytes_acked:").nth(1).expect("ss -ti has it");
    let acked: u64 = acked.split_whitespace().next().unwrap().parse().unwrap();
    let local = format!("127.0.0.1:{}", sender.port);
    let flow = seen.iter().find(|((l, _), _)| *l == local).expect("a flow");
    assert_eq!(flow.1.1 + 1, acked);
}

#[test]
fn sizes_by_program_and_those_of_a_least_size() {
    let _turn = turn();
    for least in [0, 500] {
        let mut sender = Sender::new(1000);
        let mut words = args!["recipe", "tcp-send", "--pid", sender.target.pid()];
        words.extend(args!["--comm", "python3", "--least", least]);
        let uprof = Uprof::json(words).start();
        let truth = sender.go();
        let report = uprof.stop().report();
        let mut sizes = bytes(&truth);
        sizes.retain(|size| *size >= least);
        let histogram = report.histogram();
        assert_eq!(histogram.count, sizes.len() as u64);
        assert_eq!(histogram.min, *sizes.iter().min().unwrap());
        assert_eq!(histogram.max, *sizes.iter().max().unwrap());
        assert_eq!(histogram.key["comm"], "python3");
        assert_eq!(histogram.unit, "bytes");
        let mean = sizes.iter().sum::<u64>() as f64 / sizes.len() as f64;
        assert!(
            (histogram.mean - mean).abs() < 0.01,
            "{histogram:?}: {mean}"
        );
    }
}

#[test]
fn bytes_between_hosts_and_one_port_alone() {
    let _turn = turn();
    let mut sender = Sender::new(5);
    let words = args!["recipe", "tcp-send", "--nodes", "--port", sender.port];
    let uprof = Uprof::new(words.into_iter().chain(args!["--format", "dot"])).start();
    let truth = sender.go();
    let dot = uprof.stop().ok().text();
    let of_port = truth
        .iter()
        .filter(|send| send.0.ends_with(&format!(":{}", sender.port)));
    let sum: u64 = of_port.filter_map(|send| send.2.as_u64()).sum();
    let edges: Vec<&str> = dot.lines().filter(|line| line.contains("->")).collect();
    assert_eq!(edges.len(), 1, "{dot}");
    assert!(edges[0].contains(r#""127.0.0.1" -> "127.0.0.1""#), "{dot}");
    let kib = format!("{:.1} KiB", sum as f64 / 1024.0);
    assert!(edges[0].contains(&kib), "{dot}: {kib}");
}

#[test]
fn at_load_every_send_is_told_or_accounted_for() {
    let _turn = turn();
    let mut sender = Sender::new(100_000);
    let words = args![
        "recipe",
        "tcp-send",
        "--events",
        "--pid",
        sender.target.pid()
    ];
    let uprof = Uprof::json(words).start();
    let truth = sender.go();
    let report = uprof.stop().report();
    let probe = report.only();
    assert_eq!(probe.emitted + probe.dropped, truth.len() as u64);
}
