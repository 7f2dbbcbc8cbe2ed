//! Addresses: the function, the inlined copies around it, file and line, as `llvm-symbolizer` or `addr2line` say.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

use object::{Object, ObjectSection, SectionFlags, elf};
use serde_json::Value;
use uprof_symbols::Image;
use uprof_symbols::resolve::FileSymbols;

use super::Tally;
use super::subjects::Subject;

/// How many addresses of each file.
const ADDRESSES: usize = 10_000;

/// One step of an answer; unknown parts are empty or 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Step {
    function: String,
    file: String,
    line: u64,
}

/// An answer: the innermost inlined copy first, the function last.
type Answer = Vec<Step>;

/// How two answers compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Same,
    /// The same but for this.
    But(&'static str),
    Different,
}

/// Compares the answers for addresses chosen evenly in the code of one file.
pub fn compare(subject: &Subject) -> Tally {
    let image = subject.open();
    let addresses = choose(&subject.program);
    let names = Names::of(&image);
    let file = FileSymbols::new(image);
    let theirs = llvm(&subject.lines_by, &addresses);
    let mut differing = Vec::new();
    for (address, llvm) in addresses.iter().zip(theirs) {
        let ours = ours(&file, *address);
        let verdict = names.judge(&ours, &llvm);
        if verdict != Verdict::Same {
            differing.push((*address, ours, llvm, verdict));
        }
    }
    // The other tool is much slower: it is asked where the first does not agree.
    let asked: Vec<u64> = differing.iter().map(|(address, ..)| *address).collect();
    let second = gnu(&subject.lines_by, &asked);
    let mut tally = Tally {
        compared: addresses.len(),
        differing: Vec::new(),
    };
    for ((address, ours, llvm, verdict), gnu) in differing.into_iter().zip(second) {
        match (verdict, names.judge(&ours, &gnu)) {
            (Verdict::Same, _) | (_, Verdict::Same) => {}
            (Verdict::But(what), _) | (_, Verdict::But(what)) => {
                tally.differing.push(format!("{address:#x} {what}"));
            }
            _ => {
                let [ours, llvm, gnu] = [&ours, &llvm, &gnu].map(words);
                tally.differing.push(format!(
                    "{address:#x} uprof [{ours}] llvm [{llvm}] gnu [{gnu}]"
                ));
            }
        }
    }
    tally
}

/// What this crate says.
fn ours(file: &FileSymbols, address: u64) -> Answer {
    let frames = file.frames(address).into_iter();
    let steps = frames.map(|frame| {
        let line = frame.line.map_or(0, u64::from);
        let name = frame.function.unwrap_or_default();
        // Neither tool knows stubs, or makes up names.
        let made = line == 0 && (name.starts_with("fn_0x") || name.ends_with("@plt"));
        let name = if made { String::new() } else { name };
        known(name, frame.file.unwrap_or_default(), line)
    });
    tidy(steps.collect())
}

/// Which names stand for one place.
struct Names(BTreeMap<String, Vec<u64>>);

impl Names {
    fn of(image: &Image) -> Self {
        let mut places: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for function in image.functions().unwrap_or_default() {
            for name in function.names {
                places.entry(name).or_default().push(function.address);
            }
        }
        Self(places)
    }

    /// Whether two answers are one: aliases of a function are the same.
    fn judge(&self, ours: &Answer, theirs: &Answer) -> Verdict {
        if ours.len() != theirs.len() {
            return Verdict::Different;
        }
        let mut verdict = Verdict::Same;
        for (our, their) in ours.iter().zip(theirs) {
            let same = |name: &str| name == their.function || self.one_place(name, &their.function);
            if our.line != their.line {
                return Verdict::Different;
            }
            if our.file != their.file {
                if doubled(&our.file) != their.file {
                    return Verdict::Different;
                }
                verdict = Verdict::But("a directory twice");
            }
            if !same(&our.function) {
                return Verdict::Different;
            }
        }
        verdict
    }

    fn one_place(&self, our: &str, their: &str) -> bool {
        match (self.0.get(our), self.0.get(their)) {
            (Some(ours), Some(theirs)) => ours.iter().any(|address| theirs.contains(address)),
            _ => false,
        }
    }
}

/// A relative path with its first directory in front of it.
fn doubled(path: &str) -> String {
    let first = path.split_once('/').map_or("", |(first, _)| first);
    if first.is_empty() {
        path.to_owned()
    } else {
        format!("{first}/{path}")
    }
}

fn words(answer: &Answer) -> String {
    let steps = answer
        .iter()
        .map(|step| format!("{} {}:{}", step.function, step.file, step.line));
    steps.collect::<Vec<_>>().join(" < ")
}

/// Addresses in the executable sections, each byte as likely as any other, always the same ones.
fn choose(program: &Path) -> Vec<u64> {
    let bytes = std::fs::read(program).unwrap_or_else(|e| panic!("{}: {e}", program.display()));
    let file =
        object::File::parse(&*bytes).unwrap_or_else(|e| panic!("{}: {e}", program.display()));
    let is_code = |section: &object::Section| matches!(section.flags(), SectionFlags::Elf { sh_flags, .. } if sh_flags.0 & elf::SHF_EXECINSTR.0 != 0);
    let ranges: Vec<(u64, u64)> = file
        .sections()
        .filter(is_code)
        .map(|section| (section.address(), section.size()))
        .collect();
    let total: u64 = ranges.iter().map(|(_, size)| size).sum();
    assert!(total > 0, "{} has no code", program.display());
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut at = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let mut left = state % total;
        for (start, size) in &ranges {
            if left < *size {
                return start + left;
            }
            left -= size;
        }
        0
    };
    (0..ADDRESSES).map(|_| at()).collect()
}

/// Runs a tool that reads addresses and writes answers.
fn ask(command: &mut Command, package: &str, addresses: &[u64]) -> String {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?} ({error}): install {package}"));
    let mut stdin = child.stdin.take().expect("the pipe asked for");
    let lines: String = addresses
        .iter()
        .map(|address| format!("{address:#x}\n"))
        .collect();
    // It answers while it is asked: both at once, or the pipes fill up.
    let writer = std::thread::spawn(move || stdin.write_all(lines.as_bytes()));
    let output = child.wait_with_output().expect("the answers");
    writer
        .join()
        .expect("the writer")
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn llvm(file: &Path, addresses: &[u64]) -> Vec<Answer> {
    let mut command = Command::new("llvm-symbolizer");
    command.args([
        "--inlines",
        "--functions=linkage",
        "--no-demangle",
        "--output-style=JSON",
    ]);
    command.arg("--obj").arg(file);
    let text = ask(&mut command, "llvm", addresses);
    let answers: Vec<Answer> = text
        .lines()
        .map(|line| {
            let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
            let steps = value["Symbol"].as_array().cloned().unwrap_or_default();
            let text = |step: &Value, key: &str| step[key].as_str().unwrap_or_default().to_owned();
            let step = |step: &Value| {
                let line = step["Line"].as_u64().unwrap_or(0);
                known(text(step, "FunctionName"), text(step, "FileName"), line)
            };
            tidy(steps.iter().map(step).collect())
        })
        .collect();
    assert_eq!(
        answers.len(),
        addresses.len(),
        "one answer for each address"
    );
    answers
}

/// `addr2line -a -i -f`: the address, then two lines for each step.
fn gnu(file: &Path, addresses: &[u64]) -> Vec<Answer> {
    if addresses.is_empty() {
        return Vec::new();
    }
    let text = ask(
        Command::new("addr2line")
            .args(["-a", "-i", "-f", "-e"])
            .arg(file),
        "binutils",
        addresses,
    );
    let mut answers: Vec<Answer> = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.starts_with("0x") {
            answers.push(Vec::new());
            continue;
        }
        let place = lines.next().unwrap_or_default();
        let place = place.split(" (discriminator").next().unwrap_or_default();
        let (file, number) = place.rsplit_once(':').unwrap_or((place, "0"));
        let step = known(
            line.to_owned(),
            file.to_owned(),
            number.parse().unwrap_or(0),
        );
        answers
            .last_mut()
            .expect("an address comes first")
            .push(step);
    }
    assert_eq!(
        answers.len(),
        addresses.len(),
        "one answer for each address"
    );
    answers.into_iter().map(tidy).collect()
}

/// Drops the steps that say nothing.
fn tidy(steps: Answer) -> Answer {
    steps
        .into_iter()
        .filter(|step| *step != Step::default())
        .collect()
}

/// "??" is nothing; without a line a file is none (of symbols alone, LLVM gives the file that the symbol table names).
fn known(function: String, file: String, line: u64) -> Step {
    // LLVM gives versions (dlerror@GLIBC_2.2.5) where the symbol table's names have them.
    let end = if function == "??" {
        0
    } else {
        function.find('@').unwrap_or(function.len())
    };
    let function = function[..end].to_owned();
    let file = if line == 0 {
        String::new()
    } else {
        straight(&file)
    };
    Step {
        function,
        file,
        line,
    }
}

/// A path without `.` and `..`.
fn straight(path: &str) -> String {
    let mut parts = PathBuf::new();
    for part in Path::new(path).components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.display().to_string()
}
