use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use uprof_symbols::Image;
use uprof_symbols::go::{self, GoTable};

use crate::fixtures::{Workshop, libc, run};

const SOURCE: &str = r#"package main

import (
	"fmt"
	"os"
	"strings"
)

//go:noinline
func outer(n int) int {
	return middle(n) + 1
}

func middle(n int) int {
	return inner(n) * 3
}

func inner(n int) int {
	if n > 100 {
		return len(strings.Repeat("x", n))
	}
	return n * n
}

type T struct{ a, b int }

//go:noinline
func (t *T) Sum() int { return t.a + t.b }

func main() {
	t := &T{outer(len(os.Args)), 2}
	fmt.Println(t.Sum(), outer(200))
}
"#;

fn build(workshop: &Workshop, name: &str, flags: &[&str]) -> PathBuf {
    let source = workshop.write("main.go", SOURCE);
    let out = workshop.path(name);
    run(
        "golang-go",
        Command::new("go")
            .arg("build")
            .args(flags)
            .arg("-o")
            .arg(&out)
            .arg(source),
    );
    out
}

fn table(image: &Image) -> GoTable {
    go::read(image).unwrap().expect(".gopclntab")
}

/// Functions by address, as `go tool nm` names them.
fn by_go(path: &Path) -> BTreeMap<u64, Vec<String>> {
    let text = run(
        "golang-go",
        Command::new("go").args(["tool", "nm"]).arg(path),
    );
    let mut functions: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for line in text.lines() {
        let line = line.trim_start();
        let mut words = line.splitn(3, ' ').filter(|word| !word.is_empty());
        let (Some(address), Some(kind), Some(name)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        if kind.eq_ignore_ascii_case("t") {
            let address = u64::from_str_radix(address, 16).expect("an address");
            functions.entry(address).or_default().push(name.to_owned());
        }
    }
    functions
}

/// A symbol as the runtime's table has it: without the mark of the calling convention, and with what stands in
/// brackets left out.
fn shortened(symbol: &str) -> String {
    let name = symbol.trim_end_matches(".abi0");
    match (name.find('['), name.rfind(']')) {
        (Some(open), Some(close)) if open < close => {
            format!("{}[...]{}", &name[..open], &name[close + 1..])
        }
        _ => name.to_owned(),
    }
}

#[test]
fn functions_are_those_of_go_tool_nm() {
    let workshop = Workshop::new();
    for (name, flags) in [
        ("plain", &[][..]),
        ("pie", &["-buildmode=pie"]),
        ("external", &["-ldflags=-linkmode=external"]),
        (
            "external-pie",
            &["-buildmode=pie", "-ldflags=-linkmode=external"],
        ),
    ] {
        let path = build(&workshop, name, flags);
        let image = Image::open(&path).unwrap();
        let ours: BTreeMap<u64, String> = table(&image)
            .functions()
            .map(|f| (f.address, f.name))
            .collect();
        assert!(ours.len() > 1000, "{}", ours.len());
        let theirs = by_go(&path);
        // Each of ours is one of theirs, by the same name (the symbol table marks the calling convention).
        for (address, function) in &ours {
            let names = theirs.get(address).map_or(&[][..], Vec::as_slice);
            assert!(
                names.iter().any(|name| shortened(name) == *function),
                "{name}: {function} at {address:#x}: {names:?}"
            );
        }
        // What go tool nm has besides are marks, and what the C compiler's start-up files bring along.
        let missing: BTreeSet<&str> = (theirs.iter())
            .filter(|(address, _)| !ours.contains_key(address))
            .flat_map(|(_, names)| names.iter().map(String::as_str))
            .filter(|name| !name.starts_with('_') && !name.contains("cgo"))
            .collect();
        let explained = BTreeSet::from([
            "runtime.etext",
            "go.buildid",
            "deregister_tm_clones",
            "register_tm_clones",
            "frame_dummy",
            "crosscall2",
            "crosscall_amd64",
            "threadentry",
            "setg_gcc",
            "main",
            "fatalf",
            "cgo",
            "x_cgo_sys_thread_create",
            "__libc_csu_init",
            "crosscall1",
            "runtime.text",
        ]);
        let unexplained: Vec<_> = missing.difference(&explained).collect();
        assert!(unexplained.is_empty(), "{name}: {unexplained:?}");
    }
}

/// What was stripped away is not needed, neither symbols nor section headers.
#[test]
fn stripped_programs_have_the_same_functions() {
    let workshop = Workshop::new();
    for (mode, name) in [("-buildmode=exe", "exe"), ("-buildmode=pie", "pie")] {
        let path = build(&workshop, name, &[mode, "-ldflags=-s -w"]);
        let image = Image::open(&path).unwrap();
        let functions: Vec<_> = table(&image).functions().collect();
        for wanted in [
            "main.main",
            "main.outer",
            "main.(*T).Sum",
            "runtime.mallocgc",
        ] {
            let found = functions.iter().find(|f| f.name == wanted).expect(wanted);
            assert!(found.end > found.address);
            assert!(image.offset_of(found.address).is_some());
        }
        assert_eq!(go::version(&image).as_deref(), Some(go_version().as_str()));
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[0x28..0x30].fill(0);
        bytes[0x3c..0x40].fill(0);
        let bare = Image::open(&workshop.write("bare", bytes)).unwrap();
        assert_eq!(table(&bare).functions().collect::<Vec<_>>(), functions);
        assert_eq!(go::version(&bare), go::version(&image));
        let outer = functions.iter().find(|f| f.name == "main.outer").unwrap();
        let frames = |image: &Image| {
            let addresses = outer.address..outer.end;
            addresses
                .map(|at| table(image).frames(image, at))
                .collect::<Vec<_>>()
        };
        assert_eq!(frames(&bare), frames(&image));
        assert!(frames(&bare).iter().any(|frames| frames.len() == 3));
    }
}

fn go_version() -> String {
    let text = run("golang-go", Command::new("go").arg("version"));
    text.split(' ')
        .nth(2)
        .expect("go version goX.Y linux/amd64")
        .to_owned()
}

/// Feeds addresses to a tool and gives what it prints.
fn ask(command: &mut Command, addresses: &[u64]) -> String {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}: install its package"));
    let mut input = child.stdin.take().unwrap();
    let text: String = addresses.iter().map(|at| format!("{at:#x}\n")).collect();
    let writer = std::thread::spawn(move || input.write_all(text.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

/// Addresses spread over all functions.
fn spread(table: &GoTable, count: usize) -> Vec<u64> {
    let functions: Vec<_> = table.functions().collect();
    let first = functions.first().unwrap().address;
    let last = functions.last().unwrap().end;
    let step = (last - first) / count as u64;
    (0..count as u64).map(|n| first + n * step).collect()
}

#[test]
fn lines_are_those_of_go_tool_addr2line() {
    let workshop = Workshop::new();
    // It cannot read position-independent programs' tables.
    {
        let path = build(&workshop, "lines", &[]);
        let image = Image::open(&path).unwrap();
        let table = table(&image);
        let addresses = spread(&table, 10_000);
        let text = ask(
            Command::new("go").args(["tool", "addr2line"]).arg(&path),
            &addresses,
        );
        let mut lines = text.lines();
        let mut compared = 0;
        for address in addresses {
            let (function, place) = (lines.next().unwrap(), lines.next().unwrap());
            let frames = table.frames(&image, address);
            let (inner, outer) = (frames.first().unwrap(), frames.last().unwrap());
            if ["?:0", ":-1"].contains(&place) {
                // padding between functions
                assert_eq!((&inner.file, inner.line), (&None, None), "{address:#x}");
                continue;
            }
            let ours = format!(
                "{}:{}",
                inner.file.as_deref().unwrap_or("?"),
                inner.line.unwrap_or(0)
            );
            assert_eq!(ours, place, "{address:#x}");
            assert_eq!(outer.function, shortened(function), "{address:#x}");
            compared += 1;
        }
        assert!(compared > 9_000, "{compared}");
    }
}

/// Frames as llvm-symbolizer has them from DWARF, innermost first: function, file:line.
fn by_dwarf(path: &Path, addresses: &[u64]) -> BTreeMap<u64, Vec<(String, String)>> {
    let mut symbolizer = Command::new("llvm-symbolizer");
    symbolizer
        .args([
            "--inlines",
            "--output-style=GNU",
            "--functions=linkage",
            "--addresses",
            "-e",
        ])
        .arg(path);
    let text = ask(&mut symbolizer, addresses);
    let mut chains: BTreeMap<u64, Vec<(String, String)>> = BTreeMap::new();
    let mut current = 0;
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(address) = line.strip_prefix("0x") {
            current = u64::from_str_radix(address, 16).unwrap();
        } else {
            // "file:line (discriminator 1)"; what has no directory is given one.
            let place = lines.next().unwrap().trim_start_matches("./");
            let place = place.split(" (").next().unwrap_or_default().to_owned();
            chains
                .entry(current)
                .or_default()
                .push((shortened(line), place));
        }
    }
    chains
}

/// DWARF tells the same chains of inlined calls, functions, files and lines.
#[test]
fn inlined_calls_are_those_of_the_debug_information() {
    let workshop = Workshop::new();
    for mode in ["-buildmode=exe", "-buildmode=pie"] {
        let path = build(&workshop, "inlined", &[mode]);
        let image = Image::open(&path).unwrap();
        let table = table(&image);
        let addresses = spread(&table, 10_000);
        let bytes = std::fs::read(&path).unwrap();
        let (mut same, mut deep, mut padding) = (0, 0, 0);
        for (address, theirs) in by_dwarf(&path, &addresses) {
            let ours: Vec<(String, String)> = (table.frames(&image, address).into_iter())
                .map(|frame| {
                    let place = frame
                        .file
                        .zip(frame.line)
                        .map(|(file, line)| format!("{file}:{line}"));
                    (frame.function, place.unwrap_or_else(|| "??:0".into()))
                })
                .collect();
            if theirs[0].0 == "??" {
                // Between two functions, where int3 (cc) stands.
                let offset = image.offset_of(address).unwrap();
                assert_eq!(bytes[offset as usize], 0xcc, "{address:#x}: {ours:?}");
                padding += 1;
                continue;
            }
            if ours.last().unwrap().1.starts_with("<autogenerated>") && ours.len() > 1 {
                // DWARF leaves out what is inlined into the wrappers that the compiler makes.
                assert_eq!(ours[0].1, theirs[0].1, "{address:#x}");
                continue;
            }
            assert_eq!(ours, theirs, "{address:#x}");
            same += 1;
            deep += usize::from(ours.len() > 1);
        }
        eprintln!(
            "{mode}: {same} frames are the same, {deep} with inlined calls; {padding} are padding"
        );
        assert!(same > 9_000 && deep > 1_000, "{same} {deep}");
    }
}

#[test]
fn others_have_no_such_table() {
    assert!(go::read(&libc()).unwrap().is_none());
    assert_eq!(go::version(&libc()), None);
}
