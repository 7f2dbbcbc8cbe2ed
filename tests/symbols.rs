//! `uprof symbols`: what can be probed, and what it prints about it.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::args;
use crate::harness::machine::{library, scratch};
use crate::harness::variants::{Built, Variant};
use crate::harness::{Target, Uprof, turn};

fn built() -> Built {
    Variant::Pie.build(&scratch().join("variants"))
}

fn text(words: Vec<String>) -> String {
    Uprof::new(words).run().ok().text()
}

fn objects(words: Vec<String>) -> Vec<Value> {
    let text = Uprof::json(words).run().ok().text();
    let object = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    text.lines().map(object).collect()
}

fn libc() -> PathBuf {
    library("libc.so.6")
        .canonicalize()
        .expect("libc is installed")
}

/// The address that `nm` gives a function.
fn address(program: &Path, function: &str) -> u64 {
    let listing = crate::harness::variants::run(std::process::Command::new("nm").arg(program));
    let row = listing
        .lines()
        .find(|line| line.ends_with(&format!(" {function}")))
        .unwrap_or_else(|| panic!("nm names no {function}"));
    u64::from_str_radix(row.split(' ').next().unwrap_or_default(), 16).unwrap()
}

#[test]
fn functions_with_their_site_and_source() {
    let _turn = turn();
    let program = built().program;
    let rows = objects(args![
        "symbols",
        program.display(),
        "/^(global|local)_work$/"
    ]);
    let names: Vec<&str> = rows.iter().filter_map(|row| row["name"].as_str()).collect();
    assert_eq!(rows.len(), 2, "{rows:?}");
    for name in ["global_work", "local_work"] {
        assert!(names.contains(&name), "{names:?}");
        let row = rows.iter().find(|row| row["name"] == name).unwrap();
        assert_eq!(row["address"], address(&program, name));
        assert_eq!(row["source"], ".symtab");
        let cost = row["cost"].as_str().unwrap_or_default();
        assert!(
            ["nop", "emulated", "single-stepped"].contains(&cost),
            "{row}"
        );
    }
    let table = text(args!["symbols", program.display(), "global_work"]);
    assert!(table.starts_with("           ADDRESS"), "{table}");
    assert_eq!(table.lines().count(), 2, "{table}");
}

#[test]
fn aliases_and_versions() {
    let _turn = turn();
    let libc = libc();
    let table = text(args!["symbols", libc.display(), "malloc"]);
    assert!(table.contains("(also __libc_malloc)"), "{table}");
    let old = text(args!["symbols", libc.display(), "memcpy@GLIBC_2.2.5"]);
    assert!(old.contains("memcpy"), "{old}");
    Uprof::new(args!["symbols", libc.display(), "memcpy@GLIBC_9"])
        .run()
        .refused(1, &["memcpy@@GLIBC_2.14", "memcpy@GLIBC_2.2.5"]);
}

#[test]
fn where_names_come_from() {
    let _turn = turn();
    let rows = objects(args!["symbols", libc().display(), "malloc", "--sources"]);
    let count = |source: &str| {
        let row = rows.iter().find(|row| row["source"] == source).unwrap();
        row["functions"].as_u64()
    };
    assert!(count(".dynsym") > Some(1000), "{rows:?}");
    // libc6-dbg has the others.
    assert!(count("debug file") > Some(1000), "{rows:?}");
    assert_eq!(count(".symtab"), None, "{rows:?}");
}

#[test]
fn parameters_and_types() {
    let _turn = turn();
    let text = text(args!["symbols", libc().display(), "malloc", "--args"]);
    assert!(
        text.contains("bytes") && text.contains("size_t") && text.contains("void *"),
        "{text}"
    );
    let rows = objects(args![
        "symbols",
        libc().display(),
        "--type",
        "struct timespec"
    ]);
    assert_eq!(rows[0]["bytes"], 16);
    assert_eq!(
        (
            &rows[0]["fields"][1]["name"],
            &rows[0]["fields"][1]["offset"]
        ),
        (&"tv_nsec".into(), &8.into())
    );
    Uprof::new(args![
        "symbols",
        libc().display(),
        "--type",
        "struct no_such_thing"
    ])
    .run()
    .refused(1, &["struct no_such_thing"]);
}

#[test]
fn static_probes() {
    let _turn = turn();
    let program = built().program;
    let rows = objects(args!["symbols", program.display(), "--usdt"]);
    let names: Vec<_> = rows.iter().map(|row| row["name"].as_str()).collect();
    assert!(
        names.contains(&Some("entry")) && names.contains(&Some("text")),
        "{rows:?}"
    );
    assert_eq!(rows[0]["provider"], "uprof_ways");
    Uprof::new(args!["symbols", program.display(), "nothing:*", "--usdt"])
        .run()
        .refused(1, &["nothing:*"]);
    let probe = format!("usdt:{}:uprof_ways:nothing", program.display());
    Uprof::new(args!["count", probe])
        .run()
        .refused(1, &["uprof_ways:entry"]);
}

#[test]
fn an_address_of_a_file_and_of_a_process() {
    let _turn = turn();
    let program = built().program;
    let inside = address(&program, "global_work") + 1;
    let shown = text(args!["symbols", program.display(), format!("{inside:#x}")]);
    assert!(
        shown.contains("global_work+0x1") && shown.contains("ways.c:"),
        "{shown}"
    );
    let target = Target::gated(&program, args![]);
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", target.pid())).unwrap();
    let base = maps.lines().next().unwrap_or_default();
    let base = u64::from_str_radix(base.split('-').next().unwrap_or_default(), 16).unwrap();
    let rows = objects(args![
        "symbols",
        target.pid(),
        format!("{:#x}", base + inside)
    ]);
    let frame = &rows[0]["frames"][0];
    assert_eq!(frame["function"], "global_work", "{rows:?}");
    assert_eq!(frame["module"], program.display().to_string(), "{rows:?}");
    Uprof::new(args!["symbols", program.display(), "0x7fffffffffff"])
        .run()
        .refused(
            1,
            &[
                "no code at 0x7fffffffffff",
                "name it: uprof symbols PID 0x7fffffffffff)",
            ],
        );
}

#[test]
fn fields_of_the_kernel() {
    let _turn = turn();
    let text = text(args!["symbols", "--args", "kernel:tcp_sendmsg"]);
    assert!(
        text.contains("struct sock *") && text.contains("size_t"),
        "{text}"
    );
    let rows = objects(args![
        "symbols",
        "--args",
        "tracepoint:syscalls:sys_enter_execve"
    ]);
    let fields = rows[0]["fields"].as_array().expect("fields");
    let names: Vec<_> = fields.iter().map(|f| f["name"].as_str()).collect();
    assert!(names.contains(&Some("filename")), "{rows:?}");
    let kernel = objects(args!["symbols", "kernel:*", "--type", "struct sock_common"]);
    assert!(kernel[0]["bytes"].as_u64() > Some(64), "{kernel:?}");
    Uprof::new(args!["symbols", "kernel:tcp_sendms"])
        .run()
        .refused(1, &["tcp_sendms", "tcp_sendmsg"]);
    Uprof::new(args!["symbols", "tracepoint:syscalls"])
        .run()
        .refused(1, &["tracepoint:GROUP:NAME"]);
}

#[test]
fn debug_options_that_cannot_be_followed() {
    let _turn = turn();
    let program = built().program;
    Uprof::new(args![
        "symbols",
        program.display(),
        "--debug-dir",
        "/no/such/folder"
    ])
    .run()
    .refused(1, &["/no/such/folder"]);
    Uprof::new(args!["symbols", "--debuginfod", program.display()])
        .run()
        .refused(1, &["DEBUGINFOD_URLS"]);
}
