//! `uprof recipe tcp-states`, `tcp-life`, `tcp-connect`, `tcp-accept` and `accept` against programs whose every move is
//! known, with their own clocks and counts of bytes, and the kernel's in `ss`.

use std::collections::{BTreeMap, HashMap};
use std::process::Command;

use serde_json::Value;

use crate::args;
use crate::harness::machine::tool;
use crate::harness::report::Event;
use crate::harness::{Report, Target, Uprof, turn};

/// What the scripts share. The first argument is the family.
const HEAD: &str = r#"
import errno, json, os, socket, struct, subprocess, sys, time
family, host = (socket.AF_INET6, "::1") if sys.argv[1] == "6" else (socket.AF_INET, "127.0.0.1")
now = time.monotonic_ns
def say(**line): print(json.dumps(line), flush=True)
def named(address):
    return f"[{address[0]}]:{address[1]}" if family == socket.AF_INET6 else f"{address[0]}:{address[1]}"
def gate():
    say(ready=True)
    sys.stdin.readline()
def end():
    say(pid=os.getpid())
    sys.stdin.readline()
def comm(name): open("/proc/self/comm", "w").write(name)
"#;

/// Runs HEAD and SCRIPT; uprof looks on from before the gate opens until the script's last line.
fn watched(
    recipe: &str,
    flags: &[String],
    script: &str,
    family: &str,
) -> (Report, Vec<Value>, u32) {
    let mut python = Command::new(tool("python3"));
    python.args(["-c", &format!("{HEAD}{script}"), family]);
    let mut target = Target::spawn(python);
    assert_eq!(target.line()["ready"], true);
    let mut words = args!["recipe", recipe];
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

fn number(line: &Value, key: &str) -> u64 {
    let found = line[key].as_u64();
    found.unwrap_or_else(|| panic!("no number `{key}` in {line}"))
}

/// The lines about something, by what it is called.
fn of_case<'l>(lines: &'l [Value], case: &str) -> &'l Value {
    let mut found = lines.iter().filter(|line| line["case"] == case);
    found
        .next()
        .unwrap_or_else(|| panic!("no `{case}` in {lines:?}"))
}

/// A server in a process of its own, told by the first byte of each connection what to do.
const STATES: &str = r#"
listener = socket.socket(family)
listener.bind((host, 0))
address = listener.getsockname()[:2]
def serve():
    comm("the-server")
    while True:
        c, peer = listener.accept()
        how = c.recv(1)
        c.sendall(b"k")
        if how == b"P" or how == b"H":
            while c.recv(65536): pass
        if how == b"R":
            try: c.recv(1)
            except ConnectionResetError: pass
        if how == b"H":
            began = now()
            time.sleep(0.05)
            least = now() - began
            c.sendall(b"later")
            say(case="waited", least=least)
        c.close()
        if how == b"Q":
            listener.close()
            return
gate()
comm("the-client")
listener.listen(16)
server = os.fork()
if server == 0:
    serve()
    os._exit(0)
listener.close()
def talk(how, close):
    before = now()
    s = socket.socket(family)
    s.connect(address)
    connected = now()
    s.sendall(how)
    assert s.recv(1) == b"k"
    time.sleep(0.03)
    local, closing = named(s.getsockname()), now()
    close(s)
    say(case=how.decode(), client=local, server=named(address), least=closing - connected, most=now() - before)
def rest(s):
    while s.recv(100): pass
    s.close()
def half(s):
    s.shutdown(socket.SHUT_WR)
    rest(s)
def reset(s):
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()
talk(b"P", lambda s: s.close())
talk(b"S", rest)
talk(b"H", half)
talk(b"R", reset)
talk(b"Q", rest)
os.waitpid(server, 0)
nobody = socket.socket(family)
nobody.bind((host, 0))
s = socket.socket(family)
try: s.connect(nobody.getsockname()[:2])
except ConnectionRefusedError: say(case="refused", server=named(nobody.getsockname()))
s.close()
# A socket that connects to itself opens and closes from both sides at once.
nobody.connect(nobody.getsockname()[:2])
say(case="itself", client=named(nobody.getsockname()), server=named(nobody.getsockname()))
nobody.close()
say(case="pids", server=server, listener=named(address))
time.sleep(0.2)
end()
"#;

/// The lives of sockets: by both ends as they were when it ended, the events from the first state on.
fn lives(report: &Report) -> HashMap<(String, String), Vec<&Event>> {
    let mut open: HashMap<u64, Vec<&Event>> = HashMap::new();
    let mut ended = HashMap::new();
    for event in report.events_of("state") {
        let socket = event.number("socket");
        let (from, to) = (event.text("from"), event.text("to"));
        if from == "CLOSE" || from == "LISTEN" && to == "SYN_RECV" {
            open.remove(&socket);
        }
        open.entry(socket).or_default().push(event);
        if to == "CLOSE" {
            let ends = (
                event.text("local").to_owned(),
                event.text("remote").to_owned(),
            );
            ended.insert(ends, open.remove(&socket).expect("it is there"));
        }
    }
    ended
}

fn path(life: &[&Event]) -> String {
    let states: Vec<&str> = life.iter().map(|event| event.text("to")).collect();
    states.join(" ")
}

fn held(life: &[&Event], state: &str) -> u64 {
    let left = life.iter().find(|event| event.text("from") == state);
    left.unwrap_or_else(|| panic!("it was never {state}: {life:?}"))
        .number("held")
}

fn states(family: &str) {
    let (report, lines, pid) = watched("tcp-states", &[], STATES, family);
    let lives = lives(&report);
    let life = |from: &Value, to: &Value| {
        let ends = (
            from.as_str().expect("a text").to_owned(),
            to.as_str().expect("a text").to_owned(),
        );
        lives
            .get(&ends)
            .unwrap_or_else(|| panic!("no socket {ends:?} in {:?}", lives.keys()))
    };
    const FIRST: &str = "FIN_WAIT1 FIN_WAIT2 CLOSE";
    const SECOND: &str = "CLOSE_WAIT LAST_ACK CLOSE";
    let server_pid = number(of_case(&lines, "pids"), "server") as u32;
    for (case, client, server) in [
        ("P", FIRST, SECOND),
        ("S", SECOND, FIRST),
        ("H", FIRST, SECOND),
        ("R", "CLOSE", "CLOSE"),
    ] {
        let line = of_case(&lines, case);
        let ours = life(&line["client"], &line["server"]);
        let theirs = life(&line["server"], &line["client"]);
        assert_eq!(
            path(ours),
            format!("SYN_SENT ESTABLISHED {client}"),
            "{case}"
        );
        assert_eq!(
            path(theirs),
            format!("SYN_RECV ESTABLISHED {server}"),
            "{case}"
        );
        for event in ours {
            assert_eq!(
                (event.pid, event.comm.as_str()),
                (pid, "the-client"),
                "{event:?}"
            );
            assert_eq!(event.text("role"), "client");
        }
        // On loopback much of this ran on the client's thread: until it is accepted it is nobody's, then the server's.
        for event in theirs {
            assert!([0, server_pid].contains(&event.pid), "{event:?}");
            assert_eq!(event.text("role"), "server");
        }
        let last = theirs.last().expect("there is one");
        assert_eq!(
            (last.pid, last.comm.as_str()),
            (server_pid, "the-server"),
            "{last:?}"
        );
        if case != "S" {
            let possible = number(line, "least")..=number(line, "most");
            let held = held(ours, "ESTABLISHED");
            assert!(possible.contains(&held), "{case}: {held} in {possible:?}");
        }
    }
    let half = of_case(&lines, "H");
    let waited = held(life(&half["server"], &half["client"]), "CLOSE_WAIT");
    let possible = number(of_case(&lines, "waited"), "least")..=number(half, "most");
    assert!(possible.contains(&waited), "{waited} in {possible:?}");
    let itself = of_case(&lines, "itself");
    let itself = life(&itself["client"], &itself["server"]);
    assert_eq!(
        path(itself),
        "SYN_SENT SYN_RECV ESTABLISHED FIN_WAIT1 CLOSING CLOSE"
    );
    assert!(itself.iter().all(|event| event.pid == pid), "{itself:?}");
    let refused = of_case(&lines, "refused")["server"]
        .as_str()
        .expect("a text");
    let mut to_nobody = lives
        .iter()
        .filter(|((from, to), _)| to == refused && from != refused);
    let (_, refused) = to_nobody.next().expect("the attempt that was refused");
    assert_eq!(path(refused), "SYN_SENT CLOSE");
    let listener = of_case(&lines, "pids")["listener"]
        .as_str()
        .expect("a text");
    let mut listeners = lives
        .iter()
        .filter(|((from, to), _)| from == listener && to.ends_with(":0"));
    let (_, listener) = listeners.next().expect("the listening socket");
    assert_eq!(path(listener), "LISTEN CLOSE");
    assert_eq!(listener[0].text("role"), "listener");
}

#[test]
fn every_state_by_name_with_the_time_in_it() {
    let _turn = turn();
    states("4");
    states("6");
}

/// Connections of known numbers of bytes, also one from before the gate; what the client's kernel says just before.
const LIVES: &str = r#"
listener = socket.socket(family)
listener.bind((host, 0))
listener.listen(16)
address = listener.getsockname()[:2]
server = os.fork()
if server == 0:
    comm("the-server")
    while True:
        c, peer = listener.accept()
        got = 0
        while data := c.recv(65536):
            got += len(data)
            if data == b"Q": os._exit(0)
        c.sendall(b"x" * (3 * got))
        c.close()
comm("the-client")
old = socket.create_connection(address)
older = named(old.getsockname())
gate()
old.close()
def counters(s):
    out = subprocess.run(["ss", "-tinH", f"sport = :{s.getsockname()[1]}"], stdout=subprocess.PIPE, check=True).stdout
    words = dict(word.split(":", 1) for word in out.decode().split() if word.startswith("bytes_"))
    return {name: int(value) for name, value in words.items()}
for size in [0, 1, 100, 70000, 1000000]:
    before = now()
    s = socket.socket(family)
    s.connect(address)
    connected = now()
    s.sendall(b"q" * size)
    counted, least = counters(s) if size == 1 else None, now() - connected
    s.shutdown(socket.SHUT_WR)
    got = 0
    while data := s.recv(65536): got += len(data)
    local = named(s.getsockname())
    s.close()
    say(client=local, server=named(address), sent=size, received=got, least=least, most=now() - before, ss=counted)
s = socket.create_connection(address)
s.sendall(b"Q")
os.waitpid(server, 0)
say(case="pids", server=server, old=older)
time.sleep(0.2)
end()
"#;

fn whole_lives(family: &str) {
    let (report, lines, pid) = watched("tcp-life", &[], LIVES, family);
    let ended: HashMap<(&str, &str), &Event> = report
        .events_of("state")
        .map(|event| ((event.text("local"), event.text("remote")), event))
        .collect();
    let pids = of_case(&lines, "pids");
    let server_pid = number(pids, "server") as u32;
    let connections: Vec<&Value> = lines
        .iter()
        .filter(|line| line.get("sent").is_some())
        .collect();
    assert_eq!(connections.len(), 5);
    for line in connections {
        let client = line["client"].as_str().expect("a text");
        let server = line["server"].as_str().expect("a text");
        let (sent, received) = (number(line, "sent"), number(line, "received"));
        assert_eq!(received, 3 * sent, "the server answered whole: {line}");
        let ours = ended[&(client, server)];
        let theirs = ended[&(server, client)];
        assert_eq!(
            (ours.number("sent"), ours.number("received")),
            (sent, received),
            "{ours:?}"
        );
        assert_eq!(
            (theirs.number("sent"), theirs.number("received")),
            (received, sent),
            "{theirs:?}"
        );
        assert_eq!(
            (ours.pid, ours.comm.as_str(), ours.text("role")),
            (pid, "the-client", "client")
        );
        assert_eq!(
            (theirs.pid, theirs.comm.as_str(), theirs.text("role")),
            (server_pid, "the-server", "server")
        );
        assert!(
            ours.number("age") >= number(line, "least"),
            "{ours:?}: {line}"
        );
        if let Some(counted) = line["ss"].as_object() {
            // ss counts the SYN, which was acknowledged.
            assert_eq!(counted["bytes_acked"], ours.number("sent") + 1, "{line}");
            assert_eq!(counted["bytes_sent"], ours.number("sent"), "{line}");
        }
    }
    // What was there before: its bytes are known, neither its age nor whose it is.
    let old = pids["old"].as_str().expect("a text");
    let (_, old) = ended
        .iter()
        .find(|((local, _), _)| *local == old)
        .expect("the old connection's end");
    assert_eq!((old.pid, old.comm.as_str()), (0, ""), "{old:?}");
    assert!(old.fields["age"].is_null(), "{old:?}");
}

#[test]
fn lives_with_their_bytes_and_their_owners() {
    let _turn = turn();
    whole_lives("4");
    whole_lives("6");
}

/// Attempts that go well, at once and later, and that fail in each way; one as another user.
const CONNECTS: &str = r#"
listener = socket.socket(family)
listener.bind((host, 0))
listener.listen(64)
address = listener.getsockname()[:2]
nobody = socket.socket(family)
nobody.bind((host, 0))
refusing = nobody.getsockname()[:2]
# A full queue: what comes then is not answered.
full = socket.socket(family)
full.bind((host, 0))
full.listen(0)
waiting = full.getsockname()[:2]
first = socket.create_connection(waiting)
gate()
comm("the-client")
def attempt(to, blocking=True):
    s = socket.socket(family)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, 1)
    s.setblocking(blocking)
    before = now()
    error = s.connect_ex(to)
    if error == errno.EINPROGRESS:
        import select
        select.select([], [s], [])
        error = s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    lines.append(
        dict(to=named(to), error=errno.errorcode.get(error, 0), most=now() - before, uid=os.getuid(), who=os.getpid()))
    s.close()
lines = []
attempt(address)
attempt(address, False)
attempt(refusing)
attempt(refusing, False)
attempt(waiting)
for line in lines: say(**line)
child = os.fork()
if child == 0:
    lines.clear()
    comm("the-other")
    os.setuid(65534)
    attempt(address)
    for line in lines: say(**line)
    os._exit(0)
os.waitpid(child, 0)
end()
"#;

fn assert_attempts(report: &Report, lines: &[Value]) {
    let told = |event: &&Event| lines.iter().any(|line| line["who"] == event.pid);
    let events: Vec<&Event> = report.events_of("end").filter(told).collect();
    assert_eq!(events.len(), lines.len(), "{events:?}\n{lines:?}");
    for (event, line) in events.iter().zip(lines) {
        assert_eq!(event.text("remote"), line["to"], "{event:?}: {line}");
        assert_eq!(event.fields["error"], line["error"], "{event:?}: {line}");
        assert_eq!(event.fields["user"], line["uid"], "{event:?}: {line}");
        assert_eq!(event.pid, number(line, "who") as u32, "{event:?}: {line}");
        assert!(
            event.number("took") <= number(line, "most"),
            "{event:?}: {line}"
        );
        let state = match line["error"] == 0 {
            true => "ESTABLISHED",
            false => "CLOSE",
        };
        assert_eq!(event.text("to"), state, "{event:?}");
    }
}

#[test]
fn attempts_to_connect_and_what_came_of_them() {
    let _turn = turn();
    for family in ["4", "6"] {
        let (report, lines, _) = watched("tcp-connect", &[], CONNECTS, family);
        let errors: Vec<&Value> = lines.iter().map(|line| &line["error"]).collect();
        let refused = "ECONNREFUSED";
        assert_eq!(
            errors,
            [
                &0.into(),
                &0.into(),
                &Value::from(refused),
                &Value::from(refused),
                &Value::from("ETIMEDOUT"),
                &Value::from(0)
            ]
        );
        assert_attempts(&report, &lines);
        let comms: Vec<&str> = report
            .events_of("end")
            .filter(|event| lines.iter().any(|line| line["who"] == event.pid))
            .map(|event| event.comm.as_str())
            .collect();
        assert_eq!(comms[4..], ["the-client", "the-other"]);
    }
}

#[test]
fn attempts_of_a_user_or_a_mount_namespace_alone() {
    let _turn = turn();
    let flags = args!["--uid", 65534];
    let (report, lines, _) = watched("tcp-connect", &flags, CONNECTS, "4");
    assert_attempts(&report, &lines[5..]);
    assert!(
        report
            .events_of("end")
            .all(|event| event.number("user") == 65534)
    );

    let ours = std::fs::read_link("/proc/self/ns/mnt").expect("a process has a mount namespace");
    let ours = ours.display().to_string();
    let inode = ours.trim_matches(|c: char| !c.is_ascii_digit());
    let flags = args!["--mntns", inode, "--failed"];
    let (report, lines, _) = watched("tcp-connect", &flags, CONNECTS, "4");
    assert_attempts(&report, &lines[2..5]);
    let mntns = |event: &Event| event.number("mntns").to_string() == inode;
    assert!(report.events_of("end").all(mntns));
    // Of another there is nothing.
    let flags = args!["--mntns", 1];
    let (report, ..) = watched("tcp-connect", &flags, CONNECTS, "4");
    assert_eq!(report.events.len(), 0, "{:?}", report.events);
}

#[test]
fn attempts_counted_by_program_and_remote_end() {
    let _turn = turn();
    let flags = args!["--count"];
    let (report, lines, _) = watched("tcp-connect", &flags, CONNECTS, "4");
    let mut truth: BTreeMap<(u64, &str), u64> = BTreeMap::new();
    for line in &lines {
        let key = (number(line, "uid"), line["to"].as_str().expect("a text"));
        *truth.entry(key).or_default() += 1;
    }
    for ((uid, to), count) in truth {
        let comm = if uid == 0 { "the-client" } else { "the-other" };
        let same = |c: &&crate::harness::report::Count| {
            c.key["comm"] == comm && c.key["user"] == uid && c.key["remote"] == to
        };
        let found = report.summary.counts.iter().find(same);
        assert_eq!(
            found.map(|c| c.count),
            Some(count),
            "{to}: {:?}",
            report.summary.counts
        );
    }
}

/// Accepts of each kind, and errors: the clients' ends are the truth.
const ACCEPTS: &str = r#"
listener = socket.socket(family)
listener.bind((host, 0))
listener.listen(16)
address = listener.getsockname()[:2]
gate()
comm("the-server")
for n in range(7):
    c = socket.socket(family)
    c.connect(address)
    a, peer = listener.accept()
    say(client=named(c.getsockname()), server=named(address))
    a.close()
    c.close()
listener.setblocking(False)
for n in range(3):
    try: listener.accept()
    except BlockingIOError: pass
pair = socket.socketpair()
try: pair[0].accept()
except OSError as e: say(case="pair", error=errno.errorcode[e.errno])
local = socket.socket(socket.AF_UNIX)
local.bind(f"\0uprof-{os.getpid()}")
local.listen()
there = socket.socket(socket.AF_UNIX)
there.connect(f"\0uprof-{os.getpid()}")
local.accept()
end()
"#;

#[test]
fn accepted_connections_with_both_ends() {
    let _turn = turn();
    for family in ["4", "6"] {
        let (report, lines, pid) = watched("tcp-accept", &[], ACCEPTS, family);
        let events: Vec<&Event> = report
            .events_of("accept")
            .filter(|event| event.pid == pid)
            .collect();
        let told = |event: &&Event| {
            (
                event.text("remote").to_owned(),
                event.text("local").to_owned(),
            )
        };
        let told: Vec<(String, String)> = events.iter().map(told).collect();
        let text = |line: &Value, key: &str| line[key].as_str().expect("a text").to_owned();
        let truth: Vec<(String, String)> = lines
            .iter()
            .filter(|line| line.get("client").is_some())
            .map(|line| (text(line, "client"), text(line, "server")))
            .collect();
        assert_eq!(truth.len(), 7);
        // The accept of the socket without a network is none of these.
        assert_eq!(told, truth);
        assert!(events.iter().all(|event| event.comm == "the-server"));
    }
}

#[test]
fn accepted_connections_counted() {
    let _turn = turn();
    let (report, lines, pid) = watched("tcp-accept", &args!["--count"], ACCEPTS, "4");
    let ours: Vec<_> = report
        .summary
        .counts
        .iter()
        .filter(|count| count.key["pid"] == pid)
        .collect();
    assert_eq!(ours.len(), 1, "{ours:?}");
    assert_eq!(ours[0].count, 7);
    assert_eq!(ours[0].key["remote"], "127.0.0.1");
    assert_eq!(ours[0].key["local"], lines[0]["server"]);
}

#[test]
fn calls_of_accept_by_what_came_of_them() {
    let _turn = turn();
    let (report, lines, _) = watched("accept", &[], ACCEPTS, "4");
    let of = |error: &Value| {
        let same = |c: &&crate::harness::report::Count| {
            c.key["comm"] == "the-server" && c.key["error"] == *error
        };
        report.summary.counts.iter().find(same).map(|c| c.count)
    };
    assert_eq!(of(&0.into()), Some(8));
    assert_eq!(of(&"EAGAIN".into()), Some(3));
    assert_eq!(of(&of_case(&lines, "pair")["error"]), Some(1));

    let (report, ..) = watched("accept", &args!["--times"], ACCEPTS, "4");
    let same = |h: &&crate::harness::report::Histogram| {
        h.key["comm"] == "the-server" && h.key["error"] == "EAGAIN"
    };
    let refused = report.summary.histograms.iter().find(same);
    assert_eq!(refused.map(|h| h.count), Some(3));
}
