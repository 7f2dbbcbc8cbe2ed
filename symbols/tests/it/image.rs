use std::collections::BTreeSet;
use std::process::Command;

use uprof_symbols::image::{Bounds, Part};
use uprof_symbols::site::{ArgSet, Purpose};
use uprof_symbols::{Error, FileId, Function, Image, NameSource, OpenOptions, Pattern};

use crate::fixtures::{Workshop, find, installed, libc, mariadbd, one, run};

/// Addresses of the functions that nm knows, IFUNCs left out, and data_start, which it counts among them.
fn nm(image: &Image, flags: &[&str]) -> BTreeSet<u64> {
    run(
        "nm",
        Command::new("nm")
            .args(flags)
            .arg("--defined-only")
            .arg(image.path()),
    )
    .lines()
    .filter_map(|line| {
        let mut words = line.split_whitespace();
        let (address, kind) = (words.next()?, words.next()?);
        let address = u64::from_str_radix(address, 16).unwrap();
        (["T", "t", "W", "w"].contains(&kind) && image.offset_of(address).is_some())
            .then_some(address)
    })
    .collect()
}

#[test]
fn exactly_the_functions_that_nm_knows() {
    for (path, package) in [
        ("/lib/x86_64-linux-gnu/libc.so.6", "libc6"),
        ("/usr/sbin/mariadbd", "mariadb-server"),
        ("/usr/bin/redis-server", "redis-server"),
        ("/usr/lib/x86_64-linux-gnu/libstdc++.so.6", "libstdc++6"),
    ] {
        let image = Image::open(&installed(path, package)).unwrap();
        let ours: BTreeSet<u64> = image
            .functions()
            .unwrap()
            .iter()
            .filter(|f| f.source <= NameSource::Dynsym)
            .map(|f| f.address)
            .collect();
        let theirs = nm(&image, &["-D"]);
        let missing: Vec<_> = theirs.difference(&ours).collect();
        let more: Vec<_> = ours.difference(&theirs).collect();
        assert!(
            missing.is_empty() && more.is_empty(),
            "{path}: missing {missing:x?}, too many {more:x?}"
        );
        assert!(ours.len() > 2000, "{path}");
    }
}

#[test]
fn functions_come_by_address_without_overlap_of_undivided_parts() {
    let image = libc();
    let functions = image.functions().unwrap();
    for pair in functions.windows(2) {
        assert!(pair[0].address < pair[1].address);
        assert!(pair[0].undivided <= pair[1].address, "{:?}", pair[0]);
        assert!(
            pair[0].end >= pair[0].undivided && pair[0].end > pair[0].address,
            "{:?}",
            pair[0]
        );
        assert_eq!(image.offset_of(pair[0].address), Some(pair[0].offset));
        assert_eq!(image.address_of(pair[0].offset), Some(pair[0].address));
    }
}

#[test]
fn aliases_are_one_function_under_the_name_that_was_asked_for() {
    let image = libc();
    let malloc = one(&image, "malloc");
    assert_eq!(malloc.name(), "malloc");
    assert!(
        malloc.names.contains(&"__libc_malloc".to_owned()),
        "{malloc:?}"
    );
    assert_eq!(malloc.source, NameSource::Dynsym);
    assert_eq!(one(&image, "__libc_malloc").name(), "__libc_malloc");
    assert_eq!(one(&image, "cfree").address, one(&image, "free").address);
    // no place twice
    let all = find(&image, "*malloc*");
    let places: BTreeSet<u64> = all.iter().map(|f| f.offset).collect();
    assert_eq!(places.len(), all.len());
}

#[test]
fn an_indirect_function_is_not_taken_for_code() {
    let image = libc();
    let strlen = Pattern::parse("strlen").unwrap();
    assert!(image.find(&strlen).unwrap().is_empty());
    assert_eq!(image.find_ifuncs(&strlen).unwrap(), ["strlen"]);
    assert!(image.defines("strlen").unwrap() && image.exports("strlen").unwrap());

    let workshop = Workshop::new();
    let source = "static int one(void) { return 1; }\n\
        static void *resolve(void) { return one; }\n\
        int indirect(void) __attribute__((ifunc(\"resolve\")));\n\
        int main(void) { return indirect(); }\n";
    let image = Image::open(&workshop.gcc("ifunc", "ifunc.c", source, &["-O1"])).unwrap();
    let pattern = Pattern::parse("indirect").unwrap();
    assert!(image.find(&pattern).unwrap().is_empty());
    assert_eq!(image.find_ifuncs(&pattern).unwrap(), ["indirect"]);
    assert_eq!(one(&image, "resolve").name(), "resolve");
}

#[test]
fn undefined_symbols_are_imports() {
    let image = mariadbd();
    assert!(image.imports("malloc").unwrap());
    assert!(!image.defines("malloc").unwrap());
    assert!(find(&image, "malloc").is_empty());
    assert!(libc().defines("malloc").unwrap() && !libc().imports("malloc").unwrap());
}

const MARKED: &str = "__attribute__((noinline)) unsigned marked(void) { return 0x12345678u; }\n\
    int main(void) { return marked() == 1; }\n";

#[test]
fn every_way_of_linking_gives_the_right_offset() {
    let workshop = Workshop::new();
    for (name, flags, is_static, is_pie) in [
        ("pie", &["-O1", "-pie", "-fPIE"][..], false, true),
        ("no-pie", &["-O1", "-no-pie"], false, false),
        ("static", &["-O1", "-static"], true, false),
        ("static-pie", &["-O1", "-static-pie", "-fPIE"], true, true),
        (
            "library",
            &["-O1", "-shared", "-fPIC", "-Wl,--no-as-needed"],
            false,
            true,
        ),
        // text at an address far from its offset
        (
            "moved",
            &["-O1", "-no-pie", "-Wl,-Ttext-segment=0x7000000"],
            false,
            false,
        ),
    ] {
        let path = workshop.gcc(name, "marked.c", MARKED, flags);
        let image = Image::open(&path).unwrap();
        let marked = one(&image, "marked");
        let file = std::fs::read(&path).unwrap();
        let start = usize::try_from(marked.offset).unwrap();
        let code = &file[start..start + usize::try_from(marked.size).unwrap()];
        assert!(
            code.windows(4)
                .any(|bytes| bytes == 0x1234_5678u32.to_le_bytes()),
            "{name}: {code:x?}"
        );
        assert_eq!(image.code(&marked, 4096).unwrap(), code, "{name}");
        assert_eq!(
            (image.is_static(), image.is_pie()),
            (is_static, is_pie),
            "{name}"
        );
        assert_eq!(
            image.interpreter().is_some(),
            !is_static && name != "library",
            "{name}"
        );
        assert_eq!(
            image.needed().contains(&"libc.so.6".to_owned()),
            !is_static,
            "{name}"
        );
        assert_eq!(marked.source, NameSource::Symtab, "{name}");
        if name != "library" {
            assert_eq!(one(&image, "_start").address, image.entry_point(), "{name}");
        }
    }
}

#[test]
fn both_symbol_tables_count_once() {
    let workshop = Workshop::new();
    let path = workshop.gcc("exporting", "marked.c", MARKED, &["-O1", "-rdynamic"]);
    let image = Image::open(&path).unwrap();
    assert_eq!(one(&image, "marked").names, ["marked"]);
    let ours: BTreeSet<u64> = image
        .functions()
        .unwrap()
        .iter()
        .map(|f| f.address)
        .collect();
    let theirs = nm(&image, &[]);
    assert!(theirs.is_subset(&ours), "{theirs:x?} {ours:x?}");
    run("strip", Command::new("strip").arg(&path));
    assert_eq!(
        one(&Image::open(&path).unwrap(), "marked").source,
        NameSource::Dynsym
    );
}

#[test]
fn identity_and_origin() {
    let image = libc();
    assert_eq!(image.file_id(), FileId::of(image.path()).unwrap());
    let id = image.build_id().unwrap();
    assert!(
        id.len() == 40 && id.bytes().all(|b| b.is_ascii_hexdigit()),
        "{id}"
    );
    let notes = run(
        "readelf",
        Command::new("readelf").arg("-n").arg(image.path()),
    );
    assert!(notes.contains(&id), "{notes}");
    assert_eq!(image.soname().as_deref(), Some("libc.so.6"));
    assert!(!image.is_go() && !image.is_static());

    let workshop = Workshop::new();
    let go = "int main(void) { return 0; }\n__asm__(\".section .go.buildinfo,\\\"a\\\"\\n.quad 0\\n.text\\n\");\n";
    assert!(
        Image::open(&workshop.gcc("go", "go.c", go, &[]))
            .unwrap()
            .is_go()
    );
}

#[test]
fn a_stripped_static_program_has_functions_without_names() {
    let workshop = Workshop::new();
    let whole = workshop.gcc("whole", "marked.c", MARKED, &["-static"]);
    let marked = one(&Image::open(&whole).unwrap(), "marked");
    let bare = workshop.path("bare");
    run(
        "strip",
        Command::new("strip").arg("-o").arg(&bare).arg(whole),
    );
    let image = Image::open(&bare).unwrap();
    let all = image.functions().unwrap();
    assert!(all.len() > 500, "{}", all.len());
    let found = one(&image, &format!("fn_{:#x}", marked.address));
    assert_eq!(
        (
            found.offset,
            found.size,
            found.source,
            found.bounds,
            found.part
        ),
        (
            marked.offset,
            marked.size,
            NameSource::EhFrame,
            Bounds::Fde,
            Part::Whole
        )
    );
    assert_eq!(found.name(), format!("fn_{:#x}", marked.address));
    assert!(all.contains(&found));
    let site = image
        .place(&found, Purpose::EntryReturn, ArgSet::EMPTY)
        .unwrap();
    assert_eq!(site.address, marked.address);
    assert!(find(&image, "fn_0x1").is_empty());
    // what is no start of a frame is a piece that is jumped to: it has no return
    let piece = all
        .iter()
        .find(|f| f.part == Part::Cold)
        .expect("glibc has cold parts");
    let error = image
        .place(piece, Purpose::EntryReturn, ArgSet::EMPTY)
        .unwrap_err();
    assert!(matches!(error, Error::NoReturn { .. }), "{error}");
    image.place(piece, Purpose::Entry, ArgSet::EMPTY).unwrap();
    // a glob takes what there is, without the pieces
    let globbed = find(&image, "*");
    assert!(globbed.contains(&found) && !globbed.contains(piece));

    let error = image.find(&Pattern::parse("marked").unwrap()).unwrap_err();
    assert!(matches!(error, Error::NoFunctions { .. }), "{error}");
    assert!(error.to_string().contains("stripped"), "{error}");
    assert!(image.nearest("marked", 3).is_empty());
    assert!(!image.defines("marked").unwrap());
}

#[test]
fn a_function_without_size_ends_where_the_next_begins() {
    let workshop = Workshop::new();
    let source = ".text\n.globl main\n.type main,@function\nmain: xor %eax,%eax\n ret\n\
        .globl untyped\nuntyped: nop\n nop\n ret\n.globl sized\n.type sized,@function\nsized: ret\n.size sized,.-sized\n\
        .section .note.GNU-stack,\"\",@progbits\n";
    let image = Image::open(&workshop.gcc("asm", "asm.S", source, &[])).unwrap();
    let untyped = one(&image, "untyped");
    assert_eq!((untyped.size, untyped.end - untyped.address), (0, 3));
    let main = one(&image, "main");
    assert_eq!(main.end, untyped.address);
    assert_eq!(one(&image, "sized").size, 1);
}

/// What tools that squeeze programs leave: no section headers. The dynamic linker needs none.
#[test]
fn without_section_headers_exports_are_still_known() {
    let workshop = Workshop::new();
    let versions =
        |image: &Image, functions: &[Function]| -> Vec<(u64, Vec<String>, Vec<String>)> {
            let exported = functions.iter().filter(|f| f.source == NameSource::Dynsym);
            exported
                .map(|f| (f.address, f.names.clone(), image.versions(f)))
                .collect()
        };
    // with both kinds of hash table, and imports alone, which only lie between two tables
    let exporting = workshop.gcc(
        "both",
        "marked.c",
        MARKED,
        &["-O1", "-rdynamic", "-Wl,--hash-style=both"],
    );
    let importing = workshop.gcc("imports", "marked.c", MARKED, &["-O1"]);
    for path in [
        installed("/lib/x86_64-linux-gnu/libc.so.6", "libc6"),
        installed("/usr/bin/redis-server", "redis-server"),
        exporting,
        importing,
    ] {
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[0x28..0x30].fill(0); // e_shoff
        bytes[0x3c..0x40].fill(0); // e_shnum, e_shstrndx
        let none = OpenOptions {
            debug_dirs: Vec::new(),
            ..OpenOptions::default()
        };
        let bare = Image::open_with(&workshop.write("bare", bytes), none.clone()).unwrap();
        let stripped = workshop.path("stripped");
        run(
            "strip",
            Command::new("strip").arg("-o").arg(&stripped).arg(&path),
        );
        let whole = Image::open_with(&stripped, none).unwrap();
        let (ours, theirs) = (bare.functions().unwrap(), whole.functions().unwrap());
        assert_eq!(
            versions(&bare, &ours),
            versions(&whole, &theirs),
            "{}",
            path.display()
        );
        assert_eq!(
            bare.imports("__cxa_finalize").unwrap(),
            whole.imports("__cxa_finalize").unwrap()
        );
        // also what has no name
        assert!(ours.iter().any(|f| f.source == NameSource::EhFrame));
    }
}
