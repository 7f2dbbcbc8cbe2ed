//! The programs in tests/targets, compiled when first asked for and kept by their content.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::machine::{scratch, tool};

/// One way to build one of the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fixture {
    /// Allocates and frees; `King` by name.
    King,
    /// The same, statically linked.
    KingStatic,
    /// Calls its own functions.
    Calls,
    /// The same, statically linked (not position-independent).
    CallsStatic,
    /// Makes system calls of known numbers and results.
    Asks,
    /// A function that begins with `endbr64`.
    EndbrFull,
    /// The same function beginning with `push`.
    EndbrNone,
    /// Functions that call each other, and know which call made which.
    Nested,
    /// Ends while watched.
    ExitsEarly,
    /// MySQL 8's `dispatch_command`, as a program named `mysqld`.
    Mysql8,
    /// The same where `net_write_packet` was inlined.
    Mysql8Inlined,
    /// Spins, sleeps and waits, and knows how long.
    Waits,
    /// Waits for mutexes.
    Mutexes,
    /// The same, statically linked.
    MutexesStatic,
    /// redis' `call` with the layout that these flags say, as a program named `redis-server`.
    Redis(&'static [&'static str]),
    /// Measures its calls by its own clock.
    Clocked,
    /// The same with coroutines.
    ClockedCoroutines,
    /// The same in Go.
    ClockedGo,
    /// Coroutines behind the functions of NtyCo's interface.
    Ntyco,
    /// The same with the older layout of its structures.
    NtycoOwnSwitch,
    /// Requests with the layouts of several releases of nginx, and with none that is known.
    NginxLayouts,
    /// Coroutines on the C library's contexts.
    Ucontext,
    /// The same, statically linked.
    UcontextStatic,
    /// A Rust program.
    RustCalls,
    /// A 32-bit program.
    Elf32,
}

const C: &[&str] = &["-O2", "-Wall", "-Wextra", "-Werror", "-pthread"];
/// gcc removes pairs of malloc and free that it understands.
const NO_BUILTIN: &[&str] = &[
    "-fno-builtin-malloc",
    "-fno-builtin-free",
    "-fno-builtin-calloc",
    "-fno-builtin-realloc",
];

impl Fixture {
    /// Its source, its file name when built, and what is added to the compiler's flags.
    fn recipe(self) -> (&'static str, &'static str, &'static [&'static str]) {
        match self {
            Self::King => ("king.c", "king", &[]),
            Self::KingStatic => ("king.c", "king-static", &["-static"]),
            Self::Calls => ("calls.c", "calls", &[]),
            Self::CallsStatic => ("calls.c", "calls-static", &["-static"]),
            Self::Asks => ("asks.c", "asks", &[]),
            Self::EndbrFull => ("endbr.c", "endbr-full", &["-fcf-protection=full"]),
            Self::EndbrNone => ("endbr.c", "endbr-none", &["-fcf-protection=none"]),
            Self::Nested => ("nested.c", "nested", &[]),
            Self::ExitsEarly => ("exits_early.c", "exits-early", &[]),
            Self::Mysql8 => ("mysql8.cc", "mysqld", &[]),
            Self::Mysql8Inlined => ("mysql8.cc", "mysqld", &["-DPACKETS_ALONE"]),
            Self::Waits => ("waits.c", "waits", &[]),
            Self::Mutexes => ("mutexes.c", "mutexes", &[]),
            Self::MutexesStatic => ("mutexes.c", "mutexes-static", &["-static"]),
            Self::Redis(flags) => ("redis_layouts.c", "redis-server", flags),
            Self::Clocked => ("clocked.c", "clocked", &[]),
            Self::ClockedCoroutines => ("clocked.c", "clocked-coroutines", &["-DCOROUTINES=8"]),
            Self::ClockedGo => ("clocked.go", "clocked-go", &[]),
            Self::Ntyco => ("ntyco.c", "ntyco", &["-static"]),
            Self::NtycoOwnSwitch => ("ntyco.c", "ntyco-own-switch", &["-static", "-DOWN_SWITCH"]),
            Self::NginxLayouts => ("nginx_layouts.c", "nginx-layouts", &["-rdynamic"]),
            Self::Ucontext => ("ucontext.c", "ucontext", &[]),
            Self::UcontextStatic => ("ucontext.c", "ucontext-static", &["-static"]),
            Self::RustCalls => ("rust_calls.rs", "rust-calls", &[]),
            Self::Elf32 => ("elf32.s", "elf32", &[]),
        }
    }

    /// The path of the built program.
    pub fn path(self) -> PathBuf {
        let (source, name, flags) = self.recipe();
        let targets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/targets");
        let source = targets.join(source);
        let mut hasher = DefaultHasher::new();
        for file in [&source, &targets.join("truth.h")] {
            std::fs::read(file)
                .unwrap_or_else(|e| panic!("{}: {e}", file.display()))
                .hash(&mut hasher);
        }
        (name, flags, C, NO_BUILTIN).hash(&mut hasher);
        let folder = scratch()
            .join("targets")
            .join(format!("{:016x}", hasher.finish()));
        let built = folder.join(name);
        if !built.exists() {
            std::fs::create_dir_all(&folder)
                .unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
            // Under another name first: a test that is stopped here must not leave half a program.
            let half = folder.join(format!("{name}.{}", std::process::id()));
            self.compile(&source, flags, &half);
            std::fs::rename(&half, &built).unwrap_or_else(|e| panic!("{}: {e}", built.display()));
        }
        built
    }

    fn compile(self, source: &Path, flags: &[&str], to: &Path) {
        match self {
            Self::Elf32 => {
                let object = to.with_extension("o");
                run(Command::new(tool("as"))
                    .arg("--32")
                    .arg("-o")
                    .arg(&object)
                    .arg(source));
                run(Command::new(tool("ld"))
                    .args(["-m", "elf_i386", "-o"])
                    .arg(to)
                    .arg(&object));
            }
            Self::ClockedGo => run(Command::new(tool("go"))
                .args(["build", "-o"])
                .arg(to)
                .arg(source)),
            Self::RustCalls => run(Command::new(tool("rustc"))
                .args(["-O", "--crate-name", "rust_calls", "-o"])
                .arg(to)
                .arg(source)),
            _ => {
                let compiler = if source.extension().is_some_and(|e| e == "cc") {
                    "g++"
                } else {
                    "gcc"
                };
                run(Command::new(tool(compiler))
                    .args(C)
                    .args(NO_BUILTIN)
                    .args(flags)
                    .arg(source)
                    .arg("-o")
                    .arg(to));
            }
        }
    }
}

fn run(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}
