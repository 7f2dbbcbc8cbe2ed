//! Where debug files lie, in the order in which gdb and elfutils look: by build ID, by `.gnu_debuglink`.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};

use super::debuginfod::Answer;
use super::rooted::Root;
use super::{DebugFile, FoundBy};
use crate::image::OpenOptions;
use crate::image::elf::{Elf, hex};
use crate::image::headers::Holds;

/// Links and names in sections are short; what claims to be longer is damage.
const MAX_LINK: usize = 8 << 10;

/// What a search came to.
#[derive(Debug, Default)]
pub(crate) struct Located {
    pub(crate) file: Option<DebugFile>,
    /// Candidates that were refused, and why; sections that could not be read.
    pub(crate) notes: Vec<String>,
}

/// A search for the files that belong to one program.
struct Search<'a> {
    options: &'a OpenOptions,
    roots: Vec<Root>,
    notes: Vec<String>,
}

impl<'a> Search<'a> {
    fn new(options: &'a OpenOptions) -> Self {
        let inside = options.root.clone().filter(|root| root != Path::new("/"));
        Self {
            options,
            roots: inside
                .map(Root::Of)
                .into_iter()
                .chain([Root::Own])
                .collect(),
            notes: Vec::new(),
        }
    }

    /// Opens a candidate, if there is one; what is there but no ELF file is told.
    fn candidate(&mut self, root: &Root, path: &Path) -> Option<Elf> {
        let file = root.open(path).ok()?;
        match Elf::read(&root.outside(path), file, Holds::Names) {
            Ok(elf) => Some(elf),
            Err(error) => {
                self.notes.push(error.to_string());
                None
            }
        }
    }

    /// Whether a candidate carries the build ID asked for.
    fn carries(&mut self, elf: &Elf, id: &[u8]) -> bool {
        let found = elf.build_id();
        if found.as_deref() == Some(id) {
            return true;
        }
        let found = found.map_or_else(|| "none".to_owned(), |id| hex(&id));
        self.notes.push(format!(
            "{} is another build's: its build ID is {found}, not {}",
            elf.path.display(),
            hex(id)
        ));
        false
    }

    fn by_build_id(&mut self, id: &[u8]) -> Option<Elf> {
        let (first, rest) = id.split_first().filter(|(_, rest)| !rest.is_empty())?;
        let name = format!(".build-id/{first:02x}/{}.debug", hex(rest));
        for root in self.roots.clone() {
            for dir in &self.options.debug_dirs {
                let found = self.candidate(&root, &dir.join(&name));
                if let Some(elf) = found
                    && self.carries(&elf, id)
                {
                    return Some(elf);
                }
            }
        }
        None
    }

    fn by_debuginfod(&mut self, id: &[u8]) -> Option<Elf> {
        let servers = self.options.debuginfod.as_ref()?;
        let path = match servers.ask(&hex(id)) {
            Answer::Found(path) => path,
            Answer::None => return None,
            Answer::Failed(why) => {
                self.notes.extend(why);
                return None;
            }
        };
        let found = self.candidate(&Root::Own, &path);
        let found = found.filter(|elf| self.carries(elf, id));
        if found.is_none() {
            servers.forget(&path);
        }
        found
    }

    fn by_debuglink(&mut self, program: &Elf) -> Option<Elf> {
        let section = match program.section_data(".gnu_debuglink") {
            Ok(section) => section?.1,
            Err(error) => {
                self.notes.push(error.to_string());
                return None;
            }
        };
        let Some((name, crc)) = debuglink(&section) else {
            self.notes.push(format!(
                "{}: its .gnu_debuglink is damaged",
                program.path.display()
            ));
            return None;
        };
        for root in self.roots.clone() {
            let Some(dir) = directory_of(&program.path, &root) else {
                continue;
            };
            let beside = [dir.join(name), dir.join(".debug").join(name)];
            let inside = dir.strip_prefix("/").unwrap_or(&dir).join(name);
            let aside = self
                .options
                .debug_dirs
                .iter()
                .map(|debug| debug.join(&inside));
            for path in beside.into_iter().chain(aside) {
                let Some(elf) = self.candidate(&root, &path) else {
                    continue;
                };
                // A link without an own name leads back to the program.
                if same_file(&elf.file, &program.file) {
                    continue;
                }
                match checksum(&elf) {
                    Ok(found) if found == crc => return Some(elf),
                    Ok(found) => self.notes.push(format!(
                        "{} is another build's: its CRC is {found:08x}, {} wants {crc:08x}",
                        elf.path.display(),
                        program.path.display()
                    )),
                    Err(error) => self
                        .notes
                        .push(format!("cannot read {}: {error}", elf.path.display())),
                }
            }
        }
        None
    }
}

/// Looks for the debug file of a program.
pub(crate) fn locate(program: &Elf, options: &OpenOptions) -> Located {
    let mut search = Search::new(options);
    let id = program.build_id();
    let found = id
        .as_deref()
        .and_then(|id| search.by_build_id(id))
        .map(|elf| (elf, FoundBy::BuildId))
        .or_else(|| {
            let elf = search.by_debuglink(program)?;
            Some((elf, FoundBy::Debuglink))
        })
        .or_else(|| {
            let elf = search.by_debuginfod(id.as_deref()?)?;
            Some((elf, FoundBy::Debuginfod))
        });
    Located {
        file: found.map(|(elf, found)| DebugFile { elf, found }),
        notes: search.notes,
    }
}

/// Looks for the file that OWNER (a program or a debug file) shares debug information with: what dwz has put aside.
pub(crate) fn alternative(owner: &Elf, options: &OpenOptions) -> Located {
    let mut search = Search::new(options);
    let found = find_alternative(&mut search, owner);
    Located {
        file: found.map(|elf| DebugFile {
            elf,
            found: FoundBy::Altlink,
        }),
        notes: search.notes,
    }
}

fn find_alternative(search: &mut Search, owner: &Elf) -> Option<Elf> {
    let section = match owner.section_data(".gnu_debugaltlink") {
        Ok(section) => section?.1,
        Err(error) => {
            search.notes.push(error.to_string());
            return None;
        }
    };
    let Some((name, id)) = altlink(&section) else {
        search.notes.push(format!(
            "{}: its .gnu_debugaltlink is damaged",
            owner.path.display()
        ));
        return None;
    };
    for root in search.roots.clone() {
        let mut paths = Vec::new();
        if name.is_absolute() {
            paths.push(name.to_owned());
        } else {
            // The link is meant from where the file really lies; the name it was opened by may be a link itself.
            let opened =
                inside(&owner.path, &root).and_then(|path| path.parent().map(Path::to_owned));
            let dirs = [directory_of(&owner.path, &root), opened];
            paths.extend(
                dirs.into_iter()
                    .flatten()
                    .map(|dir| flattened(&dir.join(name))),
            );
        }
        let shared = shared_name(name);
        let dirs = &search.options.debug_dirs;
        paths.extend(dirs.iter().map(|dir| dir.join(".dwz").join(&shared)));
        for path in paths {
            if let Some(elf) = search.candidate(&root, &path)
                && search.carries(&elf, id)
            {
                return Some(elf);
            }
        }
    }
    let found = search.by_build_id(id);
    found.or_else(|| search.by_debuginfod(id)).or_else(|| {
        search.notes.push(format!(
            "{} shares debug information with {}, which is not to be found",
            owner.path.display(),
            name.display()
        ));
        None
    })
}

/// What follows `.dwz/` in a link: `x86_64-linux-gnu/name.debug`.
fn shared_name(name: &Path) -> PathBuf {
    let mut parts = name.components();
    if parts.any(|part| part == Component::Normal(".dwz".as_ref())) {
        return parts.as_path().to_owned();
    }
    name.file_name().map_or_else(PathBuf::new, PathBuf::from)
}

/// A path without `..`, by its text.
fn flattened(path: &Path) -> PathBuf {
    let mut flat = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                flat.pop();
            }
            Component::CurDir => {}
            other => flat.push(other),
        }
    }
    flat
}

/// The name and the CRC-32 in `.gnu_debuglink`: a NUL-terminated name, padded to four bytes, then the number.
fn debuglink(section: &[u8]) -> Option<(&str, u32)> {
    let end = section.iter().take(MAX_LINK).position(|b| *b == 0)?;
    let name = std::str::from_utf8(&section[..end]).ok()?;
    let crc = section.get((end + 4) & !3..)?.first_chunk()?;
    // A name with directories in it could lead anywhere.
    let plain = !name.is_empty() && !name.contains('/') && name != "." && name != "..";
    plain.then(|| (name, u32::from_le_bytes(*crc)))
}

/// The name and the build ID in `.gnu_debugaltlink`: a NUL-terminated name, then the ID up to the end.
fn altlink(section: &[u8]) -> Option<(&Path, &[u8])> {
    let end = section.iter().take(MAX_LINK).position(|b| *b == 0)?;
    let name = std::str::from_utf8(&section[..end]).ok()?;
    let id = section.get(end + 1..)?;
    (!name.is_empty() && !id.is_empty()).then(|| (Path::new(name), id))
}

/// The directory that a file really lies in, as seen in ROOT.
fn directory_of(path: &Path, root: &Root) -> Option<PathBuf> {
    let inside = inside(path, root)?;
    let real = match root {
        // Links of the kernel's (/proc/PID/exe) are read; canonicalize would follow their text.
        Root::Own => std::fs::canonicalize(&inside).unwrap_or(inside),
        Root::Of(_) => inside,
    };
    real.parent().map(Path::to_owned)
}

/// The path of a file as seen in ROOT, by its text; what the kernel's links show for files opened by them.
fn inside(path: &Path, root: &Root) -> Option<PathBuf> {
    if let Root::Of(dir) = root
        && let Ok(rest) = path.strip_prefix(dir)
    {
        return Some(Path::new("/").join(rest));
    }
    let absolute = std::path::absolute(path).ok()?;
    if absolute.starts_with("/proc") {
        let text = std::fs::read_link(&absolute).ok();
        let text =
            text.and_then(|text| Some(text.to_str()?.trim_end_matches(" (deleted)").to_owned()));
        if let Some(text) = text.filter(|text| text.starts_with('/')) {
            return Some(PathBuf::from(text));
        }
    }
    Some(absolute)
}

fn same_file(a: &File, b: &File) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |file: &File| file.metadata().map(|m| (m.dev(), m.ino())).ok();
    id(a).is_some() && id(a) == id(b)
}

/// The CRC-32 of a whole file, as `.gnu_debuglink` has it.
fn checksum(elf: &Elf) -> std::io::Result<u32> {
    let mut hasher = crc32fast::Hasher::new();
    let mut piece = vec![0; 256 << 10];
    let mut at = 0;
    while at < elf.headers.file_len {
        match elf.file.read_at(&mut piece, at)? {
            0 => break,
            read => {
                hasher.update(&piece[..read]);
                at += read as u64;
            }
        }
    }
    Ok(hasher.finalize())
}
