//! The dynamic linker's list of loaded objects, read from the process's memory: `r_debug` and `link_map`
//! (glibc's <link.h>; musl keeps the same layout), found by DT_DEBUG in the program's dynamic section.

use object::elf;
use procfs::process::MemoryMap;

use super::memory::{Memory, not_yet, word};
use super::{Object, Process, failed, map_id};
use crate::error::Result;
use crate::image::Image;

/// `struct r_debug` (64-bit): int r_version at 0, struct link_map *r_map at 8.
const R_MAP: u64 = 8;
/// `struct link_map`: l_addr at 0, l_name at 8, l_ld at 16, l_next at 24.
const LINK_MAP_LEN: usize = 32;
const L_LD: usize = 16;
const L_NEXT: usize = 24;
/// No process loads so many; a list that goes on is a loop in damaged memory.
const MAX_OBJECTS: usize = 16_384;

/// Auxiliary vector keys (linux/auxvec.h).
const AT_ENTRY: u64 = 9;

pub(super) fn binding_of(process: &Process, symbol: &str) -> Result<Option<Object>> {
    let exe = Image::open(&process.exe())?;
    let program_defines = exe.exports(symbol)?;
    if exe.is_static() {
        let defines = program_defines || exe.defines(symbol)?;
        return if defines {
            process.program().map(Some)
        } else {
            Ok(None)
        };
    }
    let maps = process.maps()?;
    let objects = process.objects_in(&maps);
    let program = process.program_among(&objects)?;
    let memory = Memory::open(process.pid)?;
    let mut at = memory.word(r_debug(process, &exe, &memory, &maps)? + R_MAP)?;
    if at == 0 {
        return Err(not_yet(
            process.pid,
            "its dynamic linker has loaded nothing yet",
        ));
    }
    for _ in 0..MAX_OBJECTS {
        if at == 0 {
            break;
        }
        let entry = memory.read::<LINK_MAP_LEN>(at)?;
        let dynamic_section = word(&entry, L_LD);
        // Names in the list may be empty, relative or in another root: the mapping that holds the object's dynamic
        // section tells the file itself. The vDSO's is no file.
        let mapping = maps
            .iter()
            .find(|map| (map.address.0..map.address.1).contains(&dynamic_section));
        let object = mapping.and_then(|map| objects.iter().find(|object| object.id == map_id(map)));
        if let Some(object) = object
            && defines(&exe, program, object, symbol)?
        {
            return Ok(Some(object.clone()));
        }
        at = word(&entry, L_NEXT);
    }
    Ok(None)
}

/// Whether calls that the process resolves through OBJECT's place in the list end there.
fn defines(exe: &Image, program: Option<&Object>, object: &Object, symbol: &str) -> Result<bool> {
    if program == Some(object) {
        // The program's own calls bind to its own function whether it is exported or not.
        return Ok(exe.exports(symbol)? || (!exe.imports(symbol)? && exe.defines(symbol)?));
    }
    Image::open(&object.open_path)?.exports(symbol)
}

/// The address of `r_debug` in the process.
fn r_debug(process: &Process, exe: &Image, memory: &Memory, maps: &[MemoryMap]) -> Result<u64> {
    let pid = process.pid;
    let bias = load_bias(process, exe)?;
    let Some(dynamic) = exe.headers().segment_of_kind(elf::PT_DYNAMIC) else {
        return Err(not_yet(pid, "its program has no dynamic section"));
    };
    let tags = exe.headers().dynamic(exe.file());
    let Some(index) = tags.iter().position(|(tag, _)| *tag == elf::DT_DEBUG) else {
        return r_debug_of_linker(process, exe, memory, bias, maps);
    };
    // Each entry is a tag and a value; the dynamic linker writes the address into the value.
    let address = bias
        .wrapping_add(dynamic.address)
        .wrapping_add(index as u64 * 16 + 8);
    match memory.word(address)? {
        0 => Err(not_yet(pid, "its dynamic linker has not started yet")),
        found => Ok(found),
    }
}

/// A dynamic linker run as a program (`ld.so PROGRAM`) has no DT_DEBUG of its own but exports `_r_debug`.
fn r_debug_of_linker(
    process: &Process,
    exe: &Image,
    memory: &Memory,
    bias: u64,
    maps: &[MemoryMap],
) -> Result<u64> {
    let missing = || {
        not_yet(
            process.pid,
            "neither DT_DEBUG nor _r_debug tells where its dynamic linker keeps it",
        )
    };
    let address = exe
        .exported_address("_r_debug")
        .ok_or_else(missing)?
        .wrapping_add(bias);
    if !maps
        .iter()
        .any(|map| (map.address.0..map.address.1).contains(&address))
    {
        return Err(missing());
    }
    memory.word(address)?;
    Ok(address)
}

/// What was added to the program's addresses when it was loaded.
fn load_bias(process: &Process, exe: &Image) -> Result<u64> {
    let path = process.proc_path("auxv");
    let bytes =
        std::fs::read(path).map_err(|error| failed(process.pid, "/proc/PID/auxv", &error))?;
    let entry = bytes
        .chunks_exact(16)
        .find(|pair| word(pair, 0) == AT_ENTRY)
        .map(|pair| word(pair, 8));
    match entry {
        Some(entry) => Ok(entry.wrapping_sub(exe.entry_point())),
        None => Err(not_yet(
            process.pid,
            "it has no auxiliary vector (it is starting or ending)",
        )),
    }
}
