//! Which file a command means, whether it can be run, and whether it may be held.

use std::ffi::{CString, OsStr};
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Error;

/// The file that a shell would run for this name.
pub(super) fn find(name: &OsStr) -> Result<PathBuf, Error> {
    if name.as_bytes().contains(&b'/') {
        let path = PathBuf::from(name);
        return match std::fs::metadata(&path) {
            Ok(meta) => runnable(&path, &meta).map(|()| path),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(Error::NoSuchFile { path }),
            Err(e) => Err(Error::NotExecutable {
                path,
                why: e.to_string(),
            }),
        };
    }
    let dirs = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    let mut refused = None;
    for dir in std::env::split_paths(&dirs).filter(|_| !name.is_empty()) {
        let path = if dir.as_os_str().is_empty() {
            Path::new(".").join(name)
        } else {
            dir.join(name)
        };
        let Ok(meta) = std::fs::metadata(&path) else {
            continue;
        };
        match runnable(&path, &meta) {
            Ok(()) => return Ok(path),
            // Shells look on too, and say this if nothing better comes.
            Err(e) => refused = refused.or(Some(e)),
        }
    }
    let not_found = Error::NotFound {
        name: name.to_string_lossy().into(),
        path: dirs.to_string_lossy().replace(':', ", "),
    };
    Err(refused.unwrap_or(not_found))
}

fn runnable(path: &Path, meta: &std::fs::Metadata) -> Result<(), Error> {
    let why = if meta.is_dir() {
        "it is a directory"
    } else if !meta.is_file() {
        "it is not a regular file"
    } else if meta.mode() & 0o111 == 0 {
        "it is not executable (chmod +x)"
    } else {
        return Ok(());
    };
    Err(Error::NotExecutable {
        path: path.into(),
        why: why.into(),
    })
}

pub(super) const NOT_A_PROGRAM: &str =
    "it is neither a program for this machine nor a script that begins with #!";

/// Makes a sentence of what exec said.
pub(super) fn cannot_run(path: &Path, source: io::Error) -> Error {
    let why = match source.raw_os_error() {
        Some(libc::ENOEXEC) => NOT_A_PROGRAM.to_string(),
        Some(libc::ENOENT) => match shebang(path) {
            Some(interpreter) => format!("its interpreter {interpreter} does not exist"),
            None => "its dynamic loader does not exist".to_string(),
        },
        Some(libc::EACCES) => "permission denied".to_string(),
        _ => source.to_string(),
    };
    Error::NotExecutable {
        path: path.into(),
        why,
    }
}

pub(super) fn shebang(path: &Path) -> Option<String> {
    let mut head = [0; 256];
    let n = std::fs::File::open(path).ok()?.read(&mut head).ok()?;
    let line = head[..n]
        .strip_prefix(b"#!")?
        .split(|&b| b == b'\n')
        .next()?;
    let line = String::from_utf8_lossy(line);
    line.split_whitespace().next().map(str::to_string)
}

/// A traced program does not get the rights of its file, unless the tracer could trace anything. It
/// would run, and behave differently: better to say so.
pub(super) fn refuse_other_rights(path: &Path) -> Result<(), Error> {
    let Ok(meta) = std::fs::metadata(path) else {
        return Ok(());
    };
    let (euid, egid) = (
        nix::unistd::geteuid().as_raw(),
        nix::unistd::getegid().as_raw(),
    );
    let what = other_rights(
        meta.mode(),
        (meta.uid(), meta.gid()),
        (euid, egid),
        has_file_capabilities(path),
    );
    match what {
        Some(what) if !may_trace_anything() => Err(Error::Privileged {
            path: path.into(),
            what,
        }),
        _ => Ok(()),
    }
}

fn other_rights(
    mode: u32,
    owner: (u32, u32),
    own: (u32, u32),
    capabilities: bool,
) -> Option<&'static str> {
    // Without the group's execute bit, setgid marks mandatory locking, not rights.
    let setgid = mode & 0o2010 == 0o2010;
    if mode & 0o4000 != 0 && owner.0 != own.0 {
        Some("setuid")
    } else if setgid && owner.1 != own.1 {
        Some("setgid")
    } else if capabilities && own.0 != 0 {
        Some("given capabilities (setcap)")
    } else {
        None
    }
}

fn has_file_capabilities(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else {
        return false;
    };
    // SAFETY: both strings end in NUL; a size of 0 only asks for the attribute's length.
    unsafe {
        libc::getxattr(
            path.as_ptr(),
            c"security.capability".as_ptr(),
            std::ptr::null_mut(),
            0,
        ) > 0
    }
}

/// CAP_SYS_PTRACE, bit 19 of include/uapi/linux/capability.h.
fn may_trace_anything() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|set| set >> 19 & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_that_would_be_lost_are_refused() {
        let user = (1000, 1000);
        assert_eq!(other_rights(0o104755, (0, 0), user, false), Some("setuid"));
        assert_eq!(other_rights(0o102755, (0, 42), user, false), Some("setgid"));
        assert_eq!(other_rights(0o102745, (0, 42), user, false), None);
        assert_eq!(other_rights(0o104755, (1000, 0), user, false), None);
        assert_eq!(
            other_rights(0o100755, (0, 0), user, true),
            Some("given capabilities (setcap)")
        );
        assert_eq!(other_rights(0o100755, (0, 0), user, false), None);
        assert_eq!(other_rights(0o104755, (0, 0), (0, 0), true), None);
    }
}
