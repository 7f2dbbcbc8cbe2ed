//! Numbers, durations, sizes, characters and texts.

/// Units of time, in nanoseconds.
const DURATIONS: &[(&str, u64)] = &[
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];
/// Units of size, in bytes: binary multiples alone, as memory is counted.
const SIZES: &[(&str, u64)] = &[
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// What is wrong with a literal: message and what to do.
pub(crate) type Wrong = (String, Option<String>);

/// `10ms`, `1.5s`; a bare `0` needs no unit. In nanoseconds.
pub(crate) fn duration(text: &str) -> Result<u64, Wrong> {
    with_unit(text, DURATIONS)?.ok_or_else(|| {
        (
            format!("`{text}` is not a duration"),
            Some("write a number and ns, us, ms, s, m or h: 10ms".to_owned()),
        )
    })
}

/// `4KiB`, `1MiB`; a bare number is bytes.
pub(crate) fn size(text: &str) -> Result<u64, Wrong> {
    if let Ok(bytes) = text.replace('_', "").parse() {
        return Ok(bytes);
    }
    with_unit(text, SIZES)?.ok_or_else(|| {
        (
            format!("`{text}` is not a size"),
            Some("write a number and B, KiB, MiB, GiB or TiB: 4KiB".to_owned()),
        )
    })
}

/// A number with one of the units; `None` when it is not of that form.
fn with_unit(text: &str, units: &[(&str, u64)]) -> Result<Option<u64>, Wrong> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.' && c != '_')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    if number.is_empty() || !number.starts_with(|c: char| c.is_ascii_digit()) {
        return Ok(None);
    }
    let number = number.replace('_', "");
    if unit.is_empty() {
        return Ok((number.trim_matches('0').is_empty()).then_some(0));
    }
    let Some((_, scale)) = units.iter().find(|(name, _)| *name == unit) else {
        return Ok(None);
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((&number, ""));
    if fraction.len() > 9 || fraction.contains('.') || (number.contains('.') && fraction.is_empty())
    {
        return Ok(None);
    }
    let too_large = || (format!("`{text}` does not fit in 64 bits"), None);
    let whole: u64 = whole.parse().map_err(|_| too_large())?;
    let base = whole.checked_mul(*scale).ok_or_else(too_large)?;
    let parts: u64 = if fraction.is_empty() {
        0
    } else {
        fraction.parse().map_err(|_| too_large())?
    };
    // At most 9 digits times at most 2^42: fits u128 with room.
    let extra = u128::from(parts) * u128::from(*scale) / 10u128.pow(fraction.len() as u32);
    base.checked_add(extra as u64)
        .map(Some)
        .ok_or_else(too_large)
}

/// An integer, duration or size as it stands in an expression. The second value tells whether it is a plain
/// integer.
pub(super) fn number(text: &str) -> Result<u64, Wrong> {
    let too_large = || {
        (
            format!("the constant `{text}` is too large: it needs more than 64 bits"),
            None,
        )
    };
    let plain: String = text.chars().filter(|c| *c != '_').collect();
    // C's suffixes change nothing here: everything is computed on 64 bits.
    let unsuffixed = plain.trim_end_matches(['u', 'U', 'l', 'L']);
    let radix = |digits: &str, radix: u32, name: &str| {
        if digits.is_empty() || digits.chars().any(|c| !c.is_digit(radix)) {
            return Err((format!("`{text}` is not {name} number"), None));
        }
        u64::from_str_radix(digits, radix).map_err(|_| too_large())
    };
    if let Some(hex) = unsuffixed
        .strip_prefix("0x")
        .or_else(|| unsuffixed.strip_prefix("0X"))
    {
        return radix(hex, 16, "a hexadecimal");
    }
    if let Some(binary) = unsuffixed
        .strip_prefix("0b")
        .or_else(|| unsuffixed.strip_prefix("0B"))
    {
        return radix(binary, 2, "a binary");
    }
    if unsuffixed.bytes().all(|b| b.is_ascii_digit()) {
        if unsuffixed.len() > 1 && unsuffixed.starts_with('0') {
            return radix(&unsuffixed[1..], 8, "an octal");
        }
        return unsuffixed.parse().map_err(|_| too_large());
    }
    if let Some(v) = with_unit(text, DURATIONS)? {
        return Ok(v);
    }
    if let Some(v) = with_unit(text, SIZES)? {
        return Ok(v);
    }
    if text.contains('.') {
        return Err((
            format!("`{text}`: there are no fractions"),
            Some("values are 64-bit integers; 1.5ms and 1.5KiB are fine".to_owned()),
        ));
    }
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let lower = unit.to_ascii_lowercase();
    let help = match lower.as_str() {
        "k" | "kb" => format!("1024 bytes are KiB: `{number}KiB`"),
        "mb" => format!("1048576 bytes are MiB: `{number}MiB`"),
        "g" | "gb" => format!("2 to the 30th bytes are GiB: `{number}GiB`"),
        "sec" | "second" | "seconds" => format!("write `{number}s`"),
        "msec" => format!("write `{number}ms`"),
        "usec" => format!("write `{number}us`"),
        _ => "a number may end with ns, us, ms, s, m, h or with B, KiB, MiB, GiB, TiB".to_owned(),
    };
    Err((
        format!("`{text}` is not a number: unknown unit `{unit}`"),
        Some(help),
    ))
}

/// The inside of a literal in quotes, with its escapes resolved.
pub(super) fn unescape(inside: &str) -> Result<Vec<u8>, Wrong> {
    let mut out = Vec::with_capacity(inside.len());
    let mut chars = inside.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        match chars.next() {
            Some('n') => out.push(b'\n'),
            Some('t') => out.push(b'\t'),
            Some('r') => out.push(b'\r'),
            Some('0') => out.push(0),
            Some(c @ ('\\' | '"' | '\'')) => out.push(c as u8),
            Some('x') => {
                let digits: String = chars.by_ref().take(2).collect();
                match u8::from_str_radix(&digits, 16) {
                    Ok(b) if digits.len() == 2 => out.push(b),
                    _ => {
                        return Err((
                            format!("`\\x{digits}`: two hexadecimal digits must follow `\\x`"),
                            None,
                        ));
                    }
                }
            }
            other => {
                let c = other.map(String::from).unwrap_or_default();
                return Err((
                    format!("`\\{c}` is no escape"),
                    Some("escapes are \\n \\t \\r \\0 \\\\ \\\" \\' and \\xHH".to_owned()),
                ));
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (text, value) in [
            ("0", 0),
            ("007", 7),
            ("010", 8),
            ("0x1F", 31),
            ("0b101", 5),
            ("1_000", 1000),
            ("7UL", 7),
            ("10ms", 10_000_000),
            ("1.5us", 1500),
            ("2m", 120_000_000_000),
            ("4KiB", 4096),
            ("1.5KiB", 1536),
            ("18446744073709551615", u64::MAX),
            ("0xffffffffffffffff", u64::MAX),
        ] {
            assert_eq!(number(text), Ok(value), "{text}");
        }
        for (text, message) in [
            ("18446744073709551616", "too large"),
            ("0x1ffffffffffffffff", "too large"),
            ("99999999999999h", "64 bits"),
            ("10MB", "unknown unit `MB`"),
            ("12abc", "unknown unit `abc`"),
            ("1.5", "no fractions"),
            ("0x", "not a hexadecimal"),
            ("09", "not an octal"),
            ("0b2", "not a binary"),
        ] {
            let (found, _) = number(text).unwrap_err();
            assert!(found.contains(message), "{text}: {found}");
        }
    }

    #[test]
    fn durations_and_sizes() {
        assert_eq!(duration("0"), Ok(0));
        assert_eq!(duration("0s"), Ok(0));
        assert!(duration("5").is_err());
        assert!(duration("ten").is_err());
        assert!(duration("-1s").is_err());
        assert_eq!(size("512"), Ok(512));
        assert_eq!(size("64KiB"), Ok(65536));
        assert!(size("1ms").is_err());
        assert!(size("1.2.3KiB").is_err());
        assert!(size("").is_err());
    }

    #[test]
    fn escapes() {
        assert_eq!(
            unescape(r#"a\n\x41\\\"é"#),
            Ok("a\nA\\\"é".as_bytes().to_vec())
        );
        assert!(unescape(r"\q").is_err());
        assert!(unescape(r"\x1").is_err());
        assert!(unescape(r"\xé").is_err());
    }
}
