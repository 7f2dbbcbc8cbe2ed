//! From patterns to functions.

use super::symbols::Symbols;
use super::{Function, Image};
use crate::demangle::{demangle, without_parameters};
use crate::error::{Error, Result};
use crate::pattern::{Matcher, Pattern};

impl Image {
    fn named(&self) -> Result<&Symbols> {
        let symbols = self.symbols()?;
        if symbols.is_empty() {
            let why = if self.elf.headers.has_sections() {
                "it is stripped and exports nothing; an unstripped build, or its debug package, has the names"
            } else {
                "its section headers are stripped away"
            };
            return Err(Error::NoFunctions {
                path: self.elf.path.clone(),
                why,
            });
        }
        Ok(symbols)
    }

    /// All functions, by address: aliases are one, undefined symbols and IFUNC resolvers are left out.
    ///
    /// # Errors
    /// The tables cannot be read or are damaged; the file names no function ([`Error::NoFunctions`]).
    pub fn functions(&self) -> Result<Vec<Function>> {
        let symbols = self.named()?;
        Ok(symbols
            .groups()
            .map(|group| symbols.function(&self.elf.headers, group, |_| false))
            .collect())
    }

    /// The functions that a pattern names, by address; empty where there is none.
    /// For [`Pattern::Offset`] the functions of its base, for [`Pattern::Address`] the one around it.
    ///
    /// # Errors
    /// As [`Image::functions`], and [`Error::BadPattern`].
    pub fn find(&self, pattern: &Pattern) -> Result<Vec<Function>> {
        let matchers = Matcher::for_pattern(pattern)?;
        let symbols = self.named()?;
        if let Pattern::Address(address) = pattern {
            let function = symbols.around(&self.elf.headers, *address);
            return Ok(function.into_iter().collect());
        }
        for matcher in matchers {
            let found: Vec<Function> = symbols
                .groups()
                .filter(|group| {
                    group
                        .iter()
                        .any(|symbol| matcher.matches(symbols.name(symbol)))
                })
                .map(|group| {
                    symbols.function(&self.elf.headers, group, |name| matcher.matches(name))
                })
                .collect();
            if !found.is_empty() {
                return Ok(found);
            }
        }
        Ok(Vec::new())
    }

    /// Names that match but belong to indirect functions (STT_GNU_IFUNC): what stands there is a resolver
    /// that picks the code to run, so a probe would count resolutions, not calls.
    pub fn find_ifuncs(&self, pattern: &Pattern) -> Result<Vec<String>> {
        let matchers = Matcher::for_pattern(pattern)?;
        let symbols = self.symbols()?;
        for matcher in matchers {
            let mut names: Vec<String> = symbols
                .ifuncs()
                .map(|symbol| symbols.name(symbol))
                .filter(|name| matcher.matches(name))
                .map(|name| String::from_utf8_lossy(name).into_owned())
                .collect();
            if !names.is_empty() {
                names.sort();
                names.dedup();
                return Ok(names);
            }
        }
        Ok(Vec::new())
    }

    /// Up to COUNT names like NAME, best first: those that contain it (without regard to case), then similar ones.
    /// Mangled names are given demangled. For error messages: it reads and demangles every name.
    pub fn nearest(&self, name: &str, count: usize) -> Vec<String> {
        let Ok(symbols) = self.symbols() else {
            return Vec::new();
        };
        let trimmed = without_parameters(name)
            .trim_matches(['*', '?'])
            .to_lowercase();
        let wanted = if trimmed.is_empty() {
            name.to_lowercase()
        } else {
            trimmed
        };
        let mut scored: Vec<(f64, String)> = symbols
            .groups()
            .flat_map(|group| group.iter().map(|symbol| symbols.name(symbol)))
            .map(|raw| {
                let raw = String::from_utf8_lossy(raw);
                let shown = demangle(&raw).unwrap_or_else(|| raw.into_owned());
                (
                    likeness(&wanted, &without_parameters(&shown).to_lowercase()),
                    shown,
                )
            })
            .filter(|(score, _)| *score > 0.8)
            .collect();
        scored.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        scored.dedup_by(|a, b| a.1 == b.1);
        scored
            .into_iter()
            .take(count)
            .map(|(_, shown)| shown)
            .collect()
    }

    /// Whether NAME is a function (or IFUNC) defined here: exported, or named in `.symtab`.
    pub fn defines(&self, name: &str) -> Result<bool> {
        Ok(self.symbols()?.defines(name.as_bytes(), false))
    }

    /// Whether NAME is a function that other objects of the process can bind to.
    pub fn exports(&self, name: &str) -> Result<bool> {
        Ok(self.symbols()?.defines(name.as_bytes(), true))
    }

    /// Whether it uses a symbol NAME of some other object (an undefined entry in `.dynsym`).
    pub fn imports(&self, name: &str) -> Result<bool> {
        Ok(self.symbols()?.imports(name.as_bytes()))
    }

    /// The address of an exported symbol of any kind, in the file's own terms.
    pub(crate) fn exported_address(&self, name: &str) -> Option<u64> {
        self.symbols().ok()?.exported_address(name.as_bytes())
    }
}

/// 0 to 2: above 1 where one name contains the other (the closer in length the better), else strsim's likeness.
fn likeness(wanted: &str, name: &str) -> f64 {
    let base = name.rsplit("::").next().unwrap_or(name);
    if name.contains(wanted) {
        return 1.0 + wanted.len() as f64 / name.len().max(1) as f64;
    }
    strsim::jaro_winkler(wanted, base).max(strsim::jaro_winkler(wanted, name))
}
