//! `[params]`, and values for parameters from text.

use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::is_name;
use super::reader::{Reader, Val};
use crate::error::{Error, Source};
use crate::expr;
use crate::model::{Param, ParamKind, Value};
use crate::suggest;

const TYPES: &[(&str, ParamKind)] = &[
    ("duration", ParamKind::Duration),
    ("size", ParamKind::Size),
    ("int", ParamKind::Int),
    ("string", ParamKind::String),
    ("bool", ParamKind::Bool),
];

impl ParamKind {
    /// Its name in recipes.
    pub fn name(self) -> &'static str {
        TYPES
            .iter()
            .find(|(_, k)| *k == self)
            .map_or("", |(name, _)| name)
    }

    /// Reads a value of this type; the error is a sentence and what to do.
    pub fn parse(self, text: &str) -> Result<Value, (String, Option<String>)> {
        match self {
            ParamKind::Duration => expr::parse_duration(text).map(Value::Duration),
            ParamKind::Size => expr::parse_size(text).map(Value::Size),
            ParamKind::Int => {
                let digits = text.replace('_', "");
                let hex = digits
                    .strip_prefix("0x")
                    .map(|h| i64::from_str_radix(h, 16));
                hex.unwrap_or_else(|| digits.parse())
                    .map(Value::Int)
                    .map_err(|_| (format!("`{text}` is not an integer of 64 bits"), None))
            }
            ParamKind::String => Ok(Value::String(text.to_owned())),
            ParamKind::Bool => match text {
                "true" | "1" | "yes" | "on" => Ok(Value::Bool(true)),
                "false" | "0" | "no" | "off" => Ok(Value::Bool(false)),
                _ => Err((format!("`{text}` is not true or false"), None)),
            },
        }
    }

    /// What stands for a value not given yet, so that expressions can be checked. Not 0: `x / $n` is fine.
    fn placeholder(self) -> Value {
        match self {
            ParamKind::Duration => Value::Duration(1),
            ParamKind::Size => Value::Size(1),
            ParamKind::Int => Value::Int(1),
            ParamKind::String => Value::String(String::new()),
            ParamKind::Bool => Value::Bool(true),
        }
    }
}

impl Param {
    /// The value that expressions see.
    pub(super) fn for_check(&self) -> Value {
        let chosen = || self.choices.first().cloned().map(Value::String);
        self.value
            .clone()
            .or_else(chosen)
            .unwrap_or_else(|| self.kind.placeholder())
    }

    /// Whether a value is one of those that there are; the error is a sentence and what to do.
    fn chosen(&self, value: &Value) -> Result<(), (String, Option<String>)> {
        match value {
            Value::String(text) if !self.choices.is_empty() && !self.choices.contains(text) => {
                let what = format!("`{text}` is no value of `{}`", self.name);
                let help = suggest::help(text, self.choices.iter().map(String::as_str));
                Err((what, help))
            }
            _ => Ok(()),
        }
    }
}

/// `[params]`; `values` go before defaults.
pub(super) fn read(r: &Reader, top: &DeTable<'_>, values: &[(String, Value)]) -> Vec<Param> {
    let Some(table) = top.get("params").and_then(|v| r.table(v, "params")) else {
        return vec![];
    };
    let mut params = Vec::new();
    for (key, value) in table.iter() {
        let name = key.get_ref();
        if !is_name(name) {
            r.report(
                r.error(key.span(), format!("`{name}` cannot be a parameter's name"))
                    .help("letters, digits and _, not beginning with a digit"),
            );
            continue;
        }
        let Some(entry) = r.table(value, name) else {
            continue;
        };
        r.known(
            entry,
            &format!("parameter `{name}`"),
            &["type", "default", "choices", "help"],
        );
        let Some(kind) = kind(r, entry, value, name) else {
            continue;
        };
        let default = entry.get("default").and_then(|v| default(r, v, kind));
        let given = values
            .iter()
            .find(|(n, _)| n == name.as_ref())
            .map(|(_, v)| v.clone());
        let help = entry
            .get("help")
            .and_then(|v| r.string(v, "help", "a text"))
            .unwrap_or("")
            .to_owned();
        let param = Param {
            name: name.to_string(),
            kind,
            value: given.or_else(|| default.clone()),
            default,
            choices: choices(r, entry, kind),
            help,
        };
        if let (Some(v), Some(at)) = (&param.default, entry.get("default"))
            && let Err((what, help)) = param.chosen(v)
        {
            let mut e = r.error(at.span(), what);
            e.help = help;
            r.report(e);
        }
        params.push(param);
    }
    params
}

/// `choices = ["comm", "address"]`
fn choices(r: &Reader, entry: &DeTable<'_>, kind: ParamKind) -> Vec<String> {
    let Some((key, value)) = entry.get_key_value("choices") else {
        return vec![];
    };
    if kind != ParamKind::String {
        let what = format!("`choices` of a parameter of type {}", kind.name());
        r.report(r.error(key.span(), what).help("type = \"string\""));
        return vec![];
    }
    let found = r.strings(value, "choices");
    found.into_iter().map(|s| s.value).collect()
}

fn kind(r: &Reader, entry: &DeTable<'_>, whole: &Val<'_>, name: &str) -> Option<ParamKind> {
    let Some(value) = entry.get("type") else {
        let help = "type = \"duration\", \"size\", \"int\", \"string\" or \"bool\"";
        r.report(
            r.error(whole.span(), format!("parameter `{name}` has no type"))
                .help(help),
        );
        return None;
    };
    let text = r.string(value, "type", "a text")?;
    let found = TYPES.iter().find(|(n, _)| *n == text).map(|(_, k)| *k);
    if found.is_none() {
        let mut e = r.error(
            value.span(),
            format!("unknown type `{text}` of a parameter"),
        );
        e.help = suggest::help(text, TYPES.iter().map(|(n, _)| *n));
        r.report(e);
    }
    found
}

/// A default: text as on the command line, or TOML's own integer and truth value.
fn default(r: &Reader, value: &Val<'_>, kind: ParamKind) -> Option<Value> {
    let text = match value.get_ref() {
        DeValue::String(s) => s.to_string(),
        DeValue::Integer(_) if matches!(kind, ParamKind::Int | ParamKind::Size) => {
            r.integer(value, "default", i64::MIN, i64::MAX)?.to_string()
        }
        DeValue::Boolean(b) if kind == ParamKind::Bool => b.to_string(),
        _ => {
            r.string(
                value,
                "default",
                &format!("a value of type {}, in quotes", kind.name()),
            )?;
            return None;
        }
    };
    match kind.parse(&text) {
        Ok(v) => Some(v),
        Err((message, help)) => {
            let mut e = r.error(value.span(), message);
            e.help = help;
            r.report(e);
            None
        }
    }
}

/// Reads `--set` values; every parameter has one afterwards.
pub(super) fn values(
    params: &[Param],
    set: &[(String, String)],
) -> Result<Vec<(String, Value)>, Vec<Error>> {
    let mut errors = Vec::new();
    let mut values: Vec<(String, Value)> = Vec::new();
    for (name, text) in set {
        let source = Arc::new(Source::new("--set", format!("{name}={text}")));
        let Some(param) = params.iter().find(|p| p.name == *name) else {
            let mut e = Error::new(
                &source,
                0..name.len(),
                format!("the recipe has no parameter `{name}`"),
            );
            e.help = suggest::help(name, params.iter().map(|p| p.name.as_str()));
            errors.push(e);
            continue;
        };
        let parsed = param.kind.parse(text);
        match parsed.and_then(|v| param.chosen(&v).map(|()| v)) {
            Ok(v) => {
                values.retain(|(n, _)| n != name);
                values.push((name.clone(), v));
            }
            Err((message, help)) => {
                let mut e = Error::new(
                    &source,
                    name.len() + 1..name.len() + 1 + text.len(),
                    message,
                );
                e.help = help;
                errors.push(e);
            }
        }
    }
    for p in params {
        if values.iter().any(|(n, _)| *n == p.name) {
            continue;
        }
        match &p.value {
            Some(v) => values.push((p.name.clone(), v.clone())),
            None => {
                let source = Arc::new(Source::new("--set", ""));
                let e = Error::new(
                    &source,
                    0..0,
                    format!(
                        "parameter `{}` has no default: a value must be given",
                        p.name
                    ),
                );
                let about = if p.help.is_empty() {
                    String::new()
                } else {
                    format!(" ({})", p.help)
                };
                errors.push(e.help(format!(
                    "--set {}=VALUE, of type {}{about}",
                    p.name,
                    p.kind.name()
                )));
            }
        }
    }
    if errors.is_empty() {
        Ok(values)
    } else {
        Err(errors)
    }
}
