//! `[join.statements]`

use toml::de::DeTable;

use super::reader::Reader;
use crate::model::{Join, Probe, ProbeKind, Returns, Statements};
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

pub(super) fn read(r: &Reader, top: &DeTable<'_>, probes: &[Probe]) -> Option<Join> {
    let join = r.table(top.get("join")?, "join")?;
    r.known(join, "[join]", &["statements"]);
    let value = join.get("statements")?;
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
        let captures: Vec<&str> = of
            .at
            .iter()
            .flat_map(|a| &a.capture)
            .map(|(n, _)| n.as_str())
            .collect();
        if !captures.contains(&name.as_str()) {
            let mut e = r.error(place(t, key), format!("`{}` captures no `{name}`", of.name));
            e.help = suggest::help(name, captures.iter().copied());
            r.report(e);
        }
    }
    Some(Join::Statements(statements))
}

fn place(t: &DeTable<'_>, key: &str) -> std::ops::Range<usize> {
    t.get(key).map_or(0..0, |v| v.span())
}

fn probe<'p>(
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
