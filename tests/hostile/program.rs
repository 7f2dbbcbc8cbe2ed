//! The hostile programs: built, run alone, and measured; what must hold of a measured one.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::harness::machine::{scratch, tool};
use crate::harness::report::ProbeCount;
use crate::harness::{Report, Uprof};

/// How long a program may take that needs well under three seconds alone.
pub const LIMIT: Duration = Duration::from_secs(30);

/// The table that tests, soak and comparison share.
const TABLE: &str = include_str!("../targets/hostile/programs");

/// One hostile program, built.
#[derive(Clone, Debug)]
pub struct Program {
    /// Its name in the table.
    pub name: String,
    /// The built file.
    pub path: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// The functions that are probed.
    pub functions: Vec<String>,
    /// Where its returns must be seen at the exits: words of which the reason has one.
    pub reasons: Option<Vec<String>>,
}

/// How a program ended, and what it said.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// What a program counted of one of its functions.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Calls {
    pub entries: u64,
    pub returns: u64,
    /// Calls that were left otherwise, by the reason.
    #[serde(flatten)]
    pub left: BTreeMap<String, u64>,
}

impl Calls {
    /// Calls that were left without a return.
    pub fn left(&self) -> u64 {
        self.left.values().sum()
    }
}

#[derive(Deserialize)]
struct Line {
    truth: BTreeMap<String, Calls>,
}

/// The name of a function as a program counts it.
pub fn plain(function: &str) -> &str {
    function.rsplit(':').next().unwrap_or(function)
}

/// What a program said that it did: its last line.
pub fn truth(stdout: &str) -> BTreeMap<String, Calls> {
    let last = stdout.lines().last().unwrap_or_default();
    let line: Line = serde_json::from_str(last)
        .unwrap_or_else(|e| panic!("no line of truth ({e}) at the end of: {stdout}"));
    line.truth
}

impl Program {
    /// All in the table.
    pub fn names() -> impl Iterator<Item = &'static str> {
        rows().map(|row| row[0])
    }

    /// The one of this name in the table.
    pub fn named(name: &str) -> Self {
        let row = rows()
            .find(|row| row[0] == name)
            .unwrap_or_else(|| panic!("no hostile program `{name}`"));
        let [name, file, args, functions, returns, reasons] = row;
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
        Self {
            name: name.to_owned(),
            path: build(file),
            args: words(args),
            functions: words(functions),
            reasons: (returns == "exits").then(|| {
                let reasons = reasons.split(',');
                reasons.map(|word| word.trim().to_lowercase()).collect()
            }),
        }
    }

    /// The name of the probe on FUNCTION: of the program's own, or a whole probe already.
    pub fn probe(&self, function: &str) -> String {
        match function.contains(':') {
            true => function.to_owned(),
            false => format!("{}:{function}", self.path.display()),
        }
    }

    /// The names of all its probes.
    pub fn probes(&self) -> Vec<String> {
        self.functions.iter().map(|f| self.probe(f)).collect()
    }

    /// Runs it without probes; it must end well.
    pub fn alone(&self) -> Ended {
        let ended = run_within(Command::new(&self.path).args(&self.args), LIMIT);
        assert!(
            ended.status.success(),
            "{} ends badly without probes: {}\n{}",
            self.name,
            ended.status,
            ended.stderr
        );
        ended
    }

    /// Runs it under `uprof latency` with these flags, and compares it with a run without probes.
    pub fn measured(&self, flags: &[&str]) -> Measured {
        let mut words = vec!["latency".to_owned()];
        words.extend(self.probes());
        words.extend(flags.iter().map(|&flag| flag.to_owned()));
        self.measured_by(words)
    }

    /// The same under any command of uprof.
    pub fn measured_by(&self, mut words: Vec<String>) -> Measured {
        let alone = self.alone();
        let folder = tempfile::tempdir_in(scratch()).expect("a temporary folder");
        let file = folder.path().join("report");
        words.extend(["-o".to_owned(), file.display().to_string()]);
        let finished = Uprof::json(&words)
            .command(&self.path, &self.args)
            .deadline(2 * LIMIT)
            .run();
        let name = &self.name;
        assert_eq!(
            (finished.status.code(), finished.text()),
            (alone.status.code(), alone.stdout.clone()),
            "{name} ends otherwise or says something else under uprof {words:?}:\n{}",
            finished.stderr
        );
        let text = std::fs::read_to_string(&file)
            .unwrap_or_else(|e| panic!("{name}: no report ({e}):\n{}", finished.stderr));
        Measured {
            program: self.clone(),
            truth: truth(&alone.stdout),
            report: Report::parse(&text),
            stderr: finished.stderr,
        }
    }
}

/// A program that was measured, and did what it does without probes.
pub struct Measured {
    pub program: Program,
    pub truth: BTreeMap<String, Calls>,
    pub report: Report,
    /// What uprof and the program said on standard error.
    pub stderr: String,
}

impl Measured {
    /// What uprof and what the program counted of a function.
    pub fn of(&self, function: &str) -> (&ProbeCount, &Calls) {
        let calls = self.truth.get(plain(function));
        (
            self.report.probe(&self.program.probe(function)),
            calls.unwrap_or_else(|| panic!("{} did not count {function}", self.program.name)),
        )
    }

    /// Every call of every probed function was counted as what it was.
    pub fn assert_exact(&self) {
        for function in &self.program.functions {
            self.assert_exact_but(function, 0);
        }
    }

    /// Every call of FUNCTION was counted as what it was, but that the kernel may have hidden the ends of NESTED calls,
    /// which then are said to be hidden.
    pub fn assert_exact_but(&self, function: &str, nested: u64) {
        let (probe, calls) = self.of(function);
        let about = || {
            format!(
                "{}: {probe:?}\n{calls:?}\n{}",
                self.program.name, self.stderr
            )
        };
        assert_eq!(probe.hits, calls.entries, "{}", about());
        assert_eq!((probe.dropped, probe.filtered), (0, 0), "{}", about());
        assert!(probe.nested <= nested, "{}", about());
        if probe.nested == 0 {
            assert_eq!(probe.aggregated, calls.returns, "{}", about());
            assert_eq!(probe.unpaired, calls.left(), "{}", about());
        } else {
            // Of a call whose end is hidden nobody knows how it ended.
            assert!(probe.aggregated <= calls.returns, "{}", about());
            assert!(
                probe.aggregated + probe.nested >= calls.returns,
                "{}",
                about()
            );
        }
        // The process is over: what it left, it left for good.
        assert_eq!(probe.unfinished, 0, "{}", about());
        let measured: u64 = self
            .report
            .summary
            .histograms
            .iter()
            .filter(|h| h.name == probe.probe)
            .map(|h| h.count)
            .sum();
        assert_eq!(measured, probe.aggregated, "{}", about());
    }

    /// uprof said that it sees the returns at the exits, and why.
    pub fn assert_told(&self) {
        let Some(reasons) = &self.program.reasons else {
            return;
        };
        let told = self.stderr.lines().map(str::to_lowercase).any(|line| {
            line.contains("exit") && reasons.iter().any(|reason| line.contains(reason))
        });
        assert!(
            told,
            "{}: a line with `exit` and one of {reasons:?} was expected:\n{}",
            self.program.name, self.stderr
        );
    }
}

/// All that must hold of a program under `auto`.
pub fn assert_unharmed(name: &str) {
    let measured = Program::named(name).measured(&[]);
    measured.assert_exact();
    measured.assert_told();
}

fn rows() -> impl Iterator<Item = [&'static str; 6]> {
    let lines = TABLE.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| {
        let columns: Vec<&str> = line.split('|').map(str::trim).collect();
        columns
            .try_into()
            .unwrap_or_else(|_| panic!("six columns were expected: {line}"))
    })
}

/// The built file of this name; make builds it anew when its source is newer.
fn build(file: &str) -> PathBuf {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/targets/hostile");
    let folder = scratch().join("hostile");
    std::fs::create_dir_all(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let built = folder.join(file);
    let mut out = std::ffi::OsString::from("OUT=");
    out.push(&folder);
    let output = Command::new(tool("make"))
        .arg("-s")
        .arg("-C")
        .args([&sources, Path::new("-f"), Path::new("Makefile")])
        .arg(out)
        .arg(&built)
        .output()
        .expect("make runs");
    assert!(
        output.status.success(),
        "{file} was not built; `./tests/run` installs all that the tests need (gcc, g++, golang-go, libboost-context-dev):\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    built
}

/// Runs a command to its end; one that takes too long is killed, and the test fails.
pub fn run_within(command: &mut Command, limit: Duration) -> Ended {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let stdout = collect(child.stdout.take().expect("the pipe asked for"));
    let stderr = collect(child.stderr.take().expect("the pipe asked for"));
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("wait for a child") {
            break status;
        }
        if start.elapsed() > limit {
            // Its pipes close with it, so that the readers end.
            child.kill().expect("kill a child");
            child.wait().expect("wait for a child");
            panic!("{command:?} did not end within {limit:?}");
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    Ended {
        status,
        stdout: stdout.join().expect("the reader of standard output"),
        stderr: stderr.join().expect("the reader of standard error"),
    }
}

fn collect(mut from: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).expect("read a pipe");
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
