use uprof_symbols::site::{ArgSet, Cost, Purpose};
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
    assert_eq!(image.returns(&main).unwrap(), [main.offset + 7]);
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
