//! Sockets whose peer has hung up and whose program has not (CLOSE_WAIT): whose they are, and for how long.
//!
//! A program that forgets to close leaks them. One that has lingered for so long is told of, once when the time is over, and
//! once more when it is closed after all.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::inventory::{self, Known, Older};
use super::sockets::{Fields, Owner, Transition};
use crate::report::model::{Event, Table, Value};

/// CLOSE_WAIT and CLOSE, as in include/net/tcp_states.h.
const CLOSE_WAIT: u64 = 8;
const CLOSE: u64 = 7;

/// How many sockets are remembered; beyond it those go that have not changed for longest.
const MOST: usize = 65_536;
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
    /// It did so before the run.
    before: bool,
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

/// Follows sockets from their accept or connect to their end.
pub struct Lingerers {
    after_ns: u64,
    sockets: HashMap<Key, Socket>,
    /// When the time of those is over that wait, in this order.
    due: VecDeque<(u64, Key)>,
    looked_ns: u64,
    older: Older,
    /// Sockets that were forgotten for want of room.
    forgotten: u64,
}

/// An event to be shown, and whose it is: `None` where nobody knows.
pub type Told = (Event, Option<Owner>);

impl Lingerers {
    /// To tell of those that linger for longer than AFTER_NS; OLDER knows the sockets from before the run.
    pub fn new(after_ns: u64, older: Older) -> Self {
        Self {
            after_ns,
            sockets: HashMap::new(),
            due: VecDeque::new(),
            looked_ns: 0,
            older,
            forgotten: 0,
        }
    }

    /// Adds those that lingered when the run began, at NOW_NS; their events are of PROBE.
    pub fn began(&mut self, probe: &Arc<str>, now_ns: u64) {
        let waiting: Vec<(u64, Known)> = self
            .older
            .get()
            .sockets()
            .filter(|(_, known)| known.state == CLOSE_WAIT)
            .map(|(inode, known)| (inode, known.clone()))
            .collect();
        for (inode, known) in waiting {
            let event = Event {
                probe: probe.clone(),
                time_ns: now_ns,
                pid: known.owner.pid,
                tid: known.owner.tid,
                comm: known.owner.comm.clone(),
                nobody: false,
                latency_ns: None,
                fields: ends(&known),
                steps: Vec::new(),
            };
            let waits = Waits {
                since_ns: now_ns,
                before: true,
                inode,
                event,
                shown: false,
            };
            let socket = Socket {
                changed_ns: now_ns,
                holder: Some(older(&known)),
                waits: Some(waits),
            };
            self.sockets.insert(Key::Inode(inode), socket);
            self.due
                .push_back((now_ns + self.after_ns, Key::Inode(inode)));
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
        known.holder = Some(Holder { owner, fields });
    }

    /// Takes a transition, which EVENT tells of, of a socket with this inode (0: not known); gives back what is to be shown
    /// of one that is closed too late.
    pub fn changed(&mut self, change: Transition, inode: u64, event: Event) -> Option<Told> {
        let Transition { socket, from, to } = change;
        let (key, now) = (Key::Address(socket), event.time_ns);
        if super::sockets::begins(from, to) {
            self.sockets.remove(&key);
        }
        if to == CLOSE_WAIT {
            self.hung_up(key, inode, event);
            return None;
        }
        if from == CLOSE_WAIT {
            let ended = self.ended(key, inode, now);
            if to == CLOSE {
                self.sockets.remove(&key);
            }
            return ended;
        }
        if to == CLOSE {
            self.sockets.remove(&key);
        }
        None
    }

    fn hung_up(&mut self, key: Key, inode: u64, event: Event) {
        self.make_room();
        let now = event.time_ns;
        let socket = self.sockets.entry(key).or_default();
        socket.changed_ns = now;
        if socket.holder.is_none() {
            socket.holder = self.older.get().socket(inode).map(older);
        }
        socket.waits = Some(Waits {
            since_ns: now,
            before: false,
            inode,
            event,
            shown: false,
        });
        self.due.push_back((now + self.after_ns, key));
    }

    fn ended(&mut self, key: Key, inode: u64, now_ns: u64) -> Option<Told> {
        let waits = |s: &mut Socket| s.waits.take().map(|w| (w, s.holder.clone()));
        let by_address = self.sockets.get_mut(&key).and_then(waits);
        let (waits, holder) = by_address.or_else(|| {
            let mut socket = self.sockets.remove(&Key::Inode(inode))?;
            waits(&mut socket)
        })?;
        let late = waits.shown || now_ns.saturating_sub(waits.since_ns) >= self.after_ns;
        late.then(|| told(&waits, holder.as_ref(), now_ns, "closed", None))
    }

    /// Those whose time is over at NOW_NS and was not told of. The kernel is asked whether they still linger, and how much
    /// they have not read.
    pub fn overdue(&mut self, now_ns: u64) -> Vec<Told> {
        let waits_yet = now_ns < self.looked_ns + EVERY;
        if waits_yet || self.due.front().is_none_or(|(due, _)| *due > now_ns) {
            return Vec::new();
        }
        self.looked_ns = now_ns;
        let mut tables = inventory::Tables::default();
        let mut all = Vec::new();
        while let Some((due, key)) = self.due.front().copied()
            && due <= now_ns
        {
            self.due.pop_front();
            let Some(socket) = self.sockets.get_mut(&key) else {
                continue;
            };
            let holder = socket.holder.clone();
            let fresh = |w: &&mut Waits| !w.shown && w.since_ns + self.after_ns <= now_ns;
            let Some(waits) = socket.waits.as_mut().filter(fresh) else {
                continue;
            };
            let pid = holder.as_ref().map_or(0, |h| h.owner.pid);
            let kernels = tables.of(pid).and_then(|t| t.get(&waits.inode));
            // Closed meanwhile: the record of that is under way.
            if kernels.is_some_and(|known| known.state != CLOSE_WAIT) {
                continue;
            }
            waits.shown = true;
            let unread = kernels.map(|known| known.unread);
            all.push(told(waits, holder.as_ref(), now_ns, "open", unread));
        }
        all
    }

    /// Those that linger at NOW_NS for long enough, or since before the run; the longest first. With OWNED those alone of
    /// which the owner is known.
    pub fn table(&self, now_ns: u64, owned: bool) -> Option<Table> {
        let sockets = self.sockets.values();
        let sockets = sockets.filter(|s| s.holder.is_some() || !owned);
        let waiting = sockets.filter_map(|s| Some((s.waits.as_ref()?, s.holder.as_ref())));
        let long = |w: &Waits| w.before || now_ns.saturating_sub(w.since_ns) >= self.after_ns;
        let mut waiting: Vec<_> = waiting.filter(|(w, _)| long(w)).collect();
        if waiting.is_empty() {
            return None;
        }
        waiting.sort_by_key(|(w, _)| (!w.before, w.since_ns));
        let rows = waiting.into_iter().map(|(waits, holder)| {
            let (event, owner) = told(waits, holder, now_ns, "open", None);
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

    /// Makes room for one more: a tenth of all goes at once, so that it is not looked for each time.
    fn make_room(&mut self) {
        if self.sockets.len() < MOST {
            return;
        }
        let mut ages: Vec<u64> = self.sockets.values().map(|s| s.changed_ns).collect();
        let (_, oldest, _) = ages.select_nth_unstable(MOST / 10);
        let oldest = *oldest;
        let before = self.sockets.len();
        // Those that linger are what it is about.
        self.sockets
            .retain(|_, s| s.changed_ns > oldest || s.waits.is_some());
        self.forgotten += (before - self.sockets.len()) as u64;
    }

    /// What the reader should know.
    pub fn notes(&mut self) -> Vec<String> {
        let mut notes: Vec<String> = self.older.get().note().into_iter().collect();
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
    let since = if waits.before {
        "before uprof"
    } else {
        "hangup"
    };
    // The kernel counts the FIN that was not read as one.
    let unread = unread.map_or(Value::Missing(""), |n| Value::Uint(n.saturating_sub(1)));
    event.fields.extend([
        (Arc::from("held"), Value::Duration(held)),
        (Arc::from("since"), Value::Name(since.to_owned())),
        (Arc::from("now"), Value::Name(now.to_owned())),
        (Arc::from("unread"), unread),
    ]);
    (event, holder.map(|h| h.owner.clone()))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::io::Write;
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    use super::*;

    const SOCKET: u64 = 0xffff_8880_0000_1000;
    const SECOND: u64 = 1_000_000_000;

    fn event(time_ns: u64) -> Event {
        Event {
            probe: "state".into(),
            time_ns,
            pid: 7,
            tid: 8,
            comm: "curl".to_owned(),
            nobody: true,
            latency_ns: None,
            fields: vec![("remote".into(), Value::Name("peer".into()))],
            steps: Vec::new(),
        }
    }

    fn change(from: u64, to: u64) -> Transition {
        Transition {
            socket: SOCKET,
            from,
            to,
        }
    }

    fn owner() -> Owner {
        Owner {
            pid: u32::MAX >> 1,
            tid: 1,
            comm: "server".to_owned(),
        }
    }

    fn nothing_older() -> Older {
        Older::begin(Some(HashSet::new()))
    }

    fn field<'e>(event: &'e Event, name: &str) -> &'e Value {
        let found = event.fields.iter().find(|(n, _)| &**n == name);
        &found.unwrap_or_else(|| panic!("no {name}: {event:?}")).1
    }

    #[test]
    fn one_that_lingers_is_told_of_once_and_when_it_is_closed_after_all() {
        let mut l = Lingerers::new(5 * SECOND, nothing_older());
        let fields = vec![(Arc::from("fd"), Value::Int(9))];
        l.owned(SOCKET, owner(), fields, 10);
        assert!(l.changed(change(1, 8), 0, event(SECOND)).is_none());
        assert!(l.overdue(5 * SECOND).is_empty() && l.table(5 * SECOND, true).is_none());
        let told = l.overdue(7 * SECOND);
        let [(event_, whose)] = told.as_slice() else {
            panic!("{told:?}");
        };
        assert_eq!(whose.as_ref(), Some(&owner()));
        assert_eq!(
            (event_.time_ns, field(event_, "fd")),
            (7 * SECOND, &Value::Int(9))
        );
        assert_eq!(field(event_, "held"), &Value::Duration(6 * SECOND));
        assert_eq!(field(event_, "now"), &Value::Name("open".into()));
        assert!(l.overdue(8 * SECOND).is_empty(), "it is told of once");
        let table = l.table(9 * SECOND, true).expect("it is still open");
        assert_eq!(table.rows[0][5], Value::Duration(8 * SECOND));
        let (closed, _) = l
            .changed(change(8, 9), 0, event(10 * SECOND))
            .expect("closed");
        assert_eq!(field(&closed, "now"), &Value::Name("closed".into()));
        assert_eq!(field(&closed, "held"), &Value::Duration(9 * SECOND));
        assert!(l.table(11 * SECOND, true).is_none() && l.notes().is_empty());
    }

    #[test]
    fn one_that_is_closed_in_time_is_not_nor_the_next_at_its_address() {
        let mut l = Lingerers::new(5 * SECOND, nothing_older());
        l.owned(SOCKET, owner(), Vec::new(), 10);
        l.changed(change(1, 8), 0, event(SECOND));
        assert!(l.changed(change(8, 9), 0, event(2 * SECOND)).is_none());
        assert!(l.changed(change(9, 7), 0, event(2 * SECOND)).is_none());
        // Nobody has accepted this one yet.
        l.changed(change(10, 3), 0, event(3 * SECOND));
        l.changed(change(1, 8), 0, event(4 * SECOND));
        assert!(l.overdue(8 * SECOND).is_empty());
        let told = l.overdue(9 * SECOND);
        assert!(told.len() == 1 && told[0].1.is_none(), "{told:?}");
        assert!(l.table(9 * SECOND, true).is_none() && l.table(9 * SECOND, false).is_some());
        // Reset: its end.
        assert!(l.changed(change(8, 7), 0, event(9 * SECOND)).is_some());
        assert!(l.sockets.is_empty());
    }

    #[test]
    fn one_from_before_the_run_is_known_by_its_inode_and_asked_of_the_kernel() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let to = listener.local_addr().expect("an address");
        let mut client = TcpStream::connect(to).expect("connect");
        let (server, _) = listener.accept().expect("accept");
        client.write_all(b"unread").expect("send");
        client.shutdown(Shutdown::Write).expect("shut down");
        let pid = std::process::id();
        let mut l = Lingerers::new(SECOND, Older::begin(Some(HashSet::from([pid]))));
        l.began(&Arc::from("state"), 10 * SECOND);
        let told = l.overdue(11 * SECOND);
        let remote = client.local_addr().expect("an address");
        let remote = Value::Address(remote.ip(), Some(remote.port()));
        let ours = told.iter().find(|(e, _)| *field(e, "remote") == remote);
        let (event_, whose) = ours.unwrap_or_else(|| panic!("{told:?}"));
        assert_eq!(whose.as_ref().map(|o| o.pid), Some(pid));
        assert_eq!(field(event_, "unread"), &Value::Uint(6));
        assert_eq!(field(event_, "since"), &Value::Name("before uprof".into()));
        let fd = server.as_raw_fd().cast_unsigned();
        assert_eq!(field(event_, "fd"), &Value::Uint(fd.into()));
        let link = std::fs::read_link(format!("/proc/self/fd/{fd}")).expect("it is open");
        let link = link.display().to_string();
        let inode = link.trim_matches(|c: char| !c.is_ascii_digit()).parse();
        let inode = inode.expect("socket:[INODE]");
        let closed = l.changed(change(8, 9), inode, event(12 * SECOND));
        let (closed, _) = closed.expect("it was told of");
        assert_eq!(field(&closed, "remote"), &remote);
    }

    #[test]
    fn memory_is_bounded_and_what_lingers_stays() {
        let mut l = Lingerers::new(SECOND, nothing_older());
        l.owned(SOCKET, owner(), Vec::new(), 1);
        l.changed(change(1, 8), 0, event(1));
        for n in 0..MOST as u64 + 10 {
            l.owned(0x1000 + 64 * n, owner(), Vec::new(), 10 + n);
        }
        assert!(l.sockets.len() <= MOST);
        assert_eq!((l.overdue(SECOND + 1).len(), l.notes().len()), (1, 1));
    }
}
