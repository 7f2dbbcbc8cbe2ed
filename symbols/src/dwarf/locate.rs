//! Where the files of split debug information lie: `.dwp` packages and `.dwo` files.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gimli::{DwoId, SectionId};

use super::load::DebugSections;
use super::readers::{UnitList, sections};
use super::split::find_id;

/// The package of `.dwo` files, `FILE.dwp` beside the program or its debug file. Its units are known by their IDs, so
/// a foreign one does no harm.
pub(super) fn package(main: &DebugSections, program: &Path) -> Option<DebugSections> {
    let files = [program, main.path()].into_iter();
    let mut names: Vec<PathBuf> = files
        .flat_map(|path| [Some(path.to_owned()), path.canonicalize().ok()])
        .flatten()
        .flat_map(|path| {
            let mut appended = path.clone().into_os_string();
            appended.push(".dwp");
            // A debug file is often called PROGRAM.debug, the package PROGRAM.dwp.
            [PathBuf::from(appended), path.with_extension("dwp")]
        })
        .collect();
    names.dedup();
    names.iter().find_map(|path| open(path))
}

/// The `.dwo` file with the unit of that ID: at PATH as the process with this root sees it, else beside the program.
pub(super) fn dwo(
    path: &Path,
    id: DwoId,
    program: &Path,
    root: Option<&Path>,
) -> Option<DebugSections> {
    let mut candidates = Vec::new();
    if let (Some(root), Ok(inner)) = (root, path.strip_prefix("/")) {
        candidates.push(root.join(inner));
    }
    candidates.push(path.to_owned());
    let dir = real_dir(program);
    candidates.extend(dir.and_then(|dir| Some(dir.join(path.file_name()?))));
    candidates.into_iter().find_map(|candidate| {
        let file = open(&candidate)?;
        let dwarf = sections(&file, |id: SectionId| id.dwo_name().unwrap_or_default());
        let found = find_id(&UnitList::new(Arc::new(dwarf)), id).is_some();
        found.then_some(file)
    })
}

/// The directory that a file really is in, links followed.
fn real_dir(path: &Path) -> Option<PathBuf> {
    let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    real.parent().map(Path::to_owned)
}

fn open(path: &Path) -> Option<DebugSections> {
    // A pipe that somebody left under the name must not hold the reader up.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .ok()?;
    file.metadata().ok().filter(std::fs::Metadata::is_file)?;
    DebugSections::read(path, &file).ok()
}
