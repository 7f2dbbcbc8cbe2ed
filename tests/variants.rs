//! Each way in which programs are shipped, as a target: every call is counted, exactly.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::args;
use crate::harness::machine::{library, scratch};
use crate::harness::variants::{Built, Variant, run, targets};
use crate::harness::{Fixture, Report, Target, Uprof, turn};

const CALLS: u64 = 1000;

fn build(variant: Variant) -> Built {
    variant.build(&scratch().join("variants"))
}

/// Counts what PLACE names in a gated run of PROGRAM; `usdt:` and others come before the program.
fn hits(built: &Built, place: &str) -> u64 {
    let program = built.program.display();
    let probe = match place.strip_prefix("usdt:") {
        Some(place) => format!("usdt:{program}:{place}"),
        None => format!("{program}:{place}"),
    };
    let mut target = Target::gated(&built.program, args![]);
    let mut words = args!["count", probe, "--pid", target.pid()];
    if let Some(dir) = &built.debug_dir {
        words.extend(args!["--debug-dir", dir.display()]);
    }
    let uprof = Uprof::json(words).start();
    assert_eq!(target.truth()["calls"], CALLS);
    let report = uprof.stop().report();
    assert!(target.end().success());
    report.only().hits
}

/// Fails unless each place is passed as often as said.
fn assert_hits(variant: Variant, places: &[(&str, u64)]) {
    let _turn = turn();
    let built = build(variant);
    for (place, expected) in places {
        assert_eq!(hits(&built, place), *expected, "{place} in {variant:?}");
    }
}

/// The number of the line of ways.c that ends in MARK.
fn line_of(mark: &str) -> usize {
    let path = targets().join("ways.c");
    let source =
        std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let found = source.lines().position(|line| line.contains(mark));
    found.unwrap_or_else(|| panic!("no line of ways.c has {mark}")) + 1
}

/// Both functions, seen by all and static.
const BOTH: &[(&str, u64)] = &[("global_work", CALLS), ("local_work", CALLS)];

#[test]
fn position_independent_and_not() {
    assert_hits(Variant::Pie, BOTH);
    assert_hits(Variant::NonPie, BOTH);
}

#[test]
fn static_programs() {
    assert_hits(Variant::Static, BOTH);
    assert_hits(Variant::StaticPie, BOTH);
    assert_hits(Variant::Musl, BOTH);
}

/// The address of a function in the file before it was stripped.
fn address_of(full: &Path, function: &str) -> String {
    let listing = run(Command::new("nm").arg(full));
    let row = listing
        .lines()
        .find(|line| line.ends_with(&format!(" {function}")));
    let row = row.unwrap_or_else(|| panic!("nm names no {function} in {}", full.display()));
    row.split(' ')
        .next()
        .unwrap_or_default()
        .trim_start_matches('0')
        .to_owned()
}

#[test]
fn a_stripped_static_program_by_the_address_of_a_nameless_function() {
    let _turn = turn();
    let built = build(Variant::StaticStripped);
    let place = format!("fn_0x{}", address_of(&built.full, "global_work"));
    assert_eq!(hits(&built, &place), CALLS, "{place}");
}

#[test]
fn names_in_a_debug_file_beside_it() {
    assert_hits(Variant::DebugLink, BOTH);
}

#[test]
fn names_in_a_debug_directory_by_build_id() {
    assert_hits(Variant::BuildId, BOTH);
}

#[test]
fn the_debug_directory_can_be_named_by_the_environment() {
    let _turn = turn();
    let built = build(Variant::BuildId);
    let probe = format!("{}:local_work", built.program.display());
    let dir = built.debug_dir.expect("made for it");
    let explain = |with: bool| {
        let mut command = Command::new(crate::harness::uprof::binary());
        command.args([
            "symbols",
            &built.program.display().to_string(),
            "local_work",
        ]);
        if with {
            command.env("UPROF_DEBUG_DIRS", &dir);
        }
        command.output().expect("uprof runs")
    };
    let (without, with) = (explain(false), explain(true));
    assert!(!without.status.success(), "{probe}: {without:?}");
    assert!(with.status.success(), "{probe}: {with:?}");
    assert!(
        String::from_utf8_lossy(&with.stdout).contains("local_work"),
        "{with:?}"
    );
}

#[test]
fn names_in_mini_debug_information() {
    assert_hits(Variant::MiniDebug, BOTH);
}

#[test]
fn names_in_debug_information_alone() {
    for variant in [Variant::Compressed, Variant::Split, Variant::Package] {
        assert_hits(variant, BOTH);
    }
}

#[test]
fn inlined_functions_are_counted_in_every_copy() {
    // In first_user each time, in second_user every second time.
    for variant in [
        Variant::Pie,
        Variant::BuildId,
        Variant::Package,
        Variant::Dwarf4,
        Variant::Shared,
    ] {
        assert_hits(variant, &[("inlined_work", CALLS * 3 / 2)]);
    }
    assert_hits(Variant::Pie, &[("inlined_work@inlined", CALLS * 3 / 2)]);
}

#[test]
fn a_line_of_a_source_file() {
    let place = format!("ways.c:{}", line_of("the probed line"));
    for variant in [Variant::Pie, Variant::BuildId, Variant::Compressed] {
        assert_hits(variant, &[(&place, CALLS)]);
    }
}

#[test]
fn static_probes_with_and_without_semaphores() {
    for variant in [Variant::Pie, Variant::Semaphores, Variant::StaticStripped] {
        assert_hits(
            variant,
            &[
                ("usdt:uprof_ways:entry", CALLS),
                ("usdt:uprof_ways:text", CALLS),
            ],
        );
    }
}

#[test]
fn static_probes_of_python_are_switched_on_while_they_are_watched() {
    let _turn = turn();
    // Debian builds it with dtrace's probes; each is behind a semaphore.
    let python = Path::new("/usr/bin/python3.11");
    assert!(
        python.exists(),
        "{} is missing: install python3.11",
        python.display()
    );
    // Python 3.11 looks at the semaphores of functions only where that of lines is up.
    let [entry, line] =
        ["function__entry", "line"].map(|name| format!("usdt:{}:python:{name}", python.display()));
    let out = tempfile::NamedTempFile::new().expect("a temporary file");
    Uprof::new(args![
        "count",
        entry,
        line,
        "--format",
        "json",
        "-o",
        out.path().display()
    ])
    .command(
        python,
        [
            "-S",
            "-E",
            "-c",
            "def f(n): pass\nlist(map(f, range(1000)))",
        ],
    )
    .run()
    .ok();
    let text = std::fs::read_to_string(out.path()).expect("the report");
    let report = Report::parse(&text);
    // Its own start runs some functions, too.
    assert!(report.probe(&entry).hits > 1000, "{:?}", report.summary);
    assert!(report.probe(&line).hits > 1000, "{:?}", report.summary);
}

#[test]
fn a_glob_over_the_allocator_counts_no_call_twice() {
    let _turn = turn();
    let mut target = Target::gated(&Fixture::King.path(), args!["--pairs", 10_000]);
    // What libc's debug file names and malloc itself calls is counted as well: each alone, and all of them by the glob.
    let alone = ["malloc", "_int_malloc", "sysmalloc", "malloc_consolidate"]
        .map(|name| format!("libc:{name}"));
    let glob = "libc:*malloc*".to_owned();
    let mut words = args!["count"];
    words.extend(alone.iter().chain([&glob]).cloned());
    words.extend(args!["--pid", target.pid()]);
    let uprof = Uprof::json(words).start();
    let truth = target.truth();
    let report = uprof.stop().report();
    assert_eq!(
        report.probe(&alone[0]).hits,
        truth["mallocs"].as_u64().expect("a count")
    );
    let sum: u64 = alone.iter().map(|name| report.probe(name).hits).sum();
    assert_eq!(report.probe(&glob).hits, sum, "{:?}", report.summary.probes);
}

#[test]
fn a_library_that_is_loaded_later() {
    let _turn = turn();
    let built = build(Variant::Library);
    let loader = scratch().join("loader");
    run(Command::new("gcc")
        .args(["-O2", "-Wall", "-Wextra", "-Werror", "-o"])
        .args([&loader, &targets().join("loader.c")]));
    for place in ["global_work", "local_work"] {
        let mut target = Target::gated(&loader, [&built.program]);
        let probe = format!("{}:{place}", built.program.display());
        let uprof = Uprof::json(args!["count", probe, "--pid", target.pid()]).start();
        assert_eq!(target.truth()["calls"], CALLS);
        assert_eq!(uprof.stop().report().only().hits, CALLS, "{place}");
    }
}

#[test]
fn names_of_other_languages() {
    assert_hits(
        Variant::Cpp,
        &[
            ("shop::price(int)", CALLS),
            ("shop::price", 2 * CALLS),
            ("shop::Square::area(long) const", CALLS),
            ("shop::Box<long>::take(long) const", CALLS),
            ("shop::times<3>(long)", CALLS),
            ("shop::(anonymous namespace)::hidden(long)", CALLS),
        ],
    );
    for variant in [Variant::Go, Variant::GoStripped] {
        assert_hits(
            variant,
            &[("main.GlobalWork", CALLS), ("main.(*ledger).Add", CALLS)],
        );
    }
    for variant in [Variant::RustLegacy, Variant::RustV0] {
        let _turn = turn();
        let built = build(variant);
        let mut target = Target::gated(&built.program, args![500]);
        let probe = format!("{}:rust_calls::ledger::total", built.program.display());
        let uprof = Uprof::json(args!["count", probe, "--pid", target.pid()]).start();
        assert_eq!(target.truth()["calls"], 500);
        assert_eq!(uprof.stop().report().only().hits, 500, "{variant:?}");
    }
}

#[test]
fn a_file_of_debian_by_its_debug_package() {
    let _turn = turn();
    // A static function: only libc6-dbg names it.
    let libc = library("libc.so.6");
    let path: PathBuf = libc.canonicalize().expect("libc");
    let output = Uprof::new(args!["symbols", path.display(), "_int_malloc"])
        .run()
        .ok()
        .text();
    assert!(
        output.contains("_int_malloc") && output.contains("debug file"),
        "{output}"
    );
}
