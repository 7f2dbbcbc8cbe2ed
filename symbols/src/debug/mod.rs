//! Separate debug files: the names and debug information that a distribution strips from its programs and ships
//! apart. Each candidate has to prove that it belongs to the program before anything in it is believed.

mod debuginfod;
mod locate;
mod mini;
mod rooted;

use std::fmt;
use std::fs::File;
use std::path::Path;

use crate::image::elf::Elf;
use crate::image::headers::Headers;

pub(crate) use locate::{Located, alternative, locate};
pub(crate) use mini::MiniDebug;

/// A file with the names and debug information of another.
#[derive(Debug)]
pub struct DebugFile {
    elf: Elf,
    found: FoundBy,
}

/// How a debug file was found, which is also how it proved to belong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FoundBy {
    /// Under its build ID, which it carries itself.
    BuildId,
    /// By the name in `.gnu_debuglink`, with the CRC given there.
    Debuglink,
    /// By the name in `.gnu_debugaltlink`, with the build ID given there.
    Altlink,
    /// A debuginfod server had it (or the cache of what they gave); it carries the build ID asked for.
    Debuginfod,
}

impl fmt::Display for FoundBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::BuildId => "by build ID",
            Self::Debuglink => "by .gnu_debuglink",
            Self::Altlink => "by .gnu_debugaltlink",
            Self::Debuginfod => "from debuginfod",
        })
    }
}

impl DebugFile {
    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.elf.path
    }

    /// How it was found.
    pub fn found_by(&self) -> FoundBy {
        self.found
    }

    pub(crate) fn file(&self) -> &File {
        &self.elf.file
    }

    pub(crate) fn headers(&self) -> &Headers {
        &self.elf.headers
    }

    pub(crate) fn elf(&self) -> &Elf {
        &self.elf
    }
}
