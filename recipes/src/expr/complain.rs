//! What is wrong with an expression's syntax, in plain words.

use std::ops::Range;

use pest::error::{ErrorVariant, InputLocation};

use super::Fault;
use super::parse::Rule;

/// The parser's error in plain words.
pub(super) fn plain(text: &str, e: &pest::error::Error<Rule>) -> Fault {
    let mut at = match e.location {
        InputLocation::Pos(p) => p,
        InputLocation::Span((p, _)) => p,
    };
    at += text[at..].len() - text[at..].trim_start().len();
    let (before, rest) = (text[..at].trim_end(), &text[at..]);
    let found = token(rest);
    let span = at..at + found.len();
    let wants_operand = match &e.variant {
        ErrorVariant::ParsingError { positives, .. } => !positives
            .iter()
            .any(|r| matches!(r, Rule::EOI | Rule::log_or | Rule::add | Rule::eq)),
        ErrorVariant::CustomError { .. } => false,
    };
    if let Some(special) = special(before, found, &span) {
        return special;
    }
    let last = last_token(before);
    if wants_operand {
        let after = if last.is_empty() {
            String::new()
        } else {
            format!(" after `{last}`")
        };
        let instead = if found.is_empty() {
            String::new()
        } else {
            format!(", found `{found}`")
        };
        let what = if last == "->" || last == "." {
            "a name"
        } else {
            "an expression"
        };
        return Fault::new(span, format!("expected {what}{after}{instead}"));
    }
    if let Some(question) = unanswered(text) {
        return Fault::new(question..question + 1, "this `?` has no `:`")
            .help("write condition ? one : other");
    }
    if found.is_empty() {
        return Fault::new(
            span,
            format!("the expression ends too early, after `{last}`"),
        );
    }
    Fault::new(
        span,
        format!("expected an operator or the end after `{last}`, found `{found}`"),
    )
}

/// Mistakes that have a name.
fn special(before: &str, found: &str, span: &Range<usize>) -> Option<Fault> {
    let fault = |message: String| Some(Fault::new(span.clone(), message));
    match found {
        "=" => fault("`=` does not compare".into()).map(|f| f.help("write `==`")),
        "and" => fault("`and` is no operator".into()).map(|f| f.help("write `&&`")),
        "or" => fault("`or` is no operator".into()).map(|f| f.help("write `||`")),
        "not" => fault("`not` is no operator".into()).map(|f| f.help("write `!`")),
        "is" => fault("`is` is no operator".into()).map(|f| f.help("write `==`")),
        ";" => fault("`;`: an expression has no statements".into()),
        "$" => fault("expected a parameter's name after `$`".into()),
        "struct" | "union" | "enum" => type_word(span, found),
        _ if super::check::TYPE_WORDS.contains(&last_token(before)) => {
            let ty = last_token(before);
            fault(format!("`{ty}` is a type"))
                .map(|f| f.help(format!("a cast is written ({ty})arg0")))
        }
        _ if matches!(last_token(before), "struct" | "union" | "enum") => {
            type_word(span, last_token(before))
        }
        _ => None,
    }
}

fn type_word(span: &Range<usize>, what: &str) -> Option<Fault> {
    Some(
        Fault::new(
            span.clone(),
            format!("`{what}` begins a type, which only a cast has"),
        )
        .help(format!("({what} NAME *)arg0")),
    )
}

/// Where a `?` stands that has no `:`, if any. Quotes were checked before.
fn unanswered(text: &str) -> Option<usize> {
    let mut open = Vec::new();
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if c == '\\' => escaped = true,
            Some(q) if c == q => quote = None,
            Some(_) => {}
            None => match c {
                '"' | '\'' => quote = Some(c),
                '?' => open.push(at),
                ':' => {
                    open.pop();
                }
                _ => {}
            },
        }
    }
    open.pop()
}

/// Signs of two characters.
const SIGNS: &[&str] = &["&&", "||", "==", "!=", "<=", ">=", "<<", ">>", "->"];

/// The word or sign that a text begins with.
fn token(text: &str) -> &str {
    let word = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
    let Some(first) = text.chars().next() else {
        return "";
    };
    let end = if word(first) {
        text.find(|c: char| !word(c)).unwrap_or(text.len())
    } else if let Some(sign) = SIGNS.iter().find(|s| text.starts_with(**s)) {
        sign.len()
    } else {
        first.len_utf8()
    };
    &text[..end]
}

/// The word or sign that a text ends with.
fn last_token(text: &str) -> &str {
    if let Some(sign) = SIGNS.iter().find(|s| text.ends_with(**s)) {
        return &text[text.len() - sign.len()..];
    }
    let word = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
    match text.chars().next_back() {
        None => "",
        Some(last) if word(last) => text.rfind(|c: char| !word(c)).map_or(text, |i| {
            let next = i + text[i..].chars().next().map_or(1, char::len_utf8);
            &text[next..]
        }),
        Some(last) => &text[text.len() - last.len_utf8()..],
    }
}
