//! `uprof recipe tcp-close` against programs that close in every way, with both sides' own logs as the truth.

use std::collections::HashMap;
use std::process::Command;

use serde_json::Value;

use crate::args;
use crate::harness::machine::tool;
use crate::harness::report::Event;
use crate::harness::{Report, Target, Uprof, turn};

/// What the scripts share. The first argument is the family, the second how often.
const HEAD: &str = r#"
import json, os, random, select, signal, socket, struct, sys, threading, time
family, host = (socket.AF_INET6, "::1") if sys.argv[1] == "6" else (socket.AF_INET, "127.0.0.1")
times = int(sys.argv[2])
now = time.monotonic_ns
out = threading.Lock()
def say(**line):
    with out: os.write(1, (json.dumps(line) + "\n").encode())
def named(address):
    return f"[{address[0]}]:{address[1]}" if family == socket.AF_INET6 else f"{address[0]}:{address[1]}"
def gate():
    say(ready=True)
    sys.stdin.readline()
def end():
    say(pid=os.getpid())
    sys.stdin.readline()
def comm(name): open("/proc/self/comm", "w").write(name)
def listening():
    listener = socket.socket(family)
    listener.bind((host, 0))
    listener.listen(128)
    return listener
def abort(s):
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()
def rest(s):
    "Reads until the other side hangs up; b'' or 'reset'."
    try:
        while s.recv(65536): pass
        return "eof"
    except ConnectionResetError: return "reset"
def unread(s):
    "Waits until there is something to read, and does not read it."
    select.select([s], [], [])
"#;

/// Cases by their letter: what the server does, what the client does, and the verdicts of both ends. Who is first is
/// settled by the other side's waiting for it.
const CASES: &str = r#"
def client_first(c): assert rest(c) == "eof"; c.close()
def server_first(c): c.close()
def client_aborts(c): assert rest(c) == "reset"; c.close()
def client_leaves_unread(c): c.sendall(b"x" * 1000); assert rest(c) == "reset"; c.close()
def server_leaves_unread(c): unread(c); c.close()
def answers_late(c): assert rest(c) == "eof"; c.sendall(b"later"); c.close()
def shuts_down(c): c.shutdown(socket.SHUT_WR); assert rest(c) == "eof"; c.close()
def duplicates(c):
    d = c.dup()
    c.close()
    d.sendall(b"d")
    assert rest(d) == "eof"
    d.close()
def hang_up(s): s.close()
def wait(s): assert rest(s) == "eof"; s.close()
def wait_for_reset(s): assert rest(s) == "reset"; s.close()
def leave_unread(s): unread(s); s.close()
def send_unread(s): s.sendall(b"unread"); assert rest(s) == "reset"; s.close()
def half(s): s.shutdown(socket.SHUT_WR); assert rest(s) == "eof"; s.close()
def after_one(s): assert s.recv(1) == b"d"; s.close()
cases = dict(
    C=(client_first, hang_up, "peer", "app"),
    S=(server_first, wait, "app", "peer"),
    R=(client_aborts, abort, "peer-reset", "app-reset"),
    L=(abort, wait_for_reset, "app-reset", "peer-reset"),
    U=(client_leaves_unread, leave_unread, "peer-reset", "app-reset"),
    V=(server_leaves_unread, send_unread, "app-reset", "peer-reset"),
    H=(answers_late, half, "peer", "app"),
    W=(shuts_down, wait, "app", "peer"),
    D=(duplicates, after_one, "peer", "app"),
)
def serve(c):
    how = c.recv(1).decode()
    c.sendall(b"k")
    cases[how][0](c)
def talk(address, how):
    s = socket.socket(family)
    s.connect(address)
    ends = named(s.getsockname()), named(address)
    s.sendall(how.encode())
    assert s.recv(1) == b"k"
    cases[how][1](s)
    say(case=how, client=ends[0], server=ends[1], verdicts=cases[how][2:])
"#;

/// A server and a client, each a process with threads, 50 connections at a time in random order.
const MANY: &str = r#"
listener = listening()
address = listener.getsockname()[:2]
server = os.fork()
if server == 0:
    comm("the-server")
    while True:
        c, peer = listener.accept()
        threading.Thread(target=serve, args=(c,), daemon=True).start()
listener.close()
comm("the-client")
threading.Thread(target=lambda: None).start()
gate()
todo = [how for how in cases for n in range(times)]
random.shuffle(todo)
failed = []
def work():
    while todo:
        try: how = todo.pop()
        except IndexError: return
        try: talk(address, how)
        except BaseException as e: failed.append(f"{how}: {e!r}")
workers = [threading.Thread(target=work) for n in range(50)]
for w in workers: w.start()
for w in workers: w.join()
# What is no connection by TCP.
for other in [socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket(socket.AF_UNIX), socket.socketpair()[0],
              open("/dev/null"), socket.socket(family)]:
    other.close()
time.sleep(0.3)
os.kill(server, signal.SIGKILL)
os.waitpid(server, 0)
say(case="pids", server=server, failed=failed)
end()
"#;

fn watched(
    flags: &[String],
    script: &str,
    family: &str,
    times: usize,
) -> (Report, Vec<Value>, u32) {
    let mut python = Command::new(tool("python3"));
    let script = format!("{HEAD}{CASES}{script}");
    python.args(["-c", &script, family, &times.to_string()]);
    let mut target = Target::spawn(python);
    assert_eq!(target.line()["ready"], true);
    let mut words = args!["recipe", "tcp-close"];
    words.extend(flags.iter().cloned());
    let uprof = Uprof::json(words).start();
    target.go();
    let (lines, _) = target.lines_and_truth();
    let report = uprof.stop().report();
    report.summary.assert_nothing_dropped();
    let pid = target.pid();
    assert!(target.end().success());
    (report, lines, pid)
}

/// Closes by both ends of their connection.
fn by_ends(report: &Report) -> HashMap<(String, String), Vec<&Event>> {
    let mut all: HashMap<_, Vec<&Event>> = HashMap::new();
    for event in &report.events {
        let ends = (
            event.text("local").to_owned(),
            event.text("remote").to_owned(),
        );
        all.entry(ends).or_default().push(event);
    }
    all
}

fn text<'l>(line: &'l Value, key: &str) -> &'l str {
    let found = line[key].as_str();
    found.unwrap_or_else(|| panic!("no text `{key}` in {line}"))
}

fn number(line: &Value, key: &str) -> u64 {
    let found = line[key].as_u64();
    found.unwrap_or_else(|| panic!("no number `{key}` in {line}"))
}

/// The line about something, by what it is called.
fn of_case<'l>(lines: &'l [Value], case: &str) -> &'l Value {
    let mut found = lines.iter().filter(|line| line["case"] == case);
    let line = found.next();
    line.unwrap_or_else(|| panic!("no `{case}` in {lines:?}"))
}

/// The only close of one end of a connection.
fn only<'r>(
    closes: &HashMap<(String, String), Vec<&'r Event>>,
    local: &str,
    remote: &str,
) -> &'r Event {
    let ends = (local.to_owned(), remote.to_owned());
    match closes.get(&ends).map(Vec::as_slice) {
        Some([close]) => close,
        other => panic!("one close of {ends:?} was expected: {other:?}"),
    }
}

fn many(family: &str, times: usize) {
    let (report, lines, pid) = watched(&[], MANY, family, times);
    let pids = of_case(&lines, "pids");
    assert_eq!(pids["failed"].as_array().map(Vec::len), Some(0), "{pids}");
    let server = number(pids, "server") as u32;
    let closes = by_ends(&report);
    let connections: Vec<&Value> = lines
        .iter()
        .filter(|line| line.get("verdicts").is_some())
        .collect();
    assert_eq!(connections.len(), 9 * times);
    for line in &connections {
        let (client, at) = (text(line, "client"), text(line, "server"));
        for (local, remote, verdict, role, pid, comm) in [
            (
                client,
                at,
                &line["verdicts"][1],
                "client",
                pid,
                "the-client",
            ),
            (
                at,
                client,
                &line["verdicts"][0],
                "server",
                server,
                "the-server",
            ),
        ] {
            let close = only(&closes, local, remote);
            let told = (close.text("verdict"), close.text("role"));
            assert_eq!(
                told,
                (verdict.as_str().expect("a word"), role),
                "{line}: {close:?}"
            );
            assert_eq!(
                (close.pid, close.comm.as_str()),
                (pid, comm),
                "{line}: {close:?}"
            );
            assert_eq!(close.probe, "close", "{line}: {close:?}");
            // The reaction is the time from the peer's end to one's own, and there is none where one's own came first.
            let second = matches!(close.text("verdict"), "peer" | "peer-reset");
            assert_eq!(
                close.fields["reaction_ns"].is_u64(),
                second,
                "{line}: {close:?}"
            );
            assert!(close.number("age_ns") > 0, "{line}: {close:?}");
        }
        if line["case"] == "H" {
            // It asked, was answered, and had a word more when it had hung up itself.
            let close = only(&closes, at, client);
            let bytes = (close.number("bytes_sent"), close.number("bytes_received"));
            assert_eq!(bytes, (6, 1), "{close:?}");
        }
    }
    // Neither the sockets that are not TCP's nor the first of two descriptors of one socket.
    let ours = |e: &&Event| [pid, server].contains(&e.pid);
    let shown = report.events.iter().filter(ours).count();
    assert_eq!(shown, 2 * connections.len());
}

#[test]
fn every_way_to_close_in_random_order() {
    let _turn = turn();
    many("4", 60);
    many("6", 10);
}

/// Ends that are no call of close, connections from before the run, and descriptors in several processes.
const SINGLE: &str = r#"
listener = listening()
address = listener.getsockname()[:2]
def child(act):
    pid = os.fork()
    if pid == 0:
        comm("the-child")
        act()
        os._exit(0)
    return pid
def pair():
    s = socket.socket(family)
    s.connect(address)
    c, peer = listener.accept()
    return s, c, dict(client=named(s.getsockname()), server=named(address), fd=c.fileno())
# Before the run: established, half-closed by the peer, and half-closed by the server.
old, old_c, older = pair()
half, half_c, older_half = pair()
half.shutdown(socket.SHUT_WR)
shut, shut_c, older_shut = pair()
shut_c.shutdown(socket.SHUT_WR)
gate()
comm("the-server")
def finish(case, s, c, ends):
    "The client hangs up and waits until the server has."
    s.shutdown(socket.SHUT_WR)
    assert rest(c) == "eof"
    time.sleep(0.05)
    c.close()
    assert rest(s) == "eof"
    s.close()
    say(case=case, **ends)
finish("old", old, old_c, older)
half_c.close(); half.close(); say(case="old-half", **older_half)
shut.close(); shut_c.close(); say(case="old-shut", **older_shut)
# Killed: the kernel closes what the child alone still has.
s, c, ends = pair()
def wait_to_be_killed():
    s.close()
    os.write(ready[1], b"x")
    signal.pause()
ready = os.pipe()
pid = child(wait_to_be_killed)
c.close()
os.read(ready[0], 1)
os.kill(pid, signal.SIGKILL)
os.waitpid(pid, 0)
assert rest(s) == "eof"
s.close()
say(case="killed", child=pid, **ends)
# It exits without closing.
s, c, ends = pair()
alone = os.pipe()
def exit_with_it():
    s.close()
    os.read(alone[0], 1)
pid = child(exit_with_it)
c.close()
os.write(alone[1], b"x")
os.waitpid(pid, 0)
assert rest(s) == "eof"
s.close()
say(case="exited", child=pid, **ends)
# The child serves; the parent has closed its descriptor long before.
s, c, ends = pair()
def work():
    s.close()
    c.recv(1)
    c.sendall(b"k")
    assert rest(c) == "eof"
    c.close()
pid = child(work)
c.close()
time.sleep(0.05)
s.sendall(b"q")
assert s.recv(1) == b"k"
s.close()
os.waitpid(pid, 0)
say(case="forked", child=pid, **ends)
# Another file takes the descriptor's place.
s, c, ends = pair()
null = os.open("/dev/null", os.O_RDONLY)
os.dup2(null, c.fileno())
assert rest(s) == "eof"
s.close()
say(case="dup2", **ends)
# Both hang up at once: the socket is connected to itself.
itself = socket.socket(family)
itself.bind((host, 0))
itself.connect(itself.getsockname()[:2])
ends = dict(client=named(itself.getsockname()), server=named(itself.getsockname()))
itself.close()
say(case="both", **ends)
# How long the server took, by its own clock.
s, c, ends = pair()
before = now()
s.shutdown(socket.SHUT_WR)
assert rest(c) == "eof"
heard = now()
time.sleep(0.05)
least = now() - heard
c.close()
most = now() - before
s.close()
say(case="reaction", least=least, most=most, **ends)
# Never a connection.
socket.socket(family).close()
say(case="pids", server=os.getpid())
time.sleep(0.2)
end()
"#;

/// Of one that the peer closed: what came in an interrupt, and what the program did itself.
fn timeline(close: &Event, pid: u32) {
    let steps = close.timeline.iter().map(|s| (s.step.as_str(), s.softirq));
    let steps: Vec<(&str, bool)> = steps.collect();
    // The acknowledgement of its FIN may be seen to by the thread itself.
    let named: Vec<&str> = steps[5..].iter().map(|(step, _)| *step).collect();
    assert_eq!(named, ["LAST_ACK -> CLOSE", "destroyed"], "{close:?}");
    assert_eq!(
        steps[..5],
        [
            ("SYN_RECV -> ESTABLISHED", true),
            ("accept", false),
            ("ESTABLISHED -> CLOSE_WAIT", true),
            ("close", false),
            ("CLOSE_WAIT -> LAST_ACK", false),
        ],
        "{close:?}"
    );
    let times: Vec<u64> = close.timeline.iter().map(|s| s.time_ns).collect();
    assert!(times.is_sorted(), "{close:?}");
    assert_eq!(times[3], close.time_ns);
    for step in close.timeline.iter().filter(|s| !s.softirq) {
        let who = (step.pid, step.tid, step.comm.as_str());
        assert_eq!(who, (pid, pid, "the-server"), "{close:?}");
    }
}

fn single(family: &str) {
    let (report, lines, pid) = watched(&args!["--timeline"], SINGLE, family, 0);
    let closes = by_ends(&report);
    let of = |case: &str| {
        let line = of_case(&lines, case);
        let (client, server) = (text(line, "client"), text(line, "server"));
        (only(&closes, server, client), only(&closes, client, server))
    };
    for (case, server, client) in [
        ("old", "peer", "app"),
        ("old-half", "peer", "app"),
        ("old-shut", "app", "peer"),
        ("killed", "app", "peer"),
        ("exited", "app", "peer"),
        ("forked", "peer", "app"),
        ("dup2", "app", "peer"),
        ("reaction", "peer", "app"),
    ] {
        let (by_server, by_client) = of(case);
        let told = (by_server.text("verdict"), by_client.text("verdict"));
        assert_eq!(
            told,
            (server, client),
            "{case}: {by_server:?}\n{by_client:?}"
        );
        let roles = (by_server.text("role"), by_client.text("role"));
        assert_eq!(
            roles,
            ("server", "client"),
            "{case}: {by_server:?}\n{by_client:?}"
        );
        let line = of_case(&lines, case);
        let ended = ["killed", "exited", "dup2"].contains(&case);
        assert_eq!(by_server.probe != "close", ended, "{case}: {by_server:?}");
        if !ended {
            assert_eq!(by_server.fields["fd"], line["fd"], "{case}: {by_server:?}");
        }
        let closer = line["child"].as_u64().map_or(pid, |child| child as u32);
        assert_eq!(by_server.pid, closer, "{case}: {by_server:?}");
        assert_eq!(by_client.pid, pid, "{case}: {by_client:?}");
        // Sockets of before have no age, all others have one.
        let old = case.starts_with("old");
        assert_eq!(
            by_server.fields["age_ns"].is_null(),
            old,
            "{case}: {by_server:?}"
        );
    }
    assert!(
        of("killed").0.text("cause").contains("kill"),
        "{:?}",
        of("killed")
    );
    let both = of_case(&lines, "both");
    let both = only(&closes, text(both, "client"), text(both, "server"));
    assert_eq!(both.text("verdict"), "both", "{both:?}");
    timeline(of("reaction").0, pid);
    let took = of("reaction").0.number("reaction_ns");
    let line = of_case(&lines, "reaction");
    let possible = number(line, "least")..=number(line, "most");
    assert!(possible.contains(&took), "{took} in {possible:?}");
    // Two for each of the eight, and the one that is both.
    let here = |e: &&Event| e.pid == pid || lines.iter().any(|l| l["child"] == e.pid);
    assert_eq!(
        report.events.iter().filter(here).count(),
        17,
        "{:?}",
        report.events
    );
}

#[test]
fn ends_without_a_close_and_sockets_older_than_the_run() {
    let _turn = turn();
    single("4");
    single("6");
}

#[test]
fn closes_of_a_port_a_role_or_a_verdict_alone() {
    let _turn = turn();
    let flags = args!["--role", "server", "--verdict", "peer,peer-reset"];
    let (report, lines, _) = watched(&flags, MANY, "4", 3);
    let server = number(of_case(&lines, "pids"), "server") as u32;
    let ours: Vec<&Event> = report.events.iter().filter(|e| e.pid == server).collect();
    // C, H and D; R and U.
    assert_eq!(ours.len(), 5 * 3, "{ours:?}");
    for close in &ours {
        assert_eq!(close.text("role"), "server", "{close:?}");
        assert!(
            ["peer", "peer-reset"].contains(&close.text("verdict")),
            "{close:?}"
        );
    }
    let other = args!["--port", 1];
    let (report, ..) = watched(&other, MANY, "4", 1);
    assert_eq!(report.events.len(), 0, "{:?}", report.events);
}

#[test]
fn closes_counted_by_verdict_and_program_and_by_peer() {
    let _turn = turn();
    let (report, ..) = watched(&args!["--count"], MANY, "4", 5);
    assert_eq!(report.events.len(), 0, "{:?}", report.events);
    let of = |comm: &str, verdict: &str| {
        let same = |c: &&crate::harness::report::Count| {
            c.key["comm"] == comm && c.key["verdict"] == verdict
        };
        let found = report.summary.counts.iter().find(same);
        found.map_or(0, |c| c.count)
    };
    for (comm, counts) in [("the-server", [2, 3, 2, 2]), ("the-client", [3, 2, 2, 2])] {
        let told = ["app", "peer", "peer-reset", "app-reset"].map(|v| of(comm, v) / 5);
        assert_eq!(told, counts, "{comm}: {:?}", report.summary.counts);
    }
    let tables = &report.summary.tables;
    let peers = tables.iter().find(|t| t.title == "closes by peer");
    let peers = peers.unwrap_or_else(|| panic!("no table of peers: {tables:?}"));
    let row = peers.rows.iter().find(|r| r[0] == "127.0.0.1");
    let row = row.unwrap_or_else(|| panic!("no row of ours: {peers:?}"));
    assert!(row[1].as_u64().is_some_and(|n| n >= 90), "{row:?}");
}
