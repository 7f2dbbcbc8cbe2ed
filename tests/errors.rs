//! Errors: each a clear sentence with what to do next, and its exit status; nothing is attached first.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use crate::args;
use crate::harness::machine::scratch;
use crate::harness::{Fixture, Target, Uprof, turn};

fn folder() -> TempDir {
    tempfile::tempdir_in(scratch()).unwrap()
}

/// `count PATH:work` must be refused in these words, which name the path.
fn refused_target(path: &Path, words: &[&str]) {
    let finished = Uprof::new(args!["count", format!("{}:work", path.display())]).run();
    finished.refused(
        1,
        &[words, &[path.file_name().unwrap().to_str().unwrap()]].concat(),
    );
}

/// A changed copy of `calls`.
fn changed_calls(folder: &TempDir, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let mut bytes = std::fs::read(Fixture::Calls.path()).unwrap();
    change(&mut bytes);
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path
}

#[test]
fn no_such_function_gives_the_nearest_names() {
    let _turn = turn();
    let program = Fixture::Calls.path();
    for command in ["count", "latency", "trace"] {
        let finished = Uprof::new(args![command, format!("{}:recurs", program.display())]).run();
        finished.refused(1, &["recurs", "calls", "recurse"]);
    }
    let finished = Uprof::new(args!["count", "mariadbd:dispatch_comand"]).run();
    finished.refused(1, &["dispatch_comand", "mariadbd", "dispatch_command"]);
    let finished = Uprof::new(args!["count", format!("{}:zzz*", program.display())]).run();
    finished.refused(1, &["zzz*", "calls"]);
}

#[test]
fn an_indirect_function_is_named_as_such() {
    let _turn = turn();
    let finished = Uprof::new(args![
        "count",
        format!("{}:quick_work", Fixture::Calls.path().display())
    ])
    .run();
    finished.refused(1, &["quick_work", "indirect"]);
}

#[test]
fn no_such_program() {
    let _turn = turn();
    let finished = Uprof::new(args!["count", "no-such-program:main"]).run();
    finished.refused(1, &["no-such-program"]);
    let finished = Uprof::new(args!["count", "/no/such/file:main"]).run();
    finished.refused(1, &["/no/such/file", "no such file"]);
}

#[test]
fn no_such_process() {
    let _turn = turn();
    // Above any pid_max that Linux allows.
    let none = "4194399";
    for words in [
        args!["malloc"],
        args!["count", "main"],
        args!["recipe", "mysql-queries"],
    ] {
        let finished = Uprof::new(words.into_iter().chain(args!["--pid", none])).run();
        finished.refused(1, &[none, "process"]);
    }
}

#[test]
fn a_recipe_for_another_program_says_what_it_looked_for() {
    let _turn = turn();
    let target = Target::gated(&Fixture::Calls.path(), args![]);
    let finished = Uprof::new(args!["recipe", "mysql-queries", "--pid", target.pid()]).run();
    finished.refused(1, &["dispatch_command", "calls"]);
}

#[test]
fn malloc_wants_to_know_which_process() {
    let _turn = turn();
    let finished = Uprof::new(args!["malloc"]).run();
    assert!(
        matches!(finished.status.code(), Some(1 | 2)),
        "{finished:?}"
    );
    finished.refused(finished.status.code().unwrap(), &["--pid", "--comm"]);
}

#[test]
fn a_target_that_ends_meanwhile_is_no_error() {
    let _turn = turn();
    for how in ["exit", "inside", "signal", "exec"] {
        let mut target = Target::gated(
            &Fixture::ExitsEarly.path(),
            args!["--how", how, "--calls", 100, "--exit", 5],
        );
        let probe = format!("{}:work", Fixture::ExitsEarly.path().display());
        let uprof = Uprof::json(args!["latency", probe, "--pid", target.pid()]).start();
        let truth = target.truth();
        let finished = if how == "exec" {
            std::thread::sleep(Duration::from_millis(300));
            uprof.stop()
        } else {
            // Nothing is left to watch: it ends by itself.
            uprof.finish()
        };
        assert_eq!(
            finished.status.code(),
            Some(0),
            "{how}: {}",
            finished.stderr
        );
        let report = finished.report();
        let probe = report.only();
        assert_eq!(
            probe.hits,
            truth["calls"].as_u64().unwrap(),
            "{how}: {probe:?}"
        );
        assert_eq!(
            probe.unpaired,
            u64::from(how == "inside"),
            "{how}: {probe:?}"
        );
    }
}

#[test]
fn without_root_the_missing_capability_is_named() {
    let _turn = turn();
    let calls = Fixture::Calls.path();
    // The fixture lies in a checkout that user 65534 may not enter.
    let public = tempfile::Builder::new()
        .prefix("uprof-tests-")
        .tempdir()
        .unwrap();
    std::fs::set_permissions(
        public.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let program = public.path().join("calls");
    std::fs::copy(&calls, &program).unwrap();
    let probe = format!("{}:work", program.display());
    for command in ["count", "latency", "trace"] {
        let finished = Uprof::new(args![command, probe]).unprivileged().run();
        finished.refused(1, &["CAP_BPF", "root"]);
    }
    let target = Target::gated(&calls, args![]);
    let finished = Uprof::new(args!["malloc", "--pid", target.pid()])
        .unprivileged()
        .run();
    finished.refused(1, &["CAP_", "root"]);
    let finished = Uprof::new(args!["doctor"]).unprivileged().run();
    assert!(finished.status.code().is_some(), "{finished:?}");
    assert!(
        (finished.text() + &finished.stderr).contains("CAP_BPF"),
        "{finished:?}"
    );
}

#[test]
fn files_that_are_no_program() {
    let _turn = turn();
    let folder = folder();
    let text = folder.path().join("notes.txt");
    std::fs::write(&text, "Notes, not a program.\n").unwrap();
    refused_target(&text, &["text", "ELF"]);
    let script = folder.path().join("script.sh");
    std::fs::write(&script, "#!/bin/sh\necho not a program\n").unwrap();
    refused_target(&script, &["script", "ELF"]);
    let empty = folder.path().join("empty");
    std::fs::write(&empty, "").unwrap();
    refused_target(&empty, &["empty"]);
    let inner = folder.path().join("inner");
    std::fs::create_dir(&inner).unwrap();
    refused_target(&inner, &["directory"]);
}

#[test]
fn a_program_cut_short() {
    let _turn = turn();
    let folder = folder();
    let whole = std::fs::metadata(Fixture::Calls.path()).unwrap().len() as usize;
    for length in [20, 64, 200, whole / 2, whole - 1] {
        let path = changed_calls(&folder, &format!("cut-at-{length}"), |bytes| {
            bytes.truncate(length)
        });
        refused_target(&path, &["cut short"]);
    }
}

#[test]
fn a_program_of_another_machine() {
    let _turn = turn();
    refused_target(&Fixture::Elf32.path(), &["32-bit"]);
    let folder = folder();
    // e_machine: EM_AARCH64 is 183, EM_RISCV 243.
    for (name, machine, word) in [("arm", 183u16, "aarch64"), ("riscv", 243, "risc")] {
        let path = changed_calls(&folder, name, |bytes| {
            bytes[18..20].copy_from_slice(&machine.to_le_bytes())
        });
        refused_target(&path, &[word, "x86-64"]);
    }
}

/// What is wrong with a recipe is said with its line and column.
fn refused_recipe(text: &str, place: &str, words: &[&str]) {
    let folder = folder();
    let file = folder.path().join("mine.toml");
    std::fs::write(&file, text).unwrap();
    let target = Target::gated(&Fixture::Calls.path(), args![]);
    let finished = Uprof::new(args!["recipe", file.display(), "--pid", target.pid()]).run();
    finished.refused(1, &[words, &[place]].concat());
}

fn recipe(probe: &str) -> String {
    let program = Fixture::Calls.path();
    format!(
        "[recipe]\nabout = \"a test\"\n[target]\nprogram = [\"{}\"]\n[[probe]]\n{probe}",
        program.display()
    )
}

#[test]
fn recipes_with_mistakes() {
    let _turn = turn();
    let good = "name = \"work\"\nfunction = \"work\"\n";
    refused_recipe(
        &recipe(&format!("{good}captur = {{ n = \"arg0\" }}\n")),
        "mine.toml:8:1",
        &["captur", "capture"],
    );
    refused_recipe(
        &recipe("name = 7\nfunction = \"work\"\n"),
        "mine.toml:6:8",
        &["name", "integer"],
    );
    refused_recipe(
        &recipe(&format!("{good}capture = {{ n = \"nosuch(arg0)\" }}\n")),
        "mine.toml:8:18",
        &["nosuch"],
    );
    refused_recipe(
        &recipe(&format!("{good}capture = {{ n = \"arg0 +\" }}\n")),
        "mine.toml:8:",
        &["expression"],
    );
    refused_recipe(
        &recipe(&format!("{good}where = \"str(arg0) + 1\"\n")),
        "mine.toml:8:",
        &["str"],
    );
    refused_recipe(
        &recipe(&format!("{good}where = \"retval > 1\"\n")),
        "mine.toml:8:10",
        &["retval"],
    );
    refused_recipe("[recipe\n", "mine.toml:1:", &[]);
    // A function that is not there is found out before anything is attached, too.
    refused_recipe(
        &recipe("name = \"work\"\nfunction = \"wrok\"\n"),
        "wrok",
        &["work"],
    );
}

#[test]
fn expressions_on_the_command_line_with_mistakes() {
    let _turn = turn();
    let probe = format!("{}:work", Fixture::Calls.path().display());
    let refused = |flags: &[&str], words: &[&str]| {
        let finished = Uprof::new(
            args!["trace", probe]
                .iter()
                .map(String::as_str)
                .chain(flags.iter().copied()),
        )
        .run();
        let status = finished.status.code().unwrap_or(-1);
        assert!(matches!(status, 1 | 2), "{finished:?}");
        finished.refused(status, words);
    };
    refused(&["--where", "arg0 >"], &["--where:1:"]);
    refused(&["--where", "size > 3"], &["--where:1:1", "size"]);
    refused(&["--where", "arg12 == 3"], &["--where:1:1", "arg12"]);
    refused(&["--capture", "x=nosuch(arg0)"], &["nosuch"]);
    refused(&["--capture", "=arg0"], &["--capture"]);
}

#[test]
fn bad_usage_is_status_2() {
    let _turn = turn();
    for words in [
        args!["count"],
        args!["--nonsense"],
        args!["count", "x:y", "--duration", "soon"],
        args!["no-such-command"],
    ] {
        Uprof::new(words).run().refused(2, &[]);
    }
    let finished = Uprof::new(args!["recipe", "no-such-recipe"]).run();
    finished.refused(finished.status.code().unwrap_or(-1), &["no-such-recipe"]);
    assert!(!finished.status.success());
}

#[test]
fn a_file_that_cannot_be_written() {
    let _turn = turn();
    let probe = format!("{}:work", Fixture::Calls.path().display());
    let finished = Uprof::new(args!["count", probe, "-o", "/no/such/folder/report"]).run();
    finished.refused(1, &["/no/such/folder/report"]);
}
