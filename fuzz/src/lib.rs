//! What each fuzz target does with its input. The bodies are plain functions, so that `src/bin/stable.rs` can run them
//! without nightly and without libFuzzer.

#[path = "../../symbols/tests/mutations/exercise.rs"]
mod exercise;
mod wrap;

use std::cell::OnceCell;

use tempfile::TempDir;
use uprof_symbols::{Image, OpenOptions, Pattern, demangle, find_library_file};

pub use exercise::PATTERNS;

thread_local! {
    static FOLDER: OnceCell<TempDir> = const { OnceCell::new() };
}

/// Everything that is public, on a program of these bytes.
fn ask(bytes: &[u8]) {
    FOLDER.with(|folder| {
        let folder = folder.get_or_init(|| tempfile::tempdir().expect("a temporary folder"));
        let path = folder.path().join("input");
        std::fs::write(&path, bytes).expect("a writable folder");
        exercise::image(&path, options());
    });
}

/// No debug file of this machine belongs to the input.
fn options() -> OpenOptions {
    OpenOptions {
        debug_dirs: Vec::new(),
        ..OpenOptions::default()
    }
}

/// A whole program or library.
pub fn elf(input: &[u8]) {
    ask(input);
}

/// Sections of debug information: two bytes say which section, two its length, then its bytes; and so on.
pub fn dwarf(mut input: &[u8]) {
    let mut sections: Vec<(&str, &[u8])> = Vec::new();
    while let [which, _, low, high, rest @ ..] = input {
        let name = wrap::DEBUG_SECTIONS[usize::from(*which) % wrap::DEBUG_SECTIONS.len()];
        let len = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
        let (bytes, behind) = rest.split_at(len);
        sections.push((name, bytes));
        input = behind;
    }
    ask(&wrap::program(&sections));
}

/// Go's table of functions.
pub fn pclntab(input: &[u8]) {
    ask(&wrap::program(&[(".gopclntab", input)]));
}

/// The compressed symbol table in `.gnu_debugdata`.
pub fn xz(input: &[u8]) {
    ask(&wrap::program(&[(".gnu_debugdata", input)]));
}

/// USDT notes.
pub fn notes(input: &[u8]) {
    ask(&wrap::program(&[
        (".note.stapsdt", input),
        (".stapsdt.base", &[0]),
    ]));
}

/// What users type, and names to demangle.
pub fn patterns(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let _ = demangle(&text);
    let Ok(pattern) = Pattern::parse(&text) else {
        return;
    };
    thread_local! {
        static LIBC: Image = {
            let path = find_library_file("libc").expect("a C library");
            Image::open_with(&path, options()).expect("a C library")
        };
    }
    LIBC.with(|image| _ = image.find(&pattern));
}
