//! Damaged files: ten thousand copies of real ones, each damaged in a way that its number decides, through all that
//! the crate can be asked. Nothing panics, hangs, or takes memory without bound, and damage to a debug file never
//! keeps the names of the program itself from being found.
//!
//!     cargo test -p uprof-symbols --test mutations -- --nocapture
//!     UPROF_MUTATIONS=1000000 ...       more of them
//!     UPROF_MUTATION=1234 ...           only this one

mod exercise;
mod memory;
mod mutate;
#[allow(dead_code, reason = "each test builds some of them")]
#[path = "../../../tests/harness/variants.rs"]
mod variants;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mutate::{Original, Random};
use uprof_symbols::{Image, OpenOptions};
use variants::{Built, Variant};

#[global_allocator]
static MEMORY: memory::Counting = memory::Counting;

/// How many, unless UPROF_MUTATIONS says otherwise.
const MUTATIONS: usize = 10_000;

/// One case may take this long on a busy machine; whole ones take milliseconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// The small programs, and how often each is taken.
const PROGRAMS: &[(Variant, usize)] = &[
    (Variant::Pie, 3),
    (Variant::Semaphores, 3),
    (Variant::MiniDebug, 3),
    (Variant::Compressed, 2),
    (Variant::Dwarf4, 2),
    (Variant::Package, 2),
    (Variant::Shared, 2),
    (Variant::Musl, 1),
    (Variant::Cpp, 2),
    (Variant::BuildId, 1),
    (Variant::GoStripped, 1),
];

/// What is damaged: a program, or a file beside it.
struct Subject {
    original: Original,
    /// Its path relative to the folder of the case.
    at: PathBuf,
    /// The whole program, if another file is damaged.
    program: Option<PathBuf>,
    /// Files that lie beside it, whole.
    beside: Vec<(PathBuf, PathBuf)>,
}

fn number(variable: &str) -> Option<usize> {
    std::env::var(variable)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|e| panic!("{variable}: {e}")))
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Each program as often as the table says, and the files that belong to some of them.
fn subjects() -> Vec<Subject> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("variants");
    let mut subjects = Vec::new();
    for (variant, times) in PROGRAMS {
        let built = variant.build(&folder);
        for _ in 0..*times {
            subjects.push(Subject {
                original: Original::new(&format!("{variant:?}"), read(&built.program)),
                at: "ways".into(),
                program: None,
                beside: beside(*variant, &built),
            });
        }
    }
    for (variant, times) in [
        (Variant::BuildId, 3),
        (Variant::Package, 2),
        (Variant::Shared, 1),
    ] {
        let built = variant.build(&folder);
        for _ in 0..times {
            for (file, at) in beside(variant, &built) {
                subjects.push(Subject {
                    original: Original::new(&format!("the debug file of {variant:?}"), read(&file)),
                    at,
                    program: Some(built.program.clone()),
                    beside: Vec::new(),
                });
            }
        }
    }
    subjects
}

/// The files that belong to a program, and where they have to lie.
fn beside(variant: Variant, built: &Built) -> Vec<(PathBuf, PathBuf)> {
    let home = built.program.parent().unwrap_or(Path::new("/"));
    match (variant, &built.debug_dir) {
        (Variant::Package, _) => vec![(home.join("ways.dwp"), "ways.dwp".into())],
        (Variant::Shared, _) => vec![(home.join("common.debug"), "common.debug".into())],
        (_, Some(debug)) => {
            let id = Image::open(&built.program)
                .ok()
                .and_then(|image| image.build_id());
            let id = id.expect("built with a build ID");
            let name = format!(".build-id/{}/{}.debug", &id[..2], &id[2..]);
            vec![(debug.join(&name), Path::new("debug").join(name))]
        }
        _ => Vec::new(),
    }
}

/// One worker's folder, and what it is at.
struct Worker {
    folder: PathBuf,
    /// The case, and since when.
    at: Mutex<Option<(usize, Instant)>>,
}

impl Worker {
    fn put(&self, name: &Path, bytes: &[u8]) -> PathBuf {
        let path = self.folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap_or(&self.folder))
            .expect("a folder for the case");
        std::fs::write(&path, bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        path
    }

    /// Runs one case; what was wrong, if something was.
    fn run(&self, subject: &Subject, case: usize) -> Result<usize, String> {
        let (bytes, what) = subject.original.damaged(&mut Random::new(case as u64));
        for (file, at) in &subject.beside {
            self.put(at, &read(file));
        }
        let damaged = self.put(&subject.at, &bytes);
        let program = match &subject.program {
            Some(program) => self.put(Path::new("ways"), &read(program)),
            None => damaged,
        };
        let options = OpenOptions {
            debug_dirs: vec![self.folder.join("debug")],
            ..OpenOptions::default()
        };
        // An abort (no memory, no stack) tells nothing more: this file does.
        self.put(Path::new("case"), format!("{case}: {what}\n").as_bytes());
        let began = Instant::now();
        *self.at.lock().expect("no worker fails here") = Some((case, began));
        let result = catch_unwind(AssertUnwindSafe(|| exercise::image(&program, options)));
        *self.at.lock().expect("no worker fails here") = None;
        match result {
            Err(_) => Err(format!("case {case} panicked ({what})")),
            Ok(0) if subject.program.is_some() => Err(format!(
                "case {case} hid the functions of the program itself ({what})"
            )),
            Ok(found) => Ok(found),
        }
    }
}

#[test]
fn damaged_files_do_no_harm() {
    let subjects = subjects();
    let (first, count) = match number("UPROF_MUTATION") {
        Some(only) => (only, 1),
        None => (0, number("UPROF_MUTATIONS").unwrap_or(MUTATIONS)),
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let scratch =
        tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder for the cases");
    let workers: Vec<Worker> = (0..threads)
        .map(|number| Worker {
            folder: scratch.path().join(number.to_string()),
            at: Mutex::new(None),
        })
        .collect();
    let next = AtomicUsize::new(first);
    let (readable, done) = (AtomicUsize::new(0), AtomicBool::new(false));
    let failures = Mutex::new(Vec::new());
    let began = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| watch(&workers, &done));
        let running: Vec<_> = workers
            .iter()
            .map(|worker| {
                let (subjects, next, readable, failures) = (&subjects, &next, &readable, &failures);
                scope.spawn(move || {
                    loop {
                        let case = next.fetch_add(1, Ordering::Relaxed);
                        if case >= first + count {
                            break;
                        }
                        match worker.run(&subjects[case % subjects.len()], case) {
                            Ok(0) => {}
                            Ok(_) => _ = readable.fetch_add(1, Ordering::Relaxed),
                            Err(what) => failures.lock().expect("no worker fails here").push(what),
                        }
                    }
                })
            })
            .collect();
        let ended: Vec<_> = running.into_iter().map(|worker| worker.join()).collect();
        done.store(true, Ordering::Relaxed);
        assert!(
            ended.iter().all(Result::is_ok),
            "a worker failed beside its cases"
        );
    });
    let failures = failures.into_inner().expect("no worker failed");
    println!(
        "{count} damaged files of {} kinds, {} still with functions, {} failures; {:.0?}, at most {} MiB at once",
        subjects.len(),
        readable.into_inner(),
        failures.len(),
        began.elapsed(),
        memory::peak() >> 20
    );
    assert!(
        failures.is_empty(),
        "{} of {count}:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

/// Ends the process when a case hangs: nothing else could.
fn watch(workers: &[Worker], done: &AtomicBool) {
    while !done.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(100));
        for worker in workers {
            let at = *worker.at.lock().expect("no worker fails here");
            if let Some((case, since)) = at
                && since.elapsed() > PATIENCE
            {
                eprintln!("case {case} hangs: UPROF_MUTATION={case} runs it alone");
                std::process::exit(1);
            }
        }
    }
}
