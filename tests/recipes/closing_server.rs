//! What [`super::closing_client`] talks to: an nginx with a port for each way to close, and a server behind it.

use std::collections::HashSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use socket2::SockRef;
use tempfile::TempDir;

use super::network::{Namespace, cabled};
use crate::harness::{PATIENCE, wait_for};

/// Waits long for whatever may still come.
pub const PATIENT: u16 = 801;
/// Waits 300 ms for the next request.
pub const BRIEF: u16 = 802;
/// The same, and the client hears of nginx's end only once it has closed as well.
pub const HELD: u16 = 803;
/// Lingers after every answer, up to 300 ms.
pub const LINGERS: u16 = 804;
/// Never lingers.
pub const ABRUPT: u16 = 805;
/// Resets who does not read on within 300 ms.
pub const RESETS: u16 = 806;
/// Waits 300 ms for the first request.
pub const HURRIED: u16 = 807;
/// nginx behind nginx: the one in front closes first.
pub const FRONT_FIRST: u16 = 811;
/// nginx behind nginx: the one behind closes first.
pub const BACK_FIRST: u16 = 812;
/// The test's own server that nginx is a proxy for: on the client's side.
const BEHIND: u16 = 820;

/// The bytes of `/large`: more than the kernel holds for a client that does not read.
pub const LARGE: usize = 8 << 20;

/// A FIN from HELD goes lost until the server has acknowledged the client's.
const HOLD: &str = "table inet hold {
  set closed { type inet_service; size 65535; flags dynamic; }
  set released { type inet_service; size 65535; flags dynamic; }
  chain out { type filter hook output priority 0; tcp dport 803 tcp flags & fin == fin add @closed { tcp sport }; }
  chain in { type filter hook input priority 0;
    tcp sport 803 tcp flags & fin == 0 tcp dport @closed add @released { tcp dport };
    tcp sport 803 tcp flags & fin == fin tcp dport != @released drop;
  }
}";

/// Where server and client are: one namespace, or two and a cable. Addresses by IPv4 and IPv6.
pub struct Ground {
    spaces: Vec<Namespace>,
    pub server: [&'static str; 2],
    pub client: [&'static str; 2],
}

impl Ground {
    /// Both on the loopback of a namespace.
    pub fn loopback() -> Self {
        let here = ["127.0.0.1", "::1"];
        Self::of(vec![Namespace::new()], here, here)
    }

    /// Each in a namespace, with a cable between.
    pub fn cable() -> Self {
        let ends = [["192.0.2.1", "2001:db8::1"], ["192.0.2.2", "2001:db8::2"]];
        Self::of(cabled().into(), ends[0], ends[1])
    }

    fn of(spaces: Vec<Namespace>, server: [&'static str; 2], client: [&'static str; 2]) -> Self {
        let this = Self {
            spaces,
            server,
            client,
        };
        this.of_client().rules(HOLD);
        this
    }

    fn of_server(&self) -> &Namespace {
        &self.spaces[0]
    }

    pub fn of_client(&self) -> &Namespace {
        self.spaces.last().expect("one or two")
    }
}

/// The nginx under test.
pub struct Closing {
    child: Child,
    folder: TempDir,
    /// What was seen last, for all who wait: the table is long.
    seen: Mutex<(Instant, Vec<Row>)>,
}

impl Closing {
    /// With so many workers.
    pub fn start(ground: &Ground, workers: usize) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("uprof-closing-")
            .tempdir()
            .expect("a temporary folder");
        let root = folder.path();
        fs::create_dir(root.join("www")).expect("a folder for files");
        fs::write(root.join("www/small"), "small").expect("a file to serve");
        fs::write(root.join("www/page.html"), "a page").expect("a file to serve");
        fs::write(root.join("www/large"), vec![b'x'; LARGE]).expect("a file to serve");
        let conf = root.join("nginx.conf");
        let text = configuration(&root.display().to_string(), workers, ground.client);
        fs::write(&conf, text).expect("write the configuration");
        let mut command = ground.of_server().command("nginx");
        command.arg("-c").arg(&conf);
        command.arg("-e").arg(root.join("error.log"));
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.stderr(Stdio::null()).spawn().expect("start nginx");
        let mut server = Self {
            child,
            folder,
            seen: Mutex::new((Instant::now(), Vec::new())),
        };
        wait_for("nginx and its workers", || {
            let ended = server.child.try_wait().expect("wait for nginx");
            let errors = fs::read_to_string(server.folder.path().join("error.log"));
            assert!(ended.is_none(), "nginx ended: {ended:?}: {errors:?}");
            (server.workers().len() == workers).then_some(())
        });
        server
    }

    /// The processes that serve.
    pub fn workers(&self) -> Vec<u32> {
        let pid = self.child.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let children = children.expect("the master lives");
        let pids = children.split_whitespace();
        // ip(8) became nginx's master.
        pids.map(|pid| pid.parse().expect("a pid")).collect()
    }

    /// The sockets of the server's namespace.
    pub fn sockets(&self) -> Vec<Row> {
        let tables = ["tcp", "tcp6"].map(|table| {
            let path = format!("/proc/{}/net/{table}", self.child.id());
            fs::read_to_string(path).expect("the kernel's table")
        });
        let lines = tables.iter().flat_map(|table| table.lines().skip(1));
        lines.map(row).collect()
    }

    /// Is the socket that is connected with this port in FIN_WAIT1?
    pub fn has_sent_fin(&self, remote: u16) -> bool {
        let mut seen = self.seen.lock().expect("nobody panics with it");
        if seen.0.elapsed() > Duration::from_millis(30) {
            *seen = (Instant::now(), self.sockets());
        }
        let mut rows = seen.1.iter();
        rows.any(|row| (row.remote, row.state) == (remote, 4))
    }

    /// Waits until nothing but listeners and TIME_WAIT is left.
    pub fn wait_closed(&self) {
        wait_for("all connections to end", || {
            let sockets = self.sockets();
            let open = sockets.iter().filter(|row| ![6, 10].contains(&row.state));
            (open.count() == 0).then_some(())
        });
    }
}

/// A line of /proc/net/tcp: ports, state (include/net/tcp_states.h), bytes that nobody has read.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub local: u16,
    pub remote: u16,
    pub state: u8,
    pub unread: u64,
}

fn row(line: &str) -> Row {
    let words: Vec<&str> = line.split_whitespace().collect();
    let behind_colon = |word: &str| {
        let digits = word.rsplit(':').next().expect("a part");
        u64::from_str_radix(digits, 16).expect("hexadecimal digits")
    };
    Row {
        local: behind_colon(words[1]) as u16,
        remote: behind_colon(words[2]) as u16,
        state: behind_colon(words[3]) as u8,
        unread: behind_colon(words[4]),
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).expect("pids are small");
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

fn configuration(root: &str, workers: usize, behind: [&str; 2]) -> String {
    let listen = |port: u16, more: &str| {
        format!(
            "listen 0.0.0.0:{port} backlog=512{more}; listen [::]:{port} ipv6only=on backlog=512{more};"
        )
    };
    let [p4, p6] = [
        format!("{}:{BEHIND}", behind[0]),
        format!("[{}]:{BEHIND}", behind[1]),
    ];
    let proxies = format!(
        "lingering_time 120s; lingering_timeout 60s; location /pid {{ return 200 $pid; }}
    location /4/ {{ proxy_pass http://{p4}/; }} location /6/ {{ proxy_pass http://{p6}/; }}
    location /slow4/ {{ proxy_pass http://{p4}/; proxy_read_timeout 300ms; }}
    location /slow6/ {{ proxy_pass http://{p6}/; proxy_read_timeout 300ms; }}
    location /front4/ {{ proxy_pass http://127.0.0.1:{FRONT_FIRST}/; proxy_http_version 1.1; proxy_set_header Connection ''; }}
    location /front6/ {{ proxy_pass http://[::1]:{FRONT_FIRST}/; proxy_http_version 1.1; proxy_set_header Connection ''; }}
    location /back4/ {{ proxy_pass http://127.0.0.1:{BACK_FIRST}/; }} location /back6/ {{ proxy_pass http://[::1]:{BACK_FIRST}/; }}"
    );
    let servers = [
        (PATIENT, "", proxies.as_str()),
        (BRIEF, "", "keepalive_timeout 300ms;"),
        (HURRIED, "", "client_header_timeout 300ms;"),
        (HELD, "", "keepalive_timeout 300ms;"),
        (
            LINGERS,
            "",
            "lingering_close always; lingering_timeout 300ms;",
        ),
        (ABRUPT, "", "lingering_close off;"),
        (
            RESETS,
            " sndbuf=32k",
            "reset_timedout_connection on; send_timeout 300ms;",
        ),
        (FRONT_FIRST, "", ""),
        // What goes through SSI has no length, and HTTP/1.0 no chunks: its end is the connection's.
        (BACK_FIRST, "", "ssi on;"),
    ];
    let servers =
        servers.map(|(port, more, rules)| format!("server {{ {} {rules} }}\n", listen(port, more)));
    format!(
        "user root; worker_processes {workers}; daemon off; pid {root}/pid; error_log {root}/error.log crit;
events {{ worker_connections 1024; }}
http {{
  access_log off; root {root}/www; client_max_body_size 1k; types {{ text/html html; }} default_type text/plain;
  keepalive_timeout 60s; keepalive_requests 1000000; proxy_buffering off;
  client_body_temp_path {root}/body; proxy_temp_path {root}/proxy; fastcgi_temp_path {root}/fastcgi;
  uwsgi_temp_path {root}/uwsgi; scgi_temp_path {root}/scgi;
  {}
}}
",
        servers.concat()
    )
}

/// A connection that ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// nginx's end.
    pub local: String,
    pub remote: String,
    /// What nginx was.
    pub role: &'static str,
    #[expect(dead_code, reason = "it is told of what is wrong")]
    pub what: String,
    pub verdict: &'static str,
}

/// A server behind nginx that closes as the path says: `/ends/N` first, `/waits/N` second, `/hangs/N` second and without an
/// answer, `/resets/N`.
#[derive(Default)]
pub struct Behind {
    asked: Mutex<HashSet<String>>,
    asked_more: Condvar,
    pub ended: Mutex<Vec<Ended>>,
}

impl Behind {
    /// Listens in the client's namespace and serves until the test's end.
    pub fn start(ground: &Ground) -> &'static Self {
        let this: &'static Self = Box::leak(Box::default());
        for address in ground.client {
            let (send, bound) = std::sync::mpsc::channel();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    ground.of_client().enter();
                    let listener = TcpListener::bind((address, BEHIND)).expect("a port of its own");
                    send.send(listener).expect("it is waited for");
                });
            });
            let listener = bound.recv().expect("a listener");
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let stream = stream.expect("accept");
                    std::thread::spawn(move || this.serve(stream));
                }
            });
        }
        this
    }

    /// Waits until nginx has asked for this path.
    pub fn wait_asked(&self, path: &str) {
        let asked = self.asked.lock().expect("no server panics");
        let (_asked, late) = self
            .asked_more
            .wait_timeout_while(asked, PATIENCE, |asked| !asked.contains(path))
            .expect("no server panics");
        assert!(!late.timed_out(), "nginx never asked for {path}");
    }

    fn serve(&self, stream: TcpStream) {
        let local = stream.peer_addr().expect("it is connected").to_string();
        let remote = stream.local_addr().expect("it is bound").to_string();
        let mut lines = BufReader::new(&stream).lines();
        let first = lines.next().expect("a request").expect("a request");
        while !lines.next().expect("headers").expect("headers").is_empty() {}
        let path = first.split(' ').nth(1).expect("a path").to_owned();
        let what = path.split('/').nth(1).expect("a word").to_owned();
        self.asked.lock().expect("no server panics").insert(path);
        self.asked_more.notify_all();
        let verdict = match what.as_str() {
            "ends" => {
                say(&stream, "HTTP/1.0 200 OK\r\n\r\nanswer");
                "peer"
            }
            "resets" => {
                let at_once = Some(Duration::ZERO);
                SockRef::from(&stream)
                    .set_linger(at_once)
                    .expect("set SO_LINGER");
                "peer-reset"
            }
            "waits" => {
                say(
                    &stream,
                    "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nanswer",
                );
                wait_end(&stream);
                "app"
            }
            "hangs" => {
                wait_end(&stream);
                "app"
            }
            other => panic!("what is {other}?"),
        };
        drop(stream);
        let ended = Ended {
            remote,
            local,
            role: "client",
            what,
            verdict,
        };
        self.ended.lock().expect("no server panics").push(ended);
    }
}

fn say(mut stream: &TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).expect("write to nginx");
}

/// Waits for the other side's FIN.
fn wait_end(mut stream: &TcpStream) {
    assert_eq!(stream.read(&mut [0; 16]).expect("nginx closes"), 0);
}
