//! The application's closes of TCP sockets, with what TCP did to the same socket: who hung up first.
//!
//! A socket is followed by its address from its first transition to its last event. A close waits until its [`verdict`]
//! is final: on the loopback some microseconds, else until the peer has acknowledged, at most [`PATIENCE`].

mod calls;
mod last;
mod socket;
mod tally;
pub mod verdict;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use uprof_recipes as recipes;

use super::inventory::Older;
use super::sockets::{Fields, MOST, Owner, Role, oldest};
use super::state;
use crate::report::escape;
use crate::report::model::{Count, Event, Step, Table, Value};
use last::Lasts;
pub use socket::Going;
use socket::{Pending, Socket};
use tally::Tallies;
use verdict::First;

/// How long a verdict is waited for, in nanoseconds. A FIN that is lost is sent again after 0.2 s at the least and then
/// after twice as long each time: it was sent seven times by then, and what answers may still be the peer's own, sent before.
const PATIENCE: u64 = 15_000_000_000;

/// How many steps of a socket's timeline are kept.
const MOST_STEPS: usize = 64;

/// How many threads are remembered with what they did last.
const MOST_THREADS: usize = 65_536;

/// Where and when something happened to a socket.
#[derive(Clone, Copy, Debug)]
pub struct Moment<'a> {
    /// In nanoseconds since the UNIX epoch.
    pub time_ns: u64,
    /// The process of the running thread.
    pub pid: u32,
    /// The running thread.
    pub tid: u32,
    /// Its name, padded with NULs.
    pub comm: &'a [u8; 16],
    /// Whether the thread itself is at work on the socket; `None`: it is not captured.
    pub owned: Option<bool>,
    /// The end of the running thread, if it is ending.
    pub going: Option<Going>,
    /// Bytes sent and received so far, where they are captured.
    pub bytes: (Option<u64>, Option<u64>),
}

/// A transition.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    /// The socket's address.
    pub socket: u64,
    /// The former state.
    pub from: u64,
    /// The new one.
    pub to: u64,
    /// The socket's error, 0 where none is captured.
    pub error: u64,
}

/// A record that becomes an event when that is wanted: its variant, and what decodes it for a process that is shown.
pub struct Source<'a> {
    /// The variant of the plan.
    pub variant: usize,
    /// `None`: of another process.
    pub event: &'a dyn Fn() -> Option<Event>,
}

/// A close that is to be shown now.
#[derive(Debug)]
pub struct Shown {
    /// The variant whose record it was.
    pub variant: usize,
    /// With what the join adds.
    pub event: Event,
}

/// Follows sockets, and holds closes back until their verdicts are final.
pub struct Closes {
    spec: recipes::Closes,
    /// The capture of a transition that is the former state.
    from: String,
    /// Captures that are not shown.
    taken: Vec<String>,
    sockets: HashMap<u64, Socket>,
    /// Closes that wait, by when they began to: socket and number of the close.
    waiting: VecDeque<(u64, u64, u64)>,
    /// Closes with a verdict that wait for what comes next, by socket.
    until_next: BTreeMap<u64, Shown>,
    /// By thread: sockets that calls within a close named, with the times and what they captured.
    inside: HashMap<u32, VecDeque<(u64, u64, Fields)>>,
    /// By thread: a close that has begun, whose socket will be named on the same thread.
    begun: HashMap<u32, Pending>,
    /// What was done last, where that is not known by the socket.
    last: Lasts,
    ready: VecDeque<Shown>,
    tallies: Tallies,
    closes: u64,
    /// Why closes were not joined, and how many.
    unjoined: BTreeMap<&'static str, u64>,
    forgotten: u64,
    lost: bool,
    older: Older,
}

impl Closes {
    /// For a recipe's join; OLDER knows the sockets from before the run. With BY_COMM closes are counted by program too.
    pub fn new(
        join: &recipes::Sockets,
        spec: &recipes::Closes,
        by_comm: bool,
        older: Older,
    ) -> Self {
        let internal = ["owned", "exiting", "exit_code", "error", "inode", "state"];
        let own = [&join.socket, &join.from, &join.to].map(String::as_str);
        let key = Lasts::capture(&spec.last_by);
        Self {
            spec: spec.clone(),
            from: join.from.clone(),
            taken: own
                .iter()
                .chain(&internal)
                .chain(&key)
                .map(|n| (*n).to_owned())
                .collect(),
            sockets: HashMap::new(),
            waiting: VecDeque::new(),
            until_next: BTreeMap::new(),
            inside: HashMap::new(),
            begun: HashMap::new(),
            last: Lasts::new(&spec.last_by),
            ready: VecDeque::new(),
            tallies: Tallies::new(spec.by.first().map_or("close", String::as_str), by_comm),
            closes: 0,
            unjoined: BTreeMap::new(),
            forgotten: 0,
            lost: false,
            older,
        }
    }

    /// The next close that is to be shown.
    pub fn next(&mut self) -> Option<Shown> {
        while let Some(shown) = self.ready.pop_front() {
            if !self.wanted(&shown.event) {
                continue;
            }
            self.tallies.add(&shown.event);
            if self.spec.list {
                return Some(shown);
            }
        }
        None
    }

    /// Whether a close is one of those that the recipe asks for.
    fn wanted(&self, event: &Event) -> bool {
        let is = |(name, words): &(String, Vec<String>)| {
            let mut fields = event.fields.iter();
            let found = fields.find(|(there, _)| **there == **name);
            matches!(found, Some((_, Value::Name(word))) if words.contains(word))
        };
        self.spec.only.iter().all(is)
    }

    /// Closes so far, by verdict and role.
    pub fn counts(&self) -> Vec<Count> {
        self.tallies.counts()
    }

    /// Closes so far, by peer.
    pub fn peers(&self) -> Option<Table> {
        self.tallies.peers()
    }

    /// Takes a transition.
    pub fn changed(&mut self, change: Change, moment: &Moment<'_>, source: &Source<'_>) {
        let Change {
            socket,
            from,
            to,
            error,
        } = change;
        if to == state::ESTABLISHED {
            self.forget(socket);
        }
        let timeline = self.spec.timeline;
        let known = self.socket(socket, moment.time_ns);
        if to == state::ESTABLISHED {
            known.born_ns = Some(moment.time_ns);
            known.role = Some(match from {
                state::SYN_SENT => Role::Client,
                _ => Role::Server,
            });
        }
        known.state = to;
        known.saw(moment);
        let first = First {
            to,
            time_ns: moment.time_ns,
            sent: moment.bytes.0,
        };
        known.ending.changed(from, to, first, error);
        if timeline {
            let what = format!("{} -> {}", state::name(from), state::name(to));
            known.step(step(what, moment), MOST_STEPS);
        }
        let by_itself = moment.owned.unwrap_or(true) || moment.going.is_some();
        let closes = matches!(to, state::FIN_WAIT1 | state::LAST_ACK | state::CLOSE);
        if by_itself && closes && known.pending.is_none() && !known.closed {
            let event = (source.event)();
            known.closer = event.map(|event| Box::new((source.variant, event, moment.going)));
        }
        self.settle(socket);
    }

    /// The peer's reset was received, or (SENT) one was sent.
    pub fn reset(&mut self, socket: u64, sent: bool, moment: &Moment<'_>) {
        let timeline = self.spec.timeline;
        let known = self.socket(socket, moment.time_ns);
        match sent {
            true => known.ending.reset_sent = true,
            false => known.ending.reset_received = true,
        }
        if timeline {
            let what = ["reset received", "reset sent"][usize::from(sent)];
            known.step(step(what.to_owned(), moment), MOST_STEPS);
        }
        self.settle(socket);
    }

    /// The socket is no more: a close that nobody called ends here, if it is one of the processes that are watched.
    pub fn destroyed(&mut self, socket: u64, moment: &Moment<'_>, source: &Source<'_>) {
        let timeline = self.spec.timeline;
        let known = self.socket(socket, moment.time_ns);
        known.ending.gone = true;
        known.saw(moment);
        if timeline {
            known.step(step("destroyed".to_owned(), moment), MOST_STEPS);
        }
        // Of which nothing else was seen: a listener, or it ended before uprof.
        let seen =
            known.born_ns.is_some() || known.ending.first.is_some() || known.closer.is_some();
        if seen && known.pending.is_none() && !known.closed {
            let ended = match known.closer.take() {
                // The end of the process is what closes, where it had shut down before.
                Some(closer) if moment.going.is_none() || closer.2.is_some() => Some(*closer),
                earlier if moment.owned == Some(false) => earlier.map(|c| *c),
                earlier => (source.event)()
                    .map(|event| (source.variant, event, moment.going))
                    .or(earlier.map(|c| *c)),
            };
            if let Some((variant, event, going)) = ended {
                self.pend(socket, Pending::new(variant, event, going));
            }
        }
        self.settle(socket);
        self.forget(socket);
    }

    /// A thread that a socket belongs to was seen.
    pub fn owned(&mut self, socket: u64, event: &Event) {
        if socket == 0 {
            return;
        }
        let timeline = self.spec.timeline;
        let known = self.socket(socket, event.time_ns);
        known.owner = Some(Owner::of(event));
        if timeline {
            known.step(of_event(event, event.time_ns), MOST_STEPS);
        }
    }

    /// Something that is told in the timeline only.
    pub fn stepped(&mut self, socket: u64, event: &Event) {
        if socket != 0 {
            let known = self.socket(socket, event.time_ns);
            known.step(of_event(event, event.time_ns), MOST_STEPS);
        }
    }

    /// What was done last: an event of probe number PROBE of `last`.
    pub fn last(&mut self, probe: usize, socket: Option<u64>, mut event: Event) {
        let mut fields = std::mem::take(&mut event.fields);
        event.fields = fields.clone();
        fields.retain(|(name, _)| !self.taken.iter().any(|t| **t == **name));
        let of_socket = self.last.took(probe, &event, fields);
        if let (Some(fields), Some(socket)) = (of_socket, socket.filter(|s| *s != 0)) {
            let known = self.socket(socket, event.time_ns);
            known.last.insert(probe, (event.time_ns, fields));
        }
    }

    /// What was done after a close.
    pub fn followed(&mut self, socket: u64, event: &Event) {
        if let Some(mut shown) = self.until_next.remove(&socket) {
            let after = event.time_ns.saturating_sub(shown.event.time_ns);
            let taken = |name: &str| self.taken.iter().any(|t| *t == *name);
            let fields = event.fields.iter().filter(|(name, _)| !taken(name));
            add(&mut shown.event, fields.cloned());
            let after = (Arc::from("until_next_ns"), Value::Duration(after));
            add(&mut shown.event, [after]);
            self.ready.push_back(shown);
        }
    }

    /// The application closes a socket, and that is not to be shown: nor is it the socket's end, then.
    pub fn passed_over(&mut self, socket: u64) {
        if let Some(known) = self.sockets.get_mut(&socket) {
            known.closed = true;
            known.closer = None;
        }
    }

    fn pend(&mut self, socket: u64, mut pending: Pending) {
        self.closes += 1;
        if pending.last.is_empty() {
            pending.last = self.last.before(&pending.event, self.spec.last.len());
        }
        let event = &pending.event;
        let now = event.time_ns;
        let Some(known) = self.sockets.get_mut(&socket) else {
            return;
        };
        // A transition that ends it is out of the state that it had.
        let captured = ["state", &self.from].into_iter().find_map(|state| {
            let mut fields = event.fields.iter();
            fields.find(|(name, _)| **name == *state)?.1.as_u64()
        });
        if known.role.is_none()
            && let Some((role, state)) = pending.before(&mut self.older)
        {
            known.role = Some(role);
            state.into_iter().for_each(|s| known.ending.was_in(s));
        }
        pending.last.append(&mut known.last);
        pending.number = self.closes;
        pending.state = captured.or((known.state != 0).then_some(known.state));
        known.bytes = pending.bytes(known.bytes);
        known.pending = Some(Box::new(pending));
        known.closed = true;
        self.waiting.push_back((now, socket, self.closes));
    }

    /// Shows a close whose verdict is final.
    fn settle(&mut self, socket: u64) {
        let timeline = self.spec.timeline;
        let Some(known) = self.sockets.get_mut(&socket) else {
            return;
        };
        let Some(pending) = &known.pending else {
            return;
        };
        // A timeline is shown whole.
        let whole = !timeline || known.ending.gone;
        if whole && known.ending.verdict(pending.state).is_some() {
            self.force(socket);
        }
    }

    /// Shows a close with the verdict that can be told now.
    fn force(&mut self, socket: u64) {
        let Some(known) = self.sockets.get_mut(&socket) else {
            return;
        };
        let Some(pending) = known.pending.take() else {
            return;
        };
        let event = pending.joined(known, self.lost, &self.taken);
        self.show(Some(socket), event);
    }

    /// Puts a close with its verdict among those that are ready.
    fn show(&mut self, socket: Option<u64>, shown: Shown) {
        match socket {
            Some(socket) if self.spec.next.is_some() => {
                let earlier = self.until_next.insert(socket, shown);
                self.ready.extend(earlier);
            }
            _ => self.ready.push_back(shown),
        }
    }

    /// Shows closes that have waited for too long, at NOW, in nanoseconds since the UNIX epoch.
    pub fn due(&mut self, now: u64) {
        let late = |_: &u32, begun: &mut Pending| now >= begun.event.time_ns + PATIENCE;
        let late: Vec<_> = self.begun.extract_if(late).collect();
        for (_, close) in late {
            self.unjoined(close);
        }
        while let Some((since, socket, number)) = self.waiting.front().copied() {
            let pending = self.sockets.get(&socket).and_then(|s| s.pending.as_ref());
            if pending.is_some_and(|p| p.number == number) {
                if now < since + PATIENCE {
                    break;
                }
                self.force(socket);
            }
            self.waiting.pop_front();
        }
        if let Some((_, within)) = self.spec.next {
            let over = |shown: &mut Shown| now > shown.event.time_ns + within;
            let over = self.until_next.extract_if(.., |_, shown| over(shown));
            self.ready.extend(over.map(|(_, shown)| shown));
        }
    }

    /// The run is over: shows what is left.
    pub fn finish(&mut self) {
        self.due(u64::MAX - PATIENCE);
        let mut ended: Vec<u64> = self.sockets.keys().copied().collect();
        ended.sort_unstable();
        // Processes that have ended, and sockets whose FINs nobody has acknowledged yet.
        for socket in ended {
            let known = self.sockets.get_mut(&socket);
            let closer = known.and_then(|k| k.closer.take_if(|c| !k.closed && c.2.is_some()));
            if let Some(closer) = closer {
                let (variant, event, going) = *closer;
                self.pend(socket, Pending::new(variant, event, going));
                self.force(socket);
            }
        }
        self.ready
            .extend(std::mem::take(&mut self.until_next).into_values());
    }

    /// Records were dropped: what is not known may have been in them.
    pub fn records_lost(&mut self) {
        self.lost = true;
    }

    /// Another socket gets the address, or none.
    fn forget(&mut self, socket: u64) {
        self.force(socket);
        self.sockets.remove(&socket);
    }

    /// What is known of a socket, whether it is new or not.
    fn socket(&mut self, socket: u64, now: u64) -> &mut Socket {
        if self.sockets.len() >= MOST && !self.sockets.contains_key(&socket) {
            self.make_room();
        }
        let known = self.sockets.entry(socket).or_default();
        known.changed_ns = now;
        known
    }

    /// Those go that have not changed for longest.
    fn make_room(&mut self) {
        let oldest = oldest(self.sockets.values().map(|s| s.changed_ns).collect());
        let old = self.sockets.iter().filter(|(_, s)| s.changed_ns <= oldest);
        let old: Vec<u64> = old.map(|(socket, _)| *socket).collect();
        self.forgotten += old.len() as u64;
        for socket in old {
            self.forget(socket);
        }
    }

    /// What the reader should know, a sentence each.
    pub fn notes(&self) -> Vec<String> {
        let mut notes: Vec<String> = self.older.note().into_iter().collect();
        if self.forgotten > 0 {
            notes.push(format!(
                "{} sockets were forgotten before they closed, since more than {MOST} were open: of their closes age and \
                 role are missing, and the verdict may be unknown",
                self.forgotten
            ));
        }
        for (why, count) in &self.unjoined {
            notes.push(format!("{count} closes were joined with no socket: {why}"));
        }
        notes
    }
}

/// A step of a timeline.
fn step(what: String, moment: &Moment<'_>) -> Step {
    Step {
        time_ns: moment.time_ns,
        what,
        pid: moment.pid,
        tid: moment.tid,
        comm: escape::comm(moment.comm),
        softirq: moment.owned == Some(false),
    }
}

/// The step that an application's event is, at TIME_NS.
fn of_event(event: &Event, time_ns: u64) -> Step {
    Step {
        time_ns,
        what: event.probe.to_string(),
        pid: event.pid,
        tid: event.tid,
        comm: event.comm.clone(),
        softirq: event.nobody,
    }
}

/// Adds fields that are not there.
fn add(event: &mut Event, fields: impl IntoIterator<Item = (Arc<str>, Value)>) {
    for (name, value) in fields {
        if !event.fields.iter().any(|(there, _)| *there == name) {
            event.fields.push((name, value));
        }
    }
}

#[cfg(test)]
mod tests;
