//! Where the units of a `.debug_info` start.

/// Where the units of a `.debug_info` start, and where one starts that does not end within it.
/// Each says only how long it is, so that those of unknown versions can be stepped over.
pub(super) fn unit_offsets(bytes: &[u8]) -> (Vec<usize>, Option<usize>) {
    let mut offsets = Vec::new();
    let mut at = 0;
    while let Some(first) = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>()) {
        let short = u32::from_le_bytes(*first);
        // 0xffffffff: the 64-bit format, with the length after it (DWARF 5, 7.4).
        let (header, len) = if short == u32::MAX {
            let long = bytes.get(at + 4..).and_then(|rest| rest.first_chunk::<8>());
            (12, long.map(|long| u64::from_le_bytes(*long)))
        } else {
            (4, Some(u64::from(short)))
        };
        let len = len.and_then(|len| usize::try_from(len).ok());
        let end = len.and_then(|len| at.checked_add(header)?.checked_add(len));
        match end.filter(|end| *end <= bytes.len()) {
            Some(end) => {
                offsets.push(at);
                at = end;
            }
            None => return (offsets, Some(at)),
        }
    }
    (offsets, None)
}
