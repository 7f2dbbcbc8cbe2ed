//! All hostile programs, one after the other and several at a time, while uprof attaches and detaches every second and
//! is killed now and then; and one uprof that stays. For `UPROF_SOAK_SECONDS` (20); `tests/soak` does it for ten minutes.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::memory::{alive, changed_bytes, status_kib};
use super::program::{LIMIT, Program, run_within};
use crate::args;
use crate::harness::machine::scratch;
use crate::harness::uprof::Running;
use crate::harness::{Uprof, turn, wait_for};

/// How long each program runs, in seconds.
const RUN: u64 = 4;
/// Programs at a time.
const LANES: usize = 4;
/// One of so many uprofs is killed.
const KILLED: usize = 4;
/// What uprof may use more at the end than at the beginning, in KiB: allocators keep some.
const GROWTH: u64 = 2048;

/// What happened to one program.
#[derive(Default)]
struct Row {
    runs: u64,
    killed: u64,
    /// The largest memory of each uprof that was attached, in KiB.
    memory: Vec<u64>,
}

/// A program that is killed when dropped.
struct Alive(Child);

impl Drop for Alive {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn seconds() -> u64 {
    match std::env::var("UPROF_SOAK_SECONDS") {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|e| panic!("UPROF_SOAK_SECONDS={text}: {e}")),
        Err(_) => 20,
    }
}

/// The memory that uprof used at most, looked at until it ends; killed when `kill_after` has passed.
fn watch(uprof: Running, kill_after: Option<Duration>) -> u64 {
    let start = Instant::now();
    let pid = uprof.pid();
    let mut most = 0;
    while alive(pid) {
        most = most.max(status_kib(pid, "VmHWM").unwrap_or(0));
        if kill_after.is_some_and(|after| start.elapsed() > after) {
            let pid = i32::try_from(pid).expect("pids are small");
            kill(Pid::from_raw(pid), Signal::SIGKILL).expect("uprof runs");
            break;
        }
        assert!(start.elapsed() < LIMIT, "uprof does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
    let finished = uprof.finish();
    if kill_after.is_none() {
        finished.ok();
    }
    most
}

/// One run of a program, with uprof coming and going.
fn one_run(program: &Program, expected: &str, row: &Mutex<Row>, attached: &AtomicUsize) {
    let name = &program.name;
    let begun = Instant::now();
    let mut child = Alive(
        Command::new(&program.path)
            .args(&program.args)
            .args(["--seconds", &RUN.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{name}: {e}")),
    );
    let pid = child.0.id();
    // The last must be over before the program is.
    while begun.elapsed() + Duration::from_millis(1700) < Duration::from_secs(RUN) {
        let kill_it = attached.fetch_add(1, Ordering::SeqCst) % KILLED == KILLED - 1;
        let mut words = args!["latency"];
        words.extend(program.probes());
        words.extend(args!["--pid", pid, "--duration", "1s"]);
        let uprof = Uprof::json(words).deadline(LIMIT).start();
        let memory = watch(uprof, kill_it.then_some(Duration::from_millis(300)));
        let mut row = row.lock().expect("no lane panics while it counts");
        row.killed += u64::from(kill_it);
        row.memory.push(memory);
        drop(row);
        wait_for("the program's bytes to be as in its file", || {
            (!alive(pid) || changed_bytes(pid).is_none_or(|n| n == 0)).then_some(())
        });
    }
    let status = wait_for("the program to end", || {
        child.0.try_wait().expect("wait for the program")
    });
    let output = |pipe: &mut dyn std::io::Read| {
        let mut text = String::new();
        pipe.read_to_string(&mut text).expect("read a pipe");
        text
    };
    let stdout = output(child.0.stdout.as_mut().expect("the pipe asked for"));
    let stderr = output(child.0.stderr.as_mut().expect("the pipe asked for"));
    assert!(status.success(), "{name}: {status}\n{stderr}");
    assert_eq!(stdout, expected, "{name}\n{stderr}");
    row.lock().expect("no lane panics while it counts").runs += 1;
}

/// Copies of programs whose processes, threads and stacks come and go, so that no other uprof is attached to them.
fn copies(folder: &Path) -> Vec<(Program, String)> {
    [
        "fork and vfork",
        "dying threads",
        "ucontext",
        "C++ exceptions",
    ]
    .map(|name| {
        let mut program = Program::named(name);
        let expected = program.alone().stdout;
        let copy = folder.join(program.path.file_name().expect("a file"));
        std::fs::copy(&program.path, &copy).expect("copy a program");
        program.path = copy;
        (program, expected)
    })
    .into()
}

/// One uprof stays attached to programs that come and go. Returns its memory after a quarter of the time and at the end.
fn stay(time: Duration, over: &AtomicBool) -> (u64, u64) {
    let folder = tempfile::tempdir_in(scratch()).expect("a temporary folder");
    let programs = copies(folder.path());
    let mut words = args!["latency"];
    words.extend(programs.iter().flat_map(|(program, _)| program.probes()));
    let uprof = Uprof::json(words).deadline(time + 10 * LIMIT).start();
    let begun = Instant::now();
    let mut early = None;
    for (program, expected) in programs.iter().cycle() {
        let mut command = Command::new(&program.path);
        let ended = run_within(command.args(&program.args).args(["--seconds", "1"]), LIMIT);
        assert!(ended.status.success(), "{}: {ended:?}", program.name);
        assert_eq!(ended.stdout, *expected, "{}: {ended:?}", program.name);
        let memory = status_kib(uprof.pid(), "VmRSS").expect("uprof runs");
        if begun.elapsed() > time / 4 {
            early.get_or_insert(memory);
        }
        if over.load(Ordering::SeqCst) {
            let report = uprof.stop().report();
            assert!(report.summary.hits() > 0);
            return (early.unwrap_or(memory), memory);
        }
    }
    unreachable!("a cycle has no end")
}

#[test]
fn no_program_is_harmed_while_uprof_comes_and_goes() {
    let _turn = turn();
    let time = Duration::from_secs(seconds());
    let programs: Vec<(Program, String)> = Program::names()
        .map(|name| {
            let program = Program::named(name);
            let expected = program.alone().stdout;
            (program, expected)
        })
        .collect();
    let rows: Vec<Mutex<Row>> = programs.iter().map(|_| Mutex::default()).collect();
    let (next, attached) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let over = AtomicBool::new(false);
    let begun = Instant::now();
    let (early, late) = std::thread::scope(|scope| {
        let stayer = scope.spawn(|| stay(time, &over));
        let lanes: Vec<_> = (0..LANES)
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let turn = next.fetch_add(1, Ordering::SeqCst);
                        // Each once, however short the time.
                        if turn >= programs.len() && begun.elapsed() > time {
                            break;
                        }
                        let at = turn % programs.len();
                        one_run(&programs[at].0, &programs[at].1, &rows[at], &attached);
                    }
                })
            })
            .collect();
        let ended: Vec<_> = lanes.into_iter().map(|lane| lane.join()).collect();
        over.store(true, Ordering::SeqCst);
        let memory = stayer.join();
        for lane in ended {
            lane.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
        memory.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    let rows: BTreeMap<&str, Row> = programs
        .iter()
        .zip(rows)
        .map(|((program, _), row)| {
            (
                program.name.as_str(),
                row.into_inner().expect("no lane panicked"),
            )
        })
        .collect();
    report(begun.elapsed(), &rows, early, late);
}

/// Prints what happened, and fails when uprof grew.
fn report(time: Duration, rows: &BTreeMap<&str, Row>, early: u64, late: u64) {
    println!(
        "\n{} s of hostile programs while uprof comes and goes:\n",
        time.as_secs()
    );
    println!(
        "| program | runs | attached | of these killed | uprof's largest memory, first | last |"
    );
    println!("|---|---|---|---|---|---|");
    for (name, row) in rows {
        let [first, last] =
            [row.memory.first(), row.memory.last()].map(|m| m.copied().unwrap_or(0));
        println!(
            "| {name} | {} | {} | {} | {first} KiB | {last} KiB |",
            row.runs,
            row.memory.len(),
            row.killed
        );
    }
    println!(
        "\none uprof that stayed: {early} KiB after a quarter of the time, {late} KiB at the end"
    );
    assert!(
        late <= early + GROWTH,
        "uprof grows: {early} KiB, then {late} KiB"
    );
    for (name, row) in rows {
        assert!(row.runs > 0, "{name} was not run");
        let half = row.memory.len() / 2;
        let most = |part: &[u64]| part.iter().copied().max().unwrap_or(0);
        let (before, after) = row.memory.split_at(half);
        if half > 0 {
            assert!(
                most(after) <= most(before) + GROWTH,
                "{name}: uprof needs more each time: {:?} KiB",
                row.memory
            );
        }
    }
}
