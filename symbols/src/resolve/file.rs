//! Addresses of one file.

use super::{Frame, Module};
use crate::image::{Image, NameSource};

/// One program or library, with all that it knows of its addresses. Sources are read when they are first needed.
#[derive(Debug)]
pub struct FileSymbols {
    image: Image,
}

impl FileSymbols {
    /// Of an opened file.
    pub fn new(image: Image) -> Self {
        Self { image }
    }

    /// The file.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// The functions at a file offset, as `/proc/PID/maps` relates it to an address.
    pub(super) fn frames_at_offset(&self, offset: u64) -> Vec<Frame> {
        let address = self.image.address_of(offset);
        address.map_or_else(Vec::new, |address| self.frames(address))
    }

    /// The functions at a virtual address of the file, innermost first, by Go's table, the debug information, or the
    /// names alone. Empty where nothing is known of the address. A damaged source is as good as none.
    pub fn frames(&self, address: u64) -> Vec<Frame> {
        let module = Module::File(self.image.path().to_owned());
        let around = self.image.around(address).ok().flatten();
        let mut frames = self.go_frames(address, &module);
        if frames.is_empty() {
            frames = self.source_frames(address, &module);
        }
        if let Some(function) = &around {
            if frames.is_empty() {
                frames.push(Frame::nameless(module));
            }
            if let Some(outer) = frames.last_mut() {
                outer.offset = Some(address - function.address);
                // Debug information has no linker's name for static functions and clones, and any of several aliases: a
                // symbol table knows better.
                let by_symbol = matches!(
                    function.source,
                    NameSource::Symtab
                        | NameSource::Dynsym
                        | NameSource::DebugFile
                        | NameSource::MiniDebug
                );
                if by_symbol || outer.function.is_none() {
                    outer.function = Some(function.name().to_owned());
                }
            }
        }
        frames
    }

    fn go_frames(&self, address: u64, module: &Module) -> Vec<Frame> {
        // Of others there is nothing to look for.
        let table = self.image.is_go().then(|| self.image.go_table()).flatten();
        let Some(table) = table else {
            return Vec::new();
        };
        let start = table.around(address).map(|function| function.address);
        let frames = table.frames(&self.image, address).into_iter();
        frames
            .map(|frame| Frame {
                function: Some(frame.function),
                offset: start
                    .filter(|_| !frame.inlined)
                    .map(|start| address - start),
                file: frame.file,
                line: frame.line,
                inlined: frame.inlined,
                module: module.clone(),
            })
            .collect()
    }

    fn source_frames(&self, address: u64, module: &Module) -> Vec<Frame> {
        let dwarf = self.image.dwarf().ok().flatten();
        let frames = dwarf.and_then(|dwarf| dwarf.frames(address).ok());
        let frames = frames.unwrap_or_default().into_iter();
        frames
            .map(|frame| Frame {
                function: frame.function,
                offset: None,
                file: frame.file,
                line: frame.line,
                inlined: frame.inlined,
                module: module.clone(),
            })
            .collect()
    }
}
