//! A client of MariaDB that speaks the protocol itself, so that a test can end it in any way.
//!
//! As <https://mariadb.com/kb/en/clientserver-protocol/> has it: packets of a length of 3 bytes, a number and the text.

use std::io::{self, Read, Write};
use std::net::TcpStream;

/// Capabilities: CLIENT_MYSQL, PROTOCOL_41, SECURE_CONNECTION, PLUGIN_AUTH.
const CAPABILITIES: u32 = 1 | 1 << 9 | 1 << 15 | 1 << 19;

/// A connection over TCP.
pub struct MariaDbClient {
    stream: TcpStream,
    id: u32,
}

impl MariaDbClient {
    /// Connects to the port on the loopback, as root, whose password is proven by ANSWER: by nothing where there is none.
    ///
    /// # Errors
    /// The server's refusal, and the socket.
    pub fn connect(port: u16, answer: &[u8]) -> Result<Self, (String, TcpStream)> {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("connect to MariaDB");
        let mut client = Self { stream, id: 0 };
        // Version of the protocol, the server's as a text, the connection's number ...
        let (number, greeting) = client.packet().expect("a greeting");
        let text = greeting.iter().position(|b| *b == 0).expect("a version");
        let id = greeting[text + 1..][..4].try_into().expect("4 bytes");
        client.id = u32::from_le_bytes(id);
        let mut login = CAPABILITIES.to_le_bytes().to_vec();
        login.extend((1u32 << 24).to_le_bytes());
        login.push(33);
        login.extend([0; 23]);
        login.extend(b"root\0");
        login.push(answer.len() as u8);
        login.extend(answer);
        login.extend(b"mysql_native_password\0");
        client.send(number + 1, &login);
        let (_, told) = client.packet().expect("an answer");
        match told[0] {
            0 => Ok(client),
            _ => {
                let why = String::from_utf8_lossy(&told[3..]).into_owned();
                Err((why, client.stream))
            }
        }
    }

    /// The connection's number, as KILL takes it.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The socket.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// The socket alone.
    pub fn into_stream(self) -> TcpStream {
        self.stream
    }

    /// Begins a statement, and does not wait.
    pub fn begin(&mut self, sql: &str) {
        self.send(0, &[&[3], sql.as_bytes()].concat());
    }

    /// Executes a statement and reads its whole result.
    pub fn query(&mut self, sql: &str) {
        self.begin(sql);
        let (_, first) = self.packet().expect("an answer");
        assert_ne!(first[0], 0xff, "{sql}: {}", String::from_utf8_lossy(&first));
        // A result has columns and rows, each list with an end.
        let mut ends = if first[0] == 0 { 2 } else { 0 };
        while ends < 2 {
            let (_, packet) = self.packet().expect("the rest of a result");
            ends += u32::from(packet[0] == 0xfe && packet.len() < 9);
        }
    }

    /// Prepares a statement with one parameter, and executes it with a number.
    pub fn execute(&mut self, sql: &str, value: u32) {
        self.send(0, &[&[22], sql.as_bytes()].concat());
        let (_, prepared) = self.packet().expect("an answer");
        assert_eq!(
            prepared[0],
            0,
            "{sql}: {}",
            String::from_utf8_lossy(&prepared)
        );
        // Its number, then how many columns and parameters are described, each list with an end.
        let columns = u16::from_le_bytes([prepared[5], prepared[6]]);
        assert_eq!(prepared[7..9], [1, 0], "one parameter");
        for _ in 0..2 + columns + 1 {
            self.packet().expect("a description");
        }
        let mut execute = vec![23];
        execute.extend(&prepared[1..5]);
        // No cursor, once, no NULL, types follow: a LONG.
        execute.extend([0, 1, 0, 0, 0, 0, 1, 3, 0]);
        execute.extend(value.to_le_bytes());
        self.send(0, &execute);
        let mut ends = 0;
        while ends < 2 {
            let (_, packet) = self.packet().expect("a result");
            assert_ne!(packet[0], 0xff, "{}", String::from_utf8_lossy(&packet));
            ends += u32::from(packet[0] == 0xfe && packet.len() < 9);
        }
    }

    /// Takes its leave.
    pub fn quit(&mut self) {
        self.send(0, &[1]);
    }

    fn send(&mut self, number: u8, text: &[u8]) {
        let mut packet = (text.len() as u32).to_le_bytes().to_vec();
        packet[3] = number;
        packet.extend(text);
        self.stream.write_all(&packet).expect("write to MariaDB");
    }

    fn packet(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let mut head = [0; 4];
        self.stream.read_exact(&mut head)?;
        let length = u32::from_le_bytes([head[0], head[1], head[2], 0]);
        let mut text = vec![0; length as usize];
        self.stream.read_exact(&mut text)?;
        Ok((head[3], text))
    }
}
