use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use uprof_symbols::resolve::{FileSymbols, Frame, Module};
use uprof_symbols::{Error, Image, Symbolizer};

use crate::fixtures::{Workshop, run};

/// A child that ends with the test.
struct Running(Child);

impl Running {
    /// Starts a program and reads what it prints up to a line "end".
    fn start(command: &mut Command) -> (Self, Vec<String>) {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let reader = BufReader::new(child.stdout.as_mut().unwrap());
        let lines = reader.lines().map(Result::unwrap);
        let lines = lines.take_while(|line| line != "end").collect();
        (Self(child), lines)
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn hex(text: &str) -> u64 {
    u64::from_str_radix(text, 16).expect("a hexadecimal number")
}

fn name(frame: &Frame) -> &str {
    frame.function.as_deref().unwrap_or("?")
}

/// Prints the address of its function and of a place in the middle of one inlined into it, that of a libc function,
/// of one in the vDSO, and of something that is no code.
const PROGRAM: &str = r#"
#define _GNU_SOURCE
#include <stdio.h>
#include <sys/auxv.h>
#include <unistd.h>
static void *volatile middle;
static inline __attribute__((always_inline)) int inner(int n) {
    void *here;
    __asm__ volatile("lea 0f(%%rip), %0\n0: nop" : "=r"(here));
    middle = here;
    return n + 1;
}
__attribute__((noinline)) int outer(int n) {
    int m = inner(n);
    return m * 2;
}
int main(void) {
    int n = outer(getpid());
    printf("%lx\n%lx\n%lx\n%lx\n%lx\nend\n", (unsigned long)outer, (unsigned long)middle, (unsigned long)getppid,
        getauxval(AT_SYSINFO_EHDR), (unsigned long)&n);
    fflush(stdout);
    for (;;) pause();
}
"#;

fn program(workshop: &Workshop, name: &str, flags: &[&str]) -> std::path::PathBuf {
    workshop.gcc(
        name,
        "program.c",
        PROGRAM,
        &[&["-O1", "-g"], flags].concat(),
    )
}

/// The frames of the places that PROGRAM prints.
fn check_program(symbolizer: &mut Symbolizer, pid: u32, lines: &[String], module: &Path) {
    let at: Vec<u64> = lines.iter().map(|line| hex(line)).collect();
    let frames = symbolizer.frames(pid, at[0]).unwrap();
    assert_eq!(name(frames.last().unwrap()), "outer", "{frames:?}");
    assert_eq!(frames.last().unwrap().offset, Some(0));
    assert_eq!(
        frames.last().unwrap().module,
        Module::File(module.to_owned())
    );
    let frames = symbolizer.frames(pid, at[1]).unwrap();
    assert_eq!(name(frames.last().unwrap()), "outer", "{frames:?}");
    assert!(
        frames
            .last()
            .unwrap()
            .offset
            .is_some_and(|offset| offset > 0)
    );
    let frames = symbolizer.frames(pid, at[4]).unwrap();
    assert_eq!(frames[0].function, None);
    assert_eq!(frames[0].module, Module::Special("stack".into()));
    let frames = symbolizer.frames(pid, 0x1000).unwrap();
    assert_eq!(frames[0].module, Module::Unmapped);
}

#[test]
fn addresses_of_a_running_program() {
    let workshop = Workshop::new();
    let mut symbolizer = Symbolizer::new();
    for flags in [
        &[][..],
        &["-no-pie"],
        &["-static"],
        &["-static-pie", "-fPIE"],
    ] {
        let path = program(&workshop, "program", flags);
        let (running, lines) = Running::start(&mut Command::new(&path));
        let pid = running.pid();
        check_program(&mut symbolizer, pid, &lines, &path);
        let frames = symbolizer.frames(pid, hex(&lines[2]) + 1).unwrap();
        let outer = frames.last().unwrap();
        // Aliases: whichever stands for it.
        assert!(name(outer).ends_with("getppid"), "{frames:?}");
        assert_eq!(outer.offset, Some(1));
        let vdso = hex(&lines[3]);
        let known = (0..0x1000).step_by(16).filter_map(|add| {
            let frames = symbolizer.frames(pid, vdso + add).unwrap();
            assert_eq!(frames[0].module, Module::Vdso);
            frames.last().unwrap().function.clone()
        });
        let known: Vec<String> = known.collect();
        assert!(
            known.iter().any(|name| name.contains("clock_gettime")),
            "{known:?}"
        );
        // What has ended is still known, and the file still there.
        drop(running);
        check_program(&mut symbolizer, pid, &lines, &path);
    }
    let error = symbolizer.frames(u32::MAX, 0x1000).unwrap_err();
    assert!(matches!(error, Error::NoSuchProcess { .. }), "{error}");
}

/// By debug information, files, lines and inlined functions come along.
#[test]
fn inlined_functions_have_frames_of_their_own() {
    let workshop = Workshop::new();
    let path = program(&workshop, "program", &[]);
    let (running, lines) = Running::start(&mut Command::new(&path));
    let frames = Symbolizer::new()
        .frames(running.pid(), hex(&lines[1]))
        .unwrap();
    let line_of = |text: &str| {
        let at = PROGRAM
            .lines()
            .position(|line| line.contains(text))
            .unwrap();
        u32::try_from(at + 1).unwrap()
    };
    assert_eq!(frames.len(), 2, "{frames:?}");
    let inner = &frames[0];
    assert_eq!(
        (name(inner), inner.inlined, inner.offset),
        ("inner", true, None)
    );
    assert!(inner.file.as_ref().unwrap().ends_with("program.c"));
    assert_eq!(inner.line, Some(line_of("__asm__")));
    assert_eq!((name(&frames[1]), frames[1].inlined), ("outer", false));
    assert_eq!(frames[1].line, Some(line_of("int m = inner(n)")));
}

#[test]
fn deleted_and_replaced_files() {
    let workshop = Workshop::new();
    let path = program(&workshop, "program", &[]);
    let (running, lines) = Running::start(&mut Command::new(&path));
    for replaced in [false, true] {
        let _ = std::fs::remove_file(&path);
        if replaced {
            workshop.gcc("program", "other.c", "int main(void) { return 3; }\n", &[]);
        }
        let mut symbolizer = Symbolizer::new();
        check_program(&mut symbolizer, running.pid(), &lines, &path);
        let process = uprof_symbols::Process::open(running.pid()).unwrap();
        let object = process.program().unwrap();
        assert!(object.deleted, "{object:?}");
        assert_eq!(object.replaced, replaced, "{object:?}");
    }
}

#[test]
fn other_roots_and_mount_namespaces() {
    let workshop = Workshop::new();
    let path = program(&workshop, "program", &["-static"]);
    let root = path.parent().unwrap().to_owned();
    let mut command = Command::new("/program");
    // SAFETY: chroot and chdir are two system calls.
    unsafe {
        let root = std::ffi::CString::new(root.to_str().unwrap()).unwrap();
        command.pre_exec(move || match libc::chroot(root.as_ptr()) {
            0 if libc::chdir(c"/".as_ptr()) == 0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    let (running, lines) = Running::start(&mut command);
    let mut symbolizer = Symbolizer::new();
    // The kernel gives paths as seen from here where it can.
    let seen = symbolizer.frames(running.pid(), hex(&lines[0])).unwrap();
    let Module::File(seen) = seen[0].module.clone() else {
        panic!("{seen:?}");
    };
    check_program(&mut symbolizer, running.pid(), &lines, &seen);

    // A mount that only this process sees hides another program at that path.
    let place = workshop.path("place");
    std::fs::create_dir(&place).unwrap();
    std::fs::write(place.join("program"), "not this one").unwrap();
    let script = format!(
        "mount -t tmpfs none {0} && cp {1} {0}/program && exec {0}/program",
        place.display(),
        path.display()
    );
    let (running, lines) =
        Running::start(Command::new("unshare").args(["-m", "sh", "-c", &script]));
    assert_eq!(
        lines.len(),
        5,
        "unshare -m needs root: run this test as root"
    );
    check_program(
        &mut Symbolizer::new(),
        running.pid(),
        &lines,
        &place.join("program"),
    );
}

const JIT: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
int main(int n, char **v) {
    (void)n;
    char *code = mmap(0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char name[64];
    snprintf(name, sizeof name, "/tmp/perf-%d.map", getpid());
    FILE *map = fopen(name, "w");
    fprintf(map, "%lx 20 py::first:/app/main.py\n%lx 10 half", (unsigned long)code, (unsigned long)code + 0x20);
    fflush(map);
    printf("%lx\nend\n", (unsigned long)code);
    fflush(stdout);
    getchar();
    fprintf(map, "::second\n%lx 8 py::third\n", (unsigned long)code + 0x40);
    fclose(map);
    printf("end\n");
    fflush(stdout);
    getchar();
    unlink(name);
    (void)v;
    return 0;
}
"#;

#[test]
fn just_in_time_code_by_its_perf_map() {
    use std::io::Write;
    let workshop = Workshop::new();
    let path = workshop.gcc("jit", "jit.c", JIT, &[]);
    // In another pid namespace it writes the list under the number that it has there.
    for contained in [false, true] {
        let mut command = match contained {
            false => Command::new(&path),
            true => {
                let mut command = Command::new("unshare");
                command.args(["-p", "-f", "--kill-child"]).arg(&path);
                command
            }
        };
        command.stdin(Stdio::piped());
        let (mut running, lines) = Running::start(&mut command);
        assert_eq!(
            lines.len(),
            1,
            "unshare -p needs root: run this test as root"
        );
        let pid = match contained {
            false => running.pid(),
            true => {
                let children = format!("/proc/{0}/task/{0}/children", running.pid());
                std::fs::read_to_string(children)
                    .unwrap()
                    .trim()
                    .parse()
                    .unwrap()
            }
        };
        let code = hex(&lines[0]);
        let mut symbolizer = Symbolizer::new();
        let mut named = |at: u64| {
            let frames = symbolizer.frames(pid, at).unwrap();
            assert_eq!(frames[0].module, Module::Jit);
            frames[0].function.clone().zip(frames[0].offset)
        };
        assert_eq!(
            named(code + 0x1f),
            Some(("py::first:/app/main.py".into(), 0x1f))
        );
        assert_eq!(named(code + 0x20), None, "a half written line");
        let input = running.0.stdin.as_mut().unwrap();
        input.write_all(b"\n").unwrap();
        let mut more = String::new();
        BufReader::new(running.0.stdout.as_mut().unwrap())
            .read_line(&mut more)
            .unwrap();
        assert_eq!(named(code + 0x21), Some(("half::second".into(), 1)));
        assert_eq!(named(code + 0x40), Some(("py::third".into(), 0)));
        assert_eq!(named(code + 0x48), None);
        running.0.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        assert!(running.0.wait().unwrap().success());
    }
}

/// Another user's list is not believed.
#[test]
fn a_perf_map_of_somebody_else_is_left_alone() {
    let workshop = Workshop::new();
    let source = "#include <stdio.h>\n#include <sys/mman.h>\n#include <unistd.h>\nint main(void) { void *p = mmap(0, 4096, 7, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); printf(\"%lx\\nend\\n\", (unsigned long)p); fflush(stdout); for (;;) pause(); }\n";
    let path = workshop.gcc("quiet", "quiet.c", source, &[]);
    let (running, lines) = Running::start(&mut Command::new(&path));
    let code = hex(&lines[0]);
    let map = format!("/tmp/perf-{}.map", running.pid());
    std::fs::write(&map, format!("{code:x} 10 planted\n")).unwrap();
    let function = |symbolizer: &mut Symbolizer| {
        symbolizer.frames(running.pid(), code).unwrap()[0]
            .function
            .clone()
    };
    assert_eq!(function(&mut Symbolizer::new()).as_deref(), Some("planted"));
    run("chown", Command::new("chown").args(["65534", &map]));
    assert_eq!(function(&mut Symbolizer::new()), None);
    std::fs::remove_file(&map).unwrap();
    let elsewhere = workshop.write("elsewhere", format!("{code:x} 10 planted\n"));
    std::os::unix::fs::symlink(elsewhere, &map).unwrap();
    assert_eq!(function(&mut Symbolizer::new()), None);
    std::fs::remove_file(&map).unwrap();
}

/// Another program under the same process id is another space.
#[test]
fn a_process_that_executes_another_program_is_read_anew() {
    let workshop = Workshop::new();
    let path = program(&workshop, "program", &["-no-pie"]);
    let script = format!("echo end; read x; exec {}", path.display());
    let mut command = Command::new("sh");
    let (mut running, _) = Running::start(command.args(["-c", &script]).stdin(Stdio::piped()));
    let mut symbolizer = Symbolizer::new();
    let before = symbolizer.frames(running.pid(), 0x40_1000).unwrap();
    assert_eq!(before[0].module, Module::Unmapped);
    std::io::Write::write_all(running.0.stdin.as_mut().unwrap(), b"\n").unwrap();
    let reader = BufReader::new(running.0.stdout.as_mut().unwrap());
    let lines: Vec<String> = reader
        .lines()
        .map(Result::unwrap)
        .take_while(|line| line != "end")
        .collect();
    check_program(&mut symbolizer, running.pid(), &lines, &path);
}

#[test]
fn go_programs_without_symbols() {
    let workshop = Workshop::new();
    let source = "package main\nimport (\"fmt\"; \"os\")\n//go:noinline\nfunc outer(n int) int { return inner(n) * 3 }\n\
        func inner(n int) int {\n\tif n > 5 { return 1 }\n\treturn n + 7\n}\nfunc main() { fmt.Println(outer(len(os.Args))) }\n";
    let source = workshop.write("main.go", source);
    let path = workshop.path("go");
    run(
        "golang-go",
        Command::new("go")
            .args(["build", "-ldflags=-s -w", "-o"])
            .arg(&path)
            .arg(source),
    );
    let file = FileSymbols::new(Image::open(&path).unwrap());
    let table = uprof_symbols::go::read(file.image()).unwrap().unwrap();
    let outer = table.functions().find(|f| f.name == "main.outer").unwrap();
    let chains: Vec<Vec<Frame>> = (outer.address..outer.end)
        .map(|at| file.frames(at))
        .collect();
    let first = chains[0].last().unwrap();
    assert_eq!((name(first), first.offset), ("main.outer", Some(0)));
    let inlined = chains.iter().find(|chain| chain.len() == 2).unwrap();
    assert_eq!(
        (name(&inlined[0]), name(&inlined[1])),
        ("main.inner", "main.outer")
    );
    assert!(inlined[0].file.as_ref().unwrap().ends_with("main.go"));
    assert!([Some(6), Some(7)].contains(&inlined[0].line), "{inlined:?}");
}

/// The running kernel's own list, against what can be read there by hand.
#[test]
fn kernel_addresses() {
    let list = std::fs::read_to_string("/proc/kallsyms").expect("/proc/kallsyms");
    let address = |wanted: &str| {
        let line = list
            .lines()
            .find(|line| line.ends_with(&format!(" {wanted}")));
        hex(line.expect(wanted).split(' ').next().unwrap())
    };
    let tcp = address("tcp_sendmsg");
    assert_ne!(tcp, 0, "kernel addresses are hidden: run this test as root");
    let mut symbolizer = Symbolizer::new();
    let frame = symbolizer.kernel_function(tcp + 5).unwrap().unwrap();
    assert_eq!((name(&frame), frame.offset), ("tcp_sendmsg", Some(5)));
    assert_eq!(frame.module, Module::Kernel);
    assert_eq!(symbolizer.kernel_function(0x1000).unwrap(), None);
}
