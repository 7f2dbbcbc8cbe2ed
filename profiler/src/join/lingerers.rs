//! Sockets whose peer has hung up and whose program has not (CLOSE_WAIT): whose they are, and for how long.
//!
//! A program that forgets to close leaks them. One that has lingered for so long is told of, once when the time is over, and
//! once more when it is closed after all.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use super::inventory::{Known, Older, Tables};
use super::sockets::{Fields, MOST, Owner, Transition, oldest};
use super::state::{CLOSE, CLOSE_WAIT};
use crate::report::model::{Event, Table, Value};

/// How often it is looked for those whose time is over, in nanoseconds.
const EVERY: u64 = 250_000_000;

/// What a socket is known by: its address, or before it was seen to change its inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    Address(u64),
    Inode(u64),
}

/// Whose a socket is, and what was captured when it became so.
#[derive(Clone, Debug)]
struct Holder {
    owner: Owner,
    fields: Fields,
}

/// The peer has hung up.
#[derive(Clone, Debug)]
struct Waits {
    since_ns: u64,
    /// The variant whose record told it; `None`: it was so before the run.
    variant: Option<usize>,
    inode: u64,
    /// As it is shown, but for what is known then only.
    event: Event,
    shown: bool,
}

#[derive(Debug, Default)]
struct Socket {
    changed_ns: u64,
    holder: Option<Holder>,
    waits: Option<Waits>,
}

/// What events of sockets are called that lingered before the run: no probe has told of them.
pub const BEFORE: &str = "before";

/// Follows sockets from their accept or connect to their end.
pub struct Lingerers {
    after_ns: u64,
    /// Captures that are not shown.
    taken: Vec<String>,
    /// When the run began; `None`: what lingered then was added.
    began_ns: Option<u64>,
    /// How many events there were of those.
    before: u64,
    sockets: HashMap<Key, Socket>,
    /// When the time of those is over that wait, in this order.
    due: VecDeque<(u64, Key)>,
    looked_ns: u64,
    older: Older,
    /// Sockets that were forgotten for want of room.
    forgotten: u64,
}

/// An event to be shown.
#[derive(Debug)]
pub struct Told {
    /// The variant whose record it is made of; `None`: of none, for it lingered before the run.
    pub variant: Option<usize>,
    /// With what the join adds.
    pub event: Event,
    /// Whose socket it is; `None` where nobody knows.
    pub owner: Option<Owner>,
}

impl Lingerers {
    /// To tell of those that linger for longer than AFTER_NS in a run that begins at NOW_NS; OLDER knows the sockets from
    /// before. Captures of the names in TAKEN are not shown.
    pub fn new(after_ns: u64, now_ns: u64, taken: Vec<String>, older: Older) -> Self {
        Self {
            after_ns,
            taken,
            began_ns: Some(now_ns),
            before: 0,
            sockets: HashMap::new(),
            due: VecDeque::new(),
            looked_ns: 0,
            older,
            forgotten: 0,
        }
    }

    /// Adds those that lingered when the run began, once that is known.
    fn add_before(&mut self) {
        let (Some(began_ns), Some(inventory)) = (self.began_ns, self.older.ready()) else {
            return;
        };
        self.began_ns = None;
        // What hung up while it was looked was seen, too.
        let seen = self.sockets.values().filter_map(|s| s.waits.as_ref());
        let seen: HashSet<u64> = seen.map(|w| w.inode).collect();
        let all = inventory.sockets();
        let waiting = all.filter(|(i, known)| known.state == CLOSE_WAIT && !seen.contains(i));
        let waiting: Vec<(u64, Known)> = waiting.map(|(i, known)| (i, known.clone())).collect();
        for (inode, known) in waiting {
            let event = Event {
                probe: BEFORE.into(),
                time_ns: began_ns,
                pid: known.owner.pid,
                tid: known.owner.tid,
                comm: known.owner.comm.clone(),
                nobody: false,
                latency_ns: None,
                fields: ends(&known),
                steps: Vec::new(),
            };
            let waits = Waits {
                since_ns: began_ns,
                variant: None,
                inode,
                event,
                shown: false,
            };
            let socket = Socket {
                changed_ns: began_ns,
                holder: Some(older(&known)),
                waits: Some(waits),
            };
            self.sockets.insert(Key::Inode(inode), socket);
            // What is due of the run's own is due later.
            self.due
                .push_front((began_ns + self.after_ns, Key::Inode(inode)));
        }
    }

    /// A thread accepted or connected a socket; FIELDS were captured there.
    pub fn owned(&mut self, socket: u64, owner: Owner, fields: Fields, time_ns: u64) {
        // An accept that fails has no socket.
        if socket == 0 {
            return;
        }
        self.make_room();
        // The peer may have hung up before it was accepted.
        let known = self.sockets.entry(Key::Address(socket)).or_default();
        known.changed_ns = time_ns;
        let fields = shown(fields, &self.taken);
        known.holder = Some(Holder { owner, fields });
    }

    /// Takes a transition, which EVENT of a VARIANT tells of, of a socket with this inode (0: not known); gives back what is
    /// to be shown of one that is closed too late.
    pub fn changed(
        &mut self,
        change: Transition,
        inode: u64,
        variant: usize,
        event: Event,
    ) -> Option<Told> {
        self.add_before();
        let Transition { socket, from, to } = change;
        let key = Key::Address(socket);
        if to == CLOSE_WAIT {
            self.hung_up(key, inode, variant, event);
            return None;
        }
        let ended = match from {
            CLOSE_WAIT => self.ended(key, inode, variant, &event),
            _ => None,
        };
        if to == CLOSE || super::sockets::begins(from, to) {
            self.sockets.remove(&key);
        }
        ended
    }

    fn hung_up(&mut self, key: Key, inode: u64, variant: usize, mut event: Event) {
        self.make_room();
        let now = event.time_ns;
        // What was looked at when the run had just begun was this.
        self.sockets.remove(&Key::Inode(inode));
        let socket = self.sockets.entry(key).or_default();
        socket.changed_ns = now;
        event.fields = shown(event.fields, &self.taken);
        socket.waits = Some(Waits {
            since_ns: now,
            variant: Some(variant),
            inode,
            event,
            shown: false,
        });
        self.due.push_back((now + self.after_ns, key));
    }

    fn ended(&mut self, key: Key, inode: u64, variant: usize, event: &Event) -> Option<Told> {
        let waits = |s: &mut Socket| s.waits.take().map(|w| (w, s.holder.clone()));
        let by_address = self.sockets.get_mut(&key).and_then(waits);
        let (waits, holder) = by_address.or_else(|| {
            let mut socket = self.sockets.remove(&Key::Inode(inode))?;
            waits(&mut socket)
        })?;
        let now = event.time_ns;
        let late = waits.shown || now.saturating_sub(waits.since_ns) >= self.after_ns;
        late.then(|| {
            let holder = holder.or_else(|| self.older.get().socket(waits.inode).map(older));
            let mut told = told(&waits, holder.as_ref(), now, "closed", None);
            told.event.probe = event.probe.clone();
            told.variant = Some(variant);
            told
        })
    }

    /// Those whose time is over at NOW_NS and was not told of. The kernel is asked whether they still linger, and how much
    /// they have not read.
    pub fn overdue(&mut self, now_ns: u64) -> Vec<Told> {
        self.add_before();
        let waits_yet = now_ns < self.looked_ns + EVERY;
        if waits_yet || self.due.front().is_none_or(|(due, _)| *due > now_ns) {
            return Vec::new();
        }
        self.looked_ns = now_ns;
        let mut tables = Tables::default();
        let mut all = Vec::new();
        while let Some((due, key)) = self.due.front().copied()
            && due <= now_ns
        {
            self.due.pop_front();
            let Some(socket) = self.sockets.get_mut(&key) else {
                continue;
            };
            if socket.holder.is_none()
                && let Some(waits) = &socket.waits
            {
                socket.holder = self.older.get().socket(waits.inode).map(older);
            }
            let holder = socket.holder.clone();
            let fresh = |w: &&mut Waits| !w.shown && w.since_ns + self.after_ns <= now_ns;
            let Some(waits) = socket.waits.as_mut().filter(fresh) else {
                continue;
            };
            let unread = match lingers(waits, holder.as_ref(), &mut tables) {
                Lingers::Unread(n) => Some(n),
                Lingers::NotKnown => None,
                // The record of its close is under way, if there is to be one.
                Lingers::Not => {
                    socket.waits.take_if(|w| w.variant.is_none());
                    continue;
                }
            };
            waits.shown = true;
            self.before += u64::from(waits.variant.is_none());
            all.push(told(waits, holder.as_ref(), now_ns, "open", unread));
        }
        all
    }

    /// The run is over: gives back what is due, and makes sure that the table has only those that still linger.
    pub fn finish(&mut self, now_ns: u64) -> Vec<Told> {
        self.looked_ns = 0;
        self.older.wait();
        let due = self.overdue(now_ns);
        let mut tables = Tables::default();
        for socket in self.sockets.values_mut() {
            let holder = socket.holder.as_ref();
            socket.waits.take_if(|waits| {
                let now = lingers(waits, holder, &mut tables);
                matches!(now, Lingers::Not)
            });
        }
        due
    }

    /// How many events there were of sockets that lingered before the run: no probe has told of them.
    pub fn before(&self) -> u64 {
        self.before
    }

    /// Those that linger at NOW_NS for long enough, or since before the run; the longest first. With OWNED those alone of
    /// which the owner is known.
    pub fn table(&self, now_ns: u64, owned: bool) -> Option<Table> {
        let sockets = self.sockets.values();
        let sockets = sockets.filter(|s| s.holder.is_some() || !owned);
        let waiting = sockets.filter_map(|s| Some((s.waits.as_ref()?, s.holder.as_ref())));
        let long =
            |w: &Waits| w.variant.is_none() || now_ns.saturating_sub(w.since_ns) >= self.after_ns;
        let mut waiting: Vec<_> = waiting.filter(|(w, _)| long(w)).collect();
        if waiting.is_empty() {
            return None;
        }
        waiting.sort_by_key(|(w, _)| (w.variant.is_some(), w.since_ns));
        let rows = waiting.into_iter().map(|(waits, holder)| {
            let Told { event, owner, .. } = told(waits, holder, now_ns, "open", None);
            let owner = owner.unwrap_or_default();
            let of = |name: &str| {
                let mut fields = event.fields.iter();
                let found = fields.find(|(n, _)| &**n == name);
                found.map_or(Value::Missing(""), |(_, value)| value.clone())
            };
            let head = [Value::Uint(owner.pid.into()), Value::Name(owner.comm)];
            let fields = ["fd", "local", "remote", "held", "since"].map(of);
            head.into_iter().chain(fields).collect()
        });
        let columns = ["pid", "comm", "fd", "local", "remote", "held", "since"];
        Some(Table {
            title: "the peer hung up, and these are still open".to_owned(),
            columns: columns.map(str::to_owned).to_vec(),
            rows: rows.collect(),
        })
    }

    /// Makes room for one more.
    fn make_room(&mut self) {
        if self.sockets.len() < MOST {
            return;
        }
        let oldest = oldest(self.sockets.values().map(|s| s.changed_ns).collect());
        let before = self.sockets.len();
        // Those that linger are what it is about.
        self.sockets
            .retain(|_, s| s.changed_ns > oldest || s.waits.is_some());
        self.forgotten += (before - self.sockets.len()) as u64;
    }

    /// What the reader should know.
    pub fn notes(&self) -> Vec<String> {
        let mut notes: Vec<String> = self.older.note().into_iter().collect();
        if self.forgotten > 0 {
            notes.push(format!(
                "{} sockets were forgotten, since more than {MOST} were open: if they linger, their owners and stacks are missing",
                self.forgotten
            ));
        }
        notes
    }
}

/// Both ends of a connection, as the join's other events have them.
fn ends(known: &Known) -> Fields {
    let end = |name: &str, address: std::net::SocketAddr| {
        (
            Arc::from(name),
            Value::Address(address.ip(), Some(address.port())),
        )
    };
    vec![end("local", known.local), end("remote", known.remote)]
}

/// Whose a socket from before the run is.
fn older(known: &Known) -> Holder {
    Holder {
        owner: known.owner.clone(),
        fields: vec![(Arc::from("fd"), Value::Uint(known.fd.into()))],
    }
}

/// What is shown of one that lingers, at NOW_NS.
fn told(
    waits: &Waits,
    holder: Option<&Holder>,
    now_ns: u64,
    now: &str,
    unread: Option<u64>,
) -> Told {
    let mut event = waits.event.clone();
    event.time_ns = now_ns;
    for (name, value) in holder.into_iter().flat_map(|h| &h.fields) {
        if !event.fields.iter().any(|(there, _)| there == name) {
            event.fields.push((name.clone(), value.clone()));
        }
    }
    let held = now_ns.saturating_sub(waits.since_ns);
    let since = waits.variant.map_or("before uprof", |_| "hangup");
    // The kernel counts the FIN that was not read as one.
    let unread = unread.map_or(Value::Missing(""), |n| Value::Uint(n.saturating_sub(1)));
    event.fields.extend([
        (Arc::from("held"), Value::Duration(held)),
        (Arc::from("since"), Value::Name(since.to_owned())),
        (Arc::from("now"), Value::Name(now.to_owned())),
        (Arc::from("unread"), unread),
    ]);
    Told {
        variant: waits.variant,
        event,
        owner: holder.map(|h| h.owner.clone()),
    }
}

/// What the kernel says of one that lingered.
enum Lingers {
    /// It does, with so many bytes unread, the FIN among them.
    Unread(u64),
    /// It is closed.
    Not,
    /// Its inode or its process is not known.
    NotKnown,
}

fn lingers(waits: &Waits, holder: Option<&Holder>, tables: &mut Tables) -> Lingers {
    let (Some(holder), true) = (holder, waits.inode != 0) else {
        return Lingers::NotKnown;
    };
    // A process that has ended has closed it.
    let found = tables
        .of(holder.owner.pid)
        .and_then(|t| t.get(&waits.inode));
    match found {
        Some(known) if known.state == CLOSE_WAIT => Lingers::Unread(known.unread),
        _ => Lingers::Not,
    }
}

/// Captures but those in TAKEN.
fn shown(mut fields: Fields, taken: &[String]) -> Fields {
    fields.retain(|(name, _)| !taken.iter().any(|t| **t == **name));
    fields
}

#[cfg(test)]
#[path = "lingerers_tests.rs"]
mod tests;
