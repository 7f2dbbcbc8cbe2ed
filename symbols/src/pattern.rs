//! How a user names functions: one text, read as a name, a glob, a signature, an address or an offset.

use std::borrow::Cow;

use crate::demangle::{demangle, is_mangled, squeeze, without_parameters};
use crate::error::{Error, Result};

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
    /// Reads what a user typed.
    ///
    /// # Errors
    /// [`Error::BadPattern`]: nothing at all, or a glob with an unclosed bracket.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        let bad = |why: &str| Error::BadPattern {
            pattern: text.to_owned(),
            why: why.to_owned(),
        };
        if text.is_empty() {
            return Err(bad("it is empty"));
        }
        if let Some(address) = text
            .strip_prefix("0x")
            .and_then(|hex| u64::from_str_radix(hex, 16).ok())
        {
            return Ok(Self::Address(address));
        }
        if let Some((base, add)) = text.rsplit_once('+')
            && let Some(add) = number(add.trim())
            && !base.trim_end().ends_with("operator")
        {
            return Ok(Self::Offset {
                base: Box::new(Self::parse(base)?),
                add,
            });
        }
        if has_glob_characters(text) {
            compile(text)?;
            return Ok(Self::Glob(text.to_owned()));
        }
        let plain = text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_.$@".contains(&b) || b >= 0x80);
        Ok(if plain {
            Self::Exact(text.to_owned())
        } else {
            Self::Demangled(text.to_owned())
        })
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
            Self::Regex(_) | Self::Versioned { .. } | Self::Line { .. } | Self::Usdt { .. } => {
                Cow::Owned(self.to_string())
            }
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

fn compile(text: &str) -> Result<glob::Pattern> {
    // "**" means directories to the crate; here two stars are no more than one.
    let mut once = text.to_owned();
    while once.contains("**") {
        once = once.replace("**", "*");
    }
    glob::Pattern::new(&once).map_err(|e| Error::BadPattern {
        pattern: text.to_owned(),
        why: e.msg.to_owned(),
    })
}

/// A pattern ready to be held against many names.
pub(crate) enum Matcher {
    Raw(String),
    RawGlob {
        literal: String,
        glob: glob::Pattern,
    },
    Demangled {
        text: String,
        has_parameters: bool,
        hint: String,
    },
    DemangledGlob {
        glob: glob::Pattern,
        has_parameters: bool,
    },
}

impl Matcher {
    /// The matchers to try in order; the first that finds anything wins.
    pub(crate) fn for_pattern(pattern: &Pattern) -> Result<Vec<Self>> {
        Ok(match pattern {
            Pattern::Exact(name) => {
                let mut tries = vec![Self::Raw(name.clone())];
                if !is_mangled(name.as_bytes()) {
                    tries.push(Self::demangled(name, true));
                }
                tries
            }
            Pattern::Glob(text)
                if text.contains("::") || text.contains('(') || text.contains(' ') =>
            {
                vec![Self::DemangledGlob {
                    glob: compile(&squeeze(text))?,
                    has_parameters: text.contains('('),
                }]
            }
            Pattern::Glob(text) => {
                let literal = text
                    .split(['*', '?', '['])
                    .next()
                    .unwrap_or_default()
                    .to_owned();
                vec![Self::RawGlob {
                    literal,
                    glob: compile(text)?,
                }]
            }
            // Raw first: "foo.part.0"-like oddities and names with odd characters.
            Pattern::Demangled(text) => {
                let hinted = Self::demangled(text, true);
                let mut tries = vec![Self::Raw(text.clone())];
                // Abbreviations (St, Sa) can hide the word that the hint looks for: then all are demangled.
                if matches!(&hinted, Self::Demangled { hint, .. } if !hint.is_empty()) {
                    tries.push(hinted);
                }
                tries.push(Self::demangled(text, false));
                tries
            }
            Pattern::Address(_) | Pattern::Line { .. } | Pattern::Usdt { .. } => Vec::new(),
            Pattern::Regex(_) | Pattern::Versioned { .. } | Pattern::Inlined(_) => Vec::new(),
            Pattern::Offset { base, .. } => Self::for_pattern(base)?,
        })
    }

    fn demangled(text: &str, hinted: bool) -> Self {
        let hint = if hinted {
            last_identifier(text).to_owned()
        } else {
            String::new()
        };
        let squeezed = squeeze(text);
        let has_parameters =
            without_parameters(text).len() < text.trim_end().len() && text.contains('(');
        Self::Demangled {
            text: squeezed,
            has_parameters,
            hint,
        }
    }

    pub(crate) fn matches(&self, name: &[u8]) -> bool {
        match self {
            Self::Raw(wanted) => name == wanted.as_bytes(),
            Self::RawGlob { literal, glob } => {
                name.starts_with(literal.as_bytes()) && glob.matches(&String::from_utf8_lossy(name))
            }
            Self::Demangled {
                text,
                has_parameters,
                hint,
            } => {
                is_mangled(name)
                    && (hint.is_empty() || contains(name, hint.as_bytes()))
                    && std::str::from_utf8(name)
                        .ok()
                        .and_then(demangle)
                        .is_some_and(|full| {
                            let bare = squeeze(without_parameters(&full));
                            if *has_parameters {
                                let squeezed = squeeze(&full);
                                squeezed == *text
                                    || squeezed
                                        .find(&bare)
                                        .is_some_and(|at| squeezed[at..] == *text)
                            } else {
                                bare == *text
                            }
                        })
            }
            Self::DemangledGlob {
                glob,
                has_parameters,
            } => {
                is_mangled(name)
                    && std::str::from_utf8(name)
                        .ok()
                        .and_then(demangle)
                        .is_some_and(|full| {
                            glob.matches(&squeeze(if *has_parameters {
                                &full
                            } else {
                                without_parameters(&full)
                            }))
                        })
            }
        }
    }
}

fn contains(name: &[u8], part: &[u8]) -> bool {
    part.len() <= name.len() && name.windows(part.len()).any(|window| window == part)
}

/// The word that a mangled form must contain as it stands: the last component's identifier.
/// Empty where there is none (operators, closures).
fn last_identifier(text: &str) -> &str {
    let name = without_parameters(text);
    let mut depth = 0;
    let (mut start, mut end) = (0, name.len());
    let bytes = name.as_bytes();
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'<' => {
                if depth == 0 {
                    end = at;
                }
                depth += 1;
            }
            b'>' => depth -= 1,
            b':' if depth == 0 => (start, end) = (at + 1, name.len()),
            _ => {}
        }
    }
    let word = name
        .get(start..end)
        .unwrap_or_default()
        .trim()
        .trim_start_matches('~');
    let plain = !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if plain && !word.starts_with("operator") {
        word
    } else {
        ""
    }
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
                Pattern::Exact("memcpy@GLIBC_2.14".into()),
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

    fn finds(pattern: &str, name: &str) -> bool {
        let tries = Matcher::for_pattern(&Pattern::parse(pattern).unwrap()).unwrap();
        tries.iter().any(|matcher| matcher.matches(name.as_bytes()))
    }

    #[test]
    fn signatures_match_without_regard_to_white_space() {
        let dispatch = "_Z16dispatch_command19enum_server_commandP3THDPcjb";
        assert!(finds(
            "dispatch_command(enum_server_command, THD*, char*, unsigned int, bool)",
            dispatch
        ));
        assert!(finds(
            "dispatch_command(enum_server_command,THD *,char *,unsigned int,bool)",
            dispatch
        ));
        assert!(finds("dispatch_command", dispatch));
        assert!(finds(dispatch, dispatch));
        assert!(finds("dispatch_*(*THD*)", dispatch));
        assert!(!finds("dispatch_command(THD*)", dispatch));
        assert!(!finds("dispatch", dispatch));
        assert!(finds("ns::f", "_ZN2ns1fEi"));
        assert!(finds("ns::*", "_ZN2ns1fEi"));
        assert!(!finds("f", "_ZN2ns1fEi"));
        // template functions carry their return type in the symbol
        assert!(finds("f<int>", "_Z1fIiEvT_"));
        assert!(finds("f<int>(int)", "_Z1fIiEvT_"));
        assert!(finds("void f<int>(int)", "_Z1fIiEvT_"));
        assert!(finds(
            "core::fmt::write",
            "_ZN4core3fmt5write17h0123456789abcdefE"
        ));
        // St and Sa hide the words std and allocator
        assert!(finds("std::allocator<char>::allocator()", "_ZNSaIcEC1Ev"));
    }

    #[test]
    fn two_stars_are_one() {
        assert!(finds("**alloc**", "malloc"));
        assert!(finds("*/x?", "a/b/xy"));
    }
}
