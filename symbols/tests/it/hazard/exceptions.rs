//! Programs whose calls exceptions cross, and those that only look like it.

use std::path::Path;

use uprof_symbols::hazard::{HazardKind, Survey};
use uprof_symbols::{Image, find_library_file};

use super::switches::{of_any, strip};
use super::{besides_signals, kind, of_program};
use crate::fixtures::{Workshop, one};

const THROWS: &str = r#"
#include <cstdio>
#include <stdexcept>
extern "C" __attribute__((noinline)) int work(int n) { if (n > 1) throw std::runtime_error("more"); return n; }
int main(int argc, char **) { try { return work(argc + 1); } catch (const std::exception &e) { std::puts(e.what()); return 0; } }
"#;

/// C++ that links the library that could throw, but neither throws nor catches itself.
const PLAIN: &str = r#"
#include <cstdio>
#include <cstdlib>
struct Shape { virtual int sides() const = 0; virtual ~Shape() {} };
struct Square : Shape { int sides() const override { return 4; } };
extern "C" __attribute__((noinline)) int work(int n) { Shape *s = new Square; n += s->sides(); delete s; return n; }
int main(int argc, char **) { std::printf("%d\n", work(argc)); return 0; }
"#;

const PANICS: &str = r#"
#[no_mangle] #[inline(never)] pub extern "C-unwind" fn work(n: usize) -> usize { [1, 2, 3][n] }
fn main() { println!("{:?}", std::panic::catch_unwind(|| work(std::env::args().count() + 5)).is_err()); }
"#;

#[test]
fn exceptions_of_cpp() {
    let workshop = Workshop::new();
    for (name, flags) in [
        ("dynamic", &["-O1"][..]),
        ("halfway", &["-O1", "-static-libstdc++", "-static-libgcc"]),
        ("static", &["-O1", "-static"]),
    ] {
        let program = workshop.gcc(name, "throws.cc", THROWS, flags);
        let hazard = of_program(&program, "work", false).unwrap();
        assert_eq!(hazard.kind, HazardKind::Exceptions, "{name}: {hazard:?}");
        assert_eq!(of_program(&program, "work", true), None, "{name}");
        assert_eq!(
            of_any(&strip(&program)),
            Some(HazardKind::Exceptions),
            "{name}"
        );
    }
    let program = workshop.gcc("plain", "plain.cc", PLAIN, &["-O1", "-fno-exceptions"]);
    let image = Image::open(&program).unwrap();
    assert!(image.needed().contains(&"libstdc++.so.6".to_owned()));
    assert_eq!(of_program(&program, "work", false), None);
}

#[test]
fn panics_of_rust() {
    let workshop = Workshop::new();
    for flags in [&["-O"][..], &["-O", "-Ctarget-feature=+crt-static"]] {
        let unwinds = workshop.rustc("unwinds", PANICS, flags);
        let found = kind(of_program(&unwinds, "work", false));
        assert_eq!(found, Some(HazardKind::Exceptions), "{flags:?}");
        let promised = besides_signals(of_program(&unwinds, "work", true));
        assert_eq!(promised, None, "{flags:?}");
        assert_eq!(
            of_any(&strip(&unwinds)),
            Some(HazardKind::Exceptions),
            "{flags:?}"
        );
        let aborts = workshop.rustc("aborts", PANICS, &[flags, &["-Cpanic=abort"]].concat());
        let aborts = besides_signals(of_program(&aborts, "work", false));
        assert_eq!(aborts, None, "{flags:?}");
    }
}

/// A C program is not crossed by what its C++ libraries throw and catch among themselves; C libraries that these may
/// call back are.
#[test]
fn libraries_that_throw() {
    let workshop = Workshop::new();
    let shared = ["-shared", "-fPIC"];
    workshop.gcc("libthrows.so", "throws.cc", THROWS, &shared);
    workshop.gcc(
        "libplain.so",
        "plain.c",
        "int twice(int n) { return 2 * n; }\n",
        &shared,
    );
    let source = "int work(int); int twice(int);\nint main(int n, char **v) { (void)v; return work(n) + twice(n); }\n";
    let at = workshop.path("").display().to_string();
    let source = workshop.write("main.c", source);
    let libraries = ["-lthrows", "-lplain"].map(str::to_owned);
    let program = workshop.path("program");
    let mut gcc = std::process::Command::new("gcc");
    gcc.arg("-o")
        .arg(&program)
        .arg(&source)
        .arg(format!("-L{at}"));
    gcc.args(libraries).arg(format!("-Wl,-rpath,{at}"));
    crate::fixtures::run("gcc", &mut gcc);
    let survey = Survey::of_file(&Image::open(&program).unwrap(), &program).unwrap();
    let hazard = |file: &Path, function: &str| {
        let image = Image::open(file).unwrap();
        survey.hazard(&image, &one(&image, function), false)
    };
    assert_eq!(hazard(&program, "main"), None);
    let plain = hazard(&workshop.path("libplain.so"), "twice").unwrap();
    assert!(plain.why.contains("libthrows.so"), "{plain:?}");
    assert_eq!(
        kind(hazard(&workshop.path("libthrows.so"), "work")),
        Some(HazardKind::Exceptions)
    );
}

/// What starts an exception is crossed by it in every process, whatever the user promises.
#[test]
fn what_throws() {
    let libstdcpp = find_library_file("libstdc++").unwrap();
    let image = Image::open(&libstdcpp).unwrap();
    let survey = Survey::of_file(&image, &libstdcpp).unwrap();
    for name in ["__cxa_throw", "__cxa_rethrow", "_ZSt17__throw_bad_allocv"] {
        let hazard = survey.hazard(&image, &one(&image, name), true);
        assert_eq!(kind(hazard), Some(HazardKind::Exceptions), "{name}");
    }
}
