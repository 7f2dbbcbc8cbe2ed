//! `[join.sockets]` with `show = "closes"`

use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::join::{Reading, place, probe};
use crate::expr::{self, Scope};
use crate::model::{Closes, Provider, SocketEvents, Sockets};

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
            last: self.name_of(t, "last"),
            last_by_thread: self.by_thread(t)?,
            next: next.zip(self.within(t)),
            steps: self.names_of(t, "steps"),
            timeline: self.switch(t, "timeline", false),
            list: self.switch(t, "list", true),
        };
        let named = |key: &'static str, names: &[String]| -> Vec<(&'static str, String)> {
            names.iter().map(|name| (key, name.clone())).collect()
        };
        let one = |key: &'static str, name: &Option<String>| named(key, name.as_slice());
        let last = match closes.last_by_thread {
            true => vec![],
            false => one("last", &closes.last),
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
        if let Some(last) = closes.last.as_ref().filter(|_| closes.last_by_thread) {
            probe(r, t, self.probes, "last", last)?;
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

    fn by_thread(&self, t: &DeTable<'_>) -> Option<bool> {
        let Some(v) = t.get("last_by") else {
            return Some(false);
        };
        match self.r.string(v, "last_by", "a text")? {
            "socket" => Some(false),
            "thread" => Some(true),
            other => {
                let e = self.r.error(v.span(), format!("`last_by` is no `{other}`"));
                self.r.report(e.help("it is one of socket, thread"));
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

    /// True or false, or an expression of parameters.
    fn switch(&self, t: &DeTable<'_>, key: &str, otherwise: bool) -> bool {
        let scope = Scope {
            constant: true,
            provider: Provider::Program,
            params: self
                .params
                .iter()
                .map(|p| (p.name.clone(), p.for_check()))
                .collect(),
            ..Scope::default()
        };
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
