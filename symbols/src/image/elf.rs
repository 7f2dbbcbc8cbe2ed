//! An ELF file that is open, with its headers: a program's, or that of a file with debug information.

use std::fs::File;
use std::path::{Path, PathBuf};

use object::elf;

use super::headers::{self, Headers, Holds};
use crate::error::{Error, Result};

#[derive(Debug)]
pub(crate) struct Elf {
    pub(crate) path: PathBuf,
    pub(crate) file: File,
    pub(crate) headers: Headers,
}

impl Elf {
    /// Reads the headers of an open file.
    pub(crate) fn read(path: &Path, file: File, holds: Holds) -> Result<Self> {
        let metadata = file.metadata().map_err(|source| Error::Io {
            path: path.to_owned(),
            action: "read",
            source,
        })?;
        if metadata.is_dir() {
            return Err(Error::Directory(path.to_owned()));
        }
        if !metadata.is_file() {
            return Err(Error::NotElf {
                path: path.to_owned(),
                found: "a device or a pipe".into(),
            });
        }
        let headers = Headers::read(path, &file, metadata.len(), holds)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            headers,
        })
    }

    /// The GNU build ID.
    pub(crate) fn build_id(&self) -> Option<Vec<u8>> {
        self.headers.build_id(&self.file)
    }

    /// Whether it has a section of that name with bytes in the file.
    pub(crate) fn has_section(&self, name: &str) -> bool {
        self.headers
            .section(name)
            .is_some_and(|section| section.kind != elf::SHT_NOBITS && section.size > 0)
    }

    /// The bytes of a section as they lie in the file (not decompressed), with its address; `None` where there is
    /// none, or it has no bytes there (NOBITS, as in debug files).
    ///
    /// # Errors
    /// It reaches past the end of the file, or cannot be read.
    pub(crate) fn section_data(&self, name: &str) -> Result<Option<(u64, Vec<u8>)>> {
        let section = self.headers.section(name);
        let Some(section) = section.filter(|s| s.kind != elf::SHT_NOBITS) else {
            return Ok(None);
        };
        let (len, offset, size) = (self.headers.file_len, section.offset, section.size);
        headers::read_checked(&self.path, &self.file, len, offset, size, name)
            .map(|bytes| Some((section.address, bytes)))
    }
}

/// A build ID as it is written: in hexadecimal.
pub(crate) fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}
