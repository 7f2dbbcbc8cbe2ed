//! Opening files as a process sees them: inside its root directory, links included.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A pipe that somebody left under a debug file's name must not hold the reader up.
const FLAGS: i32 = libc::O_CLOEXEC | libc::O_NONBLOCK;

/// A root directory to look for files in.
#[derive(Clone, Debug)]
pub(super) enum Root {
    /// This process's own.
    Own,
    /// Another process's (`/proc/PID/root`).
    Of(PathBuf),
}

impl Root {
    /// Where PATH (absolute, as seen in this root) lies for this process.
    pub(super) fn outside(&self, path: &Path) -> PathBuf {
        match self {
            Self::Own => path.to_owned(),
            Self::Of(root) => root.join(path.strip_prefix("/").unwrap_or(path)),
        }
    }

    /// Opens PATH for reading, following links as the processes of this root do.
    pub(super) fn open(&self, path: &Path) -> io::Result<File> {
        let Self::Of(root) = self else {
            return OpenOptions::new().read(true).custom_flags(FLAGS).open(path);
        };
        let root = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
            .open(root)?;
        let path = CString::new(path.as_os_str().as_bytes())?;
        // SAFETY: open_how is plain numbers, for which zero is a value.
        let mut how: libc::open_how = unsafe { std::mem::zeroed() };
        how.flags = (libc::O_RDONLY | FLAGS) as u64;
        how.resolve = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;
        // openat2 came with Linux 5.6; uprof needs 5.10.
        // SAFETY: all three point to what the kernel expects, and live until it returns.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_openat2,
                root.as_raw_fd(),
                path.as_ptr(),
                &raw const how,
                size_of::<libc::open_how>(),
            )
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just given this descriptor to nobody else.
        Ok(unsafe { File::from_raw_fd(fd as i32) })
    }
}
