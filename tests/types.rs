//! Arguments by name, fields and texts: what debug information tells is what the programs really pass.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::args;
use crate::harness::machine::{scratch, tool};
use crate::harness::{Report, Uprof, turn};

/// A program of tests/targets, built with debug information by COMPILER.
fn built(source: &str, compiler: &str, flags: &[&str]) -> PathBuf {
    let source_path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/targets")
        .join(source)
        .canonicalize()
        .unwrap_or_else(|e| panic!("tests/targets/{source}: {e}"));
    let to = scratch().join(format!("{source}{}", flags.concat()));
    let mut command = Command::new(tool(compiler));
    match compiler {
        "go" => command.args(["build", "-o"]).arg(&to).args(flags),
        _ => command.arg("-g").args(flags).arg("-o").arg(&to),
    };
    let output = command
        .arg(&source_path)
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    to
}

/// `uprof trace PROGRAM:FUNCTION` with captures, on a run of the program.
fn trace(program: &Path, function: &str, captures: &[&str]) -> Report {
    let mut words = args!["trace", format!("{}:{function}", program.display())];
    for capture in captures {
        words.extend(args!["--capture", capture]);
    }
    let out = tempfile::NamedTempFile::new_in(scratch()).unwrap();
    words.extend(args!["-o", out.path().display()]);
    let finished = Uprof::json(words).command(program, args![]).run();
    finished.ok();
    Report::parse(&std::fs::read_to_string(out.path()).unwrap())
}

/// The captures of each event.
fn fields(report: &Report) -> Vec<Value> {
    report
        .events
        .iter()
        .map(|e| Value::Object(e.fields.clone()))
        .collect()
}

const CLIENT: &[&str] = &[
    "argc=client->argc",
    "id=client->id",
    "state=client->state",
    "dirty=client->dirty",
    "level=client->level",
    "nick=client->nick",
    "command=client->cmd->name",
    "arity=client->cmd->arity",
    "out=client->bytes.out",
    "third=client->history[2]",
    "size=size",
    "text=text",
];

fn clients() -> Vec<Value> {
    vec![
        json!({"argc": 3, "id": 42, "state": "STATE_READING", "dirty": 1, "level": 31, "nick": "ann", "command": "get",
            "arity": 2, "out": 4_000_000_000u64, "third": 30, "size": 1024, "text": "hello"}),
        json!({"argc": -2, "id": 1u64 << 40, "state": "STATE_CLOSED", "dirty": 0, "level": 17, "nick": "twelve chars",
            "command": "set", "arity": -3, "out": 8, "third": -3, "size": 1u64 << 33, "text": "wörld"}),
    ]
}

#[test]
fn fields_of_c_structs() {
    let _turn = turn();
    for level in ["-O0", "-O1", "-O2", "-Og"] {
        let report = trace(&built("typed.c", "gcc", &[level]), "serve", CLIENT);
        assert_eq!(fields(&report), clients(), "{level}");
    }
}

#[test]
fn fields_when_the_debug_information_lies_elsewhere() {
    let _turn = turn();
    let full = built("typed.c", "gcc", &["-O2"]);
    let folder = tempfile::tempdir_in(scratch()).unwrap();
    let (shipped, debug) = (
        folder.path().join("typed"),
        folder.path().join("typed.debug"),
    );
    let run = |args: &[&str], paths: &[&Path]| {
        let status = Command::new(tool("objcopy"))
            .args(args)
            .args(paths)
            .status()
            .unwrap();
        assert!(status.success(), "objcopy {args:?}");
    };
    run(&["--only-keep-debug"], &[&full, &debug]);
    let link = format!("--add-gnu-debuglink={}", debug.display());
    run(&["--strip-debug", &link], &[&full, &shipped]);
    assert_eq!(fields(&trace(&shipped, "serve", CLIENT)), clients());
}

#[test]
fn what_is_returned_has_its_type() {
    let _turn = turn();
    let program = built("typed.c", "gcc", &["-O2"]);
    let captures = &[
        "wanted=wanted",
        "id=after(retval->id)",
        "nick=after(retval->nick)",
    ];
    let report = trace(&program, "pick", captures);
    assert_eq!(
        fields(&report),
        [
            json!({"wanted": -1, "id": 1u64 << 40, "nick": "twelve chars"}),
            json!({"wanted": 1, "id": 42, "nick": "ann"}),
        ]
    );
}

#[test]
fn filters_and_keys_by_name() {
    let _turn = turn();
    let program = built("typed.c", "gcc", &["-O2"]);
    let out = tempfile::NamedTempFile::new_in(scratch()).unwrap();
    let words = args![
        "count",
        format!("{}:serve", program.display()),
        "--where",
        "size > 1024 && client->argc < 0",
        "--by",
        "state=client->state",
        "-o",
        out.path().display()
    ];
    Uprof::json(words).command(&program, args![]).run().ok();
    let report = Report::parse(&std::fs::read_to_string(out.path()).unwrap());
    let probe = report.only();
    assert_eq!((probe.hits, probe.aggregated, probe.filtered), (2, 1, 1));
    assert_eq!(
        Value::Object(report.summary.counts[0].key.clone()),
        json!({"state": "STATE_CLOSED"})
    );
}

#[test]
fn texts_of_cpp() {
    let _turn = turn();
    for level in ["-O0", "-O2"] {
        let program = built("typed.cc", "g++", &["-std=c++17", level]);
        let captures = &[
            "item=item",
            "note=note",
            "count=count",
            "name=this->name",
            "kind=this->kind",
        ];
        let report = trace(&program, "shop::Order::add", captures);
        assert_eq!(
            fields(&report),
            [
                json!({"item": "apples", "note": "short", "count": 2, "name": "small", "kind": 7}),
                json!({"item": "pears", "note": "a note that is longer than fifteen bytes", "count": -1,
                    "name": "a name that is longer than what fits into the string itself", "kind": 8}),
            ],
            "{level}"
        );
    }
}

/// Both programs make the same two requests.
fn requests() -> [Value; 2] {
    [
        json!({"verb": "GET", "path": "/index.html", "status": 200, "size": 17}),
        json!({"verb": "DELETE", "path": "/grüße", "status": 404, "size": 0}),
    ]
}

#[test]
fn texts_of_rust() {
    let _turn = turn();
    for level in ["-Copt-level=0", "-Copt-level=2"] {
        let program = built("typed.rs", "rustc", &[level]);
        let captures = &[
            "verb=verb",
            "path=request->path",
            "status=request->status",
            "size=size",
        ];
        assert_eq!(
            fields(&trace(&program, "handle", captures)),
            requests(),
            "{level}"
        );
    }
}

#[test]
fn texts_of_go() {
    let _turn = turn();
    let program = built("typed.go", "go", &[]);
    let captures = &["verb=verb", "path=r->path", "status=r->status", "size=size"];
    assert_eq!(
        fields(&trace(&program, "main.handle", captures)),
        requests()
    );
}

#[test]
fn names_that_nothing_knows_are_refused_with_those_that_exist() {
    let _turn = turn();
    let program = built("typed.c", "gcc", &["-O2"]);
    let refused = |capture: &str, words: &[&str]| {
        let probe = format!("{}:serve", program.display());
        Uprof::new(args!["trace", probe, "--capture", capture])
            .run()
            .refused(1, words);
    };
    refused("x=client->agc", &["agc", "argc", "struct client"]);
    refused("x=clint->argc", &["clint", "client"]);
    refused("x=*client", &["struct client"]);
    let bare = built("typed.c", "gcc", &["-O2", "-g0"]);
    Uprof::new(args![
        "trace",
        format!("{}:serve", bare.display()),
        "--capture",
        "x=client->argc"
    ])
    .run()
    .refused(1, &["client", "no debug information"]);
}

#[test]
fn functions_whose_arguments_lie_elsewhere_are_one_probe() {
    let _turn = turn();
    let program = built("order.c", "gcc", &["-O2"]);
    let probe = format!("{}:/^take_/", program.display());
    let report = |words: Vec<String>| {
        let out = tempfile::NamedTempFile::new_in(scratch()).unwrap();
        let mut words = words;
        words.extend(args!["-o", out.path().display()]);
        Uprof::json(words).command(&program, args![]).run().ok();
        Report::parse(&std::fs::read_to_string(out.path()).unwrap())
    };
    // 10 calls of each with n from 0 to 9, and 10 more of the second.
    let counts = report(args!["count", &probe, "--where", "n > 4"]);
    let only = counts.only();
    assert_eq!((only.hits, only.aggregated, only.sites), (40, 20, 3));
    let mut named: Vec<_> = counts
        .summary
        .counts
        .iter()
        .map(|c| (c.key["function"].as_str().unwrap_or("?"), c.count))
        .collect();
    named.sort_unstable();
    assert_eq!(named, [("take_a", 5), ("take_b", 10), ("take_c", 5)]);
    let latency = report(args!["latency", &probe, "--where", "n > 4"]);
    assert_eq!(latency.histogram().count, 20, "one histogram for all");
    let events = report(args!["trace", &probe, "--capture", "v=p->v * n"]);
    let sum = |function: &str| -> u64 {
        let of = events
            .events
            .iter()
            .filter(|e| e.text("function") == function);
        of.map(|e| e.number("v")).sum()
    };
    assert_eq!(
        [sum("take_a"), sum("take_b"), sum("take_c")],
        [5 * 45, 5 * 90, 5 * 45]
    );
}
