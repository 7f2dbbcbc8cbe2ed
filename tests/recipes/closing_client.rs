//! A client that ends connections to nginx in every way there is, and notes of each what it did and saw.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

use super::closing_server::{self as server, Behind, Closing, Ended, Ground};
use crate::harness::machine::tool;
use crate::harness::{PATIENCE, wait_for};

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    ClientFirst,
    WithoutRequest,
    KeepaliveTimeout,
    FirstRequestTimeout,
    ConnectionClose,
    ConnectionCloseThenReset,
    ResetByLinger,
    ResetByUnread,
    HalfClose,
    HalfCloseThenReset,
    EarlyError,
    EarlyErrorAndSilence,
    MoreThanAsked,
    MoreThanAskedReset,
    LingeringClose,
    LingeringTimeout,
    LingeringThenReset,
    TimedOutReset,
    Simultaneous,
    KilledClient,
    KilledClientUnread,
    UpstreamEnds,
    UpstreamWaits,
    UpstreamResets,
    UpstreamTimesOut,
    GoneBeforeUpstream,
    FrontFirst,
    BackFirst,
}

impl Way {
    pub const ALL: [Self; 28] = [
        Self::ClientFirst,
        Self::WithoutRequest,
        Self::KeepaliveTimeout,
        Self::FirstRequestTimeout,
        Self::ConnectionClose,
        Self::ConnectionCloseThenReset,
        Self::ResetByLinger,
        Self::ResetByUnread,
        Self::HalfClose,
        Self::HalfCloseThenReset,
        Self::EarlyError,
        Self::EarlyErrorAndSilence,
        Self::MoreThanAsked,
        Self::MoreThanAskedReset,
        Self::LingeringClose,
        Self::LingeringTimeout,
        Self::LingeringThenReset,
        Self::TimedOutReset,
        Self::Simultaneous,
        Self::KilledClient,
        Self::KilledClientUnread,
        Self::UpstreamEnds,
        Self::UpstreamWaits,
        Self::UpstreamResets,
        Self::UpstreamTimesOut,
        Self::GoneBeforeUpstream,
        Self::FrontFirst,
        Self::BackFirst,
    ];

    /// nginx's port for it.
    fn port(self) -> u16 {
        match self {
            Self::KeepaliveTimeout => server::BRIEF,
            Self::FirstRequestTimeout => server::HURRIED,
            Self::EarlyErrorAndSilence
            | Self::LingeringClose
            | Self::LingeringTimeout
            | Self::LingeringThenReset => server::LINGERS,
            Self::MoreThanAskedReset => server::ABRUPT,
            Self::TimedOutReset => server::RESETS,
            Self::Simultaneous => server::HELD,
            _ => server::PATIENT,
        }
    }
}

/// One connection to be made.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub way: Way,
    /// 4 or 6.
    pub family: u8,
    /// The client's port: no two connections have the same.
    pub port: u16,
}

/// All that clients need to know, and what they noted.
pub struct Clients<'a> {
    pub ground: &'a Ground,
    pub nginx: &'a Closing,
    pub behind: &'a Behind,
    pub ended: Mutex<Vec<Ended>>,
}

impl Clients<'_> {
    /// Carries out PLANS, so many at a time.
    pub fn run(&self, plans: Vec<Plan>, at_a_time: usize) {
        let plans = Mutex::new(plans);
        let next = || plans.lock().expect("nobody panics with it").pop();
        std::thread::scope(|scope| {
            for _ in 0..at_a_time {
                scope.spawn(|| {
                    self.ground.of_client().enter();
                    while let Some(plan) = next() {
                        self.end_one(plan);
                    }
                });
            }
        });
    }

    /// A connection from a plan's own port.
    pub fn connect(&self, plan: Plan) -> TcpStream {
        let (six, nginx) = (usize::from(plan.family == 6), plan.way.port());
        let at = |host: &str, port| SocketAddr::new(host.parse().expect("an address"), port);
        let (from, to) = (
            at(self.ground.client[six], plan.port),
            at(self.ground.server[six], nginx),
        );
        let socket = Socket::new(Domain::for_address(from), Type::STREAM, None);
        let socket = socket.expect("a socket");
        if plan.way == Way::TimedOutReset {
            let small = socket.set_recv_buffer_size(16 << 10);
            small.expect("set SO_RCVBUF");
        }
        socket.bind(&from.into()).expect("a port of its own");
        socket.connect(&to.into()).expect("connect to nginx");
        let stream = TcpStream::from(socket);
        stream
            .set_read_timeout(Some(PATIENCE))
            .expect("a time limit");
        stream
    }

    fn end_one(&self, plan: Plan) {
        let stream = self.connect(plan);
        let remote = stream.local_addr().expect("it is bound").to_string();
        let local = stream.peer_addr().expect("it is connected").to_string();
        let verdict = match plan.way.port() {
            server::PATIENT => self.with_patience(stream, plan),
            _ => self.with_others(stream, plan),
        };
        let what = format!("{:?} by IPv{}", plan.way, plan.family);
        let ended = Ended {
            remote,
            local,
            role: "server",
            what,
            verdict,
        };
        self.ended
            .lock()
            .expect("nobody panics with it")
            .push(ended);
    }

    /// The port where nginx closes only where it is made to.
    fn with_patience(&self, stream: TcpStream, plan: Plan) -> &'static str {
        let proxied = |folder: &str, what: &str| {
            let path = format!("/{what}/{}", plan.port);
            (format!("/{folder}{}{path}", plan.family), path)
        };
        match plan.way {
            Way::ClientFirst => {
                get(&stream, "/small", "200");
                "peer"
            }
            Way::WithoutRequest => "peer",
            Way::ConnectionClose => {
                ask(&stream, "/small", "Connection: close\r\n");
                assert!(rest(&stream).starts_with("HTTP/1.1 200"));
                "app"
            }
            Way::ConnectionCloseThenReset => {
                ask(&stream, "/small", "Connection: close\r\n");
                rest(&stream);
                reset(stream);
                "app"
            }
            Way::ResetByLinger => {
                get(&stream, "/small", "200");
                reset(stream);
                "peer-reset"
            }
            Way::ResetByUnread => {
                ask(&stream, "/small", "");
                wait_unread(&stream);
                "peer-reset"
            }
            Way::HalfClose => {
                ask(&stream, "/small", "");
                stream.shutdown(Shutdown::Write).expect("half close");
                assert!(rest(&stream).starts_with("HTTP/1.1 200"));
                "peer"
            }
            Way::HalfCloseThenReset => {
                ask(&stream, "/large", "");
                wait_unread(&stream);
                stream.shutdown(Shutdown::Write).expect("half close");
                reset(stream);
                "peer"
            }
            Way::EarlyError => {
                too_much(&stream);
                one_answer(&stream, "413");
                // nginx reads what it refused.
                for _ in 0..BODY / PIECE - 1 {
                    (&stream).write_all(&[b'x'; PIECE]).expect("nginx reads on");
                }
                assert_eq!(rest(&stream), "");
                "app"
            }
            Way::MoreThanAsked => {
                more_than_asked(&stream);
                assert!(rest(&stream).starts_with("HTTP/1.1 200"));
                // It lingers: what is still sent is no reason for a reset.
                (&stream).write_all(b"more").expect("nginx lingers");
                "app"
            }
            Way::KilledClient | Way::KilledClientUnread => {
                if plan.way == Way::KilledClient {
                    get(&stream, "/small", "200");
                    kill_holder(stream);
                    return "peer";
                }
                ask(&stream, "/small", "");
                wait_unread(&stream);
                kill_holder(stream);
                "peer-reset"
            }
            Way::UpstreamEnds => {
                get(&stream, &proxied("", "ends").0, "200");
                "peer"
            }
            Way::UpstreamWaits => {
                get(&stream, &proxied("", "waits").0, "200");
                "peer"
            }
            Way::UpstreamResets => {
                get(&stream, &proxied("", "resets").0, "502");
                "peer"
            }
            Way::UpstreamTimesOut => {
                get(&stream, &proxied("slow", "hangs").0, "504");
                "peer"
            }
            Way::GoneBeforeUpstream => {
                let (asked, behind) = proxied("", "hangs");
                ask(&stream, &asked, "");
                self.behind.wait_asked(&behind);
                "peer"
            }
            Way::FrontFirst => {
                get(&stream, &format!("/front{}/page.html", plan.family), "200");
                "peer"
            }
            Way::BackFirst => {
                get(&stream, &format!("/back{}/page.html", plan.family), "200");
                "peer"
            }
            other => panic!("{other:?} is for another port"),
        }
    }

    /// The ports where nginx closes by itself.
    fn with_others(&self, stream: TcpStream, plan: Plan) -> &'static str {
        match plan.way {
            Way::KeepaliveTimeout => {
                get(&stream, "/small", "200");
                assert_eq!(rest(&stream), "");
                "app"
            }
            Way::FirstRequestTimeout => {
                assert_eq!(rest(&stream), "");
                "app"
            }
            Way::MoreThanAskedReset => {
                more_than_asked(&stream);
                wait_reset(&stream);
                "app-reset"
            }
            Way::EarlyErrorAndSilence => {
                too_much(&stream);
                assert!(rest(&stream).starts_with("HTTP/1.1 413"));
                "app"
            }
            Way::LingeringClose => {
                ask(&stream, "/small", "Connection: close\r\n");
                assert!(rest(&stream).starts_with("HTTP/1.1 200"));
                "app"
            }
            Way::LingeringTimeout => {
                ask(&stream, "/small", "Connection: close\r\n");
                rest(&stream);
                wait_for("nginx to tire of lingering", || {
                    // What comes while it lingers, it lingers on for; later the answer is a reset.
                    std::thread::sleep(Duration::from_millis(600));
                    let late = (&stream).write(b"x").err();
                    late.or(stream.take_error().expect("SO_ERROR"))
                });
                "app"
            }
            Way::LingeringThenReset => {
                ask(&stream, "/small", "Connection: close\r\n");
                rest(&stream);
                reset(stream);
                "app"
            }
            Way::TimedOutReset => {
                ask(&stream, "/large", "");
                wait_reset(&stream);
                "app-reset"
            }
            Way::Simultaneous => {
                get(&stream, "/small", "200");
                wait_for("nginx to close", || {
                    std::thread::sleep(Duration::from_millis(20));
                    self.nginx.has_sent_fin(plan.port).then_some(())
                });
                stream.set_nonblocking(true).expect("set O_NONBLOCK");
                let seen = stream.peek(&mut [0; 1]).map_err(|e| e.kind());
                assert_eq!(seen, Err(ErrorKind::WouldBlock), "nginx's FIN came through");
                "both"
            }
            other => panic!("{other:?} is for another port"),
        }
    }
}

fn ask(mut stream: &TcpStream, path: &str, headers: &str) {
    let text = format!("GET {path} HTTP/1.1\r\nHost: test\r\n{headers}\r\n");
    stream.write_all(text.as_bytes()).expect("write to nginx");
}

/// Asks and reads the answer's body.
pub fn get(stream: &TcpStream, path: &str, status: &str) -> String {
    ask(stream, path, "");
    one_answer(stream, status)
}

/// Reads an answer, which has a length or chunks.
fn one_answer(mut stream: &TcpStream, status: &str) -> String {
    let mut bytes = Vec::new();
    loop {
        let mut buffer = [0; 4096];
        let got = stream.read(&mut buffer).expect("nginx answers");
        assert!(got > 0, "nginx closed early: {bytes:?}");
        bytes.extend(&buffer[..got]);
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head
            .lines()
            .find_map(|l| l.strip_prefix("Content-Length: "));
        let whole = match length {
            Some(length) => length.parse() == Ok(body.len()),
            None => body.ends_with("0\r\n\r\n"),
        };
        if whole {
            assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{head}");
            return body.to_owned();
        }
    }
}

/// Reads to nginx's FIN.
fn rest(mut stream: &TcpStream) -> String {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("nginx closes");
    String::from_utf8(bytes).expect("text")
}

/// A body that is too large, in pieces.
const BODY: usize = 64 << 10;
const PIECE: usize = 4 << 10;

/// The first piece.
fn too_much(mut stream: &TcpStream) {
    let head = format!("POST /small HTTP/1.1\r\nHost: test\r\nContent-Length: {BODY}\r\n\r\n");
    let text = [head.as_bytes(), &[b'x'; PIECE]].concat();
    stream.write_all(&text).expect("write to nginx");
}

/// A last request, and with it more than nginx reads at once.
fn more_than_asked(mut stream: &TcpStream) {
    let head = "GET /small HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
    let text = [head.as_bytes(), &[b'x'; 16 << 10]].concat();
    stream.write_all(&text).expect("write to nginx");
}

fn wait_unread(stream: &TcpStream) {
    let some = stream.peek(&mut [0; 1]).expect("nginx answers");
    assert_eq!(some, 1);
}

/// Closes by a reset.
fn reset(stream: TcpStream) {
    let at_once = Some(Duration::ZERO);
    let set = SockRef::from(&stream).set_linger(at_once);
    set.expect("set SO_LINGER");
}

/// Waits for nginx's reset without reading.
fn wait_reset(stream: &TcpStream) {
    let error = wait_for("nginx's reset", || stream.take_error().expect("SO_ERROR"));
    assert!(
        [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe].contains(&error.kind()),
        "{error}"
    );
}

/// Gives the connection to a process, which is killed.
fn kill_holder(stream: TcpStream) {
    let mut command = Command::new(tool("sleep"));
    command
        .arg("1000")
        .stdin(Stdio::from(OwnedFd::from(stream)));
    let mut child = command.spawn().expect("start sleep");
    drop(command);
    child.kill().expect("kill it");
    child.wait().expect("wait for it");
}
