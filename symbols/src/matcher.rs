//! Patterns ready to be held against many names.

use regex_lite::{Regex, RegexBuilder};

use crate::demangle::{demangle, is_mangled, squeeze, without_generics, without_parameters};
use crate::error::{Error, Result};
use crate::pattern::Pattern;

/// How large the program of a regular expression may get, in bytes.
const REGEX_LIMIT: usize = 1 << 20;

/// A regular expression of the pattern TEXT.
pub(crate) fn regex(text: &str, expression: &str) -> Result<Regex> {
    let bad = |why: String| Error::BadPattern {
        pattern: text.to_owned(),
        why,
    };
    if expression.is_empty() {
        return Err(bad(
            "there is nothing between the slashes, as there is in /^ngx_.*close/".into(),
        ));
    }
    let mut builder = RegexBuilder::new(expression);
    let built = builder.size_limit(REGEX_LIMIT).build();
    built.map_err(|error| bad(format!("the regular expression is wrong: {error}")))
}

/// A glob.
pub(crate) fn compile(text: &str) -> Result<glob::Pattern> {
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

/// One way of comparing.
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
    /// All instances of a template or generic function.
    Generic {
        text: String,
        hint: String,
    },
    /// A clone that the compiler made for some arguments: `f.isra.0` for `f`.
    Clone(String),
    DemangledGlob {
        glob: glob::Pattern,
        has_parameters: bool,
    },
    Regex(Regex),
}

impl Matcher {
    /// The matchers to try in order; the first that finds anything wins.
    pub(crate) fn for_pattern(pattern: &Pattern) -> Result<Vec<Self>> {
        Ok(match pattern {
            Pattern::Exact(name) => {
                let mut tries = vec![Self::Raw(name.clone())];
                if !is_mangled(name.as_bytes()) {
                    tries.push(Self::demangled(name, true));
                    tries.push(Self::generic(name));
                }
                tries.push(Self::Clone(name.clone()));
                tries
            }
            Pattern::Versioned { name, .. } => vec![Self::Raw(name.clone())],
            Pattern::Regex(expression) => {
                vec![Self::Regex(regex(&format!("/{expression}/"), expression)?)]
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
                if !text.contains(['<', '(']) {
                    tries.push(Self::generic(text));
                }
                tries
            }
            Pattern::Address(_) | Pattern::Line { .. } | Pattern::Usdt { .. } => Vec::new(),
            Pattern::Offset { base, .. } | Pattern::Inlined(base) => Self::for_pattern(base)?,
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

    fn generic(text: &str) -> Self {
        Self::Generic {
            text: squeeze(text),
            hint: last_identifier(text).to_owned(),
        }
    }

    /// Whether it compares whole names as they stand in the file.
    pub(crate) fn is_raw(&self) -> bool {
        matches!(self, Self::Raw(_))
    }

    pub(crate) fn matches(&self, name: &[u8]) -> bool {
        match self {
            Self::Raw(wanted) => name == wanted.as_bytes(),
            Self::Clone(wanted) => is_clone_of(name, wanted.as_bytes()),
            Self::Regex(regex) => {
                let text = String::from_utf8_lossy(name);
                regex.is_match(&text)
                    || is_mangled(name) && demangle(&text).is_some_and(|full| regex.is_match(&full))
            }
            Self::Generic { text, hint } => {
                is_mangled(name)
                    && contains(name, hint.as_bytes())
                    && std::str::from_utf8(name)
                        .ok()
                        .and_then(demangle)
                        .is_some_and(|full| {
                            squeeze(&without_generics(without_parameters(&full))) == *text
                        })
            }
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

/// GCC and LLVM name clones by suffixes: `f.isra.0`, `f.constprop.3`, `f.llvm.1234`.
fn is_clone_of(name: &[u8], base: &[u8]) -> bool {
    let Some(suffix) = name.strip_prefix(base).and_then(|s| s.strip_prefix(b".")) else {
        return false;
    };
    let mut words = suffix.split(|b| *b == b'.');
    words.all(|word| {
        [&b"isra"[..], b"constprop", b"llvm", b"lto_priv"].contains(&word)
            || (!word.is_empty() && word.iter().all(u8::is_ascii_hexdigit))
    })
}

fn contains(name: &[u8], part: &[u8]) -> bool {
    part.is_empty()
        || part.len() <= name.len() && name.windows(part.len()).any(|window| window == part)
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
