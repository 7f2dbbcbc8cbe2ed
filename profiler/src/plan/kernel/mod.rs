//! Places in the kernel: which of a probe's alternatives works here.
//!
//! - `find`: what a pattern names, and how the kernel tells of it
//! - `known`: what is known there of arguments and fields

mod find;
mod known;

use anyhow::{Result, bail};
use uprof_ebpf::{FrameName, KernelSite, KernelSource, On, ProbeKind, Returns};
use uprof_recipes::{self as recipes, Provider};
use uprof_symbols::process;

use super::returns::Pairing;
use super::{Attachment, Plan, Variant};
use crate::recipe::rendered;
use crate::target::Selection;
use find::find;

/// Whether a probe in the kernel works here: by which of its alternatives, or why by none.
pub fn trial(probe: &recipes::Probe) -> Result<String, String> {
    let call = probe.kind == recipes::ProbeKind::Call;
    let mut reasons: Vec<String> = Vec::new();
    for (at, place) in probe.at.iter().enumerate() {
        let mut named = place.functions.iter();
        let tried: Result<(), String> = named.try_for_each(|pattern| {
            for found in find(&pattern.value, call)? {
                let bound = probe.bind(at, &found.known);
                bound.map_err(|e| rendered(&[e]).to_string())?;
            }
            Ok(())
        });
        match tried {
            Ok(()) => return Ok(names_of(place)),
            Err(why) => reasons.push(why),
        }
    }
    Err(reasons.join("; "))
}
/// Whether all places of a probe are in the kernel.
pub fn is_kernel(probe: &recipes::Probe) -> bool {
    probe
        .at
        .first()
        .is_some_and(|at| at.provider() != Provider::Program)
}

impl Variant {
    /// Whether its places are in the kernel.
    pub fn in_kernel(&self) -> bool {
        self.spec.on != On::Program
    }

    /// How the kernel tells of it; of places in programs nothing.
    pub fn mechanism(&self) -> &'static str {
        match self.spec.on {
            On::Program => "",
            On::Kernel(KernelSource::Tracepoint) => "tracepoint",
            On::Kernel(KernelSource::RawTracepoint) => "raw tracepoint",
            On::Kernel(KernelSource::Function) => match self.spec.kind {
                ProbeKind::Call { .. } => "fentry and fexit",
                ProbeKind::Entry => "fentry",
            },
            On::Kernel(KernelSource::Kprobe) => match self.spec.kind {
                ProbeKind::Call { .. } => "kprobe and kretprobe",
                ProbeKind::Entry => "kprobe",
            },
        }
    }
}

impl Plan {
    /// Whether all is in the kernel: then there is nothing in processes to be armed.
    pub fn only_kernel(&self) -> bool {
        self.recipe.probes.iter().all(is_kernel)
    }

    /// Finds the first alternative of a probe that works here. Nothing is looked for anew for processes that start
    /// later: the kernel is the same.
    pub(super) fn place_kernel(
        &mut self,
        index: usize,
        selection: &Selection,
        attachments: &mut Vec<Attachment>,
    ) -> Result<()> {
        if self.loaded {
            return Ok(());
        }
        let probe = self.recipe.probes[index].clone();
        self.check_context(&probe, selection)?;
        let mut reasons: Vec<String> = Vec::new();
        for at in 0..probe.at.len() {
            match self.kernel_place((index, at), &probe) {
                Ok(mut placed) => {
                    if let Some(first) = reasons.first() {
                        self.note(format!(
                            "{}: seen by {}, since {first}",
                            probe.name,
                            names_of(&probe.at[at])
                        ));
                    }
                    let pids = self.whose(&probe, selection)?;
                    placed.iter_mut().for_each(|a| a.pids = pids.clone());
                    attachments.append(&mut placed);
                    return Ok(());
                }
                Err(why) => reasons.push(why),
            }
        }
        if probe.optional {
            return Ok(());
        }
        let reasons = reasons.join("\n  nor: ");
        match reasons.starts_with(&probe.name) {
            true => bail!("{reasons}"),
            false => bail!("{}: {reasons}", probe.name),
        }
    }

    /// The processes on whose behalf the kernel is to be watched; `None`: all.
    fn whose(&self, probe: &recipes::Probe, selection: &Selection) -> Result<Option<Vec<u32>>> {
        if probe.context.is_doubtful() {
            return Ok(None);
        }
        if selection.named() {
            return Ok(Some(selection.pids.clone()));
        }
        let programs = &probe.target.as_ref().unwrap_or(&self.recipe.target).program;
        if programs.is_empty() {
            return Ok(None);
        }
        let running = programs
            .iter()
            .flat_map(|name| process::running_program(name));
        let pids: Vec<u32> = running.map(|p| p.pid).collect();
        if pids.is_empty() {
            bail!(
                "no process named {} runs here\nIf it runs under another name or in a container, name it with --pid PID",
                programs.join(" or ")
            );
        }
        Ok(Some(pids))
    }

    /// Where the running thread has nothing to do with the event, it cannot be asked for.
    fn check_context(&self, probe: &recipes::Probe, selection: &Selection) -> Result<()> {
        if !probe.context.is_doubtful() {
            return Ok(());
        }
        // An attempt to connect is shown when the probe on its thread let it pass.
        if matches!(&self.recipe.join, Some(recipes::Join::Sockets(s)) if s.begins.is_some()) {
            return Ok(());
        }
        let limits = &self.limits;
        let flag = match (limits.uid, limits.cgroup, &limits.comm) {
            (Some(_), ..) => Some("--uid"),
            (_, Some(_), _) => Some("--cgroup"),
            (.., Some(_)) => Some("--comm"),
            // The join knows whose a socket is.
            _ if matches!(self.recipe.join, Some(recipes::Join::Sockets(_))) => None,
            _ if selection.named() && !selection.command => Some("--pid and --comm"),
            _ => None,
        };
        match flag {
            Some(flag) => bail!(
                "{}: {flag} cannot be told here: the kernel does this in interrupts too, on whatever thread is running then\n\
                 Filter by what the event is about instead: `uprof recipe {} --help` tells the recipe's own parameters",
                probe.name,
                self.recipe.name
            ),
            None => Ok(()),
        }
    }

    /// The places of one alternative; an error is why there are none.
    fn kernel_place(
        &mut self,
        (index, at): (usize, usize),
        probe: &recipes::Probe,
    ) -> Result<Vec<Attachment>, String> {
        let call = probe.kind == recipes::ProbeKind::Call;
        let mut found = Vec::new();
        for pattern in &probe.at[at].functions {
            found.extend(find(&pattern.value, call)?);
        }
        let pairing = match call {
            true => Pairing {
                returns: Returns::Replaced,
                frame: FrameName::Thread,
            },
            false => Pairing::default(),
        };
        let mut attachments: Vec<Attachment> = Vec::new();
        for place in found {
            let bound = probe
                .bind(at, &place.known)
                .map_err(|e| rendered(&[e]).to_string())?;
            let slot = self
                .variant_for((index, at), Some(bound), pairing)
                .map_err(|e| e.to_string())?;
            let variant = &mut self.variants[slot];
            variant.spec.on = On::Kernel(place.source);
            let site = KernelSite {
                hook: place.hook,
                site: variant.functions.len() as u32,
            };
            variant.functions.push(place.name);
            variant.spec.sites = variant.functions.len() as u32;
            variant.kernel.push(site.clone());
            let id = variant.id;
            match attachments.iter_mut().find(|a| a.variant == id) {
                Some(known) => known.kernel.push(site),
                None => attachments.push(Attachment {
                    variant: id,
                    sites: Vec::new(),
                    kernel: vec![site],
                    pids: None,
                }),
            }
        }
        Ok(attachments)
    }
}
/// As people write it.
fn names_of(at: &recipes::At) -> String {
    let names: Vec<&str> = at.functions.iter().map(|f| f.value.as_str()).collect();
    names.join(", ")
}
