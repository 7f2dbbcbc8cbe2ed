//! Where a probe is: `function`, `usdt`, `line`, `at`, `only_in`.

use toml::de::{DeTable, DeValue};

use super::kernel::{check_pattern, kernel_names};
use super::probes::Reading;
use super::reader::{Reader, Val};
use crate::expr::{Scope, Type};
use crate::model::{At, ObjectRule, ProbeKind, Provider, Spanned};

const PLACE_KEYS: &[&str] = &[
    "function",
    "usdt",
    "line",
    "kernel",
    "tracepoint",
    "rawtracepoint",
    "syscall",
    "only_in",
    "has",
    "capture",
    "where",
    "uncaught",
];
/// What says where a place is.
const WHERE_KEYS: &[&str] = &[
    "function",
    "usdt",
    "line",
    "kernel",
    "tracepoint",
    "rawtracepoint",
    "syscall",
];
const HOW: &str = "function = \"name\", usdt = \"provider:name\", line = \"file.c:123\", kernel = \"name\", tracepoint = \"group:name\" or syscall = \"name\"";

impl Reading<'_> {
    /// `at = "f"`, `at = ["f", "g"]`, `[[probe.at]]`, or the keys of one place in the probe itself.
    pub(super) fn places(&self, entry: &Val<'_>, t: &DeTable<'_>) -> Vec<At> {
        let r = self.r;
        let named = WHERE_KEYS.iter().find_map(|k| t.get_key_value(*k));
        if let Some((key, _)) = named {
            if t.get("at").is_some() {
                r.report(
                    r.error(key.span(), format!("`{}` beside `at`", key.get_ref()))
                        .help("put it into [[.at]]"),
                );
            }
            // `where` of a place in the probe itself is the probe's.
            return self
                .place(entry, t, t.get("capture"), false)
                .into_iter()
                .collect();
        }
        let Some(at) = t.get("at") else {
            r.report(
                r.error(
                    entry.span(),
                    format!("this [[{}]] has no function", self.key),
                )
                .help(format!("{HOW}; or [[.at]] tables")),
            );
            return vec![];
        };
        if let Some((key, _)) = t.get_key_value("only_in") {
            r.report(
                r.error(key.span(), "`only_in` belongs to a place")
                    .help("put it into [[.at]]"),
            );
        }
        let list: Vec<&Val<'_>> = match at.get_ref() {
            DeValue::Array(list) => list.iter().collect(),
            _ => vec![at],
        };
        if list.is_empty() {
            r.report(r.error(at.span(), "`at` is empty"));
        }
        let shared = t.get("capture");
        let mut places = Vec::new();
        for value in list {
            match value.get_ref() {
                DeValue::String(_) => {
                    let mut at = At {
                        functions: functions(r, value),
                        ..At::default()
                    };
                    self.kernel_place(&at, None);
                    if let Some(capture) = shared {
                        at.capture = self.captures(capture, at.provider());
                    }
                    places.push(at);
                }
                DeValue::Table(place) => {
                    r.known(place, &format!("[[{}.at]]", self.key), PLACE_KEYS);
                    places.extend(self.place(value, place, place.get("capture").or(shared), true));
                }
                _ => r.report(
                    r.error(value.span(), "`at` is a function's name or a table")
                        .help("at = \"malloc\", or [[.at]]"),
                ),
            }
        }
        self.same_captures(at, &places);
        places
    }

    fn place(
        &self,
        whole: &Val<'_>,
        t: &DeTable<'_>,
        capture: Option<&Val<'_>>,
        own_where: bool,
    ) -> Option<At> {
        let r = self.r;
        let mut named = WHERE_KEYS.iter().filter_map(|k| t.get_key_value(*k));
        let Some((key, value)) = named.next() else {
            r.report(
                r.error(whole.span(), "this place has no function")
                    .help(HOW),
            );
            return None;
        };
        if let Some((second, _)) = named.next() {
            let what = format!("`{}` beside `{}`", second.get_ref(), key.get_ref());
            r.report(
                r.error(second.span(), what)
                    .help("a place is one of them; [[.at]] lists several places"),
            );
        }
        let functions = match key.get_ref().as_ref() {
            "function" => functions(r, value),
            key @ ("usdt" | "line") => self.points(key, value),
            key => kernel_names(r, key, value),
        };
        let named = At {
            functions,
            ..At::default()
        };
        let provider = named.provider();
        self.kernel_place(&named, Some(t));
        if let (Some((key, _)), false) = (t.get_key_value("has"), provider == Provider::Program) {
            r.report(r.error(key.span(), "`has` is for places in programs"));
        }
        let only_in = t
            .get("only_in")
            .map(|v| r.strings(v, "only_in"))
            .unwrap_or_default();
        let only_in = only_in
            .iter()
            .map(|s| ObjectRule::parse(&s.value))
            .collect();
        let capture = capture.map(|c| self.captures(c, provider));
        let capture = capture.unwrap_or_default();
        let where_ = if own_where {
            let scope = Scope {
                captures: capture.clone(),
                ..self.scope(provider)
            };
            t.get("where").and_then(|v| r.condition(v, "where", &scope))
        } else {
            None
        };
        Some(At {
            functions: named.functions,
            only_in,
            has: t
                .get("has")
                .map(|v| functions_of(r, v, "has"))
                .unwrap_or_default(),
            capture,
            where_,
            // As with `where`, in the probe itself it is the probe's.
            uncaught: own_where && self.uncaught(t),
        })
    }

    /// `usdt = "provider:name"`, `line = "file.c:123"`: patterns as the rest of the house writes them.
    fn points(&self, key: &str, value: &Val<'_>) -> Vec<Spanned<String>> {
        let r = self.r;
        let mut points = r.strings(value, key);
        for point in &mut points {
            let fault = |message: String| r.error(point.span.clone(), message);
            let parts = point.value.rsplit_once(':');
            let parts = parts.filter(|(a, b)| !a.is_empty() && !b.is_empty());
            let number = |text: &str| text.parse::<u32>().is_ok_and(|n| n > 0);
            match (key, parts) {
                _ if self.kind == ProbeKind::Call => r.report(
                    fault(format!("`{key}` in [[call]]: it has no return of its own"))
                        .help("[[probe]] fires when it is passed"),
                ),
                ("usdt", Some((provider, _))) if !provider.contains(':') => {
                    point.value = format!("usdt:{}", point.value);
                }
                ("usdt", _) => r.report(
                    fault(format!("`{}` is no USDT probe", point.value))
                        .help("usdt = \"provider:name\"; uprof symbols FILE --usdt lists them"),
                ),
                (_, Some((_, line))) if number(line) => {}
                _ => r.report(
                    fault(format!("`{}` is no line of a file", point.value))
                        .help("line = \"file.c:123\""),
                ),
            }
        }
        points
    }

    /// All places of a probe capture the same names with the same types.
    fn same_captures(&self, at: &Val<'_>, places: &[At]) {
        let Some((first, rest)) = places.split_first() else {
            return;
        };
        for place in rest {
            let span = place
                .functions
                .first()
                .map_or(at.span(), |f| f.span.clone());
            for (name, e) in &first.capture {
                match place.capture.iter().find(|(n, _)| n == name) {
                    None => self.r.report(
                        self.r
                            .error(
                                span.clone(),
                                format!(
                                    "this place does not capture `{name}`, as the first one does"
                                ),
                            )
                            .help("all places of a probe capture the same names"),
                    ),
                    Some((_, other)) if !same_type(&e.ty, &other.ty) => self.r.report(
                        self.r
                            .error(
                                other.span.clone(),
                                format!(
                                    "`{name}` is {} here and {} at the first place",
                                    other.ty, e.ty
                                ),
                            )
                            .help(format!("cast it: ({})", e.ty)),
                    ),
                    Some(_) => {}
                }
            }
            for (name, e) in &place.capture {
                if !first.capture.iter().any(|(n, _)| n == name) {
                    self.r.report(
                        self.r
                            .error(
                                e.span.clone(),
                                format!("`{name}` is captured here and not at the first place"),
                            )
                            .help("all places of a probe capture the same names"),
                    );
                }
            }
        }
    }
}

/// Patterns of functions: names, globs, names with parameters.
pub(super) fn functions(r: &Reader, value: &Val<'_>) -> Vec<Spanned<String>> {
    functions_of(r, value, "function")
}

fn functions_of(r: &Reader, value: &Val<'_>, key: &str) -> Vec<Spanned<String>> {
    let functions = r.strings(value, key);
    for f in &functions {
        check_pattern(r, f);
    }
    functions
}

/// The same width and sign; pointers are one type here, whatever they point to, and what debug information knows
/// may be any.
fn same_type(a: &Type, b: &Type) -> bool {
    a == b
        || matches!((a, b), (Type::Ptr { .. }, Type::Ptr { .. }))
        || *a == Type::Deferred
        || *b == Type::Deferred
}
