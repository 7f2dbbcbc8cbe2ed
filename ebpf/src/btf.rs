//! Ids of kernel functions in the kernel's BTF.
//!
//! aya parses all of it (7 ms for 5 MB); a call by id needs one number. So: find the name among
//! the strings, then walk the types without building anything. The format is that of the
//! kernel's Documentation/bpf/btf.rst.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Where the running kernel shows its BTF.
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";
const MAGIC: u16 = 0xeb9f;

mod kind {
    pub const INT: u32 = 1;
    pub const ARRAY: u32 = 3;
    pub const STRUCT: u32 = 4;
    pub const UNION: u32 = 5;
    pub const ENUM: u32 = 6;
    pub const FUNC: u32 = 12;
    pub const FUNC_PROTO: u32 = 13;
    pub const VAR: u32 = 14;
    pub const DATASEC: u32 = 15;
    pub const DECL_TAG: u32 = 17;
    pub const ENUM64: u32 = 19;
}

/// The ids of the functions `names` in the running kernel; `None` for those it has not.
pub(crate) fn function_ids<const N: usize>(names: [&str; N]) -> io::Result<[Option<u32>; N]> {
    let file = File::open(VMLINUX)?;
    let size = file.metadata()?.len() as usize;
    if let Some(map) = ReadOnly::new(&file, size) {
        return Ok(find_functions(map.bytes(), names).unwrap_or([None; N]));
    }
    // Before Linux 6.16 the file cannot be mapped.
    let bytes = std::fs::read(VMLINUX)?;
    Ok(find_functions(&bytes, names).unwrap_or([None; N]))
}

fn word(data: &[u8], at: usize) -> Option<u32> {
    let bytes = data.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

/// `None`: this is not BTF.
fn find_functions<const N: usize>(btf: &[u8], names: [&str; N]) -> Option<[Option<u32>; N]> {
    if word(btf, 0)? as u16 != MAGIC {
        return None;
    }
    let header = word(btf, 4)? as usize;
    let part = |at: usize| {
        let from = header.checked_add(word(btf, at)? as usize)?;
        btf.get(from..from.checked_add(word(btf, at + 4)? as usize)?)
    };
    let (types, strings) = (part(8)?, part(16)?);
    let wanted = names.map(|name| {
        // A whole string: after the NUL of the one before, with its own.
        let needle = [b"\0", name.as_bytes(), b"\0"].concat();
        memchr::memmem::find(strings, &needle).map(|at| at as u32 + 1)
    });
    let mut ids = [None; N];
    let mut left = wanted.iter().flatten().count();
    let (mut at, mut id) = (0, 0u32);
    while left > 0
        && let (Some(name), Some(info)) = (word(types, at), word(types, at + 4))
    {
        id += 1;
        let (kind, items) = (info >> 24 & 0x1f, info as usize & 0xffff);
        if kind == kind::FUNC
            && let Some(found) = wanted.iter().position(|w| *w == Some(name))
            && ids[found].is_none()
        {
            ids[found] = Some(id);
            left -= 1;
        }
        at += 12
            + match kind {
                kind::INT | kind::VAR | kind::DECL_TAG => 4,
                kind::ARRAY => 12,
                kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => 12 * items,
                kind::ENUM | kind::FUNC_PROTO => 8 * items,
                _ => 0,
            };
    }
    Some(ids)
}

/// A file mapped for reading.
struct ReadOnly {
    start: *mut libc::c_void,
    size: usize,
}

impl ReadOnly {
    fn new(file: &File, size: usize) -> Option<ReadOnly> {
        if size == 0 {
            return None;
        }
        // SAFETY: a fresh private mapping at an address of the kernel's choice.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size,
                libc::PROT_READ,
                libc::MAP_PRIVATE,
                file.as_raw_fd(),
                0,
            )
        };
        (start != libc::MAP_FAILED).then_some(ReadOnly { start, size })
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: mapped for `size` bytes as long as `self` lives; the kernel's BTF never changes.
        unsafe { std::slice::from_raw_parts(self.start.cast(), self.size) }
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        // SAFETY: it is ours, and nothing borrows from it any more.
        unsafe { libc::munmap(self.start, self.size) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let strings = b"\0int\0my_function\0not_my_function\0";
        let mut types: Vec<u32> = Vec::new();
        types.extend([1, kind::INT << 24, 4, 32]);
        types.extend([0, kind::FUNC_PROTO << 24 | 1, 1, 0, 1]);
        types.extend([17, kind::FUNC << 24, 2]);
        types.extend([0, kind::STRUCT << 24 | 1, 4, 1, 1, 0]);
        types.extend([5, kind::FUNC << 24, 2]);
        let types: Vec<u8> = types.into_iter().flat_map(u32::to_le_bytes).collect();
        let mut btf = Vec::new();
        btf.extend(MAGIC.to_le_bytes());
        btf.extend([1, 0]);
        for field in [24, 0, types.len(), types.len(), strings.len()] {
            btf.extend((field as u32).to_le_bytes());
        }
        btf.extend(types);
        btf.extend(strings);
        btf
    }

    #[test]
    fn finds_functions_by_their_whole_name() {
        let names = ["my_function", "not_my_function", "function", "int"];
        assert_eq!(
            find_functions(&sample(), names),
            Some([Some(5), Some(3), None, None])
        );
    }

    #[test]
    fn broken_data_is_no_panic() {
        let whole = sample();
        for len in 0..whole.len() {
            let _ = find_functions(&whole[..len], ["my_function"]);
        }
        assert_eq!(find_functions(b"\x7fELF....", ["x"]), None);
    }
}
