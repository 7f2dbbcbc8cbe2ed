use std::collections::BTreeSet;

use uprof_symbols::{Image, Pattern, demangle};

use crate::fixtures::{Workshop, find, libc, mariadbd, one};

#[test]
fn mariadb_is_found_by_name_signature_and_glob() {
    let image = mariadbd();
    let mangled = "_Z16dispatch_command19enum_server_commandP3THDPcjb";
    let signature = "dispatch_command(enum_server_command, THD*, char*, unsigned int, bool)";
    let by_name = one(&image, mangled);
    for text in [
        signature,
        "dispatch_command",
        "_Z16dispatch_command*",
        "dispatch_c?mmand(*)",
    ] {
        assert_eq!(one(&image, text).address, by_name.address, "{text}");
    }
    assert_eq!(one(&image, signature).display_name(), signature);
    assert!(find(&image, "dispatch_command(int)").is_empty());
    let all = find(&image, "_ZN*");
    assert!(all.len() > 9000, "{}", all.len());
    let offsets: BTreeSet<u64> = all.iter().map(|f| f.offset).collect();
    assert_eq!(offsets.len(), all.len());
}

#[test]
fn near_names_help_with_a_slip() {
    let near = mariadbd().nearest("dispatch_comand", 3);
    assert!(near[0].starts_with("dispatch_command("), "{near:?}");
    let near = libc().nearest("MALLOC", 5);
    assert_eq!(near[0], "malloc", "{near:?}");
    assert!(
        near.len() == 5 && near.iter().all(|name| name.contains("malloc")),
        "{near:?}"
    );
    assert!(libc().nearest("zzzzqqqqxxxx", 3).is_empty());
}

#[test]
fn addresses_and_offsets_lead_to_their_function() {
    let image = libc();
    let malloc = one(&image, "malloc");
    for text in [
        format!("{:#x}", malloc.address),
        format!("{:#x}", malloc.address + 3),
        "malloc+0x4".into(),
    ] {
        assert_eq!(one(&image, &text).address, malloc.address, "{text}");
    }
    assert!(find(&image, "0x1").is_empty());
    assert!(find(&image, "0xffffffffffffffff").is_empty());
}

#[test]
fn cplusplus_names_of_all_kinds() {
    let workshop = Workshop::new();
    let source = "#include <string>\n\
        namespace ns { struct A { int v; A(int); ~A(); bool operator<(const A &o) const; int operator()(char *) const; };\n\
        A::A(int x) : v(x) {} A::~A() { v = 0; }\n\
        bool A::operator<(const A &o) const { return v < o.v; }\n\
        int A::operator()(char *c) const { return v + *c; }\n\
        template <class T> __attribute__((noinline)) T twice(T x) { return x + x; }\n\
        __attribute__((noinline)) int over(int x) { return x; }\n\
        __attribute__((noinline)) int over(const std::string &s) { return s.size(); } }\n\
        namespace { __attribute__((noinline)) int hidden(int x) { asm(\"\"); return x * 3; } }\n\
        int main(int c, char **v) { ns::A a(c), b(2); return a < b || a(v[0]) || ns::twice(c) || ns::over(c) || ns::over(v[0]) || hidden(c); }\n";
    let image =
        Image::open(&workshop.gcc("plus", "plus.cc", source, &["-O1", "-fno-ipa-cp"])).unwrap();
    assert_eq!(find(&image, "ns::over").len(), 2);
    for text in [
        "ns::over(int)",
        "ns :: over( int )",
        "ns::A::A(int)",
        "ns::A::~A",
        "ns::A::operator<",
        "ns::A::operator<(ns::A const&) const",
        "ns::A::operator()",
        "ns::twice<int>",
        "ns::twice<int>(int)",
        "(anonymous namespace)::hidden",
        "(anonymous namespace)::hidden(int)",
    ] {
        one(&image, text);
    }
    assert!(find(&image, "ns::*").len() >= 7);
    assert!(find(&image, "over").is_empty());
}

const CRATE: &str = "mod inner { pub struct S; pub trait T { fn act(&self) -> u32; }\n\
    impl T for S { #[inline(never)] fn act(&self) -> u32 { std::process::id() } }\n\
    #[inline(never)] pub fn plain(x: u32) -> u32 { std::process::id() + x } }\n\
    use inner::T; fn main() { std::process::exit((inner::plain(3) + inner::S.act() == 7) as i32) }\n";

#[test]
fn rust_names_of_both_schemes() {
    let workshop = Workshop::new();
    for scheme in ["legacy", "v0"] {
        let flag = format!("-Csymbol-mangling-version={scheme}");
        let flags = [
            "--crate-name=fixture",
            "-Cdebuginfo=0",
            flag.as_str(),
            "-Zunstable-options",
        ];
        let path = workshop.rustc(scheme, CRATE, &flags);
        let image = Image::open(&path).unwrap();
        let plain = one(&image, "fixture::inner::plain");
        let prefix = if scheme == "legacy" { "_ZN" } else { "_R" };
        assert!(plain.name().starts_with(prefix), "{}", plain.name());
        assert_eq!(plain.display_name(), "fixture::inner::plain");
        one(&image, "<fixture::inner::S as fixture::inner::T>::act");
        assert!(find(&image, "fixture::*").len() >= 2);
    }
}

#[test]
fn demangling_survives_cut_and_broken_names() {
    let mariadbd = mariadbd();
    let names = find(&mariadbd, "_ZN*");
    for function in names.iter().step_by(37) {
        let name = function.name();
        for cut in 0..name.len() {
            if let Some(part) = name.get(..cut) {
                let _ = demangle(part);
                let _ = Pattern::parse(part);
            }
        }
    }
}
