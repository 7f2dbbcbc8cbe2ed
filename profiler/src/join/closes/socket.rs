//! What is known of one socket, and a close that waits for its verdict.

use std::collections::VecDeque;
use std::sync::Arc;

use nix::sys::signal::Signal;

use super::last::Last;
use super::verdict::{Ending, Verdict};
use super::{Moment, Shown, add};
use crate::join::inventory::Older;
use crate::join::sockets::{Fields, Owner, Role};
use crate::join::state;
use crate::report::model::{Event, Step, Value};

/// The end of a process: its exit code as the kernel keeps it, a signal in the low 7 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Going(pub u64);

impl Going {
    /// `killed by SIGKILL`, `exited`
    fn words(self) -> String {
        let signal = (self.0 & 0x7f) as i32;
        match (signal, Signal::try_from(signal)) {
            (0, _) => "exited".to_owned(),
            (_, Ok(known)) => format!("killed by {known}"),
            (other, Err(_)) => format!("killed by signal {other}"),
        }
    }
}

/// A socket.
#[derive(Default)]
pub struct Socket {
    /// When its connection was established; `None`: before uprof.
    pub born_ns: Option<u64>,
    /// When something happened to it.
    pub changed_ns: u64,
    /// Which end it is.
    pub role: Option<Role>,
    /// Whose it is.
    pub owner: Option<Owner>,
    /// Its state, 0 where it is not known.
    pub state: u64,
    /// How it ends.
    pub ending: Ending,
    /// Bytes sent and received.
    pub bytes: (Option<u64>, Option<u64>),
    /// The transition by which a thread has ended it without a close that was seen: the record's variant and event.
    pub closer: Option<Box<(usize, Event, Option<Going>)>>,
    /// What was done with it last, and when.
    pub last: Last,
    /// What happened to it, where that is kept.
    pub steps: VecDeque<Step>,
    /// The close that waits for its verdict.
    pub pending: Option<Box<Pending>>,
    /// A close was seen.
    pub closed: bool,
}

impl Socket {
    /// Takes over what is told each time. A reset sets the kernel's counters back: the most counts.
    pub fn saw(&mut self, moment: &Moment<'_>) {
        self.bytes.0 = moment.bytes.0.max(self.bytes.0);
        self.bytes.1 = moment.bytes.1.max(self.bytes.1);
    }

    /// Adds a step, at the cost of the first where there are MOST.
    pub fn step(&mut self, step: Step, most: usize) {
        if self.steps.len() >= most {
            self.steps.pop_front();
        }
        self.steps.push_back(step);
    }
}

/// A close that waits for its verdict.
pub struct Pending {
    /// The variant whose record it is.
    pub variant: usize,
    /// The record.
    pub event: Event,
    /// The process was ending.
    pub going: Option<Going>,
    /// Its number among all closes.
    pub number: u64,
    /// The socket's state then.
    pub state: Option<u64>,
    /// What was done before, and when.
    pub last: Last,
    /// Why it has no socket.
    pub why: Option<&'static str>,
}

impl Pending {
    /// A close that nothing is known of.
    pub fn new(variant: usize, event: Event, going: Option<Going>) -> Self {
        Self {
            variant,
            event,
            going,
            number: 0,
            state: None,
            last: Last::new(),
            why: None,
        }
    }

    /// Which end a socket is that was there before the run, and the state that it was in then; its descriptor is added
    /// where none is captured. `None`: the close itself tells, or its address is not known.
    pub fn before(&mut self, older: &mut Older) -> Option<(Role, Option<u64>)> {
        let field = |name: &str| {
            let mut fields = self.event.fields.iter();
            Some(&fields.find(|(there, _)| **there == *name)?.1)
        };
        let inode = field("inode").and_then(Value::as_u64);
        let has_fd = field("fd").is_some();
        let (Some(Value::Address(_, Some(port))), None) = (field("local"), field("role")) else {
            return None;
        };
        let inventory = older.get();
        let known = inode.and_then(|inode| inventory.socket(inode));
        let role = match known.map_or_else(|| inventory.listens(*port), |known| known.server) {
            true => Role::Server,
            false => Role::Client,
        };
        if let Some(known) = known.filter(|k| k.owner.pid == self.event.pid && !has_fd) {
            let fd = Value::Uint(known.fd.into());
            self.event.fields.push((Arc::from("fd"), fd));
        }
        Some((role, known.map(|known| known.state)))
    }

    /// Bytes sent and received as the close captured them or as they were KNOWN before, whichever is more: they never
    /// sink, but a FIN that comes while the close reads them makes it take off one byte too many.
    pub fn bytes(&self, known: (Option<u64>, Option<u64>)) -> (Option<u64>, Option<u64>) {
        let captured = |name: &str| {
            let mut fields = self.event.fields.iter();
            fields.find(|(there, _)| **there == *name)?.1.as_u64()
        };
        (
            captured("bytes_sent").max(known.0),
            captured("bytes_received").max(known.1),
        )
    }

    /// The close with what the join adds to it. Captures of the names in TAKEN are left out; with LOST records were
    /// dropped.
    pub fn joined(self, known: &Socket, lost: bool, taken: &[String]) -> Shown {
        let Pending { mut event, .. } = self;
        let began = event.time_ns - event.latency_ns.unwrap_or(0);
        let ending = &known.ending;
        let verdict = ending.verdict(self.state);
        // Not acknowledged for long: nothing of the peer's came before it.
        let fin = ending.first.is_some_and(|f| f.to == state::FIN_WAIT1)
            || ending.first.is_none() && self.state == Some(state::FIN_WAIT1);
        let verdict = verdict.unwrap_or(if fin { Verdict::App } else { Verdict::Unknown });
        let mut captured: Fields = std::mem::take(&mut event.fields);
        captured.retain(|(name, _)| !taken.iter().any(|t| **t == **name));
        let mut take = |name: &str| {
            let at = captured.iter().position(|(there, _)| **there == *name)?;
            Some(captured.remove(at).1)
        };
        let said = said(
            &self.last,
            matches!(verdict, Verdict::Peer | Verdict::PeerReset),
        );
        let hint = said.or(take("cause").filter(tells));
        let open = ending.first.is_none() && self.state == Some(state::ESTABLISHED) && !ending.gone;
        let sent = take("bytes_sent");
        let told = ending.cause(verdict, sent.as_ref().and_then(Value::as_u64), began);
        let cause = match (self.why, self.going) {
            (Some(why), _) => hint.unwrap_or(Value::Name(why.to_owned())),
            (None, Some(going)) => Value::Name(going.words()),
            (None, None) if verdict == Verdict::Unknown && lost => {
                Value::Name("events were lost".to_owned())
            }
            (None, None) if open => Value::Name("still open: another descriptor".to_owned()),
            (None, None) => match (hint, told) {
                (Some(hint), _) => hint,
                (None, "") => Value::Missing(""),
                (None, told) => Value::Name(told.to_owned()),
            },
        };
        let before = Value::Missing("since before uprof");
        let role = known.role.map(|role| Value::Name(role.word().to_owned()));
        let role = role.or(take("role")).unwrap_or(before.clone());
        let at_close = self.state.map(|s| Value::Name(state::name(s).to_owned()));
        let reaction = match (verdict, ending.first) {
            (Verdict::Peer | Verdict::PeerReset, Some(first)) => began
                .checked_sub(first.time_ns)
                .map_or(Value::Missing(""), Value::Duration),
            (Verdict::Peer | Verdict::PeerReset, None) => before.clone(),
            _ => Value::Missing(""),
        };
        let age = known.born_ns.map(|born| began.saturating_sub(born));
        let latest = |known: Option<u64>, captured: Option<Value>| match (known, captured) {
            (Some(n), _) => Value::Uint(n),
            (None, Some(captured)) => captured,
            (None, None) => Value::Missing("not captured"),
        };
        let missing = || Value::Missing("");
        let fields = [
            ("verdict", Value::Name(verdict.word().to_owned())),
            ("cause", cause),
            ("role", role),
            ("local", take("local").unwrap_or_else(missing)),
            ("remote", take("remote").unwrap_or_else(missing)),
            ("fd", take("fd").unwrap_or_else(missing)),
            ("state_at_close", at_close.unwrap_or_else(missing)),
            ("reaction_ns", reaction),
            ("age_ns", age.map_or(before, Value::Duration)),
            ("bytes_sent", latest(known.bytes.0, sent)),
            (
                "bytes_received",
                latest(known.bytes.1, take("bytes_received")),
            ),
        ];
        event.fields = fields.map(|(name, value)| (Arc::from(name), value)).into();
        add(&mut event, captured);
        for (time, fields) in self.last.into_values() {
            let told = |name: &str| name == "cause" || name == "by_peer";
            let fields = fields.into_iter().filter(|(name, _)| !told(name));
            let more = fields.clone().next().is_some();
            add(&mut event, fields);
            if more {
                let since = Value::Duration(began.saturating_sub(time));
                add(&mut event, [(Arc::from("since_last_ns"), since)]);
            }
        }
        event.nobody = false;
        event.steps = known.steps.iter().cloned().collect();
        // A call is told of when it returns.
        event.steps.sort_by_key(|step| step.time_ns);
        Shown {
            variant: self.variant,
            event,
        }
    }
}

/// The cause that one of the LAST events told; where the peer was FIRST, one that is the peer's doing.
fn said(last: &Last, first: bool) -> Option<Value> {
    last.values().find_map(|(_, fields)| {
        let named = |name: &str| {
            let value = &fields.iter().find(|(there, _)| **there == *name)?.1;
            tells(value).then_some(value)
        };
        let counts = !first || named("by_peer").is_some();
        named("cause").filter(|_| counts).cloned()
    })
}

/// Whether a captured cause is one.
fn tells(v: &Value) -> bool {
    !matches!(v, Value::Missing(_)) && v.as_u64() != Some(0)
}
