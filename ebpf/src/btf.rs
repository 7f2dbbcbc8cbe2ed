//! Ids of kernel functions and offsets of members in the kernel's BTF.
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
    with_kernel(|btf| find_functions(btf, names).unwrap_or([None; N]))
}

/// The offsets in bytes of members, each named by its struct and itself, in the running kernel.
pub(crate) fn member_offsets<const N: usize>(
    names: [(&str, &str); N],
) -> io::Result<[Option<u32>; N]> {
    Ok(member_bits(names)?.map(|bits| bits.map(|bits| bits / 8)))
}

/// The same in bits, for those that are bit fields.
pub(crate) fn member_bits<const N: usize>(
    names: [(&str, &str); N],
) -> io::Result<[Option<u32>; N]> {
    with_kernel(|btf| find_members(btf, names).unwrap_or([None; N]))
}

fn with_kernel<R>(f: impl FnOnce(&[u8]) -> R) -> io::Result<R> {
    let file = File::open(VMLINUX)?;
    let size = file.metadata()?.len() as usize;
    if let Some(map) = ReadOnly::new(&file, size) {
        return Ok(f(map.bytes()));
    }
    // Before Linux 6.16 the file cannot be mapped.
    Ok(f(&std::fs::read(VMLINUX)?))
}

fn word(data: &[u8], at: usize) -> Option<u32> {
    let bytes = data.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

/// The two sections of BTF.
#[derive(Clone, Copy)]
struct Sections<'a> {
    types: &'a [u8],
    strings: &'a [u8],
}

/// A type, as far as all have it.
struct Type {
    id: u32,
    /// Where it begins among the types.
    at: usize,
    name: u32,
    kind: u32,
    items: usize,
}

impl<'a> Sections<'a> {
    /// `None`: this is not BTF.
    fn of(btf: &'a [u8]) -> Option<Sections<'a>> {
        if word(btf, 0)? as u16 != MAGIC {
            return None;
        }
        let header = word(btf, 4)? as usize;
        let part = |at: usize| {
            let from = header.checked_add(word(btf, at)? as usize)?;
            btf.get(from..from.checked_add(word(btf, at + 4)? as usize)?)
        };
        Some(Sections {
            types: part(8)?,
            strings: part(16)?,
        })
    }

    /// Where the string `name` is.
    fn name(self, name: &str) -> Option<u32> {
        // A whole string: after the NUL of the one before, with its own.
        let needle = [b"\0", name.as_bytes(), b"\0"].concat();
        memchr::memmem::find(self.strings, &needle).map(|at| at as u32 + 1)
    }

    fn walk(self) -> impl Iterator<Item = Type> + 'a {
        let (mut at, mut id) = (0, 0u32);
        std::iter::from_fn(move || {
            let (name, info) = (word(self.types, at)?, word(self.types, at + 4)?);
            id += 1;
            let (kind, items) = (info >> 24 & 0x1f, info as usize & 0xffff);
            let found = Type {
                id,
                at,
                name,
                kind,
                items,
            };
            at += 12
                + match kind {
                    kind::INT | kind::VAR | kind::DECL_TAG => 4,
                    kind::ARRAY => 12,
                    kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => 12 * items,
                    kind::ENUM | kind::FUNC_PROTO => 8 * items,
                    _ => 0,
                };
            Some(found)
        })
    }

    /// The offset in bits of member `name` of the struct at `at`, also of structs without a name
    /// in it (`mm_struct` is one such, and any that is laid out at random).
    fn member(self, at: usize, items: usize, name: u32, levels: u32) -> Option<u32> {
        for item in 0..items {
            let at = at + 12 + 12 * item;
            let of = |n: usize| word(self.types, at + 4 * n);
            // With bit fields in the struct the upper byte is the width.
            let offset = of(2)? & 0xff_ffff;
            match of(0)? {
                found if found == name => return Some(offset),
                0 if levels > 0 => {
                    let ty = self.walk().nth(of(1)?.checked_sub(1)? as usize)?;
                    if matches!(ty.kind, kind::STRUCT | kind::UNION)
                        && let Some(inner) = self.member(ty.at, ty.items, name, levels - 1)
                    {
                        return Some(offset + inner);
                    }
                }
                _ => {}
            }
        }
        None
    }
}

/// `None`: this is not BTF.
fn find_functions<const N: usize>(btf: &[u8], names: [&str; N]) -> Option<[Option<u32>; N]> {
    let btf = Sections::of(btf)?;
    let wanted = names.map(|name| btf.name(name));
    let mut ids = [None; N];
    let mut left = wanted.iter().flatten().count();
    for ty in btf.walk() {
        if left == 0 {
            break;
        }
        if ty.kind == kind::FUNC
            && let Some(found) = wanted.iter().position(|w| *w == Some(ty.name))
            && ids[found].is_none()
        {
            ids[found] = Some(ty.id);
            left -= 1;
        }
    }
    Some(ids)
}

/// `None`: this is not BTF.
fn find_members<const N: usize>(btf: &[u8], names: [(&str, &str); N]) -> Option<[Option<u32>; N]> {
    let btf = Sections::of(btf)?;
    let wanted = names.map(|(ty, member)| Some((btf.name(ty)?, btf.name(member)?)));
    let mut offsets = [None; N];
    let mut left = wanted.iter().flatten().count();
    for ty in btf.walk() {
        if left == 0 {
            break;
        }
        if ty.kind != kind::STRUCT {
            continue;
        }
        for (wanted, offset) in wanted.iter().zip(&mut offsets) {
            if let Some((name, member)) = wanted
                && *name == ty.name
                && offset.is_none()
            {
                left -= 1;
                *offset = btf.member(ty.at, ty.items, *member, 2);
            }
        }
    }
    Some(offsets)
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

    /// The header (of 24 bytes), the types, the strings.
    fn btf_of(types: Vec<u32>, strings: &[u8]) -> Vec<u8> {
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

    fn sample() -> Vec<u8> {
        let strings = b"\0int\0my_function\0not_my_function\0";
        let mut types: Vec<u32> = Vec::new();
        types.extend([1, kind::INT << 24, 4, 32]);
        types.extend([0, kind::FUNC_PROTO << 24 | 1, 1, 0, 1]);
        types.extend([17, kind::FUNC << 24, 2]);
        types.extend([0, kind::STRUCT << 24 | 1, 4, 1, 1, 0]);
        types.extend([5, kind::FUNC << 24, 2]);
        btf_of(types, strings)
    }

    #[test]
    fn finds_functions_by_their_whole_name() {
        let names = ["my_function", "not_my_function", "function", "int"];
        assert_eq!(
            find_functions(&sample(), names),
            Some([Some(5), Some(3), None, None])
        );
    }

    /// struct outer { int first; struct { int a, b; }; } with names, and offsets in bits.
    fn nested_sample() -> Vec<u8> {
        let strings = b"\0int\0outer\0first\0a\0b\0";
        let at = |name: &[u8]| memchr::memmem::find(strings, name).unwrap() as u32 + 1;
        let mut types: Vec<u32> = Vec::new();
        types.extend([at(b"\0int\0"), kind::INT << 24, 4, 32]);
        types.extend([0, kind::STRUCT << 24 | 2, 8]);
        types.extend([at(b"\0a\0"), 1, 0, at(b"\0b\0"), 1, 32]);
        // Its members' offsets share their words with widths of bit fields.
        types.extend([at(b"\0outer\0"), 1 << 31 | kind::STRUCT << 24 | 2, 16]);
        types.extend([at(b"\0first\0"), 1, 3 << 24 | 8, 0, 2, 64]);
        btf_of(types, strings)
    }

    #[test]
    fn finds_members_also_of_nameless_structs() {
        let names = [
            ("outer", "first"),
            ("outer", "b"),
            ("outer", "int"),
            ("first", "a"),
        ];
        assert_eq!(
            find_members(&nested_sample(), names),
            Some([Some(8), Some(96), None, None])
        );
    }

    #[test]
    fn broken_data_is_no_panic() {
        let whole = nested_sample();
        for len in 0..whole.len() {
            let _ = find_members(&whole[..len], [("outer", "b")]);
        }
        let whole = sample();
        for len in 0..whole.len() {
            let _ = find_functions(&whole[..len], ["my_function"]);
        }
        assert_eq!(find_functions(b"\x7fELF....", ["x"]), None);
    }
}
