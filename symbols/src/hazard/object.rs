//! What one file is known to do, found out once for each.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use memchr::memmem;

use super::names::Told;
use super::stack;
use crate::eh_frame::Lookup;
use crate::error::{Error, Result};
use crate::image::{FileId, Image};

/// What a file is for, by the name that programs link it by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// The C library and its parts.
    Libc,
    /// The dynamic linker.
    Linker,
    /// It throws, catches and unwinds on behalf of others.
    Unwinder,
    Other,
}

/// What one file does.
#[derive(Debug)]
pub(super) struct Object {
    image: Image,
    pub(super) name: String,
    soname: Option<String>,
    pub(super) role: Role,
    pub(super) told: Told,
    pub(super) go: bool,
    pub(super) library: bool,
    unwinding: OnceLock<Option<String>>,
    switch: OnceLock<Option<String>>,
    frames: OnceLock<Option<Lookup>>,
}

/// Identity, size and time of change: a file that was written anew is another one.
type Key = (FileId, u64, (i64, i64));

/// The file that PATH opens, looked at once in the life of this process.
///
/// # Errors
/// As [`Image::open`]; its tables are damaged.
pub(super) fn object(path: &Path, name: &Path) -> Result<Arc<Object>> {
    static KNOWN: OnceLock<Mutex<HashMap<Key, Arc<Object>>>> = OnceLock::new();
    let known = KNOWN.get_or_init(Mutex::default);
    let metadata = std::fs::metadata(path).map_err(|source| Error::Io {
        path: path.to_owned(),
        action: "read",
        source,
    })?;
    let id = FileId {
        dev: metadata.dev(),
        ino: metadata.ino(),
    };
    let changed = (metadata.ctime(), metadata.ctime_nsec());
    let key = (id, metadata.len(), changed);
    let lock = || known.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(found) = lock().get(&key) {
        return Ok(Arc::clone(found));
    }
    // Two threads that look at one file at once find the same.
    let object = Arc::new(Object::read(Image::open(path)?, name)?);
    lock().insert(key, Arc::clone(&object));
    Ok(object)
}

impl Object {
    fn read(image: Image, path: &Path) -> Result<Self> {
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        let mut told = Told::default();
        image.each_name(|name, defined| told.hear(name, defined))?;
        let soname = image.soname();
        let interpreter = image.interpreter().is_some();
        Ok(Self {
            role: role(soname.as_deref().unwrap_or(&file), interpreter),
            library: image.is_library(),
            go: image.is_go() || told.go,
            told,
            name: file.into_owned(),
            soname,
            unwinding: OnceLock::new(),
            switch: OnceLock::new(),
            frames: OnceLock::new(),
            image,
        })
    }

    pub(super) fn id(&self) -> FileId {
        self.image.file_id()
    }

    /// Whether it is what others ask for by NAME: a path (of $LD_PRELOAD) counts by its last part.
    pub(super) fn goes_by(&self, name: &str) -> bool {
        let name = name.rsplit('/').next().unwrap_or(name);
        self.name == name || self.soname.as_deref() == Some(name)
    }

    pub(super) fn image(&self) -> &Image {
        &self.image
    }

    pub(super) fn frames(&self) -> Option<&Lookup> {
        let read = || Lookup::read(&self.image);
        self.frames.get_or_init(read).as_ref()
    }

    /// It gives memory, in place of the C library and of the C++ operators.
    pub(super) fn is_allocator(&self) -> bool {
        self.library && self.told.allocates == [true; 2]
    }

    /// A name that tells that it leaves stacks.
    pub(super) fn switcher(&self) -> Option<&str> {
        let passes_on = self.library && (self.told.openssl || self.told.intercepts);
        let asks = self.role == Role::Other && !passes_on;
        self.told.switcher.as_deref().filter(|_| asks)
    }

    /// How it leaves stacks, in words.
    pub(super) fn switch(&self) -> Option<&str> {
        let find = || {
            if self.role != Role::Other || self.go {
                return None;
            }
            if let Some(name) = self.switcher() {
                return Some(name.to_owned());
            }
            // A file that cannot be read now could be before: what is not known does no harm.
            let switch = stack::switches(&self.image).ok()?.into_iter().next()?;
            let (text, at) = (switch.text, switch.address);
            Some(format!("\"{text}\" at {at:#x}"))
        };
        self.switch.get_or_init(find).as_deref()
    }

    /// Why exceptions may come from its functions or cross them, in words.
    pub(super) fn unwinding(&self) -> Option<&str> {
        let find = || {
            let told = &self.told;
            let named = [&told.throws, &told.catches, &told.crossed];
            let name = named.into_iter().flatten().next().cloned();
            // Where the runtime is linked in and the names are stripped away, its marks are in the code.
            name.or_else(|| match self.role {
                Role::Other => marked(&self.image),
                _ => None,
            })
        };
        self.unwinding.get_or_init(find).as_deref()
    }

    /// Whether exceptions start in it and end in it.
    pub(super) fn throws_and_catches(&self) -> bool {
        self.role == Role::Other
            && !self.is_allocator()
            && self.told.throws.is_some()
            && self.told.catches.is_some()
    }
}

fn role(name: &str, interpreter: bool) -> Role {
    let begins = |names: &[&str]| names.iter().any(|begin| name.starts_with(begin));
    if begins(&["ld-linux", "ld64.so"]) {
        Role::Linker
    } else if begins(&[
        "libc.so.",
        "libc-2.",
        "libc.musl",
        "ld-musl",
        "libm.so.",
        "libm-2.",
        "libmvec.so.",
        "libpthread.so.",
        "libpthread-2.",
        "librt.so.",
        "librt-2.",
        "libdl.so.",
        "libdl-2.",
        "libutil.so.",
        "libanl.so.",
        "libresolv.so.",
        "libresolv-2.",
    ]) || (name == "libc.so" && !interpreter)
    {
        Role::Libc
    } else if begins(&[
        "libstdc++.so",
        "libgcc_s.so",
        "libc++.so",
        "libc++abi.so",
        "libunwind",
    ]) {
        Role::Unwinder
    } else {
        Role::Other
    }
}

/// The class by which an unwinder knows its own exceptions is a number in the code that throws them (Itanium C++ ABI,
/// Exception Handling 2.2.1: vendor and language, four bytes each): of GCC, clang and Rust (which takes the bytes the other
/// way round).
const CLASSES: [(&[u8; 8], &str); 3] = [
    (b"\0++CCUNG", "GCC's C++ runtime in it"),
    (b"\0++CGNLC", "clang's C++ runtime in it"),
    (b"MOZ\0RUST", "Rust panics that unwind"),
];

fn marked(image: &Image) -> Option<String> {
    let code = image.loads().filter(|segment| segment.executable);
    code.into_iter().find_map(|segment| {
        let bytes = image.loaded_rest(segment.address).ok()??;
        let found = CLASSES
            .iter()
            .find(|(class, _)| memmem::find(&bytes, &class[..]).is_some());
        found.map(|(_, words)| (*words).to_owned())
    })
}
