//! An image's bytes by virtual address, code or data, as they lie in the file: what a process sees there before
//! relocation.

use object::elf;

use crate::error::Result;
use crate::image::Image;
use crate::image::headers::{Segment, read_checked};

impl Image {
    /// LEN bytes at a virtual address; `None` where the file holds no such address, or ends within.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn loaded(&self, address: u64, len: usize) -> Result<Option<Vec<u8>>> {
        let Some(segment) = self.segment_of(address) else {
            return Ok(None);
        };
        let at = address - segment.address;
        if segment.file_size - at < len as u64 {
            return Ok(None);
        }
        self.read_segment(segment, at, len as u64).map(Some)
    }

    /// All bytes from a virtual address to the end of its segment's part of the file.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn loaded_rest(&self, address: u64) -> Result<Option<Vec<u8>>> {
        let Some(segment) = self.segment_of(address) else {
            return Ok(None);
        };
        let at = address - segment.address;
        self.read_segment(segment, at, segment.file_size - at)
            .map(Some)
    }

    /// The loaded segments.
    pub(crate) fn loads(&self) -> impl Iterator<Item = &Segment> {
        let segments = self.headers().segments().iter();
        segments.filter(|segment| segment.kind == elf::PT_LOAD)
    }

    fn segment_of(&self, address: u64) -> Option<&Segment> {
        self.loads()
            .find(|s| address.wrapping_sub(s.address) < s.file_size)
    }

    fn read_segment(&self, segment: &Segment, at: u64, len: u64) -> Result<Vec<u8>> {
        let file_len = self.headers().file_len;
        let offset = segment.offset.saturating_add(at);
        read_checked(
            self.path(),
            self.file(),
            file_len,
            offset,
            len,
            "a loaded segment",
        )
    }
}
