//! The sockets joins, and where their inputs stand in the records.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{SystemTime, UNIX_EPOCH};

use uprof_ebpf::Record;
use uprof_recipes as recipes;
use uprof_symbols::process::{self, Process};

use super::collect::capture_of;
use crate::join::closes::{Change, Closes, Going, Moment, Shown, Source};
use crate::join::inventory::Older;
use crate::join::lingerers::{self, Lingerers, Told};
use crate::join::sockets::{self, Owner, Transition};
use crate::plan::{Plan, Variant};
use crate::report::escape;
use crate::report::model::{Event, ProbeCount, Summary};
use crate::target;

/// A join over sockets.
pub struct Sockets {
    join: Join,
    /// By variant.
    roles: Vec<Vec<Role>>,
    whose: Whose,
    /// Processes were named: what is of no known one is left out.
    named: bool,
}

/// Whose sockets are shown where nobody named processes: those of the recipe's programs.
struct Whose {
    programs: Vec<String>,
    known: RefCell<HashMap<u32, bool>>,
}

impl Whose {
    fn new(plan: &Plan) -> Self {
        let programs = plan.recipe.target.program.clone();
        let running = programs
            .iter()
            .flat_map(|name| process::running_program(name));
        let known = running.map(|process| (process.pid, true)).collect();
        Self {
            programs,
            known: RefCell::new(known),
        }
    }

    /// Those that run now; `None`: all processes.
    fn running(&self) -> Option<HashSet<u32>> {
        let known = || self.known.borrow().keys().copied().collect();
        (!self.programs.is_empty()).then(known)
    }

    /// A process that is gone already is known by the name of its thread.
    fn wanted(&self, r: &Record<'_>, only: Option<&HashSet<u32>>) -> bool {
        if let Some(pids) = only {
            return pids.contains(&r.pid);
        }
        let is = |process: &Process, name: &String| {
            let exe = process.exe_name();
            target::comm_is(&process.comm, name)
                || exe.is_ok_and(|exe| exe.file_name().is_some_and(|file| *file == **name))
        };
        let look = || match Process::open(r.pid) {
            Ok(process) => self.programs.iter().any(|name| is(&process, name)),
            Err(_) => {
                let comm = escape::comm(r.comm);
                self.programs
                    .iter()
                    .any(|name| target::comm_is(&comm, name))
            }
        };
        self.programs.is_empty() || *self.known.borrow_mut().entry(r.pid).or_insert_with(look)
    }
}

enum Join {
    /// Transitions are shown.
    Transitions(sockets::Sockets, VecDeque<Shown>),
    /// Closes are.
    Closes(Box<Closes>),
    /// Sockets that are not closed in time are.
    Lingerers(Box<Lingerers>, VecDeque<Shown>),
}

/// What a variant's records are to the join: indexes of captures.
#[derive(Clone, Copy)]
enum Role {
    State {
        socket: usize,
        from: usize,
        to: usize,
        error: Option<usize>,
        inode: Option<usize>,
        seen: Seen,
    },
    Owner {
        socket: usize,
    },
    Begin {
        /// Of the field, and of the capture.
        socket: (usize, usize),
    },
    Reset {
        socket: usize,
        sent: bool,
        seen: Seen,
    },
    Destroyed {
        socket: usize,
        seen: Seen,
    },
    Close {
        socket: Option<usize>,
    },
    Inside {
        socket: usize,
    },
    Last {
        /// Its place in the list.
        probe: usize,
        socket: Option<usize>,
    },
    Next {
        socket: usize,
    },
    Step {
        socket: usize,
    },
}

/// Captures that the join knows by their names.
#[derive(Clone, Copy)]
struct Seen {
    owned: Option<usize>,
    exiting: Option<usize>,
    exit_code: Option<usize>,
    sent: Option<usize>,
    received: Option<usize>,
}

impl Seen {
    fn of(v: &Variant) -> Self {
        let capture = |name: &str| Some(capture_of(v, name)?.1);
        Self {
            owned: capture("owned"),
            exiting: capture("exiting"),
            exit_code: capture("exit_code"),
            sent: capture("bytes_sent"),
            received: capture("bytes_received"),
        }
    }

    fn moment<'a>(&self, r: &'a Record<'_>, unix_offset: i64) -> Moment<'a> {
        let int = |index: Option<usize>| r.int(index?);
        let going = int(self.exiting).filter(|e| *e != 0);
        Moment {
            time_ns: r.time_ns.wrapping_add_signed(unix_offset),
            pid: r.pid,
            tid: r.tid,
            comm: r.comm,
            owned: self.owned.map(|_| int(self.owned).is_some_and(|o| o != 0)),
            going: going.map(|_| Going(int(self.exit_code).unwrap_or(0))),
            bytes: (int(self.sent), int(self.received)),
        }
    }
}

impl Sockets {
    /// As the recipe has it, when its probes are armed: what is older is looked for, of the processes in ONLY.
    pub fn new(s: &recipes::Sockets, plan: &Plan, only: Option<&HashSet<u32>>) -> Self {
        let whose = Whose::new(plan);
        let older = || Older::begin(only.cloned().or_else(|| whose.running()));
        let join = match &s.closes {
            Some(spec) => {
                let by_comm = whose.programs.is_empty();
                Join::Closes(Box::new(Closes::new(s, spec, by_comm, older())))
            }
            None if s.show == recipes::SocketEvents::Lingerers => {
                let taken = [&s.socket, &s.from, &s.to].map(String::clone);
                let taken = [taken.as_slice(), &["inode".to_owned()]].concat();
                let join = Lingerers::new(s.longer_than, now_ns(), taken, older());
                Join::Lingerers(Box::new(join), VecDeque::new())
            }
            None => {
                let join = sockets::Sockets::new(s.show, s.begins.is_some());
                Join::Transitions(join, VecDeque::new())
            }
        };
        let roles = |v: &Variant| roles(s, v, &plan.probe(v).name);
        Self {
            join,
            roles: plan.variants.iter().map(roles).collect(),
            whose,
            named: only.is_some(),
        }
    }

    /// Takes a record, which DECODE makes an event of; of the processes in ONLY.
    pub fn take(
        &mut self,
        variant: usize,
        r: &Record<'_>,
        unix_offset: i64,
        decode: &dyn Fn() -> Event,
        only: Option<&HashSet<u32>>,
    ) {
        for role in self.roles.get(variant).into_iter().flatten() {
            match &mut self.join {
                Join::Transitions(join, ready) => {
                    ready.extend(transition(join, *role, r, variant, decode(), only));
                }
                Join::Closes(join) => {
                    let whose = &self.whose;
                    let event = || whose.wanted(r, only).then(decode).map(by_its_thread);
                    let source = Source {
                        variant,
                        event: &event,
                    };
                    close(join, *role, r, unix_offset, &source, decode);
                }
                Join::Lingerers(join, ready) => {
                    let told = lingers(join, *role, r, variant, decode());
                    ready.extend(told.and_then(|told| of_owner(told, only)));
                }
            }
        }
    }

    /// Takes a record that a filter keeps from being shown: what it closes is closed.
    pub fn passed_over(&mut self, variant: usize, r: &Record<'_>) {
        let Join::Closes(join) = &mut self.join else {
            return;
        };
        for role in self.roles.get(variant).into_iter().flatten() {
            if let Role::Close { socket: Some(at) } = role {
                join.passed_over(r.int(*at).unwrap_or(0));
            }
        }
    }

    /// The next event that is to be shown.
    pub fn next(&mut self) -> Option<Shown> {
        match &mut self.join {
            Join::Transitions(_, ready) | Join::Lingerers(_, ready) => ready.pop_front(),
            Join::Closes(join) => join.next(),
        }
    }

    /// Some time has passed; of the processes in ONLY.
    pub fn due(&mut self, only: Option<&HashSet<u32>>) {
        match &mut self.join {
            Join::Transitions(..) => {}
            Join::Closes(join) => join.due(now_ns()),
            Join::Lingerers(join, ready) => {
                let told = join.overdue(now_ns()).into_iter();
                ready.extend(told.filter_map(|told| of_owner(told, only)));
            }
        }
    }

    /// The run is over; of the processes in ONLY.
    pub fn finish(&mut self, only: Option<&HashSet<u32>>) {
        match &mut self.join {
            Join::Transitions(..) => {}
            Join::Closes(join) => join.finish(),
            Join::Lingerers(join, ready) => {
                let told = join.finish(now_ns()).into_iter();
                ready.extend(told.filter_map(|told| of_owner(told, only)));
            }
        }
    }

    /// Records were dropped.
    pub fn records_lost(&mut self) {
        if let Join::Closes(join) = &mut self.join {
            join.records_lost();
        }
    }

    /// Adds what was added up.
    pub fn summary(&self, summary: &mut Summary) {
        match &self.join {
            Join::Transitions(..) => {}
            Join::Closes(join) => {
                summary.counts.extend(join.counts());
                summary.tables.extend(join.peers());
            }
            Join::Lingerers(join, _) => {
                summary.tables.extend(join.table(now_ns(), self.named));
                let before = join.before();
                // No probe was hit for these.
                summary.probes.extend((before > 0).then(|| ProbeCount {
                    probe: lingerers::BEFORE.to_owned(),
                    hits: before,
                    emitted: before,
                    ..ProbeCount::default()
                }));
            }
        }
        summary.notes.extend(self.notes());
    }

    /// What the reader should know.
    fn notes(&self) -> Vec<String> {
        match &self.join {
            Join::Transitions(join, _) => join.notes(),
            Join::Closes(join) => join.notes(),
            Join::Lingerers(join, _) => join.notes(),
        }
    }
}

/// Now, in nanoseconds since the UNIX epoch.
fn now_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_nanos() as u64)
}

/// Where anything may run, but this thread has done it.
fn by_its_thread(mut event: Event) -> Event {
    event.nobody = false;
    event
}

fn roles(s: &recipes::Sockets, v: &Variant, name: &String) -> Vec<Role> {
    let capture = |name: &str| Some(capture_of(v, name)?.1);
    let socket = capture(&s.socket);
    let mut roles = Vec::new();
    if *name == s.state
        && let (Some(socket), Some(from), Some(to)) = (socket, capture(&s.from), capture(&s.to))
    {
        roles.push(Role::State {
            socket,
            from,
            to,
            error: capture("error"),
            inode: capture("inode"),
            seen: Seen::of(v),
        });
    }
    if s.begins.as_ref() == Some(name)
        && let Some(socket) = capture_of(v, &s.socket)
    {
        roles.push(Role::Begin { socket });
    }
    let owner = s.owners.contains(name);
    roles.extend(
        socket
            .filter(|_| owner)
            .map(|socket| Role::Owner { socket }),
    );
    if let Some(closes) = &s.closes {
        roles.extend(roles_of_closes(closes, v, name, socket));
    }
    roles
}

fn roles_of_closes(
    closes: &recipes::Closes,
    v: &Variant,
    name: &String,
    socket: Option<usize>,
) -> Vec<Role> {
    let is = |one: &Option<String>| one.as_ref() == Some(name);
    let seen = Seen::of(v);
    let on = |there: bool, role: fn(usize, Seen) -> Role| {
        socket.filter(|_| there).map(|socket| role(socket, seen))
    };
    let next = closes.next.as_ref().map(|(name, _)| name.clone());
    let last = closes.last.iter().position(|last| last == name);
    let roles = [
        last.map(|probe| Role::Last { probe, socket }),
        on(is(&closes.reset_received), |socket, seen| Role::Reset {
            socket,
            sent: false,
            seen,
        }),
        on(is(&closes.reset_sent), |socket, seen| Role::Reset {
            socket,
            sent: true,
            seen,
        }),
        on(is(&next), |socket, _| Role::Next { socket }),
        on(closes.inside.contains(name), |socket, _| Role::Inside {
            socket,
        }),
        on(closes.steps.contains(name), |socket, _| Role::Step {
            socket,
        }),
        closes.by.contains(name).then_some(Role::Close { socket }),
        on(is(&closes.destroyed), |socket, seen| Role::Destroyed {
            socket,
            seen,
        }),
    ];
    roles.into_iter().flatten().collect()
}

fn close(
    join: &mut Closes,
    role: Role,
    r: &Record<'_>,
    unix_offset: i64,
    source: &Source<'_>,
    decode: &dyn Fn() -> Event,
) {
    let named = |index: usize| r.int(index).unwrap_or(0);
    match role {
        Role::State {
            socket,
            from,
            to,
            error,
            seen,
            ..
        } => {
            let change = Change {
                socket: named(socket),
                from: named(from),
                to: named(to),
                error: error.map_or(0, named),
            };
            join.changed(change, &seen.moment(r, unix_offset), source);
        }
        Role::Reset { socket, sent, seen } => {
            join.reset(named(socket), sent, &seen.moment(r, unix_offset));
        }
        Role::Destroyed { socket, seen } => {
            join.destroyed(named(socket), &seen.moment(r, unix_offset), source);
        }
        Role::Owner { socket } => join.owned(named(socket), &decode()),
        Role::Close { socket } => join.close(socket.map(named), source.variant, decode()),
        Role::Inside { socket } => join.inside(named(socket), &decode()),
        Role::Last { probe, socket } => join.last(probe, socket.map(named), decode()),
        Role::Next { socket } => join.followed(named(socket), &decode()),
        Role::Step { socket } => join.stepped(named(socket), &decode()),
        // Of attempts to connect.
        Role::Begin { .. } => {}
    }
}

/// Takes a record of a variant, which EVENT was made of.
fn lingers(
    join: &mut Lingerers,
    role: Role,
    r: &Record<'_>,
    variant: usize,
    event: Event,
) -> Option<Told> {
    match role {
        Role::Owner { socket } => {
            let owner = Owner::of(&event);
            join.owned(r.int(socket)?, owner, event.fields, event.time_ns);
            None
        }
        Role::State {
            socket,
            from,
            to,
            inode,
            ..
        } => {
            let change = Transition {
                socket: r.int(socket)?,
                from: r.int(from)?,
                to: r.int(to)?,
            };
            let inode = inode.and_then(|inode| r.int(inode)).unwrap_or(0);
            join.changed(change, inode, variant, event)
        }
        _ => None,
    }
}

/// The event as its owner's, if that is one of ONLY.
fn of_owner(told: Told, only: Option<&HashSet<u32>>) -> Option<Shown> {
    let Told {
        variant,
        mut event,
        owner,
    } = told;
    let wanted = |o: &Owner| only.is_none_or(|pids| pids.contains(&o.pid));
    if only.is_some() && !owner.as_ref().is_some_and(wanted) {
        return None;
    }
    event.nobody = owner.is_none();
    if let Some(owner) = owner {
        (event.pid, event.tid, event.comm) = (owner.pid, owner.tid, owner.comm);
    }
    // Of no record.
    let variant = variant.unwrap_or(usize::MAX);
    Some(Shown { variant, event })
}

/// Takes a record; gives back the event that is to be shown, as its owner's.
fn transition(
    join: &mut sockets::Sockets,
    role: Role,
    r: &Record<'_>,
    variant: usize,
    mut event: Event,
    only: Option<&HashSet<u32>>,
) -> Option<Shown> {
    match role {
        Role::Owner { socket } => {
            let owner = Owner::of(&event);
            join.owned(r.int(socket)?, owner, event.time_ns);
            None
        }
        Role::Begin { socket } => {
            event.fields.remove(socket.0);
            let owner = Owner::of(&event);
            let socket = r.int(socket.1)?;
            join.begun(socket, owner, event.fields, event.time_ns);
            None
        }
        Role::State {
            socket, from, to, ..
        } => {
            let change = Transition {
                socket: r.int(socket)?,
                from: r.int(from)?,
                to: r.int(to)?,
            };
            let (event, owner) = join.changed(change, event)?;
            let told = Told {
                variant: Some(variant),
                event,
                owner,
            };
            of_owner(told, only)
        }
        _ => None,
    }
}
