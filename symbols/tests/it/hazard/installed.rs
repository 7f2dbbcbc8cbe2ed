//! What Debian ships: hardly any of it switches stacks.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use uprof_symbols::hazard::{HazardKind, Survey};
use uprof_symbols::image::Part;
use uprof_symbols::{Function, Image};

use super::switches::{UCONTEXT, of_any};
use super::{besides_signals, kind, of_program};
use crate::fixtures::{Workshop, installed, run};

#[test]
fn servers() {
    let redis = installed("/usr/bin/redis-server", "redis-server");
    assert_eq!(of_program(&redis, "call", false), None);
    let nginx = installed("/usr/sbin/nginx", "nginx");
    assert_eq!(of_program(&nginx, "ngx_close_connection", false), None);
    let mariadbd = installed("/usr/sbin/mariadbd", "mariadb-server");
    let dispatch = "_Z16dispatch_command19enum_server_commandP3THDPcjb";
    let hazard = of_program(&mariadbd, dispatch, false);
    assert_eq!(kind(hazard), Some(HazardKind::Exceptions));
    assert_eq!(of_program(&mariadbd, dispatch, true), None);
    let gofmt = installed("/usr/lib/go-1.19/bin/gofmt", "golang");
    assert_eq!(of_any(&gofmt), Some(HazardKind::Go));
}

/// Programs and libraries that do leave their stack, by the start of the file's name.
const SWITCH: [&str; 12] = [
    // my_context_continue: the client library's calls that do not block; the programs' links have both names
    "mariadb",
    "mysql",
    "libmariadb",
    // speed -async
    "openssl",
    // it runs programs on stacks of its own making
    "memcheck-amd64",
    "vgdb",
    // V8's WebAssembly
    "node",
    // stacker grows the stack on another one
    "rustdoc",
    "librustc_driver",
    "qemu",
    // the interpreter's and the transactions' own longjmp
    "libluajit",
    "libitm",
];

/// All programs in the usual places: whoever is said to switch stacks is known to.
#[test]
fn no_program_is_taken_for_a_switcher() {
    let mut looked = 0;
    let mut wrong = Vec::new();
    for directory in ["/usr/bin", "/usr/sbin"] {
        for entry in std::fs::read_dir(directory).unwrap().flatten() {
            let path = entry.path();
            let Ok(image) = std::fs::canonicalize(&path)
                .and_then(|path| Image::open(&path).map_err(std::io::Error::other))
            else {
                continue;
            };
            let (Ok(survey), Some(function)) = (Survey::of_file(&image, &path), callable(&image))
            else {
                continue;
            };
            looked += 1;
            let hazard = besides_signals(survey.hazard(&image, &function, true));
            let known = |why: &str| SWITCH.iter().any(|name| why.starts_with(name));
            if let Some(hazard) = hazard
                && (hazard.why.contains("not found")
                    || hazard.kind == HazardKind::StackSwitch && !known(&hazard.why))
            {
                wrong.push((path, hazard));
            }
        }
    }
    assert!(looked > 300, "{looked}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A function that may be asked about: not the start, and no stub.
fn callable(image: &Image) -> Option<Function> {
    let functions = image.functions().ok()?;
    let mut whole = functions.into_iter().filter(|f| f.part == Part::Whole);
    whole.find(|f| f.address != image.entry_point() && f.name() != "_init")
}

/// A child that ends with the test.
struct Held(Child);

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Held {
    /// Stands before its first instruction: only the program and the dynamic linker are mapped.
    fn start(program: &Path) -> Self {
        let mut command = Command::new(program);
        command.stdout(Stdio::null());
        // SAFETY: ptrace is one system call; it takes no memory of this process.
        unsafe {
            command.pre_exec(|| match libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            });
        }
        let child = command.spawn().unwrap();
        let mut status = 0;
        // SAFETY: the status is a number of this function.
        let waited = unsafe { libc::waitpid(child.id() as i32, &raw mut status, libc::WUNTRACED) };
        assert_eq!(waited, child.id() as i32);
        assert!(libc::WIFSTOPPED(status), "{status}");
        Self(child)
    }
}

#[test]
fn a_process_before_its_first_instruction() {
    let workshop = Workshop::new();
    let library = UCONTEXT.replace("int main(void)", "int turns(void)");
    workshop.gcc("libturns.so", "turns.c", &library, &["-shared", "-fPIC"]);
    let source = workshop.write(
        "main.c",
        "int turns(void); int main(void) { return turns(); }\n",
    );
    let program: PathBuf = workshop.path("program");
    let mut gcc = Command::new("gcc");
    gcc.arg("-o")
        .arg(&program)
        .arg(&source)
        .arg(workshop.path("libturns.so"));
    run("gcc", gcc.arg("-Wl,-rpath,$ORIGIN"));
    let held = Held::start(&program);
    let pid = held.0.id();
    let mapped = uprof_symbols::Process::open(pid)
        .unwrap()
        .objects()
        .unwrap();
    assert!(
        !mapped
            .iter()
            .any(|object| object.path.ends_with("libturns.so")),
        "{mapped:?}"
    );
    let survey = Survey::of_process(pid).unwrap();
    let image = Image::open(&program).unwrap();
    let main = crate::fixtures::one(&image, "main");
    let hazard = survey.hazard(&image, &main, true).unwrap();
    assert_eq!(hazard.kind, HazardKind::StackSwitch);
    assert!(hazard.why.starts_with("libturns.so"), "{hazard:?}");
}

#[test]
fn this_very_process() {
    let survey = Survey::of_process(std::process::id()).unwrap();
    let program = std::env::current_exe().unwrap();
    let image = Image::open(&program).unwrap();
    let function = callable(&image).unwrap();
    // The tests' own panics unwind.
    let hazard = survey.hazard(&image, &function, false);
    assert_eq!(kind(hazard), Some(HazardKind::Exceptions));
    assert_eq!(
        besides_signals(survey.hazard(&image, &function, true)),
        None
    );
    assert!(Survey::of_process(u32::MAX).is_err());
}
