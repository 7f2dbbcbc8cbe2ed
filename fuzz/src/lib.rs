//! What each fuzz target does with its input. The bodies are plain functions, so that `src/bin/stable.rs` can run them
//! without nightly and without libFuzzer.

#[path = "../../symbols/tests/mutations/exercise.rs"]
mod exercise;
#[path = "../../recipes/tests/mock/mod.rs"]
mod mock;
mod wrap;

use std::cell::OnceCell;

use tempfile::TempDir;
use uprof_recipes::{Context, DebugInfo, Expr, Provider, Scope, Source};
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

/// A recipe: read, and bound where much is known, in a program and in the kernel, and where nothing is.
pub fn recipes(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let recipe = match uprof_recipes::parse(Source::new("input.toml", text)) {
        Ok(recipe) => recipe,
        Err(errors) => {
            assert!(!errors.is_empty());
            for e in errors {
                assert!(e.line >= 1 && e.column >= 1 && !e.render(true).is_empty());
            }
            return;
        }
    };
    for probe in &recipe.probes {
        for at in 0..probe.at.len() {
            for info in places() {
                if let Err(e) = probe.bind(at, info.as_ref()) {
                    assert!(!e.render(false).is_empty());
                }
            }
        }
    }
}

/// An expression behind a byte that says where it stands.
pub fn expressions(input: &[u8]) {
    const PROVIDERS: [Provider; 5] = [
        Provider::Program,
        Provider::KernelFunction,
        Provider::Tracepoint,
        Provider::RawTracepoint,
        Provider::Syscall,
    ];
    let Some((place, text)) = input.split_first() else {
        return;
    };
    let text = String::from_utf8_lossy(text);
    let context = if place & 16 != 0 {
        Context::Any
    } else {
        Context::Thread
    };
    let scope = if place & 8 != 0 {
        Scope::call()
    } else {
        Scope::entry()
    };
    let scope = scope
        .at([PROVIDERS[usize::from(place & 7) % PROVIDERS.len()]])
        .in_context(context);
    let e = match uprof_recipes::parse_expr(&Source::new("input", text), &scope) {
        Ok(e) => e,
        Err(e) => return assert!(!e.render(false).is_empty()),
    };
    for info in places() {
        match e.bind(info.as_ref()) {
            Ok(bound) => {
                assert!(!bound.any(&Expr::is_deferred), "{bound}");
                assert!(!bound.to_string().is_empty());
            }
            Err(e) => assert!(!e.render(false).is_empty()),
        }
    }
}

/// Where much is known, and where nothing is.
fn places() -> Vec<Box<dyn DebugInfo>> {
    let kernel = |tracepoint, btf| mock::kernel::Kernel { tracepoint, btf };
    vec![
        Box::new(mock::World::new()),
        Box::new(kernel(false, true)),
        Box::new(kernel(true, false)),
        Box::new(mock::Nothing),
    ]
}

/// Recipes of every kind: those of the house, and those of its reference.
pub fn recipe_seeds() -> Vec<String> {
    let blocks = include_str!("../../docs/recipes.md")
        .split("```toml\n")
        .skip(1);
    let blocks = blocks.filter_map(|rest| rest.split("```").next());
    let own = uprof_recipes::builtin().iter().map(|b| b.text);
    own.chain(blocks).map(str::to_owned).collect()
}

/// The expressions of the reference and of the recipes in it, at each kind of place.
pub fn expression_seeds() -> Vec<Vec<u8>> {
    let blocks = include_str!("../../docs/recipes.md")
        .split("```expr\n")
        .skip(1);
    let lines = blocks.flat_map(|rest| rest.split("```").next().unwrap_or("").lines());
    let lines = lines.map(|line| line.split("//").next().unwrap_or("").trim().to_owned());
    let recipes = recipe_seeds();
    let quoted = recipes
        .iter()
        .flat_map(|text| text.split('"').skip(1).step_by(2));
    let all = lines.chain(quoted.map(str::to_owned));
    let all = all
        .filter(|text| !text.is_empty())
        .collect::<std::collections::BTreeSet<_>>();
    let at = |(n, text): (usize, String)| {
        let mut seed = vec![(n % 5) as u8 | 8];
        seed.extend(text.bytes());
        seed
    };
    all.into_iter().enumerate().map(at).collect()
}
