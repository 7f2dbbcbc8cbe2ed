//! Reading code: in pieces, so that many functions in order of address cost few reads and no mapping.

use std::os::unix::fs::FileExt;
use std::sync::{MutexGuard, PoisonError};

use super::symbols::Symbols;
use super::{Function, Image};
use crate::error::{Error, Result};
use crate::site;

/// Code is read in pieces of this size: calls in order of address then cost one read for many functions.
const WINDOW: usize = 256 << 10;

#[derive(Debug, Default)]
pub(super) struct Window {
    offset: u64,
    bytes: Vec<u8>,
}

impl Image {
    /// The first MAX bytes of a function's code, fewer if it ends before, read from the file.
    ///
    /// # Errors
    /// The file cannot be read, or ends before the function does.
    pub fn code(&self, function: &Function, max: usize) -> Result<Vec<u8>> {
        self.with_code(function, max, <[u8]>::to_vec)
    }

    pub(super) fn with_code<T>(
        &self,
        function: &Function,
        max: usize,
        look: impl FnOnce(&[u8]) -> T,
    ) -> Result<T> {
        let len = usize::try_from(function.end.saturating_sub(function.address));
        let len = len.map_or(max, |len| len.min(max));
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = || Error::Truncated {
            path: self.elf.path.clone(),
            what: format!(
                "the code of {} at offset {:#x} is missing",
                function.name(),
                function.offset
            ),
        };
        let start = match window.find(function.offset, len) {
            Some(start) => start,
            None => {
                self.fill(&mut window, function.offset, len.max(WINDOW))?;
                window.find(function.offset, len).ok_or_else(missing)?
            }
        };
        Ok(look(&window.bytes[start..start + len]))
    }

    fn fill(&self, window: &mut MutexGuard<'_, Window>, offset: u64, len: usize) -> Result<()> {
        window.offset = offset;
        window.bytes.resize(len, 0);
        let mut filled = 0;
        while filled < len {
            match self
                .elf
                .file
                .read_at(&mut window.bytes[filled..], offset + filled as u64)
            {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(Error::Io {
                        path: self.elf.path.clone(),
                        action: "read",
                        source,
                    });
                }
            }
        }
        window.bytes.truncate(filled);
        Ok(())
    }
}

/// What the file knows of the places that a function jumps to.
pub(super) struct Around<'a> {
    pub(super) image: &'a Image,
    pub(super) symbols: &'a Symbols,
}

impl site::Surroundings for Around<'_> {
    fn is_known(&self, address: u64) -> bool {
        self.symbols.is_inside(address)
    }

    fn code_at(&self, address: u64) -> Vec<u8> {
        /// Longer than most cold parts; the longest instruction at its end may be cut.
        const LEN: usize = 512;
        self.bytes_at(address, LEN)
    }
}

impl Around<'_> {
    /// Code from ADDRESS on, LEN bytes if there is so much; empty where there is none.
    pub(super) fn bytes_at(&self, address: u64, len: usize) -> Vec<u8> {
        let headers = &self.image.elf.headers;
        let Some(offset) = headers.code_offset(address) else {
            return Vec::new();
        };
        let left = headers.code_end(address).saturating_sub(address);
        let len = usize::try_from(left).map_or(len, |left| left.min(len));
        let mut window = self
            .image
            .aside
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if window.find(offset, len).is_none()
            && self
                .image
                .fill(&mut window, offset, len.max(WINDOW / 8))
                .is_err()
        {
            return Vec::new();
        }
        window
            .find(offset, len)
            .map_or_else(Vec::new, |start| window.bytes[start..start + len].to_vec())
    }
}

impl Window {
    fn find(&self, offset: u64, len: usize) -> Option<usize> {
        let start = usize::try_from(offset.checked_sub(self.offset)?).ok()?;
        (start.checked_add(len)? <= self.bytes.len()).then_some(start)
    }
}
