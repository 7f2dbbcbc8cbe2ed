//! From patterns to functions.

use super::places::Places;
use super::symbols::Symbols;
use super::table::Entry;
use super::{Bounds, Function, Image, NameSource, Part};
use crate::demangle::{demangle, without_parameters};
use crate::eh_frame::EhFrame;
use crate::error::{Error, Result};
use crate::matcher::Matcher;
use crate::pattern::{NAMELESS, Pattern};
use crate::plt;

/// A version that a name has to have.
type Version<'a> = Option<(&'a str, bool)>;

impl Image {
    /// All functions, by address, from all sources of names: aliases are one, undefined symbols and IFUNC resolvers
    /// are left out. What has no name is called `fn_0xADDRESS`; stubs of the linkage table (`malloc@plt`) are
    /// marked as such.
    ///
    /// # Errors
    /// The own tables cannot be read or are damaged; the file shows no function at all ([`Error::NoFunctions`]).
    pub fn functions(&self) -> Result<Vec<Function>> {
        let (named, rest) = (self.named()?, self.rest()?);
        if named.is_empty() && rest.is_empty() {
            return Err(self.no_functions());
        }
        let all = |symbols: &Symbols| -> Vec<Function> {
            let groups = symbols.groups();
            groups
                .map(|group| self.complete(symbols.function(&self.elf.headers, group, |_| false)))
                .collect()
        };
        let mut functions = all(named);
        functions.extend(all(rest));
        functions.sort_by_key(|function| function.address);
        Ok(functions)
    }

    fn no_functions(&self) -> Error {
        Error::NoFunctions {
            path: self.elf.path.clone(),
            why: match self.elf.headers.has_sections() {
                true => {
                    "it is stripped and exports nothing; an unstripped build, or its debug package, has the names (by their addresses they are fn_0xADDRESS, as the list of its functions shows them)"
                }
                false => "its section headers are stripped away",
            },
        }
    }

    /// Ends a function whose symbol has no size where unwinding, or the next thing that is known, tells.
    pub(super) fn complete(&self, mut function: Function) -> Function {
        let start = function.address;
        if function.source == NameSource::EhFrame {
            // What has a name begins something else, also within a range that has none.
            let next = self.named().ok().and_then(|named| named.after(start));
            function.undivided = next.map_or(function.undivided, |at| at.min(function.undivided));
        }
        if function.size > 0 {
            return function;
        }
        let frames = self.frames();
        let range = frames.and_then(|frames| frames.around(start));
        match range.filter(|range| range.address == start) {
            Some(range) => {
                function.size = range.len;
                function.bounds = Bounds::Fde;
                function.end = range.end().min(self.elf.headers.code_end(start));
                function.undivided = function.undivided.min(function.end);
            }
            None => {
                let next = frames.and_then(|frames| after(frames, start));
                function.end = next.map_or(function.end, |next| next.min(function.end));
                function.undivided = function.undivided.min(function.end);
            }
        }
        function
    }

    /// The functions that a pattern names, by address; empty where there is none. For [`Pattern::Offset`] the
    /// functions of its base, for [`Pattern::Address`] the one around it, for a line, a static probe or an inlined
    /// copy those that it lies in.
    ///
    /// A name that the file's own tables have is not looked for elsewhere. Pieces (`f.cold`, `f.part.0`) are found
    /// by their own names alone, so that a glob never counts one call twice, and stubs by patterns with `@plt`.
    ///
    /// # Errors
    /// As [`Image::functions`]; [`Error::BadPattern`]; [`Error::NoSuchVersion`].
    pub fn find(&self, pattern: &Pattern) -> Result<Vec<Function>> {
        match pattern {
            Pattern::Offset { base, .. } => self.find(base),
            Pattern::Address(address) => Ok(self.around(*address)?.into_iter().collect()),
            Pattern::Line { .. } | Pattern::Usdt { .. } | Pattern::Inlined(_) => {
                let Places { at, .. } = self.places(pattern)?;
                let mut functions: Vec<Function> = Vec::new();
                for place in at {
                    if functions
                        .iter()
                        .all(|f| f.address != place.function.address)
                    {
                        functions.push(place.function);
                    }
                }
                functions.sort_by_key(|function| function.address);
                Ok(functions)
            }
            Pattern::Exact(_) | Pattern::Demangled(_) | Pattern::Versioned { .. } => {
                self.find_name(pattern)
            }
            Pattern::Glob(_) | Pattern::Regex(_) => {
                let matchers = Matcher::for_pattern(pattern)?;
                self.find_all(pattern, &matchers)
            }
        }
    }

    /// The function that an address lies in.
    ///
    /// # Errors
    /// As [`Image::functions`].
    pub fn around(&self, address: u64) -> Result<Option<Function>> {
        let headers = &self.elf.headers;
        let named = self.named()?.around(headers, address);
        let named = named.map(|function| self.complete(function));
        // A function that merely lasts until the next one knows less than a range that begins after it.
        if let Some(function) = named.filter(|f| address < f.end) {
            return Ok(Some(function));
        }
        let rest = self.rest()?.around(headers, address);
        Ok(rest.map(|function| self.complete(function)))
    }

    fn find_name(&self, pattern: &Pattern) -> Result<Vec<Function>> {
        let matchers = Matcher::for_pattern(pattern)?;
        let version = pattern.version();
        let own = self.own()?;
        for matcher in &matchers {
            let found = self.matching(own, matcher, version, pattern);
            if !found.is_empty() {
                return Ok(found);
            }
        }
        let named = self.named()?;
        for matcher in &matchers {
            let found = self.matching(named, matcher, version, pattern);
            if !found.is_empty() {
                return Ok(found);
            }
        }
        if let Some(version) = version {
            return self.no_such_version(pattern, &matchers, version);
        }
        let rest = self.rest()?;
        for matcher in &matchers {
            let found = self.matching(rest, matcher, version, pattern);
            if !found.is_empty() {
                return Ok(found);
            }
        }
        if let Some(address) = nameless(pattern) {
            let found = self.around(address)?;
            return Ok(found.filter(|f| f.address == address).into_iter().collect());
        }
        match named.is_empty() {
            true => Err(self.no_functions()),
            false => Ok(Vec::new()),
        }
    }

    fn find_all(&self, pattern: &Pattern, matchers: &[Matcher]) -> Result<Vec<Function>> {
        let named = self.named()?;
        let mut found = Vec::new();
        for matcher in matchers {
            found = self.matching(named, matcher, None, pattern);
            if !found.is_empty() {
                break;
            }
        }
        let text = pattern.text();
        if named.is_empty() || text.contains(NAMELESS) || text.contains(plt::SUFFIX) {
            let rest = self.rest()?;
            if named.is_empty() && rest.is_empty() {
                return Err(self.no_functions());
            }
            for matcher in matchers {
                found.extend(self.matching(rest, matcher, None, pattern));
            }
            found.sort_by_key(|function| function.address);
        }
        Ok(found)
    }

    fn matching(
        &self,
        symbols: &Symbols,
        matcher: &Matcher,
        version: Version,
        pattern: &Pattern,
    ) -> Vec<Function> {
        let text = pattern.text();
        let asked = |part| match part {
            Part::Whole => true,
            Part::Cold => matcher.is_raw() || text.contains("cold"),
            Part::Part => matcher.is_raw() || text.contains(".part"),
            Part::Stub => text.contains(plt::SUFFIX),
        };
        let fits = |entry: &Entry| {
            let matches = match matcher {
                Matcher::Raw(name) => symbols.is_named(entry, name.as_bytes()),
                other => other.matches(symbols.name(entry)),
            };
            matches && version.is_none_or(|wanted| has_version(symbols, entry, wanted))
        };
        symbols
            .groups()
            .filter(|group| group.iter().any(fits))
            .map(|group| symbols.function(&self.elf.headers, group, fits))
            .filter(|function| asked(function.part))
            .map(|function| self.complete(function))
            .collect()
    }

    /// The versions of a function's names, as the dynamic linker knows them: `GLIBC_2.14`, in the order of the names;
    /// with `@@` in front of the one that new programs are linked with, else `@`.
    pub fn versions(&self, function: &Function) -> Vec<String> {
        let Ok(own) = self.own() else {
            return Vec::new();
        };
        let entries = own.at(function.address).iter();
        let mut versions: Vec<String> = entries
            .filter_map(|entry| own.version(entry))
            .map(|(version, default)| format!("{}{version}", if default { "@@" } else { "@" }))
            .collect();
        versions.sort_unstable();
        versions.dedup();
        versions
    }

    /// Nothing, or an error if there are other versions of the name.
    fn no_such_version(
        &self,
        pattern: &Pattern,
        matchers: &[Matcher],
        (version, strict): (&str, bool),
    ) -> Result<Vec<Function>> {
        let named = self.named()?;
        let all = named.groups().flatten().chain(named.ifuncs());
        let of_name = all.filter(|entry| matchers.iter().any(|m| m.matches(named.name(entry))));
        let (mut known, mut exists) = (Vec::new(), false);
        for entry in of_name {
            exists = true;
            if let Some((other, default)) = named.version(entry) {
                if has_version(named, entry, (version, strict)) {
                    // An indirect function of this very version: no code to probe, see find_ifuncs.
                    return Ok(Vec::new());
                }
                known.push(format!("{}{other}", if default { "@@" } else { "@" }));
            }
        }
        known.sort_unstable();
        known.dedup();
        match exists {
            false => Ok(Vec::new()),
            true => Err(Error::NoSuchVersion {
                path: self.elf.path.clone(),
                name: pattern.text().into_owned(),
                wanted: version.to_owned(),
                known,
            }),
        }
    }

    /// Names that match but belong to indirect functions (STT_GNU_IFUNC): what stands there is a resolver
    /// that picks the code to run, so a probe would count resolutions, not calls.
    pub fn find_ifuncs(&self, pattern: &Pattern) -> Result<Vec<String>> {
        let matchers = Matcher::for_pattern(pattern)?;
        let symbols = self.own()?;
        let version = pattern.version();
        for matcher in matchers {
            let mut names: Vec<String> = symbols
                .ifuncs()
                .filter(|entry| matcher.matches(symbols.name(entry)))
                .filter(|entry| version.is_none_or(|wanted| has_version(symbols, entry, wanted)))
                .map(|entry| String::from_utf8_lossy(symbols.name(entry)).into_owned())
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
        let Ok(symbols) = self.named() else {
            return Vec::new();
        };
        let trimmed = without_parameters(name)
            .trim_matches(['*', '?', '/', '^', '$'])
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
        Ok(self.own()?.defines(name.as_bytes(), false))
    }

    /// Whether NAME is a function that other objects of the process can bind to.
    pub fn exports(&self, name: &str) -> Result<bool> {
        Ok(self.own()?.defines(name.as_bytes(), true))
    }

    /// Whether it uses a symbol NAME of some other object (an undefined entry in `.dynsym`).
    pub fn imports(&self, name: &str) -> Result<bool> {
        Ok(self.own()?.imports(name.as_bytes()))
    }

    /// The address of the variable NAME, in the file's own terms, as its symbol tables have it: without a type.
    ///
    /// # Errors
    /// The tables cannot be read.
    pub fn variable(&self, name: &str) -> Result<Option<u64>> {
        Ok(self.own()?.variable(name.as_bytes()))
    }

    /// The address of an exported symbol of any kind, in the file's own terms.
    pub(crate) fn exported_address(&self, name: &str) -> Option<u64> {
        self.own().ok()?.exported_address(name.as_bytes())
    }
}

fn has_version(symbols: &Symbols, entry: &Entry, (version, default): (&str, bool)) -> bool {
    symbols
        .version(entry)
        .is_some_and(|(found, is_default)| found == version && (is_default || !default))
}

/// Where the next piece of code that unwinding knows begins.
fn after(frames: &EhFrame, address: u64) -> Option<u64> {
    let ranges = frames.ranges();
    let next = ranges.partition_point(|range| range.address <= address);
    ranges.get(next).map(|range| range.address)
}

/// The address in `fn_0x401000`: also of a function that has a name after all.
fn nameless(pattern: &Pattern) -> Option<u64> {
    let Pattern::Exact(name) = pattern else {
        return None;
    };
    let digits = name.strip_prefix(NAMELESS)?.strip_prefix("0x")?;
    u64::from_str_radix(digits, 16).ok()
}

/// 0 to 2: above 1 where one name contains the other (the closer in length the better), else strsim's likeness.
fn likeness(wanted: &str, name: &str) -> f64 {
    let base = name.rsplit("::").next().unwrap_or(name);
    if name.contains(wanted) {
        return 1.0 + wanted.len() as f64 / name.len().max(1) as f64;
    }
    strsim::jaro_winkler(wanted, base).max(strsim::jaro_winkler(wanted, name))
}
