//! Programs whose path leads to another file, or to none: the one that runs is probed.

use std::path::Path;
use std::process::Command;

use crate::args;
use crate::harness::machine::{scratch, tool};
use crate::harness::variants::{Built, Variant};
use crate::harness::{Target, Uprof, turn};

const CALLS: u64 = 1000;

fn build(variant: Variant) -> Built {
    variant.build(&scratch().join("variants"))
}

#[test]
fn a_program_that_was_replaced_while_it_runs() {
    let _turn = turn();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let program = folder.path().join("ways");
    copy(&build(Variant::Pie).program, &program);
    let mut target = Target::gated(&program, args![]);
    // As packages do it: the new file takes the name, the old one lives on in the process.
    let new = folder.path().join("new");
    copy(&build(Variant::Padded).program, &new);
    std::fs::rename(&new, &program).expect("rename");
    let probe = format!("{}:global_work", program.display());
    let uprof = Uprof::json(args!["count", probe, "--pid", target.pid()]).start();
    assert_eq!(target.truth()["calls"], CALLS);
    let finished = uprof.stop();
    let said = finished.stderr.to_lowercase();
    assert!(
        said.contains("replaced") || said.contains("deleted"),
        "{said}"
    );
    assert_eq!(finished.report().only().hits, CALLS);
}

#[test]
fn a_program_in_another_mount_namespace() {
    let _turn = turn();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let [inside, seen] = ["inside", "seen"].map(|name| folder.path().join(name));
    for folder in [&inside, &seen] {
        std::fs::create_dir(folder).expect("a folder");
    }
    copy(&build(Variant::Pie).program, &inside.join("ways"));
    // Out here, another program has that path.
    copy(&build(Variant::Padded).program, &seen.join("ways"));
    let program = seen.join("ways");
    let script = "mount --bind \"$0\" \"$1\" && shift && exec \"$@\"";
    let mut command = Command::new(tool("unshare"));
    command
        .args(["-m", "sh", "-c", script])
        .arg(&inside)
        .arg(&seen)
        .arg(&program)
        .args(["--gate", "--hold"]);
    count_inside(command, &program);
}

#[test]
fn a_program_in_a_chroot() {
    let _turn = turn();
    let folder = tempfile::tempdir().expect("a temporary folder");
    copy(&build(Variant::Static).program, &folder.path().join("ways"));
    let mut command = Command::new(tool("chroot"));
    command
        .arg(folder.path())
        .args(["/ways", "--gate", "--hold"]);
    count_inside(command, Path::new("/ways"));
}

/// Counts in a program by the path that it has for itself.
fn count_inside(command: Command, program: &Path) {
    let mut target = Target::spawn(command);
    assert_eq!(target.line()["ready"], true);
    for place in ["global_work"] {
        let probe = format!("{}:{place}", program.display());
        let uprof = Uprof::json(args!["count", probe, "--pid", target.pid()]).start();
        assert_eq!(target.truth()["calls"], CALLS);
        assert_eq!(uprof.stop().report().only().hits, CALLS, "{place}");
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::copy(from, to).unwrap_or_else(|e| panic!("{}: {e}", to.display()));
}
