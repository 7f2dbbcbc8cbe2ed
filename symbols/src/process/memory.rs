//! A process's memory, through `/proc/PID/mem`: nothing is stopped, nothing is written.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::failed;
use crate::error::{Error, Result};

/// A process's memory, through `/proc/PID/mem`.
pub(crate) struct Memory {
    pid: u32,
    file: File,
}

impl Memory {
    pub(crate) fn open(pid: u32) -> Result<Self> {
        let file = File::open(format!("/proc/{pid}/mem"))
            .map_err(|error| failed(pid, "/proc/PID/mem", &error))?;
        Ok(Self { pid, file })
    }

    /// LEN bytes at an address; fewer where what is mapped there ends before.
    pub(crate) fn bytes(&self, address: u64, len: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self
                .file
                .read_at(rest, address.saturating_add(filled as u64))
            {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) if filled > 0 => break,
                Err(error) => return Err(failed(self.pid, "/proc/PID/mem", &error)),
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }

    pub(crate) fn read<const N: usize>(&self, address: u64) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        match self.file.read_exact_at(&mut bytes, address) {
            Ok(()) => Ok(bytes),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL)) => {
                Err(not_yet(
                    self.pid,
                    &format!("nothing is mapped at {address:#x}, where it should be"),
                ))
            }
            // A read of 0 bytes: its memory is gone.
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                Err(Error::NoSuchProcess { pid: self.pid })
            }
            Err(error) => Err(failed(self.pid, "/proc/PID/mem", &error)),
        }
    }

    pub(crate) fn word(&self, address: u64) -> Result<u64> {
        self.read::<8>(address).map(u64::from_le_bytes)
    }
}

pub(super) fn word(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    if let Some(source) = bytes.get(at..at + 8) {
        word.copy_from_slice(source);
    }
    u64::from_le_bytes(word)
}

pub(super) fn not_yet(pid: u32, why: &str) -> Error {
    Error::LinkMap {
        pid,
        why: why.to_owned(),
    }
}
