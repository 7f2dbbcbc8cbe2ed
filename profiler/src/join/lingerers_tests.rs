//! Sockets that linger, as records and the kernel's tables tell of them.

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

fn inode(socket: &impl AsRawFd) -> u64 {
    let link = format!("/proc/self/fd/{}", socket.as_raw_fd());
    let link = std::fs::read_link(link).expect("it is open");
    let link = link.display().to_string();
    let inode = link.trim_matches(|c: char| !c.is_ascii_digit()).parse();
    inode.expect("socket:[INODE]")
}

fn looked_at(pids: HashSet<u32>) -> Older {
    let mut older = Older::begin(Some(pids));
    older.wait();
    older
}

fn nothing_older() -> Older {
    looked_at(HashSet::new())
}

fn field<'e>(event: &'e Event, name: &str) -> &'e Value {
    let found = event.fields.iter().find(|(n, _)| &**n == name);
    &found.unwrap_or_else(|| panic!("no {name}: {event:?}")).1
}

#[test]
fn one_that_lingers_is_told_of_once_and_when_it_is_closed_after_all() {
    let mut l = Lingerers::new(5 * SECOND, 0, vec![], nothing_older());
    let fields = vec![(Arc::from("fd"), Value::Int(9))];
    l.owned(SOCKET, owner(), fields, 10);
    assert!(l.changed(change(1, 8), 0, 1, event(SECOND)).is_none());
    assert!(l.overdue(5 * SECOND).is_empty() && l.table(5 * SECOND, true).is_none());
    let told = l.overdue(7 * SECOND);
    let [open] = told.as_slice() else {
        panic!("{told:?}");
    };
    assert_eq!(
        (open.owner.as_ref(), open.variant),
        (Some(&owner()), Some(1))
    );
    let event_ = &open.event;
    assert_eq!(
        (event_.time_ns, field(event_, "fd")),
        (7 * SECOND, &Value::Int(9))
    );
    assert_eq!(field(event_, "held"), &Value::Duration(6 * SECOND));
    assert_eq!(field(event_, "now"), &Value::Name("open".into()));
    assert!(l.overdue(8 * SECOND).is_empty(), "it is told of once");
    let table = l.table(9 * SECOND, true).expect("it is still open");
    assert_eq!(table.rows[0][5], Value::Duration(8 * SECOND));
    let closed = l.changed(change(8, 9), 0, 1, event(10 * SECOND));
    let closed = closed.expect("closed").event;
    assert_eq!(field(&closed, "now"), &Value::Name("closed".into()));
    assert_eq!(field(&closed, "held"), &Value::Duration(9 * SECOND));
    assert!(l.table(11 * SECOND, true).is_none() && l.notes().is_empty());
}

#[test]
fn one_that_is_closed_in_time_is_not_nor_the_next_at_its_address() {
    let mut l = Lingerers::new(5 * SECOND, 0, vec![], nothing_older());
    l.owned(SOCKET, owner(), Vec::new(), 10);
    l.changed(change(1, 8), 0, 1, event(SECOND));
    assert!(l.changed(change(8, 9), 0, 1, event(2 * SECOND)).is_none());
    assert!(l.changed(change(9, 7), 0, 1, event(2 * SECOND)).is_none());
    // Nobody has accepted this one yet.
    l.changed(change(10, 3), 0, 1, event(3 * SECOND));
    l.changed(change(1, 8), 0, 1, event(4 * SECOND));
    assert!(l.overdue(8 * SECOND).is_empty());
    let told = l.overdue(9 * SECOND);
    assert!(told.len() == 1 && told[0].owner.is_none(), "{told:?}");
    assert!(l.table(9 * SECOND, true).is_none() && l.table(9 * SECOND, false).is_some());
    // Reset: its end.
    assert!(l.changed(change(8, 7), 0, 1, event(9 * SECOND)).is_some());
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
    let older = looked_at(HashSet::from([pid]));
    let mut l = Lingerers::new(SECOND, 10 * SECOND, vec![], older);
    let told = l.overdue(11 * SECOND);
    let remote = client.local_addr().expect("an address");
    let remote = Value::Address(remote.ip(), Some(remote.port()));
    let ours = |told: &&Told| *field(&told.event, "remote") == remote;
    let open = told.iter().find(ours).unwrap_or_else(|| panic!("{told:?}"));
    assert_eq!(open.owner.as_ref().map(|o| o.pid), Some(pid));
    assert_eq!((open.variant, &*open.event.probe), (None, BEFORE));
    let event_ = &open.event;
    assert_eq!(field(event_, "unread"), &Value::Uint(6));
    assert_eq!(field(event_, "since"), &Value::Name("before uprof".into()));
    let fd = server.as_raw_fd().cast_unsigned();
    assert_eq!(field(event_, "fd"), &Value::Uint(fd.into()));
    let inode = inode(&server);
    let rows = |l: &Lingerers| {
        let table = l.table(12 * SECOND, true);
        let rows = table.map_or(vec![], |t| t.rows);
        rows.iter().filter(|row| row[4] == remote).count()
    };
    l.finish(12 * SECOND);
    assert_eq!((rows(&l), l.before()), (1, told.len() as u64));
    let closed = l.changed(change(8, 9), inode, 3, event(12 * SECOND));
    let closed = closed.expect("it was told of");
    assert_eq!(field(&closed.event, "remote"), &remote);
    assert_eq!((closed.variant, &*closed.event.probe), (Some(3), "state"));
    // One whose close was not seen is not said to be open.
    let older = looked_at(HashSet::from([pid]));
    let mut l = Lingerers::new(SECOND, 10 * SECOND, vec![], older);
    l.overdue(10 * SECOND);
    assert_eq!(rows(&l), 1);
    drop(server);
    l.finish(12 * SECOND);
    assert_eq!(rows(&l), 0);
}

#[test]
fn memory_is_bounded_and_what_lingers_stays() {
    let mut l = Lingerers::new(SECOND, 0, vec![], nothing_older());
    l.owned(SOCKET, owner(), Vec::new(), 1);
    l.changed(change(1, 8), 0, 1, event(1));
    for n in 0..MOST as u64 + 10 {
        l.owned(0x1000 + 64 * n, owner(), Vec::new(), 10 + n);
    }
    assert!(l.sockets.len() <= MOST);
    assert_eq!((l.overdue(SECOND + 1).len(), l.notes().len()), (1, 1));
}

#[test]
fn one_that_hangs_up_while_the_run_begins_is_told_of_once() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let to = listener.local_addr().expect("an address");
    let client = TcpStream::connect(to).expect("connect");
    let (server, _) = listener.accept().expect("accept");
    client.shutdown(Shutdown::Write).expect("shut down");
    let older = looked_at(HashSet::from([std::process::id()]));
    let mut l = Lingerers::new(SECOND, 10 * SECOND, vec![], older);
    let inode = inode(&server);
    l.changed(change(1, 8), inode, 1, event(10 * SECOND + 5));
    let told = l.overdue(12 * SECOND);
    let fd = Value::Uint(server.as_raw_fd().cast_unsigned().into());
    let ours = told.iter().filter(|told| *field(&told.event, "fd") == fd);
    let variants: Vec<_> = ours.map(|told| told.variant).collect();
    assert_eq!(variants, [Some(1)]);
}
