//! What a newcomer types first: help, the list of recipes, the doctor, the demo.

use std::time::Duration;

use crate::args;
use crate::harness::uprof::binary;
use crate::harness::{Fixture, Uprof, turn};

#[test]
fn help_and_version() {
    let _turn = turn();
    let help = Uprof::new(args!["--help"]).run().ok().text();
    for command in [
        "recipe", "malloc", "latency", "trace", "count", "doctor", "demo",
    ] {
        assert!(
            help.contains(command),
            "{command} is not in the help:\n{help}"
        );
    }
    assert!(
        Uprof::new(args!["--version"])
            .run()
            .ok()
            .text()
            .starts_with("uprof ")
    );
}

#[test]
fn the_list_of_recipes() {
    let _turn = turn();
    let list = Uprof::new(args!["recipe"]).run().ok().text();
    for recipe in [
        "malloc",
        "mysql-queries",
        "nginx-requests",
        "postgres-queries",
        "ucontext-coroutines",
    ] {
        assert!(list.contains(&format!("\n  {recipe} ")), "{list}");
    }
}

#[test]
fn a_built_in_recipe_can_be_copied_and_run() {
    let _turn = turn();
    for name in ["malloc", "mysql-queries"] {
        let text = Uprof::new(args!["recipe", name, "--show"])
            .run()
            .ok()
            .text();
        let folder = tempfile::tempdir().unwrap();
        let copy = folder.path().join("copy.toml");
        std::fs::write(&copy, &text).unwrap();
        let target = if name == "malloc" {
            Fixture::King
        } else {
            Fixture::Mysql8
        };
        let target = crate::harness::Target::gated(&target.path(), args![]);
        let plan = Uprof::new(args![
            "recipe",
            copy.display(),
            "--pid",
            target.pid(),
            "--explain"
        ])
        .run()
        .ok();
        assert!(!plan.text().is_empty());
    }
}

#[test]
fn the_doctor_tells_what_works_by_trying() {
    let _turn = turn();
    let text = Uprof::new(args!["doctor"]).run().ok().text().to_lowercase();
    for word in ["uprobe", "ring buffer", "btf", "cap_bpf"] {
        assert!(text.contains(word), "{word} is not in:\n{text}");
    }
}

#[test]
fn the_demo_shows_a_profile() {
    let _turn = turn();
    let finished = Uprof::new(args!["demo", "--duration", "2s"])
        .deadline(Duration::from_secs(40))
        .run()
        .ok();
    let text = finished.text();
    for word in ["King", "malloc", "p99", "hits ="] {
        assert!(
            text.contains(word),
            "{word} is not in:\n{text}\n{}",
            finished.stderr
        );
    }
}

#[test]
fn generated_programs_can_be_written_as_an_object() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let object = folder.path().join("programs.o");
    let probe = format!("{}:work", Fixture::Calls.path().display());
    Uprof::new(args!["latency", probe, "--dump-bpf", object.display()])
        .run()
        .ok();
    let bytes = std::fs::read(object).unwrap();
    assert_eq!(&bytes[..4], b"\x7fELF");
    // e_machine: EM_BPF is 247.
    assert_eq!(u16::from_le_bytes([bytes[18], bytes[19]]), 247);
}

/// Who reads the first line and leaves is no mistake.
#[test]
fn a_reader_that_leaves_is_a_quiet_end() {
    let _turn = turn();
    for words in ["recipe", "doctor", "recipe malloc --show"] {
        let command = format!("{} {words} | head -c 1", binary().display());
        let shell = std::process::Command::new("bash")
            .args(["-o", "pipefail", "-c", &command])
            .output()
            .expect("bash runs");
        let said = String::from_utf8_lossy(&shell.stderr);
        assert!(shell.status.success() && said.is_empty(), "{words}: {said}");
    }
}
