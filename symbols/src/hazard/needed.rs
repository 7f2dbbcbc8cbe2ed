//! The libraries that a program will load, before it has: DT_NEEDED, searched for as the dynamic linker does
//! (ld.so(8)): DT_RPATH, $LD_LIBRARY_PATH, DT_RUNPATH, its cache, the usual directories.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::object::{Object, object};
use crate::image::Image;
use crate::process::find_library_in;

/// What a process is started with.
#[derive(Debug)]
pub(super) struct Start {
    /// Its root directory, as seen from here.
    pub(super) root: PathBuf,
    /// $LD_LIBRARY_PATH.
    pub(super) search: Vec<PathBuf>,
    /// $LD_PRELOAD.
    pub(super) preload: Vec<String>,
}

impl Start {
    /// As this process starts programs: nothing is known of their environment.
    pub(super) fn plain() -> Self {
        Self {
            root: PathBuf::from("/"),
            search: Vec::new(),
            preload: Vec::new(),
        }
    }

    /// By the environment and the root of a process.
    pub(super) fn of_process(pid: u32) -> Self {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let value = |name: &str| {
            let mut entries = environment.split(|byte| *byte == 0);
            let found = entries.find_map(|e| e.strip_prefix(name.as_bytes())?.strip_prefix(b"="));
            found.unwrap_or_default()
        };
        let words = |text: &[u8], ends: fn(&u8) -> bool| -> Vec<Vec<u8>> {
            let words = text.split(ends).filter(|word| !word.is_empty());
            words.map(<[u8]>::to_vec).collect()
        };
        let search = words(value("LD_LIBRARY_PATH"), |b| matches!(b, b':' | b';'));
        let preload = words(value("LD_PRELOAD"), |b| matches!(b, b':' | b' '));
        let root = PathBuf::from(format!("/proc/{pid}/root"));
        Self {
            // The plain path outlives the process.
            root: match same_directory(&root, Path::new("/")) {
                true => PathBuf::from("/"),
                false => root,
            },
            search: search.iter().map(|p| OsStr::from_bytes(p).into()).collect(),
            preload: preload
                .iter()
                .map(|p| String::from_utf8_lossy(p).into_owned())
                .collect(),
        }
    }

    fn inside(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The file of a library that FROM, which lies at AT, asks for.
    fn find(&self, name: &str, from: &Image, at: &Path) -> Option<PathBuf> {
        if name.contains('/') {
            return Some(self.inside(Path::new(name))).filter(|path| path.exists());
        }
        let origin = at.parent().unwrap_or(at).to_string_lossy();
        let [rpath, runpath] = from.library_paths();
        let expand = |paths: &[String]| -> Vec<PathBuf> {
            let paths = paths.iter();
            let paths = paths.map(|p| p.replace("${ORIGIN}", &origin).replace("$ORIGIN", &origin));
            paths.map(PathBuf::from).collect()
        };
        let mut directories = match runpath.is_empty() {
            true => expand(&rpath),
            false => Vec::new(),
        };
        directories.extend(self.search.iter().cloned());
        directories.extend(expand(&runpath));
        let mut own = directories.iter().map(|d| self.inside(d).join(name));
        let found = own.find(|path| path.is_file());
        found.or_else(|| {
            let found = find_library_in(&self.root, name).ok()?;
            // Another version of the library is another library.
            (found.file_name() == Some(OsStr::new(name))).then_some(found)
        })
    }
}

fn same_directory(one: &Path, other: &Path) -> bool {
    let id = |path| crate::image::FileId::of(path).ok();
    id(one).is_some() && id(one) == id(other)
}

/// Adds what OBJECTS ask for and do not have, and what that asks for. Gives the names of those not found.
pub(super) fn complete(objects: &mut Vec<(Arc<Object>, PathBuf)>, start: &Start) -> Vec<String> {
    let mut missing: Vec<String> = Vec::new();
    let program = objects
        .first()
        .map(|(object, path)| (Arc::clone(object), path.clone()));
    let musl = program
        .as_ref()
        .and_then(|(program, _)| program.image().interpreter());
    let musl = musl.is_some_and(|interpreter| interpreter.contains("ld-musl"));
    let mut wanted: Vec<(String, Arc<Object>, PathBuf)> = Vec::new();
    if let Some((program, path)) = program {
        let preload = start.preload.iter().cloned();
        wanted.extend(preload.map(|name| (name, Arc::clone(&program), path.clone())));
    }
    let mut next = 0;
    loop {
        while let Some((object, path)) = objects.get(next) {
            let names = object.image().needed().into_iter();
            wanted.extend(names.map(|name| (name, Arc::clone(object), path.clone())));
            next += 1;
        }
        let Some((name, from, at)) = wanted.pop() else {
            return missing;
        };
        // musl's dynamic linker is its C library too.
        let there = objects.iter().any(|(object, _)| object.goes_by(&name))
            || missing.contains(&name)
            || (musl && crate::process::library_named(&name, "libc"));
        if there {
            continue;
        }
        let found = start.find(&name, from.image(), &at);
        let found = found.and_then(|path| Some((object(&path, &path).ok()?, path)));
        match found {
            Some(found) if objects.iter().any(|(known, _)| known.id() == found.0.id()) => {}
            Some(found) => objects.push(found),
            None => missing.push(name),
        }
    }
}
