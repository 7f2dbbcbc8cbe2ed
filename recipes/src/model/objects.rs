//! In which of a process's files a place is looked for.

/// One entry of `only_in`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectRule {
    /// `"program"`: the executable.
    Program,
    /// `"library"`: any shared library.
    Library,
    /// `"libc"` takes `libc.so.6` and `libc-2.31.so`; `"libtcmalloc*"` is a glob over that stem.
    Named(String),
    /// `"!libc"`: anything but.
    Not(Box<ObjectRule>),
}

impl ObjectRule {
    /// Reads one entry of `only_in`.
    pub fn parse(text: &str) -> ObjectRule {
        match text.strip_prefix('!') {
            Some(rest) => ObjectRule::Not(Box::new(ObjectRule::parse(rest))),
            None if text == "program" => ObjectRule::Program,
            None if text == "library" => ObjectRule::Library,
            None => ObjectRule::Named(text.to_owned()),
        }
    }

    /// Whether the rule takes this object; arguments as for [`super::At::allows`].
    pub fn matches(&self, file_name: &str, is_program: bool) -> bool {
        match self {
            ObjectRule::Program => is_program,
            ObjectRule::Library => !is_program,
            ObjectRule::Not(inner) => !inner.matches(file_name, is_program),
            ObjectRule::Named(name) => {
                name == file_name || star_match(name, library_stem(file_name))
            }
        }
    }
}

/// `libc.so.6` -> `libc`, `libc-2.31.so` -> `libc`, `libstdc++.so.6` -> `libstdc++`.
fn library_stem(file_name: &str) -> &str {
    let stem = file_name.split(".so").next().unwrap_or(file_name);
    match stem.rsplit_once('-') {
        Some((base, version)) if version.starts_with(|c: char| c.is_ascii_digit()) => base,
        _ => stem,
    }
}

/// A match where `*` stands for any run of characters; everything else is itself.
fn star_match(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or("");
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    if !pattern.contains('*') {
        return rest.is_empty();
    }
    let mut parts = parts.peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}
