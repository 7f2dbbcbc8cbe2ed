//! What a target wrote is shown, never obeyed: control characters, escape sequences, invalid UTF-8 and
//! the invisible characters that reorder text become visible escapes.

use std::fmt::Write as _;

/// Appends `bytes` to `out` so that a terminal only prints them.
///
/// `\n`, `\t` and `\r` keep their usual names; other control bytes and invalid UTF-8 become `\xNN`;
/// control characters beyond ASCII and those that change the writing direction become `\u{NNNN}`.
/// Backslashes are kept as they are: SQL and JSON stay readable.
pub fn text(out: &mut String, bytes: &[u8]) {
    // Nearly all text is plain ASCII: one pass to see that, one copy.
    if bytes.iter().all(|&b| (b' '..0x7f).contains(&b))
        && let Ok(plain) = std::str::from_utf8(bytes)
    {
        out.push_str(plain);
        return;
    }
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\n' => out.push_str("\\n"),
                '\t' => out.push_str("\\t"),
                '\r' => out.push_str("\\r"),
                c if c.is_ascii_control() => hex(out, c as u8),
                c if harmful(c) => {
                    let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
                }
                c => out.push(c),
            }
        }
        chunk.invalid().iter().for_each(|&b| hex(out, b));
    }
}

/// A thread's name as the kernel gives it: up to the first NUL, escaped.
pub fn comm(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    let mut out = String::with_capacity(end);
    text(&mut out, &bytes[..end]);
    out
}

/// Appends `bytes` as the inside of a JSON string (no quotes around it).
///
/// Valid UTF-8 comes back from any JSON reader as it was; bytes that are not become the four
/// characters `\xNN` (JSON has no way to say a byte). Characters that a terminal would obey are
/// written as `\uNNNN`, so a JSON stream that is printed is harmless too.
pub fn json(out: &mut Vec<u8>, bytes: &[u8]) {
    for chunk in bytes.utf8_chunks() {
        json_str(out, chunk.valid());
        for &b in chunk.invalid() {
            out.extend_from_slice(b"\\\\x");
            out.push(HEX[usize::from(b >> 4)]);
            out.push(HEX[usize::from(b & 15)]);
        }
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

fn json_str(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    // Runs of harmless bytes are copied at once; only what lies between them is looked at.
    let mut start = 0;
    let mut i = 0;
    while i < bytes.len() {
        let b = bytes[i];
        if (b' '..0x7f).contains(&b) && b != b'"' && b != b'\\' {
            i += 1;
            continue;
        }
        let (character, len) = if b < 0x80 {
            (char::from(b), 1)
        } else {
            let c = text[i..].chars().next().unwrap_or('\u{fffd}');
            (c, c.len_utf8())
        };
        if b < 0x80 || harmful(character) {
            out.extend_from_slice(&bytes[start..i]);
            match character {
                '"' => out.extend_from_slice(b"\\\""),
                '\\' => out.extend_from_slice(b"\\\\"),
                '\n' => out.extend_from_slice(b"\\n"),
                '\t' => out.extend_from_slice(b"\\t"),
                '\r' => out.extend_from_slice(b"\\r"),
                // All that reach here lie in the basic plane: `harmful` names none beyond it.
                c => {
                    let code = u32::from(c);
                    out.extend_from_slice(b"\\u");
                    for shift in [12, 8, 4, 0] {
                        out.push(HEX[(code >> shift & 15) as usize]);
                    }
                }
            }
            start = i + len;
        }
        i += len;
    }
    out.extend_from_slice(&bytes[start..]);
}

/// Characters beyond ASCII that a terminal obeys: C1 controls (U+009B starts an escape sequence),
/// line separators, and the marks that reorder or hide text.
fn harmful(c: char) -> bool {
    matches!(c, '\u{80}'..='\u{9f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{61c}' | '\u{fff9}'..='\u{fffb}')
}

fn hex(out: &mut String, b: u8) {
    let _ = write!(out, "\\x{b:02x}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(bytes: &[u8]) -> String {
        let mut out = String::new();
        text(&mut out, bytes);
        out
    }

    fn through_json(bytes: &[u8]) -> String {
        let mut out = vec![b'"'];
        json(&mut out, bytes);
        out.push(b'"');
        serde_json::from_slice(&out).expect("valid JSON")
    }

    #[test]
    fn a_target_cannot_write_to_the_terminal() {
        assert_eq!(shown(b"\x1b]0;owned\x07"), "\\x1b]0;owned\\x07");
        assert_eq!(shown("\u{9b}31mred".as_bytes()), "\\u{9b}31mred");
        assert_eq!(shown("a\u{202e}b".as_bytes()), "a\\u{202e}b");
        assert_eq!(shown(b"a\0b\x7f"), "a\\x00b\\x7f");
        assert_eq!(shown(b"\xff\xc3("), "\\xff\\xc3(");
        assert_eq!(shown(b"SELECT\n\t1\r"), "SELECT\\n\\t1\\r");
        // No byte at all gets through that is not printable.
        let all: Vec<u8> = (0..=255).collect();
        assert!(shown(&all).bytes().all(|b| (b' '..0x7f).contains(&b)));
    }

    #[test]
    fn ordinary_text_is_left_alone() {
        assert_eq!(
            shown("Zürich 東京 C:\\temp".as_bytes()),
            "Zürich 東京 C:\\temp"
        );
        assert_eq!(comm(b"King\0garbage"), "King");
        assert_eq!(comm(b"exactly16bytes!!"), "exactly16bytes!!");
    }

    #[test]
    fn json_gives_back_what_was_captured() {
        for text in [
            "plain",
            "q\"uo\\te",
            "\u{1b}[0m\n\t\r\0\u{7f}",
            "\u{9b}\u{202e}",
            "Zürich 東京 🦀",
            "",
        ] {
            assert_eq!(through_json(text.as_bytes()), text);
        }
        assert_eq!(through_json(b"a\xffb\xc3"), "a\\xffb\\xc3");
    }

    #[test]
    fn json_on_a_terminal_is_harmless() {
        let mut out = Vec::new();
        json(&mut out, "\u{1b}[2J\u{9b}2J\u{202e}\u{7f}\0".as_bytes());
        assert!(
            out.iter().all(|b| (b' '..0x7f).contains(b)),
            "{}",
            String::from_utf8_lossy(&out)
        );
    }
}
