//! Closes as records tell of them, in the order of real traces.

use std::collections::HashSet;

use super::*;

const SOCKET: u64 = 0xffff_8880_0000_1000;

fn event(time_ns: u64, probe: &str, fields: &[(&str, Value)]) -> Event {
    Event {
        probe: probe.into(),
        time_ns,
        pid: 7,
        tid: 8,
        comm: "nginx".into(),
        nobody: false,
        latency_ns: None,
        fields: fields
            .iter()
            .map(|(name, value)| (Arc::from(*name), value.clone()))
            .collect(),
        steps: Vec::new(),
    }
}

fn join(mut spec: recipes::Closes) -> Closes {
    spec.list = true;
    let sockets = recipes::Sockets {
        state: "state".into(),
        socket: "socket".into(),
        from: "from".into(),
        to: "to".into(),
        owners: vec![],
        begins: None,
        show: recipes::SocketEvents::Closes,
        closes: None,
        longer_than: 0,
    };
    Closes::new(&sockets, &spec, false, Older::begin(Some(HashSet::new())))
}

fn moment(time_ns: u64, owned: bool) -> Moment<'static> {
    Moment {
        time_ns,
        pid: 7,
        tid: 8,
        comm: b"nginx\0\0\0\0\0\0\0\0\0\0\0",
        owned: Some(owned),
        going: None,
        bytes: (Some(time_ns), Some(3)),
    }
}

/// The thread's own record, of the watched process or (`None`) another.
fn change(j: &mut Closes, time_ns: u64, (from, to): (u64, u64), owned: bool) {
    let change = Change {
        socket: SOCKET,
        from,
        to,
        error: 0,
    };
    let event = || Some(event(time_ns, "state", &[("socket", Value::Uint(SOCKET))]));
    let source = Source {
        variant: 1,
        event: &event,
    };
    j.changed(change, &moment(time_ns, owned), &source);
}

fn destroy(j: &mut Closes, moment: &Moment<'_>) {
    let event = || Some(event(moment.time_ns, "destroyed", &[]));
    let source = Source {
        variant: 2,
        event: &event,
    };
    j.destroyed(SOCKET, moment, &source);
}

fn close(j: &mut Closes, time_ns: u64) {
    let fields = [("socket", Value::Uint(SOCKET)), ("fd", Value::Int(5))];
    j.close(Some(SOCKET), 0, event(time_ns, "close", &fields));
}

fn field<'e>(shown: &'e Shown, name: &str) -> &'e Value {
    let found = shown.event.fields.iter().find(|(n, _)| &**n == name);
    &found.expect("a field of the join").1
}

fn name(text: &str) -> Value {
    Value::Name(text.to_owned())
}

#[test]
fn a_peer_that_closes_first_is_told_at_once_with_the_reaction() {
    let mut j = join(recipes::Closes::default());
    change(&mut j, 100, (3, 1), false);
    change(&mut j, 500, (1, 8), false);
    close(&mut j, 800);
    let shown = j.next().expect("the verdict is final");
    assert_eq!(field(&shown, "verdict"), &name("peer"));
    assert_eq!(field(&shown, "reaction_ns"), &Value::Duration(300));
    assert_eq!(field(&shown, "age_ns"), &Value::Duration(700));
    assert_eq!(field(&shown, "role"), &name("server"));
    assert_eq!(field(&shown, "state_at_close"), &name("CLOSE_WAIT"));
    assert_eq!(field(&shown, "fd"), &Value::Int(5));
    assert!(!shown.event.fields.iter().any(|(n, _)| &**n == "socket"));
    destroy(&mut j, &moment(900, false));
    assert!(j.next().is_none() && j.notes().is_empty());
}

#[test]
fn a_close_waits_until_the_fins_cannot_cross_any_more() {
    let mut j = join(recipes::Closes::default());
    change(&mut j, 100, (3, 1), false);
    close(&mut j, 800);
    change(&mut j, 810, (1, 4), true);
    assert!(j.next().is_none());
    change(&mut j, 900, (4, 5), false);
    let shown = j.next().expect("acknowledged");
    assert_eq!(field(&shown, "verdict"), &name("app"));
    assert_eq!(field(&shown, "bytes_sent"), &Value::Uint(900));
    assert_eq!(shown.variant, 0);
    // The next connection at the same address: both at once, in the end.
    change(&mut j, 1000, (3, 1), false);
    close(&mut j, 1100);
    change(&mut j, 1110, (1, 4), true);
    change(&mut j, 1120, (4, 11), false);
    assert_eq!(field(&j.next().expect("crossed"), "verdict"), &name("both"));
}

#[test]
fn a_reset_that_comes_before_the_close_is_the_peer_s_after_it_the_application_s() {
    let mut j = join(recipes::Closes::default());
    change(&mut j, 100, (3, 1), false);
    j.reset(SOCKET, false, &moment(200, false));
    change(&mut j, 201, (1, 7), false);
    close(&mut j, 300);
    let shown = j.next().expect("reset");
    assert_eq!(field(&shown, "verdict"), &name("peer-reset"));
    assert_eq!(field(&shown, "reaction_ns"), &Value::Duration(99));
    destroy(&mut j, &moment(310, true));
    change(&mut j, 400, (3, 1), false);
    close(&mut j, 500);
    change(&mut j, 510, (1, 7), true);
    assert!(j.next().is_none());
    j.reset(SOCKET, true, &moment(511, true));
    let shown = j.next().expect("reset");
    assert_eq!(field(&shown, "verdict"), &name("app-reset"));
}

#[test]
fn a_process_that_is_killed_closes_by_its_end() {
    let mut j = join(recipes::Closes::default());
    change(&mut j, 100, (3, 1), false);
    let killed = Moment {
        going: Some(Going(9)),
        ..moment(700, true)
    };
    let transition = Change {
        socket: SOCKET,
        from: 1,
        to: 4,
        error: 0,
    };
    let of_state = || Some(event(700, "state", &[]));
    let source = Source {
        variant: 1,
        event: &of_state,
    };
    j.changed(transition, &killed, &source);
    change(&mut j, 720, (4, 5), false);
    assert!(j.next().is_none());
    destroy(&mut j, &moment(800, false));
    let shown = j.next().expect("its end");
    assert_eq!(field(&shown, "verdict"), &name("app"));
    assert_eq!(field(&shown, "cause"), &name("killed by SIGKILL"));
    assert_eq!((shown.variant, shown.event.time_ns), (1, 700));
}

#[test]
fn what_other_processes_end_is_not_shown() {
    let mut j = join(recipes::Closes::default());
    let none = || None;
    let source = Source {
        variant: 1,
        event: &none,
    };
    for (from, to) in [(2, 1), (1, 4), (4, 5)] {
        let change = Change {
            socket: SOCKET,
            from,
            to,
            error: 0,
        };
        j.changed(change, &moment(5, true), &source);
    }
    j.destroyed(SOCKET, &moment(9, false), &source);
    j.finish();
    assert!(j.next().is_none());
}

#[test]
fn a_descriptor_that_is_not_the_last_is_no_close() {
    let mut j = join(recipes::Closes::default());
    change(&mut j, 100, (3, 1), false);
    close(&mut j, 200);
    j.due(200 + PATIENCE - 1);
    assert!(j.next().is_none());
    j.due(200 + PATIENCE);
    let shown = j.next().expect("waited for long enough");
    assert_eq!(field(&shown, "verdict"), &name("unknown"));
    assert_eq!(
        field(&shown, "cause"),
        &name("still open: another descriptor")
    );
}

#[test]
fn a_call_is_joined_by_what_it_did_and_with_what_was_done_last() {
    let mut j = join(recipes::Closes {
        inside: vec!["shut".into()],
        last: vec!["statement".into()],
        last_by: recipes::LastBy::Thread,
        ..recipes::Closes::default()
    });
    change(&mut j, 100, (3, 1), false);
    j.last(
        0,
        None,
        event(150, "statement", &[("sql", name("SELECT 1"))]),
    );
    change(&mut j, 200, (1, 8), false);
    j.inside(SOCKET, &event(320, "shut", &[]));
    let call = Event {
        latency_ns: Some(100),
        ..event(400, "close", &[])
    };
    j.close(None, 0, call);
    let shown = j.next().expect("the peer");
    assert_eq!(field(&shown, "sql"), &name("SELECT 1"));
    assert_eq!(field(&shown, "since_last_ns"), &Value::Duration(150));
    // What was named before the call is another's.
    let call = Event {
        latency_ns: Some(10),
        ..event(500, "close", &[])
    };
    j.close(None, 0, call);
    let shown = j.next().expect("with no socket");
    assert_eq!(field(&shown, "verdict"), &name("unknown"));
    assert_eq!(j.notes().len(), 1, "{:?}", j.notes());
}

/// As mysql-close: a statement by its connection, an error by its thread, and a close that is seen at its entry.
fn by_connection() -> Closes {
    join(recipes::Closes {
        inside: vec!["socket".into()],
        last: ["statement", "failed", "quit"].map(String::from).into(),
        last_by: recipes::LastBy::Capture("connection".into()),
        ..recipes::Closes::default()
    })
}

const CONNECTION: (&str, Value) = ("connection", Value::Uint(0x7000));

fn close_at_entry(j: &mut Closes, time_ns: u64, tid: u32) {
    let close = event(time_ns, "close", &[CONNECTION]);
    j.close(None, 0, Event { tid, ..close });
}

#[test]
fn what_was_done_last_is_told_by_a_value_in_common_else_by_the_thread() {
    let mut j = by_connection();
    change(&mut j, 100, (3, 1), false);
    let statement = event(150, "statement", &[CONNECTION, ("sql", name("SELECT 1"))]);
    // The pool's threads take turns.
    j.last(
        0,
        None,
        Event {
            tid: 9,
            ..statement
        },
    );
    j.last(1, None, event(160, "failed", &[("cause", name("timeout"))]));
    close_at_entry(&mut j, 200, 8);
    assert!(j.next().is_none(), "its socket is not known yet");
    j.inside(SOCKET, &event(210, "socket", &[("fd", Value::Int(44))]));
    change(&mut j, 220, (1, 4), true);
    change(&mut j, 230, (4, 5), false);
    let shown = j.next().expect("the application");
    assert_eq!(field(&shown, "verdict"), &name("app"));
    assert_eq!(field(&shown, "cause"), &name("timeout"));
    assert_eq!(field(&shown, "fd"), &Value::Int(44));
    assert_eq!(field(&shown, "sql"), &name("SELECT 1"));
    assert_eq!(field(&shown, "since_last_ns"), &Value::Duration(50));
    assert!(!shown.event.fields.iter().any(|(n, _)| **n == *"connection"));
    // All of it was that close's: the next connection has the same address, thread and socket.
    change(&mut j, 300, (3, 1), false);
    change(&mut j, 310, (1, 8), false);
    close_at_entry(&mut j, 320, 8);
    j.inside(SOCKET, &event(330, "socket", &[]));
    let shown = j.next().expect("the peer");
    assert_eq!(field(&shown, "cause"), &Value::Missing(""));
    assert!(!shown.event.fields.iter().any(|(n, _)| **n == *"sql"));
}

#[test]
fn a_cause_counts_where_the_peer_was_not_first_unless_it_is_the_peer_s() {
    for (by_peer, cause) in [(0, Value::Missing("")), (1, name("quit"))] {
        let mut j = by_connection();
        change(&mut j, 100, (3, 1), false);
        change(&mut j, 110, (1, 8), false);
        let said = [
            CONNECTION,
            ("cause", name("quit")),
            ("by_peer", Value::Uint(by_peer)),
        ];
        j.last(2, None, event(120, "quit", &said));
        close_at_entry(&mut j, 130, 8);
        j.inside(SOCKET, &event(140, "socket", &[]));
        let shown = j.next().expect("the peer");
        assert_eq!(field(&shown, "verdict"), &name("peer"));
        assert_eq!(field(&shown, "cause"), &cause);
        assert!(!shown.event.fields.iter().any(|(n, _)| **n == *"by_peer"));
    }
}

#[test]
fn a_close_whose_socket_is_never_named_is_shown_with_its_cause() {
    let mut j = by_connection();
    j.last(
        2,
        None,
        event(90, "quit", &[CONNECTION, ("cause", name("quit"))]),
    );
    close_at_entry(&mut j, 100, 8);
    // The next one on the thread ends the wait, and so does time.
    j.last(
        0,
        None,
        event(150, "statement", &[CONNECTION, ("sql", name("SELECT 2"))]),
    );
    close_at_entry(&mut j, 200, 8);
    let shown = j.next().expect("the first");
    assert_eq!(field(&shown, "verdict"), &name("unknown"));
    assert_eq!(field(&shown, "cause"), &name("quit"));
    assert!(!shown.event.fields.iter().any(|(n, _)| **n == *"sql"));
    j.due(200 + PATIENCE);
    let shown = j.next().expect("the second");
    assert_eq!(field(&shown, "sql"), &name("SELECT 2"));
}

#[test]
fn a_timeline_is_shown_whole() {
    let mut j = join(recipes::Closes {
        timeline: true,
        ..recipes::Closes::default()
    });
    change(&mut j, 100, (3, 1), false);
    change(&mut j, 500, (1, 8), false);
    close(&mut j, 800);
    change(&mut j, 810, (8, 9), true);
    assert!(j.next().is_none());
    destroy(&mut j, &moment(820, false));
    let steps = j.next().expect("the end").event.steps;
    let told: Vec<(&str, bool)> = steps.iter().map(|s| (&*s.what, s.softirq)).collect();
    assert_eq!(
        told,
        [
            ("SYN_RECV -> ESTABLISHED", true),
            ("ESTABLISHED -> CLOSE_WAIT", true),
            ("close", false),
            ("CLOSE_WAIT -> LAST_ACK", false),
            ("destroyed", true)
        ]
    );
}

#[test]
fn a_socket_of_which_only_the_end_was_seen_is_no_connection_s() {
    let mut j = join(recipes::Closes::default());
    destroy(&mut j, &moment(900, true));
    assert!(j.next().is_none());
}

#[test]
fn memory_is_bounded() {
    let mut j = join(recipes::Closes::default());
    for n in 0..MOST as u64 + 10 {
        let change = Change {
            socket: 64 * n,
            from: 3,
            to: 1,
            error: 0,
        };
        let none = || None;
        let source = Source {
            variant: 1,
            event: &none,
        };
        j.changed(change, &moment(n, false), &source);
    }
    assert!(j.sockets.len() <= MOST);
    assert_eq!(j.notes().len(), 1);
}
