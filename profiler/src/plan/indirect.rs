//! Indirect functions (STT_GNU_IFUNC): each process picks the code to run; a probe follows what it picked.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use uprof_symbols::image::Sites;
use uprof_symbols::process::{Object, Process};
use uprof_symbols::site::{ArgSet, Purpose};
use uprof_symbols::{FileId, Pattern};

use crate::target::TargetFile;

/// The sites of the code that the processes of FILE bound the indirect functions of PATTERN to, with the processes that
/// did so. Empty where PATTERN names none.
pub fn sites(
    file: &TargetFile,
    pattern: &Pattern,
    purpose: Purpose,
    args: ArgSet,
) -> Result<Vec<(Option<Vec<u32>>, Sites)>> {
    let names = file.image.find_ifuncs(pattern)?;
    let Some(first) = names.first() else {
        return Ok(Vec::new());
    };
    let Some(pids) = &file.pids else {
        bail!(
            "{first} is an indirect function: each process picks the code to run when it starts, so a probe must know the \
             process: --pid PID, --comm NAME or `-- COMMAND`"
        );
    };
    let mut found: Vec<(Option<Vec<u32>>, Sites)> = Vec::new();
    for name in &names {
        let mut picked: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
        for &pid in pids {
            let process = Process::open(pid)?;
            let Some(object) = object_of(&process, file)? else {
                bail!(
                    "process {pid} ({}) has not loaded {} yet, so nobody has picked the code of {name}: name the picked code \
                     itself (`uprof symbols {1} '*{name}*'`)",
                    process.comm,
                    file.display.display()
                );
            };
            let target = process.ifunc_target(&object, &file.image, name)?;
            picked.entry(target.address).or_default().push(pid);
        }
        for (address, pids) in picked {
            let mut sites = Sites::default();
            for mut function in file.image.find(&Pattern::Address(address))? {
                let placed = file.image.place(&function, purpose, args);
                function.names.insert(0, name.clone());
                match placed {
                    Ok(site) => sites.placed.push((function, site)),
                    Err(why) => sites.refused.push((function, why)),
                }
            }
            found.push((Some(pids), sites));
        }
    }
    Ok(found)
}

/// FILE, as PROCESS has it mapped.
fn object_of(process: &Process, file: &TargetFile) -> Result<Option<Object>> {
    let id = file.image.file_id();
    let objects = process.objects()?;
    let same = |o: &&Object| o.id == id || FileId::of(&o.open_path).is_ok_and(|known| known == id);
    Ok(objects.iter().find(same).cloned())
}
