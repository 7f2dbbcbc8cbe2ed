//! `.gnu_debugdata`: a small ELF file within the program, compressed by xz, with the symbols of the functions that
//! the program does not export. Fedora and its relatives leave it in what they strip.

use std::io::Read;
use std::path::PathBuf;

use lzma_rust2::XzReader;
use object::elf;

use crate::error::{Error, Result};
use crate::image::NameSource;
use crate::image::elf::Elf;
use crate::image::headers::{Headers, Holds};
use crate::image::read::Tables;
use crate::image::table::Table;

const SECTION: &str = ".gnu_debugdata";
/// What is unpacked at most: the symbols of the largest programs have a few megabytes.
const MAX_UNPACKED: u64 = 64 << 20;
/// The memory that unpacking may take beside, in KiB: `xz -9` wants 64 MiB.
const MAX_MEMORY: u32 = 80 << 10;

/// The unpacked file.
#[derive(Debug)]
pub(crate) struct MiniDebug {
    path: PathBuf,
    bytes: Vec<u8>,
    headers: Headers,
}

impl MiniDebug {
    /// Unpacks that of a program; `None` where it has none.
    ///
    /// # Errors
    /// It is damaged, or larger than [`MAX_UNPACKED`].
    pub(crate) fn read(program: &Elf) -> Result<Option<Self>> {
        let Some((_, packed)) = program.section_data(SECTION)? else {
            return Ok(None);
        };
        let damaged = |why: String| Error::Truncated {
            path: program.path.clone(),
            what: format!("its {SECTION} cannot be unpacked: {why}"),
        };
        let mut bytes = Vec::new();
        let reader = XzReader::new_mem_limit(packed.as_slice(), true, MAX_MEMORY);
        reader
            .take(MAX_UNPACKED + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| damaged(error.to_string()))?;
        let len = bytes.len() as u64;
        if len > MAX_UNPACKED {
            return Err(damaged(format!("it has more than {MAX_UNPACKED} bytes")));
        }
        let path = PathBuf::from(format!("{} ({SECTION})", program.path.display()));
        let headers = Headers::read(&path, &bytes, len, Holds::Names)?;
        Ok(Some(Self {
            path,
            bytes,
            headers,
        }))
    }

    pub(crate) fn headers(&self) -> &Headers {
        &self.headers
    }

    /// Its symbols.
    ///
    /// # Errors
    /// They are damaged.
    pub(crate) fn table(&self) -> Result<Option<Table>> {
        let tables = Tables {
            path: &self.path,
            bytes: &self.bytes,
            headers: &self.headers,
        };
        tables.read(elf::SHT_SYMTAB, NameSource::MiniDebug)
    }
}
