//! TCP sockets that are older than the run: whose they are, and which end of their connection, from procfs.
//!
//! What connected or was accepted before the probes were armed told nobody. The kernel's tables (/proc/PID/net/tcp, once for
//! each network namespace) have every socket with its inode, /proc/PID/fd who holds it.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::thread::JoinHandle;
use std::time::Duration;

use procfs::net::TcpState;
use procfs::process::Process;

use super::sockets::Owner;
use crate::report::escape;

/// How many sockets are remembered; about 30 MiB.
const MOST: usize = 200_000;

/// A socket as it was when the run began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The process that holds it, the first of those that share it, and its main thread.
    pub owner: Owner,
    /// Its descriptor there.
    pub fd: u32,
    /// Somebody listens on its port: it was accepted.
    pub server: bool,
    /// Its state, as in include/net/tcp_states.h.
    pub state: u64,
    /// Our end.
    pub local: SocketAddr,
    /// The peer's end.
    pub remote: SocketAddr,
    /// Bytes that came and were not read, at most: a FIN that was not read counts as one.
    pub unread: u64,
}

/// The connections that some processes held at one moment.
#[derive(Debug, Default)]
pub struct Inventory {
    /// By inode.
    sockets: HashMap<u64, Known>,
    /// Ports that somebody listens on.
    listening: HashSet<u16>,
    /// Sockets that were left out for want of room.
    left_out: u64,
}

impl Inventory {
    /// Looks at these processes, or at all. Those that end meanwhile or may not be looked at are passed over.
    pub fn new(pids: Option<&HashSet<u32>>) -> Self {
        let mut this = Self::default();
        let mut tables = Tables::default();
        for pid in processes(pids) {
            this.add_process(pid, &mut tables);
        }
        this
    }

    /// What is known of the socket with this inode.
    pub fn socket(&self, inode: u64) -> Option<&Known> {
        self.sockets.get(&inode)
    }

    /// All of them, with their inodes.
    pub fn sockets(&self) -> impl Iterator<Item = (u64, &Known)> {
        self.sockets.iter().map(|(inode, known)| (*inode, known))
    }

    /// Did somebody listen on this port?
    pub fn listens(&self, port: u16) -> bool {
        self.listening.contains(&port)
    }

    /// What the reader should know.
    pub fn note(&self) -> Option<String> {
        (self.left_out > 0).then(|| {
            format!(
                "{} connections that are older than this run were passed over, since there were more than {MOST}",
                self.left_out
            )
        })
    }

    /// Adds what a process holds.
    fn add_process(&mut self, pid: u32, tables: &mut Tables) -> Option<()> {
        let process = Process::new(pid.cast_signed()).ok()?;
        let mut held = held(pid)?.peekable();
        held.peek()?;
        let table = tables.of_process(&process)?;
        self.listening.extend(&table.listening);
        let mut comm = None;
        for (fd, inode) in held {
            // What several processes share is the first one's.
            let Some((_, known)) = table.open.remove_entry(&inode) else {
                continue;
            };
            if self.sockets.len() >= MOST {
                self.left_out += 1;
                continue;
            }
            let comm = comm.get_or_insert_with(|| name(pid));
            let owner = Owner {
                pid,
                tid: pid,
                comm: comm.clone(),
            };
            self.sockets.insert(inode, Known { owner, fd, ..known });
        }
        Some(())
    }
}

/// How long it is waited for in all while records come in: the buffer of them must not fill up meanwhile.
const PATIENCE: Duration = Duration::from_millis(200);

/// An inventory that is taken on a thread of its own.
#[derive(Debug)]
pub struct Older {
    thread: Option<JoinHandle<Inventory>>,
    inventory: Inventory,
    patience: Duration,
}

impl Older {
    /// Begins to look at these processes, or at all. To be called when the probes are armed: what is accepted later is seen
    /// there.
    pub fn begin(pids: Option<HashSet<u32>>) -> Self {
        Self {
            thread: Some(std::thread::spawn(move || Inventory::new(pids.as_ref()))),
            inventory: Inventory::default(),
            patience: PATIENCE,
        }
    }

    /// The inventory, if it is there.
    pub fn ready(&mut self) -> Option<&Inventory> {
        if let Some(thread) = self.thread.take_if(|thread| thread.is_finished()) {
            // One that failed knows nothing.
            self.inventory = thread.join().unwrap_or_default();
        }
        self.thread.is_none().then_some(&self.inventory)
    }

    /// The inventory, for which it is waited a little; an empty one when that is not enough.
    pub fn get(&mut self) -> &Inventory {
        const STEP: Duration = Duration::from_millis(1);
        while self.ready().is_none() && !self.patience.is_zero() {
            std::thread::sleep(STEP);
            self.patience = self.patience.saturating_sub(STEP);
        }
        &self.inventory
    }

    /// The inventory, however long it takes.
    pub fn wait(&mut self) -> &Inventory {
        if let Some(thread) = self.thread.take() {
            self.inventory = thread.join().unwrap_or_default();
        }
        &self.inventory
    }

    /// What the reader should know.
    pub fn note(&self) -> Option<String> {
        self.inventory.note()
    }
}

/// The processes to look at, the oldest first as far as numbers tell.
fn processes(pids: Option<&HashSet<u32>>) -> Vec<u32> {
    let mut all: Vec<u32> = match pids {
        Some(pids) => pids.iter().copied().collect(),
        None => procfs::process::all_processes()
            .into_iter()
            .flatten()
            .filter_map(|p| Some(p.ok()?.pid.cast_unsigned()))
            .collect(),
    };
    all.sort_unstable();
    all
}

/// The descriptors of a process that are sockets, with their inodes; `None` when it has ended. One system call for each:
/// procfs' own iterator makes four, and took two seconds for 20000 on a busy machine.
fn held(pid: u32) -> Option<impl Iterator<Item = (u32, u64)>> {
    let all = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    Some(all.filter_map(|entry| {
        let entry = entry.ok()?;
        let target = std::fs::read_link(entry.path()).ok()?;
        let inode = target
            .to_str()?
            .strip_prefix("socket:[")?
            .strip_suffix(']')?;
        Some((
            entry.file_name().to_str()?.parse().ok()?,
            inode.parse().ok()?,
        ))
    }))
}

/// A process's name, as events have it.
fn name(pid: u32) -> String {
    let comm = std::fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    escape::comm(comm.trim_ascii_end())
}

/// The kernel's tables of sockets as they are now, each read once.
#[derive(Debug, Default)]
pub struct Tables(HashMap<u64, Sockets>);

impl Tables {
    /// The connections of a process's network namespace by their inodes, without owner and descriptor; `None` when the
    /// process has ended.
    pub fn of(&mut self, pid: u32) -> Option<&HashMap<u64, Known>> {
        let process = Process::new(pid.cast_signed()).ok()?;
        Some(&self.of_process(&process)?.open)
    }

    fn of_process(&mut self, process: &Process) -> Option<&mut Sockets> {
        let namespace = std::fs::metadata(format!("/proc/{}/ns/net", process.pid))
            .ok()?
            .ino();
        let table = self.0.entry(namespace);
        Some(table.or_insert_with(|| Sockets::of(process)))
    }
}

/// The TCP sockets of a network namespace.
#[derive(Debug, Default)]
struct Sockets {
    /// Connections by their inodes, without owner.
    open: HashMap<u64, Known>,
    listening: HashSet<u16>,
}

impl Sockets {
    /// Of the namespace that a process is in.
    fn of(process: &Process) -> Self {
        let entries: Vec<_> = [process.tcp(), process.tcp6()]
            .into_iter()
            .flat_map(Result::unwrap_or_default)
            .collect();
        let listens = entries.iter().filter(|e| e.state == TcpState::Listen);
        let listening: HashSet<u16> = listens.map(|e| e.local_address.port()).collect();
        // What is closing on its own (TIME_WAIT, orphans) has no inode.
        let open = entries
            .into_iter()
            .filter(|e| e.inode != 0 && e.state != TcpState::Listen)
            .map(|e| {
                let known = Known {
                    owner: Owner::default(),
                    fd: 0,
                    server: listening.contains(&e.local_address.port()),
                    state: e.state.to_u8().into(),
                    local: e.local_address,
                    remote: e.remote_address,
                    unread: e.rx_queue.into(),
                };
                (e.inode, known)
            });
        Self {
            open: open.collect(),
            listening,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsRawFd;

    use super::*;

    fn inode(socket: &impl AsRawFd) -> u64 {
        let link = std::fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd()));
        let text = link.expect("it is open").display().to_string();
        let digits = text.trim_matches(|c: char| !c.is_ascii_digit());
        digits.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    fn ours() -> Inventory {
        Inventory::new(Some(&HashSet::from([std::process::id()])))
    }

    #[test]
    fn both_ends_of_connections_by_both_families() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).expect("a port");
            let to = listener.local_addr().expect("an address");
            let mut client = TcpStream::connect(to).expect("connect");
            let (server, _) = listener.accept().expect("accept");
            client.write_all(b"12345").expect("send");
            let found = ours();
            let ends = [(&client, false, 0), (&server, true, 5)];
            for (end, is_server, unread) in ends {
                let known = found.socket(inode(end)).expect("it is known");
                assert_eq!(known.owner.pid, std::process::id());
                let comm = std::fs::read_to_string("/proc/self/comm").expect("a name");
                assert_eq!(known.owner.comm, comm.trim_end());
                assert_eq!(known.fd, end.as_raw_fd().cast_unsigned());
                assert_eq!((known.server, known.state), (is_server, 1), "{known:?}");
                assert_eq!(known.local, end.local_addr().expect("an address"));
                assert_eq!(known.remote, end.peer_addr().expect("an address"));
                assert_eq!(known.unread, unread);
            }
            assert!(found.listens(to.port()) && found.socket(inode(&listener)).is_none());
            client.shutdown(Shutdown::Write).expect("shut down");
            let state = |of: &TcpStream| ours().socket(inode(of)).map(|known| known.state);
            // The FIN may not be acknowledged yet.
            let fin_wait = |state| matches!(state, Some(4 | 5));
            assert!(fin_wait(state(&client)) && state(&server) == Some(8));
            // The end of a connection that waits to be accepted is nobody's yet.
            let waiting = TcpStream::connect(to).expect("connect");
            let ends = ours();
            let local = waiting.local_addr().expect("an address");
            let theirs = ends.sockets().filter(|(_, known)| known.remote == local);
            assert_eq!(theirs.count(), 0);
        }
    }

    #[test]
    fn only_tcp_and_only_of_the_processes_asked_for() {
        let udp = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let file = File::open("/proc/self/exe").expect("a file");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let client = TcpStream::connect(listener.local_addr().expect("an address"));
        let client = client.expect("connect");
        let found = ours();
        assert!(found.socket(inode(&udp)).is_none());
        assert!(file.as_raw_fd() > 2 && found.socket(inode(&client)).is_some());
        assert!(found.note().is_none());
        let nobody = Inventory::new(Some(&HashSet::from([u32::MAX >> 1])));
        assert_eq!(nobody.sockets().count(), 0);
        let mut all = Older::begin(None);
        let ours = all.wait().socket(inode(&client)).expect("all processes");
        assert_eq!(ours.owner.pid, std::process::id());
        assert!(all.get().socket(inode(&client)).is_some() && all.ready().is_some());
    }
}
