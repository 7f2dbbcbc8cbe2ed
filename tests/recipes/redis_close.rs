//! `uprof recipe redis-close` against a real redis: each client's end as the client knows it, and the server's counters.

use std::io::Write;
use std::net::Shutdown;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::closes::{Truth, all, assert_told, by_port, port, read_on, reset};
use crate::args;
use crate::harness::machine::tool;
use crate::harness::servers::{Redis, RedisClient};
use crate::harness::uprof::Running;
use crate::harness::{Uprof, turn, wait_for};

fn watch(server: &Redis, flags: &[&str]) -> Running {
    let mut words = args!["recipe", "redis-close", "--pid", server.pid()];
    words.extend(flags.iter().map(ToString::to_string));
    Uprof::json(words)
        .deadline(Duration::from_secs(240))
        .start()
}

/// How a client ends.
#[derive(Clone, Copy, Debug)]
enum Way {
    Quit,
    Close,
    Reset,
    Unread,
    HalfClose,
    Killed,
    KilledByItself,
    Protocol,
    Output,
    Subscribed,
    Process,
}

const WAYS: [Way; 11] = [
    Way::Quit,
    Way::Close,
    Way::Reset,
    Way::Unread,
    Way::HalfClose,
    Way::Killed,
    Way::KilledByItself,
    Way::Protocol,
    Way::Output,
    Way::Subscribed,
    Way::Process,
];

/// Some commands, and their names to the server.
const COMMANDS: [(&str, &str); 4] = [
    ("SET key value", "set"),
    ("INCR counter", "incr"),
    ("OBJECT HELP", "object|help"),
    ("EVAL \"return redis.call('get', 'key')\" 0", "eval"),
];

/// The client's number to the server, which it asks for; then one of the commands.
fn begin(client: &mut RedisClient) -> (u64, &'static str) {
    let id: u64 = client.ask("CLIENT ID")[1..].parse().expect("a number");
    let (command, name) = COMMANDS[id as usize % COMMANDS.len()];
    let answer = client.ask(command);
    // What is left of a list does no harm: a client that is closed with it unread would be another way to end.
    if let Some(lines) = answer.strip_prefix('*') {
        for _ in 0..lines.parse::<u32>().expect("a number") {
            client.line();
        }
    } else if answer.starts_with('$') && answer != "$-1" {
        client.line();
    }
    (id, name)
}

fn end(server: &Redis, way: Way) -> (u16, Truth) {
    let truth = |way, verdict, cause, last: &str| Truth {
        way,
        verdict,
        cause,
        last: last.to_owned(),
    };
    if let Way::Process = way {
        return process(server);
    }
    let mut client = server.connect();
    let own = port(client.stream());
    let (id, name) = begin(&mut client);
    let truth = match way {
        Way::Quit => {
            client.ask("QUIT");
            read_on(client.stream());
            truth("quit", "app", Some("QUIT"), "quit")
        }
        Way::Close => truth("close", "peer", None, name),
        Way::Reset => {
            reset(client.into_stream());
            return (own, truth("reset", "peer-reset", None, name));
        }
        Way::Unread => {
            client.send("GET large");
            wait_for("the answer", || {
                let mut byte = [0];
                client.stream().peek(&mut byte).ok().filter(|n| *n > 0)
            });
            truth("unread", "peer-reset", None, "get")
        }
        Way::HalfClose => {
            client.stream().shutdown(Shutdown::Write).expect("shutdown");
            read_on(client.stream());
            truth("half-close", "peer", None, name)
        }
        Way::Killed => {
            let mut other = server.connect();
            assert_eq!(other.ask(&format!("CLIENT KILL ID {id}")), ":1");
            read_on(client.stream());
            truth("CLIENT KILL", "app", Some("CLIENT KILL"), name)
        }
        Way::KilledByItself => {
            client.ask(&format!("CLIENT KILL ID {id} SKIPME no"));
            read_on(client.stream());
            truth("kills itself", "app", Some("CLIENT KILL"), "client|kill")
        }
        Way::Protocol => {
            let answer = client.ask("*1\r\n$nonsense");
            assert!(answer.starts_with("-ERR Protocol error"), "{answer}");
            read_on(client.stream());
            truth("protocol", "app", Some("protocol error"), name)
        }
        Way::Output => {
            // Answered before the first is sent: far more than the limit of 1 MB.
            client.send(&["GET large"; 40].join("\r\n"));
            read_on(client.stream());
            truth("output", "app", Some("output buffer limit"), "get")
        }
        Way::Subscribed => {
            client.ask("SUBSCRIBE channel");
            for _ in 0..5 {
                client.line();
            }
            truth("subscribed", "peer", None, "subscribe")
        }
        Way::Process => unreachable!("it has returned"),
    };
    (own, truth)
}

/// A client's process that is killed.
fn process(server: &Redis) -> (u16, Truth) {
    let mut child = Command::new(tool("redis-cli"))
        .args(["-p", &server.port().to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start redis-cli");
    let mut input = child.stdin.take().expect("a pipe");
    let id = format!("process-{}", child.id());
    writeln!(input, "CLIENT SETNAME {id}").expect("write to redis-cli");
    input.flush().expect("write to redis-cli");
    let mut other = server.connect();
    let own = wait_for("redis-cli's connection", || {
        let list = other.ask_text("CLIENT LIST");
        let line = list.lines().find(|l| l.contains(&format!("name={id} ")))?;
        let address = line.split(' ').find_map(|w| w.strip_prefix("addr="))?;
        address.rsplit(':').next()?.parse().ok()
    });
    // redis-cli has read the answer when it asks for more; it is killed with nothing unread.
    writeln!(input, "SET k {id}").expect("write to redis-cli");
    input.flush().expect("write to redis-cli");
    wait_for("redis-cli's last answer", || {
        let mut line = String::new();
        let mut output = std::io::BufReader::new(child.stdout.as_mut()?);
        for _ in 0..2 {
            std::io::BufRead::read_line(&mut output, &mut line).ok()?;
        }
        assert_eq!(line, "OK\nOK\n");
        Some(())
    });
    child.kill().expect("kill redis-cli");
    child.wait().expect("its end");
    let truth = Truth {
        way: "killed process",
        verdict: "peer",
        cause: None,
        last: "set".to_owned(),
    };
    (own, truth)
}

fn prepare(server: &Redis) -> RedisClient {
    let mut client = server.connect();
    client.ask("CONFIG SET client-output-buffer-limit \"normal 1mb 0 0\"");
    client.ask(&format!("SET large {}", "x".repeat(60_000)));
    client
}

/// Connections that the server has had so far.
fn connections(client: &mut RedisClient) -> u64 {
    let stats = client.ask_text("INFO stats");
    let mut lines = stats.lines();
    let line = lines.find_map(|l| l.strip_prefix("total_connections_received:"));
    line.expect("redis counts them").parse().expect("a number")
}

fn wait_alone(client: &mut RedisClient) {
    wait_for("all other clients to be gone", || {
        let clients = client.ask_text("INFO clients");
        clients.contains("connected_clients:1\r\n").then_some(())
    });
}

#[test]
fn every_client_s_end_is_told_as_the_client_knows_it() {
    let _turn = turn();
    let server = Redis::start();
    let mut client = prepare(&server);
    let before = connections(&mut client);
    let uprof = watch(&server, &[]);
    let truth = all(&WAYS, 30, 0x5eed, |way| end(&server, way));
    wait_alone(&mut client);
    let had = connections(&mut client) - before;
    let report = uprof.stop().report();
    assert_eq!(truth.len(), 30 * WAYS.len());
    assert_told(&report, &truth, "command");
    // Those that killed and looked are clients, too.
    assert_eq!(by_port(&report).len() as u64, had);
    for event in report.events_of("close") {
        let pubsub = event.text("command") == "subscribe";
        assert_eq!(event.text("kind") == "pubsub", pubsub, "{event:?}");
        assert_eq!(event.text("role"), "server", "{event:?}");
        let reaction = event.fields["reaction_ns"].as_u64();
        let peer = event.text("verdict").starts_with("peer");
        assert_eq!(reaction.is_some(), peer, "{event:?}");
    }
}

#[test]
fn idle_clients_are_told_from_those_that_leave() {
    let _turn = turn();
    let server = Redis::start();
    let mut client = prepare(&server);
    // The server ends nobody who is subscribed.
    client.ask("SUBSCRIBE nothing");
    let uprof = watch(&server, &[]);
    let mut other = server.connect();
    let mut idle = Vec::new();
    for _ in 0..30 {
        let mut client = server.connect();
        let (_, name) = begin(&mut client);
        idle.push((client, name));
    }
    other.ask("CONFIG SET timeout 1");
    let mut truth = std::collections::BTreeMap::new();
    for (client, name) in idle {
        read_on(client.stream());
        let ended = Truth {
            way: "idle",
            verdict: "app",
            cause: Some("idle timeout"),
            last: name.to_owned(),
        };
        truth.insert(port(client.stream()), ended);
    }
    let report = uprof.stop().report();
    assert_eq!(truth.len(), 30);
    assert_told(&report, &truth, "command");
}

#[test]
fn the_last_command_s_key_is_told_when_asked_for() {
    let _turn = turn();
    let server = Redis::start();
    let uprof = watch(&server, &["--key"]);
    let long = "k".repeat(200);
    let mut truth = std::collections::BTreeMap::new();
    for (commands, command, key) in [
        (vec!["SET one 1", "GET two"], "get", "two"),
        (
            vec!["EVAL \"return redis.call('get', 'no')\" 1 yes"],
            "eval",
            "return redis.call('get', 'no')",
        ),
        (vec!["MULTI", "INCR within", "EXEC"], "exec", ""),
        (vec!["SET one 1", "PING"], "ping", ""),
        (vec![&format!("SET {long} 1")], "set", &long[..128]),
    ] {
        let mut client = server.connect();
        for command in commands {
            client.ask(command);
        }
        truth.insert(port(client.stream()), (command.to_owned(), key.to_owned()));
    }
    let mut client = server.connect();
    wait_alone(&mut client);
    let report = uprof.stop().report();
    let found = by_port(&report);
    for (port, (command, key)) in &truth {
        let event = found[port];
        assert_eq!(event.text("command"), command, "{event:?}");
        assert_eq!(event.text("key"), key, "{event:?}");
        assert!(event.number("since_last_ns") < event.number("age_ns"));
    }
}

#[test]
fn a_killed_server_ends_its_connections() {
    let _turn = turn();
    for (signal, cause) in [
        (Signal::SIGKILL, "killed by SIGKILL"),
        (Signal::SIGTERM, "exited"),
    ] {
        let server = Redis::start();
        let clients: Vec<RedisClient> = (0..30).map(|_| server.connect()).collect();
        let uprof = watch(&server, &[]);
        let mut clients: Vec<RedisClient> = clients
            .into_iter()
            .chain((0..30).map(|_| server.connect()))
            .collect();
        for client in &mut clients {
            client.ask("SET key value");
        }
        let pid = i32::try_from(server.pid()).expect("pids are small");
        kill(Pid::from_raw(pid), signal).expect("the server is there");
        for client in &clients {
            read_on(client.stream());
        }
        let report = uprof.stop().report();
        let found = by_port(&report);
        for client in &clients {
            let event = found
                .get(&port(client.stream()))
                .unwrap_or_else(|| panic!("{signal}: not shown: {found:?}"));
            assert_eq!(event.text("verdict"), "app", "{event:?}");
            assert_eq!(event.text("cause"), cause, "{event:?}");
        }
    }
}
