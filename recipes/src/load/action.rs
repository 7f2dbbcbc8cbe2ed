//! What is done with a hit: `count`, `histogram`, `linear`, `sum` and its like, `stats`; with `by`, `unit`, `sample`
//! and `top`.

use toml::de::{DeTable, DeValue};

use super::probes::Reading;
use super::reader::Val;
use crate::bind::NO_KEY;
use crate::expr::{Expr, Kind, Scope, Type};
use crate::model::{Action, Provider, Scale, Stat, StatKind};
use crate::suggest;

/// What a probe does with its hits; at most one of the groups.
const ACTIONS: [&[&str]; 5] = [
    &["count"],
    &["histogram"],
    &["linear"],
    &["sum", "min", "max", "avg"],
    &["stats"],
];
/// The words for what is shown of a sum, in the order of showing all.
const SHOWN: [(&str, StatKind); 4] = [
    ("sum", StatKind::Sum),
    ("min", StatKind::Min),
    ("max", StatKind::Max),
    ("avg", StatKind::Avg),
];
/// The most buckets of a linear histogram.
const MOST_BUCKETS: u64 = 1000;
/// The most values that one probe sums up.
const MOST_STATS: usize = 16;
/// The most parts of a key.
const MOST_KEYS: usize = 8;

impl Reading<'_> {
    pub(super) fn action(&self, t: &DeTable<'_>, scope: &Scope) -> Option<Action> {
        self.one_action(t);
        let by = t.get("by").map(|v| self.by(v, scope)).unwrap_or_default();
        let count = t.get("count").and_then(|v| self.r.boolean(v, "count"));
        let found = ACTIONS[1..]
            .iter()
            .position(|keys| keys.iter().any(|k| t.get(*k).is_some()));
        match found {
            Some(0) => self.histogram(t, scope, by),
            Some(1) => self.linear(t, scope, by),
            Some(2) => self
                .sums(t, scope)
                .map(|values| Action::Stats { values, by }),
            Some(_) => self
                .stats(t, scope)
                .map(|values| Action::Stats { values, by }),
            None => {
                self.needless(t, "unit", "`unit` without `histogram`, `linear` or a sum");
                if count == Some(true) {
                    return Some(Action::Count { by });
                }
                self.needless(
                    t,
                    "by",
                    "`by` without `count` or `histogram`, `linear` or a sum",
                );
                Some(Action::Event)
            }
        }
    }

    fn needless(&self, t: &DeTable<'_>, key: &str, what: &str) {
        if let Some((key, _)) = t.get_key_value(key) {
            self.r.report(self.r.error(key.span(), what));
        }
    }

    /// Two actions at once are an error, at the second in the text.
    fn one_action(&self, t: &DeTable<'_>) {
        let of = |keys: &&&[&str]| {
            let first = keys.iter().filter_map(|k| t.get_key_value(*k));
            first.min_by_key(|(k, _)| k.span().start)
        };
        let mut found: Vec<_> = ACTIONS.iter().filter_map(|keys| of(&keys)).collect();
        found.sort_by_key(|(k, _)| k.span().start);
        if let [(first, _), (second, _), ..] = found.as_slice() {
            let (first, span, second) = (first.get_ref(), second.span(), second.get_ref());
            let what = format!("`{second}` beside `{first}`: a probe does one thing with its hits");
            let counts = *first == "count" || *second == "count";
            self.r.report(self.r.error(span, what).help(match counts {
                true => "histograms and sums count, too: leave `count` out",
                false => "a second probe at the same place does the other; `stats` sums up several values",
            }));
        }
    }

    fn unit(&self, t: &DeTable<'_>, value: &Expr) -> String {
        let given = t
            .get("unit")
            .and_then(|v| self.r.string(v, "unit", "a text"));
        let time = matches!(value.kind, Kind::Latency | Kind::SelfTime | Kind::Spent(_));
        given.unwrap_or(if time { "ns" } else { "" }).to_owned()
    }

    fn histogram(&self, t: &DeTable<'_>, scope: &Scope, by: Vec<(String, Expr)>) -> Option<Action> {
        let value = self
            .r
            .number(t.get("histogram")?, "histogram", scope, "a number")?;
        Some(Action::Histogram {
            unit: self.unit(t, &value),
            value,
            by,
            scale: Scale::Log,
        })
    }

    /// `linear = { value = "arg0", from = 0, to = 100, step = 10 }`
    fn linear(&self, t: &DeTable<'_>, scope: &Scope, by: Vec<(String, Expr)>) -> Option<Action> {
        let r = self.r;
        let whole = t.get("linear")?;
        let t_linear = r.table(whole, "linear")?;
        r.known(t_linear, "`linear`", &["value", "from", "to", "step"]);
        let needed = |key: &str| {
            let found = t_linear.get(key);
            if found.is_none() {
                let what = format!("`linear` lacks `{key}`");
                r.report(r.error(whole.span(), what).help(
                    "linear = { value = \"arg0\", from = 0, to = 100, step = 10 }: buckets of 10 from 0 up to 100",
                ));
            }
            found
        };
        let value = needed("value").map(|v| r.number(v, "value", scope, "a number"));
        let [from, to, step] = ["from", "to", "step"].map(|key| {
            let v = needed(key)?;
            Some((v, self.constant(v, key)?))
        });
        let (value, from, to, step) = (value??, from?, to?, step?);
        Some(Action::Histogram {
            unit: self.unit(t, &value),
            value,
            by,
            scale: self.scale(from.1, to, step)?,
        })
    }

    /// Buckets of one width, not too many.
    fn scale(
        &self,
        from: i64,
        (to_at, to): (&Val<'_>, i64),
        (step_at, step): (&Val<'_>, i64),
    ) -> Option<Scale> {
        let fault = |v: &Val<'_>, what: String, help: &str| {
            self.r.report(self.r.error(v.span(), what).help(help));
            None
        };
        if step <= 0 {
            let help = "it is the width of each bucket: 1 at least";
            return fault(step_at, format!("`step` is {step}"), help);
        }
        if to <= from {
            let what = format!("`to` is {to}, and `from` is {from}");
            let help = "buckets go from `from` up to `to`, which is larger";
            return fault(to_at, what, help);
        }
        let (width, step) = (to.abs_diff(from), step.unsigned_abs());
        if !width.is_multiple_of(step) {
            let what = format!("from {from} to {to} are {width}, which is no multiple of {step}");
            let near = i128::from(from) + i128::from(width.div_ceil(step)) * i128::from(step);
            let help = format!("all buckets are of one width: to = {near} would do");
            return fault(step_at, what, &help);
        }
        if width / step > MOST_BUCKETS {
            let what = format!("{} buckets; {MOST_BUCKETS} are the most", width / step);
            let help = "`histogram` has 16 buckets in each power of two, however large";
            return fault(step_at, what, help);
        }
        Some(Scale::Linear { from, to, step })
    }

    /// An integer, or an expression over parameters that is one.
    fn constant(&self, v: &Val<'_>, key: &str) -> Option<i64> {
        if let DeValue::Integer(_) = v.get_ref() {
            return self.r.integer(v, key, i64::MIN, i64::MAX);
        }
        let scope = Scope {
            constant: true,
            ..self.scope(Provider::Program)
        };
        let e = self.r.number(v, key, &scope, "a number")?;
        e.as_int().map(|v| v as i64)
    }

    /// `sum = "size"`, `max = "size"`: what is of one value is shown together.
    fn sums(&self, t: &DeTable<'_>, scope: &Scope) -> Option<Vec<Stat>> {
        let mut given: Vec<_> = SHOWN
            .iter()
            .filter_map(|(word, kind)| Some((*word, *kind, t.get(*word)?)))
            .collect();
        given.sort_by_key(|(_, _, v)| v.span().start);
        let mut values: Vec<Stat> = Vec::new();
        for (word, kind, v) in given {
            let value = self.r.number(v, word, scope, "a number")?;
            let name = name_of(v, &value);
            match values.iter_mut().find(|s| s.name == name) {
                Some(stat) => stat.show.push(kind),
                None => values.push(Stat {
                    name,
                    unit: self.unit(t, &value),
                    value,
                    show: vec![kind],
                }),
            }
        }
        Some(values)
    }

    /// `stats = { bytes = "size", took = { value = "latency", show = ["avg", "max"], unit = "ns" } }`
    fn stats(&self, t: &DeTable<'_>, scope: &Scope) -> Option<Vec<Stat>> {
        let r = self.r;
        let whole = t.get("stats")?;
        let table = r.table(whole, "stats")?;
        if let Some((key, _)) = t.get_key_value("unit") {
            r.report(
                r.error(
                    key.span(),
                    "`unit` beside `stats`, each of which has its own",
                )
                .help("stats = { bytes = { value = \"size\", unit = \"bytes\" } }"),
            );
        }
        if table.is_empty() || table.len() > MOST_STATS {
            let what = format!(
                "`stats` has {} values; 1 to {MOST_STATS} can be summed up",
                table.len()
            );
            r.report(r.error(whole.span(), what));
            return None;
        }
        let mut values = Vec::new();
        for (key, v) in table.iter() {
            let name = key.get_ref().to_string();
            if name.is_empty() || name.len() > 64 || name.chars().any(char::is_control) {
                r.report(r.error(key.span(), "the name of a sum has 1 to 64 characters"));
                continue;
            }
            values.extend(self.stat(name, v, scope));
        }
        (!values.is_empty()).then_some(values)
    }

    fn stat(&self, name: String, v: &Val<'_>, scope: &Scope) -> Option<Stat> {
        let r = self.r;
        let none = DeTable::new();
        let (value, t) = match v.get_ref() {
            DeValue::Table(t) => {
                r.known(t, &format!("`{name}`"), &["value", "show", "unit"]);
                let Some(value) = t.get("value") else {
                    let what = format!("`{name}` of `stats` has no value");
                    r.report(r.error(v.span(), what).help("value = \"arg0\""));
                    return None;
                };
                (value, t)
            }
            _ => (v, &none),
        };
        let value = r.number(value, &name, scope, "a number")?;
        let show = match t.get("show") {
            Some(v) => self.show(v),
            None => SHOWN.map(|(_, kind)| kind).to_vec(),
        };
        Some(Stat {
            unit: self.unit(t, &value),
            name,
            value,
            show,
        })
    }

    fn show(&self, v: &Val<'_>) -> Vec<StatKind> {
        let r = self.r;
        let mut show = Vec::new();
        for word in r.strings(v, "show") {
            match SHOWN.iter().find(|(known, _)| *known == word.value) {
                Some((_, kind)) if show.contains(kind) => {
                    r.report(r.error(word.span, format!("`{}` is shown twice", word.value)));
                }
                Some((_, kind)) => show.push(*kind),
                None => {
                    let what = format!("nothing called `{}` is shown of a sum", word.value);
                    let mut e = r.error(word.span, what);
                    e.help = suggest::help(&word.value, SHOWN.map(|(word, _)| word));
                    r.report(e);
                }
            }
        }
        show
    }

    /// `by = "pid"`, `by = ["pid", "comm"]`, `by = { size = "arg0" }`
    fn by(&self, value: &Val<'_>, scope: &Scope) -> Vec<(String, Expr)> {
        let r = self.r;
        let keys: Vec<(String, Expr)> = match value.get_ref() {
            DeValue::Table(t) => t
                .iter()
                .filter_map(|(k, v)| Some((k.get_ref().to_string(), r.expression(v, "by", scope)?)))
                .collect(),
            DeValue::Array(list) => list.iter().filter_map(|v| self.key(v, scope)).collect(),
            _ => self.key(value, scope).into_iter().collect(),
        };
        for (_, e) in &keys {
            if e.ty == Type::Bytes || matches!(e.kind, Kind::Str(_)) {
                r.report(r.error(e.span.clone(), NO_KEY));
            }
        }
        if keys.len() > MOST_KEYS {
            r.report(r.error(value.span(), format!("a key has at most {MOST_KEYS} parts")));
        }
        keys
    }

    fn key(&self, value: &Val<'_>, scope: &Scope) -> Option<(String, Expr)> {
        let e = self.r.expression(value, "by", scope)?;
        Some((name_of(value, &e), e))
    }

    /// `sample = 100`: of so many hits one is looked at.
    pub(super) fn sample(&self, t: &DeTable<'_>) -> u32 {
        let Some(value) = t.get("sample") else {
            return 1;
        };
        let Some(n) = self.constant(value, "sample") else {
            return 1;
        };
        match u32::try_from(n) {
            Ok(n) if n > 0 => n,
            _ => {
                let what = format!("`sample` is {n}: of so many hits one is looked at");
                self.r.report(
                    self.r
                        .error(value.span(), what)
                        .help("1 looks at all, 100 at one in a hundred"),
                );
                1
            }
        }
    }

    /// `top = 10`: how many keys are shown.
    pub(super) fn top(&self, t: &DeTable<'_>) -> Option<u32> {
        let r = self.r;
        let (key, value) = t.get_key_value("top")?;
        let n = self.constant(value, "top")?;
        if t.get("by").is_none() {
            r.report(
                r.error(
                    key.span(),
                    "`top` without `by`: there are no keys to choose from",
                )
                .help("[report.top] lists the most expensive calls"),
            );
        }
        let top = u32::try_from(n).ok().filter(|n| (1..=10_000).contains(n));
        if top.is_none() {
            let what = format!("`top` is {n}: it goes from 1 to 10000");
            r.report(r.error(value.span(), what));
        }
        top
    }
}

/// An expression's name where it has none: its text.
fn name_of(value: &Val<'_>, e: &Expr) -> String {
    let text = value.get_ref().as_str();
    text.map_or_else(|| e.to_string(), |s| s.trim().to_owned())
}
