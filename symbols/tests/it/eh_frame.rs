use std::process::Command;

use uprof_symbols::{Image, eh_frame};

use crate::fixtures::{Workshop, installed, libc, mariadbd, one, run};

/// (start, end) of every FDE, as readelf reads them.
fn by_readelf(path: &std::path::Path) -> Vec<(u64, u64)> {
    // N: not those of the debug file beside it. Its exit status tells of damage in sections that are not printed.
    let output = Command::new("readelf")
        .args(["-wFN", "-W"])
        .arg(path)
        .output();
    let output = output.expect("readelf: install binutils").stdout;
    let text = String::from_utf8_lossy(&output);
    let section = text
        .split("Contents of the .eh_frame section:")
        .nth(1)
        .expect("the section");
    let section = section.split("Contents of the ").next().unwrap_or_default();
    let mut ranges: Vec<(u64, u64)> = section
        .lines()
        .filter(|line| line.contains(" FDE "))
        .filter_map(|line| line.split("pc=").nth(1)?.trim().split_once(".."))
        .map(|(start, end)| [start, end].map(|n| u64::from_str_radix(n, 16).expect("a number")))
        .map(|[start, end]| (start, end))
        .collect();
    ranges.sort_unstable();
    ranges
}

fn ours(image: &Image) -> Vec<(u64, u64)> {
    let frame = eh_frame::read(image).unwrap().expect(".eh_frame");
    frame
        .ranges()
        .iter()
        .map(|r| (r.address, r.end()))
        .collect()
}

#[test]
fn ranges_are_those_that_readelf_prints() {
    for (path, package) in [
        ("/lib/x86_64-linux-gnu/libc.so.6", "libc6"),
        ("/usr/sbin/mariadbd", "mariadb-server"),
        ("/usr/sbin/nginx", "nginx"),
        ("/usr/lib/x86_64-linux-gnu/libstdc++.so.6", "libstdc++6"),
    ] {
        let path = installed(path, package);
        let ranges = ours(&Image::open(&path).unwrap());
        assert!(ranges.len() > 1000, "{}", ranges.len());
        assert_eq!(ranges, by_readelf(&path), "{}", path.display());
    }
    let workshop = Workshop::new();
    let source = "#include <stdio.h>\nint main(void) { puts(\"\"); return 0; }\n";
    for (compiler, flags) in [
        ("gcc", &["-static"][..]),
        ("gcc", &["-static-pie"]),
        ("musl-gcc", &["-static"]),
    ] {
        let source = workshop.write("hello.c", source);
        let out = workshop.compile(compiler, "hello", &source, flags);
        assert_eq!(
            ours(&Image::open(&out).unwrap()),
            by_readelf(&out),
            "{compiler} {flags:?}"
        );
    }
}

#[test]
fn a_function_is_where_its_symbol_says() {
    let libc = libc();
    let frame = eh_frame::read(&libc).unwrap().unwrap();
    let malloc = one(&libc, "malloc");
    let range = frame.around(malloc.address + 5).unwrap();
    assert_eq!((range.address, range.end()), (malloc.address, malloc.end));
    assert_eq!(frame.around(0), None);
}

/// Without section headers, the search table in the program headers leads to the same entries.
#[test]
fn section_headers_are_not_needed() {
    let workshop = Workshop::new();
    for image in [libc(), mariadbd()] {
        let mut bytes = std::fs::read(image.path()).unwrap();
        // e_shoff; e_shnum and e_shstrndx
        bytes[0x28..0x30].fill(0);
        bytes[0x3c..0x40].fill(0);
        let bare = Image::open(&workshop.write("bare", bytes)).unwrap();
        let mut with = ours(&image);
        // The linker's search table has one row for each address.
        with.dedup_by_key(|range| range.0);
        let mut without = ours(&bare);
        without.dedup_by_key(|range| range.0);
        assert_eq!(with, without);
    }
}

#[test]
fn the_frame_base_moves_with_the_stack_pointer() {
    let workshop = Workshop::new();
    let source = "__attribute__((noinline)) int f(int n) { volatile char room[400]; room[n] = 1; return room[n + 1]; }\n\
        int main(int n, char **v) { (void)v; return f(n); }\n";
    let path = workshop.gcc("f", "f.c", source, &["-O0", "-fno-omit-frame-pointer"]);
    let image = Image::open(&path).unwrap();
    let frame = eh_frame::read(&image).unwrap().unwrap();
    let f = one(&image, "f");
    // x86-64 psABI, figure 3.36: DWARF register 7 is rsp, 6 is rbp. At entry only the return address is on the stack.
    assert_eq!(frame.cfa_at(f.address), Some((7, 8)));
    // After push %rbp (one byte, behind endbr64 if there is one) and mov %rsp,%rbp (three) it is by rbp.
    let code = image.code(&f, 8).unwrap();
    let push = if code.starts_with(&[0xf3, 0x0f, 0x1e, 0xfa]) {
        4
    } else {
        0
    };
    assert_eq!(code[push], 0x55);
    assert_eq!(frame.cfa_at(f.address + push as u64 + 1), Some((7, 16)));
    assert_eq!(frame.cfa_at(f.address + push as u64 + 4), Some((6, 16)));
    assert_eq!(frame.cfa_at(1), None);
}

#[test]
fn handlers_of_exceptions_are_seen() {
    let workshop = Workshop::new();
    let source = "#include <stdio.h>\nextern \"C\" { void thrower(int n) { if (n) throw n; }\n\
        int catcher(int n) { try { thrower(n); } catch (int got) { return got; } return 0; }\n\
        int plain(int n) { return n + 1; } }\nint main(int n, char **) { return catcher(n) + plain(n); }\n";
    let path = workshop.gcc("throws", "throws.cc", source, &["-O1", "-fno-inline"]);
    let image = Image::open(&path).unwrap();
    let frame = eh_frame::read(&image).unwrap().unwrap();
    let handles = |name| {
        frame
            .around(one(&image, name).address)
            .unwrap()
            .has_handlers
    };
    assert!(handles("catcher"));
    assert!(!handles("plain"));
}

/// Damaged tables give fewer entries, never a failure beyond an error.
#[test]
fn damage_is_survived() {
    let workshop = Workshop::new();
    let path = workshop.gcc("tiny", "tiny.c", "int main(void) { return 0; }\n", &[]);
    let image = Image::open(&path).unwrap();
    let whole = ours(&image).len();
    let bytes = std::fs::read(&path).unwrap();
    let sections = run("readelf", Command::new("readelf").arg("-SW").arg(&path));
    let line = sections
        .lines()
        .find(|line| line.contains(" .eh_frame "))
        .unwrap();
    let fields: Vec<&str> = line
        .split("PROGBITS")
        .nth(1)
        .unwrap()
        .split_whitespace()
        .collect();
    let [offset, size] = [fields[1], fields[2]].map(|n| usize::from_str_radix(n, 16).unwrap());
    for at in 0..size {
        for value in [0x00, 0x7f, 0xff] {
            let mut damaged = bytes.clone();
            damaged[offset + at] = value;
            let image = Image::open(&workshop.write("damaged", damaged)).unwrap();
            let found = ours(&image);
            assert!(found.len() <= whole * 4, "{at} {value}: {}", found.len());
            let frame = eh_frame::read(&image).unwrap().unwrap();
            let _ = frame.cfa_at(image.entry_point());
        }
    }
}
