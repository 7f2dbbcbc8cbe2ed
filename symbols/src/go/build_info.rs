//! `.go.buildinfo`: which Go made a program (debug/buildinfo).

use super::index;
use crate::image::Image;

/// What the record starts with.
const MAGIC: &[u8] = b"\xff Go buildinf:";
/// Behind the magic: the size of a pointer, then flags; 2: the texts stand in the record itself, at 32 (since 1.18).
const FLAGS: usize = 15;
const INLINE: u8 = 2;
/// The record is aligned so.
const ALIGN: usize = 16;
/// Versions are short; longer texts are damage.
const LONGEST: usize = 256;

/// The version of the Go that made the program: `go1.19.8`. `None` for what was made by others.
pub fn version(image: &Image) -> Option<String> {
    if let Ok(Some((_, bytes))) = image.section_data(".go.buildinfo")
        && let Some(version) = version_in(image, &bytes)
    {
        return Some(version);
    }
    if image.headers().has_sections() && !image.is_go() {
        return None;
    }
    let data: Vec<u64> = image
        .loads()
        .filter(|s| s.writable)
        .map(|s| s.address)
        .collect();
    data.into_iter().find_map(|start| {
        let bytes = image.loaded_rest(start).ok()??;
        let places = bytes.chunks(ALIGN).enumerate();
        places
            .filter(|(_, chunk)| chunk.starts_with(MAGIC))
            .find_map(|(at, _)| version_in(image, bytes.get(at * ALIGN..)?))
    })
}

fn version_in(image: &Image, bytes: &[u8]) -> Option<String> {
    if !bytes.starts_with(MAGIC) {
        return None;
    }
    let text = if bytes.get(FLAGS)? & INLINE != 0 {
        // Its length comes first; a version is shorter than what one byte can tell.
        let len = usize::from(*bytes.get(32)?);
        bytes.get(33..33 + len)?.to_vec()
    } else {
        // The address of a Go string: the address of its bytes, and their count.
        let string = index(bytes, 16, 8)? as u64;
        let len = usize::try_from(image.loaded_word(string.checked_add(8)?)?).ok()?;
        let len = (len <= LONGEST).then_some(len)?;
        image.loaded(image.loaded_word(string)?, len).ok()??
    };
    let text = String::from_utf8(text).ok()?;
    (!text.is_empty()).then_some(text)
}
