use std::collections::BTreeSet;

use uprof_symbols::image::{Part, Sites};
use uprof_symbols::site::{ArgSet, Cost, ExitKind, Purpose};
use uprof_symbols::{Error, Image, Pattern};

use crate::fixtures::{Workshop, find, installed, libc, mariadbd, one};

const ALL: ArgSet = ArgSet::REGISTERS;

#[test]
fn the_landing_pad_is_skipped() {
    let workshop = Workshop::new();
    let source = "int g(int); __attribute__((noipa)) int f(int x) { int y = g(x); return g(y) + y; }\n\
        __attribute__((noipa)) int g(int x) { __asm__(\"\"); return x + 1; }\n\
        int main(int c, char **v) { (void)v; return f(c); }\n";
    let protected = workshop.gcc("protected", "f.c", source, &["-O2", "-fcf-protection=full"]);
    let plain = workshop.gcc("plain", "f.c", source, &["-O2", "-fcf-protection=none"]);
    for purpose in [Purpose::Entry, Purpose::EntryReturn] {
        for (path, moved) in [(&protected, 4), (&plain, 0)] {
            let image = Image::open(path).unwrap();
            let site = image.place(&one(&image, "f"), purpose, ALL).unwrap();
            assert_eq!(
                (site.moved, site.cost),
                (moved, Cost::Emulated),
                "{}",
                site.instruction()
            );
            assert!(
                site.instruction().starts_with("push"),
                "{}",
                site.instruction()
            );
        }
    }
}

#[test]
fn the_allocator_costs_one_trap_each() {
    let image = libc();
    for name in [
        "malloc",
        "calloc",
        "realloc",
        "free",
        "memalign",
        "posix_memalign",
        "aligned_alloc",
    ] {
        let function = one(&image, name);
        let site = image.place(&function, Purpose::EntryReturn, ALL).unwrap();
        assert!(
            site.cost <= Cost::Emulated,
            "{name}: {} at +{:#x}",
            site.instruction(),
            site.moved
        );
    }
}

/// Sites stand on instructions, within the function, before another symbol begins; and none moved without a gain.
#[test]
fn no_site_leaves_its_function_or_passes_a_jump() {
    for image in [
        libc(),
        mariadbd(),
        Image::open(&installed("/usr/bin/redis-server", "redis-server")).unwrap(),
        Image::open(&installed(
            "/usr/lib/x86_64-linux-gnu/libstdc++.so.6",
            "libstdc++6",
        ))
        .unwrap(),
    ] {
        let mut moved = 0;
        for function in image.functions().unwrap() {
            let Ok(site) = image.place(&function, Purpose::EntryReturn, ALL) else {
                continue;
            };
            assert!(
                site.address < function.undivided || site.moved == 0,
                "{function:?}"
            );
            assert_eq!(site.offset - function.offset, site.moved);
            let again = image.place_at(&function, site.moved).unwrap();
            assert_eq!((again.offset, again.cost), (site.offset, site.cost));
            if site.moved > 0 {
                moved += 1;
                let start = image.place_at(&function, 0);
                assert!(
                    start.is_err() || start.unwrap().cost > site.cost,
                    "{function:?} moved for nothing"
                );
            }
        }
        assert!(moved > 50, "{}: {moved}", image.path().display());
    }
}

const LOOPS: &str = ".text\n\
    .macro func name\n.globl \\name\n.type \\name,@function\n\\name:\n.endm\n\
    .macro done name\n.size \\name,.-\\name\n.endm\n\
    func main\n xor %eax,%eax\n ret\ndone main\n\
    func loops_back\n mov (%rdi),%eax\n1: test %eax,%eax\n je 2f\n dec %eax\n jmp 1b\n2: ret\ndone loops_back\n\
    func loops_past\n mov (%rdi),%eax\n test %eax,%eax\n je 2f\n1: dec %eax\n jne 1b\n2: ret\ndone loops_past\n\
    func cold_back\n mov (%rdi),%eax\n.Lback: test %eax,%eax\n je cold_part\n ret\ndone cold_back\n\
    func cold_away\n mov (%rdi),%eax\n test %eax,%eax\n je cold_end\n ret\ndone cold_away\n\
    func tail_call\n mov (%rdi),%eax\n test %eax,%eax\n je loops_back\n ret\ndone tail_call\n\
    func computed\n mov (%rdi),%eax\n test %eax,%eax\n je 2f\n jmp *%rsi\n2: ret\ndone computed\n\
    func split\n mov (%rdi),%eax\n.globl inner\n.type inner,@function\ninner: push %rbx\n pop %rbx\n ret\n.size inner,.-inner\ndone split\n\
    .section .text.unlikely,\"ax\",@progbits\n\
    cold_part: pause\n jmp .Lback\n\
    cold_end: ud2\n\
    .section .note.GNU-stack,\"\",@progbits\n";

#[test]
fn places_that_a_call_may_pass_twice_are_left_alone() {
    let workshop = Workshop::new();
    let image = Image::open(&workshop.gcc("loops", "loops.S", LOOPS, &["-no-pie"])).unwrap();
    for (name, moved, cost) in [
        ("loops_back", 0, Cost::SingleStepped),
        ("loops_past", 4, Cost::Emulated),
        ("cold_back", 0, Cost::SingleStepped),
        ("cold_away", 4, Cost::Emulated),
        ("tail_call", 4, Cost::Emulated),
        ("computed", 0, Cost::SingleStepped),
        ("split", 0, Cost::SingleStepped),
        ("inner", 0, Cost::Emulated),
    ] {
        let site = image
            .place(&one(&image, name), Purpose::EntryReturn, ALL)
            .unwrap();
        assert_eq!(
            (site.moved, site.cost),
            (moved, cost),
            "{name}: {}",
            site.instruction()
        );
    }
}

#[test]
fn an_offset_inside_an_instruction_is_refused() {
    let workshop = Workshop::new();
    let source = ".text\n.globl main\n.type main,@function\nmain: push %rbp\n mov $0x11223344,%eax\n pop %rbp\n ret\n.size main,.-main\n\
        .section .note.GNU-stack,\"\",@progbits\n";
    let image = Image::open(&workshop.gcc("offsets", "offsets.S", source, &[])).unwrap();
    let sites = |text: &str| {
        image
            .sites(&Pattern::parse(text).unwrap(), Purpose::Entry, ALL)
            .unwrap()
    };
    assert_eq!(sites("main+1").placed[0].1.moved, 1);
    assert_eq!(sites("main+0x6").placed[0].1.instruction(), "pop rbp");
    let refused = sites("main+3").refused;
    let message = refused[0].1.to_string();
    assert!(
        message.contains("main+0x3") && message.contains("+0x1") && message.contains("+0x6"),
        "{message}"
    );
    assert!(matches!(
        sites("main+100").refused[0].1,
        Error::PastEnd { .. }
    ));
    let main = one(&image, "main");
    let by_address = sites(&format!("{:#x}", main.address + 6));
    assert_eq!(by_address.placed[0].1.moved, 6);
    let exits = image.exits(&main).unwrap();
    assert_eq!(exits.len(), 1);
    assert_eq!(
        (exits[0].offset, exits[0].kind),
        (main.offset + 7, ExitKind::Return)
    );
    assert!(sites("nothing_of_that_name").placed.is_empty());
}

/// Many functions in order of address cost few reads, and little memory: no window grows with the file.
#[test]
fn placing_in_all_of_mariadb_takes_little() {
    let image = mariadbd();
    let functions = find(&image, "_ZN*");
    let before = resident();
    for function in &functions {
        image.place(function, Purpose::EntryReturn, ALL).unwrap();
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 4 << 20, "placing took {grown} bytes");
}

fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// However many names lead to a place, it is probed once.
#[test]
fn no_pattern_places_two_probes_on_one_instruction() {
    let image = libc();
    for text in ["*malloc*", "*free*", "/alloc|free/", "*"] {
        let pattern = Pattern::parse(text).unwrap();
        for purpose in [Purpose::Entry, Purpose::EntryReturn] {
            let sites = image.sites(&pattern, purpose, ALL).unwrap();
            let offsets: BTreeSet<u64> = sites.placed.iter().map(|(_, site)| site.offset).collect();
            assert_eq!(offsets.len(), sites.placed.len(), "{text}");
            assert!(offsets.len() > 10, "{text}: {}", offsets.len());
            assert!(
                sites.placed.iter().all(|(f, _)| f.part == Part::Whole),
                "{text}"
            );
        }
    }
}

const PLACES: &str = "#include <stdlib.h>\n\
static inline __attribute__((always_inline)) int twice(int x)\n\
{\n\
    return x + atoi(\"1\") * x;\n\
}\n\
\n\
__attribute__((noipa)) int first(int x)\n\
{\n\
    return twice(x) + 1;\n\
}\n\
__attribute__((noipa)) int second(int x) { return 3 * twice(x); }\n\
int main(int c, char **v) { (void)v; return first(c) + second(c); }\n";

#[test]
fn lines_and_inlined_copies_are_entries_without_a_return() {
    let workshop = Workshop::new();
    let path = workshop.gcc("places", "places.c", PLACES, &["-g", "-O2"]);
    let image = Image::open(&path).unwrap();
    let sites = |text: &str, purpose| {
        let pattern = Pattern::parse(text).unwrap();
        image.sites(&pattern, purpose, ALL).unwrap()
    };
    let within = |sites: &Sites| -> BTreeSet<String> {
        let names = sites.placed.iter().map(|(f, _)| f.name().to_owned());
        names.collect()
    };
    let both = BTreeSet::from(["first".to_owned(), "second".to_owned()]);
    let copies = sites("twice@inlined", Purpose::Entry);
    assert_eq!((copies.placed.len(), within(&copies)), (2, both.clone()));
    assert!(
        copies.notes[0].contains("inlined in 2 places"),
        "{:?}",
        copies.notes
    );
    assert_eq!(find(&image, "twice@inlined").len(), 2);
    let line = sites("places.c:4", Purpose::Entry);
    assert_eq!(within(&line), both);
    assert!(line.notes.is_empty(), "{:?}", line.notes);
    for (function, site) in &line.placed {
        assert!((function.address..function.end).contains(&site.address));
        assert_eq!(site.moved, site.address - function.address);
    }
    // an empty line: the next that has code, and that is said
    let next = sites("places.c:6", Purpose::Entry);
    assert!(next.notes[0].contains("places.c:6"), "{:?}", next.notes);
    assert_eq!(within(&next), BTreeSet::from(["first".to_owned()]));

    for text in ["places.c:4", "twice@inlined"] {
        let refused = sites(text, Purpose::EntryReturn);
        assert!(
            refused.placed.is_empty() && refused.refused.len() >= 2,
            "{text}"
        );
        for (_, error) in refused.refused {
            assert!(matches!(error, Error::NoReturn { .. }), "{error}");
            assert!(error.to_string().contains(text), "{error}");
        }
    }
    let none = Image::open(&workshop.gcc("none", "places.c", PLACES, &["-O2"])).unwrap();
    for text in ["places.c:4", "twice@inlined"] {
        let error = none.find(&Pattern::parse(text).unwrap()).unwrap_err();
        assert!(matches!(error, Error::NoDebugInfo { .. }), "{error}");
        assert!(error.to_string().contains("-g"), "{error}");
    }
}

const STATIC_PROBE: &str = "#include <sys/sdt.h>\n\
unsigned short shop_sold_semaphore __attribute__((section(\".probes\")));\n\
__attribute__((noipa)) int sell(int x) { DTRACE_PROBE1(shop, open, x); return x + 1; }\n\
int main(int c, char **v) { (void)v; return sell(c); }\n";

#[test]
fn static_probes_are_placed_on_their_instruction() {
    let workshop = Workshop::new();
    let path = workshop.gcc("shop", "shop.c", STATIC_PROBE, &["-O2"]);
    let image = Image::open(&path).unwrap();
    for text in ["usdt:shop:open", "usdt:s*:o*", "usdt::open"] {
        let pattern = Pattern::parse(text).unwrap();
        let sites = image.sites(&pattern, Purpose::Entry, ALL).unwrap();
        let [(function, site)] = &sites.placed[..] else {
            panic!("{text}: {sites:?}");
        };
        assert_eq!((function.name(), site.semaphore), ("sell", None));
        assert_eq!(site.instruction(), "nop");
        let refused = image.sites(&pattern, Purpose::EntryReturn, ALL).unwrap();
        assert!(
            matches!(refused.refused[..], [(_, Error::NoReturn { .. })]),
            "{text}"
        );
    }
    let other = Pattern::parse("usdt:shop:close").unwrap();
    assert!(
        image
            .sites(&other, Purpose::Entry, ALL)
            .unwrap()
            .placed
            .is_empty()
    );

    // python's probes have counters, which the kernel raises by their place in the file
    let python = Image::open(&installed("/usr/bin/python3.11", "python3.11")).unwrap();
    let pattern = Pattern::parse("usdt:python:function__entry").unwrap();
    let sites = python.sites(&pattern, Purpose::Entry, ALL).unwrap();
    assert!(!sites.placed.is_empty());
    let len = std::fs::metadata(python.path()).unwrap().len();
    for (_, site) in sites.placed {
        assert!(
            site.semaphore.is_some_and(|at| at > 0 && at < len),
            "{site:?}"
        );
    }
}

/// A statement far into a large function is found as well as one at its start.
#[test]
fn large_functions_have_lines_up_to_their_end() {
    let workshop = Workshop::new();
    let body = "    v += v * 3 + c;\n".repeat(9000);
    let source =
        format!("volatile int v;\nint main(int c, char **a) {{\n{body}    return v + !a;\n}}\n");
    let image = Image::open(&workshop.gcc("large", "large.c", &source, &["-g", "-O0"])).unwrap();
    let main = one(&image, "main");
    assert!(main.size > 128 << 10, "{}", main.size);
    let pattern = Pattern::parse("large.c:9002").unwrap();
    let sites = image.sites(&pattern, Purpose::Entry, ALL).unwrap();
    assert!(
        sites.placed[0].1.moved > 128 << 10 && sites.refused.is_empty(),
        "{sites:?}"
    );
}
