//! `[report]`

use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::reader::{Reader, Val};
use crate::error::Error;
use crate::model::{Action, Align, Closes, Column, Graph, Join, Probe, Report, SocketEvents, Top};
use crate::suggest;

/// What every event has.
const EVENT: &[&str] = &["time", "pid", "tid", "comm", "latency", "probe"];
const UNITS: &[&str] = &["bytes", "ns", "hex", "args"];

pub(super) fn read(r: &Reader, top: &DeTable<'_>, probes: &[Probe], join: Option<&Join>) -> Report {
    let Some(t) = top.get("report").and_then(|v| r.table(v, "report")) else {
        return Report::default();
    };
    r.known(
        t,
        "[report]",
        &["columns", "names", "group_by", "top", "graph"],
    );
    let mut captures = captures(probes);
    if let Some(Join::Sockets(sockets)) = join {
        captures.extend([sockets.show.time().to_owned(), "role".to_owned()]);
        if sockets.closes.is_some() {
            captures.extend(Closes::FIELDS.map(str::to_owned));
        }
        if sockets.show == SocketEvents::Lingerers {
            captures.extend(SocketEvents::OF_LINGERERS.map(str::to_owned));
        }
    }
    let mut off = named(top);
    // What a join adds that is switched off with its probes.
    if join.is_none() && top.get("join").is_some() {
        off.extend(SocketEvents::ALL.map(|(.., time)| time.to_owned()));
        off.extend(Closes::FIELDS.map(str::to_owned));
    }
    let reading = Reading { r, captures, off };
    Report {
        columns: t
            .get("columns")
            .map(|v| reading.columns(v))
            .unwrap_or_default(),
        names: t.get("names").map(|v| reading.names(v)).unwrap_or_default(),
        group_by: t
            .get("group_by")
            .and_then(|v| reading.capture(v, "group_by", &[])),
        top: t.get("top").and_then(|v| reading.top(v)),
        graph: t.get("graph").and_then(|v| graph(r, v, top, probes)),
    }
}

/// `[report.graph]`. Of probes of one name that parameters choose between, those may be drawn that can.
fn graph(r: &Reader, v: &Val<'_>, top: &DeTable<'_>, probes: &[Probe]) -> Option<Graph> {
    let t = r.table(v, "graph")?;
    r.known(t, "[report.graph]", &["probe", "from", "to", "weight"]);
    let text = |key: &str, must: bool| {
        let found = t.get(key);
        if found.is_none() && must {
            let what = format!("[report.graph] lacks `{key}`");
            r.report(r.error(v.span(), what).help(
                "probe = \"sent\", from = \"local\", to = \"remote\": two parts of the key of a count or of sums",
            ));
        }
        let found = found?;
        Some((found.span(), r.string(found, key, "a text")?))
    };
    let [probe, from, to] = ["probe", "from", "to"].map(|key| text(key, true));
    let (probe, from, to, weight) = (probe?, from?, to?, text("weight", false));
    let named = |t: &DeTable<'_>| t.get("name").and_then(|v| v.get_ref().as_str()) == Some(probe.1);
    let all = [tables(top.get("probe")), tables(top.get("call"))];
    let there_are = all.iter().flatten().filter(|t| named(t)).count();
    let found = probes.iter().find(|p| p.name == probe.1);
    match edges(r, found, probes, &probe, [&from, &to], weight.as_ref()) {
        Ok(()) => Some(Graph {
            probe: probe.1.to_owned(),
            from: from.1.to_owned(),
            to: to.1.to_owned(),
            weight: weight.map(|(_, w)| w.to_owned()),
        }),
        // Switched off, or another of its name is on.
        Err(_) if there_are > usize::from(found.is_some()) => None,
        Err(e) => {
            r.report(e);
            None
        }
    }
}

/// A text of the recipe with its place.
type Placed<'a> = (Range<usize>, &'a str);

/// Whether a probe has the edges of a graph.
fn edges(
    r: &Reader,
    found: Option<&Probe>,
    probes: &[Probe],
    (at, name): &Placed<'_>,
    ends: [&Placed<'_>; 2],
    weight: Option<&Placed<'_>>,
) -> Result<(), Error> {
    let unknown = |(span, name): &Placed<'_>, what: String, known: Vec<&str>| {
        let mut e = r.error(span.clone(), what);
        e.help = suggest::help(name, known);
        e
    };
    let Some(probe) = found else {
        let known = probes.iter().map(|p| p.name.as_str()).collect();
        let what = format!("there is no probe `{name}` to draw");
        return Err(unknown(&(at.clone(), *name), what, known));
    };
    let values = match &probe.action {
        Action::Count { .. } => &[][..],
        Action::Stats { values, .. } => values.as_slice(),
        _ => {
            let what = format!("`{name}` neither counts nor sums up: there is no graph of it");
            let e = r.error(at.clone(), what);
            return Err(e.help("count = true, or sum = \"size\", with `by`"));
        }
    };
    let parts: Vec<&str> = probe.action.by().iter().map(|(n, _)| n.as_str()).collect();
    if let Some(end) = ends.into_iter().find(|(_, part)| !parts.contains(part)) {
        let what = format!("the key of `{name}` has no part `{}`", end.1);
        return Err(unknown(end, what, parts));
    }
    let values: Vec<&str> = values.iter().map(|s| s.name.as_str()).collect();
    match weight {
        Some(weight) if !values.contains(&weight.1) => {
            let what = format!("`{name}` sums up no `{}`", weight.1);
            Err(unknown(weight, what, values))
        }
        _ => Ok(()),
    }
}

/// The captures of all probes whose events are shown.
fn captures(probes: &[Probe]) -> Vec<String> {
    let shown = probes.iter().filter(|p| !p.hidden);
    let mut names: Vec<String> = shown
        .flat_map(|p| &p.at)
        .flat_map(|a| &a.capture)
        .map(|(n, _)| n.clone())
        .filter(|n| !n.starts_with('_'))
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// What events of the recipe's probes carry, also of those that are switched off.
fn named(top: &DeTable<'_>) -> Vec<String> {
    let mut names = Vec::new();
    for probe in ["probe", "call"]
        .into_iter()
        .flat_map(|kind| tables(top.get(kind)))
    {
        let hidden = probe.get("hidden").and_then(|v| v.get_ref().as_bool());
        if hidden == Some(true) {
            continue;
        }
        for place in std::iter::once(probe).chain(tables(probe.get("at"))) {
            let captures = place.get("capture").and_then(|v| v.get_ref().as_table());
            names.extend(
                captures
                    .into_iter()
                    .flat_map(|t| t.keys())
                    .map(|name| name.get_ref().to_string()),
            );
        }
    }
    names
}

/// The tables of a list of them.
fn tables<'a, 'i>(list: Option<&'a Val<'i>>) -> Vec<&'a DeTable<'i>> {
    match list.map(|v| v.get_ref()) {
        Some(DeValue::Array(list)) => list.iter().filter_map(|v| v.get_ref().as_table()).collect(),
        _ => vec![],
    }
}

struct Reading<'a> {
    r: &'a Reader,
    captures: Vec<String>,
    /// What there would be, were all probes switched on: not shown, and no error.
    off: Vec<String>,
}

impl Reading<'_> {
    /// The name of a capture, or of what every event has where that is allowed too.
    fn capture(&self, v: &Val<'_>, key: &str, also: &[&'static str]) -> Option<String> {
        let name = self.r.string(v, key, "a capture's name")?;
        let known = || {
            self.captures
                .iter()
                .map(String::as_str)
                .chain(also.iter().copied())
        };
        if known().any(|k| k == name) {
            return Some(name.to_owned());
        }
        if self.off.iter().any(|k| k == name) {
            return None;
        }
        let mut e = self
            .r
            .error(v.span(), format!("no probe captures `{name}`"));
        let known: Vec<&str> = known().collect();
        e.help = suggest::help(name, known.iter().copied());
        self.r.report(e);
        None
    }

    fn columns(&self, v: &Val<'_>) -> Vec<Column> {
        let DeValue::Array(list) = v.get_ref() else {
            self.r.report(
                self.r
                    .error(v.span(), "`columns` is a list")
                    .help("columns = [\"time\", \"pid\"]"),
            );
            return vec![];
        };
        list.iter().filter_map(|v| self.column(v)).collect()
    }

    fn column(&self, v: &Val<'_>) -> Option<Column> {
        let r = self.r;
        let DeValue::Table(t) = v.get_ref() else {
            let value = self.capture(v, "columns", EVENT)?;
            return Some(Column {
                title: value.to_uppercase(),
                value,
                width: None,
                align: None,
                unit: None,
            });
        };
        r.known(t, "a column", &["value", "title", "width", "align", "unit"]);
        let Some(value) = t.get("value") else {
            r.report(
                r.error(v.span(), "this column has no value")
                    .help("value = \"latency\""),
            );
            return None;
        };
        let value = self.capture(value, "value", EVENT)?;
        let word = |key: &str, known: &[&'static str]| {
            let v = t.get(key)?;
            let text = r.string(v, key, "a text")?;
            if !known.contains(&text) {
                r.report(
                    r.error(v.span(), format!("unknown {key} `{text}`"))
                        .help(format!("known: {}", known.join(", "))),
                );
            }
            Some(text.to_owned())
        };
        let align = word("align", &["left", "right"]).map(|a| {
            if a == "right" {
                Align::Right
            } else {
                Align::Left
            }
        });
        let title = t
            .get("title")
            .and_then(|v| r.string(v, "title", "a text"))
            .map(str::to_owned);
        Some(Column {
            title: title.unwrap_or_else(|| value.to_uppercase()),
            value,
            width: t
                .get("width")
                .and_then(|v| r.integer(v, "width", 1, 1000))
                .map(|w| w as u16),
            align,
            unit: word("unit", UNITS),
        })
    }

    fn names(&self, v: &Val<'_>) -> Vec<(String, Vec<(u64, String)>)> {
        let Some(t) = self.r.table(v, "names") else {
            return vec![];
        };
        let mut all = Vec::new();
        for (key, v) in t.iter() {
            let capture = key.get_ref();
            if self.off.iter().any(|c| c == capture) && !self.captures.iter().any(|c| c == capture)
            {
                continue;
            }
            if !self.captures.iter().any(|c| c == capture) {
                let mut e = self
                    .r
                    .error(key.span(), format!("no probe captures `{capture}`"));
                e.help = suggest::help(capture, self.captures.iter().map(String::as_str));
                self.r.report(e);
                continue;
            }
            let Some(t) = self.r.table(v, capture) else {
                continue;
            };
            let mut names = Vec::new();
            for (number, name) in t.iter() {
                let text = number.get_ref();
                let value = match text.strip_prefix("0x") {
                    Some(hex) => u64::from_str_radix(hex, 16),
                    None => text.parse(),
                };
                match value {
                    Ok(value) => {
                        if let Some(name) = self.r.string(name, text, "a text") {
                            names.push((value, name.to_owned()));
                        }
                    }
                    Err(_) => self.r.report(
                        self.r
                            .error(number.span(), format!("`{text}` is not a value"))
                            .help("3 = \"Query\""),
                    ),
                }
            }
            all.push((capture.to_string(), names));
        }
        all
    }

    fn top(&self, v: &Val<'_>) -> Option<Top> {
        let r = self.r;
        let t = r.table(v, "top")?;
        r.known(t, "[report.top]", &["by", "digest", "limit"]);
        let Some(by) = t.get("by") else {
            r.report(
                r.error(v.span(), "[report.top] lacks `by`")
                    .help("by = \"sql\""),
            );
            return None;
        };
        let by = self.capture(by, "by", &[])?;
        let digest = t.get("digest").and_then(|v| {
            let text = r.string(v, "digest", "a text")?;
            if text != "sql" {
                r.report(
                    r.error(v.span(), format!("unknown digest `{text}`"))
                        .help("digest = \"sql\""),
                );
            }
            Some(text.to_owned())
        });
        let limit = t
            .get("limit")
            .and_then(|v| r.integer(v, "limit", 1, 10_000))
            .unwrap_or(10) as u32;
        Some(Top { by, digest, limit })
    }
}
