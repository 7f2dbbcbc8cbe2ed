//! Small programs made for one test each, and the installed ones that the tests read.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use uprof_symbols::{Function, Image, Pattern};

/// A directory that goes away with the test.
pub struct Workshop(TempDir);

impl Workshop {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).expect("a writable directory");
        path
    }

    /// Compiles SOURCE (its name's extension tells the language) into a file NAME.
    pub fn gcc(&self, name: &str, source_name: &str, source: &str, flags: &[&str]) -> PathBuf {
        let compiler = if source_name.ends_with(".cc") {
            "g++"
        } else {
            "gcc"
        };
        let source = self.write(source_name, source);
        self.compile(compiler, name, &source, flags)
    }

    /// Compiles the file SOURCE by COMPILER into a file NAME.
    pub fn compile(&self, compiler: &str, name: &str, source: &Path, flags: &[&str]) -> PathBuf {
        let out = self.path(name);
        run(
            compiler,
            Command::new(compiler)
                .args(flags)
                .arg("-o")
                .arg(&out)
                .arg(source),
        );
        out
    }

    pub fn rustc(&self, name: &str, source: &str, flags: &[&str]) -> PathBuf {
        let source = self.write("source.rs", source);
        let out = self.path(name);
        // The stable compiler emits the legacy mangling only when allowed unstable options.
        run(
            "rustc",
            Command::new("rustc")
                .env("RUSTC_BOOTSTRAP", "1")
                .args(flags)
                .arg("-o")
                .arg(&out)
                .arg(source),
        );
        out
    }
}

/// Runs a tool that has to succeed; a missing one fails the test with the package that has it.
pub fn run(tool: &str, command: &mut Command) -> String {
    let package = match tool {
        "gcc" | "g++" => "g++",
        "nm" | "as" | "ld" | "objcopy" | "objdump" | "readelf" | "strip" => "binutils",
        "xz" => "xz-utils",
        "rustc" => "rustup",
        other => other,
    };
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("cannot run {tool} ({error}): install {package}"));
    assert!(
        output.status.success(),
        "{command:?} failed:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A file of an installed package.
pub fn installed(path: &str, package: &str) -> PathBuf {
    assert!(
        Path::new(path).exists(),
        "{path} is missing: install {package}"
    );
    PathBuf::from(path)
}

pub fn libc() -> Image {
    Image::open(&installed("/lib/x86_64-linux-gnu/libc.so.6", "libc6")).unwrap()
}

pub fn mariadbd() -> Image {
    Image::open(&installed("/usr/sbin/mariadbd", "mariadb-server")).unwrap()
}

pub fn find(image: &Image, pattern: &str) -> Vec<Function> {
    image.find(&Pattern::parse(pattern).unwrap()).unwrap()
}

pub fn one(image: &Image, pattern: &str) -> Function {
    let mut found = find(image, pattern);
    assert_eq!(
        found.len(),
        1,
        "{pattern} in {}: {found:?}",
        image.path().display()
    );
    found.remove(0)
}
