//! The kernel's tracepoints, as tracefs describes them, also where nobody has mounted tracefs.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::format::{self, Tracepoint};
use crate::error::{Error, Result};

/// Where tracefs is mounted by custom: its own place since Linux 4.1, and within debugfs.
const USUAL: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// A description is some hundred bytes, at most a page and a half (the kernel's own limit on print formats).
const MAX_FORMAT: u64 = 1 << 20;

/// A way into tracefs.
#[derive(Debug)]
pub struct Tracefs {
    root: PathBuf,
    /// The mount that `root` leads into, when it is this process's own.
    _mount: Option<OwnedFd>,
}

impl Tracefs {
    /// The mounted tracefs; where there is none, one of this process's own: a detached mount, which no other
    /// process can see and which goes away with this process.
    ///
    /// # Errors
    /// Neither is there, or neither may be read: both reasons are told.
    pub fn open() -> Result<Self> {
        let mut why = Vec::new();
        for root in USUAL {
            match std::fs::metadata(Path::new(root).join("events")) {
                Ok(_) => {
                    return Ok(Self {
                        root: root.into(),
                        _mount: None,
                    });
                }
                Err(error) => why.push(format!("{root}/events: {error}")),
            }
        }
        match mount_detached() {
            Ok(mount) => Ok(Self {
                root: format!("/proc/self/fd/{}", mount.as_raw_fd()).into(),
                _mount: Some(mount),
            }),
            Err(error) => Err(Error::Kernel {
                tried: "find the kernel's tracepoints".into(),
                why: format!(
                    "{}; a private mount of tracefs: {error}. Run as root, or: mount -t tracefs tracefs {}",
                    why.join("; "),
                    USUAL[0]
                ),
            }),
        }
    }

    /// Tracefs at a given place.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            _mount: None,
        }
    }

    /// One tracepoint's fields.
    ///
    /// # Errors
    /// There is none of that name (the nearest are named), or its description cannot be read.
    pub fn tracepoint(&self, group: &str, name: &str) -> Result<Tracepoint> {
        let plain = |part: &str| !part.is_empty() && !part.contains('/') && part != "..";
        let path = self
            .root
            .join("events")
            .join(group)
            .join(name)
            .join("format");
        let text = match plain(group).then(|| read_limited(&path)) {
            Some(Ok(text)) => text,
            Some(Err(source)) if source.kind() != io::ErrorKind::NotFound => {
                return Err(Error::Kernel {
                    tried: format!("read the fields of the tracepoint {group}:{name}"),
                    why: format!("{}: {source}", self.shown(&path)),
                });
            }
            _ => return Err(self.unknown(group, name)),
        };
        format::parse(group, name, &text).ok_or_else(|| Error::Kernel {
            tried: format!("read the fields of the tracepoint {group}:{name}"),
            why: format!(
                "{} has another form than any kernel's so far",
                self.shown(&path)
            ),
        })
    }

    /// All tracepoints that GROUP and NAME (globs of `*` and `?`) match, as (group, name), in order.
    ///
    /// # Errors
    /// The list cannot be read.
    pub fn tracepoints(&self, group: &str, name: &str) -> Result<Vec<(String, String)>> {
        let bad = |pattern: &str, error: glob::PatternError| Error::BadPattern {
            pattern: pattern.to_owned(),
            why: error.to_string(),
        };
        let groups = glob::Pattern::new(group).map_err(|e| bad(group, e))?;
        let names = glob::Pattern::new(name).map_err(|e| bad(name, e))?;
        let mut found = Vec::new();
        for group in self.directories(&self.root.join("events"))? {
            if !groups.matches(&group) {
                continue;
            }
            let events = self.directories(&self.root.join("events").join(&group))?;
            found.extend(
                events
                    .into_iter()
                    .filter(|name| names.matches(name))
                    .map(|name| (group.clone(), name)),
            );
        }
        found.sort();
        Ok(found)
    }

    fn directories(&self, path: &Path) -> Result<Vec<String>> {
        let read = || -> io::Result<Vec<String>> {
            let mut names = Vec::new();
            for entry in std::fs::read_dir(path)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    names.push(entry.file_name().to_string_lossy().into_owned());
                }
            }
            Ok(names)
        };
        read().map_err(|error| Error::Kernel {
            tried: "list the kernel's tracepoints".into(),
            why: format!("{}: {error}", self.shown(path)),
        })
    }

    fn unknown(&self, group: &str, name: &str) -> Error {
        let all = self.tracepoints("*", "*").unwrap_or_default();
        let all = all
            .into_iter()
            .map(|(group, name)| format!("{group}:{name}"));
        let name = format!("{group}:{name}");
        Error::NotInKernel {
            what: "tracepoint",
            nearest: super::btf::nearest(&name, all, 5),
            name,
        }
    }

    /// A path for messages: the private mount has no path that a user could look at.
    fn shown(&self, path: &Path) -> String {
        match (&self._mount, path.strip_prefix(&self.root)) {
            (Some(_), Ok(rest)) => format!("tracefs: {}", rest.display()),
            _ => path.display().to_string(),
        }
    }
}

/// The fields of a tracepoint of the running kernel.
///
/// # Errors
/// As [`Tracefs::open`] and [`Tracefs::tracepoint`].
pub fn tracepoint(group: &str, name: &str) -> Result<Tracepoint> {
    running()?.tracepoint(group, name)
}

/// The tracepoints of the running kernel: as [`Tracefs::tracepoints`].
///
/// # Errors
/// As [`Tracefs::open`] and [`Tracefs::tracepoints`].
pub fn tracepoints(group: &str, name: &str) -> Result<Vec<(String, String)>> {
    running()?.tracepoints(group, name)
}

fn running() -> Result<&'static Tracefs> {
    static RUNNING: OnceLock<Tracefs> = OnceLock::new();
    if let Some(tracefs) = RUNNING.get() {
        return Ok(tracefs);
    }
    let tracefs = Tracefs::open()?;
    Ok(RUNNING.get_or_init(|| tracefs))
}

fn read_limited(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?
        .take(MAX_FORMAT)
        .read_to_string(&mut text)?;
    Ok(text)
}

/// A mount of tracefs that is attached nowhere (the mount API of Linux 5.2: fsopen, fsconfig, fsmount).
fn mount_detached() -> io::Result<OwnedFd> {
    /// FSOPEN_CLOEXEC and FSMOUNT_CLOEXEC of <linux/mount.h>.
    const CLOEXEC: libc::c_uint = 1;
    /// FSCONFIG_CMD_CREATE of <linux/mount.h>.
    const CMD_CREATE: libc::c_uint = 6;
    const TRACEFS: &CStr = c"tracefs";
    // Nothing but reading: MOUNT_ATTR_RDONLY, _NOSUID, _NODEV, _NOEXEC of <linux/mount.h>.
    let attributes = libc::MOUNT_ATTR_RDONLY
        | libc::MOUNT_ATTR_NOSUID
        | libc::MOUNT_ATTR_NODEV
        | libc::MOUNT_ATTR_NOEXEC;
    let none = std::ptr::null::<libc::c_char>();
    // SAFETY: the name is NUL-terminated and outlives the call.
    let context = checked(unsafe { libc::syscall(libc::SYS_fsopen, TRACEFS.as_ptr(), CLOEXEC) })?;
    let context = owned(context);
    // SAFETY: CMD_CREATE takes no key and no value: null pointers and 0.
    checked(unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            CMD_CREATE,
            none,
            none,
            0,
        )
    })?;
    // SAFETY: only numbers are passed.
    let mount = checked(unsafe {
        libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), CLOEXEC, attributes)
    })?;
    Ok(owned(mount))
}

fn checked(result: libc::c_long) -> io::Result<libc::c_int> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    libc::c_int::try_from(result).map_err(io::Error::other)
}

fn owned(fd: libc::c_int) -> OwnedFd {
    // SAFETY: the kernel has just returned this descriptor to us, and nothing else knows it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
