//! The semaphores of USDT probes: raised while a probe is attached, in programs built with Debian's
//! systemtap-sdt-dev.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use common::*;
use uprof_ebpf::expr::Expr;
use uprof_ebpf::{Action, AttachSite, Capture, Engine};

/// For each line it reads it passes both probes, as far as their semaphores let it, and tells what these are.
const PROGRAM: &str = r#"
#define _SDT_HAS_SEMAPHORES 1
#include <sys/sdt.h>
#include <stdio.h>
__extension__ volatile unsigned short app_first_semaphore __attribute__((section(".probes")));
__extension__ volatile unsigned short app_second_semaphore __attribute__((section(".probes")));
int main(void) {
    char line[64];
    while (fgets(line, sizeof line, stdin)) {
        if (app_first_semaphore) STAP_PROBE1(app, first, 11);
        if (app_second_semaphore) STAP_PROBE1(app, second, 22);
        printf("%u %u\n", app_first_semaphore, app_second_semaphore);
        fflush(stdout);
    }
    return 0;
}
"#;

/// The program, built in a directory of its own.
struct Fixture {
    directory: PathBuf,
    program: PathBuf,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn output(command: &mut Command) -> String {
    let done = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}; install gcc and binutils"));
    let text = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(
        done.status.success(),
        "{command:?} (it needs gcc, binutils and systemtap-sdt-dev): {text}"
    );
    String::from_utf8(done.stdout).unwrap()
}

fn build(name: &str) -> Fixture {
    let directory = std::env::temp_dir().join(format!("uprof-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let (source, program) = (directory.join("app.c"), directory.join("app"));
    std::fs::write(&source, PROGRAM).unwrap();
    output(
        Command::new("gcc")
            .args(["-O1", "-o"])
            .arg(&program)
            .arg(&source),
    );
    Fixture { directory, program }
}

/// What readelf says of `address`: where it is in the file.
fn offset(program: &Path, address: u64) -> u64 {
    let headers = output(Command::new("readelf").args(["-lW"]).arg(program));
    let hex = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap();
    for line in headers.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.first() == Some(&"LOAD") {
            let (offset, start, size) = (hex(words[1]), hex(words[2]), hex(words[4]));
            if (start..start + size).contains(&address) {
                return address - start + offset;
            }
        }
    }
    panic!("{address:#x} is in no segment of\n{headers}");
}

/// Place and semaphore of a probe, as readelf shows its note.
fn usdt(program: &Path, name: &str, site: u32) -> AttachSite {
    let notes = output(Command::new("readelf").args(["-n"]).arg(program));
    let mut found = notes
        .lines()
        .skip_while(|l| l.trim() != format!("Name: {name}"));
    let place = found
        .find(|l| l.trim().starts_with("Location:"))
        .unwrap_or_else(|| panic!("no {name} in\n{notes}"));
    let part = |label: &str| {
        let from = place.find(label).unwrap() + label.len();
        let text: String = place[from..]
            .trim_start_matches([':', ' '])
            .trim_start_matches("0x")
            .chars()
            .take_while(char::is_ascii_hexdigit)
            .collect();
        u64::from_str_radix(&text, 16).unwrap()
    };
    AttachSite {
        path: program.to_path_buf(),
        offset: offset(program, part("Location")),
        site,
        semaphore: Some(offset(program, part("Semaphore"))),
        exits: Vec::new(),
    }
}

/// The program as it runs.
struct Running {
    child: Child,
    input: ChildStdin,
    lines: BufReader<ChildStdout>,
}

impl Running {
    fn start(program: &Path) -> Running {
        let mut child = Command::new(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Running {
            input: child.stdin.take().unwrap(),
            lines: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    /// One round through its probes: what the semaphores are.
    fn round(&mut self) -> String {
        writeln!(self.input, "go").unwrap();
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn fired(engine: &mut Engine) -> Vec<(u32, Option<u64>)> {
    let mut all = Vec::new();
    engine.drain(|r| all.push((r.site, r.int(0)))).unwrap();
    all
}

#[test]
fn a_semaphore_is_up_while_its_probe_is_attached() {
    let _alone = alone();
    let fixture = build("semaphores");
    for (way, options) in ways() {
        // One that was there before, and one that starts when all is attached.
        let mut before = Running::start(&fixture.program);
        assert_eq!(before.round(), "0 0", "{way}");
        let mut spec = entry(Action::Event {
            // rdi is nothing here: that the site is told apart is what counts.
            captures: vec![Capture::Int(Expr::Const(5))],
        });
        spec.sites = 2;
        let mut engine = load(spec, &options);
        let (first, second) = (
            usdt(&fixture.program, "first", 0),
            usdt(&fixture.program, "second", 1),
        );
        let only_second = AttachSite {
            semaphore: None,
            ..second.clone()
        };
        // A site without a semaphore beside one that has it.
        engine.attach(0, &[first, only_second], None).unwrap();
        assert_eq!(before.round(), "1 0", "{way}");
        let mut after = Running::start(&fixture.program);
        assert_eq!(after.round(), "1 0", "{way}");
        assert_eq!(fired(&mut engine), [(0, Some(5)); 2], "{way}");
        engine.detach();
        assert_eq!(
            (before.round(), after.round()),
            ("0 0".into(), "0 0".into()),
            "{way}"
        );

        let mut spec = entry(Action::Event {
            captures: vec![Capture::Int(Expr::Const(6))],
        });
        spec.sites = 2;
        let mut engine = load(spec, &options);
        let pid = after.child.id();
        engine
            .attach(0, &[usdt(&fixture.program, "first", 0), second], Some(pid))
            .unwrap();
        assert_eq!(after.round(), "1 1", "{way}");
        assert_eq!(fired(&mut engine), [(0, Some(6)), (1, Some(6))], "{way}");
        drop(engine);
        assert_eq!(after.round(), "0 0", "{way}");
    }
}

#[test]
fn a_semaphore_falls_when_the_one_who_raised_it_is_killed() {
    let _alone = alone();
    let fixture = build("semaphore-killed");
    for (way, options) in ways() {
        let mut app = Running::start(&fixture.program);
        let mut engine = load(entry(Action::Count { key: vec![] }), &options);
        engine
            .attach(0, &[usdt(&fixture.program, "first", 0)], None)
            .unwrap();
        // A child holds the links, too: when this process lets go, that one alone keeps the probe.
        // SAFETY: the child calls nothing but pause().
        let child = unsafe { libc::fork() };
        assert!(child >= 0, "fork");
        if child == 0 {
            loop {
                // SAFETY: it only waits.
                unsafe { libc::pause() };
            }
        }
        drop(engine);
        assert_eq!(app.round(), "1 0", "{way}: the child holds it");
        // SAFETY: `child` is this test's own, and is waited for once.
        let killed = unsafe {
            libc::kill(child, libc::SIGKILL);
            libc::waitpid(child, std::ptr::null_mut(), 0)
        };
        assert_eq!(killed, child);
        assert_eq!(app.round(), "0 0", "{way}");
    }
}
