//! Values as the human form shows them.

use std::fmt::Write as _;

use super::model::Value;
use super::{escape, units};

/// Appends a value as a table shows it.
pub(super) fn show(out: &mut String, value: &Value) {
    match value {
        Value::Int(n) => out.push_str(itoa::Buffer::new().format(*n)),
        Value::Uint(n) => out.push_str(itoa::Buffer::new().format(*n)),
        Value::Ptr(n) => {
            let _ = write!(out, "{n:#x}");
        }
        Value::Text { bytes, cut } => {
            escape::text(out, bytes);
            if *cut {
                out.push_str("…(cut)");
            }
        }
        Value::Name(name) => escape::text(out, name.as_bytes()),
        Value::Duration(ns) => out.push_str(&units::duration_aligned(*ns as f64)),
        Value::Share(part) => out.push_str(&units::share(*part)),
        Value::Stack(frames) => {
            for (i, frame) in frames.iter().enumerate() {
                out.push_str(if i == 0 { "" } else { " < " });
                escape::text(out, frame.as_bytes());
            }
        }
        Value::Address(address, port) => units::address(out, *address, *port),
        Value::Missing(why) => {
            if !why.is_empty() {
                let _ = write!(out, "({why})");
            }
        }
    }
}

/// As [`show`], with a number in a unit: `bytes` and `ns` are scaled, `hex` is written as that, any other word stands
/// after it. A text in `args` is the words between its NULs.
pub(super) fn show_in(out: &mut String, value: &Value, unit: &str) {
    match (value, unit) {
        (_, "") => show(out, value),
        (Value::Text { bytes, cut }, "args") => {
            words(out, bytes);
            if *cut {
                out.push_str("…(cut)");
            }
        }
        (Value::Uint(n), "hex") => {
            let _ = write!(out, "{n:#x}");
        }
        (Value::Int(n), "hex") => {
            let _ = write!(out, "{n:#x}");
        }
        (Value::Uint(n), unit) => out.push_str(&units::quantity_aligned(*n as f64, unit)),
        (Value::Int(n), unit) => out.push_str(&units::quantity_aligned(*n as f64, unit)),
        _ => show(out, value),
    }
}

/// Words that a NUL ends each, as the arguments of a program, with blanks between them; in quotes where a shell would not
/// take it for one word.
fn words(out: &mut String, bytes: &[u8]) {
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    for (i, word) in bytes.split(|&b| b == 0).enumerate() {
        if i > 0 {
            out.push(' ');
        }
        let splits = |b: &u8| b.is_ascii_whitespace() || matches!(b, b'\'' | b'"' | b'\\');
        if word.is_empty() && i > 0 || word.iter().any(splits) {
            out.push('\'');
            for (part, text) in word.split(|&b| b == b'\'').enumerate() {
                out.push_str(if part == 0 { "" } else { "'\\''" });
                escape::text(out, text);
            }
            out.push('\'');
        } else {
            escape::text(out, word);
        }
    }
}

/// Does this value stand at the right of its column?
pub(super) fn is_number(value: &Value) -> bool {
    matches!(
        value,
        Value::Int(_) | Value::Uint(_) | Value::Duration(_) | Value::Share(_)
    )
}

/// Stacks by name, as lines that stand under a row; the names are there where there is more than one.
pub(super) fn stack_lines<'v>(
    stacks: impl ExactSizeIterator<Item = (&'v str, &'v Value)>,
) -> Vec<String> {
    let named = stacks.len() > 1;
    let mut lines = Vec::new();
    for (name, value) in stacks {
        if named {
            let mut line = "    ".to_owned();
            escape::text(&mut line, name.as_bytes());
            lines.push(line);
        }
        let mut add = |text: &dyn Fn(&mut String)| {
            let mut line = "      ".to_owned();
            text(&mut line);
            lines.push(line);
        };
        match value {
            Value::Stack(frames) => frames
                .iter()
                .for_each(|frame| add(&|line| escape::text(line, frame.as_bytes()))),
            // It could not be taken: why.
            other => add(&|line| show(line, other)),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_words() {
        for (bytes, shown) in [
            (&b"echo\0a\0"[..], "echo a"),
            (b"sh\0-c\0it's $x\0\0", "sh -c 'it'\\''s $x' ''"),
            (b"printf\0a\nb\0\xff\x1b\0", "printf 'a\\nb' \\xff\\x1b"),
            (b"cut wor", "'cut wor'"),
            (b"", ""),
        ] {
            let text = Value::Text {
                bytes: bytes.to_vec(),
                cut: false,
            };
            let mut out = String::new();
            show_in(&mut out, &text, "args");
            assert_eq!(out, shown);
        }
    }

    #[test]
    fn a_column_has_its_unit_for_numbers_alone() {
        let text = Value::Name("none".into());
        for (value, unit, expected) in [
            (Value::Uint(1536), "bytes", "1.50 KiB"),
            (Value::Int(-1536), "bytes", "-1.50 KiB"),
            (Value::Uint(2500), "ns", "2.50 us"),
            (Value::Uint(255), "hex", "0xff"),
            (Value::Int(-1), "hex", "0xffffffffffffffff"),
            (Value::Uint(3), "pages", "3 pages"),
            (Value::Uint(3), "", "3"),
            (text, "bytes", "none"),
            (Value::Missing("unreadable"), "bytes", "(unreadable)"),
        ] {
            let mut out = String::new();
            show_in(&mut out, &value, unit);
            assert_eq!(out, expected);
        }
    }

    #[test]
    fn stacks_are_named_where_there_are_two() {
        let stack = Value::Stack(vec!["b+0x1".into(), "a\n".into()]);
        let none = Value::Missing("unreadable");
        assert_eq!(
            stack_lines([("ustack", &stack)].into_iter()),
            ["      b+0x1", "      a\\n"]
        );
        assert_eq!(
            stack_lines([("kstack", &none), ("ustack", &stack)].into_iter()),
            [
                "    kstack",
                "      (unreadable)",
                "    ustack",
                "      b+0x1",
                "      a\\n"
            ]
        );
    }
}
