//! `uprof recipe mysql-close` against a real MariaDB: each client's end as the client knows it, and the server's counters.

use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::closes::{Truth, all, assert_told, by_port, port, read_on, reset};
use crate::args;
use crate::harness::machine::tool;
use crate::harness::servers::{MariaDb, MariaDbClient};
use crate::harness::uprof::Running;
use crate::harness::{Uprof, turn, wait_for};

const QUIT: Option<&str> = Some("quit");
const REFUSED: Option<&str> = Some("access denied");
const KILL: Option<&str> = Some("KILL");
const TIMEOUT: Option<&str> = Some("read timeout (wait_timeout)");

fn watch(server: &MariaDb) -> Running {
    let words = args!["recipe", "mysql-close", "--pid", server.pid()];
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
    HalfClose,
    Killed,
    KilledInStatement,
    Timeout,
    CloseInStatement,
    Refused,
    Prepared,
    Process,
}

const WAYS: [Way; 11] = [
    Way::Quit,
    Way::Close,
    Way::Reset,
    Way::HalfClose,
    Way::Killed,
    Way::KilledInStatement,
    Way::Timeout,
    Way::CloseInStatement,
    Way::Refused,
    Way::Prepared,
    Way::Process,
];

fn connect(server: &MariaDb) -> MariaDbClient {
    match MariaDbClient::connect(server.port(), &[]) {
        Ok(client) => client,
        Err((why, _)) => panic!("root is not let in: {why}"),
    }
}

/// Waits until the server executes the statement of a connection.
fn wait_executing(server: &MariaDb, id: u32) {
    let asked = format!("SELECT STATE FROM information_schema.PROCESSLIST WHERE ID = {id}");
    wait_for("the statement to be executed", || {
        (server.sql(&asked).trim() == "User sleep").then_some(())
    });
}

fn end(server: &MariaDb, way: Way) -> (u16, Truth) {
    if let Way::Refused = way {
        return refused(server);
    }
    if let Way::Process = way {
        return process(server);
    }
    let mut client = connect(server);
    let (own, id) = (port(client.stream()), client.id());
    let mut last = format!("SELECT {id} AS `connection {own}`");
    client.query(&last);
    let (way, verdict, cause) = match way {
        Way::Quit => {
            client.quit();
            read_on(client.stream());
            ("quit", "app", QUIT)
        }
        Way::Close => ("close", "peer", None),
        Way::Reset => {
            reset(client.into_stream());
            let way = "reset";
            let (verdict, cause) = ("peer-reset", None);
            return (
                own,
                Truth {
                    way,
                    verdict,
                    cause,
                    last,
                },
            );
        }
        Way::HalfClose => {
            client.stream().shutdown(Shutdown::Write).expect("shutdown");
            read_on(client.stream());
            ("half-close", "peer", None)
        }
        Way::Killed => {
            server.sql(&format!("KILL {id}"));
            read_on(client.stream());
            ("killed", "app", KILL)
        }
        Way::KilledInStatement => {
            last = "DO SLEEP(1000)".to_owned();
            client.begin(&last);
            wait_executing(server, id);
            server.sql(&format!("KILL CONNECTION {id}"));
            read_on(client.stream());
            ("killed in a statement", "app", KILL)
        }
        Way::Timeout => {
            last = "SET wait_timeout = 1".to_owned();
            client.query(&last);
            read_on(client.stream());
            // MariaDB sets SO_LINGER to 0 for those.
            ("timeout", "app-reset", TIMEOUT)
        }
        Way::CloseInStatement => {
            last = "DO SLEEP(0.5)".to_owned();
            client.begin(&last);
            wait_executing(server, id);
            // What the server then writes is answered by a reset.
            ("close in a statement", "peer", Some("reset after FIN"))
        }
        Way::Prepared => {
            last = format!("SELECT ? AS `prepared {own}`");
            client.execute(&last, 7);
            ("close after a prepared one", "peer", None)
        }
        Way::Refused | Way::Process => unreachable!("they have returned"),
    };
    (
        own,
        Truth {
            way,
            verdict,
            cause,
            last,
        },
    )
}

/// A client that does not know the password. The server tells so and hangs up.
fn refused(server: &MariaDb) -> (u16, Truth) {
    let Err((told, stream)) = MariaDbClient::connect(server.port(), &[7; 20]) else {
        panic!("it was let in");
    };
    assert!(told.contains("Access denied"), "{told}");
    read_on(&stream);
    let truth = Truth {
        way: "refused",
        verdict: "app",
        cause: REFUSED,
        last: String::new(),
    };
    (port(&stream), truth)
}

/// A client's process that is killed.
fn process(server: &MariaDb) -> (u16, Truth) {
    let mut child = Command::new(tool("mariadb"))
        .args(["--no-defaults", "-NBn", "-uroot", "-h127.0.0.1"])
        .arg(format!("-P{}", server.port()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start mariadb");
    let last = "SELECT CONNECTION_ID()";
    let mut input = child.stdin.take().expect("a pipe");
    writeln!(input, "{last};").expect("write to mariadb");
    let mut id = String::new();
    let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
    output.read_line(&mut id).expect("read from mariadb");
    let asked = format!("SELECT HOST FROM information_schema.PROCESSLIST WHERE ID = {id}");
    let host = server.sql(&asked);
    let own = host.trim().rsplit(':').next().and_then(|p| p.parse().ok());
    child.kill().expect("kill mariadb");
    child.wait().expect("its end");
    let truth = Truth {
        way: "killed process",
        verdict: "peer",
        cause: None,
        last: last.to_owned(),
    };
    (own.unwrap_or_else(|| panic!("a port: {host}")), truth)
}

/// Waits until nobody is connected but who asks.
fn wait_alone(server: &MariaDb) {
    wait_for("the connections to end", || {
        let others =
            "SELECT COUNT(*) - 1 FROM information_schema.PROCESSLIST WHERE COMMAND <> 'Daemon'";
        (server.sql(others).trim() == "0").then_some(())
    });
}

#[test]
fn every_client_s_end_is_told_as_the_client_and_the_server_know_it() {
    let _turn = turn();
    let server = MariaDb::start();
    wait_alone(&server);
    let counters = ["Aborted_clients", "Aborted_connects"];
    let before = counters.map(|name| server.status(name));
    let uprof = watch(&server);
    let truth = all(&WAYS, 30, 0xdb5eed, |way| end(&server, way));
    wait_alone(&server);
    let after = counters.map(|name| server.status(name));
    let report = uprof.stop().report();
    assert_eq!(truth.len(), 30 * WAYS.len());
    assert_told(&report, &truth, "sql");
    // What the server took for the end that it should be, and what not.
    let found = by_port(&report);
    let with = |cause: Option<&str>| {
        let found = found.values();
        let same = found.filter(|e| e.fields["cause"].as_str() == cause);
        same.count() as u64
    };
    let aborted = found.len() as u64 - with(QUIT) - with(REFUSED);
    assert_eq!(after[0] - before[0], aborted, "Aborted_clients");
    assert_eq!(after[1] - before[1], with(REFUSED), "Aborted_connects");
    for event in found.values() {
        assert_eq!(event.text("role"), "server", "{event:?}");
        let reaction = event.fields["reaction_ns"].as_u64();
        let peer = event.text("verdict").starts_with("peer");
        assert_eq!(reaction.is_some(), peer, "{event:?}");
    }
    // The client that waited, killed and looked came over the unix socket.
    let others = report
        .events
        .iter()
        .filter(|e| e.fields["remote"].is_null());
    for event in others {
        assert_eq!(event.text("verdict"), "unknown", "{event:?}");
        assert_eq!(event.text("cause"), "quit", "{event:?}");
        assert!(!event.text("sql").is_empty(), "{event:?}");
    }
}

#[test]
fn a_server_that_ends_or_is_killed_ends_its_connections() {
    let _turn = turn();
    for (signal, cause) in [
        (Signal::SIGTERM, "server shutdown"),
        (Signal::SIGKILL, "killed by SIGKILL"),
    ] {
        let server = MariaDb::start();
        let earlier: Vec<MariaDbClient> = (0..15).map(|_| connect(&server)).collect();
        let uprof = watch(&server);
        let later = (0..15).map(|_| connect(&server));
        let mut clients: Vec<MariaDbClient> = earlier.into_iter().chain(later).collect();
        for client in &mut clients {
            client.query("SELECT 1");
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
