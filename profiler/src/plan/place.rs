//! From function patterns to sites in the files of the processes.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use anyhow::{Result, anyhow, bail};
use uprof_ebpf::{AttachSite, ProbeKind};
use uprof_recipes as recipes;
use uprof_symbols::image::Sites;
use uprof_symbols::site::{ArgSet, Purpose};
use uprof_symbols::{Image, Pattern};

use super::{Field, FieldSource, Plan, PlannedSite};
use crate::target::{self, Selection, TargetFile, is_library};

/// Sites of one probe in one file, to be armed for some processes.
#[derive(Debug)]
pub struct Attachment {
    /// Index of the variant in [`Plan::variants`].
    pub variant: (usize, usize),
    /// The sites.
    pub sites: Vec<AttachSite>,
    /// `None`: every process that runs the file.
    pub pids: Option<Vec<u32>>,
}

impl Plan {
    /// Finds the sites of every probe for the selected processes. May be called again for processes that
    /// start later; sites known already are armed for them without being looked for anew.
    pub fn place(&mut self, selection: &Selection) -> Result<Vec<Attachment>> {
        let mut attachments = Vec::new();
        let mut resolved: Vec<(target::TargetSpec, Vec<TargetFile>)> = Vec::new();
        for index in 0..self.recipe.probes.len() {
            let spec = self.targets[index].clone();
            let known = resolved.iter().position(|(s, _)| *s == spec);
            let at = match known {
                Some(at) => at,
                None => {
                    resolved.push((spec.clone(), target::resolve(&spec, selection)?));
                    resolved.len() - 1
                }
            };
            self.place_probe(index, &resolved[at].1, &mut attachments)?;
        }
        self.name_functions();
        Ok(attachments)
    }

    fn place_probe(
        &mut self,
        index: usize,
        files: &[TargetFile],
        attachments: &mut Vec<Attachment>,
    ) -> Result<()> {
        let probe = self.recipe.probes[index].clone();
        let mut refusals = Vec::new();
        let mut placed = false;
        for file in files {
            if probe.kind == recipes::ProbeKind::Call && !self.limits.insist {
                refuse_if_harmful(&probe.name, file)?;
            }
            for at in 0..probe.at.len() {
                let Some(slot) = self
                    .variants
                    .iter()
                    .position(|v| (v.probe, v.at) == (index, at))
                else {
                    continue;
                };
                let found = self.find(slot, &probe.at[at], file)?;
                refusals.extend(
                    found
                        .refused
                        .iter()
                        .map(|(f, e)| format!("{}: {e}", f.display_name())),
                );
                if found.placed.is_empty() {
                    continue;
                }
                attachments.push(self.keep_sites(slot, file, found));
                placed = true;
                break;
            }
        }
        if !refusals.is_empty() && placed {
            let (count, first) = (refusals.len(), &refusals[0]);
            self.notes.push(format!(
                "{}: {count} functions cannot be probed, the first is {first}",
                probe.name
            ));
        }
        if placed || files.is_empty() || probe.optional {
            return Ok(());
        }
        match refusals.first() {
            Some(first) => bail!("{}: {first}", probe.name),
            None => Err(not_found(&probe, files)),
        }
    }

    fn find(&self, slot: usize, at: &recipes::At, file: &TargetFile) -> Result<Sites> {
        let variant = &self.variants[slot];
        let name = file
            .display
            .file_name()
            .unwrap_or_default()
            .to_string_lossy();
        let mut all = Sites::default();
        let mut offsets = HashSet::new();
        if !at.allows(&name, !is_library(&file.image)) {
            return Ok(all);
        }
        let purpose = match variant.spec.kind {
            ProbeKind::Call { .. } => Purpose::EntryReturn,
            ProbeKind::Entry => Purpose::Entry,
        };
        let args = variant
            .args
            .iter()
            .fold(ArgSet::EMPTY, |set, n| set.with(*n));
        for pattern in &at.functions {
            let sites = file
                .image
                .sites(&Pattern::parse(&pattern.value)?, purpose, args)?;
            for (function, site) in sites.placed {
                if offsets.insert(site.offset) {
                    all.placed.push((function, site));
                }
            }
            all.refused.extend(sites.refused);
        }
        Ok(all)
    }

    fn keep_sites(&mut self, slot: usize, file: &TargetFile, found: Sites) -> Attachment {
        let variant = &mut self.variants[slot];
        let mut sites = Vec::new();
        // A process that starts later may run a file whose sites are known already.
        let known: HashSet<_> = variant
            .sites
            .iter()
            .map(|s| (s.file, s.site.offset))
            .collect();
        let indexes: HashMap<String, usize> = match variant.functions.is_empty() {
            // Within one file names may repeat (static functions): each is its own then.
            true => HashMap::new(),
            false => variant.functions.iter().cloned().zip(0..).collect(),
        };
        for (function, site) in found.placed {
            let name = function.names.into_iter().next().unwrap_or_default();
            let index = indexes.get(&name).copied().unwrap_or_else(|| {
                variant.functions.push(name);
                variant.functions.len() - 1
            }) as u32;
            sites.push(AttachSite {
                path: file.open_path.clone(),
                offset: site.offset,
                site: index,
                semaphore: None,
            });
            if known.contains(&(file.image.file_id(), site.offset)) {
                continue;
            }
            variant.sites.push(PlannedSite {
                display: file.display.clone(),
                file: file.image.file_id(),
                function: index,
                site,
            });
        }
        variant.spec.sites = variant.spec.sites.max(variant.functions.len() as u32);
        Attachment {
            variant: (variant.probe, variant.at),
            sites,
            pids: file.pids.clone(),
        }
    }

    /// Where a probe sits in several functions, its events tell in which.
    fn name_functions(&mut self) {
        for v in &mut self.variants {
            let named = v
                .fields
                .first()
                .is_some_and(|f| f.from == FieldSource::Function);
            if v.functions.len() > 1 && !named {
                let field = Field {
                    name: "function".into(),
                    ty: uprof_recipes::Type::Str,
                    from: FieldSource::Function,
                };
                v.fields.insert(0, field);
            }
        }
    }

    /// Index of the variant that an attachment belongs to.
    pub fn variant_of(&self, attachment: &Attachment) -> Option<usize> {
        self.variants
            .iter()
            .position(|v| (v.probe, v.at) == attachment.variant)
    }
}

/// Functions by which a program moves between stacks: a return address planted on one of them is then
/// returned to on another (FACTS: SIGILL).
const SWITCHERS: [&str; 5] = [
    "swapcontext",
    "makecontext",
    "jump_fcontext",
    "nty_coroutine_resume",
    "co_switch",
];

/// A return probe replaces the return address on the stack: what moves or reads its own stacks dies of it.
fn refuse_if_harmful(probe: &str, file: &TargetFile) -> Result<()> {
    let mut programs: Vec<PathBuf> = vec![file.open_path.clone()];
    programs.extend(
        file.pids
            .iter()
            .flatten()
            .map(|pid| PathBuf::from(format!("/proc/{pid}/exe"))),
    );
    for path in programs {
        let Ok(image) = Image::open(&path) else {
            continue;
        };
        if let Some(why) = hazard(&image) {
            let shown = if path.starts_with("/proc") {
                std::fs::read_link(&path).unwrap_or(path)
            } else {
                path
            };
            bail!(
                "{probe}: a return probe could kill {}: {why}\n\
                 Count or trace its entries instead (uprof count, uprof trace); or insist with --return uretprobe",
                shown.display()
            );
        }
    }
    Ok(())
}

fn hazard(image: &Image) -> Option<String> {
    if image.is_go() {
        return Some("it is a Go program, whose stacks move (\"unexpected return pc\")".into());
    }
    if is_library(image) {
        return None;
    }
    let uses =
        |name: &&str| image.imports(name).unwrap_or(false) || image.defines(name).unwrap_or(false);
    let switcher = SWITCHERS.iter().find(|name| uses(name))?;
    Some(format!("it switches stacks ({switcher})"))
}

fn not_found(probe: &recipes::Probe, files: &[TargetFile]) -> anyhow::Error {
    let wanted: Vec<&str> = probe
        .at
        .iter()
        .flat_map(|at| &at.functions)
        .map(|f| f.value.as_str())
        .collect();
    let shown: Vec<String> = files
        .iter()
        .map(|f| f.display.display().to_string())
        .collect();
    let mut text = format!(
        "no function {} in {}",
        wanted.join(", nor "),
        shown.join(", ")
    );
    for file in files {
        for name in &wanted {
            let Ok(pattern) = Pattern::parse(name) else {
                continue;
            };
            if let Some(ifunc) = file
                .image
                .find_ifuncs(&pattern)
                .ok()
                .and_then(|names| names.into_iter().next())
            {
                text += &format!(
                    "\n{ifunc} is an indirect function: what stands at its address only picks the code to run, \
                     so a probe there would not count calls\nProbe the variant that this machine uses \
                     (try `uprof symbols {} '*{ifunc}*'`)",
                    file.display.display()
                );
                return anyhow!(text);
            }
            if file.image.imports(name).unwrap_or(false) {
                text += &format!(
                    "\n{name} is used there but lives in a library: probe it in that library (as in libc:{name} --pid PID)"
                );
                return anyhow!(text);
            }
        }
        let near: Vec<String> = wanted
            .iter()
            .flat_map(|name| file.image.nearest(name, 5))
            .take(5)
            .collect();
        if !near.is_empty() {
            text += &format!("\nNearest names there: {}", near.join(", "));
        }
    }
    if let Some(first) = shown.first() {
        text += &format!("\nList them all with `uprof symbols {first}`");
    }
    anyhow!(text)
}
