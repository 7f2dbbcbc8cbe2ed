//! What the tests of closes have in common: clients that end in all ways, in random order, several at a time.

use std::collections::{BTreeMap, VecDeque};
use std::io::Read;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::sync::Mutex;

use crate::harness::Report;
use crate::harness::report::Event;

/// How many clients there are at a time.
const AT_A_TIME: usize = 8;

/// What a client knows of its own end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Truth {
    /// How it ended, for messages.
    pub way: &'static str,
    pub verdict: &'static str,
    pub cause: Option<&'static str>,
    /// The last command or statement.
    pub last: String,
}

/// Lets COUNT clients end in each of WAYS, in an order that SEED gives; by the client's port what became of each.
pub fn all<W: Copy + Send>(
    ways: &[W],
    count: usize,
    seed: u64,
    client: impl Fn(W) -> (u16, Truth) + Sync,
) -> BTreeMap<u16, Truth> {
    let mut order: Vec<W> = (0..count).flat_map(|_| ways.iter().copied()).collect();
    let mut state = seed | 1;
    for n in (1..order.len()).rev() {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        order.swap(n, (state % (n as u64 + 1)) as usize);
    }
    let left = Mutex::new(VecDeque::from(order));
    let next = || left.lock().expect("no client panicked").pop_front();
    let worker = || {
        let ended = std::iter::from_fn(|| Some(client(next()?)));
        ended.collect::<Vec<_>>()
    };
    let mut truth = BTreeMap::new();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_A_TIME).map(|_| scope.spawn(worker)).collect();
        for worker in workers {
            for (port, ended) in worker.join().expect("a client panicked") {
                let earlier = truth.insert(port, ended);
                assert_eq!(earlier, None, "port {port} was used twice");
            }
        }
    });
    truth
}

/// The port of this end.
pub fn port(stream: &TcpStream) -> u16 {
    stream.local_addr().expect("it is connected").port()
}

/// Ends the connection by a reset.
pub fn reset(stream: TcpStream) {
    let now = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    // SAFETY: the option's value is a `struct linger`, which lives until the call has returned.
    let done = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const now).cast(),
            size_of_val(&now) as libc::socklen_t,
        )
    };
    assert_eq!(done, 0, "SO_LINGER: {}", std::io::Error::last_os_error());
}

/// Reads until the other end hangs up, whichever way.
pub fn read_on(mut stream: &TcpStream) {
    let mut buffer = [0; 65_536];
    while matches!(stream.read(&mut buffer), Ok(n) if n > 0) {}
}

/// Closes by the client's port; each once.
pub fn by_port(report: &Report) -> BTreeMap<u16, &Event> {
    report.summary.assert_nothing_dropped();
    let mut found = BTreeMap::new();
    for event in &report.events {
        // Of a unix socket there is none.
        let Some(remote) = event.fields["remote"].as_str() else {
            continue;
        };
        let port = remote.rsplit(':').next().and_then(|p| p.parse().ok());
        let port: u16 = port.unwrap_or_else(|| panic!("no port: {event:?}"));
        let earlier = found.insert(port, event);
        assert!(earlier.is_none(), "twice: {earlier:?} {event:?}");
    }
    found
}

/// Each client's end is told as it was, with `last` in the field LAST.
pub fn assert_told(report: &Report, truth: &BTreeMap<u16, Truth>, last: &str) {
    let found = by_port(report);
    let mut wrong = Vec::new();
    for (port, truth) in truth {
        let Some(event) = found.get(port) else {
            wrong.push(format!("{truth:?}: not shown"));
            continue;
        };
        let text = |field: &str| event.fields.get(field).and_then(|v| v.as_str());
        let right = text("verdict") == Some(truth.verdict)
            && text("cause") == truth.cause
            && text(last).unwrap_or("") == truth.last;
        if !right {
            wrong.push(format!("{truth:?}: {event:?}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {} are wrong:\n{}",
        wrong.len(),
        truth.len(),
        wrong.join("\n")
    );
}
