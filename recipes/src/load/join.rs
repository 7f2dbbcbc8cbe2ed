//! `[join.statements]`, `[join.sockets]`

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::closes;
use super::reader::Reader;
use crate::expr::Scope;
use crate::model::{
    Join, Param, Probe, ProbeKind, Provider, Returns, SocketEvents, Sockets, Statements,
};
use crate::suggest;

const KEYS: &[&str] = &[
    "call",
    "command",
    "text",
    "id",
    "connection",
    "prepared",
    "prepared_id",
    "prepare",
    "execute",
    "uses",
    "close",
    "close_all",
    "last_id",
];

pub(super) fn read(
    r: &Reader,
    top: &DeTable<'_>,
    probes: &[Probe],
    params: &[Param],
) -> Option<Join> {
    let value = top.get("join")?;
    let join = r.table(value, "join")?;
    r.known(join, "[join]", &["statements", "sockets"]);
    if join.len() > 1 {
        r.report(r.error(value.span(), "a recipe has one join: statements or sockets"));
    }
    match (join.get("statements"), join.get("sockets")) {
        (Some(value), _) => statements(r, value, probes),
        (_, Some(value)) => {
            let reading = Reading {
                r,
                probes,
                named: names(top),
                params,
            };
            reading.sockets(value)
        }
        _ => None,
    }
}

const SOCKET_KEYS: &[&str] = &[
    "state",
    "socket",
    "from",
    "to",
    "owners",
    "begins",
    "show",
    "longer_than",
];

/// What a join's probes are looked up in.
pub(super) struct Reading<'a> {
    pub r: &'a Reader,
    /// Those that are switched on.
    pub probes: &'a [Probe],
    /// The names of all.
    pub named: Vec<String>,
    pub params: &'a [Param],
}

/// The names that the file gives to probes, also to those that are switched off.
fn names(top: &DeTable<'_>) -> Vec<String> {
    let tables = ["probe", "call"]
        .into_iter()
        .filter_map(|k| top.get(k)?.get_ref().as_array());
    let names = tables
        .flat_map(|list| list.iter())
        .filter_map(|probe| probe.get_ref().get("name")?.get_ref().as_str());
    names.map(str::to_owned).collect()
}

impl Reading<'_> {
    fn sockets(&self, value: &Spanned<DeValue<'_>>) -> Option<Join> {
        let r = self.r;
        let t = r.table(value, "sockets")?;
        let known: Vec<&str> = [SOCKET_KEYS, closes::KEYS].concat();
        r.known(t, "[join.sockets]", &known);
        // What is included is called as the keys are.
        let usual = ["state", "socket", "from", "to"];
        let included = self.is_on("state") && t.get("state").is_none();
        let text = |key: &'static str| match t.get(key) {
            Some(v) => r.string(v, key, "a text"),
            None if included && usual.contains(&key) => Some(key),
            None => {
                r.report(r.error(value.span(), format!("[join.sockets] lacks `{key}`")));
                None
            }
        };
        let words = SocketEvents::ALL.map(|(word, ..)| word);
        let show = text("show")?;
        let Some((_, show, _)) = SocketEvents::ALL.iter().find(|(word, ..)| *word == show) else {
            let mut e = r.error(place(t, "show"), format!("`show` is no `{show}`"));
            e.help = Some(format!("it is one of {}", words.join(", ")));
            r.report(e);
            return None;
        };
        let mut join = Sockets {
            state: text("state")?.to_owned(),
            socket: text("socket")?.to_owned(),
            from: text("from")?.to_owned(),
            to: text("to")?.to_owned(),
            owners: self.names_of(t, "owners"),
            begins: self.name_of(t, "begins"),
            show: *show,
            closes: None,
            longer_than: self.longer_than(t, *show, value)?,
        };
        if join.begins.is_some() && join.show != SocketEvents::Connects {
            let what =
                "`begins` goes with `show = \"connects\"`: other transitions need no beginning";
            r.report(r.error(place(t, "begins"), what));
        }
        // A recipe that counts instead has switched it off.
        if !self.is_on(&join.state) && self.named.contains(&join.state) {
            return None;
        }
        let state = probe(r, t, self.probes, "state", &join.state)?;
        for (key, name) in [
            ("socket", &join.socket),
            ("from", &join.from),
            ("to", &join.to),
        ] {
            captured(r, t, key, name, state);
        }
        for owner in &join.owners {
            self.on_socket(t, "owners", owner, &join.socket);
        }
        if let Some(begins) = &join.begins {
            self.on_socket(t, "begins", begins, &join.socket);
        }
        join.closes = self.closes(t, value.span(), &join)?;
        Some(Join::Sockets(join))
    }

    /// How long lingering sockets may, in nanoseconds.
    fn longer_than(
        &self,
        t: &DeTable<'_>,
        show: SocketEvents,
        value: &Spanned<DeValue<'_>>,
    ) -> Option<u64> {
        let r = self.r;
        let lingerers = show == SocketEvents::Lingerers;
        match t.get("longer_than") {
            None if lingerers => {
                let e = r.error(value.span(), "[join.sockets] lacks `longer_than`");
                r.report(e.help(
                    "longer_than = \"5s\": how long a socket may stay open after its peer hung up",
                ));
                None
            }
            None => Some(0),
            Some(v) if !lingerers => {
                let what = "`longer_than` goes with `show = \"lingerers\"`";
                r.report(r.error(v.span(), what));
                None
            }
            Some(v) => {
                let e = r.number(v, "longer_than", &self.of_params(), "a time")?;
                let ns = e.as_int().filter(|ns| *ns <= i64::MAX as u64);
                if ns.is_none() {
                    r.report(r.error(
                        v.span(),
                        "`longer_than` is a time, made of parameters and constants",
                    ));
                }
                ns
            }
        }
    }

    /// What expressions of parameters alone see.
    pub(super) fn of_params(&self) -> Scope {
        Scope {
            constant: true,
            provider: Provider::Program,
            params: self
                .params
                .iter()
                .map(|p| (p.name.clone(), p.for_check()))
                .collect(),
            ..Scope::default()
        }
    }

    /// Whether there is a probe of that name that is switched on.
    pub(super) fn is_on(&self, name: &str) -> bool {
        self.probes.iter().any(|p| p.name == name)
    }

    /// The probes that a list names; those that are switched off are left out.
    pub(super) fn names_of(&self, t: &DeTable<'_>, key: &str) -> Vec<String> {
        let names = t.get(key).map(|v| self.r.strings(v, key));
        let names = names.unwrap_or_default().into_iter().map(|n| n.value);
        names
            .filter(|n| self.is_on(n) || !self.named.contains(n))
            .collect()
    }

    /// As [`Self::names_of`], for one.
    pub(super) fn name_of(&self, t: &DeTable<'_>, key: &str) -> Option<String> {
        let name = self.r.string(t.get(key)?, key, "a text")?;
        let known = self.is_on(name) || !self.named.iter().any(|n| n == name);
        known.then(|| name.to_owned())
    }

    /// Reports it where there is no such probe, or where it does not capture the socket.
    pub(super) fn on_socket(&self, t: &DeTable<'_>, key: &str, name: &str, socket: &str) {
        if let Some(found) = probe(self.r, t, self.probes, key, name) {
            captured(self.r, t, key, socket, found);
        }
    }
}

/// Reports it when a probe has no capture of that name.
fn captured(r: &Reader, t: &DeTable<'_>, key: &str, name: &str, of: &Probe) {
    let captures = of.at.iter().flat_map(|a| &a.capture);
    let captures: Vec<&str> = captures.map(|(n, _)| n.as_str()).collect();
    if !captures.contains(&name) {
        let mut e = r.error(place(t, key), format!("`{}` captures no `{name}`", of.name));
        e.help = suggest::help(name, captures.iter().copied());
        r.report(e);
    }
}

fn statements(r: &Reader, value: &Spanned<DeValue<'_>>, probes: &[Probe]) -> Option<Join> {
    let t = r.table(value, "statements")?;
    r.known(t, "[join.statements]", KEYS);
    let text = |key: &str| {
        let found = t
            .get(key)
            .and_then(|v| r.string(v, key, "a text"))
            .map(str::to_owned);
        if t.get(key).is_none() {
            r.report(r.error(value.span(), format!("[join.statements] lacks `{key}`")));
        }
        found
    };
    let numbers = |key: &str| t.get(key).map(|v| r.integers(v, key)).unwrap_or_default();
    let statements = Statements {
        call: text("call")?,
        command: text("command")?,
        text: text("text")?,
        id: text("id")?,
        connection: text("connection")?,
        prepared: text("prepared")?,
        prepared_id: text("prepared_id")?,
        prepare: numbers("prepare"),
        execute: numbers("execute"),
        uses: numbers("uses"),
        close: numbers("close"),
        close_all: numbers("close_all"),
        last_id: t
            .get("last_id")
            .and_then(|v| r.integer(v, "last_id", 0, i64::MAX))
            .map(|v| v as u64),
    };
    let call = probe(r, t, probes, "call", &statements.call)?;
    if call.kind != ProbeKind::Call {
        r.report(r.error(place(t, "call"), format!("`{}` is no [[call]]", call.name)));
    }
    if call.returns == Returns::None {
        let what = format!(
            "`{}` has `return = \"none\"`, and the join takes calls when they return",
            call.name
        );
        r.report(r.error(place(t, "call"), what));
    }
    let prepared = probe(r, t, probes, "prepared", &statements.prepared)?;
    for (key, name, of) in [
        ("command", &statements.command, call),
        ("text", &statements.text, call),
        ("id", &statements.id, call),
        ("connection", &statements.connection, call),
        ("prepared_id", &statements.prepared_id, prepared),
    ] {
        captured(r, t, key, name, of);
    }
    Some(Join::Statements(statements))
}

pub(super) fn place(t: &DeTable<'_>, key: &str) -> std::ops::Range<usize> {
    t.get(key).map_or(0..0, |v| v.span())
}

pub(super) fn probe<'p>(
    r: &Reader,
    t: &DeTable<'_>,
    probes: &'p [Probe],
    key: &str,
    name: &str,
) -> Option<&'p Probe> {
    let found = probes.iter().find(|p| p.name == name);
    if found.is_none() {
        let mut e = r.error(place(t, key), format!("there is no probe `{name}`"));
        e.help = suggest::help(name, probes.iter().map(|p| p.name.as_str()));
        r.report(e);
    }
    found
}
