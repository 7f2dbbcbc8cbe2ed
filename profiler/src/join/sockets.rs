//! TCP sockets from their first transition to their last: whose they are, how long they were in a state.
//!
//! A transition runs on anybody's thread: on loopback the peer's, in interrupts whoever was running. So a socket belongs
//! to the thread that made it connect or listen, or that accepted it; before that nobody is named.

use std::collections::HashMap;
use std::sync::Arc;

use uprof_recipes::SocketEvents;

use super::state;
use crate::report::model::{Event, Value};

/// Captures by their names.
pub type Fields = Vec<(Arc<str>, Value)>;

/// How many sockets are remembered; beyond it those go that have not changed for longest.
pub const MOST: usize = 65_536;

/// When those that go to make room have changed at the latest, of at least [`MOST`] times: a tenth goes at once, so that it
/// is not looked for each time.
pub fn oldest(mut changed: Vec<u64>) -> u64 {
    let (_, oldest, _) = changed.select_nth_unstable(MOST / 10);
    *oldest
}

/// Which end of a connection a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It connected.
    Client,
    /// It was connected to.
    Server,
    /// It waits for connections.
    Listener,
}

impl Role {
    /// Its word, as in reports.
    pub fn word(self) -> &'static str {
        match self {
            Role::Client => "client",
            Role::Server => "server",
            Role::Listener => "listener",
        }
    }
}

/// A thread that a socket belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// Its process.
    pub pid: u32,
    /// The thread.
    pub tid: u32,
    /// Its name then.
    pub comm: String,
}

impl Owner {
    /// The thread on which something happened.
    pub fn of(event: &Event) -> Self {
        Self {
            pid: event.pid,
            tid: event.tid,
            comm: event.comm.clone(),
        }
    }
}

#[derive(Default)]
struct Socket {
    /// When it began to connect, or the peer's SYN came; `None`: before uprof.
    born_ns: Option<u64>,
    changed_ns: u64,
    role: Option<Role>,
    owner: Option<Owner>,
    /// What was captured when it began.
    beginning: Fields,
}

/// Is this a socket's first transition? One that connects to another that connects to it goes on to SYN_RECV.
pub(super) fn begins(from: u64, to: u64) -> bool {
    from == state::CLOSE || to == state::SYN_RECV && from != state::SYN_SENT
}

/// One change of a socket's state.
#[derive(Clone, Copy, Debug)]
pub struct Transition {
    /// The socket's address.
    pub socket: u64,
    /// The state it was in.
    pub from: u64,
    /// The state it is in now.
    pub to: u64,
}

/// Follows sockets, and tells which of their transitions are to be shown.
pub struct Sockets {
    show: SocketEvents,
    /// Are there only those of which a beginning was told?
    begun_only: bool,
    sockets: HashMap<u64, Socket>,
    /// Sockets that were forgotten for want of room.
    forgotten: u64,
    /// Ends of sockets of which no owner was ever seen.
    unowned: u64,
}

impl Sockets {
    /// To show these of their transitions; with BEGUN_ONLY those of sockets that [`Self::begun`] told of.
    pub fn new(show: SocketEvents, begun_only: bool) -> Self {
        Self {
            show,
            begun_only,
            sockets: HashMap::new(),
            forgotten: 0,
            unowned: 0,
        }
    }

    /// A thread that a socket belongs to was seen: it connected or accepted it.
    pub fn owned(&mut self, socket: u64, owner: Owner, time_ns: u64) {
        // An accept that fails has no socket.
        if socket == 0 {
            return;
        }
        self.make_room();
        let known = self.sockets.entry(socket).or_insert_with(|| Socket {
            changed_ns: time_ns,
            ..Socket::default()
        });
        known.owner = Some(owner);
    }

    /// A thread began to connect a socket; FIELDS were captured there, and are added to what is shown of it.
    pub fn begun(&mut self, socket: u64, owner: Owner, fields: Fields, time_ns: u64) {
        self.make_room();
        let known = Socket {
            born_ns: Some(time_ns),
            changed_ns: time_ns,
            role: Some(Role::Client),
            owner: Some(owner),
            beginning: fields,
        };
        self.sockets.insert(socket, known);
    }

    /// Takes a transition, which EVENT tells of; gives it back as the owner's, with what the join adds, when it is to be
    /// shown. `None` of an owner: nobody knows whose it is.
    pub fn changed(
        &mut self,
        change: Transition,
        mut event: Event,
    ) -> Option<(Event, Option<Owner>)> {
        let now = event.time_ns;
        let Transition { socket, from, to } = change;
        if self.begun_only && !self.sockets.contains_key(&socket) {
            return None;
        }
        // What begins here was another socket before, of which the end was not seen.
        if begins(from, to) {
            self.sockets.remove(&socket);
        }
        self.make_room();
        let fresh = !self.sockets.contains_key(&socket);
        let known = self.sockets.entry(socket).or_default();
        let held = (!fresh).then(|| now.saturating_sub(known.changed_ns));
        match to {
            state::SYN_SENT => {
                known.role = Some(Role::Client);
                known.born_ns = Some(now);
                known.owner = Some(Owner::of(&event));
            }
            state::LISTEN => {
                known.role = Some(Role::Listener);
                known.owner = Some(Owner::of(&event));
            }
            state::SYN_RECV if from != state::SYN_SENT => {
                known.role = Some(Role::Server);
                known.born_ns = Some(now);
            }
            _ => {}
        }
        known.changed_ns = now;
        let age = known.born_ns.map(|born| now.saturating_sub(born));
        for (name, value) in known.beginning.drain(..) {
            if !event.fields.iter().any(|(there, _)| *there == name) {
                event.fields.push((name, value));
            }
        }
        let (role, owner) = (known.role, known.owner.clone());
        if to == state::CLOSE || self.begun_only {
            self.sockets.remove(&socket);
            self.unowned += u64::from(owner.is_none());
        }
        let (shown, time) = match self.show {
            SocketEvents::States => (true, held),
            SocketEvents::Lives => (
                to == state::CLOSE && from != state::LISTEN && from != state::SYN_SENT,
                age,
            ),
            // To SYN_RECV, where both ends connect at once.
            SocketEvents::Connects => (from == state::SYN_SENT, age),
            // Another join's.
            SocketEvents::Closes | SocketEvents::Lingerers => (false, None),
        };
        if !shown {
            return None;
        }
        let begins = begins(from, to);
        let unknown = Value::Missing(if begins { "" } else { "since before uprof" });
        let time = time.filter(|_| !begins).map_or(unknown, Value::Duration);
        event.fields.push((Arc::from(self.show.time()), time));
        let role = Value::Name(role.map_or("", Role::word).to_owned());
        event.fields.push((Arc::from("role"), role));
        Some((event, owner))
    }

    /// Makes room for one more.
    fn make_room(&mut self) {
        if self.sockets.len() < MOST {
            return;
        }
        let oldest = oldest(self.sockets.values().map(|s| s.changed_ns).collect());
        let before = self.sockets.len();
        self.sockets.retain(|_, s| s.changed_ns > oldest);
        self.forgotten += (before - self.sockets.len()) as u64;
    }

    /// What the reader should know.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.forgotten > 0 {
            notes.push(format!(
                "{} sockets were forgotten before they closed, since more than {MOST} were open: their owners and times \
                 are missing",
                self.forgotten
            ));
        }
        if self.unowned > 0 {
            notes.push(format!(
                "{} sockets ended without anybody being seen to connect or accept them: they are older than this run, or \
                 were closed before they were accepted",
                self.unowned
            ));
        }
        notes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(time_ns: u64, comm: &str) -> Event {
        Event {
            probe: "state".into(),
            time_ns,
            pid: 7,
            tid: 8,
            comm: comm.to_owned(),
            nobody: false,
            latency_ns: None,
            fields: Vec::new(),
            steps: Vec::new(),
        }
    }

    fn change(from: u64, to: u64) -> Transition {
        Transition {
            socket: 0xffff_8880_0000_1000,
            from,
            to,
        }
    }

    fn field<'e>(event: &'e Event, name: &str) -> &'e Value {
        let found = event.fields.iter().find(|(n, _)| &**n == name);
        &found.expect("a field of the join").1
    }

    #[test]
    fn a_client_keeps_its_owner_whoever_runs_when_it_closes() {
        let mut s = Sockets::new(SocketEvents::Lives, false);
        assert!(s.changed(change(7, 2), event(100, "curl")).is_none());
        assert!(s.changed(change(2, 1), event(150, "swapper/0")).is_none());
        assert!(s.changed(change(1, 4), event(900, "curl")).is_none());
        assert!(s.changed(change(4, 5), event(950, "nginx")).is_none());
        let (last, owner) = s
            .changed(change(5, 7), event(1100, "ksoftirqd/1"))
            .expect("the end is shown");
        assert_eq!(field(&last, "age"), &Value::Duration(1000));
        assert_eq!(field(&last, "role"), &Value::Name("client".into()));
        assert_eq!(owner.expect("who connected").comm, "curl");
        assert!(s.notes().is_empty());
    }

    #[test]
    fn a_server_s_socket_belongs_to_who_accepts_it() {
        let mut s = Sockets::new(SocketEvents::States, false);
        let (first, owner) = s.changed(change(10, 3), event(10, "wrk")).expect("shown");
        assert_eq!((field(&first, "held"), owner), (&Value::Missing(""), None));
        s.owned(0xffff_8880_0000_1000, Owner::of(&event(20, "nginx")), 20);
        let (next, owner) = s.changed(change(3, 1), event(60, "wrk")).expect("shown");
        assert_eq!(field(&next, "held"), &Value::Duration(50));
        assert_eq!(field(&next, "role"), &Value::Name("server".into()));
        assert_eq!(owner.map(|o| o.comm), Some("nginx".to_owned()));
    }

    #[test]
    fn an_attempt_to_connect_ends_well_or_not() {
        let mut s = Sockets::new(SocketEvents::Connects, false);
        assert!(s.changed(change(7, 2), event(0, "nc")).is_none());
        let (refused, _) = s.changed(change(2, 7), event(30, "nc")).expect("shown");
        assert_eq!(field(&refused, "took"), &Value::Duration(30));
        // The address is used again at once.
        assert!(s.changed(change(7, 2), event(40, "curl")).is_none());
        let (done, owner) = s
            .changed(change(2, 1), event(45, "swapper/1"))
            .expect("shown");
        assert_eq!(field(&done, "took"), &Value::Duration(5));
        assert_eq!(owner.map(|o| o.comm), Some("curl".to_owned()));
    }

    #[test]
    fn of_attempts_whose_beginning_is_told_the_others_are_not_shown() {
        let mut s = Sockets::new(SocketEvents::Connects, true);
        let end = change(2, 1);
        assert!(s.changed(end, event(10, "swapper/0")).is_none());
        let uid = vec![(Arc::from("uid"), Value::Uint(33))];
        s.begun(end.socket, Owner::of(&event(20, "php")), uid, 20);
        let (done, owner) = s.changed(end, event(90, "swapper/0")).expect("shown");
        assert_eq!(field(&done, "uid"), &Value::Uint(33));
        assert_eq!(field(&done, "took"), &Value::Duration(70));
        assert_eq!(owner.map(|o| o.comm), Some("php".to_owned()));
    }

    #[test]
    fn sockets_older_than_the_run_say_so_and_memory_is_bounded() {
        let mut s = Sockets::new(SocketEvents::Lives, false);
        let (end, owner) = s.changed(change(8, 7), event(5, "x")).expect("shown");
        assert!(matches!(field(&end, "age"), Value::Missing(_)) && owner.is_none());
        assert_eq!(s.notes().len(), 1);
        for n in 0..MOST as u64 + 10 {
            let socket = 0x1000 + 64 * n;
            let born = Transition {
                socket,
                from: 7,
                to: 2,
            };
            s.changed(born, event(n, "many"));
        }
        assert!(s.sockets.len() <= MOST);
        assert_eq!(s.notes().len(), 2, "{:?}", s.notes());
    }
}
