//! What joins records of several probes into one story.
//!
//! [`statements`] gives executions of prepared statements the text of their PREPARE, [`digest`] folds literals so
//! that statements can be counted, and [`top`] adds up per command and per statement. [`Join`] is the
//! three together, as the recipe's `[join.statements]` asks for them; [`sums`] adds up where there is no join. [`sockets`]
//! follows TCP sockets, with [`inventory`] also those that are older than the run.

pub mod closes;
pub mod digest;
pub mod inventory;
pub mod lingerers;
pub mod sockets;
mod state;
pub mod statements;
pub mod sums;
pub mod top;

use crate::report::model::{Histogram, Table, Value};
use statements::{Statement, Statements};
use top::Top;

/// The commands of a protocol that the join must know, by their number; from the recipe.
#[derive(Clone, Debug, Default)]
pub struct Commands {
    /// Names for the report; a number without one is shown as it is.
    pub names: Vec<(u64, String)>,
    /// Commands whose own text is a statement; empty: all that are in none of the lists below.
    pub text: Vec<u64>,
    /// Commands that prepare the statement in their own text.
    pub prepare: Vec<u64>,
    /// Commands that run a prepared statement by its number.
    pub execute: Vec<u64>,
    /// Other commands about a prepared statement: they show its text and are not counted for it.
    pub uses: Vec<u64>,
    /// Commands after which one prepared statement is gone.
    pub close: Vec<u64>,
    /// Commands after which all of the connection's prepared statements are gone.
    pub forget: Vec<u64>,
    /// The number that stands for the statement prepared last on the connection.
    pub last_id: Option<u32>,
}

impl Commands {
    /// A command's name.
    pub fn name(&self, command: u64) -> String {
        match self.names.iter().find(|(number, _)| *number == command) {
            Some((_, name)) => name.clone(),
            None => command.to_string(),
        }
    }
}

/// How much is remembered.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Prepared statements, over all connections.
    pub statements: usize,
    /// Bytes of their different texts.
    pub text_bytes: usize,
    /// Different digests; beyond it the ones that cost least are added up as one.
    pub digests: usize,
    /// Rows of the table of top statements.
    pub top: usize,
}

impl Default for Limits {
    /// About 10 MiB when all of it is used.
    fn default() -> Limits {
        Limits {
            statements: 20_000,
            text_bytes: 4 << 20,
            digests: 2_000,
            top: 20,
        }
    }
}

/// A call of the server's dispatch function, at its return.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// When it returned, on the clock of [`Prepared::time_ns`].
    pub time_ns: u64,
    /// How long it took.
    pub latency_ns: u64,
    /// The server's process.
    pub pid: u32,
    /// The thread it ran on.
    pub tid: u32,
    /// The connection: the address of the server's structure for it.
    pub connection: u64,
    /// The command's number.
    pub command: u64,
    /// The prepared statement that it names, if its packet could be read.
    pub statement_id: Option<u32>,
    /// Its text, and whether that was cut; `None` when it could not be read.
    pub text: Option<(&'a [u8], bool)>,
    /// A filter turned it down: it serves the join, but is not shown or counted.
    pub kept: bool,
}

/// The server gave a number to a statement, inside the PREPARE call of the same thread.
#[derive(Clone, Copy, Debug)]
pub struct Prepared {
    /// When, on the clock of [`Call::time_ns`].
    pub time_ns: u64,
    /// The server's process.
    pub pid: u32,
    /// The thread.
    pub tid: u32,
    /// The number.
    pub id: u32,
}

/// The statements join: texts for calls, and their sums at the end.
pub struct Join {
    commands: Commands,
    statements: Statements,
    top: Top,
}

impl Join {
    /// A join over these commands.
    pub fn new(commands: Commands, limits: Limits) -> Join {
        Join {
            statements: Statements::new(commands.clone(), limits),
            top: Top::new(limits),
            commands,
        }
    }

    /// Takes a record of the probe that tells a statement's number.
    pub fn prepared(&mut self, prepared: &Prepared) {
        self.statements.prepared(prepared);
    }

    /// Takes a call, in the ring buffer's order, and returns the text to show for it. Calls that are
    /// not only [`Call::kept`] are added to the sums.
    pub fn call(&mut self, call: &Call<'_>) -> Value {
        let statement = self.statements.call(call);
        if !call.kept {
            self.top.command(call.command, call.latency_ns);
            // The time of PREPARE is not the statement's: it is seen in the command's own histogram.
            match (&statement, call.text) {
                (Statement::Own, Some((bytes, cut)))
                    if !bytes.is_empty() && !self.commands.prepare.contains(&call.command) =>
                {
                    self.top
                        .statement(&digest::digest(bytes, cut), call.latency_ns);
                }
                (Statement::Prepared(text), _) if self.commands.execute.contains(&call.command) => {
                    self.top.statement(text.digest(), call.latency_ns);
                }
                _ => {}
            }
        }
        match (statement, call.text) {
            (Statement::Own, Some((bytes, cut))) => Value::Text {
                bytes: bytes.to_vec(),
                cut,
            },
            (Statement::Own, None) => Value::Missing("unreadable"),
            (Statement::Prepared(text), _) => Value::Text {
                bytes: text.bytes.to_vec(),
                cut: text.cut,
            },
            (Statement::Missing(why), _) => Value::Missing(why),
            (Statement::Nothing, _) => Value::Missing(""),
        }
    }

    /// Records were dropped: say so where a text is not known.
    pub fn records_lost(&mut self) {
        self.statements.records_lost();
    }

    /// Latency by command, most used first; the part of the key is called `key`.
    pub fn histograms(&self, name: &str, key: &str) -> Vec<Histogram> {
        self.top.histograms(name, key, &self.commands)
    }

    /// The statements that took the most time, if there were any.
    pub fn table(&self) -> Option<Table> {
        self.top.table("statement")
    }

    /// What the reader should know, a sentence each.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = self.statements.notes();
        notes.extend(self.top.note());
        notes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// MariaDB's numbers.
    pub(super) fn commands() -> Commands {
        Commands {
            names: [
                (1, "Quit"),
                (3, "Query"),
                (22, "Prepare"),
                (23, "Execute"),
                (25, "Close"),
            ]
            .map(|(n, name)| (n, name.to_string()))
            .to_vec(),
            text: vec![],
            prepare: vec![22],
            execute: vec![23, 250],
            uses: vec![28],
            close: vec![25],
            forget: vec![1, 17, 31],
            last_id: Some(u32::MAX),
        }
    }

    /// A call of process 1 from 900 to 1000.
    pub(super) fn simple(tid: u32, connection: u64, command: u64) -> Call<'static> {
        Call {
            time_ns: 1000,
            latency_ns: 100,
            pid: 1,
            tid,
            connection,
            command,
            statement_id: None,
            text: Some((b"", false)),
            kept: false,
        }
    }

    pub(super) fn prepare(tid: u32, connection: u64, text: &str) -> Call<'_> {
        Call {
            text: Some((text.as_bytes(), false)),
            ..simple(tid, connection, 22)
        }
    }

    pub(super) fn execute(tid: u32, connection: u64, id: u32) -> Call<'static> {
        Call {
            statement_id: Some(id),
            ..simple(tid, connection, 23)
        }
    }

    #[test]
    fn a_run_from_prepare_to_the_closing_table() {
        let mut join = Join::new(commands(), Limits::default());
        join.prepared(&Prepared {
            time_ns: 950,
            pid: 1,
            tid: 10,
            id: 1,
        });
        let sql = "SELECT c FROM t WHERE id = ?";
        assert_eq!(
            join.call(&prepare(10, 0xa, sql)),
            Value::Text {
                bytes: sql.into(),
                cut: false
            }
        );
        for _ in 0..5 {
            assert_eq!(
                join.call(&execute(10, 0xa, 1)),
                Value::Text {
                    bytes: sql.into(),
                    cut: false
                }
            );
        }
        // The same statement in clear text is the same statement; a kept call is not counted.
        let query = Call {
            text: Some((b"select c from t where id=5", true)),
            ..simple(10, 0xa, 3)
        };
        join.call(&Call {
            text: Some((b"select c from t where id=5", false)),
            ..query
        });
        join.call(&Call {
            kept: true,
            ..query
        });
        let empty = Value::Text {
            bytes: vec![],
            cut: false,
        };
        assert_eq!(join.call(&simple(10, 0xa, 14)), empty);
        assert_eq!(join.call(&simple(10, 0xa, 1)), Value::Missing(""));
        assert_eq!(
            join.call(&Call {
                text: None,
                ..query
            }),
            Value::Missing("unreadable")
        );

        let table = join.table().expect("statements ran");
        assert_eq!(table.rows.len(), 1);
        assert_eq!(table.rows[0][0], Value::Uint(6));
        assert_eq!(table.rows[0][1], Value::Duration(600));
        assert_eq!(
            table.rows[0][6],
            Value::Text {
                bytes: b"SELECT c FROM t WHERE id = ?".to_vec(),
                cut: false
            }
        );
        let histograms = join.histograms("latency", "command");
        let counts: Vec<(Value, u64)> = histograms
            .iter()
            .map(|h| (h.key[0].1.clone(), h.count))
            .collect();
        let name = |text: &str| Value::Name(text.into());
        assert_eq!(
            counts,
            [
                (name("Execute"), 5),
                (name("Query"), 2),
                (name("Quit"), 1),
                (name("14"), 1),
                (name("Prepare"), 1)
            ]
        );
        assert!(join.notes().is_empty());
    }
}
