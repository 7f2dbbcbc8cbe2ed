//! `[[probe]]` and `[[call]]`.

use toml::de::{DeTable, DeValue};

use super::kernel::KERNEL_KEYS;
use super::reader::{Key, Reader, Val};
use super::{is_name, target_of};
use crate::expr::{Expr, Kind, Scope, is_reserved};
use crate::model::{
    Action, At, Context, DEFAULT_TEXT_LIMIT, MAX_TEXT_LIMIT, Param, Probe, ProbeKind, Provider,
    Returns, Scale,
};
use crate::suggest;

const KEYS: &[&str] = &[
    "name",
    "about",
    "when",
    "at",
    "function",
    "usdt",
    "line",
    "only_in",
    "capture",
    "where",
    "keep",
    "count",
    "histogram",
    "by",
    "unit",
    "optional",
    "hidden",
    "text_limit",
    "return",
    "uncaught",
    "breakdown",
    "kernel",
    "tracepoint",
    "rawtracepoint",
    "syscall",
    "context",
    "sum",
    "min",
    "max",
    "avg",
    "stats",
    "linear",
    "sample",
    "top",
    "target",
];

/// All probes that are switched on, in the order of the text.
pub(super) fn read(r: &Reader, top: &DeTable<'_>, params: &[Param]) -> Vec<Probe> {
    let mut found: Vec<(usize, Probe, bool)> = Vec::new();
    for (key, kind) in [("probe", ProbeKind::Entry), ("call", ProbeKind::Call)] {
        let Some(value) = top.get(key) else { continue };
        let DeValue::Array(list) = value.get_ref() else {
            r.report(
                r.error(value.span(), format!("`{key}` is a list of tables"))
                    .help(format!("write [[{key}]]")),
            );
            continue;
        };
        for entry in list.iter() {
            let Some(table) = r.table(entry, key) else {
                continue;
            };
            let reading = Reading {
                r,
                params,
                kind,
                key,
                context: context(r, table),
            };
            if let Some((probe, on)) = reading.probe(entry, table) {
                found.push((entry.span().start, probe, on));
            }
        }
    }
    found.sort_by_key(|(at, ..)| *at);
    let on: Vec<(usize, Probe)> = found
        .into_iter()
        .filter(|(.., on)| *on)
        .map(|(at, p, _)| (at, p))
        .collect();
    for (i, (at, probe)) in on.iter().enumerate() {
        if on[..i].iter().any(|(_, p)| p.name == probe.name) {
            r.report(
                r.error(
                    *at..*at + 1,
                    format!("a second probe named `{}`", probe.name),
                )
                .help("give it another name, or let `when` switch on one of them alone"),
            );
        }
    }
    on.into_iter().map(|(_, p)| p).collect()
}

/// One probe being read.
pub(super) struct Reading<'a> {
    pub(super) r: &'a Reader,
    pub(super) params: &'a [Param],
    pub(super) kind: ProbeKind,
    pub(super) key: &'static str,
    context: Context,
}

/// `context = "any"`
fn context(r: &Reader, t: &DeTable<'_>) -> Context {
    let Some(value) = t.get("context") else {
        return Context::Thread;
    };
    match r.string(value, "context", "a text") {
        Some("any") => Context::Any,
        Some("either") => Context::Either,
        Some("thread") | None => Context::Thread,
        Some(other) => {
            let fault = r.error(value.span(), format!("unknown context `{other}`"));
            r.report(fault.help(
                "\"thread\": the running thread does what is probed; \"any\": it may have nothing to do with it, as in interrupts; \"either\": the recipe tells which",
            ));
            Context::Thread
        }
    }
}

impl Reading<'_> {
    /// Without captures, for a place of this provider.
    pub(super) fn scope(&self, provider: Provider) -> Scope {
        Scope {
            provider,
            context: self.context,
            call: self.kind == ProbeKind::Call,
            params: self
                .params
                .iter()
                .map(|p| (p.name.clone(), p.for_check()))
                .collect(),
            ..Scope::default()
        }
    }

    /// The probe, and whether `when` switches it on.
    fn probe(&self, entry: &Val<'_>, t: &DeTable<'_>) -> Option<(Probe, bool)> {
        let r = self.r;
        r.known(t, &format!("[[{}]]", self.key), KEYS);
        let name = self.name(entry, t);
        let at = self.places(entry, t);
        let captures = at.first().map(|a| a.capture.clone()).unwrap_or_default();
        let providers = at.iter().map(At::provider);
        let scope = Scope {
            captures,
            ..self.scope(Provider::Program).at(providers)
        };
        let condition = |key: &str| t.get(key).and_then(|v| r.condition(v, key, &scope));
        let where_ = condition("where");
        // The profiler puts each place's captures in: what is checked with the first place's must hold for all.
        let keep = condition("keep");
        let action = self.action(t, &scope);
        let when = t.get("when").and_then(|v| {
            r.condition(
                v,
                "when",
                &Scope {
                    constant: true,
                    ..self.scope(Provider::Program)
                },
            )
        });
        let on = when.is_none_or(|e| e.as_int() != Some(0));
        let flag = |key: &str| t.get(key).and_then(|v| r.boolean(v, key)).unwrap_or(false);
        let text = |key: &str| {
            t.get(key)
                .and_then(|v| r.string(v, key, "a text"))
                .map(str::to_owned)
        };
        let (optional, hidden, about) = (flag("optional"), flag("hidden"), text("about"));
        let text_limit = self.text_limit(t);
        if let Some((k, _)) = t.get_key_value("keep") {
            if !matches!(action, Some(Action::Event)) {
                r.report(r.error(
                    k.span(),
                    "`keep` beside a count or histogram: only events are kept for joins",
                ));
            } else if t.get("where").is_none() && at.iter().all(|a| a.where_.is_none()) {
                r.report(r.error(k.span(), "`keep` without `where`: nothing is filtered"));
            }
        }
        if at.is_empty() {
            return None;
        }
        let where_ = where_.filter(|e| !matches!(e.kind, Kind::Int(v) if v != 0));
        let breakdown = self.breakdown(t, action.as_ref());
        let mut probe = Probe {
            name: name?,
            kind: self.kind,
            at,
            where_,
            keep,
            action: action?,
            optional,
            hidden,
            text_limit,
            sample: self.sample(t),
            top: self.top(t),
            context: self.context,
            target: t
                .get("target")
                .and_then(|v| r.table(v, "target"))
                .map(|t| target_of(r, t, &format!("[{}.target]", self.key))),
            about,
            returns: self.returns(t),
            uncaught: self.uncaught(t),
            breakdown: false,
        };
        if breakdown {
            probe.break_down();
        }
        self.without_return(&probe);
        self.kernel_keys(t, &probe);
        Some((probe, on))
    }

    /// `return = "auto"`
    fn returns(&self, t: &DeTable<'_>) -> Returns {
        let r = self.r;
        let Some(value) = self.of_calls(t, "return") else {
            return Returns::Auto;
        };
        let words = Returns::ALL.map(|(word, _)| word);
        let Some(text) = r.string(value, "return", "a text") else {
            return Returns::Auto;
        };
        if let Some((_, returns)) = Returns::ALL.iter().find(|(word, _)| *word == text) {
            return *returns;
        }
        let mut fault = r.error(value.span(), format!("unknown return `{text}`"));
        fault.help = suggest::help(text, words);
        r.report(fault);
        Returns::Auto
    }

    /// `uncaught = true`
    pub(super) fn uncaught(&self, t: &DeTable<'_>) -> bool {
        let value = self.of_calls(t, "uncaught");
        value
            .and_then(|v| self.r.boolean(v, "uncaught"))
            .unwrap_or(false)
    }

    /// `breakdown = true`, or `"$breakdown"`: where the time of the calls goes is told.
    fn breakdown(&self, t: &DeTable<'_>, action: Option<&Action>) -> bool {
        let r = self.r;
        let Some(value) = self.of_calls(t, "breakdown") else {
            return false;
        };
        let on = match value.get_ref() {
            DeValue::Boolean(on) => *on,
            _ => {
                let scope = Scope {
                    constant: true,
                    ..self.scope(Provider::Program)
                };
                let on = r.condition(value, "breakdown", &scope);
                on.is_some_and(|e| e.as_int() != Some(0))
            }
        };
        let goes_with = matches!(
            action,
            None | Some(
                Action::Event
                    | Action::Histogram {
                        scale: Scale::Log,
                        ..
                    }
            )
        );
        if !goes_with {
            let what = "`breakdown` beside a count, sums or `linear`";
            r.report(
                r.error(value.span(), what)
                    .help("it goes with events, and with histogram = \"latency\""),
            );
        } else if self.context != Context::Thread {
            let what = "`breakdown` where the running thread may not be the call's";
            r.report(r.error(value.span(), what).help("leave `context` out"));
        } else {
            return on;
        }
        false
    }

    /// The value of a key that only calls have.
    fn of_calls<'v, 'i>(&self, t: &'v DeTable<'i>, name: &str) -> Option<&'v Val<'i>> {
        let (key, value) = t.get_key_value(name)?;
        if self.kind == ProbeKind::Call {
            return Some(value);
        }
        self.r.report(
            self.r
                .error(
                    key.span(),
                    format!("`{name}` in [[{}]]: it sees no return", self.key),
                )
                .help("[[call]] sees entry and return"),
        );
        None
    }

    /// With `return = "none"` nothing can ask for the return.
    fn without_return(&self, probe: &Probe) {
        if probe.returns != Returns::None {
            return;
        }
        let Some(e) = probe.first_of_return() else {
            return;
        };
        let what = format!("`{e}` is known only when the call returns");
        self.r.report(
            self.r
                .error(e.span.clone(), what)
                .label("this call has `return = \"none\"`")
                .help("leave `return` out: what cannot harm the program is chosen then"),
        );
    }

    /// The name as given, else the function's.
    fn name(&self, entry: &Val<'_>, t: &DeTable<'_>) -> Option<String> {
        let r = self.r;
        if let Some(v) = t.get("name") {
            let name = r.string(v, "name", "a text")?;
            if name.is_empty() || name.len() > 64 || name.chars().any(char::is_control) {
                r.report(r.error(v.span(), "a probe's name has 1 to 64 characters"));
                return None;
            }
            return Some(name.to_owned());
        }
        let place = t.get("function").or_else(|| t.get("at"));
        if let Some(name) = place.and_then(|v| v.get_ref().as_str())
            && is_name(name)
        {
            return Some(name.to_owned());
        }
        // A USDT probe, a line, a place in the kernel is as good as a name.
        let mut places = ["usdt", "line"].into_iter().chain(KERNEL_KEYS);
        let place = places.find_map(|key| t.get(key));
        if let Some(name) = place.and_then(|v| v.get_ref().as_str())
            && name.len() <= 64
            && !name.chars().any(char::is_control)
        {
            return Some(name.to_owned());
        }
        r.report(
            r.error(entry.span(), format!("this [[{}]] has no name", self.key))
                .help("name = \"...\""),
        );
        None
    }

    pub(super) fn captures(&self, value: &Val<'_>, provider: Provider) -> Vec<(String, Expr)> {
        let r = self.r;
        let Some(t) = r.table(value, "capture") else {
            return vec![];
        };
        let scope = self.scope(provider);
        let mut captures: Vec<(String, Expr)> = Vec::new();
        for (key, value) in t.iter() {
            if !self.capture_name(key) {
                continue;
            }
            let Some(e) = r.expression(value, key.get_ref(), &scope) else {
                continue;
            };
            if matches!(e.kind, Kind::Str(_)) {
                r.report(r.error(e.span.clone(), "a constant text is not captured"));
                continue;
            }
            captures.push((key.get_ref().to_string(), e));
        }
        captures
    }

    fn capture_name(&self, key: &Key<'_>) -> bool {
        let name = key.get_ref();
        if is_reserved(name) {
            self.r.report(
                self.r
                    .error(
                        key.span(),
                        format!("`{name}` is a word of the language: no capture can have it"),
                    )
                    .help("time, pid, tid, comm and latency are part of every event"),
            );
            return false;
        }
        if !is_name(name) {
            self.r.report(
                self.r
                    .error(key.span(), format!("`{name}` cannot be a capture's name"))
                    .help("letters, digits and _, not beginning with a digit"),
            );
            return false;
        }
        true
    }

    fn text_limit(&self, t: &DeTable<'_>) -> u32 {
        let r = self.r;
        let Some(value) = t.get("text_limit") else {
            return DEFAULT_TEXT_LIMIT;
        };
        let limit = match value.get_ref() {
            DeValue::Integer(_) => r
                .integer(value, "text_limit", 1, MAX_TEXT_LIMIT.into())
                .map(|v| v as u64),
            _ => {
                let scope = Scope {
                    constant: true,
                    ..self.scope(Provider::Program)
                };
                r.number(value, "text_limit", &scope, "a size")
                    .and_then(|e| e.as_int())
            }
        };
        let Some(limit) = limit else {
            return DEFAULT_TEXT_LIMIT;
        };
        if limit == 0 || limit > MAX_TEXT_LIMIT.into() {
            let from_param = value.get_ref().as_str().filter(|s| s.contains('$'));
            let name = from_param.unwrap_or("text_limit");
            r.report(r.error(
                value.span(),
                format!("`{name}` is {limit}: a text limit goes from 1 byte to 64KiB"),
            ));
            return DEFAULT_TEXT_LIMIT;
        }
        limit as u32
    }
}
