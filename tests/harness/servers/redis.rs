//! Redis.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::super::machine::tool;
use super::super::wait_for;

/// A running redis server that keeps nothing on disk.
pub struct Redis {
    child: Child,
    port: u16,
    _folder: TempDir,
}

impl Redis {
    /// Starts the server.
    pub fn start() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("uprof-redis-")
            .tempdir()
            .expect("a temporary folder");
        let port = super::free_port();
        let child = Command::new(tool("redis-server"))
            .args([
                "--port",
                &port.to_string(),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "no",
                // For commands that take as long as one says.
                "--enable-debug-command",
                "yes",
                "--dir",
            ])
            .arg(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start redis-server");
        let server = Self {
            child,
            port,
            _folder: folder,
        };
        wait_for("redis to listen", || {
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        assert_eq!(server.connect().ask("PING"), "+PONG");
        server
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A connection.
    pub fn connect(&self) -> RedisClient {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).expect("connect to redis");
        RedisClient {
            reader: BufReader::new(stream),
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        super::end(&mut self.child);
    }
}

/// A connection that sends commands as lines of text.
pub struct RedisClient {
    reader: BufReader<TcpStream>,
}

impl RedisClient {
    /// Sends one command and returns the first line of the answer.
    pub fn ask(&mut self, command: &str) -> String {
        self.send(command);
        self.line()
    }

    /// Sends one command and does not wait.
    pub fn send(&mut self, command: &str) {
        self.reader
            .get_mut()
            .write_all(format!("{command}\r\n").as_bytes())
            .expect("write to redis");
    }

    /// The next line that the server sends.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).expect("read from redis");
        line.trim_end().to_owned()
    }

    /// The socket.
    pub fn stream(&self) -> &TcpStream {
        self.reader.get_ref()
    }

    /// The socket alone.
    pub fn into_stream(self) -> TcpStream {
        self.reader.into_inner()
    }

    /// Sends one command whose answer is a text of several lines, and returns it.
    pub fn ask_text(&mut self, command: &str) -> String {
        let length = self.ask(command);
        let length: usize = length
            .strip_prefix('$')
            .and_then(|n| n.parse().ok())
            .unwrap_or_else(|| panic!("{command} was answered with {length}"));
        let mut text = vec![0; length + 2];
        self.reader.read_exact(&mut text).expect("read from redis");
        String::from_utf8(text).expect("redis answers in UTF-8")
    }
}
