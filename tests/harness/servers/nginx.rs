//! nginx.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::super::machine::tool;
use super::super::wait_for;

/// A running nginx with a log that says of each request what the server itself knows of it.
pub struct Nginx {
    child: Child,
    folder: TempDir,
    /// HTTP/1: files, proxies, and the counters under `/counters`.
    pub port: u16,
    /// HTTP/2 without TLS.
    pub http2: u16,
    /// The server that it is a proxy for: itself.
    behind: u16,
}

/// A line of the access log.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Logged {
    pub pid: u32,
    pub status: u64,
    pub method: String,
    pub uri: String,
    /// `$request_time`.
    pub took_ms: u64,
    /// `$bytes_sent`.
    pub sent: u64,
    /// `$request_length`.
    pub received: u64,
    /// `1.1`
    pub http: String,
    pub proxied: bool,
    /// `$connection` and `$connection_requests`.
    pub connection: u64,
    pub requests: u64,
}

impl Nginx {
    /// Starts a server whose `/silent` is proxied to SILENT, a port that accepts and need not answer.
    pub fn start(silent: u16) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("uprof-nginx-")
            .tempdir()
            .expect("a temporary folder");
        let (port, http2, behind) = (super::free_port(), super::free_port(), super::free_port());
        let root = folder.path();
        std::fs::create_dir(root.join("www")).expect("a folder for files");
        std::fs::write(root.join("www/file"), vec![b'x'; 50_000]).expect("a file to serve");
        std::fs::write(
            root.join("nginx.conf"),
            configuration(root, [port, http2, behind, silent]),
        )
        .expect("write the configuration");
        let child = Command::new(tool("nginx"))
            .arg("-c")
            .arg(root.join("nginx.conf"))
            .arg("-e")
            .arg(root.join("error.log"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start nginx");
        let mut server = Self {
            child,
            folder,
            port,
            http2,
            behind,
        };
        // It listens before it has workers.
        wait_for("both workers of nginx", || {
            assert!(
                matches!(server.child.try_wait(), Ok(None)),
                "nginx ended: {}",
                server.errors()
            );
            (server.workers().len() == 2).then_some(())
        });
        server
    }

    fn errors(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("error.log")).unwrap_or_default()
    }

    /// The processes that serve.
    pub fn workers(&self) -> Vec<u32> {
        let pid = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
            .expect("the master lives");
        children
            .split_whitespace()
            .map(|pid| pid.parse().expect("a pid"))
            .collect()
    }

    /// A new connection for HTTP/1.
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).expect("connect to nginx");
        stream
            .set_read_timeout(Some(super::super::PATIENCE))
            .expect("a time limit");
        stream
    }

    /// Waits until it, and whoever talks to it, has closed all connections.
    pub fn wait_closed(&self) {
        let ours = [self.port, self.http2, self.behind].map(|port| format!(":{port:04X}"));
        wait_for("nginx to close its connections", || {
            let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel's table");
            let open = table.lines().skip(1).filter(|line| {
                let fields: Vec<&str> = line.split_whitespace().collect();
                let is_ours = |end: &str| ours.iter().any(|port| end.ends_with(port));
                // 0A: it listens. A socket without an inode is nobody's any more.
                (is_ours(fields[1]) || is_ours(fields[2])) && fields[3] != "0A" && fields[9] != "0"
            });
            (open.count() == 0).then_some(())
        });
    }

    /// The log so far.
    pub fn log(&self) -> Vec<Logged> {
        let text = std::fs::read_to_string(self.folder.path().join("access.log"))
            .expect("nginx made its log");
        text.lines().map(logged).collect()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        super::end(&mut self.child);
    }
}

fn configuration(root: &Path, [port, http2, behind, silent]: [u16; 4]) -> String {
    let root = root.display();
    format!(
        "user root; worker_processes 2; daemon off; pid {root}/pid; error_log {root}/error.log;
events {{ worker_connections 256; }}
http {{
  log_format truth escape=none '$pid|$status|$request_method|$request_uri|$request_time|$bytes_sent|$request_length|$server_protocol|$upstream_addr|$connection|$connection_requests';
  access_log {root}/access.log truth;
  client_body_temp_path {root}/body; proxy_temp_path {root}/proxy; fastcgi_temp_path {root}/fastcgi;
  uwsgi_temp_path {root}/uwsgi; scgi_temp_path {root}/scgi;
  root {root}/www;
  client_max_body_size 1k;
  upstream behind {{ server 127.0.0.1:{behind}; keepalive 4; }}
  server {{
    listen 127.0.0.1:{port};
    location /kept/ {{ proxy_pass http://behind/; proxy_http_version 1.1; proxy_set_header Connection ''; }}
    location /once/ {{ proxy_pass http://127.0.0.1:{behind}/; }}
    location /silent {{ proxy_pass http://127.0.0.1:{silent}; }}
    location /counters {{ stub_status; }}
    location /post {{ return 201 'made'; }}
  }}
  server {{ listen 127.0.0.1:{behind}; location / {{ return 200 'from behind'; }} }}
  server {{ listen 127.0.0.1:{http2} http2; }}
}}
"
    )
}

fn logged(line: &str) -> Logged {
    let fields: Vec<&str> = line.split('|').collect();
    let [
        pid,
        status,
        method,
        uri,
        time,
        sent,
        received,
        http,
        upstream,
        connection,
        requests,
    ] = fields[..]
    else {
        panic!("not a line of this log: {line}");
    };
    let number = |text: &str| -> u64 {
        text.parse()
            .unwrap_or_else(|e| panic!("{text}: {e}: {line}"))
    };
    // What nginx does not know is a dash.
    let known = |text: &str| text.trim_matches('-').to_owned();
    Logged {
        pid: pid.parse().expect("a pid"),
        status: number(status),
        method: known(method),
        uri: known(uri),
        took_ms: number(&time.replace('.', "")),
        sent: number(sent),
        received: number(received),
        http: known(http.trim_start_matches("HTTP/")),
        proxied: !known(upstream).is_empty(),
        connection: number(connection),
        requests: number(requests),
    }
}
