//! Reading TOML tables with a place for everything: unknown keys, wrong types and bad expressions are
//! collected, so that one reading reports them all.

use std::borrow::Cow;
use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::error::{Error, Source};
use crate::expr::{self, Expr, Scope, TextMap, Type};
use crate::suggest;

pub(super) type Val<'i> = Spanned<DeValue<'i>>;
pub(super) type Key<'i> = Spanned<Cow<'i, str>>;

/// The text being read and what was found wrong with it so far.
pub(super) struct Reader {
    pub(super) source: Arc<Source>,
    errors: RefCell<Vec<Error>>,
}

impl Reader {
    pub(super) fn new(source: Arc<Source>) -> Reader {
        Reader {
            source,
            errors: RefCell::new(Vec::new()),
        }
    }

    pub(super) fn report(&self, e: Error) {
        self.errors.borrow_mut().push(e);
    }

    pub(super) fn error(&self, span: Range<usize>, message: impl Into<String>) -> Error {
        Error::new(&self.source, span, message)
    }

    /// All errors, in the order of the text.
    pub(super) fn into_errors(self) -> Vec<Error> {
        let mut errors = self.errors.into_inner();
        errors.sort_by_key(|e| e.span.start);
        errors.dedup_by(|a, b| a.span == b.span && a.message == b.message);
        errors
    }

    pub(super) fn is_clean(&self) -> bool {
        self.errors.borrow().is_empty()
    }

    /// Reports every key that is not among the known ones.
    pub(super) fn known(&self, table: &DeTable<'_>, what: &str, known: &[&str]) {
        for (key, _) in table.iter() {
            if known.contains(&key.get_ref().as_ref()) {
                continue;
            }
            let mut e = self.error(
                key.span(),
                format!("unknown key `{}` in {what}", key.get_ref()),
            );
            e.help = suggest::help(key.get_ref(), known.iter().copied());
            self.report(e);
        }
    }

    fn wrong_type(&self, value: &Val<'_>, key: &str, wanted: &str) {
        self.report(self.error(
            value.span(),
            format!("`{key}` is {wanted}, found {}", type_name(value.get_ref())),
        ));
    }

    pub(super) fn string<'v>(
        &self,
        value: &'v Val<'_>,
        key: &str,
        wanted: &str,
    ) -> Option<&'v str> {
        match value.get_ref() {
            DeValue::String(s) => Some(s.as_ref()),
            _ => {
                self.wrong_type(value, key, wanted);
                None
            }
        }
    }

    pub(super) fn boolean(&self, value: &Val<'_>, key: &str) -> Option<bool> {
        match value.get_ref() {
            DeValue::Boolean(b) => Some(*b),
            _ => {
                self.wrong_type(value, key, "true or false");
                None
            }
        }
    }

    /// An integer from `low` to `high`.
    pub(super) fn integer(&self, value: &Val<'_>, key: &str, low: i64, high: i64) -> Option<i64> {
        let DeValue::Integer(n) = value.get_ref() else {
            self.wrong_type(value, key, "an integer");
            return None;
        };
        match i64::from_str_radix(n.as_str(), n.radix()) {
            Ok(v) if v >= low && v <= high => Some(v),
            _ => {
                self.report(self.error(value.span(), format!("`{key}` goes from {low} to {high}")));
                None
            }
        }
    }

    pub(super) fn table<'v, 'i>(&self, value: &'v Val<'i>, key: &str) -> Option<&'v DeTable<'i>> {
        match value.get_ref() {
            DeValue::Table(t) => Some(t),
            _ => {
                self.wrong_type(value, key, "a table");
                None
            }
        }
    }

    /// A text or a list of texts.
    pub(super) fn strings(&self, value: &Val<'_>, key: &str) -> Vec<crate::model::Spanned<String>> {
        let one = |v: &Val<'_>| {
            let text = self.string(v, key, "a text")?;
            if text.is_empty() {
                self.report(self.error(v.span(), format!("`{key}` is empty")));
                return None;
            }
            Some(crate::model::Spanned {
                value: text.to_owned(),
                span: v.span(),
            })
        };
        match value.get_ref() {
            DeValue::Array(list) => {
                if list.is_empty() {
                    self.report(self.error(value.span(), format!("`{key}` is empty")));
                }
                list.iter().filter_map(one).collect()
            }
            DeValue::String(_) => one(value).into_iter().collect(),
            _ => {
                self.wrong_type(value, key, "a text or a list of texts");
                vec![]
            }
        }
    }

    /// A list of integers not below 0.
    pub(super) fn integers(&self, value: &Val<'_>, key: &str) -> Vec<u64> {
        match value.get_ref() {
            DeValue::Array(list) => list
                .iter()
                .filter_map(|v| self.integer(v, key, 0, i64::MAX))
                .map(|v| v as u64)
                .collect(),
            DeValue::Integer(_) => self
                .integer(value, key, 0, i64::MAX)
                .map(|v| v as u64)
                .into_iter()
                .collect(),
            _ => {
                self.wrong_type(value, key, "a list of integers");
                vec![]
            }
        }
    }

    /// An expression in a TOML string. TOML integers and truth values stand for themselves.
    pub(super) fn expression(&self, value: &Val<'_>, key: &str, scope: &Scope) -> Option<Expr> {
        let span = value.span();
        let (text, map) = match value.get_ref() {
            DeValue::String(s) => (s.to_string(), self.text_map(span, s)),
            DeValue::Integer(_) | DeValue::Boolean(_) => (
                self.source.text.get(span.clone()).unwrap_or("").to_owned(),
                TextMap::Offset(span.start),
            ),
            _ => {
                self.wrong_type(value, key, "an expression in quotes");
                return None;
            }
        };
        match expr::parse_at(&self.source, &text, &map, scope) {
            Ok(e) => Some(e),
            Err(e) => {
                self.report(e);
                None
            }
        }
    }

    /// A condition: an expression whose value is a number.
    pub(super) fn condition(&self, value: &Val<'_>, key: &str, scope: &Scope) -> Option<Expr> {
        self.number(value, key, scope, "a condition")
    }

    /// An expression whose value is a number, called `what` in the message.
    pub(super) fn number(
        &self,
        value: &Val<'_>,
        key: &str,
        scope: &Scope,
        what: &str,
    ) -> Option<Expr> {
        let e = self.expression(value, key, scope)?;
        if e.ty.is_scalar() || e.is_deferred() {
            return Some(e);
        }
        let fault = self.error(
            e.span.clone(),
            format!("`{key}` is {what}, and this is {}", e.ty.describe()),
        );
        let help = "compare it: comm == \"King\"";
        let comparable = what == "a condition" && matches!(e.ty, Type::Str | Type::Bytes);
        self.report(match comparable {
            true => fault.help(help),
            false => fault,
        });
        None
    }

    /// Where the bytes of a decoded TOML string stand in the source.
    fn text_map(&self, span: Range<usize>, decoded: &str) -> TextMap {
        let raw = self.source.text.get(span.clone()).unwrap_or("");
        let table = decode(raw);
        match table {
            Some((text, offsets)) if text == decoded => {
                TextMap::Table(offsets.iter().map(|o| span.start + o).collect())
            }
            _ => TextMap::Whole(span),
        }
    }
}

/// "a text", "an integer" ... as found.
fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// Decodes a TOML string with its quotes and tells where each decoded byte stood, and the end. `None` when it
/// is not understood; the TOML parser has checked it before.
fn decode(raw: &str) -> Option<(String, Vec<usize>)> {
    let (quotes, basic) = match raw {
        r if r.starts_with("\"\"\"") => (3, true),
        r if r.starts_with("'''") => (3, false),
        r if r.starts_with('"') => (1, true),
        r if r.starts_with('\'') => (1, false),
        _ => return None,
    };
    let end = raw.len().checked_sub(quotes).filter(|e| *e >= quotes)?;
    let (mut text, mut offsets) = (String::new(), Vec::new());
    let mut at = quotes;
    // A newline right after three quotes is not part of the text.
    if quotes == 3 {
        at += raw.get(at..end)?.starts_with("\r\n") as usize * 2
            + raw.get(at..end)?.starts_with('\n') as usize;
    }
    while at < end {
        let rest = raw.get(at..end)?;
        let c = rest.chars().next()?;
        let (decoded, used) = if basic && c == '\\' {
            escape(rest)?
        } else {
            (Some(c), c.len_utf8())
        };
        if let Some(decoded) = decoded {
            offsets.extend(std::iter::repeat_n(at, decoded.len_utf8()));
            text.push(decoded);
        }
        at += used;
    }
    offsets.push(end);
    Some((text, offsets))
}

/// One escape: what it stands for and its length. A backslash at the line's end stands for nothing.
fn escape(rest: &str) -> Option<(Option<char>, usize)> {
    let code = |digits: usize| {
        let c = char::from_u32(u32::from_str_radix(rest.get(2..2 + digits)?, 16).ok()?)?;
        Some((Some(c), 2 + digits))
    };
    let simple = |c| Some((Some(c), 2));
    match rest.chars().nth(1)? {
        'n' => simple('\n'),
        't' => simple('\t'),
        'r' => simple('\r'),
        'b' => simple('\u{8}'),
        'f' => simple('\u{c}'),
        'e' => simple('\u{1b}'),
        '"' => simple('"'),
        '\\' => simple('\\'),
        'x' => code(2),
        'u' => code(4),
        'U' => code(8),
        c if c.is_whitespace() => Some((None, 1 + rest[1..].len() - rest[1..].trim_start().len())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoded_bytes_know_their_place() {
        for (raw, text, offsets) in [
            (r#""ab""#, "ab", vec![1, 2, 3]),
            (r#"'a\b'"#, r"a\b", vec![1, 2, 3, 4]),
            (r#""a\"b""#, "a\"b", vec![1, 2, 4, 5]),
            (r#""\u00e9x""#, "éx", vec![1, 1, 7, 8]),
            ("\"\"\"\na\"b\"\"\"", "a\"b", vec![4, 5, 6, 7]),
            ("\"\"\"a\\\n  b\"\"\"", "ab", vec![3, 8, 9]),
        ] {
            assert_eq!(decode(raw), Some((text.to_owned(), offsets)), "{raw}");
        }
        assert_eq!(decode("12"), None);
        assert_eq!(decode("\""), None);
    }
}
