//! Debug information in all the shapes that compilers, linkers and packagers give it: each has to tell the same of
//! one program.

use std::path::{Path, PathBuf};
use std::process::Command;

use uprof_symbols::dwarf::Dwarf;
use uprof_symbols::{Image, Pattern};

use crate::fixtures::{Workshop, run};

const SOURCE: &str = r#"
#include <stdio.h>
static inline __attribute__((always_inline)) int twice(int n) {
    printf("%d\n", n);
    return n * 2;
}
__attribute__((noinline)) int work(int n) {
    int sum = twice(n);
    if (n > 3)
        sum += twice(n + 1);
    return sum;
}
int main(int argc, char **argv) {
    (void)argv;
    return work(argc);
}
"#;

fn pattern(text: &str) -> Pattern {
    Pattern::parse(text).unwrap()
}

fn dwarf_of(path: &Path) -> Dwarf {
    let image = Image::open(path).unwrap();
    let dwarf = Dwarf::of(&image, None).unwrap();
    dwarf.unwrap_or_else(|| panic!("{} has debug information", path.display()))
}

fn address_in(symbols: &Path, name: &str) -> u64 {
    let listed = run("nm", Command::new("nm").arg(symbols));
    let line = listed
        .lines()
        .find(|line| line.ends_with(&format!(" {name}")));
    let line = line.unwrap_or_else(|| panic!("nm lists {name}:\n{listed}"));
    u64::from_str_radix(line.split(' ').next().unwrap(), 16).unwrap()
}

/// What has to be known of the fixture, whatever its debug information looks like. SYMBOLS is the same program with
/// its symbol table.
fn check(path: &Path, symbols: &Path) {
    let dwarf = dwarf_of(path);
    let work = address_in(symbols, "work");
    let found = dwarf.functions_named(&pattern("work")).unwrap();
    let addresses: Vec<u64> = found.iter().map(|f| f.address).collect();
    assert_eq!(addresses, [work], "{found:?} {:?}", dwarf.notes());
    let end = work + found[0].size();

    let all = dwarf.functions().unwrap();
    let all: Vec<&str> = all.iter().map(|f| f.raw_name()).collect();
    assert!(
        all.contains(&"main") && all.contains(&"work") && !all.contains(&"twice"),
        "{all:?}"
    );
    let globbed = dwarf.functions_named(&pattern("wor*")).unwrap();
    assert_eq!(globbed, found);
    assert!(dwarf.functions_named(&pattern("wor")).unwrap().is_empty());

    let copies = dwarf.inlined(&pattern("twice")).unwrap();
    let calls: Vec<Option<u32>> = copies.iter().map(|copy| copy.call_line).collect();
    assert_eq!(calls, [Some(8), Some(10)], "{copies:?}");
    for copy in &copies {
        assert!(
            (work..end).contains(&copy.address),
            "{copy:?} in {work:#x}..{end:#x}"
        );
        assert_eq!(
            (copy.name.as_str(), copy.within[0].as_str()),
            ("twice", "work")
        );
        assert_eq!(copy.function_address, work);
        assert!(
            copy.call_file.as_ref().unwrap().ends_with("/work.c"),
            "{copy:?}"
        );
    }

    let lines = dwarf.places_of_line("work.c", 4).unwrap();
    assert_eq!(
        (lines.line, lines.places.len()),
        (4, 2),
        "one in each copy: {lines:?}"
    );
    for place in &lines.places {
        assert_eq!(place.within, ["twice", "work"]);
    }
    let frames = dwarf.frames(copies[0].address).unwrap();
    let names: Vec<_> = frames
        .iter()
        .map(|f| (f.function.as_deref(), f.inlined))
        .collect();
    assert_eq!(
        names,
        [(Some("twice"), true), (Some("work"), false)],
        "{frames:?}"
    );
    assert_eq!(frames[1].line, Some(8));
    assert!(dwarf.notes().is_empty(), "{:?}", dwarf.notes());
}

fn built(shop: &Workshop, name: &str, flags: &[&str]) -> PathBuf {
    let flags: Vec<&str> = ["-O2", "-g"].iter().chain(flags).copied().collect();
    shop.gcc(name, "work.c", SOURCE, &flags)
}

#[test]
fn every_version_of_dwarf_tells_the_same() {
    let shop = Workshop::new();
    for version in ["-gdwarf-2", "-gdwarf-3", "-gdwarf-4", "-gdwarf-5"] {
        let program = built(&shop, "plain", &[version]);
        check(&program, &program);
    }
    let wide = built(&shop, "wide", &["-gdwarf-5", "-gdwarf64"]);
    check(&wide, &wide);
    let types = built(&shop, "types", &["-gdwarf-4", "-fdebug-types-section"]);
    check(&types, &types);
}

#[test]
fn packed_sections_are_unpacked() {
    let shop = Workshop::new();
    for flag in ["-gz=zlib", "-gz=zlib-gnu"] {
        let program = built(&shop, "packed", &[flag]);
        check(&program, &program);
    }
    let program = built(&shop, "packed", &[]);
    let zstd = shop.path("zstd");
    run(
        "objcopy",
        Command::new("objcopy")
            .arg("--compress-debug-sections=zstd")
            .arg(&program)
            .arg(&zstd),
    );
    check(&zstd, &program);
}

#[test]
fn split_units_are_found_beside_the_program_and_in_packages() {
    for version in ["-gdwarf-4", "-gdwarf-5"] {
        let shop = Workshop::new();
        let program = built(&shop, "split", &["-gsplit-dwarf", version]);
        check(&program, &program);

        // llvm-dwp reads all versions; binutils' dwp those before DWARF 5.
        let tools = if version == "-gdwarf-4" {
            &["llvm-dwp", "dwp"][..]
        } else {
            &["llvm-dwp"]
        };
        let dwos: Vec<PathBuf> = std::fs::read_dir(shop.path(""))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|e| e == "dwo"))
            .collect();
        assert_eq!(dwos.len(), 1, "{dwos:?}");
        let aside = shop.path("aside");
        for tool in tools {
            let package = shop.path("split.dwp");
            run(
                tool,
                Command::new(tool)
                    .arg("-e")
                    .arg(&program)
                    .arg("-o")
                    .arg(&package),
            );
            std::fs::rename(&dwos[0], &aside).unwrap();
            check(&program, &program);
            std::fs::remove_file(&package).unwrap();
            std::fs::rename(&aside, &dwos[0]).unwrap();
        }

        // Without either, the skeleton is left: lines, but no functions, and a note that says what is missing.
        std::fs::remove_file(&dwos[0]).unwrap();
        let dwarf = dwarf_of(&program);
        assert!(dwarf.functions().unwrap().is_empty());
        let notes = dwarf.notes().join("\n");
        assert!(
            notes.contains("1 of 1 units have their .dwo file missing, e.g. "),
            "{notes}"
        );
        assert_eq!(dwarf.places_of_line("work.c", 13).unwrap().places.len(), 1);
    }
}

#[test]
fn debug_files_apart_from_the_program_serve_as_well() {
    let shop = Workshop::new();
    let program = built(&shop, "whole", &[]);
    let (debug, stripped) = (shop.path("stripped.debug"), shop.path("stripped"));
    let objcopy = || Command::new("objcopy");
    run(
        "objcopy",
        objcopy().arg("--only-keep-debug").arg(&program).arg(&debug),
    );
    let mut link = std::ffi::OsString::from("--add-gnu-debuglink=");
    link.push(&debug);
    run(
        "objcopy",
        objcopy()
            .arg("--strip-all")
            .arg(link)
            .arg(&program)
            .arg(&stripped),
    );
    check(&stripped, &program);
    std::fs::remove_file(&debug).unwrap();
    assert!(
        Dwarf::of(&Image::open(&stripped).unwrap(), None)
            .unwrap()
            .is_none()
    );
}

#[test]
fn what_dwz_shares_between_files_is_followed() {
    let shop = Workshop::new();
    for version in ["-gdwarf-4", "-gdwarf-5"] {
        let (one, two) = (
            built(&shop, "one", &[version]),
            built(&shop, "two", &[version]),
        );
        let plain = built(&shop, "plain", &[version]);
        let shared = shop.path("shared.debug");
        run(
            "dwz",
            Command::new("dwz")
                .arg("-m")
                .arg(&shared)
                .arg(&one)
                .arg(&two),
        );
        let sections = run("readelf", Command::new("readelf").arg("-SW").arg(&one));
        assert!(sections.contains(".gnu_debugaltlink"), "{sections}");
        check(&one, &plain);
        check(&two, &plain);
        std::fs::remove_file(&shared).unwrap();
        let dwarf = dwarf_of(&one);
        dwarf.functions().unwrap();
        assert!(
            dwarf.notes().join("\n").contains("shared.debug"),
            "{:?}",
            dwarf.notes()
        );
    }
}

#[test]
fn link_time_optimisation_moves_functions_between_units() {
    let shop = Workshop::new();
    let program = built(&shop, "lto", &["-flto"]);
    check(&program, &program);
}

#[test]
fn functions_that_the_linker_dropped_are_nowhere() {
    let shop = Workshop::new();
    let source = "int unused(int n) { return n + 1; }\nint main(void) { return 0; }\n";
    for version in ["-gdwarf-4", "-gdwarf-5"] {
        let flags = [
            "-O1",
            "-g",
            version,
            "-ffunction-sections",
            "-Wl,--gc-sections",
        ];
        let dwarf = dwarf_of(&shop.gcc("dropped", "dropped.c", source, &flags));
        let all = dwarf.functions().unwrap();
        assert_eq!(
            all.iter().map(|f| f.raw_name()).collect::<Vec<_>>(),
            ["main"]
        );
        let next = dwarf.places_of_line("dropped.c", 1).unwrap();
        assert_eq!((next.asked, next.line), (1, 2));
    }
}
