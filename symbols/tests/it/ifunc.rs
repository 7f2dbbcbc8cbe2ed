use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use uprof_symbols::process::IfuncFound;
use uprof_symbols::{Error, Image, Process};

use crate::fixtures::{Workshop, libc, run};

/// A child that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Names and versions of the indirect functions that a library exports, as readelf prints them.
fn by_readelf(path: &std::path::Path) -> Vec<(String, String)> {
    let text = run(
        "readelf",
        Command::new("readelf").args(["--dyn-syms", "-W"]).arg(path),
    );
    let symbols = text.lines().filter(|line| line.contains(" IFUNC "));
    let names = symbols.filter_map(|line| line.split_whitespace().nth(7)?.split_once('@'));
    names
        .map(|(name, version)| (name.to_owned(), version.trim_start_matches('@').to_owned()))
        .collect()
}

/// Prints its library's base and what the dynamic linker says of each name@version, then waits.
const ASKER: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <pthread.h>
static void *spin(void *p) { volatile size_t n = 0; for (;;) n += strlen((char *)p); return 0; }
int main(int argc, char **argv) {
    pthread_t t;
    char text[] = "some text";
    pthread_create(&t, 0, spin, text);
    for (int i = 1; i + 1 < argc; i += 2) {
        void *at = dlvsym(RTLD_DEFAULT, argv[i], argv[i + 1]);
        Dl_info info;
        memset(&info, 0, sizeof info);
        int known = dladdr(at, &info);
        printf("%lx %s\n", (unsigned long)at - (unsigned long)(known ? info.dli_fbase : 0), known ? info.dli_fname : "?");
    }
    printf("end\n");
    fflush(stdout);
    for (;;) pause();
}
"#;

fn lines_until_end(child: &mut Child) -> Vec<String> {
    let reader = BufReader::new(child.stdout.as_mut().unwrap());
    let lines = reader.lines().map(Result::unwrap);
    lines.take_while(|line| line != "end").collect()
}

/// All of libc's: what is said here is what the process's own dynamic linker says.
#[test]
fn all_of_libc_agree_with_the_dynamic_linker() {
    let workshop = Workshop::new();
    let path = workshop.gcc("asker", "asker.c", ASKER, &["-pthread", "-O0"]);
    let functions = by_readelf(libc().path());
    assert!(functions.len() > 40, "{}", functions.len());
    let mut command = Command::new(path);
    for (name, version) in &functions {
        command.args([name, version]);
    }
    let mut running = Running(command.stdout(Stdio::piped()).spawn().unwrap());
    let answers = lines_until_end(&mut running.0);
    assert_eq!(answers.len(), functions.len());
    let process = Process::open(running.0.id()).unwrap();
    let object = process.find_library("libc").unwrap().unwrap();
    let image = Image::open(&object.open_path).unwrap();
    let mut ways: BTreeMap<&str, usize> = BTreeMap::new();
    for ((name, version), answer) in functions.iter().zip(answers) {
        let (address, file) = answer.split_once(' ').unwrap();
        let address = u64::from_str_radix(address, 16).unwrap();
        let target = process.ifunc_target(&object, &image, &format!("{name}@{version}"));
        if file.contains("libc.so") {
            let target = target.unwrap();
            assert_eq!(target.address, address, "{name}@{version}: {target:?}");
            *ways
                .entry(match target.found {
                    IfuncFound::OwnSlot => "in libc's own slot",
                    IfuncFound::ImportOf(_) => "in another object's slot",
                    IfuncFound::AskedHere => "by asking here",
                })
                .or_default() += 1;
        } else {
            assert!(file.contains("vdso"), "{answer}");
            let message = target.unwrap_err().to_string();
            // Without a slot of its own in the process, nobody can tell: neither can it be probed.
            assert!(message.contains(name), "{message}");
            *ways.entry("in the vDSO").or_default() += 1;
        }
    }
    eprintln!("{} indirect functions of libc: {ways:?}", functions.len());
    let strlen = process.ifunc_target(&object, &image, "strlen").unwrap();
    assert_eq!(strlen.found, IfuncFound::OwnSlot);
    // Two versions, of which the newer is meant by the name alone.
    let memcpy = |name| process.ifunc_target(&object, &image, name).unwrap().address;
    assert_eq!(memcpy("memcpy"), memcpy("memcpy@@GLIBC_2.14"));
    let error = process.ifunc_target(&object, &image, "malloc").unwrap_err();
    assert!(matches!(error, Error::Ifunc { .. }), "{error}");
    assert!(
        error.to_string().contains("no such indirect function"),
        "{error}"
    );
}

const OWN: &str = r#"
#include <stdio.h>
#include <unistd.h>
static int first(void) { return 1; }
static int second(void) { return 2; }
static int (*choose(void))(void) { return sizeof(void *) == 8 ? second : first; }
int picked(void) __attribute__((ifunc("choose")));
#ifndef LIBRARY
int main(void) {
    printf("%d\nend\n", picked());
    fflush(stdout);
    for (;;) pause();
}
#endif
"#;

/// Programs' own indirect functions, and those of a library bound by the program's slot.
#[test]
fn programs_of_all_kinds() {
    let workshop = Workshop::new();
    for flags in [
        &["-O0"][..],
        &["-no-pie"],
        &["-static"],
        &["-static-pie", "-fPIE"],
        &["-Wl,-z,now"],
    ] {
        let path = workshop.gcc("own", "own.c", OWN, flags);
        let mut running = Running(Command::new(&path).stdout(Stdio::piped()).spawn().unwrap());
        assert_eq!(lines_until_end(&mut running.0), ["2"]);
        let process = Process::open(running.0.id()).unwrap();
        let object = process.program().unwrap();
        let image = Image::open(&object.open_path).unwrap();
        let target = process.ifunc_target(&object, &image, "picked").unwrap();
        assert_eq!(
            target.function.as_deref(),
            Some("second"),
            "{flags:?}: {target:?}"
        );
        assert_eq!(target.found, IfuncFound::OwnSlot);
        if flags.contains(&"-static") {
            let strlen = process.ifunc_target(&object, &image, "strlen").unwrap();
            assert!(strlen.function.unwrap().contains("strlen_"));
        }
    }
    let library = workshop.gcc(
        "libpick.so",
        "own.c",
        OWN,
        &["-shared", "-fPIC", "-DLIBRARY"],
    );
    let user = "#include <stdio.h>\n#include <unistd.h>\nint picked(void);\n\
        int main(int n, char **v) { (void)v; puts(\"end\"); fflush(stdout); if (n > 1) picked(); puts(\"end\"); fflush(stdout); for (;;) pause(); }\n";
    let folder = library.parent().unwrap().to_str().unwrap();
    let rpath = format!("-Wl,-rpath,{folder}");
    let flags = ["-L", folder, rpath.as_str(), "-Wl,-z,lazy"];
    let source = workshop.write("user.c", user);
    let path = workshop.path("user");
    run(
        "gcc",
        Command::new("gcc")
            .args(["-o"])
            .arg(&path)
            .arg(source)
            .args(flags)
            .arg("-lpick"),
    );
    for calls in [false, true] {
        let mut command = Command::new(&path);
        if calls {
            command.arg("x");
        }
        let mut running = Running(command.stdout(Stdio::piped()).spawn().unwrap());
        let mut both = [0; 8];
        running
            .0
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut both)
            .unwrap();
        let process = Process::open(running.0.id()).unwrap();
        let object = process.find_library("libpick").unwrap().unwrap();
        let image = Image::open(&object.open_path).unwrap();
        let target = process.ifunc_target(&object, &image, "picked");
        if calls {
            let target = target.unwrap();
            assert_eq!(target.function.as_deref(), Some("second"));
            assert_eq!(target.found, IfuncFound::ImportOf(path.clone()));
        } else {
            let message = target.unwrap_err().to_string();
            assert!(message.contains("LD_BIND_NOW=1"), "{message}");
        }
    }
}

/// A program that stands at its first instruction has bound nothing.
#[test]
fn before_the_start_it_says_so() {
    let workshop = Workshop::new();
    for flags in [&["-static"][..], &["-static-pie", "-fPIE"], &[]] {
        let path = workshop.gcc("own", "own.c", OWN, flags);
        let mut command = Command::new(&path);
        // SAFETY: ptrace(TRACEME) is one system call; the child then stops at the new program's first instruction.
        unsafe {
            command.pre_exec(|| match libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) {
                -1 => Err(std::io::Error::last_os_error()),
                _ => Ok(()),
            });
        }
        let running = Running(command.stdout(Stdio::null()).spawn().unwrap());
        let process = Process::open(running.0.id()).unwrap();
        let object = process.program().unwrap();
        let image = Image::open(&object.open_path).unwrap();
        let message = process
            .ifunc_target(&object, &image, "picked")
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("has not bound it yet"),
            "{flags:?}: {message}"
        );
    }
}
