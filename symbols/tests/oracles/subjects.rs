//! The files that are compared: what Debian ships, and every way to build a program.

use std::path::{Path, PathBuf};
use std::process::Command;

use uprof_symbols::{Image, OpenOptions};

use super::variants::{Variant, run};

/// One file, and where the tools may read about it.
pub struct Subject {
    pub name: &'static str,
    /// The file that a probe goes into.
    pub program: PathBuf,
    /// Where its debug file is, if not at the usual place.
    pub debug_dir: Option<PathBuf>,
    /// What `nm` and the others read: the file itself, its debug file, the file before it was stripped.
    pub named_by: Vec<PathBuf>,
    /// What `llvm-symbolizer` and `addr2line` read.
    pub lines_by: PathBuf,
    /// Whether only some of what `named_by` names can be known: it was stripped of names.
    pub stripped: bool,
}

impl Subject {
    pub fn open(&self) -> Image {
        let mut options = OpenOptions::default();
        options.debug_dirs.extend(self.debug_dir.clone());
        Image::open_with(&self.program, options).unwrap_or_else(|error| panic!("{error}"))
    }
}

/// Installed files: name, path, package.
const INSTALLED: &[(&str, &str, &str)] = &[
    ("bash", "/usr/bin/bash", "bash"),
    ("libc", "/lib/x86_64-linux-gnu/libc.so.6", "libc6"),
    (
        "libstdc++",
        "/usr/lib/x86_64-linux-gnu/libstdc++.so.6",
        "libstdc++6",
    ),
    (
        "libstdc++ -dbg",
        "/usr/lib/x86_64-linux-gnu/debug/libstdc++.so.6",
        "libstdc++6-12-dbg",
    ),
    ("mariadbd", "/usr/sbin/mariadbd", "mariadb-server"),
    ("nginx", "/usr/sbin/nginx", "nginx"),
    ("redis-server", "/usr/bin/redis-server", "redis-server"),
];

/// Those whose debug files are in a package of their own.
const WITH_DEBUG: &[(&str, &str)] = &[("libc", "libc6-dbg"), ("python3", "python3-dbg")];

const BUILT: &[(&str, Variant)] = &[
    ("C", Variant::Pie),
    ("C .gnu_debugdata", Variant::MiniDebug),
    ("C DWARF 4", Variant::Dwarf4),
    ("C build ID", Variant::BuildId),
    ("C compressed", Variant::Compressed),
    ("C debuglink", Variant::DebugLink),
    ("C dwo", Variant::Split),
    ("C dwp", Variant::Package),
    ("C dwz", Variant::Shared),
    ("C non-PIE", Variant::NonPie),
    ("C static", Variant::Static),
    ("C static stripped", Variant::StaticStripped),
    ("C static-pie", Variant::StaticPie),
    ("C musl", Variant::Musl),
    ("C++", Variant::Cpp),
    ("Go", Variant::Go),
    ("Go -s -w", Variant::GoStripped),
    ("Rust legacy", Variant::RustLegacy),
    ("Rust v0", Variant::RustV0),
];

/// All of them. A file that is not there fails, and names its package.
pub fn all() -> Vec<Subject> {
    let mut subjects: Vec<Subject> = INSTALLED
        .iter()
        .map(|(name, path, package)| installed(name, Path::new(path), package))
        .collect();
    subjects.push(installed("python3", &python(), "python3.11"));
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("variants");
    subjects.extend(
        BUILT
            .iter()
            .map(|(name, variant)| built(name, *variant, &folder)),
    );
    subjects
}

/// The newest Python of the distribution (not of a version manager on PATH).
fn python() -> PathBuf {
    let newest = (8..30)
        .rev()
        .map(|minor| PathBuf::from(format!("/usr/bin/python3.{minor}")));
    let mut there = newest.into_iter().filter(|path| path.exists());
    there
        .next()
        .expect("no /usr/bin/python3.N: install python3")
}

fn installed(name: &'static str, path: &Path, package: &str) -> Subject {
    assert!(
        path.exists(),
        "{} is missing: install {package} (or run tests/run)",
        path.display()
    );
    let mut named_by = vec![path.to_owned()];
    let mut lines_by = path.to_owned();
    if let Some((_, package)) = WITH_DEBUG.iter().find(|(with, _)| *with == name) {
        let debug = debug_file(path);
        assert!(
            debug.exists(),
            "{} is missing: install {package}",
            debug.display()
        );
        named_by.push(debug.clone());
        lines_by = debug;
    }
    Subject {
        name,
        program: path.to_owned(),
        debug_dir: None,
        named_by,
        lines_by,
        stripped: false,
    }
}

fn built(name: &'static str, variant: Variant, folder: &Path) -> Subject {
    let built = variant.build(folder);
    let lines_by = match variant {
        // What dwz and the packager made, and what was stripped of all: the tools read the result.
        Variant::Shared
        | Variant::Package
        | Variant::Split
        | Variant::Compressed
        | Variant::StaticStripped => built.program.clone(),
        // Of this one only names were kept.
        Variant::MiniDebug => without_debug(&built.full),
        _ => built.full.clone(),
    };
    Subject {
        name,
        named_by: vec![built.full],
        lines_by,
        program: built.program,
        debug_dir: built.debug_dir,
        stripped: variant == Variant::StaticStripped,
    }
}

/// The debug file that a package put at the usual place, by build ID.
fn debug_file(path: &Path) -> PathBuf {
    let id = Image::open(path)
        .unwrap_or_else(|error| panic!("{error}"))
        .build_id()
        .unwrap_or_else(|| panic!("{} has no build ID", path.display()));
    let (first, rest) = id.split_at(2);
    Path::new("/usr/lib/debug/.build-id")
        .join(first)
        .join(format!("{rest}.debug"))
}

/// A copy without debug information.
fn without_debug(file: &Path) -> PathBuf {
    let copy = file.with_extension("names");
    run(Command::new("objcopy")
        .arg("--strip-debug")
        .args([file, &copy]));
    copy
}
