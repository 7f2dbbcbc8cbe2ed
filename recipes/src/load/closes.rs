//! `[join.sockets]` with `show = "closes"`

use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::join::{Reading, place, probe};
use crate::expr;
use crate::model::{At, Closes, LastBy, SocketEvents, Sockets, Value};

/// What it has beside the keys that all have.
pub(super) const KEYS: &[&str] = &[
    "closes",
    "reset_received",
    "reset_sent",
    "destroyed",
    "inside",
    "last",
    "last_by",
    "next",
    "within",
    "steps",
    "timeline",
    "list",
    "only",
];

impl Reading<'_> {
    /// `None`: an error was reported; the inner one: other transitions are shown.
    pub(super) fn closes(
        &self,
        t: &DeTable<'_>,
        span: Range<usize>,
        join: &Sockets,
    ) -> Option<Option<Closes>> {
        let r = self.r;
        if join.show != SocketEvents::Closes {
            if let Some(key) = KEYS.iter().find(|key| t.get(**key).is_some()) {
                let what = format!("`{key}` goes with `show = \"closes\"`");
                r.report(r.error(place(t, key), what));
            }
            return Some(None);
        }
        if t.get("closes").is_none() {
            let e = r.error(span, "[join.sockets] lacks `closes`");
            r.report(e.help(
                "closes = [\"close\"]: the probes by which the application gives a socket up",
            ));
            return None;
        }
        let next = self.name_of(t, "next");
        let closes = Closes {
            by: self.names_of(t, "closes"),
            reset_received: self.usual(t, "reset_received", "reset received"),
            reset_sent: self.usual(t, "reset_sent", "reset sent"),
            destroyed: self.usual(t, "destroyed", "ended"),
            inside: self.names_of(t, "inside"),
            last: self.names_of(t, "last"),
            last_by: self.last_by(t)?,
            next: next.zip(self.within(t)),
            steps: self.names_of(t, "steps"),
            timeline: self.switch(t, "timeline", false),
            list: self.switch(t, "list", true),
            only: self.only(t)?,
        };
        let named = |key: &'static str, names: &[String]| -> Vec<(&'static str, String)> {
            names.iter().map(|name| (key, name.clone())).collect()
        };
        let one = |key: &'static str, name: &Option<String>| named(key, name.as_slice());
        let last = match closes.last_by {
            LastBy::Socket => named("last", &closes.last),
            _ => vec![],
        };
        let on_sockets = [
            one("reset_received", &closes.reset_received),
            one("reset_sent", &closes.reset_sent),
            one("destroyed", &closes.destroyed),
            named("inside", &closes.inside),
            last,
            closes
                .next
                .iter()
                .map(|(n, _)| ("next", n.clone()))
                .collect(),
            named("steps", &closes.steps),
            match closes.inside.is_empty() {
                true => named("closes", &closes.by),
                false => vec![],
            },
        ];
        for (key, name) in on_sockets.iter().flatten() {
            self.on_socket(t, key, name, &join.socket);
        }
        // They exist at least.
        for name in closes.by.iter().filter(|_| !closes.inside.is_empty()) {
            probe(r, t, self.probes, "closes", name)?;
        }
        for name in &closes.last {
            probe(r, t, self.probes, "last", name)?;
        }
        Some(Some(closes))
    }

    /// The probe that a key names; without the key, that of the usual name if there is one.
    fn usual(&self, t: &DeTable<'_>, key: &str, usual: &str) -> Option<String> {
        match t.contains_key(key) {
            true => self.name_of(t, key),
            false => self.is_on(usual).then(|| usual.to_owned()),
        }
    }

    fn last_by(&self, t: &DeTable<'_>) -> Option<LastBy> {
        let Some(v) = t.get("last_by") else {
            return Some(LastBy::Socket);
        };
        let by = self.r.string(v, "last_by", "a text")?;
        let closes = self.names_of(t, "closes");
        let mut closing = self.probes.iter().filter(|p| closes.contains(&p.name));
        let captures = |at: &At| at.capture.iter().any(|(name, _)| name == by);
        match by {
            "socket" => Some(LastBy::Socket),
            "thread" => Some(LastBy::Thread),
            _ if closing.all(|p| p.at.iter().all(captures)) => Some(LastBy::Capture(by.to_owned())),
            other => {
                let e = self.r.error(v.span(), format!("`last_by` is no `{other}`"));
                self.r
                    .report(e.help("it is socket, thread, or a capture of `closes`"));
                None
            }
        }
    }

    /// How long `next` is waited for, in nanoseconds.
    fn within(&self, t: &DeTable<'_>) -> Option<u64> {
        let Some(v) = t.get("within") else {
            if t.get("next").is_some() {
                let e = self.r.error(place(t, "next"), "`next` lacks `within`");
                self.r
                    .report(e.help("within = \"1s\": how long it is waited for after a close"));
            }
            return None;
        };
        let text = self.r.string(v, "within", "a duration in quotes")?;
        match expr::parse_duration(text) {
            Ok(ns) => Some(ns),
            Err((what, help)) => {
                let mut e = self.r.error(v.span(), what);
                e.help = help;
                self.r.report(e);
                None
            }
        }
    }

    /// `only = { verdict = "peer, peer-reset", role = "$role" }`: of which fields which words are wanted; the name of a
    /// parameter stands for its value.
    fn only(&self, t: &DeTable<'_>) -> Option<Vec<(String, Vec<String>)>> {
        let r = self.r;
        let Some(v) = t.get("only") else {
            return Some(vec![]);
        };
        let only = r.table(v, "only")?;
        let known = Closes::WORDS.map(|(field, _)| field);
        r.known(only, "`only`", &known);
        let mut all = Vec::new();
        for (field, possible) in Closes::WORDS {
            let Some(v) = only.get(field) else {
                continue;
            };
            let text = r.string(v, field, "a text")?;
            let of_param = |name: &str| {
                let param = self.params.iter().find(|p| p.name == name)?;
                match param.for_check() {
                    Value::String(text) => Some(text),
                    _ => None,
                }
            };
            let Some(text) = text
                .strip_prefix('$')
                .map_or(Some(text.to_owned()), of_param)
            else {
                let what = format!("`{text}` is no parameter of type string");
                r.report(r.error(v.span(), what));
                return None;
            };
            let words = text.split(',').map(str::trim).filter(|w| !w.is_empty());
            let words: Vec<String> = words.map(str::to_owned).collect();
            if let Some(word) = words.iter().find(|w| !possible.contains(&w.as_str())) {
                let e = r.error(v.span(), format!("no {field} is `{word}`"));
                r.report(e.help(format!("known: {}", possible.join(", "))));
                return None;
            }
            all.push((field.to_owned(), words));
        }
        all.retain(|(_, words)| !words.is_empty());
        Some(all)
    }

    /// True or false, or an expression of parameters.
    fn switch(&self, t: &DeTable<'_>, key: &str, otherwise: bool) -> bool {
        let scope = self.of_params();
        match t.get(key).map(|v| (v, v.get_ref())) {
            Some((_, DeValue::Boolean(b))) => *b,
            Some((v, _)) => self
                .r
                .condition(v, key, &scope)
                .is_some_and(|e| e.as_int() != Some(0)),
            None => otherwise,
        }
    }
}
