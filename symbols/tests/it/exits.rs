//! Exits against what objdump shows: it decodes on its own, and knows the pieces by their symbols.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use uprof_symbols::image::Part;
use uprof_symbols::site::{ArgSet, Cost, ExitKind, Purpose};
use uprof_symbols::{Error, Function, Image};

use crate::fixtures::{Workshop, find, installed, libc, mariadbd, one, run};

/// Functions that are left in each way there is.
const WAYS: &str = include_str!("exits.c");

/// Address -> kind of each exit.
type Exits = BTreeMap<u64, ExitKind>;

fn exits(image: &Image, function: &Function) -> Exits {
    let found = image.exits(function);
    let found = found.unwrap_or_else(|error| panic!("{}: {error}", function.name()));
    for exit in &found {
        assert_eq!(image.offset_of(exit.address), Some(exit.offset));
        // No kernel emulates a return.
        if exit.kind == ExitKind::Return {
            assert_eq!(exit.cost, Cost::SingleStepped);
        }
    }
    found.into_iter().map(|e| (e.address, e.kind)).collect()
}

/// One instruction as objdump shows it.
struct Line {
    address: u64,
    mnemonic: String,
    operand: String,
}

impl Line {
    fn returns(&self) -> bool {
        self.mnemonic == "ret"
    }

    fn jumps(&self) -> bool {
        self.mnemonic.starts_with('j')
    }

    /// Where a jump leads: an address, and the symbol there with what is added.
    fn target(&self) -> Option<(u64, &str, u64)> {
        let (address, place) = self.operand.split_once(" <")?;
        let address = u64::from_str_radix(address, 16).ok()?;
        let place = place.trim_end_matches('>');
        Some(match place.rsplit_once("+0x") {
            Some((name, add)) => (address, name, u64::from_str_radix(add, 16).ok()?),
            None => (address, place, 0),
        })
    }

    fn kind(&self) -> ExitKind {
        // Intel SDM volume 1, appendix B
        const CONDITIONS: [&str; 16] = [
            "o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g",
        ];
        let condition = CONDITIONS.iter().position(|c| self.mnemonic[1..] == **c);
        match condition {
            _ if self.returns() => ExitKind::Return,
            Some(number) => ExitKind::JumpIf(number as u8),
            None => ExitKind::Jump,
        }
    }
}

/// Every symbol's instructions, by its name.
fn disassembled(path: &Path) -> BTreeMap<String, Vec<Line>> {
    let text = run(
        "objdump",
        Command::new("objdump")
            .args(["-d", "--no-show-raw-insn", "-w"])
            .arg(path),
    );
    let mut all: BTreeMap<String, Vec<Line>> = BTreeMap::new();
    let mut name = String::new();
    for line in text.lines() {
        if let Some((_, symbol)) = line.split_once(" <").filter(|_| line.ends_with(">:")) {
            symbol.trim_end_matches(">:").clone_into(&mut name);
        } else if let Some((address, words)) = line.trim().split_once(":\t") {
            let prefixes = ["bnd", "repz", "rep", "notrack", "ds", "data16"];
            let mut words = words
                .split_whitespace()
                .skip_while(|w| prefixes.contains(w));
            let Ok(address) = u64::from_str_radix(address, 16) else {
                continue;
            };
            all.entry(name.clone()).or_default().push(Line {
                address,
                mnemonic: words.next().unwrap_or_default().to_owned(),
                operand: words.collect::<Vec<_>>().join(" "),
            });
        }
    }
    all
}

/// Whether NAME is FUNCTION or a piece of it.
fn belongs(name: &str, function: &str) -> bool {
    let rest = name.strip_prefix(function);
    rest.is_some_and(|rest| {
        rest.is_empty() || rest.starts_with(".cold") || rest.starts_with(".part")
    })
}

/// The exits by objdump: returns, and jumps to what does not belong to the function. Computed jumps only if TAILS.
fn shown(all: &BTreeMap<String, Vec<Line>>, function: &str, tails: bool) -> Exits {
    let own = all.iter().filter(|(name, _)| belongs(name, function));
    let leaves = |line: &&Line| match line.target() {
        _ if line.returns() => true,
        Some((_, name, add)) if line.jumps() => {
            !belongs(name, function) || (name == function && add == 0)
        }
        None if line.jumps() => tails && line.operand.starts_with('*'),
        _ => false,
    };
    own.flat_map(|(_, lines)| lines)
        .filter(leaves)
        .map(|line| (line.address, line.kind()))
        .collect()
}

fn ways(workshop: &Workshop, name: &str, flags: &[&str]) -> PathBuf {
    workshop.gcc(name, "exits.c", WAYS, flags)
}

#[test]
fn exits_are_those_that_objdump_shows() {
    let workshop = Workshop::new();
    let (mut kinds, mut pieces) = (BTreeMap::new(), 0);
    for level in ["-O0", "-O1", "-O2", "-Os", "-O3"] {
        for how in [
            &["-fPIE", "-pie"][..],
            &["-fno-pie", "-no-pie"],
            &["-fcf-protection=full"],
            &["-fno-omit-frame-pointer"],
            &["-fno-asynchronous-unwind-tables"],
            &["-static"],
        ] {
            let flags: Vec<&str> = [level].iter().chain(how).copied().collect();
            let path = ways(&workshop, "ways", &flags);
            let image = Image::open(&path).unwrap();
            let all = disassembled(&path);
            let source = |name: &&String| WAYS.contains(&format!(" {name}("));
            for name in all.keys().filter(source) {
                let function = one(&image, name);
                let theirs = shown(&all, name, !name.starts_with("switch"));
                assert_eq!(exits(&image, &function), theirs, "{name} with {flags:?}");
                for kind in theirs.values() {
                    let kind = match kind {
                        ExitKind::JumpIf(_) => "conditional".to_owned(),
                        other => format!("{other:?}"),
                    };
                    *kinds.entry(kind).or_insert(0) += 1;
                }
            }
            pieces += all.keys().filter(|name| name.ends_with(".cold")).count();
        }
    }
    // GCC makes no conditional tail calls.
    assert!(kinds["Return"] > 100 && kinds["Jump"] > 100, "{kinds:?}");
    assert!(pieces > 20, "{pieces}");
}

/// Without names the pieces are found by the call frame information.
#[test]
fn stripped_libraries_have_the_same_exits() {
    let workshop = Workshop::new();
    for level in ["-O1", "-O2", "-O3"] {
        let full = ways(
            &workshop,
            "full.so",
            &[level, "-shared", "-fPIC", "-fvisibility=default"],
        );
        let bare = workshop.path("bare.so");
        run(
            "strip",
            Command::new("strip").arg("-o").args([&bare, &full]),
        );
        let (full, bare) = (Image::open(&full).unwrap(), Image::open(&bare).unwrap());
        let mut compared = 0;
        for function in find(&bare, "*") {
            let with_names = one(&full, function.name());
            assert_eq!(
                exits(&bare, &function),
                exits(&full, &with_names),
                "{} at {level}",
                function.name()
            );
            compared += 1;
        }
        assert!(compared > 25, "{compared}");
    }
}

/// The instruction at an address, in words, and the exit's kind.
fn exits_of(image: &Image, name: &str) -> Vec<ExitKind> {
    exits(image, &one(image, name)).into_values().collect()
}

const BY_HAND: &str = ".text\n\
    .macro func name\n.globl \\name\n.type \\name,@function\n\\name:\n.endm\n\
    .macro done name\n.size \\name,.-\\name\n.endm\n\
    func main\n xor %eax,%eax\n ret\ndone main\n\
    func jumps\n jmp main\ndone jumps\n\
    func jumps_if\n test %edi,%edi\n je main\n jne jumps\n ud2\ndone jumps_if\n\
    func loops\n dec %edi\n jne loops\n ret\ndone loops\n\
    func frees\n push %rbx\n sub $16,%rsp\n call main\n add $16,%rsp\n pop %rbx\n ret $16\ndone frees\n\
    func keeps\n push %rbx\n mov %rdi,%rbx\n jmp *%rdi\ndone keeps\n\
    func gives_up\n push %rbx\n pop %rbx\n jmp *%rdi\ndone gives_up\n\
    func into\n push %rbx\n jmp shared\ndone into\n\
    func tail\n push %rbx\nshared: pop %rbx\n rep ret\ndone tail\n\
    func runs_on\n test %edi,%edi\n je main\ndone runs_on\n.p2align 4\n\
    func goes_on\n ret\ndone goes_on\n\
    func locks\n je 1f\n lock\n1: incl (%rdi)\n ret\ndone locks\n\
    func never\n nop\n1: hlt\n jmp 1b\ndone never\n\
    func data\n jmp 1f\n.byte 0x48, 0xb8\n1: ret\n nop\n nop\n nop\n nop\n nop\n nop\n nop\ndone data\n\
    func broken\n ret\n.byte 0x06\ndone broken\n\
    func refused\n test %edi,%edi\n jrcxz main\n ret\ndone refused\n\
    .globl endless\n.type endless,@function\nendless: ret\n\
    .section .note.GNU-stack,\"\",@progbits\n";

/// Without call frame information the instructions tell what is on the stack.
#[test]
fn hand_written_functions_are_followed() {
    use ExitKind::{Jump, JumpIf, Return};
    let workshop = Workshop::new();
    let path = workshop.gcc(
        "by-hand",
        "by-hand.S",
        BY_HAND,
        &["-no-pie", "-Wl,-z,noexecstack"],
    );
    let image = Image::open(&path).unwrap();
    let cases: &[(&str, &[ExitKind])] = &[
        ("main", &[Return]),
        ("jumps", &[Jump]),
        ("jumps_if", &[JumpIf(4), JumpIf(5)]),
        // Back at its own start, it is entered again.
        ("loops", &[JumpIf(5), Return]),
        ("frees", &[Return]),
        ("keeps", &[]),
        ("gives_up", &[Jump]),
        ("into", &[Return]),
        ("runs_on", &[JumpIf(4), Return]),
        ("locks", &[Return]),
        ("never", &[]),
    ];
    for (name, kinds) in cases {
        assert_eq!(exits_of(&image, name), *kinds, "{name}");
    }
    for (name, why) in [
        ("data", "middle of an instruction"),
        ("broken", "no instruction"),
        ("endless", "where it ends"),
    ] {
        let error = image.exits(&one(&image, name)).unwrap_err();
        assert!(
            matches!(error, Error::UnknownExits { .. }),
            "{name}: {error}"
        );
        let text = error.to_string();
        assert!(text.contains(name) && text.contains(why), "{text}");
    }
    let error = image.exits(&one(&image, "refused")).unwrap_err();
    assert!(matches!(error, Error::Unprobeable { .. }), "{error}");
    assert!(error.to_string().contains("cannot see"), "{error}");
}

#[test]
fn pieces_that_are_jumped_to_have_no_exits_of_their_own() {
    let workshop = Workshop::new();
    let image = Image::open(&ways(&workshop, "ways", &["-O2"])).unwrap();
    let piece = one(&image, "cold_back.cold");
    assert_eq!(piece.part, Part::Cold);
    let error = image.exits(&piece).unwrap_err();
    assert!(matches!(error, Error::NoReturn { .. }), "{error}");
    assert_eq!(exits_of(&image, "dies"), []);
}

const THROWS: &str = "#include <stdexcept>\n#include <cstdio>\n\
    struct A { virtual int a(int); int x = 1; };\n\
    struct B { virtual int b(int); int y = 2; };\n\
    struct C : A, B { int a(int) override; int b(int) override; };\n\
    __attribute__((noipa)) int A::a(int n) { return n + x; }\n\
    __attribute__((noipa)) int B::b(int n) { return n + y; }\n\
    __attribute__((noipa)) int C::a(int n) { if (n > 3) throw std::runtime_error(\"a\"); return n; }\n\
    __attribute__((noipa)) int C::b(int n) { return n * y; }\n\
    extern \"C\" __attribute__((noipa)) int virtual_tail(B *b, int n) { return b->b(n + 1); }\n\
    extern \"C\" __attribute__((noipa)) int catches(A *a, int n) { try { return a->a(n) + 1; } catch (std::exception &e) { std::puts(e.what()); return -1; } }\n\
    int main(int c, char **) { C o; return catches(&o, c) + virtual_tail(&o, c); }\n";

/// Handlers of exceptions are in pieces of their own, and end where they jump back or return.
#[test]
fn functions_of_cxx_have_theirs() {
    let workshop = Workshop::new();
    for level in ["-O0", "-O2"] {
        let path = workshop.gcc("throws", "throws.cc", THROWS, &[level]);
        let image = Image::open(&path).unwrap();
        let all = disassembled(&path);
        for name in [
            "virtual_tail",
            "catches",
            "main",
            "_ZN1C1aEi",
            "_ZThn16_N1C1bEi",
        ] {
            let theirs = shown(&all, name, true);
            assert!(!theirs.is_empty(), "{name}");
            assert_eq!(
                exits(&image, &one(&image, name)),
                theirs,
                "{name} at {level}"
            );
        }
    }
}

/// Static programs: musl has hardly any call frame information, glibc much written by hand.
#[test]
fn all_functions_of_static_programs_have_their_returns() {
    let workshop = Workshop::new();
    let source = workshop.write("exits.c", WAYS);
    for (compiler, least) in [("gcc", 900), ("musl-gcc", 60)] {
        let path = workshop.compile(compiler, "static", &source, &["-O2", "-static"]);
        let image = Image::open(&path).unwrap();
        let all = disassembled(&path);
        let mut compared = 0;
        for function in image.functions().unwrap() {
            // What has no name is a part of something else.
            let lines = function.names.iter().find_map(|name| all.get(name));
            let (Some(lines), Part::Whole, Ok(found)) =
                (lines, function.part, image.exits(&function))
            else {
                continue;
            };
            let found: Exits = found.into_iter().map(|e| (e.address, e.kind)).collect();
            // Several static functions may have one name.
            let range = function.address..function.end;
            for line in lines.iter().filter(|line| range.contains(&line.address)) {
                let leads_away = line.target().is_some_and(|(address, name, add)| {
                    let own = function.names.iter().any(|own| belongs(name, own));
                    let cold = name.contains(".cold");
                    add == 0 && !own && !cold && !range.contains(&address)
                });
                if line.returns() || (line.jumps() && leads_away) {
                    assert_eq!(
                        found.get(&line.address),
                        Some(&line.kind()),
                        "{} at {:#x}",
                        function.name(),
                        line.address
                    );
                }
            }
            compared += 1;
        }
        assert!(compared > least, "{compiler}: {compared}");
    }
}

#[test]
fn functions_of_real_programs_have_exits() {
    let redis = Image::open(&installed("/usr/bin/redis-server", "redis-server")).unwrap();
    let nginx = Image::open(&installed("/usr/sbin/nginx", "nginx")).unwrap();
    let libc = libc();
    let cases: [(&Image, &[&str]); 4] = [
        (
            &libc,
            &[
                "malloc", "free", "calloc", "realloc", "qsort", "printf", "strtol", "read", "fread",
            ],
        ),
        (&redis, &["call", "processCommand", "lookupKey", "dictFind"]),
        (
            &nginx,
            &[
                "ngx_close_connection",
                "ngx_http_process_request",
                "ngx_event_accept",
            ],
        ),
        (
            &mariadbd(),
            &[
                "_Z16dispatch_command19enum_server_commandP3THDPcjb",
                "_Z10MYSQLparseP3THD",
            ],
        ),
    ];
    for (image, names) in cases {
        for name in names {
            let function = one(image, name);
            let found = exits(image, &function);
            assert!(!found.is_empty(), "{name}");
        }
        // All that is exported, but for code with data in it.
        let all = find(image, "*");
        let refused = all.iter().filter(|f| image.exits(f).is_err()).count();
        assert!(
            refused * 200 < all.len(),
            "{}: {refused} of {}",
            image.path().display(),
            all.len()
        );
    }
}

const GROWS: &str = "package main\n\
    import \"os\"\n\
    //go:noinline\nfunc small(n int) int { var a [40]int; fill(a[:], n); return a[n%40] }\n\
    //go:noinline\nfunc large(n int) int { var a [9000]int; fill(a[:], n); return a[n%9000] }\n\
    //go:noinline\nfunc fill(a []int, n int) { for i := range a { a[i] = i * n } }\n\
    //go:noinline\nfunc pick(n int) int { switch n { case 0: return small(1); case 1: return small(2); case 2: return large(3); \
    case 3: return small(4) + 1; case 4: return large(5) + 2; case 5: return small(8) * 3; case 6: return large(7); \
    case 7: return small(9) ^ 7; case 8: return small(10) }; return 0 }\n\
    func main() { os.Exit(pick(len(os.Args)) & 1) }\n";

/// A function of Go begins anew when its stack had to grow: its place is behind, and that jump back is no exit.
#[test]
fn what_begins_anew_when_the_stack_grows_is_left_behind() {
    let workshop = Workshop::new();
    let source = workshop.write("grows.go", GROWS);
    let path = workshop.path("grows");
    for flags in ["", "-s -w"] {
        let mut build = Command::new("go");
        build
            .args(["build", "-ldflags", flags, "-o"])
            .args([&path, &source]);
        run("go", build.env("GOFLAGS", "-buildvcs=false"));
        let image = Image::open(&path).unwrap();
        for (name, branches) in [("small", 1), ("large", 2), ("pick", 1), ("fill", 0)] {
            let function = one(&image, &format!("main.{name}"));
            let code = image.code(&function, 4096).unwrap();
            for purpose in [Purpose::Entry, Purpose::EntryReturn] {
                let site = image.place(&function, purpose, ArgSet::EMPTY).unwrap();
                let before = conditional_jumps(&workshop, &code[..site.moved as usize]);
                assert_eq!(
                    before,
                    branches,
                    "{name}: {} at {:#x}",
                    site.instruction(),
                    site.moved
                );
                if branches > 0 {
                    assert!(
                        site.instruction().starts_with("sub rsp")
                            || site.instruction().starts_with("push"),
                        "{site:?}"
                    );
                }
            }
            let kinds: BTreeSet<String> = exits_of(&image, &format!("main.{name}"))
                .iter()
                .map(|k| format!("{k:?}"))
                .collect();
            assert_eq!(kinds, BTreeSet::from(["Return".to_owned()]), "{name}");
        }
    }
}

fn conditional_jumps(workshop: &Workshop, code: &[u8]) -> usize {
    if code.is_empty() {
        return 0;
    }
    let path = workshop.write("code", code);
    let mut objdump = Command::new("objdump");
    objdump
        .args(["-D", "-b", "binary", "-m", "i386:x86-64"])
        .arg(&path);
    let text = run("objdump", &mut objdump);
    text.lines().filter(|line| line.contains("\tj")).count()
}
