//! From function patterns to sites in the files of the processes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use anyhow::{Result, bail};
use uprof_ebpf::{AttachSite, KernelSite};
use uprof_recipes as recipes;
use uprof_symbols::image::{Function, Sites};
use uprof_symbols::site::{ArgSet, Purpose, Site};
use uprof_symbols::{Image, Pattern};

use super::missing::not_found;
use super::returns::{Ending, Pairing, attach_exits};
use super::{Field, FieldSource, Plan, PlannedSite, Variant, debug, indirect};
use crate::target::{self, Selection, TargetFile, is_library};

/// Sites of one probe in one file, to be armed for some processes.
#[derive(Debug)]
pub struct Attachment {
    /// The [`Variant::id`].
    pub variant: u32,
    /// The sites in programs.
    pub sites: Vec<AttachSite>,
    /// Those in the kernel.
    pub kernel: Vec<KernelSite>,
    /// `None`: every process (that runs the file).
    pub pids: Option<Vec<u32>>,
}

/// Sites in one file that one program serves, to be armed for some processes.
struct Found {
    /// Index into [`Plan::variants`].
    slot: usize,
    placed: Vec<Placed>,
    pids: Option<Vec<u32>>,
}

/// Which place of which probe is looked at, and where.
struct Place<'a> {
    index: usize,
    at: usize,
    /// Its expressions need the debug information of each function.
    bound: bool,
    file: &'a TargetFile,
    pattern: &'a Pattern,
}

/// A function, its site, and how its calls end.
struct Placed {
    function: Function,
    site: Site,
    ending: Ending,
}

impl Plan {
    /// Finds the sites of every probe for the selected processes. May be called again for processes that
    /// start later; sites known already are armed for them without being looked for anew.
    pub fn place(&mut self, selection: &Selection) -> Result<Vec<Attachment>> {
        let mut attachments = Vec::new();
        let mut resolved: Vec<(target::TargetSpec, Vec<TargetFile>)> = Vec::new();
        for index in 0..self.recipe.probes.len() {
            let spec = self.targets[index].clone();
            if spec == target::TargetSpec::Kernel {
                self.place_kernel(index, selection, &mut attachments)?;
                continue;
            }
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
        self.tell_endings();
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
            if let Some(note) = &file.note {
                self.note(note.clone());
            }
            let before = refusals.len();
            for at in 0..probe.at.len() {
                let own = refusals.len();
                let found = self.find((index, at), &probe, file, &mut refusals)?;
                if found.is_empty() {
                    continue;
                }
                // What an earlier place could not do is done here.
                refusals.drain(before..own);
                for found in found {
                    attachments.push(self.keep_sites(file, found));
                }
                placed = true;
                break;
            }
        }
        if !refusals.is_empty() && placed {
            let (count, first) = (refusals.len(), &refusals[0]);
            self.note(format!(
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

    /// Where a probe's place number AT sits in a file, each with the program that serves there.
    fn find(
        &mut self,
        (index, at): (usize, usize),
        probe: &recipes::Probe,
        file: &TargetFile,
        refusals: &mut Vec<String>,
    ) -> Result<Vec<Found>> {
        let place = &probe.at[at];
        if !place.allows(&file.name(), !is_library(&file.image)) {
            return Ok(Vec::new());
        }
        for needed in &place.has {
            if file.image.find(&Pattern::parse(&needed.value)?)?.is_empty() {
                return Ok(Vec::new());
            }
        }
        let slot = self
            .variants
            .iter()
            .position(|v| (v.probe, v.at) == (index, at) && v.bound.is_none());
        let args = match slot {
            Some(slot) => self.variants[slot]
                .args
                .iter()
                .fold(ArgSet::EMPTY, |set, n| set.with(*n)),
            // What is captured is known only once the function is: all of it must be intact.
            None => ArgSet::REGISTERS.union(ArgSet::STACK),
        };
        let purpose = match probe.kind {
            recipes::ProbeKind::Call => Purpose::EntryReturn,
            recipes::ProbeKind::Entry => Purpose::Entry,
        };
        let mut found = Vec::new();
        let mut offsets = HashSet::new();
        for pattern in &place.functions {
            let pattern = Pattern::parse(&pattern.value)?;
            for (pids, sites) in self.sites(file, &pattern, purpose, args)? {
                for note in sites.notes {
                    self.note(note);
                }
                refusals.extend(
                    sites
                        .refused
                        .iter()
                        .map(|(f, e)| format!("{}: {e}", f.display_name())),
                );
                let fresh = sites
                    .placed
                    .into_iter()
                    .filter(|(_, site)| offsets.insert(site.offset));
                let placed: Vec<_> = fresh.collect();
                if placed.is_empty() {
                    continue;
                }
                let whose = Place {
                    index,
                    at,
                    bound: slot.is_none(),
                    file,
                    pattern: &pattern,
                };
                let served = self.serve(&whose, (placed, pids), refusals)?;
                found.extend(served);
            }
        }
        Ok(found)
    }

    /// The sites of one pattern. An indirect function is followed to what each process bound it to.
    fn sites(
        &mut self,
        file: &TargetFile,
        pattern: &Pattern,
        purpose: Purpose,
        args: ArgSet,
    ) -> Result<Vec<(Option<Vec<u32>>, Sites)>> {
        // What new programs call by a name comes before functions that only older ones still know by it (memcpy).
        if is_one_name(pattern) {
            let indirect = indirect::sites(file, pattern, purpose, args)?;
            if !indirect.is_empty() {
                return Ok(indirect);
            }
        }
        let sites = file.image.sites(pattern, purpose, args)?;
        if sites.placed.is_empty() && sites.refused.is_empty() {
            return match is_one_name(pattern) {
                true => self.only_inlined(file, pattern, purpose, args),
                false => indirect::sites(file, pattern, purpose, args),
            };
        }
        if matches!(pattern, Pattern::Glob(_) | Pattern::Regex(_))
            && let names = file.image.find_ifuncs(pattern)?
            && !names.is_empty()
        {
            self.note(format!(
                "{pattern} also matches {} indirect functions, which are probed only when named one by one: {}",
                names.len(),
                some_of(&names)
            ));
        }
        if purpose == Purpose::Entry && is_one_name(pattern) {
            self.inlined_too
                .push((Arc::clone(&file.image), pattern.clone()));
        }
        Ok(vec![(file.pids.clone(), sites)])
    }

    /// A function that the compiler put into others everywhere has no code of its own: its copies are probed.
    fn only_inlined(
        &self,
        file: &TargetFile,
        pattern: &Pattern,
        purpose: Purpose,
        args: ArgSet,
    ) -> Result<Vec<(Option<Vec<u32>>, Sites)>> {
        if !matches!(file.image.dwarf(), Ok(Some(_))) {
            return Ok(Vec::new());
        }
        let copies = Pattern::Inlined(Box::new(pattern.clone()));
        let sites = file.image.sites(&copies, purpose, args)?;
        Ok(vec![(file.pids.clone(), sites)])
    }

    /// The question of which probed functions there are copies inlined into others, which the probes do not see. To
    /// answer it may mean to read all debug information, so it is asked beside the run.
    pub fn inlined_copies(&mut self) -> impl FnOnce() -> Vec<String> + Send + 'static {
        let asked = std::mem::take(&mut self.inlined_too);
        move || asked.iter().filter_map(inlined_too).collect()
    }

    /// Gives each function the program that its own types, places of arguments and way of returning ask for.
    fn serve(
        &mut self,
        place: &Place<'_>,
        (placed, pids): (Vec<(Function, Site)>, Option<Vec<u32>>),
        refusals: &mut Vec<String>,
    ) -> Result<Vec<Found>> {
        let mut found: Vec<Found> = Vec::new();
        let among = placed.len();
        let probe = self.recipe.probes[place.index].clone();
        for (function, site) in placed {
            let bound = match place.bound {
                true => {
                    let bound = debug::bind(
                        &probe,
                        place.at,
                        place.file,
                        place.pattern,
                        (&function, &site),
                    );
                    match bound {
                        Ok(bound) => Some(bound),
                        Err(why) => {
                            refusals.push(format!("{}: {why}", function.display_name()));
                            continue;
                        }
                    }
                }
                false => None,
            };
            let own = (place.index, place.at);
            let ending = match self.ending(own, &probe, place.file, (&function, among)) {
                Ok(ending) => ending,
                Err(why) => {
                    refusals.push(why);
                    continue;
                }
            };
            let slot = self.variant_for(own, bound, ending.pairing)?;
            let one = Placed {
                function,
                site,
                ending,
            };
            match found.iter_mut().find(|f| f.slot == slot) {
                Some(known) => known.placed.push(one),
                None => found.push(Found {
                    slot,
                    placed: vec![one],
                    pids: pids.clone(),
                }),
            }
        }
        Ok(found)
    }

    /// The variant of a probe whose expressions came to BOUND, and whose calls are paired so; made when it is the first.
    pub(super) fn variant_for(
        &mut self,
        (index, at): (usize, usize),
        bound: Option<recipes::Probe>,
        pairing: Pairing,
    ) -> Result<usize> {
        let known = self
            .variants
            .iter()
            .position(|v| (v.probe, v.at, v.pairing) == (index, at, pairing) && v.bound == bound);
        if let Some(slot) = known {
            return Ok(slot);
        }
        if self.loaded {
            bail!(
                "{}: the types, the arguments or the way to see returns are others here than in the files known when the \
                 run began; run uprof again now that this process runs",
                self.recipe.probes[index].name
            );
        }
        self.add((index, at), bound, pairing)
    }

    fn keep_sites(&mut self, file: &TargetFile, found: Found) -> Attachment {
        let variant = &mut self.variants[found.slot];
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
        for Placed {
            function,
            site,
            ending,
        } in found.placed
        {
            let name = function.names.into_iter().next().unwrap_or_default();
            let index = indexes.get(&name).copied().unwrap_or_else(|| {
                variant.functions.push(name);
                variant.functions.len() - 1
            }) as u32;
            sites.push(AttachSite {
                path: file.open_path.clone(),
                offset: site.offset,
                site: index,
                semaphore: site.semaphore,
                exits: attach_exits(&ending.exits),
            });
            if known.contains(&(file.image.file_id(), site.offset)) {
                continue;
            }
            variant.sites.push(PlannedSite {
                display: file.display.clone(),
                file: file.image.file_id(),
                function: index,
                site,
                exits: ending.exits,
            });
        }
        variant.spec.sites = variant.spec.sites.max(variant.functions.len() as u32);
        Attachment {
            variant: variant.id,
            sites,
            kernel: Vec::new(),
            pids: found.pids,
        }
    }

    /// Where a probe sits in several functions, its events tell in which.
    fn name_functions(&mut self) {
        for index in 0..self.variants.len() {
            let many = self.is_in_many(&self.variants[index]);
            let fields = &mut self.variants[index].fields;
            let named = fields
                .first()
                .is_some_and(|f| f.from == FieldSource::Function);
            if many && !named {
                let field = Field {
                    name: "function".into(),
                    ty: recipes::Type::Str,
                    from: FieldSource::Function,
                };
                fields.insert(0, field);
            }
        }
    }

    /// Whether the place of a probe that VARIANT serves is in more than one function. Functions that are bound
    /// differently have variants of their own; within one file names may repeat, each a function of its own.
    pub fn is_in_many(&self, variant: &Variant) -> bool {
        let place = (variant.probe, variant.at);
        let same = self.variants.iter().filter(|v| (v.probe, v.at) == place);
        same.map(|v| v.functions.len()).sum::<usize>() > 1
    }

    /// Index of the variant that an attachment belongs to.
    pub fn variant_of(&self, attachment: &Attachment) -> Option<usize> {
        self.variants
            .iter()
            .position(|v| v.id == attachment.variant)
    }
}

/// A pattern that names one function, rather than any that look so.
fn is_one_name(pattern: &Pattern) -> bool {
    matches!(pattern, Pattern::Exact(_) | Pattern::Demangled(_))
}

/// The first few names of a list.
fn some_of(names: &[String]) -> String {
    const SHOWN: usize = 4;
    let more = if names.len() > SHOWN { ", ..." } else { "" };
    format!("{}{more}", names[..names.len().min(SHOWN)].join(", "))
}

/// What to say of a function that is also inlined elsewhere.
fn inlined_too((image, pattern): &(Arc<Image>, Pattern)) -> Option<String> {
    let copies = image.dwarf().ok()??.inlined(pattern).ok()?.len();
    (copies > 0).then(|| {
        format!(
            "{pattern} was also inlined in {copies} {} that this probe does not see: add a probe on {pattern}@inlined",
            if copies == 1 { "place" } else { "places" }
        )
    })
}
