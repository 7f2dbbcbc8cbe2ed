//! The ways in which programs are shipped, each built from tests/targets with the tools that distributions use. What
//! the compiler knew is kept beside it (`full`), to compare with.
//!
//! Of no other module: the tests of the symbols crate build the same files.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

/// One way to build and ship a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Variant {
    /// `ways.c`, position-independent, with symbols and debug information.
    Pie,
    /// The same, its functions elsewhere.
    Padded,
    /// With a fixed address.
    NonPie,
    /// Statically linked.
    Static,
    /// Statically linked, stripped of all names.
    StaticStripped,
    /// Statically linked, position-independent.
    StaticPie,
    /// With musl, statically linked.
    Musl,
    /// Stripped; its debug file is in `.debug` beside it, by `.gnu_debuglink`. There is no build ID.
    DebugLink,
    /// Stripped; its debug file is in a debug directory, by build ID.
    BuildId,
    /// Stripped; its functions' names are in `.gnu_debugdata`.
    MiniDebug,
    /// Without symbols; its debug information is in a `.dwo` beside it.
    Split,
    /// Without symbols; its debug information is in a `.dwp` beside it.
    Package,
    /// Without symbols; its debug information is compressed.
    Compressed,
    /// Debug information in DWARF 4.
    Dwarf4,
    /// What its debug information has in common with another program's is in a third file (`dwz -m`).
    Shared,
    /// USDT probes that are guarded by semaphores.
    Semaphores,
    /// A library, without a program.
    Library,
    /// `ways.cc`.
    Cpp,
    /// `rust_calls.rs`, with the names of Rust before 1.95.
    RustLegacy,
    /// `rust_calls.rs`.
    RustV0,
    /// `ways.go`.
    Go,
    /// `ways.go`, linked with `-s -w`: no symbols, no debug information.
    GoStripped,
}

/// A built program.
#[derive(Clone, Debug)]
pub struct Built {
    /// The file as shipped.
    pub program: PathBuf,
    /// The same before anything was taken out of it.
    pub full: PathBuf,
    /// A directory of debug files made for it.
    pub debug_dir: Option<PathBuf>,
}

const C: &[&str] = &["-O2", "-g", "-Wall", "-Wextra", "-Werror", "-fno-builtin"];

impl Variant {
    /// Builds it in a folder of its own under FOLDER, unless an earlier run did.
    pub fn build(self, folder: &Path) -> Built {
        let mut hasher = DefaultHasher::new();
        (self, include_str!("variants.rs")).hash(&mut hasher);
        for name in [self.source(), "truth.h"] {
            let path = targets().join(name);
            let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            bytes.hash(&mut hasher);
        }
        let home = folder.join(format!("{self:?}-{:016x}", hasher.finish()));
        // Debug information names the folder, so it is built where it stays; the mark comes last.
        let mark = home.join("built");
        if !mark.exists() {
            make_folder(&home);
            let _held = hold(&home.join("lock"));
            if !mark.exists() {
                self.make(&home);
                std::fs::write(&mark, "").unwrap_or_else(|e| panic!("{}: {e}", mark.display()));
            }
        }
        let debug_dir = home.join("debug");
        Built {
            program: home.join(self.file()),
            full: home.join("full").join(self.file()),
            debug_dir: debug_dir.exists().then_some(debug_dir),
        }
    }

    fn source(self) -> &'static str {
        match self {
            Self::Cpp => "ways.cc",
            Self::RustLegacy | Self::RustV0 => "rust_calls.rs",
            Self::Go | Self::GoStripped => "ways.go",
            _ => "ways.c",
        }
    }

    fn file(self) -> &'static str {
        match self {
            Self::Library => "libways.so",
            _ => "ways",
        }
    }

    fn make(self, home: &Path) {
        make_folder(&home.join("full"));
        let full = home.join("full").join(self.file());
        let source = targets().join(self.source());
        match self {
            Self::RustLegacy | Self::RustV0 => {
                let mangling = if self == Self::RustV0 { "v0" } else { "legacy" };
                // The stable compiler emits the legacy names only when allowed unstable options.
                run(Command::new("rustc")
                    .env("RUSTC_BOOTSTRAP", "1")
                    .args([
                        "-O",
                        "-g",
                        "-Zunstable-options",
                        "--crate-name",
                        "rust_calls",
                    ])
                    .arg(format!("-Csymbol-mangling-version={mangling}"))
                    .arg("-o")
                    .args([&full, &source]));
            }
            Self::Go | Self::GoStripped => go_build(&[], &full, &source),
            _ => {
                let compiler = match self {
                    Self::Cpp => "g++",
                    Self::Musl => "musl-gcc",
                    _ => "gcc",
                };
                run(Command::new(compiler)
                    .args(C)
                    .args(self.flags())
                    .arg("-o")
                    .args([&full, &source])
                    // A .dwo file is named and placed after the output as it is given.
                    .current_dir(home.join("full")));
            }
        }
        let program = home.join(self.file());
        self.ship(home, &full, &program);
    }

    fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Padded => &["-DPADDING"],
            Self::NonPie => &["-no-pie"],
            Self::Static | Self::StaticStripped => &["-static"],
            Self::StaticPie => &["-static-pie"],
            Self::Musl => &["-static", "-DNO_SDT"],
            Self::DebugLink => &["-Wl,--build-id=none"],
            Self::Split | Self::Package => &["-gsplit-dwarf"],
            Self::Compressed => &["-gz=zlib"],
            Self::Dwarf4 => &["-gdwarf-4"],
            Self::Semaphores => &["-D_SDT_HAS_SEMAPHORES"],
            Self::Library => &["-DLIBRARY", "-shared", "-fPIC"],
            _ => &[],
        }
    }

    /// Makes of the program as compiled what a distribution ships.
    fn ship(self, home: &Path, full: &Path, program: &Path) {
        match self {
            Self::StaticStripped => strip(full, program, &[]),
            Self::GoStripped => {
                let source = targets().join(self.source());
                go_build(&["-ldflags", "-s -w"], program, &source);
            }
            // Only the debug information names anything then.
            Self::Split | Self::Package | Self::Compressed => {
                strip(full, program, &["--keep-section=.debug_*"]);
                if self == Self::Package {
                    let package = home.join("ways.dwp");
                    run(Command::new("llvm-dwp")
                        .arg("-e")
                        .arg(full)
                        .arg("-o")
                        .arg(&package));
                    remove_units(&home.join("full"));
                }
            }
            Self::DebugLink => {
                make_folder(&home.join(".debug"));
                let debug = home.join(".debug/ways.debug");
                run(Command::new("objcopy")
                    .arg("--only-keep-debug")
                    .arg(full)
                    .arg(&debug));
                let mut link = std::ffi::OsString::from("--add-gnu-debuglink=");
                link.push(&debug);
                let stripped = home.join("stripped");
                strip(full, &stripped, &[]);
                run(Command::new("objcopy")
                    .arg(link)
                    .arg(&stripped)
                    .arg(program));
            }
            Self::BuildId => {
                let id = build_id(full);
                let (first, rest) = id.split_at(2);
                let folder = home.join("debug/.build-id").join(first);
                make_folder(&folder);
                let debug = folder.join(format!("{rest}.debug"));
                run(Command::new("objcopy")
                    .arg("--only-keep-debug")
                    .arg(full)
                    .arg(debug));
                strip(full, program, &[]);
            }
            Self::MiniDebug => mini_debug(home, full, program),
            Self::Shared => {
                let other = home.join("other");
                let common = home.join("common.debug");
                for copy in [program, &other] {
                    copy_file(full, copy);
                }
                run(Command::new("dwz")
                    .arg("-m")
                    .args([&common])
                    .args([program, &other]));
            }
            _ => copy_file(full, program),
        }
    }
}

fn go_build(flags: &[&str], to: &Path, source: &Path) {
    run(Command::new("go")
        .env("GOFLAGS", "-buildvcs=false")
        .arg("build")
        .args(flags)
        .arg("-o")
        .args([to, source]));
}

/// The small symbol table as Fedora's find-debuginfo.sh makes it.
fn mini_debug(home: &Path, full: &Path, program: &Path) {
    let listing = run(Command::new("nm")
        .args(["--format=posix", "--defined-only"])
        .arg(full));
    let functions: String = listing
        .lines()
        .filter_map(|line| {
            let (name, rest) = line.split_once(' ')?;
            rest.starts_with(['t', 'T']).then(|| format!("{name}\n"))
        })
        .collect();
    let keep = home.join("keep");
    std::fs::write(&keep, functions).unwrap_or_else(|e| panic!("{}: {e}", keep.display()));
    let debug = home.join("full.debug");
    let mini = home.join("mini");
    let mut list = std::ffi::OsString::from("--keep-symbols=");
    list.push(&keep);
    run(Command::new("objcopy")
        .arg("--only-keep-debug")
        .arg(full)
        .arg(&debug));
    run(Command::new("objcopy")
        .arg("-S")
        .arg(list)
        .args([&debug, &mini]));
    run(Command::new("xz").arg("--force").arg(&mini));
    let stripped = home.join("stripped");
    strip(full, &stripped, &[]);
    let mut section = std::ffi::OsString::from(".gnu_debugdata=");
    section.push(home.join("mini.xz"));
    run(Command::new("objcopy")
        .arg("--add-section")
        .arg(section)
        .args([&stripped, program]));
}

/// The build ID of a file, in hexadecimal.
fn build_id(file: &Path) -> String {
    let notes = run(Command::new("readelf").arg("-n").arg(file));
    notes
        .lines()
        .find_map(|line| line.trim().strip_prefix("Build ID: "))
        .unwrap_or_else(|| panic!("{} has no build ID:\n{notes}", file.display()))
        .to_owned()
}

fn strip(from: &Path, to: &Path, flags: &[&str]) {
    run(Command::new("objcopy")
        .arg("--strip-all")
        .args(flags)
        .args([from, to]));
}

fn make_folder(folder: &Path) {
    std::fs::create_dir_all(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
}

fn copy_file(from: &Path, to: &Path) {
    std::fs::copy(from, to).unwrap_or_else(|e| panic!("{}: {e}", to.display()));
}

fn remove_units(folder: &Path) {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    for path in entries.map_while(Result::ok).map(|entry| entry.path()) {
        if path.extension().is_some_and(|extension| extension == "dwo") {
            std::fs::remove_file(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        }
    }
}

/// Where the sources of the small programs are.
pub fn targets() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/targets")
}

/// Tests of several processes may build the same: the first does.
fn hold(path: &Path) -> std::fs::File {
    let file = std::fs::File::create(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    file.lock()
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    file
}

/// Runs a tool that has to succeed, and gives what it printed; a missing one fails with the package that has it.
pub fn run(command: &mut Command) -> String {
    let tool = command.get_program().to_string_lossy().into_owned();
    let package = match tool.as_str() {
        "gcc" => "gcc",
        "g++" => "g++",
        "musl-gcc" => "musl-tools",
        "rustc" => "Rust, by rustup",
        "go" => "golang-go",
        "xz" => "xz-utils",
        "dwz" => "dwz",
        "llvm-dwp" | "llvm-symbolizer" => "llvm",
        "eu-readelf" => "elfutils",
        _ => "binutils",
    };
    let output = command.output().unwrap_or_else(|error| {
        panic!("cannot run {tool} ({error}): it is in {package} (`./tests/run` installs all that the tests need)")
    });
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
