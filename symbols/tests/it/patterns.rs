use std::collections::BTreeSet;
use std::process::Command;

use uprof_symbols::image::Part;
use uprof_symbols::site::{ArgSet, Purpose};
use uprof_symbols::{Error, Function, Image, NameSource, Pattern, demangle};

use crate::fixtures::{Workshop, find, libc, mariadbd, one, run};

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

#[test]
fn regular_expressions_see_raw_and_demangled_names() {
    let image = mariadbd();
    let names = |text: &str| -> BTreeSet<String> {
        let found = find(&image, text);
        found.iter().map(Function::display_name).collect()
    };
    assert_eq!(
        names("/^_Z16dispatch_command/"),
        names("/^dispatch_command\\(/")
    );
    assert_eq!(names("/^dispatch_command\\(/").len(), 1);
    let all = names("/^THD::(get|set)_/");
    assert!(all.len() > 10, "{all:?}");
    assert!(
        all.iter()
            .all(|name| name.starts_with("THD::get_") || name.starts_with("THD::set_"))
    );
    assert!(names("/no such function here/").is_empty());
    for bad in ["/a(b/", "//", "/^ngx_"] {
        let error = Pattern::parse(bad).unwrap_err().to_string();
        assert!(
            error.contains(bad) && error.len() > bad.len() + 40,
            "{error}"
        );
    }
}

const VERSIONED: &str = "__asm__(\".symver old_twice, twice@ONE\");\n\
    __asm__(\".symver new_twice, twice@@TWO\");\n\
    __attribute__((noipa)) int old_twice(int x) { return x + x; }\n\
    __attribute__((noipa)) int new_twice(int x) { return 2 * x + 0 * old_twice(x); }\n\
    __attribute__((noipa)) int plain(int x) { return x; }\n";

#[test]
fn versions_tell_functions_of_one_name_apart() {
    let workshop = Workshop::new();
    let map = workshop.write(
        "map",
        "ONE { global: twice; };\nTWO { global: twice; plain; local: *; } ONE;\n",
    );
    let script = format!("-Wl,--version-script={}", map.display());
    let flags = ["-O1", "-shared", "-fPIC", script.as_str()];
    let path = workshop.gcc("lib.so", "lib.c", VERSIONED, &flags);
    let stripped = workshop.path("stripped.so");
    run(
        "strip",
        Command::new("strip").arg("-o").arg(&stripped).arg(&path),
    );
    let whole = Image::open(&path).unwrap();
    let (old, new) = (one(&whole, "old_twice"), one(&whole, "new_twice"));
    assert_eq!(whole.versions(&old), ["@ONE"]);
    for image in [whole, Image::open(&stripped).unwrap()] {
        assert_eq!(find(&image, "twice").len(), 2);
        for (text, expected) in [
            ("twice@ONE", &old),
            ("twice@TWO", &new),
            ("twice@@TWO", &new),
        ] {
            let found = one(&image, text);
            assert_eq!(
                (found.address, found.name()),
                (expected.address, "twice"),
                "{text}"
            );
        }
        assert_eq!(image.versions(&one(&image, "twice@TWO")), ["@@TWO"]);
        for (text, words) in [
            ("twice@THREE", &["THREE", "twice@ONE", "twice@@TWO"][..]),
            ("twice@@ONE", &["twice@ONE"]),
        ] {
            let error = image.find(&Pattern::parse(text).unwrap()).unwrap_err();
            assert!(matches!(error, Error::NoSuchVersion { .. }), "{error}");
            let message = error.to_string();
            assert!(words.iter().all(|word| message.contains(word)), "{message}");
        }
        assert!(find(&image, "thrice@ONE").is_empty());
    }
    // an indirect function has versions, but no code to probe
    let libc = libc();
    for text in ["memcpy@GLIBC_2.14", "memcpy@@GLIBC_2.14"] {
        let pattern = Pattern::parse(text).unwrap();
        assert!(libc.find(&pattern).unwrap().is_empty());
        assert_eq!(libc.find_ifuncs(&pattern).unwrap(), ["memcpy"]);
    }
    // while the one that old programs get is a plain function
    assert_eq!(one(&libc, "memcpy@GLIBC_2.2.5").name(), "memcpy");
    assert_eq!(one(&libc, "malloc@GLIBC_2.2.5").name(), "malloc");
    let message = libc
        .find(&Pattern::parse("malloc@GLIBC_9").unwrap())
        .unwrap_err()
        .to_string();
    assert!(message.contains("malloc@@GLIBC_2.2.5"), "{message}");
}

/// What readelf says of a library's versions is what we say.
#[test]
fn all_versions_of_libc_are_those_that_readelf_knows() {
    let image = libc();
    let text = run(
        "readelf",
        Command::new("readelf")
            .args(["-W", "--dyn-syms"])
            .arg(image.path()),
    );
    let mut theirs = BTreeSet::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let [_, address, _, "FUNC", _, _, section, name, ..] = words[..]
            && section != "UND"
            && let Some((_, version)) = name.split_once('@')
        {
            let address = u64::from_str_radix(address, 16).unwrap();
            theirs.insert((address, format!("@{version}")));
        }
    }
    let functions = image.functions().unwrap();
    let ours: BTreeSet<(u64, String)> = functions
        .iter()
        .filter(|f| f.source == NameSource::Dynsym)
        .flat_map(|f| image.versions(f).into_iter().map(|v| (f.address, v)))
        .collect();
    assert!(theirs.len() > 2000, "{}", theirs.len());
    let differences: Vec<_> = ours.symmetric_difference(&theirs).collect();
    assert!(differences.is_empty(), "{differences:x?}");
}

#[test]
fn stubs_are_found_by_their_own_names_alone() {
    let workshop = Workshop::new();
    let source = "#include <stdlib.h>\n#include <stdio.h>\nvoid *(*volatile taken)(size_t) = malloc;\n\
        int main(void) { void *p = malloc(3); puts(p); free(p); free(taken(4)); return 0; }\n";
    for flags in [
        &["-O1", "-Wl,-z,lazy", "-fcf-protection=none"][..],
        &[
            "-O1",
            "-Wl,-z,lazy",
            "-Wl,-z,ibtplt",
            "-fcf-protection=full",
        ],
        &["-O1", "-Wl,-z,now"],
    ] {
        let image = Image::open(&workshop.gcc("stubs", "stubs.c", source, flags)).unwrap();
        let objdump = run(
            "objdump",
            Command::new("objdump")
                .args(["-d", "--no-show-raw-insn"])
                .arg(image.path()),
        );
        for name in ["malloc", "free", "puts"] {
            let text = format!("{name}@plt");
            let stub = one(&image, &text);
            assert_eq!(
                (stub.part, stub.source, stub.name()),
                (Part::Stub, NameSource::Plt, text.as_str())
            );
            let label = format!("{:016x} <{text}>:", stub.address);
            assert!(objdump.contains(&label), "{flags:?}: {label}\n{objdump}");
            assert!(find(&image, name).is_empty(), "{flags:?}");
            image
                .place(&stub, Purpose::Entry, ArgSet::REGISTERS)
                .unwrap();
        }
        assert_eq!(find(&image, "*s@plt").len(), 1, "{flags:?}");
        assert!(find(&image, "*a*").iter().all(|f| f.part != Part::Stub));
        let listed = image.functions().unwrap();
        assert!(listed.iter().filter(|f| f.part == Part::Stub).count() >= 3);
    }
}

const PIECES: &str = ".text\n\
    .macro func name\n.globl \"\\name\"\n.type \"\\name\",@function\n\"\\name\":\n .cfi_startproc\n.endm\n\
    .macro done name\n .cfi_endproc\n.size \"\\name\",.-\"\\name\"\n.endm\n\
    func main\n xor %eax,%eax\n ret\ndone main\n\
    func f\n push %rbx\n pop %rbx\n ret\ndone f\n\
    func f.part.0\n nop\n ret\ndone f.part.0\n\
    func f.cold\n .cfi_def_cfa_offset 16\n nop\n ud2\ndone f.cold\n\
    func g.isra.0\n nop\n ret\ndone g.isra.0\n\
    func g.cold.1\n .cfi_def_cfa_offset 16\n nop\n ud2\ndone g.cold.1\n\
    func _ZN2ns1hEv\n nop\n ret\ndone _ZN2ns1hEv\n\
    func _ZN2ns1hEv.cold\n .cfi_def_cfa_offset 16\n nop\n ud2\ndone _ZN2ns1hEv.cold\n\
    .section .note.GNU-stack,\"\",@progbits\n";

#[test]
fn pieces_are_no_functions_and_clones_are() {
    let workshop = Workshop::new();
    let image = Image::open(&workshop.gcc("pieces", "pieces.S", PIECES, &[])).unwrap();
    let names = |text: &str| -> Vec<String> {
        let found = find(&image, text);
        found.iter().map(|f| f.name().to_owned()).collect()
    };
    assert_eq!(names("f"), ["f"]);
    assert_eq!(names("f*"), ["frame_dummy", "f"]);
    assert_eq!(names("/^f/"), ["frame_dummy", "f"]);
    assert_eq!(names("f.part*"), ["f.part.0"]);
    assert_eq!(names("f.cold"), ["f.cold"]);
    assert_eq!(names("*.cold*").len(), 3);
    assert_eq!(names("ns::h"), ["_ZN2ns1hEv"]);
    assert_eq!(names("ns::*"), ["_ZN2ns1hEv"]);
    // g was made for some arguments, and is still called
    assert_eq!(names("g"), ["g.isra.0"]);
    for (name, part) in [
        ("f", Part::Whole),
        ("f.part.0", Part::Part),
        ("f.cold", Part::Cold),
        ("g.isra.0", Part::Whole),
        ("g.cold.1", Part::Cold),
    ] {
        let function = one(&image, name);
        assert_eq!(function.part, part, "{name}");
        let placed = image.place(&function, Purpose::EntryReturn, ArgSet::EMPTY);
        assert_eq!(placed.is_err(), part == Part::Cold, "{name}: {placed:?}");
        image
            .place(&function, Purpose::Entry, ArgSet::EMPTY)
            .unwrap();
    }
}

const GENERIC: &str = "use std::process::id;\n\
    mod inner { pub struct Of<T>(pub T); impl<T: Copy + Into<u64>> Of<T> {\n\
    #[inline(never)] pub fn total(&self, by: u64) -> u64 { self.0.into() + by + u64::from(std::process::id()) } } }\n\
    #[inline(never)] fn twice<T: Into<u64>>(x: T) -> u64 { 2 * x.into() + u64::from(id()) }\n\
    #[inline(never)] fn call(f: &dyn Fn(u64) -> u64) -> u64 { f(u64::from(id())) }\n\
    fn main() { let n = u64::from(id()); let add = move |x: u64| x + n;\n\
    let sum = twice(3u8) + twice(4u32) + inner::Of(5u8).total(n) + inner::Of(6u32).total(n) + call(&add);\n\
    std::process::exit((sum == 7) as i32) }\n";

#[test]
fn generics_and_closures() {
    let workshop = Workshop::new();
    for scheme in ["legacy", "v0"] {
        let mangling = format!("-Csymbol-mangling-version={scheme}");
        let flags = [
            "--crate-name=generic",
            "-Cdebuginfo=0",
            &mangling,
            "-Zunstable-options",
        ];
        let image = Image::open(&workshop.rustc(scheme, GENERIC, &flags)).unwrap();
        assert_eq!(find(&image, "generic::twice").len(), 2, "{scheme}");
        let methods = match scheme {
            "v0" => "<generic::inner::Of<u8>>::total",
            _ => "generic::inner::Of<T>::total",
        };
        assert!(!find(&image, methods).is_empty(), "{scheme}");
        let closure = match scheme {
            "v0" => "generic::main::{closure#0}",
            _ => "generic::main::{{closure}}",
        };
        assert!(!find(&image, closure).is_empty(), "{scheme}");
        if scheme == "v0" {
            one(&image, "generic::twice::<u8>");
        }
    }
    let source = "namespace ns { template <class T> struct Box { T t; __attribute__((noipa)) T get() { return t; } };\n\
        template <class T> __attribute__((noipa)) T twice(T x) { return x + x; } }\n\
        int main() { ns::Box<int> a{1}; ns::Box<long> b{2}; return int(a.get() + b.get() + ns::twice(3) + ns::twice(4L)); }\n";
    let image = Image::open(&workshop.gcc("templates", "templates.cc", source, &["-O1"])).unwrap();
    assert_eq!(find(&image, "ns::twice").len(), 2);
    assert_eq!(find(&image, "ns::Box::get").len(), 2);
    one(&image, "ns::Box<long>::get");
}

#[test]
fn what_cannot_be_read_says_how_it_is_written() {
    for (text, word) in [
        ("", "empty"),
        ("usdt:libc", "usdt:libc:memory_sbrk_more"),
        ("usdt:a:b:c", "usdt:"),
        ("server.c:0", "counted from 1"),
        ("server.c:99999999999", "counted from 1"),
        ("memcpy@", "memcpy@GLIBC_2.14"),
        ("@plt", "malloc@plt"),
        ("server.c:12@inlined", "parse@inlined"),
        ("mem*@GLIBC_2.14", "memcpy@GLIBC_2.14"),
        ("/x", "slash"),
        ("server.c:12+4", "malloc+0x10"),
    ] {
        let error = Pattern::parse(text).unwrap_err();
        assert!(matches!(error, Error::BadPattern { .. }), "{text}");
        assert!(error.to_string().contains(word), "{text}: {error}");
    }
    for text in [
        "/^a.*b/",
        "memcpy@GLIBC_2.14",
        "memcpy@@GLIBC_2.14",
        "src/server.c:12",
        "usdt:python:function__*",
        "ns::f<int>@inlined",
        "malloc@plt",
        "f+0x10",
        "fn_0x401000",
    ] {
        let pattern = Pattern::parse(text).unwrap();
        assert_eq!(pattern.to_string(), text);
        assert_eq!(Pattern::parse(&pattern.to_string()).unwrap(), pattern);
    }
}
