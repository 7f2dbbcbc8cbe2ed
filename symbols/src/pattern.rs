//! How a user names functions: one text, read as a name, a glob, a signature, an address or an offset.

use std::borrow::Cow;

use crate::error::{Error, Result};
use crate::matcher;

/// What functions without a name are called, before their address.
pub(crate) const NAMELESS: &str = "fn_";

/// What functions are asked for.
///
/// ```
/// use uprof_symbols::Pattern;
/// assert_eq!(Pattern::parse("malloc")?, Pattern::Exact("malloc".into()));
/// assert_eq!(Pattern::parse("_ZN*")?, Pattern::Glob("_ZN*".into()));
/// assert_eq!(Pattern::parse("ns::f(int, char*)")?, Pattern::Demangled("ns::f(int, char*)".into()));
/// assert_eq!(Pattern::parse("malloc+0x4")?.offset(), Some(4));
/// # Ok::<(), uprof_symbols::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Pattern {
    /// A name as it stands in the symbol table; where none is, a demangled name without parameters.
    Exact(String),
    /// `*`, `?` and `[a-z]`, matched against raw names, or against demangled ones if it has `::`, `(` or a space.
    Glob(String),
    /// A demangled C++ or Rust name, with or without parameters. White space does not count.
    Demangled(String),
    /// A regular expression between slashes, matched against raw names and against demangled ones.
    Regex(String),
    /// A name with the version of a library's interface that it belongs to.
    Versioned {
        /// The name.
        name: String,
        /// The version, e.g. `GLIBC_2.14`.
        version: String,
        /// Written with `@@`: only if it is the version that new programs get.
        default: bool,
    },
    /// A line of a source file: the statements on it.
    Line {
        /// The file's name, or the end of its path.
        file: String,
        /// The line, counted from 1.
        line: u32,
    },
    /// A static probe that the program's authors put there (`usdt:PROVIDER:NAME`).
    Usdt {
        /// Who provides it; a glob.
        provider: String,
        /// Its name; a glob.
        name: String,
    },
    /// Only the copies of a function that the compiler put in line (`NAME@inlined`).
    Inlined(Box<Pattern>),
    /// A virtual address in the file: the function that it lies in, and the offset in it.
    Address(u64),
    /// Bytes past the start of what the base names.
    Offset {
        /// What names the function.
        base: Box<Pattern>,
        /// How many bytes past its start.
        add: u64,
    },
}

impl Pattern {
    /// Reads what a user typed:
    ///
    /// | text | names |
    /// |---|---|
    /// | `malloc`, `_ZN2ns1fEi` | the function of that name; `ns::f` as well, if it is C++ or Rust |
    /// | `ns::f(int, char*)`, `<S as Trait>::act` | the function of that signature |
    /// | `*alloc*`, `ns::*` | all whose names fit |
    /// | `/^ngx_.*close/` | all whose names the regular expression finds, raw or demangled |
    /// | `memcpy@GLIBC_2.14`, `memcpy@@GLIBC_2.14` | that version of it (with `@@`: if it is the default) |
    /// | `malloc+0x10`, `0x401000` | an instruction |
    /// | `fn_0x401000` | the function at that address, which has no name |
    /// | `server.c:123`, `src/server.c:123` | the statements of a line |
    /// | `usdt:PROVIDER:NAME` | static probes; both may be globs |
    /// | `malloc@plt` | this file's stub for calling it |
    /// | `f@inlined` | the copies of it that were put in line |
    ///
    /// # Errors
    /// [`Error::BadPattern`]: none of these, or not whole.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        if text.is_empty() {
            return Err(bad(text, "it is empty"));
        }
        if let Some(rest) = text.strip_prefix("usdt:") {
            return static_probe(text, rest);
        }
        if let Some(address) = text
            .strip_prefix("0x")
            .and_then(|hex| u64::from_str_radix(hex, 16).ok())
        {
            return Ok(Self::Address(address));
        }
        if let Some(expression) = text.strip_prefix('/').and_then(|t| t.strip_suffix('/')) {
            matcher::regex(text, expression)?;
            return Ok(Self::Regex(expression.to_owned()));
        }
        if let Some(line) = source_line(text)? {
            return Ok(line);
        }
        if text.starts_with('/') {
            return Err(bad(
                text,
                "a regular expression ends in a slash as well, as in /^ngx_.*close/; a source line in its number, as in /src/nginx.c:88",
            ));
        }
        if let Some((base, add)) = text.rsplit_once('+')
            && let Some(add) = number(add.trim())
            && !base.trim_end().ends_with("operator")
        {
            let base = Self::parse(base)?;
            if !base.names_functions() {
                return Err(bad(
                    text,
                    "an offset is counted from a function, as in malloc+0x10",
                ));
            }
            return Ok(Self::Offset {
                base: Box::new(base),
                add,
            });
        }
        if let Some((base, mark)) = text.split_once('@') {
            return marked(text, base, mark);
        }
        if has_glob_characters(text) {
            matcher::compile(text)?;
            return Ok(Self::Glob(text.to_owned()));
        }
        let plain = text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_.$".contains(&b) || b >= 0x80);
        Ok(if plain {
            Self::Exact(text.to_owned())
        } else {
            Self::Demangled(text.to_owned())
        })
    }

    /// Whether it names functions by their names.
    fn names_functions(&self) -> bool {
        matches!(
            self,
            Self::Exact(_)
                | Self::Glob(_)
                | Self::Demangled(_)
                | Self::Regex(_)
                | Self::Versioned { .. }
        )
    }

    /// The version asked for, and whether it has to be the one that new programs are linked with.
    pub(crate) fn version(&self) -> Option<(&str, bool)> {
        match self {
            Self::Versioned {
                version, default, ..
            } => Some((version, *default)),
            Self::Offset { base, .. } => base.version(),
            _ => None,
        }
    }

    /// The bytes past the function's start, if the user gave some.
    pub fn offset(&self) -> Option<u64> {
        match self {
            Self::Offset { add, .. } => Some(*add),
            _ => None,
        }
    }

    /// The text to look for near names with.
    pub fn text(&self) -> Cow<'_, str> {
        match self {
            Self::Exact(text) | Self::Glob(text) | Self::Demangled(text) => Cow::Borrowed(text),
            Self::Address(address) => Cow::Owned(format!("{address:#x}")),
            Self::Offset { base, .. } | Self::Inlined(base) => base.text(),
            Self::Regex(text) => Cow::Borrowed(text),
            Self::Versioned { name, .. } => Cow::Borrowed(name),
            Self::Line { .. } | Self::Usdt { .. } => Cow::Owned(self.to_string()),
        }
    }
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact(text) | Self::Glob(text) | Self::Demangled(text) => f.write_str(text),
            Self::Regex(text) => write!(f, "/{text}/"),
            Self::Versioned {
                name,
                version,
                default,
            } => write!(f, "{name}{}{version}", if *default { "@@" } else { "@" }),
            Self::Line { file, line } => write!(f, "{file}:{line}"),
            Self::Usdt { provider, name } => write!(f, "usdt:{provider}:{name}"),
            Self::Inlined(base) => write!(f, "{base}@inlined"),
            Self::Address(address) => write!(f, "{address:#x}"),
            Self::Offset { base, add } => write!(f, "{base}+{add:#x}"),
        }
    }
}

fn bad(pattern: &str, why: &str) -> Error {
    Error::BadPattern {
        pattern: pattern.to_owned(),
        why: why.to_owned(),
    }
}

/// `usdt:PROVIDER:NAME`.
fn static_probe(text: &str, rest: &str) -> Result<Pattern> {
    let parts: Vec<&str> = rest.split(':').collect();
    let [provider, name] = parts[..] else {
        return Err(bad(
            text,
            "a static probe has a provider and a name, as in usdt:libc:memory_sbrk_more or usdt:python:function__*",
        ));
    };
    let or_any = |part: &str| match part {
        "" => "*".to_owned(),
        part => part.to_owned(),
    };
    matcher::compile(provider)?;
    matcher::compile(name)?;
    Ok(Pattern::Usdt {
        provider: or_any(provider),
        name: or_any(name),
    })
}

/// `server.c:123`; a colon of C++ or Rust (`ns::f`) is none of these.
fn source_line(text: &str) -> Result<Option<Pattern>> {
    let Some((file, line)) = text.rsplit_once(':') else {
        return Ok(None);
    };
    let digits = !line.is_empty() && line.bytes().all(|b| b.is_ascii_digit());
    if !digits || file.is_empty() || file.contains("::") || file.ends_with(':') {
        return Ok(None);
    }
    match line.parse() {
        Ok(line) if line > 0 => Ok(Some(Pattern::Line {
            file: file.to_owned(),
            line,
        })),
        _ => Err(bad(text, "lines are counted from 1, as in server.c:123")),
    }
}

/// What an `@` says of the name before it: a version, or which copies of the function are meant.
fn marked(text: &str, base: &str, mark: &str) -> Result<Pattern> {
    const FORMS: &str = "what follows @ is a version, plt or inlined, as in memcpy@GLIBC_2.14, memcpy@@GLIBC_2.14, malloc@plt, parse@inlined";
    if base.is_empty() {
        return Err(bad(text, FORMS));
    }
    let (version, default) = match mark.strip_prefix('@') {
        Some(version) => (version, true),
        None => (mark, false),
    };
    let globbed = has_glob_characters(base);
    match mark {
        "inlined" => {
            let base = Pattern::parse(base)?;
            let named = base.names_functions() && base.version().is_none();
            return match named {
                true => Ok(Pattern::Inlined(Box::new(base))),
                false => Err(bad(
                    text,
                    "only a function can be inlined, as in parse@inlined",
                )),
            };
        }
        "plt" if globbed => return Ok(Pattern::Glob(text.to_owned())),
        "plt" => return Ok(Pattern::Exact(text.to_owned())),
        _ => {}
    }
    let plain = |text: &str| {
        text.bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_.-+".contains(&b))
    };
    if version.is_empty() || !plain(version) || globbed {
        return Err(bad(text, FORMS));
    }
    Ok(Pattern::Versioned {
        name: base.to_owned(),
        version: version.to_owned(),
        default,
    })
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// Whether `*`, `?` or `[` stand where they cannot be part of a C++ type or operator:
/// `f(char*)`, `A<char*>::g` and `operator[]` are names.
fn has_glob_characters(text: &str) -> bool {
    let mut depth = 0;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '<' | '(' => depth += 1,
            '>' | ')' => depth -= 1,
            '*' | '?' | '[' if depth <= 0 => return true,
            'o' if rest.starts_with("perator") => {
                rest = rest["perator".len()..]
                    .trim_start_matches(|c: char| "<>()[]*=+-/%^&|!~".contains(c));
            }
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_as_what_they_are() {
        let cases = [
            ("malloc", Pattern::Exact("malloc".into())),
            (
                "memcpy@GLIBC_2.14",
                Pattern::Versioned {
                    name: "memcpy".into(),
                    version: "GLIBC_2.14".into(),
                    default: false,
                },
            ),
            ("*malloc*", Pattern::Glob("*malloc*".into())),
            ("ns::*", Pattern::Glob("ns::*".into())),
            ("f[0-9]", Pattern::Glob("f[0-9]".into())),
            ("f(char*)", Pattern::Demangled("f(char*)".into())),
            ("A<char*>::g", Pattern::Demangled("A<char*>::g".into())),
            ("A::operator[]", Pattern::Demangled("A::operator[]".into())),
            ("A::operator*", Pattern::Demangled("A::operator*".into())),
            ("0x401000", Pattern::Address(0x401000)),
            (
                "f+16",
                Pattern::Offset {
                    base: Box::new(Pattern::Exact("f".into())),
                    add: 16,
                },
            ),
            (
                "f+0x10",
                Pattern::Offset {
                    base: Box::new(Pattern::Exact("f".into())),
                    add: 16,
                },
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(Pattern::parse(text).unwrap(), expected, "{text}");
        }
        assert!(Pattern::parse("  ").is_err());
        let error = Pattern::parse("f[abc").unwrap_err().to_string();
        assert!(error.contains("f[abc"), "{error}");
    }
}
