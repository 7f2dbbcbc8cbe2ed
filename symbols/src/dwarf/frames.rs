//! The way back: from an address to the functions, files and lines it stands for.

use std::sync::Mutex;

use addr2line::{Context, LookupContinuation, LookupResult};

use super::Dwarf;
use super::readers::{Reader, Readers};
use crate::demangle::demangle;
use crate::error::{Error, Result};

/// One function at an address, as the source has it: the function whose code it is, or one inlined there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFrame {
    /// The name as the linker would have it, else that in the source. `None` where only the line is known.
    pub function: Option<String>,
    /// The source file.
    pub file: Option<String>,
    /// The line, counted from 1.
    pub line: Option<u32>,
    /// The column, counted from 1.
    pub column: Option<u32>,
    /// Whether this function has been inlined into the next frame's.
    pub inlined: bool,
}

impl SourceFrame {
    /// The name for people: demangled.
    pub fn display_name(&self) -> Option<String> {
        let name = self.function.as_deref()?;
        Some(demangle(name).unwrap_or_else(|| name.to_owned()))
    }
}

/// What answers, made at the first question. It keeps what it has read, behind a lock.
pub(super) type Answering<'a> = Mutex<Result<Context<Reader<'a>>, gimli::Error>>;

impl Dwarf {
    /// The functions at a virtual address, innermost first; empty where the debug information does not know it.
    ///
    /// # Errors
    /// The debug information there is damaged.
    pub fn frames(&self, address: u64) -> Result<Vec<SourceFrame>> {
        // addr2line asks for the range up to the next address.
        if address == u64::MAX {
            return Ok(Vec::new());
        }
        let frames = self.with(|readers| at(readers, address));
        frames.map_err(|error| Error::Dwarf {
            path: self.path().to_owned(),
            what: format!("what it tells of {address:#x}: {error}"),
        })
    }
}

fn at(readers: &Readers<'_>, address: u64) -> Result<Vec<SourceFrame>, gimli::Error> {
    let context = readers.context();
    // A panic of a reader before us has left nothing half done that a later answer depends on.
    let context = context
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let context = context.as_ref().map_err(|error| *error)?;
    let mut lookup = context.find_frames(address);
    let mut found = loop {
        match lookup {
            LookupResult::Output(found) => break found?,
            LookupResult::Load { load, continuation } => {
                lookup = continuation.resume(readers.split_sections(load.dwo_id));
            }
        }
    };
    let mut frames: Vec<SourceFrame> = Vec::new();
    while let Some(frame) = found.next()? {
        let name = frame
            .function
            .map(|function| function.name.to_string_lossy().into_owned());
        let place = frame.location;
        let number = |number: Option<u32>| number.filter(|number| *number > 0);
        frames.push(SourceFrame {
            function: name,
            file: place
                .as_ref()
                .and_then(|place| place.file.map(str::to_owned)),
            line: place.as_ref().and_then(|place| number(place.line)),
            column: place.as_ref().and_then(|place| number(place.column)),
            inlined: true,
        });
    }
    if let Some(last) = frames.last_mut() {
        last.inlined = false;
    }
    Ok(frames)
}
