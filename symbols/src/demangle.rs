//! C++ and Rust names as their authors wrote them.

/// Demangles a C++ (Itanium ABI) or Rust (legacy or v0) symbol, with parameters where the scheme
/// has them and without Rust's hash. `None` for names that are not mangled.
pub fn demangle(name: &str) -> Option<String> {
    if name.starts_with("_R") || is_legacy_rust(name) {
        return rustc_demangle::try_demangle(name)
            .ok()
            .map(|d| format!("{d:#}"));
    }
    if !name.starts_with("_Z") {
        return None;
    }
    cpp_demangle::BorrowedSymbol::new(name.as_bytes())
        .ok()?
        .demangle()
        .ok()
}

/// Whether NAME has the form of a mangled one; far cheaper than demangling it.
pub(crate) fn is_mangled(name: &[u8]) -> bool {
    name.starts_with(b"_Z") || name.starts_with(b"_R")
}

/// Legacy Rust names borrow C++'s scheme and end in a hash: `17h` and 16 hexadecimal digits.
fn is_legacy_rust(name: &str) -> bool {
    name.starts_with("_ZN")
        && name.match_indices("17h").any(|(at, mark)| {
            let rest = &name.as_bytes()[at + mark.len()..];
            rest.len() > 16 && rest[..16].iter().all(u8::is_ascii_hexdigit) && rest[16] == b'E'
        })
}

/// Text without white space: signatures are compared in this form.
pub(crate) fn squeeze(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace()).collect()
}

/// The part of a demangled function before its parameters: `ns::f<int>(char*) const` -> `ns::f<int>`.
/// Text without parameters is returned whole. A return type, which templates carry, is cut off.
pub(crate) fn without_parameters(demangled: &str) -> &str {
    let bytes = demangled.as_bytes();
    let (mut angles, mut start, mut at) = (0i32, 0, 0);
    while at < bytes.len() {
        if bytes[at..].starts_with(b"operator") {
            at = skip_operator(bytes, at + b"operator".len());
            continue;
        }
        match bytes[at] {
            b'<' | b'{' => angles += 1,
            b'}' => angles -= 1,
            // "->" closes nothing
            b'>' if at == 0 || bytes[at - 1] != b'-' => angles -= 1,
            b' ' if angles == 0 => start = at + 1,
            b'(' if angles == 0 => {
                // "(anonymous namespace)::f" and "f(int)::{lambda()#1}::operator()(int)"
                let close = closing(bytes, at);
                if bytes[close..].starts_with(b")::") {
                    at = close;
                } else {
                    return demangled[start..at].trim_end();
                }
            }
            _ => {}
        }
        at += 1;
    }
    demangled
}

/// A name without its template or generic arguments: `ns::A<int>::f<char>` and `ns::A::<i32>::f::<u8>` -> `ns::A::f`.
/// What begins a name in angle brackets stays: `<S as Trait>::act`.
pub(crate) fn without_generics(name: &str) -> String {
    let bytes = name.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let (mut depth, mut at) = (0u32, 0);
    while at < bytes.len() {
        if depth == 0 && bytes[at..].starts_with(b"operator") {
            let past = skip_operator(bytes, at + b"operator".len());
            out.extend_from_slice(&bytes[at..past]);
            at = past;
            continue;
        }
        match bytes[at] {
            b'<' if depth > 0 || !out.is_empty() => {
                if depth == 0 && out.ends_with(b"::") {
                    out.truncate(out.len() - 2);
                }
                depth += 1;
            }
            b'>' if depth > 0 && bytes[at - 1] != b'-' => depth -= 1,
            byte if depth == 0 => out.push(byte),
            _ => {}
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Past the symbol of an operator's name, so that `operator()`, `operator<` and `operator->` do not count
/// as brackets. AT stands behind the word.
fn skip_operator(bytes: &[u8], at: usize) -> usize {
    if bytes[at..].starts_with(b"()") || bytes[at..].starts_with(b"[]") {
        return at + 2;
    }
    let symbols = bytes[at..]
        .iter()
        .take_while(|b| b"<>=-*+/%^&|~!,".contains(b))
        .count();
    // operator< <int>: the demanglers put a space before a template list
    at + symbols
}

/// Where the bracket that opens at OPEN closes (or the text's last byte).
fn closing(bytes: &[u8], open: usize) -> usize {
    let mut depth = 0;
    for (at, byte) in bytes.iter().enumerate().skip(open) {
        match byte {
            b'(' => depth += 1,
            b')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    bytes.len().saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_languages_and_all_schemes() {
        let cases = [
            (
                "_Z16dispatch_command19enum_server_commandP3THDPcjb",
                "dispatch_command(enum_server_command, THD*, char*, unsigned int, bool)",
            ),
            ("_ZN4core3fmt5write17h0123456789abcdefE", "core::fmt::write"),
            (
                "_ZN4core3fmt5write17h0123456789abcdefE.llvm.1234",
                "core::fmt::write",
            ),
            ("_RNvC6_123foo3bar", "123foo::bar"),
            ("_RNvNtCs1234_7mycrate3foo3bar", "mycrate::foo::bar"),
            ("_ZN2ns1fEi", "ns::f(int)"),
        ];
        for (mangled, expected) in cases {
            assert_eq!(demangle(mangled).as_deref(), Some(expected), "{mangled}");
        }
        for plain in [
            "malloc",
            "_start",
            "_Z",
            "_ZN",
            "_R",
            "",
            "_Znot_mangled_at_all",
        ] {
            assert_eq!(demangle(plain), None, "{plain}");
        }
    }

    #[test]
    fn names_are_cut_from_signatures() {
        let cases = [
            ("ns::f<int>(char*) const", "ns::f<int>"),
            ("void ns::f<int>(int)", "ns::f<int>"),
            ("(anonymous namespace)::f(int)", "(anonymous namespace)::f"),
            (
                "std::function<void (int)>::operator()(int) const",
                "std::function<void (int)>::operator()",
            ),
            ("A::operator<(A const&) const", "A::operator<"),
            ("A::operator->() const", "A::operator->"),
            (
                "f(int)::{lambda()#1}::operator()() const",
                "f(int)::{lambda()#1}::operator()",
            ),
            ("core::fmt::write", "core::fmt::write"),
            ("", ""),
        ];
        for (full, name) in cases {
            assert_eq!(without_parameters(full), name, "{full}");
        }
    }
}
