//! Types and variables of programs compiled here, against what the programs themselves say, and against their
//! registers and memory when they are stopped there.

mod damage;
mod tracer;

use std::process::Command;

use uprof_symbols::Image;
use uprof_symbols::types::{Place, RecordKind, Scope, Shape, TextLength, TypeModel, Variable};

use crate::fixtures::{Workshop, one, run};
use tracer::Stopped;

const LAYOUT: &str = r#"
#include <stddef.h>
#include <stdio.h>
#include <stdint.h>
typedef struct client client;
enum colour { RED = -1, GREEN = 7 };
union word { int i; char c[4]; };
struct client {
    int argc; char **argv; enum colour colour; union word word;
    unsigned a : 3, b : 9; uint64_t big : 40;
    struct { short inner; union { long left; double right; }; };
    int grid[2][3]; short table[256]; char none[0]; const char *name; int (*call)(client *, char); client *next; char tail[];
};
struct declared *elsewhere;
client one;
const char words[3][4] = {"abc"};
int main(void) {
#define AT(F) printf("%s %zu %zu\n", #F, offsetof(client, F), sizeof(((client *)0)->F));
    AT(argc) AT(argv) AT(colour) AT(word) AT(inner) AT(left) AT(right) AT(grid) AT(table) AT(none) AT(name) AT(call) AT(next)
    printf("size %zu\n", sizeof(client));
    return elsewhere != 0 && one.argc;
}
"#;

#[test]
fn a_struct_lies_as_its_compiler_lays_it_out() {
    let shop = Workshop::new();
    for flags in [
        &["-g"][..],
        &["-gdwarf-4"],
        &["-gdwarf-2", "-gstrict-dwarf"],
        &["-gdwarf-5", "-O2"],
    ] {
        let program = shop.gcc("layout", "layout.c", LAYOUT, flags);
        let truth = run("layout", &mut Command::new(&program));
        let image = Image::open(&program).unwrap();
        let types = image.types().unwrap().expect("debug information");
        let client = types.named("struct client").unwrap().unwrap();
        for line in truth.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["size", size] => assert_eq!(types.size(client), size.parse().ok()),
                [name, offset, size] => {
                    let member = types
                        .member(client, name)
                        .unwrap_or_else(|| panic!("no {name} with {flags:?}"));
                    let own = format!("{} {}", member.offset, types.size(member.ty).unwrap());
                    assert_eq!(own, format!("{offset} {size}"), "{name} with {flags:?}");
                }
                _ => panic!("{line}"),
            }
        }
        let bits = |name| {
            let member = types.member(client, name).unwrap();
            let bits = member.bits.unwrap();
            (member.offset * 8 + u64::from(bits.shift), bits.bits)
        };
        let first = bits("a").0;
        assert_eq!(
            (bits("a").1, bits("b"), bits("big").1),
            (3, (first + 3, 9), 40),
            "{flags:?}"
        );
        let name = |member: &str| types.type_name(types.member(client, member).unwrap().ty);
        assert_eq!(name("argv"), "char **");
        assert_eq!(name("name"), "const char *");
        assert_eq!(name("call"), "int (*)(client *, char)");
        assert_eq!(name("grid"), "int [2][3]");
        assert_eq!(name("table"), "short int [256]");
        let words = types.global("words").unwrap().expect("a global");
        assert_eq!(types.type_name(words.ty), "const char [3][4]");
        let colour = types.shape(types.named("enum colour").unwrap().unwrap());
        let Shape::Enum {
            signed: true,
            values,
            bytes: 4,
        } = colour
        else {
            panic!("{colour:?}")
        };
        assert_eq!(values, [("RED".to_owned(), -1), ("GREEN".to_owned(), 7)]);
        assert_eq!(
            types.shape(types.named("client").unwrap().unwrap()),
            types.shape(client)
        );
        let Some(declared) = types.global("elsewhere").unwrap() else {
            panic!("no global")
        };
        let Shape::Pointer { to: Some(to), .. } = types.shape(declared.ty) else {
            panic!("no pointer")
        };
        assert_eq!(
            types.shape(to),
            Shape::Record {
                kind: RecordKind::Struct,
                size: None
            }
        );
        assert_eq!(types.named("struct nothing").unwrap(), None);
    }
}

const CALLS: &str = r#"
#include <stdio.h>
#include <stdlib.h>
struct pair { long a; int b; };
struct mixed { double d; long n; };
struct large { long v[4]; };
struct small { char c; short s; };
volatile long sink;
__attribute__((noinline, noclone)) long many(int i, char c, unsigned short us, long l, const char *text, unsigned u, long seventh, int eighth) {
    sink += i + c + us + l + text[0] + u + seventh + eighth; return sink; }
__attribute__((noinline, noclone)) long structs(struct pair p, struct small s, struct large big, struct mixed m, long after) {
    sink += p.a + p.b + s.c + s.s + big.v[2] + (long)m.d + m.n + after; return sink; }
__attribute__((noinline, noclone)) struct large makes(int n, long m) {
    struct large r = {{n, m, sink, 4}}; sink++; return r; }
__attribute__((noinline, noclone)) long floats(double d, int after, float f, long last) { sink += d + after + f + last; return sink; }
int main(void) {
    struct pair p = {11, -12}; struct small s = {13, -14}; struct large big = {{21, 22, 23, 24}}; struct mixed m = {1.5, 31};
    many(-5, 'x', 60000, -7000000000, "hello", 4000000000u, 77, -88);
    structs(p, s, big, m, 99);
    sink += makes(-3, 44).v[1];
    floats(2.5, -9, 3.5, 101);
    return 0;
}
"#;

/// The value of each parameter that can be had, by the program's own registers and memory.
fn values(program: &std::path::Path, function: &str) -> Vec<(String, Result<Vec<u8>, String>)> {
    let image = Image::open(program).unwrap();
    let types = image.types().unwrap().unwrap();
    let function = one(&image, function);
    let variables = types
        .variables(&function, function.address, Scope::Function)
        .unwrap();
    let stopped = Stopped::at(program, function.address);
    let value = |variable: &Variable| {
        let size = types.size(variable.ty).unwrap() as usize;
        stopped.value(&variable.place, size, function.address)
    };
    variables
        .iter()
        .map(|variable| (variable.name.clone(), value(variable)))
        .collect()
}

fn number(values: &[(String, Result<Vec<u8>, String>)], name: &str) -> i64 {
    let (_, value) = values
        .iter()
        .find(|(own, _)| own == name)
        .unwrap_or_else(|| panic!("no {name} in {values:?}"));
    let bytes = value
        .as_ref()
        .unwrap_or_else(|why| panic!("{name} is {why}"));
    let mut word = if bytes.last().is_some_and(|top| *top >= 0x80) {
        [0xff; 8]
    } else {
        [0; 8]
    };
    word[..bytes.len()].copy_from_slice(bytes);
    i64::from_le_bytes(word)
}

fn bytes(values: &[(String, Result<Vec<u8>, String>)], name: &str) -> Vec<u8> {
    let (_, value) = values
        .iter()
        .find(|(own, _)| own == name)
        .unwrap_or_else(|| panic!("no {name} in {values:?}"));
    value
        .clone()
        .unwrap_or_else(|why| panic!("{name} is {why}"))
}

#[test]
fn parameters_at_entry_are_what_the_caller_passed() {
    let shop = Workshop::new();
    for flags in [
        ["-g", "-O0"],
        ["-g", "-Og"],
        ["-g", "-O2"],
        ["-gdwarf-4", "-O2"],
    ] {
        let program = shop.gcc("calls", "calls.c", CALLS, &flags);
        let many = values(&program, "many");
        let wanted = [
            ("i", -5),
            ("c", 'x' as i64),
            ("us", 60000 - 65536),
            ("l", -7_000_000_000),
            ("u", 4_000_000_000 - (1 << 32)),
            ("seventh", 77),
            ("eighth", -88),
        ];
        for (name, value) in wanted {
            assert_eq!(number(&many, name), value, "{name} with {flags:?}");
        }
        let structs = values(&program, "structs");
        let pair = bytes(&structs, "p");
        assert_eq!(
            (&pair[..8], &pair[8..12]),
            (&11_i64.to_le_bytes()[..], &(-12_i32).to_le_bytes()[..]),
            "{flags:?}"
        );
        let small = bytes(&structs, "s");
        assert_eq!((small[0], &small[2..4]), (13, &(-14_i16).to_le_bytes()[..]));
        let big: Vec<u8> = [21_i64, 22, 23, 24]
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect();
        assert_eq!(bytes(&structs, "big"), big, "{flags:?}");
        assert_eq!(number(&structs, "after"), 99, "{flags:?}");
        // The address for the result takes the first register.
        let makes = values(&program, "makes");
        assert_eq!(
            (number(&makes, "n"), number(&makes, "m")),
            (-3, 44),
            "{flags:?}"
        );
        let floats = values(&program, "floats");
        assert_eq!(
            (number(&floats, "after"), number(&floats, "last")),
            (-9, 101),
            "{flags:?}"
        );
        let d = floats.iter().find(|(name, _)| name == "d").unwrap();
        assert!(
            d.1.as_ref()
                .is_err_and(|why| why.contains("floating-point register")),
            "{d:?}"
        );
    }
}

/// Locals and inlined copies, in the middle of functions.
#[test]
fn variables_are_where_the_debug_information_says() {
    let source = r#"
#include <stdlib.h>
volatile long sink;
static inline __attribute__((always_inline)) long helper(long given, int twice) { long local = given * twice; sink = local; return local + sink; }
__attribute__((noinline, noclone)) long outer(long first, int second) {
    long mine = first + 1;
    sink = mine;
    for (int i = 0; i < 1; i++) { long inner = mine * 2; sink += helper(inner, second); mine += abs((int)sink); }
    return mine + second;
}
int main(void) { return outer(20, 3) == 0; }
"#;
    let shop = Workshop::new();
    for level in ["-O0", "-Og", "-O2"] {
        let program = shop.gcc("inner", "inner.c", source, &["-g", level]);
        let image = Image::open(&program).unwrap();
        let types = image.types().unwrap().unwrap();
        let function = one(&image, "outer");
        let truth = [
            ("first", 20),
            ("second", 3),
            ("mine", 21),
            ("i", 0),
            ("inner", 42),
            ("given", 42),
            ("twice", 3),
            ("local", 126),
        ];
        let boundaries = instructions(&program, function.address, function.end);
        let (mut seen, mut inlined) = (std::collections::BTreeSet::new(), false);
        // Where the program comes to first, every variable has the value of that time.
        for at in boundaries {
            let scopes = [Scope::Function, Scope::Inlined("helper")];
            let all: Vec<Variable> = scopes
                .iter()
                .filter_map(|scope| types.variables(&function, at, *scope).ok())
                .flatten()
                .collect();
            inlined |= types
                .variables(&function, at, Scope::Inlined("helper"))
                .is_ok();
            let Some(stopped) = Stopped::before_end(&program, at) else {
                continue;
            };
            for variable in all {
                let Some((_, value)) = truth.iter().find(|(name, _)| *name == variable.name) else {
                    continue;
                };
                let size = types.size(variable.ty).unwrap() as usize;
                let Ok(found) = stopped.value(&variable.place, size, at) else {
                    continue;
                };
                let found = number(&[(variable.name.clone(), Ok(found))], &variable.name);
                // A variable changes, and has no value before it is set: parameters do not.
                if matches!(
                    variable.kind,
                    uprof_symbols::types::VariableKind::Parameter { .. }
                ) && !["given", "twice"].contains(&variable.name.as_str())
                {
                    assert_eq!(
                        found, *value,
                        "{} at {at:#x} of {level}: {:?}",
                        variable.name, variable.place
                    );
                }
                if found == *value {
                    seen.insert(variable.name.clone());
                }
            }
        }
        assert!(inlined, "helper was not inlined at {level}");
        for name in ["first", "second", "mine", "inner", "given"] {
            assert!(
                seen.contains(name),
                "{name} was nowhere to be seen at {level}: {seen:?}"
            );
        }
    }
}

/// The addresses of a function's instructions, as objdump decodes them.
fn instructions(program: &std::path::Path, start: u64, end: u64) -> Vec<u64> {
    let mut objdump = Command::new("objdump");
    let range = [
        format!("--start-address={start:#x}"),
        format!("--stop-address={end:#x}"),
    ];
    let listing = run(
        "objdump",
        objdump
            .arg("-d")
            .arg("--no-show-raw-insn")
            .args(range)
            .arg(program),
    );
    let addresses = listing
        .lines()
        .filter_map(|line| u64::from_str_radix(line.split_once(":\t")?.0.trim(), 16).ok());
    addresses
        .filter(|address| (start..end).contains(address))
        .collect()
}

#[test]
fn cpp_references_bases_and_strings() {
    let source = r#"
#include <string>
#include <string_view>
#include <cstddef>
#include <cstdio>
namespace ns { struct Base { int id = 5; virtual ~Base() {} }; template <class T> struct Holder : Base { T held; long own = 9; }; }
volatile long sink;
__attribute__((noinline)) void takes(std::string_view view, const std::string &name, std::string copy, ns::Holder<long> holder, int last) {
    sink = view.size() + name.size() + copy.size() + holder.held + last; }
struct Thing { int x = 3; __attribute__((noinline)) void method(int y) { sink = x + y; } };
ns::Holder<long> global;
int main() { global.held = 7; takes("a view", "a name", std::string(100, 'c'), global, -6); Thing().method(8); }
"#;
    let shop = Workshop::new();
    for level in ["-O0", "-O2"] {
        let program = shop.gcc("cpp", "cpp.cc", source, &["-g", level, "-std=c++17"]);
        let image = Image::open(&program).unwrap();
        let types = image.types().unwrap().unwrap();
        let function = one(&image, "takes");
        let variables = types
            .variables(&function, function.address, Scope::Function)
            .unwrap();
        let stopped = Stopped::at(&program, function.address);
        let text = |name: &str| {
            let variable = variables.iter().find(|v| v.name == name).unwrap();
            let (mut ty, mut place) = (variable.ty, variable.place.clone());
            if let Shape::Pointer {
                to,
                reference: true,
                ..
            } = types.shape(ty)
            {
                let address = stopped.value(&place, 8, function.address).unwrap();
                place = Place::Memory(uprof_symbols::types::Address::Constant(u64::from_le_bytes(
                    address.try_into().unwrap(),
                )));
                ty = to.unwrap();
            }
            let Shape::Text(text) = types.shape(ty) else {
                panic!("{name} is {:?}", types.shape(ty))
            };
            let record = stopped
                .value(&place, text.size as usize, function.address)
                .unwrap_or_else(|why| panic!("{name} is {why}"));
            let word = |at: u64| u64::from_le_bytes(record[at as usize..][..8].try_into().unwrap());
            let TextLength::At { offset, bytes: 8 } = text.length else {
                panic!("{text:?}")
            };
            String::from_utf8(stopped.memory(word(text.pointer), word(offset) as usize)).unwrap()
        };
        assert_eq!(text("view"), "a view", "{level}");
        assert_eq!(text("name"), "a name", "{level}");
        assert_eq!(text("copy"), "c".repeat(100), "{level}");
        let last = variables.iter().find(|v| v.name == "last").unwrap();
        assert_eq!(
            stopped.value(&last.place, 4, function.address).unwrap(),
            (-6_i32).to_le_bytes()
        );
        let holder = types.named("ns::Holder<long int>").unwrap().unwrap();
        let (id, held) = (
            types.member(holder, "id").unwrap(),
            types.member(holder, "held").unwrap(),
        );
        assert_eq!(
            (id.offset, held.offset),
            (8, 16),
            "the base's members are its own"
        );
        assert_eq!(types.type_name(holder), "ns::Holder<long int>");
        let global = types.global("global").unwrap().unwrap();
        let value = stopped.value(&global.place, 24, function.address).unwrap();
        assert_eq!(value[16..24], 7_i64.to_le_bytes());
    }
}

#[test]
fn rust_and_go_strings() {
    let shop = Workshop::new();
    let source = r#"
use std::hint::black_box;
#[inline(never)] fn takes(text: &str, owned: &String, bytes: &[u8], number: Option<u32>) -> usize { black_box(text); black_box(text.len() + owned.len() + bytes.len() + number.unwrap_or(0) as usize) }
fn main() { black_box(takes(black_box("a text"), &String::from("an owned one"), &[1, 2, 3], Some(4))); }
"#;
    for level in ["-Copt-level=0", "-Copt-level=2"] {
        let program = shop.rustc("strings", source, &["-g", level]);
        let image = Image::open(&program).unwrap();
        let types = image.types().unwrap().unwrap();
        let function = one(&image, "*takes*");
        let variables = types
            .variables(&function, function.address, Scope::Function)
            .unwrap();
        let stopped = Stopped::at(&program, function.address);
        let text = variables.iter().find(|v| v.name == "text").unwrap();
        assert_eq!(types.type_name(text.ty), "&str");
        let Shape::Text(shape) = types.shape(text.ty) else {
            panic!("{:?}", types.shape(text.ty))
        };
        let value = stopped
            .value(&text.place, 16, function.address)
            .unwrap_or_else(|why| panic!("text is {why} ({level})"));
        let word = |at: u64| u64::from_le_bytes(value[at as usize..][..8].try_into().unwrap());
        assert_eq!(
            stopped.memory(word(shape.pointer), word(8) as usize),
            b"a text",
            "{level}"
        );
        let owned = types.named("alloc::string::String").unwrap().unwrap();
        assert!(
            matches!(types.shape(owned), Shape::Text(_)),
            "{:?}",
            types.shape(owned)
        );
    }
    let main = shop.write("main.go", "package main\nimport \"os\"\n//go:noinline\nfunc takes(n int, text string, data []byte) (int, string) { return n + len(text) + len(data), text }\nfunc main() { n, _ := takes(-4, \"a Go string\", []byte{9, 8}); os.Exit(n) }\n");
    let program = shop.path("go");
    run(
        "go",
        Command::new("go")
            .env("GOCACHE", shop.path("cache"))
            .arg("build")
            .arg("-o")
            .arg(&program)
            .arg(main),
    );
    let image = Image::open(&program).unwrap();
    let types = image.types().unwrap().unwrap();
    let function = one(&image, "main.takes");
    let variables = types
        .variables(&function, function.address, Scope::Function)
        .unwrap();
    let names: Vec<&str> = variables.iter().map(|v| v.name.as_str()).collect();
    assert_eq!(names, ["n", "text", "data"]);
    assert!(matches!(types.shape(variables[1].ty), Shape::Text(_)));
    let stopped = Stopped::at(&program, function.address);
    let value = stopped
        .value(&variables[1].place, 16, function.address)
        .unwrap();
    let word = |at: usize| u64::from_le_bytes(value[at..][..8].try_into().unwrap());
    assert_eq!(stopped.memory(word(0), word(8) as usize), b"a Go string");
    assert_eq!(types.returned(&function).unwrap().len(), 2);
}

#[test]
fn a_debug_package_serves_the_stripped_library() {
    let libc = crate::fixtures::libc();
    crate::fixtures::installed("/usr/lib/debug/.build-id", "libc6-dbg");
    let types = libc.types().unwrap().expect("libc6-dbg");
    let malloc = one(&libc, "malloc");
    let variables = types
        .variables(&malloc, malloc.address, Scope::Function)
        .unwrap();
    let bytes = variables
        .iter()
        .find(|v| v.name == "bytes")
        .unwrap_or_else(|| panic!("{variables:?}"));
    assert_eq!(types.type_name(bytes.ty), "size_t");
    assert_eq!(
        bytes.place,
        Place::Value(uprof_symbols::types::Address::Register(5))
    );
    let returned = types.returned(&malloc).unwrap();
    assert_eq!(types.type_name(returned[0].ty), "void *");
    assert_eq!(
        returned[0].place,
        Place::Value(uprof_symbols::types::Address::Register(0))
    );
}
