//! Programs that are not where, or not what, their path says: replaced, deleted, in another root; and code that a
//! process picked for itself.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::args;
use crate::harness::machine::{scratch, tool};
use crate::harness::uprof::Finished;
use crate::harness::variants::Variant;
use crate::harness::{Report, Target, Uprof, turn};

const CALLS: u64 = 1000;

fn built(variant: Variant) -> PathBuf {
    variant.build(&scratch().join("variants")).program
}

fn folder() -> TempDir {
    tempfile::tempdir_in(scratch()).unwrap()
}

/// Counts with these arguments while the target runs.
fn counted(mut target: Target, words: Vec<String>) -> (u64, Finished) {
    let uprof = Uprof::json(words).start();
    assert_eq!(target.truth()["calls"], CALLS);
    let finished = uprof.stop().ok();
    assert!(target.end().success());
    let report = Report::parse(&finished.text());
    (report.only().hits, finished)
}

/// A copy of the program, running, whose file is then replaced by one with its functions elsewhere.
fn replaced(folder: &Path) -> (PathBuf, Target) {
    let path = folder.join("ways");
    std::fs::copy(built(Variant::Pie), &path).unwrap();
    let target = Target::gated(&path, args![]);
    let newer = folder.join("newer");
    std::fs::copy(built(Variant::Padded), &newer).unwrap();
    std::fs::rename(&newer, &path).unwrap();
    (path, target)
}

#[test]
fn a_program_that_was_replaced_on_disk_is_probed_as_it_runs() {
    let _turn = turn();
    for by_pid in [true, false] {
        let folder = folder();
        let (path, target) = replaced(folder.path());
        let mut words = args!["count", format!("{}:global_work", path.display())];
        if by_pid {
            words.extend(args!["--pid", target.pid()]);
        }
        let (hits, finished) = counted(target, words);
        assert_eq!(hits, CALLS, "by pid: {by_pid}");
        assert!(
            finished.stderr.contains("was replaced on disk"),
            "{}",
            finished.stderr
        );
    }
}

#[test]
fn a_program_that_was_deleted_is_probed_as_it_runs() {
    let _turn = turn();
    let folder = folder();
    let path = folder.path().join("ways");
    std::fs::copy(built(Variant::Pie), &path).unwrap();
    let target = Target::gated(&path, args![]);
    std::fs::remove_file(&path).unwrap();
    let words = args!["count", "local_work", "--pid", target.pid()];
    let (hits, finished) = counted(target, words);
    assert_eq!(hits, CALLS);
    assert!(
        finished.stderr.contains("was deleted on disk"),
        "{}",
        finished.stderr
    );
}

#[test]
fn a_program_in_a_chroot() {
    let _turn = turn();
    let root = folder();
    std::fs::create_dir(root.path().join("app")).unwrap();
    std::fs::copy(built(Variant::Static), root.path().join("app/ways")).unwrap();
    for probe in ["global_work", "/app/ways:global_work", "ways:global_work"] {
        let mut command = Command::new(tool("chroot"));
        command
            .arg(root.path())
            .args(["/app/ways", "--gate", "--hold"]);
        let target = ready(command);
        let words = args!["count", probe, "--pid", target.pid()];
        assert_eq!(counted(target, words).0, CALLS, "{probe}");
    }
}

#[test]
fn a_program_in_another_mount_namespace() {
    let _turn = turn();
    let folder = folder();
    // Only that process sees the program at this path.
    let place = folder.path().join("place");
    std::fs::create_dir(&place).unwrap();
    let built = built(Variant::Pie);
    let script = format!(
        "mount --bind {} {} && exec {}/ways --gate --hold",
        built.parent().unwrap().display(),
        place.display(),
        place.display()
    );
    for probe in [
        "local_work".to_owned(),
        format!("{}/ways:local_work", place.display()),
    ] {
        let mut command = Command::new(tool("unshare"));
        command.args(["-m", "sh", "-c", &script]);
        let target = ready(command);
        assert!(!place.join("ways").exists(), "it is seen here, too");
        let words = args!["count", probe, "--pid", target.pid()];
        assert_eq!(counted(target, words).0, CALLS, "{probe}");
    }
}

/// A target started by another program, standing at its gate.
fn ready(command: Command) -> Target {
    let mut target = Target::spawn(command);
    assert_eq!(target.line()["ready"], true);
    target
}

#[test]
fn functions_that_each_process_picks_are_followed() {
    let _turn = turn();
    let program = built(Variant::Pie);
    for function in ["strlen", "memcpy"] {
        let target = Target::gated(&program, args![]);
        let words = args!["count", format!("libc:{function}"), "--pid", target.pid()];
        let (hits, _) = counted(target, words);
        assert_eq!(hits, CALLS, "{function}");
    }
}

#[test]
fn a_picked_function_from_the_first_instruction_on() {
    let _turn = turn();
    let out = tempfile::NamedTempFile::new_in(scratch()).unwrap();
    let words = args!["count", "libc:strlen", "-o", out.path().display()];
    Uprof::json(words)
        .command(&built(Variant::Pie), args![])
        .run()
        .ok();
    let report = Report::parse(&std::fs::read_to_string(out.path()).unwrap());
    // Before and after the counted phase the program calls it, too.
    assert!(report.only().hits >= CALLS, "{:?}", report.only());
}
