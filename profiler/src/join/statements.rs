//! The text of prepared statements: sent once with PREPARE, named by a number afterwards.
//!
//! Statement numbers count from 1 in every connection, so a statement is (process, connection, number).
//! The server gives the number out inside its PREPARE call, on that call's thread: the record `prepared`
//! of a thread belongs to the next call of that thread that returns. The ring buffer keeps the order in
//! which one thread (and whatever waited for it) wrote, and the client can only use a number after PREPARE
//! returned; so every record is handled when it comes, with nothing to sort.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroUsize;
use std::sync::{Arc, OnceLock};

use lru::LruCache;

use super::digest::{Digest, digest};
use super::{Call, Commands, Limits, Prepared};

/// The text of a statement that was prepared.
#[derive(Debug)]
pub struct Text {
    /// The bytes as captured at PREPARE.
    pub bytes: Arc<[u8]>,
    /// The statement was longer than what was captured.
    pub cut: bool,
    digest: OnceLock<Digest>,
}

impl Text {
    /// Its digest, worked out at the first execution.
    pub fn digest(&self) -> &Digest {
        self.digest.get_or_init(|| digest(&self.bytes, self.cut))
    }
}

/// What a call ran.
#[derive(Clone, Debug)]
pub enum Statement {
    /// The text that the call itself carries.
    Own,
    /// The text of its PREPARE.
    Prepared(Arc<Text>),
    /// A statement whose text is not known, and why.
    Missing(&'static str),
    /// The command runs no statement.
    Nothing,
}

/// Remembers what each connection prepared.
pub struct Statements {
    commands: Commands,
    limits: Limits,
    /// The number given out on a thread, until that thread's call returns: (process, thread) -> (when, number).
    pending: LruCache<(u32, u32), (u64, u32)>,
    connections: HashMap<(u32, u64), Connection>,
    known: LruCache<(u32, u64, u32), Arc<Text>>,
    /// One copy of each text, however many connections prepared it.
    texts: HashMap<(Arc<[u8]>, bool), Arc<Text>>,
    text_bytes: usize,
    forgotten: u64,
    missing: u64,
    records_lost: bool,
}

#[derive(Default)]
struct Connection {
    statements: HashSet<u32>,
    last: Option<u32>,
}

impl Statements {
    /// Remembers at most what `limits` allows.
    pub fn new(commands: Commands, limits: Limits) -> Statements {
        Statements {
            commands,
            limits,
            pending: LruCache::new(NonZeroUsize::new(65_536).unwrap_or(NonZeroUsize::MIN)),
            connections: HashMap::new(),
            known: LruCache::unbounded(),
            texts: HashMap::new(),
            text_bytes: 0,
            forgotten: 0,
            missing: 0,
            records_lost: false,
        }
    }

    /// The server gave out a statement's number.
    pub fn prepared(&mut self, prepared: &Prepared) {
        self.pending.put(
            (prepared.pid, prepared.tid),
            (prepared.time_ns, prepared.id),
        );
    }

    /// A call returned: what did it run? Also keeps the books on PREPARE, CLOSE and the connection's end.
    pub fn call(&mut self, call: &Call<'_>) -> Statement {
        // Whatever this call was, a number given out on its thread before its return is used up now.
        let started = call.time_ns.saturating_sub(call.latency_ns);
        let given = self
            .pending
            .pop(&(call.pid, call.tid))
            .filter(|(when, _)| (started..=call.time_ns).contains(when))
            .map(|(_, id)| id);
        let command = call.command;
        if self.commands.prepare.contains(&command) {
            self.remember(call, given);
            return Statement::Own;
        }
        if self.commands.execute.contains(&command) {
            let statement = self.of(call);
            if matches!(statement, Statement::Missing(_)) && !call.kept {
                self.missing += 1;
            }
            return statement;
        }
        let closes = self.commands.close.contains(&command);
        if closes || self.commands.uses.contains(&command) {
            let statement = self.of(call);
            if closes {
                self.forget(call);
            }
            // That the text of one that only was closed or reset is not known is no loss.
            return match statement {
                Statement::Missing(_) => Statement::Nothing,
                known => known,
            };
        }
        if self.commands.forget.contains(&command) {
            self.forget_connection(call.pid, call.connection);
            return Statement::Nothing;
        }
        if self.commands.text.is_empty() || self.commands.text.contains(&command) {
            Statement::Own
        } else {
            Statement::Nothing
        }
    }

    /// Records were dropped: a statement that is not known may have been prepared in one of them.
    pub fn records_lost(&mut self) {
        self.records_lost = true;
    }

    /// What the reader should know, a sentence each.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.missing > 0 {
            let n = self.missing;
            let why = self.why_missing();
            notes.push(format!(
                "{n} executions are shown without their statement's text: {why}"
            ));
        }
        if self.forgotten > 0 {
            notes.push(format!(
                "{} prepared statements were forgotten to bound memory ({} statements or {} MiB of text at most)",
                self.forgotten,
                self.limits.statements,
                self.limits.text_bytes >> 20
            ));
        }
        notes
    }

    fn why_missing(&self) -> &'static str {
        match (self.records_lost, self.forgotten > 0) {
            (true, _) => "its PREPARE was lost or came before uprof started",
            (false, true) => "its PREPARE was forgotten or came before uprof started",
            (false, false) => "prepared before uprof started",
        }
    }

    fn remember(&mut self, call: &Call<'_>, given: Option<u32>) {
        let owner = (call.pid, call.connection);
        let Some(id) = given else {
            // PREPARE failed: the server then has no last statement either.
            if let Some(connection) = self.connections.get_mut(&owner) {
                connection.last = None;
            }
            return;
        };
        let connection = self.connections.entry(owner).or_default();
        connection.last = Some(id);
        connection.statements.insert(id);
        let Some((bytes, cut)) = call.text else {
            // Numbers are not used twice, but the connection's address is: an older text must not show.
            self.drop_statement((call.pid, call.connection, id));
            return;
        };
        let text = self.intern(bytes, cut);
        if let Some((_, old)) = self.known.push((call.pid, call.connection, id), text) {
            self.release(old);
        }
        while self.known.len() > self.limits.statements.max(1)
            || (self.text_bytes > self.limits.text_bytes && self.known.len() > 1)
        {
            let Some(((pid, connection, id), text)) = self.known.pop_lru() else {
                break;
            };
            self.forgotten += 1;
            self.release(text);
            self.drop_id((pid, connection), id);
        }
    }

    fn of(&mut self, call: &Call<'_>) -> Statement {
        let Some(id) = self.id(call) else {
            return Statement::Missing(if call.statement_id.is_none() {
                "unreadable"
            } else {
                self.why_missing()
            });
        };
        match self.known.get(&(call.pid, call.connection, id)) {
            Some(text) => Statement::Prepared(text.clone()),
            None => Statement::Missing(self.why_missing()),
        }
    }

    /// The number in a call, with the one that stands for "the last prepared" resolved.
    fn id(&self, call: &Call<'_>) -> Option<u32> {
        let id = call.statement_id?;
        if Some(id) == self.commands.last_id {
            return self.connections.get(&(call.pid, call.connection))?.last;
        }
        Some(id)
    }

    fn forget(&mut self, call: &Call<'_>) {
        if let Some(id) = self.id(call) {
            self.drop_statement((call.pid, call.connection, id));
            self.drop_id((call.pid, call.connection), id);
        }
    }

    fn forget_connection(&mut self, pid: u32, address: u64) {
        let Some(connection) = self.connections.remove(&(pid, address)) else {
            return;
        };
        for id in connection.statements {
            self.drop_statement((pid, address, id));
        }
    }

    fn drop_statement(&mut self, key: (u32, u64, u32)) {
        if let Some(text) = self.known.pop(&key) {
            self.release(text);
        }
    }

    fn drop_id(&mut self, owner: (u32, u64), id: u32) {
        let Some(connection) = self.connections.get_mut(&owner) else {
            return;
        };
        connection.statements.remove(&id);
        if connection.last == Some(id) {
            connection.last = None;
        }
        if connection.statements.is_empty() {
            self.connections.remove(&owner);
        }
    }

    fn intern(&mut self, bytes: &[u8], cut: bool) -> Arc<Text> {
        let key = (Arc::<[u8]>::from(bytes), cut);
        if let Some(text) = self.texts.get(&key) {
            return text.clone();
        }
        self.text_bytes += bytes.len();
        let text = Arc::new(Text {
            bytes: key.0.clone(),
            cut,
            digest: OnceLock::new(),
        });
        self.texts.insert(key, text.clone());
        text
    }

    /// Gives back one use of a text; the last one frees it.
    fn release(&mut self, text: Arc<Text>) {
        // This one and the one in `texts`.
        if Arc::strong_count(&text) <= 2 {
            self.text_bytes -= text.bytes.len();
            self.texts.remove(&(text.bytes.clone(), text.cut));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{commands, execute, prepare, simple};
    use super::*;

    const LAST: u32 = u32::MAX;

    fn statements() -> Statements {
        Statements::new(commands(), Limits::default())
    }

    fn shown(statement: Statement) -> String {
        match statement {
            Statement::Own => "(own)".into(),
            Statement::Prepared(text) => String::from_utf8(text.bytes.to_vec()).unwrap(),
            Statement::Missing(why) => format!("({why})"),
            Statement::Nothing => String::new(),
        }
    }

    /// PREPARE on a thread: the number first, then the call's return.
    fn do_prepare(s: &mut Statements, tid: u32, connection: u64, id: u32, text: &str) {
        s.prepared(&Prepared {
            time_ns: 950,
            pid: 1,
            tid,
            id,
        });
        assert!(matches!(
            s.call(&prepare(tid, connection, text)),
            Statement::Own
        ));
    }

    #[test]
    fn execute_shows_the_text_of_its_prepare_until_close() {
        let mut s = statements();
        do_prepare(&mut s, 10, 0xa, 1, "SELECT 1");
        do_prepare(&mut s, 11, 0xb, 1, "SELECT 2");
        do_prepare(&mut s, 10, 0xa, 2, "SELECT 3");
        // The same number in another connection is another statement; threads do not matter.
        assert_eq!(shown(s.call(&execute(11, 0xa, 1))), "SELECT 1");
        assert_eq!(shown(s.call(&execute(10, 0xb, 1))), "SELECT 2");
        assert_eq!(shown(s.call(&execute(10, 0xa, 2))), "SELECT 3");
        assert_eq!(
            shown(s.call(&Call {
                command: 250,
                ..execute(10, 0xa, 2)
            })),
            "SELECT 3"
        );
        assert_eq!(shown(s.call(&execute(10, 0xa, LAST))), "SELECT 3");
        let fetch = Call {
            command: 28,
            ..execute(10, 0xa, 2)
        };
        assert_eq!(shown(s.call(&fetch)), "SELECT 3");
        assert_eq!(
            shown(s.call(&Call {
                statement_id: Some(77),
                ..fetch
            })),
            ""
        );
        assert_eq!(
            shown(s.call(&Call {
                command: 25,
                ..execute(10, 0xa, 1)
            })),
            "SELECT 1"
        );
        assert_eq!(
            shown(s.call(&execute(10, 0xa, 1))),
            "(prepared before uprof started)"
        );
        assert_eq!(shown(s.call(&execute(10, 0xb, 1))), "SELECT 2");
        assert_eq!(
            s.notes(),
            [
                "1 executions are shown without their statement's text: prepared before uprof started"
            ]
        );
    }

    #[test]
    fn a_connections_end_or_reset_forgets_its_statements_only() {
        for end in [1, 17, 31] {
            let mut s = statements();
            do_prepare(&mut s, 10, 0xa, 1, "SELECT 1");
            do_prepare(&mut s, 10, 0xa, 2, "SELECT 2");
            do_prepare(&mut s, 11, 0xb, 1, "SELECT 1");
            s.call(&simple(10, 0xa, end));
            assert!(shown(s.call(&execute(10, 0xa, 1))).starts_with("(prepared before"));
            assert!(shown(s.call(&execute(10, 0xa, LAST))).starts_with("(prepared before"));
            assert_eq!(shown(s.call(&execute(11, 0xb, 1))), "SELECT 1");
        }
    }

    #[test]
    fn a_number_is_used_by_the_call_it_was_given_in() {
        let mut s = statements();
        // Left over from a call whose return was lost: it ended before this PREPARE began.
        s.prepared(&Prepared {
            time_ns: 10,
            pid: 1,
            tid: 10,
            id: 7,
        });
        s.call(&prepare(10, 0xa, "syntax error"));
        assert!(shown(s.call(&execute(10, 0xa, 7))).starts_with("(prepared"));
        // Given in a call that was no PREPARE: used up by it.
        s.prepared(&Prepared {
            time_ns: 950,
            pid: 1,
            tid: 10,
            id: 8,
        });
        s.call(&simple(10, 0xa, 3));
        s.call(&prepare(10, 0xa, "syntax error"));
        assert!(shown(s.call(&execute(10, 0xa, 8))).starts_with("(prepared"));
        // Two threads prepare at once.
        s.prepared(&Prepared {
            time_ns: 950,
            pid: 1,
            tid: 10,
            id: 1,
        });
        s.prepared(&Prepared {
            time_ns: 951,
            pid: 1,
            tid: 11,
            id: 1,
        });
        s.call(&prepare(11, 0xb, "SELECT b"));
        s.call(&prepare(10, 0xa, "SELECT a"));
        assert_eq!(shown(s.call(&execute(10, 0xa, 1))), "SELECT a");
        assert_eq!(shown(s.call(&execute(10, 0xb, 1))), "SELECT b");
    }

    #[test]
    fn a_failed_prepare_leaves_no_last_statement() {
        let mut s = statements();
        do_prepare(&mut s, 10, 0xa, 1, "SELECT 1");
        s.call(&prepare(10, 0xa, "SELEKT"));
        assert!(shown(s.call(&execute(10, 0xa, LAST))).starts_with("(prepared"));
        assert_eq!(shown(s.call(&execute(10, 0xa, 1))), "SELECT 1");
    }

    #[test]
    fn an_address_used_again_shows_the_new_text() {
        let mut s = statements();
        do_prepare(&mut s, 10, 0xa, 1, "SELECT old");
        do_prepare(&mut s, 10, 0xa, 1, "SELECT new");
        assert_eq!(shown(s.call(&execute(10, 0xa, 1))), "SELECT new");
        // Its text could not be read: no text is better than the old one.
        s.prepared(&Prepared {
            time_ns: 950,
            pid: 1,
            tid: 10,
            id: 1,
        });
        s.call(&Call {
            text: None,
            ..prepare(10, 0xa, "")
        });
        assert!(shown(s.call(&execute(10, 0xa, 1))).starts_with('('));
        assert_eq!((s.text_bytes, s.texts.len()), (0, 0));
    }

    #[test]
    fn a_cut_text_stays_marked_and_an_unread_number_is_said() {
        let mut s = statements();
        s.prepared(&Prepared {
            time_ns: 950,
            pid: 1,
            tid: 10,
            id: 1,
        });
        s.call(&Call {
            text: Some((b"SELECT long", true)),
            ..prepare(10, 0xa, "")
        });
        assert!(matches!(s.call(&execute(10, 0xa, 1)), Statement::Prepared(text) if text.cut));
        assert_eq!(
            shown(s.call(&Call {
                statement_id: None,
                ..execute(10, 0xa, 1)
            })),
            "(unreadable)"
        );
    }

    #[test]
    fn memory_is_bounded_and_what_was_forgotten_is_counted() {
        let mut s = Statements::new(
            commands(),
            Limits {
                statements: 100,
                ..Limits::default()
            },
        );
        for i in 0..10_000u32 {
            do_prepare(&mut s, 10, u64::from(i % 500), i, &format!("SELECT {i}"));
        }
        assert_eq!(s.known.len(), 100);
        assert_eq!(s.texts.len(), 100);
        assert!(s.connections.len() <= 100);
        assert_eq!(s.forgotten, 9_900);
        assert_eq!(
            shown(s.call(&execute(10, 9_999 % 500, 9_999))),
            "SELECT 9999"
        );
        assert_eq!(
            shown(s.call(&execute(10, 0, 0))),
            "(its PREPARE was forgotten or came before uprof started)"
        );
        assert!(s.notes()[1].starts_with("9900 prepared statements were forgotten"));

        let mut s = Statements::new(
            commands(),
            Limits {
                text_bytes: 10_000,
                ..Limits::default()
            },
        );
        for i in 0..1_000u32 {
            do_prepare(&mut s, 10, 0xa, i, &format!("SELECT {:0>1000}", i));
        }
        assert!(
            s.text_bytes <= 10_000 && s.known.len() == 9,
            "{} {}",
            s.text_bytes,
            s.known.len()
        );
    }

    #[test]
    fn many_connections_with_one_text_keep_one_copy() {
        let mut s = statements();
        for connection in 0..1_000 {
            do_prepare(
                &mut s,
                10,
                connection,
                1,
                "SELECT c FROM sbtest1 WHERE id=?",
            );
        }
        assert_eq!((s.texts.len(), s.text_bytes), (1, 32));
        for connection in 0..1_000 {
            assert_eq!(
                shown(s.call(&execute(10, connection, 1))),
                "SELECT c FROM sbtest1 WHERE id=?"
            );
            s.call(&simple(10, connection, 1));
        }
        assert_eq!(
            (
                s.texts.len(),
                s.text_bytes,
                s.known.len(),
                s.connections.len()
            ),
            (0, 0, 0, 0)
        );
    }

    #[test]
    fn lost_records_change_what_is_said() {
        let mut s = statements();
        s.records_lost();
        assert_eq!(
            shown(s.call(&execute(10, 0xa, 1))),
            "(its PREPARE was lost or came before uprof started)"
        );
        // A record that only serves this join is not shown, so it is not counted either.
        s.call(&Call {
            kept: true,
            ..execute(10, 0xa, 1)
        });
        assert_eq!(s.missing, 1);
    }
}
