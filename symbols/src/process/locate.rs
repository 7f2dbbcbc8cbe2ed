//! From a program's or library's name to its file, without a process.

use std::env;
use std::ffi::CStr;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Where daemons live; a user's PATH often lacks these.
const SYSTEM_PROGRAMS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Where libraries live when the dynamic linker has no cache (musl systems), most specific first.
const LIBRARY_DIRECTORIES: [&str; 8] = [
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/local/lib",
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
    "/usr/lib/x86_64-linux-musl",
];

/// The file of a program: NAME itself if it is a path, else the first executable of that name in PATH and the
/// system's sbin directories, scripts only where there is no other. The path is given as found, so that it shows the name the user knows; opening it
/// follows links.
///
/// # Errors
/// [`Error::NoSuchProgram`], with the directories searched.
pub fn find_program(name: &str) -> Result<PathBuf> {
    if name.contains('/') {
        return Ok(PathBuf::from(name));
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let mut directories: Vec<PathBuf> = env::split_paths(&path)
        .filter(|d| !d.as_os_str().is_empty())
        .collect();
    for directory in SYSTEM_PROGRAMS.map(PathBuf::from) {
        if !directories.contains(&directory) {
            directories.push(directory);
        }
    }
    let executable = |path: &PathBuf| {
        fs::metadata(path)
            .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    };
    let candidates = || {
        directories
            .iter()
            .map(|directory| directory.join(name))
            .filter(executable)
    };
    // A script of that name (a version manager's shim) only starts the program, which stands further on.
    let found = candidates().find(is_elf).or_else(|| candidates().next());
    found.ok_or_else(|| Error::NoSuchProgram {
        name: name.to_owned(),
        searched: directories
            .iter()
            .map(|directory| directory.display().to_string())
            .collect(),
    })
}

fn is_elf(path: &PathBuf) -> bool {
    let mut start = [0; 4];
    fs::File::open(path)
        .and_then(|mut file| file.read_exact(&mut start))
        .is_ok_and(|()| start == object::elf::ELFMAG)
}

/// The system's own file of a library: NAME itself if it is a path, else by the dynamic linker's cache, else in
/// the usual directories. NAME as in [`library_named`].
///
/// # Errors
/// [`Error::NoSuchLibrary`], with the directories searched.
pub fn find_library_file(name: &str) -> Result<PathBuf> {
    if name.contains('/') {
        return Ok(PathBuf::from(name));
    }
    find_library_in(Path::new("/"), name)
}

/// [`find_library_file`] as a process with this root directory finds it; the path is that from here.
pub(crate) fn find_library_in(root: &Path, name: &str) -> Result<PathBuf> {
    let inside = |path: &str| root.join(path.trim_start_matches('/'));
    let cache = fs::read(inside("/etc/ld.so.cache")).unwrap_or_default();
    let cached = cached_libraries(&cache);
    let exact = cached.iter().find(|(soname, _)| *soname == name);
    let named = exact.or_else(|| {
        cached
            .iter()
            .find(|(soname, _)| library_named(soname, name))
    });
    if let Some((_, path)) = named
        && inside(path).exists()
    {
        return Ok(inside(path));
    }
    for directory in LIBRARY_DIRECTORIES.map(inside) {
        let Ok(entries) = fs::read_dir(&directory) else {
            continue;
        };
        let mut names: Vec<String> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        if let Some(found) = names.iter().find(|file| *file == name).or_else(|| {
            // "libfoo.so" without a version may be a linker script, so a versioned name is better.
            let mut matching = names.iter().filter(|file| library_named(file, name));
            matching
                .clone()
                .find(|file| !file.ends_with(".so"))
                .or_else(|| matching.next())
        }) {
            return Ok(directory.join(found));
        }
    }
    Err(Error::NoSuchLibrary {
        name: name.to_owned(),
        searched: LIBRARY_DIRECTORIES.map(str::to_owned).to_vec(),
    })
}

/// Whether the file name FILE is the library that people call NAME: `libc` is libc.so.6, libc-2.31.so,
/// libc.musl-x86_64.so.1 and ld-musl-x86_64.so.1 (musl's libc and dynamic linker are one file), but neither
/// libcrypt.so.1 nor libc++.so.1. NAME may also be a whole file name or soname.
pub fn library_named(file: &str, name: &str) -> bool {
    if file == name {
        return true;
    }
    let Some(rest) = file.strip_prefix(name) else {
        return name == "libc" && file.starts_with("ld-musl-") && file.contains(".so");
    };
    if name.contains(".so") {
        // libfoo.so means libfoo.so.1 as well
        return rest.starts_with('.') && rest[1..].starts_with(|c: char| c.is_ascii_digit());
    }
    let Some(so) = rest.find(".so") else {
        return false;
    };
    let after = &rest[so + ".so".len()..];
    let version = &rest[..so];
    let numbered = version.is_empty()
        || version
            .strip_prefix('-')
            .is_some_and(|v| !v.is_empty() && v.bytes().all(|b| b.is_ascii_digit() || b == b'.'));
    let musl = name == "libc" && version.starts_with(".musl");
    (after.is_empty() || after.starts_with('.')) && (numbered || musl)
}

/// Sonames and paths in glibc's `/etc/ld.so.cache` (its `cache_file_new` and `file_entry_new`, dl-cache.h),
/// those for this architecture.
fn cached_libraries(cache: &[u8]) -> Vec<(&str, &str)> {
    const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
    const HEADER: usize = 48;
    const ENTRY: usize = 24;
    /// FLAG_X8664_LIB64 | FLAG_ELF_LIBC6
    const X86_64: u32 = 0x0303;
    // An old-format table may come first.
    let Some(start) = cache
        .windows(MAGIC.len())
        .position(|window| window == MAGIC)
    else {
        return Vec::new();
    };
    let cache = &cache[start..];
    let number = |at: usize| {
        cache
            .get(at..at + 4)
            .and_then(|b| b.try_into().ok())
            .map(u32::from_le_bytes)
    };
    let string = |at: u32| {
        let bytes = cache.get(at as usize..)?;
        CStr::from_bytes_until_nul(bytes).ok()?.to_str().ok()
    };
    let count = number(MAGIC.len()).unwrap_or(0) as usize;
    (0..count)
        .map_while(|index| {
            let at = HEADER.checked_add(index.checked_mul(ENTRY)?)?;
            Some((number(at)?, number(at + 4)?, number(at + 8)?))
        })
        .filter(|(flags, ..)| *flags == X86_64)
        .filter_map(|(_, key, value)| Some((string(key)?, string(value)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_is_known_by_its_short_name() {
        for file in [
            "libc.so.6",
            "libc-2.36.so",
            "libc.so",
            "libc.musl-x86_64.so.1",
            "ld-musl-x86_64.so.1",
        ] {
            assert!(library_named(file, "libc"), "{file}");
        }
        for file in [
            "libcrypt.so.1",
            "libc++.so.1",
            "libc",
            "libcap-ng.so.0",
            "libc-client.so.2007e",
            "libc.a",
        ] {
            assert_eq!(library_named(file, "libc"), file == "libc", "{file}");
        }
        assert!(library_named("libstdc++.so.6.0.30", "libstdc++"));
        assert!(library_named("libfoo.so.1", "libfoo.so"));
        assert!(!library_named("libfoo.so.1", "libfo"));
        assert!(library_named("libc.so.6", "libc.so.6"));
    }

    #[test]
    fn a_damaged_cache_is_an_empty_one() {
        assert!(cached_libraries(b"").is_empty());
        let mut cache = b"glibc-ld.so.cache1.1".to_vec();
        assert!(cached_libraries(&cache).is_empty());
        cache.extend([0xff; 64]);
        assert!(cached_libraries(&cache).is_empty());
        // one entry; its strings stand right behind it
        let mut cache = b"glibc-ld.so.cache1.1".to_vec();
        cache.extend(1u32.to_le_bytes());
        cache.resize(48, 0);
        for number in [0x0303u32, 72, 80, 0, 0, 0] {
            cache.extend(number.to_le_bytes());
        }
        cache.extend(b"liba.so\0/lib/liba.so\0");
        assert_eq!(cached_libraries(&cache), [("liba.so", "/lib/liba.so")]);
    }
}
