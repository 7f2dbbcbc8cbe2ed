//! `uprof recipe nginx-close` says who ended each connection: against a client that ends them in every way there is, in
//! random order and many at a time, and knows what it did.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::closing_client::{Clients, Plan, Way, get};
use super::closing_server::{BACK_FIRST, Behind, Closing, Ended, FRONT_FIRST, Ground, PATIENT};
use crate::args;
use crate::harness::report::Event;
use crate::harness::uprof::Running;
use crate::harness::{Report, Uprof, turn, wait_for};

/// How often each way is gone, half of it by IPv6.
const REPETITIONS: usize = 200;

/// How many connections are open at a time.
const AT_A_TIME: usize = 50;

fn watch(nginx: &Closing) -> Running {
    let mut words = args!["recipe", "nginx-close"];
    for pid in nginx.workers() {
        words.extend(args!["--pid", pid]);
    }
    Uprof::json(words)
        .deadline(Duration::from_secs(300))
        .start()
}

/// All ways, as often as said, in an order of which the seed is printed.
fn plans(repetitions: usize) -> Vec<Plan> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let seed = now.expect("a clock after 1970").as_nanos() as u64;
    println!("seed {seed}");
    let mut order = scrambled(seed);
    let mut ways: Vec<(Way, u8)> = Vec::new();
    for n in 0..repetitions {
        let family = if n % 2 == 0 { 4 } else { 6 };
        ways.extend(Way::ALL.map(|way| (way, family)));
    }
    for i in (1..ways.len()).rev() {
        ways.swap(i, order() as usize % (i + 1));
    }
    let ports = 1024..;
    let plans = ways.into_iter().zip(ports);
    plans
        .map(|((way, family), port)| Plan { way, family, port })
        .collect()
}

/// Numbers in no order: SplitMix64 (Steele, Lea, Flood 2014).
fn scrambled(mut state: u64) -> impl FnMut() -> u64 {
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

fn port_of(address: &str) -> u16 {
    let port = address
        .rsplit(':')
        .next()
        .and_then(|port| port.parse().ok());
    port.unwrap_or_else(|| panic!("not an address: {address}"))
}

/// A connection as nginx sees it: its role, its own address, the other one.
type Name<'t> = (&'t str, &'t str, &'t str);

/// Compares what uprof told with what the clients, and the server behind nginx, know.
fn compare(report: &Report, ended: &[Ended]) {
    report.summary.assert_nothing_dropped();
    let mut events: BTreeMap<Name, Vec<&Event>> = BTreeMap::new();
    for event in &report.events {
        let ends = (
            event.text("role"),
            event.text("local"),
            event.text("remote"),
        );
        events.entry(ends).or_default().push(event);
    }
    // nginx may have connected to the server behind it from one port twice.
    let mut truth: BTreeMap<Name, Vec<&Ended>> = BTreeMap::new();
    for known in ended {
        let ends = (known.role, known.local.as_str(), known.remote.as_str());
        truth.entry(ends).or_default().push(known);
    }
    let mut wrong = Vec::new();
    for (ends, connections) in truth {
        let found = events.remove(&ends).unwrap_or_default();
        let mut told: Vec<_> = found.iter().map(|event| event.text("verdict")).collect();
        let mut right: Vec<_> = connections.iter().map(|known| known.verdict).collect();
        told.sort_unstable();
        right.sort_unstable();
        if told != right {
            wrong.push(format!("{connections:?}: {found:?}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {} are wrong:\n{}",
        wrong.len(),
        ended.len(),
        wrong[..wrong.len().min(20)].join("\n")
    );
    // What is left are both ends of what nginx asked itself.
    both_ends(events.into_values().flatten().collect());
}

fn both_ends(events: Vec<&Event>) {
    let (fronts, backs): (Vec<_>, Vec<_>) =
        events.into_iter().partition(|e| e.text("role") == "client");
    let ends = |local: &str, remote: &str, events: &[&Event]| {
        let mut ends: Vec<_> = events
            .iter()
            .map(|e| (e.text(local).to_owned(), e.text(remote).to_owned()))
            .collect();
        ends.sort_unstable();
        ends
    };
    assert_eq!(
        ends("local", "remote", &fronts),
        ends("remote", "local", &backs)
    );
    for (port, front, back) in [(FRONT_FIRST, "app", "peer"), (BACK_FIRST, "peer", "app")] {
        let of_port = |address, events: &[&Event]| -> Vec<String> {
            let events = events.iter().filter(|e| port_of(e.text(address)) == port);
            events.map(|e| e.text("verdict").to_owned()).collect()
        };
        assert_eq!(of_port("remote", &fronts), [front; REPETITIONS]);
        assert_eq!(of_port("local", &backs), [back; REPETITIONS]);
    }
    assert_eq!(fronts.len(), 2 * REPETITIONS);
}

fn every_way(ground: &Ground) {
    let nginx = Closing::start(ground, 2);
    let behind = Behind::start(ground);
    let uprof = watch(&nginx);
    let clients = Clients {
        ground,
        nginx: &nginx,
        behind,
        ended: Mutex::default(),
    };
    clients.run(plans(REPETITIONS), AT_A_TIME);
    nginx.wait_closed();
    let report = uprof.stop().report();
    let mut ended = clients.ended.into_inner().expect("nobody panicked");
    assert_eq!(ended.len(), REPETITIONS * Way::ALL.len());
    ended.extend(
        behind
            .ended
            .lock()
            .expect("nobody panicked")
            .iter()
            .cloned(),
    );
    // Five of the ways ask the server behind.
    assert_eq!(ended.len(), REPETITIONS * (Way::ALL.len() + 5));
    compare(&report, &ended);
}

#[test]
fn every_way_on_the_loopback() {
    let _turn = turn();
    every_way(&Ground::loopback());
}

#[test]
fn every_way_across_a_cable() {
    let _turn = turn();
    every_way(&Ground::cable());
}

/// As many connections as said, which have been answered and stay: each with the worker that has it.
fn settled(ground: &Ground, clients: &Clients, many: u16) -> Vec<(u32, TcpStream)> {
    std::thread::scope(|scope| {
        let made = scope.spawn(|| {
            ground.of_client().enter();
            let connect = |port| {
                let family = if port % 2 == 0 { 4 } else { 6 };
                let way = Way::ClientFirst;
                let stream = clients.connect(Plan { way, family, port });
                let pid = get(&stream, "/pid", "200");
                (pid.parse().expect("a pid"), stream)
            };
            (1024..1024 + many).map(connect).collect()
        });
        made.join().expect("nobody panicked")
    })
}

fn signal(pids: &[u32], what: Signal) {
    for &pid in pids {
        let pid = Pid::from_raw(i32::try_from(pid).expect("pids are small"));
        kill(pid, what).expect("the worker lives");
    }
}

#[test]
fn workers_that_are_killed() {
    let _turn = turn();
    let ground = Ground::loopback();
    let nginx = Closing::start(&ground, 4);
    let workers = nginx.workers();
    let uprof = watch(&nginx);
    let clients = Clients {
        ground: &ground,
        nginx: &nginx,
        behind: Behind::start(&ground),
        ended: Mutex::default(),
    };
    let settled = settled(&ground, &clients, 3 * REPETITIONS as u16);
    signal(&workers, Signal::SIGSTOP);
    // A third sends what is not read any more, and another has closed before.
    let mut truth = Vec::new();
    let mut open = Vec::new();
    for (n, (pid, mut stream)) in settled.into_iter().enumerate() {
        let remote = stream.local_addr().expect("it is bound").to_string();
        let verdict = match n % 3 {
            0 => "app",
            1 => {
                stream.write_all(b"GET").expect("the socket takes it");
                "app-reset"
            }
            _ => "peer",
        };
        truth.push((remote, pid, verdict));
        if verdict != "peer" {
            open.push(stream);
        }
    }
    wait_for("all of it to arrive", || {
        let sockets = nginx.sockets();
        let sockets = sockets.iter().filter(|row| row.local == PATIENT);
        let (unread, closed) = sockets.fold((0, 0), |(unread, closed), row| {
            (
                unread + usize::from(row.unread == 3),
                closed + usize::from(row.state == 8),
            )
        });
        (unread == REPETITIONS && closed == REPETITIONS).then_some(())
    });
    signal(&workers, Signal::SIGKILL);
    wait_for("the workers to end", || {
        workers
            .iter()
            .all(|pid| !Path::new(&format!("/proc/{pid}")).exists())
            .then_some(())
    });
    drop(open);
    nginx.wait_closed();
    let report = uprof.stop().report();
    report.summary.assert_nothing_dropped();
    assert_eq!(report.events.len(), truth.len());
    for (remote, pid, verdict) in &truth {
        let of_it = report
            .events
            .iter()
            .filter(|event| event.text("remote") == remote);
        let of_it: Vec<_> = of_it.collect();
        let [event] = of_it.as_slice() else {
            panic!("{remote}: {of_it:?}");
        };
        let told = (event.pid, event.text("verdict"));
        assert_eq!(told, (*pid, *verdict), "{event:?}");
        assert_eq!(event.text("cause"), "killed by SIGKILL", "{event:?}");
    }
}

#[test]
fn the_time_that_nginx_took_to_notice() {
    let _turn = turn();
    let ground = Ground::loopback();
    let nginx = Closing::start(&ground, 2);
    let uprof = watch(&nginx);
    let clients = Clients {
        ground: &ground,
        nginx: &nginx,
        behind: Behind::start(&ground),
        ended: Mutex::default(),
    };
    let settled = settled(&ground, &clients, 20);
    signal(&nginx.workers(), Signal::SIGSTOP);
    let begun = Instant::now();
    drop(settled);
    wait_for("the clients' ends to arrive", || {
        let sockets = nginx.sockets();
        let closed = sockets.iter().filter(|row| row.state == 8);
        (closed.count() == 20).then_some(())
    });
    let late = Instant::now();
    std::thread::sleep(Duration::from_millis(300));
    let least = late.elapsed();
    signal(&nginx.workers(), Signal::SIGCONT);
    nginx.wait_closed();
    let most = begun.elapsed();
    let report = uprof.stop().report();
    assert_eq!(report.events.len(), 20);
    for event in &report.events {
        let took = Duration::from_nanos(event.number("reaction_ns"));
        assert!(
            least <= took && took <= most,
            "{least:?} {most:?} {event:?}"
        );
        assert_eq!(event.text("verdict"), "peer");
    }
}
