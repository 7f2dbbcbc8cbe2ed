use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use uprof_symbols::process::{by_comm, by_exe, running_program};
use uprof_symbols::{Error, Image, Process, find_library_file, find_program};

use crate::fixtures::Workshop;

/// A child that ends with the test.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        Self(
            command
                .stdout(Stdio::null())
                .spawn()
                .expect("a program that runs"),
        )
    }

    fn process(&self) -> Process {
        Process::open(self.0.id()).unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until the process sleeps in its main function: then its libraries are loaded.
fn settled<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "it did not come within 20 s");
        std::thread::sleep(Duration::from_millis(5));
    }
}

const SLEEPER: &str = "#include <unistd.h>\nint main(void) { for (;;) pause(); }\n";

fn binding(process: &Process, symbol: &str) -> PathBuf {
    settled(|| process.binding_of(symbol).ok().flatten()).path
}

#[test]
fn this_very_process() {
    let process = Process::open(std::process::id()).unwrap();
    let objects = process.objects().unwrap();
    let program = process.program().unwrap();
    assert_eq!(program.path, std::env::current_exe().unwrap());
    assert!(!program.deleted);
    assert!(objects.contains(&program));
    assert!(Image::open(&process.exe()).unwrap().is_pie());
    let libc = process.find_library("libc").unwrap().unwrap();
    assert_eq!(libc.path.file_name().unwrap(), "libc.so.6");
    assert_eq!(process.find_library("libc.so.6").unwrap().unwrap(), libc);
    assert_eq!(
        process
            .find_library(libc.path.to_str().unwrap())
            .unwrap()
            .unwrap(),
        libc
    );
    assert_eq!(process.find_library("libnothing").unwrap(), None);
    // The address of a function here, by base and symbol, is what the linker says.
    let image = Image::open(&libc.open_path).unwrap();
    let getpid = crate::fixtures::one(&image, "getpid");
    assert_eq!(libc.base + getpid.address, libc::getpid as *const () as u64);
    assert_eq!(process.binding_of("malloc").unwrap().unwrap(), libc);
    assert_eq!(
        process.binding_of("no_such_function_anywhere").unwrap(),
        None
    );
}

#[test]
fn no_such_process() {
    let error = Process::open(u32::MAX).unwrap_err();
    assert!(
        matches!(error, Error::NoSuchProcess { pid: u32::MAX }),
        "{error}"
    );
    // A pid that has just ended.
    let mut child = Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    assert!(matches!(
        Process::open(child.id()),
        Err(Error::NoSuchProcess { .. })
    ));
}

#[test]
fn a_process_that_ends_meanwhile_is_told() {
    let mut running = Running::start(Command::new("sleep").arg("100"));
    let process = running.process();
    running.0.kill().unwrap();
    running.0.wait().unwrap();
    assert!(
        matches!(process.objects(), Err(Error::NoSuchProcess { .. })),
        "{:?}",
        process.objects()
    );
    assert!(matches!(
        process.exe_name(),
        Err(Error::NoSuchProcess { .. })
    ));
    assert!(process.binding_of("malloc").is_err());
}

#[test]
fn the_first_definition_in_the_linkers_order_binds() {
    let workshop = Workshop::new();
    let sleeper = workshop.gcc("sleeper", "sleeper.c", SLEEPER, &[]);
    let running = Running::start(&mut Command::new(&sleeper));
    assert_eq!(
        binding(&running.process(), "malloc").file_name().unwrap(),
        "libc.so.6"
    );

    let source = "#include <stddef.h>\nvoid *malloc(size_t n) { static char pool[1 << 20]; static size_t used;\n\
        size_t at = used; used += (n + 15) & ~15ul; return at + n < sizeof pool ? pool + at : 0; }\n\
        void free(void *p) { (void)p; }\n";
    let preloaded = workshop.gcc("libown.so", "own.c", source, &["-shared", "-fPIC"]);
    let running = Running::start(Command::new(&sleeper).env("LD_PRELOAD", &preloaded));
    assert_eq!(binding(&running.process(), "malloc"), preloaded);
    assert_eq!(
        binding(&running.process(), "calloc").file_name().unwrap(),
        "libc.so.6"
    );

    // the program's own, exported or not
    for (name, flags) in [
        ("own", &["-O1"][..]),
        ("own-exported", &["-O1", "-rdynamic"]),
    ] {
        let both = format!("{source}{SLEEPER}");
        let own = workshop.gcc(name, "both.c", &both, flags);
        let running = Running::start(&mut Command::new(&own));
        assert_eq!(binding(&running.process(), "malloc"), own, "{name}");
    }
}

#[test]
fn a_static_program_binds_to_itself() {
    let workshop = Workshop::new();
    let source = format!(
        "#include <stdlib.h>\nvoid *volatile p;\n{}",
        SLEEPER.replace("for", "p = malloc(3); for")
    );
    for flags in [&["-static"][..], &["-static-pie", "-fPIE"]] {
        let path = workshop.gcc("static", "static.c", &source, flags);
        let running = Running::start(&mut Command::new(&path));
        assert_eq!(binding(&running.process(), "malloc"), path, "{flags:?}");
        assert_eq!(
            running.process().binding_of("dlmopen_nothing").unwrap(),
            None
        );
    }
}

#[test]
fn before_the_linker_has_run_it_says_so() {
    let mut command = Command::new("sleep");
    command.arg("100");
    // SAFETY: ptrace(TRACEME) is one system call; the child then stops at the new program's first instruction.
    unsafe {
        command.pre_exec(|| match libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) {
            -1 => Err(std::io::Error::last_os_error()),
            _ => Ok(()),
        });
    }
    let running = Running::start(&mut command);
    let error = settled(|| running.process().binding_of("malloc").err());
    assert!(matches!(error, Error::LinkMap { .. }), "{error}");
    assert!(error.to_string().contains("has not started yet"), "{error}");
}

#[test]
fn a_replaced_or_deleted_program_is_still_reached() {
    let workshop = Workshop::new();
    let path = workshop.gcc("first", "first.c", SLEEPER, &[]);
    let first = std::fs::read(&path).unwrap();
    let running = Running::start(&mut Command::new(&path));
    let process = running.process();
    settled(|| process.program().ok());
    for replaced in [false, true] {
        let _ = std::fs::remove_file(&path);
        if replaced {
            std::fs::write(&path, b"#!/bin/sh\n").unwrap();
        }
        let program = process.program().unwrap();
        assert!(program.deleted, "{program:?}");
        assert_eq!(program.path, path);
        assert_eq!(std::fs::read(&program.open_path).unwrap(), first);
        assert_eq!(std::fs::read(process.exe()).unwrap(), first);
        assert_eq!(
            crate::fixtures::one(&Image::open(&program.open_path).unwrap(), "main").name(),
            "main"
        );
        assert_eq!(
            binding(&process, "malloc").file_name().unwrap(),
            "libc.so.6"
        );
        assert_eq!(process.exe_name().unwrap(), path);
    }
}

#[test]
fn another_root_is_followed() {
    let workshop = Workshop::new();
    let path = workshop.gcc("sleeper", "sleeper.c", SLEEPER, &["-static"]);
    let root = path.parent().unwrap().to_owned();
    let mut command = Command::new("/sleeper");
    // SAFETY: chroot and chdir are two system calls.
    unsafe {
        let root = std::ffi::CString::new(root.to_str().unwrap()).unwrap();
        command.pre_exec(move || match libc::chroot(root.as_ptr()) {
            0 if libc::chdir(c"/".as_ptr()) == 0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    let running = match command.spawn() {
        Ok(child) => Running(child),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            panic!("chroot needs root: run this test as root ({error})")
        }
        Err(error) => panic!("{error}"),
    };
    let program = settled(|| running.process().program().ok());
    assert_eq!(
        std::fs::read(&program.open_path).unwrap(),
        std::fs::read(&path).unwrap()
    );
    assert!(!program.deleted, "{program:?}");
}

#[test]
fn names_longer_than_the_kernel_keeps() {
    let workshop = Workshop::new();
    let name = "uprof-sym-test-of-a-long-name";
    let path = workshop.gcc(name, "long.c", SLEEPER, &[]);
    let running = Running::start(&mut Command::new(&path));
    let pid = running.0.id();
    let has = |found: Vec<Process>| found.iter().any(|process| process.pid == pid);
    settled(|| has(by_comm(name)).then_some(()));
    assert!(has(by_comm("uprof-sym-test-")));
    assert!(!has(by_comm("uprof-sym-test")));
    assert_eq!(running.process().comm, "uprof-sym-test-");
    assert!(has(by_exe(&path)));
    assert!(has(running_program(name)));
    assert!(!has(by_exe(Path::new("/bin/sleep"))));
    std::fs::remove_file(&path).unwrap();
    assert!(
        has(by_exe(&path)),
        "a program whose file is gone still runs that path"
    );
}

#[test]
fn programs_and_libraries_by_name() {
    assert!(find_program("sh").unwrap().ends_with("sh"));
    assert_eq!(find_program("./here").unwrap(), Path::new("./here"));
    // in no user's PATH
    assert_eq!(
        find_program("ldconfig").unwrap().file_name().unwrap(),
        "ldconfig"
    );
    let message = find_program("no-such-program-here")
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("no-such-program-here") && message.contains("/usr/sbin"),
        "{message}"
    );
    let libc = find_library_file("libc").unwrap();
    assert_eq!(libc.file_name().unwrap(), "libc.so.6");
    assert_eq!(find_library_file("libc.so.6").unwrap(), libc);
    assert!(Image::open(&find_library_file("libstdc++").unwrap()).is_ok());
    let message = find_library_file("libnothing").unwrap_err().to_string();
    assert!(
        message.contains("libnothing") && message.contains("/usr/lib"),
        "{message}"
    );
}
